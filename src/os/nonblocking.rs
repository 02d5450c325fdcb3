//! Writing to a descriptor that others may share, without ever waiting for it.
//!
//! The descriptor cannot be set non-blocking: that would hold for everyone who has it, a shell's terminal among them. So a
//! terminal or a pipe is opened a second time, for us alone.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, Mode, OFlags, fstat, open};
use rustix::io::Errno;

/// What a pipe or a socket that polls as writable takes without waiting: `PIPE_BUF` of Linux.
const POLLED_BYTES: usize = 4096;

/// A way to write to a descriptor that never waits.
#[derive(Debug)]
pub enum Outlet {
    /// A file: it waits for no reader.
    File,
    /// A terminal or a pipe, opened once more and non-blocking.
    Own(OwnedFd),
    /// Whatever cannot be opened again, a socket for example: asked before every write.
    Polled,
}

impl Outlet {
    /// The way to write to `fd`.
    pub fn of(fd: impl AsFd) -> Outlet {
        let fd = fd.as_fd();
        match fstat(fd).map(|stat| FileType::from_raw_mode(stat.st_mode)) {
            // A file opened again would be written from its start.
            Ok(FileType::RegularFile) => Outlet::File,
            Ok(FileType::CharacterDevice | FileType::Fifo) => {
                let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
                let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
                open(path, flags, Mode::empty()).map_or(Outlet::Polled, Outlet::Own)
            }
            _ => Outlet::Polled,
        }
    }

    /// Writes as much of `bytes` to `fd` as can be written now, and tells how much that was. An error behind that is told next time.
    pub fn write(&self, fd: impl AsFd, bytes: &[u8]) -> io::Result<usize> {
        let (fd, step) = match self {
            Outlet::File => (fd.as_fd(), bytes.len()),
            Outlet::Own(own) => (own.as_fd(), bytes.len()),
            Outlet::Polled => (fd.as_fd(), POLLED_BYTES),
        };
        let mut written = 0;
        while let Some(rest) = bytes.get(written..).filter(|rest| !rest.is_empty()) {
            if matches!(self, Outlet::Polled) && !is_writable(fd) {
                break;
            }
            match rustix::io::write(fd, rest.get(..step).unwrap_or(rest)) {
                Ok(0) | Err(Errno::AGAIN) => break,
                Ok(n) => written += n,
                Err(Errno::INTR) => {}
                Err(error) if written == 0 => return Err(error.into()),
                Err(_) => break,
            }
        }
        Ok(written)
    }
}

/// A poll that fails, interrupted or without memory, says nothing of the descriptor: it is asked again later.
fn is_writable(fd: BorrowedFd<'_>) -> bool {
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut [PollFd::from_borrowed_fd(fd, PollFlags::OUT)], Some(&at_once)).is_ok_and(|ready| ready > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;

    #[test]
    fn a_full_pipe_takes_what_it_can_and_nothing_waits() {
        for polled in [false, true] {
            let (mut reader, writer) = io::pipe().unwrap();
            let outlet = if polled { Outlet::Polled } else { Outlet::of(&writer) };
            assert_eq!(matches!(outlet, Outlet::Polled), polled, "a pipe can be opened again");
            let bytes = vec![b'x'; 1 << 20];
            let first = outlet.write(&writer, &bytes).unwrap();
            assert!((4096..bytes.len()).contains(&first), "a pipe took {first} bytes");
            assert_eq!(outlet.write(&writer, &bytes).unwrap(), 0, "a full pipe takes nothing");
            let mut read = vec![0; first];
            reader.read_exact(&mut read).unwrap();
            assert!(outlet.write(&writer, &bytes).unwrap() > 0, "an emptied pipe takes more");
        }
    }

    #[test]
    fn a_pipe_without_a_reader_is_an_error() {
        let (reader, writer) = io::pipe().unwrap();
        let outlet = Outlet::of(&writer);
        drop(reader);
        assert!(outlet.write(&writer, b"x").is_err());
    }
}
