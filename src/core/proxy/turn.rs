//! What a session may use while it is told a fact: the time, the policy in force, and memory on loan.

use std::rc::Rc;

use crate::proxy::buffer::Pool;
use crate::proxy::exchange::Exchange;
use crate::proxy::moment::Moment;
use crate::proxy::policy::Policy;
use crate::proxy::record::Traffic;

/// Exchanges that have ended whose memory is kept for the next: with the buffers of the [`Pool`], it is why a request on a kept
/// connection allocates nothing.
const EXCHANGES_SPARE_MAX: usize = 64;

/// One turn of the loop, as a session sees it.
#[derive(Debug)]
pub struct Turn {
    /// The only clock reading of the turn.
    pub now: Moment,
    /// For requests that are understood from now on.
    pub policy: Rc<Policy>,
    /// Whether the process is about to end: no connection is kept any more.
    pub stopping: bool,
    /// Bytes that exchanges and tunnels have moved that have ended.
    pub moved: Traffic,
    /// Buffers on loan.
    pub pool: Pool,
    /// Where heads are rewritten: empty between two uses, its memory kept.
    pub scratch: Vec<u8>,
    #[expect(clippy::vec_box, reason = "an exchange moves as one pointer, and its memory is what is kept")]
    spare: Vec<Box<Exchange>>,
}

impl Turn {
    /// The first turn.
    pub fn new(now: Moment, policy: Rc<Policy>) -> Turn {
        let (pool, moved) = (Pool::default(), Traffic::default());
        Turn { now, policy, stopping: false, moved, pool, scratch: Vec::new(), spare: Vec::new() }
    }

    /// Puts another policy in force: what is under way goes on by its own.
    pub fn put_in_force(&mut self, policy: Rc<Policy>) {
        self.spare.iter_mut().for_each(|spare| spare.policy = policy.clone());
        self.policy = policy;
    }

    /// An exchange under the policy in force, whose request began at `began`.
    pub fn exchange(&mut self, began: Moment) -> Box<Exchange> {
        match self.spare.pop() {
            Some(mut spare) => {
                spare.renew(began);
                spare
            }
            None => self.another(began),
        }
    }

    #[cold]
    fn another(&self, began: Moment) -> Box<Exchange> {
        Box::new(Exchange::new(self.policy.clone(), began))
    }

    /// Takes back an exchange that has ended.
    pub fn take_back(&mut self, mut exchange: Box<Exchange>) {
        if self.spare.len() < EXCHANGES_SPARE_MAX {
            exchange.record.trim();
            // A spare one has the policy in force, and keeps no other alive.
            if !Rc::ptr_eq(&exchange.policy, &self.policy) {
                exchange.policy = self.policy.clone();
            }
            self.spare.push(exchange);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::record::Record;

    #[test]
    fn a_spare_place_keeps_no_policy_that_is_no_longer_in_force() {
        let mut turn = Turn::new(Moment::FIRST, Rc::new(Policy::default()));
        let former = Rc::downgrade(&turn.policy);
        let (one, other) = (turn.exchange(turn.now), turn.exchange(turn.now));
        turn.take_back(one);
        assert_eq!(former.strong_count(), 3);
        turn.put_in_force(Rc::new(Policy::default()));
        assert_eq!(former.strong_count(), 1);
        turn.take_back(other);
        assert_eq!(former.strong_count(), 0);
        assert!(Rc::ptr_eq(&turn.exchange(turn.now).policy, &turn.policy));
    }

    #[test]
    fn a_spare_place_keeps_no_long_text() {
        let mut turn = Turn::new(Moment::FIRST, Rc::new(Policy::default()));
        for (bytes, is_kept) in [(100, true), (8_000, false)] {
            let mut exchange = Exchange::new(turn.policy.clone(), turn.now);
            exchange.record = Record::new(turn.now, String::with_capacity(bytes));
            turn.take_back(Box::new(exchange));
            let kept = turn.exchange(turn.now).record.text_bytes();
            assert_eq!(kept, if is_kept { bytes } else { 0 }, "of a text of {bytes} bytes");
        }
    }
}
