//! A clock that can be waited for like a socket: timerfd_create(2).

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::time::Duration;

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

/// A descriptor that becomes readable when its time has come. It need not be read: for an edge-triggered poll, each time is an edge.
#[derive(Debug)]
pub struct Alarm(OwnedFd);

impl Alarm {
    /// Takes a descriptor. It is never readable until it is set.
    pub fn new() -> io::Result<Alarm> {
        Ok(Alarm(timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?))
    }

    /// It becomes readable when the [clock](super::clock) shows `time`, at once if it is later than that, and not when it was to before.
    pub fn set(&self, time: Duration) -> io::Result<()> {
        // Zero would be never.
        let time = time.max(Duration::from_nanos(1));
        let time = time.try_into().unwrap_or(Timespec { tv_sec: i64::MAX, tv_nsec: 0 });
        let once = Itimerspec { it_interval: Timespec::default(), it_value: time };
        timerfd_settime(&self.0, TimerfdTimerFlags::ABSTIME, &once)?;
        Ok(())
    }
}

impl AsRawFd for Alarm {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}
