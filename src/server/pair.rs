//! The two sockets of a session, and the moving of bytes between them.

use std::io::{self, ErrorKind};
use std::os::fd::BorrowedFd;

use mio::Registry;

use crate::os::errors;
use crate::os::pipe::Pipe;
use crate::proxy::buffer::READ_BYTES;
use crate::proxy::policy::UpstreamId;
use crate::proxy::session::{Session, Step};
use crate::proxy::side::{Both, Side};
use crate::proxy::turn::Turn;
use crate::server::deadlines::Armed;
use crate::server::socket::{Moved, Socket};
use crate::server::table::{Holder, PairKey, SocketKey, Table};
use crate::server::upstreams::Upstreams;

/// What a write costs of the budget, however short: a client can ask for many small answers with few bytes.
const WRITE_COST: usize = 1024;

/// Who spends so much at once moves bulk: more than a page with what belongs to it, less than a read.
const BULK_SPENT_MIN: usize = 16 * 1024;

/// What a pair may move before the others have their turn, in bytes read and written. A relay that drains a socket until it would
/// block makes its neighbours wait for that long.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    max: usize,
    spent: usize,
}

impl Budget {
    /// Of who moved little when it was driven last: half of the other.
    pub const PROMPT: Budget = Budget { max: READ_BYTES, spent: 0 };
    /// Of who moved much: what one read brings, and its way out.
    pub const BULK: Budget = Budget { max: 2 * READ_BYTES, spent: 0 };

    /// What has been spent of it.
    pub fn spent(&self) -> usize {
        self.spent
    }

    fn spend(&mut self, cost: usize) {
        self.spent = self.spent.saturating_add(cost);
    }

    fn is_spent(&self) -> bool {
        self.spent >= self.max
    }
}

/// What sockets need beyond themselves.
#[derive(Debug)]
pub struct Net {
    /// Where their events come from.
    pub registry: Registry,
    /// Who they are.
    pub table: Table,
    /// Whom to connect to.
    pub upstreams: Upstreams,
    /// The kernel may hold events that this turn does not know of: what looks quiet may not be.
    pub may_be_behind: bool,
    /// Where bulk goes from one socket to the other.
    pub pipe: Option<Pipe>,
}

/// A session and its one or two sockets, which know nothing of each other.
#[derive(Debug)]
pub struct Pair {
    session: Session,
    sockets: Both<Option<SocketKey>>,
    /// When the loop looks at it again anyway.
    pub armed: Armed,
    /// What the loop has taken note of since it was last driven.
    pub noted: Noted,
    /// What it moved when it was last driven, in KiB.
    spent_kib: u16,
}

/// What happened to a pair, to be told to its session when it is driven.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Noted {
    /// It waits in the run queue.
    pub is_queued: bool,
    /// It is on its way to another process: nothing is done about what happens.
    pub is_frozen: bool,
    /// Its client will send nothing more.
    pub hung_up: bool,
    /// Its deadline has passed.
    pub is_due: bool,
    /// The connection of a side broke.
    pub broke: Both<bool>,
}

impl Noted {
    /// Whether there is anything to be told.
    fn is_news(&self) -> bool {
        self.hung_up | self.is_due | self.broke.client | self.broke.upstream
    }

    /// What there is to be told, which is noted no more.
    fn take_news(&mut self) -> Noted {
        let noted = *self;
        *self = Noted { is_queued: self.is_queued, is_frozen: self.is_frozen, ..Noted::default() };
        noted
    }
}

/// How far a pair was driven.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Driven {
    /// As far as it goes without another event.
    Parked,
    /// Its budget is spent, and there is more to do: behind the others.
    Again,
    /// It has ended, and its sockets are closed.
    Ended,
}

impl Pair {
    /// A session and the socket of its client.
    pub fn new(session: Session, client: SocketKey) -> Pair {
        let sockets = Both { client: Some(client), upstream: None };
        Pair { session, sockets, armed: None, noted: Noted::default(), spent_kib: 0 }
    }

    /// A session that comes from another process, and its sockets.
    pub fn moved(session: Session, sockets: Both<Option<SocketKey>>) -> Pair {
        Pair { session, sockets, armed: None, noted: Noted::default(), spent_kib: 0 }
    }

    /// The descriptors of its sockets, the client's first.
    pub fn descriptors<'t>(&self, table: &'t Table) -> impl Iterator<Item = BorrowedFd<'t>> {
        let keys = Side::BOTH.map(|side| self.sockets[side]);
        keys.into_iter().flatten().filter_map(|key| table.descriptor(key))
    }

    /// Lets go of its sockets, which another process has.
    pub fn let_go(&mut self, net: &mut Net) {
        for side in Side::BOTH {
            if let Some(key) = self.sockets[side].take() {
                net.table.let_go(key, &net.registry);
            }
        }
    }

    /// What it spent when it was last driven, in whole KiB.
    pub fn spent(&self) -> usize {
        usize::from(self.spent_kib) * 1024
    }

    /// Whether it moved much when it was last driven, and so will probably do again.
    pub fn moves_bulk(&self) -> bool {
        self.spent() >= BULK_SPENT_MIN
    }

    /// Whether it moved all that it may when it was last driven, and had more.
    fn saturates(&self) -> bool {
        self.spent() >= Budget::BULK.max
    }

    /// Whether its sockets are closed, or another process's.
    pub fn has_ended(&self) -> bool {
        self.sockets.client.is_none()
    }

    /// The session.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// The session, to be told a fact. The pair is to be driven then.
    pub fn session_mut(&mut self) -> &mut Session {
        &mut self.session
    }

    /// Tells the session what was noted, then moves bytes until nothing moves any more or the budget is spent.
    #[inline(always)]
    pub fn drive(&mut self, key: PairKey, budget: &mut Budget, net: &mut Net, turn: &mut Turn) -> Driven {
        #[cfg(test)]
        tests::panic_if_cursed(&self.session);
        let passed = if self.noted.is_news() { None } else { self.pass_straight(budget, net, turn) };
        let driven = passed.unwrap_or_else(|| self.drive_long(key, budget, net, turn));
        // At most the budget, and one read and one write of each side. Who waits for a next request begins anew.
        self.spent_kib = if self.session.is_idle() { 0 } else { (budget.spent / 1024) as u16 };
        driven
    }

    #[inline(always)]
    fn drive_long(&mut self, key: PairKey, budget: &mut Budget, net: &mut Net, turn: &mut Turn) -> Driven {
        let noted = self.noted.take_news();
        if noted.hung_up {
            self.session.hung_up(turn);
        }
        if noted.is_due && self.session.deadline().is_some_and(|deadline| deadline <= turn.now) {
            if let Some(upstream) = self.session.upstream_under_way() {
                net.upstreams.note_failure(upstream, turn.now);
            }
            self.session.timed_out(turn);
        }
        self.carry_out_steps(key, net, turn);
        loop {
            let read = self.read(Side::Client, net, turn) + self.read(Side::Upstream, net, turn);
            // A connection that a request wants is written to at once.
            self.carry_out_steps(key, net, turn);
            let written = self.write(Side::Client, net, turn) + self.write(Side::Upstream, net, turn);
            let cost = read + written;
            budget.spend(cost);
            self.carry_out_steps(key, net, turn);
            if cost == 0 || budget.is_spent() {
                break;
            }
        }
        if noted.broke != Both::default() {
            self.tell_breaks(noted, net, turn);
            self.carry_out_steps(key, net, turn);
        }
        self.session.settle(turn);
        if self.session.is_closed() {
            Side::BOTH.into_iter().for_each(|side| self.close(side, net));
            return Driven::Ended;
        }
        let has_more = |side| self.can_read(side, net) || self.can_write(side, net);
        if budget.is_spent() && Side::BOTH.into_iter().any(has_more) { Driven::Again } else { Driven::Parked }
    }

    /// It has lived for a while, and is looked at. A tunnel may be silent for hours from now on: the kernel is to watch that both peers live.
    pub fn watch_peers(&self, net: &mut Net) {
        if self.session.is_tunnel() {
            for side in Side::BOTH {
                if let Some(socket) = self.socket(side, net) {
                    socket.watch_peer(side);
                }
            }
        }
    }

    /// Resets both sides of a session that can no longer be trusted.
    pub fn give_up(&mut self, net: &mut Net) {
        log::error!(
            "{} event=panic why=\"a bug in hawkey: this session is reset, the others go on\"",
            self.session.number()
        );
        for side in Side::BOTH {
            self.abort(side, net);
        }
    }

    /// A side that is read tells of its end or its error by itself, behind all that it has sent. One that is not read because
    /// the other takes nothing would never be heard.
    #[cold]
    fn tell_breaks(&mut self, noted: Noted, net: &mut Net, turn: &mut Turn) {
        for side in Side::BOTH.into_iter().filter(|side| noted.broke[*side]) {
            if self.session.minds_loss(side)
                && let Some(error) = self.socket(side, net).map(|socket| socket.error())
            {
                self.session.broke(side, &error, turn);
            }
        }
    }

    fn can_read(&self, side: Side, net: &Net) -> bool {
        self.sockets[side].is_some_and(|key| net.table.is_readable(key)) && self.session.wants_read(side)
    }

    fn can_write(&self, side: Side, net: &Net) -> bool {
        self.session.wants_write(side) && self.sockets[side].is_some_and(|key| net.table.is_writable(key))
    }

    fn socket<'n>(&self, side: Side, net: &'n mut Net) -> Option<&'n mut Socket> {
        self.sockets[side].and_then(|key| net.table.socket(key))
    }

    /// Writes what may leave for `side`, once. What that costs of the budget: 0 if nothing came of it.
    #[inline(always)]
    fn write(&mut self, side: Side, net: &mut Net, turn: &mut Turn) -> usize {
        let Some(socket) =
            self.sockets[side].filter(|_| self.session.wants_write(side)).and_then(|key| net.table.socket(key))
        else {
            return 0;
        };
        if !socket.is_writable() {
            return 0;
        }
        match socket.write(self.session.leaving(side)) {
            Moved::Bytes(n) => {
                self.session.sent(side, n, turn);
                return n.max(WRITE_COST);
            }
            Moved::Nothing | Moved::End => return 0,
            Moved::Broken(error) => match self.session.upstream_under_way().filter(|_| side == Side::Upstream) {
                None => self.session.deafened(side, &error, turn),
                Some(upstream) => {
                    net.upstreams.note_failure(upstream, turn.now);
                    self.session.broke(side, &error, turn);
                }
            },
        }
        WRITE_COST
    }

    /// Reads what `side` has sent, once. What that costs of the budget: 0 if nothing came of it.
    #[inline(always)]
    fn read(&mut self, side: Side, net: &mut Net, turn: &mut Turn) -> usize {
        let Some(socket) = self.sockets[side].and_then(|key| net.table.socket(key)) else { return 0 };
        if !socket.is_readable() || !self.session.wants_read(side) {
            return 0;
        }
        let room = self.session.room(side, turn);
        if room.is_empty() {
            return 0;
        }
        let moved = socket.read(room);
        let Moved::Bytes(n) = moved else { return heard_nothing(&mut self.session, side, moved, turn) };
        self.session.received(side, n, turn);
        n
    }

    /// The way of nearly all bytes of tunnels and long bodies: one read of each socket that has something, written to the other, and
    /// nothing else to do. `None` if there is more to see to.
    ///
    /// Nothing but speed speaks for it: the long way takes two and a half times as many instructions.
    #[inline(always)]
    fn pass_straight(&mut self, budget: &mut Budget, net: &mut Net, turn: &mut Turn) -> Option<Driven> {
        let saturates = self.saturates();
        let (client, upstream) = net.table.both(self.sockets.client?, self.sockets.upstream?)?;
        let mut pipe = Some(&mut net.pipe).filter(|_| saturates);
        let session = &mut self.session;
        Passage { session, side: Side::Client, from: client, to: upstream }.take(pipe.as_deref_mut(), budget, turn)?;
        let session = &mut self.session;
        Passage { session, side: Side::Upstream, from: upstream, to: client }.take(pipe, budget, turn)?;
        let has_more = client.is_readable() || upstream.is_readable();
        (budget.spent > 0).then_some(if has_more { Driven::Again } else { Driven::Parked })
    }

    // In place it saves 93 instructions of a GET.
    #[inline(always)]
    fn carry_out_steps(&mut self, key: PairKey, net: &mut Net, turn: &mut Turn) {
        while let Some(step) = self.session.next_step() {
            self.carry_out(step, key, net, turn);
        }
    }

    #[cold]
    fn carry_out(&mut self, step: Step, key: PairKey, net: &mut Net, turn: &mut Turn) {
        match step {
            Step::Connect => self.connect(key, net, turn),
            Step::Release => self.release(net, turn),
            Step::Shutdown(side) => {
                if let Some(socket) = self.socket(side, net) {
                    socket.shut_down();
                }
            }
            Step::Abort(side) => self.abort(side, net),
            Step::Close(side) => self.close(side, net),
        }
    }

    fn abort(&mut self, side: Side, net: &mut Net) {
        if let Some(socket) = self.socket(side, net) {
            socket.reset_on_close();
        }
        self.close(side, net);
    }

    fn close(&mut self, side: Side, net: &mut Net) {
        if let Some(key) = self.sockets[side].take() {
            net.table.close(key);
        }
    }

    /// Finds a connection to the upstream whose turn it is: one that is idle, or a new one.
    fn connect(&mut self, key: PairKey, net: &mut Net, turn: &mut Turn) {
        let Some(wanted) = self.session.wanted() else { return };
        let fresh = wanted.fresh;
        let Some(upstream) = net.upstreams.choose(&wanted, turn.now) else { return };
        let holder = Holder::Upstream(key, upstream);
        while !fresh && let Some(idle) = net.upstreams.take_idle(upstream) {
            // What came unasked must not be taken for the answer.
            if net.may_be_behind && net.table.socket(idle).is_none_or(|socket| !socket.is_quiet()) {
                net.table.close(idle);
                continue;
            }
            net.table.hand_over(idle, holder);
            self.sockets.upstream = Some(idle);
            return self.session.connecting(upstream, true, turn);
        }
        let mut connected = self.dial(upstream, holder, net);
        if let Err(error) = &connected
            && errors::have_run_out(error)
            && let Some(oldest) = net.upstreams.evict()
        {
            net.table.close(oldest);
            connected = self.dial(upstream, holder, net);
        }
        self.session.connecting(upstream, false, turn);
        match connected {
            Ok(socket) => self.sockets.upstream = Some(socket),
            // A Unix socket whose backlog is full says that it would block, once.
            Err(error) if errors::have_run_out(&error) || error.kind() == ErrorKind::WouldBlock => {
                self.session.starved(turn);
            }
            Err(error) => {
                net.upstreams.note_failure(upstream, turn.now);
                self.session.broke(Side::Upstream, &error, turn);
            }
        }
    }

    fn dial(&self, upstream: UpstreamId, holder: Holder, net: &mut Net) -> io::Result<SocketKey> {
        let address = net.upstreams.address(upstream).ok_or(ErrorKind::NotFound)?;
        net.table.insert(Socket::connect(address)?, holder, &net.registry)
    }

    /// Lets others use the upstream's connection, unless something stands in it that nobody asked for.
    fn release(&mut self, net: &mut Net, turn: &Turn) {
        let Some(key) = self.sockets.upstream.take() else { return };
        let is_quiet = net.table.socket(key).is_some_and(|socket| !socket.is_readable());
        let gone = match net.table.holder(key) {
            Some(Holder::Upstream(_, upstream)) if is_quiet && !turn.stopping => {
                net.table.hand_over(key, Holder::Idle(upstream));
                net.upstreams.put_idle(upstream, key, turn.now)
            }
            _ => Some(key),
        };
        if let Some(gone) = gone {
            net.table.close(gone);
        }
    }

    /// Something may have come from the client of which no event has told yet.
    pub fn expect_client(&mut self, net: &mut Net) {
        if let Some(socket) = self.socket(Side::Client, net) {
            socket.expect();
        }
    }
}

/// A read of `side` brought no bytes. What that costs of the budget: 0 if nothing came of it.
#[cold]
fn heard_nothing(session: &mut Session, side: Side, moved: Moved, turn: &mut Turn) -> usize {
    match moved {
        Moved::Nothing | Moved::Bytes(_) => return 0,
        Moved::End => session.ended(side, turn),
        Moved::Broken(error) => session.broke(side, &error, turn),
    }
    1
}

/// The straight way from the socket of `side` to the other one. Each way of taking it tells `None` if there is more to see to.
struct Passage<'p> {
    session: &'p mut Session,
    side: Side,
    from: &'p mut Socket,
    to: &'p mut Socket,
}

impl Passage<'_> {
    /// Takes it once, if there is something to read: through the `pipe`, where one is given.
    #[inline(always)]
    fn take(self, pipe: Option<&mut Option<Pipe>>, budget: &mut Budget, turn: &mut Turn) -> Option<()> {
        if !self.from.is_readable() {
            return Some(());
        }
        if !self.to.is_writable() || !self.session.is_straight(self.side) {
            return None;
        }
        match pipe {
            Some(pipe) if pipe.is_some() => self.by_pipe(pipe, budget, turn),
            _ => self.by_copy(budget, turn),
        }
    }

    #[inline(always)]
    fn by_copy(self, budget: &mut Budget, turn: &mut Turn) -> Option<()> {
        let room = turn.pool.straight();
        let moved = self.from.read(room);
        let Moved::Bytes(n) = moved else { return self.hear_nothing(moved, turn) };
        let moved = self.to.write(room.get(..n)?);
        self.note(n, moved, budget, turn)
    }

    /// What saturates a pair need not be copied: that takes a third off a copy's time, or more. Of less than a whole read it does not.
    #[inline(never)]
    fn by_pipe(self, pipe: &mut Option<Pipe>, budget: &mut Budget, turn: &mut Turn) -> Option<()> {
        let way = pipe.as_ref()?;
        let room = turn.pool.straight();
        let moved = self.from.read_into(way, room.len());
        let Moved::Bytes(n) = moved else { return self.hear_nothing(moved, turn) };
        let moved = self.to.write_from(way, n);
        let sent = moved.bytes();
        if sent < n
            && let Err(error) = way.read(room.get_mut(sent..n)?)
        {
            // What could not leave is lost with the pipe.
            *pipe = Pipe::new().ok();
            self.session.broke(self.side, &error, turn);
            return None;
        }
        self.note(n, moved, budget, turn)
    }

    #[cold]
    fn hear_nothing(self, moved: Moved, turn: &mut Turn) -> Option<()> {
        heard_nothing(self.session, self.side, moved, turn);
        None
    }

    /// `n` bytes were read, and `moved` is what came of writing them.
    #[inline(always)]
    fn note(self, n: usize, moved: Moved, budget: &mut Budget, turn: &mut Turn) -> Option<()> {
        let sent = moved.bytes();
        self.session.passed(self.side, n, sent, turn);
        if let Moved::Broken(error) = moved {
            self.session.deafened(self.side.other(), &error, turn);
        }
        budget.spend(n + sent.max(WRITE_COST));
        (sent == n).then_some(())
    }
}

#[cfg(test)]
pub mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::server::deadlines::Deadlines;

    thread_local! {
        /// The number of a session that panics when it is driven.
        pub static CURSED: Cell<Option<u64>> = const { Cell::new(None) };
    }

    pub fn panic_if_cursed(session: &Session) {
        assert_ne!(CURSED.get(), Some(session.number().session), "this session is cursed");
    }

    #[test]
    fn an_idle_tunnel_costs_at_most_256_bytes() {
        // A pair, two sockets, and two entries for its deadline: the one that counts, and one that was overtaken.
        let bytes = size_of::<Pair>() + 2 * Table::ENTRY_BYTES + 2 * Deadlines::ENTRY_BYTES;
        assert!(
            bytes <= 256,
            "a pair of {}, sockets of {}: {bytes} bytes in all",
            size_of::<Pair>(),
            Table::ENTRY_BYTES
        );
    }
}
