//! Which session must be woken next.
//!
//! Sessions move their deadlines with every byte, mostly away; an entry here is moved only when it fires. It may fire early and is then
//! looked at again: so moving a deadline away costs nothing, and each session has one entry that counts.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::proxy::moment::Moment;
use crate::server::table::PairKey;

/// Entries that may wait in vain, beside one for every fourth that counted when all were looked through last.
const SPARE: usize = 64;

/// When a session is looked at anyway: the time of its entry that counts, if it has one.
pub type Armed = Option<Moment>;

/// Entries by time. Those that no longer count go when they fire.
#[derive(Debug)]
pub struct Deadlines {
    entries: BinaryHeap<Reverse<(Moment, PairKey)>>,
    /// How many there may be before they are looked through.
    enough: usize,
}

impl Deadlines {
    /// Bytes of an entry.
    #[cfg(test)]
    pub const ENTRY_BYTES: usize = size_of::<(Moment, PairKey)>();

    /// No entries, and room for so many bytes of them.
    pub fn with_bytes(bytes: usize) -> Deadlines {
        let entries = BinaryHeap::with_capacity(bytes / size_of::<(Moment, PairKey)>());
        Deadlines { entries, enough: SPARE }
    }

    /// Sees to it that `key` is looked at when `deadline` comes. `armed` is when that will be anyway, and is updated.
    pub fn arm(&mut self, key: PairKey, deadline: Option<Moment>, armed: &mut Armed) {
        if let Some(deadline) = deadline
            && armed.is_none_or(|armed| deadline < armed)
        {
            self.entries.push(Reverse((deadline, key)));
            *armed = Some(deadline);
        }
    }

    /// The next entry that has fired by `now`. It counts if its session is still armed for that time.
    pub fn next_fired(&mut self, now: Moment) -> Option<(Moment, PairKey)> {
        if self.next()? > now {
            return None;
        }
        self.entries.pop().map(|Reverse(entry)| entry)
    }

    /// When the next entry fires.
    pub fn next(&self) -> Option<Moment> {
        self.entries.peek().map(|Reverse((moment, _))| *moment)
    }

    /// Whether so many have come since they were looked through that there may be many among them that no longer count.
    pub fn are_crowded(&self) -> bool {
        self.entries.len() > self.enough
    }

    /// Drops the entries in front that no longer count, where `armed` says when each session is looked at anyway: nobody is woken for
    /// them.
    #[cold]
    pub fn drop_front(&mut self, armed: impl Fn(PairKey) -> Armed) {
        while let Some(Reverse((moment, key))) = self.entries.peek()
            && armed(*key) != Some(*moment)
        {
            self.entries.pop();
        }
    }

    /// Drops all entries that no longer count.
    #[cold]
    pub fn sweep(&mut self, armed: impl Fn(PairKey) -> Armed) {
        let mut entries = std::mem::take(&mut self.entries);
        entries.retain(|Reverse((moment, key))| armed(*key) == Some(*moment));
        self.enough = entries.len() + entries.len() / 4 + SPARE;
        self.entries = entries;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_deadline_that_moves_away_costs_nothing_and_one_that_moves_closer_fires_first() {
        let at = |millis| Moment::FIRST + Duration::from_millis(millis);
        let mut deadlines = Deadlines::with_bytes(0);
        let (mut one, mut two) = (None, None);
        deadlines.arm(PairKey(1), Some(at(100)), &mut one);
        deadlines.arm(PairKey(1), Some(at(500)), &mut one);
        deadlines.arm(PairKey(2), Some(at(300)), &mut two);
        deadlines.arm(PairKey(2), Some(at(50)), &mut two);
        assert_eq!(deadlines.entries.len(), 3, "moving away adds no entry");
        assert_eq!((one, two), (Some(at(100)), Some(at(50))));
        assert_eq!((deadlines.next(), deadlines.next_fired(at(49))), (Some(at(50)), None));
        assert_eq!(deadlines.next_fired(at(50)), Some((at(50), PairKey(2))));
        assert_eq!(deadlines.next_fired(at(100)), Some((at(100), PairKey(1))));
        assert_eq!(
            deadlines.next_fired(at(301)),
            Some((at(300), PairKey(2))),
            "it was overtaken, and goes when it fires"
        );
        assert_eq!(deadlines.next_fired(at(1000)), None);
    }

    #[test]
    fn what_was_overtaken_is_dropped_from_the_front_and_swept_from_everywhere() {
        let at = |millis| Moment::FIRST + Duration::from_millis(millis);
        let mut deadlines = Deadlines::with_bytes(0);
        for millis in [40, 30, 20, 10] {
            deadlines.arm(PairKey(1), Some(at(millis)), &mut None);
        }
        deadlines.drop_front(|_| Some(at(30)));
        assert_eq!((deadlines.next(), deadlines.entries.len()), (Some(at(30)), 2));
        deadlines.sweep(|_| Some(at(40)));
        assert_eq!((deadlines.next(), deadlines.entries.len()), (Some(at(40)), 1));
    }

    #[test]
    fn entries_are_looked_through_when_a_quarter_has_come_since() {
        let at = |millis| Moment::FIRST + Duration::from_millis(millis);
        let mut deadlines = Deadlines::with_bytes(0);
        let counts = |PairKey(key)| Some(at(u64::from(key)));
        for millis in 1..=1000 {
            deadlines.arm(PairKey(millis), counts(PairKey(millis)), &mut None);
        }
        assert!(deadlines.are_crowded(), "nobody has looked through so many yet");
        deadlines.sweep(counts);
        for _ in 0..250 + SPARE {
            assert!(!deadlines.are_crowded());
            deadlines.arm(PairKey(1), Some(at(0)), &mut None);
        }
        deadlines.arm(PairKey(1), Some(at(0)), &mut None);
        assert!(deadlines.are_crowded());
        deadlines.sweep(counts);
        assert_eq!(deadlines.entries.len(), 1000);
    }
}
