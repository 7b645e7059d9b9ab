//! The signed token by which a push service knows who sends (RFC 8292): an ES256 JWT an origin.
//!
//! Signing costs as much as encrypting, and some services count new tokens against the sender, so
//! each origin's token is kept until half of its life is over.

use std::collections::HashMap;
use std::sync::Mutex;

use chrono::{DateTime, TimeDelta, Utc};
use http::HeaderValue;
use serde_json::json;

use crate::VapidKeys;
use crate::base64url;

/// RFC 8292 §2 allows 24 hours; half of that leaves room for clocks that are wrong.
const LIFE: TimeDelta = TimeDelta::hours(12);
/// Browsers name the origins, so their number is bounded.
const MAX_ORIGINS: usize = 1024;

/// Signs and keeps tokens.
#[derive(Debug)]
pub struct Tokens {
    keys: VapidKeys,
    subject: String,
    kept: Mutex<HashMap<String, Token>>,
}

#[derive(Debug)]
struct Token {
    header: HeaderValue,
    renew: DateTime<Utc>,
}

impl Tokens {
    /// `subject` is the contact for push services: `mailto:` or `https:` (RFC 8292 §2.1).
    pub fn new(keys: VapidKeys, subject: String) -> Self {
        Self {
            keys,
            subject,
            kept: Mutex::default(),
        }
    }

    pub fn keys(&self) -> &VapidKeys {
        &self.keys
    }

    /// The `Authorization` header for a push service (RFC 8292 §3); `None` when the system gives
    /// no randomness to sign with.
    pub fn authorization(&self, origin: &str, now: DateTime<Utc>) -> Option<HeaderValue> {
        if let Some(token) = self.kept().get(origin)
            // A clock that was set back must not make a token outlive its day.
            && (token.renew - LIFE / 2..token.renew).contains(&now)
        {
            return Some(token.header.clone());
        }
        let header = self.sign(origin, now + LIFE)?;
        let mut kept = self.kept();
        if kept.len() >= MAX_ORIGINS {
            kept.retain(|_, token| now < token.renew);
        }
        if kept.len() < MAX_ORIGINS {
            let token = Token {
                header: header.clone(),
                renew: now + LIFE / 2,
            };
            kept.insert(origin.to_owned(), token);
        }
        Some(header)
    }

    /// Makes the next token for the origin a new one: it refused this one.
    pub fn forget(&self, origin: &str) {
        self.kept().remove(origin);
    }

    fn sign(&self, origin: &str, expires: DateTime<Utc>) -> Option<HeaderValue> {
        let claims = json!({"aud": origin, "exp": expires.timestamp(), "sub": self.subject});
        let mut token = base64url::encode(r#"{"typ":"JWT","alg":"ES256"}"#);
        token.push('.');
        token.push_str(&base64url::encode(claims.to_string()));
        let signature = base64url::encode(self.keys.sign(token.as_bytes())?);
        let key = self.keys.public_base64();
        let mut header =
            HeaderValue::try_from(format!("vapid t={token}.{signature}, k={key}")).ok()?;
        header.set_sensitive(true);
        Some(header)
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, HashMap<String, Token>> {
        // Nothing panics while it is held; were it so, the map would still be whole.
        self.kept
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use ring::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
    use serde_json::Value;

    use super::*;

    fn tokens() -> Tokens {
        let keys = VapidKeys::generate().expect("random");
        Tokens::new(keys, "mailto:ops@example.com".into())
    }

    /// The claims, after the signature was checked with the key in the header.
    fn verify(header: &HeaderValue) -> Value {
        let text = header.to_str().expect("ASCII");
        let (token, key) = text
            .strip_prefix("vapid t=")
            .and_then(|rest| rest.split_once(", k="))
            .expect("RFC 8292 §3");
        let (signed, signature) = token.rsplit_once('.').expect("three parts");
        let key = base64url::decode(key).expect("base64url");
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, key)
            .verify(
                signed.as_bytes(),
                &base64url::decode(signature).expect("base64url"),
            )
            .expect("the signature is the key's");
        let (head, claims) = signed.split_once('.').expect("two parts");
        let json = |part| -> Value {
            serde_json::from_slice(&base64url::decode(part).expect("base64url")).expect("JSON")
        };
        assert_eq!(json(head), json!({"typ": "JWT", "alg": "ES256"}));
        json(claims)
    }

    #[test]
    fn a_token_is_signed_for_its_origin_and_ends_within_a_day() {
        let now = Utc::now();
        let header = tokens()
            .authorization("https://push.example.net", now)
            .expect("signed");
        let claims = verify(&header);
        assert_eq!(claims["aud"], "https://push.example.net");
        assert_eq!(claims["sub"], "mailto:ops@example.com");
        let life = claims["exp"].as_i64().expect("a number") - now.timestamp();
        assert!((3600..=24 * 3600).contains(&life), "{life}");
    }

    #[test]
    fn a_token_is_kept_for_its_origin_and_renewed_long_before_it_ends() {
        let (tokens, now) = (tokens(), Utc::now());
        let at = |origin, time| tokens.authorization(origin, time).expect("signed");
        let first = at("https://a.example", now);
        assert_eq!(at("https://a.example", now + TimeDelta::hours(1)), first);
        assert_ne!(at("https://b.example", now), first);
        let later = now + TimeDelta::hours(7);
        let second = at("https://a.example", later);
        assert_ne!(second, first);
        assert!(verify(&second)["exp"].as_i64() > verify(&first)["exp"].as_i64());

        tokens.forget("https://a.example");
        assert_ne!(at("https://a.example", later), second, "it was refused");
    }

    #[test]
    fn origins_that_browsers_invent_do_not_fill_memory() {
        let (tokens, now) = (tokens(), Utc::now());
        for i in 0..MAX_ORIGINS + 10 {
            let origin = format!("https://{i}.example");
            assert!(tokens.authorization(&origin, now).is_some());
        }
        assert_eq!(tokens.kept().len(), MAX_ORIGINS);
        let next_day = now + TimeDelta::hours(24);
        assert!(
            tokens
                .authorization("https://new.example", next_day)
                .is_some()
        );
        assert_eq!(tokens.kept().len(), 1, "what is old made room");
    }
}
