//! Configuration files for herald.

/// A `config.toml` in the making: a free port, and the shortest waits that are of use.
#[derive(Debug, Clone)]
pub struct Config {
    text: String,
}

impl Config {
    pub fn new(store: &str, broker: &str) -> Self {
        Self {
            text: format!(
                "[store]\nurl = {store:?}\n\n[broker]\nurl = {broker:?}\n\n\
                 [http]\nlisten = \"127.0.0.1:0\"\n\n\
                 [retry]\nbase = \"100ms\"\nmax_delay = \"2s\"\nmax_attempts = 8\n"
            ),
        }
    }

    /// Everything in one process and one file, as herald comes.
    pub fn embedded() -> Self {
        Self::new("sqlite://herald.db", "embedded:")
    }

    /// Live streams, and a short `retry:` so that a browser is back soon.
    pub fn sse(self) -> Self {
        self.table("sinks.sse", "kind = \"sse\"\nreconnect = \"200ms\"")
    }

    /// Mail about orders to the address in the payload, through an SMTP server on this port.
    pub fn email(self, port: u16) -> Self {
        let sink = r#"kind = "email"
types = ["order.*"]
transport = "smtp"
from = "Herald <herald@example.test>""#;
        let smtp = format!("host = \"127.0.0.1\"\nport = {port}\nsecurity = \"none\"");
        let template = r#"to = "{{ payload.email }}"
subject = "{{ type }} {{ payload.number }}"
text = "Event {{ eventId }} of {{ tenantId }}.""#;
        self.table("sinks.email", sink)
            .table("sinks.email.smtp", &smtp)
            .table("[sinks.email.templates]", template)
    }

    /// Web Push of orders to whoever has subscribed, also at push services on this machine.
    pub fn push(self) -> Self {
        self.table(
            "sinks.push",
            r#"kind = "web_push"
types = ["order.*"]
subject = "mailto:ops@example.test"
private_endpoints = "loopback""#,
        )
    }

    pub fn table(mut self, name: &str, body: &str) -> Self {
        self.text.push_str(&format!("\n[{name}]\n{body}\n"));
        self
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }
}
