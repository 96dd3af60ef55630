//! How events look on a terminal: one line each, coloured unless that is unwanted. Pure functions.
//!
//! Text from other clients is escaped, see [`escape_controls`]. As on the wire, only a message
//! begins with `from `, whatever name its sender chose.

use std::env;

use a_chat::client::{Event, LostLines, Refusal, SyncOutcome, Synced};

use unicode_width::UnicodeWidthStr;

use super::super::escape::escape_controls;
use super::command::list;
use super::recipient::Recipient;

/// Colours for names, as ECMA-48 codes. They exclude those of errors and notices, and colours that
/// are hard to read on black or on white.
const NAME_COLOURS: [&str; 7] = ["32", "35", "36", "92", "94", "95", "96"];

const ERROR: &str = "1;31";
const NOTICE: &str = "1;33";
const FAINT: &str = "2";

/// How many characters of a refused line are shown: enough to recognise it.
const MAX_QUOTED_CHARS: usize = 200;

/// How many lines of a loss are shown.
const MAX_SHOWN_LOSSES: usize = 5;

/// How many columns are left for a name behind the question for it.
const NAME_ROOM: usize = 8;

/// Renders events, statuses and prompts.
#[derive(Debug)]
pub(crate) struct Style {
    colours: bool,
}

/// The text before the line being typed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Prompt {
    pub(crate) text: String,
    /// Its width in columns, without escape sequences.
    pub(crate) width: usize,
}

/// The first characters of a line that was sent.
fn beginning(text: &str) -> String {
    let beginning: String = text.chars().take(MAX_QUOTED_CHARS).collect();
    let more = if beginning.len() < text.len() { "..." } else { "" };
    beginning + more
}

impl Prompt {
    fn plain(text: &str) -> Self {
        Self { text: text.to_owned(), width: text.len() }
    }
}

impl Style {
    /// Coloured unless `NO_COLOR` is set and not empty.
    pub(crate) fn from_environment() -> Self {
        Self { colours: env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()) }
    }

    pub(crate) fn event(&self, event: &Event) -> String {
        match event {
            Event::Message { from, text } => {
                format!(
                    "{}{}: {}\n",
                    self.escape(FAINT, "from "),
                    self.name(from.as_str()),
                    escape_controls(text)
                )
            }
            Event::RoomMessage { room, from, text } => {
                let (from, room) = (self.name(from.as_str()), self.name(room.as_str()));
                format!("{}{from} {room}: {}\n", self.escape(FAINT, "from "), escape_controls(text))
            }
            Event::Room(event) => self.notice(&event.to_string()),
            Event::Refused(refusal) => {
                let Refusal { line, reason, text, .. } = refusal;
                let text = beginning(text);
                self.error(&format!("{reason}; that was your line {line}: {text}"))
            }
            Event::Lost(loss) => self.loss(loss),
            Event::Synced(Synced { line, outcome, .. }) => {
                let text = format!("line {line}: {outcome}");
                match outcome {
                    SyncOutcome::Delivered | SyncOutcome::DeliveredOrLost => self.notice(&text),
                    _ => self.error(&text),
                }
            }
            Event::Who(reply) => self.notice(&reply.to_string()),
            Event::Notice(text) => self.notice(text),
            Event::Error(rejection) => self.error(&rejection.to_string()),
            Event::ShuttingDown { accepted } => self.notice(&format!(
                "the server is shutting down, {accepted} of your lines were accepted"
            )),
            Event::Other(text) => format!("{}\n", escape_controls(text)),
            _ => String::new(),
        }
    }

    /// Lost lines: their texts, as far as there are few of them and they are still known.
    fn loss(&self, loss: &LostLines) -> String {
        let LostLines { last, deliveries, recipient, lines, .. } = loss;
        match &lines[..] {
            [(number, text)] if *deliveries == 1 => {
                let text = beginning(text);
                self.error(&format!("lost on the way to {recipient}; your line {number}: {text}"))
            }
            _ => {
                let mut shown = self.error(&format!(
                    "{deliveries} of your lines up to line {last} lost on the way to {recipient}"
                ));
                for (number, text) in lines.iter().take(MAX_SHOWN_LOSSES) {
                    let text = escape_controls(&beginning(text));
                    shown.extend(["  ", &number.to_string(), ": ", &text, "\n"]);
                }
                shown + if lines.len() > MAX_SHOWN_LOSSES { "  ...\n" } else { "" }
            }
        }
    }

    /// A message that this user sent.
    pub(crate) fn own(&self, to: &[Recipient], text: &str) -> String {
        let names: Vec<_> = to.iter().map(|it| self.name(it.as_str())).collect();
        format!("{}{}: {}\n", self.escape(FAINT, "to "), names.join(", "), escape_controls(text))
    }

    pub(crate) fn error(&self, text: &str) -> String {
        format!("{} {}\n", self.escape(ERROR, "error:"), escape_controls(text))
    }

    fn notice(&self, text: &str) -> String {
        format!("{} {}\n", self.escape(NOTICE, "notice:"), escape_controls(text))
    }

    /// A status of the client itself; it may have several lines.
    pub(crate) fn status(&self, text: &str) -> String {
        let lines = text.split('\n').enumerate().map(|(number, line)| {
            let prefix = if number == 0 { "a-chat: " } else { "" };
            self.escape(FAINT, &(prefix.to_owned() + &escape_controls(line))) + "\n"
        });
        lines.collect()
    }

    /// Candidates of a completion.
    pub(crate) fn choices(&self, words: &[String]) -> String {
        self.escape(FAINT, &words.join("  ")) + "\n"
    }

    /// The question for the user's name, as long as there is room for a name behind it.
    pub(crate) fn question(columns: usize) -> Prompt {
        let room = columns.saturating_sub(NAME_ROOM);
        let text = ["your name: ", "name: ", "> "].into_iter().find(|text| text.len() <= room);
        Prompt::plain(text.unwrap_or_default())
    }

    /// The prompt of a search through the history; it takes at most half of the columns, so that the
    /// line found has the rest.
    pub(crate) fn search(
        &self,
        to: &[Recipient],
        pattern: &str,
        found: bool,
        columns: usize,
    ) -> Prompt {
        let what = if found { "search" } else { "not found" };
        let text = format!("({what}: {}) ", escape_controls(pattern));
        let recipients = self.prompt(to, columns / 2);
        let width = text.width() + recipients.width;
        if width <= columns / 2 {
            return Prompt { text: self.escape(FAINT, &text) + &recipients.text, width };
        }
        recipients
    }

    /// The prompt while plain lines go to `to`; it takes at most half of the columns.
    pub(crate) fn prompt(&self, to: &[Recipient], columns: usize) -> Prompt {
        let room = columns / 2;
        if room < "> ".len() {
            return Prompt::plain("");
        }
        // How many names fit beside the count of the others, which has at most three digits.
        let fits = |&count: &usize| list(&to[..count]).len() + ", +999> ".len() <= room;
        let count = (0..=to.len()).rev().find(fits).unwrap_or(0);
        let others = (count < to.len()).then(|| format!("+{}", to.len() - count));
        let join = |names: Vec<String>| names.into_iter().chain(others.clone()).collect::<Vec<_>>();
        if count == 0 && others.as_ref().is_some_and(|others| others.len() + "> ".len() > room) {
            return Prompt::plain("> ");
        }
        let plain = join(to[..count].iter().map(Recipient::to_string).collect()).join(", ") + "> ";
        let painted =
            join(to[..count].iter().map(|it| self.name(it.as_str())).collect()).join(", ");
        Prompt { text: painted + "> ", width: plain.len() }
    }

    /// A name or a room in its colour, which depends on nothing but the name.
    fn name(&self, name: &str) -> String {
        // FNV-1a; its low bits are its best.
        let hash = name
            .bytes()
            .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
        self.escape(NAME_COLOURS[hash as usize % NAME_COLOURS.len()], name)
    }

    fn escape(&self, code: &str, text: &str) -> String {
        if self.colours { format!("\x1b[{code}m{text}\x1b[m") } else { text.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use a_chat::client::{RefusalReason, Rejection, WhoReply};

    use super::*;

    const PLAIN: Style = Style { colours: false };
    const COLOURED: Style = Style { colours: true };

    fn names(list: &[&str]) -> Vec<Recipient> {
        list.iter().filter_map(|name| Recipient::parse(name)).collect()
    }

    fn message(from: &str, text: &str) -> Event {
        Event::Message { from: from.parse().expect("a name"), text: text.to_owned() }
    }

    #[test]
    fn each_kind_of_line_is_recognisable() {
        assert_eq!(PLAIN.event(&message("error", "x")), "from error: x\n");
        assert_eq!(PLAIN.own(&names(&["bob", "carol"]), "hi"), "to bob, carol: hi\n");
        let (room, from) = ("#dev".parse().expect("a room"), "bob".parse().expect("a name"));
        let in_room = Event::RoomMessage { room, from, text: "\x1b".to_owned() };
        assert_eq!(PLAIN.event(&in_room), "from bob #dev: ^[\n");
        let reason = RefusalReason::NoSuchPeer(vec!["bob".to_owned()]);
        let refusal = Refusal::new(3, reason, "bob: \x1b");
        let expected = "error: no such peer: bob; that was your line 3: bob: ^[\n";
        assert_eq!(PLAIN.event(&Event::Refused(refusal)), expected);
        let (reason, text) = (RefusalReason::TooLong { limit: 9 }, "\u{e9}".repeat(100_000));
        let line = PLAIN.event(&Event::Refused(Refusal::new(4, reason, text)));
        assert!(line.ends_with("\u{e9}...\n") && line.chars().count() < 300, "{line}");
        let answer = Event::Who(WhoReply::parse(3, "here: bob").expect("a reply"));
        assert_eq!(PLAIN.event(&answer), "notice: here: bob\n");
        assert_eq!(PLAIN.status("one\ntwo\t"), "a-chat: one\ntwo^I\n");
    }

    #[test]
    fn text_from_others_holds_no_control_character() {
        let nasty = "\x1b]0;x\x07\r\n\u{9b}2J\u{202e}".to_owned();
        let reason = RefusalReason::NoSuchPeer(vec![nasty.clone()]);
        let refusal = Refusal::new(1, reason, nasty.clone());
        let absent = WhoReply::parse(1, &format!("not here: {nasty}")).expect("a reply");
        for event in [
            message("bob", &nasty),
            Event::Refused(refusal),
            Event::Who(absent),
            Event::Error(Rejection::Other(nasty.clone())),
            Event::Notice(nasty.clone()),
            Event::Other(nasty.clone()),
        ] {
            let line = PLAIN.event(&event);
            assert_eq!(line.matches(char::is_control).collect::<String>(), "\n", "{event:?}");
            assert!(!line.contains('\u{202e}'), "{event:?}");
        }
        assert!(!PLAIN.status(&nasty).replace('\n', "").contains(char::is_control));
        assert!(!PLAIN.error(&nasty).trim_end().contains(char::is_control));
        assert!(!PLAIN.own(&[], &nasty).trim_end().contains(char::is_control));
    }

    #[test]
    fn names_keep_their_colours_and_differ_from_each_other() {
        let lines: Vec<_> = ["alice", "bob", "carol", "dave", "eve"]
            .iter()
            .map(|name| COLOURED.event(&message(name, "")).replace(name, ""))
            .collect();
        assert!(lines.iter().any(|line| *line != lines[0]), "{lines:?}");
        assert_eq!(COLOURED.event(&message("bob", "")).replace("bob", ""), lines[1]);
        for style in NAME_COLOURS {
            assert!(!ERROR.contains(style) && !NOTICE.contains(style));
        }
    }

    #[test]
    fn the_prompt_names_the_recipients_and_stays_short() {
        let prompt = |to: &[&str], columns| PLAIN.prompt(&names(to), columns).text;
        assert_eq!(prompt(&[], 80), "> ");
        assert_eq!(prompt(&["#dev"], 80), "#dev> ");
        assert_eq!(prompt(&["bob", "carol"], 80), "bob, carol> ");
        assert_eq!(prompt(&["bob", "carol", "dave"], 32), "bob, +2> ");
        assert_eq!(prompt(&["bob", "carol"], 10), "+2> ");
        assert_eq!(prompt(&["bob", "carol"], 7), "> ");
        assert_eq!(prompt(&["bob", "carol"], 3), "");
        for columns in 0..100 {
            let painted = COLOURED.prompt(&names(&["bob", "carol", "dave"]), columns);
            let plain = PLAIN.prompt(&names(&["bob", "carol", "dave"]), columns);
            assert_eq!((painted.width, plain.width), (plain.text.len(), plain.text.len()));
            assert!(plain.width <= columns / 2, "{columns}: {plain:?}");
            assert!(Style::question(columns).width <= columns);
            let search = PLAIN.search(&names(&["bob"]), "\u{4e2d}", true, columns);
            assert!(search.width <= columns / 2, "{columns}: {search:?}");
        }
    }
}
