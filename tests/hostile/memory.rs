//! A vector played to a session in memory, cut at any byte.

use std::collections::VecDeque;
use std::fmt;
use std::rc::Rc;

use hawkey::Config;
use hawkey::proxy::moment::Moment;
use hawkey::proxy::policy::{ClientAddress, Policy};
use hawkey::proxy::session::{Session, Step};
use hawkey::proxy::side::{Both, Side};
use hawkey::proxy::turn::Turn;

use super::judge::{CANARY, End, Expected, Outcome, Seen, WORDS, answer, is_answered, is_switched, judge};
use super::reading;
use super::vector::{Then, Vector};

/// One upstream for everything, and every default.
pub fn policy() -> Rc<Policy> {
    let config = Config::from_toml("listen = [\":0\"]\n[[route]]\nmatch = \"/\"\nto = \"127.0.0.1:3000\"\n");
    Rc::new(config.expect("a configuration").policy)
}

/// Plays `vector` whole, byte by byte, and cut in two at every byte of either side; each time the same must come. Returns in how
/// many ways it was played.
pub fn play_every_way(vector: &Vector, policy: &Rc<Policy>) -> Result<usize, String> {
    let script_bytes = vector.script.as_ref().map_or(0, |script| script.bytes.len());
    let cuts = (1..vector.client.len() + CANARY.len()).map(|at| Cut::At(Side::Client, at));
    let cuts = cuts.chain((1..script_bytes).map(|at| Cut::At(Side::Upstream, at)));
    play_whole_and(cuts.chain([Cut::Everywhere]), vector, policy)
}

/// Plays `vector` whole and byte by byte. Returns in how many ways it was played.
pub fn play_both_ways(vector: &Vector, policy: &Rc<Policy>) -> Result<usize, String> {
    play_whole_and([Cut::Everywhere], vector, policy)
}

fn play_whole_and(cuts: impl IntoIterator<Item = Cut>, vector: &Vector, policy: &Rc<Policy>) -> Result<usize, String> {
    let whole = play(vector, policy, Cut::Nowhere).and_then(|whole| judged(vector, whole));
    let whole = whole.map_err(|why| format!("whole, in memory: {why}"))?;
    let mut ways = 1;
    for cut in cuts {
        let told = play(vector, policy, cut).and_then(|outcome| judged(vector, outcome));
        let told = told.and_then(|outcome| same(vector, &whole, &outcome));
        told.map_err(|why| format!("{cut}, in memory: {why}"))?;
        ways += 1;
    }
    Ok(ways)
}

/// How what is sent is cut.
#[derive(Clone, Copy, Debug)]
enum Cut {
    Nowhere,
    /// In two, what one side sends.
    At(Side, usize),
    /// Each byte comes alone, of both sides.
    Everywhere,
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cut::Nowhere => f.write_str("whole"),
            Cut::At(side, at) => write!(f, "cut at byte {at} of the {}", side.as_str()),
            Cut::Everywhere => f.write_str("byte by byte"),
        }
    }
}

fn judged(vector: &Vector, outcome: Outcome) -> Result<Outcome, String> {
    match judge(vector, &outcome) {
        Ok(()) => Ok(outcome),
        Err(why) => Err(format!("{why}\n{outcome}")),
    }
}

/// Whether a cut has changed nothing. How much of what is never whole has left may depend on it: of a request that is refused
/// within its body, and of a response that breaks, whose client is told by a status if nothing of it has left, else by a reset.
fn same(vector: &Vector, whole: &Outcome, cut: &Outcome) -> Result<(), String> {
    let may_break = matches!(vector.expected, Expected::Fault(..) | Expected::Clean(_) | Expected::TunnelOrNone);
    let seen = |outcome: &Outcome| {
        let raws = outcome.seen.iter().map(|seen| seen.raw.clone());
        raws.take(if may_break { 1 } else { usize::MAX }).collect::<Vec<_>>()
    };
    let is_same_answer = may_break || (whole.got == cut.got && whole.end == cut.end);
    let (a, b) = (&whole.unfinished, &cut.unfinished);
    if seen(whole) == seen(cut) && is_same_answer && (a.starts_with(b) || b.starts_with(a)) {
        Ok(())
    } else {
        Err(format!("another outcome than whole\n{cut}\n whole:\n{whole}"))
    }
}

enum News {
    Bytes(Vec<u8>),
    End,
    Break,
}

/// A session and what stands in for its sockets, its clock and the pool.
struct World<'a> {
    vector: &'a Vector,
    session: Session,
    turn: Turn,
    coming: Both<VecDeque<News>>,
    cut: Cut,
    /// The upstream's connection in use.
    connection: Option<usize>,
    connections: usize,
    idle: Vec<usize>,
    /// What the upstream has got on its connection and not answered.
    asked: Vec<u8>,
    is_tunnel: bool,
    outcome: Outcome,
}

fn play(vector: &Vector, policy: &Rc<Policy>, cut: Cut) -> Result<Outcome, String> {
    let turn = Turn::new(Moment::FIRST, Rc::clone(policy));
    let outcome =
        Outcome { got: Vec::new(), end: End::Open, seen: Vec::new(), unfinished: Vec::new(), tunnelled: Vec::new() };
    let mut world = World {
        vector,
        session: Session::new(1, ClientAddress::Tcp([192, 0, 2, 7].into(), 4242), &turn),
        turn,
        coming: Both::default(),
        cut,
        connection: None,
        connections: 0,
        idle: Vec::new(),
        asked: Vec::new(),
        is_tunnel: false,
        outcome,
    };
    // What an upstream sends behind its answer must have come before its connection can be used again.
    let canary_at_once = vector.script.is_none() || vector.expected.may_be_tunnel();
    let first = if canary_at_once { [&vector.client, CANARY].concat() } else { vector.client.clone() };
    for piece in world.pieces(Side::Client, first) {
        world.coming.client.push_back(News::Bytes(piece));
        world.run()?;
    }
    if !canary_at_once {
        while world.outcome.end == End::Open && !world.session.is_idle() && world.time_passes()? {}
        world.coming.client.push_back(News::Bytes(CANARY.to_vec()));
        world.run()?;
    }
    if is_switched(&world.outcome.got) {
        world.coming.client.push_back(News::Bytes(WORDS.to_vec()));
        world.run()?;
    }
    // Who has not got all by now waits for what will never come.
    while world.outcome.end == End::Open && !is_answered(vector, &world.outcome.got)? && world.time_passes()? {}
    world.let_upstream_go();
    Ok(world.outcome)
}

impl World<'_> {
    /// What one side sends, as it comes. Nothing is a piece too: an upstream may have nothing to say.
    fn pieces(&self, of: Side, bytes: Vec<u8>) -> Vec<Vec<u8>> {
        match self.cut {
            Cut::At(side, at) if side == of && at < bytes.len() => vec![bytes[..at].to_vec(), bytes[at..].to_vec()],
            Cut::Everywhere => bytes.chunks(1).map(<[u8]>::to_vec).collect(),
            Cut::Nowhere | Cut::At(..) => vec![bytes],
        }
    }

    /// Nobody does anything until the deadline. Whether there was one.
    fn time_passes(&mut self) -> Result<bool, String> {
        let Some(deadline) = self.session.deadline() else { return Ok(false) };
        self.turn.now = deadline;
        self.session.timed_out(&mut self.turn);
        self.run()?;
        Ok(true)
    }

    /// Until nothing moves and nothing is left to be answered.
    fn run(&mut self) -> Result<(), String> {
        self.drive();
        while self.upstream_speaks()? {
            self.drive();
        }
        Ok(())
    }

    /// The upstream answers a whole request, in a tunnel all that it hears. Whether it did.
    fn upstream_speaks(&mut self) -> Result<bool, String> {
        let Some(connection) = self.connection else { return Ok(false) };
        if self.is_tunnel {
            let heard = std::mem::take(&mut self.asked);
            self.outcome.tunnelled.extend_from_slice(&heard);
            let has_heard = !heard.is_empty();
            self.coming.upstream.push_back(News::Bytes(heard));
            return Ok(has_heard);
        }
        let wrong = |why| format!("the upstream cannot read what it got: {why}");
        let Some(request) = reading::request(&self.asked).map_err(wrong)? else { return Ok(false) };
        if request.raw.len() < self.asked.len() {
            return Err(format!("bytes behind a request: {}", self.asked.escape_ascii()));
        }
        self.asked.clear();
        let number = self.outcome.seen.len();
        let script = self.vector.script.as_ref().filter(|_| number == 0);
        let ordinary = answer(number, &request.target);
        self.outcome.seen.push(Seen { connection, number, raw: request.raw });
        let Some(script) = script else {
            self.coming.upstream.push_back(News::Bytes(ordinary));
            return Ok(true);
        };
        for piece in self.pieces(Side::Upstream, script.bytes.clone()) {
            self.upstream_sends(connection, News::Bytes(piece));
        }
        match script.then {
            Then::Stays => {}
            Then::Ends => self.upstream_sends(connection, News::End),
            Then::Breaks => self.upstream_sends(connection, News::Break),
        }
        self.is_tunnel = self.session.is_tunnel();
        Ok(true)
    }

    /// On a connection that was let go it is heard by nobody, and spoils it.
    fn upstream_sends(&mut self, connection: usize, news: News) {
        if self.connection == Some(connection) {
            self.coming.upstream.push_back(news);
            self.drive();
        } else {
            self.idle.retain(|idle| *idle != connection);
        }
    }

    /// Steps, reads and writes until nothing moves, as the event loop does it.
    fn drive(&mut self) {
        let mut has_moved = true;
        while has_moved {
            while let Some(step) = self.session.next_step() {
                self.carry_out(step);
            }
            has_moved = false;
            for side in Side::BOTH {
                has_moved |= self.read(side);
            }
            for side in Side::BOTH {
                has_moved |= self.write(side);
            }
        }
        self.session.settle(&mut self.turn);
    }

    fn carry_out(&mut self, step: Step) {
        match step {
            Step::Connect => {
                let Some(wanted) = self.session.wanted() else { return };
                let (id, is_fresh) = (wanted.to[0], wanted.fresh);
                let used = if is_fresh { None } else { self.idle.pop() };
                self.connections += usize::from(used.is_none());
                self.connection = Some(used.unwrap_or(self.connections));
                self.coming.upstream.clear();
                self.session.connecting(id, used.is_some(), &mut self.turn);
            }
            Step::Release if self.coming.upstream.is_empty() => self.idle.extend(self.connection.take()),
            Step::Release | Step::Close(Side::Upstream) | Step::Abort(Side::Upstream) => self.let_upstream_go(),
            Step::Abort(Side::Client) => self.outcome.end = End::Reset,
            Step::Shutdown(Side::Client) | Step::Close(Side::Client) => self.outcome.end = End::Closed,
            Step::Shutdown(Side::Upstream) => {}
        }
    }

    fn let_upstream_go(&mut self) {
        self.connection = None;
        self.outcome.unfinished.append(&mut self.asked);
    }

    fn write(&mut self, side: Side) -> bool {
        if !self.session.wants_write(side) || (side == Side::Upstream && self.connection.is_none()) {
            return false;
        }
        let leaving = self.session.leaving(side);
        match side {
            Side::Client => self.outcome.got.extend_from_slice(leaving),
            Side::Upstream => self.asked.extend_from_slice(leaving),
        }
        let n = leaving.len();
        self.session.sent(side, n, &mut self.turn);
        true
    }

    fn read(&mut self, side: Side) -> bool {
        if !self.session.wants_read(side) || (side == Side::Upstream && self.connection.is_none()) {
            return false;
        }
        match self.coming[side].pop_front() {
            None => return false,
            Some(News::End) => self.session.ended(side, &mut self.turn),
            Some(News::Break) => self.session.broke(side, &"connection reset", &mut self.turn),
            Some(News::Bytes(bytes)) => {
                let room = self.session.room(side, &mut self.turn);
                let n = room.len().min(bytes.len());
                room[..n].copy_from_slice(&bytes[..n]);
                if n < bytes.len() {
                    self.coming[side].push_front(News::Bytes(bytes[n..].to_vec()));
                }
                self.session.received(side, n, &mut self.turn);
                return n > 0;
            }
        }
        true
    }
}
