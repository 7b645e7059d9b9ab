//! Base64url (RFC 4648 §5), as keys, tokens and topics are written in Web Push.

use base64::Engine as _;
use base64::alphabet::URL_SAFE;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

/// Writes no padding; reads with or without, since browsers and key tools differ.
const ENGINE: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new()
        .with_encode_padding(false)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

pub fn encode(bytes: impl AsRef<[u8]>) -> String {
    ENGINE.encode(bytes)
}

/// `None` when the text is not base64url.
pub fn decode(text: &str) -> Option<Vec<u8>> {
    ENGINE.decode(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_is_read_but_not_written() {
        assert_eq!(encode([0xff, 0xfe]), "__4");
        assert_eq!(decode("__4").as_deref(), Some(&[0xff, 0xfe][..]));
        assert_eq!(decode("__4="), decode("__4"));
        assert_eq!(decode("//4"), None);
    }
}
