//! A server that the test scripts line by line, to expose a client to things that no real server
//! does on demand: a crash, a refusal, silence.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its own part of this")]

use std::net::{SocketAddr, TcpListener};

use super::{Client, TEST_TIMEOUT, wait_until};

pub struct Script {
    listener: TcpListener,
    pub address: SocketAddr,
}

impl Script {
    pub fn listen() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener.set_nonblocking(true).expect("an option");
        let address = listener.local_addr().expect("an address");
        Self { listener, address }
    }

    /// Waits for the next client.
    pub fn accept(&self) -> Peer {
        let mut accepted = None;
        wait_until("a client", || {
            accepted = self.listener.accept().ok();
            accepted.is_some()
        });
        let (stream, _) = accepted.expect("as waited for");
        stream.set_nonblocking(false).expect("an option");
        stream.set_read_timeout(Some(TEST_TIMEOUT)).expect("a timeout");
        Peer { client: Client::from_stream(stream), line: 0 }
    }

    /// Waits for the next client and completes its login.
    pub fn log_in(&self, name: &str) -> Peer {
        let mut peer = self.accept();
        peer.client.expect_line(name);
        peer.answer_who(name);
        peer
    }
}

/// A client as the server sees it.
pub struct Peer {
    /// The server's end of the connection.
    pub client: Client,
    /// How many lines were read after the login.
    pub line: u64,
}

impl Peer {
    /// The next line, which must arrive.
    pub fn line(&mut self) -> String {
        self.line += 1;
        self.client.line().expect("a line")
    }

    pub fn expect_line(&mut self, expected: &str) {
        assert_eq!(self.line(), expected);
    }

    /// The same, after any questions whether the client itself is here: it asks when it has sent
    /// nothing for a second.
    pub fn expect_line_after_questions(&mut self, name: &str, expected: &str) {
        let question = format!("/who {name}");
        let mut line = self.line();
        while line == question {
            self.reply(&format!("here: {name}"));
            line = self.line();
        }
        assert_eq!(line, expected);
    }

    /// Expects `/who name` and replies that the client is here.
    pub fn answer_who(&mut self, name: &str) {
        self.expect_line(&format!("/who {name}"));
        self.reply(&format!("here: {name}"));
    }

    /// Replies to the last line.
    pub fn reply(&mut self, text: &str) {
        let line = self.line;
        self.client.send(&format!("notice: line {line}: {text}"));
    }

    /// Sends the closing notice, with this number of accepted lines.
    pub fn close_after(&mut self, accepted: u64) {
        self.client.send(&format!(
            "notice: server is shutting down, {accepted} of your lines were accepted"
        ));
    }
}
