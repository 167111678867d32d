//! The text of a token: a prefix by which scanners for secrets find it, and 256 random bits.
//!
//! Only its SHA-256 is stored. A slow hash, as for passwords, would add nothing: nobody can try 2^256
//! values.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

const PREFIX: &str = "lookout_";
const BYTES: usize = 32;

/// The SHA-256 of a token's text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenHash([u8; 32]);

impl TokenHash {
    pub fn of(text: &str) -> TokenHash {
        TokenHash(Sha256::digest(text.as_bytes()).into())
    }

    /// Compares in a time that does not depend on the values.
    pub fn matches(&self, other: &TokenHash) -> bool {
        self.0.ct_eq(&other.0).into()
    }

    pub fn hex(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    pub fn from_hex(text: &str) -> Option<TokenHash> {
        if text.len() != 64 || !text.is_ascii() {
            return None;
        }
        let mut bytes = [0; 32];
        for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
        }
        Some(TokenHash(bytes))
    }
}

/// Returns the text of a new token.
pub fn random() -> String {
    let bytes: [u8; BYTES] = rand::random();
    format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes))
}

/// Reads the token of an `Authorization` header (RFC 6750, section 2.1).
pub fn bearer(header: &str) -> Option<&str> {
    let (scheme, token) = header.trim().split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim()).filter(|token| !token.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_differ_and_can_be_found_by_scanners() {
        let (one, two) = (random(), random());
        assert_ne!(one, two);
        assert!(one.starts_with("lookout_") && one.len() == 8 + 43, "{one}");
    }

    #[test]
    fn a_hash_survives_its_text() {
        let hash = TokenHash::of("lookout_x");
        assert!(TokenHash::from_hex(&hash.hex()).is_some_and(|read| read.matches(&hash)));
        assert!(!hash.matches(&TokenHash::of("lookout_y")));
        for text in ["", "00", &"g".repeat(64), &"ä".repeat(32)] {
            assert_eq!(TokenHash::from_hex(text), None, "{text}");
        }
    }

    #[test]
    fn only_a_bearer_header_has_a_token() {
        for (header, token) in [
            ("Bearer lookout_x", Some("lookout_x")),
            ("bearer  lookout_x ", Some("lookout_x")),
            ("Basic bG9va291dA==", None),
            ("Bearer", None),
            ("Bearer ", None),
            ("", None),
        ] {
            assert_eq!(bearer(header), token, "{header:?}");
        }
    }
}
