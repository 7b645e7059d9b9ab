//! Whatever happens, each client gets its tenant's events that pass its filter exactly once and in
//! order, from where it began, once everything is published.
//!
//! What happens is a random list of steps: events are committed; servers over the same history
//! publish them, each at its own pace, with repetitions and holes; clients take a turn or do not,
//! are cut off (in the middle of a frame, or before the answer has come) and come back to any
//! server with the id they saw last beside the cursor of their URL; servers end and begin anew;
//! the database is away; heartbeats pass. Rings and pages are small, so that clients fall out of
//! them. A turn is one poll, so the steps fall between any two of the sink's own.

#[path = "../support/mod.rs"]
mod support;

mod client;
mod world;

use herald_testkit::check_property;
use proptest::collection::vec;
use proptest::prelude::*;

use client::Beginning;
use world::World;

pub const TENANTS: [&str; 2] = ["a", "b"];
pub const KINDS: [&str; 3] = ["order.created", "order.paid", "user.created"];
/// The last event of each tenant, which every filter passes: a client that has it has all.
pub const END: &str = "end";
pub const FILTERS: [&str; 3] = ["", "order.*,end", "end,user.created"];
pub const SERVERS: usize = 2;

#[derive(Debug, Clone)]
pub struct Case {
    buffer: usize,
    replay_page: usize,
    /// Tenant and type of the events to come.
    events: Vec<(usize, usize)>,
    /// Tenant, filter and beginning of the clients, and whether they accept compressed streams.
    clients: Vec<(usize, usize, Beginning, bool)>,
    steps: Vec<Step>,
}

#[derive(Debug, Clone)]
pub enum Step {
    Commit(usize),
    Publish {
        server: usize,
        upto: usize,
        /// So many that were published before are published again.
        again: usize,
        /// So many are left out.
        hole: usize,
    },
    /// The client takes a few turns; one that is away comes to the server.
    Turn {
        client: usize,
        server: usize,
        times: usize,
    },
    /// The client reads so many bytes at most, and no more.
    Cut {
        client: usize,
        bytes: usize,
    },
    Close {
        server: usize,
    },
    Kill {
        server: usize,
    },
    Away(bool),
    Heartbeat,
}

fn step() -> impl Strategy<Value = Step> {
    let server = || 0..SERVERS;
    prop_oneof![
        4 => (1..5_usize).prop_map(Step::Commit),
        6 => (server(), 0..6_usize, 0..3_usize, 0..20_usize).prop_map(
            |(server, upto, again, hole)| Step::Publish {
                server,
                upto,
                again,
                // Once in a while.
                hole: hole.saturating_sub(17),
            }
        ),
        12 => (0..3_usize, server(), 1..6_usize)
            .prop_map(|(client, server, times)| Step::Turn { client, server, times }),
        3 => (0..3_usize, 0..300_usize).prop_map(|(client, bytes)| Step::Cut { client, bytes }),
        1 => server().prop_map(|server| Step::Close { server }),
        1 => server().prop_map(|server| Step::Kill { server }),
        1 => any::<bool>().prop_map(Step::Away),
        1 => Just(Step::Heartbeat),
    ]
}

fn case() -> impl Strategy<Value = Case> {
    let events = vec((0..TENANTS.len(), 0..KINDS.len()), 0..20);
    let clients = vec(
        (
            0..TENANTS.len(),
            0..FILTERS.len(),
            client::beginning(),
            any::<bool>(),
        ),
        1..4,
    );
    (1..6_usize, 1..6_usize, events, clients, vec(step(), 0..40)).prop_map(
        |(buffer, replay_page, events, clients, steps)| Case {
            buffer,
            replay_page,
            events,
            clients,
            steps,
        },
    )
}

#[test]
fn every_client_gets_every_event_once_and_in_order_whatever_happens() {
    check_property(10_000, &case(), |case| {
        // On a paused clock: whoever waits for nothing that can come is found at once.
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime");
        runtime.block_on(async {
            let mut world = World::new(&case);
            for step in &case.steps {
                world.step(step).await;
            }
            world.end().await
        })
    });
}
