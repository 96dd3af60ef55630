//! Unix sockets to listen on: a file with the right mode from the first moment, which one server at
//! a time owns. Used by the thread that binds the server; closing it removes the file.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, flock};
use rustix::io::Errno;
use socket2::{Domain, SockAddr, Socket, Type};

use super::tcp::LISTEN_BACKLOG;

/// Added to the socket's path for the file that is locked.
const LOCK_SUFFIX: &str = ".lock";

/// The permission bits that a socket's file may have.
const MODE_BITS: u32 = 0o777;

/// Who may connect to a Unix socket.
///
/// ```
/// use a_chat::{Config, Listener, Server, UnixOptions};
///
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("chat.sock");
/// let listener = Listener::bind_unix(&path, UnixOptions::default().mode(0o600))?;
/// let server = Server::from_listeners([listener], Config::default())?;
/// # drop(server);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct UnixOptions {
    /// The mode of the socket's file: whoever may write it may connect. Default 660, its owner and
    /// its group.
    pub mode: u32,
    /// The group of the socket's file, by its number. Default `None`: the process's own.
    pub group: Option<u32>,
}

impl Default for UnixOptions {
    fn default() -> Self {
        Self { mode: 0o660, group: None }
    }
}

impl UnixOptions {
    /// Sets [`mode`](field@Self::mode).
    #[must_use]
    pub fn mode(mut self, mode: u32) -> Self {
        self.mode = mode;
        self
    }

    /// Sets [`group`](field@Self::group).
    #[must_use]
    pub fn group(mut self, group: impl Into<Option<u32>>) -> Self {
        self.group = group.into();
        self
    }
}

/// A listening Unix socket that this process has made.
#[derive(Debug)]
pub(crate) struct UnixSocket {
    pub(crate) listener: UnixListener,
    /// Dropped last: until then no other server takes the path.
    file: SocketFile,
}

/// The socket's file. Dropping it removes the file, unless another has taken its place.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    /// Device and inode.
    identity: (u64, u64),
    /// Locked as long as it is open, and never removed: a lock on a removed file excludes nobody.
    _lock: File,
}

impl UnixSocket {
    /// Listens on this path, in place of a socket that nobody listens on any more.
    ///
    /// # Errors
    ///
    /// If another server listens there, if the path is something else than a socket, or if the
    /// system refuses.
    pub(crate) fn bind(path: &Path, options: UnixOptions) -> io::Result<Self> {
        // Relative paths stand for another file once the process changes its folder.
        let path = std::path::absolute(path)?;
        let lock = lock(&path)?;
        remove_stale(&path)?;
        let socket = Socket::new(Domain::UNIX, Type::STREAM.cloexec(), None)?;
        socket.set_nonblocking(true)?;
        let mode = options.mode & MODE_BITS;
        // The file gets this mode when it appears, less the process's mask. Nobody but the owner
        // before it has its group.
        rustix::fs::fchmod(&socket, Mode::from_raw_mode(mode & 0o700))?;
        socket.bind(&SockAddr::unix(&path)?)?;
        // From here on the file is removed if anything fails.
        let (opened, identity) = open_own(&path)?;
        let file = SocketFile { path, identity, _lock: lock };
        let opened = format!("/proc/self/fd/{}", opened.as_raw_fd());
        if let Some(group) = options.group {
            std::os::unix::fs::chown(&opened, None, Some(group))?;
        }
        fs::set_permissions(&opened, fs::Permissions::from_mode(mode))?;
        socket.listen(LISTEN_BACKLOG)?;
        Ok(Self { listener: OwnedFd::from(socket).into(), file })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.file.path
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // The lock is still held, so no other server is about to make a file here.
        let found = fs::symlink_metadata(&self.path);
        if found.is_ok_and(|found| (found.dev(), found.ino()) == self.identity) {
            // Whoever starts next removes what is left behind.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Locks the file beside the socket, which decides between two servers that start at once.
fn lock(path: &Path) -> io::Result<File> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(LOCK_SUFFIX);
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let mut options = OpenOptions::new();
    let options = options.write(true).create(true).truncate(false).mode(0o600).custom_flags(flags);
    let file = options.open(&beside)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(Errno::WOULDBLOCK) => Err(in_use("another server has locked it")),
        Err(error) => Err(error.into()),
    }
}

/// Removes a socket that nobody listens on.
fn remove_stale(path: &Path) -> io::Result<()> {
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !found.file_type().is_socket() {
        return Err(in_use("there is a file that is no socket"));
    }
    // Not blocking: with a full backlog, connecting would wait for the server to accept.
    let probe = Socket::new(Domain::UNIX, Type::STREAM.cloexec(), None)?;
    probe.set_nonblocking(true)?;
    match probe.connect(&SockAddr::unix(path)?) {
        Err(error) if Errno::from_io_error(&error) == Some(Errno::CONNREFUSED) => {
            fs::remove_file(path)
        }
        Ok(()) => Err(in_use("another program listens there")),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            Err(in_use("another program listens there"))
        }
        Err(error) => Err(error),
    }
}

/// Opens the file that was just bound, to change it and nothing that may replace it, and returns its
/// device and inode.
fn open_own(path: &Path) -> io::Result<(File, (u64, u64))> {
    let flags = libc::O_PATH | libc::O_NOFOLLOW;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let found = file.metadata()?;
    if !found.file_type().is_socket() {
        return Err(in_use("another file has taken its place"));
    }
    Ok((file, (found.dev(), found.ino())))
}

fn in_use(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::AddrInUse, why)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::{UnixDatagram, UnixStream};
    use std::sync::Barrier;
    use std::thread;

    use super::*;

    fn folder() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("chat.sock");
        (folder, path)
    }

    fn bind(path: &Path) -> io::Result<UnixSocket> {
        UnixSocket::bind(path, UnixOptions::default())
    }

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).expect("a file").permissions().mode() & 0o777
    }

    #[test]
    fn a_socket_has_its_mode_whatever_the_mask() {
        let (_folder, path) = folder();
        for wanted in [0o600, 0o660, 0o666, 0o622] {
            let socket = UnixSocket::bind(&path, UnixOptions::default().mode(wanted));
            let socket = socket.expect("a free path");
            assert_eq!(mode(&path), wanted);
            drop(socket);
        }
    }

    #[test]
    fn a_socket_gets_its_group() {
        let (_folder, path) = folder();
        let group = rustix::process::getegid().as_raw();
        let socket = UnixSocket::bind(&path, UnixOptions::default().group(group));
        let _socket = socket.expect("a free path");
        assert_eq!(fs::symlink_metadata(&path).expect("a file").gid(), group);
    }

    #[test]
    fn a_socket_goes_with_its_listener_and_the_lock_stays() {
        let (_folder, path) = folder();
        let socket = bind(&path).expect("a free path");
        assert!(path.exists());
        drop(socket);
        assert!(!path.exists() && path.with_extension("sock.lock").exists());
        bind(&path).expect("a path that is free again");
    }

    #[test]
    fn a_socket_that_nobody_listens_on_is_replaced() {
        let (_folder, path) = folder();
        drop(UnixListener::bind(&path).expect("a free path"));
        assert!(path.exists(), "the standard library leaves it behind");
        let _socket = bind(&path).expect("a path that is free again");
        UnixStream::connect(&path).expect("a listener");
    }

    #[test]
    fn a_path_in_use_is_an_error_that_says_by_what() {
        let (_folder, path) = folder();
        let expect = |text: &str| {
            let error = bind(&path).expect_err("it is in use");
            assert_eq!((error.kind(), error.to_string()), (io::ErrorKind::AddrInUse, text.into()));
        };
        let first = bind(&path).expect("a free path");
        expect("another server has locked it");
        drop(first);

        let foreign = UnixListener::bind(&path).expect("a free path");
        expect("another program listens there");
        // With a full backlog too.
        rustix::net::listen(&foreign, 0).expect("a listener");
        let _waiting: Vec<_> = (0..2).map(|_| connect_at_once(&path)).collect();
        expect("another program listens there");
        drop(foreign);
        fs::remove_file(&path).expect("a file");

        fs::write(&path, "text").expect("a free path");
        expect("there is a file that is no socket");
        assert_eq!(fs::read_to_string(&path).expect("it is left alone"), "text");
        fs::remove_file(&path).expect("a file");

        std::os::unix::fs::symlink("/nowhere", &path).expect("a free path");
        expect("there is a file that is no socket");
        fs::remove_file(&path).expect("a link");

        let _datagrams = UnixDatagram::bind(&path).expect("a free path");
        bind(&path).expect_err("a socket of another type");
        assert!(path.exists());
    }

    /// Connects, or not, without waiting.
    fn connect_at_once(path: &Path) -> Socket {
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None).expect("a descriptor");
        socket.set_nonblocking(true).expect("an option");
        let _ = socket.connect(&SockAddr::unix(path).expect("a short path"));
        socket
    }

    #[test]
    fn of_many_servers_that_start_at_once_on_a_stale_socket_one_gets_it() {
        let (_folder, path) = folder();
        for _ in 0..50 {
            drop(UnixListener::bind(&path).expect("a free path"));
            let barrier = Barrier::new(4);
            let start = || {
                barrier.wait();
                bind(&path)
            };
            let started: Vec<_> = thread::scope(|scope| {
                let all: Vec<_> = (0..4).map(|_| scope.spawn(start)).collect();
                all.into_iter().filter_map(|one| one.join().expect("no panic").ok()).collect()
            });
            assert_eq!(started.len(), 1);
            UnixStream::connect(&path).expect("a listener");
        }
    }

    #[test]
    fn a_server_that_ends_leaves_the_socket_of_another_alone() {
        let (_folder, path) = folder();
        let old = bind(&path).expect("a free path");
        // What somebody does by hand, to put another program there.
        fs::remove_file(&path).expect("a file");
        let _new = UnixListener::bind(&path).expect("a free path");
        drop(old);
        UnixStream::connect(&path).expect("the new one still listens");
    }

    #[test]
    fn a_path_that_is_too_long_is_an_error_and_leaves_nothing_locked() {
        let (folder, _) = folder();
        let path = folder.path().join("x".repeat(120));
        bind(&path).expect_err("longer than 107 bytes");
        let again = bind(&path).expect_err("longer than 107 bytes");
        assert_ne!(again.kind(), io::ErrorKind::AddrInUse);
    }
}
