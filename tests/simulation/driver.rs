//! Drives sessions over simulated connections as `src/server` drives them over real ones: readiness is noted from events and
//! cleared by what a call comes to, steps are carried out before bytes are moved, a budget ends a turn.

use std::time::Duration;

use hawkey::proxy::buffer::READ_BYTES;
use hawkey::proxy::moment::Moment;
use hawkey::proxy::policy::UpstreamId;
use hawkey::proxy::session::{Session, Step};
use hawkey::proxy::side::{Both, Side};
use hawkey::proxy::turn::Turn;

use crate::handover::Known;
use crate::ledger::Context;
use crate::network::{Connection, End, Event, Making, Moved};
use crate::origin::{Manners, Origin};
use crate::scenario::{Id, Leave};

/// A connection as the driver holds it: what it is ready for, who uses it, and who is at its other end.
pub struct Link {
    pub connection: Connection,
    is_readable: bool,
    is_writable: bool,
    has_more_behind: bool,
    pub holder: Holder,
    /// Of connections to an upstream.
    pub origin: Option<Origin>,
    /// Bytes read from it since it was last handed to a session, which is not the first if it is reused.
    heard: usize,
    is_reused: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    Pair(usize, Side),
    Idle(UpstreamId),
    Nobody,
}

impl Link {
    /// An accepted client, of whom an event will tell what it sent.
    pub fn accepted(pair: usize, connection: Connection) -> Link {
        Link {
            connection,
            is_readable: false,
            is_writable: true,
            has_more_behind: false,
            holder: Holder::Pair(pair, Side::Client),
            origin: None,
            heard: 0,
            is_reused: false,
        }
    }

    /// Another process has it now, and only an event tells it anything.
    fn forget_events(&mut self) {
        (self.is_readable, self.is_writable, self.has_more_behind) = (false, true, false);
        self.connection.tell_anew();
    }

    fn note(&mut self, event: Event) {
        self.is_readable |= event.readable || event.read_closed;
        self.is_writable |= event.writable || event.read_closed;
        self.has_more_behind |= event.read_closed;
    }

    fn read(&mut self, room: &mut [u8]) -> Moved<usize> {
        match self.connection.read(End::Ours, room.len()) {
            Moved::Some(bytes) => {
                room[..bytes.len()].copy_from_slice(&bytes);
                self.is_readable = bytes.len() == room.len() || self.has_more_behind;
                self.heard += bytes.len();
                Moved::Some(bytes.len())
            }
            Moved::WouldBlock => {
                self.is_readable = false;
                self.has_more_behind = false;
                Moved::WouldBlock
            }
            Moved::End => Moved::End,
            Moved::Broken(why) => Moved::Broken(why),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> Moved<usize> {
        let moved = match self.connection.making {
            Making::Made => self.connection.write(End::Ours, bytes),
            Making::Refused if self.connection.event == Event::default() && self.has_more_behind => {
                Moved::Broken("connection refused")
            }
            Making::Slow | Making::Refused | Making::Swallowed => Moved::WouldBlock,
        };
        match moved {
            Moved::Some(n) => self.is_writable = n == bytes.len(),
            Moved::WouldBlock => self.is_writable = false,
            Moved::End | Moved::Broken(_) => {}
        }
        moved
    }
}

/// Every upstream, and the connections that wait to be used again.
pub struct Upstreams {
    pub manners: Vec<Manners>,
    idle: Vec<(usize, UpstreamId, Moment)>,
    idle_max: usize,
    failed_until: Vec<Option<Moment>>,
    turn: usize,
    /// A new connection finds no descriptor, in so many of a hundred cases.
    starves: usize,
}

const IDLE_FOR: Duration = Duration::from_secs(5);
const COOL_DOWN: Duration = Duration::from_secs(2);

impl Upstreams {
    pub fn new(manners: Vec<Manners>, idle_max: usize, starves: usize) -> Upstreams {
        let failed_until = vec![None; manners.len()];
        Upstreams { manners, idle: Vec::new(), idle_max, failed_until, turn: 0, starves }
    }

    fn choose(&mut self, to: &[UpstreamId], now: Moment) -> UpstreamId {
        let in_turn: Vec<usize> = (0..to.len()).map(|offset| (self.turn + offset) % to.len()).collect();
        let is_sound = |place: &&usize| self.failed_until[to[**place].0 as usize].is_none_or(|until| until <= now);
        let place = *in_turn.iter().find(is_sound).unwrap_or(&in_turn[0]);
        self.turn = (place + 1) % to.len();
        to[place]
    }

    fn note_failure(&mut self, upstream: UpstreamId, now: Moment) {
        self.failed_until[upstream.0 as usize] = Some(now + COOL_DOWN);
    }

    pub fn next_due(&self) -> Option<Moment> {
        self.idle.iter().map(|(_, _, since)| *since + IDLE_FOR).min()
    }

    pub fn idle(&self) -> impl Iterator<Item = usize> {
        self.idle.iter().map(|(link, _, _)| *link)
    }

    /// Takes out what has been idle for too long.
    pub fn take_due(&mut self, now: Moment) -> Vec<usize> {
        let due = self.idle.iter().filter(|(_, _, since)| *since + IDLE_FOR <= now).map(|(link, _, _)| *link).collect();
        self.idle.retain(|(_, _, since)| *since + IDLE_FOR > now);
        due
    }

    pub fn remove_idle(&mut self, link: usize) {
        self.idle.retain(|(idle, _, _)| *idle != link);
    }
}

/// All connections, and whom to connect to.
pub struct Net {
    pub links: Vec<Link>,
    pub upstreams: Upstreams,
}

impl Net {
    /// Closes hawkey's end.
    pub fn close(&mut self, link: usize, context: &mut Context) {
        let link = &mut self.links[link];
        link.holder = Holder::Nobody;
        link.connection.close(End::Ours, &mut context.prng);
    }

    /// Notes the event of a connection; the pair that it is for.
    pub fn take_note(&mut self, index: usize, context: &mut Context) -> Option<(usize, Noted)> {
        let link = &mut self.links[index];
        let event = link.connection.take_event();
        if event == Event::default() || link.connection.is_gone(End::Ours) {
            return None;
        }
        link.note(event);
        match link.holder {
            Holder::Pair(pair, side) => {
                let mut broke = Both::default();
                broke[side] = event.broke;
                Some((pair, Noted { hung_up: side == Side::Client && event.read_closed, is_due: false, broke }))
            }
            Holder::Idle(_) if link.is_readable => {
                context.note(|| format!("something comes over the idle connection {index}, which is closed"));
                self.upstreams.remove_idle(index);
                self.close(index, context);
                None
            }
            Holder::Idle(_) | Holder::Nobody => None,
        }
    }
}

/// What a pair may spend before the others have their turn.
const BUDGET: usize = 2 * READ_BYTES;
/// What a write costs of the budget at the least.
const WRITE_COST: usize = 1024;

/// What happened to a pair since it was last driven.
#[derive(Clone, Copy, Debug, Default)]
pub struct Noted {
    pub hung_up: bool,
    pub is_due: bool,
    pub broke: Both<bool>,
}

/// A session and the connections of its two sides.
pub struct Pair {
    number: usize,
    pub session: Session,
    pub links: Both<Option<usize>>,
    upstream: Option<UpstreamId>,
    pub known: Known,
    pub noted: Noted,
    pub is_queued: bool,
    /// hawkey has ended its direction towards the client, and waits for the client's end.
    pub lingers: bool,
    pub is_over: bool,
    /// The last connection to an upstream, and what it was for.
    tried: Option<(usize, Id)>,
}

impl Pair {
    pub fn new(number: usize, session: Session, client: usize, known: Known) -> Pair {
        let links = Both { client: Some(client), upstream: None };
        Pair {
            number,
            session,
            links,
            upstream: None,
            known,
            noted: Noted::default(),
            is_queued: false,
            lingers: false,
            is_over: false,
            tried: None,
        }
    }

    /// The request that the session is about, or was last about.
    pub fn id(&self) -> Id {
        Id(self.number, (self.session.number().request as usize).saturating_sub(1))
    }

    /// As `server::pair::Pair::drive`.
    pub fn drive(&mut self, net: &mut Net, turn: &mut Turn, context: &mut Context) -> Result<(), String> {
        let noted = std::mem::take(&mut self.noted);
        let is_news = noted.hung_up || noted.is_due || noted.broke.client || noted.broke.upstream;
        let mut spent = 0;
        if !is_news && let Some(is_queued) = self.pass_straight(&mut spent, net, turn, context) {
            self.is_queued = is_queued;
            return Ok(());
        }
        if noted.hung_up {
            self.session.hung_up(turn);
            self.known.hung_up();
        }
        if noted.is_due && self.session.deadline().is_some_and(|deadline| deadline <= turn.now) {
            let (number, id) = (self.number, self.id());
            context.note(|| format!("session {number} is late"));
            if let Some(upstream) = self.session.upstream_under_way() {
                net.upstreams.note_failure(upstream, turn.now);
            }
            if self.session.is_tunnel() {
                context.excuse(id, "the tunnel was silent");
            }
            self.session.timed_out(turn);
        }
        self.carry_out_steps(net, turn, context)?;
        loop {
            let mut cost = 0;
            for side in Side::BOTH {
                cost += self.read(side, net, turn, context).unwrap_or(0);
            }
            self.carry_out_steps(net, turn, context)?;
            for side in Side::BOTH {
                cost += self.write(side, net, turn, context).unwrap_or(0);
            }
            spent += cost;
            self.carry_out_steps(net, turn, context)?;
            if cost == 0 || spent >= BUDGET {
                break;
            }
        }
        for side in Side::BOTH {
            if noted.broke[side]
                && self.session.minds_loss(side)
                && let Some(link) = self.links[side]
            {
                let (number, why) = (self.number, net.links[link].connection.take_error(End::Ours));
                context.note(|| format!("session {number} is told that the {} broke: {why}", side.as_str()));
                self.session.broke(side, &why, turn);
            }
        }
        self.carry_out_steps(net, turn, context)?;
        self.session.settle(turn);
        if self.session.is_closed() {
            for side in Side::BOTH {
                self.close(side, net, context);
            }
            self.is_over = true;
            return Ok(());
        }
        let has_more = |side| self.can_read(side, net) || self.can_write(side, net);
        self.is_queued = spent >= BUDGET && Side::BOTH.into_iter().any(has_more);
        Ok(())
    }

    fn can_read(&self, side: Side, net: &Net) -> bool {
        self.session.wants_read(side) && self.links[side].is_some_and(|link| net.links[link].is_readable)
    }

    fn can_write(&self, side: Side, net: &Net) -> bool {
        self.session.wants_write(side) && self.links[side].is_some_and(|link| net.links[link].is_writable)
    }

    fn write(&mut self, side: Side, net: &mut Net, turn: &mut Turn, context: &mut Context) -> Option<usize> {
        let link = self.links[side].filter(|_| self.can_write(side, net))?;
        let leaving = self.session.leaving(side);
        let n = context.scenario.grain.piece(leaving.len(), &mut context.prng);
        let moved = net.links[link].write(&leaving[..n]);
        let number = self.number;
        context.note(|| format!("session {number} writes to the {}: {moved:?}", side.as_str()));
        match moved {
            Moved::Some(n) => {
                self.session.sent(side, n, turn);
                self.known.wrote(side, n, turn.now);
                return Some(n.max(WRITE_COST));
            }
            Moved::WouldBlock | Moved::End => return None,
            Moved::Broken(why) => match self.session.upstream_under_way().filter(|_| side == Side::Upstream) {
                None => self.deafened(side, why, turn),
                Some(upstream) => {
                    net.upstreams.note_failure(upstream, turn.now);
                    self.session.broke(side, &why, turn);
                }
            },
        }
        Some(WRITE_COST)
    }

    fn read(&mut self, side: Side, net: &mut Net, turn: &mut Turn, context: &mut Context) -> Option<usize> {
        let link = self.links[side].filter(|_| self.can_read(side, net))?;
        let room = self.session.room(side, turn);
        if room.is_empty() {
            return None;
        }
        let n = context.scenario.grain.piece(room.len(), &mut context.prng);
        let moved = net.links[link].read(&mut room[..n]);
        let number = self.number;
        context.note(|| format!("session {number} reads from the {}: {moved:?}", side.as_str()));
        let Moved::Some(n) = moved else { return self.heard_nothing(side, moved, turn) };
        self.session.received(side, n, turn);
        self.known.read(&self.session, turn.now);
        Some(n)
    }

    fn deafened(&mut self, side: Side, why: &str, turn: &mut Turn) {
        self.session.deafened(side, &why, turn);
        self.known.deafened(side);
    }

    fn heard_nothing(&mut self, side: Side, moved: Moved<usize>, turn: &mut Turn) -> Option<usize> {
        match moved {
            Moved::Some(_) | Moved::WouldBlock => return None,
            Moved::End => {
                self.session.ended(side, turn);
                self.known.ended(side);
            }
            Moved::Broken(why) => self.session.broke(side, &why, turn),
        }
        Some(1)
    }

    /// As `server::pair::Pair::pass_straight`; whether there is more to do.
    fn pass_straight(
        &mut self,
        spent: &mut usize,
        net: &mut Net,
        turn: &mut Turn,
        context: &mut Context,
    ) -> Option<bool> {
        for side in Side::BOTH {
            let (from, to) = (self.links[side]?, self.links[side.other()]?);
            if !net.links[from].is_readable {
                continue;
            }
            if !net.links[to].is_writable || !self.session.is_straight(side) {
                return None;
            }
            let room = turn.pool.straight();
            let n = context.scenario.grain.piece(room.len(), &mut context.prng);
            let moved = net.links[from].read(&mut room[..n]);
            let number = self.number;
            context.note(|| format!("session {number} reads straight from the {}: {moved:?}", side.as_str()));
            let Moved::Some(n) = moved else {
                self.heard_nothing(side, moved, turn);
                return None;
            };
            let offered = context.scenario.grain.piece(n, &mut context.prng);
            let moved = net.links[to].write(&room[..offered]);
            context.note(|| format!("session {number} writes {offered} of {n} bytes straight on: {moved:?}"));
            let sent = if let Moved::Some(sent) = moved { sent } else { 0 };
            self.session.passed(side, n, sent, turn);
            self.known.read(&self.session, turn.now);
            self.known.wrote(side.other(), sent, turn.now);
            if let Moved::Broken(why) = moved {
                self.deafened(side.other(), why, turn);
            }
            *spent += n + sent.max(WRITE_COST);
            if sent < n {
                return None;
            }
        }
        let has_more =
            Side::BOTH.into_iter().any(|side| self.links[side].is_some_and(|link| net.links[link].is_readable));
        (*spent > 0).then_some(has_more)
    }

    fn carry_out_steps(&mut self, net: &mut Net, turn: &mut Turn, context: &mut Context) -> Result<(), String> {
        while let Some(step) = self.session.next_step() {
            self.carry_out(step, net, turn, context)?;
        }
        Ok(())
    }

    fn carry_out(&mut self, step: Step, net: &mut Net, turn: &mut Turn, context: &mut Context) -> Result<(), String> {
        let number = self.number;
        context.note(|| format!("session {number}: {step:?}"));
        match step {
            Step::Connect => self.connect(net, turn, context)?,
            Step::Release => self.release(net, turn, context)?,
            Step::Shutdown(side) => {
                self.lingers |= side == Side::Client && !self.session.is_tunnel() && !self.session.is_closed();
                if let Some(link) = self.links[side] {
                    net.links[link].connection.shut_down(End::Ours);
                }
            }
            Step::Abort(side) => {
                if let Some(link) = self.links[side].take() {
                    net.links[link].holder = Holder::Nobody;
                    net.links[link].connection.abort(End::Ours, &mut context.prng);
                }
            }
            Step::Close(side) => self.close(side, net, context),
        }
        Ok(())
    }

    fn close(&mut self, side: Side, net: &mut Net, context: &mut Context) {
        if let Some(link) = self.links[side].take() {
            net.close(link, context);
        }
    }

    fn connect(&mut self, net: &mut Net, turn: &mut Turn, context: &mut Context) -> Result<(), String> {
        let Some(wanted) = self.session.wanted() else { return Ok(()) };
        if let Some(held) = self.links.upstream {
            return Err(format!("a connection is asked for, while {held} is held"));
        }
        let (id, fresh) = (self.id(), wanted.fresh);
        let all_may_refuse = wanted.to.iter().all(|upstream| net.upstreams.manners[upstream.0 as usize].refuses > 0);
        let upstream = net.upstreams.choose(wanted.to, turn.now);
        self.upstream = Some(upstream);
        if let Some((before, asked)) = self.tried
            && asked == id
        {
            self.check_may_try_again(id, before, net, context)?;
        }
        let idle = if fresh { None } else { net.upstreams.idle.iter().rposition(|(_, to, _)| *to == upstream) };
        if let Some(place) = idle {
            let (index, _, _) = net.upstreams.idle.remove(place);
            let link = &mut net.links[index];
            if link.connection.is_gone(End::Ours) || link.holder != Holder::Idle(upstream) {
                return Err(format!(
                    "the connection {index} is given out, though it is closed or {:?} holds it",
                    link.holder
                ));
            }
            context.note(|| format!("{id} is given the connection {index}, which was used before"));
            (link.holder, link.heard, link.is_reused) = (Holder::Pair(self.number, Side::Upstream), 0, true);
            let repeatable = context.scenario.request(id).is_some_and(|request| request.may_be_repeated());
            if let Some(origin) = &mut link.origin {
                origin.asked_for = Some(id);
                if origin.is_gone && !repeatable {
                    context.excuse(id, "the origin has left");
                }
            }
            self.links.upstream = Some(index);
            self.tried = Some((index, id));
            self.session.connecting(upstream, true, turn);
            return Ok(());
        }
        let manners = net.upstreams.manners[upstream.0 as usize];
        let making = match context.prng.below(100) {
            at if at < manners.refuses => Making::Refused,
            at if at < manners.refuses + manners.swallows => Making::Swallowed,
            at if at < manners.refuses + manners.swallows + manners.is_slow => Making::Slow,
            _ => Making::Made,
        };
        if making == Making::Swallowed {
            context.excuse(id, "nobody answers the connection");
        }
        if making == Making::Refused && all_may_refuse {
            context.excuse(id, "the connection is refused");
        }
        self.session.connecting(upstream, false, turn);
        if context.prng.chance(net.upstreams.starves) {
            context.excuse(id, "no descriptor is left");
            self.session.starved(turn);
            return Ok(());
        }
        let index = net.links.len();
        context.note(|| format!("{id} is given a new connection {index} to upstream {}: {making:?}", upstream.0));
        if making == Making::Refused && context.prng.chance(50) {
            self.tried = None;
            net.upstreams.note_failure(upstream, turn.now);
            self.session.broke(Side::Upstream, &"connection refused", turn);
            return Ok(());
        }
        let grain = context.scenario.grain;
        let room = (grain.room(&mut context.prng), grain.room(&mut context.prng));
        let mut origin = Origin::new(manners);
        origin.asked_for = Some(id);
        net.links.push(Link {
            connection: Connection::new(making, room),
            is_readable: false,
            is_writable: true,
            has_more_behind: false,
            holder: Holder::Pair(self.number, Side::Upstream),
            origin: Some(origin),
            heard: 0,
            is_reused: false,
        });
        self.links.upstream = Some(index);
        self.tried = Some((index, id));
        Ok(())
    }

    /// The same request is on its way to another connection: it must not have been answered, nor acted on but by chance.
    fn check_may_try_again(&self, id: Id, before: usize, net: &Net, context: &mut Context) -> Result<(), String> {
        let link = &net.links[before];
        if link.connection.making == Making::Refused {
            return Ok(());
        }
        let has_ended = link.connection.has_broken(End::Ours) || link.connection.has_shut_down(End::Theirs);
        if !link.is_reused || link.heard > 0 || !has_ended {
            let heard = link.heard;
            return Err(format!(
                "{id} is asked again, though connection {before} (used before: {}) brought {heard} bytes",
                link.is_reused
            ));
        }
        context.entry(id).may_be_seen_again = true;
        Ok(())
    }

    fn release(&mut self, net: &mut Net, turn: &Turn, context: &mut Context) -> Result<(), String> {
        let (Some(index), Some(upstream)) = (self.links.upstream.take(), self.upstream) else {
            return Err("a connection is released, and none is held".into());
        };
        let id = self.id();
        let link = &mut net.links[index];
        if link.is_readable || turn.stopping {
            net.close(index, context);
            return Ok(());
        }
        if !link.origin.as_ref().is_some_and(|origin| origin.is_reusable) {
            let state = link.origin.as_ref().map(Origin::state);
            return Err(format!(
                "connection {index} is released behind {id}, though it cannot be used again: {state:?}"
            ));
        }
        let unread = link.connection.readable_bytes(End::Ours);
        if unread > 0 {
            return Err(format!("connection {index} is released behind {id} with {unread} bytes unread"));
        }
        link.holder = Holder::Idle(upstream);
        if let Some(origin) = &mut link.origin {
            origin.asked_for = None;
        }
        if net.upstreams.idle_max == 0 {
            net.close(index, context);
            return Ok(());
        }
        if net.upstreams.idle.len() >= net.upstreams.idle_max {
            let (oldest, _, _) = net.upstreams.idle.remove(0);
            net.close(oldest, context);
        }
        net.upstreams.idle.push((index, upstream, turn.now));
        Ok(())
    }

    /// Nothing of what was noted is known to another process.
    pub fn forget_events(&mut self, net: &mut Net) {
        (self.noted, self.is_queued) = (Noted::default(), false);
        for link in Side::BOTH.into_iter().filter_map(|side| self.links[side]) {
            net.links[link].forget_events();
        }
    }

    /// The session says of itself what is known of it.
    pub fn check_known(&mut self, turn: &Turn) -> Result<(), String> {
        let upstream = self.upstream.and_then(|upstream| turn.policy.upstream(upstream));
        self.known.check(&self.session, upstream.map(|upstream| &upstream.address), turn)
    }

    /// What must hold whenever the session has been driven as far as it goes.
    pub fn check(&self, net: &Net) -> Result<(), String> {
        let session = &self.session;
        let bytes = session.buffer_bytes();
        let bytes_max = 2 * (READ_BYTES + 16 * 1024 + 1024);
        if bytes > bytes_max {
            return Err(format!("the session owns {bytes} bytes of buffers, {bytes_max} at most were expected"));
        }
        let has_unsent = Side::BOTH.into_iter().any(|side| !session.leaving(side).is_empty());
        // Between requests, half an empty line may be all that has come, in a buffer of at most twice its size.
        let bytes_idle = if session.is_idle() { 6 } else { 0 };
        if (session.is_idle() || session.is_tunnel()) && !has_unsent && bytes > bytes_idle {
            return Err(format!("the session has nothing to send, and owns {bytes} bytes of buffers"));
        }
        if session.is_idle() && self.links.upstream.is_some() {
            return Err("the session is idle, and holds a connection to an upstream".into());
        }
        let has_policy_of_its_own = session.is_tunnel() || !session.is_idle();
        if session.deadline().is_none() && !has_policy_of_its_own {
            return Err("the session has no deadline".into());
        }
        for side in Side::BOTH.into_iter().filter(|_| !self.is_queued) {
            if self.can_read(side, net) {
                return Err(format!("the {} is wanted and readable, and was not read", side.as_str()));
            }
            if self.can_write(side, net) {
                return Err(format!("the {} is wanted and writable, and was not written to", side.as_str()));
            }
        }
        Ok(())
    }

    pub fn state(&self) -> String {
        format!(
            "session {}: {:?}; links {:?}, queued {}, lingers {}, wants to read {:?}, to write {:?}, {} bytes of buffers",
            self.number,
            self.session,
            self.links,
            self.is_queued,
            self.lingers,
            Side::BOTH.map(|side| self.session.wants_read(side)),
            Side::BOTH.map(|side| self.session.wants_write(side)),
            self.session.buffer_bytes(),
        )
    }
}

/// What chance does to connections that are being made.
pub fn make(link: &mut Link, context: &mut Context) {
    match link.connection.making {
        Making::Slow => {
            link.connection.making = Making::Made;
            link.connection.event.writable = true;
        }
        Making::Refused => {
            link.connection.event = Event { readable: true, writable: true, read_closed: true, broke: true };
            if let Some(origin) = &mut link.origin {
                origin.is_gone = true;
            }
        }
        Making::Made | Making::Swallowed => {}
    }
    context.note(|| "a connection is made or refused".into());
}

/// An origin that only waits goes when the world ends.
pub fn end_silence(link: &mut Link, context: &mut Context) {
    if let Some(origin) = &mut link.origin
        && !origin.is_gone
    {
        origin.leave(Leave::Reset, &mut link.connection, context);
    }
}
