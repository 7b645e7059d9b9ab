//! The names that producers choose, and filters over them.

use std::fmt;

use ulid::Ulid;

/// The longest tenant or type, in bytes.
const MAX_NAME: usize = 128;

/// A name that cannot be a tenant or a type; says what is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidName(pub &'static str);

/// A tenant is 1 to 128 bytes without control characters and without space at its ends.
///
/// # Errors
/// Which of these it breaks.
pub fn check_tenant(tenant: &str) -> Result<(), InvalidName> {
    check_length(tenant)?;
    if tenant.trim() != tenant {
        return Err(InvalidName("must not begin or end with white space"));
    }
    check_control(tenant)
}

/// A type is 1 to 128 bytes without control characters, white space, `,` and `*`, which filters
/// use. It becomes an SSE `event:` line, where a line break would end it (WHATWG HTML §9.2).
///
/// # Errors
/// Which of these it breaks.
pub fn check_type(kind: &str) -> Result<(), InvalidName> {
    check_length(kind)?;
    check_control(kind)?;
    if kind.contains(char::is_whitespace) {
        return Err(InvalidName("must not contain white space"));
    }
    if kind.contains([',', '*']) {
        return Err(InvalidName("must not contain ',' or '*'"));
    }
    Ok(())
}

/// Reads an event's id: a ULID as its specification writes it, upper and lower case alike. The nil
/// ULID is the cursor before the first event, so no event has it.
///
/// # Errors
/// It is not such a ULID, such as one that overflows 128 bits.
pub fn parse_event_id(text: &str) -> Result<Ulid, InvalidName> {
    match Ulid::from_string(text) {
        // Reading is lenient: it drops bits that overflow, and takes letters for others.
        Ok(id) if id != Ulid(0) && id.to_string() == text.to_ascii_uppercase() => Ok(id),
        _ => Err(InvalidName(
            "must be a ULID: 26 characters of Crockford's base 32, not all zero",
        )),
    }
}

fn check_length(name: &str) -> Result<(), InvalidName> {
    match name.len() {
        0 => Err(InvalidName("must not be empty")),
        1..=MAX_NAME => Ok(()),
        _ => Err(InvalidName("must be at most 128 bytes")),
    }
}

fn check_control(name: &str) -> Result<(), InvalidName> {
    if name.contains(char::is_control) {
        return Err(InvalidName(
            "must not contain control characters (CR, LF, NUL …)",
        ));
    }
    Ok(())
}

/// Which types are wanted: exact names and prefixes. The empty filter wants all.
///
/// Written as `order.*,user.created`: a `*` stands at the end only.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TypeFilter {
    pub exact: Vec<String>,
    /// Without their `*`.
    pub prefixes: Vec<String>,
}

/// As [`TypeFilter::parse`] reads it; `*` for all.
impl fmt::Display for TypeFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.wants_all() {
            return f.write_str("*");
        }
        let exact = self.exact.iter().map(|exact| (exact, ""));
        let prefixes = self.prefixes.iter().map(|prefix| (prefix, "*"));
        for (at, (item, end)) in exact.chain(prefixes).enumerate() {
            let comma = if at > 0 { "," } else { "" };
            write!(f, "{comma}{item}{end}")?;
        }
        Ok(())
    }
}

impl TypeFilter {
    /// Reads a comma list. Empty text, or a lone `*`, wants all.
    ///
    /// # Errors
    /// An item is not a type, or has a `*` elsewhere than at its end.
    pub fn parse(list: &str) -> Result<Self, InvalidName> {
        Self::from_items(list.split(',').map(str::trim).filter(|i| !i.is_empty()))
    }

    /// Reads the items of a list.
    ///
    /// # Errors
    /// As [`TypeFilter::parse`].
    pub fn from_items<'a>(items: impl IntoIterator<Item = &'a str>) -> Result<Self, InvalidName> {
        let mut filter = Self::default();
        let mut all = false;
        for item in items {
            match item.strip_suffix('*') {
                Some("") => all = true,
                Some(prefix) => {
                    check_type(prefix)?;
                    filter.prefixes.push(prefix.to_owned());
                }
                None => {
                    check_type(item)?;
                    filter.exact.push(item.to_owned());
                }
            }
        }
        Ok(if all { Self::default() } else { filter })
    }

    pub fn wants_all(&self) -> bool {
        self.exact.is_empty() && self.prefixes.is_empty()
    }

    pub fn matches(&self, kind: &str) -> bool {
        self.wants_all()
            || self.exact.iter().any(|e| e == kind)
            || self.prefixes.iter().any(|p| kind.starts_with(p.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tenants_and_types_that_would_break_a_frame_or_a_filter_are_refused() {
        for bad in ["", "a\rb", "a\nb", "a\0b", &"x".repeat(129)] {
            assert!(check_tenant(bad).is_err(), "{bad:?}");
            assert!(check_type(bad).is_err(), "{bad:?}");
        }
        assert!(check_tenant(" acme").is_err());
        assert!(check_tenant("Acme & Söhne").is_ok());
        for bad in ["a b", "a,b", "order.*"] {
            assert!(check_type(bad).is_err(), "{bad:?}");
        }
        assert!(check_type("注文.作成").is_ok());
    }

    #[test]
    fn only_what_a_ulid_looks_like_is_an_event_id() {
        assert!(parse_event_id("01JD5ZQ9V7C3M1T0000000000A").is_ok());
        assert!(parse_event_id("01jd5zq9v7c3m1t0000000000a").is_ok());
        for bad in [
            "",
            "zzz",
            "00000000000000000000000000",
            "81JD5ZQ9V7C3M1T0000000000A",
            "01JD5ZQ9V7C3M1T0000000000\n",
            "IIJD5ZQ9V7C3M1T0000000000A",
        ] {
            assert!(parse_event_id(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_filter_wants_names_and_prefixes() {
        let filter = TypeFilter::parse("order.*, user.created").expect("valid");
        assert!(filter.matches("order.created"));
        assert!(filter.matches("user.created"));
        assert!(!filter.matches("user.created.late"));
        assert!(!filter.matches("orders"));
        for all in ["", "*", "order.*,*", " , "] {
            assert!(TypeFilter::parse(all).expect("valid").matches("anything"));
        }
        assert!(TypeFilter::parse("or*der").is_err());
    }

    #[test]
    fn a_filter_is_written_as_it_is_read() {
        for (read, written) in [
            ("", "*"),
            ("order.*,*", "*"),
            ("order.*, user.created,a", "user.created,a,order.*"),
        ] {
            let filter = TypeFilter::parse(read).expect("valid");
            assert_eq!(filter.to_string(), written);
            assert_eq!(TypeFilter::parse(written), Ok(filter));
        }
    }
}
