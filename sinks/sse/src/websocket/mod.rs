//! `GET /ws`: the same streams as `/sse` over a WebSocket (RFC 6455), for those who would rather
//! speak that, or change what they listen to without connecting again.
//!
//! - `handshake`: which requests become a WebSocket.
//! - `session`: the state machine of one connection, without the socket.
//! - `decoder`, `message`: what the client sends, as frames and as commands.
//! - `wire`, `close`: frames to the client, and the codes that say why a connection ends.
//!
//! Bad input is a problem (4xx) before the handshake, or an error message after it. What may pass
//! is a connection that ends at once with a close code, for a page does not see the status of a
//! handshake that failed.

pub mod close;
mod decoder;
mod handshake;
pub mod message;
mod session;
pub mod wire;

use std::sync::{Arc, Mutex, PoisonError};

use axum::Extension;
use axum::extract::State;
use axum::http::{HeaderMap, Method, Version};
use axum::response::{IntoResponse as _, Response};
use herald_routes::{Access, ClientAddress, Params, Problem, Scope, StreamAccess, Takeover};

use crate::frame::Format;
use crate::route::{Query, Wanted, given};
use crate::{Shared, raw};
use session::Session;

pub async fn serve(
    State(shared): State<Arc<Shared>>,
    caller: StreamAccess,
    Params(query): Params<Query>,
    address: Option<Extension<ClientAddress>>,
    method: Method,
    version: Version,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let accept = match handshake::accept(&method, version, &headers) {
        Ok(accept) => accept,
        Err(refusal) => return Ok(refusal.into_response()),
    };
    let wanted = wanted(&caller.access, &query, &headers)?;
    let address = address.map(|Extension(ClientAddress(address))| address);
    let session = Session::new(shared.clone(), caller, wanted, address);
    let session = Mutex::new(Some(session));
    let takeover = Takeover::new(move |connection| {
        let session = session
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let budget = shared.hub.budget.clone();
        let send_timeout = shared.config.send_timeout;
        Some(raw::write(connection, session?, budget, send_timeout))
    });
    let mut response = handshake::switch(accept);
    response.extensions_mut().insert(takeover);
    Ok(response)
}

/// What the query subscribes to; `None` where it says nothing, and a message is to come.
fn wanted(access: &Access, query: &Query, headers: &HeaderMap) -> Result<Option<Wanted>, Problem> {
    access.require(Scope::Subscribe)?;
    let said = [
        &access.tenant,
        &query.tenant_id,
        &query.after,
        &query.last_event_id,
        &query.types,
    ];
    if said.iter().all(|text| given(text.as_deref()).is_none()) {
        return Ok(None);
    }
    let wanted = Wanted::read(access, query, headers)?;
    Ok(Some(Wanted {
        format: Format::WebSocket,
        ..wanted
    }))
}
