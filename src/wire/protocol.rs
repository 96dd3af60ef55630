//! The text of the wire protocol. Pure functions from bytes to values; no state.
//!
//! Every text that the server sends to a client, and every reason for refusing a line, is defined
//! here and nowhere else.

use std::fmt::Write;

use std::time::Duration;

use super::name::{Name, is_name};
use super::reasons::{
    DEFAULT_SYNC, LineRefusal, NO_SUCH_PEER, NOT_A_NAME, RoomRefusal, SYNC_SECONDS,
};
use super::room::{self, Room, is_room};

/// The maximum number of names in a reply to `/who`.
pub(crate) const MAX_WHO_NAMES: usize = 100;

/// The prefixes of the server's lines: a message, an error, a notice. The last two continue with a
/// line number if they reply to a line.
pub(crate) const FROM: &str = "from ";
pub(crate) const NOTICE: &str = "notice: ";
pub(crate) const ERROR_LINE: &str = "error: line ";
pub(crate) const NOTICE_LINE: &str = "notice: line ";

/// The command that lists connected clients, or a room's members.
pub(crate) const WHO: &str = "/who";

/// The commands that enter and leave a room.
pub(crate) const JOIN: &str = "/join";
pub(crate) const LEAVE: &str = "/leave";

/// Behind the room in [`JOIN`]: whether to be told who else comes and goes.
pub(crate) const LOUD: &str = "loud";
pub(crate) const QUIET: &str = "quiet";

/// The command that asks whether all earlier lines are delivered.
pub(crate) const SYNC: &str = "/sync";

/// Precede the names that are connected and those that are not, in the reply to [`WHO`].
pub(crate) const HERE: &str = "here: ";
pub(crate) const NOT_HERE: &str = "not here: ";

/// Around the room and the number of its members, in the replies about rooms.
pub(crate) const IN: &str = "in ";
pub(crate) const ARE: &str = " are";
pub(crate) const LEFT: &str = "left ";

/// Behind the room, in the notice to a member that is put out of it.
pub(crate) const PUT_OUT: &str = ": you are out of it, too slow";

/// The text before and after the number of accepted lines in a closing notice.
const CLOSING: (&str, &str) = ("notice: server is shutting down, ", " of your lines were accepted");

/// The text before and after the number of accepted lines in a parting notice.
const PARTING: (&str, &str) = (NOTICE, CLOSING.1);

/// What a client's complete line asks for. All parts borrow from the line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Request<'a> {
    /// An empty line: ignored, but counted.
    Empty,
    /// `bob, carol: hello`.
    Message {
        /// The list before the first `:`, as typed; split it with [`names`].
        recipients: &'a [u8],
        /// The text, see [`text`].
        text: &'a [u8],
    },
    /// `/who` (an empty list) or `/who bob, carol`.
    Who {
        /// The list, as typed; split it with [`names`].
        names: &'a [u8],
    },
    /// `#dev: hello`.
    RoomMessage {
        /// The room.
        room: &'a [u8],
        /// The text, see [`text`].
        text: &'a [u8],
    },
    /// `/join #dev`, `/join #dev loud`.
    Join {
        /// The room.
        room: &'a [u8],
        /// Whether to be told who else comes and goes; `None` leaves that as it is.
        loud: Option<bool>,
    },
    /// `/leave #dev`.
    Leave {
        /// The room.
        room: &'a [u8],
    },
    /// `/who #dev`.
    WhoIn {
        /// The room.
        room: &'a [u8],
    },
    /// `/sync` or `/sync 5`.
    Sync {
        /// How long to wait at most.
        limit: Duration,
    },
}

/// Reads one complete line, its `\n` (and a `\r` before it) already taken off.
///
/// The line must be UTF-8: [`crate::wire::framing`] validates many lines at once.
pub(crate) fn parse_request(line: &[u8]) -> Result<Request<'_>, LineRefusal> {
    if line.is_empty() {
        return Ok(Request::Empty);
    }
    if line[0] == b'/' {
        if let Some(request) = parse_command(line) {
            return request;
        }
    }
    let colon = memchr::memchr(b':', line).ok_or(LineRefusal::NoColon)?;
    let (recipients, rest) = (&line[..colon], &line[colon + 1..]);
    // A list that begins with a letter or digit contains a name; any other list needs a closer
    // look.
    let begins_like_a_name = recipients.first().is_some_and(u8::is_ascii_alphanumeric);
    if !begins_like_a_name {
        if names(recipients).next().is_none() {
            return Err(LineRefusal::NoRecipients);
        }
        if let Some(room) = room_in(recipients)? {
            return Ok(Request::RoomMessage { room, text: text(rest) });
        }
    }
    Ok(Request::Message { recipients, text: text(rest) })
}

/// Reads a line that begins with `/`; `None` if it is no command.
fn parse_command(line: &[u8]) -> Option<Result<Request<'_>, LineRefusal>> {
    if let Some(names) = arguments(line, WHO) {
        let room = room_in(names).transpose();
        return Some(
            room.map_or(Ok(Request::Who { names }), |room| {
                room.map(|room| Request::WhoIn { room })
            }),
        );
    }
    if let Some(time) = arguments(line, SYNC) {
        return Some(sync_limit(time).map(|limit| Request::Sync { limit }));
    }
    if let Some(room) = arguments(line, LEAVE).map(trim) {
        return Some(checked(room).map(|room| Request::Leave { room }));
    }
    let room = trim(arguments(line, JOIN)?);
    for (word, loud) in [(LOUD, true), (QUIET, false)] {
        let before = room.strip_suffix(word.as_bytes());
        if let Some(room) = before.filter(|room| room.last().is_some_and(u8::is_ascii_whitespace)) {
            let join = |room| Request::Join { room, loud: Some(loud) };
            return Some(checked(trim(room)).map(join));
        }
    }
    Some(checked(room).map(|room| Request::Join { room, loud: None }))
}

/// The room that a list consists of, if its first item is one.
fn room_in(list: &[u8]) -> Result<Option<&[u8]>, LineRefusal> {
    let mut items = names(list);
    match items.next().filter(|first| first[0] == room::SIGN) {
        None => Ok(None),
        Some(_) if items.next().is_some() => Err(LineRefusal::RoomNotAlone),
        Some(room) => checked(room).map(Some),
    }
}

fn checked(room: &[u8]) -> Result<&[u8], LineRefusal> {
    if is_room(room) { Ok(room) } else { Err(LineRefusal::BadRoom) }
}

/// The text of a message: everything after the `:`, except one blank if it begins with one. A relay
/// does not change what it carries.
pub(crate) fn text(rest: &[u8]) -> &[u8] {
    rest.strip_prefix(b" ").unwrap_or(rest)
}

/// The names of a comma-separated list, trimmed and in order; empty items are skipped.
pub(crate) fn names(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    list.split(|&byte| byte == b',').map(trim).filter(|name| !name.is_empty())
}

/// Removes white space from both ends, including Unicode white space, as `str::trim` does.
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

/// The text after a command, if the line is that command: the word must stand alone or be followed
/// by white space.
fn arguments<'a>(line: &'a [u8], command: &str) -> Option<&'a [u8]> {
    let rest = line.strip_prefix(command.as_bytes())?;
    rest.first().is_none_or(u8::is_ascii_whitespace).then_some(rest)
}

/// The time after a `/sync`, in whole seconds.
fn sync_limit(time: &[u8]) -> Result<Duration, LineRefusal> {
    let time = trim(time);
    if time.is_empty() {
        return Ok(DEFAULT_SYNC);
    }
    let digits = time.iter().all(u8::is_ascii_digit).then_some(time);
    let seconds = digits.and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok());
    let (min, max) = SYNC_SECONDS;
    let seconds = seconds.filter(|seconds| (min..=max).contains(seconds));
    seconds.map(Duration::from_secs).ok_or(LineRefusal::BadTime)
}

/// The prefix of each of a client's messages: `from alice: `.
pub(crate) fn message_prefix(name: &Name) -> Vec<u8> {
    format!("{FROM}{name}: ").into_bytes()
}

/// The prefix of each of a client's messages to a room: `from alice #dev: `. No name holds a blank
/// or `#`, and no room a `:`, so it cannot be mistaken for any other.
pub(crate) fn room_prefix(message_prefix: &[u8], room: &[u8]) -> Vec<u8> {
    let from = message_prefix.strip_suffix(b": ").unwrap_or(message_prefix);
    [from, b" ", room, b": "].concat()
}

/// Appends the error reply to a refused line.
pub(crate) fn push_refusal(out: &mut Vec<u8>, line: u64, refusal: LineRefusal) {
    out.extend_from_slice(format!("{ERROR_LINE}{line}: {refusal}\n").as_bytes());
}

/// Appends the error reply to a line that some of its recipients do not get, as described by
/// [`missing`].
pub(crate) fn push_missing(out: &mut Vec<u8>, line: u64, missing: &[u8]) {
    out.extend_from_slice(format!("{ERROR_LINE}{line}: ").as_bytes());
    out.extend_from_slice(missing);
    out.push(b'\n');
}

/// Describes the recipients that do not get a message: those that are not connected, and those that
/// cannot be names, which could otherwise look like someone who is connected.
pub(crate) fn missing(names: &[&[u8]]) -> Vec<u8> {
    let (absent, invalid): (Vec<_>, Vec<_>) = names.iter().copied().partition(|it| is_name(it));
    let mut out = Vec::new();
    for (list, label) in [(absent, NO_SUCH_PEER), (invalid, NOT_A_NAME)] {
        if !list.is_empty() {
            let between = if out.is_empty() { "" } else { "; " };
            out.extend_from_slice(between.as_bytes());
            out.extend_from_slice(label.as_bytes());
            push_list(&mut out, &list);
        }
    }
    out
}

/// An upper bound on the length of a list's names in a reply, where invisible characters are escaped.
pub(crate) fn shown_len(list: &[u8]) -> usize {
    let is_escaped = !list.iter().all(|byte| matches!(byte, b' '..=b'~'));
    // A control character becomes six.
    if is_escaped { 6 * list.len() } else { list.len() }
}

/// Formats names as they are listed in replies.
pub(crate) fn list(names: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::new();
    push_list(&mut out, names);
    out
}

/// Appends the reply to `/who bob, carol`. At least one of the two lists must not be empty.
pub(crate) fn push_who_of(out: &mut Vec<u8>, line: u64, present: &[&[u8]], absent: &[&[u8]]) {
    out.extend_from_slice(format!("{NOTICE_LINE}{line}: ").as_bytes());
    if !present.is_empty() {
        out.extend_from_slice(HERE.as_bytes());
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

/// Appends the reply to `/who`: the number of connected clients, and some of their names.
pub(crate) fn push_who(out: &mut Vec<u8>, line: u64, connected: usize, names: &[&[u8]]) {
    out.extend_from_slice(format!("{NOTICE_LINE}{line}: {connected} {HERE}").as_bytes());
    push_list(out, names);
    if names.len() < connected {
        out.extend_from_slice(b", ...");
    }
    out.push(b'\n');
}

/// Appends the reply to `/join #dev`: how many are in the room, the client included.
pub(crate) fn push_joined(out: &mut Vec<u8>, line: u64, room: &[u8], members: u32) {
    out.extend_from_slice(format!("{NOTICE_LINE}{line}: {IN}").as_bytes());
    out.extend_from_slice(room);
    out.extend_from_slice(format!(", {members}{ARE}\n").as_bytes());
}

/// Appends the reply to `/leave #dev`.
pub(crate) fn push_left(out: &mut Vec<u8>, line: u64, room: &[u8]) {
    out.extend_from_slice(format!("{NOTICE_LINE}{line}: {LEFT}").as_bytes());
    out.extend_from_slice(room);
    out.push(b'\n');
}

/// Appends the reply to `/who #dev`: the number of members, and the names of some.
pub(crate) fn push_who_in(
    out: &mut Vec<u8>,
    line: u64,
    room: &[u8],
    members: usize,
    names: &[&[u8]],
) {
    out.extend_from_slice(format!("{NOTICE_LINE}{line}: {members} {IN}").as_bytes());
    out.extend_from_slice(room);
    if !names.is_empty() {
        out.extend_from_slice(b": ");
        push_list(out, names);
    }
    if names.len() < members {
        out.extend_from_slice(b", ...");
    }
    out.push(b'\n');
}

/// Who came to a room or left it: somebody, and how many others since.
pub(crate) fn room_news(room: &Room, who: &Name, joined: bool, came: u64, left: u64) -> Vec<u8> {
    let mut text = format!("{NOTICE}{room}: {who} {}", if joined { "joined" } else { "left" });
    match came {
        0 => {}
        1 => text.push_str(", 1 other came"),
        _ => drop(write!(text, ", {came} others came")),
    }
    if left > 0 {
        let _ = write!(text, ", {left} left");
    }
    text.push('\n');
    text.into_bytes()
}

/// Tells a member that it was put out of a room.
pub(crate) fn put_out(room: &Room) -> Vec<u8> {
    format!("{NOTICE}{room}{PUT_OUT}\n").into_bytes()
}

/// Appends the error reply to a refused line to a room.
pub(crate) fn push_room_refusal(out: &mut Vec<u8>, line: u64, refusal: RoomRefusal, room: &[u8]) {
    push_missing(out, line, &refusal.of(room));
}

/// The last line that a server sends before it shuts down: the counterpart of HTTP/2's GOAWAY,
/// whose last stream id tells the client what to retry (RFC 9113, section 6.8).
pub(crate) fn closing_notice(accepted: u64) -> String {
    let (before, after) = CLOSING;
    format!("{before}{accepted}{after}\n")
}

/// The line before the error to a client that must leave although it did nothing wrong on this
/// connection. As after a [`closing_notice`], it knows which of its lines to send again.
pub(crate) fn parting_notice(accepted: u64) -> String {
    let (before, after) = PARTING;
    format!("{before}{accepted}{after}\n")
}

/// The number in a [`parting_notice`] without its line end.
pub(crate) fn accepted_in_parting_notice(line: &str) -> Option<u64> {
    let (before, after) = PARTING;
    line.strip_prefix(before)?.strip_suffix(after)?.parse().ok()
}

/// Appends the notice to a client whose lines are held back.
pub(crate) fn push_rate_notice(out: &mut Vec<u8>, lines_per_second: u32) {
    let lines = if lines_per_second == 1 { "line" } else { "lines" };
    let text =
        format!("you send faster than {lines_per_second} {lines} a second and are slowed down");
    out.extend_from_slice(format!("{NOTICE}{text}\n").as_bytes());
}

/// The number in a [`closing_notice`] without its line end.
pub(crate) fn accepted_in_closing_notice(line: &str) -> Option<u64> {
    let (before, after) = CLOSING;
    line.strip_prefix(before)?.strip_suffix(after)?.parse().ok()
}

fn push_list(out: &mut Vec<u8>, names: &[&[u8]]) {
    for (index, name) in names.iter().enumerate() {
        if index > 0 {
            out.extend_from_slice(b", ");
        }
        push_name(out, name);
    }
}

/// Appends a name as typed; in one that cannot be a name, invisible and control characters are
/// escaped.
fn push_name(out: &mut Vec<u8>, name: &[u8]) {
    if is_name(name) {
        return out.extend_from_slice(name);
    }
    let mut shown = String::new();
    for char in String::from_utf8_lossy(name).chars() {
        match char {
            // The standard library escapes these for string literals.
            '\'' | '"' | '\\' => shown.push(char),
            _ => shown.extend(char.escape_debug()),
        }
    }
    out.extend_from_slice(shown.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message<'a>(recipients: &'a str, text: &'a str) -> Request<'a> {
        Request::Message { recipients: recipients.as_bytes(), text: text.as_bytes() }
    }

    #[test]
    fn requests_are_parsed() {
        assert_eq!(parse_request(b""), Ok(Request::Empty));
        assert_eq!(parse_request(b"bob: hi"), Ok(message("bob", "hi")));
        assert_eq!(parse_request(b"bob:hi: you, all"), Ok(message("bob", "hi: you, all")));
        assert_eq!(parse_request(b"bob:"), Ok(message("bob", "")));
        assert_eq!(
            parse_request("bob:\u{a0}\u{2003}h i\u{b}".as_bytes()),
            Ok(message("bob", "\u{a0}\u{2003}h i\u{b}"))
        );
        assert_eq!(parse_request(b"bob: \t hi \t"), Ok(message("bob", "\t hi \t")));
        assert_eq!(parse_request(b"bob:   hi"), Ok(message("bob", "  hi")));
        assert_eq!(parse_request(b"bob:\thi"), Ok(message("bob", "\thi")));
        assert_eq!(parse_request(b"bob: "), Ok(message("bob", "")));
        assert_eq!(parse_request(b"hello"), Err(LineRefusal::NoColon));
        assert_eq!(parse_request(b" "), Err(LineRefusal::NoColon));
        assert_eq!(parse_request(b": hi"), Err(LineRefusal::NoRecipients));
        assert_eq!(parse_request(b" , ,: hi"), Err(LineRefusal::NoRecipients));
        assert_eq!(parse_request(b"/who"), Ok(Request::Who { names: b"" }));
        assert_eq!(parse_request(b"/who bob: x"), Ok(Request::Who { names: b" bob: x" }));
        assert_eq!(parse_request(b"/who: x"), Ok(message("/who", "x")));
        assert_eq!(parse_request(b"/whom"), Err(LineRefusal::NoColon));
        let sync = |seconds| Ok(Request::Sync { limit: Duration::from_secs(seconds) });
        assert_eq!(parse_request(b"/sync"), sync(30));
        assert_eq!(parse_request(b"/sync \t"), sync(30));
        assert_eq!(parse_request(b"/sync 5 "), sync(5));
        assert_eq!(parse_request(b"/sync 3600"), sync(3600));
        for time in ["0", "3601", "5s", "-1", "+5", "5 5", "x", "5: x", "99999999999999999999"] {
            let line = format!("/sync {time}");
            assert_eq!(parse_request(line.as_bytes()), Err(LineRefusal::BadTime), "{line}");
        }
        assert_eq!(parse_request(b"/sync: x"), Ok(message("/sync", "x")));
        assert_eq!(parse_request(b"/synced"), Err(LineRefusal::NoColon));
    }

    #[test]
    fn requests_about_rooms_are_parsed() {
        let room = b"#dev".as_slice();
        let text = b"hi: all".as_slice();
        for line in ["#dev: hi: all", "#dev:hi: all", " #dev ,, : hi: all", "\u{a0}#dev: hi: all"] {
            assert_eq!(
                parse_request(line.as_bytes()),
                Ok(Request::RoomMessage { room, text }),
                "{line}"
            );
        }
        for (line, loud) in [
            ("/join #dev", None),
            ("/join \t#dev\u{a0} ", None),
            ("/join #dev loud", Some(true)),
            ("/join #dev  quiet ", Some(false)),
        ] {
            assert_eq!(parse_request(line.as_bytes()), Ok(Request::Join { room, loud }), "{line}");
        }
        assert_eq!(parse_request(b"/leave #dev"), Ok(Request::Leave { room }));
        assert_eq!(parse_request(b"/who #dev"), Ok(Request::WhoIn { room }));
        assert_eq!(parse_request(b"/who ,#dev,"), Ok(Request::WhoIn { room }));
        for line in [
            "#: x",
            "# dev: x",
            "##: x",
            "#a b: x",
            "#\u{e9}: x",
            "/join",
            "/join dev",
            "/join #",
            "/join #dev, #ops",
            "/join #dev loudly",
            "/join #devloud quiet loud",
            "/join loud",
            "/leave",
            "/leave dev",
            "/leave #dev loud",
            "/who #",
            "/who #a b",
        ] {
            assert_eq!(parse_request(line.as_bytes()), Err(LineRefusal::BadRoom), "{line}");
        }
        for line in ["#dev, #ops: x", "#dev, bob: x", "#dev, #dev: x", "/who #dev, bob"] {
            assert_eq!(parse_request(line.as_bytes()), Err(LineRefusal::RoomNotAlone), "{line}");
        }
        assert_eq!(parse_request(b"/join: x"), Ok(message("/join", "x")));
        assert_eq!(parse_request(b"/joint #dev"), Err(LineRefusal::NoColon));
        assert_eq!(parse_request(b"#dev"), Err(LineRefusal::NoColon));
    }

    #[test]
    fn replies_about_rooms_name_them() {
        let mut out = Vec::new();
        push_joined(&mut out, 3, b"#dev", 5);
        push_left(&mut out, 4, b"#dev");
        push_who_in(&mut out, 5, b"#dev", 2, &[b"alice", b"bob"]);
        push_who_in(&mut out, 6, b"#dev", 200, &[b"alice"]);
        push_who_in(&mut out, 7, b"#dev", 0, &[]);
        push_room_refusal(&mut out, 8, RoomRefusal::NotIn, b"#dev");
        let expected = "notice: line 3: in #dev, 5 are\n\
                        notice: line 4: left #dev\n\
                        notice: line 5: 2 in #dev: alice, bob\n\
                        notice: line 6: 200 in #dev: alice, ...\n\
                        notice: line 7: 0 in #dev\n\
                        error: line 8: not in #dev\n";
        assert_eq!(String::from_utf8(out).expect("text"), expected);
        assert_eq!(room_prefix(b"from alice: ", b"#dev"), b"from alice #dev: ");
    }

    #[test]
    fn lists_are_trimmed_and_keep_their_order() {
        let list: Vec<&[u8]> = names(b" bob ,, carol,\tdave eve ,").collect();
        assert_eq!(list, [b"bob".as_slice(), b"carol", b"dave eve"]);
    }

    #[test]
    fn a_recipient_that_cannot_be_a_name_is_shown_as_such() {
        let shown = |names: &[&str]| {
            let names: Vec<_> = names.iter().map(|name| name.as_bytes()).collect();
            let missing = missing(&names);
            assert!(missing.len() <= shown_len(names.join(&b", "[..]).as_slice()) + 64);
            String::from_utf8(missing).expect("text")
        };
        assert_eq!(shown(&["bob", "carol"]), "no such peer: bob, carol");
        assert_eq!(shown(&["\u{200b}alice"]), "not a name: \\u{200b}alice");
        assert_eq!(shown(&["a b", "bob", "\"\\'"]), "no such peer: bob; not a name: a b, \"\\'");
        assert_eq!(shown(&["\u{1b}[2J\t\r\0"]), "not a name: \\u{1b}[2J\\t\\r\\0");
        assert_eq!(shown(&["é\u{a0}e\u{301}\u{ad}"]), "not a name: é\\u{a0}e\\u{301}\\u{ad}");
        assert_eq!(shown(&["日本"]), "not a name: 日本");
    }

    #[test]
    fn who_command_replies_list_present_and_absent_names() {
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
