//! Standard input as blocks of lines, by a thread that can be told to stop: it takes what is there
//! at that moment, as the server does at its own stop, and ends. The thread owns the stream.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use a_chat::client::LineBlocks;
use crossbeam_channel::Sender;
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};

/// Standard input, up to its end or to where it was told to stop.
#[derive(Debug)]
pub(crate) struct Input {
    file: File,
    /// It is a file on disk, which is there as a whole: at the stop there is no use in what is left
    /// of it.
    on_disk: bool,
    stop: Stop,
    /// Once told to stop: how much of what was there then is left to read, in bytes.
    left: Option<usize>,
}

/// Tells who reads from a terminal or a pipe to stop, from any thread.
#[derive(Clone, Debug)]
pub(crate) struct Stop(Arc<OwnedFd>);

impl Input {
    /// Takes over standard input.
    pub(crate) fn new() -> io::Result<Self> {
        let file = File::from(io::stdin().as_fd().try_clone_to_owned()?);
        let on_disk = file.metadata()?.is_file();
        Ok(Self { file, on_disk, stop: Stop::new()?, left: None })
    }

    pub(crate) fn stop(&self) -> Stop {
        self.stop.clone()
    }

    /// Waits for something to read, or for the stop.
    fn wait(&mut self) -> io::Result<()> {
        let mut both =
            [PollFd::new(&self.file, PollFlags::IN), PollFd::new(&*self.stop.0, PollFlags::IN)];
        poll(&mut both, None)?;
        if both[1].revents().is_empty() {
            return Ok(());
        }
        // What can not tell, as a device, has nothing that would be missed.
        let there = rustix::io::ioctl_fionread(&self.file).unwrap_or(0);
        if self.on_disk && there > 0 {
            return Err(io::Error::other("stopped before its end"));
        }
        self.left = Some(usize::try_from(there).unwrap_or(usize::MAX));
        Ok(())
    }
}

impl Stop {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self(Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?)))
    }

    pub(crate) fn stop(&self) {
        // Nobody reads it, so that it stays readable. It fails only if it is full, which is as good.
        let _ = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
    }
}

/// Readable once it was told.
impl AsFd for Stop {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Read for Input {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left.is_none() {
            self.wait()?;
        }
        let most = self.left.unwrap_or(usize::MAX).min(buffer.len());
        let count = self.file.read(&mut buffer[..most])?;
        self.left = self.left.map(|left| left - count);
        Ok(count)
    }
}

/// How reading the input went.
#[derive(Debug, Default)]
pub(crate) struct Reading {
    /// How many lines were handed over.
    pub(crate) lines: u64,
    /// The beginning of a last line that has no end.
    pub(crate) unfinished: Vec<u8>,
    /// What has kept it from being read to its end.
    pub(crate) error: Option<io::Error>,
}

/// The thread `input`: hands over `first`, which was read before, then what comes, and ends with
/// it or when nobody wants it any more.
pub(crate) fn read(
    first: Vec<u8>,
    mut blocks: LineBlocks<Input>,
    lines: &Sender<Vec<u8>>,
) -> Reading {
    let mut reading = Reading::default();
    let mut next = Some(first);
    while let Some(block) = next {
        let count = memchr::memchr_iter(b'\n', &block).count() as u64;
        if count > 0 && lines.send(block).is_err() {
            return reading;
        }
        reading.lines += count;
        next = match blocks.next_block() {
            Ok(block) => block.map(<[u8]>::to_vec),
            Err(error) => {
                reading.error = Some(error);
                return reading;
            }
        };
    }
    reading.unfinished = blocks.unfinished().to_vec();
    reading
}
