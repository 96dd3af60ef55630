//! One client of the load: its sockets, and the check of everything that arrives.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use rustix::net::{RecvFlags, recv};

use super::PATIENCE;
use super::protocol::{Frame, Greeting, Protocol, read_stamp, spread};
use super::topology::Topology;

/// A connected client that the server knows.
#[derive(Debug)]
pub struct Client {
    /// What it sends on and what it receives from: two connections for Redis, else one.
    pub output: TcpStream,
    pub input: TcpStream,
}

impl Client {
    pub fn connect(protocol: Protocol, address: SocketAddr, name: &str, subject: &str) -> Self {
        let input = Self::subscribe(protocol, address, name, subject);
        let output = match protocol.second_greeting() {
            Some(greeting) => greet(address, &greeting),
            None => input.try_clone().expect("a descriptor"),
        };
        Self { output, input }
    }

    /// Only what receives.
    pub fn subscribe(
        protocol: Protocol,
        address: SocketAddr,
        name: &str,
        subject: &str,
    ) -> TcpStream {
        greet(address, &protocol.greeting(name, subject))
    }

    /// All clients of a topology, in order.
    pub fn connect_all(protocol: Protocol, address: SocketAddr, topology: &Topology) -> Vec<Self> {
        let connect = |client| {
            let name = topology.name(client);
            let in_group =
                topology.routes.iter().any(|it| it.to.len() > 1 && it.to.contains(&client));
            let subject = protocol.subject(&name, in_group);
            Self::connect(protocol, address, &name, subject)
        };
        (0..topology.clients).map(connect).collect()
    }
}

fn greet(address: SocketAddr, greeting: &Greeting) -> TcpStream {
    let mut stream = TcpStream::connect(address).expect("a server that listens");
    stream.set_nodelay(true).expect("an option");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream.set_write_timeout(Some(PATIENCE)).expect("a timeout");
    stream.write_all(greeting.says.as_bytes()).expect("a server that reads");
    let mut heard = Vec::new();
    while !heard.ends_with(greeting.hears.as_bytes()) {
        let mut chunk = [0; 4096];
        let count = stream.read(&mut chunk).expect("an answer to the greeting");
        assert!(count > 0, "closed after {:?}", String::from_utf8_lossy(&heard));
        heard.extend_from_slice(&chunk[..count]);
    }
    stream
}

/// The receiving side: counts messages, and checks them.
#[derive(Debug)]
pub struct Inbox {
    input: TcpStream,
    check: Check,
    /// The beginning of a frame whose end has not come yet.
    torn: Vec<u8>,
}

impl Inbox {
    pub fn new(protocol: Protocol, client: &Client, frame: Frame, senders: usize) -> Self {
        let input = client.input.try_clone().expect("a descriptor");
        Self { input, check: Check::new(protocol, frame, senders), torn: Vec::new() }
    }

    pub fn socket(&self) -> &TcpStream {
        &self.input
    }

    /// Reads once, waiting if need be, and tells `arrived` the sender of each whole message.
    pub fn read(&mut self, buffer: &mut [u8], arrived: impl FnMut(usize)) {
        let held = self.torn.len();
        buffer[..held].copy_from_slice(&self.torn);
        let (count, _) = match recv(&self.input, &mut buffer[held..], RecvFlags::empty()) {
            Err(rustix::io::Errno::INTR) => return,
            received => received.expect("messages in time, and no reset"),
        };
        assert!(count > 0, "the server closed a connection");
        let torn = self.check.walk(&buffer[..held + count], arrived);
        self.torn.clear();
        self.torn.extend_from_slice(torn);
    }
}

/// What has to come next to one recipient: every message is its sender's next.
#[derive(Debug)]
pub struct Check {
    frame: Frame,
    interlude: &'static [u8],
    /// What each sender's next message has to be numbered.
    next: Vec<u32>,
}

impl Check {
    pub fn new(protocol: Protocol, frame: Frame, senders: usize) -> Self {
        Self { frame, interlude: protocol.interlude(), next: vec![0; senders] }
    }

    /// Checks all whole messages, tells `arrived` their senders, and returns what is left.
    pub fn walk<'a>(&mut self, bytes: &'a [u8], mut arrived: impl FnMut(usize)) -> &'a [u8] {
        let mut rest = bytes;
        while rest.len() >= self.frame.stride {
            let (frame, after) = rest.split_at(self.frame.stride);
            let (sender, number) = read_stamp(&frame[self.frame.stamp..]);
            let next = self.next.get_mut(sender).filter(|next| spread(**next) == number);
            match next.filter(|_| frame.ends_with(b"\n")) {
                Some(next) => {
                    *next = next.wrapping_add(1);
                    arrived(sender);
                    rest = after;
                }
                None => rest = self.skip_interlude(rest),
            }
        }
        rest
    }

    #[cold]
    fn skip_interlude<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        match bytes.strip_prefix(self.interlude) {
            Some(rest) if !self.interlude.is_empty() => rest,
            _ => {
                let frame = String::from_utf8_lossy(&bytes[..self.frame.stride.min(300)]);
                panic!("lost, out of order or no message: {frame:?}; expected {:?}", self.next)
            }
        }
    }
}
