//! `herald run`.

use std::net::SocketAddr;
use std::process::ExitCode;

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use crate::app;
use crate::config::{AuthMode, Config, Loaded, Log, LogFormat};
use crate::roles::Roles;

#[derive(Debug, Default, Args)]
#[command(
    after_help = "Examples:\n  herald run\n  herald run --only relay,http\n  \
                        herald run --only sinks=email,push\n\nSIGTERM and SIGINT drain: \
                        what is under way ends, then herald exits with 0. A second one ends it at once.\n\
                        Where http.tls is set, SIGHUP reads its files again."
)]
pub struct Run {
    /// Take these roles alone: relay, http, sinks, or sinks=NAME,NAME
    #[arg(long, value_name = "ROLES")]
    only: Option<Roles>,
}

impl Run {
    pub(super) async fn execute(self, loaded: Loaded) -> anyhow::Result<ExitCode> {
        start_log(&loaded.config.log)?;
        for warning in &loaded.warnings {
            tracing::warn!("{warning}");
        }
        let stop = CancellationToken::new();
        on_signal(stop.clone())?;
        let config = loaded.config;
        if config.http.tls.files().is_some() {
            // Whoever renews a certificate tells every process. Once it is taken, the signal ends
            // none, though it means something only to those that listen (`tls`).
            drop(signal(SignalKind::hangup())?);
        }
        let shown = config.clone();
        let roles = self.only.unwrap_or(Roles::ALL);
        app::run(config, roles, stop, |address| greet(&shown, address)).await?;
        tracing::info!("stopped");
        Ok(ExitCode::SUCCESS)
    }
}

fn start_log(log: &Log) -> anyhow::Result<()> {
    // It tells of malformed paths, whole, with the tokens that may be in them.
    let filter = EnvFilter::try_new(&log.level)?.add_directive("h2::server=off".parse()?);
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    let started = match log.format {
        LogFormat::Json => subscriber.json().try_init(),
        LogFormat::Text => {
            let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
            subscriber.with_ansi(colours).try_init()
        }
    };
    started.map_err(|error| anyhow::anyhow!("the log cannot begin: {error}"))
}

/// The first signal asks to stop, the second insists.
fn on_signal(stop: CancellationToken) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if stop.is_cancelled() {
                std::process::exit(1);
            }
            tracing::info!("stopping; what is under way ends first");
            stop.cancel();
        }
    });
    Ok(())
}

/// Where to look and what to try, for somebody who has just started it.
fn greet(config: &Config, address: SocketAddr) {
    let scheme = match config.http.tls.files() {
        Some(_) => "https",
        None => "http",
    };
    let base = format!("{scheme}://{address}");
    tracing::info!("listening on {base}");
    println!(
        "herald {} is listening on {base}",
        env!("CARGO_PKG_VERSION")
    );
    println!("  console   {base}/");
    let has = |kind: &str| config.sinks.values().any(|s| s.enabled && s.kind == kind);
    if has("email") {
        println!("  mailbox   {base}/mailbox");
    }
    if has("web_push") {
        println!("  push test {base}/push");
    }
    let bearer = match config.auth.mode {
        AuthMode::None => "",
        AuthMode::Jwt => " -H \"Authorization: Bearer $TOKEN\"",
    };
    if !bearer.is_empty() && config.auth.secret.is_some() {
        println!("  token     TOKEN=$(herald token --tenant demo --scope subscribe,publish)");
    }
    if has("sse") {
        println!("  watch     curl -N{bearer} '{base}/sse?tenantId=demo'");
    }
    let event = r#"{"tenantId":"demo","type":"order.created","payload":{"orderId":7,"email":"ada@example.com"}}"#;
    println!("  emit      curl{bearer} '{base}/events' -d '{event}'");
}
