//! A proxy between nodes and their engine, that can be told to do harm.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// What it does with what passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Harm {
    None,
    /// Each piece comes later.
    Delay,
    /// What the engine says is thrown away.
    Swallow,
    /// What the engine says to whoever reads an inbox is held back; everything else passes.
    Deafen,
}

struct Shared {
    harm: AtomicU8,
    is_over: AtomicBool,
    engine: Mutex<PathBuf>,
    links: Mutex<Vec<(TcpStream, UnixStream)>>,
}

pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<thread::JoinHandle<()>>,
}

impl Proxy {
    /// In front of the engine with this socket.
    pub fn start(engine: PathBuf) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        let shared = Arc::new(Shared {
            harm: AtomicU8::new(Harm::None as u8),
            is_over: AtomicBool::new(false),
            engine: Mutex::new(engine),
            links: Mutex::default(),
        });
        let its = Arc::clone(&shared);
        let acceptor = thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if its.is_over.load(SeqCst) {
                    break;
                }
                let path = its.engine.lock().expect("no panic").clone();
                let Ok(engine) = UnixStream::connect(path) else { continue };
                its.link(client, engine);
            }
        });
        Self { address, shared, acceptor: Some(acceptor) }
    }

    pub fn url(&self) -> String {
        format!("redis://{}/0", self.address)
    }

    pub fn do_harm(&self, harm: Harm) {
        self.shared.harm.store(harm as u8, SeqCst);
    }

    /// Closes all connections.
    pub fn cut(&self) {
        for (client, engine) in self.shared.links.lock().expect("no panic").drain(..) {
            let _ = client.shutdown(Shutdown::Both);
            let _ = engine.shutdown(Shutdown::Both);
        }
    }

    /// New connections lead to another engine.
    pub fn lead_to(&self, engine: PathBuf) {
        *self.shared.engine.lock().expect("no panic") = engine;
    }
}

impl Shared {
    fn harm(&self) -> u8 {
        self.harm.load(SeqCst)
    }

    fn link(self: &Arc<Self>, client: TcpStream, engine: UnixStream) {
        let _ = client.set_nodelay(true);
        let clones = || Some((client.try_clone().ok()?, engine.try_clone().ok()?));
        let (Some(there), Some(back), Some(known)) = (clones(), clones(), clones()) else { return };
        self.links.lock().expect("no panic").push(known);
        let reads_inbox = Arc::new(AtomicBool::new(false));
        let (shared, is_reader) = (Arc::clone(self), Arc::clone(&reads_inbox));
        thread::spawn(move || {
            let (mut from, mut to) = there;
            shared.copy(&mut from, &mut to, |bytes| {
                let reads = bytes.windows(5).any(|word| word == b"XREAD");
                is_reader.fetch_or(reads, SeqCst);
                true
            });
            let _ = to.shutdown(Shutdown::Both);
        });
        let shared = Arc::clone(self);
        thread::spawn(move || {
            let (mut to, mut from) = back;
            shared.copy(&mut from, &mut to, |_| {
                while shared.harm() == Harm::Deafen as u8 && reads_inbox.load(SeqCst) {
                    thread::park_timeout(Duration::from_millis(5));
                }
                shared.harm() != Harm::Swallow as u8
            });
            let _ = to.shutdown(Shutdown::Both);
        });
    }

    fn copy(
        &self,
        from: &mut impl Read,
        to: &mut impl Write,
        mut passes: impl FnMut(&[u8]) -> bool,
    ) {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            if self.harm() == Harm::Delay as u8 {
                thread::park_timeout(Duration::from_millis(20));
            }
            if passes(&buffer[..count]) && to.write_all(&buffer[..count]).is_err() {
                break;
            }
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.is_over.store(true, SeqCst);
        self.do_harm(Harm::None);
        self.cut();
        let _ = TcpStream::connect(self.address);
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}
