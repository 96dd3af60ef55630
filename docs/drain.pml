/*
 * The threads and channels of a-chat, and how they shut down: a model that SPIN explores in full.
 * docs/how-it-stops.md explains the same in words; docs/check-drain.sh makes SPIN check all of it.
 *
 * SPIN tries every order in which the threads can take their steps, with a shutdown at any moment:
 *   - no thread waits forever, none runs forever, and all are joined (there is no invalid end state
 *     and no cycle);
 *   - each message owed to a client is delivered or lost, exactly once (`owed`), and every sender
 *     gets its window back (`used`);
 *   - each lost message is told to its sender, or counted as one whose sender is gone or that nobody
 *     is told of, exactly once (`unreported`);
 *   - a client receives each sender's messages in order and without gaps (`expects`);
 *   - a client that reads, and whose connection neither force nor the deadline aborts, receives
 *     every line that was accepted since it connected, then the notice with the right number, then
 *     a clean end of file.
 *
 * Names are those of src/. Each line is a batch of its own and goes to all connected clients, its
 * sender included, so a permit has several holders. Left out are names, except for one that is
 * taken; replies; bytes (a message is written and acknowledged as a whole); rounds; a full server;
 * panics; and how a parked reader is reliably woken, which is src/server/delivery/window/model.rs.
 *
 * Timeouts have no length. The drain's may expire at any moment. A client's may expire as soon as
 * that client has stopped reading, and not before.
 *
 * -D chooses what may happen:
 *   LATE          clients log in at any moment, not before everything else
 *   TAKEN         the last client's name is taken by another
 *   LEAVES        the last client may half-close at any moment
 *   LINGERS       a client that has left reads nothing before all others have their notices
 *   STUCK         the last client may stop reading, permanently, at any moment
 *   DEAD          the last client may reset its connection at any moment
 *   WRITES_FIRST  clients read nothing before all their lines are sent
 *   EVICT         the stall timeout may expire
 *   CUTOFF        the cutoff's deadline passes, at half of the drain's
 *   ROUTING       the broker's deadline for routing passes, after the cutoff's
 *   DEADLINE      the drain's deadline passes, after those
 *   FORCE         there is a second signal, at any moment after the first
 * Each of these is a mistake that violates one of the properties above:
 *   LEAVE_AT_SHUTDOWN, SELECT_ON_SHUTDOWN, EARLY_NOTICE, FORGET_PERMIT, FORGET_LOSS, KEEP_SENDER,
 *   NO_DISCARD, NO_LINGER, NO_PARK, COUNT_UNROUTED, KEEP_SENDER_FOR_LOSS, REPORT_TWICE
 */

#ifndef CLIENTS
#define CLIENTS 2
#endif
#ifndef LINES
#define LINES   2 /* that the first client sends */
#endif
#ifndef OTHERS
#define OTHERS  1 /* lines that each other client sends */
#endif
#ifndef WINDOW
#define WINDOW  1 /* lines of a client that may be queued */
#endif
#define SOCKET  1 /* lines that a kernel holds on either side of a socket */

mtype:phase = { Running, Draining, Forced };
mtype = { Name, Line, Eof, Broken, Cutoff };    /* the outcomes of reading */
mtype = { Join, Batch, Leave, Lost };           /* Event */
mtype = { Message, Notice, Rejection };         /* Outgoing */

/* ShutdownHandle: the phase, and which deadlines have passed. */
mtype:phase phase = Running;
bool cutoff_passed, routing_passed, deadline_passed;
#define CUTOFF_EXPIRED (phase == Forced || cutoff_passed)
#define ROUTING_EXPIRED (phase == Forced || routing_passed)
#define DRAIN_OVER    (phase == Forced || deadline_passed)

/* Each client's socket: its unread input, and data written to it that its kernel has not
   acknowledged. */
chan backlog        = [CLIENTS] of { byte };
chan input[CLIENTS] = [SOCKET] of { mtype, byte };
chan wire[CLIENTS]  = [SOCKET] of { mtype, byte, byte };
bool fin[CLIENTS], is_disconnected[CLIENTS], is_closed[CLIENTS];
bool reader_lingers[CLIENTS]; /* it discards input until the client has closed, or failed to in time */

/* The queues. They are unbounded: these are never full. Each is disconnected when its senders are
   dropped. */
chan inbox          = [LINES + (OTHERS + 3) * CLIENTS] of { mtype, byte, byte };
chan queue[CLIENTS] = [LINES + OTHERS * CLIENTS + 1] of { mtype, byte, byte };
byte broker_senders = 1; /* the acceptor's, and one for each reader */
bool queue_sender[CLIENTS];

/* Each client's Window, what parks and unparks its reader, and how many hold each line's permit. */
byte used[CLIENTS], holders[CLIENTS * LINES];
bool parked[CLIENTS], token[CLIENTS];
#define HAS_ROOM(c)      (used[c] < WINDOW)
#define HOLDERS(s, line) holders[(s) * LINES + (line) - 1]

/* Messages lost on the way to a client that are neither reported to the broker nor counted by the
   client's reader. */
byte unreported[CLIENTS];

/* What became of them: their senders were told or are gone, or are not told. */
byte lost[CLIENTS], told[CLIENTS], untold[CLIENTS];

/* What the joins wait for. */
byte finished_readers;
bool acceptor_exited, broker_exited, writer_exited[CLIENTS];

/* The report: lines accepted from a client, and messages owed to it and not yet accounted for. */
byte accepted[CLIENTS], owed[CLIENTS];
bool settled[CLIENTS];

/* What the clients do, and what they know: the next line's number from each, their notice. */
byte connected, sent[CLIENTS], expects[CLIENTS * CLIENTS];
bool stuck[CLIENTS], dead[CLIENTS], left[CLIENTS], notified[CLIENTS];
hidden byte i;
#define EXPECTS(c, s) expects[(c) * CLIENTS + (s)]
#define SENDS(c)      (c == 0 -> LINES : OTHERS)
#ifdef WRITES_FIRST
#define READS(c)      (!stuck[c] && sent[c] == SENDS(c))
#elif defined(LINGERS)
#define READS(c)      (!stuck[c] && (!left[c] || broker_exited))
#else
#define READS(c)      (!stuck[c])
#endif
#define HAS_CLOSED(c) (READS(c) && fin[c] && len(wire[c]) == 0) /* as it reads the end */
#define CAN_SEND(c)   (!left[c] && !is_disconnected[c] && !HAS_CLOSED(c) && len(input[c]) < SOCKET)
#ifdef TAKEN
#define IS_TAKEN(c)   (c == CLIENTS - 1)
#else
#define IS_TAKEN(c)   false
#endif
#ifdef EVICT
#define STALLED(c)    (stuck[c] && len(wire[c]) > 0)
#else
#define STALLED(c)    false
#endif

/* ---- window.rs ------------------------------------------------------------------------------ */

/* Permit::drop by one holder; the last one returns the room to the sender. */
inline drop_permit(s, line) {
    HOLDERS(s, line)--;
    if :: HOLDERS(s, line) == 0 -> return_charge(s) :: else fi
}
inline return_charge(s) { used[s]--; token[s] = token[s] || parked[s] }

/* Window::acquire as BatchSender::send calls it, which gives up by replacing the outcome Line. */
inline acquire() {
    do
    :: atomic { HAS_ROOM(c) -> used[c]++; break }
    :: atomic { !HAS_ROOM(c) ->
            known = phase;
            if
            :: known == Running && is_disconnected[c] -> what = Broken; break
            :: known != Running && CUTOFF_EXPIRED -> what = Cutoff; break
            :: else -> parked[c] = true
            fi }
#ifndef NO_PARK
        atomic { /* The timeouts of this wait, where they would make a difference */
            token[c] || (known == Running && is_disconnected[c]) ||
            (known != Running && cutoff_passed) ->
            token[c] = false; parked[c] = false }
#endif
    od
}

/* ---- connection.rs, linger.rs --------------------------------------------------------------- */

/* A message is lost. Only clients that do not read may lose one, or any client by force. */
inline lose() { assert(stuck[c] || dead[c] || DRAIN_OVER); owed[c]--; lost[c]++; unreported[c]++ }

/* Whatever is written and not acknowledged is finally lost. */
inline settle_final() {
    if :: !settled[c] && wire[c] ? [Message, _, _] -> lose() :: else fi;
    settled[c] = true
}

/* A reset discards everything in flight; the kernel still knows how much that was. */
inline reset() {
    settle_final();
    is_disconnected[c] = true;
    do :: wire[c] ? _, _, _ :: input[c] ? _, _ :: empty(wire[c]) && empty(input[c]) -> break od;
    /* Cleared, so states that differ in nothing else become one. */
    sent[c] = 0;
    for (i : 0 .. CLIENTS - 1) { EXPECTS(c, i) = 0 }
}

/* Closing a socket with unread input sends a reset. */
inline close() { is_closed[c] = true; if :: len(input[c]) > 0 -> reset() :: else fi }

/* Stays until everything is acknowledged, and the client has closed or failed to in time; for the
 * latter, the reader stays in a drain. */
inline linger() {
    do
    :: input[c] ? _, _
    :: atomic { is_disconnected[c] || STALLED(c) || (DRAIN_OVER && len(wire[c]) > 0) ->
            goto failed }
    :: atomic { !is_disconnected[c] && empty(wire[c]) && (stuck[c] || DRAIN_OVER) -> break }
    :: atomic { !is_disconnected[c] && empty(input[c]) && HAS_CLOSED(c) -> break }
    :: atomic { reader_lingers[c] && !is_disconnected[c] && empty(wire[c]) -> break }
    od
}

/* ---- acceptor.rs ---------------------------------------------------------------------------- */

proctype acceptor() {
    byte c, readers;
    do
    :: atomic { backlog ? c -> readers++; broker_senders++; run reader(c) }
    :: atomic { phase != Running ->
            do :: backlog ? c -> is_disconnected[c] = true :: empty(backlog) -> break od;
#ifndef KEEP_SENDER
            broker_senders--;
#endif
            for (c : 0 .. CLIENTS - 1) { token[c] = true } /* parked readers must notice too */
            break }
    od;
    atomic { finished_readers == readers -> acceptor_exited = true }
}

/* ---- reader.rs, input.rs ------------------------------------------------------------------------------ */

/* Reads a line, waiting for it, or one of those in the queue when the shutdown was noticed. */
inline fill_buffer() {
    do
    :: atomic { phase != Running && !at_cutoff -> at_cutoff = true; remaining = len(input[c]) }
    :: atomic { nempty(input[c]) && !at_cutoff -> input[c] ? what, line; break }
    :: atomic { nempty(input[c]) && at_cutoff && remaining > 0 && !CUTOFF_EXPIRED ->
            input[c] ? what, line; remaining--; break }
    :: atomic { at_cutoff && (remaining == 0 || CUTOFF_EXPIRED) ->
            what = Cutoff; remaining = 0; break }
    :: atomic { is_disconnected[c] -> what = Broken; remaining = 0; break }
    :: atomic { empty(input[c]) && !is_disconnected[c] && (is_closed[c] || HAS_CLOSED(c)) ->
            what = Eof; remaining = 0; break }
    od
}

proctype reader(byte c) {
    mtype what; mtype:phase known; byte line, remaining; bool at_cutoff;

    fill_buffer();
    if
    :: atomic { what == Name -> queue_sender[c] = true; run writer(c); inbox ! Join, c, 0 }
    :: atomic { what != Name -> broker_senders--; fin[c] = true; goto rejected }
    fi;
    do
    :: fill_buffer();
        if :: what == Line -> acquire() :: else fi;
        if :: atomic { what == Line -> inbox ! Batch, c, line; line = 0 } :: else -> break fi
    od;
    atomic {
        if
#ifndef LEAVE_AT_SHUTDOWN
        :: what == Cutoff || (what == Eof && at_cutoff) -> what = Cutoff
#endif
        :: else -> inbox ! Leave, c, 0
        fi;
        if :: what == Cutoff -> reader_lingers[c] = true; broker_senders-- :: else fi;
        line = 0
    }
    /* accounts.rs: waits for the writer or the shutdown, with the sender in hand. */
    if
    :: what == Cutoff
    :: atomic { what != Cutoff && writer_exited[c] ->
            if
            :: unreported[c] > 0 ->
                inbox ! Lost, c, unreported[c];
#ifndef REPORT_TWICE
                unreported[c] = 0
#endif
            :: else
            fi;
            broker_senders-- }
#ifndef KEEP_SENDER_FOR_LOSS
    :: atomic { what != Cutoff && phase != Running && !writer_exited[c] -> broker_senders-- }
#endif
    fi;
    do
#ifndef NO_DISCARD
    :: atomic { what == Cutoff && nempty(input[c]) -> input[c] ? _, _ }
#endif
    :: atomic { writer_exited[c] && (what != Cutoff || is_closed[c] || is_disconnected[c] ||
                (empty(input[c]) && HAS_CLOSED(c)) || stuck[c] || DRAIN_OVER) ->
            if :: what == Cutoff && !is_closed[c] && !is_disconnected[c] -> close() :: else fi;
            untold[c] = untold[c] + unreported[c]; unreported[c] = 0;
            what = 0; goto exited }
    od;
rejected:
    linger();
failed:
    atomic { close() }
exited:
    finished_readers++
}

/* ---- broker.rs ------------------------------------------------------------------------------ */

proctype broker() {
    byte c, r, line; bool peer[CLIENTS], was_cut_off[CLIENTS], said;
next:
    do
    :: atomic { inbox ? Join, c, _ ->
            connected++;
            if
            :: IS_TAKEN(c) -> queue[c] ! Rejection, c, 0; queue_sender[c] = false
            :: else ->
                peer[c] = true;
                for (r : 0 .. CLIENTS - 1) {
                    EXPECTS(c, r) = (is_disconnected[c] -> 0 : accepted[r] + 1)
                }
            fi }
    :: atomic { inbox ? Batch, c, line ->
            if :: IS_TAKEN(c) -> return_charge(c); line = 0; goto next :: else fi;
            assert(peer[c]);
            if
            :: ROUTING_EXPIRED -> /* Not accepted, nor is any later line. */
                was_cut_off[c] = true;
#ifdef COUNT_UNROUTED
                accepted[c]++;
#endif
                return_charge(c); line = 0; goto next
            :: else
            fi;
            assert(!was_cut_off[c] && line == accepted[c] + 1);
            accepted[c]++;
            for (r : 0 .. CLIENTS - 1) {
                if
                :: peer[r] -> HOLDERS(c, line)++; owed[r]++; queue[r] ! Message, c, line
                :: else -> /* No connected client is passed over. */
                    assert(EXPECTS(r, c) == 0 || left[r] || stuck[r])
                fi
            } }
    :: atomic { inbox ? Leave, c, _ ->
#ifdef LEAVE_AT_SHUTDOWN
            if :: phase != Running -> queue[c] ! Notice, c, accepted[c] :: else fi;
#endif
            if :: was_cut_off[c] -> queue[c] ! Notice, c, accepted[c] :: else fi;
            peer[c] = false; queue_sender[c] = false }
    :: atomic { inbox ? Lost, c, line -> /* For a client that has left. */
            assert(!peer[c]);
            told[c] = told[c] + line; line = 0 }
    :: atomic { empty(inbox) && broker_senders == 0 -> c = 0; line = 0; break }
#ifdef EARLY_NOTICE
    :: atomic { phase != Running && !said ->
            said = true;
            for (c : 0 .. CLIENTS - 1) {
                if :: peer[c] -> queue[c] ! Notice, c, accepted[c] :: else fi
            } }
#endif
    od;
    do /* One after the other: some may exit before others are notified. */
    :: atomic { c < CLIENTS && peer[c] ->
            if :: !said -> queue[c] ! Notice, c, accepted[c] :: else fi;
            peer[c] = false; queue_sender[c] = false; c++ }
    :: atomic { c < CLIENTS && !peer[c] -> c++ }
    :: atomic { c == CLIENTS -> c = 0; broker_exited = true; break }
    od
}

/* ---- writer.rs ------------------------------------------------------------------------------ */

proctype writer(byte c) {
    mtype what; byte from, line;
    do
    :: atomic { nempty(queue[c]) && nfull(wire[c]) && !is_disconnected[c] ->
            queue[c] ? what, from, line;
            wire[c] ! what, from, line;
            if :: what == Message -> drop_permit(from, line) :: else fi;
            what = 0; from = 0; line = 0;
            if :: DRAIN_OVER -> goto failed :: else fi }
    :: atomic { nempty(queue[c]) && (is_disconnected[c] || DRAIN_OVER) -> goto failed }
    :: atomic { STALLED(c) -> goto failed }
    :: atomic { empty(queue[c]) && !queue_sender[c] -> break }
#ifdef SELECT_ON_SHUTDOWN
    :: atomic { phase != Running -> break }
#endif
    od;
    fin[c] = true;
#ifdef NO_LINGER
    reader_lingers[c] = false;
#else
    linger();
#endif
    atomic { if :: reader_lingers[c] :: else -> close() fi; goto discard }
failed: /* First the count, then the reset: data acknowledged in between counts as lost. */
    atomic { settle_final() }
    atomic { reset() }
discard: /* Counts what still arrives as lost. */
    do
    :: atomic { queue[c] ? what, from, line ->
            if
            :: what == Message ->
#ifndef FORGET_LOSS
                lose();
#endif
#ifndef FORGET_PERMIT
                drop_permit(from, line);
#endif
            :: else
            fi;
            what = 0; from = 0; line = 0 }
    :: atomic { empty(queue[c]) && !queue_sender[c] -> break }
    od;
    atomic {
        assert(owed[c] == 0);
        assert(stuck[c] || dead[c] || DRAIN_OVER || !is_disconnected[c]); /* no reset */
        writer_exited[c] = true
    }
}

/* ---- the environment ------------------------------------------------------------------------ */

proctype client(byte c) {
    mtype what; byte s, line;
    input[c] ! Name, 0;
#ifndef LATE
    connected == CLIENTS;
#endif
end:do
    :: atomic { CAN_SEND(c) && sent[c] < SENDS(c) -> sent[c]++; input[c] ! Line, sent[c] }
    :: atomic { READS(c) && nempty(wire[c]) ->
            wire[c] ? what, s, line;
            if
            :: what == Message ->
                assert(line == EXPECTS(c, s)); EXPECTS(c, s)++;
                if :: !settled[c] -> owed[c]-- :: else fi
            :: what == Notice -> /* Everything arrives before it. */
                assert(line == accepted[c]);
                for (s : 0 .. CLIENTS - 1) { assert(EXPECTS(c, s) == accepted[s] + 1) }
                notified[c] = true
            :: what == Rejection -> /* Nothing arrives before it or after it. */
                assert(IS_TAKEN(c) && accepted[c] == 0 && !notified[c]);
                notified[c] = true
            fi;
            what = 0; s = 0; line = 0 }
#ifdef LEAVES
    :: atomic { c == CLIENTS - 1 && CAN_SEND(c) -> left[c] = true; input[c] ! Eof, 0 }
#endif
#ifdef STUCK
    :: atomic { c == CLIENTS - 1 && !stuck[c] && !HAS_CLOSED(c) -> stuck[c] = true }
#endif
#ifdef DEAD
    :: atomic { c == CLIENTS - 1 && !is_disconnected[c] && !HAS_CLOSED(c) ->
            dead[c] = true; reset() }
#endif
    od
}

proctype signals() {
#ifndef LATE
    connected == CLIENTS;
#endif
    phase = Draining;
#ifdef FORCE
    phase = Forced
#endif
}

proctype time() {
    phase != Running;
    cutoff_passed = true;
#ifdef ROUTING
    routing_passed = true;
#endif
#ifdef DEADLINE
    deadline_passed = true
#endif
}

/* Server::run, which joins the acceptor, which has joined the readers, and then the broker. */
init {
    byte c;
    atomic {
        run broker();
        run acceptor();
        run signals();
#if defined(CUTOFF) || defined(ROUTING) || defined(DEADLINE)
        run time();
#endif
        for (c : 0 .. CLIENTS - 1) { backlog ! c; run client(c) }
    }
    acceptor_exited;
    broker_exited;
    for (c : 0 .. CLIENTS - 1) {
        assert(used[c] == 0);
        assert(lost[c] == told[c] + untold[c]);
        /* A client that goes on reading reaches its last line, perhaps after this. */
        notified[c] || left[c] || stuck[c] || dead[c] || DRAIN_OVER || !writer_exited[c]
    }
}
