//! Header and signature of a token: three parts in base64url with dots between (RFC 7515 §3.1).

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use herald_routes::Refusal;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::claims::Claims;
use super::key::{Keys, Verdict};

#[derive(Deserialize)]
struct Header {
    alg: String,
    /// What must be understood (RFC 7515 §4.1.11): nothing of that kind is here.
    crit: Option<IgnoredAny>,
}

/// The payload of a token that one of the keys has signed.
pub fn verify(token: &str, keys: &Keys) -> Result<Vec<u8>, Refusal> {
    let malformed = Refusal::Invalid("the token is no signed JWT");
    let (signed, signature) = token.rsplit_once('.').ok_or(malformed)?;
    let (header, payload) = signed.split_once('.').ok_or(malformed)?;
    // Without padding, and in the one way in which bytes can be written: a token has no other form.
    let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| malformed);
    let (header, payload, signature) = (decode(header)?, decode(payload)?, decode(signature)?);
    let header: Header = serde_json::from_slice(&header).map_err(|_| malformed)?;
    if header.crit.is_some() {
        return Err(Refusal::Invalid("the token has extensions (crit)"));
    }
    match keys.verify(&header.alg, signed.as_bytes(), &signature) {
        Verdict::Good => Ok(payload),
        Verdict::Bad => Err(Refusal::Invalid("the token's signature is wrong")),
        Verdict::OtherAlgorithm => Err(Refusal::Invalid(
            "the token is signed by an algorithm that no key here is for",
        )),
    }
}

/// Signs with the secret (HS256).
pub fn sign(claims: &Claims, keys: &Keys) -> Option<String> {
    let encode = |json: &[u8]| URL_SAFE_NO_PAD.encode(json);
    let claims = serde_json::to_vec(claims).ok()?;
    let signed = format!(
        "{}.{}",
        encode(br#"{"alg":"HS256","typ":"JWT"}"#),
        encode(&claims)
    );
    let signature = keys.sign(signed.as_bytes())?;
    Some(format!("{signed}.{}", encode(signature.as_ref())))
}
