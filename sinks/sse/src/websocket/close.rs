//! Why connections end (RFC 6455 §7.4), in a code and a few words for people.

use std::time::Duration;

use bytes::Bytes;

use super::wire::{Opcode, frame};
use crate::frame::Cause;

/// herald stops, and the client is to come back later.
const GOING_AWAY: u16 = 1001;
/// The client has sent what RFC 6455 does not allow.
const PROTOCOL: u16 = 1002;
/// A kind of data that is not understood here.
const UNSUPPORTED: u16 = 1003;
/// Text that is not UTF-8.
const NOT_TEXT: u16 = 1007;
const TOO_BIG: u16 = 1009;
/// Too many clients, not started yet, or the database is away.
const TRY_AGAIN_LATER: u16 = 1013;

/// The client's token has expired: "Unauthorized" in IANA's registry of close codes.
const UNAUTHORIZED: u16 = 3000;

/// What is wrong with what the client sent, so that nothing that follows can be understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    pub code: u16,
    pub reason: &'static str,
}

impl Fault {
    pub const BINARY: Self = Self::new(UNSUPPORTED, "messages are JSON text, not binary");
    pub const NOT_TEXT: Self = Self::new(NOT_TEXT, "text must be UTF-8");
    pub const TOO_BIG: Self = Self::new(TOO_BIG, "a message has at most 16384 bytes");

    const fn new(code: u16, reason: &'static str) -> Self {
        Self { code, reason }
    }

    pub const fn protocol(reason: &'static str) -> Self {
        Self::new(PROTOCOL, reason)
    }

    pub fn frame(self) -> Bytes {
        close(Some(self.code), self.reason)
    }
}

/// A close frame. Without a code it has no reason either.
pub fn close(code: Option<u16>, reason: &str) -> Bytes {
    let mut payload = Vec::new();
    if let Some(code) = code {
        payload.extend_from_slice(&code.to_be_bytes());
        payload.extend_from_slice(reason.as_bytes());
    }
    frame(Opcode::Close, &payload)
}

/// Ends a connection whose client's token has expired.
pub fn token_expired() -> Bytes {
    close(Some(UNAUTHORIZED), "token expired")
}

/// Ends a connection whose client is to come back later.
pub fn come_back(cause: Cause, wait: Duration) -> Bytes {
    let code = match cause {
        Cause::Stops => GOING_AWAY,
        Cause::Busy => TRY_AGAIN_LATER,
    };
    let reason = format!("come back in {} ms", wait.as_millis());
    close(Some(code), &reason)
}

/// The code in what a client says at the end.
///
/// # Errors
/// It is none that may be sent (RFC 6455 §7.4.1, §7.4.2), or the reason is no text.
pub fn read(payload: &[u8]) -> Result<Option<u16>, Fault> {
    let Some((code, reason)) = payload.split_first_chunk() else {
        return match payload {
            [] => Ok(None),
            _ => Err(Fault::protocol("a close code has two bytes")),
        };
    };
    let code = u16::from_be_bytes(*code);
    match code {
        1000..=1003 | 1007..=1014 | 3000..=4999 => {}
        _ => return Err(Fault::protocol("this close code may not be sent")),
    }
    match str::from_utf8(reason) {
        Ok(_) => Ok(Some(code)),
        Err(_) => Err(Fault::NOT_TEXT),
    }
}
