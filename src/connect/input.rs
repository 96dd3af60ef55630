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
        let file = io::stdin().as_fd().try_clone_to_owned()?.into();
        Ok(Self { file, stop: Stop::new()?, left: None })
    }

    pub(crate) fn stop(&self) -> Stop {
        self.stop.clone()
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
            let mut both =
                [PollFd::new(&self.file, PollFlags::IN), PollFd::new(&*self.stop.0, PollFlags::IN)];
            poll(&mut both, None)?;
            if !both[1].revents().is_empty() {
                let there = rustix::io::ioctl_fionread(&self.file).unwrap_or(0);
                self.left = Some(usize::try_from(there).unwrap_or(usize::MAX));
            }
        }
        let most = self.left.unwrap_or(usize::MAX).min(buffer.len());
        let count = self.file.read(&mut buffer[..most])?;
        self.left = self.left.map(|left| left - count);
        Ok(count)
    }
}

/// The thread `input`: hands over what comes, and ends with it or when nobody wants it any more.
/// Returns the beginning of a last line that has no end.
pub(crate) fn read(mut blocks: LineBlocks<Input>, lines: &Sender<Vec<u8>>) -> io::Result<Vec<u8>> {
    while let Some(block) = blocks.next_block()? {
        if lines.send(block.to_vec()).is_err() {
            return Ok(Vec::new());
        }
    }
    Ok(blocks.unfinished().to_vec())
}
