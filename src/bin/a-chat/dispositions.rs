//! Which signals are ignored. Plain functions of the main thread.
#![expect(unsafe_code, reason = "signal(2) and sigaction(2) have no safe wrapper")]

use std::mem::MaybeUninit;

use libc::{SIG_IGN, c_int};

/// True if the signal is ignored now.
pub(crate) fn is_ignored(signal: c_int) -> bool {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: without a new action, sigaction(2) only writes the present one to its third argument,
    // which is as large as it has to be; all zeroes are a valid one to begin with.
    let action = unsafe {
        libc::sigaction(signal, std::ptr::null(), action.as_mut_ptr());
        action.assume_init()
    };
    action.sa_sigaction == SIG_IGN
}

/// Ignores the signal from now on.
pub(crate) fn ignore(signal: c_int) {
    // SAFETY: ignoring a signal runs no code. A number that does not exist changes nothing.
    unsafe { libc::signal(signal, SIG_IGN) };
}
