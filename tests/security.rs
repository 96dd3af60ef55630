//! The attacks of `docs/security.md`, each tried on a server: what it does to others stays within
//! the bound that is stated there. Those that other files try already are named there by test.
//!
//! The attacker is an ordinary client that does one thing without mercy; the others are watched.

mod common;

use std::net::{Ipv4Addr, SocketAddr};

use a_chat::Config;
use common::{Client, PATIENCE, TestServer, wait_until};
use socket2::{Domain, Socket, Type};

/// What a client gets if too many of its address are there.
const TOO_MANY: &str = "error: too many connections from your address";

/// Connects from one of the loopback's many addresses.
fn connect_from(source: [u8; 4], server: &TestServer) -> Client {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a descriptor");
    let source = SocketAddr::from((Ipv4Addr::from(source), 0));
    socket.bind(&source.into()).expect("a free port of the loopback");
    socket.connect(&server.address.into()).expect("a listening server");
    Client::from_stream(socket.into())
}

/// Connects, logs in, and returns when the server has answered: `None` if there are too many.
fn try_login_from(source: [u8; 4], server: &TestServer, name: &str) -> Option<Client> {
    let mut client = connect_from(source, server);
    client.send(&format!("{name}\n/who {name}"));
    let answer = client.line().expect("an answer");
    if answer == TOO_MANY {
        client.expect_eof();
        return None;
    }
    assert_eq!(answer, format!("notice: line 1: here: {name}"));
    Some(client)
}

#[test]
fn one_address_can_not_take_all_the_places() {
    const GREEDY: [u8; 4] = [127, 0, 0, 2];
    let max_per_address = Some(3);
    let config = Config { max_per_address, linger: PATIENCE, ..Config::default() };
    let server = TestServer::with(config);
    let mut greedy: Vec<_> = (0..2)
        .map(|number| try_login_from(GREEDY, &server, &format!("greedy{number}")).expect("room"))
        .collect();
    // Who says nothing takes a place too.
    let silent = connect_from(GREEDY, &server);
    for _ in 0..50 {
        assert!(try_login_from(GREEDY, &server, "one-more").is_none(), "that is one too many");
    }
    // Nobody else is concerned.
    let mut alice = server.login("alice");
    let mut bob = try_login_from([127, 0, 0, 3], &server, "bob").expect("room");
    alice.send("bob, greedy1: hi");
    bob.expect_line("from alice: hi");
    greedy[1].expect_line("from alice: hi");

    // Its places are its own: when one is free it may take that.
    let mut refused = 50;
    drop(silent);
    wait_until("a place to be free again", || {
        let client = try_login_from(GREEDY, &server, "one-more");
        refused += u64::from(client.is_none());
        greedy.extend(client);
        greedy.len() == 3
    });
    assert!(try_login_from(GREEDY, &server, "yet-another").is_none(), "that is one too many");
    drop((alice, bob, greedy));
    let report = server.stop();
    assert_eq!((report.connections, report.refused), (6, refused + 1), "{report}");
    assert_eq!((report.owed, report.delivered), (2, 2), "{report}");
}

#[test]
fn the_places_of_an_address_do_not_wear_out() {
    let max_per_address = Some(2);
    let server = TestServer::with(Config { max_per_address, ..Config::default() });
    let _stays = server.login("stays");
    for round in 0..300 {
        let mut client = None;
        wait_until("a free place", || {
            client = try_login_from([127, 0, 0, 1], &server, &format!("client{round}"));
            client.is_some()
        });
        match (client, round % 2) {
            (Some(client), 0) => client.reset(),
            (client, _) => drop(client),
        }
    }
}
