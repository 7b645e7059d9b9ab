//! `herald events show`: an event and what became of it.

use std::process::ExitCode;

use anyhow::Context as _;
use clap::Subcommand;
use ulid::Ulid;

use super::output;
use crate::store::{LedgerRow, Store};

#[derive(Debug, Subcommand)]
pub enum Events {
    /// Show an event and its deliveries across all sinks
    #[command(after_help = "Example:\n  herald events show 01JD5ZQ9V7C3M1T8W2N4R6X0KE")]
    Show {
        event_id: Ulid,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

impl Events {
    pub(super) async fn execute(self, store: &dyn Store) -> anyhow::Result<ExitCode> {
        let Self::Show { event_id, json } = self;
        let event = store
            .event(event_id, None)
            .await?
            .context("there is no such event")?;
        let deliveries = store.deliveries(event_id).await?;
        if json {
            let deliveries = serde_json::to_string(&deliveries)?;
            let event = event.to_json();
            output::line(&format!(r#"{{"event":{event},"deliveries":{deliveries}}}"#))?;
            return Ok(ExitCode::SUCCESS);
        }
        output::line(&format!("event      {}", event.event_id))?;
        output::line(&format!("aggregate  {}", event.aggregate_id))?;
        output::line(&format!("tenant     {}", output::plain(&event.tenant_id)))?;
        output::line(&format!("type       {}", event.kind))?;
        output::line(&format!("created    {}", output::time(event.created_at)))?;
        let place = match event.seq {
            0 => "waits in the outbox".to_owned(),
            seq => seq.to_string(),
        };
        output::line(&format!("feed       {place}"))?;
        output::line(&format!(
            "payload    {}",
            output::plain(event.payload.get())
        ))?;
        output::line("")?;
        timeline(&deliveries)?;
        Ok(ExitCode::SUCCESS)
    }
}

fn timeline(deliveries: &[LedgerRow]) -> anyhow::Result<()> {
    if deliveries.is_empty() {
        return output::line("no deliveries are recorded");
    }
    let rows: Vec<Vec<String>> = deliveries
        .iter()
        .map(|d| {
            vec![
                d.sink.clone(),
                output::plain(&d.recipient),
                d.state.as_str().to_owned(),
                d.attempts.to_string(),
                output::time(d.updated_at),
                output::plain(d.cause.as_deref().or(d.response.as_deref()).unwrap_or("")),
            ]
        })
        .collect();
    output::table(
        &["SINK", "RECIPIENT", "STATE", "ATTEMPTS", "UPDATED", "SAID"],
        &rows,
    )
}
