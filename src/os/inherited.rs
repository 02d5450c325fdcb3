//! Sockets that a service manager has opened and passed to the process that it started: sd_listen_fds(3).

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::{FdFlags, fcntl_setfd};

/// What tells of passed sockets. A child must not see it: they are not passed on.
pub const VARIABLES: [&str; 3] = ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"];

/// A descriptor that was passed, with the name that the manager gave it.
#[derive(Debug)]
pub struct Inherited {
    /// The descriptor. A program that this process starts does not inherit it.
    pub fd: OwnedFd,
    /// The name, or nothing.
    pub name: String,
}

/// Takes all that were passed to this process. To be asked before descriptors of our own may have the numbers of those that the
/// environment speaks of; whoever asks again gets none.
#[cold]
pub fn take() -> io::Result<Vec<Inherited>> {
    static ARE_TAKEN: AtomicBool = AtomicBool::new(false);
    if ARE_TAKEN.swap(true, Ordering::Relaxed) {
        return Ok(Vec::new());
    }
    let passed = sd_listen_fds::get().map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    let mut taken = Ok(Vec::new());
    for (name, fd) in passed {
        let fd = fd.into_std();
        if let Err(error) = fcntl_setfd(&fd, FdFlags::CLOEXEC) {
            // It is not open, so it is not ours to close.
            std::mem::forget(fd);
            taken = Err(error.into());
        } else if let Ok(taken) = &mut taken {
            taken.push(Inherited { fd, name: name.unwrap_or_default() });
        }
    }
    taken
}
