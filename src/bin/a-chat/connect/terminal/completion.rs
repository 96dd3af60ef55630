//! Completion of names and commands. Plain state owned by the thread `terminal`.

use std::collections::BTreeSet;

use a_chat::Name;
use a_chat::client::{Event, RoomEvent};

use super::recipient::Recipient;

/// How many names are kept: a flood of messages under ever new names must not fill the memory.
const MAX_NAMES: usize = 4096;

/// The commands; a blank follows those that take names or rooms.
const COMMANDS: [&str; 8] =
    ["/help", "/join ", "/leave ", "/msg ", "/quit", "/sync", "/to ", "/who "];

/// The commands that take rooms only.
const OF_ROOMS: [&str; 2] = ["/join ", "/leave "];

/// Names and rooms that appeared in messages, answers or commands.
#[derive(Debug, Default)]
pub(crate) struct Names(BTreeSet<Recipient>);

/// How the beginning of a word is completed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Completion {
    /// The byte offset where the word begins.
    pub(crate) start: usize,
    /// What replaces it: as much as all candidates share.
    pub(crate) text: String,
    /// The candidates, if they share no more than was typed.
    pub(crate) choices: Vec<String>,
}

impl Names {
    /// Adds names, up to the maximum.
    pub(crate) fn add(&mut self, names: &[Recipient]) {
        for name in names {
            self.learn(name.clone());
        }
    }

    fn learn(&mut self, name: Recipient) {
        if self.0.len() < MAX_NAMES {
            self.0.insert(name);
        }
    }

    /// Adds the sender and the room of a message, or the names in an answer.
    pub(crate) fn add_from(&mut self, event: &Event) {
        match event {
            Event::Message { from, .. } => self.learn(from.into()),
            Event::RoomMessage { room, from, .. } => {
                self.learn(room.into());
                self.learn(from.into());
            }
            Event::Room(event) => {
                self.learn(event.room().into());
                match event {
                    RoomEvent::Members { names, .. } => {
                        for name in names {
                            self.learn(name.into());
                        }
                    }
                    RoomEvent::Moved { name, .. } => self.learn(name.into()),
                    _ => {}
                }
            }
            Event::Who(reply) => reply.here.iter().for_each(|name| self.learn(name.into())),
            _ => {}
        }
    }

    /// Completes the word at the cursor, between these two parts of a line. The line may begin with
    /// names if it is `addressed`, because no recipients are set. Upper and lower case do not matter.
    pub(crate) fn complete(
        &self,
        before: &str,
        after: &str,
        addressed: bool,
    ) -> Option<Completion> {
        if before.starts_with('/') && !before.contains(char::is_whitespace) {
            let commands = COMMANDS.into_iter().filter(|command| starts_with(command, before));
            return completion(0, before, commands.map(str::to_owned).collect(), "");
        }
        let start = before
            .rfind(|char| !is_legal(char))
            .map_or(0, |at| at + before[at..].chars().next().map_or(0, char::len_utf8));
        let (context, word) = before.split_at(start);
        let addressing = match context.strip_prefix("/msg ") {
            Some(list) => is_list(list),
            None => addressed && is_list(context),
        };
        let of_rooms = OF_ROOMS.contains(&context);
        let listing = addressing
            || of_rooms
            || ["/to ", "/who "].iter().any(|word| context.starts_with(word));
        if word.is_empty() && !listing {
            return None;
        }
        let fits = |it: &&Recipient| !of_rooms || it.is_room();
        let names = self.0.iter().filter(fits).map(Recipient::as_str);
        let names = names.filter(|name| starts_with(name, word));
        let end = if addressing && !after.starts_with([':', ',']) { ": " } else { "" };
        completion(start, word, names.map(str::to_owned).collect(), end)
    }
}

/// Completes a word from these candidates; `end` follows an only candidate.
fn completion(start: usize, word: &str, mut choices: Vec<String>, end: &str) -> Option<Completion> {
    choices.sort_by_key(|choice| choice.to_ascii_lowercase());
    let [first, others @ ..] = &choices[..] else { return None };
    let mut text = first.clone();
    for other in others {
        // All of them are ASCII.
        let pairs = text.bytes().zip(other.bytes());
        let same = pairs.take_while(|(one, two)| one.eq_ignore_ascii_case(two)).count();
        text.truncate(same);
    }
    if others.is_empty() {
        text.push_str(end);
        choices.clear();
    } else {
        // What was typed keeps its case while candidates may differ in that.
        text.replace_range(..word.len(), word);
        if text.len() > word.len() {
            choices.clear();
        }
    }
    Some(Completion { start, text, choices })
}

/// True if `text` starts with `word`, whatever the case.
fn starts_with(text: &str, word: &str) -> bool {
    text.get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word))
}

/// True if a name may follow this in the list at the beginning of a line.
fn is_list(text: &str) -> bool {
    let names = text.split(',').map(str::trim);
    let legal = |name: &str| !name.is_empty() && name.chars().all(is_legal);
    match text.trim_end().strip_suffix(',') {
        Some(_) => names.filter(|name| !name.is_empty()).all(legal),
        None => text.trim().is_empty(),
    }
}

/// True for what names and rooms consist of.
fn is_legal(char: char) -> bool {
    char == '#' || Name::new(char.encode_utf8(&mut [0; 4])).is_ok()
}

#[cfg(test)]
mod tests {
    use a_chat::client::WhoReply;

    use super::*;

    fn names(list: &[&str]) -> Vec<Recipient> {
        list.iter().filter_map(|name| Recipient::parse(name)).collect()
    }

    fn seen(list: &[&str]) -> Names {
        let mut seen = Names::default();
        seen.add(&names(list));
        seen
    }

    /// The line after Tab, with the choices.
    fn tab(seen: &Names, before: &str) -> Option<(String, Vec<String>)> {
        let Completion { start, text, choices } = seen.complete(before, "", true)?;
        Some((before[..start].to_owned() + &text, choices))
    }

    #[test]
    fn words_complete_to_names_and_commands() {
        let seen = seen(&["bob", "carol", "carlo"]);
        for (before, after) in [
            ("b", "bob: "),
            ("bob, c", "bob, car"),
            ("bob,caro", "bob,carol: "),
            ("/to b", "/to bob"),
            ("/who bob, carl", "/who bob, carlo"),
            ("bob: ask caro", "bob: ask carol"),
            ("ask (b", "ask (bob"),
            ("h\u{e9} b", "h\u{e9} bob"),
            ("/h", "/help"),
            ("/msg b", "/msg bob: "),
            ("/msg bob, caro", "/msg bob, carol: "),
            ("/msg bob: ask caro", "/msg bob: ask carol"),
            ("/t", "/to "),
        ] {
            assert_eq!(tab(&seen, before), Some((after.to_owned(), Vec::new())), "{before}");
        }
        for before in ["x", "hello ", "bob: ", "/x", "bob: ask car\u{e9}"] {
            assert_eq!(tab(&seen, before), None, "{before}");
        }
    }

    #[test]
    fn rooms_complete_as_names_do() {
        let seen = seen(&["dave", "#dev", "#deploy", "#ops"]);
        for (before, after) in [
            ("#o", "#ops: "),
            ("#d", "#de"),
            ("/join #o", "/join #ops"),
            ("/join ", "/join #"),
            ("/leave #DEV", "/leave #dev"),
            ("/who #o", "/who #ops"),
            ("/to d", "/to dave"),
            ("see #o", "see #ops"),
        ] {
            assert_eq!(
                tab(&seen, before).map(|(line, _)| line),
                Some(after.to_owned()),
                "{before}"
            );
        }
        assert_eq!(tab(&seen, "/join d"), None);
    }

    #[test]
    fn upper_and_lower_case_do_not_matter() {
        let seen = seen(&["Bob", "carol", "Carlo"]);
        for (before, after) in [
            ("bo", "Bob: "),
            ("BO", "Bob: "),
            ("CARO", "carol: "),
            ("c", "car"),
            ("C", "Car"),
            ("/H", "/help"),
        ] {
            assert_eq!(tab(&seen, before), Some((after.to_owned(), Vec::new())), "{before}");
        }
        let two = ["Carlo", "carol"].map(str::to_owned).to_vec();
        assert_eq!(tab(&seen, "CAR"), Some(("CAR".to_owned(), two)));
    }

    /// While recipients are set, the whole line is for them, whatever it begins with.
    #[test]
    fn a_name_in_a_plain_line_gets_no_colon() {
        let seen = seen(&["bob", "carol"]);
        let text = |before| seen.complete(before, "", false).map(|completion| completion.text);
        assert_eq!(text("b"), Some("bob".to_owned()));
        assert_eq!(text(""), None);
        assert_eq!(text("/msg b"), Some("bob: ".to_owned()));
        assert_eq!(text("/to b"), Some("bob".to_owned()));
    }

    #[test]
    fn ambiguous_words_list_their_candidates() {
        let seen = seen(&["bob", "carol", "carlo"]);
        let choices = |list: &[&str]| list.iter().map(|&name| name.to_owned()).collect();
        let two = choices(&["carlo", "carol"]);
        assert_eq!(tab(&seen, "car"), Some(("car".to_owned(), two)));
        let all = choices(&["bob", "carlo", "carol"]);
        for before in ["", "/to ", "bob, "] {
            assert_eq!(tab(&seen, before), Some((before.to_owned(), all.clone())), "{before:?}");
        }
        let commands = choices(&COMMANDS);
        assert_eq!(tab(&seen, "/"), Some(("/".to_owned(), commands)));
    }

    #[test]
    fn a_name_before_a_colon_gets_no_second_colon() {
        let seen = seen(&["bob"]);
        let completion = seen.complete("b", ": hi", true).expect("bob");
        assert_eq!(completion.text, "bob");
    }

    #[test]
    fn names_are_learnt_from_messages_and_answers() {
        let alice = "alice".parse().expect("a name");
        let mut seen = Names::default();
        seen.add_from(&Event::Message { from: alice, text: "hi".to_owned() });
        for text in ["here: bob; not here: dave", "2 here: carol, eve, ...", "not here: dave"] {
            seen.add_from(&Event::Who(WhoReply::parse(1, text).expect("a reply")));
        }
        let (room, from) = ("#dev".parse().expect("a room"), "frank".parse().expect("a name"));
        seen.add_from(&Event::RoomMessage { room, from, text: "hi".to_owned() });
        let all = ["alice", "bob", "carol", "eve", "frank", "#dev"];
        assert!(seen.0.into_iter().eq(names(&all)));
    }
}
