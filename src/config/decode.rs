//! Decodes a table and finds *every* fault in it.
//!
//! Serde stops at the first error. So each one is noted, its key taken out of the tree, and the
//! rest decoded again. A key that is missing, or was taken out and may not be missing, gets a
//! stand-in. Every round takes a key out or puts something in its place, so that it ends.

use std::collections::BTreeMap;

use figment::error::{Error, Kind};
use figment::value::Value;
use serde::de::DeserializeOwned;

use super::fault::{Located, Path, Step};
use super::locate::{Places, parse_value};
use super::tree::{in_tree, slot};
use super::words;

/// More faults than anyone reads at once.
const MAX_ROUNDS: usize = 1_000;

/// What came of decoding.
pub(super) struct Decoded<T> {
    /// As good as it gets: where there are faults, keys are missing from it. `None` when nothing
    /// fits.
    pub value: Option<T>,
    pub judged: Judged,
}

/// The faults of decoding, with the paths from the root.
#[derive(Default)]
pub(super) struct Judged(pub Vec<(Path, String)>);

impl Judged {
    /// Whether this key, or one around it, has a fault already, so that another check of it
    /// would judge what is not there.
    pub fn at(&self, path: &Path) -> bool {
        self.0.iter().any(|(bad, _)| path.starts_with(bad))
    }

    /// Whether something in this key has a fault.
    pub fn within(&self, path: &Path) -> bool {
        self.0.iter().any(|(bad, _)| bad.starts_with(path))
    }

    pub fn located(&self, places: &Places) -> impl Iterator<Item = Located> {
        self.0.iter().map(|(path, why)| places.fault(path, why))
    }
}

/// Decodes the table that stands at `base`. `besides` are keys of this table which somebody
/// else reads; they are offered in place of misspelt ones.
pub(super) fn decode<T: DeserializeOwned>(
    tree: &Value,
    base: &Path,
    places: &Places,
    besides: &[&str],
) -> Decoded<T> {
    let mut search = Search {
        tree: tree.clone(),
        base,
        places,
        besides,
        judged: Judged::default(),
        removed: Vec::new(),
        stand_ins: BTreeMap::new(),
        reread: BTreeMap::new(),
    };
    for _ in 0..MAX_ROUNDS {
        match T::deserialize(&search.tree) {
            Ok(value) => {
                return Decoded {
                    value: Some(value),
                    judged: search.judged,
                };
            }
            Err(error) => {
                if !search.go_on(error) {
                    break;
                }
            }
        }
    }
    Decoded {
        value: None,
        judged: search.judged,
    }
}

struct Search<'a> {
    tree: Value,
    base: &'a Path,
    places: &'a Places,
    besides: &'a [&'a str],
    judged: Judged,
    /// List items taken out, by their place in the list as written.
    removed: Vec<(Path, usize)>,
    /// Which stand-in a missing key has now.
    stand_ins: BTreeMap<Path, usize>,
    /// Values from the environment that were no good as text, with what was said of the text.
    reread: BTreeMap<Path, Kind>,
}

impl Search<'_> {
    /// Notes the error and changes the tree so that the next one shows; false when there is no
    /// way on.
    fn go_on(&mut self, error: Error) -> bool {
        let mut now = in_tree(&self.tree, &error.path);
        match &error.kind {
            Kind::MissingField(name) => {
                now = now.key(name);
                let path = self.as_written(&now);
                if !self.judged.at(&path) {
                    self.note(path, &error.kind);
                }
                return self.stand_in(&now, &error.kind);
            }
            // Inside a tagged enum the path stops early, but the error has the key's name.
            Kind::UnknownField(name, _) if now.last_key() != Some(name) => now = now.key(name),
            _ => {}
        }
        let path = self.as_written(&now);
        if let Some(depth) = self.stand_in_around(&path) {
            now.0.truncate(depth);
            return self.stand_in(&now, &error.kind);
        }
        if self.read_again(&now, &path, &error.kind) {
            return true;
        }
        let kind = match self.reread.remove(&path) {
            Some(first) if !matches!(first, Kind::InvalidType(..)) => first,
            _ => error.kind,
        };
        while !now.0.is_empty() && slot(&mut self.tree, &now).is_none() {
            now.0.pop();
        }
        let path = match kind {
            Kind::UnknownField(..) => path,
            _ => self.as_written(&now),
        };
        self.note(path, &kind);
        self.remove(&now)
    }

    fn note(&mut self, path: Path, kind: &Kind) {
        let top = path.0.len() == self.base.0.len() + 1;
        let besides = if top { self.besides } else { &[] };
        let mut message = words::explain(kind, path.last_key().unwrap_or_default(), besides);
        let whole_table =
            matches!(kind, Kind::InvalidType(_, wanted) if wanted.starts_with("struct "));
        if let Some(name) = self.places.env.get(&path).filter(|_| whole_table) {
            message.push_str(&format!(": set {name}__KEY for each key in it"));
        }
        self.judged.0.push((path, message));
    }

    /// The path from the root with list items counted as they were written.
    fn as_written(&self, now: &Path) -> Path {
        let mut path = self.base.clone();
        for step in &now.0 {
            let step = match step {
                Step::Key(key) => Step::Key(key.clone()),
                Step::Index(index) => {
                    let gone = self.removed.iter().filter(|(list, _)| *list == path);
                    let mut gone: Vec<usize> = gone.map(|(_, index)| *index).collect();
                    gone.sort_unstable();
                    Step::Index(gone.iter().fold(*index, |at, g| at + usize::from(*g <= at)))
                }
            };
            path = path.join(step);
        }
        path
    }

    /// The environment has only text. Where that does not fit it is read as a TOML value, so
    /// that `00123` stays text for a password and `8` is a number for a port.
    fn read_again(&mut self, now: &Path, path: &Path, kind: &Kind) -> bool {
        if self.reread.contains_key(path) || !self.places.env.contains_key(path) {
            return false;
        }
        let Some(Value::String(_, text)) = slot(&mut self.tree, now) else {
            return false;
        };
        let Some(value) = parse_value(text) else {
            return false;
        };
        if let Some(slot) = slot(&mut self.tree, now) {
            *slot = value;
        }
        self.reread.insert(path.clone(), kind.clone());
        true
    }

    fn remove(&mut self, now: &Path) -> bool {
        let written = self.as_written(now);
        let Some((last, above)) = now.0.split_last() else {
            return false;
        };
        match (slot(&mut self.tree, &Path(above.to_vec())), last) {
            (Some(Value::Dict(_, dict)), Step::Key(key)) => dict.remove(key).is_some(),
            (Some(Value::Array(_, items)), Step::Index(index)) if *index < items.len() => {
                items.remove(*index);
                if let Some((Step::Index(index), list)) = written.0.split_last() {
                    self.removed.push((Path(list.to_vec()), *index));
                }
                true
            }
            _ => false,
        }
    }

    /// How deep below `base` the closest stand-in on the way to `path` is.
    fn stand_in_around(&self, path: &Path) -> Option<usize> {
        let around = self.stand_ins.keys().filter(|at| path.starts_with(at));
        let deepest = around.map(|at| at.0.len()).max()?;
        Some(deepest - self.base.0.len())
    }

    /// Gives a missing key the next value that may fit its unknown type.
    fn stand_in(&mut self, now: &Path, kind: &Kind) -> bool {
        let values = [
            Value::from(""),
            Value::from("1s"),
            Value::from(1),
            Value::from(true),
            Value::from(Vec::<Value>::new()),
            Value::from(BTreeMap::<String, Value>::new()),
        ];
        let tried = self.stand_ins.entry(self.as_written(now)).or_default();
        let value = match (kind, values.get(*tried)) {
            (_, None) => return false,
            (Kind::UnknownVariant(_, [first, ..]), _) => Value::from(*first),
            (_, Some(value)) => value.clone(),
        };
        *tried += 1;
        let Some((Step::Key(key), above)) = now.0.split_last() else {
            return false;
        };
        match slot(&mut self.tree, &Path(above.to_vec())) {
            Some(Value::Dict(_, dict)) => {
                dict.insert(key.clone(), value);
                true
            }
            _ => false,
        }
    }
}
