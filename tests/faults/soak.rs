//! F56: all faults in a random order upon one installation, for as long as one likes. The seed repeats the order.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use harness::faults::crash::{self, POINTS, Point};
use harness::faults::{
    FAULTS, Fault, LONGEST_RECOVERY_MS, MAILS_UNDER_WAY, Operator, Row, Scene, Setup, pause,
};
use harness::simulator::Plan;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};

const ORDERS_PER_SECOND: u64 = 8;
/// Between a recovery and the next fault.
const LONGEST_PEACE_MS: u64 = 2_000;
const GATEWAYS: usize = 2;
const WORKERS: usize = 2;

/// What strikes.
#[derive(Clone, Copy)]
enum Strike {
    Fault(&'static Fault),
    Crash(Point, u32),
}

impl Strike {
    fn id(self) -> &'static str {
        match self {
            Self::Fault(fault) => fault.id,
            Self::Crash(point, _) => point.row,
        }
    }

    fn mails_doubled(self) -> usize {
        match self {
            Self::Fault(fault) => fault.mails_doubled,
            Self::Crash(..) => MAILS_UNDER_WAY,
        }
    }

    async fn upon(self, scene: &mut Scene) -> Result<u64> {
        let struck = match self {
            Self::Fault(fault) => (fault.act)(scene).await,
            Self::Crash(point, hit) => crash::strike(scene, point, hit).await,
        };
        restore(scene).await;
        struck?;
        let recovered_ms = scene.stage.recovery().await.done_ms;
        let recovered_ms = recovered_ms.context("it did not recover")?;
        eprintln!("{:<5} recovered in {recovered_ms} ms", self.id());
        Ok(recovered_ms)
    }

    /// In milliseconds.
    fn longest_recovery(self) -> u64 {
        match self {
            Self::Fault(fault) => fault.recovery_ms.unwrap_or(LONGEST_RECOVERY_MS),
            Self::Crash(..) => LONGEST_RECOVERY_MS,
        }
    }
}

/// Every fault that can strike beside others and every crash point that needs no replay, in an order of its own.
fn walk(rng: &mut StdRng) -> Vec<Strike> {
    let faults = FAULTS.iter().filter(|fault| fault.in_soak);
    let mut strikes: Vec<Strike> = faults.map(Strike::Fault).collect();
    for point in POINTS.iter().filter(|point| !point.needs_a_replay()) {
        strikes.push(Strike::Crash(*point, rng.random_range(1..=point.hits)));
    }
    strikes.shuffle(rng);
    strikes
}

/// What a soak did.
pub struct Soak {
    /// The judgement over all of it.
    pub row: Row,
    /// How often each fault struck, those that did not among them.
    pub strikes: BTreeMap<&'static str, usize>,
    /// The longest recovery from any of them.
    pub longest_recovery_ms: u64,
}

/// Strikes for so many minutes with all that there is, and then again in another order.
pub async fn run(operator: Operator, seed: u64, minutes: u64) -> Soak {
    let mut rng = StdRng::seed_from_u64(seed);
    let seconds = 60 * minutes;
    let orders = usize::try_from(ORDERS_PER_SECOND * seconds).unwrap_or(usize::MAX);
    let plan = Plan::new(seed, orders, seconds);
    let setup = Setup {
        gateways: GATEWAYS,
        workers: WORKERS,
        ..Setup::default()
    };
    let mut scene = Scene::open(operator, setup, plan).await;
    let ends = Instant::now() + Duration::from_secs(seconds);
    let mut left = walk(&mut rng);
    let mut strikes: BTreeMap<_, _> = left.iter().map(|strike| (strike.id(), 0)).collect();
    let (mut problems, mut longest_recovery_ms, mut mails) = (Vec::new(), 0, MAILS_UNDER_WAY);
    while Instant::now() < ends {
        if left.is_empty() {
            left = walk(&mut rng);
        }
        let Some(strike) = left.pop() else { break };
        *strikes.entry(strike.id()).or_default() += 1;
        mails += strike.mails_doubled();
        match strike.upon(&mut scene).await {
            Ok(took_ms) if took_ms > strike.longest_recovery() => {
                problems.push(format!("{}: recovery took {took_ms} ms", strike.id()));
            }
            Ok(took_ms) => longest_recovery_ms = longest_recovery_ms.max(took_ms),
            Err(problem) => problems.push(format!("{}: {problem}", strike.id())),
        }
        pause(rng.random_range(0..LONGEST_PEACE_MS)).await;
    }
    let times: usize = strikes.values().sum();
    let title = format!("soak of {minutes} minutes, {times} faults");
    let Scene { stage, load, .. } = scene;
    let mut row = stage.row(("F56", &title), load, &plan, mails).await;
    for problem in problems {
        row.fail(&problem);
    }
    Soak {
        row,
        strikes,
        longest_recovery_ms,
    }
}

/// As many processes as in the beginning.
async fn restore(scene: &mut Scene) {
    while scene.stage.gateways.len() < GATEWAYS {
        scene.stage.add_gateway(&[]).await;
    }
    while scene.stage.workers.len() < WORKERS {
        scene.stage.add_worker(&[]).await;
    }
    while scene.stage.workers.len() > WORKERS {
        let mut ending = scene.stage.workers.remove(0);
        ending.signal("TERM");
        ending.exit_code().await;
    }
}
