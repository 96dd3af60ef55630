//! Saturation: every sender sends as much as the server takes, and every message is checked.
//!
//! One thread sends and one receives, whatever the number of clients, since each further thread
//! would take the processors from the server. Writes are whole batches that were built
//! beforehand and are only numbered anew.

use std::mem::MaybeUninit;
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, epoll, poll};
use rustix::net::{SendFlags, send};

use super::PATIENCE;
use super::client::{Client, Inbox};
use super::process::Process;
use super::protocol::{Lines, Protocol};
use super::topology::Topology;

/// What a batch delivers to each recipient, in bytes and about.
const BATCH: usize = 64 * 1024;

/// How many batches each sender may have sent that were not received, so that a server which
/// queues without bound is not measured by how much it can queue.
const IN_FLIGHT: u64 = 8;

/// How much is read at a time, in bytes.
pub const CHUNK: usize = 256 * 1024;

/// Connected clients and their prepared batches.
#[derive(Debug)]
pub struct Stream {
    outboxes: Vec<Outbox>,
    inboxes: Vec<Inbox>,
    readable: Readable,
    /// Deliveries in one round.
    deliveries: u64,
    /// Those who neither send nor receive stay connected all the same.
    _clients: Vec<Client>,
}

impl Stream {
    /// Connects a topology's clients to a server; texts are `size` bytes long.
    pub fn connect(protocol: Protocol, server: &Process, topology: &Topology, size: usize) -> Self {
        let clients = Client::connect_all(protocol, server.address, topology);
        let group = topology.is_group();
        let names: Vec<_> = (0..topology.clients).map(|client| topology.name(client)).collect();
        let frame = protocol.frame(&names[0], protocol.subject(&names[0], group), size);
        let messages = batch_messages(topology, size);
        let outbox = |route: &super::topology::Route| {
            let to: Vec<_> = route.to.iter().map(|&to| names[to].as_str()).collect();
            let batch = protocol.line(&names[route.from], &to, size).times(messages);
            let socket = clients[route.from].output.try_clone().expect("a descriptor");
            let deliveries = (messages * to.len()) as u64;
            Outbox {
                sender: route.from,
                socket,
                batch,
                written: None,
                next: 0,
                left: 0,
                deliveries,
            }
        };
        let outboxes: Vec<_> = topology.routes.iter().map(outbox).collect();
        let mut receivers: Vec<_> = topology.routes.iter().flat_map(|route| &route.to).collect();
        receivers.sort_unstable();
        receivers.dedup();
        let senders = topology.routes.iter().map(|route| route.from + 1).max().unwrap_or(0);
        let inbox = |&&client: &&usize| Inbox::new(protocol, &clients[client], frame, senders);
        let inboxes: Vec<_> = receivers.iter().map(inbox).collect();
        Self {
            deliveries: deliveries(topology, size),
            readable: Readable::of(inboxes.iter().map(Inbox::socket)),
            outboxes,
            inboxes,
            _clients: clients,
        }
    }

    /// Sends that many rounds; the time until the last message of them has arrived.
    pub fn run(&mut self, rounds: u64) -> Duration {
        let Self { outboxes, inboxes, readable, deliveries, .. } = self;
        let total = rounds * *deliveries;
        let limit = IN_FLIGHT * *deliveries;
        let progress = Progress::default();
        let started = Instant::now();
        thread::scope(|scope| {
            let sending = || send_all(outboxes, rounds, &progress, limit);
            let sender = thread::Builder::new().name("sending".to_owned());
            let sender = sender.spawn_scoped(scope, sending).expect("a thread");
            receive_all(inboxes, readable, total, &progress, sender.thread());
        });
        started.elapsed()
    }
}

/// How many messages a batch has: as many for all protocols, so that it is the same work.
fn batch_messages(topology: &Topology, size: usize) -> usize {
    let name = topology.name(0);
    BATCH / Protocol::Chat.frame(&name, &name, size).stride
}

/// How many deliveries a round is, which is one batch from each sender.
pub fn deliveries(topology: &Topology, size: usize) -> u64 {
    let recipients: usize = topology.routes.iter().map(|route| route.to.len()).sum();
    (recipients * batch_messages(topology, size)) as u64
}

/// What the sending thread has to know of the receiving one.
#[derive(Debug, Default)]
struct Progress {
    received: AtomicU64,
    /// The sender waits for the number above to grow.
    awaited: AtomicBool,
}

#[derive(Debug)]
struct Outbox {
    sender: usize,
    socket: TcpStream,
    batch: Lines,
    /// How much of the current batch is written, in bytes; `None` between two batches.
    written: Option<usize>,
    next: u32,
    /// Batches to send, the current one included.
    left: u64,
    /// What one batch makes.
    deliveries: u64,
}

impl Outbox {
    /// Numbers the next batch.
    fn begin(&mut self) {
        self.written = Some(0);
        self.batch.number(self.sender, self.next);
        let messages = self.batch.bytes.len() / self.batch.stride;
        self.next = self.next.wrapping_add(u32::try_from(messages).expect("a small number"));
    }

    /// Writes what the socket takes just now of the current batch; false if that is nothing.
    fn write(&mut self) -> bool {
        let Some(written) = self.written else { return false };
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        match send(&self.socket, &self.batch.bytes[written..], flags) {
            Ok(count) if written + count == self.batch.bytes.len() => {
                self.written = None;
                self.left -= 1;
            }
            Ok(count) => self.written = Some(written + count),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return false,
            Err(error) => panic!("the server does not take messages: {error}"),
        }
        true
    }
}

fn send_all(outboxes: &mut [Outbox], rounds: u64, progress: &Progress, limit: u64) {
    for outbox in &mut *outboxes {
        outbox.left = rounds;
    }
    let mut unfinished: Vec<_> = outboxes.iter_mut().filter(|outbox| outbox.left > 0).collect();
    let mut sent = 0;
    while !unfinished.is_empty() {
        let mut stuck = true;
        for outbox in &mut unfinished {
            if outbox.written.is_none() && sent < limit + progress.received.load(SeqCst) {
                sent += outbox.deliveries;
                outbox.begin();
            }
            stuck &= !outbox.write();
        }
        unfinished.retain(|outbox| outbox.left > 0);
        if stuck && !unfinished.is_empty() {
            let full = unfinished.iter().filter(|outbox| outbox.written.is_some());
            let full: Vec<_> = full.map(|outbox| &outbox.socket).collect();
            if full.is_empty() {
                progress.awaited.store(true, SeqCst);
                if sent >= limit + progress.received.load(SeqCst) {
                    thread::park_timeout(PATIENCE);
                }
            } else {
                wait_for_room(&full);
            }
        }
    }
}

/// Waits a moment for one of these sockets: others may be allowed to go on before.
fn wait_for_room(sockets: &[&TcpStream]) {
    let mut fds: Vec<_> =
        sockets.iter().map(|socket| PollFd::new(*socket, PollFlags::OUT)).collect();
    let moment = Timespec { tv_sec: 0, tv_nsec: 2_000_000 };
    // An interrupted wait is as good as any other.
    let _ = poll(&mut fds, Some(&moment));
}

fn receive_all(
    inboxes: &mut [Inbox],
    readable: &mut Readable,
    total: u64,
    progress: &Progress,
    sender: &Thread,
) {
    let mut buffer = vec![0; CHUNK];
    let mut received = 0;
    while received < total {
        for index in readable.wait() {
            inboxes[index].read(&mut buffer, |_| received += 1);
        }
        progress.received.store(received, SeqCst);
        if progress.awaited.swap(false, SeqCst) {
            sender.unpark();
        }
    }
    assert_eq!(received, total, "more arrived than was sent");
}

/// The receivers' sockets, and which of them have something to read.
#[derive(Debug)]
pub struct Readable {
    epoll: OwnedFd,
    places: Vec<usize>,
}

impl Readable {
    pub fn of<'a>(sockets: impl Iterator<Item = &'a TcpStream>) -> Self {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).expect("a descriptor");
        for (place, socket) in sockets.enumerate() {
            let data = epoll::EventData::new_u64(place as u64);
            epoll::add(&epoll, socket, data, epoll::EventFlags::IN).expect("an epoll entry");
        }
        Self { epoll, places: Vec::new() }
    }

    /// Waits for what must come; the places of those that can be read from.
    pub fn wait(&mut self) -> impl Iterator<Item = usize> {
        let patience = Timespec::try_from(PATIENCE).expect("a short time");
        self.wait_until(Some(&patience))
    }

    /// The same for as long as it takes.
    pub fn wait_for_ever(&mut self) -> impl Iterator<Item = usize> {
        self.wait_until(None)
    }

    fn wait_until(&mut self, timeout: Option<&Timespec>) -> std::vec::Drain<'_, usize> {
        let mut events = [MaybeUninit::uninit(); 128];
        let ready = match epoll::wait(&self.epoll, &mut events, timeout) {
            Ok(([], _)) => panic!("messages are missing: nothing came for {PATIENCE:?}"),
            Ok((ready, _)) => ready,
            Err(rustix::io::Errno::INTR) => &mut [],
            Err(error) => panic!("epoll: {error}"),
        };
        let place = |event: &epoll::Event| usize::try_from(event.data.u64()).expect("a place");
        self.places.clear();
        self.places.extend(ready.iter().map(place));
        self.places.drain(..)
    }
}
