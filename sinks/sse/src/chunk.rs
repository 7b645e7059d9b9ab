//! Frames of one stream, one after the other in one buffer, that all of its clients share.

use std::sync::{Arc, OnceLock};

use bytes::{Bytes, BytesMut};

use crate::budget::Budget;
use crate::coding::Coding;
use crate::frame::Format;
use crate::gzip::{self, Sum};

/// Frames are put together up to this size, in bytes; a larger one is a chunk of its own.
pub const SIZE: usize = 64 * 1024;

/// What is compressed at most, in bytes, which takes some milliseconds. Whatever is larger goes as it
/// is, for a worker of the runtime is kept meanwhile, and others wait for it.
const MOST: usize = 256 * 1024;

/// Ends a response in chunks.
pub const LAST: Bytes = Bytes::from_static(b"0\r\n\r\n");

/// The bytes as one chunk of a response (RFC 9112 §7.1).
pub fn chunked(bytes: &[u8]) -> Bytes {
    [size_line(bytes.len()).as_bytes(), bytes, b"\r\n"]
        .concat()
        .into()
}

fn size_line(size: usize) -> String {
    format!("{size:x}\r\n")
}

/// Everything of a stream with `from < seq <= to`.
#[derive(Debug)]
pub struct Chunk {
    pub from: i64,
    pub to: i64,
    /// Events up to here may have been deleted before this was read.
    pub expired: i64,
    /// The frames, between what makes them one chunk of a response where the format has that and
    /// they are not compressed.
    bytes: Bytes,
    /// Where the first frame begins.
    begin: usize,
    /// The `seq` of each frame, and where it ends.
    ends: Box<[(i64, usize)]>,
    /// The same compressed, where the stream is.
    packed: Option<Packed>,
}

/// A chunk's frames as one compressed unit, which is a third of what the frames were one by one. It
/// is made when the first client gets it, by that client's task or wave: not under the lock that
/// all streams share, and not at all where nobody is there to get it.
#[derive(Debug)]
struct Packed {
    budget: Arc<Budget>,
    made: OnceLock<Whole>,
}

/// All frames of a chunk, compressed, as a chunk of a response.
#[derive(Debug)]
struct Whole {
    bytes: Bytes,
    /// Where the blocks begin in it. They end where the last line end begins.
    begin: usize,
    sum: Sum,
}

impl Packed {
    fn whole(&self, frames: &[u8]) -> &Whole {
        self.made.get_or_init(|| {
            let blocks = match frames.len() <= MOST {
                true => gzip::compressed(frames),
                false => gzip::stored(frames),
            };
            Whole {
                bytes: self.budget.charge(chunked(&blocks)),
                begin: size_line(blocks.len()).len(),
                sum: Sum::of(frames),
            }
        })
    }
}

impl Chunk {
    /// Nothing happened up to `to`.
    fn empty(from: i64, to: i64) -> Self {
        Self {
            from,
            to,
            expired: 0,
            bytes: Bytes::new(),
            begin: 0,
            ends: Box::default(),
            packed: None,
        }
    }

    pub fn events(&self) -> usize {
        self.ends.len()
    }

    pub fn size(&self) -> usize {
        self.bytes.len()
    }

    /// Where the frames after `position` begin, and how many they are.
    fn find(&self, position: i64) -> (usize, usize) {
        let skipped = self.ends.partition_point(|(seq, _)| *seq <= position);
        let begin = skipped.checked_sub(1);
        let begin = begin.map_or(self.begin, |last| self.ends[last].1);
        (begin, self.ends.len() - skipped)
    }

    /// Adds the frames after `position` to `out`, as a chunk of a response (RFC 9112 §7.1) if they
    /// are to be `chunked`; how many they are, and of compressed ones the sum.
    pub fn put_after(&self, position: i64, chunked: bool, out: &mut Vec<Bytes>) -> (usize, Sum) {
        let (begin, count) = self.find(position);
        let Some((_, end)) = self.ends.last().filter(|_| count > 0) else {
            return (0, Sum::default());
        };
        if let Some(packed) = &self.packed {
            let sum = self.put_compressed(packed, begin, chunked, out);
            return (count, sum);
        }
        match chunked {
            false => out.push(self.bytes.slice(begin..*end)),
            true if begin == self.begin => out.push(self.bytes.clone()),
            true => {
                out.push(size_line(end - begin).into());
                out.push(self.bytes.slice(begin..));
            }
        }
        (count, Sum::default())
    }

    /// A client that begins within the chunk, which is once in a replay, gets what follows as it
    /// is: that costs the server less than to compress it for one, and is shared too.
    fn put_compressed(
        &self,
        packed: &Packed,
        begin: usize,
        chunked: bool,
        out: &mut Vec<Bytes>,
    ) -> Sum {
        if begin == self.begin {
            let whole = packed.whole(&self.bytes);
            out.push(match chunked {
                true => whole.bytes.clone(),
                false => whole.bytes.slice(whole.begin..whole.bytes.len() - 2),
            });
            return whole.sum;
        }
        let rest = self.bytes.slice(begin..);
        let sum = Sum::of(&rest);
        let pieces = gzip::stored_pieces(rest);
        if chunked {
            out.push(size_line(pieces.iter().map(Bytes::len).sum()).into());
        }
        out.extend(pieces);
        if chunked {
            out.push(Bytes::from_static(b"\r\n"));
        }
        sum
    }
}

/// Makes chunks of frames as they come.
#[derive(Debug)]
pub struct Builder {
    from: i64,
    format: Format,
    coding: Coding,
    frames: Vec<(i64, Bytes)>,
    size: usize,
    chunks: Vec<Chunk>,
}

impl Builder {
    /// The first chunk follows `from`.
    pub fn new(from: i64, format: Format, coding: Coding) -> Self {
        Self {
            from,
            format,
            coding,
            frames: Vec::new(),
            size: 0,
            chunks: Vec::new(),
        }
    }

    pub fn push(&mut self, seq: i64, frame: Bytes, budget: &Arc<Budget>) {
        if self.size + frame.len() > SIZE {
            self.cut(budget);
        }
        self.size += frame.len();
        self.frames.push((seq, frame));
    }

    /// Ends the chunk that is being made, if it has frames.
    fn cut(&mut self, budget: &Arc<Budget>) {
        let frames = std::mem::take(&mut self.frames);
        let size = std::mem::take(&mut self.size);
        let Some(to) = frames.last().map(|(seq, _)| *seq) else {
            return;
        };
        let size_line = match (self.format, self.coding) {
            (Format::Sse | Format::Named, Coding::Identity) => size_line(size),
            (Format::WebSocket, _) | (_, Coding::Gzip) => String::new(),
        };
        let begin = size_line.len();
        let mut end = begin;
        let ends = frames.iter().map(|(seq, frame)| {
            end += frame.len();
            (*seq, end)
        });
        let ends = ends.collect();
        let mut bytes = BytesMut::with_capacity(begin + size + 2);
        bytes.extend_from_slice(size_line.as_bytes());
        for (_, frame) in frames {
            bytes.extend_from_slice(&frame);
        }
        if begin > 0 {
            bytes.extend_from_slice(b"\r\n");
        }
        self.chunks.push(Chunk {
            bytes: budget.charge(bytes.freeze()),
            begin,
            ends,
            packed: (self.coding == Coding::Gzip).then(|| Packed {
                budget: budget.clone(),
                made: OnceLock::new(),
            }),
            ..Chunk::empty(std::mem::replace(&mut self.from, to), to)
        });
    }

    /// The chunks up to the last frame.
    pub fn finish(mut self, budget: &Arc<Budget>) -> Vec<Chunk> {
        self.cut(budget);
        self.chunks
    }

    /// A page of history: at least one chunk, and the last reaches to `to`, though no frame may
    /// follow.
    pub fn finish_page(mut self, to: i64, expired: i64, budget: &Arc<Budget>) -> Vec<Chunk> {
        self.cut(budget);
        match self.chunks.last_mut() {
            Some(last) => last.to = last.to.max(to),
            None => self.chunks.push(Chunk::empty(self.from, to)),
        }
        for chunk in &mut self.chunks {
            chunk.expired = expired;
        }
        self.chunks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_put_together_and_found_again_by_their_place() {
        let budget = Arc::new(Budget::new(1 << 20));
        let mut builder = Builder::new(10, Format::Sse, Coding::Identity);
        for (seq, frame) in [(12, "aa"), (15, "b"), (16, "cccc")] {
            builder.push(seq, Bytes::from_static(frame.as_bytes()), &budget);
        }
        builder.push(20, Bytes::from(vec![b'x'; SIZE]), &budget);
        let chunks = builder.finish_page(30, 7, &budget);
        let stretches: Vec<_> = chunks.iter().map(|c| (c.from, c.to, c.events())).collect();
        assert_eq!(stretches, [(10, 16, 3), (16, 30, 1)]);
        assert!(chunks.iter().all(|chunk| chunk.expired == 7));
        let after = |position, chunked| {
            let mut out = Vec::new();
            let (count, sum) = chunks[0].put_after(position, chunked, &mut out);
            assert!(sum.is_empty());
            (String::from_utf8(out.concat()).expect("text"), count)
        };
        for (position, rest, count) in [(9, "aabcccc", 3), (12, "bcccc", 2), (15, "cccc", 1)] {
            assert_eq!(after(position, false), (rest.to_owned(), count));
            let chunk = format!("{:x}\r\n{rest}\r\n", rest.len());
            assert_eq!(after(position, true), (chunk, count));
        }
        assert_eq!(after(16, true), (String::new(), 0));
        drop(chunks);
        assert_eq!(budget.used(), 0);
        let builder = || Builder::new(3, Format::Sse, Coding::Identity);
        let nothing = builder().finish_page(9, 0, &budget);
        assert_eq!((nothing.len(), nothing[0].from, nothing[0].to), (1, 3, 9));
        assert!(builder().finish(&budget).is_empty());
    }

    #[test]
    fn a_chunk_is_compressed_once_for_all_and_counts_as_long_as_anybody_holds_it() {
        let budget = Arc::new(Budget::new(1 << 20));
        let mut builder = Builder::new(0, Format::Sse, Coding::Gzip);
        let frame = "id: 01JD5Z\ndata: {\"orderId\":7}\n\n".repeat(100);
        for seq in 1..=3 {
            builder.push(seq, frame.clone().into(), &budget);
        }
        let mut chunks = builder.finish(&budget);
        let (chunk, plain) = (chunks.remove(0), frame.len() * 3);
        assert_eq!(budget.used(), plain, "before anybody has it");
        let after = |position, chunked| {
            let mut out = Vec::new();
            let (count, sum) = chunk.put_after(position, chunked, &mut out);
            (out, count, sum)
        };
        let (first, second) = (after(0, true), after(0, true));
        assert_eq!(first.0[0].as_ptr(), second.0[0].as_ptr());
        assert_eq!(budget.used(), plain + first.0[0].len());
        assert!(first.0[0].len() < plain / 10);
        for position in 0..=3 {
            let (pieces, count, sum) = after(position, false);
            let rest = frame.repeat(count);
            assert_eq!(
                (count as i64, sum),
                (3 - position, Sum::of(rest.as_bytes()))
            );
            let blocks = pieces.concat();
            let whole = [&gzip::HEADER, &blocks[..], &gzip::end(sum)].concat();
            let mut text = String::new();
            let mut decoder = flate2::read::GzDecoder::new(&whole[..]);
            std::io::Read::read_to_string(&mut decoder, &mut text).expect("gzip");
            assert_eq!(text, rest);
            let expected = match count {
                0 => Vec::new(),
                _ => chunked(&blocks).to_vec(),
            };
            assert_eq!(after(position, true).0.concat(), expected);
        }
        let mut builder = Builder::new(3, Format::Sse, Coding::Gzip);
        builder.push(4, vec![b'x'; MOST + 1].into(), &budget);
        let large = builder.finish(&budget).remove(0);
        let mut out = Vec::new();
        large.put_after(3, false, &mut out);
        assert!(out[0].len() > MOST, "it would take too long");
        drop((large, out));
        let mut held = first.0;
        drop((chunk, second));
        assert_eq!(budget.used(), held.remove(0).len());
        assert_eq!(budget.used(), 0);
    }
}
