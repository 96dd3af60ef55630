//! The one system call that `rustix` has no safe wrapper for. No thread runs here.
#![expect(unsafe_code, reason = "an ioctl is untyped; the one used here is given its type below")]

use std::ffi::c_int;
use std::io;
use std::os::fd::AsFd;

use rustix::ioctl::{Getter, Opcode, ioctl};

/// `SIOCOUTQ` of `linux/sockios.h` (the same number as `TIOCOUTQ`), see tcp(7).
const SIOCOUTQ: Opcode = 0x5411;

/// How many bytes of a TCP socket's stream the peer's kernel has not acknowledged; a FIN that is
/// on its way counts as one.
///
/// The number stays readable after a reset, which is how the report can be exact about it.
///
/// # Errors
///
/// Fails on what is not a connected TCP socket.
pub(crate) fn unacknowledged(socket: impl AsFd) -> io::Result<u64> {
    // SAFETY: tcp(7) documents SIOCOUTQ as writing one `int` through its argument, which is what
    // `Getter<_, c_int>` provides; it reads nothing and has no other effect.
    let queued = unsafe { ioctl(socket, Getter::<SIOCOUTQ, c_int>::new()) }?;
    Ok(u64::try_from(queued).unwrap_or(0))
}
