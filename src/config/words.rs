//! Says in plain words what a decoder found, what would be right, and which key may be meant.

use figment::error::{Actual, Kind};

/// What is wrong with the value at `key`. A value that may be a secret is not repeated.
pub(super) fn explain(kind: &Kind, key: &str, known_besides: &[&str]) -> String {
    match kind {
        Kind::UnknownField(name, known) => {
            let known: Vec<&str> = known.iter().chain(known_besides).copied().collect();
            match (closest(name, &known), known.as_slice()) {
                (Some(meant), _) => format!("there is no such key; did you mean `{meant}`?"),
                (None, []) => "there is no such key; none can be set here".to_owned(),
                (None, known) => {
                    format!("there is no such key; those here are {}", list(known))
                }
            }
        }
        Kind::UnknownVariant(name, known) => match closest(name, known) {
            Some(meant) => format!(
                "{name:?} is none of {}; did you mean \"{meant}\"?",
                quoted(known)
            ),
            None => format!("{name:?} is none of {}", quoted(known)),
        },
        Kind::MissingField(_) => "this key is missing".to_owned(),
        Kind::InvalidType(found, wanted) | Kind::InvalidValue(found, wanted) => {
            let found = if is_secret(key) {
                "what stands here"
            } else {
                &self::found(found)
            };
            format!("{found} does not fit; expected {}", expected(wanted))
        }
        Kind::InvalidLength(length, wanted) => {
            format!("has {length} items; expected {}", expected(wanted))
        }
        Kind::Message(message) => message.clone(),
        other => other.to_string(),
    }
}

/// Whether a key's value is kept out of messages and listings. The path of a secret's file is
/// no secret.
pub(super) fn is_secret(key: &str) -> bool {
    let secret = ["password", "secret", "token", "private_key"];
    !key.ends_with("_file") && secret.iter().any(|word| key.contains(word))
}

fn found(actual: &Actual) -> String {
    match actual {
        Actual::Bool(value) => value.to_string(),
        Actual::Unsigned(value) => value.to_string(),
        Actual::Signed(value) => value.to_string(),
        Actual::Float(value) => value.to_string(),
        Actual::Str(text) => format!("the text {text:?}"),
        Actual::Seq => "a list".to_owned(),
        Actual::Map => "a table".to_owned(),
        other => other.to_string(),
    }
}

/// Serde names Rust's types; these are TOML's.
fn expected(wanted: &str) -> String {
    let plain = match wanted {
        "u8" => "a whole number from 0 to 255",
        "u16" => "a whole number from 0 to 65535",
        "u32" => "a whole number from 0 to 4294967295",
        "u64" | "usize" => "a whole number, 0 or more",
        "i8" | "i16" | "i32" | "i64" | "isize" => "a whole number",
        "f32" | "f64" => "a number",
        "a boolean" => "true or false",
        "a string" => "text in quotes",
        "a sequence" => "a list, as [\"a\", \"b\"]",
        "a map" => "a table",
        wanted if wanted.starts_with("struct ") => "a table",
        wanted => wanted,
    };
    plain.to_owned()
}

pub(super) fn list(names: &[&str]) -> String {
    names
        .iter()
        .map(|n| format!("`{n}`"))
        .collect::<Vec<_>>()
        .join(", ")
}

pub(super) fn quoted(names: &[&str]) -> String {
    names
        .iter()
        .map(|n| format!("\"{n}\""))
        .collect::<Vec<_>>()
        .join(", ")
}

/// The known name that was most likely meant: a third of its letters may differ.
pub(super) fn closest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    let near = known.iter().map(|k| (distance(name, k), *k)).min()?;
    (near.0 <= (near.1.chars().count() / 3).max(1)).then_some(near.1)
}

/// How many letters to insert, delete, replace, or swap with their neighbour (the optimal string
/// alignment distance).
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replaced = above[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut least = replaced.min(above[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                least = least.min(before[j - 2] + 1);
            }
            row.push(least);
        }
        before = std::mem::replace(&mut above, row);
    }
    above[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_finger_finds_the_key_that_was_meant() {
        let known = ["url", "url_file", "max_connections", "timeout"];
        assert_eq!(closest("ulr", &known), Some("url"));
        assert_eq!(closest("max_conections", &known), Some("max_connections"));
        assert_eq!(closest("timout", &known), Some("timeout"));
        assert_eq!(closest("colour", &known), None);
        assert_eq!(closest("x", &[]), None);
    }
}
