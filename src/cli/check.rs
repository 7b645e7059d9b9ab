//! `herald check`.

use std::fmt::Display;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use tokio::time::timeout;

use crate::app;
use crate::config::{Config, Faults, Loaded};
use crate::registry::AnySink;
use crate::tls;

/// How long each part may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  herald check\n  herald check --live --config /etc/herald/config.toml"
)]
pub struct Check {
    /// Also ask the database, the broker and each sink's far end whether they answer
    #[arg(long)]
    live: bool,
}

impl Check {
    pub(super) async fn execute(&self, loaded: Result<Loaded, Faults>) -> anyhow::Result<ExitCode> {
        let loaded = match loaded {
            Ok(loaded) => loaded,
            Err(faults) => {
                eprintln!("{faults}");
                return Ok(ExitCode::FAILURE);
            }
        };
        for warning in &loaded.warnings {
            eprintln!("warning: {warning}");
        }
        // Not at each load: the key need not be there, nor readable, where nobody listens.
        if let Some((certificate, key)) = loaded.config.http.tls.files()
            && let Err(fault) = tls::read(certificate, key)
        {
            let (key, why) = match fault {
                tls::Fault::Certificate(why) => ("http.tls.certificate_file", why),
                tls::Fault::Key(why) => ("http.tls.key_file", why),
            };
            eprintln!("{}: {key}: {why}", loaded.origin(key));
            return Ok(ExitCode::FAILURE);
        }
        if self.live && !probe(&loaded.config).await? {
            return Ok(ExitCode::FAILURE);
        }
        println!("the configuration is sound");
        Ok(ExitCode::SUCCESS)
    }
}

/// Asks every part; whether all answered.
async fn probe(config: &Config) -> anyhow::Result<bool> {
    let store = app::open_store(&config.store)?;
    let mut well = report("store", store.ping()).await;
    let epoch = match store.feed_head().await {
        Ok(head) => head.epoch,
        Err(_) => String::new(),
    };
    let broker = app::open_broker(&config.broker, store.clone(), &epoch)?;
    well &= report("broker", broker.ping()).await;
    for (name, table) in config.sinks.iter().filter(|(_, table)| table.enabled) {
        let part = app::build_sink(name, table, config, app::history(config, store.clone()))?;
        if let AnySink::Competing(sink) = part.sink {
            well &= report(&format!("sink {name}"), sink.health()).await;
        }
    }
    Ok(well)
}

async fn report<E: Display>(part: &str, asked: impl Future<Output = Result<(), E>>) -> bool {
    match timeout(PATIENCE, asked).await {
        Ok(Ok(())) => {
            println!("{part}: well");
            true
        }
        Ok(Err(error)) => {
            println!("{part}: {error}");
            false
        }
        Err(_) => {
            println!("{part}: no answer within {} s", PATIENCE.as_secs());
            false
        }
    }
}
