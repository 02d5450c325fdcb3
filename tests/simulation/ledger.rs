//! What has happened to each request, as those who asked and those who answered know it: the truth that hawkey is held to.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use crate::prng::Prng;
use crate::scenario::{Id, Scenario};
use hawkey::proxy::moment::Moment;

/// What has happened to one request.
#[derive(Debug, Default)]
pub struct Entry {
    /// Its first byte was sent.
    pub is_begun: bool,
    /// Its last byte was sent.
    pub is_sent_whole: bool,
    /// How many times an origin has seen its head.
    pub heads_seen: usize,
    /// The connection that carried it was used before, and ended before anything of an answer was read from it.
    pub may_be_seen_again: bool,
    /// Bytes of the answer that left an origin, at most.
    pub answer_sent: usize,
    /// Why it need not be answered by its origin.
    pub excuses: Vec<&'static str>,
    pub client_end: TunnelEnd,
    pub origin_end: TunnelEnd,
}

/// What one end of a tunnel has done.
#[derive(Debug, Default)]
pub struct TunnelEnd {
    pub sent: usize,
    /// It will send nothing more.
    pub has_ended: bool,
    /// It closed its connection, or reset it: what comes for it is answered by a reset.
    pub is_gone: bool,
    pub has_reset: bool,
}

/// What those who act need beyond themselves.
pub struct Context {
    pub start: Moment,
    pub now: Moment,
    pub prng: Prng,
    pub scenario: Rc<Scenario>,
    /// The process was asked to stop: what is cut by that is cut.
    pub is_stopping: bool,
    entries: BTreeMap<Id, Entry>,
    trace: Option<Box<dyn FnMut(String)>>,
}

impl Context {
    pub fn new(prng: Prng, scenario: Rc<Scenario>, trace: Option<Box<dyn FnMut(String)>>) -> Context {
        let now = Moment::FIRST;
        Context { start: now, now, prng, scenario, is_stopping: false, entries: BTreeMap::new(), trace }
    }

    pub fn entry(&mut self, id: Id) -> &mut Entry {
        self.entries.entry(id).or_default()
    }

    pub fn excuse(&mut self, id: Id, why: &'static str) {
        if !self.entry(id).excuses.contains(&why) {
            self.note(|| format!("excuse for {id}: {why}"));
            self.entry(id).excuses.push(why);
        }
    }

    pub fn is_excused(&mut self, id: Id) -> bool {
        !self.entry(id).excuses.is_empty()
    }

    /// Whether anything went wrong for this client so far, or for a request that was to come.
    pub fn is_client_excused(&self, client: usize) -> bool {
        self.entries.iter().any(|(id, entry)| id.0 == client && !entry.excuses.is_empty())
    }

    /// Whether the origin has reset the tunnel: a reset right behind a 101 can outrun it.
    pub fn has_reset_tunnel(&self, id: Id) -> bool {
        self.entries.get(&id).is_some_and(|entry| entry.origin_end.has_reset)
    }

    pub fn elapsed(&self) -> Duration {
        self.now.saturating_duration_since(self.start)
    }

    /// Adds a line to the trace, if there is one.
    pub fn note(&mut self, line: impl FnOnce() -> String) {
        let elapsed = self.elapsed();
        if let Some(trace) = &mut self.trace {
            trace(format!("{:>9.3} s  {}", elapsed.as_secs_f64(), line()));
        }
    }
}
