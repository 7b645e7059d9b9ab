//! Reads the layers, puts one over the other, and decodes what comes of it.

use std::net::SocketAddr;
use std::path::Path as FilePath;
use std::sync::Arc;

use figment::value::{Dict, Map, Value};
use figment::{Figment, Metadata, Profile, Provider};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use super::checks::Checks;
use super::decode::{Decoded, decode};
use super::fault::{At, Faults, Located, Path};
use super::locate::Places;
use super::{Config, Kind, auth, checks, env, file, sink};

/// What is read when no file is named; it may be missing.
pub const DEFAULT_FILE: &str = "config.toml";

/// A sound configuration.
#[derive(Debug, Clone)]
pub struct Loaded {
    pub config: Config,
    /// What the operator should be told.
    pub warnings: Vec<String>,
    places: Arc<Places>,
}

impl Loaded {
    /// Where a value comes from, by its key from the root: `store.url`.
    pub fn origin(&self, key: &str) -> At {
        self.places.origin(&Path::dotted(key))
    }
}

impl Config {
    /// Reads the file at `path`, or `config.toml` if there is one, and lays `env` over it
    /// ([`process_env`](super::process_env)). `kinds` are the sinks that exist.
    ///
    /// # Errors
    /// Every fault there is. Of a file that is not TOML only that is told.
    pub fn load(
        path: Option<&FilePath>,
        env: impl IntoIterator<Item = (String, String)>,
        kinds: &[Kind],
    ) -> Result<Loaded, Faults> {
        let mut places = Places::default();
        let mut faults = Vec::new();
        let mut warnings = Vec::new();
        let mut file = match file::read(path, &mut places, &mut faults)? {
            Some(layer) => layer,
            None => {
                warnings.push(format!(
                    "there is no {DEFAULT_FILE}: running with built-in defaults, and without sinks \
                     unless the environment sets some"
                ));
                Dict::new()
            }
        };
        let env = env::read(env, &mut places, &mut faults);
        let places = Arc::new(places);
        give_way(&mut file, &env);
        let merged = merge(file, env)
            .map_err(|why| Faults::sorted(vec![places.fault(&Path::default(), why)]))?;
        let config = read_config(merged, &places, kinds, &mut faults);
        match config {
            Some(config) if faults.is_empty() => Ok(Loaded {
                config,
                warnings,
                places,
            }),
            _ => Err(Faults::sorted(faults)),
        }
    }
}

/// `K` and `K_file` are two ways to say one thing: where the environment says it in one way, the
/// file's other way gives way.
fn give_way(file: &mut Dict, env: &Dict) {
    for (key, value) in env {
        match key.strip_suffix("_file") {
            Some(direct) => file.remove(direct),
            None => file.remove(&format!("{key}_file")),
        };
        if let (Some(Value::Dict(_, file)), Value::Dict(_, env)) = (file.get_mut(key), value) {
            give_way(file, env);
        }
    }
}

struct Layer(&'static str, Dict);

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.0)
    }

    fn data(&self) -> figment::Result<Map<Profile, Dict>> {
        Ok(Profile::Default.collect(self.1.clone()))
    }
}

fn merge(file: Dict, env: Dict) -> Result<Dict, String> {
    let merged = Figment::from(Layer("file", file)).merge(Layer("environment", env));
    let mut layers = merged.data().map_err(|why| why.to_string())?;
    Ok(layers.remove(&Profile::Default).unwrap_or_default())
}

fn read_config(
    mut root: Dict,
    places: &Arc<Places>,
    kinds: &[Kind],
    faults: &mut Vec<Located>,
) -> Option<Config> {
    let sinks = root.remove("sinks");
    let mut config = read_root(&Value::from(root), places, faults)?;
    match sinks {
        None => {}
        Some(Value::Dict(_, tables)) => {
            for (name, table) in &tables {
                let sink = sink::read(name, table, &config.retry, kinds, places, faults);
                config.sinks.extend(sink.map(|sink| (name.clone(), sink)));
            }
        }
        Some(_) => faults.push(places.fault(&Path::of(["sinks"]), sink::NOT_A_TABLE)),
    }
    Some(config)
}

/// Everything but the sinks.
fn read_root(root: &Value, places: &Places, faults: &mut Vec<Located>) -> Option<Config> {
    let path = Path::default();
    let decoded: Decoded<Config> = decode(root, &path, places, &["sinks"]);
    faults.extend(decoded.judged.located(places));
    let mut config = decoded.value?;
    let mut checks = Checks::new(&decoded.judged, path);
    let (store, broker) = (&mut config.store, &mut config.broker);
    resolve_file(
        root,
        ("store.url", "the URL"),
        &mut store.url,
        store.url_file.as_deref(),
        &mut checks,
    );
    resolve_file(
        root,
        ("broker.url", "the URL"),
        &mut broker.url,
        broker.url_file.as_deref(),
        &mut checks,
    );
    auth::resolve(root, &mut config.auth, &mut checks);
    checks::root(&config, &mut checks);
    faults.extend(checks.located(places));
    Some(config)
}

/// Puts what `KEY_file` holds in the place of `KEY`; `what` says what that is.
pub(super) fn resolve_file(
    root: &Value,
    (key, what): (&str, &str),
    text: &mut String,
    file: Option<&FilePath>,
    checks: &mut Checks<'_>,
) {
    let Some(file) = file else { return };
    let key_file = format!("{key}_file");
    if root.find_ref(key).is_some() {
        checks.fault(
            &key_file,
            format!("`{key}` is set as well; keep one of the two"),
        );
        return;
    }
    let shown = file.display();
    match std::fs::read_to_string(file) {
        Ok(held) if held.trim().is_empty() => {
            checks.fault(&key_file, format!("{shown} is empty; write {what} into it"));
        }
        Ok(held) => held.trim().clone_into(text),
        Err(why) => checks.fault(
            &key_file,
            format!("{shown} cannot be read: {why}; name a readable file"),
        ),
    }
}

/// An address with a message that says how to write one.
pub(super) fn address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SocketAddr, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map_err(|_| {
        D::Error::custom(format!(
            "{text:?} is not an address and a port; write it as \"127.0.0.1:3001\" or \"[::1]:3001\""
        ))
    })
}

pub(super) fn optional_address<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<SocketAddr>, D::Error> {
    address(deserializer).map(Some)
}
