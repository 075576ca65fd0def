//! Seats whose time is over: held after a failed payment, or offered and not taken. Both go on to the waitlist.

use std::time::Duration;

use deadpool_postgres::Pool;
use shared::database::{StoreError, with_client};
use shared::lifecycle::sleep_unless;
use shared::orders::store::{SeatTimes, seats};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

const INTERVAL: Duration = Duration::from_secs(1);
const DATABASE_TIMEOUT: Duration = Duration::from_secs(10);

/// Ends holds and offers.
pub struct Seats {
    pool: Pool,
    times: SeatTimes,
}

impl Seats {
    /// For seats that wait as long as `times` says.
    pub fn new(pool: Pool, times: SeatTimes) -> Self {
        Self { pool, times }
    }

    /// Looks every second until `shutdown`.
    pub async fn run(self, shutdown: CancellationToken) {
        loop {
            let pause = match self.run_once().await {
                Ok(true) => Duration::ZERO,
                Ok(false) => INTERVAL,
                Err(error) => {
                    debug!(%error, "seats wait");
                    INTERVAL
                }
            };
            if !sleep_unless(&shutdown, pause).await {
                return;
            }
        }
    }

    /// Ends one hold and one offer, and offers what is left over, a transaction each. False when there was nothing.
    pub async fn run_once(&self) -> Result<bool, StoreError> {
        with_client(&self.pool, DATABASE_TIMEOUT, async |client| {
            let tx = client.transaction().await?;
            let hold = seats::end_hold(&tx, self.times).await?;
            tx.commit().await?;
            let tx = client.transaction().await?;
            let offer = seats::end_offer(&tx, self.times).await?;
            tx.commit().await?;
            let tx = client.transaction().await?;
            let left_over = seats::offer_left_over(&tx, self.times).await?;
            tx.commit().await?;
            if hold || offer || left_over {
                info!(hold, offer, left_over, "seats are free again");
            }
            Ok(hold || offer || left_over)
        })
        .await
    }
}
