//! Whether a stream is compressed: what a client accepts (RFC 9110 §12.5.3).

use axum::http::{HeaderMap, header};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Coding {
    #[default]
    Identity,
    Gzip,
}

impl Coding {
    /// Gzip, where it is asked for by name or by `*` and something else is not preferred.
    pub fn accepted(headers: &HeaderMap) -> Self {
        let (mut gzip, mut identity, mut any) = (None, None, None);
        let lists = headers.get_all(header::ACCEPT_ENCODING).into_iter();
        for item in lists
            .filter_map(|list| list.to_str().ok())
            .flat_map(|list| list.split(','))
        {
            let (name, quality) = read(item);
            match name.to_ascii_lowercase().as_str() {
                // An old name of the same (§8.4.1.3).
                "gzip" | "x-gzip" => gzip = gzip.max(Some(quality)),
                "identity" => identity = identity.max(Some(quality)),
                "*" => any = any.max(Some(quality)),
                _ => {}
            }
        }
        // What is accepted without being named is worth less than what is named.
        let gzip = gzip.or(any).unwrap_or_default();
        match gzip > 0 && gzip >= identity.unwrap_or_default() {
            true => Self::Gzip,
            false => Self::Identity,
        }
    }
}

/// The coding, and its weight in thousandths; one that cannot be read is none.
fn read(item: &str) -> (&str, u16) {
    let Some((name, weight)) = item.split_once(';') else {
        return (item.trim(), 1000);
    };
    let weight = weight.trim();
    let digits = weight.strip_prefix("q=").or(weight.strip_prefix("Q="));
    (
        name.trim(),
        digits.and_then(thousandths).unwrap_or_default(),
    )
}

/// A weight from 0 to 1, with three digits at most behind the point (§12.4.2).
fn thousandths(text: &str) -> Option<u16> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let is_short = fraction.len() <= 3 && fraction.bytes().all(|b| b.is_ascii_digit());
    if !matches!(whole, "0" | "1") || !is_short {
        return None;
    }
    let weight = format!("{whole}{fraction:0<3}").parse().ok()?;
    (weight <= 1000).then_some(weight)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepted(lists: &[&str]) -> Coding {
        let mut headers = HeaderMap::new();
        for list in lists {
            headers.append(header::ACCEPT_ENCODING, list.parse().expect("a value"));
        }
        Coding::accepted(&headers)
    }

    #[test]
    fn gzip_is_for_those_who_ask_for_it() {
        for list in [
            "gzip",
            "GZip",
            "x-gzip",
            "gzip, deflate, br, zstd",
            "br;q=1.0, gzip;q=0.8",
            "deflate,gzip;q=0.001",
            "gzip ; q=0.5",
            "gzip;Q=1.000",
            "*",
            "*;q=0.1",
            "br, *;q=0.1, identity;q=0",
            "identity;q=0.5, gzip;q=0.5",
            "identity;q=0.5, *",
        ] {
            assert_eq!(accepted(&[list]), Coding::Gzip, "{list}");
        }
        assert_eq!(accepted(&["br", "identity;q=0, gzip"]), Coding::Gzip);
    }

    #[test]
    fn whoever_does_not_accept_it_or_prefers_none_has_none() {
        for list in [
            "",
            "br",
            "identity",
            "gzip;q=0",
            "gzip;q=0.000, *",
            "*;q=0",
            "gzip;q=0.5, identity",
            "gzip;q=0.5, identity;q=0.501",
            "*;q=0.5, identity;q=1",
            "gzip;q=1.001",
            "gzip;q=0.0001",
            "gzip;q=-1",
            "gzip;q=",
            "gzip;level=9",
            "gzipped",
        ] {
            assert_eq!(accepted(&[list]), Coding::Identity, "{list:?}");
        }
        assert_eq!(accepted(&[]), Coding::Identity);
    }
}
