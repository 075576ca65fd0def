//! F56: a random mix of all faults upon one installation, for as long as one likes. The seed repeats the mix.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use harness::faults::{FAULTS, Fault, MAILS_UNDER_WAY, Operator, Row, Scene, Setup, pause};
use harness::simulator::Plan;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

const ORDERS_PER_SECOND: u64 = 8;
/// Between a recovery and the next fault.
const LONGEST_PEACE_MS: u64 = 2_000;
const GATEWAYS: usize = 2;
const WORKERS: usize = 2;

/// What a soak did.
pub struct Soak {
    /// The judgement over all of it.
    pub row: Row,
    /// How often each fault struck.
    pub strikes: BTreeMap<&'static str, usize>,
    /// The longest recovery from any of them.
    pub longest_recovery_ms: u64,
}

/// Strikes at random for so many minutes.
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
    let usable: Vec<&Fault> = FAULTS.iter().filter(|fault| fault.in_soak).collect();
    let (mut strikes, mut problems) = (BTreeMap::new(), Vec::new());
    let (mut longest_recovery_ms, mut mails_doubled) = (0, 0);
    while Instant::now() < ends {
        let fault = usable[rng.random_range(0..usable.len())];
        *strikes.entry(fault.id).or_default() += 1;
        mails_doubled += fault.mails_doubled;
        match strike(&mut scene, fault).await {
            Ok(recovered_ms) => longest_recovery_ms = longest_recovery_ms.max(recovered_ms),
            Err(problem) => problems.push(format!("{}: {problem}", fault.id)),
        }
        restore(&mut scene).await;
        pause(rng.random_range(0..LONGEST_PEACE_MS)).await;
    }
    // Any fault may catch mails whose answer is on its way.
    let mails = mails_doubled + MAILS_UNDER_WAY;
    let Scene { stage, load, .. } = scene;
    let title = format!(
        "soak of {minutes} minutes, {} faults",
        strikes.values().sum::<usize>()
    );
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

async fn strike(scene: &mut Scene, fault: &Fault) -> anyhow::Result<u64> {
    (fault.act)(scene).await?;
    let recovery = scene.stage.recovery().await;
    let recovered_ms = recovery
        .done_ms
        .ok_or_else(|| anyhow::anyhow!("it did not recover"))?;
    eprintln!(
        "{:<5} {}: recovered in {recovered_ms} ms",
        fault.id, fault.title
    );
    Ok(recovered_ms)
}

/// As many processes as in the beginning.
async fn restore(scene: &mut Scene) {
    while scene.stage.workers.len() < WORKERS {
        scene.stage.add_worker(&[]).await;
    }
    while scene.stage.workers.len() > WORKERS {
        let mut ending = scene.stage.workers.remove(0);
        ending.signal("TERM");
        ending.exit_code().await;
    }
}
