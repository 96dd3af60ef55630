//! A token: the secret that proves a name. Pure, apart from the kernel's random numbers.
//!
//! Tokens are generated and never chosen, and nothing else is taken for one. So a hash of one needs
//! neither salt nor time to be safe: 130 random bits cannot be searched.

use std::hint::black_box;
use std::{error, fmt};

/// How a token begins, so that programs that look for secrets in the wrong places find it.
pub(crate) const PREFIX: &str = "achat_";

/// How many characters follow.
const DIGITS: usize = 26;

/// A token's length, in bytes.
const LENGTH: usize = PREFIX.len() + DIGITS;

/// Crockford's base 32 in lower case: it leaves out the letters that look like digits.
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// The secret with which a user of a server proves a name: `achat_` and 26 digits of Crockford's
/// base 32 in lower case.
///
/// It is shown nowhere: [`Debug`](fmt::Debug) leaves it out, and its memory is overwritten when it
/// is dropped.
///
/// ```
/// use a_chat::Token;
///
/// let token = Token::new("achat_0123456789abcdefghjkmnpqrs")?;
/// assert_eq!(token.expose(), "achat_0123456789abcdefghjkmnpqrs");
/// assert_eq!(format!("{token:?}"), "Token(..)");
/// assert!(Token::new("hunter2").is_err());
/// # Ok::<(), a_chat::InvalidToken>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Token([u8; LENGTH]);

impl Token {
    /// Takes text or bytes as a token.
    ///
    /// # Errors
    ///
    /// [`InvalidToken`] if they have not the form of one.
    pub fn new(token: impl AsRef<[u8]>) -> Result<Self, InvalidToken> {
        let bytes: [u8; LENGTH] = token.as_ref().try_into().map_err(|_| InvalidToken(()))?;
        let digits = bytes.strip_prefix(PREFIX.as_bytes()).ok_or(InvalidToken(()))?;
        if digits.iter().all(|digit| ALPHABET.contains(digit)) {
            Ok(Self(bytes))
        } else {
            Err(InvalidToken(()))
        }
    }

    /// A new token, from the kernel's random numbers.
    ///
    /// # Errors
    ///
    /// If the kernel has none.
    #[cfg(feature = "users")]
    pub fn generate() -> std::io::Result<Self> {
        let mut random = [0; DIGITS];
        let mut filled = 0;
        while filled < DIGITS {
            let flags = rustix::rand::GetRandomFlags::empty();
            filled += rustix::rand::getrandom(&mut random[filled..], flags)?;
        }
        let mut bytes = [0; LENGTH];
        let (prefix, digits) = bytes.split_at_mut(PREFIX.len());
        prefix.copy_from_slice(PREFIX.as_bytes());
        for (digit, random) in digits.iter_mut().zip(random) {
            // 256 is a multiple of 32, so each digit is as likely as any other.
            *digit = ALPHABET[usize::from(random) % ALPHABET.len()];
        }
        Ok(Self(bytes))
    }

    /// The token as text. Keep it out of logs, arguments and errors.
    #[must_use]
    pub fn expose(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }

    /// What a user file holds instead of the token.
    #[cfg(feature = "users")]
    #[must_use]
    pub fn hash(&self) -> TokenHash {
        use sha2::{Digest, Sha256};
        TokenHash(Sha256::digest(self.0).into())
    }
}

impl Drop for Token {
    fn drop(&mut self) {
        wipe(&mut self.0);
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

/// Overwrites a secret that is no longer needed.
pub(crate) fn wipe(secret: &mut [u8]) {
    secret.fill(0);
    // Otherwise the compiler may leave out a write that nobody reads.
    black_box(secret);
}

/// The text is no [`Token`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidToken(());

impl fmt::Display for InvalidToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "expected {PREFIX} and {DIGITS} digits of Crockford's base 32 in lower case")
    }
}

impl error::Error for InvalidToken {}

/// The SHA-256 hash of a [`Token`]. [`Display`](fmt::Display) is its form in a user file:
/// `sha256:` and 64 hexadecimal digits.
#[cfg(feature = "users")]
#[derive(Clone, Copy)]
pub struct TokenHash([u8; 32]);

#[cfg(feature = "users")]
mod hash {
    use super::{TokenHash, fmt};

    const PREFIX: &str = "sha256:";

    impl TokenHash {
        /// Reads the form that [`Display`](fmt::Display) writes; `None` for anything else.
        #[must_use]
        pub fn parse(text: &str) -> Option<Self> {
            let digits = text.strip_prefix(PREFIX)?.as_bytes();
            let mut hash = [0; 32];
            if digits.len() != 2 * hash.len() {
                return None;
            }
            for (byte, pair) in hash.iter_mut().zip(digits.chunks_exact(2)) {
                *byte = digit(pair[0])? << 4 | digit(pair[1])?;
            }
            Some(Self(hash))
        }
    }

    fn digit(byte: u8) -> Option<u8> {
        match byte {
            b'0'..=b'9' => Some(byte - b'0'),
            b'a'..=b'f' => Some(byte - b'a' + 10),
            _ => None,
        }
    }

    impl PartialEq for TokenHash {
        /// Takes as long wherever the two differ.
        fn eq(&self, other: &Self) -> bool {
            self.0.iter().zip(other.0).fold(0, |all, (one, other)| all | (one ^ other)) == 0
        }
    }

    impl Eq for TokenHash {}

    impl fmt::Display for TokenHash {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(PREFIX)?;
            self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
        }
    }

    impl fmt::Debug for TokenHash {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("TokenHash(..)")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "achat_0123456789abcdefghjkmnpqrs";

    #[test]
    fn only_what_has_the_form_of_a_token_is_one() {
        assert_eq!(Token::new(GOOD).map(|token| token.expose().to_owned()), Ok(GOOD.to_owned()));
        let odd = [
            "",
            "achat_",
            "hunter2",
            "correct-horse-battery-staple-3456",
            &GOOD[1..],
            &GOOD[..31],
            "achat_0123456789abcdefghjkmnpqrsx",
            "achat_0123456789ABCDEFGHJKMNPQRS",
            "Achat_0123456789abcdefghjkmnpqrs",
            // Letters that look like digits, and what is no digit at all.
            "achat_0123456789abcdefghjkmnpqri",
            "achat_0123456789abcdefghjkmnpqrl",
            "achat_0123456789abcdefghjkmnpqro",
            "achat_0123456789abcdefghjkmnpqru",
            "achat_0123456789abcdefghjkmnpqr-",
            " achat_0123456789abcdefghjkmnpqr",
        ];
        for text in odd {
            assert_eq!(Token::new(text).map(drop), Err(InvalidToken(())), "{text}");
        }
        Token::new(b"achat_\xff123456789abcdefghjkmnpqrs").expect_err("it is not text");
    }

    #[test]
    fn a_token_shows_itself_nowhere() {
        let token = Token::new(GOOD).expect("a token");
        assert_eq!(format!("{token:?}"), "Token(..)");
        assert!(!InvalidToken(()).to_string().contains(&GOOD[6..]));
    }

    #[test]
    fn a_wiped_secret_is_gone() {
        let mut secret = *b"secret";
        wipe(&mut secret);
        assert_eq!(secret, [0; 6]);
    }

    #[cfg(feature = "users")]
    #[test]
    fn generated_tokens_have_the_form_of_one_and_differ() {
        let tokens: Vec<_> = (0..1000).map(|_| Token::generate().expect("random")).collect();
        let distinct: std::collections::HashSet<_> = tokens.iter().map(Token::expose).collect();
        assert_eq!(distinct.len(), tokens.len());
        let mut seen = [false; 256];
        for token in &tokens {
            Token::new(token.expose()).expect("a token");
            token.expose().bytes().skip(6).for_each(|digit| seen[usize::from(digit)] = true);
        }
        assert!(ALPHABET.iter().all(|digit| seen[usize::from(*digit)]), "every digit occurs");
    }

    #[cfg(feature = "users")]
    #[test]
    fn a_hash_is_written_and_read_alike() {
        let hash = Token::new(GOOD).expect("a token").hash();
        // As sha256sum(1) prints it.
        let text = "sha256:63b46dd3aab811d22c51ef759557d105a36af816996f09fa287cf562c92bad9d";
        assert_eq!(hash.to_string(), text);
        assert_eq!(TokenHash::parse(text), Some(hash));
        assert_eq!(format!("{hash:?}"), "TokenHash(..)");
        let other = Token::generate().expect("random").hash();
        assert_ne!(hash, other);
        let upper = text.to_uppercase();
        for odd in ["", "sha256:", &text[7..], &text[..70], &upper, &format!("{text}0"), "md5:00"] {
            assert_eq!(TokenHash::parse(odd), None, "{odd}");
        }
    }
}
