//! What is taken for a token and what is not, by tokens that are made here by hand.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::hmac;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _,
};
use serde_json::{Value, json};

use super::*;
use crate::config::Auth;

const SECRET: &str = "a secret of more than thirty-two bytes";
const NOW: Duration = Duration::from_secs(1_800_000_000);

fn config() -> Auth {
    Auth {
        secret: Some(SECRET.to_owned()),
        leeway: Duration::from_secs(30),
        ..Auth::default()
    }
}

fn tokens(config: &Auth) -> Tokens {
    Tokens::new(config).expect("good keys")
}

/// Claims of a token that is taken, with others over them; null takes one away.
fn claims(over: &Value) -> String {
    let mut claims = json!({
        "sub": "ada", "tenant": "acme", "scope": "subscribe publish", "exp": NOW.as_secs() + 60,
    });
    for (name, value) in over.as_object().expect("an object") {
        claims[name] = value.clone();
    }
    let fields = claims.as_object_mut().expect("an object");
    fields.retain(|_, value| !value.is_null());
    claims.to_string()
}

fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Signs whatever this is.
fn token(header: &str, claims: &str, sign: impl FnOnce(&[u8]) -> Vec<u8>) -> String {
    let signed = format!("{}.{}", encode(header), encode(claims));
    let signature = sign(signed.as_bytes());
    format!("{signed}.{}", encode(signature))
}

fn by_secret(secret: &str) -> impl Fn(&[u8]) -> Vec<u8> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    move |message| hmac::sign(&key, message).as_ref().to_vec()
}

fn hs256(claims: &str) -> String {
    token(r#"{"alg":"HS256"}"#, claims, by_secret(SECRET))
}

fn pem(algorithm: &[u8], key: &[u8]) -> String {
    let element = |tag: u8, content: &[u8]| {
        let length = u8::try_from(content.len()).expect("short");
        [&[tag, length], content].concat()
    };
    let bits = element(0x03, &[&[0], key].concat());
    let der = element(0x30, &[element(0x30, algorithm), bits].concat());
    format!(
        "-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n",
        STANDARD.encode(der)
    )
}

/// An Ed25519 pair, and its public key in PEM.
fn ed25519() -> (Ed25519KeyPair, String) {
    let pair = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).expect("a pair");
    let algorithm = [0x06, 0x03, 0x2b, 0x65, 0x70];
    let pem = pem(&algorithm, pair.public_key().as_ref());
    (pair, pem)
}

fn with_key(pem: &str) -> Auth {
    Auth {
        secret: None,
        public_key: Some(pem.to_owned()),
        ..config()
    }
}

/// Why it is refused.
#[track_caller]
fn refusal(config: &Auth, token: &str) -> &'static str {
    match tokens(config).verify(token, NOW) {
        Err(Refusal::Invalid(why)) => why,
        Err(Refusal::Expired) => "expired",
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_says_who_may_do_what_and_until_when() {
    let access = tokens(&config()).verify(&hs256(&claims(&json!({}))), NOW);
    let access = access.expect("a good token");
    assert_eq!(access.tenant.as_deref(), Some("acme"));
    assert_eq!(access.scopes, [Scope::Subscribe, Scope::Publish]);
    let left = access.expires_at.expect("an end") - Instant::now();
    assert_eq!(left, Duration::from_secs(90), "with the leeway");
    let admin = claims(&json!({"tenant": null, "scope": "openid admin"}));
    let access = tokens(&config()).verify(&hs256(&admin), NOW);
    let access = access.expect("a good token");
    assert_eq!((access.tenant, access.scopes), (None, vec![Scope::Admin]));
}

#[test]
fn claims_that_are_wrong_are_told_by_what_is_wrong() {
    let now = NOW.as_secs();
    for (over, why) in [
        (json!({"exp": null}), "no end"),
        (json!({"exp": now - 30}), "expired"),
        (json!({"exp": now - 10_000}), "expired"),
        (json!({"exp": -1}), "a time"),
        (json!({"exp": 1e300}), "a time"),
        (json!({"exp": "tomorrow"}), "malformed"),
        (json!({"nbf": now + 31}), "not good yet"),
        (json!({"aud": "others"}), "for others"),
        (json!({"aud": 7}), "malformed"),
        (json!({"tenant": null}), "names no tenant"),
        (json!({"tenant": ""}), "none that could be"),
        (json!({"tenant": ["acme"]}), "malformed"),
        (json!({"scope": ["admin"]}), "malformed"),
    ] {
        let said = refusal(&config(), &hs256(&claims(&over)));
        assert!(said.contains(why), "{over}: {said}");
    }
    for good in [
        json!({"exp": now - 29}),
        json!({"exp": now as f64 + 0.5}),
        json!({"exp": u64::MAX}),
        json!({"nbf": now + 30}),
        json!({"scope": null}),
        json!({"iss": "anybody"}),
    ] {
        let verified = tokens(&config()).verify(&hs256(&claims(&good)), NOW);
        assert!(verified.is_ok(), "{good}: {verified:?}");
    }
    for odd in ["[]", "null", "7", "", r#"{"exp":1,"exp":2}"#, "{\"exp\":"] {
        let said = refusal(&config(), &hs256(odd));
        assert!(said.contains("malformed"), "{odd}: {said}");
    }
}

#[test]
fn issuer_and_audience_are_those_that_are_configured() {
    let config = Auth {
        issuer: Some("https://id.example".to_owned()),
        audience: Some("herald".to_owned()),
        ..config()
    };
    let judge = |iss: Value, aud: Value| {
        let token = hs256(&claims(&json!({"iss": iss, "aud": aud})));
        tokens(&config).verify(&token, NOW)
    };
    let (us, issuer) = (json!("herald"), json!("https://id.example"));
    assert!(judge(issuer.clone(), us.clone()).is_ok());
    assert!(judge(issuer.clone(), json!(["other", "herald"])).is_ok());
    for (iss, aud) in [
        (json!("https://evil.example"), us.clone()),
        (Value::Null, us),
        (issuer.clone(), json!("other")),
        (issuer.clone(), json!([])),
        (issuer, Value::Null),
    ] {
        let judged = judge(iss.clone(), aud.clone());
        assert!(matches!(judged, Err(Refusal::Invalid(_))), "{iss} {aud}");
    }
}

#[test]
fn what_nobody_signed_is_refused() {
    let good = claims(&json!({}));
    let token_of = |header: &str, secret: &str| token(header, &good, by_secret(secret));
    let unsigned = token(r#"{"alg":"none"}"#, &good, |_| Vec::new());
    let hs256 = r#"{"alg":"HS256"}"#;
    let another = token_of(hs256, "another secret of thirty-two bytes.");
    for (token, why) in [
        (unsigned, "no key here is for"),
        (token_of(r#"{"alg":"none"}"#, SECRET), "no key here is for"),
        (token_of(r#"{"alg":"hs256"}"#, SECRET), "no key here is for"),
        (token_of(r#"{"alg":"HS512"}"#, SECRET), "no key here is for"),
        (token(hs256, &good, |_| Vec::new()), "signature is wrong"),
        (another, "signature is wrong"),
        (token_of("{}", SECRET), "no signed JWT"),
        (
            token_of(r#"{"alg":"none","alg":"HS256"}"#, SECRET),
            "no signed JWT",
        ),
        (
            token_of(r#"{"alg":"HS256","crit":["b64"],"b64":false}"#, SECRET),
            "crit",
        ),
        (String::new(), "no signed JWT"),
        ("..".to_owned(), "no signed JWT"),
        ("a.b.c.d".to_owned(), "no signed JWT"),
        ("ä.ö.ü".to_owned(), "no signed JWT"),
    ] {
        let said = refusal(&config(), &token);
        assert!(said.contains(why), "{token}: {said}");
    }
}

#[test]
fn a_token_that_was_changed_anywhere_is_refused() {
    let good = hs256(&claims(&json!({})));
    let tokens = tokens(&config());
    assert!(tokens.verify(&good, NOW).is_ok());
    for at in 0..good.len() {
        let mut changed = good.clone().into_bytes();
        changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(changed).expect("ASCII");
        assert!(tokens.verify(&changed, NOW).is_err(), "{at}");
    }
    for odd in [format!("{good}="), format!(" {good}"), format!("{good}A")] {
        assert!(tokens.verify(&odd, NOW).is_err(), "{odd}");
    }
    let long = hs256(&claims(&json!({"sub": "x".repeat(MAX_TOKEN)})));
    assert!(refusal(&config(), &long).contains("8 KiB"));
}

#[test]
fn a_public_key_verifies_what_its_own_algorithm_has_signed_and_is_no_secret() {
    let (pair, ed25519) = ed25519();
    let config = with_key(&ed25519);
    let good = claims(&json!({}));
    let sign = |message: &[u8]| pair.sign(message).as_ref().to_vec();
    let token_of = |header: &str| token(header, &good, sign);
    let verified = tokens(&config).verify(&token_of(r#"{"alg":"EdDSA"}"#), NOW);
    assert!(verified.is_ok(), "{verified:?}");
    // The public key, in any form, taken for a secret (RFC 8725 §2.1).
    let raw = pair.public_key().as_ref().to_vec();
    let by_raw = hmac::Key::new(hmac::HMAC_SHA256, &raw);
    let header = r#"{"alg":"HS256"}"#;
    let confused = [
        token(header, &good, by_secret(&ed25519)),
        token(header, &good, by_secret(ed25519.trim())),
        token(header, &good, |m| hmac::sign(&by_raw, m).as_ref().to_vec()),
        token_of(header),
        token_of(r#"{"alg":"ES256"}"#),
        token_of(r#"{"alg":"none"}"#),
    ];
    for token in &confused {
        assert!(refusal(&config, token).contains("no key here is for"));
    }
    // Where there is a secret too, each is for its own.
    let both = Auth {
        secret: Some(SECRET.to_owned()),
        ..config
    };
    assert!(tokens(&both).verify(&hs256(&good), NOW).is_ok());
    for token in &confused {
        assert!(tokens(&both).verify(token, NOW).is_err());
    }
}

#[test]
fn a_p256_key_verifies_es256() {
    let random = SystemRandom::new();
    let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
    let document = EcdsaKeyPair::generate_pkcs8(algorithm, &random).expect("a pair");
    let pair = EcdsaKeyPair::from_pkcs8(algorithm, document.as_ref(), &random).expect("a pair");
    let of_p256 = [
        0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
        0x3d, 0x03, 0x01, 0x07,
    ];
    let config = with_key(&pem(&of_p256, pair.public_key().as_ref()));
    let sign = |message: &[u8]| {
        let signature = pair.sign(&SystemRandom::new(), message);
        signature.expect("randomness").as_ref().to_vec()
    };
    let good = claims(&json!({}));
    let token_of = |header: &str| token(header, &good, sign);
    assert!(
        tokens(&config)
            .verify(&token_of(r#"{"alg":"ES256"}"#), NOW)
            .is_ok()
    );
    assert!(refusal(&config, &token_of(r#"{"alg":"EdDSA"}"#)).contains("no key here is for"));
}

#[test]
fn what_is_no_public_key_is_refused() {
    let (_, good) = ed25519();
    let of_x25519 = pem(&[0x06, 0x03, 0x2b, 0x65, 0x6e], &[7; 32]);
    for (pem, why) in [
        ("", "no public key in PEM"),
        (&good.replace("PUBLIC", "PRIVATE"), "no public key in PEM"),
        (&good.replace("MC", "M*"), "malformed PEM"),
        (&good.replace("MC", "MD"), "malformed public key"),
        (&of_x25519, "another kind"),
        (
            &pem(&[0x06, 0x03, 0x2b, 0x65, 0x70], &[7; 31]),
            "no key for EdDSA",
        ),
    ] {
        let refused = PublicKey::from_pem(pem).err().expect("no key");
        assert!(refused.contains(why), "{pem}: {refused}");
    }
}

#[test]
fn what_is_signed_here_is_taken_here() {
    let config = Auth {
        issuer: Some("us".to_owned()),
        audience: Some("us too".to_owned()),
        ..config()
    };
    let grant = Grant {
        tenant: Some("acme".to_owned()),
        scopes: vec![Scope::Publish],
        subject: Some("ada".to_owned()),
        ttl: Duration::from_secs(60),
    };
    let (token, expires) = tokens(&config).sign(&grant).expect("a secret");
    let access = tokens(&config).verify(&token, expires).expect("the leeway");
    assert_eq!(access.tenant, grant.tenant);
    assert_eq!(access.scopes, grant.scopes);
    let later = expires + config.leeway;
    let late = tokens(&config).verify(&token, later);
    assert_eq!(late.err(), Some(Refusal::Expired));
    assert!(tokens(&with_key(&ed25519().1)).sign(&grant).is_none());
}
