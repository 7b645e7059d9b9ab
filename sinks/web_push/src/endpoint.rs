//! Where a push may be sent to. Browsers hand in endpoints, and whoever may subscribe can hand in
//! any URL, so without rules herald would post into the private network for them.
//!
//! | endpoint | `private_endpoints =` `"none"` | `"loopback"` | `"all"` |
//! | --- | --- | --- | --- |
//! | `https` to a public address | yes | yes | yes |
//! | `https` to a loopback address or `localhost` | no | yes | yes |
//! | `https` to another private address | no | no | yes |
//! | `http` to a loopback address or `localhost` | no | yes | yes |
//! | `http` elsewhere | no | no | no |
//!
//! Addresses that stand in the URL are looked at when it comes in and before each push; names
//! when they are resolved, so that a name which changes its address gains nothing.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll};

use http::Uri;
use hyper_util::client::legacy::connect::dns::Name;
use serde::Deserialize;
use tower_service::Service;

/// The longest endpoint, in bytes.
pub const MAX_ENDPOINT: usize = 2048;

/// Which addresses that are not public may be pushed to; the table stands in the file's head.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PrivateEndpoints {
    /// For installations that strangers can subscribe at.
    None,
    /// For development and tests.
    #[default]
    Loopback,
    /// For a push service in one's own network.
    All,
}

/// An endpoint that may be pushed to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    pub uri: Uri,
    /// Scheme, host and port (RFC 6454 §6.2), which a VAPID token is made out to.
    pub origin: String,
}

impl Endpoint {
    /// Reads an endpoint and applies the rules.
    ///
    /// # Errors
    /// Which rule it breaks, in words that may be shown to whoever sent it.
    pub fn new(text: &str, private: PrivateEndpoints) -> Result<Self, String> {
        if text.len() > MAX_ENDPOINT {
            return Err(format!("must be at most {MAX_ENDPOINT} bytes"));
        }
        let uri: Uri = text.parse().map_err(|e| format!("is not a URL: {e}"))?;
        let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
            return Err("must be an absolute URL".into());
        };
        if authority.as_str().contains('@') {
            return Err("must not contain a user or password".into());
        }
        let host = uri.host().unwrap_or_default().to_ascii_lowercase();
        if host.is_empty() {
            return Err("must name a host".into());
        }
        let place = Place::of_host(&host);
        match scheme {
            "https" => {}
            "http" if place == Some(Place::Loopback) => {}
            _ => return Err("must be an https URL".into()),
        }
        if place.is_some_and(|place| !place.allowed(private)) {
            return Err("must not point to a private address".into());
        }
        let default = if scheme == "https" { 443 } else { 80 };
        let origin = match uri.port_u16() {
            Some(port) if port != default => format!("{scheme}://{host}:{port}"),
            _ => format!("{scheme}://{host}"),
        };
        Ok(Self { uri, origin })
    }
}

/// Where an address is, as far as the rules care.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Public,
    Loopback,
    Private,
}

impl Place {
    fn allowed(self, private: PrivateEndpoints) -> bool {
        match self {
            Self::Public => true,
            Self::Loopback => private != PrivateEndpoints::None,
            Self::Private => private == PrivateEndpoints::All,
        }
    }

    /// Of a URL's host; `None` when it is a name that must be resolved first.
    fn of_host(host: &str) -> Option<Self> {
        if is_localhost(host) {
            return Some(Self::Loopback);
        }
        let literal = host.trim_start_matches('[').trim_end_matches(']');
        literal.parse().ok().map(Self::of)
    }

    fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => Self::of_v4(v4),
            IpAddr::V6(v6) => Self::of_v6(v6),
        }
    }

    /// By the registry of special-purpose addresses (RFC 6890).
    fn of_v4(v4: Ipv4Addr) -> Self {
        if v4.is_loopback() {
            return Self::Loopback;
        }
        let [a, b, c, _] = v4.octets();
        let shared = a == 100 && (64..128).contains(&b);
        let protocols = a == 192 && b == 0 && c == 0;
        let benchmarks = a == 198 && (b == 18 || b == 19);
        if a == 0
            || a >= 224
            || v4.is_private()
            || v4.is_link_local()
            || v4.is_documentation()
            || shared
            || protocols
            || benchmarks
        {
            Self::Private
        } else {
            Self::Public
        }
    }

    fn of_v6(v6: Ipv6Addr) -> Self {
        if v6.is_loopback() {
            return Self::Loopback;
        }
        let s = v6.segments();
        let embedded = |high: u16, low: u16| {
            let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
            Self::of_v4(Ipv4Addr::new(a, b, c, d))
        };
        match s {
            // IPv4 in other clothes: mapped (RFC 4291 §2.5.5.2), NAT64 (RFC 6052), 6to4 (RFC 3056).
            [0, 0, 0, 0, 0, 0xffff, high, low] => embedded(high, low),
            [0x64, 0xff9b, 0, 0, 0, 0, high, low] => embedded(high, low),
            [0x2002, high, low, ..] => embedded(high, low),
            // All of today's public addresses are 2000::/3, bar what is for documentation.
            [0x2001, 0xdb8, ..] => Self::Private,
            [first, ..] if first & 0xe000 == 0x2000 => Self::Public,
            _ => Self::Private,
        }
    }
}

/// Names that are this machine by definition (RFC 6761 §6.3).
fn is_localhost(host: &str) -> bool {
    host == "localhost" || host.ends_with(".localhost")
}

/// Resolves names by the system, and leaves out the addresses that must not be pushed to.
#[derive(Debug, Clone)]
pub struct Resolver(pub PrivateEndpoints);

impl Service<Name> for Resolver {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let private = self.0;
        Box::pin(async move {
            let host = name.as_str().to_ascii_lowercase();
            let found: Vec<SocketAddr> =
                tokio::net::lookup_host((host.as_str(), 0)).await?.collect();
            let allowed = admit(&host, found, private);
            if allowed.is_empty() {
                return Err(io::Error::new(
                    io::ErrorKind::PermissionDenied,
                    format!("{host} is at private addresses only (see private_endpoints)"),
                ));
            }
            Ok(allowed.into_iter())
        })
    }
}

/// Of the addresses that a name has, those that may be pushed to. Only `localhost` may be the
/// loopback address: another name that resolves to it is an attempt to reach inside.
fn admit(host: &str, found: Vec<SocketAddr>, private: PrivateEndpoints) -> Vec<SocketAddr> {
    let local = is_localhost(host);
    found
        .into_iter()
        .filter(|address| {
            let place = Place::of(address.ip());
            place.allowed(private)
                && (private == PrivateEndpoints::All || (place == Place::Loopback) == local)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::PrivateEndpoints::{All, Loopback, None};
    use super::*;

    #[test]
    fn endpoints_follow_the_table() {
        for (endpoint, none, loopback, all) in [
            ("https://push.example.net/a?b=c", true, true, true),
            ("https://8.8.8.8/a", true, true, true),
            ("https://[2606:4700::1111]/a", true, true, true),
            ("https://localhost:8443/a", false, true, true),
            ("http://127.0.0.1:9/a", false, true, true),
            ("http://LOCALHOST/a", false, true, true),
            ("http://[::1]:9/a", false, true, true),
            ("https://10.0.0.1/a", false, false, true),
            ("https://169.254.169.254/latest", false, false, true),
            ("https://[fd00::1]/a", false, false, true),
            ("https://[::ffff:192.168.1.1]/a", false, false, true),
            ("https://[64:ff9b::a00:1]/a", false, false, true),
            ("http://10.0.0.1/a", false, false, false),
            ("http://push.example.net/a", false, false, false),
            ("ftp://127.0.0.1/a", false, false, false),
            ("https://user@push.example.net/a", false, false, false),
            ("https://127.0.0.1@push.example.net/a", false, false, false),
            ("/a", false, false, false),
            ("push.example.net", false, false, false),
            ("https://", false, false, false),
            ("https://a b/", false, false, false),
            ("", false, false, false),
        ] {
            for (private, expected) in [(None, none), (Loopback, loopback), (All, all)] {
                let result = Endpoint::new(endpoint, private);
                assert_eq!(
                    result.is_ok(),
                    expected,
                    "{endpoint} {private:?}: {result:?}"
                );
            }
        }
        let long = format!("https://push.example.net/{}", "x".repeat(MAX_ENDPOINT));
        assert!(Endpoint::new(&long, All).is_err());
    }

    #[test]
    fn an_origin_is_written_as_rfc_6454_says() {
        for (endpoint, origin) in [
            ("https://Push.Example.net/a/b", "https://push.example.net"),
            ("https://push.example.net:443/a", "https://push.example.net"),
            (
                "https://push.example.net:8443/",
                "https://push.example.net:8443",
            ),
            ("http://127.0.0.1:9/a", "http://127.0.0.1:9"),
            ("http://[::1]:80/a", "http://[::1]"),
        ] {
            let endpoint = Endpoint::new(endpoint, Loopback).expect("allowed");
            assert_eq!(endpoint.origin, origin);
        }
    }

    #[test]
    fn a_name_that_resolves_inside_is_not_followed() {
        let at = |ip: &str| vec![SocketAddr::new(ip.parse().expect("address"), 0)];
        for (host, ip, none, loopback, all) in [
            ("push.example.net", "8.8.8.8", 1, 1, 1),
            ("push.example.net", "10.0.0.1", 0, 0, 1),
            ("push.example.net", "127.0.0.1", 0, 0, 1),
            ("push.example.net", "::1", 0, 0, 1),
            ("localhost", "127.0.0.1", 0, 1, 1),
            ("localhost", "8.8.8.8", 0, 0, 1),
        ] {
            for (private, expected) in [(None, none), (Loopback, loopback), (All, all)] {
                let admitted = admit(host, at(ip), private);
                assert_eq!(admitted.len(), expected, "{host} {ip} {private:?}");
            }
        }
    }
}
