//! Streams of events: `GET /sse` shows each client its tenant's events, in the feed's order, from
//! wherever the client left off (server-sent events, WHATWG HTML §9.2). `GET /ws` does so over
//! WebSockets (RFC 6455).
//!
//! ```text
//!  publish ──▶ hub: one log a stream ───┐                        ┌──▶ raw: the connection
//!             (frames written once)     ├──▶ client: its place ──┤
//!  database ──▶ history, page by page ──┘    in the stream       └──▶ stream: a body
//! ```
//!
//! A stream is what all clients of one tenant with one filter get in one form. Its frames stand one after the
//! other in chunks, which all of them share: a client is a place in them and a connection.
//!
//! - `hub`, `log`: joining a stream and reading the head are one step, so what is live and what is
//!   history join without a hole or a double.
//! - `client`: the state machine of one client. A slow one falls back to reading history; it
//!   neither holds up others nor loses anything.
//! - `history`: reads of the database, bounded in number and time, shared by those of one stream.
//! - `chunk`, `frame`: bytes. An event is serialised once a process.
//! - `coding`, `gzip`: compressed streams. A chunk is compressed once, for all of its clients.
//! - `budget`: what all of them may take.
//! - `raw`, `stream`: from a client to its connection, or to a body where there is none of its own.
//! - `transport`: what a connection is made of.
//! - `route`, `admission`, `lease`: parameters, cursors, answers; who is let in, and for how long.
//! - `websocket`: handshake, frames, and what a client may say.

mod admission;
mod budget;
mod chunk;
mod client;
mod coding;
mod config;
mod frame;
mod gzip;
mod history;
mod hub;
mod lease;
mod log;
mod raw;
mod route;
mod stream;
mod transport;
mod wave;
mod websocket;

use std::sync::Arc;

use axum::Router;
use axum::routing::get;
use herald_contract::{Broadcast, Event, Host, StreamStats};

use admission::{Door, Limits};
use budget::Budget;
pub use config::Config;
use history::Reader;
use hub::Hub;
use lease::Leases;

/// The sink. Clones share their clients.
#[derive(Clone)]
pub struct Sse {
    shared: Arc<Shared>,
}

struct Shared {
    config: Config,
    hub: Arc<Hub>,
    reader: Arc<Reader>,
    door: Arc<Door>,
    leases: Arc<Leases>,
}

impl Sse {
    /// `config` has no faults.
    pub fn new(config: Config, host: &Host) -> Self {
        let shared = Shared {
            hub: Arc::new(Hub::new(
                config.buffer,
                Arc::new(Budget::new(config.memory_bytes)),
            )),
            reader: Arc::new(Reader::new(host.history.clone(), config.replay_page)),
            door: Arc::new(Door::new(Limits {
                all: config.max_clients,
                per_tenant: config.max_clients_per_tenant,
                per_address: config.max_clients_per_address,
            })),
            leases: Arc::default(),
            config,
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// `GET` and `HEAD /sse`, `GET /ws`. The host puts an [`Access`](herald_routes::Access) into each request.
    pub fn routes(&self) -> Router {
        Router::new()
            .route("/sse", get(route::serve))
            .route("/ws", get(websocket::serve))
            .with_state(self.shared.clone())
    }
}

impl Broadcast for Sse {
    /// Until it is called, clients are told to come back later.
    fn start(&self, seq: i64) {
        self.shared.hub.start(seq);
    }

    fn publish(&self, events: &[Arc<Event>]) {
        self.shared.hub.publish(events);
    }

    /// Each stream still gets what is in its log, then ends with a time to come back, 2 to 10 s.
    fn close(&self) {
        self.shared.hub.close();
    }

    fn stats(&self) -> StreamStats {
        StreamStats {
            clients: self.shared.door.clients(),
            events: self.shared.door.events(),
        }
    }
}
