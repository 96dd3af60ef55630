//! Keeps the standard library from giving each thread an alternate signal stack. Runs on the main
//! thread, before `main` and as the first statement in it.
//!
//! The standard library uses that stack to name a thread whose own stack overflowed before the
//! process dies of SIGSEGV. Without it the process dies of the same signal, since the guard page is
//! there in any case. The stack costs a sixth of a login's time, nearly 1 KiB of an idle client's
//! memory, and two of the four memory mappings of a thread, which `vm.max_map_count` limits.
//!
//! The standard library has no switch for this, but it leaves actions for SIGSEGV and SIGBUS alone
//! that were set before `main` (`std::sys::…::stack_overflow`). If that ever changes, only the gain
//! is lost: [`Capacity`](a_chat::Capacity) reads the actions that are in place.
#![expect(unsafe_code, reason = "code before `main`, and signal(2), have no safe wrapper")]

use libc::{SIG_DFL, SIG_IGN, SIGBUS, SIGSEGV, sighandler_t};

/// The loader calls the functions of this section before `main`.
// SAFETY: the loader calls functions without arguments there, see "Initialization and Termination
// Functions" of the System V ABI. This one runs before the standard library is set up, and uses
// none of it.
#[used]
#[unsafe(link_section = ".init_array")]
static BEFORE_MAIN: extern "C" fn() = ignore_faults;

extern "C" fn ignore_faults() {
    // A real fault cannot be ignored: the kernel kills the process all the same.
    set(SIG_IGN);
}

/// Restores the default action of faults; call it first in `main`.
pub(crate) fn restore_default() {
    set(SIG_DFL);
}

fn set(action: sighandler_t) {
    for signal in [SIGSEGV, SIGBUS] {
        // SAFETY: neither of the two actions runs code, and both signals exist.
        unsafe { libc::signal(signal, action) };
    }
}
