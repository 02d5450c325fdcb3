//! One request and its response: interim responses, framing both ways, keep-alive, the answer to a handshake.
//!
//! An exchange moves bytes between the two flows of its session and says what came of it; what follows from that is for the
//! session to decide.

use std::rc::Rc;
use std::time::Duration;

use crate::http::forward::{self, Forwarding, Returning};
use crate::http::framing::Framing;
use crate::http::head::{RequestHead, ResponseHead, Version, empty_fields};
use crate::http::reject::{Fault, Reject};
use crate::http::upgrade::Handshake;
use crate::proxy::buffer::READ_BYTES;
use crate::proxy::flow::Flow;
use crate::proxy::moment::Moment;
use crate::proxy::policy::{ClientAddress, Http10, Policy};
use crate::proxy::record::Record;
use crate::proxy::route::RouteId;
use crate::proxy::side::{Both, Side};
use crate::proxy::turn::Turn;

/// Interim responses that one request may be given; more are nonsense.
const INTERIMS_MAX: u8 = 16;
/// Bytes of a request's body that are read and thrown away so that its connection can be kept.
pub const DISCARD_BYTES_MAX: u64 = 64 * 1024;

/// Bytes of a request whose memory is used to hold the next.
const HELD_KEPT_MAX: usize = 2048;

/// One request and its response.
#[derive(Debug)]
pub struct Exchange {
    /// The policy that was in force when the request was understood.
    pub policy: Rc<Policy>,
    /// Who may answer; `None` for a request that is answered by ourselves.
    pub route: Option<RouteId>,
    /// For the log.
    pub record: Record,
    /// Whether the client's connection is kept behind the response.
    pub keep: bool,
    /// Whether asking twice does no harm.
    pub is_idempotent: bool,
    /// The handshake, if a WebSocket was asked for.
    pub handshake: Option<Handshake>,
    /// What is still to come of the request's body.
    request: Framing,
    /// Bytes of content of the request's body so far.
    request_content: u64,
    /// The request as it leaves, if it may have to leave again.
    held: Vec<u8>,
    /// How the response stands.
    response: Response,
    /// What [`Record::down`] is when the final response begins, once that is known.
    response_at: Option<u64>,
    version: Version,
    answers_head: bool,
    /// The client waits for a 100, and has neither been told nor gone on without.
    holds_body_back: bool,
    interims: u8,
    /// The upstream takes nothing more, though it may still answer.
    is_deaf: bool,
    /// Whether the upstream's connection was used before.
    pub is_reused: bool,
    /// Whether anything of a response has come.
    is_heard: bool,
}

/// How a response stands.
#[derive(Debug)]
enum Response {
    /// No final head yet.
    Awaited,
    /// The body is under way.
    Body { framing: Framing, unframe: bool, reusable: bool, is_event_stream: bool },
    /// All of it is in the flow.
    Whole { reusable: bool },
}

/// What came of a response that moved on.
#[derive(Debug, PartialEq, Eq)]
pub enum Progress {
    /// More is to come.
    Going,
    /// All of it is in the flow.
    Whole,
    /// The 101 that was asked for is in the flow, and what came behind it is pending.
    Upgraded,
}

impl Exchange {
    /// The exchange of a request that began at `began`, of which nothing is understood yet.
    pub fn new(policy: Rc<Policy>, began: Moment) -> Exchange {
        Exchange {
            policy,
            route: None,
            record: Record::new(began, String::new()),
            keep: false,
            is_idempotent: false,
            handshake: None,
            request: Framing::None,
            request_content: 0,
            held: Vec::new(),
            response: Response::Awaited,
            response_at: None,
            version: Version::Http11,
            answers_head: false,
            holds_body_back: false,
            interims: 0,
            is_deaf: false,
            is_reused: false,
            is_heard: false,
        }
    }

    /// Makes it the exchange of another request, which began at `began`, under the same policy.
    ///
    /// Field by field, where it lies: a new one would be built elsewhere and moved here, for 60 instructions more.
    pub fn renew(&mut self, began: Moment) {
        let Exchange {
            policy: _,
            route,
            record,
            keep,
            is_idempotent,
            handshake,
            request,
            request_content,
            held,
            response,
            response_at,
            version,
            answers_head,
            holds_body_back,
            interims,
            is_deaf,
            is_reused,
            is_heard,
        } = self;
        record.renew(began);
        held.clear();
        (*route, *handshake, *response_at) = (None, None, None);
        (*request, *request_content, *response) = (Framing::None, 0, Response::Awaited);
        (*version, *interims) = (Version::Http11, 0);
        for flag in [keep, is_idempotent, answers_head, holds_body_back, is_deaf, is_reused, is_heard] {
            *flag = false;
        }
    }

    /// Understands the head that `flow` begins with, whose first byte came when it `began`, and puts the head for the upstream in its place.
    pub fn begin(flow: &mut Flow, client: &ClientAddress, began: Moment, turn: &mut Turn) -> Begun {
        let mut storage = empty_fields();
        let (head, head_bytes) = match RequestHead::parse(flow.pending(), &mut storage, &turn.policy.limits.head) {
            Ok(None) => return Begun::Partial,
            Ok(Some(parsed)) => parsed,
            Err(reject) => {
                let mut exchange = turn.exchange(began);
                exchange.record.note_line(flow.pending());
                return Begun::Answer(exchange, Cause::Reject(reject));
            }
        };
        let mut exchange = turn.exchange(began);
        exchange.note_head(&head);
        exchange.keep &= !turn.stopping;
        let policy = &exchange.policy;
        if head.version == Version::Http10 && policy.http_1_0 == Http10::Refuse {
            exchange.version = Version::Http11;
            return Begun::Answer(exchange, Cause::Reject(Reject::Version));
        }
        let body_max = policy.limits.body.unwrap_or(u64::MAX);
        if matches!(head.framing, Framing::Length(bytes) if bytes > body_max) {
            return Begun::Answer(exchange, Cause::Reject(Reject::BodyTooLarge));
        }
        let host = head.authority.map_or(b"".as_slice(), |authority| authority.host);
        let found = policy.routes.position(host, head.target.path());
        let answered_here = head.method == "OPTIONS" && head.max_forwards == Some(0);
        let refusal = match found.and_then(|id| policy.routes.route(id)) {
            _ if answered_here => Some(Cause::LastHop),
            None => Some(Cause::NoRoute),
            Some(route) if head.target.has_dot_segments() && !route.dot_segments => {
                Some(Cause::Reject(Reject::Malformed("a `..` segment in the path")))
            }
            Some(route) => {
                let target = match route.stripped(&head.target.path_and_query) {
                    // The whole server, as OPTIONS asks of it, has no path to strip.
                    _ if head.target.path_and_query == "*" => ("", "*"),
                    stripped => stripped,
                };
                let forwarding = Forwarding { target, client: client.ip(), trusted: policy.trusted.contains(client) };
                turn.scratch.clear();
                forward::request(&head, &forwarding, &mut turn.scratch);
                None
            }
        };
        if let Some(cause) = refusal {
            flow.replace(head_bytes, b"");
            exchange.note_early_body(flow);
            return Begun::Answer(exchange, cause);
        }
        exchange.route = found;
        flow.replace(head_bytes, &turn.scratch);
        match exchange.request_arrived(flow) {
            Ok(()) => Begun::Forward(exchange),
            Err(reject) => Begun::Answer(exchange, Cause::Reject(reject)),
        }
    }

    /// Takes note of what is asked for.
    fn note_head(&mut self, head: &RequestHead<'_>) {
        self.record.note_request(
            head.method,
            head.authority.map_or(b"", |authority| authority.text),
            &head.target.path_and_query,
        );
        self.keep = head.is_persistent();
        self.is_idempotent = head.is_idempotent();
        if head.asks_for_websocket {
            self.handshake = Some(Handshake::new(head.websocket_key));
        }
        self.request = head.framing.clone();
        self.version = head.version;
        self.answers_head = head.method == "HEAD";
        self.holds_body_back = head.expects_continue;
    }

    /// A body that comes without waiting for its 100 is held back no longer.
    fn note_early_body(&mut self, flow: &Flow) {
        self.holds_body_back &= !flow.has_pending();
    }

    /// Lets as much of the request's body leave as has arrived.
    pub fn request_arrived(&mut self, flow: &mut Flow) -> Result<(), Reject> {
        self.note_early_body(flow);
        if self.request_is_whole() {
            return Ok(());
        }
        let content = flow.clear_body(&mut self.request, false).map_err(Reject::Malformed)?;
        self.request_content = self.request_content.saturating_add(content);
        if self.request_content > self.policy.limits.body.unwrap_or(u64::MAX) {
            return Err(Reject::BodyTooLarge);
        }
        Ok(())
    }

    /// Holds the request, all of which is in `flow` and none of which has left, so that it can leave again.
    pub fn hold_request(&mut self, flow: &Flow) {
        self.held.clear();
        self.held.reserve_exact(flow.leaving_bytes());
        self.held.extend_from_slice(flow.leaving());
    }

    /// Whether the request is held.
    pub fn is_held(&self) -> bool {
        !self.held.is_empty()
    }

    /// Bytes of memory in which the request is held, or was.
    pub fn held_bytes(&self) -> usize {
        self.held.capacity()
    }

    /// Lets a request that is held leave again, and holds it no longer.
    pub fn rewind_request(&mut self, flow: &mut Flow) {
        if self.is_held() {
            flow.drop_leaving();
            flow.replace(0, &self.held);
            self.forget_request();
        }
    }

    /// Holds the request no longer.
    pub fn forget_request(&mut self) {
        self.held.clear();
        if self.held.capacity() > HELD_KEPT_MAX {
            self.drop_held();
        }
    }

    #[cold]
    fn drop_held(&mut self) {
        self.held = Vec::new();
    }

    /// Throws away as much of the request's body as has arrived. Once more than [`DISCARD_BYTES_MAX`] have been, or it makes no
    /// sense, the connection is not kept.
    pub fn discard_request(&mut self, flow: &mut Flow) {
        self.note_early_body(flow);
        let before = flow.pending_bytes();
        let told = flow.clear_body(&mut self.request, false);
        self.request_content = self.request_content.saturating_add(before.saturating_sub(flow.pending_bytes()) as u64);
        flow.drop_leaving();
        self.keep &= told.is_ok() && self.request_content <= DISCARD_BYTES_MAX;
    }

    /// From here on, the rest of the request is thrown away. The connection is kept if that is worth it and can be known to end.
    pub fn begin_discarding(&mut self, flow: &mut Flow) {
        flow.drop_leaving();
        self.forget_request();
        self.request_content = 0;
        self.keep &= self.rest_is_worth_reading() && !self.holds_body_back;
        if !self.request_is_whole() {
            self.discard_request(flow);
        }
    }

    /// Whether the rest of the request, should nobody want it, is short enough to be thrown away for the sake of its connection.
    fn rest_is_worth_reading(&self) -> bool {
        !matches!(self.request, Framing::Length(bytes) if bytes > DISCARD_BYTES_MAX)
    }

    /// Whether the whole request has arrived.
    pub fn request_is_whole(&self) -> bool {
        self.request == Framing::None
    }

    /// Whether more of the request's body may be read.
    pub fn wants_request(&self) -> bool {
        !self.request_is_whole() && !self.is_deaf
    }

    /// Whether the final head has come.
    pub fn is_answered(&self) -> bool {
        !matches!(self.response, Response::Awaited)
    }

    /// Whether more of the response may be read.
    pub fn wants_response(&self) -> bool {
        !matches!(self.response, Response::Whole { .. })
    }

    /// Whether anything of a response, interim ones included, has come.
    pub fn is_heard(&self) -> bool {
        self.is_heard
    }

    /// Whether a whole read of this side lies within a body that passes as it is. Where the body ends is for
    /// [`request_arrived`](Exchange::request_arrived) and [`response_arrived`](Exchange::response_arrived) to see.
    pub fn is_opaque(&self, from: Side) -> bool {
        match (from, &self.response) {
            (Side::Client, _) => !self.is_deaf && self.request.holds_more_than(READ_BYTES),
            (Side::Upstream, Response::Body { framing, .. }) => framing.holds_more_than(READ_BYTES),
            (Side::Upstream, Response::Awaited | Response::Whole { .. }) => false,
        }
    }

    /// `n` bytes of this side have passed straight.
    pub fn passed(&mut self, from: Side, n: usize) {
        match (from, &mut self.response) {
            (Side::Client, _) => {
                self.holds_body_back = false;
                self.request.skip(n as u64);
                self.request_content = self.request_content.saturating_add(n as u64);
            }
            (Side::Upstream, Response::Body { framing, .. }) => framing.skip(n as u64),
            (Side::Upstream, Response::Awaited | Response::Whole { .. }) => {}
        }
    }

    /// Takes note that the upstream takes nothing more.
    pub fn note_deaf(&mut self, flow: &mut Flow) {
        self.is_deaf = true;
        flow.drop_leaving();
    }

    /// Whether a byte of the final response has left.
    pub fn has_answered(&self) -> bool {
        self.response_at.is_some_and(|at| self.record.moved.down > at)
    }

    /// How many of the bytes that are `leaving` for the client belong to interim responses. All behind them may be taken back, as
    /// long as no byte of the final response has left.
    pub fn interims_leaving(&self, leaving: usize) -> usize {
        self.response_at.map_or(leaving, |at| at.saturating_sub(self.record.moved.down) as usize)
    }

    /// For how long the upstream, or the client where we wait for it, may be silent.
    pub fn silence_max(&self) -> Option<Duration> {
        match self.response {
            Response::Body { is_event_stream: true, .. } => self.policy.timeouts.tunnel,
            _ => self.policy.timeouts.idle,
        }
    }

    /// Whether the response goes without its body.
    pub fn answers_head(&self) -> bool {
        self.answers_head
    }

    /// In whose words the client is answered.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Reads as much of the response as has arrived.
    pub fn response_arrived(&mut self, flows: &mut Both<Flow>, turn: &mut Turn) -> Result<Progress, Fault> {
        self.is_heard |= flows.upstream.has_pending();
        loop {
            match &mut self.response {
                Response::Awaited => match self.read_head(flows, turn)? {
                    Some(Progress::Going) => {}
                    Some(progress) => return Ok(progress),
                    None => return Ok(Progress::Going),
                },
                Response::Body { framing, unframe, reusable, .. } => {
                    flows.upstream.clear_body(framing, *unframe).map_err(Fault)?;
                    if *framing != Framing::None {
                        return Ok(Progress::Going);
                    }
                    // Bytes behind the end of a message answer nothing that was asked.
                    let reusable = *reusable && !flows.upstream.has_pending();
                    flows.upstream.drop_pending();
                    self.response = Response::Whole { reusable };
                }
                Response::Whole { .. } => return Ok(Progress::Whole),
            }
        }
    }

    /// Reads one head: `None` if it is not whole yet, `Going` if there is more to read behind it.
    fn read_head(&mut self, flows: &mut Both<Flow>, turn: &mut Turn) -> Result<Option<Progress>, Fault> {
        let mut storage = empty_fields();
        let Some((head, head_bytes)) =
            ResponseHead::parse(flows.upstream.pending(), &mut storage, &self.policy.limits.head)?
        else {
            return Ok(None);
        };
        turn.scratch.clear();
        if head.status == 101 {
            let handshake = self.handshake.as_ref().ok_or(Fault("a 101 that nobody asked for"))?;
            handshake.check(&head)?;
            forward::switching(&head, &mut turn.scratch);
            self.record.status = Some(101);
            flows.upstream.replace(head_bytes, &turn.scratch);
            return Ok(Some(Progress::Upgraded));
        }
        if head.status < 200 {
            self.interims = self.interims.saturating_add(1);
            if self.interims > INTERIMS_MAX {
                return Err(Fault("more than 16 interim responses"));
            }
            self.holds_body_back &= head.status != 100;
            // HTTP/1.0 knows no interim responses (RFC 9110, 15.2).
            if self.version == Version::Http11 {
                forward::response(
                    &head,
                    &Returning { version: self.version, framing: &Framing::None, keep: true },
                    &mut turn.scratch,
                );
            }
            flows.upstream.replace(head_bytes, &turn.scratch);
            return Ok(Some(Progress::Going));
        }
        let framing = head.declared.of_response(head.status, self.answers_head, head.version)?;
        // HTTP/1.0 knows no chunks: the body goes on without them, and ends with the connection.
        let unframe = self.version == Version::Http10 && matches!(framing, Framing::Chunked(_));
        let told = if unframe { Framing::UntilClose } else { framing.clone() };
        let is_whole = match framing {
            Framing::None => true,
            Framing::Length(bytes) => bytes <= flows.upstream.pending_bytes().saturating_sub(head_bytes) as u64,
            Framing::Chunked(_) | Framing::UntilClose => false,
        };
        let ends_early = is_whole && !self.rest_is_worth_reading();
        self.keep &= told != Framing::UntilClose && !self.holds_body_back && !ends_early && !turn.stopping;
        forward::response(
            &head,
            &Returning { version: self.version, framing: &told, keep: self.keep },
            &mut turn.scratch,
        );
        self.record.status = Some(head.status);
        self.record.answered = Some(turn.now);
        self.response = Response::Body {
            reusable: head.is_persistent() && framing != Framing::UntilClose,
            is_event_stream: head.is_event_stream,
            framing,
            unframe,
        };
        self.response_at = Some(self.record.moved.down.saturating_add(flows.upstream.leaving_bytes() as u64));
        flows.upstream.replace(head_bytes, &turn.scratch);
        Ok(Some(Progress::Going))
    }

    /// The upstream ended its side of the connection: is the response whole now?
    pub fn response_ended(&mut self) -> Result<(), Fault> {
        match &self.response {
            Response::Awaited if self.is_heard => {
                Err(Fault("the upstream closed the connection within a response head"))
            }
            Response::Awaited => Err(Fault("the upstream closed the connection without an answer")),
            // A failed write has taken the error of the connection with it: what reads as an end then is none.
            Response::Body { framing: Framing::UntilClose, .. } if !self.is_deaf => {
                self.response = Response::Whole { reusable: false };
                Ok(())
            }
            Response::Body { .. } => Err(Fault("the upstream closed the connection within a response body")),
            Response::Whole { .. } => Ok(()),
        }
    }

    /// Whether the upstream's connection can serve another exchange.
    pub fn leaves_upstream_reusable(&self, request_is_sent: bool) -> bool {
        matches!(self.response, Response::Whole { reusable: true })
            && self.request_is_whole()
            && request_is_sent
            && !self.is_deaf
    }
}

/// What came of the bytes that a request may begin with.
#[derive(Debug)]
pub enum Begun {
    /// The head is not whole yet.
    Partial,
    /// The exchange has begun; its request is in the flow as it goes to the upstream.
    Forward(Box<Exchange>),
    /// The request is not forwarded, but answered here.
    Answer(Box<Exchange>, Cause),
}

/// Why a request is answered here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// It is refused.
    Reject(Reject),
    /// No route leads anywhere for it.
    NoRoute,
    /// It has come as far as it may (Max-Forwards: 0).
    LastHop,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::buffer::Pool;
    use crate::proxy::policy::UpstreamId;
    use crate::proxy::record::{End, Traffic};

    #[test]
    fn a_renewed_exchange_is_as_good_as_new() {
        let mut record = Record::new(Moment::FIRST + Duration::from_secs(1), String::new());
        (record.answered, record.status, record.upstream) = (Some(record.began), Some(200), Some(UpstreamId(1)));
        record.moved = Traffic { up: 1, down: 1 };
        record.note_line(b"GET");
        record.note_end(End::new("late", "client"));
        let mut exchange = Exchange {
            policy: Rc::default(),
            route: Some(RouteId(1)),
            record,
            keep: true,
            is_idempotent: true,
            handshake: Some(Handshake::new(None)),
            request: Framing::UntilClose,
            request_content: 1,
            held: b"held".to_vec(),
            response: Response::Whole { reusable: true },
            response_at: Some(1),
            version: Version::Http10,
            answers_head: true,
            holds_body_back: true,
            interims: 1,
            is_deaf: true,
            is_reused: true,
            is_heard: true,
        };
        exchange.renew(Moment::FIRST);
        assert_eq!(format!("{exchange:?}"), format!("{:?}", Exchange::new(Rc::default(), Moment::FIRST)));
    }

    #[test]
    fn a_request_that_is_held_leaves_again() {
        let (mut flow, mut pool) = (Flow::default(), Pool::default());
        flow.room(&mut pool)[..14].copy_from_slice(b"request, next ");
        flow.arrived(13);
        flow.replace(7, b"REQUEST");
        let mut exchange = Exchange::new(Rc::default(), Moment::FIRST);
        for left in [3, 7] {
            exchange.hold_request(&flow);
            flow.left(left);
            flow.settle(&mut pool);
            exchange.rewind_request(&mut flow);
            assert_eq!((flow.leaving(), flow.pending()), (b"REQUEST".as_slice(), b", next".as_slice()), "after {left}");
            assert!(!exchange.is_held());
        }
    }

    #[test]
    fn a_request_that_is_held_no_longer_keeps_no_large_memory() {
        for (bytes, is_kept) in [(300, true), (HELD_KEPT_MAX + 1, false)] {
            let mut flow = Flow::default();
            flow.replace(0, &vec![b'x'; bytes]);
            let mut exchange = Exchange::new(Rc::default(), Moment::FIRST);
            exchange.hold_request(&flow);
            exchange.forget_request();
            assert!(!exchange.is_held());
            assert_eq!(exchange.held.capacity(), if is_kept { bytes } else { 0 }, "of {bytes} bytes");
        }
    }
}
