use std::io::Read as _;

use flate2::read::GzDecoder;
use flate2::{Decompress, FlushDecompress};
use herald_testkit::check_property;
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// As a decoder has it that knows nothing of what came before, and sees no end.
fn inflated(blocks: &[u8], most: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(most + 1);
    let mut decoder = Decompress::new(false);
    decoder
        .decompress_vec(blocks, &mut out, FlushDecompress::None)
        .expect("DEFLATE");
    assert_eq!(decoder.total_in(), blocks.len() as u64);
    out
}

/// As a strict decoder has it: it compares CRC and length.
fn gunzipped(stream: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut decoder = GzDecoder::new(stream);
    decoder.read_to_end(&mut out).expect("gzip");
    assert!(decoder.into_inner().is_empty(), "nothing is behind it");
    out
}

#[test]
fn what_was_flushed_is_decoded_from_there_on_and_to_its_last_byte() {
    let texts = [
        "{\"orderId\":7,\"email\":\"ada@example.com\"}\n".repeat(50),
        "x".into(),
    ];
    // The second time, the compressor has had it before.
    for text in [&texts[0], &texts[0], &texts[1], &texts[0]] {
        let blocks = compressed(text.as_bytes());
        assert_eq!(inflated(&blocks, text.len()), text.as_bytes());
    }
    assert!(compressed(texts[0].as_bytes()).len() < texts[0].len() / 10);
}

#[test]
fn what_cannot_be_compressed_becomes_little_longer() {
    let mut text = vec![0; 300_000];
    rand::fill(&mut text[..]);
    let blocks = compressed(&text);
    assert!(
        blocks.len() < text.len() + text.len() / 1000,
        "{}",
        blocks.len()
    );
    assert_eq!(inflated(&blocks, text.len()), text);
}

/// A text of one letter, or one in which every byte is another.
fn text() -> impl Strategy<Value = Vec<u8>> {
    let length = prop_oneof![
        6 => 0..100_usize,
        2 => 65_530..65_541_usize,
        1 => 0..200_000_usize,
    ];
    (length, any::<bool>()).prop_map(|(length, mixed)| {
        let byte = |at: usize| match mixed {
            true => (at.wrapping_mul(0x9e37_79b1) >> 16) as u8,
            false => b'x',
        };
        (0..length).map(byte).collect()
    })
}

#[test]
fn blocks_in_any_order_are_one_stream_whose_sum_is_that_of_all_of_them() {
    check_property(300, &vec((text(), 0..3_u8), 0..6), |parts| {
        let (mut stream, mut all, mut sum) = (HEADER.to_vec(), Vec::new(), Sum::default());
        for (text, how) in parts {
            match how {
                0 => stream.extend_from_slice(&stored(&text)),
                1 => stream.extend_from_slice(&stored_pieces(text.clone().into()).concat()),
                _ => stream.extend_from_slice(&compressed(&text)),
            }
            sum = sum.then(Sum::of(&text));
            all.extend_from_slice(&text);
        }
        prop_assert_eq!(sum, Sum::of(&all));
        prop_assert_eq!(sum.is_empty(), all.is_empty());
        stream.extend_from_slice(&end(sum));
        prop_assert!(gunzipped(&stream) == all);
        Ok(())
    });
}

#[test]
fn a_stream_of_one_text_is_whole() {
    assert_eq!(gunzipped(&whole(b"retry: 2000\n\n")), b"retry: 2000\n\n");
}

#[test]
fn lengths_are_counted_beyond_what_the_trailer_can_hold() {
    let long = Sum {
        crc: 0,
        length: u32::MAX,
    };
    assert_eq!(long.then(Sum::of(b"abc")).length, 2);
}
