//! Frames from herald to a client (RFC 6455 §5.2): whole and unmasked.

use bytes::{BufMut as _, Bytes, BytesMut};

/// What a frame is (RFC 6455 §11.8); binary ones are not understood here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Opcode {
    Continuation = 0x0,
    Text = 0x1,
    Close = 0x8,
    Ping = 0x9,
    Pong = 0xA,
}

/// The frame is its message's last.
pub const FIN: u8 = 0x80;
/// Bits that an extension would use.
pub const RESERVED: u8 = 0x70;
pub const MASKED: u8 = 0x80;
/// The length stands in the two, or the eight, bytes that follow.
pub const TWO_BYTES: u8 = 126;
pub const EIGHT_BYTES: u8 = 127;

/// A sign of life, which the client's WebSocket answers by itself.
pub const PING: Bytes = Bytes::from_static(&[FIN | Opcode::Ping as u8, 0]);

pub fn text(text: &str) -> Bytes {
    frame(Opcode::Text, text.as_bytes())
}

pub fn frame(opcode: Opcode, payload: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(payload.len() + 10);
    out.put_u8(FIN | opcode as u8);
    let length = payload.len();
    if length < usize::from(TWO_BYTES) {
        out.put_u8(length as u8);
    } else if let Ok(length) = u16::try_from(length) {
        out.put_u8(TWO_BYTES);
        out.put_u16(length);
    } else {
        out.put_u8(EIGHT_BYTES);
        out.put_u64(length as u64);
    }
    out.put_slice(payload);
    out.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_takes_as_few_bytes_as_it_can() {
        for (length, head) in [
            (0, &[0x81, 0][..]),
            (125, &[0x81, 125]),
            (126, &[0x81, 126, 0, 126]),
            (65_535, &[0x81, 126, 255, 255]),
            (65_536, &[0x81, 127, 0, 0, 0, 0, 0, 1, 0, 0]),
        ] {
            let payload = "x".repeat(length);
            let frame = text(&payload);
            assert_eq!(frame[..head.len()], *head);
            assert_eq!(frame[head.len()..], *payload.as_bytes());
        }
    }
}
