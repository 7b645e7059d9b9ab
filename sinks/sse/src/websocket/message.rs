//! What client and herald say to each other beside events: JSON objects.
//!
//! What herald says has a `herald` key, which no event has.

use bytes::{Bytes, BytesMut};
use herald_routes::{Body, Problem};
use serde::{Deserialize, Serialize};
use ulid::Ulid;

use super::{close, wire};
use crate::log::Topic;
use crate::route::Query;

/// What herald says.
#[derive(Debug, Serialize)]
#[serde(
    tag = "herald",
    rename_all = "camelCase",
    rename_all_fields = "camelCase"
)]
pub enum Said<'a> {
    /// The stream begins, with the id from which it can be resumed before its first event.
    Subscribed {
        tenant_id: &'a str,
        types: String,
        last_event_id: Ulid,
    },
    Reset {
        reason: &'static str,
    },
    Unsubscribed,
    /// The connection goes on as the new token says.
    Renewed,
    /// The token has expired, and so the connection ends.
    Expired {
        reason: &'static str,
    },
    /// What the client said changes nothing.
    Error {
        detail: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        field: Option<&'a str>,
    },
    /// A heartbeat that the client's program sees.
    Ping,
}

impl Said<'_> {
    pub const EXPIRED: Self = Self::Reset {
        reason: "events expired",
    };
    const UNKNOWN_CURSOR: Self = Self::Reset {
        reason: "unknown cursor",
    };

    pub fn frame(&self) -> Bytes {
        // Text and ids: there is nothing that could not be written.
        wire::text(&serde_json::to_string(self).unwrap_or_default())
    }

    pub fn error(problem: &Problem) -> Bytes {
        let error = Said::Error {
            detail: &problem.detail,
            field: problem.field.as_deref(),
        };
        error.frame()
    }
}

/// The last words to a client whose token has expired.
pub fn token_expired() -> Bytes {
    let said = Said::Expired {
        reason: "token expired",
    };
    let mut out = BytesMut::from(&*said.frame());
    out.extend_from_slice(&close::token_expired());
    out.freeze()
}

/// What comes before the events of a stream.
pub fn opening(topic: &Topic, reset: bool, last_event_id: Ulid) -> Bytes {
    let mut out = BytesMut::new();
    if reset {
        // Before the id: a client that loses the connection in between is told again.
        out.extend_from_slice(&Said::UNKNOWN_CURSOR.frame());
    }
    let subscribed = Said::Subscribed {
        tenant_id: &topic.tenant,
        types: topic.types.to_string(),
        last_event_id,
    };
    out.extend_from_slice(&subscribed.frame());
    out.freeze()
}

/// What a client asks for. It can hold a token, so it is never shown.
pub enum Command {
    Subscribe(Query),
    Unsubscribe,
    /// Goes on with this token.
    Renew(String),
}

/// A command as it is written. One of the keys is there.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    subscribe: Option<Subscribe>,
    unsubscribe: Option<Unsubscribe>,
    renew: Option<Renew>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Subscribe {
    tenant_id: Option<String>,
    types: Option<String>,
    after: Option<i64>,
    last_event_id: Option<String>,
    ping: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Unsubscribe {}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Renew {
    token: String,
}

impl Command {
    /// # Errors
    /// What is wrong, and in which field.
    pub fn read(text: &str) -> Result<Self, Problem> {
        let Body(written) = Body::from_bytes(text.as_bytes())?;
        match written {
            Written {
                subscribe: Some(subscribe),
                unsubscribe: None,
                renew: None,
            } => Ok(Self::Subscribe(subscribe.into())),
            Written {
                subscribe: None,
                unsubscribe: Some(Unsubscribe {}),
                renew: None,
            } => Ok(Self::Unsubscribe),
            Written {
                subscribe: None,
                unsubscribe: None,
                renew: Some(Renew { token }),
            } => Ok(Self::Renew(token)),
            _ => Err(Problem::bad_request(
                "a message has one key: subscribe, unsubscribe or renew",
            )),
        }
    }
}

impl From<Subscribe> for Query {
    fn from(subscribe: Subscribe) -> Self {
        Self {
            tenant_id: subscribe.tenant_id,
            types: subscribe.types,
            after: subscribe.after.map(|after| after.to_string()),
            last_event_id: subscribe.last_event_id,
            ping: subscribe.ping.then(|| "true".to_owned()),
            named: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_herald_says_is_as_documented() {
        for (said, json) in [
            (Said::Ping, r#"{"herald":"ping"}"#),
            (Said::Unsubscribed, r#"{"herald":"unsubscribed"}"#),
            (Said::Renewed, r#"{"herald":"renewed"}"#),
            (
                Said::EXPIRED,
                r#"{"herald":"reset","reason":"events expired"}"#,
            ),
            (
                Said::Subscribed {
                    tenant_id: "acme \"",
                    types: "*".into(),
                    last_event_id: Ulid::nil(),
                },
                r#"{"herald":"subscribed","tenantId":"acme \"","types":"*","lastEventId":"00000000000000000000000000"}"#,
            ),
            (
                Said::Error {
                    detail: "no",
                    field: None,
                },
                r#"{"herald":"error","detail":"no"}"#,
            ),
        ] {
            assert_eq!(said.frame(), wire::text(json));
        }
    }

    #[test]
    fn a_command_that_is_not_understood_says_where_it_is_wrong() {
        for (text, detail, field) in [
            ("", "malformed JSON", None),
            ("[]", "an object is expected", None),
            ("{}", "one key", None),
            (r#"{"subscribe":{},"unsubscribe":{}}"#, "one key", None),
            (r#"{"subscribe":{}} {}"#, "trailing", None),
            (
                r#"{"emit":{}}"#,
                "unknown field `emit`, expected one of `subscribe`, `unsubscribe`, `renew`",
                Some("emit"),
            ),
            (
                r#"{"subscribe":{"tenant":"a"}}"#,
                "unknown field `tenant`",
                Some("subscribe.tenant"),
            ),
            (
                r#"{"subscribe":{"after":"7"}}"#,
                "expected i64",
                Some("subscribe.after"),
            ),
            (
                r#"{"unsubscribe":{},"renew":{"token":""}}"#,
                "one key",
                None,
            ),
            (r#"{"renew":{}}"#, "missing field `token`", Some("renew")),
            (
                r#"{"unsubscribe":{"tenantId":"a"}}"#,
                "unknown field",
                Some("unsubscribe.tenantId"),
            ),
        ] {
            let problem = Command::read(text).err().expect(text);
            assert!(problem.detail.contains(detail), "{text}: {problem:?}");
            assert_eq!(problem.field.as_deref(), field, "{text}");
        }
    }
}
