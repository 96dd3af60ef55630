//! Nodes in this process, and what their reports must add up to.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use a_chat::{Cluster, Config, Name, Report, Server};

use crate::common::{Client, TestServer, wait_until};
use crate::engine::Engine;

/// A node's lease in tests that wait for its end. A node that is not run for about as long is taken for
/// dead, so all others have a longer one.
pub const SHORT_LEASE: Duration = Duration::from_secs(2);

/// Short times, so that tests need not wait for theirs.
pub fn options(engine: &Engine, node: &str) -> Cluster {
    options_at(&engine.url(), node)
}

/// The same for an engine, or a proxy before it, at this URL.
pub fn options_at(url: &str, node: &str) -> Cluster {
    let node = Name::new(node).expect("a name");
    Cluster::new(url, node).lease(Duration::from_secs(6)).hold(Duration::from_secs(5)).first(true)
}

pub fn config() -> Config {
    Config::default().linger(Duration::from_millis(100)).drain_timeout(Duration::from_secs(30))
}

pub fn node(engine: &Engine, name: &str) -> TestServer {
    node_with(options(engine, name), config())
}

pub fn node_with(options: Cluster, config: Config) -> TestServer {
    let server = Server::bind("127.0.0.1:0", config).expect("a free port");
    TestServer::of(server.join(options).expect("an engine that answers"))
}

/// Nodes `a`, `b`, `c` and so on.
pub fn nodes(engine: &Engine, count: usize) -> Vec<TestServer> {
    (0..count).map(|at| node(engine, ["a", "b", "c", "d"][at])).collect()
}

/// Stops all of them at the same moment, as far as they can tell: the engine hears nothing before each
/// of them knows. Lines may be on their way, and none of them is held for clients that do not come back.
pub fn stop_all_at_once(engine: &Engine, nodes: Vec<TestServer>) -> Vec<Report> {
    engine.suspend();
    nodes.iter().for_each(|node| node.handle.shutdown());
    // Once it listens no more, a node tells the engine before it routes another line.
    wait_until("all nodes to know", || {
        nodes.iter().all(|node| std::net::TcpStream::connect(node.address).is_err())
    });
    engine.resume();
    stop_all(nodes)
}

/// Stops all of them, one right after the other. What is on its way may be held.
pub fn stop_all(nodes: Vec<TestServer>) -> Vec<Report> {
    nodes.iter().for_each(|node| node.handle.shutdown());
    nodes.into_iter().map(|mut node| node.join_within(Duration::from_secs(60))).collect()
}

/// Of messages to clients and of copies for rooms, all in all.
#[derive(Default)]
struct Sums {
    handed_over: [u64; 2],
    arrived: [u64; 2],
    in_doubt: [u64; 2],
}

/// Checks each report by itself.
fn sums(reports: &[Report]) -> Sums {
    let mut sums = Sums::default();
    for report in reports {
        let node = report.cluster.as_ref().expect("a node's report");
        assert_eq!(
            report.owed + node.arrived,
            report.delivered + report.lost() + node.handed_over + node.in_doubt,
            "{report}"
        );
        let copies = node.room_copies;
        for (sum, count) in [
            (&mut sums.handed_over, [node.handed_over, copies.handed_over]),
            (&mut sums.arrived, [node.arrived, copies.arrived]),
            (&mut sums.in_doubt, [node.in_doubt, copies.in_doubt]),
        ] {
            *sum = [sum[0] + count[0], sum[1] + count[1]];
        }
    }
    sums
}

/// Checks each report, and that what was handed over has arrived, all in all.
pub fn check(reports: &[Report]) {
    let Sums { handed_over, arrived, .. } = sums(reports);
    assert_eq!(handed_over, arrived, "{reports:#?}");
}

/// The same for nodes of which one may have had no time to say what it has taken over: that is in
/// doubt.
pub fn check_up_to_doubt(reports: &[Report]) {
    let Sums { handed_over, arrived, in_doubt } = sums(reports);
    for at in 0..2 {
        let possible = handed_over[at]..=handed_over[at] + in_doubt[at];
        assert!(possible.contains(&arrived[at]), "{reports:#?}");
    }
}

/// As [`check`], and nothing was lost or is in doubt.
pub fn check_clean(reports: &[Report]) {
    check(reports);
    for report in reports {
        let in_doubt = report.cluster.as_ref().map_or(0, |cluster| cluster.in_doubt);
        assert!(report.is_clean() && report.lost() + in_doubt == 0, "{report:#?}");
    }
}

/// Connects, and waits until the cluster has given the client its name.
pub fn login(node: &TestServer, name: &str) -> Client {
    let mut client = Client::connect(node.address);
    client.send(name);
    client.send(&format!("/who {name}"));
    client.expect_line(&format!("notice: line 1: here: {name}"));
    client
}

/// Logs in, however long the cluster may need to give the name away.
pub fn login_soon(address: SocketAddr, name: &str) -> Client {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let mut client = Client::connect(address);
        client.send(name);
        client.send(&format!("/who {name}"));
        if client.line().is_some_and(|line| line.ends_with(&format!("here: {name}"))) {
            return client;
        }
        assert!(Instant::now() < deadline, "{name} does not get in");
    }
}
