//! Who started the process and watches it: what it passed, and what it is told.
//!
//! The environment says whether there is one, and is read once. Nothing here waits; what cannot be told is noted in the log.

use std::fmt::Write as _;
use std::time::Duration;

use crate::os::inherited::{self, Inherited};
use crate::os::notify::{self, Manager, News};
use crate::proxy::moment::Moment;
use crate::server::listener::{BindError, Listener};

/// The supervisor of a process: a service manager that speaks as systemd does, or nobody.
#[derive(Debug, Default)]
pub struct Supervisor {
    manager: Option<Manager>,
    /// Listening sockets that it passed.
    passed: Vec<Inherited>,
    watch: Option<Watch>,
}

/// Signs of life that it wants.
#[derive(Clone, Copy, Debug)]
struct Watch {
    /// Half of the time that it waits for one.
    interval: Duration,
    due: Moment,
}

impl Supervisor {
    /// Variables of the environment that are meant for this process alone. A successor that it starts still needs the others.
    pub const OWN_VARIABLES: [&str; 4] =
        [inherited::VARIABLES[0], inherited::VARIABLES[1], inherited::VARIABLES[2], notify::WATCHDOG_PID];

    /// Nobody: nothing was passed, and nothing is told.
    pub fn nobody() -> Supervisor {
        Supervisor::default()
    }

    /// The one that the environment tells of (`LISTEN_FDS`, `NOTIFY_SOCKET`, `WATCHDOG_USEC` and their like). Sockets are given to
    /// the first who asks.
    ///
    /// # Errors
    ///
    /// If passed sockets cannot be taken. A place to tell news that cannot be understood is noted in the log.
    #[cold]
    pub fn from_environment() -> Result<Supervisor, BindError> {
        // First, while no number that it speaks of can be one of ours.
        let passed = inherited::take().map_err(BindError::passed)?;
        let manager = Manager::from_environment().unwrap_or_else(|error| {
            log::warn!("event=notify why=\"{}: {error}\"", notify::SOCKET);
            None
        });
        let within = notify::watchdog().filter(|_| manager.is_some());
        let watch = within.map(|within| Watch { interval: within / 2, due: Moment::FIRST });
        Ok(Supervisor { manager, passed, watch })
    }

    /// Gives away the sockets that were passed.
    pub(super) fn take_passed(&mut self) -> Vec<Inherited> {
        std::mem::take(&mut self.passed)
    }

    /// Clients of `listeners` are served: after the start, and after `reloading`, whatever came of it.
    #[cold]
    pub(super) fn ready(&self, listeners: &[Listener]) {
        let mut status = String::from("Serving on");
        for listener in listeners {
            // Writing to a String does not fail.
            let _ = write!(status, " {}", listener.address());
        }
        self.tell(&News::new().ready().status(&status));
    }

    /// The configuration is read again; `ready` must follow.
    pub fn reloading(&self) {
        self.tell(&News::new().reloading().status("Reading the configuration again"));
    }

    /// No more clients are taken, and `sessions` may end within `drain`.
    #[cold]
    pub(super) fn stopping(&self, sessions: usize, drain: Duration) {
        let status = format!("Stopping within {} s, sessions: {sessions}", drain.as_secs());
        self.tell(&News::new().stopping().status(&status));
    }

    /// Process `pid` is the service from now on. Either of the two may say so; the other must not say any more that it stops.
    pub fn main_pid(&self, pid: u32) {
        self.tell(&News::new().main_pid(pid));
    }

    /// When the next sign of life is due, if any is wanted.
    pub(super) fn next_due(&self) -> Option<Moment> {
        self.watch.map(|watch| watch.due)
    }

    /// Gives a sign of life if one is due. Asked by the loop: so one that is stuck gives none.
    pub(super) fn keep_watch(&mut self, now: Moment) {
        if let Some(watch) = &mut self.watch
            && watch.due <= now
        {
            watch.due = now + watch.interval;
            self.tell(&News::new().alive());
        }
    }

    #[cold]
    fn tell(&self, news: &News) {
        if let Some(manager) = &self.manager
            && let Err(error) = manager.tell(news)
        {
            log::warn!("event=notify why=\"the supervisor could not be told: {error}\"");
        }
    }
}
