//! Sealing of secret values with the node's key, so that none stands readable where a state is kept.
//! The key itself, and who may see a value, are left to the caller.
//!
//! A seal is made of its value alone: equal values at one place give equal seals, so that specs are
//! compared, hashed and taken back to as they are, without the key. Whoever reads the state learns
//! thereby that a value is what it was before, and no more.
//!
//! Sources: RFC 5869 (HKDF), NIST SP 800-38D (AES-GCM), RFC 5297 (a nonce made of the content).

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, Salt};
use ring::hmac;
use serde::{Deserialize, Serialize};

use crate::digest::hex;

/// Shortest key in bytes.
pub const KEY_BYTES: usize = 32;
/// Form of the seals that are made now.
const FORM: &str = "1";

/// Sealed value: its form, the key's name and the value, which only [`Sealer::open`] reads.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Sealed(String);

impl Sealed {
    /// A sealed value, as it was written out.
    #[must_use]
    pub(crate) const fn from_text(text: String) -> Self {
        Self(text)
    }

    /// The sealed value, to be written out.
    #[must_use]
    pub(crate) fn as_text(&self) -> &str {
        &self.0
    }

    /// Name of the key that it is sealed with.
    #[must_use]
    pub fn key_name(&self) -> &str {
        self.0.split('.').nth(1).unwrap_or_default()
    }
}

impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sealed({})", self.key_name())
    }
}

/// Fault for which a value cannot be sealed or opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// The node has no key, for this reason.
    #[error("the key of secrets is not there: {0}")]
    NoKey(String),
    /// The value is sealed with another key, of this name.
    #[error(
        "the value is sealed with the key {sealed_with}, and this node's key is {key}; \
         put back that key, or deploy the value again"
    )]
    OtherKey {
        /// Name of the key that the value is sealed with.
        sealed_with: String,
        /// Name of the node's key.
        key: String,
    },
    /// The seal was changed, or belongs elsewhere.
    #[error("the sealed value is damaged; deploy it again")]
    Damaged,
}

/// Key of a node, as its start found it.
#[derive(Clone, Debug)]
pub enum NodeKey {
    /// Values are sealed and opened with it.
    Present(Arc<Sealer>),
    /// The key cannot be had, for this reason: values are neither taken in nor opened.
    Missing(String),
}

impl NodeKey {
    /// Sealer with this key.
    ///
    /// # Errors
    /// [`SealError::NoKey`].
    pub fn sealer(&self) -> Result<&Sealer, SealError> {
        match self {
            Self::Present(sealer) => Ok(sealer),
            Self::Missing(why) => Err(SealError::NoKey(why.clone())),
        }
    }
}

/// Place of a node's key, which all who seal and open share: it may come later than they.
#[derive(Clone, Debug, Default)]
pub struct KeyPlace(Arc<RwLock<Option<NodeKey>>>);

impl KeyPlace {
    /// The key. `None`: none was set, and values are kept as they come.
    #[must_use]
    pub fn get(&self) -> Option<NodeKey> {
        let key = self.0.read().unwrap_or_else(PoisonError::into_inner);
        key.clone()
    }

    /// The key, by which values are opened.
    #[must_use]
    pub fn node_key(&self) -> NodeKey {
        let unset = || NodeKey::Missing("none was set".to_owned());
        self.get().unwrap_or_else(unset)
    }

    /// Sets the key, unless one is there.
    pub fn set(&self, key: NodeKey) {
        let mut place = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if !matches!(*place, Some(NodeKey::Present(_))) {
            *place = Some(key);
        }
    }
}

/// Sealing and opening with one key.
pub struct Sealer {
    name: String,
    content: LessSafeKey,
    nonces: hmac::Key,
    tags: hmac::Key,
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sealer({})", self.name)
    }
}

impl Sealer {
    /// Sealer with this key, of [`KEY_BYTES`] or more, all of which count.
    ///
    /// # Panics
    /// Never: every length here is one that the algorithms take.
    #[must_use]
    pub fn new(key: &[u8]) -> Self {
        let root = Salt::new(HKDF_SHA256, b"chas-node-agent secrets").extract(key);
        let fits = "a key of 32 bytes can be derived";
        let content = root.expand(&[b"content"], &AES_256_GCM).expect(fits);
        let mac = |purpose: &[u8]| {
            let purpose = [purpose];
            hmac::Key::from(root.expand(&purpose, hmac::HMAC_SHA256).expect(fits))
        };
        let name = hmac::sign(&mac(b"name"), b"name");
        Self {
            name: hex(&name.as_ref()[..4]),
            content: LessSafeKey::new(UnboundKey::from(content)),
            nonces: mac(b"nonce"),
            tags: mac(b"tag"),
        }
    }

    /// Name of the key: 8 hex digits, which tell nothing else of it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Seals a value for a place; nowhere else can it be opened.
    ///
    /// # Panics
    /// Never: no value is longer than the 64 GiB that the algorithm takes.
    #[must_use]
    pub fn seal(&self, place: &str, value: &[u8]) -> Sealed {
        let nonce = self.nonce(place, value);
        let mut sealed = value.to_vec();
        let place = Aad::from(place.as_bytes());
        self.content
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), place, &mut sealed)
            .expect("a value is shorter than 64 GiB");
        let bytes = [nonce.as_slice(), &sealed].concat();
        Sealed(format!("{FORM}.{}.{}", self.name, STANDARD.encode(bytes)))
    }

    /// Opens a value that was sealed for a place.
    ///
    /// # Errors
    /// [`SealError::OtherKey`], [`SealError::Damaged`].
    pub fn open(&self, place: &str, sealed: &Sealed) -> Result<Vec<u8>, SealError> {
        if sealed.key_name() != self.name {
            return Err(SealError::OtherKey {
                sealed_with: sealed.key_name().to_owned(),
                key: self.name.clone(),
            });
        }
        self.opened(place, sealed).ok_or(SealError::Damaged)
    }

    fn opened(&self, place: &str, sealed: &Sealed) -> Option<Vec<u8>> {
        let text = sealed.0.strip_prefix(FORM)?.strip_prefix('.')?;
        let bytes = STANDARD.decode(text.split_once('.')?.1).ok()?;
        let (nonce, content) = bytes.split_at_checked(NONCE_LEN)?;
        let (nonce, mut content) = (
            Nonce::try_assume_unique_for_key(nonce).ok()?,
            content.to_vec(),
        );
        let place = Aad::from(place.as_bytes());
        let value = self.content.open_in_place(nonce, place, &mut content);
        Some(value.ok()?.to_vec())
    }

    /// Fingerprint of a content at a place, in hex, which tells nothing of it without the key.
    #[must_use]
    pub fn tag(&self, place: &str, content: &[u8]) -> String {
        let mut context = hmac::Context::with_key(&self.tags);
        sign_place(&mut context, place);
        context.update(content);
        hex(&context.sign().as_ref()[..16])
    }

    fn nonce(&self, place: &str, value: &[u8]) -> [u8; NONCE_LEN] {
        let mut context = hmac::Context::with_key(&self.nonces);
        sign_place(&mut context, place);
        context.update(value);
        let mut nonce = [0; NONCE_LEN];
        nonce.copy_from_slice(&context.sign().as_ref()[..NONCE_LEN]);
        nonce
    }
}

/// Adds a place in a way that no other place and content have in common.
fn sign_place(context: &mut hmac::Context, place: &str) {
    context.update(&place.len().to_be_bytes());
    context.update(place.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: [u8; KEY_BYTES] = [7; KEY_BYTES];

    #[test]
    fn a_value_is_opened_at_its_place_with_its_key_and_nowhere_else() {
        let sealer = Sealer::new(&KEY);
        let sealed = sealer.seal("web A", b"word");
        assert_eq!(sealer.open("web A", &sealed).unwrap(), b"word");
        assert_eq!(sealer.open("web B", &sealed), Err(SealError::Damaged));
        let other = Sealer::new(&[8; KEY_BYTES]);
        let refused = other.open("web A", &sealed).unwrap_err();
        assert!(refused.to_string().contains(sealer.name()), "{refused}");
        for damage in ["", "1", "1.x", "2"] {
            let name = sealer.name();
            let damaged = Sealed(format!("{damage}.{name}.AAAA"));
            assert!(sealer.open("web A", &damaged).is_err(), "{damage}");
        }
        let mut flipped = sealed.0.clone();
        flipped.replace_range(12..13, if &flipped[12..13] == "A" { "B" } else { "A" });
        assert_eq!(
            sealer.open("web A", &Sealed(flipped)),
            Err(SealError::Damaged)
        );
    }

    #[test]
    fn equal_values_at_one_place_have_one_seal_and_others_have_others() {
        let sealer = Sealer::new(&KEY);
        let seal = |place: &str, value: &[u8]| sealer.seal(place, value);
        assert_eq!(seal("a", b"x"), Sealer::new(&KEY).seal("a", b"x"));
        assert_ne!(seal("a", b"x"), seal("a", b"y"));
        assert_ne!(seal("a", b"x"), seal("b", b"x"));
        assert_ne!(sealer.tag("a", b"bx"), sealer.tag("ab", b"x"));
        assert_eq!(sealer.tag("a", b"x").len(), 32);
    }

    /// Stored for ever: with the same key each version opens what any made.
    #[test]
    fn the_form_of_a_seal_stays() {
        let sealer = Sealer::new(&KEY);
        let sealed = Sealed(GOLDEN.to_owned());
        assert_eq!(sealer.open("place", &sealed).unwrap(), b"value");
        assert_eq!(sealer.seal("place", b"value"), sealed);
    }

    const GOLDEN: &str = "1.a263e5d1.6p/ttfFLAYNLioHjna2TM9FeQjkREDcHpy8M7VE+y7i1";

    #[test]
    fn neither_value_nor_key_is_shown() {
        let sealer = Sealer::new(&KEY);
        let sealed = sealer.seal("a", b"word");
        let shown = format!("{sealer:?} {sealed:?}");
        assert_eq!(shown, format!("Sealer({0}) Sealed({0})", sealer.name()));
    }
}
