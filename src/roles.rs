//! Which of herald's roles a process takes: `--only relay,http,sinks` or `--only sinks=email`.

use std::str::FromStr;

/// The roles of one process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Roles {
    pub relay: bool,
    pub http: bool,
    pub sinks: SinkRole,
}

/// Which competing sinks a process drives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SinkRole {
    None,
    All,
    Named(Vec<String>),
}

impl Roles {
    pub const ALL: Self = Self {
        relay: true,
        http: true,
        sinks: SinkRole::All,
    };

    /// Whether the process drives this competing sink.
    pub fn runs(&self, sink: &str) -> bool {
        match &self.sinks {
            SinkRole::None => false,
            SinkRole::All => true,
            SinkRole::Named(names) => names.iter().any(|name| name == sink),
        }
    }
}

impl FromStr for Roles {
    type Err = String;

    /// Reads a comma list. What follows `sinks=` is names of sinks until the next role.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut roles = Self {
            relay: false,
            http: false,
            sinks: SinkRole::None,
        };
        for item in text.split(',').map(str::trim) {
            match item {
                "relay" => roles.relay = true,
                "http" => roles.http = true,
                "sinks" => roles.sinks = SinkRole::All,
                _ => match (item.strip_prefix("sinks="), &mut roles.sinks) {
                    (Some(first), sinks) if !first.is_empty() => {
                        *sinks = SinkRole::Named(vec![first.to_owned()]);
                    }
                    (None, SinkRole::Named(names)) if !item.is_empty() => {
                        names.push(item.to_owned());
                    }
                    _ => {
                        return Err(format!(
                            "{item:?} is no role; use relay, http, sinks or sinks=NAME,NAME"
                        ));
                    }
                },
            }
        }
        Ok(roles)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_roles_is_read() {
        assert_eq!("relay,http,sinks".parse(), Ok(Roles::ALL));
        let named: Roles = "http,sinks=email,web_push,relay".parse().expect("valid");
        assert!(named.relay && named.http);
        assert!(named.runs("email") && named.runs("web_push") && !named.runs("sms"));
        let http: Roles = "http".parse().expect("valid");
        assert!(!http.relay && !http.runs("email"));
        for bad in ["", "email", "sinks=", "relay,mail"] {
            assert!(bad.parse::<Roles>().is_err(), "{bad:?}");
        }
    }
}
