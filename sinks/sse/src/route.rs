//! `GET /sse`: from a request to a stream.
//!
//! Everything that can fail does so before the status is sent. Bad input is a problem (4xx): to an
//! EventSource that is final, and it should be. Whatever may pass (too many clients, not started
//! yet, shutting down, the database away) is a 200 that tells the client when to come back and
//! ends, for an EventSource that gets a 503 never comes back. One that comes back with its old URL
//! after its token has expired is told to stop: 204 (WHATWG HTML §9.2.3).

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use bytes::{Bytes, BytesMut};
use herald_contract::{Cursor, Place, TypeFilter, Unavailable};
use herald_routes::{
    Access, ClientAddress, Connection, Params, Problem, Refusal, Scope, Socket, StreamAccess,
    Takeover, Writing,
};
use serde::Deserialize;
use ulid::Ulid;

use crate::admission::Admission;
use crate::client::Client;
use crate::coding::Coding;
use crate::frame::{self, Cause, Format};
use crate::log::Topic;
use crate::stream::{self, EventStream};
use crate::websocket::message;
use crate::{Shared, gzip, raw, wave};

/// What an EventSource comes back with.
const LAST_EVENT_ID: &str = "last-event-id";

/// Unknown parameters are ignored: others share the query string (a token, a cache breaker).
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Query {
    pub tenant_id: Option<String>,
    pub after: Option<String>,
    pub last_event_id: Option<String>,
    pub types: Option<String>,
    pub named: Option<String>,
    pub ping: Option<String>,
}

/// A request that has been understood.
pub struct Wanted {
    pub tenant: Arc<str>,
    pub types: TypeFilter,
    pub format: Format,
    pub coding: Coding,
    /// Whether heartbeats are to be events, for a client that cannot see comments.
    pub ping: bool,
    /// Where the client is, if that is known.
    pub address: Option<IpAddr>,
    /// Every cursor that was given, each on its own: one that resolves outweighs one that does not.
    pub cursors: Vec<Cursor>,
}

impl Wanted {
    /// # Errors
    /// A problem that names the field, or what the access does not allow.
    pub fn read(access: &Access, query: &Query, headers: &HeaderMap) -> Result<Self, Problem> {
        let tenant = access.tenant(Scope::Subscribe, query.tenant_id.as_deref())?;
        let types = TypeFilter::parse(query.types.as_deref().unwrap_or_default())
            .map_err(|e| Problem::invalid("types", format!("types: an item {e}")))?;
        let format = match read_flag("named", query.named.as_deref())? {
            true => Format::Named,
            false => Format::Sse,
        };
        let ping = read_flag("ping", query.ping.as_deref())?;
        let mut cursors = Vec::new();
        if let Some(text) = given(query.after.as_deref()) {
            cursors.push(Cursor {
                after: Some(read_after(text)?),
                event_id: None,
            });
        }
        let header = match headers.get(LAST_EVENT_ID) {
            Some(value) => Some(value.to_str().map_err(|_| not_a_ulid())?),
            None => None,
        };
        for text in [header, query.last_event_id.as_deref()] {
            if let Some(text) = given(text) {
                let cursor = Cursor {
                    after: None,
                    event_id: Some(read_ulid(text)?),
                };
                if !cursors.contains(&cursor) {
                    cursors.push(cursor);
                }
            }
        }
        Ok(Self {
            tenant: tenant.into(),
            types,
            format,
            coding: Coding::Identity,
            ping,
            address: None,
            cursors,
        })
    }
}

/// An empty value counts as absent: pages write `after=` when they have no events yet.
pub fn given(text: Option<&str>) -> Option<&str> {
    text.filter(|t| !t.is_empty())
}

fn read_flag(name: &str, text: Option<&str>) -> Result<bool, Problem> {
    match text.unwrap_or_default() {
        "" | "false" | "0" => Ok(false),
        "true" | "1" => Ok(true),
        _ => Err(Problem::bad_request(format!("{name} must be true or false")).at(name)),
    }
}

fn read_after(text: &str) -> Result<i64, Problem> {
    text.parse().ok().filter(|n| *n >= 0).ok_or_else(|| {
        Problem::bad_request("after must be an aggregateId: a whole number from 0").at("after")
    })
}

fn read_ulid(text: &str) -> Result<Ulid, Problem> {
    // 26 characters hold 130 bits; the parser drops the two that are too many without a word.
    if !text.starts_with(|c| matches!(c, '0'..='7')) {
        return Err(not_a_ulid());
    }
    Ulid::from_string(text).map_err(|_| not_a_ulid())
}

fn not_a_ulid() -> Problem {
    Problem::bad_request("the last event id must be a ULID, as an event's id line gave it")
        .at("lastEventId")
}

pub async fn serve(
    State(shared): State<Arc<Shared>>,
    access: Result<StreamAccess, Refusal>,
    Params(query): Params<Query>,
    address: Option<Extension<ClientAddress>>,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let access = match access {
        Ok(StreamAccess { access, .. }) => access,
        // Who can send a token in a header can also read why it does not do.
        Err(Refusal::Expired)
            if headers.contains_key(LAST_EVENT_ID)
                && !headers.contains_key(header::AUTHORIZATION) =>
        {
            return Ok(StatusCode::NO_CONTENT.into_response());
        }
        Err(refusal) => return Err(refusal.into()),
    };
    let mut wanted = Wanted::read(&access, &query, &headers)?;
    wanted.address = address.map(|Extension(ClientAddress(address))| address);
    if shared.config.compression {
        wanted.coding = Coding::accepted(&headers);
    }
    let (coding, varies) = (wanted.coding, shared.config.compression);
    let respond = |body| respond(body, coding, varies);
    if method == Method::HEAD {
        return Ok(respond(Body::empty()));
    }
    let farewell = wanted.format.farewell(Cause::Busy);
    let farewell = match coding {
        Coding::Identity => farewell,
        Coding::Gzip => gzip::whole(&farewell),
    };
    let mut client = match open(&shared, wanted).await {
        Ok(Some(client)) => client,
        Ok(None) => return Ok(respond(farewell.into())),
        Err(cause) => {
            tracing::warn!(%cause, "a client is sent away: its cursor cannot be resolved now");
            return Ok(respond(farewell.into()));
        }
    };
    if let Some(until) = access.expires_at {
        client.stay_for(shared.leases.take(until));
    }
    let client = stream::hold(client);
    let send_timeout = shared.config.send_timeout;
    let mut response = respond(EventStream::body(client.clone(), send_timeout));
    let takeover = Takeover::new(move |connection| {
        Some(begin(connection, stream::take(&client)?, send_timeout))
    });
    response.extensions_mut().insert(takeover);
    Ok(response)
}

/// Writes to the connection itself: in waves where that is a bare socket.
fn begin(connection: Connection, mut client: Client, send_timeout: Duration) -> Writing {
    match connection.socket {
        // What was read holds the buffer that the request was read into, and goes.
        Socket::Bare(socket) => {
            let (head, chunked) = (connection.head, connection.chunked);
            Box::pin(wave::write(socket, head, chunked, client, send_timeout))
        }
        Socket::Wrapped(_) => {
            client.frame(connection.chunked);
            let budget = client.hub.budget.clone();
            raw::write(connection, client, budget, send_timeout)
        }
    }
}

/// `varies` where others get another coding.
fn respond(body: Body, coding: Coding, varies: bool) -> Response {
    let headers = [
        (header::CONTENT_TYPE.as_str(), "text/event-stream"),
        (header::CACHE_CONTROL.as_str(), "no-cache, no-transform"),
        // nginx buffers a response unless told not to.
        ("x-accel-buffering", "no"),
    ];
    let varies = varies.then_some([(header::VARY, "accept-encoding")]);
    let coding = (coding == Coding::Gzip).then_some([(header::CONTENT_ENCODING, "gzip")]);
    (headers, varies, coding, body).into_response()
}

/// Opens the stream; `None` when the client is to come back later.
async fn open(shared: &Arc<Shared>, wanted: Wanted) -> Result<Option<Client>, Unavailable> {
    let Some(admission) = shared.door.admit(Some(&wanted.tenant), wanted.address) else {
        return Ok(None);
    };
    let start = resolve(shared, &wanted).await?;
    enter(shared, wanted, start, admission).await
}

/// Opens the stream of a client that has been let in; `None` when it is to come back later.
pub async fn enter(
    shared: &Arc<Shared>,
    wanted: Wanted,
    start: Start,
    admission: Admission,
) -> Result<Option<Client>, Unavailable> {
    shared.hub.tick_every(shared.config.heartbeat);
    let topic = Topic {
        tenant: wanted.tenant,
        types: wanted.types,
        format: wanted.format,
        coding: wanted.coding,
    };
    let Some((member, head)) = shared.hub.join(topic) else {
        return Ok(None);
    };
    let topic = &member.log.topic;
    let (position, named, reset) = match start {
        Start::After { seq, id } => (seq, id, false),
        Start::Live { reset } => (head, None, reset),
    };
    let id = match named {
        Some(id) => id,
        // The last event of the stream up to the very place: it has none in between, so a client
        // that comes back with this id before its first event goes on exactly there, and whoever
        // has the same id is at the same place. Nil is before the first event.
        None => shared
            .reader
            .latest(topic, position)
            .await?
            .unwrap_or_default(),
    };
    let opening = match topic.format {
        Format::Sse | Format::Named => opening(shared, reset, id),
        Format::WebSocket => message::opening(topic, reset, id),
    };
    Ok(Some(Client::new(
        shared.hub.clone(),
        shared.reader.clone(),
        admission,
        (member, head),
        position,
        opening,
        wanted.format.heartbeat(wanted.ping),
    )))
}

/// Where a stream begins.
pub enum Start {
    /// After a place in the feed; with the event's id when the client named it.
    After { seq: i64, id: Option<Ulid> },
    /// With what comes next; `reset` when there were cursors and none resolved.
    Live { reset: bool },
}

/// The furthest of the places that the cursors name.
pub async fn resolve(shared: &Shared, wanted: &Wanted) -> Result<Start, Unavailable> {
    let mut furthest: Option<(i64, Option<Ulid>)> = None;
    for cursor in &wanted.cursors {
        if let Place::After(seq) = shared.reader.resolve(&wanted.tenant, *cursor).await?
            && furthest.is_none_or(|(so_far, _)| seq > so_far)
        {
            furthest = Some((seq, cursor.event_id));
        }
    }
    Ok(match furthest {
        Some((seq, id)) => Start::After { seq, id },
        None => Start::Live {
            reset: !wanted.cursors.is_empty(),
        },
    })
}

fn opening(shared: &Shared, reset: bool, id: Ulid) -> Bytes {
    let mut out = BytesMut::new();
    let jitter = rand::random_range(0.5..=1.5);
    frame::put_retry(&mut out, shared.config.reconnect.mul_f64(jitter));
    if reset {
        // Before the id: a client that loses the connection in between is told again.
        out.extend_from_slice(frame::RESET);
    }
    frame::put_id(&mut out, id);
    out.freeze()
}
