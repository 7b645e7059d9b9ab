//! The sink's table in `config.toml`.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use herald_contract::{Fault, SinkConfig, TypeFilter, duration};
use serde::Deserialize;

use crate::endpoint::PrivateEndpoints;
use crate::message::Messages;
use crate::vapid::{self, VapidKeys};

/// The longest TTL that can be written: RFC 8030 §5.2 counts seconds, RFC 9111 §1.2.2 to 2³¹.
const MAX_TTL: Duration = Duration::from_secs(1 << 31);
const MAX_TIMEOUT: Duration = Duration::from_secs(300);

/// Settings of one Web Push sink.
///
/// ```toml
/// [sinks.push]
/// kind = "web_push"
/// subject = "mailto:ops@example.com"
/// ttl = "24h"
/// urgency = "normal"
/// user = "{{ payload.userId }}"
///
/// [[sinks.push.templates]]
/// types = ["order.*"]
/// title = "Order {{ payload.orderId }}"
/// body = "{{ payload.text }}"
/// url = "/orders/{{ payload.orderId }}"
/// topic = "order-{{ payload.orderId }}"
/// ```
/// Templates see the event as REST shows it: `eventId`, `aggregateId`, `tenantId`, `type`,
/// `payload`, `metadata`, `createdAt`. What an event does not have is empty text.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Whom a push service may write to about this sender: `mailto:` or `https:` (RFC 8292
    /// §2.1). Apple's service refuses addresses at `localhost`, so set it before going public.
    pub subject: String,
    /// The private key, 32 bytes in base64url; wants `vapid_public_key` beside it.
    pub vapid_private_key: Secret,
    /// The public key, 65 bytes in base64url, beside a private key that comes without it.
    pub vapid_public_key: String,
    /// A file with the private key: PKCS#8 in PEM, or base64url with `vapid_public_key` beside
    /// it. It must exist. Without any key, `vapid.key` in the sink's data folder is used and is
    /// made at the first start; processes on several machines must be given one key.
    pub vapid_private_key_file: PathBuf,
    /// How long a push service keeps a message for a browser that is away (RFC 8030 §5.2). Zero
    /// means now or never.
    #[serde(with = "duration")]
    pub ttl: Duration,
    /// How much a message matters to a device that saves power (RFC 8030 §5.3).
    pub urgency: Urgency,
    /// The longest wait for a push service, from connecting to its answer.
    #[serde(with = "duration")]
    pub timeout: Duration,
    /// A template for the user whose browsers are to be pushed to; empty text is nobody. Without
    /// it an event goes to all browsers of its tenant.
    pub user: Option<String>,
    /// Which addresses that are not public may be pushed to; `"none"` where strangers can
    /// subscribe.
    pub private_endpoints: PrivateEndpoints,
    /// What a notification says; the first whose types match. Without one its title is the type
    /// and its body `payload.message`, `payload.text` or the payload itself.
    pub templates: Vec<Template>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            subject: "mailto:herald@localhost".into(),
            vapid_private_key: Secret::default(),
            vapid_public_key: String::new(),
            vapid_private_key_file: PathBuf::new(),
            ttl: Duration::from_secs(24 * 3600),
            urgency: Urgency::default(),
            timeout: Duration::from_secs(10),
            user: None,
            private_endpoints: PrivateEndpoints::default(),
            templates: Vec::new(),
        }
    }
}

/// RFC 8030 §5.3.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Urgency {
    VeryLow,
    Low,
    #[default]
    Normal,
    High,
}

impl Urgency {
    /// As the `Urgency` header says it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::VeryLow => "very-low",
            Self::Low => "low",
            Self::Normal => "normal",
            Self::High => "high",
        }
    }
}

/// What a notification says for some types. An empty field takes its default.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Template {
    /// `["order.*", "user.created"]`; empty is all.
    pub types: Vec<String>,
    pub title: String,
    pub body: String,
    /// What a click opens, relative to the page's origin.
    pub url: String,
    /// Of the messages that wait for a browser, a new one replaces that with the same topic
    /// (RFC 8030 §5.4). Text that cannot be one is hashed into one.
    pub topic: String,
}

/// Text that `Debug` does not show.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() {
            "\"\""
        } else {
            "(hidden)"
        })
    }
}

impl SinkConfig for Config {
    fn faults(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        let mut fault = |key: &str, message: &str| faults.push(Fault::new(key, message));
        let contact = ["mailto:", "https:"]
            .iter()
            .find_map(|scheme| self.subject.strip_prefix(scheme));
        if contact.is_none_or(|rest| rest.is_empty() || rest.contains(char::is_whitespace)) {
            fault(
                "subject",
                "must be a contact as \"mailto:ops@example.com\" or \"https://example.com/contact\"",
            );
        }
        if self.ttl > MAX_TTL {
            fault("ttl", "must be at most 2147483648s");
        }
        if self.timeout.is_zero() || self.timeout > MAX_TIMEOUT {
            fault("timeout", "must be more than 0s and at most 5m");
        }
        let (key, file) = (self.has_key(), self.has_file());
        if key && file {
            fault(
                "vapid_private_key_file",
                "is given beside vapid_private_key; keep one of the two",
            );
        } else if key && self.vapid_public_key.is_empty() {
            fault(
                "vapid_public_key",
                "must be given beside vapid_private_key; `herald vapid` prints both",
            );
        } else if key {
            let private = &self.vapid_private_key.0;
            if let Err(e) = VapidKeys::from_base64(private, &self.vapid_public_key) {
                fault("vapid_private_key", &e);
            }
        } else if !file && !self.vapid_public_key.is_empty() {
            fault(
                "vapid_public_key",
                "is given without its private key; add vapid_private_key or vapid_private_key_file",
            );
        }
        for (index, template) in self.templates.iter().enumerate() {
            if let Err(e) = TypeFilter::from_items(template.types.iter().map(String::as_str)) {
                fault(&format!("templates[{index}].types"), &e.to_string());
            }
        }
        faults.extend(Messages::new(self).err().into_iter().flatten());
        faults
    }
}

impl Config {
    /// The key pair that this configuration names; the default file is made when it is missing.
    ///
    /// # Errors
    /// What is wrong with the keys or their file.
    pub(crate) fn keys(&self, data_dir: &Path) -> Result<VapidKeys, String> {
        if self.has_key() {
            return VapidKeys::from_base64(&self.vapid_private_key.0, &self.vapid_public_key);
        }
        if !self.has_file() {
            return VapidKeys::load_or_create(&data_dir.join("vapid.key"));
        }
        let path = &self.vapid_private_key_file;
        let fault = |e: String| format!("vapid_private_key_file {}: {e}", path.display());
        let text = vapid::read(path).map_err(|e| fault(e.to_string()))?;
        let text = text.trim();
        if text.starts_with("-----") {
            let keys = VapidKeys::from_pem(text).map_err(fault)?;
            let stated = self.vapid_public_key.trim_end_matches('=');
            if !stated.is_empty() && stated != keys.public_base64() {
                return Err(fault("its public key is not vapid_public_key".into()));
            }
            Ok(keys)
        } else if self.vapid_public_key.is_empty() {
            Err(fault("a bare key needs vapid_public_key beside it".into()))
        } else {
            VapidKeys::from_base64(text, &self.vapid_public_key).map_err(fault)
        }
    }

    fn has_key(&self) -> bool {
        !self.vapid_private_key.0.is_empty()
    }

    fn has_file(&self) -> bool {
        !self.vapid_private_key_file.as_os_str().is_empty()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn config(value: serde_json::Value) -> Config {
        serde_json::from_value(value).expect("well-formed")
    }

    #[test]
    fn an_empty_table_is_a_whole_configuration() {
        let config = config(json!({}));
        assert_eq!(config.faults(), []);
        assert_eq!(config.ttl, Duration::from_secs(86_400));
        let unknown = serde_json::from_value::<Config>(json!({"tttl": "1h"}));
        assert!(unknown.is_err(), "a misspelt key");
    }

    #[test]
    fn every_fault_is_named_at_once() {
        let config = config(json!({
            "subject": "ops@example.com",
            "vapid_private_key": "AAAA",
            "ttl": "100years",
            "timeout": "0s",
            "user": "{{ payload.",
            "templates": [
                {"types": ["order.*"], "title": "{% if %}"},
                {"types": ["a b"], "url": "{{ }}"},
            ],
        }));
        let keys: Vec<String> = config.faults().into_iter().map(|f| f.key).collect();
        assert_eq!(
            keys,
            [
                "subject",
                "ttl",
                "timeout",
                "vapid_public_key",
                "templates[1].types",
                "user",
                "templates[0].title",
                "templates[1].url",
            ]
        );
    }

    #[test]
    fn keys_come_from_the_table_a_named_file_or_the_data_folder() {
        let folder = tempfile::tempdir().expect("folder");
        let made = config(json!({})).keys(folder.path()).expect("made");
        assert!(folder.path().join("vapid.key").exists());
        let (private, public) = (made.private_base64(), made.public_base64());

        let bare = folder.path().join("bare.key");
        std::fs::write(&bare, format!("{private}\n")).expect("written");
        let elsewhere = folder.path().join("unused");
        for table in [
            json!({"vapid_private_key": private, "vapid_public_key": public}),
            json!({"vapid_private_key_file": bare, "vapid_public_key": public}),
            json!({"vapid_private_key_file": folder.path().join("vapid.key")}),
        ] {
            let config = config(table);
            assert_eq!(config.faults(), []);
            let keys = config.keys(&elsewhere).expect("read");
            assert_eq!(keys.public_base64(), public);
        }
        assert!(!elsewhere.exists());

        let missing = folder.path().join("missing.key");
        let fault = config(json!({"vapid_private_key_file": missing}))
            .keys(&elsewhere)
            .expect_err("a named file must exist");
        assert!(fault.contains("missing.key"), "{fault}");
    }

    #[test]
    fn the_private_key_does_not_show_in_debug_output() {
        let config = config(json!({"vapid_private_key": "c2VjcmV0"}));
        assert!(!format!("{config:?}").contains("c2VjcmV0"));
    }
}
