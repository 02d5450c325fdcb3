//! Which session must be woken next.
//!
//! Sessions move their deadlines with every byte, mostly away; an entry here is moved only when it fires. It may fire early,
//! or up to a millisecond late, and is then looked at again: so moving a deadline away costs nothing, and each session has one
//! entry that counts (or two of the same tick, of which the second finds nothing to do).

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

use crate::server::table::PairKey;

/// Milliseconds since the loop began, rounded up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tick(u64);

/// When a session is looked at anyway: the deadline of its entry that counts, if it has one.
pub type Armed = Option<Instant>;

/// Entries by time. Those that no longer count go when they fire.
#[derive(Debug)]
pub struct Deadlines {
    origin: Instant,
    /// The last tick that has passed.
    now: Tick,
    entries: BinaryHeap<Reverse<(Tick, PairKey)>>,
}

impl Deadlines {
    /// No entries, and room for so many bytes of them; `origin` is tick 0.
    pub fn with_bytes(origin: Instant, bytes: usize) -> Deadlines {
        Deadlines { origin, now: Tick(0), entries: BinaryHeap::with_capacity(bytes / size_of::<(Tick, PairKey)>()) }
    }

    /// It is `now`.
    pub fn begin(&mut self, now: Instant) {
        let since = now.saturating_duration_since(self.origin);
        self.now = Tick(since.as_secs().saturating_mul(1000).saturating_add(u64::from(since.subsec_millis())));
    }

    /// Sees to it that `key` is looked at when `deadline` comes. `armed` is when that will be anyway, and is updated.
    #[inline]
    pub fn arm(&mut self, key: PairKey, deadline: Option<Instant>, armed: &mut Armed) {
        if let Some(deadline) = deadline
            && armed.is_none_or(|armed| deadline < armed)
        {
            self.entries.push(Reverse((self.tick(deadline), key)));
            *armed = Some(deadline);
        }
    }

    /// Whether the entry at `tick` is the one that `armed` tells of.
    pub fn counts(&self, tick: Tick, armed: Armed) -> bool {
        armed.is_some_and(|armed| self.tick(armed) == tick)
    }

    /// The next entry that has fired. It counts if its session is still armed for it: see [`counts`](Deadlines::counts).
    pub fn next_fired(&mut self) -> Option<(Tick, PairKey)> {
        let Reverse((tick, _)) = self.entries.peek()?;
        if *tick > self.now {
            return None;
        }
        self.entries.pop().map(|Reverse(entry)| entry)
    }

    /// How many entries there are, those included that no longer count.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Drops the entries in front that no longer count: nobody is woken for them.
    pub fn drop_front(&mut self, armed: impl Fn(PairKey) -> Armed) {
        while let Some(Reverse((tick, key))) = self.entries.peek()
            && !self.counts(*tick, armed(*key))
        {
            self.entries.pop();
        }
    }

    /// Drops the entries that no longer count, where `armed` says when each session is looked at anyway.
    pub fn sweep(&mut self, armed: impl Fn(PairKey) -> Armed) {
        let mut entries = std::mem::take(&mut self.entries);
        entries.retain(|Reverse((tick, key))| self.counts(*tick, armed(*key)));
        self.entries = entries;
    }

    /// How long it is until the next entry fires.
    pub fn next_in(&self) -> Option<Duration> {
        self.entries.peek().map(|Reverse((tick, _))| Duration::from_millis(tick.0.saturating_sub(self.now.0)))
    }

    fn tick(&self, instant: Instant) -> Tick {
        let since = instant.saturating_duration_since(self.origin);
        let millis = u64::from(since.subsec_nanos().div_ceil(1_000_000));
        Tick(since.as_secs().saturating_mul(1000).saturating_add(millis))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_that_moves_away_costs_nothing_and_one_that_moves_closer_fires_first() {
        let origin = Instant::now();
        let at = |millis| Some(origin + Duration::from_millis(millis));
        let mut deadlines = Deadlines::with_bytes(origin, 0);
        let (mut one, mut two) = (None, None);
        deadlines.arm(PairKey(1), at(100), &mut one);
        deadlines.arm(PairKey(1), at(500), &mut one);
        deadlines.arm(PairKey(2), at(300), &mut two);
        deadlines.arm(PairKey(2), at(50), &mut two);
        assert_eq!(deadlines.entries.len(), 3, "moving away adds no entry");
        let mut fired_at = |millis| {
            deadlines.begin(origin + Duration::from_millis(millis));
            (deadlines.next_in().map(|wait| wait.as_millis()), deadlines.next_fired())
        };
        assert_eq!(fired_at(49), (Some(1), None));
        assert_eq!(fired_at(50), (Some(0), Some((Tick(50), PairKey(2)))));
        assert_eq!(fired_at(100), (Some(0), Some((Tick(100), PairKey(1)))));
        assert_eq!(fired_at(301), (Some(0), Some((Tick(300), PairKey(2)))));
        assert!(deadlines.counts(Tick(50), two) && deadlines.counts(Tick(100), one));
        assert!(!deadlines.counts(Tick(300), two), "an entry that was overtaken no longer counts");
    }

    #[test]
    fn entries_fire_at_their_time_or_up_to_a_millisecond_later() {
        let origin = Instant::now();
        let mut deadlines = Deadlines::with_bytes(origin, 0);
        let mut armed = None;
        let deadline = origin + Duration::from_micros(1_234_567);
        deadlines.arm(PairKey(1), Some(deadline), &mut armed);
        for (micros, wait) in [(0, 1235), (1_234_000, 1), (1_234_999, 1), (1_235_000, 0)] {
            deadlines.begin(origin + Duration::from_micros(micros));
            assert_eq!(deadlines.next_in(), Some(Duration::from_millis(wait)), "after {micros} µs");
            assert_eq!(deadlines.next_fired().is_some(), wait == 0, "after {micros} µs");
        }
    }
}
