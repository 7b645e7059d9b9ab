//! A certificate with its chain and its private key, from two PEM files (RFC 7468).

use std::path::Path;
use std::time::Duration;

use chrono::DateTime;
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, Error, InconsistentKeys, RootCertStore};
use thiserror::Error as Fails;

/// How long before its end a certificate should have been renewed.
const SOON: Duration = Duration::from_secs(2 * 24 * 60 * 60);

/// What is wrong, and with which of the two files.
#[derive(Debug, Fails)]
pub enum Fault {
    #[error("http.tls.certificate_file: {0}")]
    Certificate(String),
    #[error("http.tls.key_file: {0}")]
    Key(String),
}

/// Reads the two and finds out whether they belong together.
///
/// # Errors
/// Which file is at fault, and what would be right.
pub fn read(certificate_file: &Path, key_file: &Path) -> Result<CertifiedKey, Fault> {
    let chain = chain(certificate_file).map_err(Fault::Certificate)?;
    let key = key(key_file).map_err(Fault::Key)?;
    let (certificate, shown) = (certificate_file.display(), key_file.display());
    CertifiedKey::from_der(chain, key, &ring::default_provider()).map_err(|error| match error {
        Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => Fault::Key(format!(
            "{shown} is not the key of the first certificate in {certificate}; name the one that \
             it was made with"
        )),
        Error::InvalidCertificate(why) => Fault::Certificate(format!(
            "the first certificate in {certificate} cannot be used: {why}"
        )),
        why => Fault::Key(format!("{shown} cannot be used: {why}")),
    })
}

fn chain(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let (text, shown) = (contents(file)?, file.display());
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    match chain {
        Ok(chain) if chain.is_empty() => Err(format!(
            "{shown} holds no certificate; write it and its chain there as PEM"
        )),
        Ok(chain) => Ok(chain),
        Err(why) => Err(format!("{shown} is not PEM: {why}")),
    }
}

fn key(file: &Path) -> Result<PrivateKeyDer<'static>, String> {
    use rustls::pki_types::pem::Error::NoItemsFound;
    let (text, shown) = (contents(file)?, file.display());
    PrivateKeyDer::from_pem_slice(&text).map_err(|why| match why {
        NoItemsFound => format!("{shown} holds no private key; write it there as PEM, unencrypted"),
        why => format!("{shown} is not PEM: {why}"),
    })
}

fn contents(file: &Path) -> Result<Vec<u8>, String> {
    let unread = |why| {
        let shown = file.display();
        format!("{shown} cannot be read: {why}; name a readable file")
    };
    std::fs::read(file).map_err(unread)
}

/// What clients will object to now or soon: a certificate that is past its time, or before it.
pub fn doubt(pair: &CertifiedKey) -> Option<String> {
    let now = UnixTime::now();
    let soon = UnixTime::since_unix_epoch(Duration::from_secs(now.as_secs()) + SOON);
    match (judge(pair, now), judge(pair, soon)) {
        (Some(CertificateError::ExpiredContext { not_after, .. }), _) => {
            Some(format!("the certificate has expired on {}", day(not_after)))
        }
        (Some(CertificateError::NotValidYetContext { not_before, .. }), _) => Some(format!(
            "the certificate is not valid before {}",
            day(not_before)
        )),
        (_, Some(CertificateError::ExpiredContext { not_after, .. })) => Some(format!(
            "the certificate expires on {}, and has not been renewed",
            day(not_after)
        )),
        _ => None,
    }
}

/// What a client that trusts nobody finds at that time: whether that is the certificate's comes
/// before who has signed it.
fn judge(pair: &CertifiedKey, at: UnixTime) -> Option<CertificateError> {
    let (first, chain) = pair.cert.split_first()?;
    let parsed = ParsedCertificate::try_from(first).ok()?;
    let algorithms = ring::default_provider()
        .signature_verification_algorithms
        .all;
    let nobody = RootCertStore::empty();
    match verify_server_cert_signed_by_trust_anchor(&parsed, &nobody, chain, at, algorithms) {
        Err(Error::InvalidCertificate(error)) => Some(error),
        _ => None,
    }
}

fn day(time: UnixTime) -> String {
    let seconds = i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    DateTime::from_timestamp(seconds, 0).map_or_else(
        || "another day".to_owned(),
        |day| day.format("%F").to_string(),
    )
}
