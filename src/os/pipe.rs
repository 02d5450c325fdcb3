//! Bytes that go from one socket to another without leaving the kernel: splice(2), which wants a pipe between the two.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd, OwnedFd};

use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};

/// What a pipe is asked to hold. Each piece takes a page of that, however short it is, and a network card brings many short ones. More is
/// not for everybody (pipe(7), `pipe-max-size`), and a smaller one is only slower.
const PIPE_BYTES: usize = 1024 * 1024;

/// The way between any two sockets, empty whenever it is not in use.
#[derive(Debug)]
pub struct Pipe {
    entry: OwnedFd,
    exit: File,
}

impl Pipe {
    /// Takes two descriptors.
    pub fn new() -> io::Result<Pipe> {
        let (exit, entry) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        let _ = fcntl_setpipe_size(&entry, PIPE_BYTES);
        Ok(Pipe { entry, exit: exit.into() })
    }

    /// Takes up to `max` bytes from `socket`: 0 if it has ended.
    pub fn fill(&self, socket: impl AsFd, max: usize) -> rustix::io::Result<usize> {
        splice(socket, None, &self.entry, None, max, SpliceFlags::NONBLOCK)
    }

    /// Gives up to `max` of its bytes to `socket`.
    pub fn drain(&self, socket: impl AsFd, max: usize) -> rustix::io::Result<usize> {
        splice(&self.exit, None, socket, None, max, SpliceFlags::NONBLOCK)
    }

    /// Takes back what `socket`s did not take; it is as long as `room`.
    pub fn read(&self, room: &mut [u8]) -> io::Result<()> {
        (&self.exit).read_exact(room)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::os::unix::net::UnixStream;

    use rustix::io::Errno;

    use super::*;

    #[test]
    fn what_comes_in_goes_out_or_is_taken_back() {
        let pipe = Pipe::new().unwrap();
        let ((mut sender, from), (to, mut reader)) = (UnixStream::pair().unwrap(), UnixStream::pair().unwrap());
        from.set_nonblocking(true).unwrap();
        assert_eq!(pipe.fill(&from, 9), Err(Errno::AGAIN));
        sender.write_all(b"to the other side, and back").unwrap();
        assert_eq!(pipe.fill(&from, 100).unwrap(), 27);
        assert_eq!(pipe.drain(&to, 17).unwrap(), 17);
        let (mut there, mut back) = ([0; 17], [0; 10]);
        reader.read_exact(&mut there).unwrap();
        pipe.read(&mut back).unwrap();
        assert_eq!((&there, &back), (b"to the other side", b", and back"));
        drop(sender);
        assert_eq!(pipe.fill(&from, 100).unwrap(), 0);
    }
}
