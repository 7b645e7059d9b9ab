//! How a sink takes its configuration.

use serde::de::DeserializeOwned;

/// One thing wrong with the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The key below the sink's own table, dotted: `smtp.host`. Empty means the table itself.
    pub key: String,
    /// What is wrong and what would be right, in one sentence.
    pub message: String,
}

impl Fault {
    pub fn new(key: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            key: key.into(),
            message: message.into(),
        }
    }
}

/// A sink's table in `config.toml`, without the keys that every sink has (`kind`, `types`,
/// `retry`, `concurrency` …), which the host takes out. The struct says
/// `#[serde(deny_unknown_fields, default)]`, so that a misspelt key is an error.
pub trait SinkConfig: DeserializeOwned {
    /// What serde cannot see: ranges, templates that do not compile, keys that exclude each
    /// other. Every fault at once.
    fn faults(&self) -> Vec<Fault> {
        Vec::new()
    }
}
