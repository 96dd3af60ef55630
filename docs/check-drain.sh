#!/usr/bin/env bash
# Makes SPIN explore the models of the drain, docs/drain.pml, and of losses and receipts, docs/sync.pml:
# everything that may happen, and each mistake that the models must find. Prints a line with the number
# of states for each, and fails if a property does not hold or a mistake is not found.
#
# With --long it also explores the cases with the most states, which find no further mistake and take
# three times as long.
#
# Needs spin (https://spinroot.com, in Debian the package spin) and a C compiler. Where they are
# missing it says so and succeeds, unless called with --require.
set -euo pipefail

missing=0 long=
for argument; do
    case $argument in
        --require) missing=1 ;;
        --long) long=1 ;;
        *) echo "usage: $0 [--require] [--long]" >&2 && exit 2 ;;
    esac
done
for tool in spin cc; do
    if ! command -v "$tool" >/dev/null; then
        echo "the model of the drain is not checked, since $tool is not installed here"
        exit "$missing"
    fi
done

docs=$(cd "$(dirname "$0")" && pwd)
drain=$docs/drain.pml sync=$docs/sync.pml
# The states of the short form fit into memory as they are, which takes a third less time.
compression=${long:+-DCOLLAPSE}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export drain sync work compression

# The expected result: `ends`, no assertion fails and all threads exit and are joined; `halts`, none
# runs forever either; otherwise a part of SPIN's complaint, which is the end of the assertion that
# does not hold, an invalid end state, or a cycle. Then the case's name and its flags.
cases() {
    cat <<'END'
ends  one client stops reading and is evicted       -DSTUCK -DEVICT
halts all write before they read, up to the cutoff  -DWRITES_FIRST -DCUTOFF -DOTHERS=0
ends  one client leaves, and reads last             -DLEAVES -DLINGERS -DCUTOFF -DOTHERS=0
halts lines too late to be routed                   -DWRITES_FIRST -DROUTING -DOTHERS=0
ends  lines too late, one client stops reading      -DROUTING -DSTUCK -DDEADLINE -DOTHERS=0 -DLINES=1
ends  two queued lines of each client               -DWINDOW=2
ends  clients connect at any moment                 -DLATE
halts clients connect at any moment                 -DLATE
ends  clients connect and reset, a second signal    -DLATE -DDEAD -DFORCE -DOTHERS=0 -DLINES=1
halts a name is taken                               -DTAKEN -DOTHERS=0
expects[   mistake: a reader leaves at shutdown     -DLEAVE_AT_SHUTDOWN
_passed))  mistake: a writer checks for shutdown    -DSELECT_ON_SHUTDOWN
accepted[s mistake: unrouted lines count            -DCOUNT_UNROUTED -DROUTING -DWRITES_FIRST
==accepted mistake: notices are queued at once      -DEARLY_NOTICE
owed[c]==0 mistake: a loss is not counted           -DFORGET_LOSS -DSTUCK -DEVICT
nnected[c] mistake: a close without lingering       -DNO_LINGER
invalid    mistake: a loss keeps its permit         -DFORGET_PERMIT -DSTUCK -DEVICT
invalid    mistake: the acceptor keeps its sender   -DKEEP_SENDER
invalid    mistake: a reader keeps its sender for a loss -DKEEP_SENDER_FOR_LOSS -DLEAVES -DLINGERS -DCUTOFF -DOTHERS=0
lost[c]==( mistake: a loss is reported twice        -DREPORT_TWICE -DSTUCK -DEVICT
invalid    mistake: unread input in the drain       -DNO_DISCARD -DWRITES_FIRST -DCUTOFF
cycle      mistake: waiting for room without parking -DNO_PARK -DOTHERS=0
ends  a /sync, one client is evicted, resets, leaves -DSYNC -DSTUCK -DDEAD -DLEAVES -DSTOP -DLATE
ends  a /sync, a client waits for itself            -DSYNC -DITSELF -DSTUCK -DLEAVES -DLATE
ends  a /sync, a writer panics                      -DSYNC -DSTUCK -DDEAD -DLEAVES -DPANIC -DLATE
acked[c]+  mistake: a share is settled before the notice -DSYNC -DSHARE_BEFORE_NOTICE -DSTUCK
acked[c]+  mistake: a lost share means delivered    -DSYNC -DSHARE_LOST_MEANS_DELIVERED -DSTUCK -DPANIC
acked[c]+  mistake: a marker overtakes a message    -DSYNC -DMARKER_OVERTAKES -DSTUCK
acked[c]+  mistake: the broker has no share of its own -DSYNC -DNO_OWN_SHARE -DSTUCK
invalid    mistake: a /sync sleeps through an eviction -DSYNC -DSYNC_SLEEPS -DITSELF -DSTUCK
invalid    mistake: a /sync sleeps through the shutdown -DSYNC -DSYNC_SLEEPS -DSTUCK -DSTOP
acked[c]+  mistake: a client that left is not asked -DSYNC -DFORGET_DEPARTED -DLEAVES
lost_since mistake: an earlier loss is forgotten    -DSYNC -DFORGET_EARLIER_LOSS -DDEAD
END
}

# Combinations of these, and larger ones, each with millions of states.
long_cases() {
    cat <<'END'
ends  a second signal, one client stops reading     -DSTUCK -DFORCE -DOTHERS=0
ends  the deadline, one client stops reading        -DSTUCK -DDEADLINE -DOTHERS=0
halts a second signal, one client stops reading     -DSTUCK -DFORCE -DOTHERS=0 -DLINES=1
halts the deadline, one client stops reading        -DSTUCK -DDEADLINE -DOTHERS=0 -DLINES=1
ends  one client resets, or is evicted              -DSTUCK -DEVICT -DDEAD -DOTHERS=0
ends  all write before they read, up to the cutoff  -DWRITES_FIRST -DCUTOFF
ends  one client leaves                             -DLEAVES
ends  lines too late to be routed                   -DWRITES_FIRST -DROUTING
ends  lines too late, one client leaves             -DROUTING -DLEAVES -DOTHERS=0
ends  a name is taken                               -DTAKEN
halts one client resets, or is evicted              -DSTUCK -DEVICT -DDEAD -DOTHERS=0
ends  three clients                                 -DCLIENTS=3 -DLINES=1 -DOTHERS=0
ends  a name is taken, a second signal              -DTAKEN -DSTUCK -DFORCE -DOTHERS=0 -DLINES=1
END
}

# Checks one case, in a directory of its own.
try() {
    local expected name flags complaint states verdict
    read -r expected name <<<"$1"
    read -ra flags <<<"-D${name#*-D}"
    read -r name <<<"${name%% -D*}"
    local model=$drain
    [[ " ${flags[*]} " != *" -DSYNC "* ]] || model=$sync
    cd "$(mktemp -d -p "$work")"
    local build=(-DSAFETY) run=()
    [[ $expected != @(halts|cycle) ]] || { build=(-DNP) && run=(-l); }
    # A search that ran out of memory or depth proves nothing.
    spin "${flags[@]}" -a "$model" >log 2>&1 &&
        cc -w -O2 $compression -DMEMLIM=1900 "${build[@]}" -o pan pan.c >>log 2>&1 &&
        ./pan -m10000 -b "${run[@]}" >log 2>&1 || true
    states=$(sed -n 's/^ *\([0-9]*\) states, stored.*/\1/p' log)
    complaint=$(sed -n 's/^pan:1: //p' log)
    case $expected in
        ends | halts) grep -q 'errors: 0$' log && ! grep -q 'not completed' log && verdict=holds ;;
        *) [[ $complaint == *"$expected"* ]] && verdict=found ;;
    esac
    printf '%-6s %9s states  %s%s\n' "${verdict:=FAILED}" "${states:-no}" "$name" \
        "$([ "$expected" != halts ] || echo ', without a cycle')"
    [ "$verdict" != FAILED ] || { tail -n 20 log && spin "${flags[@]}" -t -p -k ./*.trail "$model" |
        tail -n 200; } 2>&1
    [ "$verdict" != FAILED ]
}
export -f try

{ [ -z "$long" ] || long_cases; cases; } | tr '\n' '\0' | xargs -0 -n 1 -P "$(nproc)" bash -c 'try "$0"'
