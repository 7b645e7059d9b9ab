//! Keeps the sink's checkpoint: the `seq` up to which its group has settled everything.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use super::Runner;
use crate::broker::BrokerError;

/// How often the checkpoint is moved. A lost group begins again at the checkpoint, so this bounds
/// what is looked up in the ledger once more.
const EVERY: Duration = Duration::from_secs(1);

impl Runner {
    pub(super) async fn settle(self: Arc<Self>) {
        let mut tick = interval(EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            self.settle_once().await;
        }
    }

    pub(super) async fn settle_once(&self) {
        let name = &self.settings.name;
        let asked = async {
            let settled = self.broker.settled(name).await?;
            Ok::<_, BrokerError>((settled, self.broker.witness().await?))
        };
        match asked.await {
            Ok((Some(seq), witness)) => {
                if let Err(error) = self.store.settle(name, seq, witness).await {
                    self.failed("cannot move the checkpoint", &error);
                }
            }
            // No group yet, or the broker lost it: the reader makes it anew.
            Ok((None, _)) => {}
            Err(error) => self.failed("cannot ask how far the group is", &error),
        }
    }
}
