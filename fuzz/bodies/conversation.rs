//! A whole session, driven as `src/server/pair.rs` drives it, through whatever the input says.
//!
//! The input is a list of acts, parted by the byte FF, which has no place in HTTP. The first byte of an act says what it is:
//!
//! | act | is |
//! | --- | --- |
//! | `>` `<` | the client, the upstream sends the bytes behind it |
//! | `e` `E` | the client, the upstream ends its side |
//! | `b` `B` | its connection breaks; with a byte behind it, what was unread is lost |
//! | `d` `D` | the client, the upstream takes no more bytes: writes fail |
//! | `f` `F` | it takes none for now; again the same act: it does |
//! | `r` `w` | from now on, reads, writes come to no more bytes than the next byte says |
//! | `x` `s` `n` | the next connection to an upstream is refused; stays under way until an `m`; finds no descriptor |
//! | `m` | it is made |
//! | `t` | silence until the deadline |
//! | `a` | silence for as many tenths of a second as the next byte says |
//! | `0` | HTTP/1.0 is served from now on |
//! | `q` `Q` | the process stops; at once |
//! | `p` | another process takes the session over, if it can move |

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr};
use std::rc::Rc;
use std::time::Duration;

use hawkey::Config;
use hawkey::proxy::buffer::READ_BYTES;
use hawkey::proxy::moment::Moment;
use hawkey::proxy::packed::Packed;
use hawkey::proxy::policy::{ClientAddress, Http10, Policy, UpstreamId};
use hawkey::proxy::session::{Session, Step};
use hawkey::proxy::side::{Both, Side};
use hawkey::proxy::turn::Turn;

use super::chunks::length_of_chunked;
use super::message::{Body, Head, Lines, Messages, Shown, is_token};

const CONFIG: &str = r#"
    listen = ":0"
    [[route]]
    match = "/"
    to = ["127.0.0.1:1", "127.0.0.1:2"]
    [[route]]
    match = "/app"
    to = "127.0.0.1:3"
    strip = true
    [[route]]
    match = "none.test/only"
    to = "127.0.0.1:4"
    [limits]
    body = "100KiB"
"#;

/// What both flows of a session may own: each a read, a head, and what a head grows by when it is rewritten.
const BUFFER_BYTES_MAX: usize = 2 * (READ_BYTES + 16 * 1024 + 1024);

/// The input is a list of acts.
pub fn session(input: &[u8]) {
    let mut world = World::new(input);
    for act in input.split(|byte| *byte == 0xff) {
        let Some((kind, text)) = act.split_first() else { continue };
        world.play(*kind, text);
        world.drive();
        world.check();
        if world.session.is_closed() {
            break;
        }
    }
}

/// A session, and what stands in for its sockets, its clock and the pool.
struct World<'i> {
    input: &'i [u8],
    session: Session,
    turn: Turn,
    wires: Both<Option<Wire>>,
    idle: Vec<Wire>,
    /// How often an upstream was chosen.
    chosen: usize,
    obstacles: VecDeque<Obstacle>,
    read_max: usize,
    write_max: usize,
    /// The method of the request that is with an upstream.
    asked: Option<String>,
    /// The request that a connection was ordered for last, and how many bytes of it have left.
    sent: (u32, usize),
    /// The client has ended its side, or its connection broke.
    client_is_gone: bool,
    broke: Both<bool>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Obstacle {
    Refused,
    Slow,
    NoDescriptor,
}

/// A connection: what comes over it, and what has left over it as a strict recipient reads it.
#[derive(Default)]
struct Wire {
    upstream: Option<UpstreamId>,
    is_used: bool,
    coming: VecDeque<u8>,
    end: Option<End>,
    state: State,
    got: Messages,
    /// Requests that have begun to leave over it, and for how many exchanges it was taken.
    requests: usize,
    exchanges: usize,
    /// The method of the request that it was taken for last, and what was read of its answer.
    method: String,
    answer: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// Of file.
    Sent,
    Reset,
}

/// What becomes of writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Open,
    Full,
    Connecting,
    Refused,
    Deaf,
}

fn policy() -> Rc<Policy> {
    thread_local! {
        static POLICY: Rc<Policy> = Rc::new(Config::from_toml(CONFIG).expect("a configuration").policy);
    }
    POLICY.with(Rc::clone)
}

impl<'i> World<'i> {
    fn new(input: &'i [u8]) -> World<'i> {
        let turn = Turn::new(Moment::FIRST, policy());
        let client = ClientAddress::Tcp(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7)), 4242);
        World {
            input,
            session: Session::new(1, client, &turn),
            turn,
            wires: Both { client: Some(Wire::default()), upstream: None },
            idle: Vec::new(),
            chosen: 0,
            obstacles: VecDeque::new(),
            read_max: usize::MAX,
            write_max: usize::MAX,
            asked: None,
            sent: (0, 0),
            client_is_gone: false,
            broke: Both::default(),
        }
    }

    fn play(&mut self, kind: u8, text: &[u8]) {
        let number = text.first().copied().map_or(0, usize::from);
        let side = if kind == b'<' || kind.is_ascii_uppercase() { Side::Upstream } else { Side::Client };
        match kind {
            b'>' | b'<' => {
                if let Some(wire) = self.wires[side].as_mut().filter(|wire| wire.end.is_none()) {
                    wire.coming.extend(text);
                }
            }
            b'e' | b'E' => self.end(side, End::Sent),
            b'b' | b'B' => {
                if let Some(wire) = self.wires[side].as_mut().filter(|_| !text.is_empty()) {
                    wire.coming.clear();
                }
                self.end(side, End::Reset);
            }
            b'd' | b'D' => self.set_state(side, State::Deaf),
            b'f' | b'F' => {
                let state = self.wires[side].as_ref().map_or(State::Open, |wire| wire.state);
                self.set_state(side, if state == State::Full { State::Open } else { State::Full });
            }
            b'r' => self.read_max = number.max(1),
            b'w' => self.write_max = number.max(1),
            b'x' => self.obstacles.push_back(Obstacle::Refused),
            b's' => self.obstacles.push_back(Obstacle::Slow),
            b'n' => self.obstacles.push_back(Obstacle::NoDescriptor),
            b'm' => {
                if let Some(wire) = self.wires.upstream.as_mut().filter(|wire| wire.state == State::Connecting) {
                    wire.state = State::Open;
                }
            }
            b't' => self.wait(Duration::MAX),
            b'a' => self.wait(Duration::from_millis(100) * number as u32),
            b'0' => self.turn.policy = Rc::new(Policy { http_1_0: Http10::Serve, ..Policy::clone(&self.turn.policy) }),
            b'q' => {
                self.turn.stopping = true;
                self.session.stop();
            }
            b'Q' => {
                self.turn.stopping = true;
                self.session.stop_now(&mut self.turn);
            }
            b'p' => self.move_over(),
            _ => {}
        }
    }

    /// The session goes on as what is read from its record, and the kernel tells anew that the client has ended.
    fn move_over(&mut self) {
        let Some(packed) = self.session.pack(self.turn.now) else { return };
        let mut record = Vec::new();
        packed.encode(&mut record);
        let told = Packed::decode(&record);
        self.holds(told == Ok((packed, &[])), "a session that moves arrives");
        let Ok((packed, _)) = told else { return };
        let policy = Policy::knowing(&self.turn.policy, packed.upstream());
        self.session = Session::unpack(&packed, &policy, &self.turn);
        if self.client_is_gone {
            self.session.hung_up(&mut self.turn);
        }
    }

    /// The kernel tells of the end of a client's side at once, though bytes of it may wait unread.
    fn end(&mut self, side: Side, end: End) {
        let Some(wire) = &mut self.wires[side] else { return };
        wire.end = if wire.end == Some(End::Reset) { wire.end } else { Some(end) };
        self.broke[side] |= end == End::Reset;
        if end == End::Reset {
            wire.state = State::Deaf;
        }
        if side == Side::Client {
            self.client_is_gone = true;
            self.session.hung_up(&mut self.turn);
        }
    }

    fn set_state(&mut self, side: Side, state: State) {
        if let Some(wire) = self.wires[side].as_mut().filter(|wire| matches!(wire.state, State::Open | State::Full)) {
            wire.state = state;
        }
    }

    /// Nothing comes for so long; but a deadline that passes in that time is kept, and ends it.
    fn wait(&mut self, time: Duration) {
        let until = self.turn.now + time;
        match self.session.deadline() {
            Some(deadline) if until >= deadline => {
                self.turn.now = self.turn.now.max(deadline);
                self.session.timed_out(&mut self.turn);
            }
            _ => self.turn.now = until,
        }
    }

    /// As `Pair::drive`, without a budget.
    fn drive(&mut self) {
        let rounds_max = 1000 * (self.input.len() + 10);
        let mut rounds = 0;
        self.carry_out_steps();
        loop {
            let mut has_moved = false;
            for side in Side::BOTH {
                has_moved |= self.read(side);
            }
            for side in Side::BOTH {
                has_moved |= self.write(side);
            }
            self.carry_out_steps();
            rounds += 1;
            self.holds(rounds < rounds_max, "the session comes to rest");
            if !has_moved {
                break;
            }
        }
        for side in Side::BOTH {
            if std::mem::take(&mut self.broke[side]) && self.session.minds_loss(side) && self.wires[side].is_some() {
                self.session.broke(side, &"reset", &mut self.turn);
            }
        }
        self.carry_out_steps();
        self.session.settle(&mut self.turn);
        if self.session.is_closed() {
            Side::BOTH.into_iter().for_each(|side| self.close(side));
        }
    }

    fn read(&mut self, side: Side) -> bool {
        if !self.session.wants_read(side) {
            return false;
        }
        let Some(wire) = &mut self.wires[side] else { return false };
        let room = self.session.room(side, &mut self.turn);
        let n = room.len().min(self.read_max).min(wire.coming.len());
        if n > 0 {
            room.iter_mut().zip(wire.coming.drain(..n)).for_each(|(place, byte)| *place = byte);
            wire.answer.extend(room.iter().take(n));
            self.session.received(side, n, &mut self.turn);
            let is_unasked = side == Side::Upstream && self.sent.1 == 0;
            let asks_another = self.session.wanted().is_some_and(|wanted| wanted.fresh);
            self.holds(!is_unasked || asks_another, "what comes before anything was asked is no answer");
            return true;
        }
        if room.is_empty() {
            return false;
        }
        match wire.end {
            None => return false,
            Some(End::Sent) => self.session.ended(side, &mut self.turn),
            Some(End::Reset) => self.session.broke(side, &"reset", &mut self.turn),
        }
        true
    }

    fn write(&mut self, side: Side) -> bool {
        if !self.session.wants_write(side) {
            return false;
        }
        let Some(wire) = &mut self.wires[side] else { return false };
        let upstream_under_way = side == Side::Upstream && self.session.upstream_under_way().is_some();
        match wire.state {
            State::Full | State::Connecting => return false,
            State::Refused | State::Deaf if upstream_under_way => self.session.broke(side, &"refused", &mut self.turn),
            State::Refused | State::Deaf => self.session.deafened(side, &"broken pipe", &mut self.turn),
            State::Open => {
                let leaving = self.session.leaving(side);
                let n = leaving.len().min(self.write_max);
                if self.session.is_tunnel() {
                    wire.got.end_of_messages();
                }
                let (asked, requests) = (&mut self.asked, &mut wire.requests);
                let read = wire.got.read(&leaving[..n], |head| match side {
                    Side::Client => body_of_response(head, asked),
                    Side::Upstream => {
                        *requests += 1;
                        body_of_request(head)
                    }
                });
                self.sent.1 += if side == Side::Upstream { n } else { 0 };
                if let Err(why) = read {
                    panic!("the {} reads {why}: {}", side.as_str(), Shown(self.input));
                }
                self.session.sent(side, n, &mut self.turn);
            }
        }
        true
    }

    fn carry_out_steps(&mut self) {
        while let Some(step) = self.session.next_step() {
            match step {
                Step::Connect => self.connect(),
                Step::Release => self.release(),
                Step::Close(side) => self.close(side),
                Step::Abort(side) => self.wires[side] = None,
                Step::Shutdown(Side::Client) => self.check_whole(),
                Step::Shutdown(Side::Upstream) => {}
            }
        }
    }

    /// The client's connection ends in good order: what it got must not have been cut.
    fn check_whole(&self) {
        let Some(wire) = &self.wires.client else { return };
        let is_whole = wire.got.is_at_border() || wire.got.is_until_close();
        // The length of a body that HEAD leaves out cannot be told from one of a body that was cut, where the answer is ours.
        let may_lack_body = self.input.windows(4).any(|four| four == b"HEAD");
        self.holds(is_whole || may_lack_body || self.client_is_gone, "a cut answer does not look whole");
    }

    fn close(&mut self, side: Side) {
        if side == Side::Client {
            self.check_whole();
        }
        self.wires[side] = None;
    }

    fn release(&mut self) {
        let Some(wire) = self.wires.upstream.take() else { return };
        let is_asked = wire.got.is_at_border() && wire.requests == wire.exchanges;
        self.holds(is_asked, "a request has left whole before its connection may be used again");
        let told = is_one_answer(&wire.answer, &wire.method);
        self.holds(told.is_ok(), "one answer and no more has come over a connection that may be used again");
        let is_quiet = wire.coming.is_empty() && wire.end.is_none() && !self.broke.upstream;
        if is_quiet && !self.turn.stopping {
            self.idle.push(Wire { is_used: true, ..wire });
        }
    }

    fn connect(&mut self) {
        self.holds(self.wires.upstream.is_none(), "no connection is asked for while one is held");
        let wanted = self.session.wanted();
        let Some(wanted) = wanted else { panic!("a connection is asked for, to nobody: {}", Shown(self.input)) };
        let upstream = wanted.to[self.chosen % wanted.to.len()];
        let fresh = wanted.fresh;
        self.chosen += 1;
        self.broke.upstream = false;
        let (method, request) = (self.method(), self.session.number().request);
        let is_again = self.sent.0 == request && self.sent.1 > 0;
        let may_be_asked_again = matches!(method.as_str(), "GET" | "HEAD" | "OPTIONS" | "PUT" | "DELETE");
        self.holds(!is_again || may_be_asked_again, "what may have been acted on is not asked again");
        self.sent = (request, 0);
        self.asked = Some(method.clone());
        let idle = self.idle.iter().rposition(|wire| wire.upstream == Some(upstream)).filter(|_| !fresh);
        if let Some(place) = idle {
            let wire = self.idle.remove(place);
            let exchanges = wire.exchanges + 1;
            self.wires.upstream = Some(Wire { exchanges, method, answer: Vec::new(), ..wire });
            return self.session.connecting(upstream, true, &mut self.turn);
        }
        let obstacle = self.obstacles.pop_front();
        self.session.connecting(upstream, false, &mut self.turn);
        let state = match obstacle {
            None => State::Open,
            Some(Obstacle::Refused) => State::Refused,
            Some(Obstacle::Slow) => State::Connecting,
            Some(Obstacle::NoDescriptor) => return self.session.starved(&mut self.turn),
        };
        self.wires.upstream = Some(Wire { upstream: Some(upstream), state, exchanges: 1, method, ..Wire::default() });
    }

    /// The method of the request that is about to leave.
    fn method(&self) -> String {
        let head = Head::read(self.session.leaving(Side::Upstream), Lines::Strict);
        match &head {
            Ok(Some((head, _))) => head.words().map(|[method, ..]| method.to_owned()).unwrap_or_default(),
            _ => panic!("{head:?} is about to leave: {}", Shown(self.input)),
        }
    }

    /// What must hold whenever the session has been driven as far as it goes.
    fn check(&self) {
        let session = &self.session;
        let bytes = session.buffer_bytes();
        self.holds(bytes <= BUFFER_BYTES_MAX, "buffers stay within the limits");
        if session.is_closed() {
            return;
        }
        let has_unsent = Side::BOTH.into_iter().any(|side| !session.leaving(side).is_empty());
        let bytes_max = match (session.is_idle(), session.is_tunnel()) {
            // Between requests, two empty lines may be all that has come.
            (true, _) => 4,
            (_, true) => 0,
            _ => usize::MAX,
        };
        self.holds(has_unsent || bytes <= bytes_max, "who has nothing to send owns no buffer");
        let waits = session.deadline().is_some_and(|deadline| deadline > self.turn.now);
        self.holds(waits, "a session that goes on has a deadline to come");
        self.holds(self.wires.client.is_some(), "a session that goes on has a client");
        self.holds(!session.is_idle() || self.wires.upstream.is_none(), "who is idle holds no upstream");
    }

    fn holds(&self, holds: bool, what: &str) {
        assert!(
            holds,
            "{what}: not so of {:?}, {} bytes of buffers: {}",
            self.session,
            self.session.buffer_bytes(),
            Shown(self.input)
        );
    }
}

/// Whether `bytes` are interim responses and a final one that answers a request with `method`, and nothing behind it.
fn is_one_answer(bytes: &[u8], method: &str) -> Result<(), String> {
    let (head, length) = Head::read(bytes, Lines::Lenient)?.ok_or("no whole head")?;
    let status = head.words()?[1].parse().map_err(|_| format!("the response {head:?}"))?;
    let rest = &bytes[length..];
    if status < 200 {
        return is_one_answer(rest, method);
    }
    let used = match head.response_body(status, method == "HEAD")? {
        Body::None => Some(0),
        Body::Length(length) => usize::try_from(length).ok(),
        Body::Chunked => length_of_chunked(rest),
        Body::UntilClose => None,
    };
    if used == Some(rest.len()) { Ok(()) } else { Err(format!("{used:?} of {} bytes are the body", rest.len())) }
}

/// A request as an upstream must be able to take it, and how its body is framed.
fn body_of_request(head: &Head) -> Result<Body, String> {
    let [method, target, version] = head.words()?;
    let is_target = (target.starts_with('/') || target == "*") && target.bytes().all(|byte| byte.is_ascii_graphic());
    let is_sound = is_token(method) && is_target && version == "HTTP/1.1" && head.all("host").len() == 1;
    if !is_sound {
        return Err(format!("the request {head:?}"));
    }
    head.request_body()
}

/// A response as a client must be able to take it, and how its body is framed.
fn body_of_response(head: &Head, asked: &mut Option<String>) -> Result<Body, String> {
    let [version, status, _] = head.words()?;
    let status = status.parse().ok().filter(|status| (100..600).contains(status));
    let (Some(status), "HTTP/1.1" | "HTTP/1.0") = (status, version) else {
        return Err(format!("the response {head:?}"));
    };
    if status < 200 {
        return Ok(Body::None);
    }
    let method = asked.take();
    head.response_body(status, method.as_deref() == Some("HEAD"))
}
