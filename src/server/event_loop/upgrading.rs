//! Handing over to a new process, and taking over from a former one.

use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::process;
use std::time::Duration;

use jzon::object;
use mio::Interest;
use mio::unix::SourceFd;

use crate::proxy::packed::{Malformed, Packed};
use crate::proxy::policy::{Policy, UpstreamId};
use crate::proxy::record::Quoted;
use crate::proxy::session::Session;
use crate::proxy::side::{Both, Side};
use crate::server::control::{Connection, Control};
use crate::server::event_loop::{EventLoop, FORMER};
use crate::server::giver::{Given, Giver, Goods, Tally};
use crate::server::handover::{Channel, Kind, Message, VERSION};
use crate::server::listener::Listener;
use crate::server::pair::Pair;
use crate::server::socket::Socket;
use crate::server::supervisor::Supervisor;
use crate::server::table::{Holder, PairKey};
use crate::server::taker::Taker;
use crate::server::upgrade::Upgrade;

/// When tunnels of a former process are looked at: there they may not have been yet.
const FIRST_LOOK: Duration = Duration::from_secs(5);
/// Why an upgrade is refused while something else goes on.
const ALREADY: &str = "an upgrade is under way already";
/// Why it is refused in most containers.
const PROCESS_1: &str = "hawkey is process 1 here, and a new process would end with it: replace the container";

// Handing over.

impl EventLoop {
    /// Starts a new process, which is to take over. `asker` is answered when that has happened or has failed.
    pub(super) fn upgrade(&mut self, path: Option<PathBuf>, asker: Option<Connection>) {
        let started = match (&self.program, self.control.as_ref().and_then(Control::door)) {
            _ if self.upgrade.is_some() => Err((ALREADY.to_owned(), asker)),
            _ if self.is_ending() => Err(("hawkey is stopping".to_owned(), asker)),
            // The kernel ends all that process 1 leaves behind.
            _ if process::id() == 1 => Err((PROCESS_1.to_owned(), asker)),
            (Err(why), _) => Err((why.clone(), asker)),
            (_, None) => Err(("without a control socket nothing can be handed over".to_owned(), asker)),
            (Ok(program), Some((_, control))) => {
                Upgrade::start(program, path.as_deref(), control, asker, self.turn.now)
            }
        };
        match started {
            Ok(upgrade) => {
                log::info!("event=upgrade-begins pid={}", upgrade.pid());
                self.upgrade = Some(upgrade);
            }
            Err((why, asker)) => self.tell_of_failure(&why, asker),
        }
    }

    /// Somebody asks to take over by this version of the handover: only the process that was started for it may.
    pub(super) fn hand_over_to(&mut self, connection: Connection, version: u64) {
        let is_expected = self.is_from_new_process(&connection);
        let refusal = if !is_expected {
            Some("only a process that an upgrade has started may take over".to_owned())
        } else if version != u64::from(VERSION) {
            Some(format!(
                "this hawkey hands over by version {VERSION}, and the new one takes over by version {version}"
            ))
        } else {
            None
        };
        if let Some(why) = refusal {
            if is_expected {
                self.fail_upgrade(&why);
            }
            return self.answer(connection, Err(why));
        }
        // Until it serves or has failed, nobody is accepted: who comes waits in the kernel.
        let (stream, came) = connection.into_parts();
        let giver = Giver::new(Channel::new(stream, came), &self.pairs, self.turn.now);
        if let Some(upgrade) = &mut self.upgrade {
            upgrade.giver = Some((giver, self.turn.now));
        }
    }

    /// The new process says why it cannot run.
    pub(super) fn give_up_upgrade(&mut self, connection: Connection, why: &str) {
        if self.is_from_new_process(&connection) {
            self.answer(connection, Ok(object! {}));
            self.fail_upgrade(why);
        } else {
            self.answer(connection, Err("no upgrade waits for this process".to_owned()));
        }
    }

    fn is_from_new_process(&self, connection: &Connection) -> bool {
        let expected = self.upgrade.as_ref().filter(|upgrade| upgrade.giver.is_none()).map(Upgrade::pid);
        expected.is_some() && connection.pid().ok() == expected
    }

    /// Gives what can be given, hears what the new process says, and notices if it fails.
    pub(super) fn attend_upgrade(&mut self) {
        let Some(upgrade) = &mut self.upgrade else { return self.attend_stragglers() };
        let now = self.turn.now;
        let given = match &mut upgrade.giver {
            None => Ok(Given::Going),
            Some((giver, _)) => giver.advance(
                &mut Goods {
                    listeners: &self.listeners,
                    control: self.control.as_ref().and_then(Control::door),
                    pairs: &mut self.pairs,
                    table: &mut self.net.table,
                    sessions: self.sessions,
                },
                now,
            ),
        };
        match given {
            Ok(Given::Taken(keys)) => self.leave(keys),
            Ok(Given::Going) => {
                if let Some(why) = upgrade.has_failed(now) {
                    self.fail_upgrade(&why);
                }
            }
            Err(why) => self.fail_upgrade(&why),
        }
    }

    /// The new process serves: what it has is let go, and what goes on here ends here or follows.
    fn leave(&mut self, keys: Vec<PairKey>) {
        let Some(mut upgrade) = self.upgrade.take() else { return };
        self.let_go(&keys);
        for listener in &mut self.listeners {
            listener.let_go(&self.net.registry);
        }
        self.listeners.clear();
        if let Some(control) = &mut self.control {
            control.let_go(&self.net.registry, self.turn.now);
        }
        while let Some(idle) = self.net.upstreams.evict() {
            self.net.table.close(idle);
        }
        self.supervisor.main_pid(upgrade.pid());
        self.supervisor = Supervisor::nobody();
        let (millis, still) = upgrade.millis(self.turn.now);
        let Tally { listeners, clients, tunnels } =
            upgrade.giver.as_ref().map(|(giver, _)| giver.tally).unwrap_or_default();
        let stays = |pair: &Pair| !pair.noted.is_frozen && !pair.session().is_closed();
        let stay = self.pairs.iter().filter(|(_, pair)| stays(pair)).count();
        log::info!(
            "upgraded pid={} listeners={listeners} clients={clients} tunnels={tunnels} stay={stay} still_ms={still} ms={millis}",
            upgrade.pid(),
        );
        if let Some(asker) = upgrade.asker.take() {
            let told = object! {
                "pid": upgrade.pid(),
                "former_pid": process::id(),
                "moved": object! { "listeners": listeners, "clients": clients, "tunnels": tunnels },
                "stay": stay,
                "still_ms": still as u64,
                "ms": millis as u64,
            };
            self.answer(asker, Ok(told));
        }
        self.successor = upgrade.giver.map(|(giver, _)| giver);
        self.has_left = true;
    }

    /// What has become movable since the new process serves follows it.
    fn attend_stragglers(&mut self) {
        let Some(giver) = &mut self.successor else { return };
        let movable = |pair: &Pair| !pair.noted.is_frozen && pair.session().is_movable();
        giver.offer(self.pairs.iter().filter(|(_, pair)| movable(pair)).map(|(key, _)| PairKey(key as u32)));
        let given = giver.advance(
            &mut Goods {
                listeners: &[],
                control: None,
                pairs: &mut self.pairs,
                table: &mut self.net.table,
                sessions: self.sessions,
            },
            self.turn.now,
        );
        match given {
            Ok(Given::Taken(keys)) => self.let_go(&keys),
            Ok(Given::Going) => {}
            Err(why) => {
                log::warn!("event=successor-lost why={}", Quoted(why.as_bytes()));
                self.part_from_successor();
                self.turn.stopping = true;
                self.tell_all(|session, _| session.stop());
            }
        }
        while let Some(idle) = self.net.upstreams.evict() {
            self.net.table.close(idle);
        }
    }

    /// Nothing more follows the new process.
    pub(super) fn part_from_successor(&mut self) {
        let Some(successor) = self.successor.take() else { return };
        let (ours, theirs) = successor.end();
        self.thaw(ours);
        self.let_go(&theirs);
    }

    /// All goes on as if no upgrade had been tried.
    pub(super) fn fail_upgrade(&mut self, why: &str) {
        let Some(mut upgrade) = self.upgrade.take() else { return };
        if let Err(error) = upgrade.end() {
            log::warn!("event=upgrade-failed why=\"the new process could not be ended: {error}\"");
        }
        // A process that is gone has nothing, whatever it was given.
        let (ours, _) = upgrade.giver.map(|(giver, _)| giver.end()).unwrap_or_default();
        self.thaw(ours);
        self.tell_of_failure(why, upgrade.asker);
    }

    fn tell_of_failure(&mut self, why: &str, asker: Option<Connection>) {
        log::error!("event=upgrade-failed why={}", Quoted(why.trim_end().as_bytes()));
        if let Some(asker) = asker {
            self.answer(asker, Err(why.to_owned()));
        }
    }

    fn thaw(&mut self, keys: Vec<PairKey>) {
        for key in keys {
            if let Some(pair) = self.pairs.get_mut(key.0 as usize) {
                pair.noted.is_frozen = false;
                self.queue.push(pair, key);
            }
        }
    }

    fn let_go(&mut self, keys: &[PairKey]) {
        for key in keys {
            if let Some(pair) = self.pairs.get_mut(key.0 as usize) {
                pair.let_go(&mut self.net);
                self.dead.push(*key);
            }
        }
    }
}

// Taking over.

impl EventLoop {
    /// Takes the sessions of the former process, and then its place. Until it has that, nothing moves here; behind that, nothing fails.
    pub(super) fn take_over(&mut self, mut former: Taker) -> io::Result<()> {
        if let Err(error) = self.take_all(&mut former) {
            former.refuse(&error.to_string());
            return Err(error);
        }
        // Files are its own to remove from now on, first those of what its configuration no longer has.
        self.listeners.iter_mut().for_each(Listener::own_file);
        self.control.iter_mut().for_each(Control::own_file);
        for left in former.take_what_is_left() {
            self.listeners.push(left);
            self.accept_all(self.listeners.len() - 1);
            self.listeners.pop();
        }
        log::info!("took-over sessions={}", self.pairs.len());
        self.former = former.set_nonblocking().is_ok().then_some(former);
        // Of what has come behind the farewell, no event will tell.
        self.attend_former();
        Ok(())
    }

    fn take_all(&mut self, former: &mut Taker) -> io::Result<()> {
        loop {
            let message = former.receive()?;
            match message.kind {
                Kind::Sessions => {
                    self.adopt(message)?;
                    former.say(Kind::Acknowledged, "")?;
                }
                Kind::All => {
                    let last = message.body.first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
                    self.sessions = last.ok_or(Malformed("no number of sessions")).map_err(io::Error::other)?;
                    break;
                }
                kind => return Err(io::Error::other(format!("{kind:?} was not expected"))),
            }
        }
        self.poll.registry().register(&mut SourceFd(&former.raw_fd()), FORMER, Interest::READABLE)?;
        former.take()
    }

    /// What the former process could not give at once.
    pub(super) fn attend_former(&mut self) {
        let Some(mut former) = self.former.take() else { return };
        if former.is_stirred {
            former.is_stirred = false;
            loop {
                let received = former.receive();
                let taken = match received {
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    // It has ended.
                    Err(error) if error.kind() == ErrorKind::UnexpectedEof => return,
                    // No descriptor was free, for example.
                    Err(error) => Err(error),
                    Ok(message) => self.adopt(message),
                };
                if let Err(error) = taken {
                    log::error!("event=take-over-failed why=\"{error}\"");
                    return former.refuse(&error.to_string());
                }
                // Who has ended meanwhile need not know.
                let _ = former.say(Kind::Acknowledged, "");
            }
        }
        self.former = Some(former);
    }

    /// Goes on with all of these sessions, or with none of them.
    fn adopt(&mut self, message: Message) -> io::Result<()> {
        let mut adopted = Vec::new();
        let outcome = self.adopt_each(message, &mut adopted);
        if outcome.is_err() {
            self.let_go(&adopted);
        }
        outcome
    }

    /// Their sockets tell anew what they are ready for.
    fn adopt_each(&mut self, message: Message, adopted: &mut Vec<PairKey>) -> io::Result<()> {
        let mut packed = Vec::new();
        let mut records = message.body.as_slice();
        while !records.is_empty() {
            let (session, rest) = Packed::decode(records).map_err(io::Error::other)?;
            packed.push(session);
            records = rest;
        }
        let policy = Policy::knowing(&self.turn.policy, packed.iter().filter_map(Packed::upstream));
        let mut descriptors = message.descriptors.into_iter();
        for packed in packed {
            let entry = self.pairs.vacant_entry();
            let key = PairKey(u32::try_from(entry.key()).map_err(io::Error::other)?);
            let upstream = packed.upstream().and_then(|address| policy.upstream_at(address));
            let mut sockets = Both::default();
            let taken: io::Result<()> = packed.sockets().iter().try_for_each(|side| {
                let holder = match side {
                    Side::Client => Holder::Client(key),
                    Side::Upstream => Holder::Upstream(key, upstream.unwrap_or(UpstreamId(u32::MAX))),
                };
                let descriptor =
                    descriptors.next().ok_or_else(|| io::Error::other(Malformed("a socket is missing")))?;
                sockets[*side] = Some(self.net.table.insert(Socket::moved(descriptor), holder, &self.net.registry)?);
                Ok(())
            });
            let session = Session::unpack(&packed, &policy, &self.turn);
            let pair = entry.insert(Pair::moved(session, sockets));
            // What has come of one that did not come whole is let go with the others.
            adopted.push(key);
            taken?;
            if pair.session().is_tunnel() {
                self.deadlines.arm(key, Some(self.turn.now + FIRST_LOOK), &mut pair.armed);
            }
            self.deadlines.arm(key, pair.session().deadline(), &mut pair.armed);
        }
        Ok(())
    }
}
