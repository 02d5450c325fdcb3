//! The floor: bytes from one socket to another, nothing parsed.
//!
//! `relay UPSTREAM` listens on a port of 127.0.0.1, which it prints. Each client gets a connection of its own to the upstream. What
//! a relay cannot do without is here and nothing else: a read, a write, edge-triggered readiness, a budget of 64 KiB a turn, and
//! a buffer only for what could not leave.

#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::Duration;

use compare::net::{self, BUDGET, Event, Poll, Read};
use rustix::net::Shutdown;
use slab::Slab;

const LISTENER: usize = usize::MAX;

/// A client and its upstream. A key names a pair and, in its lowest bit, one of its sides.
struct Pair {
    sides: [Side; 2],
}

struct Side {
    socket: OwnedFd,
    is_readable: bool,
    /// An end is behind what can be read.
    is_ending: bool,
    /// Its end was seen and passed on.
    has_ended: bool,
    is_queued: bool,
    /// What the other side did not take.
    backlog: Vec<u8>,
}

struct Relay {
    poll: Poll,
    listener: OwnedFd,
    upstream: SocketAddr,
    pairs: Slab<Pair>,
    /// The sides that may have bytes to move.
    queue: VecDeque<usize>,
    buffer: Vec<u8>,
}

fn main() -> Result<(), Box<dyn Error>> {
    let upstream = std::env::args().nth(1).ok_or("usage: relay UPSTREAM")?.parse()?;
    net::raise_limit();
    let (poll, listener) = (Poll::new()?, net::listen()?);
    poll.add(&listener, LISTENER)?;
    let (pairs, queue, buffer) = (Slab::new(), VecDeque::new(), vec![0; BUDGET]);
    Relay { poll, listener, upstream, pairs, queue, buffer }.run()?;
    Ok(())
}

impl Relay {
    fn run(&mut self) -> io::Result<()> {
        let mut events = Vec::new();
        loop {
            let limit = if self.queue.is_empty() { None } else { Some(Duration::ZERO) };
            self.poll.wait(limit, &mut events)?;
            for event in events.drain(..) {
                if event.key == LISTENER { self.accept()? } else { self.take_note(event) }
            }
            for _ in 0..self.queue.len() {
                if let Some(key) = self.queue.pop_front() {
                    self.relay(key);
                }
            }
        }
    }

    fn accept(&mut self) -> io::Result<()> {
        while let Some(client) = net::accept(&self.listener)? {
            let upstream = net::connect(self.upstream)?;
            let entry = self.pairs.vacant_entry();
            self.poll.add(&client, entry.key() * 2)?;
            self.poll.add(&upstream, entry.key() * 2 + 1)?;
            entry.insert(Pair { sides: [client, upstream].map(Side::new) });
        }
        Ok(())
    }

    fn take_note(&mut self, event: Event) {
        // No pair has gone since the poll: they only go in `relay`.
        let pair = &mut self.pairs[event.key / 2];
        let side = &mut pair.sides[event.key % 2];
        side.is_ending |= event.is_ending;
        if event.is_readable {
            side.is_readable = true;
            queue(&mut self.queue, side, event.key);
        }
        let other = &mut pair.sides[(event.key % 2) ^ 1];
        if event.is_writable && !other.backlog.is_empty() {
            queue(&mut self.queue, other, event.key ^ 1);
        }
    }

    /// Moves bytes from the side that the key names to the other one.
    fn relay(&mut self, key: usize) {
        // The pair may have gone since the side was queued. If the key names a newer one, nothing worse than a read too many happens.
        let Some(pair) = self.pairs.get_mut(key / 2) else { return };
        let [client, upstream] = &mut pair.sides;
        let (from, to) = if key.is_multiple_of(2) { (client, upstream) } else { (upstream, client) };
        from.is_queued = false;
        match from.relay(to, &mut self.buffer) {
            Moved::All => {}
            Moved::Some => queue(&mut self.queue, from, key),
            Moved::Broken => {
                self.pairs.remove(key / 2);
                return;
            }
        }
        if from.has_ended && to.has_ended && from.backlog.is_empty() && to.backlog.is_empty() {
            self.pairs.remove(key / 2);
        }
    }
}

fn queue(queue: &mut VecDeque<usize>, side: &mut Side, key: usize) {
    if !side.is_queued {
        side.is_queued = true;
        queue.push_back(key);
    }
}

/// What came of one step of relaying.
enum Moved {
    /// Nothing more to do until an event tells.
    All,
    /// The budget is spent and there may be more.
    Some,
    /// One of the sockets is broken.
    Broken,
}

impl Side {
    fn new(socket: OwnedFd) -> Side {
        Side { socket, is_readable: false, is_ending: false, has_ended: false, is_queued: false, backlog: Vec::new() }
    }

    fn relay(&mut self, to: &mut Side, buffer: &mut [u8]) -> Moved {
        if !self.backlog.is_empty() {
            let Some(taken) = net::write(&to.socket, &self.backlog) else { return Moved::Broken };
            self.backlog.drain(..taken);
            if !self.backlog.is_empty() {
                return Moved::All;
            }
            self.backlog = Vec::new();
        }
        if !self.is_readable || self.has_ended {
            return Moved::All;
        }
        let read = net::read(&self.socket, buffer);
        let length = match read {
            Read::Short(length) | Read::Full(length) => length,
            Read::Nothing => {
                self.is_readable = false;
                return Moved::All;
            }
            Read::End => {
                self.has_ended = true;
                let _ = rustix::net::shutdown(&to.socket, Shutdown::Write);
                return Moved::All;
            }
        };
        self.is_readable = matches!(read, Read::Full(_)) || self.is_ending;
        let Some(taken) = net::write(&to.socket, &buffer[..length]) else { return Moved::Broken };
        self.backlog.extend_from_slice(&buffer[taken..length]);
        if self.is_readable && self.backlog.is_empty() { Moved::Some } else { Moved::All }
    }
}
