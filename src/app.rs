//! Puts the parts together and runs them until the process is told to stop.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use anyhow::{Context as _, bail};
use herald_contract::Host;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::backoff::Backoff;
use crate::broker::{Broker, Embedded, Redis, RedisOptions};
use crate::config::{self, Config, SinkTable};
use crate::epoch::{Epoch, Listeners};
use crate::history::StoreHistory;
use crate::metrics::Metrics;
use crate::registry::{self, AnySink, Part};
use crate::roles::{Roles, SinkRole};
use crate::store::{FeedHead, Postgres, Sequencer, Sqlite, Store, StoreError};
use crate::tls;

/// Opens the configured database; nothing is connected yet.
///
/// # Errors
/// The URL cannot be used.
pub fn open_store(config: &config::Store) -> Result<Arc<dyn Store>, StoreError> {
    Ok(if config.url.starts_with("sqlite:") {
        Arc::new(Sqlite::new(&config.url, config.timeout)?)
    } else {
        Arc::new(Postgres::new(
            &config.url,
            config.max_connections,
            config.timeout,
        )?)
    })
}

/// Opens the configured broker; nothing is connected yet.
///
/// # Errors
/// The URL cannot be used.
pub fn open_broker(
    config: &config::Broker,
    store: Arc<dyn Store>,
    epoch: &str,
) -> anyhow::Result<Arc<dyn Broker>> {
    Ok(if is_embedded(config) {
        Arc::new(Embedded::new(store))
    } else {
        let options = RedisOptions {
            url: config.url.clone(),
            max_len: config.max_len,
            reclaim_idle: config.reclaim_idle,
            timeout: config.timeout,
            // Unique among running processes, on this machine and others.
            consumer: format!("herald-{}-{}", std::process::id(), ulid::Ulid::generate()),
        };
        Arc::new(Redis::new(options, store, epoch)?)
    })
}

pub(crate) fn is_embedded(config: &config::Broker) -> bool {
    config.url.starts_with("embedded:")
}

/// What sinks may ask of the store, in their share of its connections.
pub fn history(config: &Config, store: Arc<dyn Store>) -> Arc<StoreHistory> {
    Arc::new(StoreHistory::new(store, config.store.max_connections))
}

/// Builds one sink of the configuration.
///
/// # Errors
/// What is in its way, such as a folder that cannot be written.
pub fn build_sink(
    name: &str,
    table: &SinkTable,
    config: &Config,
    history: Arc<StoreHistory>,
) -> anyhow::Result<Part> {
    let kind = registry::kind(&table.kind).context("there is no such kind of sink")?;
    let host = Host {
        sink: name.to_owned(),
        history: history.clone(),
        subscriptions: history,
        data_dir: config.data_dir.clone(),
    };
    let part = (kind.build)(&table.section, host)
        .map_err(anyhow::Error::msg)
        .with_context(|| format!("sink {name:?}"))?;
    if matches!(part.sink, AnySink::Broadcast(_)) && !table.types.wants_all() {
        bail!("sinks.{name}.types: clients of this sink choose their own types; remove the key");
    }
    Ok(part)
}

/// Runs the chosen roles until `stop`, then drains. `listening` is told the address.
///
/// # Errors
/// Something without which the process cannot begin: an address in use, a database file in use, a
/// sink that cannot be built. What may heal is waited for instead.
pub async fn run(
    config: Config,
    roles: Roles,
    stop: CancellationToken,
    listening: impl FnOnce(SocketAddr),
) -> anyhow::Result<()> {
    if is_embedded(&config.broker) && !roles.relay && roles.sinks != SinkRole::None {
        bail!(
            "with the embedded broker, sinks work in the process that leads the relay: \
             add relay to --only, or use Redis"
        );
    }
    let metrics = Arc::new(Metrics::new()?);
    let store = open_store(&config.store)?;
    let config = Arc::new(config);
    let mut listeners = Listeners::default();
    let mut listening = Some(listening);
    // What is in memory (readers, acknowledgements, streams) speaks of places in one history of
    // the feed. When another one begins, all of it is dropped and made anew.
    while !stop.is_cancelled() {
        let Some((sequencer, head)) = begin(&config, &*store, &stop).await? else {
            break;
        };
        if let Some(listening) = listening.take() {
            listeners = listen(&config, &roles, &stop, listening)?;
        }
        let epoch = Epoch {
            config: config.clone(),
            history: history(&config, store.clone()),
            began_at: head.seq,
            broker: open_broker(&config.broker, store.clone(), &head.epoch)?,
            name: head.epoch,
            store: store.clone(),
            metrics: metrics.clone(),
            leading: watch::Sender::new(false),
            stop: stop.child_token(),
        };
        epoch.run(&roles, sequencer, &listeners).await?;
    }
    Ok(())
}

/// Takes the addresses for as long as the process runs.
fn listen(
    config: &Config,
    roles: &Roles,
    stop: &CancellationToken,
    listening: impl FnOnce(SocketAddr),
) -> anyhow::Result<Listeners> {
    let mut listeners = Listeners::default();
    if let Some(address) = config.operations.listen {
        let (address, listener) = bind("operations.listen", address)?;
        tracing::info!("listening on http://{address} for health and metrics");
        listeners.operations = Some(listener);
    }
    if roles.http {
        if let Some((certificate, key)) = config.http.tls.files() {
            let tls = tls::start(certificate.into(), key.into(), stop.clone())?;
            listeners.tls = Some(tls);
        }
        let (address, listener) = bind("http.listen", config.http.listen)?;
        listeners.http = Some(listener);
        listening(address);
    }
    Ok(listeners)
}

fn bind(key: &str, address: SocketAddr) -> anyhow::Result<(SocketAddr, TcpListener)> {
    TcpListener::bind(address)
        .and_then(|listener| {
            listener.set_nonblocking(true)?;
            Ok((listener.local_addr()?, listener))
        })
        .with_context(|| format!("{key}: cannot listen on {address}"))
}

/// Waits for the database, brings its schema up to date, and finds out whether another process
/// has the file. `None` when it is told to stop first.
async fn begin(
    config: &Config,
    store: &dyn Store,
    stop: &CancellationToken,
) -> anyhow::Result<Option<(Option<Box<dyn Sequencer>>, FeedHead)>> {
    let mut failures = 0;
    loop {
        let begun: Result<_, StoreError> = async {
            // Before the schema is touched: a file that another process has is left alone.
            let exclusive = config.store.url.starts_with("sqlite:");
            let first = if exclusive {
                store.try_lead().await?
            } else {
                None
            };
            if config.store.migrate {
                store.migrate().await?;
            }
            Ok((first, store.feed_head().await?))
        }
        .await;
        match begun {
            Ok(begun) => return Ok(Some(begun)),
            Err(error @ (StoreError::Unavailable(_) | StoreError::Migration(_)))
                if may_come_up(&error) =>
            {
                failures += 1;
                tracing::warn!(error = %error, "waiting for the database");
                let wait = Backoff::INTERNAL.after(failures);
                if timeout(wait, stop.cancelled()).await.is_ok() {
                    return Ok(None);
                }
            }
            Err(error) => return Err(error).context("the database cannot be used"),
        }
    }
}

/// Whether the database may come up yet: a migration that failed for want of a connection.
fn may_come_up(error: &StoreError) -> bool {
    match error {
        StoreError::Migration(sqlx::migrate::MigrateError::Execute(cause)) => matches!(
            cause,
            sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed
        ),
        StoreError::Migration(_) => false,
        _ => true,
    }
}
