//! HTTPS: TLS 1.2 and 1.3 by rustls, with a certificate that may be renewed while herald runs.
//!
//! Programs that renew certificates (certbot and the like) put new files in the place of the old and
//! send SIGHUP, or nothing. So the files are read again then, and once a minute. Connections keep what
//! they began with. Files that do not go together leave the pair before in use.

mod pair;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::server::{ClientHello, ResolvesServerCert, ServerConnection};
use rustls::sign::CertifiedKey;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{MissedTickBehavior, interval};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

pub use pair::{Fault, read};

/// What clients that would have HTTP/2 agree on (RFC 9113 §3.1).
pub const HTTP2: &[u8] = b"h2";

const HTTP1: &[u8] = b"http/1.1";
const HTTP10: &[u8] = b"http/1.0";

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(60);

/// What a connection keeps encrypted at most for a client that does not take it: one record's worth
/// (RFC 8446 §5.1), in bytes.
const BUFFER: usize = 16 * 1024;

/// Bounds what a new connection may take.
pub fn bound(connection: &mut ServerConnection) {
    connection.set_buffer_limit(Some(BUFFER));
}

/// Reads the certificate and its key, and looks after them until `stop`.
///
/// # Errors
/// They cannot be used.
pub fn start(
    certificate_file: PathBuf,
    key_file: PathBuf,
    stop: CancellationToken,
) -> anyhow::Result<TlsAcceptor> {
    let pair = read(&certificate_file, &key_file)?;
    let current = Arc::new(Current(RwLock::new(Arc::new(pair))));
    let renewal = Renewal {
        certificate_file,
        key_file,
        current: current.clone(),
        said: None,
    };
    tokio::spawn(renewal.run(signal(SignalKind::hangup())?, stop));
    let provider = Arc::new(ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(current);
    config.alpn_protocols = [HTTP2, HTTP1, HTTP10].map(<[u8]>::to_vec).into();
    // Clients that come back bring what is needed to go on: nothing is kept for them here.
    config.ticketer = ring::Ticketer::new()?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// What new connections get.
#[derive(Debug)]
struct Current(RwLock<Arc<CertifiedKey>>);

impl Current {
    fn get(&self) -> Arc<CertifiedKey> {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn set(&self, pair: CertifiedKey) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(pair);
    }
}

impl ResolvesServerCert for Current {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.get())
    }
}

struct Renewal {
    certificate_file: PathBuf,
    key_file: PathBuf,
    current: Arc<Current>,
    /// The last warning, which is not repeated.
    said: Option<String>,
}

impl Renewal {
    async fn run(mut self, mut hangup: Signal, stop: CancellationToken) {
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = look.tick() => {}
                Some(()) = hangup.recv() => {}
                () = stop.cancelled() => return,
            }
            self.look().await;
        }
    }

    async fn look(&mut self) {
        let (certificate_file, key_file) = (self.certificate_file.clone(), self.key_file.clone());
        // The files may be on a machine that is slow or away.
        let reading = tokio::task::spawn_blocking(move || read(&certificate_file, &key_file));
        let warning = match reading.await {
            Ok(Ok(pair)) => {
                let warning = pair::doubt(&pair);
                // What has another key has another certificate.
                if pair.cert != self.current.get().cert {
                    self.current.set(pair);
                    tracing::info!("new connections get the renewed certificate");
                }
                warning
            }
            Ok(Err(fault)) => Some(format!("the certificate is not renewed: {fault}")),
            Err(failed) => Some(format!("the certificate is not renewed: {failed}")),
        };
        if warning != self.said {
            if let Some(warning) = &warning {
                tracing::warn!("{warning}");
            }
            self.said = warning;
        }
    }
}
