//! The meaning of an entered line. Pure functions.
//!
//! While recipients are set, only commands address anyone else: a line such as `PS: see you` must not
//! go to whoever is called PS. And only typed text contains commands and names, see [`Text`].

use a_chat::Room;

use super::recipient::Recipient;
use super::text::Text;

/// The text that `/help` shows.
pub(crate) const HELP: &str = "\
bob, carol: hello        says hello to bob and carol, unless recipients are set
/to bob, carol           sets the recipients of plain lines; /to alone, none
hello                    says hello to them
/msg carol: hello        says hello to carol alone, whoever the recipients are
//hello                  says /hello
/who, /who bob           asks who is connected; /who #dev, who is in a room
/join #dev               enters a room, and makes it the recipient of plain lines;
                         /join #dev loud also tells who else comes and goes
/leave                   leaves it; /leave #ops leaves another
/sync, /sync 5           asks to be told when all you have sent is delivered, for 30 s or 5 s
/quit                    leaves, as do Ctrl-D and Ctrl-C, also in the middle of a line:
                         what you have sent still goes out, what is due to you is shown
Pasted text is text: it contains no commands, and all its lines go to the same.
Tab completes names that were seen; Up and Down bring back what you have typed, Ctrl-R
searches it; Ctrl-Y brings back what you have erased, Ctrl-_ undoes.";

/// What a line asks for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum UserCommand {
    /// Nothing, because it is blank.
    Nothing,
    /// One message for each line of the text.
    Messages {
        to: Vec<Recipient>,
        lines: Vec<String>,
    },
    /// A command of the server's, sent as it is.
    Ask(String),
    /// Plain lines go to these from now on.
    To(Vec<Recipient>),
    /// Enters a room with this line; plain lines go to it from now on.
    Join {
        room: Room,
        line: String,
    },
    Leave(Room),
    Help,
    Quit,
    /// None of these, and why.
    Invalid(String),
}

/// Parses an entered line, given the recipients of plain lines.
pub(crate) fn interpret(line: &Text, to: &[Recipient]) -> UserCommand {
    let text = line.as_str();
    if text.trim().is_empty() && (to.is_empty() || line.is_typed(0..line.len())) {
        return UserCommand::Nothing;
    }
    if text.starts_with('/') && line.is_typed(0..1) {
        let is_text = text[1..].starts_with('/');
        return if is_text { plain(&text[1..], to) } else { command(line, to) };
    }
    if to.is_empty() {
        addressed(line, 0).unwrap_or_else(|| plain(text, to))
    } else {
        plain(text, to)
    }
}

fn command(line: &Text, to: &[Recipient]) -> UserCommand {
    let text = line.as_str();
    let end = text.find(char::is_whitespace).unwrap_or(text.len());
    let (word, rest) = text.split_at(end);
    let invalid = |why: String| UserCommand::Invalid(why);
    if !line.is_typed(0..end) {
        return invalid("a command has to be typed, not pasted; //... says /...".to_owned());
    }
    match word {
        "/msg" => addressed(line, end)
            .unwrap_or_else(|| invalid("/msg takes names and a text: /msg bob: hello".to_owned())),
        "/to" | "/who" | "/sync" | "/join" | "/leave" | "/help" | "/quit"
            if rest.trim_end().contains('\n') =>
        {
            match addressed(line, end) {
                Some(messages) if word == "/to" => messages,
                _ => invalid(format!("{word} takes no text of several lines")),
            }
        }
        "/to" if rest.trim().is_empty() => UserCommand::To(Vec::new()),
        "/to" => match names(rest) {
            Some(names) => UserCommand::To(names),
            None => addressed(line, end)
                .unwrap_or_else(|| invalid(format!("not a list of names: {}", rest.trim()))),
        },
        "/who" | "/sync" => UserCommand::Ask(text.trim_end().to_owned()),
        "/join" => {
            let room = rest.split_whitespace().next().and_then(|room| Room::new(room).ok());
            let join = |room| UserCommand::Join { room, line: text.trim_end().to_owned() };
            room.map_or_else(|| invalid("/join takes a room: /join #dev".to_owned()), join)
        }
        "/leave" => match (rest.trim(), to) {
            ("", [Recipient::Room(room)]) => UserCommand::Leave(room.clone()),
            (room, _) => Room::new(room).map_or_else(
                |_| invalid("/leave takes a room: /leave #dev".to_owned()),
                UserCommand::Leave,
            ),
        },
        "/help" => UserCommand::Help,
        "/quit" => UserCommand::Quit,
        _ => invalid(format!(
            "no such command: {word}; /help tells which there are, //... says /..."
        )),
    }
}

/// A text that names its recipients, from this place in the line on: `bob, carol: hello`. The colon
/// has to be typed.
fn addressed(line: &Text, start: usize) -> Option<UserCommand> {
    let colon = start + line.as_str()[start..].find(':')?;
    if !line.is_typed(colon..colon + 1) {
        return None;
    }
    let to = names(&line.as_str()[start..colon])?;
    let text = &line.as_str()[colon + 1..];
    Some(UserCommand::Messages { to, lines: lines(text.strip_prefix(' ').unwrap_or(text)) })
}

fn plain(text: &str, to: &[Recipient]) -> UserCommand {
    if to.is_empty() {
        let why = "to whom? Type bob: before it, or /to bob first";
        return UserCommand::Invalid(why.to_owned());
    }
    UserCommand::Messages { to: to.to_vec(), lines: lines(text) }
}

/// The lines of a text as they are, without an empty one after the last line end.
fn lines(text: &str) -> Vec<String> {
    text.strip_suffix('\n').unwrap_or(text).split('\n').map(str::to_owned).collect()
}

/// The names of a list, each once, or one room; `None` if it is empty or holds anything else.
fn names(list: &str) -> Option<Vec<Recipient>> {
    let mut names = Vec::new();
    for item in list.split(',').map(str::trim).filter(|item| !item.is_empty()) {
        let name = Recipient::parse(item)?;
        if !names.contains(&name) {
            names.push(name);
        }
    }
    let is_alone = names.len() == 1 || !names.iter().any(Recipient::is_room);
    (!names.is_empty() && is_alone).then_some(names)
}

/// Names as a list.
pub(crate) fn list(names: &[Recipient]) -> String {
    names.iter().map(Recipient::as_str).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(list: &[&str]) -> Vec<Recipient> {
        list.iter().filter_map(|name| Recipient::parse(name)).collect()
    }

    fn typed(line: &str, to: &[&str]) -> UserCommand {
        interpret(&Text::typed(line), &names(to))
    }

    /// Some typed text, and pasted text after it.
    fn mixed(start: &str, pasted: &str, to: &[&str]) -> UserCommand {
        let mut text = Text::typed(start);
        text.replace(start.len()..start.len(), &Text::pasted(pasted));
        interpret(&text, &names(to))
    }

    fn messages(to: &[&str], lines: &[&str]) -> UserCommand {
        let lines = lines.iter().map(|&line| line.to_owned()).collect();
        UserCommand::Messages { to: names(to), lines }
    }

    #[test]
    fn plain_lines_go_to_the_current_recipients_as_they_are() {
        for text in [
            "hello there",
            " hello  there ",
            "PS: my number is 555",
            "carol: hi",
            "carol:",
            "at 12:30",
            "see: a b: c",
            "http://x",
            ":)",
            " /quit",
            "\thello",
        ] {
            assert_eq!(typed(text, &["bob"]), messages(&["bob"], &[text]));
        }
        assert_eq!(typed("//shrug", &["bob"]), messages(&["bob"], &["/shrug"]));
        assert_eq!(typed("//", &["bob"]), messages(&["bob"], &["/"]));
        assert_eq!(typed("//to carol: x", &["bob"]), messages(&["bob"], &["/to carol: x"]));
        for text in ["hello", "//x", ":)", "no name: x", "//bob: x"] {
            assert!(matches!(typed(text, &[]), UserCommand::Invalid(_)), "{text}");
        }
    }

    #[test]
    fn lines_without_recipients_name_them() {
        assert_eq!(typed("bob: hi", &[]), messages(&["bob"], &["hi"]));
        let both = messages(&["bob", "carol"], &["hi: there"]);
        assert_eq!(typed("bob ,, carol,bob: hi: there", &[]), both);
        assert_eq!(typed("bob:", &[]), messages(&["bob"], &[""]));
        assert_eq!(typed("bob:hi", &[]), messages(&["bob"], &["hi"]));
        assert_eq!(typed("bob:   hi ", &[]), messages(&["bob"], &["  hi "]));
    }

    #[test]
    fn commands_address_others() {
        for to in [&[][..], &["bob"]] {
            for command in ["/msg", "/to"] {
                let line = |rest: &str| typed(&format!("{command} {rest}"), to);
                assert_eq!(line("carol: hi"), messages(&["carol"], &["hi"]));
                assert_eq!(line(" carol, dave:  a: b"), messages(&["carol", "dave"], &[" a: b"]));
                assert_eq!(line("carol:"), messages(&["carol"], &[""]));
            }
        }
        for line in ["/msg", "/msg ", "/msg carol", "/msg : hi", "/msg a b: hi", "/to a b: hi"] {
            assert!(matches!(typed(line, &["bob"]), UserCommand::Invalid(_)), "{line}");
        }
    }

    #[test]
    fn pasted_text_is_text() {
        for text in ["/quit", "/to carol", "/msg carol: hi", "//x", "carol: hi", "/", " indented"] {
            assert_eq!(mixed("", text, &["bob"]), messages(&["bob"], &[text]));
            assert!(matches!(mixed("", text, &[]), UserCommand::Invalid(_)), "{text}");
        }
        let code = "fn main() {\n\n    /quit\n\tcarol: x\n}\n";
        let lines = ["fn main() {", "", "    /quit", "\tcarol: x", "}"];
        assert_eq!(mixed("", code, &["bob"]), messages(&["bob"], &lines));
        assert_eq!(mixed("", "\n\n", &["bob"]), messages(&["bob"], &["", ""]));
        assert_eq!(mixed("", "  ", &["bob"]), messages(&["bob"], &["  "]));
        // Whoever is named before it gets all of it.
        assert_eq!(mixed("carol: ", code, &[]), messages(&["carol"], &lines));
        assert_eq!(mixed("/msg carol: ", code, &["bob"]), messages(&["carol"], &lines));
        assert_eq!(mixed("see: ", "a\nb", &["bob"]), messages(&["bob"], &["see: a", "b"]));
        // A typed command may take pasted names, but not a pasted colon.
        assert_eq!(mixed("/to ", "carol", &["bob"]), UserCommand::To(names(&["carol"])));
        for (start, pasted) in [
            ("/", "quit"),
            ("/msg ", "carol: hi"),
            ("/to ", "carol: hi"),
            ("/to ", "carol\ndave"),
            ("/quit ", "\nand more"),
            ("/who", "\nbob"),
        ] {
            let command = mixed(start, pasted, &["bob"]);
            assert!(matches!(command, UserCommand::Invalid(_)), "{start:?} {pasted:?} {command:?}");
        }
    }

    #[test]
    fn commands_are_recognised() {
        assert_eq!(typed("", &[]), UserCommand::Nothing);
        assert_eq!(typed(" \t", &["bob"]), UserCommand::Nothing);
        assert_eq!(typed("/to bob, carol", &[]), UserCommand::To(names(&["bob", "carol"])));
        assert_eq!(typed("/to", &["bob"]), UserCommand::To(Vec::new()));
        assert_eq!(typed("/to ", &[]), UserCommand::To(Vec::new()));
        assert_eq!(typed("/help", &[]), UserCommand::Help);
        assert_eq!(typed("/quit", &["bob"]), UserCommand::Quit);
        for who_query in ["/who", "/who bob, carol"] {
            assert_eq!(typed(who_query, &["bob"]), UserCommand::Ask(who_query.to_owned()));
        }
        let dev = || Room::new("#dev").expect("a room");
        for (line, sent) in
            [("/join #dev", "/join #dev"), ("/join  #dev loud ", "/join  #dev loud")]
        {
            let join = UserCommand::Join { room: dev(), line: sent.to_owned() };
            assert_eq!(typed(line, &["bob"]), join);
        }
        assert_eq!(typed("/leave #dev", &["bob"]), UserCommand::Leave(dev()));
        assert_eq!(typed("/leave", &["#dev"]), UserCommand::Leave(dev()));
        assert_eq!(typed("/to #dev", &[]), UserCommand::To(names(&["#dev"])));
        assert_eq!(typed("/msg #dev: hi", &["bob"]), messages(&["#dev"], &["hi"]));
        assert_eq!(typed("#dev: hi", &[]), messages(&["#dev"], &["hi"]));
        assert_eq!(typed("hi", &["#dev"]), messages(&["#dev"], &["hi"]));
        assert_eq!(typed("/who #dev", &[]), UserCommand::Ask("/who #dev".to_owned()));
        for line in ["/leave", "/leave dev", "/join", "/join dev", "/to #dev, bob", "#dev, bob: x"]
        {
            assert!(matches!(typed(line, &[]), UserCommand::Invalid(_)), "{line}");
        }
        for line in ["/to a b", "/to ,", "/whoever", "/", "/To bob"] {
            assert!(matches!(typed(line, &[]), UserCommand::Invalid(_)), "{line}");
        }
    }
}
