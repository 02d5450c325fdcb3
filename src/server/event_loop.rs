//! Sleep, take note, act, bury.

mod accepting;
mod commands;
mod stopping;
mod upgrading;

use std::io;
use std::os::fd::AsRawFd as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use mio::event::Event;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use slab::Slab;

use crate::config::{Config, Control as ControlAsked};
use crate::os::descriptors;
use crate::os::pipe::Pipe;
use crate::os::signals::Signals;
use crate::proxy::moment::Moment;
use crate::proxy::side::Side;
use crate::proxy::turn::Turn;
use crate::server::Server;
use crate::server::clock::{self, Alarm};
use crate::server::control::Control;
use crate::server::deadlines::Deadlines;
use crate::server::event_loop::accepting::connections_max;
use crate::server::giver::Giver;
use crate::server::journal;
use crate::server::listener::Listener;
use crate::server::pair::{Driven, Net, Pair};
use crate::server::queue::{Line, RunQueue, Share};
use crate::server::source::Source;
use crate::server::stop::StopFlag;
use crate::server::supervisor::Supervisor;
use crate::server::table::{self, Holder, PairKey, TABLE_BYTES, Table};
use crate::server::taker::Taker;
use crate::server::upgrade::{Program, Upgrade};
use crate::server::upstreams::{Keeping, Upstreams};

/// Events taken from the kernel in one turn. Many more would make some of them wait for all the others.
const EVENTS_MAX: usize = 200;
/// How soon log lines that standard error did not take are offered again.
const LINES_RETRY: Duration = Duration::from_millis(250);

/// Tokens of what is no stream: the highest of 32 bits is set.
const OTHER: usize = 1 << 31;
/// [`Handle`](crate::Handle)s wake the loop by this one.
pub const WAKE: Token = Token(OTHER);
const SIGNALS: Token = Token(OTHER + 1);
const CONTROL: Token = Token(OTHER + 2);
/// The process whose place this one has taken, and which may still have something to give.
const FORMER: Token = Token(OTHER + 3);
const ALARM: Token = Token(OTHER + 4);
/// Of the first listener. Each has a token of its own, and leaves it to nobody.
const LISTENERS: usize = OTHER + 5;

/// The loop and everything in it.
#[derive(Debug)]
pub struct EventLoop {
    poll: Poll,
    events: Events,
    alarm: Alarm,
    listeners: Vec<Listener>,
    /// The token of the next listener.
    next_listener: usize,
    signals: Option<Signals>,
    control: Option<Control>,
    /// What the configuration said of it when it was opened.
    control_asked: ControlAsked,
    source: Source,
    /// How this program is started anew, or why it cannot be.
    program: Result<Program, String>,
    /// A new process that is to take over.
    upgrade: Option<Upgrade>,
    /// One that has, as long as it can be given more.
    successor: Option<Giver>,
    has_left: bool,
    /// The one before this, as long as it may give more.
    former: Option<Taker>,
    since: SystemTime,
    supervisor: Supervisor,
    stop: Arc<StopFlag>,
    /// Tokens of what has stirred and is to be [attended](EventLoop::attend) to.
    stirred: Vec<Token>,
    /// When something is to be attended to even if nothing stirs. It may have been settled since.
    attend_at: Option<Moment>,
    pairs: Slab<Pair>,
    queue: RunQueue,
    /// Pairs that have ended; their places are freed at the end of the turn.
    dead: Vec<PairKey>,
    deadlines: Deadlines,
    net: Net,
    /// The pair that is driven, or was last.
    driven: PairKey,
    turn: Turn,
    sessions: u64,
    /// What the process may hold.
    descriptors: usize,
    connections_max: usize,
    /// Descriptors have run out: no accepting until then.
    accept_paused_until: Option<Moment>,
    accept_warned: Option<Moment>,
    drain: Duration,
    /// Once the process has been asked to stop: when the time for that is over.
    stop_by: Option<Moment>,
}

impl EventLoop {
    /// The loop of a server that listens already.
    pub fn new(server: Server) -> io::Result<EventLoop> {
        let Server { config, poll, mut listeners, signals, control, source, program, stop, supervisor, .. } = server;
        let now = clock::now();
        let mut next_listener = LISTENERS;
        for listener in &mut listeners {
            listener.register(poll.registry(), Token(next_listener))?;
            next_listener += 1;
        }
        if let Some(control) = &control {
            control.register(poll.registry(), CONTROL)?;
        }
        if let Some(signals) = &signals {
            poll.registry().register(&mut SourceFd(&signals.as_raw_fd()), SIGNALS, Interest::READABLE)?;
        }
        let descriptors = descriptors::raise_limit();
        let connections_max = connections_max(&config, descriptors);
        let keeping = keeping(&config);
        let mut upstreams = Upstreams::new(keeping);
        let (policy, _) = upstreams.adopt(config.policy, keeping, now);
        let registry = poll.registry().try_clone()?;
        // Without a pipe, bulk is copied like everything else.
        let net = Net { registry, table: Table::default(), upstreams, may_be_behind: false, pipe: Pipe::new().ok() };
        Ok(EventLoop {
            alarm: Alarm::new(poll.registry(), ALARM)?,
            poll,
            events: Events::with_capacity(EVENTS_MAX),
            listeners,
            next_listener,
            signals,
            control,
            control_asked: config.control,
            source,
            program,
            upgrade: None,
            successor: None,
            has_left: false,
            former: None,
            since: SystemTime::now(),
            supervisor,
            stop,
            // What came before the loop began has woken nobody.
            stirred: vec![WAKE],
            attend_at: None,
            pairs: table::room(),
            queue: RunQueue::default(),
            dead: Vec::new(),
            deadlines: Deadlines::with_bytes(TABLE_BYTES),
            net,
            driven: PairKey(0),
            turn: Turn::new(now, policy),
            sessions: 0,
            descriptors,
            connections_max,
            accept_paused_until: None,
            accept_warned: None,
            drain: config.drain,
            stop_by: None,
        })
    }

    /// Takes the place of the `former` process, if there is one; then turns until the process is asked to stop and nothing is left to do.
    pub fn run(mut self, former: Option<Taker>) -> io::Result<()> {
        if let Some(former) = former {
            self.take_over(former)?;
        }
        self.supervisor.ready(&self.listeners);
        self.write_lines();
        while !self.is_done() {
            self.turn()?;
        }
        log::info!("stopped sessions={}", self.sessions);
        journal::flush();
        Ok(())
    }

    /// One turn: sleep, take note, act, bury.
    fn turn(&mut self) -> io::Result<()> {
        self.sleep()?;
        self.turn.now = clock::now();
        self.take_note();
        self.act();
        self.bury();
        Ok(())
    }

    fn is_done(&self) -> bool {
        self.is_ending() && self.pairs.is_empty() && (self.stop_by.is_some() || !self.is_needed())
    }

    /// Whether somebody still counts on a process whose place another has taken: who waits for an answer, or the process before it, which
    /// has nobody else to give anything to.
    fn is_needed(&self) -> bool {
        self.former.is_some() || self.control.as_ref().is_some_and(Control::is_busy)
    }

    /// Whether nobody is accepted any more.
    fn is_ending(&self) -> bool {
        self.stop_by.is_some() || self.has_left
    }

    fn sleep(&mut self) -> io::Result<()> {
        let is_busy = !self.stirred.is_empty() || !self.queue.is_empty() || self.may_accept();
        let due = sooner(sooner(self.deadlines.next(), self.net.upstreams.next_due()), self.attend_at);
        if !is_busy && let Some(due) = due {
            self.alarm.ring_for(due)?;
        }
        let timeout = is_busy.then_some(Duration::ZERO);
        match self.poll.poll(&mut self.events, timeout) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                self.events.clear();
                // A signal came; the byte that was to tell so may have found no memory.
                self.stirred.push(SIGNALS);
                Ok(())
            }
            polled => polled,
        }
    }

    /// Events and expired deadlines only mark sockets and queue pairs; nothing is done about them yet.
    fn take_note(&mut self) {
        let EventLoop { events, alarm, listeners, net, pairs, queue, stirred, .. } = self;
        let mut count = 0;
        for event in events.iter() {
            count += 1;
            match event.token() {
                Token(stream) if stream < OTHER => note_stream(event, net, pairs, queue),
                ALARM => alarm.rang(),
                token => match listeners.iter_mut().find(|listener| listener.token == token) {
                    Some(listener) => listener.is_ready = true,
                    None => stirred.push(token),
                },
            }
        }
        net.may_be_behind = count >= EVENTS_MAX;
        while let Some((moment, key)) = self.deadlines.next_fired(self.turn.now) {
            let pair = self.pairs.get_mut(key.0 as usize).filter(|pair| pair.armed == Some(moment));
            let Some(pair) = pair else { continue };
            pair.armed = None;
            if pair.session().deadline().is_some_and(|deadline| deadline <= self.turn.now) {
                pair.noted.is_due = true;
                self.queue.push(pair, key);
            } else {
                pair.watch_peers(&mut self.net);
                self.deadlines.arm(key, pair.session().deadline(), &mut pair.armed);
            }
        }
    }

    fn act(&mut self) {
        let is_due = |at: Option<Moment>| at.is_some_and(|at| at <= self.turn.now);
        let closes_idle = is_due(self.net.upstreams.next_due());
        let attends = !self.stirred.is_empty() || is_due(self.attend_at) || self.hands_over();
        if self.may_accept() {
            self.accept();
        }
        let share = Share::of_a_turn(&mut self.queue);
        self.drive(share);
        if closes_idle {
            for key in self.net.upstreams.take_due(self.turn.now) {
                self.net.table.close(key);
            }
        }
        if attends {
            self.attend();
        }
    }

    /// Whether this process hands over to another one, in which case it goes on doing so in each turn.
    fn hands_over(&self) -> bool {
        self.upgrade.is_some() || self.successor.is_some()
    }

    /// Everything but traffic. Rare, and so out of the way of what every turn does.
    #[cold]
    fn attend(&mut self) {
        self.supervisor.keep_watch(self.turn.now);
        while let Some(token) = self.stirred.pop() {
            match token {
                CONTROL => self.control.iter_mut().for_each(|control| control.stir(self.turn.now)),
                FORMER => self.former.iter_mut().for_each(|former| former.is_stirred = true),
                WAKE | SIGNALS => self.heed(),
                // A listener that has been closed since.
                _ => {}
            }
        }
        if self.control.as_ref().and_then(Control::due).is_some_and(|due| due <= self.turn.now) {
            self.serve_control();
        }
        if self.former.is_some() {
            self.attend_former();
        }
        if self.hands_over() {
            self.attend_upgrade();
        }
        if self.stop_by.is_some_and(|by| by <= self.turn.now) {
            self.stop_at_once();
        }
        let control = self.control.as_ref().and_then(Control::due);
        let upgrade = self.upgrade.as_ref().map(|upgrade| upgrade.next_due(self.turn.now));
        let paused = self.accept_paused_until.filter(|until| *until > self.turn.now);
        let rarely = [control, self.supervisor.next_due(), upgrade, self.stop_by, paused];
        self.attend_at = rarely.into_iter().flatten().min();
    }

    /// Keys are freed here and nowhere else: within a turn, none changes its meaning.
    fn bury(&mut self) {
        if !self.dead.is_empty() {
            // A descriptor came free.
            self.accept_paused_until = None;
        }
        while let Some(PairKey(key)) = self.dead.pop() {
            self.pairs.try_remove(key as usize);
            table::shrink(&mut self.pairs);
        }
        self.net.table.bury();
        let armed = |PairKey(key): PairKey| self.pairs.get(key as usize)?.armed;
        if !self.alarm.is_set() {
            // It is not to ring for an entry that was overtaken.
            self.deadlines.drop_front(armed);
        }
        // Such entries may be far from the front.
        if self.deadlines.are_crowded() {
            self.deadlines.sweep(armed);
        }
        self.write_lines();
    }

    /// Offers the log's lines to standard error, and again later if it does not take them.
    fn write_lines(&mut self) {
        if journal::flush() {
            self.attend_by(self.turn.now + LINES_RETRY);
        }
    }

    /// Something is to be attended to at this moment, if not before.
    fn attend_by(&mut self, moment: Moment) {
        self.attend_at = sooner(self.attend_at, Some(moment));
    }

    /// Drives pairs that are queued, as far as the `share` goes.
    fn drive(&mut self, mut share: Share) {
        // A bug of ours in one session must not end the others. What a panic may leave half done is the session's own, and is
        // dropped with it; the turn's buffers are emptied before they are used.
        while catch_unwind(AssertUnwindSafe(|| self.drive_share(&mut share))).is_err() {
            self.give_up_driven();
        }
    }

    #[cold]
    fn give_up_driven(&mut self) {
        if let Some(pair) = self.pairs.get_mut(self.driven.0 as usize) {
            pair.give_up(&mut self.net);
            self.dead.push(self.driven);
        }
        // It may hold bytes of that session.
        self.net.pipe = Pipe::new().ok();
    }

    /// The hot loop. The reads and writes of all these pairs are made in this one function, into which all between here and them is
    /// inlined: on many processors a return behind a system call costs 0.3 µs, and without them an echo takes 1.04 of what the bare
    /// relay does instead of 1.20 (docs/decisions/0012).
    #[inline(never)]
    fn drive_share(&mut self, share: &mut Share) {
        while let Some((key, line)) = share.next(&mut self.queue) {
            self.driven = key;
            let Some(pair) = self.pairs.get_mut(key.0 as usize) else { continue };
            pair.noted.is_queued &= line == Line::Aside;
            if pair.noted.is_frozen || pair.has_ended() {
                continue;
            }
            let mut budget = line.budget();
            let driven = pair.drive(key, &mut budget, &mut self.net, &mut self.turn);
            share.spend(line, budget.spent());
            if driven == Driven::Ended {
                self.dead.push(key);
                continue;
            }
            if driven == Driven::Again {
                self.queue.push(pair, key);
            }
            self.deadlines.arm(key, pair.session().deadline(), &mut pair.armed);
        }
    }
}

/// The lesser of two, where `None` is never.
fn sooner<T: Ord + Copy>(one: Option<T>, other: Option<T>) -> Option<T> {
    if other.is_some_and(|other| one.is_none_or(|one| other < one)) { other } else { one }
}

/// What the configuration says of connections to upstreams.
fn keeping(config: &Config) -> Keeping {
    Keeping { idle_max: config.idle_upstreams, idle_for: config.upstream_idle, cool_down: config.cool_down }
}

/// Marks the socket that `event` names, and queues the pair that holds it. On an idle connection nothing is expected: whatever
/// comes, even an end, ends it.
fn note_stream(event: &Event, net: &mut Net, pairs: &mut Slab<Pair>, queue: &mut RunQueue) {
    let Some((key, socket, holder)) = net.table.named(event.token()) else { return };
    if !socket.note(event) {
        return;
    }
    match holder {
        Holder::Idle(upstream) => {
            if socket.is_readable() {
                net.upstreams.remove_idle(upstream, key);
                net.table.close(key);
            }
        }
        Holder::Client(key) | Holder::Upstream(key, _) => {
            let Some(pair) = pairs.get_mut(key.0 as usize) else { return };
            let side = if holder == Holder::Client(key) { Side::Client } else { Side::Upstream };
            pair.noted.hung_up |= side == Side::Client && event.is_read_closed();
            pair.noted.broke[side] |= event.is_error();
            queue.push(pair, key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Read as _, Write as _};
    use std::net::TcpStream;
    use std::thread;

    use crate::proxy::policy::Address;
    use crate::server::pair::tests::CURSED;
    use crate::{Config, Server};

    const REQUEST: &[u8] = b"GET /nowhere HTTP/1.1\r\nHost: a\r\n\r\n";

    /// What a client gets for a request that no route matches.
    fn ask(client: &mut TcpStream) -> std::io::Result<String> {
        let mut answer = [0; 1024];
        client.write_all(REQUEST)?;
        let n = client.read(&mut answer)?;
        Ok(String::from_utf8_lossy(&answer[..n]).into_owned())
    }

    #[test]
    fn a_panic_in_one_session_resets_it_and_leaves_the_others() {
        let config = Config::new().listen("127.0.0.1:0").unwrap().route("/somewhere", ["127.0.0.1:9"]).unwrap();
        let server = Server::bind(config).unwrap();
        let Address::Tcp(address) = server.addresses()[0] else { panic!("a TCP listener was asked for") };
        let handle = server.handle();
        let running = thread::spawn(move || {
            CURSED.set(Some(2));
            server.run()
        });
        let (mut first, mut second) = (TcpStream::connect(address).unwrap(), TcpStream::connect(address).unwrap());
        assert!(ask(&mut first).unwrap().starts_with("HTTP/1.1 404 "));
        assert_eq!(ask(&mut second).unwrap_err().kind(), ErrorKind::ConnectionReset);
        assert!(ask(&mut first).unwrap().starts_with("HTTP/1.1 404 "), "the first session goes on");
        let mut third = TcpStream::connect(address).unwrap();
        assert!(ask(&mut third).unwrap().starts_with("HTTP/1.1 404 "), "the next client is served");
        drop((first, third));
        handle.stop().unwrap();
        running.join().unwrap().unwrap();
    }
}
