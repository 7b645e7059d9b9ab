//! Keeps secrets out of listings and logs.

use figment::value::Value;
use serde::ser::SerializeMap;
use serde::{Serialize as _, Serializer};

use super::words::is_secret;

pub(super) const HIDDEN: &str = "***";

/// The URL with its password hidden.
pub fn redacted(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return url.to_owned();
    };
    // The authority ends at the first of these; a password that has one raw hides more.
    let end = rest.rfind('@').unwrap_or(0);
    match rest[..end].split_once(':') {
        Some((user, _)) => format!("{scheme}://{user}:{HIDDEN}{}", &rest[end..]),
        None => hide_query_password(url),
    }
}

/// Drivers take `?password=` as well.
fn hide_query_password(url: &str) -> String {
    let Some((before, query)) = url.split_once('?') else {
        return url.to_owned();
    };
    let shown = query.split('&').map(|pair| match pair.split_once('=') {
        Some((key, _)) if is_secret(key) => format!("{key}={HIDDEN}"),
        _ => pair.to_owned(),
    });
    format!("{before}?{}", shown.collect::<Vec<_>>().join("&"))
}

pub(super) fn url<S: Serializer>(url: &str, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&redacted(url))
}

/// A secret, of which only is told whether it is set.
pub(super) fn secret<S: Serializer>(
    secret: &Option<String>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    secret.as_ref().map(|_| HIDDEN).serialize(serializer)
}

/// A sink's own keys, with those hidden that are named like secrets.
pub(super) fn table<S: Serializer>(tree: &Value, serializer: S) -> Result<S::Ok, S::Error> {
    let entries = tree.as_dict().into_iter().flatten();
    let mut map = serializer.serialize_map(None)?;
    for (key, value) in entries {
        map.serialize_entry(key, &hidden(key, value))?;
    }
    map.end()
}

fn hidden(key: &str, value: &Value) -> Value {
    match value {
        Value::Dict(_, table) => {
            let shown = table
                .iter()
                .map(|(key, value)| (key.clone(), hidden(key, value)));
            Value::from(shown.collect::<figment::value::Dict>())
        }
        Value::Array(_, items) => Value::from(
            items
                .iter()
                .map(|item| hidden(key, item))
                .collect::<Vec<_>>(),
        ),
        _ if is_secret(key) => Value::from(HIDDEN),
        Value::String(_, text) => Value::from(redacted(text)),
        other => other.clone(),
    }
}
