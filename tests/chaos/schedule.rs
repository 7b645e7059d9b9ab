//! What is broken, when, and for how long: drawn from the seed before anything is known of its
//! effects, so that the same seed breaks the same things in the same order.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rand::RngExt as _;
use rand::rngs::StdRng;

use crate::far::Window;
use crate::member::Blow;

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
