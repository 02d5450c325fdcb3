//! What a session may use while it is told a fact: the time, the policy in force, and buffers on loan.

use std::rc::Rc;
use std::time::Instant;

use crate::proxy::buffer::Pool;
use crate::proxy::policy::Policy;

/// One turn of the loop, as a session sees it.
#[derive(Debug)]
pub struct Turn {
    /// The only clock reading of the turn.
    pub now: Instant,
    /// For requests that are understood from now on.
    pub policy: Rc<Policy>,
    /// Whether the process is about to end: no connection is kept any more.
    pub stopping: bool,
    /// Buffers on loan.
    pub pool: Pool,
    /// Where heads are rewritten: empty between two uses, its memory kept.
    pub scratch: Vec<u8>,
}

impl Turn {
    /// The first turn.
    pub fn new(now: Instant, policy: Rc<Policy>) -> Turn {
        Turn { now, policy, stopping: false, pool: Pool::default(), scratch: Vec::new() }
    }
}
