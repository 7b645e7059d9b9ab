//! The sink's table in `config.toml`.

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use herald_contract::{Fault, SinkConfig, TypeFilter, duration};
use lettre::message::Mailbox;
use serde::Deserialize;

use crate::template::Templates;

const MAX_TIMEOUT: Duration = Duration::from_secs(600);
const MAX_POOL: u32 = 256;
const MAX_KEEP: u32 = 100_000;

/// Settings of one email sink.
///
/// ```toml
/// [sinks.email]
/// kind = "email"
/// transport = "smtp"
/// from = "Shop <shop@example.com>"
///
/// [sinks.email.smtp]
/// host = "smtp.example.com"
/// security = "starttls"
/// username = "shop"
/// password_file = "/run/secrets/smtp"
///
/// [[sinks.email.templates]]
/// types = ["order.*"]
/// to = "{{ payload.email }}"
/// subject = "Order {{ payload.orderId }}"
/// text = "Thank you for order {{ payload.orderId }}."
/// html = "<p>Thank you for order {{ payload.orderId }}.</p>"
/// ```
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where mails go.
    pub transport: Transport,
    /// The sender, as `herald <herald@example.com>` or a bare address. Its domain also ends every
    /// `Message-ID`.
    pub from: String,
    /// For `transport = "mailbox"`.
    pub mailbox: MailboxConfig,
    /// For `transport = "smtp"`.
    pub smtp: SmtpConfig,
    /// What mails say; the first whose types match. An event that none matches has no
    /// recipients. Without any template, an event goes to `payload.email` or `payload.to`.
    pub templates: Vec<Template>,
}

/// Where mails go.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// Files in the sink's data folder, shown at `/mailbox`.
    #[default]
    Mailbox,
    /// A mail server.
    Smtp,
}

/// Settings of the built-in mailbox.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MailboxConfig {
    /// How many mails are kept; the oldest go first, up to a tenth later than that.
    pub keep: u32,
}

/// Settings of the mail server.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SmtpConfig {
    /// A name, which its certificate must bear, or an address.
    pub host: String,
    /// Without it: 587 for `starttls`, 465 for `tls`, 25 for `none`.
    pub port: Option<u16>,
    pub security: Security,
    /// Empty is no authentication.
    pub username: String,
    pub password: Secret,
    /// A file with the password; line breaks at its end are left out.
    pub password_file: PathBuf,
    /// The longest that one attempt may take, from connecting to the server's answer.
    #[serde(with = "duration")]
    pub timeout: Duration,
    /// The most connections at once, and so the most mails under way.
    pub pool: u32,
}

/// How the way to the mail server is protected.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Security {
    /// TLS after `STARTTLS` (RFC 3207), and no mail without it.
    #[default]
    Starttls,
    /// TLS from the first byte (RFC 8314 §3.3).
    Tls,
    /// None at all; on this machine only.
    None,
}

/// What a mail says for some types. Templates see the event as REST shows it: `eventId`,
/// `aggregateId`, `tenantId`, `type`, `payload`, `metadata`, `createdAt`. What an event does not
/// have is empty text.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Template {
    /// `["order.*", "user.created"]`; empty is all.
    pub types: Vec<String>,
    /// Addresses, separated by commas. Empty text is nobody. Without it: `payload.email`, or
    /// `payload.to`.
    pub to: Option<String>,
    /// Without it: the type.
    pub subject: Option<String>,
    pub text: Option<String>,
    /// Escapes what it inserts.
    pub html: Option<String>,
    /// A file with the template for `text`.
    pub text_file: Option<PathBuf>,
    /// A file with the template for `html`.
    pub html_file: Option<PathBuf>,
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

impl Default for Config {
    fn default() -> Self {
        Self {
            transport: Transport::default(),
            from: "herald <herald@localhost>".into(),
            mailbox: MailboxConfig::default(),
            smtp: SmtpConfig::default(),
            templates: Vec::new(),
        }
    }
}

impl Default for MailboxConfig {
    fn default() -> Self {
        Self { keep: 1000 }
    }
}

impl Default for SmtpConfig {
    fn default() -> Self {
        Self {
            host: String::new(),
            port: None,
            security: Security::default(),
            username: String::new(),
            password: Secret::default(),
            password_file: PathBuf::new(),
            timeout: Duration::from_secs(10),
            pool: 8,
        }
    }
}

impl SinkConfig for Config {
    fn faults(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        if let Err(e) = self.sender() {
            faults.push(Fault::new("from", e));
        }
        if self.mailbox.keep == 0 || self.mailbox.keep > MAX_KEEP {
            faults.push(Fault::new("mailbox.keep", "must be 1 to 100000"));
        }
        if self.transport == Transport::Smtp {
            self.smtp.faults(&mut faults);
        }
        for (index, template) in self.templates.iter().enumerate() {
            if let Err(e) = TypeFilter::from_items(template.types.iter().map(String::as_str)) {
                let key = format!("templates[{index}].types");
                faults.push(Fault::new(key, e.to_string()));
            }
        }
        faults.extend(Templates::new(self).err().into_iter().flatten());
        faults
    }
}

impl Config {
    /// The sender.
    ///
    /// # Errors
    /// `from` is not one.
    pub(crate) fn sender(&self) -> Result<Mailbox, String> {
        self.from.parse().map_err(|e| {
            format!(
                "{:?} is not a sender ({e}); write it as \"herald <herald@example.com>\"",
                self.from
            )
        })
    }
}

impl SmtpConfig {
    pub(crate) fn port(&self) -> u16 {
        self.port.unwrap_or(match self.security {
            Security::Starttls => 587,
            Security::Tls => 465,
            Security::None => 25,
        })
    }

    /// The password from where it is; `None` when there is no user.
    ///
    /// # Errors
    /// Its file cannot be read.
    pub(crate) fn password(&self) -> Result<Option<String>, String> {
        if self.username.is_empty() {
            return Ok(None);
        }
        if self.password_file.as_os_str().is_empty() {
            return Ok(Some(self.password.0.clone()));
        }
        let text = read(&self.password_file)?;
        Ok(Some(text.trim_end_matches(['\r', '\n']).to_owned()))
    }

    fn faults(&self, faults: &mut Vec<Fault>) {
        let mut fault =
            |key: &str, message: &str| faults.push(Fault::new(format!("smtp.{key}"), message));
        if self.host.trim().is_empty() {
            fault("host", "is missing; name the mail server");
        } else if self.host.contains(|c: char| c.is_whitespace() || c == '/') {
            fault("host", "must be a host's name or address, without a scheme");
        } else if self.security == Security::None && !is_loopback(&self.host) {
            fault(
                "security",
                "\"none\" is for a server on this machine (localhost) only; use \"starttls\" or \"tls\"",
            );
        }
        if self.port == Some(0) {
            fault("port", "must be 1 to 65535");
        }
        let file = !self.password_file.as_os_str().is_empty();
        let password = !self.password.0.is_empty();
        if password && file {
            fault(
                "password_file",
                "is given beside password; keep one of the two",
            );
        } else if self.username.is_empty() && (password || file) {
            fault("username", "is missing beside the password");
        } else if !self.username.is_empty() && !password && !file {
            fault(
                "password",
                "is missing beside the username; password_file will do too",
            );
        } else if let Err(e) = self.password() {
            fault("password_file", &e);
        }
        if self.timeout.is_zero() || self.timeout > MAX_TIMEOUT {
            fault("timeout", "must be more than 0s and at most 10m");
        }
        if self.pool == 0 || self.pool > MAX_POOL {
            fault("pool", "must be 1 to 256");
        }
    }
}

/// A file that the configuration names.
pub(crate) fn read(path: &Path) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|e| format!("{} cannot be read: {e}", path.display()))
}

fn is_loopback(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost")
        || host
            .parse::<IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn config(value: serde_json::Value) -> Config {
        serde_json::from_value(value).expect("well-formed")
    }

    fn keys(value: serde_json::Value) -> Vec<String> {
        config(value).faults().into_iter().map(|f| f.key).collect()
    }

    #[test]
    fn an_empty_table_is_a_whole_configuration() {
        assert_eq!(keys(json!({})), [""; 0]);
        assert!(serde_json::from_value::<Config>(json!({"form": "x@y"})).is_err());
        let unknown = json!({"smtp": {"security": "ssl"}});
        assert!(serde_json::from_value::<Config>(unknown).is_err());
    }

    #[test]
    fn every_fault_is_named_at_once() {
        let faults = keys(json!({
            "transport": "smtp",
            "from": "herald at localhost",
            "mailbox": {"keep": 0},
            "smtp": {
                "host": "mail.example.com", "security": "none", "username": "me",
                "timeout": "0s", "pool": 0,
            },
            "templates": [
                {"types": ["a b"], "subject": "{{ payload. }}", "text": "{% if %}"},
                {"text": "a", "text_file": "b", "html_file": "/nowhere/at/all.html"},
                {"to": "a@example.com"},
            ],
        }));
        assert_eq!(
            faults,
            [
                "from",
                "mailbox.keep",
                "smtp.security",
                "smtp.password",
                "smtp.timeout",
                "smtp.pool",
                "templates[0].types",
                "templates[0].subject",
                "templates[0].text",
                "templates[1].text_file",
                "templates[1].html_file",
                "templates[2].text",
            ]
        );
    }

    #[test]
    fn an_unprotected_server_must_be_on_this_machine() {
        for (host, fine) in [
            ("localhost", true),
            ("127.0.0.1", true),
            ("::1", true),
            ("10.0.0.1", false),
            ("localhost.example.com", false),
        ] {
            let smtp = json!({"host": host, "security": "none"});
            let faults = keys(json!({"transport": "smtp", "smtp": smtp}));
            assert_eq!(faults.is_empty(), fine, "{host}: {faults:?}");
        }
    }

    #[test]
    fn a_password_comes_from_the_table_or_a_file_and_never_shows() {
        let file = tempfile::NamedTempFile::new().expect("file");
        std::fs::write(file.path(), "s3cret \n").expect("written");
        let smtp = json!({"host": "h", "username": "me", "password_file": file.path()});
        let config = config(json!({"transport": "smtp", "smtp": smtp}));
        assert_eq!(config.faults(), []);
        assert_eq!(config.smtp.password(), Ok(Some("s3cret ".into())));

        let smtp = json!({"host": "h", "username": "me", "password": "s3cret"});
        let config: SmtpConfig = serde_json::from_value(smtp).expect("well-formed");
        assert!(!format!("{config:?}").contains("s3cret"));
    }
}
