//! The user file: which names are reserved, and the hashes of the tokens that prove them. Pure.
//!
//! ```text
//! # name   secret                                   options
//! alice    sha256:9f86d081…                         since=2026-11-25
//! bot-1    sha256:60303ae2…,sha256:2c26b46b…        rate=100
//! carol    sha256:5feceb66…                         disabled
//! ```

use std::collections::{HashMap, HashSet};
use std::{error, fmt};

use crate::wire::name::Name;
use crate::wire::token::TokenHash;

/// How many tokens a name may have at once: the old and the new one while it is changed.
const MAX_TOKENS: usize = 2;

/// The users of a server, as its user file lists them.
///
/// ```
/// use a_chat::{Token, UserTable};
///
/// let token = Token::generate()?;
/// let file = format!("# name secret options\nalice {} rate=100\n", token.hash());
/// let users = UserTable::parse(file.as_bytes())?;
/// assert_eq!(users.users()[0].name, "alice");
/// assert_eq!(users.users()[0].rate, Some(100));
///
/// let error = UserTable::parse(b"\nalice hunter2\n").expect_err("a chosen secret");
/// assert_eq!(error.to_string(), "line 2: unknown option, expected since=, rate= or disabled");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct UserTable {
    users: Vec<User>,
    by_name: HashMap<Name, usize>,
    /// The names in lower case, which no guest may have.
    reserved: HashSet<String>,
}

/// A user of a server.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct User {
    /// The name that only this user may have.
    pub name: Name,
    /// Hashes of the tokens that prove it: at most two, and at least one unless it is disabled.
    pub hashes: Vec<TokenHash>,
    /// No token is accepted, but the name stays reserved.
    pub disabled: bool,
    /// How many lines a second the user may send, instead of the server's limit.
    pub rate: Option<u32>,
    /// A date, for the operator.
    pub since: Option<String>,
}

/// What is wrong with a user file. Its text never holds a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidUserFile {
    /// Counted from 1.
    line: usize,
    problem: String,
}

impl fmt::Display for InvalidUserFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.problem)
    }
}

impl error::Error for InvalidUserFile {}

impl UserTable {
    /// Reads a user file.
    ///
    /// # Errors
    ///
    /// [`InvalidUserFile`] names the first line that breaks the format.
    pub fn parse(file: &[u8]) -> Result<Self, InvalidUserFile> {
        let mut table = Self::default();
        for (index, line) in file.split(|byte| *byte == b'\n').enumerate() {
            let invalid = |problem| InvalidUserFile { line: index + 1, problem };
            let line = std::str::from_utf8(line).map_err(|_| invalid("not UTF-8".to_owned()))?;
            if line.ends_with('\r') {
                return Err(invalid("ends with a carriage return, lines end with \\n".to_owned()));
            }
            if let Some(user) = User::parse(line).map_err(invalid)? {
                table.add(user).map_err(invalid)?;
            }
        }
        Ok(table)
    }

    fn add(&mut self, user: User) -> Result<(), String> {
        let number = self.users.len();
        if self.by_name.insert(user.name.clone(), number).is_some() {
            return Err(format!("{} has a line already", user.name));
        }
        self.reserved.insert(user.name.as_str().to_ascii_lowercase());
        self.users.push(user);
        Ok(())
    }

    /// All users, in the order of the file.
    #[must_use]
    pub fn users(&self) -> &[User] {
        &self.users
    }

    /// The user of this name; case matters.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<&User> {
        self.by_name.get(name).map(|number| &self.users[*number])
    }

    /// Whether a guest may not have this name, because it is a user's or looks like one's: case does
    /// not matter.
    #[must_use]
    pub fn reserves(&self, name: &str) -> bool {
        self.reserved.contains(&name.to_ascii_lowercase())
    }
}

impl User {
    /// Reads one line; `None` if it is empty or a comment.
    fn parse(line: &str) -> Result<Option<Self>, String> {
        let mut words = line.split([' ', '\t']).filter(|word| !word.is_empty()).peekable();
        let Some(name) = words.next().filter(|name| !name.starts_with('#')) else {
            return Ok(None);
        };
        let name = Name::new(name).map_err(|error| format!("bad name, {error}"))?;
        let hashes = match words.next_if(|word| word.starts_with("sha256:")) {
            Some(secret) => hashes(secret)?,
            None => Vec::new(),
        };
        let mut user = Self { name, hashes, disabled: false, rate: None, since: None };
        let mut seen = HashSet::new();
        for option in words {
            user.set(option)?;
            let (key, _) = option.split_once('=').unwrap_or((option, ""));
            if !seen.insert(key) {
                return Err(format!("{key} is given twice"));
            }
        }
        if user.hashes.is_empty() && !user.disabled {
            return Err("no secret, expected sha256: and 64 digits, or disabled".to_owned());
        }
        Ok(Some(user))
    }

    fn set(&mut self, option: &str) -> Result<(), String> {
        match option.split_once('=') {
            None if option == "disabled" => self.disabled = true,
            Some(("rate", rate)) => {
                let rate = rate.parse().ok().filter(|rate| *rate > 0);
                self.rate = Some(rate.ok_or("bad rate, expected lines a second, as in rate=100")?);
            }
            Some(("since", date)) => {
                let expected = "bad date, expected one as in since=2026-11-25";
                self.since = Some(date.to_owned()).filter(|date| is_date(date));
                self.since.as_ref().ok_or(expected)?;
            }
            // The option itself may be a secret in the wrong place.
            _ => return Err("unknown option, expected since=, rate= or disabled".to_owned()),
        }
        Ok(())
    }
}

fn hashes(secret: &str) -> Result<Vec<TokenHash>, String> {
    let hashes: Option<Vec<_>> = secret.split(',').map(TokenHash::parse).collect();
    let hashes = hashes.ok_or("bad secret, expected sha256: and 64 digits of 0-9 a-f")?;
    if hashes.len() > MAX_TOKENS {
        return Err(format!("more than {MAX_TOKENS} secrets"));
    }
    if hashes.len() == MAX_TOKENS && hashes[0] == hashes[1] {
        return Err("the same secret twice".to_owned());
    }
    Ok(hashes)
}

/// Whether the text has the form of a date. It is for people, so the calendar does not matter.
fn is_date(text: &str) -> bool {
    let form = text.bytes().map(|byte| if byte.is_ascii_digit() { b'0' } else { byte });
    form.eq(*b"0000-00-00")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::token::Token;

    fn hash() -> TokenHash {
        Token::generate().expect("random numbers").hash()
    }

    fn problem(file: &str) -> String {
        UserTable::parse(file.as_bytes()).expect_err(file).to_string()
    }

    #[test]
    fn a_user_file_is_read_with_comments_blanks_and_options() {
        let (one, two, three) = (hash(), hash(), hash());
        let file = format!(
            "# users\n\n  alice\t{one}   since=2026-11-25 \nbot-1 {two},{three} rate=100\n\
             carol {one} disabled rate=5\ndave disabled"
        );
        let table = UserTable::parse(file.as_bytes()).expect("a valid file");
        let names: Vec<_> = table.users().iter().map(|user| user.name.as_str()).collect();
        assert_eq!(names, ["alice", "bot-1", "carol", "dave"]);
        let user = |name| table.find(name).expect(name);
        assert_eq!(user("alice").hashes, [one]);
        assert_eq!(user("alice").since.as_deref(), Some("2026-11-25"));
        assert_eq!((user("bot-1").hashes.len(), user("bot-1").rate), (2, Some(100)));
        assert!(user("carol").disabled && user("carol").hashes == [one]);
        assert!(user("dave").disabled && user("dave").hashes.is_empty());
        assert!(table.find("Alice").is_none() && table.find("erin").is_none());
    }

    #[test]
    fn a_name_is_reserved_in_every_case() {
        let table = UserTable::parse(format!("aLice {}", hash()).as_bytes()).expect("valid");
        for name in ["aLice", "alice", "ALICE", "Alice"] {
            assert!(table.reserves(name), "{name}");
        }
        assert!(!table.reserves("alic") && !table.reserves("alice1"));
    }

    #[test]
    fn an_empty_file_reserves_nothing() {
        for file in ["", "\n", "# nobody\n", "   \n\t\n"] {
            let table = UserTable::parse(file.as_bytes()).expect("a valid file");
            assert!(table.users().is_empty() && !table.reserves("alice"), "{file:?}");
        }
    }

    #[test]
    fn every_mistake_names_its_line_and_shows_no_secret() {
        let (one, two) = (hash(), hash());
        let cases = [
            ("a b".to_owned(), "unknown option"),
            ("hunter2".to_owned(), "no secret"),
            (format!("no:name {one}"), "bad name"),
            (format!("a {one} b=1"), "unknown option"),
            (format!("a {one} to=bob"), "unknown option"),
            (format!("a {one} rate=0"), "bad rate"),
            (format!("a {one} rate=-1"), "bad rate"),
            (format!("a {one} since=today"), "bad date"),
            (format!("a {one} since=2026-1-1"), "bad date"),
            (format!("a {one} rate=1 rate=2"), "rate is given twice"),
            (format!("a {one} disabled disabled"), "disabled is given twice"),
            (format!("a {one},{one}"), "the same secret twice"),
            (format!("a {one},{two},{one}"), "more than 2 secrets"),
            (format!("a {one},"), "bad secret"),
            (format!("a {}", one.to_string().to_uppercase().replace("SHA", "sha")), "bad secret"),
            (format!("a sha256:{}", "0".repeat(63)), "bad secret"),
            (format!("a {one}\r"), "carriage return"),
            (format!("x {two}"), "x has a line already"),
            ("\u{feff}a disabled".to_owned(), "bad name"),
        ];
        for (line, expected) in cases {
            let problem = problem(&format!("x {one}\n\n{line}\ny {two}\n"));
            assert!(problem.starts_with("line 3: ") && problem.contains(expected), "{problem}");
            assert!(!problem.contains("hunter2"), "{problem}");
        }
        let not_text = UserTable::parse(b"# x\n\xff disabled").expect_err("not UTF-8");
        assert_eq!(not_text.to_string(), "line 2: not UTF-8");
    }
}
