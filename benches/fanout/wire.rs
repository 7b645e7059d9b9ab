//! An event stream as it comes over a connection, in whatever pieces: the response's head, then
//! blocks of lines, compressed or not, with or without chunks around them (RFC 9112, section 7.1).
//!
//! ```text
//! Head ──▶ Raw                         (until the connection is closed)
//!   └────▶ Size ──▶ Chunk ──▶ After ──▶ Size … ──▶ End
//! ```

use std::io::Write as _;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use flate2::write::GzDecoder;
use memchr::{memchr, memmem};

use crate::message::Stamp;

/// An event, when its last line has come.
#[derive(Debug, Clone, Copy)]
pub struct Event {
    pub number: u64,
    pub emitted: Duration,
    /// Bytes of all its lines.
    pub bytes: usize,
}

#[derive(Default)]
pub struct Wire {
    stage: Stage,
    decoder: Option<Box<GzDecoder<Vec<u8>>>>,
    /// The head so far, or the beginning of a line whose end has not come.
    unfinished: Vec<u8>,
    block: Block,
    id: Vec<u8>,
    live: bool,
}

#[derive(Default, Clone, Copy)]
enum Stage {
    #[default]
    Head,
    Raw,
    /// In the line with a chunk's size, of which so much is known.
    Size(usize),
    /// So many bytes of a chunk are to come.
    Chunk(usize),
    After,
    End,
}

/// What has come since the last empty line.
#[derive(Default)]
struct Block {
    id: Option<Vec<u8>>,
    comment: bool,
    stamp: Option<Stamp>,
    bytes: usize,
}

impl Wire {
    /// Of a client that comes back with this id.
    pub fn resumed(id: Option<String>) -> Self {
        Self {
            id: id.unwrap_or_default().into_bytes(),
            ..Self::default()
        }
    }

    /// Whether the server has said that it listens to what comes: by an id or a comment without
    /// an event.
    pub fn live(&self) -> bool {
        self.live
    }

    /// The id of the last event or of the place where the stream began.
    pub fn last_id(&self) -> Option<&str> {
        std::str::from_utf8(&self.id)
            .ok()
            .filter(|id| !id.is_empty())
    }

    /// Takes what came, and gives every event that is complete with it.
    pub fn feed(&mut self, mut bytes: &[u8], each: &mut impl FnMut(Event)) -> anyhow::Result<()> {
        while let Some((&first, rest)) = bytes.split_first() {
            match self.stage {
                Stage::Head => bytes = self.head(bytes)?,
                Stage::Raw => {
                    self.body(bytes, each)?;
                    bytes = &[];
                }
                Stage::Size(size) => {
                    self.stage = match first {
                        b'\n' if size == 0 => Stage::End,
                        b'\n' => Stage::Chunk(size),
                        b'\r' => Stage::Size(size),
                        _ => Stage::Size(size * 16 + hexadecimal(first)?),
                    };
                    bytes = rest;
                }
                Stage::Chunk(size) => {
                    let (chunk, rest) = bytes.split_at(size.min(bytes.len()));
                    self.body(chunk, each)?;
                    self.stage = match size - chunk.len() {
                        0 => Stage::After,
                        left => Stage::Chunk(left),
                    };
                    bytes = rest;
                }
                Stage::After => {
                    if first == b'\n' {
                        self.stage = Stage::Size(0);
                    }
                    bytes = rest;
                }
                Stage::End => bytes = &[],
            }
        }
        Ok(())
    }

    /// Reads the head, and gives what comes after it.
    fn head<'a>(&mut self, bytes: &'a [u8]) -> anyhow::Result<&'a [u8]> {
        let before = self.unfinished.len();
        self.unfinished.extend_from_slice(bytes);
        let Some(end) = memmem::find(&self.unfinished, b"\r\n\r\n") else {
            return Ok(&[]);
        };
        let head = String::from_utf8_lossy(&self.unfinished[..end]).to_ascii_lowercase();
        ensure!(head.starts_with("http/1.1 200 "), "{head}");
        self.stage = if head.contains("\r\ntransfer-encoding: chunked") {
            Stage::Size(0)
        } else {
            Stage::Raw
        };
        if head.contains("\r\ncontent-encoding: gzip") {
            self.decoder = Some(Box::new(GzDecoder::new(Vec::new())));
        }
        self.unfinished.clear();
        Ok(&bytes[end + 4 - before..])
    }

    fn body(&mut self, bytes: &[u8], each: &mut impl FnMut(Event)) -> anyhow::Result<()> {
        let Some(decoder) = &mut self.decoder else {
            return self.text(bytes, each);
        };
        decoder.write_all(bytes)?;
        decoder.flush()?;
        let text = std::mem::take(decoder.get_mut());
        self.text(&text, each)
    }

    fn text(&mut self, mut bytes: &[u8], each: &mut impl FnMut(Event)) -> anyhow::Result<()> {
        while let Some(end) = memchr(b'\n', bytes) {
            let line = &bytes[..end];
            if self.unfinished.is_empty() {
                self.line(line, each)?;
            } else {
                let mut whole = std::mem::take(&mut self.unfinished);
                whole.extend_from_slice(line);
                self.line(&whole, each)?;
            }
            bytes = &bytes[end + 1..];
        }
        self.unfinished.extend_from_slice(bytes);
        Ok(())
    }

    fn line(&mut self, line: &[u8], each: &mut impl FnMut(Event)) -> anyhow::Result<()> {
        self.block.bytes += line.len() + 1;
        if line.is_empty() {
            self.end_of_block(each);
        } else if let Some(id) = line.strip_prefix(b"id: ") {
            self.block.id = Some(id.to_vec());
        } else if let Some(data) = line.strip_prefix(b"data: ") {
            ensure!(self.block.stamp.is_none(), "data in two lines");
            self.block.stamp = Some(Stamp::read(data)?);
        } else if line.starts_with(b":") {
            self.block.comment = true;
        } else if !line.starts_with(b"retry: ") {
            bail!("an unexpected line: {}", String::from_utf8_lossy(line));
        }
        Ok(())
    }

    fn end_of_block(&mut self, each: &mut impl FnMut(Event)) {
        let block = std::mem::take(&mut self.block);
        match block.stamp {
            Some(Stamp { number, emitted }) => each(Event {
                number,
                emitted,
                bytes: block.bytes,
            }),
            None => self.live |= block.id.is_some() || block.comment,
        }
        if let Some(id) = block.id {
            self.id = id;
        }
    }
}

fn hexadecimal(digit: u8) -> anyhow::Result<usize> {
    let value = char::from(digit).to_digit(16);
    Ok(value.context("the size of a chunk")? as usize)
}
