//! Who may do what, by signed tokens: JWTs (RFC 7519) signed as JWSs (RFC 7515).
//!
//! ```text
//! token ─ signature ─▶ bytes that a key has signed ─ claims ─▶ Access
//! ```
//!
//! - `key`: the keys, each with the one algorithm it is for.
//! - `token`: header and signature.
//! - `claims`: for whom, until when, what they may do.
//!
//! It is done with ring, which TLS brings anyway: what there is to do is two signatures' and a
//! MAC's verification, and a library would bring a second provider of them.

mod claims;
mod key;
mod token;

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use herald_routes::{Access, Authority, Refusal, Scope};
use tokio::time::Instant;

use crate::config;
use claims::Claims;
use key::Keys;

pub use key::{MIN_SECRET, PublicKey};

/// Longer ones are not looked at, in bytes.
const MAX_TOKEN: usize = 8 * 1024;

/// The longest that an access may be good for: as good as for ever, and a time that any clock has.
const LONGEST: Duration = Duration::from_secs(60 * 60 * 24 * 365);

/// Judges and makes tokens.
pub struct Tokens {
    keys: Keys,
    issuer: Option<String>,
    audience: Option<String>,
    leeway: Duration,
}

/// What a token is to say.
#[derive(Debug, Clone)]
pub struct Grant {
    pub tenant: Option<String>,
    pub scopes: Vec<Scope>,
    pub subject: Option<String>,
    pub ttl: Duration,
}

impl Tokens {
    /// # Errors
    /// What is wrong with a key.
    pub fn new(config: &config::Auth) -> Result<Self, String> {
        Ok(Self {
            keys: Keys::new(config.secret.as_deref(), config.public_key.as_deref())?,
            issuer: config.issuer.clone(),
            audience: config.audience.clone(),
            leeway: config.leeway,
        })
    }

    /// As routes know it.
    pub fn authority(self: Arc<Self>) -> Authority {
        Authority::new(move |token| self.verify(token, since_epoch()))
    }

    /// What the token's bearer may do `now`, which is counted from 1970.
    fn verify(&self, token: &str, now: Duration) -> Result<Access, Refusal> {
        if token.len() > MAX_TOKEN {
            return Err(Refusal::Invalid("the token is longer than 8 KiB"));
        }
        let payload = token::verify(token, &self.keys)?;
        let claims = Claims::read(&payload)?;
        claims.are_for(self.issuer.as_deref(), self.audience.as_deref())?;
        let left = claims.time_left(now, self.leeway)?;
        let (tenant, scopes) = claims.grants()?;
        Ok(Access {
            tenant,
            scopes,
            expires_at: Some(Instant::now() + left.min(LONGEST)),
        })
    }

    /// Signs a token, and says when it expires, from 1970 on. `None` without a secret.
    pub fn sign(&self, grant: &Grant) -> Option<(String, Duration)> {
        let issued = Duration::from_secs(since_epoch().as_secs());
        let expires = issued.saturating_add(Duration::from_secs(grant.ttl.as_secs()));
        let issuer = self.issuer.as_deref();
        let claims = Claims::of(grant, issuer, self.audience.as_deref(), issued, expires);
        Some((token::sign(&claims, &self.keys)?, expires))
    }
}

fn since_epoch() -> Duration {
    // By a clock before 1970 every token has expired.
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or(Duration::MAX)
}

#[cfg(test)]
mod tests;
