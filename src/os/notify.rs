//! Telling a service manager how a process is, by the datagrams of sd_notify(3).
//!
//! What is told is best effort: it never waits, and a manager that does not take it is an error and nothing more.

use std::env;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::process;
use std::time::Duration;

use rustix::net::{AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType, sendto, socket_with};

use crate::os::clock;

/// Where to write to: a path, or an abstract name that begins with `@`.
pub const SOCKET: &str = "NOTIFY_SOCKET";
/// How often to be heard of, in microseconds, and whom that is asked of: everyone, if nobody is named.
const WATCHDOG_USEC: &str = "WATCHDOG_USEC";
/// See above.
pub const WATCHDOG_PID: &str = "WATCHDOG_PID";

/// A manager that listens.
#[derive(Debug)]
pub struct Manager {
    /// Held for as long as the manager may be told something: when descriptors run out, it is too late for one.
    socket: OwnedFd,
    address: SocketAddrUnix,
}

impl Manager {
    /// The manager that the environment names, if it names one.
    pub fn from_environment() -> io::Result<Option<Manager>> {
        match env::var_os(SOCKET).filter(|name| !name.is_empty()) {
            Some(name) => Manager::at(&name).map(Some),
            None => Ok(None),
        }
    }

    fn at(name: &OsStr) -> io::Result<Manager> {
        let address = match name.as_bytes() {
            [b'@', name @ ..] => SocketAddrUnix::new_abstract_name(name)?,
            [b'/', ..] => SocketAddrUnix::new(name.as_bytes())?,
            _ => return Err(io::Error::new(io::ErrorKind::Unsupported, "neither a path nor an abstract name")),
        };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        Ok(Manager { socket: socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None)?, address })
    }

    /// Tells `news`.
    pub fn tell(&self, news: &News) -> io::Result<()> {
        sendto(&self.socket, news.0.as_bytes(), SendFlags::NOSIGNAL | SendFlags::DONTWAIT, &self.address)?;
        Ok(())
    }
}

/// What a manager is told at once: assignments, one a line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct News(String);

impl News {
    /// Nothing yet.
    pub fn new() -> News {
        News::default()
    }

    /// The start, or loading a configuration again, is over.
    pub fn ready(self) -> News {
        self.line("READY=1")
    }

    /// A configuration is loaded again; `ready` follows. The time tells this reload from the one before.
    pub fn reloading(self) -> News {
        let micros = clock::since_start().as_micros();
        self.line("RELOADING=1").line(format_args!("MONOTONIC_USEC={micros}"))
    }

    /// The end has begun.
    pub fn stopping(self) -> News {
        self.line("STOPPING=1")
    }

    /// Process `pid` is the service from now on.
    pub fn main_pid(self, pid: u32) -> News {
        self.line(format_args!("MAINPID={pid}"))
    }

    /// What people are shown, on one line.
    pub fn status(self, text: &str) -> News {
        self.line(format_args!("STATUS={}", text.replace('\n', " ")))
    }

    /// Alive, as the watchdog wants to know.
    pub fn alive(self) -> News {
        self.line("WATCHDOG=1")
    }

    fn line(mut self, assignment: impl std::fmt::Display) -> News {
        // Writing to a String does not fail.
        let _ = writeln!(self.0, "{assignment}");
        self
    }
}

/// Within what time the manager wants to hear of this process each time, if it does.
pub fn watchdog() -> Option<Duration> {
    let number = |name| env::var(name).ok()?.parse::<u64>().ok();
    watchdog_of(number(WATCHDOG_USEC), env::var_os(WATCHDOG_PID).is_some().then(|| number(WATCHDOG_PID)))
}

fn watchdog_of(micros: Option<u64>, pid: Option<Option<u64>>) -> Option<Duration> {
    let is_meant = pid.is_none_or(|pid| pid == Some(process::id().into()));
    micros.filter(|micros| is_meant && *micros > 0).map(Duration::from_micros)
}

#[cfg(test)]
mod tests {
    use std::os::linux::net::SocketAddrExt as _;
    use std::os::unix::net::{SocketAddr, UnixDatagram};

    use super::*;

    #[test]
    fn news_are_assignments_one_a_line() {
        assert_eq!(News::new().ready().status("one\ntwo").0, "READY=1\nSTATUS=one two\n");
        assert_eq!(News::new().stopping().0, "STOPPING=1\n");
        assert_eq!(News::new().main_pid(42).alive().0, "MAINPID=42\nWATCHDOG=1\n");
        let told = News::new().reloading().0;
        let micros =
            told.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").and_then(|rest| rest.trim_end().parse::<u64>().ok());
        let uptime = std::fs::read_to_string("/proc/uptime").unwrap();
        let uptime: f64 = uptime.split(' ').next().unwrap().parse().unwrap();
        // The uptime counts sleep as well.
        assert!(micros.is_some_and(|micros| micros > 0 && micros as f64 <= uptime * 1e6 + 1e6), "{told} at {uptime} s");
    }

    #[test]
    fn an_abstract_name_is_written_to_and_a_manager_that_does_not_read_is_an_error() {
        let name = format!("hawkey-notify-{}", process::id());
        let listens = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        let manager = Manager::at(OsStr::new(&format!("@{name}"))).unwrap();
        manager.tell(&News::new().ready()).unwrap();
        let mut bytes = [0; 64];
        let n = listens.recv(&mut bytes).unwrap();
        assert_eq!(&bytes[..n], b"READY=1\n");
        let error = (0..100_000).find_map(|_| manager.tell(&News::new().alive()).err());
        assert_eq!(error.map(|error| error.kind()), Some(io::ErrorKind::WouldBlock));
        drop(listens);
        assert_eq!(manager.tell(&News::new().alive()).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        assert!(Manager::at(OsStr::new("vsock:2:1")).is_err());
    }

    #[test]
    fn the_watchdog_is_for_the_process_that_it_names() {
        let own = Some(u64::from(process::id()));
        let second = Some(Duration::from_secs(1));
        for (micros, pid, expected) in [
            (None, None, None),
            (Some(0), None, None),
            (Some(1_000_000), None, second),
            (Some(1_000_000), Some(own), second),
            (Some(1_000_000), Some(Some(1)), None),
            (Some(1_000_000), Some(None), None),
        ] {
            assert_eq!(watchdog_of(micros, pid), expected, "{micros:?} {pid:?}");
        }
    }
}
