//! Puts the parts together and runs them until the process is told to stop.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use axum::Router;
use axum::serve::ListenerExt as _;
use herald_contract::Host;
use tokio::net::TcpListener;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::backoff::Backoff;
use crate::broker::{Broker, Embedded, Redis, RedisOptions};
use crate::config::{self, Config, Jitter, Ordering, SinkTable};
use crate::history::StoreHistory;
use crate::http::{self, Api, AtWork, SinkHandle};
use crate::metrics::Metrics;
use crate::monitor::Monitor;
use crate::registry::{self, AnySink, Part};
use crate::relay::{self, Relay};
use crate::retention::Housekeeper;
use crate::roles::{Roles, SinkRole};
use crate::runner::{self, Runner};
use crate::store::{Expiry, FeedHead, Postgres, Sequencer, Sqlite, Store, StoreError};

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

fn is_embedded(config: &config::Broker) -> bool {
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
    let mut listener = None;
    let mut listening = Some(listening);
    // What is in memory (readers, acknowledgements, streams) speaks of places in one history of
    // the feed. When another one begins, all of it is dropped and made anew.
    while !stop.is_cancelled() {
        let Some((sequencer, head)) = begin(&config, &*store, &stop).await? else {
            break;
        };
        if roles.http && listener.is_none() {
            listener = Some(listen(config.http.listen, listening.take())?);
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
        epoch.run(&roles, sequencer, listener.as_ref()).await?;
    }
    Ok(())
}

/// Takes the address for as long as the process runs.
fn listen(
    address: SocketAddr,
    listening: Option<impl FnOnce(SocketAddr)>,
) -> anyhow::Result<std::net::TcpListener> {
    let bound = std::net::TcpListener::bind(address).and_then(|listener| {
        listener.set_nonblocking(true)?;
        Ok((listener.local_addr()?, listener))
    });
    let (address, listener) =
        bound.with_context(|| format!("http.listen: cannot listen on {address}"))?;
    if let Some(listening) = listening {
        listening(address);
    }
    Ok(listener)
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

/// The process during one epoch of the feed: what every part of it shares.
struct Epoch {
    name: String,
    config: Arc<Config>,
    store: Arc<dyn Store>,
    history: Arc<StoreHistory>,
    broker: Arc<dyn Broker>,
    /// The feed's end when this began: its streams are live from there on.
    began_at: i64,
    metrics: Arc<Metrics>,
    leading: watch::Sender<bool>,
    /// The process is to stop, or another epoch has begun.
    stop: CancellationToken,
}

impl Epoch {
    /// Runs until `stop`, and drains.
    async fn run(
        self,
        roles: &Roles,
        sequencer: Option<Box<dyn Sequencer>>,
        listener: Option<&std::net::TcpListener>,
    ) -> anyhow::Result<()> {
        let emitted = Arc::new(Notify::new());
        let mut tasks = JoinSet::new();
        let drain = self.config.http.drain;
        let Sinks {
            handles,
            gates,
            routes,
        } = self.start_sinks(roles, drain, &mut tasks).await?;

        let monitor = Monitor {
            epoch: self.name.clone(),
            store: self.store.clone(),
            metrics: self.metrics.clone(),
            sinks: handles.clone(),
            counted: HashMap::new(),
            gates,
            only_while: is_embedded(&self.config.broker).then(|| self.leading.subscribe()),
            stop: self.stop.clone(),
        };
        tasks.spawn(async move {
            monitor.run().await;
            Ok(())
        });

        if let Some(listener) = listener {
            let api = Arc::new(Api {
                store: self.store.clone(),
                broker: self.broker.clone(),
                history: self.history.clone(),
                metrics: self.metrics.clone(),
                emitted: emitted.clone(),
                sinks: handles,
                relays: roles.relay,
                hosts: self.config.http.hosts.clone(),
                max_body: self.config.http.max_body_bytes,
                max_payload: self.config.http.max_payload_bytes,
            });
            let listener = TcpListener::from_std(listener.try_clone()?)?;
            let router = http::router(api, routes);
            tasks.spawn(serve(listener, router, self.stop.clone(), drain));
        }
        if roles.relay {
            if let Some(housekeeper) = self.housekeeper() {
                tasks.spawn(async move {
                    housekeeper.run().await;
                    Ok(())
                });
            }
            let relay = self.relay(emitted);
            tasks.spawn(async move { relay.run(sequencer).await.context("the relay cannot run") });
        }
        self.wait(tasks).await
    }

    fn relay(&self, emitted: Arc<Notify>) -> Relay {
        let settings = &self.config.relay;
        Relay {
            store: self.store.clone(),
            broker: self.broker.clone(),
            metrics: self.metrics.clone(),
            settings: relay::Settings {
                batch: settings.batch,
                poll_min: settings.poll_min,
                poll_max: settings.poll_max,
                trim_every: settings.trim_every,
                refill_max: self.config.broker.max_len.try_into().unwrap_or(i64::MAX),
            },
            emitted,
            leading: self.leading.clone(),
            stop: self.stop.clone(),
        }
    }

    /// `None` when everything is kept.
    fn housekeeper(&self) -> Option<Housekeeper> {
        Some(Housekeeper {
            store: self.store.clone(),
            metrics: self.metrics.clone(),
            expiry: Expiry {
                events: self.config.retention.events?,
                dead: self.config.retention.dead,
            },
            leading: self.leading.subscribe(),
            stop: self.stop.clone(),
        })
    }

    /// Until every task has ended. The first that fails stops the others.
    async fn wait(&self, mut tasks: JoinSet<anyhow::Result<()>>) -> anyhow::Result<()> {
        let mut result = Ok(());
        while let Some(ended) = tasks.join_next().await {
            let ended = match ended {
                Ok(ended) => ended,
                Err(panicked) => Err(anyhow::Error::from(panicked)),
            };
            if let Err(error) = ended {
                self.stop.cancel();
                result = result.and(Err(error));
            }
        }
        result
    }

    /// Makes the sink known, waiting for the database; `false` when it is stopped first.
    async fn register(&self, name: &str) -> Result<bool, StoreError> {
        let mut failures = 0;
        while !self.stop.is_cancelled() {
            match self.store.register_sink(name).await {
                Ok(_) => return Ok(true),
                Err(error @ StoreError::Unavailable(_)) => {
                    failures += 1;
                    tracing::warn!(sink = name, error = %error, "waiting for the database");
                    let wait = Backoff::INTERNAL.after(failures);
                    let _ = timeout(wait, self.stop.cancelled()).await;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }

    /// Builds this process's sinks and sets them to work. Each is registered before the relay
    /// begins, so that a new sink gets every event from now on.
    async fn start_sinks(
        &self,
        roles: &Roles,
        drain: Duration,
        tasks: &mut JoinSet<anyhow::Result<()>>,
    ) -> anyhow::Result<Sinks> {
        if let SinkRole::Named(names) = &roles.sinks
            && let Some(unknown) = names.iter().find(|n| !self.config.sinks.contains_key(*n))
        {
            bail!("--only names a sink that is not configured: {unknown:?}");
        }
        let mut sinks = Sinks::default();
        let mut kinds_routed = Vec::new();
        for (name, table) in &self.config.sinks {
            if !table.enabled {
                continue;
            }
            let part = build_sink(name, table, &self.config, self.history.clone())?;
            let at_work = match part.sink {
                // Clients come to the HTTP servers, so that is where broadcast sinks are.
                AnySink::Broadcast(sink) if roles.http => {
                    sink.start(self.began_at);
                    let (name, stop, seq) = (name.clone(), self.stop.clone(), self.began_at);
                    let (shown, broker) = (sink.clone(), self.broker.clone());
                    tasks.spawn(async move {
                        runner::run_broadcast(&name, shown, broker, seq, stop).await;
                        Ok(())
                    });
                    Some(AtWork::Broadcast(sink))
                }
                AnySink::Competing(sink) if roles.runs(name) => {
                    if !self.register(name).await? {
                        break; // Everything is about to end.
                    }
                    let gate = watch::Sender::new(false);
                    let runner = Arc::new(Runner::new(
                        settings(name, table, &self.config),
                        sink.clone(),
                        self.store.clone(),
                        self.broker.clone(),
                        self.metrics.clone(),
                        gate.subscribe(),
                        self.stop.clone(),
                    ));
                    sinks.gates.insert(name.clone(), gate);
                    let at_work = runner.clone();
                    tasks.spawn(async move {
                        at_work.run(drain).await;
                        Ok(())
                    });
                    Some(AtWork::Competing {
                        sink,
                        runner,
                        health: watch::Sender::default(),
                    })
                }
                _ => None,
            };
            // Two sinks of one kind would claim the same paths: the first by name has them.
            if roles.http && !kinds_routed.contains(&&table.kind) {
                kinds_routed.push(&table.kind);
                sinks.routes = std::mem::take(&mut sinks.routes).merge(part.routes);
            }
            sinks.handles.extend(at_work.map(|at_work| {
                Arc::new(SinkHandle {
                    name: name.clone(),
                    kind: table.kind.clone(),
                    at_work,
                })
            }));
        }
        Ok(sinks)
    }
}

/// The sinks of this process.
#[derive(Default)]
struct Sinks {
    handles: Vec<Arc<SinkHandle>>,
    gates: HashMap<String, watch::Sender<bool>>,
    routes: Router,
}

fn settings(name: &str, table: &SinkTable, config: &Config) -> runner::Settings {
    let breaker = runner::BreakerLimits {
        failures: table.breaker.failures,
        open: Backoff {
            base: table.breaker.open,
            factor: 2.0,
            max: table.breaker.max_open,
            jitter: false,
        },
    };
    runner::Settings {
        name: name.to_owned(),
        types: table.types.clone(),
        concurrency: table.concurrency,
        attempt_timeout: table.attempt_timeout,
        backoff: Backoff {
            base: table.retry.base,
            factor: table.retry.factor,
            max: table.retry.max_delay,
            jitter: table.retry.jitter == Jitter::Full,
        },
        max_attempts: table.retry.max_attempts,
        rate: table.rate,
        breaker,
        destination: runner::DestinationLimits {
            // So that the others always find room beside one that is slow.
            concurrency: table
                .destination
                .concurrency
                .unwrap_or((table.concurrency * 3).div_ceil(4)),
            rate: table.destination.rate,
            breaker,
        },
        expires_after: table.expires_after,
        order: (table.ordering == Ordering::Key)
            .then(|| runner::OrderKey::new(&table.ordering_key)),
        dead_letter_tenant: config.dead_letters.tenant.as_deref().map(Arc::from),
    }
}

/// Answers requests until `stop`, and then those under way for at most `drain`.
async fn serve(
    listener: TcpListener,
    router: Router,
    stop: CancellationToken,
    drain: Duration,
) -> anyhow::Result<()> {
    // Small frames must not wait for an acknowledgement (Nagle's algorithm).
    let listener = listener.tap_io(|connection| {
        let _ = connection.set_nodelay(true);
    });
    let stopped = stop.clone();
    let serving = axum::serve(listener, router)
        .with_graceful_shutdown(async move { stopped.cancelled().await });
    let deadline = async {
        stop.cancelled().await;
        sleep(drain).await;
    };
    tokio::select! {
        served = serving => served.context("the HTTP server failed"),
        () = deadline => {
            tracing::warn!("requests under way were cut off");
            Ok(())
        }
    }
}
