//! A sink's table: the keys that every sink has, and the rest, which its own crate reads.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use figment::value::{Dict, Value};
use herald_contract::{SinkConfig, TypeFilter, duration};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::checks::Checks;
use super::decode::{Decoded, Judged, decode};
use super::fault::{Located, Path};
use super::locate::Places;
use super::{Breaker, Destination, Ordering, Rate, Retry, checks, redact, tree, words};

/// A kind of sink: its name in `kind = "…"`, and what checks the keys that are its own. For a
/// crate's configuration `T` that is [`check::<T>`](check).
pub type Kind = (&'static str, fn(&Section) -> Vec<Located>);

/// The key of `ordering_key` that stands for the tenant.
pub(super) const TENANT_KEY: &str = "tenantId";

pub(super) const NOT_A_TABLE: &str = "is not a table; write [sinks.NAME] and its keys below";

/// The keys that [`Common`] reads, with `retry`.
const COMMON: [&str; 12] = [
    "kind",
    "types",
    "retry",
    "concurrency",
    "attempt_timeout",
    "enabled",
    "rate",
    "destination",
    "breaker",
    "expires_after",
    "ordering",
    "ordering_key",
];

/// One sink of `config.toml`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SinkTable {
    pub kind: String,
    /// Which types of events it wants.
    #[serde(serialize_with = "filter_as_list")]
    pub types: TypeFilter,
    /// The root's `retry` with the sink's own keys over it.
    pub retry: Retry,
    /// How many deliveries are under way at once.
    pub concurrency: usize,
    /// When an attempt is cut off.
    #[serde(with = "duration")]
    pub attempt_timeout: Duration,
    /// A sink that is not enabled is checked, but not run.
    pub enabled: bool,
    /// Attempts in a time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<Rate>,
    pub destination: Destination,
    pub breaker: Breaker,
    /// How old an event may be when an attempt at a delivery begins.
    #[serde(with = "duration::option", skip_serializing_if = "Option::is_none")]
    pub expires_after: Option<Duration>,
    pub ordering: Ordering,
    /// Where an event's key is: `tenantId`, or a path such as `payload.orderId`.
    pub ordering_key: String,
    /// The keys that only this kind has.
    #[serde(flatten)]
    pub section: Section,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Common {
    kind: String,
    types: Option<Vec<TypePattern>>,
    concurrency: usize,
    #[serde(with = "duration")]
    attempt_timeout: Duration,
    enabled: bool,
    rate: Option<Rate>,
    destination: Destination,
    breaker: Breaker,
    #[serde(with = "duration::option")]
    expires_after: Option<Duration>,
    ordering: Ordering,
    ordering_key: String,
}

impl Default for Common {
    fn default() -> Self {
        Self {
            kind: String::new(),
            types: None,
            concurrency: 32,
            attempt_timeout: Duration::from_secs(30),
            enabled: true,
            rate: None,
            destination: Destination::default(),
            breaker: Breaker::default(),
            expires_after: None,
            ordering: Ordering::None,
            ordering_key: TENANT_KEY.to_owned(),
        }
    }
}

/// One item of `types`, decoded by itself so that a fault names it.
struct TypePattern(String);

impl<'de> Deserialize<'de> for TypePattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        TypeFilter::from_items([text.as_str()]).map_err(|wrong| {
            D::Error::custom(format!(
                "{text:?} {wrong}; write a type such as \"order.created\" or a prefix such as \"order.*\""
            ))
        })?;
        Ok(Self(text))
    }
}

fn filter_as_list<S: Serializer>(filter: &TypeFilter, serializer: S) -> Result<S::Ok, S::Error> {
    let prefixes = filter.prefixes.iter().map(|prefix| format!("{prefix}*"));
    let all = filter.wants_all().then(|| "*".to_owned());
    serializer.collect_seq(filter.exact.iter().cloned().chain(prefixes).chain(all))
}

/// The keys of a sink's table that are its own, not yet decoded.
#[derive(Clone)]
pub struct Section {
    /// `sinks.NAME`.
    path: Path,
    tree: Value,
    places: Arc<Places>,
}

impl Section {
    /// Decodes the sink's own configuration.
    ///
    /// # Errors
    /// Every fault, each with its line and its key from the root.
    pub fn decode<T: SinkConfig>(&self) -> Result<T, Vec<Located>> {
        let decoded: Decoded<T> = decode(&self.tree, &self.path, &self.places, &COMMON);
        let mut found = Judged::default();
        for fault in decoded.value.iter().flat_map(SinkConfig::faults) {
            let path = self.path.concat(&tree::named_in(&self.tree, &fault.key));
            // What was taken out as faulty is not missing.
            if !decoded.judged.at(&path) {
                found.0.push((path, fault.message));
            }
        }
        match decoded.value {
            Some(value) if decoded.judged.0.is_empty() && found.0.is_empty() => Ok(value),
            _ => Err([&decoded.judged, &found]
                .into_iter()
                .flat_map(|judged| judged.located(&self.places))
                .collect()),
        }
    }
}

/// Checks a sink's own configuration.
pub fn check<T: SinkConfig>(section: &Section) -> Vec<Located> {
    section.decode::<T>().err().unwrap_or_default()
}

impl PartialEq for Section {
    fn eq(&self, other: &Self) -> bool {
        self.path == other.path && self.tree == other.tree
    }
}

/// Without the values, some of which are secrets.
impl fmt::Debug for Section {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Section({})", self.path)
    }
}

impl Serialize for Section {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        redact::table(&self.tree, serializer)
    }
}

/// Reads one sink's table, and has its own keys checked by its kind. `None` when it is too
/// broken to check further; then there are faults.
pub(super) fn read(
    name: &str,
    table: &Value,
    root: &Retry,
    kinds: &[Kind],
    places: &Arc<Places>,
    faults: &mut Vec<Located>,
) -> Option<SinkTable> {
    let path = Path::of(["sinks", name]);
    let Some(table) = table.as_dict() else {
        faults.push(places.fault(&path, NOT_A_TABLE));
        return None;
    };
    let is_own = |key: &String| !COMMON.contains(&key.as_str());
    let (own, mut common): (Dict, Dict) = table.clone().into_iter().partition(|(k, _)| is_own(k));
    let retry = overlaid(root, common.remove("retry"));
    let retry: Decoded<Retry> = decode(&retry, &path.key("retry"), places, &[]);
    let common: Decoded<Common> = decode(&Value::from(common), &path, places, &[]);
    let judged = Judged([retry.judged.0, common.judged.0].concat());
    faults.extend(judged.located(places));
    let (retry, common) = (retry.value?, common.value?);

    let section = Section {
        path: path.clone(),
        tree: Value::from(own),
        places: places.clone(),
    };
    if !judged.at(&path.key("kind")) {
        faults.extend(check_kind(&common.kind, kinds, &section));
    }
    let mut checks = Checks::new(&judged, path.clone());
    checks::sink_name(name, &mut checks);
    if common.types.as_ref().is_some_and(Vec::is_empty) && !judged.within(&path.key("types")) {
        let message = "an empty list wants nothing; leave the key out to want every type";
        checks.fault("types", message);
    }
    let types = common.types.iter().flatten().map(|item| item.0.as_str());
    let sink = SinkTable {
        types: TypeFilter::from_items(types).unwrap_or_default(),
        kind: common.kind,
        retry,
        concurrency: common.concurrency,
        attempt_timeout: common.attempt_timeout,
        enabled: common.enabled,
        rate: common.rate,
        destination: common.destination,
        breaker: common.breaker,
        expires_after: common.expires_after,
        ordering: common.ordering,
        ordering_key: common.ordering_key,
        section,
    };
    checks::sink(&sink, table, &mut checks);
    faults.extend(checks.located(places));
    Some(sink)
}

fn check_kind(kind: &str, kinds: &[Kind], section: &Section) -> Vec<Located> {
    if let Some((_, check)) = kinds.iter().find(|(name, _)| *name == kind) {
        return check(section);
    }
    let names: Vec<&str> = kinds.iter().map(|(name, _)| *name).collect();
    let message = match (kind, words::closest(kind, &names)) {
        ("", _) => format!("this key is missing; set one of {}", words::quoted(&names)),
        (_, Some(meant)) => format!("there is no kind {kind:?}; did you mean \"{meant}\"?"),
        (_, None) => format!(
            "there is no kind {kind:?}; there are {}",
            words::quoted(&names)
        ),
    };
    vec![section.places.fault(&section.path.key("kind"), message)]
}

/// The sink's own `retry` over the root's.
fn overlaid(root: &Retry, own: Option<Value>) -> Value {
    let mut table = Value::serialize(root)
        .ok()
        .and_then(Value::into_dict)
        .unwrap_or_default();
    match own {
        None => Value::from(table),
        Some(Value::Dict(_, own)) => {
            table.extend(own);
            Value::from(table)
        }
        // Not a table: decoding says so.
        Some(other) => other,
    }
}
