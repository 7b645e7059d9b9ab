//! Keys that tokens are signed with. An algorithm belongs to its key: what a token's header says of
//! it can only be wrong, and never chooses how a key is used (RFC 8725 §3.1).

use ring::hmac;
use ring::signature::{
    self, ECDSA_P256_SHA256_FIXED, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey,
    VerificationAlgorithm,
};
use rustls::pki_types::SubjectPublicKeyInfoDer;
use rustls::pki_types::alg_id::{ECDSA_P256, ED25519, RSA_ENCRYPTION};
use rustls::pki_types::pem::{self, PemObject as _};

/// The least bytes of a secret: those of the hash (RFC 7518 §3.2).
pub const MIN_SECRET: usize = 32;

/// Tags of DER (X.690 §8).
const SEQUENCE: u8 = 0x30;
const BIT_STRING: u8 = 0x03;

/// The keys of an installation.
pub struct Keys {
    secret: Option<hmac::Key>,
    public: Option<PublicKey>,
}

impl Keys {
    /// # Errors
    /// What is wrong with the public key.
    pub fn new(secret: Option<&str>, public: Option<&str>) -> Result<Self, String> {
        Ok(Self {
            secret: secret.map(|text| hmac::Key::new(hmac::HMAC_SHA256, text.as_bytes())),
            public: public.map(PublicKey::from_pem).transpose()?,
        })
    }

    /// Whether one of the keys, which is for this algorithm, has signed the message.
    pub fn verify(&self, algorithm: &str, message: &[u8], signature: &[u8]) -> Verdict {
        match (algorithm, &self.secret, &self.public) {
            ("HS256", Some(key), _) => hmac::verify(key, message, signature).into(),
            (named, _, Some(key)) if named == key.name => {
                let key = UnparsedPublicKey::new(key.algorithm, &key.key);
                key.verify(message, signature).into()
            }
            _ => Verdict::OtherAlgorithm,
        }
    }

    /// An HS256 signature; `None` without a secret.
    pub fn sign(&self, message: &[u8]) -> Option<hmac::Tag> {
        let key = self.secret.as_ref()?;
        Some(hmac::sign(key, message))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Good,
    Bad,
    OtherAlgorithm,
}

impl<T, E> From<Result<T, E>> for Verdict {
    fn from(result: Result<T, E>) -> Self {
        match result {
            Ok(_) => Self::Good,
            Err(_) => Self::Bad,
        }
    }
}

/// A key that verifies and cannot sign.
pub struct PublicKey {
    /// Of the algorithm it is for (RFC 7518 §3.1, RFC 8037 §3.1).
    name: &'static str,
    algorithm: &'static dyn VerificationAlgorithm,
    key: Vec<u8>,
}

impl PublicKey {
    /// Reads a key as `openssl pkey -pubout` writes it (RFC 7468 §13).
    ///
    /// # Errors
    /// It is none, or of a kind that is not taken.
    pub fn from_pem(pem: &str) -> Result<Self, String> {
        let der = SubjectPublicKeyInfoDer::from_pem_slice(pem.as_bytes());
        let der = der.map_err(|why| match why {
            pem::Error::NoItemsFound => {
                "is no public key in PEM (-----BEGIN PUBLIC KEY-----)".to_owned()
            }
            why => format!("is malformed PEM: {why}"),
        })?;
        Self::from_der(&der)
    }

    /// A `SubjectPublicKeyInfo` (RFC 5280 §4.1.2.7).
    fn from_der(der: &[u8]) -> Result<Self, String> {
        let parts = || {
            let (info, rest) = element(SEQUENCE, der)?;
            let (algorithm, after) = element(SEQUENCE, info)?;
            let (bits, behind) = element(BIT_STRING, after)?;
            // A key is whole bytes: no bit of the last is unused.
            let key = bits.strip_prefix(&[0])?;
            (rest.is_empty() && behind.is_empty()).then_some((algorithm, key))
        };
        let (of, key) = parts().ok_or("is a malformed public key")?;
        let (name, algorithm, fits): (_, &'static dyn VerificationAlgorithm, _) = match of {
            _ if of == ED25519.as_ref() => ("EdDSA", &signature::ED25519, key.len() == 32),
            _ if of == ECDSA_P256.as_ref() => (
                "ES256",
                &ECDSA_P256_SHA256_FIXED,
                key.len() == 65 && key[0] == 4,
            ),
            _ if of == RSA_ENCRYPTION.as_ref() => (
                "RS256",
                &RSA_PKCS1_2048_8192_SHA256,
                (256..=1100).contains(&key.len()),
            ),
            _ => return Err("is a key of another kind; Ed25519, P-256 and RSA are taken".into()),
        };
        if !fits {
            return Err(format!(
                "is no key for {name}; RSA takes 2048 to 8192 bits, and P-256 an uncompressed point"
            ));
        }
        Ok(Self {
            name,
            algorithm,
            key: key.to_vec(),
        })
    }
}

/// What is in the first element, which has this tag, and what follows it.
fn element(tag: u8, der: &[u8]) -> Option<(&[u8], &[u8])> {
    let [found, first, rest @ ..] = der else {
        return None;
    };
    let (length, rest) = match *first {
        short @ 0..=0x7f => (usize::from(short), rest),
        0x81 => {
            let (length, rest) = rest.split_first()?;
            (usize::from(*length), rest)
        }
        0x82 => {
            let (length, rest) = rest.split_first_chunk()?;
            (usize::from(u16::from_be_bytes(*length)), rest)
        }
        _ => return None,
    };
    (*found == tag).then_some(())?;
    rest.split_at_checked(length)
}
