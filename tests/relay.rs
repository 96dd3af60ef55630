//! Relaying: a line reaches exactly the recipients it names, once, whole and in order. A line that
//! cannot be relayed gets an error with its number.
//!
//! Each case is a short session over real sockets. It ends with `stop_with`, which checks that no
//! client received more lines than the case has read. A client's last message, to itself, proves
//! that the server has routed everything before it.

mod common;

use std::collections::HashSet;
use std::fmt::Write;
use std::thread;

use a_chat::Config;
use common::{Client, TEST_TIMEOUT, TestServer, wait_until};

const NO_COLON: &str = "no ':' in it, expected \"name, name: text\"";

/// Waits until the server has routed everything that this client has sent.
fn wait_until_routed(client: &mut Client, name: &str) {
    client.send(&format!("{name}: routed"));
    client.expect_line(&format!("from {name}: routed"));
}

fn login_all(server: &TestServer, names: &[String]) -> Vec<Client> {
    names.iter().map(|name| server.login(name)).collect()
}

fn names(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("n{number}")).collect()
}

#[test]
fn the_session_in_the_readme_works_as_shown() {
    let server = TestServer::start();
    let (mut alice, mut bob) = (server.login("alice"), server.login("bob"));
    alice.send("bob, carol: hi");
    alice.expect_line("error: line 1: no such peer: carol");
    bob.expect_line("from alice: hi");
    bob.send("alice: hi yourself");
    alice.expect_line("from bob: hi yourself");
    alice.send("/who bob, carol");
    alice.expect_line("notice: line 2: here: bob; not here: carol");
    let report = server.stop_with([(alice, 2), (bob, 1)]);
    assert_eq!((report.connections, report.accepted), (2, 3), "{report}");
    assert_eq!((report.owed, report.delivered), (2, 2), "{report}");
}

#[test]
fn three_clients_exchange_messages() {
    let server = TestServer::start();
    let mut alice = server.login("alice");
    let mut bob = server.login("bob");
    let mut carol = server.login("carol");
    alice.send("bob, carol: hi");
    bob.expect_line("from alice: hi");
    carol.expect_line("from alice: hi");
    carol.send("alice,bob:hello");
    alice.expect_line("from carol: hello");
    bob.expect_line("from carol: hello");
    bob.send("dave: anyone?");
    bob.expect_line("error: line 1: no such peer: dave");
    carol.half_close();
    carol.expect_eof();
    alice.send("bob, carol: is carol gone?");
    bob.expect_line("from alice: is carol gone?");
    alice.expect_line("error: line 2: no such peer: carol");
    bob.send("/who alice, bob, carol");
    bob.expect_line("notice: line 2: here: alice, bob; not here: carol");
    let report = server.stop_with([(alice, 2), (bob, 2)]);
    assert_eq!((report.accepted, report.owed, report.delivered), (5, 5, 5), "{report}");
}

#[test]
fn one_line_reaches_many_recipients() {
    let server = TestServer::start();
    let names = names(60);
    let mut recipients = login_all(&server, &names);
    let mut alice = server.login("alice");
    alice.send(&format!("{}: to all of you", names.join(", ")));
    for recipient in &mut recipients {
        recipient.expect_line("from alice: to all of you");
    }
    let clients = recipients.into_iter().map(|client| (client, 0)).chain([(alice, 1)]);
    let report = server.stop_with(clients);
    assert_eq!((report.accepted, report.owed, report.delivered), (1, 60, 60), "{report}");
}

const SENDERS: usize = 4;
const RECIPIENTS: usize = 4;
const LINES: usize = 20_000;

/// Runs of three lines go to the same recipients, and each set of recipients takes its turn.
fn is_for(number: usize, recipient: usize) -> bool {
    let set = (number / 3) % ((1 << RECIPIENTS) - 1) + 1;
    set >> recipient & 1 == 1
}

/// Sends numbered lines in packets of random size, then half-closes and waits for end of file.
fn send_numbered(mut client: Client, seed: u64, recipients: &[String]) {
    let mut random = fastrand::Rng::with_seed(seed);
    let (mut packet, mut lines_left) = (String::new(), random.usize(1..200));
    for number in 0..LINES {
        let list: Vec<_> = (0..RECIPIENTS)
            .filter(|&recipient| is_for(number, recipient))
            .map(|recipient| recipients[recipient].as_str())
            .collect();
        writeln!(packet, "{}: {number}", list.join(", ")).expect("writing to a string");
        lines_left -= 1;
        if lines_left == 0 {
            client.send_bytes(packet.as_bytes());
            (packet, lines_left) = (String::new(), random.usize(1..200));
        }
    }
    client.send_bytes(packet.as_bytes());
    client.half_close();
    client.expect_eof();
}

#[test]
fn each_recipient_gets_each_senders_messages_in_order() {
    let server = TestServer::start();
    let names = names(RECIPIENTS);
    let readers: Vec<_> = login_all(&server, &names)
        .into_iter()
        .map(|mut client| thread::spawn(move || client.lines_to_eof()))
        .collect();
    // All of them, before the first one leaves.
    let senders: Vec<_> = (0..SENDERS).map(|sender| server.login(&format!("s{sender}"))).collect();
    thread::scope(|scope| {
        for (seed, client) in (0..).zip(senders) {
            let names = &names;
            scope.spawn(move || send_numbered(client, seed, names));
        }
    });
    let report = server.stop();
    let mut owed = 0;
    for (recipient, reader) in readers.into_iter().enumerate() {
        let mut lines = reader.join().expect("a reader without a failure");
        let notice = "notice: server is shutting down, 0 of your lines were accepted";
        assert_eq!(lines.pop().as_deref(), Some(notice));
        let numbers = (0..LINES).filter(|&number| is_for(number, recipient));
        let expected: Vec<_> = numbers.map(|number| number.to_string()).collect();
        for sender in 0..SENDERS {
            let prefix = format!("from s{sender}: ");
            let texts = lines.iter().filter_map(|line| line.strip_prefix(&prefix));
            let differs =
                texts.clone().zip(&expected).position(|(text, expected)| text != expected);
            assert_eq!(
                (differs, texts.count()),
                (None, expected.len()),
                "s{sender} to n{recipient}"
            );
        }
        assert_eq!(lines.len(), SENDERS * expected.len(), "messages only");
        owed += lines.len() as u64;
    }
    assert_eq!((report.accepted, report.owed), ((SENDERS * LINES) as u64, owed), "{report}");
    assert_eq!(report.delivered, owed, "{report}");
}

#[test]
fn a_client_that_sends_to_itself_receives_the_message() {
    let server = TestServer::start();
    let (mut alice, mut bob) = (server.login("alice"), server.login("bob"));
    alice.send("alice: a note");
    alice.expect_line("from alice: a note");
    alice.send("bob, alice: to us both");
    alice.expect_line("from alice: to us both");
    bob.expect_line("from alice: to us both");
    let report = server.stop_with([(alice, 2), (bob, 0)]);
    assert_eq!((report.owed, report.delivered), (3, 3), "{report}");
}

#[test]
fn an_unknown_recipient_is_reported_and_the_others_get_the_message() {
    let server = TestServer::start();
    let (mut alice, mut bob) = (server.login("alice"), server.login("bob"));
    let cases = [
        ("carol, bob: 1", "no such peer: carol"),
        ("bob, dave, carol: 2", "no such peer: dave, carol"),
        // A string that cannot be a name is refused as such, and quoted with its invisible
        // characters escaped.
        ("carol and dave, Bob, bob: 3", "no such peer: Bob; not a name: carol and dave"),
        ("é, /who, bob: 4", "not a name: é, /who"),
        ("\u{200b}bob, bob: 5", "not a name: \\u{200b}bob"),
        ("bob\u{1b}[2J, bob, b\u{ad}ob: 6", "not a name: bob\\u{1b}[2J, b\\u{ad}ob"),
    ];
    for (number, (line, missing)) in (1..).zip(cases) {
        alice.send(line);
        alice.expect_line(&format!("error: line {number}: {missing}"));
        bob.expect_line(&format!("from alice: {number}"));
    }
    alice.send("carol: to nobody");
    alice.expect_line("error: line 7: no such peer: carol");
    let report = server.stop_with([(alice, 7), (bob, 0)]);
    assert_eq!((report.accepted, report.owed, report.delivered), (7, 6, 6), "{report}");
}

#[test]
fn each_of_many_lines_to_an_unknown_recipient_gets_an_error() {
    let server = TestServer::start();
    let (mut alice, mut bob) = (server.login("alice"), server.login("bob"));
    let lines: Vec<_> = (1..=100).map(|number| format!("bob, carol: {number}\n")).collect();
    alice.send_bytes(lines.concat().as_bytes());
    for number in 1..=100 {
        alice.expect_line(&format!("error: line {number}: no such peer: carol"));
        bob.expect_line(&format!("from alice: {number}"));
    }
    let report = server.stop_with([(alice, 100), (bob, 0)]);
    assert_eq!((report.owed, report.delivered), (100, 100), "{report}");
}

#[test]
fn a_name_listed_twice_counts_once_in_short_and_in_long_lists() {
    let server = TestServer::start();
    let names = names(24);
    let mut recipients = login_all(&server, &names);
    let mut alice = server.login("alice");
    let (mut random, mut owed) = (fastrand::Rng::with_seed(1), 0);
    for (line, count) in (1..).zip(1..=names.len()) {
        // Each name is in the list at least twice, in random order.
        let mut list = [&names[..count], &names[..count], &names[..count / 2]].concat();
        random.shuffle(&mut list);
        alice.send(&format!("{}, nobody, nobody: {count}", list.join(" , ")));
        alice.expect_line(&format!("error: line {line}: no such peer: nobody"));
        for recipient in &mut recipients[..count] {
            recipient.expect_line(&format!("from alice: {count}"));
        }
        owed += count as u64;
    }
    let clients = recipients.into_iter().map(|client| (client, 0)).chain([(alice, 24)]);
    let report = server.stop_with(clients);
    assert_eq!((report.owed, report.delivered), (owed, owed), "{report}");
}

#[test]
fn a_recipient_list_is_parsed_leniently() {
    let server = TestServer::start();
    let (mut alice, mut bob) = (server.login("alice"), server.login("bob"));
    for (number, list) in
        ["bob", " bob\t", "bob,", ", ,bob ,,", "\u{a0}bob\u{2003}"].iter().enumerate()
    {
        alice.send(&format!("{list}: {number}"));
        bob.expect_line(&format!("from alice: {number}"));
    }
    server.stop_with([(alice, 5), (bob, 0)]);
}

#[test]
fn a_carriage_return_before_the_line_end_is_dropped() {
    let server = TestServer::start();
    let (mut alice, mut bob) = (server.login("alice"), server.login("bob"));
    alice.send_bytes(b"bob: one\r\nbob: two\n\r\nnonsense\r\nbob:\r\n/who bob\r\n/who carol\r\n");
    bob.expect_lines(&["from alice: one", "from alice: two", "from alice: "]);
    alice.expect_lines(&[
        &format!("error: line 4: {NO_COLON}"),
        "notice: line 6: here: bob",
        "notice: line 7: not here: carol",
    ]);
    server.stop_with([(alice, 7), (bob, 0)]);
}

#[test]
fn text_arrives_unchanged_except_for_one_blank_after_the_colon() {
    let server = TestServer::start();
    let (mut alice, mut bob) = (server.login("alice"), server.login("bob"));
    let cases = [
        ("bob:tight", "tight"),
        ("bob: \t blanks around \t ", "\t blanks around \t "),
        ("bob:  two blanks", " two blanks"),
        ("bob:\ta tab", "\ta tab"),
        ("bob:     fn main() {", "    fn main() {"),
        (
            "bob:\u{a0}\u{2003}other blanks\u{3000}\u{a0}",
            "\u{a0}\u{2003}other blanks\u{3000}\u{a0}",
        ),
        ("bob: blanks   between", "blanks   between"),
        ("bob: carol: not for carol", "carol: not for carol"),
        ("bob: a, b: c, d:: e,", "a, b: c, d:: e,"),
        ("bob:: ,", ": ,"),
        ("bob: from carol: not so", "from carol: not so"),
        ("bob: /who", "/who"),
        ("bob: \u{7f}\u{1}\u{0}", "\u{7f}\u{1}\u{0}"),
        ("bob: naïve, 5 €, 𝄞, עברית, 日本語", "naïve, 5 €, 𝄞, עברית, 日本語"),
        ("bob:", ""),
        ("bob: ", ""),
        ("bob:   ", "  "),
        ("bob: last", "last"),
    ];
    // Line by line, and again with all lines in one packet, which takes another path in the server.
    for (line, text) in cases {
        alice.send(line);
        bob.expect_line(&format!("from alice: {text}"));
    }
    alice.send_bytes(cases.map(|(line, _)| format!("{line}\n")).concat().as_bytes());
    for (_, text) in cases {
        bob.expect_line(&format!("from alice: {text}"));
    }
    // The carriage return of a line end is no part of the text, and any other is.
    alice.send_bytes(b"bob: 1 \r\nbob: 2\r\r\nbob: 3\r\nbob: \r4\n");
    bob.expect_lines(&["from alice: 1 ", "from alice: 2\r", "from alice: 3", "from alice: \r4"]);
    server.stop_with([(alice, 40), (bob, 0)]);
}

#[test]
fn empty_lines_are_ignored_but_counted() {
    let server = TestServer::start();
    let mut alice = server.login("alice");
    alice.send_bytes(b"\n\n\r\nnonsense\n\n\nalice: hi\n\nnonsense\n\n");
    alice.expect_line(&format!("error: line 4: {NO_COLON}"));
    alice.expect_line("from alice: hi");
    alice.expect_line(&format!("error: line 9: {NO_COLON}"));
    wait_until_routed(&mut alice, "alice");
    let report = server.stop_with([(alice, 11)]);
    assert_eq!((report.accepted, report.owed), (11, 2), "{report}");
}

#[test]
fn a_message_may_arrive_byte_by_byte() {
    let server = TestServer::start();
    let (mut alice, mut bob) = (server.login("alice"), server.login("bob"));
    let session = "bob: naïve, 5 €, 𝄞\r\n\nbob, alice : second\nnonsense\n";
    for byte in session.as_bytes() {
        alice.send_bytes(&[*byte]);
    }
    bob.expect_lines(&["from alice: naïve, 5 €, 𝄞", "from alice: second"]);
    alice.expect_line("from alice: second");
    alice.expect_line(&format!("error: line 4: {NO_COLON}"));
    let report = server.stop_with([(alice, 4), (bob, 0)]);
    assert_eq!((report.owed, report.delivered), (3, 3), "{report}");
}

#[test]
fn a_line_is_routed_once_its_line_end_arrives_and_not_before() {
    let server = TestServer::start();
    let mut bob = server.login("bob");
    let (mut alice, mut carol) = (server.login("alice"), server.login("carol"));
    alice.send_bytes(b"bob: first\nbob: sec");
    bob.expect_line("from alice: first");
    carol.send("bob: in between");
    bob.expect_line("from carol: in between");
    alice.send_bytes(b"ond\n");
    bob.expect_line("from alice: second");
    server.stop_with([(alice, 2), (bob, 0), (carol, 1)]);
}

#[test]
fn a_thousand_lines_may_arrive_in_one_packet() {
    let server = TestServer::start();
    let (mut alice, mut bob) = (server.login("alice"), server.login("bob"));
    let lines: Vec<_> = (0..1000).map(|number| format!("bob: {number}\n")).collect();
    alice.send_bytes(lines.concat().as_bytes());
    for number in 0..1000 {
        bob.expect_line(&format!("from alice: {number}"));
    }
    let report = server.stop_with([(alice, 1000), (bob, 0)]);
    assert_eq!((report.accepted, report.delivered), (1000, 1000), "{report}");
}

#[test]
fn replies_keep_their_place_among_the_messages() {
    let server = TestServer::start();
    let mut alice = server.login("alice");
    alice.send_bytes(
        b"alice: 1\nalice: 2\nnonsense\nalice: 4\nbob: 5\nalice, bob: 6\n/who alice\n: 8\n\
          alice: \xff\n,: 10\n\nalice: 12\n/whom\n/who: 14\nalice: 15\n",
    );
    alice.expect_lines(&[
        "from alice: 1",
        "from alice: 2",
        &format!("error: line 3: {NO_COLON}"),
        "from alice: 4",
        "error: line 5: no such peer: bob",
        "from alice: 6",
        "error: line 6: no such peer: bob",
        "notice: line 7: here: alice",
        "error: line 8: no recipient before the ':'",
        "error: line 9: not UTF-8",
        "error: line 10: no recipient before the ':'",
        "from alice: 12",
        &format!("error: line 13: {NO_COLON}"),
        "error: line 14: not a name: /who",
        "from alice: 15",
    ]);
    let report = server.stop_with([(alice, 15)]);
    assert_eq!((report.accepted, report.owed), (15, 6), "{report}");
}

#[test]
fn line_numbers_continue_across_packets() {
    let server = TestServer::start();
    let mut alice = server.login("alice");
    let mut line = 0;
    for count in 1..=100 {
        // The reply to its last line proves that the server has processed the whole packet, so the
        // next packet is a batch of its own.
        alice.send_bytes(format!("{}nonsense\n", "alice: hi\n".repeat(count - 1)).as_bytes());
        line += count;
        for _ in 1..count {
            alice.expect_line("from alice: hi");
        }
        alice.expect_line(&format!("error: line {line}: {NO_COLON}"));
    }
    server.stop_with([(alice, 5050)]);
}

#[test]
fn line_numbers_continue_through_a_long_stream() {
    let server = TestServer::start();
    let (mut alice, mut bob) = (server.login("alice"), server.login("bob"));
    let reading = thread::spawn(move || bob.lines_to_eof());
    // Two megabytes take many reads and many batches, wherever the boundaries fall.
    for thousand in 1..=20 {
        let lines = format!("bob: {}\n", "x".repeat(100)).repeat(999);
        alice.send_bytes(lines.as_bytes());
        alice.send(&format!("nonsense {thousand}"));
    }
    for thousand in 1..=20 {
        alice.expect_line(&format!("error: line {}: {NO_COLON}", thousand * 1000));
    }
    let report = server.stop_with([(alice, 20_000)]);
    let received = reading.join().expect("bob reads without a failure");
    assert_eq!(received.len(), 20 * 999 + 1);
    assert_eq!((report.accepted, report.delivered), (20_000, 20 * 999), "{report}");
}

#[test]
fn who_command_without_names_counts_and_lists_the_clients() {
    let server = TestServer::start();
    let mut alice = server.login("alice");
    alice.send("/who");
    alice.expect_line("notice: line 1: 1 here: alice");
    let mut bob = server.login("bob");
    for line in 2..=4 {
        // A list without any name counts as no list.
        alice.send(["/who", "/who ", "/who , ,"][line - 2]);
        let reply = alice.line().expect("a reply");
        let start = format!("notice: line {line}: 2 here: ");
        let names = reply.strip_prefix(&start).unwrap_or_else(|| panic!("{reply}"));
        assert!(["alice, bob", "bob, alice"].contains(&names), "{reply}");
    }
    bob.half_close();
    bob.expect_eof();
    alice.send("/who");
    alice.expect_line("notice: line 5: 1 here: alice");
    server.stop_with([(alice, 5)]);
}

/// Sends `/who`; returns how many clients are connected, the names listed, and whether those are
/// all.
fn ask_who(client: &mut Client, line: u64) -> (usize, Vec<String>, bool) {
    client.send("/who");
    let reply = client.line().expect("a reply");
    let reply = reply.strip_prefix(&format!("notice: line {line}: ")).expect("this line's reply");
    let (count, list) = reply.split_once(" here: ").expect("a count and a list");
    let shortened = list.strip_suffix(", ...");
    let names = shortened.unwrap_or(list).split(", ").map(str::to_owned).collect();
    (count.parse().expect("a number"), names, shortened.is_none())
}

#[test]
fn who_command_without_names_lists_at_most_a_hundred_clients() {
    let server = TestServer::start();
    let all = names(120);
    let mut clients = login_all(&server, &all[..100]);
    let known: HashSet<_> = all.iter().collect();
    let (count, some, are_all) = ask_who(&mut clients[0], 1);
    assert!(count == 100 && are_all, "{count} clients, listed: {some:?}");
    assert_eq!(some.iter().collect::<HashSet<_>>(), all[..100].iter().collect());
    assert_eq!(some.len(), 100);

    clients.extend(login_all(&server, &all[100..]));
    let (count, some, are_all) = ask_who(&mut clients[0], 2);
    assert!(count == 120 && !are_all, "{count} clients, listed: {some:?}");
    let distinct: HashSet<_> = some.iter().collect();
    assert_eq!((some.len(), distinct.len()), (100, 100));
    assert!(distinct.is_subset(&known), "{some:?}");
    let lines = [2].into_iter().chain(std::iter::repeat(0));
    server.stop_with(clients.into_iter().zip(lines));
}

#[test]
fn who_command_with_names_reports_which_of_them_are_connected() {
    let server = TestServer::start();
    let (mut alice, bob) = (server.login("alice"), server.login("bob"));
    let cases = [
        ("/who bob", "here: bob"),
        ("/who carol", "not here: carol"),
        ("/who bob, carol", "here: bob; not here: carol"),
        ("/who dave,carol , bob,alice", "here: bob, alice; not here: dave, carol"),
        ("/who bob, bob, carol, carol", "here: bob; not here: carol"),
        ("/who\tbob", "here: bob"),
        ("/who Bob", "not here: Bob"),
        ("/who bob: hi", "not here: bob: hi"),
    ];
    for (line, (request, reply)) in (1..).zip(cases) {
        alice.send(request);
        alice.expect_line(&format!("notice: line {line}: {reply}"));
    }
    let names = names(50).join(", ");
    alice.send(&format!("/who {names}, bob, {names}"));
    alice.expect_line(&format!("notice: line 9: here: bob; not here: {names}"));
    // The question reaches no other client.
    let report = server.stop_with([(alice, 9), (bob, 0)]);
    assert_eq!((report.accepted, report.owed), (9, 0), "{report}");
}

#[test]
fn a_client_that_half_closes_receives_its_queue_and_then_end_of_file() {
    let config = Config::default().window(64 << 20).stall_timeout(TEST_TIMEOUT);
    let server = TestServer::with(config);
    let (mut bob, mut alice) = (server.login("bob"), server.login("alice"));
    let padding = "x".repeat(1000);
    let lines: Vec<_> = (0..8000).map(|number| format!("bob: {number} {padding}\n")).collect();
    alice.send_bytes(lines.concat().as_bytes());
    wait_until_routed(&mut alice, "alice");
    bob.half_close();
    wait_until("bob's disconnection", || server.stats().connected == 1);
    let stats = server.stats();
    assert!(stats.delivered < stats.owed, "the queue is empty already: {stats:?}");
    alice.send("bob: too late");
    alice.expect_line("error: line 8002: no such peer: bob");
    for number in 0..8000 {
        bob.expect_line(&format!("from alice: {number} {padding}"));
    }
    bob.expect_eof();
    let report = server.stop_with([(alice, 8002)]);
    assert_eq!((report.owed, report.delivered), (8001, 8001), "{report}");
}

#[test]
fn lines_sent_before_a_half_close_are_routed() {
    let server = TestServer::start();
    let mut bob = server.login("bob");
    for round in 0..50 {
        let mut alice = Client::connect(server.address);
        alice.send_bytes(format!("alice\nbob, alice: {round}\ncarol: {round}\n").as_bytes());
        alice.half_close();
        alice.expect_line(&format!("from alice: {round}"));
        alice.expect_line("error: line 2: no such peer: carol");
        alice.expect_eof();
        bob.expect_line(&format!("from alice: {round}"));
    }
    let report = server.stop_with([(bob, 0)]);
    assert_eq!((report.accepted, report.owed, report.delivered), (100, 100, 100), "{report}");
}

#[test]
fn the_closing_notice_counts_every_line_after_the_login_line() {
    let server = TestServer::start();
    let (mut alice, mut bob, carol) =
        (server.login("alice"), server.login("bob"), server.login("carol"));
    // A message, an unknown recipient, an empty line, two refused lines, a `/who`.
    alice.send_bytes(b"bob: hi\ndave: hi\n\nnonsense\n: hi\n/who bob\n");
    bob.expect_line("from alice: hi");
    alice.expect_lines(&[
        "error: line 2: no such peer: dave",
        &format!("error: line 4: {NO_COLON}"),
        "error: line 5: no recipient before the ':'",
        "notice: line 6: here: bob",
    ]);
    bob.send("\n\n\n\n\n\n\n\n");
    wait_until_routed(&mut bob, "bob");
    let report = server.stop_with([(alice, 6), (bob, 10), (carol, 0)]);
    assert_eq!((report.accepted, report.owed, report.delivered), (16, 2, 2), "{report}");
}

#[test]
fn an_unterminated_line_is_not_counted_in_the_closing_notice() {
    let server = TestServer::start();
    let (mut alice, bob) = (server.login("alice"), server.login("bob"));
    alice.send_bytes(b"alice: one\nbob: tw");
    alice.expect_line("from alice: one");
    let report = server.stop_with([(alice, 1), (bob, 0)]);
    assert_eq!((report.accepted, report.owed), (1, 1), "{report}");
}
