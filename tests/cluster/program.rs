//! The program in a cluster: `stress` and `connect` with several addresses, readiness and metrics, the
//! script to play with, and TLS to the engine.

use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::thread;

use rustix::process::{Signal, kill_process_group};

#[cfg(feature = "status")]
use crate::common::wait_until;
use crate::engine::Engine;
#[cfg(feature = "status")]
use crate::http::{get, status_address};
use crate::nodes::{login, login_soon, nodes, stop_all};
use crate::process::{EXECUTABLE, Process, connect, executable, run, serve, serve_through};

#[cfg(feature = "status")]
fn node(engine: &Engine, name: &str, flags: &[&str]) -> Process {
    let url = engine.url();
    let all = ["--cluster", &url, "--node", name, "--cluster-lease", "2s", "--linger", "0.1"];
    Process::start(serve(&[&all[..], flags].concat()))
}

#[test]
fn stress_spreads_its_clients_over_several_nodes() {
    let Some(engine) = Engine::start() else { return };
    let nodes = nodes(&engine, 3);
    let addresses: Vec<String> = nodes.iter().map(|node| node.address.to_string()).collect();
    let mesh = ["mesh", "--clients", "9", "--messages", "2000"];
    let pair = ["pair", "--clients", "6", "--messages", "2000"];
    // One after the other, however long each takes.
    let latency = ["latency", "--messages", "200"];
    for mode in [&mesh[..], &pair, &latency] {
        let mut command = executable();
        command.arg("stress").args(mode).arg("--json").args(&addresses);
        let (status, stdout, stderr) = run(command);
        assert_eq!(status, 0, "{mode:?}: {stdout:?} {stderr:?}");
    }
    let reports = stop_all(nodes);
    crate::nodes::check_clean(&reports);
    let arrived = |report: &a_chat::Report| report.cluster.as_ref().map_or(0, |it| it.arrived);
    assert!(reports.iter().all(|report| arrived(report) > 0), "{reports:#?}");
}

#[test]
fn connect_goes_on_at_the_next_address_that_answers() {
    let Some(engine) = Engine::start() else { return };
    let mut nodes = nodes(&engine, 2);
    let mut bob = login(&nodes[1], "bob");
    let nowhere = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let closed = nowhere.local_addr().expect("an address");
    drop(nowhere);
    let addresses: Vec<_> = nodes.iter().map(|node| node.address.to_string()).collect();
    let flags = ["--name", "alice", "--reconnect", "--wait", "20s"];
    let flags = [&[addresses[0].as_str(), &addresses[1]][..], &flags].concat();
    let mut alice = Process::start(connect(closed, &flags));
    alice.write("bob: from the first that answers\n");
    bob.expect_line("from alice: from the first that answers");
    // Its node stops; it goes on with the next line at the other one.
    let first = nodes.remove(0).stop();
    alice.write_and_end("bob: from the next one\n");
    bob.expect_line("from alice: from the next one");
    let (status, stdout, stderr) = alice.outcome();
    assert_eq!(status, 0, "{stdout:?} {stderr:?}");
    drop(bob);
    let mut reports = stop_all(nodes);
    reports.push(first);
    crate::nodes::check_clean(&reports);
}

#[cfg(feature = "status")]
#[test]
fn a_restarted_node_is_ready_when_nothing_is_held_for_clients_of_its_former_life() {
    let Some(engine) = Engine::start() else { return };
    let status = ["--status", "127.0.0.1:0"];
    let hold = [&status[..], &["--cluster-hold", "6s"]].concat();
    let mut first = node(&engine, "a", &[&hold[..], &["--cluster-first"]].concat());
    let first_status = status_address(&mut first);
    let mut second = node(&engine, "b", &hold);
    let mut bob = login_soon(second.address(), "bob");
    let mut alice = login_soon(first.address(), "alice");
    alice.send("bob: hello");
    bob.expect_line("from alice: hello");
    wait_until("the first node to be ready", || get(first_status, "/readyz").status == 200);
    assert_eq!(second.terminate().0, 0);
    // Bob's name is held, for as long as he may come back.
    let mut again = node(&engine, "b", &hold);
    let again_status = status_address(&mut again);
    assert_eq!(get(again_status, "/readyz").status, 503);
    assert_eq!(get(first_status, "/readyz").status, 200, "it runs, and clients may come to it");
    wait_until("the end of the hold", || get(again_status, "/readyz").status == 200);
    let metrics = get(first_status, "/metrics");
    assert!(metrics.metric("achat_cluster_handed_over") >= 1.0);
    assert!((metrics.metric("achat_cluster_reachable") - 1.0).abs() < f64::EPSILON);
    drop((alice, bob));
    assert_eq!((first.terminate().0, again.terminate().0), (0, 0));
}

#[test]
fn the_script_starts_a_cluster_to_play_with_and_ctrl_c_stops_it_without_a_loss() {
    let Some(engine) = Engine::start() else { return };
    drop(engine);
    let mut command = Command::new("bash");
    command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/contrib/cluster/start"));
    command.env("A_CHAT", EXECUTABLE).env("PORT", "0").env("A_CHAT_DRAIN_TIMEOUT", "30s");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // A terminal interrupts the whole group in its foreground.
    command.process_group(0);
    let mut script = Process::start(command);
    let addresses: Vec<_> = (0..3)
        .map(|_| {
            let line = script.stdout.expect_next("a-chat listens on ");
            line.rsplit(' ').next().and_then(|it| it.parse().ok()).expect("an address")
        })
        .collect();
    let mut alice = login_soon(addresses[0], "alice");
    let mut bob = login_soon(addresses[2], "bob");
    alice.send("bob: hello");
    bob.expect_line("from alice: hello");
    let received = thread::spawn(move || {
        std::iter::from_fn(|| bob.line()).filter(|line| line.starts_with("from alice: ")).count()
    });
    alice.send_bytes("bob: x\n".repeat(50_000).as_bytes());
    kill_process_group(script.pid, Signal::INT).expect("a group of its own");
    let notice = alice.line().expect("a notice");
    let (status, _, stderr) = script.outcome();
    assert_eq!(status, 0, "{stderr:?}");
    // And the first one to bob, and the `/who` with which a login begins.
    let accepted = received.join().expect("no panic") + 2;
    let accepted =
        format!("notice: server is shutting down, {accepted} of your lines were accepted");
    assert_eq!(notice, accepted, "{stderr:?}");
}

/// Whichever of its threads is refused: those that run already are ended, and tell the engine.
#[test]
fn a_node_that_cannot_start_leaves_no_life_behind() {
    let Some(engine) = Engine::start() else { return };
    let url = engine.url();
    let flags = ["--log-level", "off", "--cluster", &url, "--node", "a", "--cluster-first"];
    let mut refused = 0;
    for thread in 1.. {
        let fault = format!("clone3:error=EAGAIN:when={thread}");
        let Some(crate::injection::Injection { launcher, .. }) =
            crate::injection::Injection::of(&fault)
        else {
            return;
        };
        let launcher: Vec<_> = launcher.iter().map(String::as_str).collect();
        let mut process = Process::start(serve_through(&launcher, &flags));
        process.stdout.expect_or_end("a-chat listens on ");
        if process.stdout.last().is_some() {
            // It has all its threads by then.
            assert_eq!(process.terminate().0, 0);
            break;
        }
        let (status, log) = process.wait();
        assert_eq!((status, log.len()), (1, 1), "{log:#?}");
        refused += usize::from(log[0].contains("cannot spawn a thread"));
        let lives = engine.say(&["HVALS", "{a-chat:a-chat}:lives"]);
        assert!(!lives.contains("here"), "after {}: {lives}", log[0]);
    }
    // `ingress`, `egress`, the broker and the acceptor.
    assert_eq!(refused, 4);
}

#[cfg(feature = "tls")]
#[test]
fn the_engine_is_reached_over_tls_if_its_certificate_is_right() {
    use std::fs;

    let folder = tempfile::tempdir().expect("a directory");
    let path = |name: &str| folder.path().join(name).display().to_string();
    let key = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a key");
    fs::write(path("cert.pem"), key.cert.pem()).expect("room");
    fs::write(path("key.pem"), key.key_pair.serialize_pem()).expect("room");
    let port = crate::faults::free_port();
    let (cert, key) = (path("cert.pem"), path("key.pem"));
    let tls = ["--tls-port", &port, "--tls-cert-file", &cert, "--tls-key-file", &key];
    let all = [&["--save", "", "--tls-auth-clients", "no"][..], &tls].concat();
    let Some(_engine) = Engine::if_built_for(&all) else { return };
    let url = format!("rediss://localhost:{port}/0");
    let flags = ["--cluster", url.as_str(), "--node", "a", "--cluster-first"];
    let (status, _, stderr) = run(serve(&flags));
    assert_eq!(status, 1, "nobody has signed it: {stderr:?}");
    let mut command = serve(&flags);
    command.env("SSL_CERT_FILE", &cert);
    let mut node = Process::start(command);
    let alice = login_soon(node.address(), "alice");
    drop(alice);
    assert_eq!(node.terminate().0, 0);
}
