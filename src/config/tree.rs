//! Finds a key's value in the tree.

use figment::value::Value;

use super::fault::{Path, Step};

/// Figment's path is text only; the tree tells keys and places in lists apart.
pub(super) fn in_tree(tree: &Value, segments: &[String]) -> Path {
    let mut path = Path::default();
    let mut at = Some(tree);
    for segment in segments {
        let (step, below) = match (at, segment.parse::<usize>()) {
            (Some(Value::Array(_, items)), Ok(index)) => (Step::Index(index), items.get(index)),
            (Some(Value::Dict(_, dict)), _) => (Step::Key(segment.clone()), dict.get(segment)),
            _ => (Step::Key(segment.clone()), None),
        };
        path = path.join(step);
        at = below;
    }
    path
}

pub(super) fn slot<'a>(tree: &'a mut Value, path: &Path) -> Option<&'a mut Value> {
    let mut at = tree;
    for step in &path.0 {
        at = match (at, step) {
            (Value::Dict(_, dict), Step::Key(key)) => dict.get_mut(key)?,
            (Value::Array(_, items), Step::Index(index)) => items.get_mut(*index)?,
            _ => return None,
        };
    }
    Some(at)
}

/// Finds the key that a sink names in a fault, `templates.order.*.to` or
/// `templates."order.*".to`: keys may have dots, the tree tells.
pub(super) fn named_in(tree: &Value, name: &str) -> Path {
    let mut path = Path::default();
    let mut at = Some(tree);
    let mut rest = name;
    while !rest.is_empty() {
        let (step, length) = next_step(at, rest);
        at = match (at, &step) {
            (Some(Value::Dict(_, dict)), Step::Key(key)) => dict.get(key),
            (Some(Value::Array(_, items)), Step::Index(index)) => items.get(*index),
            _ => None,
        };
        path = path.join(step);
        rest = rest[length..].trim_start_matches('.');
    }
    path
}

/// The first step of `rest`, and how much of it that is.
fn next_step(at: Option<&Value>, rest: &str) -> (Step, usize) {
    let ends = |tail: &str| tail.is_empty() || tail.starts_with(['.', '[']);
    if let Some(Value::Dict(_, dict)) = at {
        let written = dict
            .keys()
            .flat_map(|key| [(key, key.clone()), (key, format!("{key:?}"))]);
        let fits = |text: &String| rest.strip_prefix(text.as_str()).is_some_and(ends);
        let longest = written
            .filter(|(_, text)| fits(text))
            .max_by_key(|(_, text)| text.len());
        if let Some((key, text)) = longest {
            return (Step::Key(key.clone()), text.len());
        }
    }
    let mut breaks = rest.match_indices(['.', '[']).map(|(n, _)| n);
    let length = breaks.find(|n| *n > 0).unwrap_or(rest.len());
    let segment = &rest[..length];
    match segment.trim_matches(['[', ']']).parse() {
        Ok(index) if matches!(at, Some(Value::Array(..))) => (Step::Index(index), length),
        _ => (Step::Key(segment.to_owned()), length),
    }
}
