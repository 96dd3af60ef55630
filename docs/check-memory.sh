#!/usr/bin/env bash
# Runs tests under tools that detect wrong uses of memory, on demand, in some minutes:
#   address  AddressSanitizer and LeakSanitizer: the unit tests, and those of whole servers
#   threads  ThreadSanitizer, for data races: the unit tests that use several threads
#   values   memcheck of valgrind, for uninitialised values: the unit tests, some with a whole server
# Each tool must first find its kind of mistake in a small program that is wrong.
#
# The crate's own unsafe code is a few system calls, in src/socket/sys.rs; memcheck alone knows what
# the kernel reads and writes in them. What all three examine is the code of the other crates that a
# server depends on, above all the channel, the searches and the UTF-8 check, called as the server
# calls them.
#
# The stable toolchain suffices: its compiler is made to accept nightly flags. So the standard library
# is not instrumented, and mistakes inside it go undetected. Miri, which detects every broken rule
# and not only its consequences, needs a nightly toolchain with the component `miri`, and runs only
# code that makes no system call:
#   cargo +nightly miri test --lib batch broker framing in_flight protocol
set -euo pipefail
cd "$(dirname "$0")/.."
export CARGO_TERM_COLOR=never RUSTC_BOOTSTRAP=1
host=$(rustc -vV | sed -n 's/^host: //p')
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Compiles a wrong program, and fails unless a tool finds the mistake; the flags are the compiler's.
finds() {
    local complaint=$1 body=$2 tool=$3
    shift 3
    echo "fn main() { $body }" >"$work/wrong.rs"
    rustc "$@" -A warnings -C debuginfo=1 -o "$work/wrong" "$work/wrong.rs"
    # The tool's report decides; the program is expected to fail.
    $tool "$work/wrong" >"$work/said" 2>&1 || true
    grep -q "$complaint" "$work/said" || { cat "$work/said" && echo "not found: $complaint" && exit 1; }
    echo "found in a wrong program: $complaint"
}

use_after_free='let byte = Box::new(1_u8); let address: *const u8 = &*byte; drop(byte);
    std::process::exit(unsafe { address.read_volatile() }.into())'
leak='for size in 1..100 { std::mem::forget(std::hint::black_box(vec![1_u8; size])); }'
race='static mut NUMBER: u32 = 0; fn count() { unsafe { NUMBER += 1 } }
    let other = std::thread::spawn(count); count(); other.join().unwrap()'
never_set='let byte = unsafe { Box::<u8>::new_uninit().assume_init() };
    if std::hint::black_box(*byte) == 7 { println!("seven") }'

# Tests that trace or confine the process are left out, since LeakSanitizer cannot work in them.
address() (
    export RUSTFLAGS="-Zsanitizer=address" CARGO_TARGET_DIR=target/address
    finds "heap-use-after-free" "$use_after_free" "" -Zsanitizer=address
    finds "detected memory leaks" "$leak" "" -Zsanitizer=address
    cargo test --locked --target "$host" --lib --bins --test backpressure --test client \
        --test hostile --test limits --test log --test login --test pitfalls --test relay \
        --test security
    # Random tests run fewer rounds: one for each kind of shutdown, and some populations.
    A_CHAT_ROUNDS=4 cargo test --locked --target "$host" --test chaos
    A_CHAT_ROUNDS=20 cargo test --locked --target "$host" --test shutdown
)

# Suppressed are false alarms: it knows neither the fence by which the last owner of an `Arc` takes
# it over from the others, nor the ordering by a contended `Mutex` of the standard library, such as
# those in the lists of a channel's waiting threads.
threads() (
    export RUSTFLAGS="-Zsanitizer=thread -Cunsafe-allow-abi-mismatch=sanitizer"
    export CARGO_TARGET_DIR=target/threads PROPTEST_CASES=16
    printf 'race:%s\n' '*Arc<*drop_slow' '*Arc<*Drop>::drop' 'std::sync::mpmc' \
        'crossbeam_channel::waker::' >"$work/not-these"
    export TSAN_OPTIONS="suppressions=$work/not-these halt_on_error=0 exitcode=9"
    # shellcheck disable=SC2086 # these are several flags
    finds "data race" "$race" "" $RUSTFLAGS
    cargo test --locked --target "$host" --lib --no-default-features -- broker corpus panics window
)

values() (
    export PROPTEST_CASES=8
    local valgrind="valgrind -q --error-exitcode=9 --fair-sched=yes" runner=${host^^}
    finds "depends on uninitialised value" "$never_set" "$valgrind"
    # Slow tests are left out.
    env "CARGO_TARGET_${runner//-/_}_RUNNER=$valgrind" \
        cargo test --locked --lib -- --skip relay --skip any_ --skip no_wake_up_is_lost --test-threads=2
)

[ $# -gt 0 ] || set -- address threads values
for tool; do
    case $tool in
        address | threads) "$tool" ;;
        values) command -v valgrind >/dev/null || { echo "valgrind is missing" >&2 && exit 1; } && values ;;
        *) echo "usage: $0 [address] [threads] [values]" >&2 && exit 2 ;;
    esac
done
