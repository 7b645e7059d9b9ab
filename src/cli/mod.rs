//! The commands.

mod check;
mod dead;
mod emit;
mod events;
mod output;
mod run;
mod sinks;
mod tail;
mod token;
mod vapid;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{Parser, Subcommand};

use crate::app;
use crate::config::{Config, Faults, Loaded, process_env};
use crate::registry;
use crate::store::Store;

/// Turns "this happened" in a database into "everyone who should know knows".
#[derive(Debug, Parser)]
#[command(name = "herald", version, arg_required_else_help = false)]
pub struct Cli {
    /// The configuration; `config.toml` unless given.
    #[arg(long, global = true, value_name = "FILE", env = "HERALD_CONFIG")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run herald; this is what `herald` alone does
    Run(run::Run),
    /// Check the configuration and name every fault
    Check(check::Check),
    /// Create or upgrade the database schema
    #[command(after_help = "Example:\n  herald migrate --config /etc/herald/config.toml")]
    Migrate,
    /// Emit an event, or one for each line of standard input
    Emit(emit::Emit),
    /// Follow a tenant's events
    Tail(tail::Tail),
    /// Look at one event
    #[command(subcommand)]
    Events(events::Events),
    /// Dead letters: list, show, send again, give up
    #[command(subcommand)]
    Dead(dead::Dead),
    /// Sinks that the database knows: list, forget one that is gone
    #[command(subcommand)]
    Sinks(sinks::Sinks),
    /// Sign a token, for those who ask herald by HTTP
    Token(token::Token),
    /// Make a VAPID key pair for Web Push
    Vapid(vapid::Vapid),
}

/// Runs what was asked for. Exit codes: 0, 1 (failed), 2 (usage).
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("herald: {error}");
            return ExitCode::FAILURE;
        }
    };
    let ended = runtime.block_on(cli.execute());
    // A file that is being read may be on a machine that is away.
    runtime.shutdown_timeout(Duration::from_secs(1));
    match ended {
        Ok(code) => code,
        Err(error) => {
            eprintln!("herald: {error:#}");
            ExitCode::FAILURE
        }
    }
}

impl Cli {
    async fn execute(self) -> anyhow::Result<ExitCode> {
        if let Some(Command::Check(check)) = &self.command {
            return check.execute(self.load()).await;
        }
        if let Some(Command::Vapid(vapid)) = &self.command {
            return vapid.execute();
        }
        let loaded = match self.load() {
            Ok(loaded) => loaded,
            Err(faults) => {
                eprintln!("{faults}");
                return Ok(ExitCode::FAILURE);
            }
        };
        let command = self.command.unwrap_or(Command::Run(run::Run::default()));
        if let Command::Run(run) = command {
            return run.execute(loaded).await;
        }
        if let Command::Token(token) = command {
            return token.execute(&loaded.config);
        }
        let store = app::open_store(&loaded.config.store)?;
        match command {
            Command::Migrate => {
                store.migrate().await?;
                println!("the schema is up to date");
                Ok(ExitCode::SUCCESS)
            }
            Command::Emit(emit) => emit.execute(&loaded.config, &*store).await,
            Command::Tail(tail) => tail.execute(store).await,
            Command::Events(events) => events.execute(&*store).await,
            Command::Dead(dead) => dead.execute(&*store).await,
            Command::Sinks(sinks) => sinks.execute(&loaded.config, &*store).await,
            Command::Run(_) | Command::Check(_) | Command::Vapid(_) | Command::Token(_) => {
                Ok(ExitCode::SUCCESS)
            }
        }
    }

    fn load(&self) -> Result<Loaded, Faults> {
        Config::load(self.config.as_deref(), process_env(), &registry::checks())
    }
}

/// A store as commands pass it on.
type AnyStore = Arc<dyn Store>;
