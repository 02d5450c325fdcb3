//! The only clock that sessions are told of, and what it wakes the loop with.

use std::io;
use std::os::fd::AsRawFd as _;
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};

use crate::os::{alarm, clock};
use crate::proxy::moment::Moment;

/// How late the alarm rings, so that what is due at nearly the same time wakes the loop once.
const LATE_BY: Duration = Duration::from_millis(1);

/// What the clock shows. It never goes back, and began before any tunnel did: one that comes from another process is as old as it was.
// In place, as `since_start` is, it saves 14 instructions of an echo.
#[inline]
pub fn now() -> Moment {
    Moment::FIRST + clock::since_start()
}

/// Wakes the loop when something is due.
///
/// It is set only if it would ring too late, and may ring in vain, once for each time it was set. So most turns sleep without a word to
/// the kernel about time, which would set a timer for each sleep and take it back: 2 % of a bare relay's echo, where each message finds it asleep.
#[derive(Debug)]
pub struct Alarm {
    timer: alarm::Alarm,
    /// What it is set for.
    due: Option<Moment>,
}

impl Alarm {
    /// One that rings for `token`.
    pub fn new(registry: &Registry, token: Token) -> io::Result<Alarm> {
        let timer = alarm::Alarm::new()?;
        registry.register(&mut SourceFd(&timer.as_raw_fd()), token, Interest::READABLE)?;
        Ok(Alarm { timer, due: None })
    }

    /// Sees to it that it rings once `due` has come.
    pub fn ring_for(&mut self, due: Moment) -> io::Result<()> {
        if self.due.is_none_or(|set| due < set) {
            self.timer.set((due + LATE_BY).saturating_duration_since(Moment::FIRST))?;
            self.due = Some(due);
        }
        Ok(())
    }

    /// It has rung, and is set for nothing.
    pub fn rang(&mut self) {
        self.due = None;
    }

    /// Whether it is yet to ring.
    pub fn is_set(&self) -> bool {
        self.due.is_some()
    }
}

#[cfg(test)]
mod tests {
    use mio::{Events, Poll};

    use super::*;

    #[test]
    fn the_alarm_rings_for_what_is_due_first_each_time_it_is_set() {
        let mut poll = Poll::new().unwrap();
        let mut alarm = Alarm::new(poll.registry(), Token(7)).unwrap();
        let mut wait = |patience| {
            let mut events = Events::with_capacity(1);
            poll.poll(&mut events, Some(patience)).unwrap();
            events.iter().map(|event| event.token()).collect::<Vec<_>>()
        };
        let due = now() + Duration::from_millis(20);
        for millis in [3_600_000, 0, 30, 3_600_000] {
            alarm.ring_for(due + Duration::from_millis(millis)).unwrap();
        }
        assert_eq!(
            wait(Duration::from_secs(10)),
            [Token(7)],
            "it was asked for an hour, for 20 ms, and for later ones"
        );
        assert!(now() >= due, "{:?} too early", due.saturating_duration_since(now()));
        assert!(alarm.is_set());
        alarm.rang();
        assert!(!alarm.is_set());
        assert_eq!(wait(Duration::ZERO), [], "it rings once");
        alarm.ring_for(Moment::FIRST).unwrap();
        assert_eq!(wait(Duration::from_secs(10)), [Token(7)], "of what has long been due, it tells at once");
    }
}
