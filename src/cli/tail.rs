//! `herald tail`: follows the feed in the terminal, from the database.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use clap::Args;
use herald_contract::{Cursor, Event, History as _, Place, TypeFilter, check_tenant};
use tokio::time::sleep;

use super::{AnyStore, output};
use crate::backoff::Backoff;
use crate::history::StoreHistory;
use crate::store::{PageQuery, Store, StoreError};

/// Between two looks at the feed.
const LOOK: Duration = Duration::from_millis(200);

/// Events read at a time.
const PAGE: usize = 500;

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  herald tail --tenant acme\n  \
    herald tail --tenant acme --after 0 --types 'order.*' --json")]
pub struct Tail {
    #[arg(long)]
    tenant: String,
    /// Begin after this aggregateId; 0 is the beginning. Unless given, begin now
    #[arg(long)]
    after: Option<i64>,
    /// Only these types: a comma list, with * at the end of a prefix
    #[arg(long, default_value = "")]
    types: String,
    /// Print each event as a line of JSON
    #[arg(long)]
    json: bool,
}

impl Tail {
    pub(super) async fn execute(self, store: AnyStore) -> anyhow::Result<ExitCode> {
        check_tenant(&self.tenant)?;
        let types = TypeFilter::parse(&self.types)?;
        let mut seq = match self.after {
            None => store.feed_head().await?.seq,
            after => {
                let cursor = Cursor {
                    after,
                    event_id: None,
                };
                match StoreHistory::new(store.clone(), 1)
                    .resolve(&self.tenant, cursor)
                    .await?
                {
                    Place::After(seq) => seq,
                    Place::Unknown => bail!("--after names no event of this tenant"),
                }
            }
        };
        let mut failures = 0;
        loop {
            match self.look(&*store, &types, seq).await {
                Ok((events, upto)) => {
                    failures = 0;
                    for event in &events {
                        self.print(event)?;
                    }
                    seq = upto;
                    if events.is_empty() {
                        sleep(LOOK).await;
                    }
                }
                Err(error) => {
                    failures += 1;
                    eprintln!("herald: {error}; trying again");
                    sleep(Backoff::INTERNAL.after(failures)).await;
                }
            }
        }
    }

    /// The next events, and up to which `seq` there are no others.
    async fn look(
        &self,
        store: &dyn Store,
        types: &TypeFilter,
        after: i64,
    ) -> Result<(Vec<Arc<Event>>, i64), StoreError> {
        let upto = store.feed_head().await?.seq;
        let query = PageQuery {
            tenant: &self.tenant,
            types,
            after,
            upto,
            limit: PAGE,
            newest_first: false,
        };
        let events = store.page(&query).await?;
        // Asked after the page, so that nothing goes unnoticed.
        if after > 0 && store.feed_head().await?.expired > after {
            eprintln!("herald: events may be missing here: they have expired");
        }
        let upto = match events.last() {
            Some(last) if events.len() == PAGE => last.seq,
            _ => upto.max(after),
        };
        Ok((events, upto))
    }

    fn print(&self, event: &Event) -> anyhow::Result<()> {
        if self.json {
            return output::line(&event.to_json().replace(['\n', '\r'], " "));
        }
        output::line(&format!(
            "{}  {:>8}  {}  {}  {}",
            output::time(event.created_at),
            event.aggregate_id,
            event.event_id,
            event.kind,
            output::plain(event.payload.get())
        ))
    }
}
