//! `herald dead …`: dead letters.

use std::process::ExitCode;

use anyhow::bail;
use chrono::{DateTime, Utc};
use clap::{Args, Subcommand};
use ulid::Ulid;

use super::output;
use crate::store::{DeadFilter, LedgerRow, Store};

/// More than these are not touched without a yes.
const MANY: u64 = 10;

#[derive(Debug, Subcommand)]
pub enum Dead {
    /// List dead letters, newest first
    #[command(
        after_help = "Example:\n  herald dead list --sink email --since 2026-01-31T00:00:00Z"
    )]
    List {
        #[command(flatten)]
        filter: Filter,
        /// At most this many
        #[arg(long, default_value_t = 100)]
        limit: usize,
        /// Print each as a line of JSON
        #[arg(long)]
        json: bool,
    },
    /// Show an event's dead letters with every attempt that is remembered
    #[command(after_help = "Example:\n  herald dead show 01JD5ZQ9V7C3M1T8W2N4R6X0KE")]
    Show {
        event_id: Ulid,
        /// Print each as a line of JSON
        #[arg(long)]
        json: bool,
    },
    /// Send matching dead letters again, under their old event ids
    #[command(
        after_help = "Examples:\n  herald dead replay --sink email --cause 'connection refused'\n  herald dead replay --yes"
    )]
    Replay(Touch),
    /// Delete matching dead letters
    #[command(after_help = "Example:\n  herald dead drop --sink push --type 'promo.*' --yes")]
    Drop(Touch),
}

/// Which dead letters; all that are given must match.
#[derive(Debug, Args)]
pub struct Filter {
    #[arg(long)]
    sink: Option<String>,
    /// A type, or a prefix with * at its end
    #[arg(long = "type")]
    kind: Option<String>,
    #[arg(long)]
    tenant: Option<String>,
    /// Died at this time or later (RFC 3339)
    #[arg(long)]
    since: Option<DateTime<Utc>>,
    /// Text that the cause contains
    #[arg(long)]
    cause: Option<String>,
    #[arg(long)]
    event_id: Option<Ulid>,
    #[arg(long)]
    recipient: Option<String>,
}

#[derive(Debug, Args)]
pub struct Touch {
    #[command(flatten)]
    filter: Filter,
    /// Do not ask, however many there are
    #[arg(long)]
    yes: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl From<Filter> for DeadFilter {
    fn from(f: Filter) -> Self {
        Self {
            sink: f.sink,
            kind: f.kind,
            tenant: f.tenant,
            since: f.since,
            cause: f.cause,
            event_id: f.event_id,
            recipient: f.recipient,
        }
    }
}

impl Dead {
    pub(super) async fn execute(self, store: &dyn Store) -> anyhow::Result<ExitCode> {
        match self {
            Self::List {
                filter,
                limit,
                json,
            } => list(&store.dead(&filter.into(), limit).await?, json)?,
            Self::Show { event_id, json } => {
                let filter = DeadFilter {
                    event_id: Some(event_id),
                    ..DeadFilter::default()
                };
                show(&store.dead(&filter, usize::MAX).await?, json)?;
            }
            Self::Replay(touch) => {
                let (filter, json) = touch.agreed(store, "Send", "again").await?;
                report("replayed", store.dead_replay(&filter).await?, json)?;
            }
            Self::Drop(touch) => {
                let (filter, json) = touch.agreed(store, "Delete", "for good").await?;
                report("dropped", store.dead_drop(&filter).await?, json)?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Touch {
    /// The filter, once it is clear that so many are meant.
    async fn agreed(
        self,
        store: &dyn Store,
        verb: &str,
        how: &str,
    ) -> anyhow::Result<(DeadFilter, bool)> {
        let filter = self.filter.into();
        let count = store.dead_count(&filter).await?;
        if count > MANY && !self.yes {
            let question = format!("{verb} {count} dead letters {how}?");
            if !output::confirm(&question)? {
                bail!("{count} dead letters match; say --yes to touch so many");
            }
        }
        Ok((filter, self.json))
    }
}

fn report(what: &str, count: u64, json: bool) -> anyhow::Result<()> {
    if json {
        output::json(&serde_json::json!({ what: count }))
    } else {
        output::line(&format!("{what} {count}"))
    }
}

fn list(letters: &[LedgerRow], json: bool) -> anyhow::Result<()> {
    if json {
        return letters.iter().try_for_each(output::json);
    }
    if letters.is_empty() {
        return output::line("no dead letters");
    }
    let rows: Vec<Vec<String>> = letters
        .iter()
        .map(|l| {
            vec![
                l.sink.clone(),
                l.event_id.to_string(),
                output::plain(&l.tenant_id),
                l.kind.clone(),
                output::plain(&l.recipient),
                l.attempts.to_string(),
                output::time(l.updated_at),
                output::plain(l.cause.as_deref().unwrap_or("")),
            ]
        })
        .collect();
    output::table(
        &[
            "SINK",
            "EVENT",
            "TENANT",
            "TYPE",
            "RECIPIENT",
            "ATTEMPTS",
            "DIED",
            "CAUSE",
        ],
        &rows,
    )
}

fn show(letters: &[LedgerRow], json: bool) -> anyhow::Result<()> {
    if json || letters.is_empty() {
        return list(letters, json);
    }
    for letter in letters {
        output::line(&format!(
            "{} to {}: dead after {} attempts",
            letter.sink,
            output::plain(&letter.recipient),
            letter.attempts
        ))?;
        for attempt in &letter.history {
            let cause = output::plain(&attempt.cause);
            output::line(&format!("  {}  {cause}", output::time(attempt.at)))?;
        }
    }
    Ok(())
}
