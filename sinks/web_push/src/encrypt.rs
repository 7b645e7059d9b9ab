//! Message encryption for Web Push: RFC 8291 over the `aes128gcm` content coding of RFC 8188.
//!
//! ```text
//! ECDH(one-time key, browser's key) ─┐
//! browser's auth secret ─────────────┴─▶ IKM ─┐
//! random salt ────────────────────────────────┴─▶ content key, nonce ─▶ one sealed record
//! ```
//! The body is one record: a header of 86 bytes (salt, record size, our one-time public key), then
//! the plaintext, a delimiter and the tag.

use ring::aead::{AES_128_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::agreement::{ECDH_P256, EphemeralPrivateKey, UnparsedPublicKey, agree_ephemeral};
use ring::error::Unspecified;
use ring::hkdf::{HKDF_SHA256, KeyType, Prk, Salt};
use ring::rand::{SecureRandom as _, SystemRandom};

use crate::base64url;

/// The largest body that every push service must take, in bytes (RFC 8030 §7.2, RFC 8291 §4).
const RECORD_SIZE: usize = 4096;
const SALT: usize = 16;
const AUTH: usize = 16;
/// An uncompressed point of P-256: `0x04`, x, y.
const POINT: usize = 65;
/// Salt, record size, length of the key id, and the key id: our public key (RFC 8188 §2.1).
const HEADER: usize = SALT + 4 + 1 + POINT;
const TAG: usize = 16;
/// Ends the plaintext of the last record (RFC 8188 §2).
const DELIMITER: u8 = 2;

/// The longest plaintext of one message, in bytes (RFC 8291 §4).
pub const MAX_PLAINTEXT: usize = RECORD_SIZE - HEADER - 1 - TAG;

/// Why a message cannot be encrypted for a subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EncryptError {
    /// `keys.p256dh` is not a point of P-256: the subscription can never be used.
    #[error("p256dh must be an uncompressed P-256 point: 65 bytes in base64url, 0x04 first")]
    PublicKey,
    /// `keys.auth` is not 16 bytes: the subscription can never be used.
    #[error("auth must be 16 bytes in base64url")]
    Auth,
    /// The message is longer than [`MAX_PLAINTEXT`].
    #[error("the message is longer than {MAX_PLAINTEXT} bytes")]
    TooLong,
    /// The operating system gave no randomness; it may do so later.
    #[error("the system's random number generator failed")]
    Random,
}

/// The browser's side of a subscription: whom a message is sealed for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receiver {
    public: [u8; POINT],
    auth: [u8; AUTH],
}

impl Receiver {
    /// Reads the keys of a `PushSubscription`, base64url with or without padding. Whether the
    /// point lies on the curve shows only in [`Receiver::prove`] and [`encrypt`].
    ///
    /// # Errors
    /// Which of the two is not what it must be.
    pub fn new(p256dh: &str, auth: &str) -> Result<Self, EncryptError> {
        let public: [u8; POINT] = base64url::decode(p256dh)
            .and_then(|bytes| bytes.try_into().ok())
            .filter(|point: &[u8; POINT]| point[0] == 4)
            .ok_or(EncryptError::PublicKey)?;
        let auth = base64url::decode(auth)
            .and_then(|bytes| bytes.try_into().ok())
            .ok_or(EncryptError::Auth)?;
        Ok(Self { public, auth })
    }

    /// Makes sure that the public key lies on the curve, by an agreement that is thrown away.
    ///
    /// # Errors
    /// [`EncryptError::PublicKey`] when it does not.
    pub fn prove(&self) -> Result<(), EncryptError> {
        let (private, _) = one_time_key(&SystemRandom::new())?;
        let peer = UnparsedPublicKey::new(&ECDH_P256, self.public);
        agree_ephemeral(private, &peer, |_| ()).map_err(|_| EncryptError::PublicKey)
    }

    /// The keys in the form that is stored: base64url without padding.
    pub fn to_base64(&self) -> (String, String) {
        (base64url::encode(self.public), base64url::encode(self.auth))
    }
}

/// Seals `plaintext` for the browser with a key and a salt of its own; returns the request's body.
///
/// # Errors
/// [`EncryptError`]; only [`EncryptError::Random`] may pass.
pub fn encrypt(receiver: &Receiver, plaintext: &[u8]) -> Result<Vec<u8>, EncryptError> {
    if plaintext.len() > MAX_PLAINTEXT {
        return Err(EncryptError::TooLong);
    }
    let random = SystemRandom::new();
    let mut salt = [0; SALT];
    random.fill(&mut salt).map_err(|_| EncryptError::Random)?;
    let (private, sender) = one_time_key(&random)?;
    let peer = UnparsedPublicKey::new(&ECDH_P256, receiver.public);
    agree_ephemeral(private, &peer, |secret| {
        seal(secret, receiver, &sender, salt, plaintext)
    })
    .map_err(|_| EncryptError::PublicKey)?
    .map_err(|_| EncryptError::TooLong)
}

fn one_time_key(random: &SystemRandom) -> Result<(EphemeralPrivateKey, [u8; POINT]), EncryptError> {
    let private =
        EphemeralPrivateKey::generate(&ECDH_P256, random).map_err(|_| EncryptError::Random)?;
    let public = private
        .compute_public_key()
        .ok()
        .and_then(|key| key.as_ref().try_into().ok())
        .ok_or(EncryptError::Random)?;
    Ok((private, public))
}

/// The record of one message, from the agreed secret on.
fn seal(
    secret: &[u8],
    receiver: &Receiver,
    sender: &[u8; POINT],
    salt: [u8; SALT],
    plaintext: &[u8],
) -> Result<Vec<u8>, Unspecified> {
    let (key, nonce) = content_key(secret, receiver, sender, &salt)?;

    let mut body = Vec::with_capacity(HEADER + plaintext.len() + 1 + TAG);
    body.extend_from_slice(&salt);
    body.extend_from_slice(&(RECORD_SIZE as u32).to_be_bytes());
    body.push(POINT as u8);
    body.extend_from_slice(sender);
    body.extend_from_slice(plaintext);
    body.push(DELIMITER);
    let tag = key.seal_in_place_separate_tag(nonce, Aad::empty(), &mut body[HEADER..])?;
    body.extend_from_slice(tag.as_ref());
    Ok(body)
}

/// RFC 8291 §3.4 (the secret of both sides) and RFC 8188 §2.2, §2.3 (key and nonce).
fn content_key(
    secret: &[u8],
    receiver: &Receiver,
    sender: &[u8; POINT],
    salt: &[u8; SALT],
) -> Result<(LessSafeKey, Nonce), Unspecified> {
    let mut input_key = [0; 32];
    let info: [&[u8]; 3] = [b"WebPush: info\0", &receiver.public, sender];
    let agreed = Salt::new(HKDF_SHA256, &receiver.auth).extract(secret);
    derive(&agreed, &info, &mut input_key)?;

    let prk = Salt::new(HKDF_SHA256, salt).extract(&input_key);
    let mut key = [0; 16];
    derive(&prk, &[b"Content-Encoding: aes128gcm\0"], &mut key)?;
    let mut nonce = [0; NONCE_LEN];
    derive(&prk, &[b"Content-Encoding: nonce\0"], &mut nonce)?;
    let key = LessSafeKey::new(UnboundKey::new(&AES_128_GCM, &key)?);
    // The first and only record: its number, which the nonce is mixed with, is zero.
    Ok((key, Nonce::assume_unique_for_key(nonce)))
}

struct Length(usize);

impl KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

fn derive(prk: &Prk, info: &[&[u8]], out: &mut [u8]) -> Result<(), Unspecified> {
    prk.expand(info, Length(out.len()))?.fill(out)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    fn bytes<const N: usize>(text: &str) -> [u8; N] {
        base64url::decode(text)
            .expect("base64url")
            .try_into()
            .expect("length")
    }

    /// RFC 8291 §5 and appendix A.
    #[test]
    fn the_example_of_rfc_8291_comes_out_byte_for_byte() {
        let receiver = Receiver::new(
            "BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4",
            "BTBZMqHH6r4Tts7J_aSIgg",
        )
        .expect("valid keys");
        let body = seal(
            &bytes::<32>("kyrL1jIIOHEzg3sM2ZWRHDRB62YACZhhSlknJ672kSs"),
            &receiver,
            &bytes("BP4z9KsN6nGRTbVYI_c7VJSPQTBtkgcy27mlmlMoZIIgDll6e3vCYLocInmYWAmS6TlzAC8wEqKK6PBru3jl7A8"),
            bytes("DGv6ra1nlYgDCS1FRnbzlw"),
            b"When I grow up, I want to be a watermelon",
        )
        .expect("sealed");
        assert_eq!(
            base64url::encode(body),
            "DGv6ra1nlYgDCS1FRnbzlwAAEABBBP4z9KsN6nGRTbVYI_c7VJSPQTBtkgcy27mlmlMoZIIgDll6e3vCYLocInmYWAmS6TlzAC8wEqKK6PBru3jl7A_yl95bQpu6cVPTpK4Mqgkf1CXztLVBSt2Ks3oZwbuwXPXLWyouBWLVWGNWQexSgSxsj_Qulcy4a-fN"
        );
    }

    /// What a browser does with the body, given its own half of the agreement.
    pub(crate) fn open(private: EphemeralPrivateKey, receiver: &Receiver, body: &[u8]) -> Vec<u8> {
        let salt: [u8; SALT] = body[..16].try_into().expect("salt");
        assert_eq!(body[16..20], [0, 0, 16, 0], "record size 4096");
        assert_eq!(body[20], 65, "length of the key id");
        let sender: [u8; POINT] = body[21..86].try_into().expect("key id");
        let (key, nonce) = agree_ephemeral(
            private,
            &UnparsedPublicKey::new(&ECDH_P256, sender),
            |secret| content_key(secret, receiver, &sender, &salt),
        )
        .expect("the sender's key is a point")
        .expect("derived");
        let mut record = body[86..].to_vec();
        let plaintext = key
            .open_in_place(nonce, Aad::empty(), &mut record)
            .expect("authentic");
        let (delimiter, message) = plaintext.split_last().expect("not empty");
        assert_eq!(*delimiter, DELIMITER);
        message.to_vec()
    }

    pub(crate) fn browser() -> (EphemeralPrivateKey, Receiver) {
        let (private, public) = one_time_key(&SystemRandom::new()).expect("random");
        let receiver =
            Receiver::new(&base64url::encode(public), &base64url::encode([7; 16])).expect("valid");
        (private, receiver)
    }

    #[test]
    fn the_browser_reads_what_was_sealed_for_it_up_to_the_longest_message() {
        for length in [0, 1, 100, MAX_PLAINTEXT] {
            let (private, receiver) = browser();
            let message = vec![b'x'; length];
            let body = encrypt(&receiver, &message).expect("encrypted");
            assert_eq!(body.len(), 86 + length + 17);
            assert_eq!(open(private, &receiver, &body), message);
        }
        assert_eq!(MAX_PLAINTEXT, 3993);
        let (_, receiver) = browser();
        assert_eq!(
            encrypt(&receiver, &[0; MAX_PLAINTEXT + 1]),
            Err(EncryptError::TooLong)
        );
    }

    #[test]
    fn the_same_message_is_never_sealed_alike_twice() {
        let (_, receiver) = browser();
        let one = encrypt(&receiver, b"same").expect("encrypted");
        let two = encrypt(&receiver, b"same").expect("encrypted");
        assert_ne!(one[..16], two[..16], "salt");
        assert_ne!(one[21..86], two[21..86], "one-time key");
    }

    #[test]
    fn keys_that_no_browser_makes_are_refused() {
        let (_, good) = browser();
        let (point, auth) = good.to_base64();
        assert_eq!(
            Receiver::new(&format!("{point}="), &auth).as_ref(),
            Ok(&good)
        );
        assert!(good.prove().is_ok());

        let off_curve = base64url::encode([[4].as_slice(), &[1; 64]].concat());
        let compressed = base64url::encode([2; 65]);
        for bad in ["", "BAAA", "not base64!", &compressed] {
            assert_eq!(Receiver::new(bad, &auth), Err(EncryptError::PublicKey));
        }
        for bad in ["", "AAAA", &base64url::encode([1; 17])] {
            assert_eq!(Receiver::new(&point, bad), Err(EncryptError::Auth));
        }
        let stray = Receiver::new(&off_curve, &auth).expect("the right length");
        assert_eq!(stray.prove(), Err(EncryptError::PublicKey));
        assert_eq!(encrypt(&stray, b"x"), Err(EncryptError::PublicKey));
    }
}
