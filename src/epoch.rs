//! The process during one epoch of the feed: its parts, set to work and ended together.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use axum::Router;
use herald_routes::Authority;
use tokio::net::TcpListener;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::app;
use crate::auth::Tokens;
use crate::backoff::Backoff;
use crate::broker::Broker;
use crate::config::{AuthMode, Config, Jitter, Ordering, SinkTable};
use crate::history::StoreHistory;
use crate::http::{self, Api, AtWork, SinkHandle};
use crate::metrics::Metrics;
use crate::monitor::Monitor;
use crate::registry::AnySink;
use crate::relay::{self, Relay};
use crate::retention::Housekeeper;
use crate::roles::{Roles, SinkRole};
use crate::runner::{self, Gate, Runner};
use crate::store::{Expiry, Sequencer, Store, StoreError};

/// The addresses that the process has taken, whichever epoch it is.
#[derive(Default)]
pub struct Listeners {
    pub http: Option<std::net::TcpListener>,
    /// For `http`.
    pub tls: Option<TlsAcceptor>,
    pub operations: Option<std::net::TcpListener>,
}

/// The process during one epoch of the feed: what every part of it shares.
pub struct Epoch {
    pub name: String,
    pub config: Arc<Config>,
    pub store: Arc<dyn Store>,
    pub history: Arc<StoreHistory>,
    pub broker: Arc<dyn Broker>,
    /// The feed's end when this began: its streams are live from there on.
    pub began_at: i64,
    pub metrics: Arc<Metrics>,
    pub leading: watch::Sender<bool>,
    /// The process is to stop, or another epoch has begun.
    pub stop: CancellationToken,
}

impl Epoch {
    /// Runs the chosen roles until `stop`, and drains. `sequencer` is a lead that was taken already.
    ///
    /// # Errors
    /// A part cannot begin or go on.
    pub async fn run(
        self,
        roles: &Roles,
        sequencer: Option<Box<dyn Sequencer>>,
        listeners: &Listeners,
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
            only_while: app::is_embedded(&self.config.broker).then(|| self.leading.subscribe()),
            stop: self.stop.clone(),
        };
        tasks.spawn(async move {
            monitor.run().await;
            Ok(())
        });

        let api = Arc::new(Api {
            store: self.store.clone(),
            broker: self.broker.clone(),
            history: self.history.clone(),
            metrics: self.metrics.clone(),
            emitted: emitted.clone(),
            sinks: handles,
            relays: roles.relay,
            hosts: self.config.http.hosts.clone(),
            origins: self.config.http.origins.clone(),
            authority: self.authority()?,
            trusted_proxies: self.config.http.trusted_proxies.clone(),
            max_body: self.config.http.max_body_bytes,
            max_payload: self.config.http.max_payload_bytes,
        });
        let tls = listeners.tls.clone();
        for (listener, router, tls) in [
            (&listeners.operations, http::operations(api.clone()), None),
            (&listeners.http, http::router(api, routes), tls),
        ] {
            if let Some(listener) = listener {
                let listener = TcpListener::from_std(listener.try_clone()?)?;
                tasks.spawn(http::serve(listener, router, tls, self.stop.clone(), drain));
            }
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

    /// Who judges tokens; `None` where none are asked for.
    fn authority(&self) -> anyhow::Result<Option<Authority>> {
        let auth = &self.config.auth;
        Ok(match auth.mode {
            AuthMode::None => None,
            AuthMode::Jwt => {
                let tokens = Tokens::new(auth).map_err(anyhow::Error::msg);
                Some(Arc::new(tokens.context("auth.public_key_file")?).authority())
            }
        })
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
            let part = app::build_sink(name, table, &self.config, self.history.clone())?;
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
                    let gate = watch::Sender::new(Gate::Away);
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
    gates: HashMap<String, watch::Sender<Gate>>,
    routes: Router,
}

fn settings(name: &str, table: &SinkTable, config: &Config) -> runner::Settings {
    let breaker = runner::BreakerLimits {
        failures: table.breaker.failures,
        open: Backoff {
            base: table.breaker.open,
            factor: 2.0,
            max: table.breaker.max_open,
            // Many destinations that fail for one cause are not tried again all at once.
            jitter: 0.5,
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
            jitter: match table.retry.jitter {
                Jitter::Full => 1.0,
                Jitter::None => 0.0,
            },
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
