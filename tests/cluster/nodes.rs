//! Nodes in this process, and what their reports must add up to.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use a_chat::{Cluster, Config, Name, Report, Server};

use crate::common::{Client, TestServer};
use crate::engine::Engine;

/// Short times, so that tests need not wait for theirs.
pub fn options(engine: &Engine, node: &str) -> Cluster {
    options_at(&engine.url(), node)
}

/// The same for an engine, or a proxy before it, at this URL.
pub fn options_at(url: &str, node: &str) -> Cluster {
    let node = Name::new(node).expect("a name");
    Cluster::new(url, node).lease(Duration::from_secs(2)).hold(Duration::from_secs(5)).first(true)
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

/// Stops all of them at the same time.
pub fn stop_all(nodes: Vec<TestServer>) -> Vec<Report> {
    nodes.iter().for_each(|node| node.handle.shutdown());
    nodes.into_iter().map(|mut node| node.join_within(Duration::from_secs(60))).collect()
}

/// Checks each report, and that what was handed over has arrived, all in all.
pub fn check(reports: &[Report]) {
    let (mut handed_over, mut arrived, mut copies) = (0, 0, (0, 0));
    for report in reports {
        let cluster = report.cluster.as_ref().expect("a node's report");
        assert_eq!(
            report.owed + cluster.arrived,
            report.delivered + report.lost() + cluster.handed_over + cluster.in_doubt,
            "{report}"
        );
        handed_over += cluster.handed_over;
        arrived += cluster.arrived;
        copies.0 += cluster.room_copies.handed_over;
        copies.1 += cluster.room_copies.arrived;
    }
    assert_eq!(handed_over, arrived, "{reports:#?}");
    assert_eq!(copies.0, copies.1, "{reports:#?}");
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
