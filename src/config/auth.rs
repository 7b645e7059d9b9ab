//! Who may use the API, and what checks that needs.

use std::fmt;
use std::path::{Path as FilePath, PathBuf};
use std::time::Duration;

use figment::value::Value;
use herald_contract::duration;
use serde::{Deserialize, Serialize};

use super::Http;
use super::checks::{Checks, HOUR};
use super::load;
use super::redact;
use crate::auth::{MIN_SECRET, PublicKey};

/// Who may use the API.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Auth {
    pub mode: AuthMode,
    /// What tokens are signed with (HS256). After loading, what `secret_file` holds, if that is
    /// set.
    #[serde(serialize_with = "redact::secret")]
    pub secret: Option<String>,
    /// A file that holds the secret.
    pub secret_file: Option<PathBuf>,
    /// A file with the key that others' tokens are verified with, in PEM: Ed25519 (EdDSA), P-256
    /// (ES256) or RSA (RS256).
    pub public_key_file: Option<PathBuf>,
    /// After loading, what `public_key_file` holds.
    #[serde(skip)]
    pub public_key: Option<String>,
    /// Whose tokens are taken (`iss`); unless set, anybody's who has the key.
    pub issuer: Option<String>,
    /// For whom tokens must be (`aud`); unless set, for nobody in particular.
    pub audience: Option<String>,
    /// How far clocks may differ.
    #[serde(with = "duration")]
    pub leeway: Duration,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AuthMode {
    /// Everyone; refused on an address that others can reach.
    #[default]
    None,
    /// Whoever has a signed token.
    Jwt,
}

impl Default for Auth {
    fn default() -> Self {
        Self {
            mode: AuthMode::None,
            secret: None,
            secret_file: None,
            public_key_file: None,
            public_key: None,
            issuer: None,
            audience: None,
            leeway: Duration::from_secs(30),
        }
    }
}

impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Auth")
            .field("mode", &self.mode)
            .field("secret", &self.secret.as_ref().map(|_| redact::HIDDEN))
            .field("secret_file", &self.secret_file)
            .field("public_key_file", &self.public_key_file)
            .field("issuer", &self.issuer)
            .field("audience", &self.audience)
            .field("leeway", &self.leeway)
            .finish_non_exhaustive()
    }
}

/// Reads the files that hold keys.
pub(super) fn resolve(root: &Value, auth: &mut Auth, checks: &mut Checks<'_>) {
    let mut secret = String::new();
    load::resolve_file(
        root,
        ("auth.secret", "the secret"),
        &mut secret,
        auth.secret_file.as_deref(),
        checks,
    );
    if !secret.is_empty() {
        auth.secret = Some(secret);
    }
    if let Some(file) = auth.public_key_file.as_deref() {
        auth.public_key = read_key(file, checks);
    }
}

fn read_key(file: &FilePath, checks: &mut Checks<'_>) -> Option<String> {
    let shown = file.display();
    let fault = match std::fs::read_to_string(file) {
        Ok(pem) => match PublicKey::from_pem(&pem) {
            Ok(_) => return Some(pem),
            Err(why) => format!("{shown} {why}; write one by `openssl pkey -pubout`"),
        },
        Err(why) => format!("{shown} cannot be read: {why}; name a readable file"),
    };
    checks.fault("auth.public_key_file", fault);
    None
}

pub(super) fn check(auth: &Auth, http: &Http, checks: &mut Checks<'_>) {
    checks.duration("auth.leeway", auth.leeway, Duration::ZERO..=HOUR);
    if let Some(secret) = &auth.secret
        && secret.len() < MIN_SECRET
    {
        let key = match auth.secret_file {
            Some(_) => "auth.secret_file",
            None => "auth.secret",
        };
        checks.fault(
            key,
            format!(
                "the secret has {} bytes, which can be guessed; it needs at least {MIN_SECRET}, as \
                 `openssl rand -base64 32` makes them",
                secret.len()
            ),
        );
    }
    match auth.mode {
        AuthMode::None if !http.listen.ip().is_loopback() => checks.fault(
            "http.listen",
            format!(
                "{} can be reached by others, and `auth.mode` \"none\" lets everyone read and \
                 write; listen on 127.0.0.1, or set `auth.mode` to \"jwt\"",
                http.listen
            ),
        ),
        AuthMode::Jwt if auth.secret_file.is_none() && no_key(auth) => checks.fault(
            "auth.mode",
            "\"jwt\" needs a key that tokens are signed with; set `auth.secret`, \
             `auth.secret_file` or `auth.public_key_file`",
        ),
        AuthMode::None | AuthMode::Jwt => {}
    }
}

fn no_key(auth: &Auth) -> bool {
    auth.secret.is_none() && auth.public_key_file.is_none()
}
