//! Keeps the standard library from giving each thread a stack for signals. It runs on the main
//! thread, before `main` and as the first thing in it.
//!
//! It does so to name the thread whose own stack has overflowed, before the process ends with
//! SIGSEGV; without it the process ends just so, since the guard page is there in any case. What it
//! costs here is a sixth of a login's time, nearly 1 KiB of an idle client's memory, and two of the
//! four memory mappings that a thread takes, of which a process has no more than `vm.max_map_count`.
//!
//! The library gives no way to ask for this, but before `main` it leaves alone what another has set
//! for SIGSEGV and SIGBUS (`std::sys::…::stack_overflow`). Should that ever change, nothing but the
//! gain is lost: [`Capacity`](a_chat::Capacity) looks at what is.
#![expect(unsafe_code, reason = "before `main`, and with signal(2), nothing is checked")]

use libc::{SIG_DFL, SIG_IGN, SIGBUS, SIGSEGV, sighandler_t};

/// The loader calls what stands in this section before `main`.
// SAFETY: a function without arguments is what is called there, see "Initialization and
// Termination Functions" of the System V ABI. It runs before the standard library is set up, and
// uses nothing of it.
#[used]
#[unsafe(link_section = ".init_array")]
static BEFORE_MAIN: extern "C" fn() = ignore_faults;

extern "C" fn ignore_faults() {
    // To ignore a fault is not possible: the process would end all the same.
    set(SIG_IGN);
}

/// Has faults end the process as they do by default; call it first in `main`.
pub(crate) fn restore_default() {
    set(SIG_DFL);
}

fn set(action: sighandler_t) {
    for signal in [SIGSEGV, SIGBUS] {
        // SAFETY: neither of the two actions runs any code, and both signals exist.
        unsafe { libc::signal(signal, action) };
    }
}
