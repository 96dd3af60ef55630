//! An epoll instance over many sockets. Owned by the thread that receives.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, epoll, poll};
use rustix::io::Errno;

use super::{Error, TICK};

/// The sockets, identified by their index.
#[derive(Debug)]
pub struct Readable {
    epoll: OwnedFd,
    places: Vec<usize>,
}

impl Readable {
    /// Watches all of these.
    ///
    /// # Errors
    ///
    /// If the system is out of resources.
    pub fn of<'a, S: AsFd + 'a>(sockets: impl IntoIterator<Item = &'a S>) -> Result<Self, Error> {
        let epoll =
            epoll::create(epoll::CreateFlags::CLOEXEC).map_err(Error::io("watch sockets"))?;
        let readable = Self { epoll, places: Vec::new() };
        for (place, socket) in sockets.into_iter().enumerate() {
            readable.add(place, socket)?;
        }
        Ok(readable)
    }

    /// Watches one more.
    pub(super) fn add(&self, place: usize, socket: impl AsFd) -> Result<(), Error> {
        let data = epoll::EventData::new_u64(place as u64);
        epoll::add(&self.epoll, socket, data, epoll::EventFlags::IN)
            .map_err(Error::io("watch a socket"))
    }

    /// Waits up to [`TICK`]; returns the indices of the readable sockets.
    ///
    /// # Errors
    ///
    /// If waiting fails.
    pub fn wait(&mut self) -> Result<std::vec::Drain<'_, usize>, Error> {
        self.wait_for(Some(TICK))
    }

    /// Waits indefinitely.
    ///
    /// # Errors
    ///
    /// As [`wait`](Self::wait).
    pub fn wait_indefinitely(&mut self) -> Result<std::vec::Drain<'_, usize>, Error> {
        self.wait_for(None)
    }

    /// Waits up to `time`, or indefinitely.
    pub(super) fn wait_for(
        &mut self,
        time: Option<Duration>,
    ) -> Result<std::vec::Drain<'_, usize>, Error> {
        let mut time = time.map(|time| Timespec::try_from(time).expect("a short time"));
        if let Some(short) = time.as_mut().filter(|time| time.tv_nsec % 1_000_000 > 0) {
            // An epoll counts in milliseconds. An interrupted wait is as good as any other.
            let _ = poll(&mut [PollFd::new(&self.epoll, PollFlags::IN)], Some(short));
            *short = Timespec { tv_sec: 0, tv_nsec: 0 };
        }
        let mut events = [MaybeUninit::uninit(); 128];
        let ready = match epoll::wait(&self.epoll, &mut events, time.as_ref()) {
            Ok((ready, _)) => ready,
            Err(Errno::INTR) => &mut [],
            Err(error) => return Err(Error::io("wait for sockets")(error)),
        };
        let place = |event: &epoll::Event| usize::try_from(event.data.u64()).expect("a place");
        self.places.clear();
        self.places.extend(ready.iter().map(place));
        Ok(self.places.drain(..))
    }
}

impl AsFd for Readable {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}
