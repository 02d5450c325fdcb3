//! How a session gets from one phase to the next, and what it does on the way.

use std::fmt;
use std::time::Duration;

use crate::http::reject::Reject;
use crate::http::reply::Reply;
use crate::proxy::exchange::{Begun, Cause, Exchange, Progress};
use crate::proxy::policy::FaultStatus;
use crate::proxy::record::End;
use crate::proxy::session::{Phase, Session};
use crate::proxy::side::Side;
use crate::proxy::step::Step;
use crate::proxy::tunnel::Tunnel;
use crate::proxy::turn::Turn;

impl Session {
    /// Enters a phase. The only other assignment carries an exchange from one phase to the next: see
    /// [`take_exchange`](Session::take_exchange).
    // Inlined, only what a phase has is written: 66 instructions of a GET.
    #[inline(always)]
    pub(super) fn enter(&mut self, phase: Phase) {
        debug_assert!(!matches!(self.phase, Phase::Closed), "nothing follows {:?}", self.phase.as_str());
        self.phase = phase;
        if log::max_level() >= log::LevelFilter::Debug {
            self.log_phase();
        }
    }

    /// Tells of something by one word.
    #[cold]
    fn log_event(&self, event: &str) {
        log::debug!("{} event={event}", self.number);
    }

    #[cold]
    fn log_phase(&self) {
        log::debug!("{} phase={}", self.number, self.phase.as_str());
    }

    /// Takes the exchange out of the phase, which is about to be left.
    pub(super) fn take_exchange(&mut self) -> Option<Box<Exchange>> {
        match std::mem::replace(&mut self.phase, Phase::Head { began: None }) {
            Phase::Connect { exchange, .. } | Phase::Exchange(exchange) | Phase::Finish(exchange) => Some(exchange),
            phase @ (Phase::Head { .. } | Phase::Tunnel(_) | Phase::Linger | Phase::Closed) => {
                self.phase = phase;
                None
            }
        }
    }

    /// `n` more bytes of what may be a request have come. A head is looked at when its first bytes come, whenever a line ends and
    /// when a limit may have been passed: often enough to refuse what is wrong at once, and not for every byte of one that comes
    /// slowly.
    pub(super) fn head_arrived(&mut self, n: usize, turn: &mut Turn) {
        let Phase::Head { began } = self.phase else { return };
        let pending = self.flows.client.pending();
        let (before, now) = (pending.len().saturating_sub(n), pending.len());
        let ends_a_line = || pending.get(before..).is_some_and(|news| news.contains(&b'\n'));
        let is_worth_a_look = before == 0 || ends_a_line() || turn.policy.limits.head.may_be_passed(before, now);
        if is_blank(pending) {
            return;
        }
        if began.is_none() {
            self.begin_head(turn);
        }
        if is_worth_a_look {
            self.read_head(turn);
        }
    }

    /// The first byte of a request has come.
    pub(super) fn begin_head(&mut self, turn: &Turn) {
        self.number.request = self.number.request.saturating_add(1);
        // On a new connection the time for a head has been running since the accept.
        if self.number.request > 1 {
            self.deadline = Some(turn.now + turn.policy.timeouts.head);
        }
        self.enter(Phase::Head { began: Some(turn.now) });
    }

    pub(super) fn read_head(&mut self, turn: &mut Turn) {
        let Phase::Head { began } = self.phase else { return };
        match Exchange::begin(&mut self.flows.client, &self.client, began.unwrap_or(turn.now), turn) {
            Begun::Partial => {}
            Begun::Forward(exchange) => {
                if exchange.handshake.is_some() {
                    self.log_event("upgrade-asked");
                }
                self.connect(exchange, 0, false, turn);
                self.leave_if_client_is_done(turn);
            }
            Begun::Answer(exchange, cause) => {
                self.enter(Phase::Finish(exchange));
                match cause {
                    Cause::Reject(reject) => self.reject(reject, turn),
                    Cause::LastHop => self.reply(Reply::new(200), End::new("answered", "hawkey"), turn),
                    Cause::NoRoute => {
                        self.log_event("no-route");
                        self.reply(Reply::new(404), End::new("no-route", "hawkey"), turn);
                    }
                }
            }
        }
    }

    /// Orders a connection. A handshake has one deadline for all of it, whatever the number of attempts.
    pub(super) fn connect(&mut self, exchange: Box<Exchange>, attempt: usize, fresh: bool, turn: &Turn) {
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

    pub(super) fn connected(&mut self) {
        if let Some(exchange) = self.take_exchange() {
            self.flows.upstream.begin();
            self.enter(Phase::Exchange(exchange));
        }
    }

    /// A connection could not be made: the next upstream of the list is tried, each once. Whether there was one.
    #[cold]
    pub(super) fn tries_next(&mut self, turn: &mut Turn) -> bool {
        let Phase::Connect { attempt, .. } = self.phase else { return false };
        let has_another = self.wanted().is_some_and(|wanted| attempt + 1 < wanted.to.len());
        if has_another && let Some(exchange) = self.take_exchange() {
            self.log_event("next-upstream");
            self.steps.add(Step::Close(Side::Upstream));
            self.connect(exchange, attempt + 1, true, turn);
        }
        has_another
    }

    pub(super) fn read_response(&mut self, turn: &mut Turn) {
        let Phase::Exchange(exchange) = &mut self.phase else { return };
        // On a used connection that takes nothing for the moment: it is about to close, or answers somebody else's question.
        if exchange.record.moved.up == 0 {
            return self.upstream_failed(&"spoke before it was asked", turn);
        }
        let progress = exchange.response_arrived(&mut self.flows, turn);
        if exchange.is_heard() {
            exchange.forget_request();
        }
        match progress {
            Ok(Progress::Going) => self.move_on(turn),
            Ok(Progress::Whole) => self.finish_response(turn),
            Ok(Progress::Upgraded) => self.open_tunnel(turn),
            Err(fault) => self.upstream_failed(&fault, turn),
        }
    }

    /// Ends an exchange of which all is done, or moves the deadline of one that goes on.
    pub(super) fn move_on(&mut self, turn: &mut Turn) {
        let silence_max: Option<Duration> = match &self.phase {
            Phase::Finish(_) if self.is_finished() => return self.finish(turn),
            Phase::Finish(exchange) => exchange.silence_max(),
            Phase::Exchange(exchange) if exchange.is_answered() => exchange.silence_max(),
            Phase::Exchange(exchange) if exchange.handshake.is_some() => return,
            Phase::Exchange(exchange) if exchange.request_is_whole() && self.flows.client.is_drained() => {
                // Bytes of an unfinished head are no progress: they move nothing.
                if self.flows.upstream.has_pending() {
                    return;
                }
                exchange.policy.timeouts.response
            }
            Phase::Exchange(exchange) => exchange.policy.timeouts.idle,
            Phase::Head { .. } | Phase::Connect { .. } | Phase::Tunnel(_) | Phase::Linger | Phase::Closed => return,
        };
        self.deadline = silence_max.map(|max| turn.now + max);
    }

    pub(super) fn leave_if_client_is_done(&mut self, turn: &mut Turn) {
        let (Phase::Connect { exchange, .. } | Phase::Exchange(exchange)) = &self.phase else { return };
        if self.is_client_done && exchange.request_is_whole() {
            self.client_left(&"closed the connection", turn);
        }
    }

    /// The upstream's connection ended or broke before the response was whole.
    #[cold]
    pub(super) fn upstream_failed(&mut self, why: &dyn fmt::Display, turn: &mut Turn) {
        let Phase::Exchange(exchange) = &self.phase else { return };
        // A reused upstream connection that ends before its first byte was most likely closing while we wrote. Ask once more on
        // a new one, but only what is held, which is idempotent, or what has not left at all: anything else may have been acted on.
        let may_ask_again =
            exchange.is_reused && !exchange.is_heard() && (exchange.is_held() || exchange.record.moved.up == 0);
        if !may_ask_again {
            return self.fault(why, turn);
        }
        log::debug!("{} event=retry why=\"{why}\"", self.number);
        if let Some(mut exchange) = self.take_exchange() {
            exchange.rewind_request(&mut self.flows.client);
            self.flows.upstream.drop_pending();
            exchange.record.moved.up = 0;
            self.steps.add(Step::Close(Side::Upstream));
            self.connect(exchange, 0, true, turn);
        }
    }

    /// The upstream failed us, and nobody else is left to be asked.
    #[cold]
    pub(super) fn fault(&mut self, why: &dyn fmt::Display, turn: &mut Turn) {
        log::debug!("{} event=error of=upstream why=\"{why}\"", self.number);
        let (Phase::Connect { exchange, .. } | Phase::Exchange(exchange)) = &self.phase else { return };
        let status = match exchange.policy.fault_status {
            FaultStatus::InternalServerError => 500,
            FaultStatus::BadGateway => 502,
        };
        self.reply(Reply::new(status), End::because("fault", "upstream", why), turn);
    }

    #[cold]
    pub(super) fn reject(&mut self, reject: Reject, turn: &mut Turn) {
        if let Phase::Head { began } = self.phase {
            let exchange = turn.exchange(began.unwrap_or(turn.now));
            self.enter(Phase::Finish(exchange));
        }
        if let Phase::Connect { exchange, .. } | Phase::Exchange(exchange) | Phase::Finish(exchange) = &mut self.phase {
            exchange.keep = false;
        }
        log::debug!("{} event=error of=client why=\"{reject}\"", self.number);
        self.reply(Reply::to(reject), End::because("rejected", "hawkey", &reject), turn);
    }

    /// Answers in the upstream's place, or cuts the connection if a byte of a final response has left: a cut answer must never
    /// look whole.
    #[cold]
    pub(super) fn reply(&mut self, reply: Reply, end: End<'_>, turn: &mut Turn) {
        let (Phase::Connect { exchange, .. } | Phase::Exchange(exchange) | Phase::Finish(exchange)) = &self.phase
        else {
            return;
        };
        if exchange.has_answered() {
            return self.cut(end, turn);
        }
        let interims = exchange.interims_leaving(self.flows.upstream.leaving_bytes());
        self.let_upstream_go();
        let Some(mut exchange) = self.take_exchange() else { return };
        exchange.keep &= !turn.stopping;
        exchange.begin_discarding(&mut self.flows.client);
        exchange.record.status = Some(reply.status);
        exchange.record.answered = Some(turn.now);
        self.flows.upstream.truncate(interims);
        turn.scratch.clear();
        let reply = if exchange.answers_head() { reply.without_body() } else { reply };
        reply.write(exchange.version(), exchange.keep, &mut turn.scratch);
        self.flows.upstream.replace(0, &turn.scratch);
        exchange.record.note_end(end);
        self.enter(Phase::Finish(exchange));
        self.move_on(turn);
    }

    /// The response is whole in the flow; the upstream has done its work.
    pub(super) fn finish_response(&mut self, turn: &mut Turn) {
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
        self.move_on(turn);
    }

    /// Whether all of the response has left, and what is left of the request is whole or not worth reading.
    pub(super) fn is_finished(&self) -> bool {
        let Phase::Finish(exchange) = &self.phase else { return false };
        self.flows.upstream.is_drained() && (exchange.request_is_whole() || !exchange.keep)
    }

    /// The response has left: on to the next request, or to the end of the connection.
    pub(super) fn finish(&mut self, turn: &mut Turn) {
        let Some(exchange) = self.take_exchange() else { return };
        let goes_on = exchange.keep && exchange.request_is_whole() && !turn.stopping;
        exchange.record.log(self.number, &self.client, &exchange.policy, turn.now);
        turn.moved += exchange.record.moved;
        if !goes_on {
            self.flows.client.drop_pending();
            self.deadline = Some(turn.now + exchange.policy.timeouts.linger);
            turn.take_back(exchange);
            self.enter(Phase::Linger);
            self.steps.add(Step::Shutdown(Side::Client));
            return;
        }
        turn.take_back(exchange);
        self.deadline = Some(turn.now + turn.policy.timeouts.keep_alive);
        self.enter(Phase::Head { began: None });
        // What came behind the request is the next one.
        if !is_blank(self.flows.client.pending()) {
            self.begin_head(turn);
            self.read_head(turn);
        }
    }

    pub(super) fn open_tunnel(&mut self, turn: &mut Turn) {
        let Some(exchange) = self.take_exchange() else { return };
        self.log_event("upgrade-answered");
        exchange.record.log_open(self.number, &self.client, &exchange.policy, turn.now);
        turn.moved += exchange.record.moved;
        let tunnel = Tunnel::new(exchange.policy.clone(), exchange.record.upstream, turn.now);
        turn.take_back(exchange);
        self.deadline = tunnel.silence_max().map(|max| turn.now + max);
        self.enter(Phase::Tunnel(tunnel));
        for side in Side::BOTH {
            self.flows[side].clear_all();
        }
    }

    /// An end that has drained is passed on; when both have been, the tunnel is gone. The end of a side that broke is no end of
    /// file, and is passed on as a reset.
    pub(super) fn pass_ends_on(&mut self, turn: &mut Turn) {
        let Phase::Tunnel(tunnel) = &self.phase else { return };
        let (deaf, first) = (tunnel.deaf, tunnel.ended_first);
        for side in Side::BOTH {
            if !self.flows[side].passes_end_on() {
                continue;
            }
            if deaf == Some(side) {
                return self.end_tunnel(End::new("reset", side.as_str()), side.other(), turn);
            }
            self.steps.add(Step::Shutdown(side.other()));
        }
        if self.flows.client.has_passed_end_on() && self.flows.upstream.has_passed_end_on() {
            self.end_tunnel_in_peace(End::new("closed", first.map_or("hawkey", Side::as_str)), turn);
        }
    }

    /// Both sides are closed; where bytes could not leave in time, with a reset, so that what is cut does not look whole.
    #[cold]
    pub(super) fn end_tunnel_in_peace(&mut self, end: End<'_>, turn: &mut Turn) {
        self.log_tunnel(end, turn);
        self.enter(Phase::Closed);
        for side in Side::BOTH {
            let has_all = self.flows[side.other()].is_drained();
            self.steps.add(if has_all { Step::Close(side) } else { Step::Abort(side) });
        }
    }

    /// One side was reset: so is the other.
    #[cold]
    pub(super) fn end_tunnel(&mut self, end: End<'_>, abort: Side, turn: &mut Turn) {
        self.log_tunnel(end, turn);
        self.enter(Phase::Closed);
        self.steps.add(Step::Abort(abort));
        self.steps.add(Step::Close(abort.other()));
    }

    pub(super) fn log_tunnel(&self, end: End<'_>, turn: &mut Turn) {
        if let Phase::Tunnel(tunnel) = &self.phase {
            tunnel.log(self.number, &self.client, turn.now, end);
            turn.moved += tunnel.moved;
        }
    }

    /// The client is gone: whoever works for it need not go on. If it has only ended its own side and still reads, it must see
    /// that what has begun is cut.
    #[cold]
    pub(super) fn client_left(&mut self, why: &dyn fmt::Display, turn: &mut Turn) {
        let has_begun = match &self.phase {
            Phase::Exchange(exchange) | Phase::Finish(exchange) => exchange.has_answered(),
            _ => false,
        };
        let client = if has_begun { Step::Abort(Side::Client) } else { Step::Close(Side::Client) };
        self.end_exchange(End::because("client-left", "client", why), client, turn);
    }

    /// The response cannot be completed: the client must see that.
    #[cold]
    pub(super) fn cut(&mut self, end: End<'_>, turn: &mut Turn) {
        self.end_exchange(end, Step::Abort(Side::Client), turn);
    }

    #[cold]
    fn end_exchange(&mut self, end: End<'_>, client: Step, turn: &mut Turn) {
        self.let_upstream_go();
        if let Some(mut exchange) = self.take_exchange() {
            exchange.record.note_end(end);
            exchange.record.log(self.number, &self.client, &exchange.policy, turn.now);
            turn.moved += exchange.record.moved;
        }
        self.enter(Phase::Closed);
        self.steps.add(client);
    }

    /// Drops the upstream's connection in the middle of whatever it was doing.
    pub(super) fn let_upstream_go(&mut self) {
        if matches!(self.phase, Phase::Connect { .. } | Phase::Exchange(_)) {
            self.steps.add(Step::Abort(Side::Upstream));
        }
    }

    pub(super) fn close(&mut self) {
        self.enter(Phase::Closed);
        self.steps.add(Step::Close(Side::Client));
    }
}

/// Whether nothing but an empty line or two has come, which some clients send behind a body (RFC 9112, 2.2).
fn is_blank(pending: &[u8]) -> bool {
    // Mostly nothing at all, which need not be compared.
    pending.is_empty() || b"\r\n\r\n".starts_with(pending)
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use crate::proxy::moment::Moment;
    use crate::proxy::policy::{ClientAddress, Policy, UpstreamId};
    use crate::proxy::route::{HostPattern, Route, RouteTable};
    use crate::proxy::session::{Session, Step};
    use crate::proxy::side::Side;
    use crate::proxy::turn::Turn;

    /// A turn in which one route leads everything to one upstream.
    fn turn() -> Turn {
        let route = Route {
            host: HostPattern::Any,
            prefix: String::new(),
            strip: false,
            dot_segments: false,
            to: vec![UpstreamId(0)],
        };
        let policy = Policy { routes: RouteTable::new(vec![route]), ..Policy::default() };
        Turn::new(Moment::FIRST, Rc::new(policy))
    }

    fn receive(session: &mut Session, from: Side, bytes: &[u8], turn: &mut Turn) {
        session.room(from, turn)[..bytes.len()].copy_from_slice(bytes);
        session.received(from, bytes.len(), turn);
    }

    #[test]
    fn a_used_connection_that_takes_nothing_has_the_time_of_one_that_is_silent() {
        let mut turn = turn();
        for (is_reused, max) in [(false, Some(turn.policy.timeouts.connect)), (true, turn.policy.timeouts.idle)] {
            let mut session = Session::new(1, ClientAddress::Unix, &turn);
            receive(&mut session, Side::Client, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", &mut turn);
            assert_eq!(session.next_step(), Some(Step::Connect));
            session.connecting(UpstreamId(0), is_reused, &mut turn);
            assert_eq!(session.deadline(), max.map(|max| turn.now + max), "reused: {is_reused}");
        }
    }

    #[test]
    fn a_request_is_held_until_its_answer_begins() {
        let mut turn = turn();
        let mut session = Session::new(1, ClientAddress::Unix, &turn);
        let request = format!("GET / HTTP/1.1\r\nHost: a\r\nCookie: {}\r\n\r\n", "c".repeat(4_000));
        receive(&mut session, Side::Client, request.as_bytes(), &mut turn);
        session.connecting(UpstreamId(0), true, &mut turn);
        let leaving = session.leaving(Side::Upstream).len();
        session.sent(Side::Upstream, leaving, &mut turn);
        session.settle(&mut turn);
        assert_eq!(session.buffer_bytes(), leaving, "it may have to leave again");
        receive(&mut session, Side::Upstream, b"HTTP/1.1 100 Continue\r\n\r\n", &mut turn);
        let answer = session.leaving(Side::Client).len();
        session.sent(Side::Client, answer, &mut turn);
        session.settle(&mut turn);
        assert_eq!(session.buffer_bytes(), 0, "it will not leave again");
    }
}
