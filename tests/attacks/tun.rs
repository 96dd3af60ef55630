//! Network devices whose packets a test carries itself: a link with a small MTU and a long round
//! trip between two hosts, where the kernel has no discipline that delays packets, or a host whose
//! TCP is the test's own.
#![expect(unsafe_code, reason = "an ioctl attaches the device, and has no safe wrapper")]

use std::ffi::c_short;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::unbounded;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::ioctl::{Opcode, Setter, ioctl};

use crate::common::skipped;
use crate::netns::{Host, Network};

/// `TUNSETIFF` of `linux/if_tun.h`, and its flags for packets without a header of their own.
const TUNSETIFF: Opcode = 0x4004_54ca;
const IFF_TUN: c_short = 0x0001;
const IFF_NO_PI: c_short = 0x1000;

/// How often the threads of a link look whether they are to end.
const TICK: Duration = Duration::from_millis(50);

/// What `TUNSETIFF` takes: the beginning of `struct ifreq` of netdevice(7), in its full size.
#[repr(C)]
#[derive(Clone, Copy)]
struct Request {
    name: [u8; 16],
    flags: c_short,
    rest: [u8; 22],
}

/// A device of a host, attached to this process.
#[derive(Debug)]
pub struct Tun {
    file: File,
}

impl Tun {
    /// Adds a device `far` to a host, with an address. `None`, and a word on why, if it cannot be.
    pub fn new(host: &Host, address: &str, mtu: u32) -> Option<Self> {
        let opened = host.run(|| {
            let file = OpenOptions::new().read(true).write(true).open("/dev/net/tun")?;
            let mut name = [0; 16];
            name[..3].copy_from_slice(b"far");
            let request = Request { name, flags: IFF_TUN | IFF_NO_PI, rest: [0; 22] };
            // SAFETY: TUNSETIFF reads and writes a `struct ifreq` through its argument, which is
            // what `Request` is laid out as; the device belongs to the file from then on.
            unsafe { ioctl(&file, Setter::<TUNSETIFF, Request>::new(request)) }?;
            rustix::io::ioctl_fionbio(&file, true)?;
            Ok::<_, std::io::Error>(file)
        });
        let file = opened.inspect_err(|error| skipped(&format!("no TUN device here: {error}")));
        let file = file.ok()?;
        for command in [
            format!("ip address add {address}/24 dev far"),
            format!("ip link set far mtu {mtu} txqueuelen 100000 up"),
        ] {
            let mut words = host.launcher().into_iter().chain(command.split(' '));
            let mut process = Command::new(words.next().expect("a launcher"));
            assert!(process.args(words).status().expect("ip").success(), "{command}");
        }
        Some(Self { file })
    }

    /// Takes the next packet that the host sends, if one comes within this time.
    pub fn receive<'a>(&self, buffer: &'a mut [u8], timeout: Duration) -> Option<&'a [u8]> {
        let timeout = Timespec::try_from(timeout).expect("a short time");
        let ready = poll(&mut [PollFd::new(&self.file.as_fd(), PollFlags::IN)], Some(&timeout));
        if ready != Ok(1) {
            return None;
        }
        match (&self.file).read(buffer) {
            Ok(count) => Some(&buffer[..count]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => None,
            Err(error) => panic!("{error}"),
        }
    }

    /// Has the host receive a packet.
    pub fn send(&self, packet: &[u8]) {
        // A packet may be lost, as on any link: for want of memory, for one.
        let _ = (&self.file).write(packet);
    }
}

/// A link between a server's host and a client's, over which a packet takes its time.
pub struct Link {
    pub network: Network,
    end: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

/// The server's address on that link.
pub const SERVER: &str = "10.78.0.1";
const CLIENT: &str = "10.78.0.2";

impl Link {
    /// `None`, and a word on why, if it cannot be here.
    pub fn new(mtu: u32, round_trip: Duration) -> Option<Self> {
        let network = Network::new(1)?;
        let near = Arc::new(Tun::new(&network.server, SERVER, mtu)?);
        let far = Arc::new(Tun::new(&network.clients[0], CLIENT, mtu)?);
        let end = Arc::new(AtomicBool::new(false));
        let mut threads = carry(&near, &far, round_trip / 2, &end);
        threads.extend(carry(&far, &near, round_trip / 2, &end));
        Some(Self { network, end, threads })
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.end.store(true, SeqCst);
        for thread in self.threads.drain(..) {
            // A panic there was reported already.
            let _ = thread.join();
        }
    }
}

/// Carries packets from one device to another, each so much later.
fn carry(
    from: &Arc<Tun>,
    to: &Arc<Tun>,
    delay: Duration,
    end: &Arc<AtomicBool>,
) -> Vec<JoinHandle<()>> {
    let (from, to, end) = (Arc::clone(from), Arc::clone(to), Arc::clone(end));
    let (sender, packets) = unbounded::<(Instant, Vec<u8>)>();
    let reading = thread::spawn(move || {
        let mut buffer = vec![0; 64 * 1024];
        while !end.load(SeqCst) {
            if let Some(packet) = from.receive(&mut buffer, TICK) {
                if sender.send((Instant::now() + delay, packet.to_vec())).is_err() {
                    return;
                }
            }
        }
    });
    let writing = thread::spawn(move || {
        for (time, packet) in packets {
            // Not a wait for something to happen: it is how long the link is.
            thread::sleep(time.saturating_duration_since(Instant::now()));
            to.send(&packet);
        }
    });
    vec![reading, writing]
}
