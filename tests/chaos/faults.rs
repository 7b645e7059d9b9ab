//! What is broken, when, and for how long: drawn from the seed before anything is known of its
//! effects, so that the same seed breaks the same things in the same order.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rand::RngExt as _;
use rand::rngs::StdRng;
use tokio::time::sleep;

use crate::cluster::{Cluster, Link};
use crate::far::Window;
use crate::harness::signal;
use crate::member::Blow;
use crate::proxy::Weather;

/// Faults that go on at the same time at most.
pub const AT_ONCE: usize = 4;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Process(Blow),
    LinkCut,
    LinkRefuses,
    LinkHangs,
    LinkSlow,
    RedisFlushed,
    RedisKilled(Comeback),
    RedisStopped,
    PostgresShut(Shutdown),
    /// One of its processes is killed, and all others end and recover.
    BackendKilled,
    BackendStopped,
    BackendsTerminated,
    MailRefused,
    PushRefused,
}

/// With what a Redis comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Comeback {
    Empty,
    WithAll,
    WithAnOlderDump,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Shutdown {
    Fast,
    Immediate,
    Killed,
}

/// How often each is drawn, by weight.
const WEIGHTS: [(Kind, u32); 20] = [
    (Kind::Process(Blow::Kill), 18),
    (Kind::Process(Blow::Stop), 12),
    (Kind::Process(Blow::Restart), 6),
    (Kind::LinkCut, 18),
    (Kind::LinkRefuses, 8),
    (Kind::LinkHangs, 10),
    (Kind::LinkSlow, 6),
    (Kind::RedisFlushed, 3),
    (Kind::RedisKilled(Comeback::Empty), 2),
    (Kind::RedisKilled(Comeback::WithAll), 2),
    (Kind::RedisKilled(Comeback::WithAnOlderDump), 4),
    (Kind::RedisStopped, 2),
    (Kind::PostgresShut(Shutdown::Fast), 1),
    (Kind::PostgresShut(Shutdown::Immediate), 1),
    (Kind::PostgresShut(Shutdown::Killed), 1),
    (Kind::BackendKilled, 1),
    (Kind::BackendStopped, 5),
    (Kind::BackendsTerminated, 4),
    (Kind::MailRefused, 5),
    (Kind::PushRefused, 5),
];

/// A fault before its target is looked at.
#[derive(Debug, Clone, Copy)]
pub struct Drawn {
    /// After the one before.
    pub pause: Duration,
    pub kind: Kind,
    /// Chooses among the targets there are.
    pub pick: usize,
    pub lasts: Duration,
}

pub fn draw(random: &mut StdRng) -> Drawn {
    let total = WEIGHTS.iter().map(|(_, weight)| weight).sum();
    let mut at: u32 = random.random_range(0..total);
    let mut kind = WEIGHTS[0].0;
    for (candidate, weight) in WEIGHTS {
        kind = candidate;
        if at < weight {
            break;
        }
        at -= weight;
    }
    Drawn {
        pause: Duration::from_millis(random.random_range(100..1_500)),
        kind,
        pick: random.random_range(0..1 << 20),
        lasts: Duration::from_millis(random.random_range(200..4_000)),
    }
}

/// A fault that was.
#[derive(Debug, Clone)]
pub struct Struck {
    pub kind: Kind,
    pub target: String,
    /// Whether a mail may have been accepted and not recorded because of it.
    pub email: bool,
    pub push: bool,
    /// Seconds since 1970.
    pub from: f64,
    pub to: f64,
}

impl Struck {
    pub fn window(&self) -> Window {
        Window {
            what: format!("{:?} of {}", self.kind, self.target),
            from: self.from,
            to: self.to,
        }
    }
}

/// Seconds since 1970.
pub fn now() -> f64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.expect("after 1970").as_secs_f64()
}

/// How many there were of each, and how many hit each target.
pub fn count(struck: &[Struck]) -> [BTreeMap<String, usize>; 2] {
    let mut counts = [BTreeMap::new(), BTreeMap::new()];
    for fault in struck {
        *counts[0].entry(format!("{:?}", fault.kind)).or_default() += 1;
        *counts[1].entry(fault.target.clone()).or_default() += 1;
    }
    counts
}

fn pick<T>(all: &[T], number: usize) -> &T {
    &all[number % all.len()]
}

impl Cluster {
    /// Breaks something, and returns when it is whole again. `None` when it is broken already.
    pub async fn strike(&self, drawn: Drawn) -> Option<Struck> {
        let from = now();
        let (target, email, push) = match drawn.kind {
            Kind::Process(blow) => {
                let mut member = pick(&self.members, drawn.pick).try_lock().ok()?;
                member.suffer(blow, drawn.lasts).await;
                (
                    member.name.clone(),
                    member.drives_sinks(),
                    member.drives_sinks(),
                )
            }
            Kind::LinkCut | Kind::LinkRefuses | Kind::LinkHangs | Kind::LinkSlow => {
                let link = pick(&self.links, drawn.pick);
                let _busy = link.busy.try_lock().ok()?;
                break_link(link, drawn).await;
                (link.name.clone(), link.email, link.push)
            }
            Kind::RedisFlushed | Kind::RedisKilled(_) | Kind::RedisStopped => {
                self.break_redis(drawn).await?;
                ("Redis".into(), true, true)
            }
            Kind::MailRefused => {
                let mut smtp = self.smtp.try_lock().ok()?;
                smtp.fail("451 4.3.0 try again later").await;
                sleep(drawn.lasts).await;
                smtp.heal().await;
                ("SMTP".into(), false, false)
            }
            Kind::PushRefused => {
                let mut push = self.push.try_lock().ok()?;
                let status = [429, 500, 503][drawn.pick % 3];
                push.fail_next(usize::MAX >> 1, status).await;
                sleep(drawn.lasts).await;
                push.heal().await;
                ("push".into(), false, false)
            }
            _ => {
                self.break_postgres(drawn).await?;
                ("PostgreSQL".into(), true, true)
            }
        };
        Some(Struck {
            kind: drawn.kind,
            target,
            email,
            push,
            from,
            to: now(),
        })
    }

    async fn break_redis(&self, drawn: Drawn) -> Option<()> {
        let mut redis = self.redis.try_lock().ok()?;
        match drawn.kind {
            Kind::RedisFlushed => redis.flush().await,
            Kind::RedisStopped => {
                let pid = redis.process().pid();
                signal("STOP", pid);
                sleep(drawn.lasts).await;
                signal("CONT", pid);
            }
            Kind::RedisKilled(comeback) => {
                redis.save().await;
                let dumps = redis.dumps();
                let dump = match comeback {
                    Comeback::Empty => None,
                    Comeback::WithAll => dumps.last().cloned(),
                    Comeback::WithAnOlderDump => Some(pick(dumps, drawn.pick).clone()),
                };
                redis.kill().await;
                sleep(drawn.lasts).await;
                redis.restart(dump.as_deref()).await;
            }
            _ => {}
        }
        Some(())
    }

    async fn break_postgres(&self, drawn: Drawn) -> Option<()> {
        let mut postgres = self.postgres.try_lock().ok()?;
        if let Kind::PostgresShut(shutdown) = drawn.kind {
            let signal = match shutdown {
                Shutdown::Fast => "INT",
                Shutdown::Immediate => "QUIT",
                Shutdown::Killed => "KILL",
            };
            postgres.shut(signal).await;
            sleep(drawn.lasts).await;
            postgres.restart().await;
            return Some(());
        }
        let backends = postgres.backends().await;
        let victim = *backends.get(drawn.pick % backends.len().max(1))?;
        match drawn.kind {
            Kind::BackendKilled => {
                postgres.signal_backend("KILL", victim);
                postgres.restart().await;
            }
            Kind::BackendStopped => {
                postgres.signal_backend("STOP", victim);
                sleep(drawn.lasts).await;
                postgres.signal_backend("CONT", victim);
            }
            _ => {
                for victim in backends {
                    postgres.signal_backend("TERM", victim);
                }
            }
        }
        Some(())
    }
}

async fn break_link(link: &Link, drawn: Drawn) {
    let weather = match drawn.kind {
        Kind::LinkCut => return link.proxy.cut(),
        Kind::LinkHangs => Weather::Hanging,
        Kind::LinkSlow => Weather::Slow(Duration::from_millis(20)),
        _ => {
            link.proxy.cut();
            Weather::Refusing
        }
    };
    link.proxy.set(weather);
    sleep(drawn.lasts).await;
    link.proxy.set(Weather::Fair);
}
