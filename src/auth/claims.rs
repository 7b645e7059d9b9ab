//! What a token says: for whom it is, until when, and what its bearer may do.

use std::time::Duration;

use herald_contract::check_tenant;
use herald_routes::{Refusal, Scope};
use serde::{Deserialize, Serialize};

use super::Grant;

/// RFC 7519 §4.1, with `scope` of RFC 8693 §4.2 and the tenant. Others are left alone; a name that
/// comes twice is an error.
#[derive(Deserialize, Serialize)]
pub struct Claims {
    #[serde(skip_serializing_if = "Option::is_none")]
    iss: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sub: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    aud: Option<Audience>,
    exp: Option<Time>,
    #[serde(skip_serializing_if = "Option::is_none")]
    nbf: Option<Time>,
    #[serde(skip_serializing_if = "Option::is_none")]
    iat: Option<Time>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tenant: Option<String>,
    #[serde(default)]
    scope: String,
}

#[derive(Deserialize, Serialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Several(Vec<String>),
}

/// Seconds since 1970, which need not be whole.
#[derive(Clone, Copy, Deserialize, Serialize)]
#[serde(untagged)]
enum Time {
    Whole(u64),
    Part(f64),
}

impl Time {
    /// `None` before 1970 and after all ends.
    fn since_epoch(self) -> Option<Duration> {
        match self {
            Self::Whole(seconds) => Some(Duration::from_secs(seconds)),
            Self::Part(seconds) => Duration::try_from_secs_f64(seconds).ok(),
        }
    }
}

impl Claims {
    /// # Errors
    /// It is no JSON object, or a claim is not of its type.
    pub fn read(payload: &[u8]) -> Result<Self, Refusal> {
        // serde would read an array as the claims in their order.
        let claims = match payload.trim_ascii_start().first() {
            Some(b'{') => serde_json::from_slice(payload).ok(),
            _ => None,
        };
        claims.ok_or(Refusal::Invalid(
            "the token's claims are malformed: one is not of its type, or comes twice",
        ))
    }

    /// Those of a token that is made here.
    pub fn of(
        grant: &Grant,
        issuer: Option<&str>,
        audience: Option<&str>,
        issued: Duration,
        expires: Duration,
    ) -> Self {
        let scopes: Vec<_> = grant.scopes.iter().map(|scope| scope.name()).collect();
        Self {
            iss: issuer.map(str::to_owned),
            sub: grant.subject.clone(),
            aud: audience.map(|audience| Audience::One(audience.to_owned())),
            exp: Some(Time::Whole(expires.as_secs())),
            nbf: None,
            iat: Some(Time::Whole(issued.as_secs())),
            tenant: grant.tenant.clone(),
            scope: scopes.join(" "),
        }
    }

    /// # Errors
    /// It is another's token, or for others.
    pub fn are_for(&self, issuer: Option<&str>, audience: Option<&str>) -> Result<(), Refusal> {
        if issuer.is_some() && self.iss.as_deref() != issuer {
            return Err(Refusal::Invalid("the token is of another issuer (iss)"));
        }
        let named = match &self.aud {
            None => &[],
            Some(Audience::One(one)) => std::slice::from_ref(one),
            Some(Audience::Several(all)) => all.as_slice(),
        };
        match audience {
            Some(us) if named.iter().any(|name| name == us) => Ok(()),
            // Whoever is not among those it is for must refuse it (RFC 7519 §4.1.3).
            None if named.is_empty() => Ok(()),
            _ => Err(Refusal::Invalid("the token is for others (aud)")),
        }
    }

    /// How long it is good for, of which `leeway` is for clocks that differ.
    ///
    /// # Errors
    /// It has expired, is not good yet, or says no time.
    pub fn time_left(&self, now: Duration, leeway: Duration) -> Result<Duration, Refusal> {
        let time = |time: Option<Time>| match time.map(Time::since_epoch) {
            Some(None) => Err(Refusal::Invalid("a time in the token is none")),
            Some(time) => Ok(time),
            None => Ok(None),
        };
        let expires = time(self.exp)?;
        let expires = expires.ok_or(Refusal::Invalid(
            "the token has no end (exp), and so is not taken",
        ))?;
        let latest = now.saturating_add(leeway);
        if time(self.nbf)?.is_some_and(|begin| begin > latest) {
            return Err(Refusal::Invalid("the token is not good yet (nbf)"));
        }
        let left = expires.saturating_add(leeway).checked_sub(now);
        left.filter(|left| !left.is_zero()).ok_or(Refusal::Expired)
    }

    /// The one tenant, or any, and the scopes; those that are not herald's are others'.
    ///
    /// # Errors
    /// It names no tenant and is not for operators, or one that cannot be.
    pub fn grants(self) -> Result<(Option<String>, Vec<Scope>), Refusal> {
        let named = self.scope.split(' ');
        let known = |name: &str| Scope::ALL.into_iter().find(|scope| scope.name() == name);
        let scopes: Vec<Scope> = named.filter_map(known).collect();
        match &self.tenant {
            Some(tenant) if check_tenant(tenant).is_err() => {
                Err(Refusal::Invalid("the token's tenant is none that could be"))
            }
            None if !scopes.contains(&Scope::Admin) => Err(Refusal::Invalid(
                "the token names no tenant, which only those with the scope admin may leave out",
            )),
            _ => Ok((self.tenant, scopes)),
        }
    }
}
