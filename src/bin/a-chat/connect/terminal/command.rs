//! The meaning of an entered line. Pure functions.

use a_chat::Name;

/// The text that `/help` shows.
pub(crate) const HELP: &str = "\
bob, carol: hello   says hello to bob and carol
/to bob, carol      from now on, says plain lines to them; /to alone, to nobody
hello               says hello to those of the last /to
//hello             says /hello to them
/who, /who bob      asks who is connected
/quit               leaves, as do Ctrl-D and Ctrl-C, also in the middle of a line:
                    what you have sent still goes out, what is due to you is shown
Tab completes names that were seen; Up and Down bring back what you have typed.";

/// What a line asks for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum UserCommand {
    /// Nothing, because it is blank.
    Nothing,
    Message {
        to: Vec<Name>,
        text: String,
    },
    /// A command of the server's, sent as it is.
    Ask(String),
    /// Plain lines go to these from now on.
    To(Vec<Name>),
    Help,
    Quit,
    /// None of these, and why.
    Invalid(String),
}

/// Parses a line, given that plain lines go `to` these.
pub(crate) fn interpret(line: &str, to: &[Name]) -> UserCommand {
    if line.trim().is_empty() {
        return UserCommand::Nothing;
    }
    match line.strip_prefix('/') {
        Some(rest) if rest.starts_with('/') => plain(rest, to),
        Some(_) => command(line),
        None => addressed(line, to).unwrap_or_else(|| plain(line, to)),
    }
}

fn command(line: &str) -> UserCommand {
    let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    match word {
        "/to" if rest.trim().is_empty() => UserCommand::To(Vec::new()),
        "/to" => match names(rest) {
            Some(names) => UserCommand::To(names),
            None => UserCommand::Invalid(format!("not a list of names: {}", rest.trim())),
        },
        "/who" => UserCommand::Ask(line.to_owned()),
        "/help" => UserCommand::Help,
        "/quit" => UserCommand::Quit,
        _ => UserCommand::Invalid(format!(
            "no such command: {word}; /help tells which there are, //... says /..."
        )),
    }
}

/// A line that names its recipients. While plain lines have recipients, a blank has to follow the
/// colon, so that a time of day, 12:30, is plain text.
fn addressed(line: &str, to: &[Name]) -> Option<UserCommand> {
    let (list, text) = line.split_once(':')?;
    if !to.is_empty() && !text.is_empty() && !text.starts_with(char::is_whitespace) {
        return None;
    }
    Some(UserCommand::Message { to: names(list)?, text: text.trim().to_owned() })
}

fn plain(line: &str, to: &[Name]) -> UserCommand {
    if to.is_empty() {
        return UserCommand::Invalid("to whom? Write bob: hello, or /to bob before".to_owned());
    }
    UserCommand::Message { to: to.to_vec(), text: line.trim().to_owned() }
}

/// The names of a list, each once; `None` if it is empty or holds anything else.
fn names(list: &str) -> Option<Vec<Name>> {
    let mut names = Vec::new();
    for item in list.split(',').map(str::trim).filter(|item| !item.is_empty()) {
        let name = Name::new(item.as_bytes())?;
        if !names.contains(&name) {
            names.push(name);
        }
    }
    (!names.is_empty()).then_some(names)
}

/// Names as a list.
pub(crate) fn list(names: &[Name]) -> String {
    names.iter().map(Name::as_str).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(list: &[&str]) -> Vec<Name> {
        list.iter().filter_map(|name| Name::new(name.as_bytes())).collect()
    }

    fn message(to: &[&str], text: &str) -> UserCommand {
        UserCommand::Message { to: names(to), text: text.to_owned() }
    }

    #[test]
    fn plain_lines_go_to_the_current_recipients() {
        let bob = names(&["bob"]);
        assert_eq!(interpret(" hello there ", &bob), message(&["bob"], "hello there"));
        assert_eq!(interpret("//shrug", &bob), message(&["bob"], "/shrug"));
        assert_eq!(interpret(" /quit", &bob), message(&["bob"], "/quit"));
        for text in ["at 12:30", "12:30", "see: a b: c", "http://x", ":)", "no name: x"] {
            let plain = ["see: a b: c"].contains(&text);
            let expected =
                if plain { message(&["see"], "a b: c") } else { message(&["bob"], text) };
            assert_eq!(interpret(text, &bob), expected);
        }
        for text in ["hello", "//x", ":)", "no name: x"] {
            assert!(matches!(interpret(text, &[]), UserCommand::Invalid(_)), "{text}");
        }
    }

    #[test]
    fn addressed_lines_go_to_the_names_in_them() {
        for to in [names(&[]), names(&["dave"])] {
            assert_eq!(interpret("bob: hi", &to), message(&["bob"], "hi"));
            let both = message(&["bob", "carol"], "hi: there");
            assert_eq!(interpret("bob ,, carol,bob: hi: there", &to), both);
            assert_eq!(interpret("bob:", &to), message(&["bob"], ""));
        }
        assert_eq!(interpret("bob:hi", &[]), message(&["bob"], "hi"));
    }

    #[test]
    fn commands_are_recognised() {
        assert_eq!(interpret("", &[]), UserCommand::Nothing);
        assert_eq!(interpret(" \t", &names(&["bob"])), UserCommand::Nothing);
        assert_eq!(interpret("/to bob, carol", &[]), UserCommand::To(names(&["bob", "carol"])));
        assert_eq!(interpret("/to", &names(&["bob"])), UserCommand::To(Vec::new()));
        assert_eq!(interpret("/to ", &[]), UserCommand::To(Vec::new()));
        assert_eq!(interpret("/help", &[]), UserCommand::Help);
        assert_eq!(interpret("/quit", &[]), UserCommand::Quit);
        for who_query in ["/who", "/who bob, carol"] {
            assert_eq!(interpret(who_query, &[]), UserCommand::Ask(who_query.to_owned()));
        }
        for line in ["/to a b", "/to ,", "/whoever", "/", "/To bob"] {
            assert!(matches!(interpret(line, &[]), UserCommand::Invalid(_)), "{line}");
        }
    }
}
