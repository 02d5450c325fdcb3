//! What this process gives to the one that takes over: which sessions, in which order, and what becomes of them.
//!
//! A session that has been sent is frozen: nothing moves on its sockets, and what happens to them is only noted. If the taker fails before
//! it has been told that they are its own, all of them thaw and go on. From then on, those that it has or may have are let go without a word
//! to anybody: what two processes read is worse than lost.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::mem;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::time::Duration;

use slab::Slab;

use crate::proxy::moment::Moment;
use crate::server::handover::{BATCH_BYTES_ENOUGH, BATCH_DESCRIPTORS_MAX, Channel, Kind, Outgoing};
use crate::server::listener::Listener;
use crate::server::pair::Pair;
use crate::server::table::{PairKey, Table};

/// How long the taker may say nothing.
pub const SILENCE_MAX: Duration = Duration::from_secs(5);
/// Batches that are not acknowledged yet. The kernel lets a user have only so many descriptors under way (`RLIMIT_NOFILE`), and holds a
/// few messages anyway.
const BATCHES_MAX: usize = 4;

/// What can be given.
#[derive(Debug)]
pub struct Goods<'a> {
    /// Where clients come in.
    pub listeners: &'a [Listener],
    /// The control socket and its path.
    pub control: Option<(BorrowedFd<'a>, &'a Path)>,
    /// The sessions.
    pub pairs: &'a mut Slab<Pair>,
    /// Their sockets.
    pub table: &'a mut Table,
    /// How many sessions there have been.
    pub sessions: u64,
}

/// How far it has come.
#[derive(Debug, PartialEq, Eq)]
pub enum Given {
    /// The taker has not taken over yet.
    Going,
    /// The taker may serve, and these sessions are its own now.
    Taken(Vec<PairKey>),
}

/// What has been sent, for a report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Sockets that clients come in by.
    pub listeners: usize,
    /// Clients that wait for a next request.
    pub clients: usize,
    /// Tunnels.
    pub tunnels: usize,
}

/// Gives all that moves.
#[derive(Debug)]
pub struct Giver {
    channel: Channel,
    next: Next,
    outgoing: Option<(Outgoing, Cargo)>,
    /// Sessions to be sent, the first of them last.
    waiting: Vec<PairKey>,
    /// Those that are frozen and sent, by batch, until they are the taker's and acknowledged.
    batches: VecDeque<Vec<PairKey>>,
    unacknowledged: usize,
    /// The taker serves: what it acknowledges is its own.
    has_parted: bool,
    /// The taker has said itself that it cannot go on.
    is_refused: bool,
    /// Those that have become the taker's and are not told of yet.
    taken: Vec<PairKey>,
    heard: Moment,
    /// What has been sent.
    pub tally: Tally,
}

/// What is sent next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Listener(usize),
    Control,
    Sessions,
    /// All is sent: the taker's word is awaited.
    Word,
    /// It has said that word: all is to be its own.
    Farewell,
    /// It serves.
    Stragglers,
}

/// Whose descriptors go with a message.
#[derive(Debug)]
enum Cargo {
    Nothing,
    Listener(usize),
    Control,
    Sessions(Vec<PairKey>),
    /// All that was sent before.
    Everything,
}

impl Giver {
    /// Gives to whoever is at the other end of `channel`.
    pub fn new(channel: Channel, pairs: &Slab<Pair>, now: Moment) -> Giver {
        let (tunnels, clients): (Vec<_>, Vec<_>) = pairs.iter().partition(|(_, pair)| pair.session().is_tunnel());
        Giver {
            channel,
            next: Next::Listener(0),
            outgoing: None,
            // Clients that wait go first, because they wait for nobody else.
            waiting: tunnels.into_iter().chain(clients).map(|(key, _)| PairKey(key as u32)).collect(),
            batches: VecDeque::new(),
            unacknowledged: 0,
            has_parted: false,
            is_refused: false,
            taken: Vec::new(),
            heard: now,
            tally: Tally::default(),
        }
    }

    /// When the taker has been silent for too long. Once it serves, it may be.
    pub fn deadline(&self) -> Option<Moment> {
        (!self.has_parted).then(|| self.heard + SILENCE_MAX)
    }

    /// Sends and hears what can be.
    ///
    /// # Errors
    ///
    /// Why the taker cannot go on, as a sentence.
    pub fn advance(&mut self, goods: &mut Goods<'_>, now: Moment) -> Result<Given, String> {
        let had_parted = self.has_parted;
        loop {
            self.send(goods, now)?;
            if self.has_parted != had_parted {
                // First of all that is made known: whatever fails now, fails later.
                break;
            }
            let message = match self.channel.receive() {
                Ok(message) => message,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(format!("the new process failed: {error}")),
            };
            self.heard = now;
            match (message.kind, self.next) {
                (Kind::Acknowledged, _) if self.unacknowledged > 0 => {
                    self.unacknowledged -= 1;
                    if self.has_parted {
                        self.taken.extend(self.batches.pop_front().into_iter().flatten());
                    }
                }
                (Kind::Taken, Next::Word) if self.unacknowledged == 0 => self.next = Next::Farewell,
                (Kind::Refused, _) => {
                    self.is_refused = true;
                    return Err(String::from_utf8_lossy(&message.body).into_owned());
                }
                (kind, _) => return Err(format!("the new process said {kind:?} when nothing like that was expected")),
            }
        }
        let is_news = self.has_parted != had_parted || !self.taken.is_empty();
        Ok(if is_news { Given::Taken(mem::take(&mut self.taken)) } else { Given::Going })
    }

    /// Once the taker serves: this is what else can follow now.
    pub fn offer(&mut self, keys: impl IntoIterator<Item = PairKey>) {
        self.waiting.clear();
        self.waiting.extend(keys);
    }

    /// Gives nothing more: the sessions on their way that go on here as if they had never been sent, and those that do not, because they
    /// are the taker's or may be.
    pub fn end(mut self) -> (Vec<PairKey>, Vec<PairKey>) {
        // What has not come whole has not come.
        let mut ours = match self.outgoing.take() {
            Some((_, Cargo::Sessions(keys))) => keys,
            _ => Vec::new(),
        };
        let sent = self.batches.drain(..).flatten();
        if self.has_parted && !self.is_refused {
            self.taken.extend(sent);
        } else {
            ours.extend(sent);
        }
        (ours, self.taken)
    }

    fn send(&mut self, goods: &mut Goods<'_>, now: Moment) -> Result<(), String> {
        loop {
            if self.outgoing.is_none() {
                self.outgoing = self.next_message(goods, now);
            }
            let Some((message, cargo)) = &mut self.outgoing else { return Ok(()) };
            let descriptors = if message.is_whole() { cargo.descriptors(goods) } else { Vec::new() };
            match self.channel.send(message, &descriptors) {
                Ok(true) => {}
                Ok(false) => return Ok(()),
                Err(error) => return Err(format!("the new process failed: {error}")),
            }
            match self.outgoing.take() {
                Some((_, Cargo::Sessions(keys))) => {
                    self.unacknowledged += 1;
                    self.batches.push_back(keys);
                }
                Some((_, Cargo::Everything)) => {
                    self.has_parted = true;
                    self.taken.extend(self.batches.drain(..).flatten());
                }
                _ => {}
            }
        }
    }

    fn next_message(&mut self, goods: &mut Goods<'_>, now: Moment) -> Option<(Outgoing, Cargo)> {
        loop {
            match self.next {
                Next::Listener(index) => {
                    let Some(listener) = goods.listeners.get(index) else {
                        self.next = Next::Control;
                        continue;
                    };
                    self.next = Next::Listener(index + 1);
                    self.tally.listeners += 1;
                    let kind = Kind::Listener { ours: listener.owns_file() };
                    let name = listener.listen().to_string();
                    return Some((
                        Outgoing::new(kind, 1, |into| into.extend_from_slice(name.as_bytes())),
                        Cargo::Listener(index),
                    ));
                }
                Next::Control => {
                    self.next = Next::Sessions;
                    let Some((_, path)) = goods.control else { continue };
                    let path = path.as_os_str().as_encoded_bytes();
                    return Some((
                        Outgoing::new(Kind::Control, 1, |into| into.extend_from_slice(path)),
                        Cargo::Control,
                    ));
                }
                Next::Sessions | Next::Stragglers => {
                    if self.unacknowledged >= BATCHES_MAX {
                        return None;
                    }
                    if let Some(batch) = self.next_batch(goods, now) {
                        return Some(batch);
                    }
                    if self.next == Next::Stragglers {
                        return None;
                    }
                    self.next = Next::Word;
                    let sessions = goods.sessions.to_le_bytes();
                    return Some((
                        Outgoing::new(Kind::All, 0, |into| into.extend_from_slice(&sessions)),
                        Cargo::Nothing,
                    ));
                }
                Next::Word => return None,
                Next::Farewell => {
                    self.next = Next::Stragglers;
                    return Some((Outgoing::new(Kind::Yours, 0, |_| ()), Cargo::Everything));
                }
            }
        }
    }

    /// Freezes and packs the next sessions, those that can be moved.
    fn next_batch(&mut self, goods: &mut Goods<'_>, now: Moment) -> Option<(Outgoing, Cargo)> {
        let (mut records, mut keys, mut descriptors) = (Vec::new(), Vec::new(), 0);
        while descriptors < BATCH_DESCRIPTORS_MAX && records.len() < BATCH_BYTES_ENOUGH {
            let Some(key) = self.waiting.pop() else { break };
            let Some(pair) = goods.pairs.get_mut(key.0 as usize) else { continue };
            let Some(packed) = pair.session().pack(now).filter(|_| !pair.noted.is_frozen) else { continue };
            // One that has panicked in this turn may look like any other.
            if pair.descriptors(goods.table).count() != packed.sockets().len() {
                continue;
            }
            packed.encode(&mut records);
            descriptors += packed.sockets().len();
            if packed.tunnel.is_some() {
                self.tally.tunnels += 1;
            } else {
                self.tally.clients += 1;
            }
            pair.noted.is_frozen = true;
            keys.push(key);
        }
        (!keys.is_empty()).then(|| {
            let message = Outgoing::new(Kind::Sessions, descriptors, |into| into.append(&mut records));
            (message, Cargo::Sessions(keys))
        })
    }
}

impl Cargo {
    fn descriptors<'g>(&self, goods: &'g Goods<'_>) -> Vec<BorrowedFd<'g>> {
        match self {
            Cargo::Nothing | Cargo::Everything => Vec::new(),
            Cargo::Listener(index) => goods.listeners.get(*index).map(AsFd::as_fd).into_iter().collect(),
            Cargo::Control => goods.control.map(|(descriptor, _)| descriptor).into_iter().collect(),
            Cargo::Sessions(keys) => {
                let pairs = keys.iter().filter_map(|key| goods.pairs.get(key.0 as usize));
                pairs.flat_map(|pair| pair.descriptors(goods.table)).collect()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn what_the_taker_may_have_is_let_go_and_what_it_cannot_have_goes_on() {
        const SENT: PairKey = PairKey(1);
        const HALF_SENT: PairKey = PairKey(2);
        for (has_parted, is_refused, ours, theirs) in [
            (false, false, vec![HALF_SENT, SENT], vec![]),
            (false, true, vec![HALF_SENT, SENT], vec![]),
            (true, false, vec![HALF_SENT], vec![SENT]),
            (true, true, vec![HALF_SENT, SENT], vec![]),
        ] {
            let channel = Channel::new(UnixStream::pair().unwrap().0, Vec::new());
            let mut giver = Giver::new(channel, &Slab::new(), Moment::FIRST);
            (giver.has_parted, giver.is_refused) = (has_parted, is_refused);
            giver.batches.push_back(vec![SENT]);
            giver.outgoing = Some((Outgoing::new(Kind::Sessions, 0, |_| ()), Cargo::Sessions(vec![HALF_SENT])));
            assert_eq!(giver.end(), (ours, theirs), "parted: {has_parted}, refused: {is_refused}");
        }
    }
}
