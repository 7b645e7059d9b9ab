//! The key pair by which push services know this installation (VAPID, RFC 8292), and its file.
//!
//! The file is a PKCS#8 key in PEM, as `openssl` reads and writes it. The public key stands in it
//! too: ring derives none from a bare private key, so a bare one needs its public key beside it.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use ulid::Ulid;

use crate::base64url;

const BEGIN: &str = "-----BEGIN PRIVATE KEY-----";
const END: &str = "-----END PRIVATE KEY-----";
/// What stands before the private key in a PKCS#8 P-256 key (RFC 5208 §5, RFC 5915 §3) …
const BEFORE_PRIVATE: &[u8] = &[
    0x30, 0x81, 0x87, 0x02, 0x01, 0x00, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02,
    0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x04, 0x6d, 0x30, 0x6b, 0x02,
    0x01, 0x01, 0x04, 0x20,
];
/// … and between it and the public key, which ends the file.
const BEFORE_PUBLIC: &[u8] = &[0xa1, 0x44, 0x03, 0x42, 0x00];
const PRIVATE: usize = 32;
/// A key file is some 250 bytes; what is much larger is another file.
const MAX_FILE: u64 = 16 * 1024;

/// A P-256 key pair for VAPID. Its `Debug` shows the public key only.
pub struct VapidKeys {
    pair: EcdsaKeyPair,
    private: [u8; PRIVATE],
}

impl VapidKeys {
    /// Makes a new pair.
    ///
    /// # Errors
    /// The operating system gives no randomness.
    pub fn generate() -> Result<Self, String> {
        let random = SystemRandom::new();
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random)
            .map_err(|_| "the system's random number generator failed".to_owned())?;
        Self::from_der(document.as_ref())
    }

    /// Reads a pair as `herald vapid` and `web-push generate-vapid-keys` print it: the private
    /// key (32 bytes) and the public key (65 bytes, uncompressed), both base64url.
    ///
    /// # Errors
    /// Which key is malformed, or that they do not belong together.
    pub fn from_base64(private: &str, public: &str) -> Result<Self, String> {
        let private: [u8; PRIVATE] = base64url::decode(private)
            .and_then(|bytes| bytes.try_into().ok())
            .ok_or("the VAPID private key must be 32 bytes in base64url")?;
        let public = base64url::decode(public)
            .filter(|bytes| bytes.len() == 65 && bytes[0] == 4)
            .ok_or("the VAPID public key must be 65 bytes in base64url, uncompressed")?;
        Self::from_parts(private, &public)
    }

    /// Reads a PKCS#8 key in PEM, as [`VapidKeys::to_pem`] and
    /// `openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256` write it.
    ///
    /// # Errors
    /// It is not such a key.
    pub fn from_pem(pem: &str) -> Result<Self, String> {
        let text: String = pem
            .split_once(BEGIN)
            .and_then(|(_, rest)| rest.split_once(END))
            .map(|(body, _)| body.split_whitespace().collect())
            .ok_or_else(|| format!("not a PKCS#8 key in PEM ({BEGIN})"))?;
        let der = STANDARD
            .decode(text)
            .map_err(|e| format!("malformed PEM: {e}"))?;
        Self::from_der(&der)
    }

    /// Reads the key file, or makes a pair and the file (mode 0600) when there is none. Where
    /// several processes start at once, one makes it and all use that one.
    ///
    /// # Errors
    /// The file cannot be read or made, or is not a PKCS#8 key in PEM.
    pub fn load_or_create(path: &Path) -> Result<Self, String> {
        let fault = |e: io::Error| format!("{}: {e}", path.display());
        loop {
            match read(path) {
                Ok(pem) => {
                    return Self::from_pem(&pem).map_err(|e| format!("{}: {e}", path.display()));
                }
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(fault(e)),
                Err(_) => {}
            }
            let keys = Self::generate()?;
            match create(path, &keys.to_pem()) {
                Ok(()) => return Ok(keys),
                // Another process was first; its key is the one.
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(fault(e)),
            }
        }
    }

    /// The pair as a PKCS#8 key in PEM. Secret.
    pub fn to_pem(&self) -> String {
        let der = [BEFORE_PRIVATE, &self.private, BEFORE_PUBLIC, self.public()].concat();
        let text = STANDARD.encode(der);
        let mut pem = format!("{BEGIN}\n");
        for line in text.as_bytes().chunks(64) {
            pem.push_str(&String::from_utf8_lossy(line));
            pem.push('\n');
        }
        pem + END + "\n"
    }

    /// The public key, base64url: `applicationServerKey` in a browser, `k` in RFC 8292 §3.2.
    pub fn public_base64(&self) -> String {
        base64url::encode(self.public())
    }

    /// The private key, base64url. Secret.
    pub fn private_base64(&self) -> String {
        base64url::encode(self.private)
    }

    /// An ES256 signature (RFC 7518 §3.4); `None` when the system gives no randomness.
    pub(crate) fn sign(&self, message: &[u8]) -> Option<impl AsRef<[u8]>> {
        self.pair.sign(&SystemRandom::new(), message).ok()
    }

    fn public(&self) -> &[u8] {
        self.pair.public_key().as_ref()
    }

    fn from_der(der: &[u8]) -> Result<Self, String> {
        let parts = der.strip_prefix(BEFORE_PRIVATE).and_then(|rest| {
            let (private, rest) = rest.split_first_chunk::<PRIVATE>()?;
            Some((*private, rest.strip_prefix(BEFORE_PUBLIC)?))
        });
        let (private, public) = parts.ok_or("not a P-256 private key with its public key")?;
        Self::from_parts(private, public)
    }

    fn from_parts(private: [u8; PRIVATE], public: &[u8]) -> Result<Self, String> {
        let pair = EcdsaKeyPair::from_private_key_and_public_key(
            &ECDSA_P256_SHA256_FIXED_SIGNING,
            &private,
            public,
            &SystemRandom::new(),
        )
        .map_err(|_| "the VAPID private and public key do not belong together")?;
        Ok(Self { pair, private })
    }
}

impl fmt::Debug for VapidKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("VapidKeys")
            .field(&self.public_base64())
            .finish()
    }
}

/// The text of a key file.
pub(crate) fn read(path: &Path) -> io::Result<String> {
    if fs::metadata(path)?.len() > MAX_FILE {
        return Err(io::Error::other("too large for a key file"));
    }
    fs::read_to_string(path)
}

/// Makes the file whole or not at all, and never over another: it is written beside and linked
/// into place, which fails where something stands already.
fn create(path: &Path, text: &str) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new(""));
    fs::create_dir_all(folder)?;
    let draft = folder.join(format!(".vapid-{}", Ulid::generate()));
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let written = options.open(&draft).and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.sync_all()
    });
    let placed = written.and_then(|()| fs::hard_link(&draft, path));
    let _ = fs::remove_file(&draft);
    placed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_reads_back_from_every_form_it_is_written_in() {
        let keys = VapidKeys::generate().expect("random");
        let (private, public) = (keys.private_base64(), keys.public_base64());
        assert_eq!((private.len(), public.len()), (43, 87));
        for same in [
            VapidKeys::from_base64(&private, &format!("{public}=")).expect("base64url"),
            VapidKeys::from_pem(&keys.to_pem()).expect("pem"),
        ] {
            assert_eq!(same.public_base64(), public);
            assert_eq!(same.private_base64(), private);
        }
        assert!(!format!("{keys:?}").contains(&private));
    }

    #[test]
    fn keys_that_do_not_belong_together_are_refused() {
        let (one, two) = (
            VapidKeys::generate().expect("random"),
            VapidKeys::generate().expect("random"),
        );
        let fault = VapidKeys::from_base64(&one.private_base64(), &two.public_base64())
            .expect_err("another's public key");
        assert!(fault.contains("belong together"), "{fault}");
        assert!(VapidKeys::from_base64("AAAA", &one.public_base64()).is_err());
        assert!(VapidKeys::from_base64(&one.private_base64(), "AAAA").is_err());
    }

    #[test]
    fn the_key_file_is_made_once_and_for_its_owner_only() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("made/at/start/vapid.key");
        let first = VapidKeys::load_or_create(&path).expect("made");
        let second = VapidKeys::load_or_create(&path).expect("read");
        assert_eq!(first.public_base64(), second.public_base64());
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            let mode = fs::metadata(&path).expect("exists").permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
        let beside = fs::read_dir(path.parent().expect("folder")).expect("readable");
        assert_eq!(beside.count(), 1, "no draft is left");
    }

    #[test]
    fn processes_that_start_at_once_end_up_with_one_key() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("vapid.key");
        let start = std::sync::Barrier::new(8);
        let publics: Vec<String> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|_| {
                    scope.spawn(|| {
                        start.wait();
                        VapidKeys::load_or_create(&path).expect("a key")
                    })
                })
                .collect();
            threads
                .into_iter()
                .map(|t| t.join().expect("no panic").public_base64())
                .collect()
        });
        assert!(publics.iter().all(|p| *p == publics[0]));
    }

    #[test]
    fn a_file_that_is_no_key_is_an_error_and_is_left_alone() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("vapid.key");
        fs::write(&path, "something else").expect("written");
        let fault = VapidKeys::load_or_create(&path).expect_err("no key");
        assert!(fault.contains("vapid.key"), "{fault}");
        assert_eq!(fs::read_to_string(&path).expect("there"), "something else");
    }
}
