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
    prompt: Vec<PairKey>,
    bulk: VecDeque<PairKey>,
    /// What the prompt line was when the turn began, as far as it has not been driven.
    now: Vec<PairKey>,
}

impl RunQueue {
    /// Puts a pair into its line, unless it waits already.
    // In place it saves 30 instructions of an echo.
    #[inline(always)]
    pub fn push(&mut self, pair: &mut Pair, key: PairKey) {
        if !std::mem::replace(&mut pair.noted.is_queued, true) {
            if pair.moves_bulk() {
                self.bulk.push_back(key);
            } else {
                self.prompt.push(key);
            }
        }
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        debug_assert!(self.now.is_empty(), "a turn drives all of its prompt line");
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

/// Who is driven before something else is done.
#[derive(Debug)]
pub enum Share {
    /// The prompt line as it is, and then those of the bulk line while the ones before have left some of these bytes.
    OfATurn {
        /// What is left of them.
        bulk_bytes: usize,
    },
    /// One pair and nobody else, whether it is queued or not.
    Only(Option<PairKey>),
}

impl Share {
    /// What one turn drives. Who queues in the prompt line from now on waits for the next turn.
    pub fn of_a_turn(queue: &mut RunQueue) -> Share {
        std::mem::swap(&mut queue.prompt, &mut queue.now);
        Share::OfATurn { bulk_bytes: BULK_SPENT_MAX }
    }

    /// This pair.
    pub fn only(key: PairKey) -> Share {
        Share::Only(Some(key))
    }

    /// Whose turn it is.
    pub fn next(&mut self, queue: &mut RunQueue) -> Option<(PairKey, Line)> {
        match self {
            Share::Only(key) => Some((key.take()?, Line::Aside)),
            // All of them are driven, so that it does not matter which is the first.
            Share::OfATurn { bulk_bytes } => match queue.now.pop() {
                Some(key) => Some((key, Line::Prompt)),
                None if *bulk_bytes > 0 => Some((queue.bulk.pop_front()?, Line::Bulk)),
                None => None,
            },
        }
    }

    /// A pair of this line has spent so many bytes.
    pub fn spend(&mut self, line: Line, bytes: usize) {
        if let (Share::OfATurn { bulk_bytes }, Line::Bulk) = (self, line) {
            *bulk_bytes = bulk_bytes.saturating_sub(bytes);
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
        let prompt = [1, 2, 3].into_iter().map(PairKey).collect();
        let mut queue = RunQueue { prompt, bulk: (10..20).map(PairKey).collect(), now: Vec::new() };
        let share = Share::of_a_turn(&mut queue);
        queue.prompt.push(PairKey(4));
        let expected = [(3, Line::Prompt), (2, Line::Prompt), (1, Line::Prompt), (10, Line::Bulk), (11, Line::Bulk)];
        assert_eq!(driven(share, &mut queue), expected);
        assert_eq!((queue.prompt.len(), queue.bulk.len()), (1, 8), "who came meanwhile waits for the next turn");
        assert_eq!(driven(Share::only(PairKey(19)), &mut queue), [(19, Line::Aside)]);
        assert_eq!((queue.prompt.len(), queue.bulk.len()), (1, 8), "who is driven aside leaves no line");
    }
}
