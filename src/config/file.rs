//! Reads the file: its text, its syntax, and the line of every key.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::Path as FilePath;

use figment::value::Dict;
use toml::de::DeTable;

use super::fault::{At, Faults, Located, Path};
use super::load::DEFAULT_FILE;
use super::locate::{Lines, Places, read_table};

/// The file's layer; `None` when the default file does not exist.
pub(super) fn read(
    path: Option<&FilePath>,
    places: &mut Places,
    faults: &mut Vec<Located>,
) -> Result<Option<Dict>, Faults> {
    let file = path.unwrap_or(FilePath::new(DEFAULT_FILE));
    let shown = file.display().to_string();
    let broken = |line, column, message: String| Located {
        at: At::File {
            file: shown.clone(),
            line,
            column,
        },
        key: String::new(),
        message,
    };
    let bytes = match std::fs::read(file) {
        Ok(bytes) => bytes,
        Err(why) if why.kind() == ErrorKind::NotFound && path.is_none() => return Ok(None),
        Err(why) => {
            let message = format!("cannot be read: {why}; name a readable file with --config");
            return Err(Faults(vec![broken(None, None, message)]));
        }
    };
    let text = String::from_utf8(bytes).map_err(|why| {
        let good = &why.as_bytes()[..why.utf8_error().valid_up_to()];
        let line = good.iter().filter(|b| **b == b'\n').count() + 1;
        let message = "this is not UTF-8, which TOML is".to_owned();
        Faults(vec![broken(Some(line), None, message)])
    })?;
    let lines = Lines::new(&text);
    let (table, errors) = DeTable::parse_recoverable(&text);
    if !errors.is_empty() {
        let mut found = BTreeMap::new();
        for error in errors {
            let start = error.span().map_or(0, |span| span.start);
            // What follows on the same line comes of the first.
            found
                .entry(lines.line(start))
                .or_insert_with(|| (lines.column(start), error.message().to_owned()));
        }
        let found = found.into_iter().map(|(line, (column, message))| {
            broken(
                Some(line),
                Some(column),
                format!("this is not TOML: {message}"),
            )
        });
        return Err(Faults(found.collect()));
    }
    places.file = Some(shown.clone());
    let mut unfit = Vec::new();
    let table = table.get_ref();
    let root = read_table(table, &Path::default(), &lines, places, &mut unfit);
    faults.extend(unfit.iter().map(|(path, why)| places.fault(path, why)));
    Ok(root.into_dict())
}
