//! One client's conversation: a machine that is told facts and asked for wishes.
//!
//! It knows no socket and no clock. Whoever drives it reads and writes where it [`wants_read`](Session::wants_read) and
//! [`wants_write`](Session::wants_write), tells it what came of that, carries out each [`Step`], and comes back at the
//! [`deadline`](Session::deadline). So a conversation can be simulated, fuzzed and replayed without a socket.

mod moving;
mod transitions;

use std::fmt;
use std::ops::Range;

use crate::http::reject::Reject;
use crate::http::reply::Reply;
use crate::proxy::exchange::Exchange;
use crate::proxy::flow::Flow;
use crate::proxy::moment::Moment;
use crate::proxy::policy::{ClientAddress, UpstreamId};
use crate::proxy::record::{End, Number, Traffic};
use crate::proxy::route::RouteId;
use crate::proxy::side::{Both, Side};
use crate::proxy::step::Steps;
use crate::proxy::tunnel::Tunnel;
use crate::proxy::turn::Turn;

pub use crate::proxy::step::Step;

/// One client's connection, from the accept to the close.
#[derive(Debug)]
pub struct Session {
    number: Number,
    client: ClientAddress,
    /// By the side that the bytes come from: the client's flow holds requests, the upstream's flow responses.
    flows: Both<Flow>,
    phase: Phase,
    steps: Steps,
    deadline: Option<Moment>,
    /// The client will send nothing more, though bytes of it may wait unread.
    is_client_done: bool,
}

/// Where a session stands.
#[derive(Debug)]
enum Phase {
    /// Between requests, or inside a request head that began at an instant.
    Head { began: Option<Moment> },
    /// A request is understood and routed; an upstream is on order, or its connection under way.
    Connect { exchange: Box<Exchange>, attempt: usize, under_way: bool, fresh: bool },
    /// Request and response under way, each at its own pace.
    Exchange(Box<Exchange>),
    /// A 101 went out: both directions opaque until both end.
    Tunnel(Tunnel),
    /// The end of a response, ours or an upstream's, is leaving; what is left of the request is thrown away.
    Finish(Box<Exchange>),
    /// All is sent; waiting for the client's end.
    Linger,
    /// Nothing more will happen.
    Closed,
}

/// Which upstream a session wants to be connected with.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// The route, whose upstreams take turns.
    pub route: RouteId,
    /// The upstreams of that route.
    pub to: &'a [UpstreamId],
    /// Whether only a new connection will do.
    pub fresh: bool,
}

impl Session {
    /// The session of a client that has just been accepted.
    pub fn new(number: u64, client: ClientAddress, turn: &Turn) -> Session {
        Session {
            number: Number { session: number, request: 0 },
            client,
            flows: Both::default(),
            phase: Phase::Head { began: None },
            steps: Steps::default(),
            deadline: Some(turn.now + turn.policy.timeouts.head),
            is_client_done: false,
        }
    }

    // Wishes.

    /// Whether bytes of this side are of use now.
    pub fn wants_read(&self, from: Side) -> bool {
        let has_room = self.flows[from].is_drained();
        match (&self.phase, from) {
            (Phase::Head { .. } | Phase::Linger, Side::Client) => true,
            (Phase::Exchange(exchange), Side::Client) => {
                has_room && exchange.wants_request() && exchange.handshake.is_none()
            }
            (Phase::Exchange(exchange), Side::Upstream) => has_room && exchange.wants_response(),
            (Phase::Finish(exchange), Side::Client) => exchange.keep && !exchange.request_is_whole(),
            (Phase::Tunnel(tunnel), _) => {
                has_room && !self.flows[from].has_ended() && tunnel.deaf != Some(from.other())
            }
            (Phase::Connect { .. } | Phase::Closed, _) => false,
            (Phase::Head { .. } | Phase::Finish(_) | Phase::Linger, Side::Upstream) => false,
        }
    }

    /// Whether a whole read of this side goes straight to the other: it is a tunnel or in the midst of a body, no bytes wait, and no side
    /// has ended. It need not be put into the session's [`room`](Session::room), but into
    /// [`Pool::straight`](crate::proxy::buffer::Pool::straight), to be written from there and told of by [`passed`](Session::passed).
    // In place it saves 18 instructions of an echo.
    #[inline(always)]
    pub fn is_straight(&self, from: Side) -> bool {
        let is_opaque = match &self.phase {
            Phase::Tunnel(tunnel) => tunnel.deaf.is_none(),
            Phase::Exchange(exchange) => exchange.is_opaque(from),
            Phase::Head { .. } | Phase::Connect { .. } | Phase::Finish(_) | Phase::Linger | Phase::Closed => false,
        };
        is_opaque && self.flows.client.is_blank() && self.flows.upstream.is_blank() && self.steps.is_empty()
    }

    /// Whether the end of this side matters although it is not read, because the other side takes nothing. Not of an upstream's
    /// answer: that will be read to its end.
    pub fn minds_loss(&self, side: Side) -> bool {
        !self.wants_read(side) && (side == Side::Client || self.is_tunnel())
    }

    /// Whether there are bytes for this side. Towards an upstream whose connection is under way, writing is how it is tried.
    pub fn wants_write(&self, to: Side) -> bool {
        let has_upstream = || match &self.phase {
            Phase::Connect { under_way, .. } => *under_way,
            Phase::Exchange(_) | Phase::Tunnel(_) => true,
            Phase::Head { .. } | Phase::Finish(_) | Phase::Linger | Phase::Closed => false,
        };
        !self.flows[to.other()].is_drained() && (to == Side::Client || has_upstream())
    }

    /// When to call [`timed_out`](Session::timed_out). It may move at every fact; `None` is never.
    pub fn deadline(&self) -> Option<Moment> {
        self.deadline
    }

    /// The next thing to be done with the sockets.
    pub fn next_step(&mut self) -> Option<Step> {
        self.steps.take()
    }

    /// Which upstream is wanted, between [`Step::Connect`] and [`connecting`](Session::connecting).
    pub fn wanted(&self) -> Option<Wanted<'_>> {
        let Phase::Connect { exchange, fresh, .. } = &self.phase else { return None };
        let route = exchange.route?;
        let to = exchange.policy.routes.route(route)?.to.as_slice();
        Some(Wanted { route, to, fresh: *fresh })
    }

    /// The upstream whose connection is under way.
    pub fn upstream_under_way(&self) -> Option<UpstreamId> {
        match &self.phase {
            Phase::Connect { exchange, under_way: true, .. } => exchange.record.upstream,
            _ => None,
        }
    }

    /// What may leave for this side.
    pub fn leaving(&self, to: Side) -> &[u8] {
        self.flows[to.other()].leaving()
    }

    /// Whether the session has ended for good, once its steps are carried out.
    pub fn is_closed(&self) -> bool {
        matches!(self.phase, Phase::Closed)
    }

    /// Whether it waits for a first or a next request, of which no byte has come.
    pub fn is_idle(&self) -> bool {
        matches!(self.phase, Phase::Head { began: None })
    }

    /// Whether both directions are opaque.
    pub fn is_tunnel(&self) -> bool {
        matches!(self.phase, Phase::Tunnel(_))
    }

    /// The numbers that its log lines carry.
    pub fn number(&self) -> Number {
        self.number
    }

    /// In one word, where it stands: one of [`STANDINGS`](Session::STANDINGS).
    pub fn standing(&self) -> &'static str {
        if self.is_idle() { "idle" } else { self.phase.as_str() }
    }

    /// Every word that [`standing`](Session::standing) may say of a session that is not closed.
    pub const STANDINGS: [&'static str; 7] = ["idle", "head", "connect", "exchange", "tunnel", "finish", "linger"];

    /// Bytes that its exchange or tunnel has moved so far.
    pub fn moved(&self) -> Traffic {
        match &self.phase {
            Phase::Connect { exchange, .. } | Phase::Exchange(exchange) | Phase::Finish(exchange) => {
                exchange.record.moved
            }
            Phase::Tunnel(tunnel) => tunnel.moved,
            Phase::Head { .. } | Phase::Linger | Phase::Closed => Traffic::default(),
        }
    }

    /// Bytes of buffers that it owns at this moment.
    pub fn buffer_bytes(&self) -> usize {
        let held = match &self.phase {
            Phase::Connect { exchange, .. } | Phase::Exchange(exchange) | Phase::Finish(exchange) => {
                exchange.held_bytes()
            }
            Phase::Head { .. } | Phase::Tunnel(_) | Phase::Linger | Phase::Closed => 0,
        };
        self.flows.client.buffer_bytes() + self.flows.upstream.buffer_bytes() + held
    }

    // Facts. Of one side: `received` bytes, `ended` in order, `broke` with an error, was `deafened` to what we write. Of the client
    // alone: it `hung_up`, with bytes still unread. Of a connection on order: it is `connecting`, or `starved`. Of time: `timed_out`.
    // `passed` is short, and in place in the loop: a call of it saves and restores more than it does, 26 instructions of an echo.

    /// Room to read bytes of this side into. Told back by [`received`](Session::received).
    pub fn room(&mut self, from: Side, turn: &mut Turn) -> &mut [u8] {
        self.flows[from].room(&mut turn.pool)
    }

    /// `n` bytes of this side were read into the [`room`](Session::room).
    pub fn received(&mut self, from: Side, n: usize, turn: &mut Turn) {
        self.flows[from].arrived(n);
        match (&mut self.phase, from) {
            (Phase::Head { .. }, Side::Client) => self.head_arrived(n, turn),
            (Phase::Exchange(exchange), Side::Client) => match exchange.request_arrived(&mut self.flows.client) {
                Ok(()) => {
                    self.move_on(turn);
                    self.leave_if_client_is_done(turn);
                }
                Err(reject) => self.reject(reject, turn),
            },
            (Phase::Exchange(_), Side::Upstream) => self.read_response(turn),
            (Phase::Finish(exchange), Side::Client) => {
                exchange.discard_request(&mut self.flows.client);
                self.move_on(turn);
            }
            (Phase::Tunnel(tunnel), _) => {
                self.deadline = tunnel.silence_max().map(|max| turn.now + max);
                self.flows[from].clear_all();
            }
            (Phase::Connect { .. } | Phase::Linger | Phase::Closed, _)
            | (Phase::Head { .. } | Phase::Finish(_), Side::Upstream) => self.flows[from].drop_pending(),
        }
    }

    /// `n` bytes of this side went [straight](Session::is_straight) to the other, which has taken the first `sent` of them.
    #[inline(always)]
    pub fn passed(&mut self, from: Side, n: usize, sent: usize, turn: &mut Turn) {
        if sent < n {
            self.keep_rest(from, sent..n, turn);
        }
        match &mut self.phase {
            Phase::Tunnel(tunnel) => {
                tunnel.moved.note(from.other(), sent);
                self.deadline = tunnel.silence_max().map(|max| turn.now + max);
            }
            Phase::Exchange(exchange) => {
                exchange.passed(from, n);
                exchange.record.moved.note(from.other(), sent);
                self.move_on(turn);
            }
            Phase::Head { .. } | Phase::Connect { .. } | Phase::Finish(_) | Phase::Linger | Phase::Closed => {}
        }
    }

    #[cold]
    fn keep_rest(&mut self, from: Side, rest: Range<usize>, turn: &Turn) {
        self.flows[from].keep(turn.pool.keep_straight(rest));
    }

    /// `n` bytes that were [`leaving`](Session::leaving) for this side have left.
    pub fn sent(&mut self, to: Side, n: usize, turn: &mut Turn) {
        if to == Side::Upstream && self.upstream_under_way().is_some() {
            // What can be written to is connected.
            self.connected();
        }
        self.flows[to.other()].left(n);
        match &mut self.phase {
            Phase::Exchange(exchange) | Phase::Finish(exchange) => {
                exchange.record.moved.note(to, n);
                self.move_on(turn);
            }
            Phase::Tunnel(tunnel) => {
                tunnel.moved.note(to, n);
                self.deadline = tunnel.silence_max().map(|max| turn.now + max);
                self.pass_ends_on(turn);
            }
            Phase::Head { .. } | Phase::Connect { .. } | Phase::Linger | Phase::Closed => {}
        }
    }

    /// A connection to `upstream` is under way, or there already if it is `reused`.
    pub fn connecting(&mut self, upstream: UpstreamId, reused: bool, turn: &mut Turn) {
        let Phase::Connect { exchange, under_way, .. } = &mut self.phase else { return };
        *under_way = true;
        exchange.record.upstream = Some(upstream);
        exchange.is_reused = reused;
        if reused {
            // It may be closing while we write. What can be asked twice is held until it is known that it was not.
            if exchange.is_idempotent && exchange.request_is_whole() {
                exchange.hold_request(&self.flows.client);
            }
            self.connected();
            self.move_on(turn);
        }
    }

    /// This side has sent its last byte.
    #[cold]
    pub fn ended(&mut self, from: Side, turn: &mut Turn) {
        self.flows[from].end();
        match (&mut self.phase, from) {
            (Phase::Tunnel(tunnel), _) => {
                tunnel.ended_first.get_or_insert(from);
                self.pass_ends_on(turn);
            }
            (Phase::Head { began: None }, Side::Client) => self.close(),
            (Phase::Head { .. }, Side::Client) => {
                log::debug!(
                    "{} event=error of=client why=\"closed the connection within a request head\"",
                    self.number
                );
                self.close();
            }
            (Phase::Linger, Side::Client) => self.close(),
            (Phase::Exchange(_), Side::Client) => self.client_left(&"closed the connection", turn),
            // It may still read what we have to say.
            (Phase::Finish(exchange), Side::Client) => {
                exchange.keep = false;
                if self.is_finished() {
                    self.finish(turn);
                }
            }
            (Phase::Exchange(exchange), Side::Upstream) => match exchange.response_ended() {
                Ok(()) => self.finish_response(turn),
                Err(fault) => self.upstream_failed(&fault, turn),
            },
            (Phase::Connect { .. } | Phase::Closed, _) => {}
            (Phase::Head { .. } | Phase::Finish(_) | Phase::Linger, Side::Upstream) => {}
        }
    }

    /// The client will send nothing more, though bytes of it may wait unread. Nobody waits for an answer then: half-closing
    /// clients are rarer by far than clients that left, and what they asked for may cost the upstream much.
    #[cold]
    pub fn hung_up(&mut self, turn: &mut Turn) {
        self.is_client_done = true;
        self.leave_if_client_is_done(turn);
    }

    /// This side's connection broke: a read or a write failed, or a connection could not be made. `why` is for people.
    #[cold]
    pub fn broke(&mut self, side: Side, why: &dyn fmt::Display, turn: &mut Turn) {
        log::debug!("{} event=error of={} why=\"{why}\"", self.number, side.as_str());
        match (&mut self.phase, side) {
            (Phase::Connect { .. }, Side::Upstream) => {
                if !self.tries_next(turn) {
                    self.fault(why, turn);
                }
            }
            (Phase::Exchange(_), Side::Upstream) => self.upstream_failed(why, turn),
            (Phase::Tunnel(_), _) => self.end_tunnel(End::because("reset", side.as_str(), why), side.other(), turn),
            (Phase::Connect { .. } | Phase::Exchange(_) | Phase::Finish(_), Side::Client) => {
                self.client_left(why, turn)
            }
            (Phase::Head { .. } | Phase::Linger, Side::Client) => self.close(),
            (Phase::Head { .. } | Phase::Finish(_) | Phase::Linger, Side::Upstream) | (Phase::Closed, _) => {}
        }
    }

    /// This side takes nothing more: a write failed. What it said before may still wait to be read.
    #[cold]
    pub fn deafened(&mut self, side: Side, why: &dyn fmt::Display, turn: &mut Turn) {
        log::debug!("{} event=error of={} why=\"takes nothing more: {why}\"", self.number, side.as_str());
        match (&mut self.phase, side) {
            (Phase::Exchange(exchange), Side::Upstream) if exchange.record.moved.up > 0 && !exchange.is_held() => {
                exchange.note_deaf(&mut self.flows.client);
            }
            (Phase::Tunnel(tunnel), _) if tunnel.deaf.is_none() && !self.flows[side].has_passed_end_on() => {
                tunnel.deaf = Some(side);
                self.flows[side.other()].drop_leaving();
                self.pass_ends_on(turn);
            }
            _ => self.broke(side, why, turn),
        }
    }

    /// There is no room for a connection to the upstream that was chosen: no descriptor is left, or its backlog is full.
    #[cold]
    pub fn starved(&mut self, turn: &mut Turn) {
        if !self.tries_next(turn) {
            self.reject(Reject::Full, turn);
        }
    }

    /// The [`deadline`](Session::deadline) has passed.
    #[cold]
    pub fn timed_out(&mut self, turn: &mut Turn) {
        log::debug!("{} event=time-out phase={}", self.number, self.phase.as_str());
        match &self.phase {
            Phase::Head { began: None } => self.close(),
            Phase::Head { began: Some(_) } => self.reject(Reject::TooSlow, turn),
            Phase::Connect { .. } => {
                self.reply(Reply::new(504), End::because("late", "upstream", &"no connection in time"), turn)
            }
            Phase::Exchange(exchange) => {
                let waits_for_client = exchange.wants_request() && self.flows.client.is_drained();
                let client_is_slow = !self.flows.upstream.is_drained();
                if exchange.is_answered() && (client_is_slow || waits_for_client) {
                    self.cut(End::because("late", "client", &"read or sent nothing in time"), turn);
                } else if exchange.is_answered() {
                    self.cut(End::because("late", "upstream", &"nothing more of the response in time"), turn);
                } else if waits_for_client {
                    self.reject(Reject::TooSlow, turn);
                } else {
                    self.reply(Reply::new(504), End::because("late", "upstream", &"no answer in time"), turn);
                }
            }
            Phase::Tunnel(_) => self.end_tunnel_in_peace(End::new("silence", "hawkey"), turn),
            Phase::Finish(exchange) if self.flows.upstream.is_drained() && !exchange.request_is_whole() => {
                self.finish(turn)
            }
            Phase::Finish(_) => self.cut(End::because("late", "client", &"read nothing in time"), turn),
            Phase::Linger => self.close(),
            Phase::Closed => {}
        }
    }

    /// The process is about to end: an idle session ends now, any other when its exchange does.
    #[cold]
    pub fn stop(&mut self) {
        if self.is_idle() {
            self.close();
        }
    }

    /// The time for ending in peace is over.
    #[cold]
    pub fn stop_now(&mut self, turn: &mut Turn) {
        match self.phase {
            Phase::Tunnel(_) => self.end_tunnel_in_peace(End::new("stopped", "hawkey"), turn),
            Phase::Connect { .. } | Phase::Exchange(_) | Phase::Finish(_) => {
                self.cut(End::new("stopped", "hawkey"), turn)
            }
            Phase::Head { .. } | Phase::Linger | Phase::Closed => self.close(),
        }
    }

    /// Gives buffers on loan back. To be called when the session has been driven as far as it goes for now.
    pub fn settle(&mut self, turn: &mut Turn) {
        self.flows.client.settle(&mut turn.pool);
        self.flows.upstream.settle(&mut turn.pool);
    }
}

impl Phase {
    fn as_str(&self) -> &'static str {
        match self {
            Phase::Head { .. } => "head",
            Phase::Connect { .. } => "connect",
            Phase::Exchange(_) => "exchange",
            Phase::Tunnel(_) => "tunnel",
            Phase::Finish(_) => "finish",
            Phase::Linger => "linger",
            Phase::Closed => "closed",
        }
    }
}
