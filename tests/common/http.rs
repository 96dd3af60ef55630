//! Requests to the status endpoint, byte by byte where it matters.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its own part of this")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use crate::common::TEST_TIMEOUT;
use crate::process::Process;

/// A response.
#[derive(Debug)]
pub struct Response {
    pub status: u16,
    /// The head, without the status line.
    pub head: String,
    pub body: String,
}

impl Response {
    /// Parses everything that came until the end of the connection, which is one response.
    pub fn of(bytes: &[u8]) -> Self {
        let text = String::from_utf8(bytes.to_vec()).expect("text");
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{text:?}"));
        let (status, head) = head.split_once("\r\n").expect("a status line");
        let status = status.strip_prefix("HTTP/1.1 ").and_then(|it| it.get(..3)?.parse().ok());
        Self { status: status.expect("a status"), head: head.to_owned(), body: body.to_owned() }
    }

    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// The value of a metric with these labels, as they are written.
    pub fn metric(&self, name: &str) -> f64 {
        let line = self.body.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        let value = line.unwrap_or_else(|| panic!("{name} in {}", self.body));
        value.parse().expect("a number")
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }
}

/// Where the endpoint of this process listens, from its log.
pub fn status_address(process: &mut Process) -> SocketAddr {
    let line = process.log.expect("status on http://");
    let (_, address) = line.split_once("http://").expect("an address");
    address.trim_end_matches(['/', '"', '}']).parse().expect("an address")
}

/// Connects to the endpoint.
pub fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("an endpoint");
    stream.set_read_timeout(Some(TEST_TIMEOUT)).expect("a socket");
    stream
}

/// Sends these bytes and reads to the end.
pub fn exchange(address: SocketAddr, request: &[u8]) -> Vec<u8> {
    let mut stream = connect(address);
    stream.write_all(request).expect("an endpoint that reads");
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).expect("an orderly end");
    bytes
}

/// A request with these further header lines.
pub fn request(address: SocketAddr, line: &str, headers: &str) -> Response {
    Response::of(&exchange(address, format!("{line} HTTP/1.1\r\n{headers}\r\n").as_bytes()))
}

/// `GET` as a simple program sends it.
pub fn get(address: SocketAddr, path: &str) -> Response {
    request(address, &format!("GET {path}"), &format!("Host: {address}\r\n"))
}
