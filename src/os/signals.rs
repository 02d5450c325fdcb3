//! Signals as something to poll: each sets a flag and writes a byte to a socket.

use std::io::{self, Read as _};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::SigId;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR2, SIGXFSZ};
use signal_hook::low_level;

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// SIGTERM or SIGINT.
    Stop,
    /// SIGHUP.
    Reload,
    /// SIGUSR2.
    Upgrade,
}

const SIGNALS: [(i32, Asked); 4] =
    [(SIGTERM, Asked::Stop), (SIGINT, Asked::Stop), (SIGHUP, Asked::Reload), (SIGUSR2, Asked::Upgrade)];

/// Signals that are caught as long as this lives.
#[derive(Debug)]
pub struct Signals {
    wakes: UnixStream,
    caught: Vec<(Arc<AtomicBool>, Asked)>,
    registered: Vec<SigId>,
}

impl Signals {
    /// Catches SIGTERM, SIGINT, SIGHUP and SIGUSR2 from now on, and SIGXFSZ, which asks for nothing.
    pub fn catch() -> io::Result<Signals> {
        let (wakes, wake) = UnixStream::pair()?;
        wakes.set_nonblocking(true)?;
        wake.set_nonblocking(true)?;
        let mut signals = Signals { wakes, caught: Vec::new(), registered: Vec::new() };
        for (signal, request) in SIGNALS {
            let flag = Arc::new(AtomicBool::new(false));
            // The flag first: who is woken must find it set.
            signals.registered.push(signal_hook::flag::register(signal, flag.clone())?);
            signals.registered.push(low_level::pipe::register(signal, wake.try_clone()?)?);
            signals.caught.push((flag, request));
        }
        // A log file that may grow no further is told by the write itself. The signal that comes with it would end the process.
        signals.registered.push(signal_hook::flag::register(SIGXFSZ, Arc::default())?);
        Ok(signals)
    }

    /// What was asked since the last call, each signal told once.
    pub fn take(&mut self) -> Vec<Asked> {
        let mut bytes = [0; 64];
        while matches!(self.wakes.read(&mut bytes), Ok(n) if n == bytes.len()) {}
        self.caught.iter().filter(|(flag, _)| flag.swap(false, Ordering::SeqCst)).map(|(_, request)| *request).collect()
    }
}

impl AsRawFd for Signals {
    fn as_raw_fd(&self) -> RawFd {
        self.wakes.as_raw_fd()
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        for id in self.registered.drain(..) {
            low_level::unregister(id);
        }
    }
}
