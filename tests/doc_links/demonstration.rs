//! The demonstration at the top of the README is what happens: the same session with the real
//! executable has the same lines on both sides, and the same log.

use rustix::process::Signal;

use super::common::{Client, wait_until};
use super::process::{Process, serve};
use super::{read, root};

/// The blocks of `text` on a page.
fn blocks(page: &str) -> Vec<&str> {
    let blocks = page.split("\n```").skip(1).step_by(2);
    blocks.filter_map(|block| block.strip_prefix("text\n")).collect()
}

/// Who is at a line of the session, which is indented for the second client; and the line itself.
fn side(line: &str) -> (usize, &str) {
    (usize::from(line.starts_with(' ')), line.trim_start())
}

fn is_from_server(line: &str) -> bool {
    ["from ", "error: ", "notice: "].iter().any(|start| line.starts_with(start))
}

/// A log line without what differs from run to run: its time, ports, and how long the drain took.
fn shape(line: &str) -> String {
    let (_, line) = line.split_once('[').expect("a level");
    let words = line.split(' ').map(|word| {
        let varies = word.starts_with("127.0.0.1:")
            || word.parse::<f64>().is_ok_and(|number| word.contains('.') && number >= 0.0);
        if varies { "…" } else { word }
    });
    words.collect::<Vec<_>>().join(" ")
}

#[test]
fn the_demonstration_in_the_readme_is_what_happens() {
    let readme = read(&root().join("README.md"));
    let [session, notices, log, ..] = &blocks(&readme)[..] else { panic!("three blocks of text") };
    let mut lines = session.lines();
    let prompts = lines.next().expect("two commands").matches("$ nc 127.0.0.1 8080").count();
    assert_eq!(prompts, 2, "{session}");
    let logins: Vec<_> = lines.next().expect("two names").split_whitespace().collect();

    let mut server = Process::start(serve(&[]));
    let address = server.address();
    let mut clients = [Client::connect(address), Client::connect(address)];
    for (client, name) in clients.iter_mut().zip(&logins) {
        client.send(name);
    }
    // The log tells of a client before others reach it; the counters hold those who are reached.
    wait_until("both logins", || {
        server.signal(Signal::USR1);
        server.log.expect_next("counters: ").contains(": 2 connected now")
    });
    for line in lines {
        match side(line) {
            (side, line) if is_from_server(line) => clients[side].expect_line(line),
            (side, line) => clients[side].send(line),
        }
    }
    server.signal(Signal::TERM);
    for line in notices.lines() {
        let (side, line) = side(line);
        clients[side].expect_line(line);
    }
    for client in &mut clients {
        client.expect_eof();
    }
    drop(clients);
    let (status, written) = server.wait();
    assert_eq!(status, 0, "{written:#?}");

    let happened = written.iter().skip_while(|line| !line.contains("shutdown signal"));
    let (mut happened, mut shown): (Vec<_>, Vec<_>) =
        (happened.map(|line| shape(line)).collect(), log.lines().map(shape).collect());
    assert_eq!(happened.last(), shown.last());
    // The clients disconnect in any order.
    happened.sort();
    shown.sort();
    assert_eq!(happened, shown, "it is:\n{}", written.join("\n"));
}
