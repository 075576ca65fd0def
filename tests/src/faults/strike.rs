//! One fault upon one scene.

use std::any::Any;
use std::panic::AssertUnwindSafe;

use futures_util::FutureExt;

use super::fault::{Fault, Noticed};
use super::operator::Operator;
use super::row::Row;
use super::scene::Scene;
use crate::simulator::Plan;

/// How much of a load is sent before a fault strikes, in percent.
const BEFORE: usize = 20;

/// Stages a fault, and gives its row whatever happens.
pub async fn staged(fault: &Fault, operator: &Operator, seed: u64) -> Row {
    let striking = AssertUnwindSafe(strike(fault, operator.clone(), seed));
    let struck = striking.catch_unwind().await;
    struck.unwrap_or_else(|panic| Row::failed(fault.id, fault.title, seed, words(&*panic)))
}

async fn strike(fault: &Fault, operator: Operator, seed: u64) -> Row {
    let mut plan = Plan::new(seed, fault.load.0, fault.load.1);
    plan.shape = fault.shape;
    let mut scene = Scene::open(operator, (fault.setup)(), plan).await;
    scene.stage.burnt_attempts = fault.burnt_attempts;
    scene.stage.until_sent(&scene.load, BEFORE).await;
    let struck = (fault.act)(&mut scene).await;
    let Scene {
        stage, load, notes, ..
    } = scene;
    let told = (fault.id, fault.title);
    let mut row = stage.row(told, load, &plan, fault.mails_doubled).await;
    row.notes = notes;
    if let Some(longest_ms) = fault.recovery_ms {
        row.expect_recovery_within(longest_ms);
    }
    if let Err(problem) = struck {
        row.fail(&problem.to_string());
    }
    let failed = row.verdict.failed_deliveries;
    match fault.noticed {
        Noticed::Always if failed == 0 => row.fail("no delivery failed: nothing was broken"),
        Noticed::Never if failed > 0 => {
            row.fail(&format!("{failed} deliveries were not answered with 200"));
        }
        Noticed::Seldom if failed * 10 > row.verdict.attempts => {
            row.fail(&format!("{failed} deliveries failed"));
        }
        _ => {}
    }
    row
}

/// What a harness that could not go on said.
pub fn words(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("a panic")
        .to_owned()
}
