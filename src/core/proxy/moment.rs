//! When something happens, by a clock that the session does not have.

use std::num::NonZeroU64;
use std::ops::{Add, AddAssign};
use std::time::Duration;

const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// A point in time, as nanoseconds of a clock that never goes back: for 584 years, and then it stands still.
///
/// What `Instant` is, but one number and not two: half as large, and its sums and comparisons, of which each message needs some, are one
/// instruction each. Never 0, so that having none costs nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(NonZeroU64);

impl Moment {
    /// The first.
    pub const FIRST: Moment = Moment(NonZeroU64::MIN);

    /// How long after `earlier` it is; zero if it is not.
    pub fn saturating_duration_since(self, earlier: Moment) -> Duration {
        Duration::from_nanos(self.0.get().saturating_sub(earlier.0.get()))
    }

    /// So long before, or the first.
    pub fn saturating_sub(self, duration: Duration) -> Moment {
        NonZeroU64::new(self.0.get().saturating_sub(nanos(duration))).map_or(Moment::FIRST, Moment)
    }
}

impl Add<Duration> for Moment {
    type Output = Moment;

    fn add(self, duration: Duration) -> Moment {
        Moment(self.0.saturating_add(nanos(duration)))
    }
}

impl AddAssign<Duration> for Moment {
    fn add_assign(&mut self, duration: Duration) {
        *self = *self + duration;
    }
}

fn nanos(duration: Duration) -> u64 {
    duration.as_secs().saturating_mul(NANOS_PER_SECOND).saturating_add(duration.subsec_nanos().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_as_far_apart_as_what_was_added() {
        let (begun, passed) = (Moment::FIRST + Duration::new(7, 999_999_999), Duration::new(3, 500_000_000));
        let later = begun + passed;
        assert_eq!(later, Moment::FIRST + Duration::new(11, 499_999_999));
        assert_eq!(later.saturating_duration_since(begun), passed);
        assert_eq!(begun.saturating_duration_since(later), Duration::ZERO);
        assert_eq!(later.saturating_sub(passed), begun);
        assert_eq!(begun.saturating_sub(Duration::from_secs(8)), Moment::FIRST);
    }

    #[test]
    fn the_clock_s_end_is_no_wrap() {
        let last = Moment::FIRST + Duration::MAX;
        assert_eq!(last + Duration::MAX, last);
        assert!(last > Moment::FIRST + Duration::from_secs(500 * 365 * 24 * 3600));
    }

    #[test]
    fn no_moment_costs_nothing() {
        assert_eq!(size_of::<Option<Moment>>(), size_of::<u64>());
    }
}
