//! `herald emit`: straight into the database, whether or not a herald runs.

use std::io::{self, BufRead as _, IsTerminal as _};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use serde_json::value::RawValue;

use super::output;
use crate::config::Config;
use crate::ingest::Draft;
use crate::store::{Emitted, NewEvent, Store};

/// Lines of standard input that go into one transaction.
const BATCH: usize = 500;

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    herald emit --tenant acme --type order.created --payload '{\"orderId\": 7}'\n  \
    herald emit - < events.ndjson\n\n\
    Each line of standard input is {\"tenantId\": …, \"type\": …, \"payload\": …, \"eventId\": …}; \
    --tenant and --type stand in where a line has none. An eventId that was emitted before is \
    not emitted again.")]
pub struct Emit {
    #[arg(long)]
    tenant: Option<String>,
    #[arg(long = "type")]
    kind: Option<String>,
    /// The payload, as JSON
    #[arg(long, conflicts_with = "input")]
    payload: Option<String>,
    /// `-` reads events from standard input, one JSON object a line
    #[arg(value_parser = ["-"], required_unless_present = "payload")]
    input: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Emit {
    pub(super) async fn execute(
        self,
        config: &Config,
        store: &dyn Store,
    ) -> anyhow::Result<ExitCode> {
        let limit = config.http.max_payload_bytes;
        match &self.payload {
            Some(payload) => {
                let draft = Draft {
                    tenant_id: None,
                    kind: None,
                    payload: RawValue::from_string(payload.clone())
                        .context("--payload is not JSON")?,
                    event_id: None,
                    metadata: None,
                };
                let event = self.event(draft, limit)?;
                self.print(&store.emit(&[event]).await?)?;
            }
            None => self.read_lines(store, limit).await?,
        }
        Ok(ExitCode::SUCCESS)
    }

    /// Emits batch by batch. A bad line ends it, after the lines before it are committed.
    async fn read_lines(&self, store: &dyn Store, limit: usize) -> anyhow::Result<()> {
        let show_progress = io::stderr().is_terminal();
        let mut batch = Vec::with_capacity(BATCH);
        let mut count = 0;
        let mut fault = None;
        for (number, line) in io::stdin().lock().lines().enumerate() {
            let line = line?;
            if line.trim().is_empty() {
                continue;
            }
            let event = serde_json::from_str(&line)
                .map_err(anyhow::Error::from)
                .and_then(|draft| self.event(draft, limit));
            match event {
                Ok(event) => batch.push(event),
                Err(error) => {
                    fault = Some(error.context(format!("line {}", number + 1)));
                    break;
                }
            }
            if batch.len() == BATCH {
                self.print(&store.emit(&batch).await?)?;
                count += batch.len();
                batch.clear();
                if show_progress {
                    eprint!("\r{count} events");
                }
            }
        }
        if !batch.is_empty() {
            self.print(&store.emit(&batch).await?)?;
            count += batch.len();
        }
        if show_progress {
            eprintln!("\r{count} events");
        }
        match fault {
            Some(error) => Err(error.context(format!("{count} events were emitted, then"))),
            None => Ok(()),
        }
    }

    fn event(&self, mut draft: Draft, limit: usize) -> anyhow::Result<NewEvent> {
        draft.tenant_id = draft.tenant_id.or_else(|| self.tenant.clone());
        draft.kind = draft.kind.or_else(|| self.kind.clone());
        Ok(draft.check(limit)?)
    }

    fn print(&self, emitted: &[Emitted]) -> anyhow::Result<()> {
        for e in emitted {
            if self.json {
                output::json(&serde_json::json!({
                    "eventId": e.event_id, "aggregateId": e.aggregate_id, "repeated": e.repeated
                }))?;
            } else {
                output::line(&format!("{} {}", e.event_id, e.aggregate_id))?;
            }
        }
        Ok(())
    }
}
