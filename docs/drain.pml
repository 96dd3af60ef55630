/*
 * The threads and channels of a-chat, and how they stop: a model that SPIN explores in full.
 * docs/how-it-stops.md tells the same in words; docs/check-drain.sh lets SPIN try all of it.
 *
 * Every order in which the threads can take their steps is tried, with a stop at every moment:
 *   - no thread waits for ever and none runs for ever, all are joined (there is no invalid end
 *     state, and no cycle);
 *   - what is owed to a client is delivered or lost, exactly once (`due`), and every sender gets
 *     its window back (`used`);
 *   - a client gets what each of them sends in order and without gaps (`expects`);
 *   - a client that reads, and that neither force nor the deadline cuts off, gets every line that
 *     was accepted since it came, then the notice with the right number, then a clean end.
 *
 * Names are those of src/. Each line is a batch of its own and goes to everybody who is there, its
 * sender too, so that a permit has several holders. Left out are names but for one that is taken,
 * answers, bytes (a message is written and acknowledged whole), rounds, a full server, panics, and
 * how a parked reader is woken without fail, which is src/server/delivery/window/model.rs.
 *
 * Time-outs have no length. The drain's may pass at any moment. One that is given to a client may
 * pass as soon as that client has stopped reading, and not before.
 *
 * What may happen is chosen with -D:
 *   LATE          clients log in at any moment, not before all else
 *   TAKEN         the last client's name is in use by another
 *   LEAVES        the last client may half-close at any moment
 *   STUCK         the last client may stop reading, for good, at any moment
 *   DEAD          the last client may reset its connection at any moment
 *   WRITES_FIRST  clients read nothing before all their lines are sent
 *   EVICT         the stall time-out may pass
 *   CUT           the cut's deadline passes, half of the drain's
 *   DEADLINE      the drain's deadline passes, after the cut's
 *   FORCE         there is a second signal, at any moment after the first
 * Each of these is a mistake, with which something of the above does not hold:
 *   LEAVE_AT_STOP, SELECT_ON_STOP, EARLY_NOTICE, FORGET_PERMIT, FORGET_LOSS, KEEP_SENDER,
 *   NO_DISCARD, NO_LINGER, NO_PARK
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
#define WINDOW  1 /* lines that a client may have on their way */
#endif
#define SOCKET  1 /* lines that a kernel holds on either side of a socket */

mtype:phase = { Running, Draining, Forced };
mtype = { Name, Line, End, Broken, Cut }; /* what comes of reading */
mtype = { Join, Batch, Leave };           /* Event */
mtype = { Message, Notice, Refusal };     /* Outgoing */

/* ShutdownHandle: the phase, and how much of the drain's time is over. */
mtype:phase phase = Running;
bool half_over, all_over;
#define CUT_IS_OVER (phase == Forced || half_over)
#define MUST_END    (phase == Forced || all_over)

/* Each client's socket: what it has sent and nobody has read, and what was written to it and its
   kernel has not acknowledged. */
chan backlog        = [CLIENTS] of { byte };
chan input[CLIENTS] = [SOCKET] of { mtype, byte };
chan wire[CLIENTS]  = [SOCKET] of { mtype, byte, byte };
bool fin[CLIENTS], is_gone[CLIENTS], is_closed[CLIENTS];

/* The queues. They have no bound: these are never full. Each ends when its senders are gone. */
chan inbox          = [LINES + (OTHERS + 2) * CLIENTS] of { mtype, byte, byte };
chan queue[CLIENTS] = [LINES + OTHERS * CLIENTS + 1] of { mtype, byte, byte };
byte broker_senders = 1; /* the acceptor's, and one of each reader */
bool queue_sender[CLIENTS];

/* Each client's Window, what parks and unparks its reader, and how many hold each line's permit. */
byte used[CLIENTS], holders[CLIENTS * LINES];
bool parked[CLIENTS], token[CLIENTS];
#define HAS_ROOM(c)      (used[c] < WINDOW)
#define HOLDERS(s, line) holders[(s) * LINES + (line) - 1]

/* What joining waits for. */
byte ended_readers;
bool acceptor_ended, broker_ended, writer_ended[CLIENTS];

/* The report: lines accepted from a client, and messages owed to it that are not accounted for. */
byte accepted[CLIENTS], due[CLIENTS];
bool settled[CLIENTS];

/* What the clients do, and what they know: the next line's number from each, their notice. */
byte here, sent[CLIENTS], expects[CLIENTS * CLIENTS];
bool stuck[CLIENTS], dead[CLIENTS], left[CLIENTS], told[CLIENTS];
hidden byte i;
#define EXPECTS(c, s) expects[(c) * CLIENTS + (s)]
#define SENDS(c)      (c == 0 -> LINES : OTHERS)
#ifdef WRITES_FIRST
#define READS(c)      (!stuck[c] && sent[c] == SENDS(c))
#else
#define READS(c)      (!stuck[c])
#endif
#define HAS_CLOSED(c) (READS(c) && fin[c] && len(wire[c]) == 0) /* as it reads the end */
#define CAN_SEND(c)   (!left[c] && !is_gone[c] && !HAS_CLOSED(c) && len(input[c]) < SOCKET)
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

/* Permit::drop, of one holder; with the last one the sender has its room back. */
inline give_back(s, line) {
    HOLDERS(s, line)--;
    if :: HOLDERS(s, line) == 0 -> give_all_back(s) :: else fi
}
inline give_all_back(s) { used[s]--; token[s] = token[s] || parked[s] }

/* Window::acquire as Outbox::send calls it, which gives up by making something else of the Line. */
inline acquire() {
    do
    :: atomic { HAS_ROOM(c) -> used[c]++; break }
    :: atomic { !HAS_ROOM(c) ->
            known = phase;
            if
            :: known == Running && is_gone[c] -> what = Broken; break
            :: known != Running && CUT_IS_OVER -> what = Cut; break
            :: else -> parked[c] = true
            fi }
#ifndef NO_PARK
        atomic { /* The time-outs of this wait, as far as they would change anything, and no more */
            token[c] || (known == Running && is_gone[c]) || (known != Running && half_over) ->
            token[c] = false; parked[c] = false }
#endif
    od
}

/* ---- connection.rs, linger.rs --------------------------------------------------------------- */

/* A message is lost. That may happen to who does not read, or by force, and to nobody else. */
inline lose() { assert(stuck[c] || dead[c] || MUST_END); due[c]-- }

/* What is written and not acknowledged is lost, once and for all. */
inline settle() {
    if :: !settled[c] && wire[c] ? [Message, _, _] -> lose() :: else fi;
    settled[c] = true
}

/* A reset throws away what is on its way; the kernel still tells how much that was. */
inline reset() {
    settle();
    is_gone[c] = true;
    do :: wire[c] ? _, _, _ :: input[c] ? _, _ :: empty(wire[c]) && empty(input[c]) -> break od;
    /* Forgotten, so that states which differ in nothing else are one. */
    sent[c] = 0;
    for (i : 0 .. CLIENTS - 1) { EXPECTS(c, i) = 0 }
}

/* A socket that is closed with unread input answers with a reset. */
inline close() { is_closed[c] = true; if :: len(input[c]) > 0 -> reset() :: else fi }

/* Stays until all is acknowledged and the client has closed, or did not in time. */
inline linger() {
    do
    :: input[c] ? _, _
    :: atomic { is_gone[c] || STALLED(c) || (MUST_END && len(wire[c]) > 0) -> goto failed }
    :: atomic { !is_gone[c] && empty(wire[c]) && (stuck[c] || MUST_END) -> break }
    :: atomic { !is_gone[c] && empty(input[c]) && HAS_CLOSED(c) -> break }
    od
}

/* ---- acceptor.rs ---------------------------------------------------------------------------- */

proctype acceptor() {
    byte c, readers;
    do
    :: atomic { backlog ? c -> readers++; broker_senders++; run reader(c) }
    :: atomic { phase != Running ->
            do :: backlog ? c -> is_gone[c] = true :: empty(backlog) -> break od;
#ifndef KEEP_SENDER
            broker_senders--;
#endif
            for (c : 0 .. CLIENTS - 1) { token[c] = true } /* parked readers hear of the stop too */
            break }
    od;
    atomic { ended_readers == readers -> acceptor_ended = true }
}

/* ---- reader.rs ------------------------------------------------------------------------------ */

/* Reads a line, waiting for it, or one of those that were there when the stop was seen. */
inline fill() {
    do
    :: atomic { phase != Running && !cutting -> cutting = true; cut = len(input[c]) }
    :: atomic { nempty(input[c]) && !cutting -> input[c] ? what, line; break }
    :: atomic { nempty(input[c]) && cutting && cut > 0 && !CUT_IS_OVER ->
            input[c] ? what, line; cut--; break }
    :: atomic { cutting && (cut == 0 || CUT_IS_OVER) -> what = Cut; cut = 0; break }
    :: atomic { is_gone[c] -> what = Broken; cut = 0; break }
    :: atomic { empty(input[c]) && !is_gone[c] && (is_closed[c] || HAS_CLOSED(c)) ->
            what = End; cut = 0; break }
    od
}

proctype reader(byte c) {
    mtype what; mtype:phase known; byte line, cut; bool cutting;

    fill();
    if
    :: atomic { what == Name -> queue_sender[c] = true; run writer(c); inbox ! Join, c, 0 }
    :: atomic { what != Name -> broker_senders--; fin[c] = true; goto rejected }
    fi;
    do
    :: fill();
        if :: what == Line -> acquire() :: else fi;
        if :: atomic { what == Line -> inbox ! Batch, c, line; line = 0 } :: else -> break fi
    od;
    atomic {
        if
#ifndef LEAVE_AT_STOP
        :: what == Cut || (what == End && cutting) -> what = Cut
#endif
        :: else -> inbox ! Leave, c, 0
        fi;
        broker_senders--; line = 0
    }
    do
#ifndef NO_DISCARD
    :: atomic { what == Cut && nempty(input[c]) -> input[c] ? _, _ }
#endif
    :: atomic { writer_ended[c] -> what = 0; goto ended }
    od;
rejected:
    linger();
failed:
    atomic { close() }
ended:
    ended_readers++
}

/* ---- broker.rs ------------------------------------------------------------------------------ */

proctype broker() {
    byte c, r, line; bool peer[CLIENTS], said;
next:
    do
    :: atomic { inbox ? Join, c, _ ->
            here++;
            if
            :: IS_TAKEN(c) -> queue[c] ! Refusal, c, 0; queue_sender[c] = false
            :: else ->
                peer[c] = true;
                for (r : 0 .. CLIENTS - 1) { EXPECTS(c, r) = (is_gone[c] -> 0 : accepted[r] + 1) }
            fi }
    :: atomic { inbox ? Batch, c, line ->
            if :: IS_TAKEN(c) -> give_all_back(c); line = 0; goto next :: else fi;
            assert(peer[c] && line == accepted[c] + 1);
            accepted[c]++;
            for (r : 0 .. CLIENTS - 1) {
                if
                :: peer[r] -> HOLDERS(c, line)++; due[r]++; queue[r] ! Message, c, line
                :: else -> /* Nobody is passed over who has come and has not gone. */
                    assert(EXPECTS(r, c) == 0 || left[r] || stuck[r])
                fi
            } }
    :: atomic { inbox ? Leave, c, _ ->
#ifdef LEAVE_AT_STOP
            if :: phase != Running -> queue[c] ! Notice, c, accepted[c] :: else fi;
#endif
            peer[c] = false; queue_sender[c] = false }
    :: atomic { empty(inbox) && broker_senders == 0 -> c = 0; line = 0; break }
#ifdef EARLY_NOTICE
    :: atomic { phase != Running && !said ->
            said = true;
            for (c : 0 .. CLIENTS - 1) {
                if :: peer[c] -> queue[c] ! Notice, c, accepted[c] :: else fi
            } }
#endif
    od;
    do /* One after the other: some may be at their end before others hear of it. */
    :: atomic { c < CLIENTS && peer[c] ->
            if :: !said -> queue[c] ! Notice, c, accepted[c] :: else fi;
            peer[c] = false; queue_sender[c] = false; c++ }
    :: atomic { c < CLIENTS && !peer[c] -> c++ }
    :: atomic { c == CLIENTS -> c = 0; broker_ended = true; break }
    od
}

/* ---- writer.rs ------------------------------------------------------------------------------ */

proctype writer(byte c) {
    mtype what; byte from, line;
    do
    :: atomic { nempty(queue[c]) && nfull(wire[c]) && !is_gone[c] ->
            queue[c] ? what, from, line;
            wire[c] ! what, from, line;
            if :: what == Message -> give_back(from, line) :: else fi;
            what = 0; from = 0; line = 0;
            if :: MUST_END -> goto failed :: else fi }
    :: atomic { nempty(queue[c]) && (is_gone[c] || MUST_END) -> goto failed }
    :: atomic { STALLED(c) -> goto failed }
    :: atomic { empty(queue[c]) && !queue_sender[c] -> break }
#ifdef SELECT_ON_STOP
    :: atomic { phase != Running -> break }
#endif
    od;
    fin[c] = true;
#ifndef NO_LINGER
    linger();
#endif
    atomic { close(); goto outlast }
failed: /* First the numbers, then the end: what is acknowledged in between counts as lost. */
    atomic { settle() }
    atomic { reset() }
outlast: /* Takes what still comes as lost. */
    do
    :: atomic { queue[c] ? what, from, line ->
            if
            :: what == Message ->
#ifndef FORGET_LOSS
                lose();
#endif
#ifndef FORGET_PERMIT
                give_back(from, line);
#endif
            :: else
            fi;
            what = 0; from = 0; line = 0 }
    :: atomic { empty(queue[c]) && !queue_sender[c] -> break }
    od;
    atomic {
        assert(due[c] == 0);
        assert(stuck[c] || dead[c] || MUST_END || !is_gone[c]); /* no reset */
        writer_ended[c] = true
    }
}

/* ---- the world around ----------------------------------------------------------------------- */

proctype client(byte c) {
    mtype what; byte s, line;
    input[c] ! Name, 0;
#ifndef LATE
    here == CLIENTS;
#endif
end:do
    :: atomic { CAN_SEND(c) && sent[c] < SENDS(c) -> sent[c]++; input[c] ! Line, sent[c] }
    :: atomic { READS(c) && nempty(wire[c]) ->
            wire[c] ? what, s, line;
            if
            :: what == Message ->
                assert(line == EXPECTS(c, s)); EXPECTS(c, s)++;
                if :: !settled[c] -> due[c]-- :: else fi
            :: what == Notice -> /* Everything has come before it. */
                assert(line == accepted[c]);
                for (s : 0 .. CLIENTS - 1) { assert(EXPECTS(c, s) == accepted[s] + 1) }
                told[c] = true
            :: what == Refusal -> /* Nothing comes before it, and nothing after. */
                assert(IS_TAKEN(c) && accepted[c] == 0 && !told[c]);
                told[c] = true
            fi;
            what = 0; s = 0; line = 0 }
#ifdef LEAVES
    :: atomic { c == CLIENTS - 1 && CAN_SEND(c) -> left[c] = true; input[c] ! End, 0 }
#endif
#ifdef STUCK
    :: atomic { c == CLIENTS - 1 && !stuck[c] && !HAS_CLOSED(c) -> stuck[c] = true }
#endif
#ifdef DEAD
    :: atomic { c == CLIENTS - 1 && !is_gone[c] && !HAS_CLOSED(c) -> dead[c] = true; reset() }
#endif
    od
}

proctype signals() {
#ifndef LATE
    here == CLIENTS;
#endif
    phase = Draining;
#ifdef FORCE
    phase = Forced
#endif
}

proctype time() {
    phase != Running;
    half_over = true;
#ifdef DEADLINE
    all_over = true
#endif
}

/* Server::run, which joins the acceptor, who has joined the readers, and then the broker. */
init {
    byte c;
    atomic {
        run broker();
        run acceptor();
        run signals();
#if defined(CUT) || defined(DEADLINE)
        run time();
#endif
        for (c : 0 .. CLIENTS - 1) { backlog ! c; run client(c) }
    }
    acceptor_ended;
    broker_ended;
    for (c : 0 .. CLIENTS - 1) {
        assert(used[c] == 0);
        /* Who reads on comes to a last line, be it after this. */
        told[c] || left[c] || stuck[c] || dead[c] || MUST_END || !writer_ended[c]
    }
}
