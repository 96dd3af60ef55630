//! A client's name and the rule for it. Pure.

use std::borrow::Borrow;
use std::hash::{Hash, Hasher};
use std::str::FromStr;
use std::sync::Arc;
use std::{error, fmt};

/// The longest name, in bytes.
pub(crate) const MAX_NAME: usize = 32;

/// A client's name: 1 to 32 of `A-Z a-z 0-9 _ . -`, case-sensitive. Cheap to clone.
///
/// ```
/// use std::collections::HashMap;
///
/// use a_chat::Name;
///
/// let alice: Name = "alice".parse()?;
/// assert_eq!(alice, "alice");
/// assert_eq!(alice.as_str(), "alice");
///
/// let lines = HashMap::from([(alice, 3)]);
/// assert_eq!(lines.get("alice"), Some(&3));
///
/// let error = Name::new("not a name").expect_err("it holds blanks");
/// assert_eq!(error.to_string(), "expected 1 to 32 of A-Z a-z 0-9 _ . -");
/// # Ok::<(), a_chat::InvalidName>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(into = "String", try_from = "String")
)]
pub struct Name(Arc<str>);

impl Name {
    /// Takes text or bytes as a name.
    ///
    /// # Errors
    ///
    /// [`InvalidName`] if they break the rule for names.
    pub fn new(name: impl AsRef<[u8]>) -> Result<Self, InvalidName> {
        let bytes = name.as_ref();
        let text = std::str::from_utf8(bytes).ok().filter(|_| is_name(bytes));
        let text = text.ok_or(InvalidName(()))?;
        Ok(Self(text.into()))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Whether these bytes follow the rule for names.
pub(crate) fn is_name(bytes: &[u8]) -> bool {
    let legal = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    (1..=MAX_NAME).contains(&bytes.len()) && bytes.iter().all(legal)
}

/// The text or the bytes are no [`Name`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidName(());

impl fmt::Display for InvalidName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("expected 1 to 32 of A-Z a-z 0-9 _ . -")
    }
}

impl error::Error for InvalidName {}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl FromStr for Name {
    type Err = InvalidName;

    fn from_str(name: &str) -> Result<Self, InvalidName> {
        Self::new(name)
    }
}

impl TryFrom<&str> for Name {
    type Error = InvalidName;

    fn try_from(name: &str) -> Result<Self, InvalidName> {
        Self::new(name)
    }
}

impl TryFrom<String> for Name {
    type Error = InvalidName;

    fn try_from(name: String) -> Result<Self, InvalidName> {
        Self::new(name)
    }
}

impl TryFrom<&[u8]> for Name {
    type Error = InvalidName;

    fn try_from(name: &[u8]) -> Result<Self, InvalidName> {
        Self::new(name)
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.as_str().to_owned()
    }
}

impl AsRef<str> for Name {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

impl Borrow<str> for Name {
    fn borrow(&self) -> &str {
        self.as_str()
    }
}

impl PartialEq<str> for Name {
    fn eq(&self, other: &str) -> bool {
        self.as_str() == other
    }
}

impl PartialEq<&str> for Name {
    fn eq(&self, other: &&str) -> bool {
        self.as_str() == *other
    }
}

/// A name as the broker looks it up: by the bytes that a sender typed, which need not be text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NameKey(pub(crate) Name);

impl Hash for NameKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.as_str().as_bytes().hash(state);
    }
}

impl Borrow<[u8]> for NameKey {
    fn borrow(&self) -> &[u8] {
        self.0.as_str().as_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_their_rule() {
        for good in ["a", "Z", "0", "_", ".", "-", "alice.b-c_D9", &"x".repeat(32)] {
            assert!(Name::new(good).is_ok(), "{good}");
        }
        for bad in ["", " ", "a b", "a:b", "a,b", "/who", "é", "a\0", &"x".repeat(33)] {
            assert_eq!(Name::new(bad), Err(InvalidName(())), "{bad}");
        }
        Name::new(b"\xff").expect_err("it is not text");
    }

    #[test]
    fn a_name_converts_from_and_to_text() {
        let alice = Name::new("alice").expect("a valid name");
        assert_eq!("alice".parse(), Ok(alice.clone()));
        assert_eq!(Name::try_from("alice"), Ok(alice.clone()));
        assert_eq!(Name::try_from("alice".to_owned()), Ok(alice.clone()));
        assert_eq!(Name::try_from(b"alice".as_slice()), Ok(alice.clone()));
        assert_eq!(AsRef::<str>::as_ref(&alice), "alice");
        assert!(alice == *"alice" && alice == "alice");
        assert_eq!(format!("{alice:>7}"), "  alice");
        assert_eq!(String::from(alice), "alice");
    }
}
