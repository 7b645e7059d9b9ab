//! Server-sent events: `GET /sse` shows each client its tenant's events, in the feed's order, from
//! wherever the client left off (WHATWG HTML §9.2).
//!
//! ```text
//!  publish ──▶ hub: one ring a tenant ──┐
//!             (frames written once)     ├──▶ client: Replay ▶ Live ──▶ stream ──▶ body
//!  database ──▶ history, page by page ──┘        (its place)          (chunks)
//! ```
//!
//! - `hub`: registering a client and reading the head are one step, so what is
//!   live and what is history join without a hole or a double.
//! - `client`: the state machine of one client. A slow one falls back to reading history; it
//!   neither holds up others nor loses anything.
//! - `history`: reads of the database, bounded in number and time.
//! - `frame`, `stream`: bytes. An event is serialised once a process; each client gets a reference
//!   to the same buffer.
//! - `route`: parameters, cursors, answers.

mod client;
mod config;
mod frame;
mod history;
mod hub;
mod route;
mod stream;

use std::sync::Arc;

use axum::Router;
use axum::routing::get;
use herald_contract::{Broadcast, Event, Host, StreamStats};

pub use config::Config;
use history::Reader;
use hub::Hub;
use stream::Gauge;

/// The sink. Clones share their clients.
#[derive(Clone)]
pub struct Sse {
    shared: Arc<Shared>,
}

struct Shared {
    config: Config,
    hub: Arc<Hub>,
    reader: Arc<Reader>,
    gauge: Arc<Gauge>,
}

impl Sse {
    /// `config` has no faults.
    pub fn new(config: Config, host: &Host) -> Self {
        let shared = Shared {
            hub: Arc::new(Hub::new(config.buffer)),
            reader: Arc::new(Reader::new(host.history.clone(), config.replay_page)),
            gauge: Arc::new(Gauge::new(config.max_clients)),
            config,
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// `GET` and `HEAD /sse`. The host puts an [`Access`](herald_routes::Access) into each request.
    pub fn routes(&self) -> Router {
        Router::new()
            .route("/sse", get(route::serve))
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

    /// Each stream still gets what is in its ring, then ends with a `retry:` of 2 to 10 s.
    fn close(&self) {
        self.shared.hub.close();
    }

    fn stats(&self) -> StreamStats {
        StreamStats {
            clients: self.shared.gauge.clients(),
            events: self.shared.gauge.events(),
        }
    }
}
