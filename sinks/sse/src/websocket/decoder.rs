//! Messages out of the bytes that a client sends (RFC 6455 §5), however they are cut.
//!
//! What is kept is at most one frame and the message that it goes on with, and nothing between
//! messages.

use bytes::{Buf as _, Bytes, BytesMut};

use super::close::{self, Fault};
use super::wire::{EIGHT_BYTES, FIN, MASKED, Opcode, RESERVED, TWO_BYTES};

/// The longest message, in bytes, all of its frames together.
pub const LIMIT: usize = 16 * 1024;

/// The longest payload of a control frame (RFC 6455 §5.5).
const CONTROL_LIMIT: u64 = 125;

#[derive(Debug, PartialEq, Eq)]
pub enum Message {
    Text(String),
    Ping(Bytes),
    /// The client ends the connection, with this code.
    Close(Option<u16>),
}

#[derive(Debug, Default)]
pub struct Decoder {
    input: BytesMut,
    /// The beginning of a message of which more is to come.
    begun: Option<Vec<u8>>,
}

/// The beginning of a frame, up to its payload.
#[derive(Debug)]
struct Head {
    fin: bool,
    opcode: Opcode,
    mask: [u8; 4],
    /// Its own length.
    width: usize,
    /// Of the payload.
    length: usize,
}

impl Decoder {
    pub fn push(&mut self, bytes: &[u8]) {
        self.input.extend_from_slice(bytes);
    }

    /// The next message that is whole. Pongs are nobody's concern.
    ///
    /// # Errors
    /// There is no going on.
    pub fn next(&mut self) -> Result<Option<Message>, Fault> {
        while let Some(head) = self.head()? {
            if self.input.len() - head.width < head.length {
                return Ok(None);
            }
            self.input.advance(head.width);
            let mut payload = self.input.split_to(head.length);
            for (byte, mask) in payload.iter_mut().zip(head.mask.iter().cycle()) {
                *byte ^= mask;
            }
            if let Some(message) = self.frame(&head, &payload)? {
                return Ok(Some(message));
            }
        }
        if self.input.is_empty() {
            // Most of the time there is nothing, so it should cost nothing.
            self.input = BytesMut::new();
        }
        Ok(None)
    }

    /// The next frame's head, if that is whole.
    fn head(&self) -> Result<Option<Head>, Fault> {
        let mut rest = &self.input[..];
        let Some(first) = take(&mut rest).map(|[first]| first) else {
            return Ok(None);
        };
        let fin = first & FIN != 0;
        let opcode = self.opcode(first)?;
        let Some(second) = take(&mut rest).map(|[second]| second) else {
            return Ok(None);
        };
        if second & MASKED == 0 {
            return Err(Fault::protocol("frames from a client must be masked"));
        }
        let length = match second & !MASKED {
            TWO_BYTES => take(&mut rest).map(|two| u64::from(u16::from_be_bytes(two))),
            EIGHT_BYTES => take(&mut rest).map(u64::from_be_bytes),
            length => Some(u64::from(length)),
        };
        let Some(length) = length else {
            return Ok(None);
        };
        self.check_length(opcode, length)?;
        Ok(take(&mut rest).map(|mask| Head {
            fin,
            opcode,
            mask,
            width: self.input.len() - rest.len(),
            length: length as usize,
        }))
    }

    fn opcode(&self, first: u8) -> Result<Opcode, Fault> {
        if first & RESERVED != 0 {
            return Err(Fault::protocol("no extension was agreed on"));
        }
        let is_control = first & 0x8 != 0;
        if is_control && first & FIN == 0 {
            return Err(Fault::protocol("a control frame may not be fragmented"));
        }
        match (first & 0xF, &self.begun) {
            (0x0, Some(_)) => Ok(Opcode::Continuation),
            (0x0, None) => Err(Fault::protocol("there is no message to go on with")),
            (0x1 | 0x2, Some(_)) => Err(Fault::protocol("the message before is not at its end")),
            (0x1, None) => Ok(Opcode::Text),
            (0x2, None) => Err(Fault::BINARY),
            (0x8, _) => Ok(Opcode::Close),
            (0x9, _) => Ok(Opcode::Ping),
            (0xA, _) => Ok(Opcode::Pong),
            _ => Err(Fault::protocol("there is no such kind of frame")),
        }
    }

    fn check_length(&self, opcode: Opcode, length: u64) -> Result<(), Fault> {
        let begun = self.begun.as_ref().map_or(0, Vec::len);
        let room = (LIMIT - begun) as u64;
        match opcode {
            Opcode::Continuation | Opcode::Text if length > room => Err(Fault::TOO_BIG),
            Opcode::Close | Opcode::Ping | Opcode::Pong if length > CONTROL_LIMIT => {
                Err(Fault::protocol("a control frame has at most 125 bytes"))
            }
            _ => Ok(()),
        }
    }

    fn frame(&mut self, head: &Head, payload: &[u8]) -> Result<Option<Message>, Fault> {
        match head.opcode {
            Opcode::Continuation | Opcode::Text => {
                let mut text = self.begun.take().unwrap_or_default();
                text.extend_from_slice(payload);
                if !head.fin {
                    self.begun = Some(text);
                    return Ok(None);
                }
                let text = String::from_utf8(text).map_err(|_| Fault::NOT_TEXT)?;
                Ok(Some(Message::Text(text)))
            }
            Opcode::Ping => Ok(Some(Message::Ping(Bytes::copy_from_slice(payload)))),
            Opcode::Pong => Ok(None),
            Opcode::Close => close::read(payload).map(|code| Some(Message::Close(code))),
        }
    }
}

/// The next bytes, if there are so many.
fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, after) = rest.split_first_chunk()?;
    *rest = after;
    Some(*taken)
}

#[cfg(test)]
pub mod tests;
