//! Reads Redis's answers.

use redis::Value;

/// An entry of the stream.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) seq: i64,
    /// The event's JSON; `None` when the entry is pending and no longer in the stream, or not
    /// herald's.
    pub(super) json: Option<Vec<u8>>,
}

pub(super) fn text(value: Option<&Value>) -> Option<&str> {
    match value? {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok(),
        Value::SimpleString(text) => Some(text),
        _ => None,
    }
}

pub(super) fn int(value: &Value) -> Option<i64> {
    match value {
        Value::Int(number) => Some(*number),
        other => text(Some(other))?.parse().ok(),
    }
}

/// The `seq` of an ID.
pub(super) fn seq(id: Option<&Value>) -> Option<i64> {
    text(id)?.split('-').next()?.parse().ok()
}

/// Numbers by twos.
pub(super) fn ranges(value: &Value) -> Vec<(i64, i64)> {
    let Value::Array(items) = value else {
        return Vec::new();
    };
    items
        .chunks_exact(2)
        .filter_map(|pair| Some((int(&pair[0])?, int(&pair[1])?)))
        .collect()
}

/// The last `seq` in the answer to `XINFO STREAM`.
pub(super) fn last_generated(info: &Value) -> Option<i64> {
    named(info.clone(), "last-generated-id").and_then(|id| seq(Some(&id)))
}

/// The last entry in the answer to `XINFO STREAM`; none when the stream is empty.
pub(super) fn last_entry(info: Value) -> Option<Entry> {
    let last = named(info, "last-entry")?;
    entries(Value::Array(vec![last])).pop()
}

fn named(answer: Value, wanted: &str) -> Option<Value> {
    let mut pairs = pairs(answer).into_iter();
    let found = pairs.find(|(name, _)| text(Some(name)) == Some(wanted));
    found.map(|(_, value)| value)
}

/// The entries in the answer to a read of one stream; none after it blocked in vain.
pub(super) fn stream_entries(answer: Value) -> Vec<Entry> {
    let streams = match answer {
        // Protocol 2: [[key, entries]]; protocol 3: {key: entries}.
        Value::Array(streams) => streams
            .into_iter()
            .filter_map(|stream| match stream {
                Value::Array(mut parts) => parts.pop(),
                _ => None,
            })
            .collect(),
        Value::Map(streams) => streams.into_iter().map(|(_, entries)| entries).collect(),
        _ => Vec::new(),
    };
    streams.into_iter().flat_map(entries).collect()
}

/// `[[id, [field, value]]]`, where the second is nil for an entry that is gone.
pub(super) fn entries(list: Value) -> Vec<Entry> {
    let Value::Array(list) = list else {
        return Vec::new();
    };
    list.into_iter()
        .filter_map(|entry| {
            let Value::Array(parts) = entry else {
                return None;
            };
            let mut parts = parts.into_iter();
            let seq = seq(parts.next().as_ref())?;
            let json = parts.next().and_then(|fields| {
                pairs(fields)
                    .into_iter()
                    .find(|(name, _)| text(Some(name)) == Some("e"))
                    .and_then(|(_, value)| match value {
                        Value::BulkString(bytes) => Some(bytes),
                        _ => None,
                    })
            });
            Some(Entry { seq, json })
        })
        .collect()
}

/// Names and values, by turns or as a map.
fn pairs(value: Value) -> Vec<(Value, Value)> {
    match value {
        Value::Map(pairs) => pairs,
        Value::Array(items) => {
            let mut pairs = Vec::with_capacity(items.len() / 2);
            let mut items = items.into_iter();
            while let (Some(name), Some(value)) = (items.next(), items.next()) {
                pairs.push((name, value));
            }
            pairs
        }
        _ => Vec::new(),
    }
}
