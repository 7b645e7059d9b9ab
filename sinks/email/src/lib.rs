//! The email sink: a mail for each address that an event's template names.
//!
//! ```text
//! event ─▶ recipients: addresses from the `to` template
//!              └─▶ delivery ─▶ content ─▶ message ─▶ mail server ─▶ classify
//!                                               └──▶ built-in mailbox, shown at /mailbox
//! ```
//! A recipient's key is the address, its domain in lower case. What stands in an address's place
//! without being one is a recipient too, whose delivery is rejected, so that one bad address keeps
//! no good one from its mail. How a server's answers are read stands in `smtp.rs`.

mod address;
mod config;
mod mailbox;
mod message;
mod pages;
mod smtp;
mod template;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use axum::Router;
use herald_contract::{
    Delivery, Event, Host, Outcome, Recipient, Recipients, Scope, Sink, Unavailable,
};

use mailbox::Mailbox;
use message::Mail;
use smtp::Smtp;
use template::Templates;

pub use config::{Config, MailboxConfig, Secret, Security, SmtpConfig, Template, Transport};

/// The sink.
pub struct Email {
    /// Part of every `Message-ID`: two sinks' mails for one event are two mails.
    sink: String,
    from: lettre::message::Mailbox,
    templates: Templates,
    way: Way,
}

/// How mails leave.
enum Way {
    Mailbox(Arc<Mailbox>),
    Smtp(Box<Smtp>),
}

impl Email {
    /// Compiles the templates and reads the password and certificates; connects to nothing and
    /// writes nothing.
    ///
    /// # Errors
    /// What is wrong with the configuration or the files it names.
    pub fn new(config: Config, host: Host) -> Result<Self, String> {
        let templates = Templates::new(&config).map_err(|faults| {
            let faults: Vec<String> = faults
                .into_iter()
                .map(|fault| format!("{}: {}", fault.key, fault.message))
                .collect();
            faults.join("; ")
        })?;
        let way = match config.transport {
            Transport::Mailbox => {
                let folder = host.data_dir.join("mailbox");
                Way::Mailbox(Arc::new(Mailbox::new(folder, config.mailbox.keep)))
            }
            Transport::Smtp => Way::Smtp(Box::new(Smtp::new(&config.smtp)?)),
        };
        Ok(Self {
            sink: host.sink,
            from: config.sender().map_err(|e| format!("from: {e}"))?,
            templates,
            way,
        })
    }

    /// The mailbox at `/mailbox`, `/mailbox.json`, `/mailbox/{id}` and `/mailbox/{id}/raw`, for
    /// `Scope::Admin`. None when mails go to a server. Two sinks' routes would collide: a host
    /// with several mailboxes shows one of them.
    pub fn routes(self: &Arc<Self>) -> Router {
        match &self.way {
            Way::Mailbox(mailbox) => pages::router(Arc::clone(mailbox)),
            Way::Smtp(_) => Router::new(),
        }
    }

    async fn attempt(&self, delivery: &Delivery) -> Outcome {
        let key = &delivery.recipient.key;
        let to = match address::parse_key(key) {
            Ok(address) => address,
            Err(e) => return Outcome::reject(format!("{key:?} is not a mail address: {e}")),
        };
        let content = match self.templates.content(&delivery.event) {
            Ok(content) => content,
            Err(e) => return Outcome::reject(e),
        };
        let mail = match message::build(&self.sink, &self.from, to, &delivery.event, content) {
            Ok(mail) => mail,
            Err(e) => return Outcome::reject(e),
        };
        match &self.way {
            Way::Smtp(smtp) => smtp.send(&mail).await,
            Way::Mailbox(mailbox) => put(mailbox, &delivery.event, mail).await,
        }
    }
}

async fn put(mailbox: &Arc<Mailbox>, event: &Arc<Event>, mail: Mail) -> Outcome {
    let (files, event) = (Arc::clone(mailbox), Arc::clone(event));
    let written = tokio::task::spawn_blocking(move || files.put(&event, &mail)).await;
    match written.map_err(std::io::Error::other).flatten() {
        Ok(id) => Outcome::Delivered {
            response: Some(format!("/mailbox/{id}")),
        },
        Err(e) => Outcome::retry(
            Scope::Sink,
            format!("the mailbox {}: {e}", mailbox.folder().display()),
        ),
    }
}

#[async_trait]
impl Sink for Email {
    async fn recipients(&self, events: &[Arc<Event>]) -> Result<Vec<Recipients>, Unavailable> {
        let recipient = |key: String| Recipient {
            destination: key
                .rsplit_once('@')
                .map(|(_, domain)| domain.to_ascii_lowercase().into()),
            ..Recipient::new(key)
        };
        Ok(events
            .iter()
            .map(|event| {
                let keys = self.templates.recipients(event)?;
                Ok(keys.into_iter().map(recipient).collect())
            })
            .collect())
    }

    async fn deliver(&self, deliveries: &[Delivery]) -> Vec<Outcome> {
        let mut outcomes = Vec::with_capacity(deliveries.len());
        for delivery in deliveries {
            outcomes.push(self.attempt(delivery).await);
        }
        outcomes
    }

    async fn health(&self) -> Result<(), String> {
        match &self.way {
            Way::Smtp(smtp) => smtp.health().await,
            Way::Mailbox(mailbox) => {
                let files = Arc::clone(mailbox);
                let probed = tokio::task::spawn_blocking(move || files.probe()).await;
                probed
                    .map_err(std::io::Error::other)
                    .flatten()
                    .map_err(|e| {
                        format!(
                            "the mailbox {} cannot be written to: {e}",
                            mailbox.folder().display()
                        )
                    })
            }
        }
    }

    async fn drain(&self, deadline: Duration) {
        if let Way::Smtp(smtp) = &self.way {
            smtp.drain(deadline).await;
        }
    }
}
