//! Settings from the environment: `HERALD_STORE__URL` is `store.url`.

use std::collections::BTreeMap;

use figment::value::{Dict, Value};

use super::fault::{Located, Path};
use super::locate::Places;

const PREFIX: &str = "HERALD_";
const SEPARATOR: &str = "__";

/// Names that are not settings. `HERALD_CONFIG` is the command line's `--config`. The others are
/// what Kubernetes sets in every pod beside a service that is called "herald".
const NOT_SETTINGS: [&str; 3] = ["HERALD_CONFIG", "HERALD_PORT", "HERALD_SERVICE_HOST"];
const NOT_SETTINGS_BEGIN: [&str; 3] = ["HERALD_TEST_", "HERALD_PORT_", "HERALD_SERVICE_PORT"];

/// This process's variables whose names begin with `HERALD_`.
pub fn process_env() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().filter_map(|(name, value)| {
        let name = name.into_string().ok()?;
        let ours = name.starts_with(PREFIX);
        ours.then(|| (name, value.to_string_lossy().into_owned()))
    })
}

/// The layer that the environment makes. Every value is text: what it is meant to be shows when
/// it is decoded.
pub(super) fn read(
    variables: impl IntoIterator<Item = (String, String)>,
    places: &mut Places,
    faults: &mut Vec<Located>,
) -> Dict {
    let variables: BTreeMap<String, String> = variables.into_iter().collect();
    let mut layer = Dict::new();
    for (name, value) in variables {
        let Some(setting) = setting(&name) else {
            continue;
        };
        let keys: Vec<String> = setting.split(SEPARATOR).map(str::to_lowercase).collect();
        let path = Path::of(keys.iter().map(String::as_str));
        places.env.insert(path.clone(), name);
        if !insert(&mut layer, &keys, Value::from(value)) {
            faults.push(places.fault(
                &path,
                "another variable sets the table around this key; set either the table or its keys",
            ));
        }
    }
    layer
}

fn setting(name: &str) -> Option<&str> {
    let other = NOT_SETTINGS.contains(&name)
        || NOT_SETTINGS_BEGIN
            .iter()
            .any(|begin| name.starts_with(begin));
    name.strip_prefix(PREFIX).filter(|_| !other)
}

fn insert(table: &mut Dict, keys: &[String], value: Value) -> bool {
    match keys {
        [] => false,
        [last] => table.insert(last.clone(), value).is_none(),
        [first, rest @ ..] => {
            let below = table
                .entry(first.clone())
                .or_insert_with(|| Value::from(Dict::new()));
            match below {
                Value::Dict(_, below) => insert(below, rest, value),
                _ => false,
            }
        }
    }
}
