//! How another thread asks the loop to stop.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use mio::Waker;

/// How to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// What has begun may end, within `drain`.
    InPeace,
    /// Whatever is under way is cut.
    AtOnce,
}

/// A request to stop that waits to be heeded.
#[derive(Debug, Default)]
pub struct StopFlag(AtomicU8);

impl StopFlag {
    /// The request since the last call.
    pub fn take(&self) -> Option<Stop> {
        match self.0.swap(0, Ordering::AcqRel) {
            0 => None,
            1 => Some(Stop::InPeace),
            _ => Some(Stop::AtOnce),
        }
    }
}

/// Stops a [`Server`](crate::Server) from another thread. It may be cloned, and outlive the server.
#[derive(Clone, Debug)]
pub struct Handle {
    flag: Arc<StopFlag>,
    waker: Arc<Waker>,
}

impl Handle {
    /// A handle that sets `flag` and wakes by `waker`.
    pub fn new(flag: Arc<StopFlag>, waker: Arc<Waker>) -> Handle {
        Handle { flag, waker }
    }

    /// Asks the server to stop: no more clients, idle connections are closed, what has begun may end within
    /// [`Config::drain`](crate::Config::drain).
    pub fn stop(&self) -> io::Result<()> {
        self.flag.0.fetch_max(1, Ordering::AcqRel);
        self.waker.wake()
    }

    /// Asks the server to stop and to cut whatever is under way.
    pub fn stop_now(&self) -> io::Result<()> {
        self.flag.0.fetch_max(2, Ordering::AcqRel);
        self.waker.wake()
    }
}
