//! Frames as clients send them, good and bad, in whatever pieces.

use herald_testkit::check_property;
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::websocket::close::Fault;

const MASK: [u8; 4] = [0x37, 0xFA, 0x21, 0x3D];

/// A frame with this first byte.
pub fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![first];
    match payload.len() {
        length if length < 126 => out.push(MASKED | length as u8),
        length if length < 1 << 16 => {
            out.push(MASKED | TWO_BYTES);
            out.extend_from_slice(&(length as u16).to_be_bytes());
        }
        length => {
            out.push(MASKED | EIGHT_BYTES);
            out.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(&MASK);
    let masked = payload.iter().zip(MASK.iter().cycle());
    out.extend(masked.map(|(byte, mask)| byte ^ mask));
    out
}

/// All messages, up to the first fault.
fn decode<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<Message>, Option<Fault>) {
    let mut decoder = Decoder::default();
    let mut messages = Vec::new();
    for piece in pieces {
        decoder.push(piece);
        loop {
            match decoder.next() {
                Ok(Some(message)) => messages.push(message),
                Ok(None) => break,
                Err(fault) => return (messages, Some(fault)),
            }
        }
    }
    (messages, None)
}

fn text(text: &str) -> Message {
    Message::Text(text.to_owned())
}

#[test]
fn the_messages_of_the_rfc_are_understood() {
    // RFC 6455 §5.7: a masked text, and a ping.
    let hello = [
        0x81, 0x85, 0x37, 0xFA, 0x21, 0x3D, 0x7F, 0x9F, 0x4D, 0x51, 0x58,
    ];
    let ping = [
        0x89, 0x85, 0x37, 0xFA, 0x21, 0x3D, 0x7F, 0x9F, 0x4D, 0x51, 0x58,
    ];
    let (messages, fault) = decode([&hello[..], &ping[..]]);
    let expected = [text("Hello"), Message::Ping("Hello".into())];
    assert_eq!((&messages[..], fault), (&expected[..], None));
}

#[test]
fn each_sequence_of_frames_is_the_messages_or_the_close_code_of_the_rfc() {
    let big = "x".repeat(LIMIT);
    let half = "x".repeat(LIMIT / 2);
    let ping = |payload: &[u8]| Message::Ping(Bytes::copy_from_slice(payload));
    type Case<'a> = (&'a str, Vec<Vec<u8>>, Vec<Message>, Option<u16>);
    let cases: Vec<Case> = vec![
        ("nothing", vec![], vec![], None),
        (
            "an empty text",
            vec![frame(0x81, b"")],
            vec![text("")],
            None,
        ),
        (
            "the longest text",
            vec![frame(0x81, big.as_bytes())],
            vec![text(&big)],
            None,
        ),
        (
            "a longer one",
            vec![frame(0x81, format!("{big}x").as_bytes())],
            vec![],
            Some(1009),
        ),
        (
            "a length that nobody has memory for",
            vec![vec![
                0x81, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF,
            ]],
            vec![],
            Some(1009),
        ),
        (
            "a text in pieces, with a ping between them",
            vec![
                frame(0x01, "é".as_bytes()[..1].into()),
                frame(0x89, b"p"),
                frame(0x00, b""),
                frame(0x80, "é".as_bytes()[1..].into()),
            ],
            vec![ping(b"p"), text("é")],
            None,
        ),
        (
            "pieces that are the longest text together",
            vec![frame(0x01, half.as_bytes()), frame(0x80, half.as_bytes())],
            vec![text(&big)],
            None,
        ),
        (
            "pieces that are too long together",
            vec![
                frame(0x01, half.as_bytes()),
                frame(0x00, half.as_bytes()),
                frame(0x80, b"x"),
            ],
            vec![],
            Some(1009),
        ),
        (
            "pongs",
            vec![frame(0x8A, b"any"), frame(0x81, b"a")],
            vec![text("a")],
            None,
        ),
        (
            "the longest ping",
            vec![frame(0x89, &[7; 125])],
            vec![ping(&[7; 125])],
            None,
        ),
        (
            "a longer ping",
            vec![frame(0x89, &[7; 126])],
            vec![],
            Some(1002),
        ),
        (
            "a ping in pieces",
            vec![frame(0x09, b"")],
            vec![],
            Some(1002),
        ),
        (
            "a frame that is not masked",
            vec![vec![0x81, 0x01, b'a']],
            vec![],
            Some(1002),
        ),
        (
            "reserved bit 1",
            vec![frame(0xC1, b"a")],
            vec![],
            Some(1002),
        ),
        (
            "reserved bit 2",
            vec![frame(0xA1, b"a")],
            vec![],
            Some(1002),
        ),
        (
            "reserved bit 3",
            vec![frame(0x91, b"a")],
            vec![],
            Some(1002),
        ),
        ("binary", vec![frame(0x82, b"a")], vec![], Some(1003)),
        (
            "a data frame of no kind",
            vec![frame(0x83, b"a")],
            vec![],
            Some(1002),
        ),
        (
            "a control frame of no kind",
            vec![frame(0x8B, b"a")],
            vec![],
            Some(1002),
        ),
        (
            "a piece of nothing",
            vec![frame(0x80, b"a")],
            vec![],
            Some(1002),
        ),
        (
            "a text within a text",
            vec![frame(0x01, b"a"), frame(0x81, b"b")],
            vec![],
            Some(1002),
        ),
        (
            "text that is none",
            vec![frame(0x81, b"\xC3\x28")],
            vec![],
            Some(1007),
        ),
        (
            "text that ends in a character",
            vec![frame(0x81, b"\xC3")],
            vec![],
            Some(1007),
        ),
        (
            "text with a surrogate",
            vec![frame(0x81, b"\xED\xA0\x80")],
            vec![],
            Some(1007),
        ),
        (
            "an end",
            vec![frame(0x88, b"")],
            vec![Message::Close(None)],
            None,
        ),
        (
            "an end with a code",
            vec![frame(0x88, b"\x03\xE8bye")],
            vec![Message::Close(Some(1000))],
            None,
        ),
        (
            "an end with a code of its own",
            vec![frame(0x88, b"\x0F\xA0")],
            vec![Message::Close(Some(4000))],
            None,
        ),
        (
            "an end with half a code",
            vec![frame(0x88, b"\x03")],
            vec![],
            Some(1002),
        ),
        (
            "an end with a code for nobody to send",
            vec![frame(0x88, b"\x03\xED")],
            vec![],
            Some(1002),
        ),
        (
            "an end with a code that is none",
            vec![frame(0x88, b"\x00\x07")],
            vec![],
            Some(1002),
        ),
        (
            "an end for a reason that is no text",
            vec![frame(0x88, b"\x03\xE8\xFF")],
            vec![],
            Some(1007),
        ),
        (
            "good before bad",
            vec![
                frame(0x81, b"a"),
                frame(0x89, b""),
                frame(0x82, b""),
                frame(0x81, b"b"),
            ],
            vec![text("a"), ping(b"")],
            Some(1003),
        ),
    ];
    for (what, frames, messages, code) in cases {
        let bytes = frames.concat();
        let (read, fault) = decode([&bytes[..]]);
        assert_eq!(read, messages, "{what}");
        assert_eq!(fault.map(|fault| fault.code), code, "{what}");
        let bit_by_bit = decode(bytes.chunks(1));
        assert_eq!(bit_by_bit, (read, fault), "{what}, byte by byte");
    }
}

#[test]
fn nothing_is_kept_between_messages() {
    let mut decoder = Decoder::default();
    decoder.push(&frame(0x81, &[b'x'; 9_000]));
    decoder.push(&frame(0x01, b"begun"));
    decoder.push(&frame(0x80, b""));
    assert!(matches!(decoder.next(), Ok(Some(Message::Text(_)))));
    assert!(matches!(decoder.next(), Ok(Some(Message::Text(_)))));
    assert_eq!(decoder.next(), Ok(None));
    assert_eq!((decoder.input.capacity(), decoder.begun), (0, None));
}

/// Frames, most of them good.
fn frames() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let first = prop_oneof![
        8 => prop::sample::select(vec![0x81, 0x01, 0x80, 0x00, 0x89, 0x8A]),
        1 => any::<u8>(),
    ];
    let payload = prop_oneof![
        6 => "[a-zé]{0,9}".prop_map(String::into_bytes),
        2 => (0..300_usize).prop_map(|length| vec![b'x'; length]),
        1 => vec(any::<u8>(), 0..9),
        1 => (0..2 * LIMIT).prop_map(|length| vec![b'x'; length]),
    ];
    vec(
        (first, payload).prop_map(|(first, payload)| frame(first, &payload)),
        1..8,
    )
}

#[test]
fn wherever_the_bytes_are_cut_they_are_the_same_messages() {
    let case = (
        frames(),
        vec(1..40_usize, 1..20),
        any::<prop::sample::Index>(),
    );
    check_property(2_000, &case, |(frames, sizes, at)| {
        let bytes = frames.concat();
        let whole = decode([&bytes[..]]);
        let (left, right) = bytes.split_at(at.index(bytes.len() + 1));
        prop_assert_eq!(&decode([left, right]), &whole);
        let mut rest = &bytes[..];
        let mut sizes = sizes.iter().cycle();
        let pieces = std::iter::from_fn(|| {
            let size = *sizes.next()?;
            let (piece, after) = rest.split_at(size.min(rest.len()));
            rest = after;
            (!piece.is_empty()).then_some(piece)
        });
        prop_assert_eq!(&decode(pieces), &whole);
        Ok(())
    });
}

#[test]
fn whatever_the_bytes_are_little_is_kept() {
    check_property(2_000, &vec(any::<u8>(), 0..200), |bytes| {
        let mut decoder = Decoder::default();
        for byte in bytes {
            decoder.push(&[byte]);
            while let Ok(Some(_)) = decoder.next() {}
            let begun = decoder.begun.as_ref().map_or(0, Vec::len);
            prop_assert!(begun <= LIMIT && decoder.input.len() <= 200);
        }
        Ok(())
    });
}
