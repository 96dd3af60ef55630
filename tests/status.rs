//! The status endpoint tells the truth, to those it should, whatever else is done to it; and it costs
//! nothing while nobody asks.
//!
//! Each case runs the executable and speaks HTTP to it.
#![cfg(all(feature = "cli", feature = "status"))]
#![allow(clippy::print_stdout, reason = "a test that cannot run here prints why")]
#![allow(clippy::float_cmp, reason = "counts are whole numbers")]

mod common;
#[path = "common/http.rs"]
mod http;
#[path = "common/netns.rs"]
mod netns;
#[path = "common/process.rs"]
mod process;

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::{Client, TEST_TIMEOUT, send_until_full, skipped, wait_until};
use http::{Response, connect, exchange, get, request, status_address};
use netns::{Network, address_of};
use process::{EXECUTABLE, Process, run, serve, through};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::Signal;

const NEVER: &str = "10min";

/// A server with an endpoint on a free port of the loopback.
fn start(flags: &[&str]) -> (Process, SocketAddr) {
    let mut process = Process::start(serve(&[&["--status", "127.0.0.1:0"], flags].concat()));
    let status = status_address(&mut process);
    (process, status)
}

/// A client that never reads, and one whose window is full of lines for it.
fn stuck(process: &mut Process, status: SocketAddr) -> (Client, Client) {
    let slow = process.login("slow");
    let alice = process.login("alice");
    let line = format!("slow: {}\n", "x".repeat(1000));
    send_until_full(&alice.stream, line.repeat(64).as_bytes(), || {
        get(status, "/metrics").metric("achat_senders_waiting") == 1.0
    });
    (slow, alice)
}

#[test]
fn the_probes_tell_whether_it_runs_and_whether_it_accepts_clients() {
    let flags = ["--stall-timeout", NEVER, "--drain-timeout", NEVER];
    let (mut process, status) = start(&flags);
    for path in ["/livez", "/healthz"] {
        let response = get(status, path);
        assert_eq!((response.status, response.body.as_str()), (200, "running\n"));
    }
    assert_eq!((get(status, "/readyz").status, get(status, "/nonsense").status), (200, 404));
    let clients = stuck(&mut process, status);
    process.signal(Signal::TERM);
    wait_until("the drain", || get(status, "/readyz").status == 503);
    assert_eq!(get(status, "/readyz").body, "draining\n");
    // It must not be killed for draining.
    assert_eq!(get(status, "/livez").body, "draining\n");
    let metrics = get(status, "/metrics");
    assert_eq!((metrics.metric("achat_ready"), metrics.metric("achat_draining")), (0.0, 1.0));
    assert_eq!(get(status, "/clients").json()["state"], "draining");
    drop(clients);
    assert_eq!(process.wait().0, 1);
}

#[test]
fn the_metrics_count_what_happened() {
    let (mut process, status) = start(&["--max-connections", "3"]);
    let (mut alice, mut bob) = (process.login("alice"), process.login("bob"));
    alice.send("bob: one\nalice, bob: two\nnobody: three");
    alice.expect_line("from alice: two");
    bob.expect_line("from alice: one");
    let mut carol = Client::connect(process.address());
    carol.send("alice");
    carol.lines_to_eof();
    drop(carol);
    wait_until("her end", || get(status, "/metrics").body.contains("reason=\"name_taken\""));
    let dave = Client::connect(process.address());
    let mut fifth = Client::connect(process.address());
    fifth.lines_to_eof();
    let metrics = || get(status, "/metrics");
    wait_until("acknowledgements", || {
        metrics().metric("achat_deliveries_acknowledged_total") >= 3.0
    });
    let metrics = metrics();
    for (name, value) in [
        ("achat_clients_limit", 3.0),
        ("achat_connections_refused_total{reason=\"full\"}", 1.0),
        ("achat_disconnects_total{reason=\"name_taken\"}", 1.0),
        ("achat_logins_refused_total{reason=\"name_taken\"}", 1.0),
        // With one line of each that waits for its login.
        ("achat_lines_accepted_total", 5.0),
        ("achat_lines_refused_total{reason=\"no_such_peer\"}", 1.0),
        ("achat_deliveries_owed_total", 3.0),
        ("achat_deliveries_written_total", 3.0),
        ("achat_evictions_total", 0.0),
        ("achat_losses_total{sender=\"told\"}", 0.0),
        ("achat_senders_waiting", 0.0),
        ("achat_ready", 1.0),
        ("achat_build_info{version=\"0.1.0\"}", 1.0),
    ] {
        assert_eq!(metrics.metric(name), value, "{name}: {}", metrics.body);
    }
    for name in [
        "achat_broker_rounds_total",
        "achat_broker_events_total",
        "achat_received_bytes_total",
        "achat_sent_bytes_total",
        "process_cpu_seconds_total",
        "process_resident_memory_bytes",
        "process_open_fds",
        "process_max_fds",
        "process_threads",
        "process_start_time_seconds",
    ] {
        assert!(metrics.metric(name) > 0.0 || name.contains("cpu"), "{name}: {}", metrics.body);
    }
    let names = metrics.body.to_lowercase();
    assert!(!names.contains("alice") && !names.contains("127.0.0.1"), "nobody is named");
    // They only grow, across the end of the clients they counted.
    let sent = metrics.metric("achat_sent_bytes_total");
    drop((alice, bob, dave));
    wait_until("their ends", || get(status, "/metrics").metric("achat_clients") == 0.0);
    assert!(get(status, "/metrics").metric("achat_sent_bytes_total") >= sent);
    process.terminate();
}

#[test]
fn losses_are_counted_by_stage_and_reason() {
    let flags = ["--window", "1MiB", "--stall-timeout", "100ms", "--stall-bytes", "1MiB"];
    let (mut process, status) = start(&flags);
    let (_slow, mut alice) = (process.login("slow"), process.login("alice"));
    // More than the sockets take, and less than her window.
    alice.send_bytes(format!("slow: {}\n", "x".repeat(60_000)).repeat(15).as_bytes());
    let lost = |stage: &str| {
        let name = format!("achat_deliveries_lost_total{{stage=\"{stage}\",reason=\"evicted\"}}");
        let metrics = get(status, "/metrics");
        let line = metrics.body.lines().find_map(|line| line.strip_prefix(&name));
        line.map_or(0.0, |value| value.trim().parse::<f64>().expect("a number"))
    };
    wait_until("the eviction", || lost("before_write") > 0.0);
    let metrics = get(status, "/metrics");
    let total = lost("before_write") + lost("after_write");
    let owed = metrics.metric("achat_deliveries_owed_total");
    let delivered = metrics.metric("achat_deliveries_acknowledged_total");
    assert!(total <= owed - delivered, "{}", metrics.body);
    assert!(lost("after_write") > 0.0, "what its socket held: {}", metrics.body);
    // Their sender learns of it, which is counted where the broker sees it.
    assert!(alice.line().expect("a notice").contains(" lost on the way to slow: evicted"));
    let metrics = get(status, "/metrics");
    let by_sender = ["told", "gone", "untold"];
    let by_sender =
        by_sender.map(|it| metrics.metric(&format!("achat_losses_total{{sender=\"{it}\"}}")));
    assert_eq!(by_sender, [lost("before_write") + lost("after_write"), 0.0, 0.0]);
    process.terminate();
}

/// What `promtool check metrics` has to say, apart from advice; `None` without it.
fn promtool(metrics: &str) -> Option<String> {
    let mut command = Command::new("promtool");
    command.args(["check", "metrics"]).stdin(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.stdout(Stdio::piped()).spawn().ok()?;
    child.stdin.take().expect("a pipe").write_all(metrics.as_bytes()).expect("a reader");
    let output = child.wait_with_output().expect("an end");
    let text = [output.stdout, output.stderr].concat();
    Some(String::from_utf8_lossy(&text).into_owned())
}

#[test]
fn the_metrics_are_valid_by_the_judgement_of_promtool() {
    let (mut process, status) = start(&[]);
    drop(process.login("alice"));
    wait_until("her end", || get(status, "/metrics").body.contains("reason=\"left\""));
    let Some(verdict) = promtool(&get(status, "/metrics").body) else {
        return skipped("promtool is missing");
    };
    assert_eq!(verdict, "", "{}", get(status, "/metrics").body);
    assert!(promtool("achat_x{").is_some_and(|verdict| !verdict.is_empty()), "it finds faults");
    process.terminate();
}

#[test]
fn every_metric_has_a_help_and_a_type_in_both_formats() {
    let (process, status) = start(&[]);
    for (accept, content_type, is_open_metrics) in [
        ("*/*", "text/plain; version=0.0.4; charset=utf-8", false),
        (
            "application/openmetrics-text;version=1.0.0,text/plain;q=0.5",
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
            true,
        ),
    ] {
        let headers = format!("Host: x\r\nAccept: {accept}\r\n");
        let response = request(status, "GET /metrics", &headers);
        assert_eq!(response.header("content-type"), Some(content_type));
        assert_eq!(response.body.ends_with("# EOF\n"), is_open_metrics);
        let (mut helped, mut typed) = (String::new(), String::new());
        for line in response.body.lines().filter(|line| *line != "# EOF") {
            if let Some(help) = line.strip_prefix("# HELP ") {
                helped = help.split(' ').next().expect("a name").to_owned();
            } else if let Some(kind) = line.strip_prefix("# TYPE ") {
                typed = kind.split(' ').next().expect("a name").to_owned();
                assert!(kind.ends_with(" gauge") || kind.ends_with(" counter"), "{line}");
            } else {
                let name = line.split(['{', ' ']).next().expect("a name");
                let is_counter = name.ends_with("_total");
                let family = if is_open_metrics { name.trim_end_matches("_total") } else { name };
                assert_eq!((family, family), (helped.as_str(), typed.as_str()), "{line}");
                let kind = if is_counter { "counter" } else { "gauge" };
                assert!(response.body.contains(&format!("# TYPE {family} {kind}\n")), "{line}");
                assert!(name.starts_with("achat_") || name.starts_with("process_"), "{line}");
            }
        }
    }
    process.terminate();
}

#[test]
fn the_clients_are_listed_with_what_waits_for_whom() {
    let (mut process, status) = start(&["--stall-timeout", NEVER, "--drain-timeout", "100ms"]);
    let (slow_client, alice) = stuck(&mut process, status);
    let client = |name: &str| {
        let clients = get(status, "/clients").json();
        let all = clients["clients"].as_array().expect("a list").clone();
        all.into_iter().find(|client| client["name"] == name).expect(name)
    };
    wait_until("alice's window", || client("alice")["waiting"] == true);
    let found = client("alice");
    let address = alice.stream.local_addr().expect("an address").to_string();
    assert_eq!(found["address"], address.as_str());
    assert_eq!((&found["door"], &found["tls"]), (&"tcp".into(), &false.into()));
    let queued = found["queued_bytes"].as_u64().expect("a number");
    assert!(queued > 100_000, "{found}");
    let slow = client("slow");
    assert!(slow["unacknowledged_bytes"].as_u64().is_some_and(|bytes| bytes > 1000), "{slow}");
    assert_eq!((&slow["queued_bytes"], &slow["waiting"]), (&0.into(), &false.into()));
    assert_eq!(get(status, "/metrics").metric("achat_senders_waiting"), 1.0);
    let order = get(status, "/clients").json();
    assert_eq!(
        (&order["clients"][0]["name"], &order["state"]),
        (&"slow".into(), &"running".into())
    );
    drop((slow_client, alice));
    wait_until("their ends", || get(status, "/clients").json()["clients"][0].is_null());
    process.terminate();
}

#[test]
fn a_request_may_come_byte_by_byte_and_gets_one_response_and_an_end() {
    let (process, status) = start(&[]);
    let mut stream = connect(status);
    for byte in b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n" {
        stream.write_all(&[*byte]).expect("an endpoint that reads");
        stream.flush().expect("a socket");
    }
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).expect("an orderly end");
    assert_eq!(Response::of(&bytes).body, "running\n");
    // A second request, and whatever follows it, is not answered, and does not reset the connection
    // before the response has arrived.
    let one = "GET /livez HTTP/1.1\r\nHost: x\r\n\r\n";
    let bytes = exchange(status, format!("{one}{one}{}", "x".repeat(100_000)).as_bytes());
    assert_eq!(Response::of(&bytes).body, "running\n");
    let head = exchange(status, b"HEAD /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
    let head = Response::of(&head);
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    assert!(head.header("content-length").is_some_and(|length| length.len() > 3), "{}", head.head);
    process.terminate();
}

#[test]
fn what_is_no_plain_request_is_refused() {
    let (process, status) = start(&[]);
    for (bytes, expected) in [
        ("POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n", 405),
        ("GET http://localhost/ HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\nabc", 400),
        ("GET / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        ("\u{16}\u{3}\u{1}\n\n", 400),
        ("alice\r\n", 400),
    ] {
        assert_eq!(Response::of(&exchange(status, bytes.as_bytes())).status, expected, "{bytes:?}");
    }
    let long = format!("GET / HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n", "x".repeat(5000));
    assert_eq!(Response::of(&exchange(status, long.as_bytes())).status, 431);
    process.terminate();
}

#[test]
fn pages_of_other_sites_learn_no_names() {
    let (process, status) = start(&[]);
    for path in ["/", "/clients"] {
        let with = |headers: &str| request(status, &format!("GET {path}"), headers);
        // A name that an attacker made to point here.
        assert_eq!(with("Host: evil.example\r\n").status, 403, "{path}");
        for site in ["cross-site", "same-site"] {
            let headers = format!("Host: localhost\r\nSec-Fetch-Site: {site}\r\n");
            assert_eq!(with(&headers).status, 403, "{path} {site}");
        }
        let response = with("Host: localhost:1\r\nSec-Fetch-Site: same-origin\r\n");
        assert_eq!(response.status, 200, "{path}");
        assert_eq!(response.header("cross-origin-resource-policy"), Some("same-origin"));
        assert_eq!(response.header("x-content-type-options"), Some("nosniff"));
        assert_eq!(response.header("access-control-allow-origin"), None);
    }
    // A collector knows the endpoint by whatever name it likes.
    assert_eq!(request(status, "GET /metrics", "Host: a-chat.example\r\n").status, 200);
    let bytes = exchange(status, b"GET /livez HTTP/1.0\r\n\r\n");
    assert_eq!(Response::of(&bytes).status, 200);
    process.terminate();
}

#[test]
fn other_hosts_get_figures_and_names_only_if_told_so() {
    let Some(network) = Network::new(1) else { return };
    for (flags, expected) in [(&[][..], 403), (&["--status-clients"][..], 200)] {
        let address = format!("{}:0", address_of(0));
        let mut command = through(&network.server.launcher(), EXECUTABLE);
        command.args(["serve", "--listen", &address, "--status", &address]).args(flags);
        let mut process = Process::start(command);
        let status = status_address(&mut process);
        process.log.expect("other hosts can read the figures");
        let get = |path| network.clients[0].run(|| get(status, path).status);
        assert_eq!((get("/metrics"), get("/livez")), (200, 200));
        assert_eq!((get("/"), get("/clients")), (expected, expected));
        process.terminate();
    }
}

#[test]
fn an_address_that_other_hosts_reach_shows_no_names_even_to_this_one() {
    for (flags, expected) in [(&[][..], 403), (&["--status-clients"][..], 200)] {
        let mut process = Process::start(serve(&[&["--status", "0.0.0.0:0"], flags].concat()));
        let status = SocketAddr::from(([127, 0, 0, 1], status_address(&mut process).port()));
        assert_eq!((get(status, "/metrics").status, get(status, "/readyz").status), (200, 200));
        assert_eq!((get(status, "/").status, get(status, "/clients").status), (expected, expected));
        process.terminate();
    }
}

#[test]
fn silent_connections_neither_keep_probes_out_nor_stay() {
    let (process, status) = start(&[]);
    let silent: Vec<_> = (0..20).map(|_| connect(status)).collect();
    let start = Instant::now();
    assert_eq!(get(status, "/livez").status, 200);
    assert!(start.elapsed() < Duration::from_secs(4), "it did not wait for one to time out");
    // All are closed in the end, each after five seconds or to make room.
    for mut stream in silent {
        let mut bytes = Vec::new();
        let end = stream.read_to_end(&mut bytes);
        assert!(end.is_err() || bytes.is_empty(), "{bytes:?}");
    }
    assert!(start.elapsed() < TEST_TIMEOUT);
    process.terminate();
}

/// A request for the clients by a program whose sender's window is tiny, and which reads nothing.
fn ask_and_read_nothing(status: SocketAddr) -> TcpStream {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
    let socket = socket.expect("a socket");
    socket.set_recv_buffer_size(1).expect("the smallest there is");
    socket.connect(&status.into()).expect("an endpoint");
    let mut stream = TcpStream::from(socket);
    stream.write_all(b"GET /clients HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("an endpoint");
    stream
}

/// Not even the kernel takes the list of a thousand clients, of some 150 bytes each.
#[test]
fn slow_readers_of_a_large_list_cost_bounded_time_and_memory() {
    const CLIENTS: usize = 1000;
    let (mut process, status) = start(&[]);
    let address = process.address();
    let name = |number| format!("{number:x>32}");
    let clients: Vec<_> =
        (0..CLIENTS).map(|number| common::try_login(address, &name(number))).collect();
    assert!(clients.iter().all(Option::is_some), "there is room");
    let list = get(status, "/clients").body.len() as u64;
    let is_over = |stream: &TcpStream| {
        let mut fds = [PollFd::new(stream, PollFlags::empty())];
        poll(&mut fds, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
    };
    let before = process.resident();
    let started = Instant::now();
    // Each pushes out the oldest of eight.
    let slow: Vec<_> = (0..32).map(|_| ask_and_read_nothing(status)).collect();
    wait_until("the first to go", || slow[..24].iter().all(is_over));
    assert_eq!(get(status, "/livez").status, 200);
    let grown = process.resident().saturating_sub(before);
    // Eight responses, the list as values, and what the allocator rounds up.
    let bound = 16 * list + (4 << 20);
    assert!(grown <= bound, "{grown} bytes, {list} for one list");
    // The last ones have their five seconds and no more.
    wait_until("the last to go", || slow.iter().all(is_over));
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
    assert_eq!(get(status, "/clients").json()["clients"].as_array().map(Vec::len), Some(CLIENTS));
    drop((clients, slow));
    process.terminate();
}

/// One exchange over a Unix socket.
fn get_unix(path: &Path, target: &str) -> Response {
    let mut stream = UnixStream::connect(path).expect("an endpoint");
    let request = format!("GET {target} HTTP/1.1\r\nHost: anything\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("an endpoint that reads");
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).expect("an orderly end");
    Response::of(&bytes)
}

#[test]
fn a_unix_socket_belongs_to_the_servers_user_and_goes_with_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("status");
    let flag = format!("unix:{}", path.display());
    // One that a killed server left behind.
    drop(UnixListener::bind(&path).expect("a folder"));
    let mut process = Process::start(serve(&["--status", &flag]));
    process.log.expect(&format!("status on {flag}"));
    assert_eq!(fs::metadata(&path).expect("a socket").permissions().mode() & 0o777, 0o600);
    assert_eq!((get_unix(&path, "/clients").status, get_unix(&path, "/").status), (200, 200));
    // A second server must not take it.
    let (status, _, stderr) = run(serve(&["--status", &flag]));
    assert!(status == 1 && stderr.iter().any(|line| line.contains(&flag)), "{stderr:#?}");
    assert_eq!(get_unix(&path, "/livez").status, 200);
    assert_eq!(process.terminate().0, 0);
    assert!(!path.exists());
    // Nor must a socket be taken of which nobody can tell whether it is in use.
    let datagrams = UnixDatagram::bind(&path).expect("a folder");
    assert_eq!(run(serve(&["--status", &flag])).0, 1);
    assert!(fs::symlink_metadata(&path).expect("a socket").file_type().is_socket());
    drop(datagrams);
    fs::remove_file(&path).expect("a socket");
    // No other file is touched.
    fs::write(&path, "precious").expect("room");
    assert_eq!(run(serve(&["--status", &flag])).0, 1);
    assert_eq!(fs::read_to_string(&path).expect("a file"), "precious");
    assert_eq!(fs::metadata(&path).expect("a file").nlink(), 1);
}

#[test]
fn the_report_is_shown_to_a_page_that_watches_and_delays_nobody_else() {
    // Nobody watches: the exit is at once, unless the machine was busy with something else.
    let exits_at_once = || {
        let (process, _) = start(&[]);
        let start_of_end = Instant::now();
        assert_eq!(process.terminate().0, 0);
        start_of_end.elapsed() < Duration::from_millis(900)
    };
    assert!((0..3).any(|_| exits_at_once()), "nobody watches, and it stays");
    let (mut process, status) = start(&[]);
    drop(process.login("alice"));
    assert_eq!(get(status, "/clients").json()["report"], serde_json::Value::Null);
    process.signal(Signal::TERM);
    process.log.expect("stopped: ");
    // It is logged a moment before it is shown.
    let mut shown = serde_json::Value::Null;
    wait_until("the report", || {
        shown = get(status, "/clients").json();
        shown["state"] == "stopped"
    });
    assert_eq!(shown["report"]["connections"], 1);
    assert_eq!(process.wait().0, 0);
}

#[test]
fn an_endpoint_that_cannot_listen_keeps_the_server_from_starting() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("an address").to_string();
    let (status, stdout, stderr) = run(serve(&["--status", &address]));
    assert_eq!((status, stdout.len()), (1, 0), "{stderr:#?}");
    assert!(stderr.iter().any(|line| line.contains(&address) && line.contains("for the status")));
}

#[test]
fn an_idle_server_with_an_endpoint_makes_no_wake_up() {
    let (mut process, status) = start(&[]);
    let _clients = ["alice", "bob"].map(|name| process.login(name));
    assert_eq!(get(status, "/clients").status, 200);
    let threads = ["status", "acceptor", "broker", "reader-1", "writer-1", "signals", "log"];
    process.assert_no_wake_up(threads);
    process.terminate();
}

#[test]
fn the_policy_of_the_page_allows_its_own_script_and_style_and_nothing_else() {
    use sha2::{Digest, Sha256};
    let (process, status) = start(&[]);
    let page = get(status, "/");
    process.terminate();
    let hash = |tag: &str| {
        let (_, rest) = page.body.split_once(&format!("<{tag}>")).expect(tag);
        let (text, _) = rest.split_once(&format!("</{tag}>")).expect(tag);
        base64(&Sha256::digest(text.as_bytes()))
    };
    let policy = format!(
        "default-src 'none'; connect-src 'self'; base-uri 'none'; form-action 'none'; \
         frame-ancestors 'none'; script-src 'sha256-{}'; style-src 'sha256-{}'",
        hash("script"),
        hash("style")
    );
    if std::env::var_os("A_CHAT_RENEW").is_some() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/bin/a-chat/status/page.policy");
        return fs::write(path, format!("{policy}\n")).expect("room");
    }
    let hint = "A_CHAT_RENEW=1 renews it";
    assert_eq!(page.header("content-security-policy"), Some(policy.as_str()), "{hint}");
    for markup in [
        "innerHTML",
        "outerHTML",
        "insertAdjacent",
        "document.write",
        "eval(",
        "http://",
        "https://",
    ] {
        let rest = page.body.replace("http://www.w3.org/2000/svg", "");
        assert!(!rest.contains(markup), "{markup}");
    }
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let mut group = [0; 4];
        group[1..=chunk.len()].copy_from_slice(chunk);
        let number = u32::from_be_bytes(group);
        for digit in 0..4 {
            let at = (number >> (18 - 6 * digit)) & 63;
            text.push(if digit > chunk.len() { '=' } else { char::from(DIGITS[at as usize]) });
        }
    }
    text
}
