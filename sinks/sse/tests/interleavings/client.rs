//! A client as a browser is one: it connects, reads, is cut off, and comes back with the id of the
//! last event it got whole.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use herald_contract::Event;
use herald_testkit::{aggregate_id, event_id};
use proptest::prelude::*;

use crate::support::{EventSource, Message, Server};
use crate::{FILTERS, TENANTS};

/// Where a client wants to begin. A place is one of its tenant's events, counted back from the last
/// that is committed as it comes for the first time.
#[derive(Debug, Clone, Copy)]
pub enum Beginning {
    /// With what comes next.
    Live,
    /// Before the first event.
    First,
    After(usize),
    LastEventId(usize),
    /// With an `after` that stays in the URL and is behind the id beside it.
    Both(usize, usize),
    /// A cursor that names nothing.
    Unknown,
}

pub fn beginning() -> impl Strategy<Value = Beginning> {
    prop_oneof![
        Just(Beginning::Live),
        Just(Beginning::First),
        (0..9_usize).prop_map(Beginning::After),
        (0..9_usize).prop_map(Beginning::LastEventId),
        (0..9_usize, 0..9_usize).prop_map(|(after, id)| Beginning::Both(after, id)),
        Just(Beginning::Unknown),
    ]
}

enum Connection {
    None,
    Opening(Pin<Box<dyn Future<Output = EventSource>>>),
    Open(Box<EventSource>),
}

pub struct Client {
    pub tenant: usize,
    pub filter: usize,
    beginning: Beginning,
    accepts: &'static str,
    /// What its URL asks for, once it has come.
    query: Option<String>,
    last_event_id: String,
    connection: Connection,
    /// The server it is connected to.
    pub server: usize,
    /// It gets what follows this `seq`; known when a cursor names it, or else by the first id.
    pub start: Option<i64>,
    pub got: Vec<i64>,
}

impl Client {
    pub fn new((tenant, filter, beginning, gzip): (usize, usize, Beginning, bool)) -> Self {
        Self {
            tenant,
            filter,
            beginning,
            accepts: if gzip { "gzip" } else { "identity" },
            query: None,
            last_event_id: String::new(),
            connection: Connection::None,
            server: 0,
            start: None,
            got: Vec::new(),
        }
    }

    pub fn is_away(&self) -> bool {
        matches!(self.connection, Connection::None)
    }

    /// Begins to connect. `committed` is the feed so far.
    pub fn come(&mut self, number: usize, server: Arc<Server>, committed: &[Arc<Event>]) {
        if self.query.is_none() {
            let (cursor, start) = self.cursor(committed);
            let (tenant, filter) = (TENANTS[self.tenant], FILTERS[self.filter]);
            self.query = Some(format!("tenantId={tenant}&types={filter}{cursor}"));
            self.start = start;
        }
        self.server = number;
        let (query, id) = (self.query.clone(), self.last_event_id.clone());
        let accepts = self.accepts;
        self.connection = Connection::Opening(Box::pin(async move {
            server
                .open_in(&query.unwrap_or_default(), &id, accepts)
                .await
        }));
    }

    /// The cursors of its URL, and the place they name.
    fn cursor(&self, committed: &[Arc<Event>]) -> (String, Option<i64>) {
        let own: Vec<i64> = committed
            .iter()
            .filter(|event| &*event.tenant_id == TENANTS[self.tenant])
            .map(|event| event.seq)
            .collect();
        let place = |back: usize| own.iter().rev().nth(back % own.len().max(1)).copied();
        let after = |seq: i64| format!("&after={}", aggregate_id(seq));
        let id = |seq: i64| format!("&lastEventId={}", event_id(seq));
        match self.beginning {
            Beginning::First => ("&after=0".into(), Some(0)),
            Beginning::Unknown => ("&after=999999".into(), None),
            Beginning::After(back) if let Some(seq) = place(back) => (after(seq), Some(seq)),
            Beginning::LastEventId(back) if let Some(seq) = place(back) => (id(seq), Some(seq)),
            Beginning::Both(a, b) if let (Some(a), Some(b)) = (place(a), place(b)) => {
                (after(a) + &id(b), Some(a.max(b)))
            }
            _ => (String::new(), None),
        }
    }

    /// Goes on by one poll, and reads `limit` bytes at most.
    pub fn turn(&mut self, limit: usize) {
        match &mut self.connection {
            Connection::None => {}
            Connection::Opening(opening) => {
                let mut context = Context::from_waker(Waker::noop());
                if let Poll::Ready(source) = opening.as_mut().poll(&mut context) {
                    self.connection = Connection::Open(Box::new(source));
                }
            }
            Connection::Open(source) => {
                source.poll(limit);
                self.take();
            }
        }
    }

    /// Goes on until something has come.
    pub async fn wait(&mut self) {
        match &mut self.connection {
            Connection::None => {}
            Connection::Opening(opening) => {
                self.connection = Connection::Open(Box::new(opening.await))
            }
            Connection::Open(source) => {
                source.pull().await;
                self.take();
            }
        }
    }

    pub fn cut(&mut self) {
        self.connection = Connection::None;
    }

    /// Takes what was read whole.
    fn take(&mut self) {
        let Connection::Open(source) = &mut self.connection else {
            return;
        };
        while let Some(message) = source.buffered() {
            match &*message.name {
                "" => self.got.push(message.seq()),
                "herald.reset" => assert_eq!(self.start, None, "a reset where a cursor resolves"),
                name => panic!("{name} was not asked for"),
            }
        }
        if !source.last_event_id.is_empty() {
            self.last_event_id.clone_from(&source.last_event_id);
        }
        if self.start.is_none() && !self.last_event_id.is_empty() {
            self.start = Some(seq(&self.last_event_id));
        }
        if source.ended {
            self.cut();
        }
    }
}

fn seq(id: &str) -> i64 {
    let id = id.to_owned();
    let (name, data) = (String::new(), String::new());
    Message { name, data, id }.seq()
}
