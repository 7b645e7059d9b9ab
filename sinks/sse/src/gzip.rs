//! The parts of a compressed stream (gzip, RFC 1952), made so that all clients can share them.
//!
//! ```text
//! header │ block │ block │ … │ end: a last, empty block; CRC-32 and length of all that was coded
//! ```
//!
//! Every block ends on a whole byte and refers to nothing before it (a full flush), so it means the
//! same wherever it stands: it is compressed once, whoever gets it after whatever. A decoder has all
//! of it with its last byte. What is to be known of a client is a [`Sum`], and those of its blocks add
//! up to it.

use std::cell::RefCell;

use bytes::{BufMut as _, Bytes, BytesMut};
use crc32fast::Hasher;
use flate2::{Compress, Compression, FlushCompress};

/// The method is DEFLATE; there is no name, no time, and no word of the system (RFC 1952 §2.3).
pub const HEADER: Bytes = Bytes::from_static(&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff]);

/// An empty block of fixed codes that says it is the last one (RFC 1951 §3.2.3).
const LAST_BLOCK: [u8; 2] = [0x03, 0x00];

/// What a block holds at most that is stored as it is (RFC 1951 §3.2.4).
const STORED: usize = u16::MAX as usize;

/// For full chunks this is nearly as small as it gets, in two thirds of the usual level's time.
const LEVEL: u32 = 3;

/// CRC-32 and length, modulo 2^32, of what was coded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sum {
    crc: u32,
    length: u32,
}

impl Sum {
    pub fn of(text: &[u8]) -> Self {
        Self {
            crc: crc32fast::hash(text),
            length: text.len() as u32,
        }
    }

    pub fn is_empty(self) -> bool {
        self == Self::default()
    }

    /// Of both, one after the other.
    pub fn then(self, next: Self) -> Self {
        let mut all = Hasher::new_with_initial_len(self.crc, self.length.into());
        all.combine(&Hasher::new_with_initial_len(next.crc, next.length.into()));
        Self {
            crc: all.finalize(),
            length: self.length.wrapping_add(next.length),
        }
    }
}

/// Ends a stream that holds this.
pub fn end(all: Sum) -> Bytes {
    let mut out = BytesMut::with_capacity(LAST_BLOCK.len() + 8);
    out.put_slice(&LAST_BLOCK);
    out.put_u32_le(all.crc);
    out.put_u32_le(all.length);
    out.freeze()
}

/// A stream of this alone.
pub fn whole(text: &[u8]) -> Bytes {
    [&HEADER[..], &stored(text), &end(Sum::of(text))]
        .concat()
        .into()
}

/// The text in blocks that hold it as it is: for few words, which would not become fewer.
pub fn stored(text: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(text.len() + 8);
    for part in text.chunks(STORED) {
        out.put_slice(&stored_head(part.len()));
        out.put_slice(part);
    }
    out.freeze()
}

/// The same, in pieces that share the text.
pub fn stored_pieces(mut text: Bytes) -> Vec<Bytes> {
    let mut pieces = Vec::with_capacity(2);
    while !text.is_empty() {
        let part = text.split_to(text.len().min(STORED));
        pieces.push(Bytes::copy_from_slice(&stored_head(part.len())));
        pieces.push(part);
    }
    pieces
}

/// `length` is [`STORED`] at most.
fn stored_head(length: usize) -> [u8; 5] {
    let length = length as u16;
    let ([a, b], [not_a, not_b]) = (length.to_le_bytes(), (!length).to_le_bytes());
    [0, a, b, not_a, not_b]
}

/// The text in compressed blocks.
pub fn compressed(text: &[u8]) -> Bytes {
    thread_local! {
        // It is some 300 KB, which are not to be had anew for each event. A flush leaves it as it
        // began.
        static COMPRESSOR: RefCell<Option<Compress>> = const { RefCell::new(None) };
    }
    COMPRESSOR.with_borrow_mut(|kept| {
        let compressor = kept.get_or_insert_with(|| Compress::new(Compression::new(LEVEL), false));
        match flushed(compressor, text) {
            Some(blocks) => blocks,
            None => {
                *kept = None;
                stored(text)
            }
        }
    })
}

/// `None` when the compressor does not do as it should.
fn flushed(compressor: &mut Compress, text: &[u8]) -> Option<Bytes> {
    let mut out = Vec::with_capacity(text.len() + text.len() / 8 + 64);
    let begin = compressor.total_in();
    loop {
        let done = usize::try_from(compressor.total_in() - begin).ok()?;
        let before = out.len();
        let flush = FlushCompress::Full;
        compressor
            .compress_vec(&text[done..], &mut out, flush)
            .ok()?;
        let done = usize::try_from(compressor.total_in() - begin).ok()?;
        // While there is no room left, there may be more to come.
        if out.len() < out.capacity() {
            return (done == text.len()).then(|| out.into());
        }
        if out.len() == before {
            return None;
        }
        out.reserve(text.len() / 8 + 64);
    }
}

#[cfg(test)]
mod tests;
