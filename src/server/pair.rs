//! The two sockets of a session, and the moving of bytes between them.

use mio::Registry;

use crate::os::descriptors;
use crate::proxy::buffer::READ_BYTES;
use crate::proxy::policy::UpstreamId;
use crate::proxy::session::{Session, Step};
use crate::proxy::side::{Both, Side};
use crate::proxy::turn::Turn;
use crate::server::deadlines::Tick;
use crate::server::socket::{Moved, Socket};
use crate::server::table::{Holder, PairKey, SocketKey, Table};
use crate::server::upstreams::Upstreams;

/// What sockets need beyond themselves.
#[derive(Debug)]
pub struct Net {
    /// Where their events come from.
    pub registry: Registry,
    /// Who they are.
    pub table: Table,
    /// Whom to connect to.
    pub upstreams: Upstreams,
}

/// A session and its one or two sockets, which know nothing of each other.
#[derive(Debug)]
pub struct Pair {
    session: Session,
    sockets: Both<Option<SocketKey>>,
    /// When the loop looks at it again anyway.
    pub armed: Tick,
    /// What the loop has taken note of since it was last driven.
    pub noted: Noted,
}

/// What happened to a pair, to be told to its session when it is driven.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Noted {
    /// It waits in the run queue.
    pub is_queued: bool,
    /// Its client will send nothing more.
    pub hung_up: bool,
    /// Its deadline has passed.
    pub is_due: bool,
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
        Pair { session, sockets, armed: Tick::NEVER, noted: Noted::default() }
    }

    /// The session.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// The session, to be told a fact. The pair is to be driven then.
    pub fn session_mut(&mut self) -> &mut Session {
        &mut self.session
    }

    /// Tells the session what was noted, then moves bytes until nothing moves any more or the budget, [`READ_BYTES`] read from
    /// either side, is spent. A relay that drains a socket until it would block makes its neighbours wait for that long.
    pub fn drive(&mut self, key: PairKey, net: &mut Net, turn: &mut Turn) -> Driven {
        let noted = std::mem::take(&mut self.noted);
        if noted.hung_up {
            self.session.hung_up(turn);
        }
        if noted.is_due && self.session.deadline().is_some_and(|deadline| deadline <= turn.now) {
            if let Some(upstream) = self.session.is_connecting() {
                net.upstreams.note_failure(upstream, turn.now);
            }
            self.session.timed_out(turn);
        }
        let mut budget = READ_BYTES;
        loop {
            while let Some(step) = self.session.next_step() {
                self.carry_out(step, key, net, turn);
            }
            let mut moved = false;
            for side in Side::BOTH {
                moved |= self.write(side, net, turn);
            }
            for side in Side::BOTH {
                let n = if budget > 0 { self.read(side, net, turn) } else { None };
                budget = budget.saturating_sub(n.unwrap_or(0));
                moved |= n.is_some();
            }
            if !moved {
                break;
            }
        }
        self.session.settle(turn);
        if self.session.is_closed() {
            Side::BOTH.into_iter().for_each(|side| self.close(side, net));
            return Driven::Ended;
        }
        let has_more = budget == 0 && Side::BOTH.into_iter().any(|side| self.can_read(side, net));
        if has_more { Driven::Again } else { Driven::Parked }
    }

    fn can_read(&self, side: Side, net: &mut Net) -> bool {
        self.session.wants_read(side) && self.socket(side, net).is_some_and(|socket| socket.is_readable())
    }

    fn socket<'n>(&self, side: Side, net: &'n mut Net) -> Option<&'n mut Socket> {
        self.sockets[side].and_then(|key| net.table.socket(key))
    }

    /// Writes what may leave for `side`; whether anything came of it.
    fn write(&mut self, side: Side, net: &mut Net, turn: &mut Turn) -> bool {
        if !self.session.wants_write(side) {
            return false;
        }
        let Some(socket) = self.socket(side, net).filter(|socket| socket.is_writable()) else { return false };
        match socket.write(self.session.leaving(side)) {
            Moved::Bytes(n) => self.session.sent(side, n, turn),
            Moved::Nothing | Moved::End => return false,
            Moved::Broken(error) => match (side, self.session.is_connecting()) {
                (Side::Client, _) => self.session.broke(side, &error, turn),
                (Side::Upstream, None) => self.session.deafened(&error, turn),
                (Side::Upstream, Some(upstream)) => {
                    net.upstreams.note_failure(upstream, turn.now);
                    self.session.broke(side, &error, turn);
                }
            },
        }
        true
    }

    /// Reads what `side` has sent, once; `None` if nothing came of it, else how many bytes did.
    fn read(&mut self, side: Side, net: &mut Net, turn: &mut Turn) -> Option<usize> {
        if !self.session.wants_read(side) {
            return None;
        }
        let socket = self.socket(side, net).filter(|socket| socket.is_readable())?;
        let room = self.session.room(side, turn);
        if room.is_empty() {
            return None;
        }
        match socket.read(room) {
            Moved::Bytes(n) => {
                self.session.received(side, n, turn);
                Some(n)
            }
            Moved::End => {
                self.session.ended(side, turn);
                Some(0)
            }
            Moved::Nothing => None,
            Moved::Broken(error) => {
                self.session.broke(side, &error, turn);
                Some(0)
            }
        }
    }

    fn carry_out(&mut self, step: Step, key: PairKey, net: &mut Net, turn: &mut Turn) {
        match step {
            Step::Connect => self.connect(key, net, turn),
            Step::Release => self.release(net, turn),
            Step::Shutdown(side) => {
                if let Some(socket) = self.socket(side, net) {
                    socket.shut_down();
                }
            }
            Step::Abort(side) => {
                if let Some(socket) = self.socket(side, net) {
                    socket.reset_on_close();
                }
                self.close(side, net);
            }
            Step::Close(side) => self.close(side, net),
            // Clients are watched from the accept on: what the listener is set to, its connections inherit.
            Step::WatchPeers => {
                if let Some(socket) = self.socket(Side::Upstream, net) {
                    socket.watch_peer();
                }
            }
        }
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
        let holder = Holder::Pair(key, Side::Upstream);
        if !fresh && let Some(idle) = net.upstreams.take_idle(upstream) {
            net.table.hand_over(idle, holder);
            self.sockets.upstream = Some(idle);
            return self.session.connecting(upstream, true, turn);
        }
        let mut connected = self.dial(upstream, holder, net);
        if let Err(error) = &connected
            && descriptors::have_run_out(error)
            && let Some(oldest) = net.upstreams.evict()
        {
            net.table.close(oldest);
            connected = self.dial(upstream, holder, net);
        }
        self.session.connecting(upstream, false, turn);
        match connected {
            Ok(socket) => self.sockets.upstream = Some(socket),
            Err(error) if descriptors::have_run_out(&error) => self.session.starved(turn),
            Err(error) => {
                net.upstreams.note_failure(upstream, turn.now);
                self.session.broke(Side::Upstream, &error, turn);
            }
        }
    }

    fn dial(&self, upstream: UpstreamId, holder: Holder, net: &mut Net) -> std::io::Result<SocketKey> {
        let address = net.upstreams.address(upstream).ok_or(std::io::ErrorKind::NotFound)?;
        net.table.insert(Socket::connect(address)?, holder, &net.registry)
    }

    /// Lets others use the upstream's connection, unless something stands in it that nobody asked for.
    fn release(&mut self, net: &mut Net, turn: &Turn) {
        let (Some(key), Some(upstream)) = (self.sockets.upstream.take(), self.session.upstream()) else { return };
        let is_quiet = net.table.socket(key).is_some_and(|socket| !socket.is_readable());
        if !is_quiet || turn.stopping {
            return net.table.close(key);
        }
        net.table.hand_over(key, Holder::Idle(upstream));
        if let Some(gone) = net.upstreams.put_idle(upstream, key, turn.now) {
            net.table.close(gone);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_tunnel_costs_at_most_256_bytes() {
        // A pair, two sockets, and an entry for its deadline.
        let bytes = size_of::<Pair>() + 2 * Table::ENTRY_BYTES + size_of::<(Tick, PairKey)>();
        assert!(
            bytes <= 256,
            "a pair of {}, sockets of {}: {bytes} bytes in all",
            size_of::<Pair>(),
            Table::ENTRY_BYTES
        );
    }
}
