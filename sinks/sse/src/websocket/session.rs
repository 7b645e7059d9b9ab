//! One WebSocket, without its socket: what the client says, and what it gets.
//!
//! ```text
//!                 subscribe                    joined
//! connect ─▶ Waiting ──────────▶ Opening ──────────────────▶ Subscribed
//!               ▲                   ▲                            │
//!               │                   └──── subscribe (another) ───┤
//!               └──────────────────────── unsubscribe ───────────┘
//! all ─▶ Ending ─▶ Ended: the client says so or breaks the rules; its token expires; herald stops;
//!                         the stream ends
//! ```
//!
//! Invariants:
//! 1. What the client says is acted on in its order, each before the next is looked at. While a
//!    subscription is opened nothing more is read, so that what is unread waits in the kernel.
//! 2. Each subscribe is answered, by `subscribed`, an error, or the end of the connection.
//! 3. A change of filters goes on from what has been handed out: all of it was written before
//!    anything that follows, so nothing is lost and nothing comes twice.
//! 4. A client has one place among those that may be connected, whatever it listens to.

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::http::HeaderMap;
use bytes::Bytes;
use herald_contract::Unavailable;
use herald_routes::{Access, Problem, Refusal, Scope, StreamAccess};
use tokio::time::timeout;

use super::close::close;
use super::decoder::{Decoder, Message};
use super::message::{Command, Said, token_expired};
use super::wire::{self, Opcode};
use crate::Shared;
use crate::admission::Admission;
use crate::client::Client;
use crate::frame::{Cause, Format};
use crate::history::Reader;
use crate::lease::Lease;
use crate::raw::Talk;
use crate::route::{Query, Start, Wanted, enter, resolve};

/// Messages that are answered at once, before what is to be said by itself.
const AT_ONCE: usize = 16;

type Later<T> = Pin<Box<dyn Future<Output = T> + Send>>;

pub struct Session {
    shared: Arc<Shared>,
    caller: StreamAccess,
    /// How long it may stay, where there is an end to that.
    lease: Option<Lease>,
    decoder: Decoder,
    /// Whether there may be messages that were read but not looked at.
    unheard: bool,
    state: State,
}

enum State {
    /// For a subscribe; the wait ends with a heartbeat (`false`) or because herald stops.
    Waiting(Admission, Later<bool>),
    Opening(Later<Result<Option<Client>, Unavailable>>),
    Subscribed(Box<Client>),
    /// With a last word.
    Ending(Bytes),
    Ended,
}

impl Session {
    /// A client that wants this, or will say what it wants.
    pub fn new(
        shared: Arc<Shared>,
        caller: StreamAccess,
        wanted: Option<Wanted>,
        address: Option<IpAddr>,
    ) -> Self {
        let tenant = wanted.as_ref().map(|wanted| &wanted.tenant);
        let state = match (shared.door.admit(tenant, address), wanted) {
            (None, _) => send_away(&shared),
            (Some(admission), None) => wait(&shared, admission),
            (Some(admission), Some(wanted)) => open(&shared, wanted, None, admission),
        };
        Self {
            lease: lease(&shared, &caller.access),
            shared,
            caller,
            decoder: Decoder::default(),
            unheard: false,
            state,
        }
    }

    /// Acts on what the client has said, up to a bound, or until there is something to wait for.
    fn listen(&mut self, out: &mut Vec<Bytes>) {
        let mut pong = None;
        for _ in 0..AT_ONCE {
            if !matches!(self.state, State::Waiting(..) | State::Subscribed(_)) {
                break;
            }
            match self.decoder.next() {
                Ok(None) => {
                    self.unheard = false;
                    break;
                }
                Ok(Some(Message::Text(text))) => self.obey(&text, out),
                // Of several the last is enough (RFC 6455 §5.5.3).
                Ok(Some(Message::Ping(payload))) => {
                    pong = Some(wire::frame(Opcode::Pong, &payload));
                }
                Ok(Some(Message::Close(code))) => self.state = State::Ending(close(code, "")),
                Err(fault) => {
                    tracing::debug!(
                        fault = fault.reason,
                        "a client breaks the rules of WebSocket"
                    );
                    self.state = State::Ending(fault.frame());
                }
            }
        }
        out.extend(pong);
    }

    fn obey(&mut self, text: &str, out: &mut Vec<Bytes>) {
        let obeyed = Command::read(text).and_then(|command| match command {
            Command::Subscribe(query) => self.subscribe(&query).map_err(within_subscribe),
            Command::Unsubscribe => {
                self.unsubscribe(out);
                Ok(())
            }
            Command::Renew(token) => self.renew(&token).map(|()| out.push(Said::Renewed.frame())),
        });
        if let Err(problem) = obeyed {
            out.push(Said::error(&problem));
        }
    }

    fn subscribe(&mut self, query: &Query) -> Result<(), Problem> {
        let wanted = Wanted::read(&self.caller.access, query, &HeaderMap::new())?;
        let wanted = Wanted {
            format: Format::WebSocket,
            ..wanted
        };
        let (mut admission, before) = match std::mem::replace(&mut self.state, State::Ended) {
            State::Waiting(admission, _) => (admission, None),
            State::Subscribed(client) => {
                let same = client.topic().tenant == wanted.tenant && wanted.cursors.is_empty();
                let (admission, position) = client.leave();
                (admission, same.then_some(position))
            }
            other => {
                self.state = other;
                return Ok(());
            }
        };
        self.state = match admission.move_to(&wanted.tenant) {
            true => open(&self.shared, wanted, before, admission),
            false => send_away(&self.shared),
        };
        Ok(())
    }

    fn unsubscribe(&mut self, out: &mut Vec<Bytes>) {
        self.state = match std::mem::replace(&mut self.state, State::Ended) {
            State::Subscribed(client) => wait(&self.shared, client.leave().0),
            other => other,
        };
        out.push(Said::Unsubscribed.frame());
    }

    /// Goes on as another token says, which is of the same tenant.
    fn renew(&mut self, token: &str) -> Result<(), Problem> {
        let Some(authority) = &self.caller.authority else {
            return Err(Problem::bad_request("no token is needed here").at("renew"));
        };
        let at = |problem: Problem| problem.at("renew.token");
        let access = authority
            .verify(token)
            .map_err(|refusal| at(refusal.into()))?;
        access.require(Scope::Subscribe).map_err(at)?;
        if access.tenant != self.caller.access.tenant {
            return Err(at(Refusal::Invalid("the token is another tenant's").into()));
        }
        self.lease = lease(&self.shared, &access);
        self.caller.access = access;
        Ok(())
    }

    fn is_over(&self, cx: &mut Context<'_>) -> bool {
        let lease = self.lease.as_ref();
        lease.is_some_and(|lease| lease.term().poll_over(cx).is_ready())
    }

    /// What there is to be said by itself.
    fn poll_state(&mut self, cx: &mut Context<'_>, out: &mut Vec<Bytes>) -> Poll<()> {
        match &mut self.state {
            State::Waiting(_, waiting) => {
                let stops = ready!(waiting.as_mut().poll(cx));
                if stops {
                    self.state = send_away(&self.shared);
                } else {
                    out.push(Format::WebSocket.heartbeat(false));
                    *waiting = until_heartbeat(&self.shared);
                }
            }
            State::Opening(opening) => {
                self.state = match ready!(opening.as_mut().poll(cx)) {
                    Ok(Some(client)) => State::Subscribed(Box::new(client)),
                    Ok(None) => send_away(&self.shared),
                    Err(cause) => {
                        tracing::warn!(%cause, "a client is sent away: its cursor cannot be resolved now");
                        send_away(&self.shared)
                    }
                };
                // The answer comes before anything else is acted on.
                return self.poll_state(cx, out);
            }
            State::Subscribed(client) => {
                if !ready!(client.poll_next(cx, out)) {
                    self.state = State::Ended;
                }
            }
            State::Ending(last) => {
                out.push(std::mem::take(last));
                self.state = State::Ended;
            }
            State::Ended => {}
        }
        Poll::Ready(())
    }
}

impl Talk for Session {
    fn poll_next(&mut self, cx: &mut Context<'_>, out: &mut Vec<Bytes>) -> Poll<bool> {
        loop {
            self.listen(out);
            if self.is_over(cx) && !matches!(self.state, State::Ending(_) | State::Ended) {
                self.state = State::Ending(token_expired());
            }
            let polled = self.poll_state(cx, out);
            if !out.is_empty() {
                return Poll::Ready(true);
            }
            match (&self.state, polled) {
                (State::Ended, _) => return Poll::Ready(false),
                (State::Opening(_), Poll::Pending) => return Poll::Pending,
                (_, Poll::Pending) if !self.unheard => return Poll::Pending,
                _ => {}
            }
        }
    }

    fn queue(&self) -> Option<Arc<Reader>> {
        match &self.state {
            State::Subscribed(client) => client.queue(),
            _ => None,
        }
    }

    fn hears(&self) -> bool {
        let listens = matches!(self.state, State::Waiting(..) | State::Subscribed(_));
        listens && !self.unheard
    }

    fn hear(&mut self, said: &[u8]) {
        self.decoder.push(said);
        self.unheard = true;
    }
}

/// How long a client of this access may stay.
fn lease(shared: &Shared, access: &Access) -> Option<Lease> {
    access.expires_at.map(|until| shared.leases.take(until))
}

fn wait(shared: &Arc<Shared>, admission: Admission) -> State {
    State::Waiting(admission, until_heartbeat(shared))
}

fn until_heartbeat(shared: &Arc<Shared>) -> Later<bool> {
    let shared = shared.clone();
    Box::pin(async move {
        let stops = timeout(shared.config.heartbeat, shared.hub.closed()).await;
        stops.is_ok()
    })
}

/// Opens a subscription, which goes on from `before` where it changes the filters of another.
fn open(shared: &Arc<Shared>, wanted: Wanted, before: Option<i64>, admission: Admission) -> State {
    let shared = shared.clone();
    State::Opening(Box::pin(async move {
        let opened = async {
            let start = match before {
                Some(seq) => Start::After { seq, id: None },
                None => resolve(&shared, &wanted).await?,
            };
            enter(&shared, wanted, start, admission).await
        };
        tokio::select! {
            biased;
            () = shared.hub.closed() => Ok(None),
            opened = opened => opened,
        }
    }))
}

/// Ends a connection whose client is to come back later.
fn send_away(shared: &Shared) -> State {
    State::Ending(Format::WebSocket.farewell(Cause::now(&shared.hub)))
}

/// A fault of what is asked for, as a place in the message.
fn within_subscribe(mut problem: Problem) -> Problem {
    problem.field = problem.field.map(|field| format!("subscribe.{field}"));
    problem
}

#[cfg(test)]
mod tests;
