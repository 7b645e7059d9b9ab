//! Mails to a mail server, over connections that are kept.
//!
//! lettre speaks the protocol; its own pool is not used. When an attempt is cut off in the middle,
//! that pool takes the connection back with an answer still on its way, and every later mail on it
//! reads the answer to the command before its own. Here a connection goes back only after a
//! complete conversation; otherwise it is dropped with the attempt.

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use chrono::{TimeDelta, Utc};
use herald_contract::{Outcome, Scope};
use lettre::transport::smtp::Error;
use lettre::transport::smtp::authentication::{Credentials, DEFAULT_MECHANISMS};
use lettre::transport::smtp::client::{AsyncSmtpConnection, TlsParameters};
use lettre::transport::smtp::commands::{Data, Mail as MailFrom, Noop, Rcpt, Rset};
use lettre::transport::smtp::extension::{ClientId, Extension, MailBodyParameter, MailParameter};
use lettre::transport::smtp::response::{Response, Severity};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::config::{Security, SmtpConfig};
use crate::message::Mail;

/// Servers hang up on the idle, commonly after five minutes (RFC 5321 §4.5.3.2.7).
const IDLE: Duration = Duration::from_secs(60);
/// What is kept of an answer, in characters.
const MAX_TEXT: usize = 500;

/// A mail server.
pub struct Smtp {
    host: String,
    port: u16,
    security: Security,
    tls: Option<TlsParameters>,
    credentials: Option<Credentials>,
    hello: ClientId,
    timeout: Duration,
    /// One for each connection there may be.
    permits: Semaphore,
    idle: Mutex<Vec<Idle>>,
}

struct Idle {
    connection: AsyncSmtpConnection,
    since: Instant,
}

/// How far a conversation had come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Up to and with authentication.
    Connect,
    /// `MAIL FROM`: about the sender, who is ours.
    Sender,
    /// `RCPT TO`: about the recipient.
    Recipient,
    /// `DATA` and what follows it.
    Message,
}

/// An attempt that the server, or the way to it, ended.
struct Failure {
    stage: Stage,
    said: String,
    /// What lettre makes of it; `None` when there was no way to the server.
    error: Option<Error>,
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self {
            stage: Stage::Connect,
            said: error.to_string(),
            error: None,
        }
    }
}

/// What makes a failure of an error, by how far the conversation had come.
fn at(stage: Stage) -> impl Fn(Error) -> Failure {
    move |error| Failure {
        stage,
        said: text(&error),
        error: Some(error),
    }
}

impl Smtp {
    /// Reads the password and this machine's certificates; connects to nothing.
    ///
    /// # Errors
    /// What of it cannot be had.
    pub fn new(config: &SmtpConfig) -> Result<Self, String> {
        let host = config.host.trim_matches(['[', ']']).to_owned();
        let tls = match config.security {
            Security::None => None,
            Security::Starttls | Security::Tls => {
                Some(TlsParameters::new(host.clone()).map_err(|e| format!("TLS for {host}: {e}"))?)
            }
        };
        let credentials = config
            .password()
            .map_err(|e| format!("smtp.password_file: {e}"))?
            .map(|password| Credentials::new(config.username.clone(), password));
        Ok(Self {
            host,
            port: config.port(),
            security: config.security,
            tls,
            credentials,
            hello: ClientId::default(),
            timeout: config.timeout,
            permits: Semaphore::new(config.pool as usize),
            idle: Mutex::new(Vec::new()),
        })
    }

    /// Makes one attempt.
    pub async fn send(&self, mail: &Mail) -> Outcome {
        let Ok(Ok(_permit)) = timeout(self.timeout, self.permits.acquire()).await else {
            return Outcome::Defer {
                until: Utc::now() + TimeDelta::seconds(1),
                cause: "all connections to the mail server are busy".to_owned(),
            };
        };
        match timeout(self.timeout, self.converse(mail)).await {
            Ok(Ok(response)) => response,
            Ok(Err(failure)) => failure.outcome(),
            Err(_) => Outcome::retry(
                Scope::Sink,
                format!(
                    "the mail server {} did not finish within {:?}",
                    self.address(),
                    self.timeout
                ),
            ),
        }
    }

    /// Whether the server greets, and takes our credentials.
    ///
    /// # Errors
    /// What is wrong.
    pub async fn health(&self) -> Result<(), String> {
        let probe = async {
            let mut connection = self.connect().await?;
            connection.command(Noop).await.map_err(at(Stage::Connect))?;
            let _ = connection.quit().await;
            Ok::<_, Failure>(())
        };
        match timeout(self.timeout, probe).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(e)) => Err(format!("mail server {}: {}", self.address(), e.said)),
            Err(_) => Err(format!(
                "mail server {}: no answer within {:?}",
                self.address(),
                self.timeout
            )),
        }
    }

    /// Says goodbye on every idle connection.
    pub async fn drain(&self, deadline: Duration) {
        let idle = std::mem::take(&mut *self.idle());
        let quit = async {
            for mut idle in idle {
                let _ = idle.connection.quit().await;
            }
        };
        let _ = timeout(deadline, quit).await;
    }

    async fn converse(&self, mail: &Mail) -> Result<Outcome, Failure> {
        let mut connection = match self.resume(mail).await? {
            Some(connection) => connection,
            None => {
                let mut connection = self.connect().await?;
                if needs_utf8(mail) && !supports_utf8(&connection) {
                    self.park(connection);
                    return Ok(Outcome::reject(format!(
                        "the mail server cannot carry the address {} (no SMTPUTF8, RFC 6531)",
                        mail.to
                    )));
                }
                let sender = connection.command(sender(mail)).await;
                if let Err(error) = sender {
                    self.reset(connection, &error).await;
                    return Err(at(Stage::Sender)(error));
                }
                connection
            }
        };
        let recipient = connection
            .command(Rcpt::new(mail.to.clone(), Vec::new()))
            .await;
        if let Err(error) = recipient {
            self.reset(connection, &error).await;
            return Err(at(Stage::Recipient)(error));
        }
        let data = connection.command(Data).await;
        if let Err(error) = data {
            self.reset(connection, &error).await;
            return Err(at(Stage::Message)(error));
        }
        match connection.message(&mail.bytes).await {
            Ok(response) if response.code().severity == Severity::PositiveCompletion => {
                self.park(connection);
                Ok(Outcome::Delivered {
                    response: Some(answer(&response)),
                })
            }
            Ok(response) => Ok(Outcome::retry(
                Scope::Recipient,
                format!("unexpected answer to a message: {}", answer(&response)),
            )),
            Err(error) => {
                self.reset(connection, &error).await;
                Err(at(Stage::Message)(error))
            }
        }
    }

    /// A kept connection on which the server has taken `MAIL FROM`. One that the server has left
    /// in the meantime is found out by that, before anything is at stake, and the next is tried.
    async fn resume(&self, mail: &Mail) -> Result<Option<AsyncSmtpConnection>, Failure> {
        while let Some(mut connection) = self.take() {
            // A new connection tells whether the server still cannot.
            if needs_utf8(mail) && !supports_utf8(&connection) {
                continue;
            }
            // A server that vanished without a word must leave time for a new connection.
            let answer = timeout(self.timeout / 4, connection.command(sender(mail))).await;
            match answer {
                Ok(Ok(_)) => return Ok(Some(connection)),
                Ok(Err(error)) if error.is_permanent() => {
                    self.reset(connection, &error).await;
                    return Err(at(Stage::Sender)(error));
                }
                // 4xx too: "421 closing" among them, and a new connection will tell.
                Ok(Err(_)) | Err(_) => {}
            }
        }
        Ok(None)
    }

    async fn connect(&self) -> Result<AsyncSmtpConnection, Failure> {
        let server = (self.host.as_str(), self.port);
        let mut connection = match (self.security, &self.tls) {
            (Security::Tls, Some(tls)) => {
                let (patience, tls) = (Some(self.timeout), Some(tls.clone()));
                AsyncSmtpConnection::connect_tokio1(server, patience, &self.hello, tls, None)
                    .await
                    .map_err(at(Stage::Connect))?
            }
            _ => {
                // lettre ends a message with a small write of its own, which Nagle's algorithm
                // holds back until the server acknowledges: 40 ms a mail.
                let stream = TcpStream::connect(server).await?;
                stream.set_nodelay(true)?;
                AsyncSmtpConnection::connect_with_transport(Box::new(stream), &self.hello)
                    .await
                    .map_err(at(Stage::Connect))?
            }
        };
        if let (Security::Starttls, Some(tls)) = (self.security, &self.tls) {
            connection
                .starttls(tls.clone(), &self.hello)
                .await
                .map_err(at(Stage::Connect))?;
        }
        if let Some(credentials) = &self.credentials {
            connection
                .auth(DEFAULT_MECHANISMS, credentials)
                .await
                .map_err(at(Stage::Connect))?;
        }
        Ok(connection)
    }

    fn address(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self) -> Option<AsyncSmtpConnection> {
        let mut idle = self.idle();
        idle.retain(|idle| idle.since.elapsed() < IDLE);
        idle.pop().map(|idle| idle.connection)
    }

    fn park(&self, connection: AsyncSmtpConnection) {
        let mut idle = self.idle();
        idle.retain(|idle| idle.since.elapsed() < IDLE);
        idle.push(Idle {
            connection,
            since: Instant::now(),
        });
    }

    /// Keeps a connection on which the server said no, if it is willing to start over.
    async fn reset(&self, mut connection: AsyncSmtpConnection, error: &Error) {
        let refused = error.status().is_some() && code(error) != Some(421);
        if refused && let Ok(Ok(_)) = timeout(self.timeout / 4, connection.command(Rset)).await {
            self.park(connection);
        }
    }
}

impl Failure {
    /// What the server's answer means for the delivery. What the operator can mend is tried again;
    /// what only the recipient or the message could, is not.
    ///
    /// | answer | outcome |
    /// | --- | --- |
    /// | none, or 4xx | retry |
    /// | 5xx at connect, to credentials, to the sender | retry |
    /// | 502, 503, 504, 530, 534, 535, 538 and 5.7.x (policy) | retry |
    /// | any other 5xx to the recipient or the message | reject |
    fn outcome(&self) -> Outcome {
        let said = &self.said;
        let cause = match self.stage {
            Stage::Connect => format!("connecting to the mail server: {said}"),
            Stage::Sender => format!("the mail server refused the sender: {said}"),
            Stage::Recipient => format!("the mail server refused the recipient: {said}"),
            Stage::Message => format!("the mail server refused the message: {said}"),
        };
        let ours = |error: &Error| {
            matches!(self.stage, Stage::Connect | Stage::Sender)
                || matches!(code(error), Some(502..=504 | 530 | 534 | 535 | 538))
                || reply(error).is_some_and(|reply| reply.starts_with("5.7."))
        };
        match &self.error {
            Some(error) if error.is_permanent() && !ours(error) => Outcome::reject(cause),
            _ => Outcome::retry(self.scope(), cause),
        }
    }

    /// Whom else the server would refuse (RFC 5321 §4.2.3). 421 is the server leaving, 454 and 53x
    /// are about our credentials; 450 and 452 are about one mailbox. 451 is a fault in processing,
    /// or greylisting, which goes by the domain at the earliest.
    fn scope(&self) -> Scope {
        match (self.stage, self.error.as_ref().and_then(code)) {
            (Stage::Connect | Stage::Sender, _) | (_, None | Some(421 | 454 | 530..=538)) => {
                Scope::Sink
            }
            (Stage::Recipient, Some(450 | 452)) => Scope::Recipient,
            (Stage::Message, Some(452)) => Scope::Sink,
            _ => Scope::Destination,
        }
    }
}

fn sender(mail: &Mail) -> MailFrom {
    let mut parameters = Vec::new();
    if needs_utf8(mail) {
        parameters.push(MailParameter::SmtpUtfEight);
    }
    if !mail.bytes.is_ascii() {
        parameters.push(MailParameter::Body(MailBodyParameter::EightBitMime));
    }
    MailFrom::new(Some(mail.from.email.clone()), parameters)
}

/// RFC 6531: an address beyond ASCII needs a server that can carry it.
fn needs_utf8(mail: &Mail) -> bool {
    let ascii = |address: &str| address.is_ascii();
    !ascii(mail.to.as_ref()) || !ascii(mail.from.email.as_ref())
}

fn supports_utf8(connection: &AsyncSmtpConnection) -> bool {
    connection
        .server_info()
        .supports_feature(Extension::SmtpUtfEight)
}

fn code(error: &Error) -> Option<u16> {
    error.status().map(u16::from)
}

/// What the server said after the code.
fn reply(error: &Error) -> Option<String> {
    error.status()?;
    std::error::Error::source(error).map(ToString::to_string)
}

/// The server's words where it had any, else lettre's.
fn text(error: &Error) -> String {
    let text = match (code(error), reply(error)) {
        (Some(code), Some(reply)) => format!("{code} {reply}"),
        _ => error.to_string(),
    };
    text.chars().take(MAX_TEXT).collect()
}

fn answer(response: &Response) -> String {
    let lines: Vec<&str> = response.message().collect();
    let text = format!("{} {}", response.code(), lines.join(" "));
    text.chars().take(MAX_TEXT).collect()
}
