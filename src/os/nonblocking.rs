//! Writing to a descriptor that others may share, without ever waiting for it.
//!
//! The descriptor cannot be set non-blocking: that would hold for everyone who has it, a shell's terminal among them.

use std::io;
use std::os::fd::AsFd;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, fstat};

/// What a pipe that polls as writable takes without blocking (POSIX: `PIPE_BUF` is atomic; 4096 on Linux).
const PIPE_BYTES: usize = 4096;

/// Writes as much of `bytes` as can be written without waiting, and tells how much that was.
pub fn write(fd: impl AsFd, bytes: &[u8]) -> io::Result<usize> {
    let fd = fd.as_fd();
    // Regular files never wait for a reader.
    let is_file = fstat(fd).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile);
    let step = if is_file { bytes.len() } else { PIPE_BYTES };
    let mut written = 0;
    while let Some(rest) = bytes.get(written..).filter(|rest| !rest.is_empty()) {
        let mut polled = [PollFd::new(&fd, PollFlags::OUT)];
        if !is_file && poll(&mut polled, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))? == 0 {
            break;
        }
        let n = rustix::io::write(fd, rest.get(..step).unwrap_or(rest))?;
        written += n;
        if n == 0 {
            break;
        }
    }
    Ok(written)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;

    #[test]
    fn a_full_pipe_takes_what_it_can_and_nothing_waits() {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let bytes = vec![b'x'; 1 << 20];
        let first = write(&writer, &bytes).unwrap();
        assert!((4096..bytes.len()).contains(&first), "a pipe took {first} bytes");
        assert_eq!(write(&writer, &bytes).unwrap(), 0, "a full pipe takes nothing");
        let mut read = vec![0; first];
        reader.read_exact(&mut read).unwrap();
        assert!(write(&writer, &bytes).unwrap() > 0, "an emptied pipe takes more");
    }

    #[test]
    fn a_pipe_without_a_reader_is_an_error() {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        assert!(write(&writer, b"x").is_err());
    }
}
