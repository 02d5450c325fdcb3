//! All clients, the slices in which they do something, and the application that they do it with.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use compare::application::Application;
use compare::net::{BUDGET, Event, Poll};

use crate::client::Client;
use crate::group::{Group, Kind};

const STANDARD_INPUT: usize = usize::MAX;
/// Beyond every client's key.
const FIRST_KEY_OF_APPLICATION: usize = 1 << 24;
/// Handshakes under way while clients connect, below every program's backlog.
const OPENING_MAX: usize = 64;
/// How long nothing may happen.
const PATIENCE: Duration = Duration::from_secs(5);

/// When a slice begins nothing new.
#[derive(Clone, Copy)]
pub enum Limit {
    /// After this time.
    Time(Duration),
    /// After so many operations.
    Operations(u64),
}

/// What was done in a slice.
#[derive(Default)]
pub struct Told {
    operations: u64,
    bytes: u64,
    seconds: f64,
    /// Of every echo, in nanoseconds.
    latencies: Vec<u64>,
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Told { operations, bytes, seconds, latencies } = self;
        let at = |part: f64| latencies.get((latencies.len() as f64 * part) as usize).map_or(0.0, |&ns| ns as f64 / 1e6);
        write!(f, r#"{{"operations": {operations}, "bytes": {bytes}, "seconds": {seconds:.6}, "#)?;
        write!(f, r#""p50_ms": {:.4}, "p99_ms": {:.4}}}"#, at(0.5), at(0.99))
    }
}

/// Clients, and the upstream behind the proxy that they talk to, if it is this one. All of it is one thread, so that no scheduler
/// decides how long an answer waits.
pub struct Load {
    application: Application,
    /// Standard input has something to say, or has ended.
    pub is_told: bool,
    address: Option<SocketAddr>,
    groups: Vec<Group>,
    clients: Vec<Client>,
    poll: Poll,
    events: Vec<Event>,
    queue: VecDeque<usize>,
    buffer: Vec<u8>,
    under_way: usize,
    /// The clients whose operation was done since this was looked at.
    done: Vec<usize>,
    told: Told,
}

impl Load {
    /// A load without clients, whose upstream listens.
    pub fn new() -> io::Result<Load> {
        let poll = Poll::new()?;
        poll.add(io::stdin(), STANDARD_INPUT)?;
        Ok(Load {
            application: Application::new(&poll, FIRST_KEY_OF_APPLICATION)?,
            is_told: false,
            address: None,
            groups: Vec::new(),
            clients: Vec::new(),
            poll,
            events: Vec::new(),
            queue: VecDeque::new(),
            buffer: vec![0; BUDGET],
            under_way: 0,
            done: Vec::new(),
            told: Told::default(),
        })
    }

    /// Serves until something comes on standard input.
    pub fn wait(&mut self) -> Result<(), String> {
        while !self.is_told {
            self.turn(None)?;
        }
        Ok(())
    }

    /// Lets all clients leave.
    pub fn leave(&mut self) {
        self.clients.clear();
        self.queue.clear();
    }

    /// Connects the clients of these groups but for those that dial, and lets each have one answer.
    pub fn connect(&mut self, address: SocketAddr, groups: Vec<Group>) -> Result<(), String> {
        let now = Instant::now();
        let counted = groups.iter().enumerate();
        self.clients =
            counted.flat_map(|(index, group)| (0..group.clients).map(move |_| Client::new(index, now))).collect();
        (self.address, self.groups) = (Some(address), groups);
        let mut to_open = (0..self.clients.len()).filter(|&key| self.group(key).kind != Kind::Dial).collect::<Vec<_>>();
        loop {
            let now = Instant::now();
            while self.under_way < OPENING_MAX
                && let Some(key) = to_open.pop()
            {
                self.begin(key, now)?;
            }
            if self.under_way == 0 {
                return Ok(());
            }
            self.turn(Some(PATIENCE))?;
        }
    }

    /// Lets the active clients do what they do.
    pub fn slice(&mut self, limit: Limit) -> Result<Told, String> {
        // What happened to quiet clients since the last slice: nothing, or it is an error.
        self.turn(Some(Duration::ZERO))?;
        self.told = Told { latencies: Vec::with_capacity(1 << 16), ..Told::default() };
        self.done = (0..self.clients.len()).filter(|&key| self.group(key).is_active()).collect();
        let begun = Instant::now();
        let mut operations_begun = 0;
        loop {
            let now = Instant::now();
            let has_room = |operations| match limit {
                Limit::Time(time) => now.duration_since(begun) < time,
                Limit::Operations(most) => operations < most,
            };
            let mut done = std::mem::take(&mut self.done);
            for key in done.drain(..) {
                if has_room(operations_begun) {
                    operations_begun += 1;
                    self.begin(key, now)?;
                }
            }
            self.done = done;
            if self.under_way == 0 {
                break;
            }
            self.turn(Some(PATIENCE))?;
        }
        self.told.seconds = begun.elapsed().as_secs_f64();
        self.told.latencies.sort_unstable();
        Ok(std::mem::take(&mut self.told))
    }

    /// Sleeps, at most as long as `patience`, and lets every connection to which something happened go a step.
    fn turn(&mut self, patience: Option<Duration>) -> Result<(), String> {
        let is_busy = !self.queue.is_empty() || self.application.is_busy();
        let limit = if is_busy { Some(Duration::ZERO) } else { patience };
        self.poll.wait(limit, &mut self.events).map_err(|error| format!("cannot poll: {error}"))?;
        if self.events.is_empty() && !is_busy && self.under_way > 0 {
            return Err(format!("nothing happened for {patience:?}, with {} operations under way", self.under_way));
        }
        for at in 0..self.events.len() {
            match self.events[at] {
                Event { key: STANDARD_INPUT, .. } => self.is_told = true,
                event if event.key >= FIRST_KEY_OF_APPLICATION => {
                    self.application.take_note(&self.poll, event).map_err(|error| format!("cannot accept: {error}"))?;
                }
                event => self.queue(event.key),
            }
        }
        self.events.clear();
        for _ in 0..self.queue.len() {
            let Some(key) = self.queue.pop_front() else { break };
            self.step(key)?;
        }
        self.application.act();
        Ok(())
    }

    fn step(&mut self, key: usize) -> Result<(), String> {
        let client = &mut self.clients[key];
        client.is_queued = false;
        let group = &self.groups[client.group];
        let step = client.step(group, &mut self.buffer)?;
        self.told.bytes += step.bytes as u64;
        if step.is_done {
            self.under_way -= 1;
            self.told.operations += 1;
            if group.kind == Kind::Echo {
                self.told.latencies.push(client.begun.elapsed().as_nanos() as u64);
            }
            self.done.push(key);
        }
        if step.has_more {
            self.queue(key);
        }
        Ok(())
    }

    fn group(&self, key: usize) -> &Group {
        &self.groups[self.clients[key].group]
    }

    fn begin(&mut self, key: usize, now: Instant) -> Result<(), String> {
        let client = &mut self.clients[key];
        let address = self.address.ok_or("nobody said where to connect to")?;
        client.begin(&self.groups[client.group], &self.poll, key, address, now)?;
        self.under_way += 1;
        // What was written whole is answered by an event.
        if self.groups[self.clients[key].group].kind == Kind::Half {
            self.queue(key);
        }
        Ok(())
    }

    fn queue(&mut self, key: usize) {
        if !self.clients[key].is_queued {
            self.clients[key].is_queued = true;
            self.queue.push_back(key);
        }
    }
}
