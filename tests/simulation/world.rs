//! The world of one seed: clients, sessions, connections and origins, and what must hold between them after every step.

use std::rc::Rc;
use std::time::Duration;

use hawkey::proxy::policy::Http10;
use hawkey::proxy::policy::{Address, ClientAddress, Limits, Policy, Timeouts, Upstream, UpstreamId};
use hawkey::proxy::route::{HostPattern, Route, RouteTable};
use hawkey::proxy::session::Session;
use hawkey::proxy::side::Side;
use hawkey::proxy::turn::Turn;

use crate::client::Client;
use crate::driver::{Holder, Link, Net, Pair, Upstreams, end_silence, make};
use crate::handover::{Known, move_over};
use crate::ledger::Context;
use crate::network::{Connection, End, Making};
use crate::origin::Manners;
use crate::prng::Prng;
use crate::scenario::{Family, Leave, Scenario};

/// More steps than any world takes that goes on.
const STEPS_MAX: usize = 400_000;

pub struct World {
    context: Context,
    turn: Turn,
    net: Net,
    clients: Vec<Client>,
    /// Of the client with the same number, once it was accepted; their connections have the same numbers too.
    pairs: Vec<Option<Pair>>,
    /// The process is asked to stop at this step.
    stops_at: Option<usize>,
    /// How often another process takes a session over that could move, of a hundred times.
    moves: usize,
    steps: usize,
}

/// One thing that can happen next.
#[derive(Clone, Copy, Debug)]
enum Happening {
    Turn,
    Client(usize),
    Origin(usize),
    Deliver(usize, End),
    Make(usize),
    Chatter(usize),
    Move(usize),
}

impl World {
    /// The world that `seed` makes. What happens in it is told to `trace`.
    pub fn new(seed: u64, trace: Option<Box<dyn FnMut(String)>>) -> World {
        let mut prng = Prng::new(seed);
        let scenario = Rc::new(Scenario::new(seed, &mut prng));
        let manners: Vec<Manners> = (0..prng.between(1, 3)).map(|_| manners(&scenario, &mut prng)).collect();
        let policy = Rc::new(policy(&scenario, manners.len(), &mut prng));
        let is_calm = scenario.is_calm;
        let idle_max = prng.pick(&[0, 1, 8, 8, 8]);
        let starves = if is_calm { 0 } else { prng.pick(&[0, 0, 0, 5]) };
        let stops_at = (!is_calm && prng.chance(6)).then(|| prng.below(400));
        let moves = prng.pick(&[0, 10, 60]);
        let grain = scenario.grain;
        let mut context = Context::new(prng, scenario, trace);
        let clients: Vec<Client> =
            (0..context.scenario.clients.len()).map(|number| Client::new(number, &context)).collect();
        let links = (0..clients.len())
            .map(|pair| {
                let room = (grain.room(&mut context.prng), grain.room(&mut context.prng));
                Link::accepted(pair, Connection::new(Making::Slow, room))
            })
            .collect();
        let turn = Turn::new(context.now, policy);
        let pairs = clients.iter().map(|_| None).collect();
        let net = Net { links, upstreams: Upstreams::new(manners, idle_max, starves) };
        World { context, turn, net, clients, pairs, stops_at, moves, steps: 0 }
    }

    /// Lets happen what may, until all sessions have ended.
    pub fn run(&mut self) -> Result<(), String> {
        loop {
            self.steps += 1;
            if self.steps > STEPS_MAX {
                return Err(format!("nothing has ended after {STEPS_MAX} steps"));
            }
            if self.stops_at == Some(self.steps) {
                self.stop()?;
            }
            let happenings = self.happenings();
            if happenings.is_empty() {
                if self.is_over() {
                    return self.check_over();
                }
                self.check_quiet()?;
                self.wait()?;
                continue;
            }
            let happening = self.context.prng.pick(&happenings);
            self.context.now += Duration::from_micros(self.context.prng.below(200) as u64);
            self.happen(happening)?;
        }
    }

    /// Everything that can happen now.
    fn happenings(&self) -> Vec<Happening> {
        let now = self.context.now;
        let mut happenings = Vec::new();
        let mut has_news = self.net.upstreams.next_due().is_some_and(|due| due <= now);
        for (index, link) in self.net.links.iter().enumerate() {
            has_news |= link.connection.event != Default::default() && !link.connection.is_gone(End::Ours);
            match link.connection.making {
                Making::Made => {
                    for end in [End::Ours, End::Theirs] {
                        if link.connection.is_under_way(end) {
                            happenings.push(Happening::Deliver(index, end));
                        }
                    }
                    if link.origin.as_ref().is_some_and(|origin| origin.can_act(&link.connection, &self.context)) {
                        happenings.push(Happening::Origin(index));
                    }
                }
                Making::Slow => {
                    let has_come = self.clients.get(index).is_none_or(|client| client.next_wake(now).is_none());
                    if has_come {
                        happenings.push(Happening::Make(index));
                    }
                }
                Making::Refused if link.origin.as_ref().is_some_and(|origin| !origin.is_gone) => {
                    happenings.push(Happening::Make(index))
                }
                Making::Refused | Making::Swallowed => {}
            }
        }
        for (index, client) in self.clients.iter().enumerate() {
            if self.pairs[index].is_some() && client.can_act(&self.net.links[index].connection, now) {
                happenings.push(Happening::Client(index));
            }
        }
        for pair in self.live() {
            has_news |= pair.is_queued || pair.session.deadline().is_some_and(|deadline| deadline <= now);
        }
        if has_news {
            happenings.push(Happening::Turn);
        }
        if !happenings.is_empty() {
            happenings.extend(self.net.upstreams.idle().map(Happening::Chatter));
            let movable = |pair: &Pair| !pair.is_over && pair.session.is_movable();
            let pairs = self.pairs.iter().enumerate().filter(|(_, pair)| pair.as_ref().is_some_and(movable));
            happenings.extend(pairs.map(|(index, _)| Happening::Move(index)));
        }
        happenings
    }

    fn live(&self) -> impl Iterator<Item = &Pair> {
        self.pairs.iter().flatten().filter(|pair| !pair.is_over)
    }

    fn happen(&mut self, happening: Happening) -> Result<(), String> {
        let World { context, net, clients, .. } = self;
        match happening {
            Happening::Turn => self.turn(),
            Happening::Client(index) => clients[index].act(&mut net.links[index].connection, context),
            Happening::Origin(index) => {
                let Link { connection, origin: Some(origin), .. } = &mut net.links[index] else { return Ok(()) };
                origin.act(connection, context)
            }
            Happening::Deliver(index, end) => {
                let n = context.scenario.grain.piece(usize::MAX >> 1, &mut context.prng);
                net.links[index].connection.deliver(end, n, &mut context.prng);
                Ok(())
            }
            Happening::Make(index) => {
                make(&mut net.links[index], context);
                if index < self.clients.len() {
                    self.accept(index);
                }
                Ok(())
            }
            Happening::Chatter(index) => {
                let Link { connection, origin: Some(origin), .. } = &mut net.links[index] else { return Ok(()) };
                if origin.may_chatter(context) {
                    origin.chatter(connection, context);
                }
                Ok(())
            }
            Happening::Move(index) => self.may_move(index),
        }
    }

    fn may_move(&mut self, index: usize) -> Result<(), String> {
        match &mut self.pairs[index] {
            Some(pair) if !pair.is_over && self.context.prng.chance(self.moves) => {
                move_over(pair, &mut self.net, &mut self.turn, &mut self.context)
            }
            _ => Ok(()),
        }
    }

    fn accept(&mut self, index: usize) {
        let address = if self.context.prng.chance(10) {
            ClientAddress::Unix
        } else {
            ClientAddress::Tcp([192, 0, 2, 7].into(), 1234)
        };
        self.turn.now = self.context.now;
        let session = Session::new(index as u64, address, &self.turn);
        self.context.note(|| format!("client {index} is accepted"));
        let known = Known::new(index as u64, address, self.turn.now);
        self.pairs[index] = Some(Pair::new(index, session, index, known));
    }

    /// As `server::event_loop::EventLoop::turn`: take note, then drive each pair that has something to do.
    fn turn(&mut self) -> Result<(), String> {
        self.turn.now = self.context.now;
        for index in 0..self.net.links.len() {
            if let Some((pair, noted)) = self.net.take_note(index, &mut self.context)
                && let Some(pair) = &mut self.pairs[pair]
            {
                pair.noted.hung_up |= noted.hung_up;
                for side in Side::BOTH {
                    pair.noted.broke[side] |= noted.broke[side];
                }
                pair.is_queued = true;
            }
        }
        let now = self.turn.now;
        for pair in self.pairs.iter_mut().flatten() {
            if !pair.is_over && pair.session.deadline().is_some_and(|deadline| deadline <= now) {
                pair.noted.is_due = true;
                pair.is_queued = true;
            }
        }
        let first = self.context.prng.below(self.pairs.len());
        for place in 0..self.pairs.len() {
            self.drive((first + place) % self.pairs.len())?;
        }
        for link in self.net.upstreams.take_due(now) {
            self.net.close(link, &mut self.context);
        }
        Ok(())
    }

    fn drive(&mut self, index: usize) -> Result<(), String> {
        let Some(pair) = &mut self.pairs[index] else { return Ok(()) };
        if pair.is_over || !std::mem::take(&mut pair.is_queued) {
            return Ok(());
        }
        self.interrupt(index)?;
        let Some(pair) = &mut self.pairs[index] else { return Ok(()) };
        pair.drive(&mut self.net, &mut self.turn, &mut self.context)?;
        if !pair.is_over {
            let holds = pair.check(&self.net).and_then(|()| pair.check_known(&self.turn));
            holds.map_err(|wrong| format!("{wrong}; {}", pair.state()))?;
        }
        // Not only when nothing happens: some states do not last.
        self.may_move(index)
    }

    /// The network does not wait for the end of a turn: what a call comes to is not always what was noted of the socket.
    fn interrupt(&mut self, index: usize) -> Result<(), String> {
        let links = self.pairs[index].iter().flat_map(|pair| [pair.links.client, pair.links.upstream]).flatten();
        let connections = links.map(|link| (link, &self.net.links[link].connection));
        let under_way = connections
            .filter(|(_, connection)| connection.making == Making::Made && connection.is_under_way(End::Ours));
        let happenings: Vec<_> = under_way.map(|(link, _)| Happening::Deliver(link, End::Ours)).collect();
        if happenings.is_empty() || !self.context.prng.chance(50) {
            return Ok(());
        }
        let happening = self.context.prng.pick(&happenings);
        self.happen(happening)
    }

    /// The process is asked to stop: in peace, and later, if anything is left, at once.
    fn stop(&mut self) -> Result<(), String> {
        let at_once = self.turn.stopping;
        self.context.note(|| format!("the process is asked to stop{}", if at_once { " at once" } else { "" }));
        self.turn.stopping = true;
        self.context.is_stopping = true;
        self.stops_at = (!at_once).then_some(self.steps + 300);
        for index in 0..self.clients.len() {
            for request in 0..self.context.scenario.clients[index].requests.len() {
                self.context.excuse(crate::scenario::Id(index, request), "the process stops");
            }
            for tells in [false, true] {
                let Some(pair) = self.pairs[index].as_mut().filter(|pair| !pair.is_over) else { continue };
                match (tells, at_once) {
                    (false, _) => {}
                    (true, false) => pair.session.stop(),
                    (true, true) => pair.session.stop_now(&mut self.turn),
                }
                pair.is_queued = true;
                self.drive(index)?;
            }
        }
        Ok(())
    }

    /// Nothing moves: every session that is about something must be able to say for whom it waits.
    fn check_quiet(&mut self) -> Result<(), String> {
        let now = self.context.now;
        for index in 0..self.pairs.len() {
            let Some(pair) = self.pairs[index].as_ref().filter(|pair| !pair.is_over) else { continue };
            let state = || format!("{}; {}", pair.state(), self.clients[index].state());
            for side in Side::BOTH {
                let Some(link) = pair.links[side].map(|link| &self.net.links[link]) else { continue };
                let is_made = link.connection.making == Making::Made;
                if is_made && pair.session.wants_read(side) && link.connection.can_read(End::Ours) {
                    return Err(format!("lost wake-up: the {} can be read, and is not; {}", side.as_str(), state()));
                }
                if is_made && pair.session.wants_write(side) && link.connection.can_write(End::Ours) {
                    return Err(format!(
                        "lost wake-up: the {} can be written to, and is not; {}",
                        side.as_str(),
                        state()
                    ));
                }
                // Nothing is taken from a side whose other side has broken: the end of that will be found.
                let other = pair.links[side.other()].map(|link| &self.net.links[link].connection);
                let is_tunnel_with_room = pair.session.is_tunnel()
                    && pair.session.leaving(side.other()).is_empty()
                    && other.is_some_and(|other| !other.has_broken(End::Ours));
                if is_tunnel_with_room && link.connection.readable_bytes(End::Ours) > 0 {
                    return Err(format!("the tunnel has room, and bytes of the {} wait; {}", side.as_str(), state()));
                }
            }
            let client = &self.clients[index];
            if pair.session.is_idle() {
                let unread = self.net.links[index].connection.readable_bytes(End::Ours);
                if unread > 0 {
                    return Err(format!(
                        "the session is idle, and {unread} bytes of its client are unread; {}",
                        state()
                    ));
                }
                continue;
            }
            let id = pair.id();
            let origin = pair.links.upstream.map(|link| &self.net.links[link]);
            let origin_waits = origin.is_some_and(|link| {
                link.connection.making == Making::Swallowed
                    || link.origin.as_ref().is_some_and(|origin| origin.is_waiting(now))
            });
            if client.is_waiting(now) && !pair.session.is_tunnel() {
                self.context.excuse(id, "the client waits");
            }
            if origin_waits && !pair.session.is_tunnel() {
                self.context.excuse(id, "the origin waits");
            }
            if !client.is_waiting(now) && !origin_waits && !pair.session.is_tunnel() && !pair.lingers {
                let origin = origin.and_then(|link| link.origin.as_ref()).map(|origin| origin.state());
                return Err(format!("nothing moves, and neither side is to blame; {}; {origin:?}", state()));
            }
        }
        Ok(())
    }

    /// Jumps to when something happens next, or ends the world.
    fn wait(&mut self) -> Result<(), String> {
        let now = self.context.now;
        let sessions = self.live().filter_map(|pair| pair.session.deadline());
        let clients = self.clients.iter().filter_map(|client| client.next_wake(now));
        let origins = self.net.links.iter().filter_map(|link| link.origin.as_ref()?.next_wake(now));
        let next =
            sessions.chain(clients).chain(origins).chain(self.net.upstreams.next_due()).filter(|at| *at > now).min();
        match next {
            Some(at) => {
                self.context.note(|| format!("all is quiet for {:?}", at.saturating_duration_since(now)));
                self.context.now = at;
                Ok(())
            }
            None => self.end_silence(),
        }
    }

    /// Nobody will do anything any more: the silent go.
    fn end_silence(&mut self) -> Result<(), String> {
        self.context.note(|| "the world ends".into());
        let mut has_ended = false;
        for index in 0..self.clients.len() {
            for request in 0..self.context.scenario.clients[index].requests.len() {
                self.context.excuse(crate::scenario::Id(index, request), "the world ends");
            }
            if !self.clients[index].is_gone {
                has_ended = true;
                self.clients[index].leave(Leave::Reset, &mut self.net.links[index].connection, &mut self.context);
            }
        }
        for link in self.net.links.iter_mut().filter(|link| matches!(link.holder, Holder::Pair(..))) {
            has_ended |= link.origin.as_ref().is_some_and(|origin| !origin.is_gone);
            end_silence(link, &mut self.context);
        }
        if has_ended { Ok(()) } else { Err(format!("a hang: nobody is left, and not all has ended; {}", self.state())) }
    }

    fn is_over(&self) -> bool {
        let sessions_are = self.pairs.iter().all(|pair| pair.as_ref().is_some_and(|pair| pair.is_over));
        sessions_are && self.net.upstreams.next_due().is_none()
    }

    fn check_over(&self) -> Result<(), String> {
        for (index, link) in self.net.links.iter().enumerate() {
            if !link.connection.is_gone(End::Ours) {
                return Err(format!("connection {index} was never closed; {:?} holds it", link.holder));
            }
        }
        self.clients.iter().try_for_each(|client| client.check_over(&self.context))
    }

    /// Everything, for a person to read.
    pub fn state(&self) -> String {
        let pairs = self.live().map(Pair::state);
        let clients = self.clients.iter().map(Client::state);
        let origins = self.net.links.iter().filter_map(|link| link.origin.as_ref()).map(|origin| origin.state());
        pairs.chain(clients).chain(origins).collect::<Vec<_>>().join("\n")
    }
}

fn manners(scenario: &Scenario, prng: &mut Prng) -> Manners {
    let sound = Manners { is_slow: prng.pick(&[0, 50]), ..Manners::default() };
    if scenario.is_calm {
        return sound;
    }
    let mut often = |percent: usize| if prng.chance(50) { 0 } else { percent };
    match scenario.family {
        Family::Exchanges => Manners { refuses: often(5), swallows: often(4), pauses: often(1), ..sound },
        Family::KeptConnections => Manners { is_stale: often(10), leaves_idle: often(30), chatters: often(2), ..sound },
        Family::Retries => {
            Manners { refuses: often(40), swallows: often(4), is_stale: often(60), leaves_idle: often(30), ..sound }
        }
        Family::Tunnels => Manners { refuses: often(10), swallows: often(4), pauses: often(1), ..sound },
    }
}

fn policy(scenario: &Scenario, upstreams: usize, prng: &mut Prng) -> Policy {
    let upstream = |port| Upstream { written: String::new(), address: Address::Tcp(([127, 0, 0, 1], port).into()) };
    let route = Route {
        host: HostPattern::Exact("h".into()),
        prefix: String::new(),
        strip: false,
        dot_segments: false,
        to: (0..upstreams as u32).map(UpstreamId).collect(),
    };
    let mut some = |low: usize, high: usize| Duration::from_millis(prng.between(low, high) as u64);
    let timeouts = Timeouts {
        head: some(3000, 10_000),
        keep_alive: some(3000, 60_000),
        connect: some(3000, 5000),
        upgrade: some(3000, 5000),
        response: Some(some(3000, 60_000)),
        idle: Some(some(3000, 60_000)),
        tunnel: Some(some(3000, 3_600_000)),
        linger: some(2000, 4000),
    };
    let forever = |limit: Option<Duration>, prng: &mut Prng| limit.filter(|_| !prng.chance(10));
    Policy {
        routes: RouteTable::new(vec![route]),
        upstreams: (0..upstreams as u16).map(|port| upstream(port + 1)).collect(),
        timeouts: Timeouts {
            response: forever(timeouts.response, prng),
            idle: forever(timeouts.idle, prng),
            tunnel: forever(timeouts.tunnel, prng),
            ..timeouts
        },
        limits: Limits { body: scenario.body_max, ..Limits::default() },
        http_1_0: if scenario.serves_http_1_0 { Http10::Serve } else { Http10::Refuse },
        ..Policy::default()
    }
}
