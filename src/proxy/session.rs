//! One client's conversation: a machine that is told facts and asked for wishes.
//!
//! It knows no socket and no clock. Whoever drives it reads and writes where it [`wants_read`](Session::wants_read) and
//! [`wants_write`](Session::wants_write), tells it what came of that, carries out each [`Step`], and comes back at the
//! [`deadline`](Session::deadline). So a conversation can be simulated, fuzzed and replayed without a socket.

use std::fmt;
use std::time::{Duration, Instant};

use crate::http::reject::Reject;
use crate::http::reply::Reply;
use crate::proxy::exchange::{Begun, Exchange, Progress, Stop};
use crate::proxy::flow::Flow;
use crate::proxy::policy::{ClientAddress, FaultStatus, UpstreamId};
use crate::proxy::record::{End, Number, Record};
use crate::proxy::route::RouteId;
use crate::proxy::side::{Both, Side};
use crate::proxy::tunnel::Tunnel;
use crate::proxy::turn::Turn;

/// One client's connection, from the accept to the close.
#[derive(Debug)]
pub struct Session {
    number: Number,
    client: ClientAddress,
    /// By the side that the bytes come from: the client's flow holds requests, the upstream's flow responses.
    flows: Both<Flow>,
    phase: Phase,
    steps: Steps,
    deadline: Option<Instant>,
    /// The client will send nothing more, though bytes of it may wait unread.
    is_client_done: bool,
}

/// Where a session stands.
#[derive(Debug)]
enum Phase {
    /// Between requests, or inside a request head that began at an instant.
    Head { began: Option<Instant> },
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

/// What a session wishes to be done with its sockets. Each is given out once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Pass an end of file on to this side.
    Shutdown(Side),
    /// The upstream's connection may serve others.
    Release,
    /// Close this side's connection.
    Close(Side),
    /// Close this side's connection with a reset.
    Abort(Side),
    /// Find a connection to an upstream: see [`Session::wanted`].
    Connect,
    /// The session is a tunnel now, which may be silent for hours: let the kernel watch that both peers live.
    WatchPeers,
}

/// Steps that wait to be carried out, in the order of their bits: an upstream is let go before another is asked for, and the
/// client's connection goes last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Steps(u16);

const ORDER: [Step; 9] = [
    Step::WatchPeers,
    Step::Shutdown(Side::Upstream),
    Step::Release,
    Step::Close(Side::Upstream),
    Step::Abort(Side::Upstream),
    Step::Connect,
    Step::Shutdown(Side::Client),
    Step::Close(Side::Client),
    Step::Abort(Side::Client),
];

impl Steps {
    fn add(&mut self, step: Step) {
        for (bit, known) in ORDER.iter().enumerate() {
            self.0 |= u16::from(*known == step) << bit;
        }
    }

    fn take(&mut self) -> Option<Step> {
        let step = ORDER.get(self.0.trailing_zeros() as usize).copied();
        self.0 &= self.0.wrapping_sub(1);
        step
    }
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
            (Phase::Tunnel(_), _) => has_room && !self.flows[from].has_ended(),
            (Phase::Connect { .. } | Phase::Closed, _) => false,
            (Phase::Head { .. } | Phase::Finish(_) | Phase::Linger, Side::Upstream) => false,
        }
    }

    /// Whether there are bytes for this side. Towards an upstream whose connection is under way, writing is how it is tried.
    pub fn wants_write(&self, to: Side) -> bool {
        let has_upstream = match &self.phase {
            Phase::Connect { under_way, .. } => *under_way,
            Phase::Exchange(_) | Phase::Tunnel(_) => true,
            Phase::Head { .. } | Phase::Finish(_) | Phase::Linger | Phase::Closed => false,
        };
        (to == Side::Client || has_upstream) && !self.flows[to.other()].is_drained()
    }

    /// When to call [`timed_out`](Session::timed_out). It may move at every fact; `None` is never.
    pub fn deadline(&self) -> Option<Instant> {
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

    /// The upstream that was asked last, as long as its exchange has not ended.
    pub fn upstream(&self) -> Option<UpstreamId> {
        match &self.phase {
            Phase::Connect { exchange, .. } | Phase::Exchange(exchange) | Phase::Finish(exchange) => {
                exchange.record.upstream
            }
            Phase::Head { .. } | Phase::Tunnel(_) | Phase::Linger | Phase::Closed => None,
        }
    }

    /// The upstream whose connection is under way.
    pub fn is_connecting(&self) -> Option<UpstreamId> {
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

    /// Bytes of buffers that it owns at this moment.
    pub fn buffer_bytes(&self) -> usize {
        self.flows.client.buffer_bytes() + self.flows.upstream.buffer_bytes()
    }

    // Facts.

    /// Room to read bytes of this side into. Told back by [`received`](Session::received).
    pub fn room(&mut self, from: Side, turn: &mut Turn) -> &mut [u8] {
        self.flows[from].room(&mut turn.pool)
    }

    /// `n` bytes of this side were read into the [`room`](Session::room).
    pub fn received(&mut self, from: Side, n: usize, turn: &mut Turn) {
        self.flows[from].arrived(n);
        match (&mut self.phase, from) {
            (Phase::Head { began }, Side::Client) => {
                let pending = self.flows.client.pending();
                let is_first = pending.len() == n;
                let news = pending.get(pending.len() - n..).unwrap_or_default();
                // A head is looked at when its first bytes come and whenever a line ends: often enough to refuse what is
                // wrong at once, and not for every byte of one that comes slowly.
                let is_worth_a_look =
                    is_first || news.contains(&b'\n') || pending.len() >= turn.policy.limits.head.bytes_max;
                if began.is_none() {
                    self.begin_head(turn);
                }
                if is_worth_a_look {
                    self.read_head(turn);
                }
            }
            (Phase::Exchange(exchange), Side::Client) => match exchange.request_arrived(&mut self.flows.client) {
                Ok(()) => {
                    self.note_progress(turn);
                    self.leave_if_client_is_done(turn);
                }
                Err(reject) => self.reject(reject, turn),
            },
            (Phase::Exchange(_), Side::Upstream) => self.read_response(turn),
            (Phase::Finish(exchange), Side::Client) => {
                exchange.discard_request(&mut self.flows.client);
                self.note_progress(turn);
                self.finish_if_done(turn);
            }
            (Phase::Tunnel(tunnel), _) => {
                self.deadline = tunnel.silence_max().map(|max| turn.now + max);
                self.flows[from].clear_all();
            }
            _ => self.flows[from].drop_pending(),
        }
    }

    /// `n` bytes that were [`leaving`](Session::leaving) for this side have left.
    pub fn sent(&mut self, to: Side, n: usize, turn: &mut Turn) {
        if to == Side::Upstream && self.is_connecting().is_some() {
            // What can be written to is connected.
            self.connected(turn);
        }
        self.flows[to.other()].left(n);
        match &mut self.phase {
            Phase::Exchange(exchange) | Phase::Finish(exchange) => {
                let counter = match to {
                    Side::Client => &mut exchange.record.down,
                    Side::Upstream => &mut exchange.record.up,
                };
                *counter = counter.saturating_add(n as u64);
                self.note_progress(turn);
                self.finish_if_done(turn);
            }
            Phase::Tunnel(tunnel) => {
                tunnel.note_sent(to, n);
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
                self.flows.client.hold();
            }
            self.connected(turn);
        }
    }

    /// This side has sent its last byte.
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
                    "{} event=error why=\"the client closed the connection within a request head\"",
                    self.number
                );
                self.close();
            }
            (Phase::Linger, Side::Client) => self.close(),
            (Phase::Exchange(_), Side::Client) => self.client_left(&"closed the connection", turn),
            // It may still read what we have to say.
            (Phase::Finish(exchange), Side::Client) => {
                exchange.keep = false;
                self.finish_if_done(turn);
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
    pub fn hung_up(&mut self, turn: &mut Turn) {
        self.is_client_done = true;
        self.leave_if_client_is_done(turn);
    }

    /// This side's connection broke: a read or a write failed, or a connection could not be made. `why` is for people.
    pub fn broke(&mut self, side: Side, why: &dyn fmt::Display, turn: &mut Turn) {
        match (&mut self.phase, side) {
            (Phase::Connect { .. }, Side::Upstream) => self.refused(why, turn),
            (Phase::Exchange(_), Side::Upstream) => self.upstream_failed(why, turn),
            (Phase::Tunnel(_), _) => self.end_tunnel(End::because("reset", side.as_str(), why), side.other(), turn),
            (Phase::Connect { .. } | Phase::Exchange(_) | Phase::Finish(_), Side::Client) => {
                self.client_left(why, turn)
            }
            (Phase::Head { .. } | Phase::Linger, Side::Client) => {
                log::debug!("{} event=error why=\"{why}\"", self.number);
                self.close();
            }
            (Phase::Head { .. } | Phase::Finish(_) | Phase::Linger, Side::Upstream) | (Phase::Closed, _) => {}
        }
    }

    /// The upstream takes nothing more: a write failed. It may have answered before, so what it said is still read.
    pub fn deafened(&mut self, why: &dyn fmt::Display, turn: &mut Turn) {
        match &mut self.phase {
            Phase::Exchange(exchange) if exchange.record.up == 0 => self.upstream_failed(why, turn),
            Phase::Exchange(exchange) => {
                log::debug!("{} event=error why=\"the upstream takes nothing more: {why}\"", self.number);
                // A held request can only leave again while it is whole.
                if !self.flows.client.is_held() {
                    exchange.note_deaf(&mut self.flows.client);
                } else {
                    self.upstream_failed(why, turn);
                }
            }
            _ => self.broke(Side::Upstream, why, turn),
        }
    }

    /// No descriptor is left for a connection to an upstream.
    pub fn starved(&mut self, turn: &mut Turn) {
        self.reject(Reject::Full, turn);
    }

    /// The [`deadline`](Session::deadline) has passed.
    pub fn timed_out(&mut self, turn: &mut Turn) {
        log::debug!("{} event=time-out phase={}", self.number, self.phase.as_str());
        match &self.phase {
            Phase::Head { began: None } => self.close(),
            Phase::Head { began: Some(_) } => self.reject(Reject::TooSlow, turn),
            Phase::Connect { .. } => {
                self.reply(Reply::new(504), End::because("late", "upstream", &"no connection in time"), turn)
            }
            Phase::Exchange(exchange) => {
                let waits_for_client = !exchange.request_is_whole() && self.flows.client.is_drained();
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
    pub fn stop(&mut self) {
        if self.is_idle() {
            self.close();
        }
    }

    /// The time for ending in peace is over.
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
        for side in Side::BOTH {
            self.flows[side].settle(&mut turn.pool);
        }
    }

    // Transitions.

    /// The only assignment to the phase.
    fn enter(&mut self, phase: Phase) {
        debug_assert!(!matches!(self.phase, Phase::Closed), "nothing follows {:?}", self.phase.as_str());
        log::debug!("{} phase={}", self.number, phase.as_str());
        self.phase = phase;
    }

    /// Takes the exchange out of the phase, which is about to be left.
    fn take_exchange(&mut self) -> Option<Box<Exchange>> {
        match std::mem::replace(&mut self.phase, Phase::Head { began: None }) {
            Phase::Connect { exchange, .. } | Phase::Exchange(exchange) | Phase::Finish(exchange) => Some(exchange),
            phase @ (Phase::Head { .. } | Phase::Tunnel(_) | Phase::Linger | Phase::Closed) => {
                self.phase = phase;
                None
            }
        }
    }

    /// The first byte of a request has come.
    fn begin_head(&mut self, turn: &Turn) {
        self.number.request = self.number.request.saturating_add(1);
        // On a new connection the time for a head has been running since the accept.
        if self.number.request > 1 {
            self.deadline = Some(turn.now + turn.policy.timeouts.head);
        }
        self.enter(Phase::Head { began: Some(turn.now) });
    }

    fn read_head(&mut self, turn: &mut Turn) {
        let Phase::Head { began } = self.phase else { return };
        let record = Record::new(began.unwrap_or(turn.now));
        match Exchange::begin(&mut self.flows.client, &self.client, record, turn) {
            Begun::Partial => {}
            Begun::Forward(exchange) => {
                if exchange.handshake.is_some() {
                    log::debug!("{} event=upgrade-asked", self.number);
                }
                self.connect(exchange, 0, false, turn);
                self.leave_if_client_is_done(turn);
            }
            Begun::Stop(exchange, stop) => {
                self.enter(Phase::Finish(exchange));
                match stop {
                    Stop::Reject(reject) => self.reject(reject, turn),
                    Stop::Answer => self.reply(Reply::new(200), End::new("answered", "hawkey"), turn),
                    Stop::NoRoute => {
                        log::debug!("{} event=no-route", self.number);
                        self.reply(Reply::new(404), End::new("no-route", "hawkey"), turn);
                    }
                }
            }
        }
    }

    /// Orders a connection. A handshake has one deadline for all of it, whatever the number of attempts.
    fn connect(&mut self, exchange: Box<Exchange>, attempt: usize, fresh: bool, turn: &Turn) {
        let timeouts = &exchange.policy.timeouts;
        let is_again = attempt > 0 || fresh;
        match exchange.handshake {
            Some(_) if is_again => {}
            Some(_) => self.deadline = Some(turn.now + timeouts.upgrade),
            None => self.deadline = Some(turn.now + timeouts.connect),
        }
        self.enter(Phase::Connect { exchange, attempt, under_way: false, fresh });
        self.steps.add(Step::Connect);
    }

    fn connected(&mut self, turn: &Turn) {
        if let Some(exchange) = self.take_exchange() {
            self.flows.upstream.begin();
            self.enter(Phase::Exchange(exchange));
            self.note_progress(turn);
        }
    }

    /// A connection could not be made: the next upstream of the list is tried, each once.
    fn refused(&mut self, why: &dyn fmt::Display, turn: &mut Turn) {
        let Phase::Connect { attempt, .. } = self.phase else { return };
        let has_another = self.wanted().is_some_and(|wanted| attempt + 1 < wanted.to.len());
        if !has_another {
            return self.fault(why, turn);
        }
        log::debug!("{} event=error why=\"{why}: trying the next upstream\"", self.number);
        if let Some(exchange) = self.take_exchange() {
            self.steps.add(Step::Close(Side::Upstream));
            self.connect(exchange, attempt + 1, true, turn);
        }
    }

    fn read_response(&mut self, turn: &mut Turn) {
        let Phase::Exchange(exchange) = &mut self.phase else { return };
        let progress = exchange.response_arrived(&mut self.flows, turn);
        if exchange.is_heard() {
            self.flows.client.forget();
        }
        match progress {
            Ok(Progress::Going) => self.note_progress(turn),
            Ok(Progress::Whole) => self.finish_response(turn),
            Ok(Progress::Upgraded) => self.open_tunnel(turn),
            Err(fault) => self.upstream_failed(&fault, turn),
        }
    }

    /// Moves the deadline of an exchange that goes on.
    fn note_progress(&mut self, turn: &Turn) {
        let (Phase::Exchange(exchange) | Phase::Finish(exchange)) = &self.phase else { return };
        let silence_max: Option<Duration> = if exchange.is_answered() || matches!(self.phase, Phase::Finish(_)) {
            exchange.silence_max()
        } else if exchange.handshake.is_some() {
            return;
        } else if exchange.request_is_whole() && self.flows.client.is_drained() {
            // Bytes of an unfinished head are no progress: they move nothing.
            if !self.flows.upstream.pending().is_empty() {
                return;
            }
            exchange.policy.timeouts.response
        } else {
            exchange.policy.timeouts.idle
        };
        self.deadline = silence_max.map(|max| turn.now + max);
    }

    fn leave_if_client_is_done(&mut self, turn: &Turn) {
        let (Phase::Connect { exchange, .. } | Phase::Exchange(exchange)) = &self.phase else { return };
        if self.is_client_done && exchange.request_is_whole() {
            self.client_left(&"closed the connection", turn);
        }
    }

    /// The upstream's connection ended or broke before the response was whole.
    fn upstream_failed(&mut self, why: &dyn fmt::Display, turn: &mut Turn) {
        let Phase::Exchange(exchange) = &self.phase else { return };
        // A reused upstream connection that ends before its first byte was most likely closing while we wrote. Ask once more on
        // a new one, but only what is idempotent and still whole in the flow, or what has not left at all: anything else may
        // have been acted on.
        let may_ask_again =
            exchange.is_reused && !exchange.is_heard() && (self.flows.client.is_held() || exchange.record.up == 0);
        if !may_ask_again {
            return self.fault(why, turn);
        }
        log::debug!("{} event=error why=\"{why}: asking again on a new connection\"", self.number);
        if let Some(mut exchange) = self.take_exchange() {
            self.flows.client.rewind();
            self.flows.upstream.drop_pending();
            exchange.record.up = 0;
            self.steps.add(Step::Close(Side::Upstream));
            self.connect(exchange, 0, true, turn);
        }
    }

    /// The upstream failed us, and nobody else is left to be asked.
    fn fault(&mut self, why: &dyn fmt::Display, turn: &mut Turn) {
        log::debug!("{} event=error why=\"{why}\"", self.number);
        let status = match turn.policy.fault_status {
            FaultStatus::InternalServerError => 500,
            FaultStatus::BadGateway => 502,
        };
        self.reply(Reply::new(status), End::because("fault", "upstream", why), turn);
    }

    fn reject(&mut self, reject: Reject, turn: &mut Turn) {
        if let Phase::Head { began } = self.phase {
            let record = Record::new(began.unwrap_or(turn.now));
            self.enter(Phase::Finish(Box::new(Exchange::refused(turn.policy.clone(), record))));
        }
        if let Phase::Connect { exchange, .. } | Phase::Exchange(exchange) | Phase::Finish(exchange) = &mut self.phase {
            exchange.keep = false;
        }
        self.reply(Reply::to(reject), End::because("rejected", "hawkey", &reject), turn);
    }

    /// Answers in the upstream's place, or cuts the connection if a byte of a final response has left: a cut answer must never
    /// look whole.
    fn reply(&mut self, reply: Reply, end: End<'_>, turn: &mut Turn) {
        let (Phase::Connect { exchange, .. } | Phase::Exchange(exchange) | Phase::Finish(exchange)) = &self.phase
        else {
            return;
        };
        let Some(interims) = exchange.interims_leaving(self.flows.upstream.leaving().len()) else {
            return self.cut(end, turn);
        };
        self.let_upstream_go();
        let Some(mut exchange) = self.take_exchange() else { return };
        exchange.keep &= !turn.stopping;
        exchange.begin_discarding(&mut self.flows.client);
        exchange.record.status = Some(reply.status);
        exchange.record.answered = Some(turn.now);
        self.flows.upstream.truncate(interims);
        turn.scratch.clear();
        reply.write(exchange.version(), exchange.keep, &mut turn.scratch);
        self.flows.upstream.replace(0, &turn.scratch);
        exchange.record.note_end(end);
        self.enter(Phase::Finish(exchange));
        self.note_progress(turn);
    }

    /// The response is whole in the flow; the upstream has done its work.
    fn finish_response(&mut self, turn: &mut Turn) {
        let Phase::Exchange(exchange) = &self.phase else { return };
        let is_sent = self.flows.client.is_drained();
        self.steps.add(if exchange.leaves_upstream_reusable(is_sent) {
            Step::Release
        } else {
            Step::Close(Side::Upstream)
        });
        let Some(mut exchange) = self.take_exchange() else { return };
        exchange.begin_discarding(&mut self.flows.client);
        self.enter(Phase::Finish(exchange));
        self.note_progress(turn);
        self.finish_if_done(turn);
    }

    fn finish_if_done(&mut self, turn: &mut Turn) {
        let Phase::Finish(exchange) = &self.phase else { return };
        if self.flows.upstream.is_drained() && (exchange.request_is_whole() || !exchange.keep) {
            self.finish(turn);
        }
    }

    /// The response has left: on to the next request, or to the end of the connection.
    fn finish(&mut self, turn: &mut Turn) {
        let Some(exchange) = self.take_exchange() else { return };
        let goes_on = exchange.keep && exchange.request_is_whole() && !turn.stopping;
        exchange.record.log(self.number, &self.client, &exchange.policy, turn.now);
        if !goes_on {
            self.flows.client.drop_pending();
            self.deadline = Some(turn.now + exchange.policy.timeouts.linger);
            self.enter(Phase::Linger);
            self.steps.add(Step::Shutdown(Side::Client));
            return;
        }
        self.deadline = Some(turn.now + turn.policy.timeouts.keep_alive);
        self.enter(Phase::Head { began: None });
        // What came behind the request is the next one.
        if !self.flows.client.pending().is_empty() {
            self.begin_head(turn);
            self.read_head(turn);
        }
    }

    fn open_tunnel(&mut self, turn: &mut Turn) {
        let Some(exchange) = self.take_exchange() else { return };
        log::debug!("{} event=upgrade-answered", self.number);
        exchange.record.log_open(self.number, &self.client, &exchange.policy, turn.now);
        let tunnel = Tunnel::new(exchange.policy, exchange.record.upstream, turn.now);
        self.deadline = tunnel.silence_max().map(|max| turn.now + max);
        self.enter(Phase::Tunnel(tunnel));
        self.steps.add(Step::WatchPeers);
        for side in Side::BOTH {
            self.flows[side].clear_all();
        }
    }

    /// An end that has drained is passed on; when both have been, the tunnel is gone.
    fn pass_ends_on(&mut self, turn: &mut Turn) {
        for side in Side::BOTH {
            if self.flows[side].passes_end_on() {
                self.steps.add(Step::Shutdown(side.other()));
            }
        }
        if self.flows.client.has_passed_end_on() && self.flows.upstream.has_passed_end_on() {
            let first = match &self.phase {
                Phase::Tunnel(tunnel) => tunnel.ended_first,
                _ => None,
            };
            self.end_tunnel_in_peace(End::new("closed", first.map_or("hawkey", Side::as_str)), turn);
        }
    }

    fn end_tunnel_in_peace(&mut self, end: End<'_>, turn: &Turn) {
        self.log_tunnel(end, turn);
        self.enter(Phase::Closed);
        self.steps.add(Step::Close(Side::Upstream));
        self.steps.add(Step::Close(Side::Client));
    }

    /// One side was reset: so is the other.
    fn end_tunnel(&mut self, end: End<'_>, abort: Side, turn: &Turn) {
        self.log_tunnel(end, turn);
        self.enter(Phase::Closed);
        self.steps.add(Step::Abort(abort));
        self.steps.add(Step::Close(abort.other()));
    }

    fn log_tunnel(&self, end: End<'_>, turn: &Turn) {
        if let Phase::Tunnel(tunnel) = &self.phase {
            tunnel.log(self.number, &self.client, turn.now, end);
        }
    }

    /// The client is gone: whoever works for it need not go on.
    fn client_left(&mut self, why: &dyn fmt::Display, turn: &Turn) {
        self.end_exchange(End::because("client-left", "client", why), Step::Close(Side::Client), turn);
    }

    /// The response cannot be completed: the client must see that.
    fn cut(&mut self, end: End<'_>, turn: &Turn) {
        self.end_exchange(end, Step::Abort(Side::Client), turn);
    }

    fn end_exchange(&mut self, end: End<'_>, client: Step, turn: &Turn) {
        self.let_upstream_go();
        if let Some(mut exchange) = self.take_exchange() {
            exchange.record.note_end(end);
            exchange.record.log(self.number, &self.client, &exchange.policy, turn.now);
        }
        self.enter(Phase::Closed);
        self.steps.add(client);
    }

    /// Drops the upstream's connection in the middle of whatever it was doing.
    fn let_upstream_go(&mut self) {
        if matches!(self.phase, Phase::Connect { .. } | Phase::Exchange(_)) {
            self.steps.add(Step::Abort(Side::Upstream));
        }
    }

    fn close(&mut self) {
        self.enter(Phase::Closed);
        self.steps.add(Step::Close(Side::Client));
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
