//! One request to a push service, and what its answer means for the delivery.
//!
//! | answer | outcome | because |
//! | --- | --- | --- |
//! | 2xx | delivered | RFC 8030 §5; services say 201, 200, 202 or 204 |
//! | 404, 410 | gone | RFC 8030 §7.3: the subscription ended |
//! | 401 | retry | our token was refused: a wrong clock or a passing fault; the next is signed anew |
//! | 403 | dead letter | most likely the subscription was made with another VAPID key, or the contact was refused: only a new subscription or configuration helps |
//! | 408, 425, 429, 5xx | retry | it may pass; `Retry-After` is obeyed |
//! | 3xx | retry | redirects are not followed, they could lead inside; a proxy in between may go away |
//! | 413 | dead letter | too large for this service |
//! | other 4xx | dead letter | the request itself is at fault |
//! | no answer | retry | |

use std::error::Error;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, NaiveDateTime, Utc};
use herald_contract::{Outcome, Scope};
use http::{HeaderMap, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_rustls::{ConfigBuilderExt as _, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::{ClientConfig, RootCertStore};
use tokio::time::Instant;

use crate::endpoint::{PrivateEndpoints, Resolver};

/// Of an answer's body, in bytes: enough for the cause.
const MAX_ANSWER: usize = 1024;
/// Of a cause or response in the ledger, in characters.
const MAX_CAUSE: usize = 300;
/// A push service may not put off a delivery for longer.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(24 * 3600);
const IDLE: Duration = Duration::from_secs(60);
const MAX_IDLE_PER_HOST: usize = 32;
/// HTTP/2 connections are asked whether they live, so that one that died silently fails few.
const KEEP_ALIVE: Duration = Duration::from_secs(20);

/// Posts to push services over pooled connections: HTTP/2 where a service speaks it, else 1.1.
#[derive(Debug)]
pub struct PushClient {
    http: Client<HttpsConnector<HttpConnector<Resolver>>, Full<Bytes>>,
    timeout: Duration,
    /// Why no push service's certificate can be trusted.
    fault: Option<String>,
}

/// What a push service answered.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    /// The beginning of the body, made printable.
    pub text: String,
}

impl PushClient {
    /// `timeout` bounds each request, from connecting to its answer's body.
    ///
    /// # Errors
    /// TLS cannot be set up at all. A machine without certificates is not an error: pushing over
    /// plain HTTP works, and [`PushClient::fault`] tells.
    pub fn new(timeout: Duration, private: PrivateEndpoints) -> Result<Self, String> {
        let (tls, fault) = tls()?;
        let mut tcp = HttpConnector::new_with_resolver(Resolver(private));
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(timeout));
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_all_versions()
            .wrap_connector(tcp);
        let http = Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(MAX_IDLE_PER_HOST)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .http2_keep_alive_timeout(timeout)
            .build(connector);
        Ok(Self {
            http,
            timeout,
            fault,
        })
    }

    /// What keeps it from reaching any real push service.
    pub fn fault(&self) -> Option<&str> {
        self.fault.as_deref()
    }

    /// Sends the request and reads the beginning of the answer.
    ///
    /// # Errors
    /// No answer came: connection, TLS or time.
    pub async fn send(&self, request: Request<Full<Bytes>>) -> Result<Answer, String> {
        let deadline = Instant::now() + self.timeout;
        let response = tokio::time::timeout_at(deadline, self.http.request(request))
            .await
            .map_err(|_| format!("no answer within {:?}", self.timeout))?
            .map_err(|e| self.explain(&e))?;
        let (head, body) = response.into_parts();
        let mut text = Vec::new();
        // The status decides; of a body that is late, broken or endless, what came will do.
        let _ = tokio::time::timeout_at(deadline, beginning(body, &mut text)).await;
        Ok(Answer {
            status: head.status,
            headers: head.headers,
            text: printable(&String::from_utf8_lossy(&text)),
        })
    }

    fn explain(&self, error: &dyn Error) -> String {
        let mut text = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            let _ = write!(text, ": {cause}");
            source = cause.source();
        }
        if let Some(fault) = &self.fault {
            let _ = write!(text, " ({fault})");
        }
        printable(&text)
    }
}

/// Reads a body to its end or to [`MAX_ANSWER`].
async fn beginning(mut body: Incoming, text: &mut Vec<u8>) {
    while let Some(Ok(frame)) = body.frame().await {
        if let Some(data) = frame.data_ref() {
            let room = MAX_ANSWER - text.len();
            text.extend_from_slice(&data[..data.len().min(room)]);
            if data.len() > room {
                return;
            }
        }
    }
}

/// TLS with ring and the machine's own certificates.
fn tls() -> Result<(ClientConfig, Option<String>), String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = || {
        ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|e| format!("TLS: {e}"))
    };
    Ok(match builder()?.with_native_roots() {
        Ok(trusting) => (trusting.with_no_client_auth(), None),
        Err(e) => {
            let none = RootCertStore::empty();
            let config = builder()?
                .with_root_certificates(none)
                .with_no_client_auth();
            (config, Some(format!("install ca-certificates: {e}")))
        }
    })
}

/// What the answer means for the delivery; the table stands in the file's head.
pub fn classify(answer: &Answer, now: DateTime<Utc>) -> Outcome {
    let status = answer.status;
    if status.is_success() {
        let location = answer.headers.get(header::LOCATION);
        let response = match location.and_then(|l| l.to_str().ok()) {
            Some(location) => format!("{status}, {}", printable(location)),
            None => status.to_string(),
        };
        return Outcome::Delivered {
            response: Some(response),
        };
    }
    let mut cause = format!("the push service answered {status}");
    if status == StatusCode::FORBIDDEN {
        cause += "; it refuses this VAPID key for the subscription (made with another key?) or \
                  the subject";
    } else if status == StatusCode::UNAUTHORIZED {
        cause += "; it refuses the VAPID token (is this machine's clock right?)";
    }
    if !answer.text.is_empty() {
        let _ = write!(cause, ": {}", answer.text);
    }
    match status.as_u16() {
        404 | 410 => Outcome::Gone { cause },
        401 | 408 | 425 | 429 | 300..=399 | 500.. => Outcome::Retry {
            after: retry_after(&answer.headers, now),
            scope: Scope::Destination,
            cause,
        },
        _ => Outcome::Reject { cause },
    }
}

/// `Retry-After` as seconds or as a date (RFC 9110 §10.2.3), at most a day.
fn retry_after(headers: &HeaderMap, now: DateTime<Utc>) -> Option<Duration> {
    let value = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    let after = if value.bytes().all(|b| b.is_ascii_digit()) && !value.is_empty() {
        // More digits than a number takes is longer than a day, too.
        value.parse().map_or(MAX_RETRY_AFTER, Duration::from_secs)
    } else {
        (http_date(value)? - now).to_std().unwrap_or_default()
    };
    Some(after.min(MAX_RETRY_AFTER))
}

/// The three forms of RFC 9110 §5.6.7.
fn http_date(text: &str) -> Option<DateTime<Utc>> {
    [
        "%a, %d %b %Y %H:%M:%S GMT",
        "%A, %d-%b-%y %H:%M:%S GMT",
        "%a %b %e %H:%M:%S %Y",
    ]
    .iter()
    .find_map(|form| NaiveDateTime::parse_from_str(text, form).ok())
    .map(|time| time.and_utc())
}

/// One bounded line, since it goes into the ledger and to terminals.
fn printable(text: &str) -> String {
    let line: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(MAX_CAUSE)
        .collect();
    line.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, headers: &[(header::HeaderName, &str)]) -> Answer {
        Answer {
            status: StatusCode::from_u16(status).expect("a status"),
            headers: headers
                .iter()
                .map(|(name, value)| (name.clone(), value.parse().expect("a value")))
                .collect(),
            text: "why".into(),
        }
    }

    fn kind(status: u16) -> &'static str {
        match classify(&answer(status, &[]), Utc::now()) {
            Outcome::Delivered { .. } => "delivered",
            Outcome::Gone { .. } => "gone",
            Outcome::Retry {
                after: None, cause, ..
            } if cause.ends_with(": why") => "retry",
            Outcome::Reject { cause } if cause.ends_with(": why") => "reject",
            other => panic!("{status}: {other:?}"),
        }
    }

    #[test]
    fn answers_mean_what_the_table_says() {
        for (statuses, expected) in [
            (&[200, 201, 202, 204][..], "delivered"),
            (&[404, 410], "gone"),
            (&[301, 307, 401, 408, 425, 429, 500, 502, 503, 504], "retry"),
            (&[400, 403, 405, 406, 413, 415, 422], "reject"),
        ] {
            for status in statuses {
                assert_eq!(kind(*status), expected, "{status}");
            }
        }
    }

    #[test]
    fn a_delivery_keeps_the_messages_own_url() {
        let made = answer(201, &[(header::LOCATION, "https://push.example/m/1")]);
        assert_eq!(
            classify(&made, Utc::now()),
            Outcome::Delivered {
                response: Some("201 Created, https://push.example/m/1".into())
            }
        );
    }

    #[test]
    fn retry_after_is_read_in_every_form_and_bounded() {
        let now = DateTime::from_timestamp(784_111_777, 0).expect("1994-11-06T08:49:37Z");
        for (value, seconds) in [
            ("120", Some(120)),
            ("0", Some(0)),
            ("Sun, 06 Nov 1994 08:50:37 GMT", Some(60)),
            ("Sunday, 06-Nov-94 08:50:37 GMT", Some(60)),
            ("Sun Nov  6 08:50:37 1994", Some(60)),
            ("Sun, 06 Nov 1994 08:00:00 GMT", Some(0)),
            ("Tue, 06 Dec 1994 08:50:37 GMT", Some(86_400)),
            ("99999999", Some(86_400)),
            ("99999999999999999999999", Some(86_400)),
            ("soon", None),
            ("-1", None),
            ("", None),
        ] {
            for status in [429, 503] {
                let Outcome::Retry { after, .. } =
                    classify(&answer(status, &[(header::RETRY_AFTER, value)]), now)
                else {
                    panic!("{status} is a retry");
                };
                assert_eq!(after, seconds.map(Duration::from_secs), "{value:?}");
            }
        }
    }

    #[test]
    fn what_a_stranger_answers_becomes_one_bounded_line() {
        let line = printable(&format!("a\r\nb\u{1b}[31m{}", "x".repeat(5000)));
        assert!(line.starts_with("a  b [31mx"));
        assert_eq!(line.chars().count(), MAX_CAUSE);
    }
}
