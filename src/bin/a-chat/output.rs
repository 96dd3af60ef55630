//! Writes to standard output and standard error, whatever mode these are in. Plain functions, for
//! any thread.
//!
//! `O_NONBLOCK` belongs to the open file, not to the process: a terminal or a pipe that several
//! programs share becomes non-blocking for all of them as soon as one of them asks for it. The
//! standard library then fails in the middle of a message; these functions wait instead.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

/// Writes all of it to standard output.
pub(crate) fn to_stdout(bytes: &[u8]) -> io::Result<()> {
    // The lock keeps threads from writing into each other's lines.
    write_all(io::stdout().lock().as_fd(), bytes)
}

/// Writes all of it to standard error.
pub(crate) fn to_stderr(bytes: &[u8]) -> io::Result<()> {
    write_all(io::stderr().lock().as_fd(), bytes)
}

/// Writes everything, however often that means waiting until the file accepts more.
fn write_all(file: BorrowedFd<'_>, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(file, bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => bytes = &bytes[count..],
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => wait_until_writable(file)?,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn wait_until_writable(file: BorrowedFd<'_>) -> io::Result<()> {
    match poll(&mut [PollFd::from_borrowed_fd(file, PollFlags::OUT)], None) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixStream;
    use std::thread;

    use super::*;

    /// A file that accepts no more than its buffer holds, and its reader.
    fn non_blocking() -> (UnixStream, UnixStream) {
        let (file, reader) = UnixStream::pair().expect("two sockets");
        file.set_nonblocking(true).expect("a socket");
        (file, reader)
    }

    #[test]
    fn a_full_non_blocking_file_is_waited_for() {
        let (file, mut reader) = non_blocking();
        let reading = thread::spawn(move || {
            let mut read = Vec::new();
            reader.read_to_end(&mut read).map(|_| read)
        });
        // Several times as much as the buffer holds.
        let bytes: Vec<u8> = (0..=u8::MAX).cycle().take(1 << 22).collect();
        write_all(file.as_fd(), &bytes).expect("a reader");
        drop(file);
        let read = reading.join().expect("no panic").expect("no error");
        assert!(read == bytes, "something else arrived");
    }

    #[test]
    fn a_closed_file_is_an_error() {
        let (file, reader) = non_blocking();
        drop(reader);
        let error = write_all(file.as_fd(), b"lost").expect_err("no reader");
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }
}
