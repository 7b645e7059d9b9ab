//! Which requests become a WebSocket, and the answer to them (RFC 6455 §4.2).
//!
//! Neither subprotocols nor extensions are agreed on. Whose page asks is the host's to look at.

use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version, header};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use herald_routes::Problem;
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};

/// What is put behind the key of whoever asks, to show that the answer is to them (RFC 6455 §1.3).
const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

const WEBSOCKET: HeaderValue = HeaderValue::from_static("websocket");
const UPGRADE: HeaderValue = HeaderValue::from_static("upgrade");
const VERSION: HeaderValue = HeaderValue::from_static("13");

/// Why a request cannot become a WebSocket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// 400.
    Malformed(&'static str),
    /// 426: it does not ask to, or in a version that is not spoken here (RFC 6455 §4.4).
    UpgradeRequired(&'static str),
}

/// The answer to the request's key.
///
/// # Errors
/// The request cannot become a WebSocket.
pub fn accept(
    method: &Method,
    version: Version,
    headers: &HeaderMap,
) -> Result<HeaderValue, Refusal> {
    use Refusal::{Malformed, UpgradeRequired};
    if version != Version::HTTP_11 {
        return Err(Malformed("a WebSocket begins with a request of HTTP/1.1"));
    }
    if method != Method::GET
        || !has(headers, header::UPGRADE, "websocket")
        || !has(headers, header::CONNECTION, "upgrade")
    {
        return Err(UpgradeRequired("this is a WebSocket: ask to upgrade to it"));
    }
    if headers.get(header::SEC_WEBSOCKET_VERSION) != Some(&VERSION) {
        return Err(UpgradeRequired("the version of WebSocket here is 13"));
    }
    let answer = key(headers).and_then(|key| HeaderValue::try_from(sign(key)).ok());
    answer.ok_or(Malformed("Sec-WebSocket-Key must be 16 bytes in base64"))
}

/// The 101 with this answer to the key.
pub fn switch(accept: HeaderValue) -> Response {
    let headers = [
        (header::UPGRADE, WEBSOCKET),
        (header::CONNECTION, UPGRADE),
        (header::SEC_WEBSOCKET_ACCEPT, accept),
    ];
    (StatusCode::SWITCHING_PROTOCOLS, headers).into_response()
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        match self {
            Self::Malformed(detail) => Problem::bad_request(detail).into_response(),
            Self::UpgradeRequired(detail) => {
                let headers = [
                    (header::UPGRADE, WEBSOCKET),
                    (header::CONNECTION, UPGRADE),
                    (header::SEC_WEBSOCKET_VERSION, VERSION),
                ];
                let problem = Problem::new(StatusCode::UPGRADE_REQUIRED, detail);
                (headers, problem).into_response()
            }
        }
    }
}

/// Whether a header that is a list has this item, in whatever case.
fn has(headers: &HeaderMap, name: HeaderName, item: &str) -> bool {
    let lists = headers.get_all(name).into_iter();
    lists
        .filter_map(|list| list.to_str().ok())
        .flat_map(|list| list.split(','))
        .any(|found| found.trim().eq_ignore_ascii_case(item))
}

/// The key, if there is one and it is one.
fn key(headers: &HeaderMap) -> Option<&str> {
    let mut keys = headers.get_all(header::SEC_WEBSOCKET_KEY).into_iter();
    let (Some(key), None) = (keys.next(), keys.next()) else {
        return None;
    };
    let key = key.to_str().ok()?.trim();
    let bytes = BASE64_STANDARD.decode(key).ok()?;
    (bytes.len() == 16).then_some(key)
}

fn sign(key: &str) -> String {
    let signed = digest(&SHA1_FOR_LEGACY_USE_ONLY, format!("{key}{GUID}").as_bytes());
    BASE64_STANDARD.encode(signed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_to_the_key_of_the_rfc_is_the_one_of_the_rfc() {
        let answer = sign("dGhlIHNhbXBsZSBub25jZQ==");
        assert_eq!(answer, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }
}
