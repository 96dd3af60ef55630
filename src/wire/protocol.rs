//! The text rules of the wire, pure: no thread runs here, nothing is owned, bytes give values.
//!
//! Everything the server ever says to a client, and every reason it has to refuse a line, is
//! spelled in this file and nowhere else.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

/// The longest name, in bytes.
pub(crate) const MAX_NAME: usize = 32;

/// How many different names a list may hold. Each takes the broker a look-up, a queue entry and the
/// waking of a writer, while everybody else waits: for so many, a millisecond or two.
pub(crate) const MAX_RECIPIENTS: usize = 1024;

/// How many names `/who` lists before it stops.
pub(crate) const MAX_WHO_NAMES: usize = 100;

/// How what the server says begins: someone's message, a refusal, anything else; and the latter two
/// if they answer a line, whose number is next.
pub(crate) const FROM: &str = "from ";
pub(crate) const ERROR: &str = "error: ";
pub(crate) const NOTICE: &str = "notice: ";
pub(crate) const ERROR_LINE: &str = "error: line ";
pub(crate) const NOTICE_LINE: &str = "notice: line ";

/// The command that asks who is connected.
pub(crate) const WHO: &str = "/who";

/// What stands before the names that are not connected, in the answer to [`WHO`].
pub(crate) const NOT_HERE: &str = "not here: ";

/// What stands before and after the number of accepted lines in the last line of a server.
const CLOSING: (&str, &str) = ("notice: server is shutting down, ", " of your lines were accepted");

/// A client's name: 1 to 32 of `A-Z a-z 0-9 _ . -`, case-sensitive.
///
/// ```
/// use a_chat::Name;
///
/// let name = Name::new(b"alice").expect("a valid name");
/// assert_eq!(name.as_str(), "alice");
/// assert_eq!(Name::new(b"not a name"), None);
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name(Arc<str>);

impl Name {
    /// Takes `bytes` as a name, or `None` if they break the rule for names.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Option<Self> {
        let legal = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
        let fits = (1..=MAX_NAME).contains(&bytes.len()) && bytes.iter().all(legal);
        let text = std::str::from_utf8(bytes).ok().filter(|_| fits)?;
        Some(Self(text.into()))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

// A name is looked up by the bytes that a sender typed, so it must hash as those bytes do.
impl std::hash::Hash for Name {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.0.as_bytes().hash(state);
    }
}

impl Borrow<[u8]> for Name {
    fn borrow(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

/// What a client's complete line asks for. All parts borrow from the line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Request<'a> {
    /// Nothing between two line ends: ignored, yet counted as a line.
    Empty,
    /// `bob, carol: hello`.
    Message {
        /// The list before the first `:`, as typed; split it with [`names`].
        recipients: &'a [u8],
        /// What follows the `:`, trimmed.
        text: &'a [u8],
    },
    /// `/who` (an empty list) or `/who bob, carol`.
    Who {
        /// The list, as typed; split it with [`names`].
        names: &'a [u8],
    },
}

/// Why one line was refused. Nothing else of that client is affected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LineRefusal {
    /// The line holds no `:` and is no command.
    NoColon,
    /// No name stands before the `:`.
    NoRecipients,
    /// The list holds more than [`MAX_RECIPIENTS`] different names.
    TooManyNames,
    /// The line is not UTF-8.
    NotUtf8,
    /// The line is longer than `limit` bytes, its line end not counted.
    TooLong {
        /// The limit in force, in bytes.
        limit: usize,
    },
}

impl fmt::Display for LineRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoColon => f.write_str("no ':' in it, expected \"name, name: text\""),
            Self::NoRecipients => f.write_str("no recipient before the ':'"),
            Self::TooManyNames => write!(f, "more than {MAX_RECIPIENTS} names in its list"),
            Self::NotUtf8 => f.write_str("not UTF-8"),
            Self::TooLong { limit } => write!(f, "longer than {limit} bytes"),
        }
    }
}

/// Why a connection is closed with an error. The text is the last thing that the client gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rejection {
    BadName,
    NameTaken,
    LoginTimeout,
    ServerFull,
    PerAddressLimit,
    Evicted,
    UnterminatedLine,
}

impl Rejection {
    /// The whole line, its line end included.
    pub(crate) const fn line(self) -> &'static str {
        match self {
            Self::BadName => "error: bad name, expected 1 to 32 of A-Z a-z 0-9 _ . -\n",
            Self::NameTaken => "error: name taken\n",
            Self::LoginTimeout => "error: login not in time\n",
            Self::ServerFull => "error: server is full\n",
            Self::PerAddressLimit => "error: too many connections from your address\n",
            Self::Evicted => "error: evicted, nothing was read for too long\n",
            Self::UnterminatedLine => "error: the last line had no line end and was not accepted\n",
        }
    }
}

/// Reads one complete line, its `\n` (and a `\r` before it) already taken off.
///
/// The line must be UTF-8: the framing in [`crate::wire::framing`] checks that for many lines at once.
pub(crate) fn parse_request(line: &[u8]) -> Result<Request<'_>, LineRefusal> {
    if line.is_empty() {
        return Ok(Request::Empty);
    }
    if let Some(names) = who_list(line) {
        return Ok(Request::Who { names });
    }
    let colon = memchr::memchr(b':', line).ok_or(LineRefusal::NoColon)?;
    let (recipients, text) = (&line[..colon], &line[colon + 1..]);
    // Whoever begins like a name is one; what does not has to be looked at more closely.
    let begins_like_a_name = recipients.first().is_some_and(u8::is_ascii_alphanumeric);
    if !begins_like_a_name && names(recipients).next().is_none() {
        return Err(LineRefusal::NoRecipients);
    }
    Ok(Request::Message { recipients, text: trim(text) })
}

/// The names of a comma-separated list, trimmed, in order; empty items are left out.
pub(crate) fn names(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    list.split(|&byte| byte == b',').map(trim).filter(|name| !name.is_empty())
}

/// Takes white space off both ends, Unicode's white space included, as `str::trim` does.
pub(crate) fn trim(text: &[u8]) -> &[u8] {
    let printable = |byte: Option<&u8>| byte.is_none_or(u8::is_ascii_graphic);
    if printable(text.first()) && printable(text.last()) {
        return text;
    }
    let text = text.trim_ascii();
    if printable(text.first()) && printable(text.last()) {
        return text;
    }
    std::str::from_utf8(text).map_or(text, |text| text.trim().as_bytes())
}

/// What follows `/who`, if the line is that command: the word stands alone or before a blank.
fn who_list(line: &[u8]) -> Option<&[u8]> {
    let rest = line.strip_prefix(WHO.as_bytes())?;
    rest.first().is_none_or(u8::is_ascii_whitespace).then_some(rest)
}

/// What stands before each of a client's messages: `from alice: `.
pub(crate) fn message_prefix(name: &Name) -> Vec<u8> {
    format!("{FROM}{name}: ").into_bytes()
}

/// Appends the answer to a refused line.
pub(crate) fn push_refusal(out: &mut Vec<u8>, line: u64, refusal: LineRefusal) {
    out.extend_from_slice(format!("{ERROR_LINE}{line}: {refusal}\n").as_bytes());
}

/// Appends the answer to a line of whose recipients those in the [`list`] are not connected.
pub(crate) fn push_no_such_peer(out: &mut Vec<u8>, line: u64, missing: &[u8]) {
    out.extend_from_slice(format!("{ERROR_LINE}{line}: no such peer: ").as_bytes());
    out.extend_from_slice(missing);
    out.push(b'\n');
}

/// Names as answers list them.
pub(crate) fn list(names: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::new();
    push_list(&mut out, names);
    out
}

/// Appends the answer to `/who bob, carol`; at least one of the lists holds a name.
pub(crate) fn push_who_of(out: &mut Vec<u8>, line: u64, present: &[&[u8]], absent: &[&[u8]]) {
    out.extend_from_slice(format!("{NOTICE_LINE}{line}: ").as_bytes());
    if !present.is_empty() {
        out.extend_from_slice(b"here: ");
        push_list(out, present);
    }
    if !absent.is_empty() {
        let between = if present.is_empty() { "" } else { "; " };
        out.extend_from_slice(between.as_bytes());
        out.extend_from_slice(NOT_HERE.as_bytes());
        push_list(out, absent);
    }
    out.push(b'\n');
}

/// Appends the answer to `/who`: how many are connected, and some of their names.
pub(crate) fn push_who(out: &mut Vec<u8>, line: u64, connected: usize, names: &[&[u8]]) {
    out.extend_from_slice(format!("{NOTICE_LINE}{line}: {connected} here: ").as_bytes());
    push_list(out, names);
    if names.len() < connected {
        out.extend_from_slice(b", ...");
    }
    out.push(b'\n');
}

/// The last line of a server that shuts down.
pub(crate) fn closing_notice(accepted: u64) -> String {
    let (before, after) = CLOSING;
    format!("{before}{accepted}{after}\n")
}

/// The number in a [`closing_notice`], its line end taken off.
pub(crate) fn accepted_in_closing_notice(line: &str) -> Option<u64> {
    let (before, after) = CLOSING;
    line.strip_prefix(before)?.strip_suffix(after)?.parse().ok()
}

fn push_list(out: &mut Vec<u8>, names: &[&[u8]]) {
    for (index, name) in names.iter().enumerate() {
        if index > 0 {
            out.extend_from_slice(b", ");
        }
        out.extend_from_slice(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message<'a>(recipients: &'a str, text: &'a str) -> Request<'a> {
        Request::Message { recipients: recipients.as_bytes(), text: text.as_bytes() }
    }

    #[test]
    fn names_follow_their_rule() {
        for good in ["a", "Z", "0", "_", ".", "-", "alice.b-c_D9", &"x".repeat(32)] {
            assert!(Name::new(good.as_bytes()).is_some(), "{good}");
        }
        for bad in ["", " ", "a b", "a:b", "a,b", "/who", "é", "a\0", &"x".repeat(33)] {
            assert!(Name::new(bad.as_bytes()).is_none(), "{bad}");
        }
    }

    #[test]
    fn requests() {
        assert_eq!(parse_request(b""), Ok(Request::Empty));
        assert_eq!(parse_request(b"bob: hi"), Ok(message("bob", "hi")));
        assert_eq!(parse_request(b"bob:hi: you, all"), Ok(message("bob", "hi: you, all")));
        assert_eq!(parse_request(b"bob:"), Ok(message("bob", "")));
        assert_eq!(
            parse_request("bob:\u{a0}\u{2003}h i\u{b}".as_bytes()),
            Ok(message("bob", "h i"))
        );
        assert_eq!(parse_request(b"hello"), Err(LineRefusal::NoColon));
        assert_eq!(parse_request(b" "), Err(LineRefusal::NoColon));
        assert_eq!(parse_request(b": hi"), Err(LineRefusal::NoRecipients));
        assert_eq!(parse_request(b" , ,: hi"), Err(LineRefusal::NoRecipients));
        assert_eq!(parse_request(b"/who"), Ok(Request::Who { names: b"" }));
        assert_eq!(parse_request(b"/who bob: x"), Ok(Request::Who { names: b" bob: x" }));
        assert_eq!(parse_request(b"/who: x"), Ok(message("/who", "x")));
        assert_eq!(parse_request(b"/whom"), Err(LineRefusal::NoColon));
    }

    #[test]
    fn lists_are_trimmed_and_keep_their_order() {
        let list: Vec<&[u8]> = names(b" bob ,, carol,\tdave eve ,").collect();
        assert_eq!(list, [b"bob".as_slice(), b"carol", b"dave eve"]);
    }

    #[test]
    fn who_answers() {
        let mut out = Vec::new();
        push_who_of(&mut out, 5, &[b"bob"], &[b"carol", b"dave"]);
        push_who_of(&mut out, 6, &[b"bob"], &[]);
        push_who_of(&mut out, 7, &[], &[b"bob"]);
        push_who(&mut out, 8, 2, &[b"alice", b"bob"]);
        push_who(&mut out, 9, 200, &[b"alice"]);
        let expected = "notice: line 5: here: bob; not here: carol, dave\n\
                        notice: line 6: here: bob\n\
                        notice: line 7: not here: bob\n\
                        notice: line 8: 2 here: alice, bob\n\
                        notice: line 9: 200 here: alice, ...\n";
        assert_eq!(String::from_utf8(out).expect("text"), expected);
    }
}
