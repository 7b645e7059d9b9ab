//! How long what has happened is kept.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How long what has happened is kept; for ever where nothing is set.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Retention {
    /// Events, with their places in the feed and their rows in the ledger.
    #[serde(with = "keep")]
    pub events: Option<Duration>,
    /// How long a dead letter keeps its event from being deleted.
    #[serde(with = "keep")]
    pub dead: Option<Duration>,
}

/// A duration, or `"forever"`.
mod keep {
    use std::time::Duration;

    use herald_contract::duration;
    use serde::de::value::StrDeserializer;
    use serde::de::{Error as _, IntoDeserializer as _};
    use serde::{Deserialize as _, Deserializer, Serializer};

    const FOREVER: &str = "forever";

    pub fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Duration>, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text == FOREVER {
            return Ok(None);
        }
        let text: StrDeserializer<'_, serde::de::value::Error> = text.as_str().into_deserializer();
        duration::deserialize(text)
            .map(Some)
            .map_err(|why| D::Error::custom(format!("{why}, or \"{FOREVER}\"")))
    }

    pub fn serialize<S: Serializer>(
        limit: &Option<Duration>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match limit {
            Some(limit) => duration::serialize(limit, serializer),
            None => serializer.serialize_str(FOREVER),
        }
    }
}
