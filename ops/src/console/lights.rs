//! Health as lights: what probes of gateways and workers add up to. Pure.

use serde::Serialize;

use super::probes::Probe;

/// How a thing that we depend on is.
#[derive(Serialize)]
pub struct Light {
    /// What it is.
    pub name: &'static str,
    /// `up`, `warning`, `down` or `unknown`.
    pub state: &'static str,
    /// In a word.
    pub word: String,
    /// Who said so.
    pub detail: String,
}

/// A light of its parts.
pub fn light(name: &'static str, state: &'static str, word: &str, detail: &str) -> Light {
    Light {
        name,
        state,
        word: word.to_owned(),
        detail: detail.to_owned(),
    }
}

/// The broker as the services see it: the worst of what they say.
pub fn broker(gateways: &[Probe], workers: &[Probe]) -> Light {
    let reports = gateways.iter().chain(workers).filter_map(|probe| {
        let report = probe.report.as_ref()?;
        Some(report.broker.as_str())
    });
    let worst = reports.max_by_key(|broker| match *broker {
        "up" => 0,
        "not consuming" => 1,
        "blocked" => 2,
        _ => 3,
    });
    match worst {
        None => light("Broker", "unknown", "unknown", "no service answers"),
        Some("up") => light("Broker", "up", "up", "as the services see it"),
        Some(word @ ("blocked" | "not consuming")) => {
            light("Broker", "warning", word, "as a service sees it")
        }
        Some(_) => light("Broker", "down", "down", "as a service sees it"),
    }
}

/// Gateways, or workers.
pub fn service(name: &'static str, probes: &[Probe]) -> Light {
    let ready = |probe: &&Probe| probe.report.as_ref().is_some_and(|report| report.ready);
    let (ready, all) = (probes.iter().filter(ready).count(), probes.len());
    let silent: Vec<&str> = probes
        .iter()
        .filter(|probe| probe.report.is_none())
        .map(|probe| probe.url.as_str())
        .collect();
    let draining = probes
        .iter()
        .filter_map(|probe| probe.report.as_ref())
        .any(|report| report.draining);
    let detail = match (silent.first(), draining) {
        (Some(url), _) => format!("no answer from {url}"),
        (None, true) => "draining".to_owned(),
        (None, false) => format!("{ready} of {all}"),
    };
    let (state, word) = match (ready, all) {
        (_, 0) => ("unknown", "not watched"),
        (0, _) if silent.len() == all => ("down", "no answer"),
        (0, _) => ("down", "not ready"),
        (ready, all) if ready == all => ("up", "ready"),
        _ => ("warning", "partly ready"),
    };
    light(name, state, word, &detail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::console::probes::Report;

    fn probe(ready: bool, broker: &str) -> Probe {
        let report = Report {
            ready,
            broker: broker.to_owned(),
            draining: false,
            version: None,
        };
        Probe {
            url: "http://h".to_owned(),
            report: Some(report),
        }
    }

    #[test]
    fn lights_tell_the_worst() {
        let silent = Probe {
            url: "http://x".to_owned(),
            report: None,
        };
        let (good, bad) = (probe(true, "up"), probe(false, "down"));
        let state = |probes: &[Probe]| service("Gateway", probes).state;
        assert_eq!(state(std::slice::from_ref(&good)), "up");
        assert_eq!(state(&[good.clone(), bad.clone()]), "warning");
        assert_eq!(state(std::slice::from_ref(&bad)), "down");
        assert_eq!(state(std::slice::from_ref(&silent)), "down");
        assert_eq!(state(&[]), "unknown");
        assert_eq!(broker(std::slice::from_ref(&good), &[bad]).state, "down");
        assert_eq!(broker(&[good], &[probe(true, "blocked")]).state, "warning");
        assert_eq!(broker(&[silent], &[]).state, "unknown");
    }
}
