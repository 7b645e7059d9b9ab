//! `herald token`: signs a token with the configured secret.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use chrono::DateTime;
use clap::Args;
use herald_contract::check_tenant;
use herald_routes::Scope;

use super::output;
use crate::auth::{Grant, Tokens};
use crate::config::Config;

/// The longest: nobody means more.
const MOST: Duration = Duration::from_secs(60 * 60 * 24 * 3660);

#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  curl -N -H \"Authorization: Bearer $(herald token --tenant acme --scope \
                  subscribe)\" \\\n    http://127.0.0.1:3001/sse\n\nIt is signed with auth.secret \
                  (HS256). Where only auth.public_key_file is set, whoever has the private key makes \
                  the tokens."
)]
pub struct Token {
    /// Whose events; may be left out with the scope admin, for any tenant
    #[arg(long)]
    tenant: Option<String>,
    /// What its bearer may do: subscribe, publish, admin (all of it, and what operators do)
    #[arg(long, value_delimiter = ',', required = true, value_name = "SCOPE", value_parser = scope)]
    scope: Vec<Scope>,
    /// How long it is good for
    #[arg(long, default_value = "1h", value_parser = ttl)]
    ttl: Duration,
    /// Who it is for (sub); herald does not look at it
    #[arg(long)]
    subject: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

fn scope(name: &str) -> Result<Scope, String> {
    let mut all = Scope::ALL.into_iter();
    all.find(|scope| scope.name() == name)
        .ok_or_else(|| "is none of subscribe, publish, admin".to_owned())
}

fn ttl(text: &str) -> Result<Duration, String> {
    let ttl = humantime::parse_duration(text).map_err(|why| why.to_string())?;
    match (1..=MOST.as_secs()).contains(&ttl.as_secs()) {
        true => Ok(ttl),
        false => Err("is out of range; write \"1s\" to \"3660days\"".to_owned()),
    }
}

impl Token {
    pub(super) fn execute(self, config: &Config) -> anyhow::Result<ExitCode> {
        match &self.tenant {
            Some(tenant) => {
                check_tenant(tenant).map_err(|why| anyhow::anyhow!("--tenant {why}"))?
            }
            None if !self.scope.contains(&Scope::Admin) => {
                bail!("--tenant is missing, which only tokens with the scope admin may leave out")
            }
            None => {}
        }
        let tokens = Tokens::new(&config.auth).map_err(anyhow::Error::msg)?;
        let grant = Grant {
            tenant: self.tenant,
            scopes: self.scope,
            subject: self.subject,
            ttl: self.ttl,
        };
        let signed = tokens.sign(&grant);
        let (token, expires) = signed.context(match config.auth.public_key_file {
            Some(_) => {
                "auth.secret is not set: a public key verifies tokens and cannot sign them; whoever \
                 has the private key does"
            }
            None => "auth.secret is not set, and there is nothing else to sign with",
        })?;
        if self.json {
            let expires = i64::try_from(expires.as_secs()).unwrap_or(i64::MAX);
            let expires = DateTime::from_timestamp(expires, 0).map(output::time);
            output::json(&serde_json::json!({"token": token, "expiresAt": expires}))?;
        } else {
            output::line(&token)?;
        }
        Ok(ExitCode::SUCCESS)
    }
}
