//! `herald vapid`: the key pair by which push services know this installation (RFC 8292).

use std::process::ExitCode;

use clap::Args;
use herald_web_push::VapidKeys;

use super::output;

#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  herald vapid --json\n\nherald makes a pair by itself at its first \
                        start; make one here to share it between machines."
)]
pub struct Vapid {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Vapid {
    pub(super) fn execute(&self) -> anyhow::Result<ExitCode> {
        let keys = VapidKeys::generate().map_err(anyhow::Error::msg)?;
        let (public, private) = (keys.public_base64(), keys.private_base64());
        if self.json {
            output::json(&serde_json::json!({"publicKey": public, "privateKey": private}))?;
        } else {
            output::line(&format!("vapid_public_key = \"{public}\""))?;
            output::line(&format!("vapid_private_key = \"{private}\""))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}
