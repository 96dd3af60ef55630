//! Signals at bad moments: at every step of the start and of the exit, during writes to a client that
//! is gone, and SIGSTOP and SIGCONT.
//!
//! Each case runs the executable. A start is interrupted at random and, where strace(1) may trace,
//! at each system call of the main thread in turn. While a process is suspended its clients go on or
//! are suspended too, and none of them may lose a message by that.
//!
//! The effect of shutdown signals on a running server is tested in `executable.rs`.
#![cfg(feature = "cli")]

mod common;
#[path = "common/injection.rs"]
mod injection;
#[path = "common/process.rs"]
mod process;

use std::collections::HashMap;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::thread;
use std::time::Duration;

use common::bystanders::Bystanders;
use common::stream::Stream;
use common::{Client, try_login, wait_until};
use injection::Injection;
use process::{EXECUTABLE, Process, SIGNALLED, connect, serve, serve_through, through};
use rustix::process::Signal;

/// Waits for a process that was signalled during its start. True if it had a handler for the signal
/// by then and exited in an orderly way; otherwise the signal killed it.
fn exits_in_order(process: Process, when: &str) -> bool {
    let (status, log) = process.wait_for_any_end();
    assert!(!log.iter().any(|line| line.contains("panicked")), "{when}: {log:#?}");
    match (status.code(), status.signal()) {
        (Some(0), _) => true,
        (_, Some(signal)) if signal == Signal::TERM.as_raw() => false,
        _ => panic!("{when}: {status}; {log:#?}"),
    }
}

#[test]
fn a_start_interrupted_at_random_exits_cleanly() {
    let mut random = fastrand::Rng::with_seed(1);
    let mut in_order = 0;
    // Adapts itself so that about half of the signals come before the handler, however long a start
    // takes here.
    let mut longest = Duration::from_millis(5);
    for _ in 0..300 {
        let process = Process::start(serve(&[]));
        let delay = longest.mul_f64(random.f64());
        // The sleep picks the moment of the fault.
        thread::sleep(delay);
        process.signal(Signal::TERM);
        let is_in_order = exits_in_order(process, &format!("after {delay:?}"));
        in_order += u32::from(is_in_order);
        longest = longest.mul_f64(if is_in_order { 0.95 } else { 1.05 });
    }
    assert!(in_order > 0, "no process got as far as its handler");
}

/// A system call: its name, its number among those of this name, and its line in the trace.
type Call = (String, u32, String);

/// The system calls of the main thread from start to exit without clients, each with its number
/// among the calls of its name.
fn calls_of_a_life() -> Option<Vec<Call>> {
    let injection = Injection::trace_only("all")?;
    let mut process = start_under(&injection);
    process.address();
    let (status, log) = process.terminate();
    assert_eq!(status, 0, "{log:#?}");
    let lines = injection.calls();
    let main = lines[0].split(' ').next().expect("the number of the main thread");
    let mut numbers = HashMap::new();
    let calls = lines.iter().filter_map(|line| {
        let call = line.strip_prefix(main)?.trim_start();
        let name = &call[..call.find('(')?];
        let is_name = name.chars().all(|char| char.is_ascii_alphanumeric() || char == '_');
        is_name.then(|| {
            let number = numbers.entry(name.to_owned()).or_insert(0);
            *number += 1;
            (name.to_owned(), *number, call.to_owned())
        })
    });
    Some(calls.collect())
}

fn start_under(injection: &Injection) -> Process {
    let launcher: Vec<_> = injection.launcher.iter().map(String::as_str).collect();
    Process::start(serve_through(&launcher, &[]))
}

#[test]
fn a_start_and_an_exit_interrupted_at_any_system_call_are_clean() {
    let Some(calls) = calls_of_a_life() else { return };
    assert!(calls.len() > 50, "{calls:?}");
    let (mut killed, mut in_order) = (0, 0);
    for (name, number, _) in calls {
        let when = format!("{name}:signal=SIGTERM:when={number}");
        let injection = Injection::of(&when).expect("it has worked before");
        let mut process = start_under(&injection);
        // Calls made only at the exit need another signal to be reached.
        process.stdout.expect_or_end("a-chat listens on ");
        process.signal(Signal::TERM);
        if exits_in_order(process, &when) { in_order += 1 } else { killed += 1 }
    }
    assert!(killed > 20 && in_order > 20, "{killed} were killed, {in_order} exited in order");
}

#[test]
fn a_signal_of_an_operator_at_any_moment_of_the_start_does_no_harm() {
    let Some(calls) = calls_of_a_life() else { return };
    // From the first statement of `main` to the moment when clients are told where to connect.
    let position = |text: &str| calls.iter().position(|(_, _, line)| line.starts_with(text));
    let first = position("rt_sigprocmask(SIG_BLOCK, [USR1 USR2]").expect("signals held back");
    let last = position("write(1, \"a-chat listens on").expect("a greeting");
    assert!(last - first > 30, "{calls:#?}");
    for (at, (name, number, _)) in calls[first + 1..=last].iter().enumerate() {
        let (signal, reaction) =
            [("USR1", "counters: 0 connected"), ("USR2", "ignored SIGUSR2")][at % 2];
        let when = format!("{name}:signal=SIG{signal}:when={number}");
        let injection = Injection::of(&when).expect("it has worked before");
        let mut process = start_under(&injection);
        process.address();
        process.log.expect(reaction);
        let (status, log) = process.terminate();
        assert_eq!(status, 0, "{when}: {log:#?}");
    }
}

#[test]
fn a_signal_of_an_operator_ends_a_client_as_ever() {
    let mut server = Process::start(serve(&[]));
    let address = server.address();
    let mut client = Process::start(connect(address, &["--name", "alice"]));
    client.write("alice: hi\n");
    client.stdout.expect_line("from alice: hi");
    kill(&client, libc::SIGUSR1);
    let (status, _) = client.wait_for_any_end();
    assert_eq!(status.signal(), Some(libc::SIGUSR1));
}

#[test]
fn writing_to_a_client_that_is_gone_and_sigpipe_are_harmless() {
    let mut process = Process::start(serve(&["--linger", "10ms"]));
    let bystanders = Bystanders::between(["left", "right"].map(|name| process.login(name)));
    let (mut alice, address) = (process.login("alice"), process.address());
    let mut line = 1;
    for round in 0..50 {
        let victim = format!("victim-{round}");
        let client = try_login(address, &victim).expect("room");
        // It disconnects with unread input, while more and more is written to it.
        let mut client = Some(client);
        let messages = format!("{victim}: {}\n", "x".repeat(1000)).repeat(20);
        loop {
            alice.send_bytes(format!("{messages}/who {victim}\n").as_bytes());
            line += 21;
            client.take().into_iter().for_each(Client::reset);
            process.signal(Signal::PIPE);
            let notice = format!("notice: line {line}: ");
            let mut answers = std::iter::from_fn(|| alice.line());
            let answer = answers.find(|answer| answer.starts_with(&notice)).expect("an answer");
            if answer.ends_with(&format!("not here: {victim}")) {
                break;
            }
        }
    }
    bystanders.exchange(500);
    alice.leave();
    bystanders.leave();
    let (status, log) = process.terminate();
    assert_eq!(status, 0, "{log:#?}");
    let broken = |line: &&String| line.contains("victim") && line.contains("connection broken");
    assert_eq!(log.iter().filter(broken).count(), 50, "{log:#?}");
}

#[test]
fn a_pause_under_load_loses_no_message() {
    let mut process = Process::start(serve(&[]));
    let address = process.address();
    let streams: Vec<_> = (0..4)
        .map(|number| {
            let names = [format!("from-{number}"), format!("to-{number}")];
            let clients = names.each_ref().map(|name| try_login(address, name).expect("room"));
            Stream::start(clients, names.each_ref().map(String::as_str), 0)
        })
        .collect();
    for _ in 0..3 {
        for stream in &streams {
            stream.flows(1000);
        }
        process.suspend_for(Duration::from_secs(1));
    }
    for stream in &streams {
        stream.flows(1000);
    }
    let (messages, clients): (Vec<_>, Vec<_>) = streams.into_iter().map(Stream::finish).unzip();
    clients.into_iter().for_each(Client::leave);
    let (status, log) = process.terminate();
    assert_eq!(status, 0, "{log:#?}");
    let messages: u64 = messages.iter().sum();
    let expected = format!(" {messages} delivered, 0 lost before the drain, 0 lost during it");
    assert!(log.last().is_some_and(|report| report.contains(&expected)), "{expected}: {log:#?}");
}

/// A client `slow` that reads nothing yet, and `alice`, who sent it more than its kernel takes.
fn overloaded(process: &mut Process) -> (Client, Client) {
    let mut slow = Client::connect_with_small_buffers(process.address(), None);
    slow.send("slow\n/who slow");
    slow.expect_line("notice: line 1: here: slow");
    let mut alice = process.login("alice");
    let lines = format!("slow: {}\n", "x".repeat(1000)).repeat(MESSAGES);
    alice.send(&format!("{lines}alice: that is all"));
    alice.expect_line("from alice: that is all");
    (slow, alice)
}

/// More than the kernel takes for `slow`, and less than the window.
const MESSAGES: usize = 400;

fn expect_messages(slow: &mut Client) {
    for number in 0..MESSAGES {
        let message = slow.line().unwrap_or_else(|| panic!("the end after {number} messages"));
        assert!(message.starts_with("from alice: xxx"), "{message}");
    }
}

#[test]
fn time_during_which_the_server_is_suspended_does_not_count_against_clients() {
    // As when a container is paused: some clients are suspended too, and slow to resume. So the
    // timeouts are little longer than that delay, and the pause is longer than the timeouts.
    let flags = ["--window", "1MiB", "--login-timeout", "6s", "--stall-timeout", "6s"];
    let mut process = Process::start(serve(&flags));
    let bystanders = Bystanders::between(["left", "right"].map(|name| process.login(name)));
    let mut hesitant = Client::connect(process.address());
    hesitant.send_bytes(b"hes");
    let (mut slow, alice) = overloaded(&mut process);

    process.suspend();
    hesitant.send_bytes(b"it");
    let mut newcomer = Client::connect(process.address());
    newcomer.send("newcomer\nnewcomer: is anybody there?");
    thread::sleep(Duration::from_secs(7));
    process.resume();
    newcomer.expect_line("from newcomer: is anybody there?");
    thread::sleep(Duration::from_secs(2));

    hesitant.send("ant\nhesitant: in time");
    hesitant.expect_line("from hesitant: in time");
    expect_messages(&mut slow);
    bystanders.exchange(500);
    [hesitant, newcomer, slow, alice].into_iter().for_each(Client::leave);
    bystanders.leave();
    let (status, log) = process.terminate();
    assert_eq!(status, 0, "{log:#?}");
    let report = log.last().expect("a report");
    assert!(report.contains(" 0 lost before the drain, 0 lost during it"), "{log:#?}");
}

#[test]
fn a_pause_during_the_drain_loses_no_message_within_the_deadline() {
    let flags = ["--window", "1MiB", "--stall-timeout", "2s", "--drain-timeout", "10min"];
    let mut process = Process::start(serve(&flags));
    let (mut slow, mut alice) = overloaded(&mut process);
    process.signal(Signal::TERM);
    process.log.expect(SIGNALLED);
    process.suspend_for(Duration::from_secs(3));
    expect_messages(&mut slow);
    slow.expect_line("notice: server is shutting down, 1 of your lines were accepted");
    slow.expect_eof();
    alice.lines_to_eof();
    drop((slow, alice));
    let (status, log) = process.wait();
    assert_eq!(status, 0, "{log:#?}");
}

/// Sends a signal by its number, since there are numbers without a name.
fn kill(process: &Process, signal: i32) {
    let kill = format!("kill -{signal} {}", process.pid.as_raw_pid());
    let killed = Command::new("sh").args(["-c", &kill]).status();
    assert!(killed.is_ok_and(|status| status.success()), "{kill}");
}

/// A server still serves.
fn answers(client: &mut Client, name: &str) {
    client.send(&format!("{name}: still here?"));
    client.expect_line(&format!("from {name}: still here?"));
}

#[test]
fn signals_that_are_ignored_at_the_start_stay_ignored() {
    // As nohup(1) ignores the first, and a shell the others for a background job of a script.
    let script = "trap '' HUP INT QUIT; exec \"$0\" \"$@\"";
    let mut process = Process::start(serve_through(&["sh", "-c", script], &[]));
    let mut alice = process.login("alice");
    for signal in [Signal::HUP, Signal::INT, Signal::QUIT] {
        process.signal(signal);
        answers(&mut alice, "alice");
    }
    let mut client = through(&["sh", "-c", script], EXECUTABLE);
    client.args(["connect", "--name", "bob", "--receive", &process.address().to_string()]);
    let mut client = Process::start(client);
    let mut line = 4;
    wait_until("bob's login", || {
        line += 1;
        alice.send("/who bob");
        alice.line() == Some(format!("notice: line {line}: here: bob"))
    });
    client.signal(Signal::HUP);
    alice.send("bob: still here?");
    client.stdout.expect_line("from alice: still here?");
    client.signal(Signal::TERM);
    assert_eq!(client.wait().0, 0);
    alice.leave();
    let (status, log) = process.terminate();
    assert_eq!(status, 0, "{log:#?}");
    assert_eq!(log.iter().filter(|line| line.contains("signal")).count(), 1, "{log:#?}");
}

#[test]
fn no_other_signal_ends_the_server() {
    let mut process = Process::start(serve(&[]));
    let mut alice = process.login("alice");
    let named = [
        (libc::SIGUSR2, "SIGUSR2: replacing the running program is not available"),
        (libc::SIGALRM, "SIGALRM"),
        (libc::SIGVTALRM, "SIGVTALRM"),
        (libc::SIGPROF, "SIGPROF"),
        (libc::SIGIO, "SIGIO"),
        (libc::SIGSTKFLT, "SIGSTKFLT"),
    ];
    for (signal, name) in named {
        kill(&process, signal);
        process.log.expect_next(&format!(" [WARN] ignored {name}"));
    }
    for signal in libc::SIGRTMIN()..=libc::SIGRTMAX() {
        kill(&process, signal);
        let name = format!("SIGRTMIN+{}", signal - libc::SIGRTMIN());
        process.log.expect_next(&format!(" [WARN] ignored {name}"));
    }
    // These two are ignored without a word: the kernel sends them to report a failed write.
    for signal in [libc::SIGPIPE, libc::SIGXFSZ] {
        kill(&process, signal);
        answers(&mut alice, "alice");
    }
    alice.leave();
    let (status, log) = process.terminate();
    assert_eq!(status, 0, "{log:#?}");
}

#[test]
fn a_signal_that_announces_a_kill_begins_the_drain() {
    for signal in [libc::SIGXCPU, libc::SIGPWR] {
        let flags = ["--window", "1MiB", "--stall-timeout", "10min", "--drain-timeout", "10min"];
        let mut process = Process::start(serve(&flags));
        let (mut slow, mut alice) = overloaded(&mut process);
        kill(&process, signal);
        process.log.expect(" received, draining");
        // The kernel repeats SIGXCPU, which must not force the end.
        kill(&process, signal);
        process.log.expect(" [WARN] ignored SIG");
        expect_messages(&mut slow);
        slow.lines_to_eof();
        alice.lines_to_eof();
        drop((slow, alice));
        let (status, log) = process.wait();
        assert_eq!(status, 0, "{log:#?}");
    }
}

#[test]
fn a_fault_kills_the_process_as_usual() {
    for signal in [Signal::SEGV, Signal::BUS] {
        let mut process = Process::start(serve(&[]));
        process.address();
        process.signal(signal);
        let (status, log) = process.wait_for_any_end();
        assert_eq!(status.signal(), Some(signal.as_raw()), "{status}; {log:#?}");
    }
}
