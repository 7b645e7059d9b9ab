//! Cutting text to the room it has within a JSON string.

/// Cuts text so that it takes at most `room` bytes as JSON, and marks the cut with "…".
pub fn shorten(text: &str, room: usize) -> String {
    if json_length(text) <= room {
        return text.to_owned();
    }
    let mut left = room.saturating_sub('…'.len_utf8());
    let kept = text
        .char_indices()
        .find(|&(_, c)| {
            let length = escaped_length(c);
            let full = length > left;
            left = left.saturating_sub(length);
            full
        })
        .map_or(text.len(), |(end, _)| end);
    let mut short = text[..kept].trim_end().to_owned();
    if room >= '…'.len_utf8() {
        short.push('…');
    }
    short
}

/// The bytes that text takes within a JSON string.
pub fn json_length(text: &str) -> usize {
    text.chars().map(escaped_length).sum()
}

/// As serde_json escapes (RFC 8259 §7).
fn escaped_length(c: char) -> usize {
    match c {
        '"' | '\\' | '\n' | '\r' | '\t' | '\u{8}' | '\u{c}' => 2,
        '\0'..='\u{1f}' => 6,
        _ => c.len_utf8(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_length_is_what_serde_json_writes() {
        for text in [
            "",
            "plain",
            "\"\\\n\r\t\u{8}\u{c}",
            "\0\u{1f}\u{7f}",
            "é日🦀",
        ] {
            let written = serde_json::to_string(text).expect("JSON").len() - 2;
            assert_eq!(json_length(text), written, "{text:?}");
        }
    }

    #[test]
    fn text_is_cut_between_characters_and_only_when_it_must_be() {
        for (text, room, expected) in [
            ("hello", 5, "hello"),
            ("hello", 4, "h…"),
            ("日本語", 9, "日本語"),
            ("日本語", 8, "日…"),
            ("a b c", 5, "a b c"),
            ("one two", 6, "one…"),
            ("\n\n\n", 5, "…"),
            ("hello", 3, "…"),
            ("hello", 2, ""),
            ("", 0, ""),
        ] {
            let short = shorten(text, room);
            assert_eq!(short, expected, "{text:?} {room}");
            assert!(json_length(&short) <= room);
        }
    }
}
