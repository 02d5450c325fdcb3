//! The only clock that sessions are told of.

use crate::os::clock;
use crate::proxy::moment::Moment;

/// What it shows. It never goes back, and began before any tunnel did: one that comes from another process is as old as it was.
#[inline]
pub fn now() -> Moment {
    Moment::FIRST + clock::since_start()
}
