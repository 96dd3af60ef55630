//! The system calls for which `rustix` has no safe wrapper.
#![expect(
    unsafe_code,
    reason = "ioctl, getsockopt, prctl and sigaction are untyped; those used get their types below"
)]

use std::ffi::{c_int, c_ulong};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd};

use rustix::ioctl::{Getter, Opcode, ioctl};
use socket2::{Domain, Socket, Type};

use super::peer::Credentials;

/// `SIOCOUTQ` of `linux/sockios.h` (the same number as `TIOCOUTQ`), see tcp(7).
const SIOCOUTQ: Opcode = 0x5411;

/// Where `tcpi_snd_wnd` stands in `struct tcp_info` of `linux/tcp.h`, in bytes. It exists since
/// Linux 5.4, and neither `libc` nor `rustix` knows it.
const TCP_INFO_SND_WND: usize = 228;

/// Where the counts of bytes stand there.
#[cfg(feature = "status")]
const TCP_INFO_BYTES_RECEIVED: usize = 128;
#[cfg(feature = "status")]
const TCP_INFO_BYTES_SENT: usize = 200;
#[cfg(feature = "status")]
const TCP_INFO_BYTES_RETRANS: usize = 208;

/// `PR_FUTEX_HASH` of `linux/prctl.h`, since Linux 6.16, and its operation that sets the table
/// size.
const PR_FUTEX_HASH: c_int = 78;
const PR_FUTEX_HASH_SET_SLOTS: c_ulong = 1;

/// The value for arguments that an option of prctl(2) does not use.
const UNUSED: c_ulong = 0;

/// How many bytes of a TCP socket's stream the peer's kernel has not acknowledged; a FIN in flight
/// counts as one.
///
/// The number remains readable after a reset, which lets the report be exact even then.
///
/// # Errors
///
/// Fails if the socket is a listening one, or none of TCP, or if a sandbox refuses the call.
pub(crate) fn unacknowledged(socket: impl AsFd) -> io::Result<u64> {
    // SAFETY: tcp(7) documents SIOCOUTQ as writing one `int` through its argument, which is what
    // `Getter<_, c_int>` provides; it reads nothing and has no other effect.
    let queued = unsafe { ioctl(socket, Getter::<SIOCOUTQ, c_int>::new()) }?;
    Ok(u64::try_from(queued).unwrap_or(0))
}

/// Checks that this process may ask how much of a stream is unacknowledged.
///
/// # Errors
///
/// Fails if a sandbox refuses to open a socket, or the question.
pub(crate) fn check_unacknowledged() -> io::Result<()> {
    unacknowledged(Socket::new(Domain::IPV4, Type::STREAM, None).or_else(|error| {
        // A machine without IPv4 has IPv6.
        Socket::new(Domain::IPV6, Type::STREAM, None).map_err(|_| error)
    })?)
    .map(drop)
}

/// How many bytes beyond the last acknowledged one the peer's kernel accepts at the moment: the
/// receive window that it offered last.
///
/// # Errors
///
/// Fails if the socket is not a TCP socket, or if the kernel is older than Linux 5.4.
pub(crate) fn offered_window(socket: impl AsFd) -> io::Result<u32> {
    const LENGTH: usize = TCP_INFO_SND_WND + size_of::<u32>();
    let info = tcp_info::<LENGTH>(socket)?;
    let window = info[TCP_INFO_SND_WND..].first_chunk();
    window
        .map(|window| u32::from_ne_bytes(*window))
        .ok_or_else(|| io::ErrorKind::Unsupported.into())
}

/// Bytes received over a TCP connection, and bytes sent without those sent again.
///
/// # Errors
///
/// As [`offered_window`].
#[cfg(feature = "status")]
pub(crate) fn traffic(socket: impl AsFd) -> io::Result<(u64, u64)> {
    const LENGTH: usize = TCP_INFO_BYTES_RETRANS + size_of::<u64>();
    let info = tcp_info::<LENGTH>(socket)?;
    let field = |at: usize| info[at..].first_chunk().map_or(0, |bytes| u64::from_ne_bytes(*bytes));
    let sent = field(TCP_INFO_BYTES_SENT).saturating_sub(field(TCP_INFO_BYTES_RETRANS));
    Ok((field(TCP_INFO_BYTES_RECEIVED), sent))
}

/// The first bytes of a `struct tcp_info`.
fn tcp_info<const LENGTH: usize>(socket: impl AsFd) -> io::Result<[u8; LENGTH]> {
    let mut info = [0_u8; LENGTH];
    let mut length = libc::socklen_t::try_from(LENGTH).unwrap_or(0);
    // SAFETY: getsockopt(2) writes at most `length` bytes to `info`, which has that many, and sets
    // `length` to the number written; TCP_INFO reads nothing else and has no other effect.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if result == -1 {
        return Err(io::Error::last_os_error());
    }
    if length as usize >= LENGTH { Ok(info) } else { Err(io::ErrorKind::Unsupported.into()) }
}

/// The user and the process that connected a Unix socket, or that made the pair.
///
/// `rustix` has a wrapper, in which a process of another namespace, which has the number 0 here,
/// is an invalid value.
///
/// # Errors
///
/// Fails if the socket is not a connected Unix socket.
pub(crate) fn peer_credentials(socket: impl AsFd) -> io::Result<Credentials> {
    let mut credentials = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut length = libc::socklen_t::try_from(size_of::<libc::ucred>()).unwrap_or(0);
    // SAFETY: getsockopt(2) writes at most `length` bytes to `credentials`, which has that many, and
    // any bytes make a valid one.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut credentials).cast(),
            &raw mut length,
        )
    };
    if result == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(Credentials { uid: credentials.uid, pid: credentials.pid })
}

/// Gives this process a futex hash table with `slots` buckets, a power of two.
///
/// # Errors
///
/// Fails if the kernel does not support it, or has no memory for it.
pub(crate) fn set_futex_hash_slots(slots: u32) -> io::Result<()> {
    let slots = c_ulong::from(slots);
    // SAFETY: this option of prctl(2) takes numbers, all given as `unsigned long` as the kernel
    // reads them, and touches no memory of the process.
    match unsafe { libc::prctl(PR_FUTEX_HASH, PR_FUTEX_HASH_SET_SLOTS, slots, UNUSED, UNUSED) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Returns free memory to the system. The allocator of glibc keeps what one burst of clients took
/// until another needs it; other allocators are left alone.
pub(crate) fn trim_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim(3) takes a number, locks each of the allocator's arenas in turn, and
    // releases only pages that hold no allocation.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Limits the number of malloc's arenas. False where the C library has no such limit.
#[cfg(target_env = "gnu")]
pub(crate) fn set_max_arenas(arenas: c_int) -> bool {
    // SAFETY: mallopt(3) with this parameter takes a number, and touches no memory of ours.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, arenas) == 1 }
}

/// Other C libraries have no arenas that reserve address space.
#[cfg(not(target_env = "gnu"))]
pub(crate) fn set_max_arenas(_arenas: c_int) -> bool {
    true
}

/// The type of a resource's number in getrlimit(2), which C libraries disagree about.
#[cfg(target_env = "gnu")]
pub(crate) type Resource = libc::__rlimit_resource_t;
/// The type of a resource's number in getrlimit(2), which C libraries disagree about.
#[cfg(not(target_env = "gnu"))]
pub(crate) type Resource = c_int;

/// The soft and the hard limit of a resource, `u64::MAX` if there is none. `rustix` has the same, but
/// panics where a sandbox refuses the call.
///
/// # Errors
///
/// Fails if the resource is unknown, or if a sandbox refuses the call.
pub(crate) fn resource_limit(resource: Resource) -> io::Result<(u64, u64)> {
    let mut limit = libc::rlimit64 { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: getrlimit(2) writes one `struct rlimit64` through its second argument, and has no other
    // effect.
    match unsafe { libc::getrlimit64(resource, &raw mut limit) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok((limit.rlim_cur, limit.rlim_max)),
    }
}

/// True if SIGSEGV or SIGBUS has a handler. That is usually the standard library's, and then each
/// thread that this library spawns gets an alternate signal stack, sigaltstack(2).
pub(crate) fn has_fault_handlers() -> bool {
    [libc::SIGSEGV, libc::SIGBUS].into_iter().any(|signal| {
        let mut action = MaybeUninit::<libc::sigaction>::zeroed();
        // SAFETY: without a new action, sigaction(2) only writes the present one to its third
        // argument, which is as large as it has to be; all zeroes are a valid one to begin with.
        let action = unsafe {
            libc::sigaction(signal, std::ptr::null(), action.as_mut_ptr());
            action.assume_init()
        };
        !matches!(action.sa_sigaction, libc::SIG_DFL | libc::SIG_IGN)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PR_FUTEX_HASH_GET_SLOTS: c_ulong = 2;

    fn futex_slots() -> c_int {
        // SAFETY: this option of prctl(2) takes nothing, and touches no memory of the process.
        unsafe { libc::prctl(PR_FUTEX_HASH, PR_FUTEX_HASH_GET_SLOTS, UNUSED, UNUSED, UNUSED) }
    }

    #[test]
    fn a_test_has_the_fault_handlers_of_the_standard_library() {
        assert!(has_fault_handlers());
    }

    #[test]
    fn the_futex_hash_table_gets_the_requested_size() {
        match set_futex_hash_slots(256) {
            Ok(()) => assert_eq!(futex_slots(), 256),
            // Linux before 6.16 does not support this option.
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::InvalidInput),
        }
        assert!(set_futex_hash_slots(255).is_err(), "not a power of two");
    }
}
