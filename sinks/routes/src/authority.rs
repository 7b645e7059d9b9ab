//! Who says whether a token is good: the host, which puts an [`Authority`] into each request.

use std::fmt;
use std::sync::Arc;

use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse, Response};

use crate::{Access, Problem};

/// What a query calls its token (RFC 6750 §2.3).
const PARAMETER: &str = "access_token";

/// Tells what the bearer of a token may do.
#[derive(Clone)]
pub struct Authority(Arc<Verify>);

type Verify = dyn Fn(&str) -> Result<Access, Refusal> + Send + Sync;

/// Why a request gets no access.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// It has no token.
    Missing,
    /// Its token was good once.
    Expired,
    /// Its token is none that is taken here, for this reason, which says nothing of what is in it.
    Invalid(&'static str),
    /// It has several.
    Several,
}

impl Authority {
    pub fn new(verify: impl Fn(&str) -> Result<Access, Refusal> + Send + Sync + 'static) -> Self {
        Self(Arc::new(verify))
    }

    /// # Errors
    /// The token is not good.
    pub fn verify(&self, token: &str) -> Result<Access, Refusal> {
        (self.0)(token)
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Authority")
    }
}

/// The access of whoever sent a request, by a token in its header, or in its query where that may
/// stand `in_query`.
pub(crate) fn access(parts: &Parts, in_query: bool) -> Result<Access, Refusal> {
    if let Some(access) = parts.extensions.get::<Access>() {
        return Ok(access.clone());
    }
    let authority = parts.extensions.get::<Authority>();
    let authority = authority.ok_or(Refusal::Missing)?;
    let named = match in_query {
        true => of_query(&parts.uri)?,
        false => None,
    };
    match (of_header(&parts.headers)?, named) {
        (Some(_), Some(_)) => Err(Refusal::Several),
        (Some(token), None) => authority.verify(token),
        (None, Some(token)) => authority.verify(token),
        (None, None) => Err(Refusal::Missing),
    }
}

/// The token in `Authorization: Bearer TOKEN`; the scheme is in any case (RFC 9110 §11.1).
fn of_header(headers: &HeaderMap) -> Result<Option<&str>, Refusal> {
    let mut all = headers.get_all(AUTHORIZATION).iter();
    let Some(value) = all.next() else {
        return Ok(None);
    };
    if all.next().is_some() {
        return Err(Refusal::Several);
    }
    let wrong = Refusal::Invalid("Authorization is to be: Bearer TOKEN");
    let value = value.to_str().map_err(|_| wrong)?;
    match value.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => Ok(Some(token.trim())),
        _ => Err(wrong),
    }
}

/// The token of a query. Nothing that one is made of is ever escaped.
fn of_query(uri: &Uri) -> Result<Option<&str>, Refusal> {
    let pairs = uri.query().unwrap_or_default().split('&');
    let mut all = pairs.filter_map(|pair| match pair.split_once('=') {
        Some((PARAMETER, token)) => Some(token),
        _ => None,
    });
    match (all.next(), all.next()) {
        (_, Some(_)) => Err(Refusal::Several),
        (token, None) => Ok(token),
    }
}

impl Refusal {
    fn detail(self) -> &'static str {
        match self {
            Self::Missing => "a token is needed here, as in: Authorization: Bearer TOKEN",
            Self::Expired => "the token has expired",
            Self::Invalid(why) => why,
            Self::Several => "one token, in one place, is enough",
        }
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let (status, error) = match refusal {
            // Whoever did not try is not told of an error (RFC 6750 §3.1).
            Refusal::Missing => (StatusCode::UNAUTHORIZED, None),
            Refusal::Several => (StatusCode::BAD_REQUEST, Some("invalid_request")),
            Refusal::Expired | Refusal::Invalid(_) => {
                (StatusCode::UNAUTHORIZED, Some("invalid_token"))
            }
        };
        let challenge = match error {
            None => "Bearer realm=\"herald\"".to_owned(),
            Some(error) => {
                let description = refusal.detail();
                format!(
                    "Bearer realm=\"herald\", error=\"{error}\", error_description=\"{description}\""
                )
            }
        };
        Self::new(status, refusal.detail()).challenging(challenge)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        Problem::from(self).into_response()
    }
}

#[cfg(test)]
mod tests {
    use axum::http::Request;

    use super::*;

    /// Everybody whose token is `good`.
    fn authority() -> Authority {
        Authority::new(|token| match token {
            "good" => Ok(Access::unrestricted()),
            _ => Err(Refusal::Invalid("it is bad")),
        })
    }

    fn asks(uri: &str, headers: &[&str], in_query: bool) -> Option<Refusal> {
        let mut request = Request::get(uri).extension(authority());
        for value in headers {
            request = request.header(AUTHORIZATION, *value);
        }
        let (parts, ()) = request.body(()).expect("a request").into_parts();
        access(&parts, in_query).err()
    }

    #[test]
    fn a_token_is_in_the_header_or_where_that_may_be_in_the_query() {
        for header in ["Bearer good", "bearer good", "BEARER  good"] {
            assert_eq!(asks("/", &[header], false), None, "{header}");
        }
        assert_eq!(asks("/?a=b&access_token=good", &[], true), None);
        let in_query = asks("/?access_token=good", &[], false);
        assert_eq!(in_query, Some(Refusal::Missing));
        assert_eq!(asks("/", &[], true), Some(Refusal::Missing));
    }

    #[test]
    fn what_is_no_token_or_more_than_one_is_refused() {
        for header in [
            "good",
            "Basic good",
            "Bearer",
            "Bearer bad",
            "Bearer\u{e9} good",
        ] {
            let refused = asks("/", &[header], false);
            assert!(matches!(refused, Some(Refusal::Invalid(_))), "{header}");
        }
        let several = Some(Refusal::Several);
        assert_eq!(asks("/", &["Bearer good", "Bearer good"], false), several);
        assert_eq!(asks("/?access_token=good", &["Bearer good"], true), several);
        let twice = "/?access_token=good&access_token=good";
        assert_eq!(asks(twice, &[], true), several);
    }

    #[test]
    fn a_challenge_says_what_is_wrong_but_for_those_who_did_not_try() {
        for (refusal, status, challenge) in [
            (Refusal::Missing, 401, "Bearer realm=\"herald\""),
            (
                Refusal::Expired,
                401,
                "Bearer realm=\"herald\", error=\"invalid_token\", \
                 error_description=\"the token has expired\"",
            ),
        ] {
            let response = refusal.into_response();
            assert_eq!(response.status(), status);
            assert_eq!(response.headers()["www-authenticate"], challenge);
        }
    }
}
