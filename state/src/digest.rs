//! SHA-256 digests and how they are written.

use std::fmt::Write as _;

use serde_json::Value;
use sha2::{Digest as _, Sha256};

/// Bytes as lower-case hex digits, two a byte.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        let _infallible = write!(text, "{byte:02x}");
    }
    text
}

/// SHA-256 of some bytes as the OCI image specification writes it: `sha256:` and 64 hex digits.
#[must_use]
pub fn sha256(bytes: &[u8]) -> String {
    written(&Sha256::digest(bytes))
}

/// Text of a value for a hash: members of objects stand in the order of the alphabet, whatever order
/// they came in. Hashes of such texts are stored, so it stays as it is for ever.
#[must_use]
pub fn canonical(value: &Value) -> String {
    let mut sorted = value.clone();
    sorted.sort_all_objects();
    sorted.to_string()
}

/// Text of a hash that was computed piece by piece: `sha256:` and its hex digits.
#[must_use]
pub fn written(hash: &[u8]) -> String {
    format!("sha256:{}", hex(hash))
}

/// Whether a text is `sha256:` and 64 hex digits in lower case: the only kind of digest used, and
/// safe in paths.
#[must_use]
pub fn is_digest(text: &str) -> bool {
    let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    text.strip_prefix("sha256:")
        .is_some_and(|hash| hash.len() == 64 && hash.bytes().all(is_hex))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_for_a_hash_knows_no_order_of_members_and_keeps_that_of_lists() {
        let one: Value =
            serde_json::from_str(r#"{"b": [{"y": 1.0, "x": null}, 2], "a": "\u00e4"}"#).unwrap();
        let other: Value =
            serde_json::from_str(r#"{"a": "ä", "b": [{"x": null, "y": 1.0}, 2]}"#).unwrap();
        let text = r#"{"a":"ä","b":[{"x":null,"y":1.0},2]}"#;
        assert_eq!([canonical(&one), canonical(&other)], [text, text]);
    }

    #[test]
    fn a_digest_is_written_as_everybody_writes_it() {
        assert_eq!(hex(&[0x00, 0x0f, 0xa0]), "000fa0");
        let empty = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(sha256(b""), empty);
        assert!(is_digest(empty));
        for wrong in [
            "",
            "sha256:",
            &empty[7..],
            &empty.to_uppercase(),
            &empty[..70],
        ] {
            assert!(!is_digest(wrong), "{wrong}");
        }
    }
}
