//! Who is driven next, and how many of them before something else is done.

use std::collections::VecDeque;

use crate::server::pair::{Budget, Pair};
use crate::server::table::PairKey;

/// What pairs that move much may spend in one turn, all of them together, before the kernel is asked who else has something to do:
/// two reads and their ways out.
const BULK_SPENT_MAX: usize = 256 * 1024;

/// Pairs that have something to do, each in one line and once.
///
/// Who moved much is likely to go on, and waits in a line of its own, of which each turn takes only a few; who moved little is driven at
/// once, but goes to that line if it turns out to have much. So a small message waits for those few and for one read of each of the
/// others that have just had something to tell, however many move all they can; and all of them have their turn.
#[derive(Debug, Default)]
pub struct RunQueue {
    prompt: VecDeque<PairKey>,
    bulk: VecDeque<PairKey>,
}

impl RunQueue {
    /// Puts a pair into its line, unless it waits already.
    pub fn push(&mut self, pair: &mut Pair, key: PairKey) {
        if !std::mem::replace(&mut pair.noted.is_queued, true) {
            let line = if pair.moves_bulk() { &mut self.bulk } else { &mut self.prompt };
            line.push_back(key);
        }
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.prompt.is_empty() && self.bulk.is_empty()
    }
}

/// In which line a pair has waited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line {
    /// Of who moved little.
    Prompt,
    /// Of who moved much.
    Bulk,
    /// In none, or in whichever it still waits.
    Aside,
}

impl Line {
    /// What one pair may move when it is its turn.
    pub fn budget(self) -> Budget {
        match self {
            Line::Prompt => Budget::PROMPT,
            Line::Bulk | Line::Aside => Budget::BULK,
        }
    }
}

/// Who is driven before something else is done: one pair by itself, or so many of the prompt line, and then those of the bulk line while
/// the ones before have left some of these bytes.
#[derive(Debug)]
pub struct Share {
    aside: Option<PairKey>,
    prompt: usize,
    bulk_bytes: usize,
}

impl Share {
    /// What one turn drives.
    pub fn of_a_turn(queue: &RunQueue) -> Share {
        Share { aside: None, prompt: queue.prompt.len(), bulk_bytes: BULK_SPENT_MAX }
    }

    /// One pair and nobody else, whether it is queued or not.
    pub fn only(key: PairKey) -> Share {
        Share { aside: Some(key), prompt: 0, bulk_bytes: 0 }
    }

    /// Whose turn it is.
    #[inline]
    pub fn next(&mut self, queue: &mut RunQueue) -> Option<(PairKey, Line)> {
        if self.prompt > 0 {
            self.prompt -= 1;
            return Some((queue.prompt.pop_front()?, Line::Prompt));
        }
        if self.bulk_bytes > 0 {
            return Some((queue.bulk.pop_front()?, Line::Bulk));
        }
        Some((self.aside.take()?, Line::Aside))
    }

    /// A pair of this line has spent so many bytes.
    #[inline]
    pub fn spend(&mut self, line: Line, bytes: usize) {
        if line == Line::Bulk {
            self.bulk_bytes = self.bulk_bytes.saturating_sub(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Who is driven of a share, if each spends as much as one may.
    fn driven(mut share: Share, queue: &mut RunQueue) -> Vec<(u32, Line)> {
        let mut driven = Vec::new();
        while let Some((PairKey(key), line)) = share.next(queue) {
            driven.push((key, line));
            share.spend(line, 128 * 1024);
        }
        driven
    }

    #[test]
    fn a_turn_takes_the_whole_prompt_line_and_two_that_move_much() {
        let mut queue =
            RunQueue { prompt: [1, 2, 3].into_iter().map(PairKey).collect(), bulk: (10..20).map(PairKey).collect() };
        let share = Share::of_a_turn(&queue);
        queue.prompt.push_back(PairKey(4));
        let expected = [(1, Line::Prompt), (2, Line::Prompt), (3, Line::Prompt), (10, Line::Bulk), (11, Line::Bulk)];
        assert_eq!(driven(share, &mut queue), expected);
        assert_eq!((queue.prompt.len(), queue.bulk.len()), (1, 8), "who came meanwhile waits for the next turn");
        assert_eq!(driven(Share::only(PairKey(19)), &mut queue), [(19, Line::Aside)]);
        assert_eq!((queue.prompt.len(), queue.bulk.len()), (1, 8), "who is driven aside leaves no line");
    }
}
