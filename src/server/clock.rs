//! The only clock that sessions are told of.

use crate::os::clock;
use crate::proxy::moment::Moment;

/// What it shows. It never goes back, and is the same in all processes of a machine: a tunnel that has moved is as old as it was.
#[inline]
pub fn now() -> Moment {
    Moment::FIRST + clock::since_start()
}
