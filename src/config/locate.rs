//! Where each key was written: the file's lines by the spans of its parser, the environment by
//! name.

use std::collections::BTreeMap;

use figment::value::Value;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::fault::{At, Located, Path, Step};

/// Every key's place.
#[derive(Debug, Clone, Default)]
pub(super) struct Places {
    /// As it is shown in messages; `None` when there is none.
    pub file: Option<String>,
    pub lines: BTreeMap<Path, usize>,
    /// The variables that set something, by what they set.
    pub env: BTreeMap<Path, String>,
}

impl Places {
    pub fn fault(&self, path: &Path, message: impl Into<String>) -> Located {
        Located {
            at: self.find(path),
            key: path.to_string(),
            message: message.into(),
        }
    }

    /// The key itself or, for one that is not there, the closest table around it that is.
    pub fn find(&self, path: &Path) -> At {
        for length in (1..=path.0.len()).rev() {
            let above = Path(path.0[..length].to_vec());
            if let Some(name) = self.env.get(&above) {
                return At::Env(name.clone());
            }
            if let (Some(file), Some(line)) = (&self.file, self.lines.get(&above)) {
                return At::File {
                    file: file.clone(),
                    line: Some(*line),
                    column: None,
                };
            }
            // A table that only the environment has.
            let inside = self.env.range(above.clone()..).next();
            if let Some((_, name)) = inside.filter(|(set, _)| set.starts_with(&above)) {
                return At::Env(name.clone());
            }
        }
        match &self.file {
            Some(file) => At::File {
                file: file.clone(),
                line: None,
                column: None,
            },
            None => At::Default,
        }
    }

    /// Where exactly this key, or something in it, was set; [`At::Default`] when nowhere.
    pub fn origin(&self, path: &Path) -> At {
        let known = self.env.keys().chain(self.lines.keys());
        if known.into_iter().any(|set| set.starts_with(path)) {
            self.find(path)
        } else {
            At::Default
        }
    }
}

/// Turns byte offsets into lines and columns, both from 1.
pub(super) struct Lines<'a> {
    text: &'a str,
    starts: Vec<usize>,
}

impl<'a> Lines<'a> {
    pub fn new(text: &'a str) -> Self {
        let breaks = text.bytes().enumerate().filter(|(_, b)| *b == b'\n');
        let starts = std::iter::once(0).chain(breaks.map(|(at, _)| at + 1));
        Self {
            text,
            starts: starts.collect(),
        }
    }

    pub fn line(&self, offset: usize) -> usize {
        self.starts.partition_point(|start| *start <= offset)
    }

    /// In characters.
    pub fn column(&self, offset: usize) -> usize {
        let start = self.starts[self.line(offset) - 1];
        self.text
            .get(start..offset)
            .map_or(0, |s| s.chars().count())
            + 1
    }
}

/// Notes the line of every key and list item, and returns the table as a plain value. A number
/// that does not fit is noted as a fault and left out.
pub(super) fn read_table(
    table: &DeTable<'_>,
    at: &Path,
    lines: &Lines<'_>,
    places: &mut Places,
    faults: &mut Vec<(Path, String)>,
) -> Value {
    let mut dict = BTreeMap::new();
    for (key, value) in table {
        let path = at.key(key.get_ref());
        places
            .lines
            .insert(path.clone(), lines.line(key.span().start));
        if let Some(value) = read_value(value, &path, lines, places, faults) {
            dict.insert(key.get_ref().to_string(), value);
        }
    }
    Value::from(dict)
}

fn read_value(
    value: &Spanned<DeValue<'_>>,
    path: &Path,
    lines: &Lines<'_>,
    places: &mut Places,
    faults: &mut Vec<(Path, String)>,
) -> Option<Value> {
    Some(match value.get_ref() {
        DeValue::Table(table) => read_table(table, path, lines, places, faults),
        DeValue::Array(array) => {
            let mut items = Vec::new();
            for (index, item) in array.iter().enumerate() {
                let path = path.join(Step::Index(index));
                places
                    .lines
                    .insert(path.clone(), lines.line(item.span().start));
                items.extend(read_value(item, &path, lines, places, faults));
            }
            Value::from(items)
        }
        scalar => {
            let read = read_scalar(scalar);
            if read.is_none() {
                let why = "this number is too large; a whole number has 64 bits at most";
                faults.push((path.clone(), why.to_owned()));
            }
            return read;
        }
    })
}

/// A value that is neither list nor table; `None` for a number that does not fit.
fn read_scalar(value: &DeValue<'_>) -> Option<Value> {
    Some(match value {
        DeValue::String(text) => Value::from(text.as_ref()),
        DeValue::Integer(number) => {
            Value::from(i64::from_str_radix(number.as_str(), number.radix()).ok()?)
        }
        DeValue::Float(number) => Value::from(number.as_str().parse::<f64>().ok()?),
        DeValue::Boolean(boolean) => Value::from(*boolean),
        DeValue::Datetime(moment) => Value::from(moment.to_string()),
        DeValue::Array(_) | DeValue::Table(_) => return None,
    })
}

/// Reads one TOML value, such as `8`, `true` or `["a", "b"]`.
pub(super) fn parse_value(text: &str) -> Option<Value> {
    let value = DeValue::parse(text).ok()?;
    let (mut places, mut faults) = (Places::default(), Vec::new());
    let lines = Lines::new(text);
    read_value(&value, &Path::default(), &lines, &mut places, &mut faults)
        .filter(|_| faults.is_empty())
}
