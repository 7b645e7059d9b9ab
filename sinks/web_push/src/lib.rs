//! The Web Push sink: notifications to browsers that need not be open (RFC 8030), encrypted for
//! each (RFC 8291) and signed with this installation's key (RFC 8292).
//!
//! ```text
//! event ─▶ recipients: the tenant's subscriptions, or one user's
//!              └─▶ delivery ─▶ message ─▶ encrypt ─▶ post with a VAPID token ─▶ classify
//! ```
//! A recipient's key is the subscription's id. The push service's answer decides the outcome; the
//! table stands in `client.rs`, the rules for endpoints in `endpoint.rs`.

mod base64url;
mod client;
mod config;
mod encrypt;
mod endpoint;
mod message;
mod routes;
mod shorten;
#[cfg(test)]
mod tests;
mod token;
mod vapid;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{TimeDelta, Utc};
use herald_contract::{
    Delivery, Event, Host, Outcome, Recipient, Recipients, Scope, Sink, Subscription, Unavailable,
};
use http::{HeaderValue, Request, StatusCode, header};
use http_body_util::Full;
use ulid::Ulid;

use client::PushClient;
use encrypt::{EncryptError, Receiver};
use endpoint::Endpoint;
use message::{Audience, Messages};
use token::Tokens;

pub use config::{Config, Secret, Template, Urgency};
pub use encrypt::MAX_PLAINTEXT;
pub use endpoint::{MAX_ENDPOINT, PrivateEndpoints};
pub use vapid::VapidKeys;

const USER_AGENT: HeaderValue =
    HeaderValue::from_static(concat!("herald/", env!("CARGO_PKG_VERSION")));
/// When a subscription could not be looked up, ask again after this.
const LOOK_UP_AGAIN: TimeDelta = TimeDelta::seconds(2);

/// With a `ttl` of "0s" (now or never), for how long "now" lasts here.
const NOW: Duration = Duration::from_secs(30);

/// The sink. It must be made within a Tokio runtime.
pub struct WebPush {
    host: Host,
    config: Config,
    messages: Messages,
    tokens: Tokens,
    client: PushClient,
}

impl WebPush {
    /// Loads the VAPID keys, or makes them at the first start, and compiles the templates.
    ///
    /// # Errors
    /// What is wrong with the keys, their file or the templates.
    pub fn new(config: Config, host: Host) -> Result<Self, String> {
        let keys = config.keys(&host.data_dir)?;
        let messages = Messages::new(&config).map_err(|faults| {
            let faults: Vec<String> = faults
                .into_iter()
                .map(|fault| format!("{}: {}", fault.key, fault.message))
                .collect();
            faults.join("; ")
        })?;
        let client = PushClient::new(config.timeout, config.private_endpoints)?;
        if let Some(fault) = client.fault() {
            tracing::warn!(sink = host.sink, "no push service can be trusted: {fault}");
        }
        Ok(Self {
            tokens: Tokens::new(keys, config.subject.clone()),
            host,
            config,
            messages,
            client,
        })
    }

    /// The key that browsers subscribe with: `applicationServerKey`, base64url.
    pub fn public_key(&self) -> String {
        self.tokens.keys().public_base64()
    }

    /// The HTTP routes: `/push/key`, `/push/subscriptions`, and a page to try them at `/push`.
    pub fn routes(self: &Arc<Self>) -> axum::Router {
        routes::router(self.clone())
    }

    async fn push(&self, event: &Event, subscription: &Subscription) -> Outcome {
        let endpoint = match Endpoint::new(&subscription.endpoint, self.config.private_endpoints) {
            Ok(endpoint) => endpoint,
            Err(e) => return Outcome::reject(format!("the subscription's endpoint {e}")),
        };
        let request = match self.request(event, subscription, &endpoint) {
            Ok(request) => request,
            Err(outcome) => return outcome,
        };
        let answer = match self.client.send(request).await {
            Ok(answer) => answer,
            Err(cause) => return Outcome::retry(Scope::Destination, cause),
        };
        if let StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN = answer.status {
            self.tokens.forget(&endpoint.origin);
        }
        client::classify(&answer, Utc::now())
    }

    /// The request of RFC 8030 §5, or what its lack means for the delivery.
    fn request(
        &self,
        event: &Event,
        subscription: &Subscription,
        endpoint: &Endpoint,
    ) -> Result<Request<Full<Bytes>>, Outcome> {
        let message = self.messages.render(event).map_err(Outcome::reject)?;
        let body = Receiver::new(&subscription.p256dh, &subscription.auth)
            .and_then(|receiver| encrypt::encrypt(&receiver, &message.plaintext))
            .map_err(|e| match e {
                EncryptError::Random => Outcome::retry(Scope::Recipient, e.to_string()),
                _ => Outcome::reject(format!("cannot encrypt for this subscription: {e}")),
            })?;
        let authorization = self
            .tokens
            .authorization(&endpoint.origin, Utc::now())
            .ok_or_else(|| Outcome::retry(Scope::Sink, "the VAPID token could not be signed"))?;
        let age = (Utc::now() - event.created_at).to_std().unwrap_or_default();
        let mut request = Request::post(&endpoint.uri)
            .header(header::AUTHORIZATION, authorization)
            .header(header::CONTENT_ENCODING, "aes128gcm")
            .header(header::CONTENT_TYPE, "application/octet-stream")
            .header(header::USER_AGENT, USER_AGENT)
            // What is left of it: a push that waited here must not wait there as long again.
            .header("TTL", self.config.ttl.saturating_sub(age).as_secs())
            .header("Urgency", self.config.urgency.as_str());
        if let Some(topic) = message.topic {
            request = request.header("Topic", topic);
        }
        request
            .body(Full::new(body.into()))
            .map_err(|e| Outcome::reject(format!("the request cannot be built: {e}")))
    }

    /// The subscriptions of those deliveries that came without one, in one question.
    async fn look_up(
        &self,
        deliveries: &[Delivery],
    ) -> Result<HashMap<Ulid, Subscription>, Unavailable> {
        let ids: Vec<Ulid> = deliveries
            .iter()
            .filter(|delivery| hinted(&delivery.recipient).is_none())
            .filter_map(|delivery| delivery.recipient.key.parse().ok())
            .collect();
        if ids.is_empty() {
            return Ok(HashMap::new());
        }
        let found = self.host.subscriptions.get(&ids).await?;
        Ok(found.into_iter().map(|s| (s.id, s)).collect())
    }
}

#[async_trait]
impl Sink for WebPush {
    fn lifetime(&self) -> Option<Duration> {
        Some(match self.config.ttl {
            Duration::ZERO => NOW,
            ttl => ttl,
        })
    }

    async fn recipients(&self, events: &[Arc<Event>]) -> Result<Vec<Recipients>, Unavailable> {
        let audiences: Vec<Result<Audience, String>> = events
            .iter()
            .map(|event| self.messages.audience(event))
            .collect();
        let mut tenants: Vec<&str> = events
            .iter()
            .zip(&audiences)
            .filter(|(_, a)| matches!(a, Ok(Audience::Tenant | Audience::User(_))))
            .map(|(event, _)| &*event.tenant_id)
            .collect();
        tenants.sort_unstable();
        tenants.dedup();
        let mut subscribed: HashMap<String, Vec<(Option<String>, Recipient)>> = HashMap::new();
        if !tenants.is_empty() {
            for subscription in self.host.subscriptions.of_tenants(&tenants).await? {
                let recipient = Recipient {
                    key: subscription.id.to_string(),
                    hint: serde_json::to_string(&subscription).ok().map(Arc::from),
                    destination: host(&subscription.endpoint),
                };
                subscribed
                    .entry(subscription.tenant_id)
                    .or_default()
                    .push((subscription.user_id, recipient));
            }
        }
        let of_event = |(event, audience): (&Arc<Event>, Result<Audience, String>)| {
            let audience = audience?;
            let all = subscribed.get(&*event.tenant_id);
            Ok(all
                .into_iter()
                .flatten()
                .filter(|(user, _)| match &audience {
                    Audience::Tenant => true,
                    Audience::User(wanted) => user.as_ref() == Some(wanted),
                    Audience::Nobody => false,
                })
                .map(|(_, recipient)| recipient.clone())
                .collect())
        };
        Ok(events.iter().zip(audiences).map(of_event).collect())
    }

    /// One after the other: the batch is one delivery, and the host makes many calls at once.
    async fn deliver(&self, deliveries: &[Delivery]) -> Vec<Outcome> {
        let found = self.look_up(deliveries).await;
        let mut outcomes = Vec::with_capacity(deliveries.len());
        for Delivery {
            event, recipient, ..
        } in deliveries
        {
            let stored = || {
                let id: Ulid = recipient.key.parse().ok()?;
                found.as_ref().ok()?.get(&id).cloned()
            };
            let outcome = match (hinted(recipient).or_else(stored), &found) {
                (Some(subscription), _) => self.push(event, &subscription).await,
                (None, Ok(_)) => Outcome::skipped("the subscription was removed"),
                (None, Err(e)) => Outcome::Defer {
                    until: Utc::now() + LOOK_UP_AGAIN,
                    cause: e.to_string(),
                },
            };
            outcomes.push(outcome);
        }
        outcomes
    }

    async fn forget(&self, recipient: &str) -> Result<(), Unavailable> {
        match recipient.parse() {
            Ok(id) => self.host.subscriptions.forget(id).await,
            Err(_) => Ok(()),
        }
    }

    /// The keys were read when the sink was made; push services are many and are not asked.
    async fn health(&self) -> Result<(), String> {
        match self.client.fault() {
            Some(fault) => Err(format!("no push service can be trusted: {fault}")),
            None => Ok(()),
        }
    }
}

/// The push service of an endpoint: its host, with the port if one is written.
fn host(endpoint: &str) -> Option<Arc<str>> {
    let authority = endpoint.parse::<http::Uri>().ok()?.authority()?.clone();
    (authority.as_str().len() <= 255).then(|| authority.as_str().into())
}

/// The subscription that came with the recipient.
fn hinted(recipient: &Recipient) -> Option<Subscription> {
    serde_json::from_str(recipient.hint.as_deref()?).ok()
}
