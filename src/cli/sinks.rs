//! `herald sinks …`: the sinks that the database knows, and letting go of one.

use std::process::ExitCode;

use anyhow::bail;
use clap::{Args, Subcommand};

use super::output;
use crate::config::Config;
use crate::store::Store;

/// Ledger rows that one statement deletes.
const BATCH: usize = 2_000;

#[derive(Debug, Subcommand)]
pub enum Sinks {
    /// List the competing sinks that the database knows, and where each stands
    #[command(after_help = "Example:\n  herald sinks list")]
    List {
        /// Print each as a line of JSON
        #[arg(long)]
        json: bool,
    },
    /// Let go of a sink that was removed for good
    #[command(
        after_help = "Example:\n  herald sinks forget sms --yes\n\nA sink that is no longer \
                      configured keeps its place, in case it comes back, and so keeps events \
                      from being deleted. This deletes its place, its pending deliveries and its \
                      dead letters. Stop every herald that still has the sink first."
    )]
    Forget(Forget),
}

#[derive(Debug, Args)]
pub struct Forget {
    name: String,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Sinks {
    pub(super) async fn execute(
        self,
        config: &Config,
        store: &dyn Store,
    ) -> anyhow::Result<ExitCode> {
        match self {
            Self::List { json } => list(config, store, json).await?,
            Self::Forget(forget) => forget.execute(config, store).await?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

async fn list(config: &Config, store: &dyn Store, json: bool) -> anyhow::Result<()> {
    let head = store.feed_head().await?;
    let mut rows = Vec::new();
    for (name, at) in store.checkpoints().await? {
        let configured = config.sinks.contains_key(&name);
        let lag = (head.seq - at.seq).max(0);
        if json {
            output::json(&serde_json::json!({
                "sink": name, "checkpoint": at.seq, "lag": lag, "paused": at.paused,
                "configured": configured
            }))?;
            continue;
        }
        let state = match (configured, at.paused) {
            (false, _) => "not configured",
            (true, true) => "paused",
            (true, false) => "",
        };
        rows.push(vec![
            name,
            at.seq.to_string(),
            lag.to_string(),
            state.to_owned(),
        ]);
    }
    match (json, rows.is_empty()) {
        (true, _) => Ok(()),
        (false, true) => output::line("the database knows no sinks"),
        (false, false) => output::table(&["SINK", "CHECKPOINT", "LAG", "STATE"], &rows),
    }
}

impl Forget {
    async fn execute(self, config: &Config, store: &dyn Store) -> anyhow::Result<()> {
        let name = &self.name;
        if config.sinks.contains_key(name) {
            bail!("{name:?} is configured; take [sinks.{name}] out of the configuration first");
        }
        let counts = store.sink_counts().await?;
        let counts = counts.into_iter().find(|(sink, _)| sink == name);
        let counts = counts.map(|(_, counts)| counts).unwrap_or_default();
        let known = store.checkpoints().await?.iter().any(|(s, _)| s == name);
        if !known && counts.retrying + counts.dead == 0 {
            bail!("there is no sink {name:?}; herald sinks list shows those there are");
        }
        if !self.yes {
            let question = format!(
                "Forget sink {name:?} with {} pending deliveries and {} dead letters?",
                counts.retrying, counts.dead
            );
            if !output::confirm(&question)? {
                bail!("nothing was changed; say --yes to forget it");
            }
        }
        let mut given_up = 0;
        loop {
            let more = store.give_up(name, BATCH).await?;
            given_up += more;
            if more == 0 {
                break;
            }
        }
        // Last, so that what was interrupted can be repeated.
        store.forget_sink(name).await?;
        if self.json {
            return output::json(&serde_json::json!({"forgotten": name, "givenUp": given_up}));
        }
        output::line(&format!(
            "forgot {name}; {given_up} pending deliveries and dead letters went with it"
        ))
    }
}
