//! Places where a test kills or stops the process, and safeguards that a test takes out. Without the feature
//! `failpoints` nothing of it is compiled: the macros are empty, and no name reaches the program.

/// A place where the process dies when `TOLLGATE_CRASH_AT` names it: `name:2` at the second time it is reached,
/// `name:evt_1` whenever it is about `evt_1`; `name:2:stop` freezes the process instead, as SIGSTOP does.
#[cfg(feature = "failpoints")]
#[macro_export]
macro_rules! failpoint {
    ($name:literal) => {
        $crate::failpoint::reached($name, "")
    };
    ($name:literal, $about:expr) => {
        $crate::failpoint::reached($name, $about)
    };
}

/// Nothing: this program is built without fail-points.
#[cfg(not(feature = "failpoints"))]
#[macro_export]
macro_rules! failpoint {
    ($($name:tt)*) => {};
}

/// Whether `TOLLGATE_WITHOUT`, a list separated by commas, takes this safeguard out: a control that shows that the
/// checks would notice.
#[cfg(feature = "failpoints")]
#[macro_export]
macro_rules! sabotaged {
    ($safeguard:literal) => {
        $crate::failpoint::is_without($safeguard)
    };
}

/// Never: this program is built without fail-points.
#[cfg(not(feature = "failpoints"))]
#[macro_export]
macro_rules! sabotaged {
    ($safeguard:literal) => {
        false
    };
}

#[cfg(feature = "failpoints")]
mod armed {
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    struct Trap {
        name: String,
        when: String,
        stop: bool,
    }

    static TRAP: LazyLock<Option<Trap>> = LazyLock::new(|| {
        let spec = std::env::var("TOLLGATE_CRASH_AT").ok()?;
        let mut parts = spec.split(':').map(str::to_owned);
        Some(Trap {
            name: parts.next()?,
            when: parts.next()?,
            stop: parts.next().as_deref() == Some("stop"),
        })
    });
    static HITS: AtomicU64 = AtomicU64::new(0);
    static WITHOUT: LazyLock<String> =
        LazyLock::new(|| std::env::var("TOLLGATE_WITHOUT").unwrap_or_default());

    /// Dies or stops here if this is the place.
    pub fn reached(name: &str, about: &str) {
        let Some(trap) = TRAP.as_ref().filter(|trap| trap.name == name) else {
            return;
        };
        let hit = HITS.fetch_add(1, Ordering::SeqCst) + 1;
        if trap.when != about && trap.when.parse() != Ok(hit) {
            return;
        }
        eprintln!("fail-point {name}, hit {hit}");
        if trap.stop {
            let pid = std::process::id().to_string();
            let _ = std::process::Command::new("kill")
                .args(["-STOP", &pid])
                .status();
        } else {
            std::process::abort();
        }
    }

    /// Whether a safeguard is taken out.
    pub fn is_without(safeguard: &str) -> bool {
        WITHOUT.split(',').any(|named| named == safeguard)
    }
}

#[cfg(feature = "failpoints")]
pub use armed::{is_without, reached};
