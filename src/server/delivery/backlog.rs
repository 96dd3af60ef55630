//! What is queued for one client, and how the next write is assembled. Plain state, owned by the
//! client's writer.

use std::collections::VecDeque;
use std::io::{self, IoSlice};

use crate::server::delivery::in_flight::InFlight;
use crate::server::delivery::losses::Losses;
use crate::server::delivery::pending::{FrameSlice, Pending, Unrendered};
use crate::socket::connection::{Connection, ConnectionId};

/// The maximum number of slices in one write; more did not increase throughput.
const MAX_IOVECS: usize = 64;

/// Slices of at most this many bytes are coalesced for one write. Their bytes were written by
/// another CPU: this thread, copying many small slices in a row, has all those cache misses in
/// flight at once, where the kernel would wait for them one after the other.
const COALESCE_MAX_SLICE: usize = 512;

/// Coalescing stops at this many bytes.
const COALESCE_BYTES: usize = 16 * 1024;

/// This many slices are located before the first is copied. Where they are was also written by
/// another CPU, and locating several overlaps those cache misses too: in a mesh this saves a tenth
/// of all CPU time.
const PREFETCH_SLICES: usize = 16;

/// How many entries an empty queue keeps memory for; memory beyond that is freed.
const RETAINED_CAPACITY: usize = 256;

/// Everything queued, in order.
#[derive(Debug, Default)]
pub(crate) struct Backlog {
    queue: VecDeque<Pending>,
    /// How much of the first slice is written, in bytes: a write may end in the middle of it.
    head_written: u32,
}

impl Backlog {
    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// How much of the first slice is already written, in bytes.
    pub(crate) fn head_written(&self) -> u32 {
        self.head_written
    }

    pub(crate) fn push(&mut self, pending: Pending) {
        self.queue.push_back(pending);
    }

    pub(crate) fn push_all(&mut self, pending: Vec<Pending>) {
        self.queue.extend(pending);
    }

    /// Writes as much as the socket accepts, with one call. Returns the number of bytes, for
    /// [`advance`](Self::advance).
    pub(crate) fn write(&mut self, connection: &Connection) -> io::Result<usize> {
        self.render_errors();
        #[cfg(test)]
        if let Some(first) = self.slices().next() {
            crate::fault::point("panic-writer", first.bytes());
        }
        let small = self.coalesce_small();
        if !small.is_empty() {
            return connection.write(&[IoSlice::new(&small)]);
        }
        let mut parts = [IoSlice::new(&[]); MAX_IOVECS];
        let mut count = 0;
        for (part, slice) in parts.iter_mut().zip(self.slices()) {
            *part = IoSlice::new(slice.bytes());
            count += 1;
        }
        let mut unwritten = &mut parts[..count];
        IoSlice::advance_slices(&mut unwritten, self.head_written as usize);
        connection.write(unwritten)
    }

    /// Moves every slice completed by `written` more bytes to `in_flight`. Returns how many
    /// messages those are.
    pub(crate) fn advance(&mut self, written: usize, in_flight: &mut InFlight) -> u64 {
        let mut rest = self.head_written as usize + written;
        let mut messages = 0;
        while let Some(slice) = self.queue.front().and_then(Pending::as_slice) {
            let length = slice.bytes().len();
            if rest < length {
                break;
            }
            rest -= length;
            messages += u64::from(slice.messages);
            // Taken out first: should the rest panic, nothing is counted twice.
            self.head_written = 0;
            if let Some(Pending::FrameSlice(slice)) = self.queue.pop_front() {
                in_flight.push(&slice);
            }
        }
        self.head_written = u32::try_from(rest).unwrap_or(u32::MAX);
        if self.queue.is_empty() && self.queue.capacity() > RETAINED_CAPACITY {
            self.queue = VecDeque::new();
        }
        messages
    }

    /// How many bytes are queued. Stops counting at `cap`, and then returns at least that.
    pub(crate) fn len_capped(&self, cap: u64) -> u64 {
        let mut bytes = 0;
        let mut slices = self.queue.iter().filter_map(Pending::as_slice);
        while bytes < cap {
            let Some(slice) = slices.next() else { break };
            bytes += slice.bytes().len() as u64;
        }
        bytes
    }

    /// How many messages are queued behind the last of this sender's; `None` if none of its is.
    pub(crate) fn behind_last_of(&self, sender: ConnectionId) -> Option<u64> {
        let mut behind = 0;
        for slice in self.queue.iter().rev().filter_map(Pending::as_slice) {
            if slice.messages > 0 && slice.origin().sender == sender {
                return Some(behind);
            }
            behind += u64::from(slice.messages);
        }
        None
    }

    /// Drops everything except a partly written message, and appends a final line.
    pub(crate) fn truncate_and_append(&mut self, line: Vec<u8>, losses: &mut Losses) {
        let kept = usize::from(self.head_written > 0);
        for slice in self.queue.iter().skip(kept).filter_map(Pending::as_slice) {
            slice.lose_rest(0, losses);
        }
        self.queue.truncate(kept);
        if let Some(Pending::FrameSlice(head)) = self.queue.front_mut() {
            let whole = head.clone();
            head.cut_after_line_of(self.head_written);
            whole.lose_rest(head.messages, losses);
        }
        self.queue.push_back(Pending::FrameSlice(FrameSlice::from_text(line)));
    }

    /// Drops everything. The part already written counts as in flight, the rest is lost. Returns the
    /// number of whole messages in that part, which [`advance`](Self::advance) has not returned.
    pub(crate) fn abandon(&mut self, in_flight: &mut InFlight, losses: &mut Losses) -> u64 {
        let (mut written, mut whole) = (std::mem::take(&mut self.head_written), 0);
        for slice in self.queue.iter().filter_map(Pending::as_slice) {
            let arrived = if written > 0 { in_flight.push_part(slice, written) } else { 0 };
            slice.lose_rest(arrived, losses);
            whole += u64::from(arrived);
            written = 0;
        }
        *self = Self::default();
        whole
    }

    /// The next slices to write, up to the first lines that are not rendered.
    fn slices(&self) -> impl Iterator<Item = &FrameSlice> {
        self.queue.iter().map_while(Pending::as_slice)
    }

    /// The next small slices, coalesced; empty if there are fewer than two.
    fn coalesce_small(&self) -> Vec<u8> {
        let is_small = |slice: &&FrameSlice| slice.bytes().len() <= COALESCE_MAX_SLICE;
        let mut coalesced = Vec::new();
        if self.slices().take(2).filter(is_small).count() == 2 {
            coalesced.reserve(
                (self.queue.len() * COALESCE_MAX_SLICE)
                    .min(COALESCE_BYTES + PREFETCH_SLICES * COALESCE_MAX_SLICE),
            );
            let mut slices = self.slices().take_while(is_small).map(FrameSlice::bytes);
            let mut prefetched = [&[][..]; PREFETCH_SLICES];
            while coalesced.len() < COALESCE_BYTES {
                let count =
                    prefetched.iter_mut().zip(&mut slices).map(|(to, bytes)| *to = bytes).count();
                prefetched[..count].iter().for_each(|bytes| coalesced.extend_from_slice(bytes));
                if count < prefetched.len() {
                    break;
                }
            }
            coalesced.drain(..self.head_written as usize);
        }
        coalesced
    }

    /// Renders error replies and loss notices when their turn comes: short replies anywhere among
    /// the next slices, anything else when it is first.
    fn render_errors(&mut self) {
        for pending in self.queue.iter_mut().take(MAX_IOVECS) {
            let Pending::Unrendered(unrendered) = pending else { continue };
            match &mut **unrendered {
                Unrendered::NoSuchPeerErrors(errors) if errors.fit_one_slice() => {
                    *pending = Pending::FrameSlice(errors.next_slice());
                }
                _ => break,
            }
        }
        let Some(Pending::Unrendered(first)) = self.queue.front_mut() else { return };
        let slice = match &mut **first {
            Unrendered::NoSuchPeerErrors(errors) => {
                let slice = errors.next_slice();
                if !errors.is_empty() {
                    self.queue.push_front(Pending::FrameSlice(slice));
                    return;
                }
                slice
            }
            // Only when it is first: the later it is spelled out, the more it sums up.
            Unrendered::RoomNews(news) => FrameSlice::from_text(news.spell_out()),
            Unrendered::LossNotice(notice) => {
                let (text, permit) = notice.render();
                FrameSlice::reply(text, permit)
            }
        };
        self.queue[0] = Pending::FrameSlice(slice);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::{TcpListener, TcpStream};
    use std::sync::Arc;

    use proptest::prelude::*;
    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    use super::*;
    use crate::server::delivery::pending::{ChargedFrames, NoSuchPeerErrors};
    use crate::server::delivery::window::{Permit, Window};
    use crate::socket::peer::Peer;

    const ALPHABET: &[u8] = b"abcdefghijklmnopqrstuvwxyz";

    /// A client's socket with a small send buffer, and the client.
    fn connection() -> (Connection, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let client = TcpStream::connect(listener.local_addr().expect("an address"));
        let client = client.expect("a connection");
        let (socket, peer) = listener.accept().expect("a connection");
        socket2::SockRef::from(&socket).set_send_buffer_size(4096).expect("an option");
        (Connection::new(ConnectionId(1), socket, Peer::tcp(peer)), client)
    }

    fn permit() -> Arc<Permit> {
        let window = Arc::new(Window::new(1 << 20, Arc::default()));
        let never = || -> Result<_, ()> { panic!("there is room") };
        Arc::new(window.acquire(1, never).expect("there is room"))
    }

    /// Waits until the client has something to read, and then returns true, or until the connection
    /// is writable: the client's kernel may acknowledge the last bytes some time after they were
    /// read.
    fn wait_for_either(client: &TcpStream, connection: &Connection) -> bool {
        let mut sockets =
            [PollFd::new(client, PollFlags::IN), PollFd::new(connection, PollFlags::OUT)];
        let timeout = Timespec { tv_sec: 10, tv_nsec: 0 };
        assert_ne!(poll(&mut sockets, Some(&timeout)), Ok(0), "neither side can go on");
        sockets[0].revents().contains(PollFlags::IN)
    }

    /// Messages of these lengths, as a slice of a larger buffer.
    fn slice(lengths: &[usize]) -> FrameSlice {
        let mut frames = b"not this".to_vec();
        let start = frames.len();
        for (place, length) in lengths.iter().enumerate() {
            frames.extend(ALPHABET.iter().cycle().skip(place).take(*length));
            frames.push(b'\n');
        }
        let end = frames.len();
        frames.extend_from_slice(b"nor this");
        let offset = |length: usize| u32::try_from(length).expect("small");
        FrameSlice {
            frames: Arc::new(ChargedFrames {
                bytes: Arc::new(frames),
                permit: None,
                sender: ConnectionId(1),
                first_line: 1,
            }),
            start: offset(start),
            end: offset(end),
            messages: offset(lengths.len()),
            line: 0,
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Small slices and large ones, with error replies among them, over a socket that accepts
        /// them in parts.
        #[test]
        fn the_stream_is_everything_queued_in_order(
            slices in proptest::collection::vec(
                prop_oneof![
                    3 => proptest::collection::vec(1_usize..60, 1..5).prop_map(Some),
                    1 => proptest::collection::vec(1_usize..9000, 1..3).prop_map(Some),
                    1 => Just(None),
                ],
                0..200,
            ),
        ) {
            let (connection, mut client) = connection();
            let (mut backlog, mut in_flight) = (Backlog::default(), InFlight::default());
            let (mut expected, mut messages) = (Vec::new(), 0);
            for lengths in &slices {
                if let Some(lengths) = lengths {
                    let slice = slice(lengths);
                    expected.extend_from_slice(slice.bytes());
                    messages += u64::from(slice.messages);
                    backlog.push(Pending::FrameSlice(slice));
                } else {
                    let errors = NoSuchPeerErrors::new(7..200, b"bob".to_vec(), &permit());
                    backlog.push(Unrendered::NoSuchPeerErrors(errors).into());
                    for line in 7..200 {
                        crate::wire::protocol::push_missing(&mut expected, line, b"bob");
                    }
                }
            }
            prop_assert!(backlog.len_capped(u64::MAX) <= expected.len() as u64);
            let (mut received, mut written, mut buffer) = (Vec::new(), 0, [0; 3000]);
            while !backlog.is_empty() {
                let count = backlog.write(&connection).expect("a client that is there");
                written += backlog.advance(count, &mut in_flight);
                if count == 0 && wait_for_either(&client, &connection) {
                    let count = client.read(&mut buffer).expect("what was written");
                    received.extend_from_slice(&buffer[..count]);
                }
            }
            prop_assert_eq!((backlog.head_written(), written), (0, messages));
            connection.shutdown_write();
            client.read_to_end(&mut received).expect("the rest, and an end");
            prop_assert!(received == expected, "the stream differs");
        }
    }

    #[test]
    fn whole_messages_of_a_part_count_as_written_when_the_rest_is_abandoned() {
        let (mut backlog, mut in_flight) = (Backlog::default(), InFlight::default());
        let mut losses = Losses::default();
        backlog.push(Pending::FrameSlice(slice(&[3, 3, 3])));
        assert_eq!(backlog.advance(9, &mut in_flight), 0);
        assert_eq!(backlog.abandon(&mut in_flight, &mut losses), 2);
        assert_eq!((losses.total(), in_flight.finish(9, &mut losses)), (1, 2));
    }
}
