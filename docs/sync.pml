/*
 * A /sync, and how an account travels back: a model that SPIN explores in full.
 * docs/how-it-stops.md explains the same in words; docs/check-drain.sh makes SPIN check all of it.
 *
 * alice writes a line to bob, or to both, asks /sync, and does it again. bob reads, or stops reading,
 * resets, is evicted or leaves; a writer may panic; the server may be shut down: each at any moment.
 * SPIN tries every order of the threads' steps:
 *   - after "is delivered" every line that she sent before has arrived, and none was lost since the
 *     last time;
 *   - after "or was reported lost" she has been told of each line that has not;
 *   - no wait lasts forever, whatever becomes of bob, of alice or of the server.
 *
 * Names are those of src/. A message is written and acknowledged as a whole; only alice sends. What a
 * token is, and how it wakes its reader, is src/server/delivery/token/model.rs: here a wait sees what
 * it waits for. How the drain ends is docs/drain.pml.
 *
 * -D chooses what may happen:
 *   STUCK         bob may stop reading; he is then evicted, or lost at the drain's deadline
 *   DEAD          bob may reset his connection
 *   LEAVES        bob may half-close
 *   ITSELF        alice writes to herself, too, and may stop reading, and is evicted
 *   LATE          a /sync may wait no longer, and is asked again
 *   PANIC         bob's writer may panic in the middle of its account
 *   STOP          the server is shut down
 * Each of these is a mistake that violates one of the properties above:
 *   SHARE_BEFORE_NOTICE, SHARE_LOST_MEANS_DELIVERED, MARKER_OVERTAKES, NO_OWN_SHARE, SYNC_SLEEPS,
 *   FORGET_DEPARTED, FORGET_EARLIER_LOSS
 */

#define LINES 2
#define ALICE 0
#define BOB   1
#ifdef ITSELF
#define WRITES_TO(c) true
#else
#define WRITES_TO(c) (c == BOB)
#endif

mtype = { Batch, Sync, Synced, Leave, Lost, Settled };      /* Event */
mtype = { Message, Marker, Close };                         /* Outgoing */

bool draining, broker_exited;
chan inbox    = [8] of { mtype, byte, byte };   /* what, whose, a number */
chan queue[2] = [6] of { mtype, byte };
chan wire[2]  = [1] of { byte };                /* written and not acknowledged */
byte broker_senders = 2;

/* Token: one for each /sync, by the number of its line. */
byte open[LINES + 1];
bool unconfirmed[LINES + 1];
#define SETTLE(t) open[t]--
inline drop_share(t) {
    open[t]--;
#ifndef SHARE_LOST_MEANS_DELIVERED
    unconfirmed[t] = true
#endif
}

/* Peer, as the broker knows it: who is connected; for alice whom she may have messages at, and
   whether she was told of a loss since the last reply, or may have to be. */
bool peer[2], reached[2], lost_since_sync, unaccounted;

/* Departed, and what is in WriterExit: shares that a writer leaves behind. */
bool hung[4], departed_over[2], held[4];
#define AT(c, t) [(c) * 2 + (t) - 1]

/* Deliveries: due, taken by the writer, acknowledged, lost and on the way to the broker, told. */
byte due[2], taken[2], acked[2], reported[2], told[2];
byte forgiven[2], spoken_of;    /* what the replies so far have dealt with */
bool gone[2], settled[2], panicked[2];          /* the connection failed; Connection::settled */
bool stuck[2];

/* ---- reader.rs, sync.rs, accounts.rs --------------------------------------------------------- */

/* join_and_report: the reader of a client that has left waits for its writer, or for the shutdown,
   and takes the account to the broker. */
inline join_and_report(c) {
    atomic {
        settled[c] || draining ->
        if
        :: settled[c] && !panicked[c] ->
            if :: reported[c] > 0 -> inbox ! Lost, c, reported[c] :: else fi;
            inbox ! Settled, c, 0
        :: settled[c] && panicked[c] -> inbox ! Settled, c, 1
        :: else
        fi;
        broker_senders--
    }
}

/* A reader that ends without the broker drops what its writer has left behind. */
inline drop_account(c) {
    atomic {
        settled[c] && (draining || broker_exited) ->
        for (t : 1 .. LINES) {
            if :: held AT(c, t) -> held AT(c, t) = false; drop_share(t) :: else fi;
            if :: hung AT(c, t) -> hung AT(c, t) = false; drop_share(t) :: else fi
        }
    }
}

proctype alice_reader() {
    byte line, t; bool over;
    do
    :: atomic { line < LINES && !draining && !gone[ALICE] ->
            line++; inbox ! Batch, ALICE, line }
        atomic {
#ifndef NO_OWN_SHARE
            open[line] = 1;
#endif
            inbox ! Sync, ALICE, line
        }
        if
        :: atomic { open[line] == 0 && !unconfirmed[line] -> inbox ! Synced, ALICE, line }
        :: atomic { open[line] == 0 && unconfirmed[line] }
#ifdef LATE
        :: line < LINES
#endif
#ifndef SYNC_SLEEPS
        :: atomic { draining -> over = true }
        :: atomic { gone[ALICE] -> over = true }
#endif
        fi
    :: atomic { line == LINES || draining || gone[ALICE] || over -> break }
    od;
    if
    :: atomic { draining -> broker_senders-- }
    :: atomic { !draining -> inbox ! Leave, ALICE, 0 }
        join_and_report(ALICE)
    fi;
    drop_account(ALICE)
}

proctype bob_reader() {
    byte t;
    if
    :: atomic { gone[BOB] }
#ifdef LEAVES
    :: atomic { true }
#endif
    :: atomic { draining -> broker_senders--; goto joined }
    fi;
    inbox ! Leave, BOB, 0;
    join_and_report(BOB);
joined:
    drop_account(BOB)
}

/* ---- broker.rs, broker/sync.rs --------------------------------------------------------------- */

/* Peer::flush: what a round has queued for a client, then the markers. */
inline flush(c) {
    if :: pending[c] > 0 -> queue[c] ! Message, pending[c]; pending[c] = 0 :: else fi;
    if :: marked[c] > 0 -> queue[c] ! Marker, marked[c]; marked[c] = 0 :: else fi
}

proctype broker() {
    byte c, n, pending[2], marked[2];
    do
    :: atomic { inbox ? Batch, c, n ->
            for (c : 0 .. 1) {
                if
                :: peer[c] && WRITES_TO(c) -> flush(c); pending[c] = n; due[c]++; reached[c] = true
                :: else
                fi
            } }
    :: atomic { inbox ? Sync, c, n ->
            for (c : 0 .. 1) {
                if
                :: reached[c] && peer[c] ->
                    open[n]++;
#ifdef MARKER_OVERTAKES
                    queue[c] ! Marker, n
#else
                    marked[c] = n
#endif
                :: reached[c] && !peer[c] && !departed_over[c] ->
#ifndef FORGET_DEPARTED
                    open[n]++; hung AT(c, n) = true
#endif
                :: else
                fi;
#ifdef NO_OWN_SHARE
            }
#else
            }
            SETTLE(n)
#endif
        }
    :: atomic { pending[ALICE] + pending[BOB] + marked[ALICE] + marked[BOB] > 0 ->
            /* The end of a round. */
            for (c : 0 .. 1) { flush(c) } }
    :: atomic { inbox ? Leave, c, _ ->
            flush(c);
            if :: peer[c] -> queue[c] ! Close, 0; peer[c] = false :: else fi }
    :: atomic { inbox ? Lost, c, n ->
            told[c] = told[c] + n;
#ifdef FORGET_EARLIER_LOSS
            /* Remembered only if somebody asks just now. */
            if :: open[1] + open[2] > 0 -> lost_since_sync = true :: else fi
#else
            lost_since_sync = true
#endif
        }
    :: atomic { inbox ? Settled, c, n ->
#ifndef SHARE_LOST_MEANS_DELIVERED
            if :: n == 1 -> unaccounted = true :: else fi;
#endif
            for (n : 1 .. LINES) {
                if
                :: held AT(c, n) && !panicked[c] -> SETTLE(n)
                :: held AT(c, n) && panicked[c] -> drop_share(n)
                :: else
                fi;
                if
                :: hung AT(c, n) && !panicked[c] -> SETTLE(n)
                :: hung AT(c, n) && panicked[c] -> drop_share(n)
                :: else
                fi;
                held AT(c, n) = false; hung AT(c, n) = false
            }
            departed_over[c] = true }
    :: atomic { inbox ? Synced, _, n ->
            if
            :: unaccounted ->               /* "not everything": what is gone is not spoken of again */
                unaccounted = false;
                for (c : 0 .. 1) { forgiven[c] = due[c] - acked[c] - told[c] }
            :: !unaccounted && peer[ALICE] ->
                for (c : 0 .. 1) {
                    assert(acked[c] + told[c] + forgiven[c] == due[c])
                }
                assert(lost_since_sync == (told[ALICE] + told[BOB] > spoken_of));
                spoken_of = told[ALICE] + told[BOB]; lost_since_sync = false
            :: else
            fi;
            for (c : 0 .. 1) { reached[c] = false } }
    :: atomic { empty(inbox) && broker_senders == 0 &&
                pending[ALICE] + pending[BOB] + marked[ALICE] + marked[BOB] == 0 ->
            for (c : 0 .. 1) {
                if :: peer[c] -> queue[c] ! Close, 0; peer[c] = false :: else fi
            }
            broker_exited = true; break }
    od
}

/* ---- writer.rs, marks.rs --------------------------------------------------------------------- */

inline settle_marks(c) {
    for (t : 1 .. LINES) {
        if :: mark[t] > 0 && acked[c] >= mark[t] - 1 -> mark[t] = 0; SETTLE(t) :: else fi
    }
}
/* Departed::take, for a client that has left. */
inline collect(c) {
    for (t : 1 .. LINES) {
        if :: hung AT(c, t) -> hung AT(c, t) = false; mark[t] = taken[c] + 1 :: else fi
    }
}

proctype writer(byte c) {
    mtype what; byte line, t, mark[LINES + 1]; bool closed;
    do
    :: atomic { !closed && len(wire[c]) == 0 && queue[c] ? [Message, _] ->
            queue[c] ? what, line; taken[c]++; wire[c] ! line; line = 0 }
    :: atomic { queue[c] ? [Marker, _] -> queue[c] ? what, t;
            mark[t] = taken[c] + 1; settle_marks(c) }
    :: atomic { queue[c] ? [Close, _] -> queue[c] ? what, _; closed = true }
    :: atomic { mark[1] + mark[2] > 0 -> settle_marks(c) }
    :: atomic { closed -> collect(c); settle_marks(c);
            if :: len(wire[c]) == 0 && !gone[c] -> goto done :: else fi }
    :: atomic { gone[c] -> break }                      /* reset */
    :: atomic { stuck[c] && nempty(wire[c]) -> break }  /* evicted, or the deadline */
    od;
    /* settle_final, abort */
    atomic {
        gone[c] = true;
#ifdef PANIC
        if :: c == BOB -> panicked[c] = true :: true fi;
#endif
        reported[c] = taken[c] - acked[c];
        do :: wire[c] ? _ :: empty(wire[c]) -> break od;
#ifdef SHARE_BEFORE_NOTICE
        for (t : 1 .. LINES) { if :: mark[t] > 0 -> mark[t] = 0; SETTLE(t) :: else fi }
#else
        for (t : 1 .. LINES) { if :: mark[t] > 0 -> mark[t] = 0; held AT(c, t) = true :: else fi }
#endif
    }
    do /* discard_until_disconnected */
    :: atomic { closed -> break }
    :: atomic { queue[c] ? what, t ->
            if
            :: what == Message -> reported[c]++
            :: what == Marker -> held AT(c, t) = true
            :: else -> t = 0; break
            fi;
            t = 0 }
    od;
    atomic { settled[c] = true; goto end };
done:
    /* linger: everything is acknowledged, and what is hung in from now on is settled at once. */
    atomic { departed_over[c] = true; settled[c] = true };
end: skip
}

/* ---- the environment ------------------------------------------------------------------------- */

proctype client(byte c) {
end:do
    :: atomic { !stuck[c] && nempty(wire[c]) -> wire[c] ? _; acked[c]++ }
#ifdef STUCK
    :: atomic { c == BOB && !stuck[c] -> stuck[c] = true }
#endif
#ifdef ITSELF
    :: atomic { c == ALICE && !stuck[c] -> stuck[c] = true }
#endif
#ifdef DEAD
    :: atomic { c == BOB && !gone[c] && !settled[c] -> gone[c] = true; stuck[c] = true }
#endif
    od
}

init {
    atomic {
        peer[ALICE] = true; peer[BOB] = true;
        run broker(); run alice_reader(); run bob_reader();
        run writer(ALICE); run writer(BOB); run client(ALICE); run client(BOB)
    }
#ifdef STOP
    draining = true
#else
    /* alice has left, or has been evicted, and bob stays: he is told by a shutdown of no interest. */
    settled[ALICE];
    draining = true
#endif
}
