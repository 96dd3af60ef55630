//! `a-chat connect` at a terminal: incoming messages never break the line being typed, the terminal
//! obeys no control character from others, a user who leaves still sees queued messages, and the
//! terminal's modes are restored whatever ends the client.
//!
//! Each case runs the real executable at a pseudo-terminal and checks the screen. Every wait has a
//! deadline, and every case checks the terminal's modes at the end.
#![cfg(feature = "cli")]

mod common;
#[path = "common/process.rs"]
mod process;
#[path = "common/terminal.rs"]
mod terminal;

use common::script::{Peer, Script};
use common::{Client, TestServer, send_until_blocked, wait_until};
use process::{EXECUTABLE, through};
use rustix::process::Signal;
use terminal::{COLUMNS, ROWS, Terminal, WAITING};

const CTRL_C: &str = "\x03";
const CTRL_D: &str = "\x04";
const CTRL_S: &str = "\x13";
const CTRL_Z: &str = "\x1a";
const UP: &str = "\x1b[A";
const DOWN: &str = "\x1b[B";
const LEFT: &str = "\x1b[D";

const CONNECTED: &str = "a-chat: connected as alice, /help says what can be typed";

/// Alice at a terminal, and bob as a plain client, at a server in this process.
fn alice_and_bob(server: &TestServer) -> (Terminal, Client) {
    let bob = server.login("bob");
    let mut alice = Terminal::start(server.address, &["--name", "alice"]);
    alice.expect(&[CONNECTED, ">"]);
    (alice, bob)
}

/// Alice at a terminal, connected to a server that the test plays.
fn alice_of(script: &Script, flags: &[&str]) -> (Terminal, Peer) {
    let mut alice = Terminal::start(script.address, flags);
    let peer = script.log_in("alice");
    alice.expect(&[CONNECTED, ">"]);
    (alice, peer)
}

/// Leaves a server that has nothing more queued.
fn leave(mut alice: Terminal, status: i32) {
    alice.press(CTRL_D);
    assert_eq!(alice.wait().0, status);
}

#[test]
fn incoming_messages_do_not_break_the_line_being_typed() {
    let server = TestServer::start();
    let (mut alice, mut bob) = alice_and_bob(&server);
    let mut typed = String::new();
    for (number, char) in "bob: half a line".chars().enumerate() {
        alice.press(&char.to_string());
        typed.push(char);
        bob.send(&format!("alice: message {number}"));
        let message = format!("from bob: message {number}");
        alice.expect(&[&message, &format!("> {}", typed.trim_end())]);
    }
    // The cursor keeps its place.
    alice.press(&LEFT.repeat(4));
    alice.wait_until("a move", |alice| alice.column() == 14);
    bob.send("alice: more");
    alice.expect(&["from bob: more", "> bob: half a line"]);
    alice.wait_until("no move", |alice| alice.column() == 14);
    alice.press("new \r");
    alice.expect(&["from bob: more", "to bob: half a new line", ">"]);
    bob.expect_line("from alice: half a new line");
    leave(alice, 0);
}

#[test]
fn a_flood_leaves_the_line_alone_and_loses_nothing() {
    const LINES: usize = 5_000;
    let server = TestServer::start();
    let (mut alice, mut bob) = alice_and_bob(&server);
    alice.press("bob: wait, ");
    alice.expect_row("> bob: wait,");
    let lines: Vec<_> = (1..=LINES).map(|number| format!("alice: {number}\n")).collect();
    bob.send(lines.concat().trim_end());
    alice.press("please");
    alice.expect(&[&format!("from bob: {LINES}"), "> bob: wait, please"]);
    let above = alice.scrolled_off();
    let numbers = above.iter().filter_map(|row| row.strip_prefix("from bob: ")?.parse().ok());
    let seen: Vec<usize> = numbers.collect();
    assert!(seen.iter().copied().eq(1..=seen.len()), "not in order");
    assert!(seen.len() > LINES - 24, "{} of them", seen.len());
    alice.press("\r");
    bob.expect_line("from alice: wait, please");
    leave(alice, 0);
}

#[test]
fn plain_lines_go_to_the_recipients_in_the_prompt() {
    let server = TestServer::start();
    let (mut alice, mut bob) = alice_and_bob(&server);
    let mut carol = server.login("carol");
    alice.press("hello\r");
    alice.expect(&["error: to whom? Type bob: before it, or /to bob first", ">"]);
    alice.press("/to bob, carol\r");
    alice.expect(&["bob, carol>"]);
    alice.press("hello\r");
    alice.expect(&["to bob, carol: hello", "bob, carol>"]);
    alice.press("/msg carol: you alone\r//shrug\r");
    alice.expect(&["to carol: you alone", "to bob, carol: /shrug", "bob, carol>"]);
    bob.expect_lines(&["from alice: hello", "from alice: /shrug"]);
    carol.expect_lines(&["from alice: hello", "from alice: you alone", "from alice: /shrug"]);
    alice.press("/to\r");
    alice.expect(&["to bob, carol: /shrug", ">"]);
    leave(alice, 0);
}

#[test]
fn a_room_that_is_entered_takes_plain_lines() {
    let server = TestServer::start();
    let (mut alice, mut bob) = alice_and_bob(&server);
    bob.send("/join #dev");
    bob.expect_line("notice: line 1: in #dev, 1 are");
    alice.press("/join #dev loud\r");
    alice.expect(&["notice: in #dev, 2 are", "#dev>"]);
    alice.press("PS: hello\r");
    alice.expect(&["to #dev: PS: hello", "#dev>"]);
    bob.expect_line("from alice #dev: PS: hello");
    bob.send("#dev: \x1b[2Jhello yourself\n/leave #dev");
    alice.expect(&["from bob #dev: ^[[2Jhello yourself", "notice: #dev: bob left", "#dev>"]);
    alice.press("/leave\r");
    alice.expect(&["notice: left #dev", ">"]);
    alice.press("/who #d\t\r");
    alice.expect(&["notice: 0 in #dev", ">"]);
    alice.press("#d\thi\r");
    alice.expect(&["to #dev: hi", "error: not in #dev; that was your line 5: #dev: hi", ">"]);
    leave(alice, 1);
}

/// While recipients are set, only a command addresses anyone else.
#[test]
fn a_plain_line_never_goes_to_a_name_at_its_beginning() {
    let script = Script::listen();
    let (mut alice, mut peer) = alice_of(&script, &["--name", "alice"]);
    alice.press("/to bob\r");
    alice.expect(&["bob>"]);
    for line in ["PS: my number is 555", "carol: hi", "carol, dave:", "at 12:30", "  two  blanks "]
    {
        alice.press(&format!("{line}\r"));
        peer.expect_line(&format!("bob: {line}"));
    }
    alice.press("//to carol: x\r/msg carol: one\r/to carol: two\r/msg carol:  three \r");
    for line in ["bob: /to carol: x", "carol: one", "carol: two", "carol:  three "] {
        peer.expect_line(line);
    }
    alice.expect(&["to carol:  three", "bob>"]);
}

/// Whatever it looks like: it contains no commands and names no recipients.
#[test]
fn pasted_text_goes_to_the_recipients_unchanged() {
    let script = Script::listen();
    let (mut alice, mut peer) = alice_of(&script, &["--name", "alice"]);
    alice.press("/to bob\r");
    alice.expect(&["bob>"]);
    let text = "carol: x\n\n    indented\n\tby a tab \n/quit\n//comment\n/to carol\n";
    alice.press(&format!("\x1b[200~{text}\x1b[201~\r"));
    for line in text.lines() {
        peer.expect_line(&format!("bob: {line}"));
    }
    // The same after it was recalled, and after it was erased and yanked.
    for keys in [UP, "\x1b[200~/quit\x1b[201~\x15\x19"] {
        alice.press(&format!("{keys}\x01see \r"));
        let first = if keys == UP { "carol: x" } else { "/quit" };
        peer.expect_line(&format!("bob: see {first}"));
        if keys == UP {
            text.lines().skip(1).for_each(|line| peer.expect_line(&format!("bob: {line}")));
        }
    }
    // Typed names may come before it.
    alice.press("/to\rdave: \x1b[200~carol: x\n y\x1b[201~\r");
    peer.expect_line("dave: carol: x");
    peer.expect_line("dave:  y");
    alice.press("\x1b[200~carol: x\x1b[201~\r");
    alice.expect(&["error: to whom? Type bob: before it, or /to bob first", ">"]);
}

#[test]
fn commands_are_answered() {
    let server = TestServer::start();
    let (mut alice, _bob) = alice_and_bob(&server);
    alice.press("/who bob, dave\r");
    alice.expect(&["notice: here: bob; not here: dave", ">"]);
    alice.press("/help\r");
    alice.expect_row("/quit ");
    alice.press("/nonsense\r");
    alice.expect_row("error: no such command: /nonsense; ");
    alice.press("/quit\r");
    assert_eq!(alice.wait().0, 0);
}

#[test]
fn tab_completes_names_seen_before() {
    let server = TestServer::start();
    let (mut alice, mut bob) = alice_and_bob(&server);
    // The key after a Tab shows that the Tab was processed.
    alice.press("b\to");
    alice.expect(&["> bo"]);
    bob.send("alice: hi");
    alice.expect(&["from bob: hi", "> bo"]);
    alice.press("\t");
    alice.expect(&["> bob:"]);
    alice.press("ask c\ta");
    alice.expect(&["> bob: ask ca"]);
    let mut others = ["carol", "carlo"].map(|name| server.login(name));
    for client in &mut others {
        client.send("alice: hi");
    }
    alice.wait_until("both", |alice| {
        let rows = alice.rows();
        ["carol", "carlo"].iter().all(|name| rows.contains(&format!("from {name}: hi")))
    });
    alice.press("\t\t");
    alice.expect(&["carlo  carol", "> bob: ask car"]);
    alice.press("\x17CARO\t");
    alice.expect(&["> bob: ask carol"]);
    alice.press("\r");
    bob.expect_line("from alice: ask carol");
    leave(alice, 0);
}

#[test]
fn control_characters_from_others_are_shown_and_not_obeyed() {
    let server = TestServer::start();
    let (mut alice, mut bob) = alice_and_bob(&server);
    bob.send("alice: \x1b[31mred\x1b[2J\x1b]0;title\x07 \r\x08\u{9b}1A\u{202e}");
    let seen = "from bob: ^[[31mred^[[2J^[]0;title^G ^M^H<U+009B>1A<U+202E>";
    alice.expect(&[CONNECTED, seen, ">"]);
    assert_eq!(alice.colour("red"), vt100::Color::Default);
    // Nor do escape sequences in pasted text reach others.
    alice.press("bob: \x1b[200~pasted\x1b[31m\x07\x1b[201~\r");
    alice.expect(&["to bob: pasted", ">"]);
    bob.expect_line("from alice: pasted");
    leave(alice, 0);
}

#[test]
fn a_refused_line_is_shown_with_its_reason() {
    let server = TestServer::start();
    let (mut alice, mut bob) = alice_and_bob(&server);
    alice.press("bob, dave: one\rbob: two\r");
    alice.expect_row("error: no such peer: dave; that was your line 1: bob, dave: ");
    bob.expect_lines(&["from alice: one", "from alice: two"]);
    // Not every line was accepted.
    leave(alice, 1);
}

#[test]
fn a_sync_is_answered_at_the_terminal() {
    let server = TestServer::start();
    let (mut alice, mut bob) = alice_and_bob(&server);
    alice.press("bob: one\r");
    bob.expect_line("from alice: one");
    alice.press("/sy\t\r");
    let delivered = "notice: line 2: everything before it is delivered";
    alice.expect(&["to bob: one", delivered, ">"]);
    alice.press("/sync 0\r");
    alice.expect_row("error: bad time, expected 1 to 3600; that was your line 3: /sync 0");
    leave(alice, 1);
}

#[test]
fn a_loss_is_shown_with_the_line_its_recipient_and_the_reason() {
    let script = Script::listen();
    let (mut alice, mut peer) = alice_of(&script, &["--name", "alice"]);
    alice.press("bob: deploy it\rcarol: one\rcarol: two\r");
    for line in ["bob: deploy it", "carol: one", "carol: two"] {
        peer.expect_line(line);
    }
    // The server counts the client's own question as line 1. Losses may come in any order.
    peer.client.send("error: line 4: 2 lines from line 3 on lost on the way to carol: left");
    let carol = "error: 2 of your lines up to line 3 lost on the way to carol: left";
    alice.expect(&[carol, "  2: carol: one", "  3: carol: two", ">"]);
    peer.client.send("error: line 2: lost on the way to bob: evicted");
    let bob = "error: lost on the way to bob: evicted; your line 1: bob: deploy it";
    alice.expect(&[bob, ">"]);
    // The line that is being typed stays.
    alice.press("dave: hel");
    peer.client.send("error: line 4: 9 deliveries from line 2 on lost on the way to 7 others");
    let others = "error: 9 of your lines up to line 3 lost on the way to 7 others";
    alice.wait_until("the loss above the line", |alice| {
        let rows = alice.rows();
        rows.iter().any(|row| row == others) && rows.last().is_some_and(|row| row == "> dave: hel")
    });
    alice.press("\x15/sync\r");
    peer.expect_line("/sync");
    let line = peer.line;
    let outcome = "everything before it is delivered or was reported lost";
    peer.client.send(&format!("notice: line {line}: {outcome}"));
    alice.expect(&[&format!("notice: line 4: {outcome}"), ">"]);
    alice.press(CTRL_D);
    // A loss is no refusal: every line was accepted, and only --confirm asks for more.
    peer.answer_who("alice");
    peer.client.expect_eof();
    drop(peer);
    assert_eq!(alice.wait().0, 0);
}

#[test]
fn a_resized_window_keeps_the_line_being_typed() {
    let server = TestServer::start();
    let (mut alice, mut bob) = alice_and_bob(&server);
    let line = "bob: 1234567890 2234567890 3234567890 4234567890";
    alice.press(line);
    alice.expect(&[&format!("> {line}")]);
    // It needs no key; the row never wraps, and the cursor stays in it.
    alice.resize(24, 30);
    alice.wait_until("a part of the line", |alice| {
        let rows = alice.rows();
        rows.last().is_some_and(|row| row.starts_with("> ") && row.ends_with(" 4234567890"))
    });
    bob.send("alice: hi");
    alice.wait_until("a message above", |alice| {
        let rows = alice.rows();
        let [.., above, row] = &rows[..] else { return false };
        above == "from bob: hi" && row.ends_with("4234567890") && row.starts_with("> ")
    });
    alice.resize(10, 70);
    alice.expect(&["from bob: hi", &format!("> {line}")]);
    alice.press("\r");
    bob.expect_line(&format!("from alice: {}", &line[5..]));
    leave(alice, 0);
}

#[test]
fn up_and_down_recall_earlier_lines() {
    let server = TestServer::start();
    let (mut alice, mut bob) = alice_and_bob(&server);
    alice.press("bob: one\rbob: two\rdraft");
    alice.expect(&["> draft"]);
    alice.press(UP);
    alice.expect(&["> bob: two"]);
    alice.press(UP);
    alice.expect(&["> bob: one"]);
    alice.press(&DOWN.repeat(2));
    alice.expect(&["> draft"]);
    alice.press(&UP.repeat(3));
    alice.press(" more");
    // An edited line stays edited while others are looked at.
    alice.press(&format!("{DOWN}!{UP}"));
    alice.expect(&["> bob: one more"]);
    alice.press(DOWN);
    alice.expect(&["> bob: two!"]);
    alice.press(UP);
    alice.press("\r");
    bob.expect_lines(&["from alice: one", "from alice: two", "from alice: one more"]);
    leave(alice, 0);
}

#[test]
fn ctrl_r_searches_earlier_lines() {
    let server = TestServer::start();
    let (mut alice, mut bob) = alice_and_bob(&server);
    alice.press("/to bob\rone apple\rtwo pears\rthree apples\rdraft");
    alice.expect(&["bob> draft"]);
    alice.press("\x12");
    alice.expect(&["(search: ) bob> draft"]);
    alice.press("apple");
    alice.expect(&["(search: apple) bob> three apples"]);
    alice.press("\x12");
    alice.expect(&["(search: apple) bob> one apple"]);
    alice.press("\x12");
    alice.expect(&["(not found: apple) bob> one apple"]);
    alice.press("\x7f\x7f\x7f\x7f\x7fpear");
    alice.expect(&["(search: pear) bob> two pears"]);
    // Ctrl-G forgets it, another key takes the line, and Enter sends it.
    alice.press("\x07");
    alice.expect(&["bob> draft"]);
    alice.press("\x12pear\x05!");
    alice.expect(&["bob> two pears!"]);
    alice.press("\x12one\r");
    for text in ["one apple", "two pears", "three apples", "one apple"] {
        bob.expect_line(&format!("from alice: {text}"));
    }
    // Ctrl-C ends the search, too, and nothing else.
    alice.press("\x12one\x03");
    alice.expect(&["to bob: one apple", "bob>"]);
    leave(alice, 0);
}

#[test]
fn erased_text_comes_back_and_changes_are_undone() {
    let server = TestServer::start();
    let (mut alice, mut bob) = alice_and_bob(&server);
    let (ctrl_u, ctrl_w, ctrl_y, undo) = ("\x15", "\x17", "\x19", "\x1f");
    alice.press(&format!("bob: one two{ctrl_u}{ctrl_u}{ctrl_y}"));
    alice.expect(&["> bob: one two"]);
    alice.press(&format!("{ctrl_w}{ctrl_w}{ctrl_y}"));
    alice.expect(&["> bob: one two"]);
    alice.press(&format!(" three{ctrl_u}{undo}{undo}"));
    alice.expect(&["> bob: one two"]);
    alice.press("\r");
    bob.expect_line("from alice: one two");
    leave(alice, 0);
}

/// None of it is a key, wherever it is cut, and whatever follows is.
#[test]
fn mouse_reports_and_replies_of_the_terminal_are_not_typed() {
    let server = TestServer::start();
    let (mut alice, mut bob) = alice_and_bob(&server);
    alice.press("bob: half");
    for report in [
        "\x1b[M !!",
        "\x1b[M#\u{a1}\u{a1}",
        "\x1b[<0;3;4M",
        "\x1b]11;rgb:1e1e/1e1e/1e1e\x1b\\",
        "\x1b]10;rgb:ffff/ffff/ffff\x07",
        "\x1bP>|XTerm(388)\x1b\\",
        "\x1bP1+r544e=787465726d\x1b\\",
        "\x1b_Gi=1;OK\x1b\\",
        "\x1b[?64;1;2c",
        "\x1b[12;34R",
        "\x1b[I",
    ] {
        alice.press(report);
    }
    alice.press(" a line\r");
    alice.expect(&["to bob: half a line", ">"]);
    bob.expect_line("from alice: half a line");
    leave(alice, 0);
}

#[test]
fn an_emoji_of_several_characters_is_one_unit() {
    let server = TestServer::start();
    let (mut alice, mut bob) = alice_and_bob(&server);
    let family = "\u{1f469}\u{200d}\u{1f469}\u{200d}\u{1f467}";
    let all = [family, "\u{1f44d}\u{1f3fd}", "\u{1f1e9}\u{1f1ea}", "\u{2764}\u{fe0f}"];
    alice.press(&format!("bob: {}", all.concat()));
    // Three to the left is before the thumb; erase the family; then the flag behind the thumb.
    alice.press(&format!("{}\x7f\x1b[C\x1b[3~x\r", LEFT.repeat(3)));
    let rest = "\u{1f44d}\u{1f3fd}x\u{2764}\u{fe0f}";
    bob.expect_line(&format!("from alice: {rest}"));
    // They are shown as they are; an invisible character that joins nothing is not.
    bob.send(&format!("alice: {rest}{family} al\u{200d}ice\u{200b}"));
    alice.expect(&[&format!("from bob: {rest}{family} al<U+200D>ice<U+200B>"), ">"]);
    leave(alice, 0);
}

/// The row with the line never wraps, so it can always be replaced.
#[test]
fn narrow_windows_are_not_flooded() {
    let server = TestServer::start();
    let (mut alice, mut bob) = alice_and_bob(&server);
    alice.press("/to bob, carol\r");
    alice.expect(&["bob, carol>"]);
    for columns in 4..=20 {
        alice.resize(24, columns);
        alice.press("\x0c\x15");
        alice.wait_until("an empty window", |alice| alice.rows().len() == 1);
        for char in "some text \u{4e2d}\u{6587} \u{1f600} that is longer than the window".chars() {
            alice.press(&char.to_string());
        }
        bob.send(&format!("alice: {columns}"));
        // Only the message is above it, however many rows that takes.
        let message = format!("from bob: {columns}");
        let rows = message.len().div_ceil(columns.into());
        alice.wait_until("the message and one row", |alice| {
            let shown = alice.rows();
            shown.len() == rows + 1
                && shown[..rows].concat().replace(' ', "") == message.replace(' ', "")
        });
    }
    alice.press("\x15");
    alice.resize(24, 80);
    alice.expect(&["bob, carol>"]);
    leave(alice, 0);
}

#[test]
fn a_narrow_window_asks_for_the_name_in_one_row() {
    let server = TestServer::start();
    for columns in 4..=20 {
        let mut alice = Terminal::start(server.address, &[]);
        alice.expect(&["your name:"]);
        alice.resize(24, columns);
        for char in "a name that is too long".chars() {
            alice.press(&char.to_string());
        }
        alice.wait_until("one row", |alice| {
            let rows = alice.rows();
            rows.len() == 1 && rows[0].ends_with('g')
        });
        alice.press("\x15alice\r");
        alice.wait_until("the login", |alice| alice.rows().concat().contains("connected"));
        leave(alice, 0);
    }
}

#[test]
fn pasted_text_waits_for_enter() {
    let server = TestServer::start();
    let (mut alice, mut bob) = alice_and_bob(&server);
    alice.press("bob: \x1b[200~one\r\ntwo\n\x1b[201~");
    alice.expect(&["> bob: one^Jtwo^J"]);
    alice.press("three\r");
    alice.expect(&["to bob: one", "to bob: two", "to bob: three", ">"]);
    bob.expect_lines(&["from alice: one", "from alice: two", "from alice: three"]);
    leave(alice, 0);
}

#[test]
fn a_user_who_leaves_still_sees_queued_messages() {
    for keys in [CTRL_D, CTRL_C, "/quit\r"] {
        let script = Script::listen();
        let (mut alice, mut peer) = alice_of(&script, &["--name", "alice"]);
        alice.press(&format!("bob: one\r{keys}"));
        peer.expect_line("bob: one");
        peer.answer_who("alice");
        peer.client.expect_eof();
        // The client still waits, and the terminal already has its original modes.
        alice.expect_row(WAITING);
        assert!(alice.is_restored());
        peer.client.send("from bob: still\nfrom bob: due");
        drop(peer);
        let (status, rows) = alice.wait();
        assert_eq!(status, 0);
        assert_eq!(rows[rows.len() - 2..], ["from bob: still", "from bob: due"], "{rows:#?}");
    }
}

#[test]
fn ctrl_c_leaves_in_the_middle_of_a_line() {
    let server = TestServer::start();
    let (mut alice, _bob) = alice_and_bob(&server);
    alice.press("bob: half");
    alice.expect(&["> bob: half"]);
    // In a line, Ctrl-D deletes.
    alice.press(&format!("{LEFT}{CTRL_D}"));
    alice.expect(&["> bob: hal"]);
    alice.press(CTRL_C);
    let (status, rows) = alice.wait();
    assert_eq!(
        (status, &rows[..]),
        (0, &[CONNECTED, "a-chat: not sent: bob: hal"].map(str::to_owned)[..])
    );
}

#[test]
fn a_second_ctrl_c_ends_the_wait() {
    let script = Script::listen();
    let (mut alice, mut peer) = alice_of(&script, &["--name", "alice"]);
    alice.press(CTRL_C);
    peer.client.expect_eof();
    alice.expect_row(WAITING);
    // In the original modes the terminal turns it into a signal.
    alice.press(CTRL_C);
    assert_eq!(alice.wait().0, 1);
}

#[test]
fn a_server_shutdown_ends_the_client_without_a_key() {
    let server = TestServer::start();
    let (mut alice, bob) = alice_and_bob(&server);
    alice.press("bob: one\rbob: half");
    alice.expect(&["to bob: one", "> bob: half"]);
    wait_until("the message", || server.stats().delivered == 1);
    drop(bob);
    server.stop();
    let (status, rows) = alice.wait();
    let expected = [
        CONNECTED,
        "to bob: one",
        "notice: the server is shutting down, 1 of your lines were accepted",
        "a-chat: not sent: bob: half",
    ];
    assert_eq!((status, rows), (1, expected.map(str::to_owned).to_vec()));
}

#[test]
fn an_eviction_or_a_lost_connection_is_shown() {
    for (end, seen) in [
        (
            "error: evicted, nothing was read for too long",
            "error: evicted, nothing was read for too long",
        ),
        ("", "a-chat: the connection ended without notice"),
    ] {
        let script = Script::listen();
        let (mut alice, mut peer) = alice_of(&script, &["--name", "alice"]);
        alice.press("bob: one\r");
        peer.expect_line("bob: one");
        if !end.is_empty() {
            peer.client.send(end);
        }
        drop(peer);
        let (status, rows) = alice.wait();
        assert_eq!(status, 1);
        assert!(rows.iter().any(|row| row.starts_with(seen)), "{rows:#?}");
        let doubt = "a-chat: line 1 is in doubt, sent but perhaps not accepted, and not sent again";
        assert!(rows.contains(&doubt.to_owned()), "{rows:#?}");
    }
}

#[test]
fn the_client_continues_with_the_next_server() {
    let script = Script::listen();
    let (mut alice, mut peer) = alice_of(&script, &["--reconnect", "--no-wait", "--name", "alice"]);
    alice.press("/to bob\rone\rtwo\r");
    peer.expect_line("bob: one");
    peer.expect_line("bob: two");
    peer.close_after(2);
    drop(peer);
    alice.press("half a ");
    let mut peer = script.log_in("alice");
    peer.expect_line("bob: two");
    alice.expect(&["a-chat: connected again", "bob> half a"]);
    alice.press("line\r");
    peer.expect_line("bob: half a line");
    alice.press(CTRL_D);
    peer.answer_who("alice");
    drop(peer);
    let (status, rows) = alice.wait();
    assert_eq!(status, 0, "{rows:#?}");
}

#[test]
fn a_signal_leaves_as_ctrl_d_does() {
    for signal in [Signal::TERM, Signal::HUP, Signal::INT] {
        let server = TestServer::start();
        let (mut alice, mut bob) = alice_and_bob(&server);
        alice.press("bob: one\rbob: half");
        alice.expect(&["to bob: one", "> bob: half"]);
        alice.process.signal(signal);
        bob.expect_line("from alice: one");
        let (status, rows) = alice.wait();
        let expected = [CONNECTED, "to bob: one", "a-chat: not sent: bob: half"];
        assert_eq!((status, &rows[..]), (0, &expected.map(str::to_owned)[..]));
    }
}

#[test]
fn a_suspension_keeps_the_line_being_typed() {
    let server = TestServer::start();
    let mut bob = server.login("bob");
    // The shell resumes the client as soon as it is suspended.
    let mut command = through(&["setsid", "--ctty"], "sh");
    let client = format!("{EXECUTABLE} connect --name alice {}; fg", server.address);
    command.args(["-mc", &client]).env("TERM", "xterm");
    let mut alice = Terminal::run(command, ROWS, COLUMNS);
    alice.expect(&[CONNECTED, ">"]);
    alice.press("bob: half");
    alice.expect(&["> bob: half"]);
    alice.press(CTRL_Z);
    alice.expect_row(EXECUTABLE.get(..20).expect("a path"));
    alice.press(" a line");
    alice.expect(&["> bob: half a line"]);
    alice.press("\r");
    bob.expect_line("from alice: half a line");
    leave(alice, 0);
}

#[test]
fn names_keep_their_colours() {
    let server = TestServer::start();
    let (mut alice, mut bob) = alice_and_bob(&server);
    bob.send("alice: hi");
    alice.expect(&["from bob: hi", ">"]);
    let colour = alice.colour("bob");
    assert_ne!(colour, vt100::Color::Default);
    assert_eq!(alice.colour("hi"), vt100::Color::Default);
    alice.press("/nonsense\r/to bob\r/who bob\r");
    alice.expect(&["notice: here: bob", "bob>"]);
    let (error, notice) = (alice.colour("error"), alice.colour("notice"));
    assert!(error != notice && error != colour && notice != colour);
    alice.press("\x0c");
    alice.expect(&["bob>"]);
    assert_eq!(alice.colour("bob"), colour);
    leave(alice, 0);
}

#[test]
fn no_color_switches_colours_off() {
    let server = TestServer::start();
    let mut bob = server.login("bob");
    let mut alice = Terminal::start_with(server.address, &["--name", "alice"], |command| {
        command.env("NO_COLOR", "1");
    });
    alice.expect(&[CONNECTED, ">"]);
    bob.send("alice: hi");
    alice.press("/nonsense\r/to bob\r");
    alice.wait_until("both", |alice| {
        alice.rows().contains(&"from bob: hi".to_owned()) && alice.ends_with(&["bob>"])
    });
    for word in ["a-chat", "from", "bob", "error"] {
        assert_eq!(alice.colour(word), vt100::Color::Default);
    }
    leave(alice, 0);
}

#[test]
fn a_user_without_a_name_is_asked_for_it() {
    let server = TestServer::start();
    let mut bob = server.login("bob");
    let mut alice = Terminal::start(server.address, &[]);
    alice.expect(&["your name:"]);
    alice.press("a b\r");
    alice.expect(&["error: a name is 1 to 32 of A-Z a-z 0-9 _ . -", "your name:"]);
    // What was typed ahead is not lost.
    alice.press("alice\rbob: hi\r");
    alice.wait_until("both", |alice| {
        let rows = alice.rows();
        [CONNECTED, "to bob: hi"].iter().all(|row| rows.contains(&(*row).to_owned()))
    });
    bob.expect_line("from alice: hi");
    leave(alice, 0);
    for keys in [CTRL_C, CTRL_D] {
        let mut unnamed = Terminal::start(server.address, &[]);
        unnamed.expect(&["your name:"]);
        unnamed.press(keys);
        let (status, rows) = unnamed.wait();
        assert_eq!((status, rows), (1, vec!["a-chat: no name was given".to_owned()]));
    }
}

/// Whether or not the session would reconnect, and keys that came too early are not lost.
#[test]
fn a_taken_name_is_asked_for_again() {
    let server = TestServer::start();
    let mut bob = server.login("bob");
    for flags in [&[][..], &["--reconnect"]] {
        let mut alice = Terminal::start(server.address, flags);
        alice.expect(&["your name:"]);
        alice.press("bob\r");
        alice.expect(&["error: cannot log in as bob: name taken", "your name:"]);
        alice.press("bob\r");
        let error = "error: cannot log in as bob: name taken";
        alice.expect(&[error, error, "your name:"]);
        alice.press("alice\rbob: hi\r");
        alice.expect(&[error, error, CONNECTED, "to bob: hi", ">"]);
        bob.expect_line("from alice: hi");
        leave(alice, 0);
        // The next name may have been typed already.
        let mut alice = Terminal::start(server.address, flags);
        alice.expect(&["your name:"]);
        alice.press("bob\ralice\rbob: hi\r");
        alice.expect(&[error, CONNECTED, "to bob: hi", ">"]);
        bob.expect_line("from alice: hi");
        leave(alice, 0);
        let mut alice = Terminal::start(server.address, flags);
        alice.expect(&["your name:"]);
        alice.press("bob\r");
        alice.expect(&[error, "your name:"]);
        alice.press(CTRL_C);
        let rows = [error, "a-chat: no name was given"].map(str::to_owned).to_vec();
        assert_eq!(alice.wait(), (1, rows));
    }
}

/// A server that does not reply to the login holds up nobody who leaves.
#[test]
fn a_user_can_leave_during_the_login() {
    let script = Script::listen();
    let mut alice = Terminal::start(script.address, &[]);
    alice.expect(&["your name:"]);
    alice.press("alice\r");
    let _peer = script.accept();
    alice.press(CTRL_C);
    assert_eq!(alice.wait().0, 1);
}

#[test]
fn a_failed_login_is_explained() {
    let server = TestServer::start();
    let _alice = server.login("alice");
    let (status, rows) = Terminal::start(server.address, &["--name", "alice"]).wait();
    assert_eq!((status, rows), (1, vec!["a-chat: cannot log in as alice: name taken".to_owned()]));
}

/// Another program that shares the terminal may have set `O_NONBLOCK`.
#[test]
fn a_non_blocking_terminal_loses_nothing() {
    const LINES: usize = 5_000;
    let server = TestServer::start();
    let (mut alice, mut bob) = alice_and_bob(&server);
    alice.set_non_blocking();
    let lines: Vec<_> = (1..=LINES).map(|number| format!("alice: {number}\n")).collect();
    bob.send(lines.concat().trim_end());
    wait_until("a full terminal", || server.stats().delivered > 0);
    alice.press("bob: still here");
    alice.expect(&[&format!("from bob: {LINES}"), "> bob: still here"]);
    let above = alice.scrolled_off();
    let numbers = above.iter().filter_map(|row| row.strip_prefix("from bob: ")?.parse().ok());
    let seen: Vec<usize> = numbers.collect();
    assert!(seen.iter().copied().eq(1..=seen.len()), "not in order");
    assert!(seen.len() > LINES - 24, "{} of them", seen.len());
    alice.press("\r");
    bob.expect_line("from alice: still here");
    leave(alice, 0);
}

/// Such a terminal can do no more than a pipe: lines.
#[test]
fn a_dumb_terminal_works_as_a_pipe_does() {
    let server = TestServer::start();
    let mut bob = server.login("bob");
    let mut alice = Terminal::start_with(server.address, &["--name", "alice"], |command| {
        command.env("TERM", "dumb");
    });
    wait_until("the login", || server.stats().connected == 2);
    alice.press("bob: hi\n");
    bob.expect_line("from alice: hi");
    bob.send("alice: \x1b[31mhi");
    alice.expect(&["bob: hi", "from bob: ^[[31mhi"]);
    leave(alice, 0);
    let mut unnamed = Terminal::start_with(server.address, &[], |command| {
        command.env("TERM", "dumb");
    });
    unnamed.expect(&["a-chat: type your name, then lines such as \"bob: hello\""]);
    unnamed.press("carol\nbob: hi\n");
    bob.expect_line("from carol: hi");
    leave(unnamed, 0);
}

/// Leaving while there is no server gives up unsent lines, which are reported.
#[test]
fn a_user_who_leaves_without_a_server_sees_what_was_not_accepted() {
    let script = Script::listen();
    let flags = ["--reconnect", "--wait", "0", "--name", "alice"];
    let (mut alice, mut peer) = alice_of(&script, &flags);
    peer.close_after(1);
    drop((peer, script));
    alice.expect_row("a-chat: cannot connect to 127.0.0.1:");
    alice.press("bob: one\r");
    alice.expect(&["to bob: one", ">"]);
    alice.press(CTRL_D);
    let (status, rows) = alice.wait();
    assert_eq!(status, 1, "{rows:#?}");
    let reported = ["a-chat: from line 1 on nothing was accepted", "  line 1: bob: one"];
    assert_eq!(rows[rows.len() - 2..], reported, "{rows:#?}");
}

/// A closed terminal ends the client with a status that says that not everything was shown.
#[test]
fn a_closed_window_ends_the_client() {
    let server = TestServer::start();
    let (mut alice, mut bob) = alice_and_bob(&server);
    alice.press("bob: one\r");
    bob.expect_line("from alice: one");
    assert_eq!(alice.hang_up().wait().0, 1);
    wait_until("the end", || server.stats().connected == 1);
    drop(bob);
    let report = server.stop();
    assert_eq!((report.delivered, report.lost()), (1, 0), "{report}");
}

/// A terminal that accepts no output cannot delay the end forever.
#[test]
fn a_stuck_terminal_does_not_delay_the_end() {
    // Every buffer is full, so no key gets through.
    let script = Script::listen();
    let (alice, peer) = alice_of(&script, &["--name", "alice"]);
    let line = format!("from bob: {}\n", "x".repeat(10_000));
    send_until_blocked(&peer.client.stream, line.as_bytes());
    wait_until("the end", || {
        alice.process.signal(Signal::TERM);
        alice.process.state() == 'Z'
    });
    assert_eq!(alice.wait_unseen(), 1);

    // It stops accepting output after she left.
    let script = Script::listen();
    let (mut alice, mut peer) = alice_of(&script, &["--wait", "5s", "--name", "alice"]);
    alice.press(CTRL_D);
    peer.client.expect_eof();
    wait_until("the original modes", || alice.is_restored());
    alice.press(CTRL_S);
    assert_eq!(alice.wait_unseen(), 1);
}
