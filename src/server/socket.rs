//! A stream and its readiness. `WouldBlock` ends here.

use std::io::{self, ErrorKind};
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::time::Duration;

use mio::event::Event;
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use rustix::io::Errno;
use socket2::{Domain, SockAddr, TcpKeepalive, Type};

use crate::os::errors;
use crate::os::pipe::Pipe;
use crate::os::stream;
use crate::proxy::policy::Address;
use crate::proxy::side::Side;

/// When the kernel asks a silent peer whether it lives, how often it asks again, and how many times, if it is not for
/// [`UNANSWERED_MAX`] to say: so a pulled cable is noticed within two minutes.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(45);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(15);
const KEEPALIVE_TIMES: u32 = 4;
/// How long bytes of a tunnel may stay unacknowledged, or untaken.
const UNANSWERED_MAX: Duration = Duration::from_secs(105);

/// A TCP or Unix stream, non-blocking, registered once for everything and edge-triggered.
///
/// Readiness is a fact about it: set by events, cleared when a call would block or moves less than it could.
#[derive(Debug)]
pub struct Socket {
    stream: socket2::Socket,
    readable: bool,
    writable: bool,
    /// A short read does not mean that nothing is left: the end, an error or urgent data stand behind it.
    has_more_behind: bool,
}

/// What a read or a write came to.
#[derive(Debug)]
pub enum Moved {
    /// So many bytes, at least one.
    Bytes(usize),
    /// The other end will send nothing more. Only of reads.
    End,
    /// Not now.
    Nothing,
    /// Never again.
    Broken(io::Error),
}

impl Moved {
    /// How many bytes.
    pub fn bytes(&self) -> usize {
        if let Moved::Bytes(n) = self { *n } else { 0 }
    }
}

impl Socket {
    /// A connection that was accepted. What it may hold will be told by an event.
    pub fn accepted(connection: OwnedFd) -> Socket {
        Socket { stream: connection.into(), readable: false, writable: true, has_more_behind: false }
    }

    /// A connection that comes from another process. What it is ready for will be told by an event.
    pub fn moved(connection: OwnedFd) -> Socket {
        Socket { stream: connection.into(), readable: false, writable: false, has_more_behind: false }
    }

    /// Begins to connect to `address`. Writing tells whether that succeeded: it is worth trying at once, because a connection
    /// over loopback or a Unix socket is there when the call returns.
    pub fn connect(address: &Address) -> io::Result<Socket> {
        let (domain, address) = match address {
            Address::Tcp(address) => (Domain::for_address(*address), SockAddr::from(*address)),
            Address::Unix(path) => (Domain::UNIX, SockAddr::unix(path)?),
        };
        let stream = socket2::Socket::new(domain, Type::STREAM.nonblocking().cloexec(), None)?;
        if domain != Domain::UNIX {
            stream.set_tcp_nodelay(true)?;
        }
        match stream.connect(&address) {
            Ok(()) => {}
            Err(error) if errors::is_under_way(&error) => {}
            Err(error) => return Err(error),
        }
        Ok(Socket { stream, readable: false, writable: true, has_more_behind: false })
    }

    /// Asks for the events of this socket, once and for all.
    pub fn register(&self, registry: &Registry, token: Token) -> io::Result<()> {
        let everything = Interest::READABLE | Interest::WRITABLE | Interest::PRIORITY;
        registry.register(&mut SourceFd(&self.stream.as_raw_fd()), token, everything)
    }

    /// Asks for no more events.
    pub fn deregister(&self, registry: &Registry) -> io::Result<()> {
        registry.deregister(&mut SourceFd(&self.stream.as_raw_fd()))
    }

    /// Takes note of an event. Whether it was news: that a write is worth a call is told with every new socket, and of most it is known.
    /// Whoever has bytes to write was told that it is not, or is still to be driven.
    pub fn note(&mut self, event: &Event) -> bool {
        let is_over = event.is_read_closed() || event.is_write_closed() || event.is_error();
        let reads = event.is_readable() || is_over;
        let writes = event.is_writable() || is_over;
        let is_news = reads || writes && !self.writable;
        self.readable |= reads;
        self.writable |= writes;
        self.has_more_behind |= is_over || event.is_priority();
        is_news
    }

    /// Makes a read worth a call although no event has told so.
    pub fn expect(&mut self) {
        self.readable = true;
    }

    /// Whether a read is worth a call.
    pub fn is_readable(&self) -> bool {
        self.readable
    }

    /// Whether a write is worth a call.
    pub fn is_writable(&self) -> bool {
        self.writable
    }

    /// Reads into `room`, which is not empty.
    #[inline(always)]
    pub fn read(&mut self, room: &mut [u8]) -> Moved {
        let moved = self.take(|stream| stream::receive(stream, room));
        if let Moved::Bytes(n) = moved {
            // A short read has emptied the socket: the next would only say that it would block.
            self.readable = n == room.len() || self.has_more_behind;
        }
        moved
    }

    /// Reads up to `max` bytes into `pipe`. Less does not mean that nothing is left: the pipe may hold as many pieces as it can.
    pub fn read_into(&mut self, pipe: &Pipe, max: usize) -> Moved {
        self.take(|stream| pipe.fill(stream, max))
    }

    #[inline(always)]
    fn take(&mut self, mut call: impl FnMut(&socket2::Socket) -> Result<usize, Errno>) -> Moved {
        loop {
            return match call(&self.stream) {
                Ok(0) => Moved::End,
                Ok(n) => Moved::Bytes(n),
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => {
                    self.readable = false;
                    self.has_more_behind = false;
                    Moved::Nothing
                }
                Err(error) => Moved::Broken(error.into()),
            };
        }
    }

    /// Writes from `bytes`, which are not empty.
    #[inline(always)]
    pub fn write(&mut self, bytes: &[u8]) -> Moved {
        self.give(bytes.len(), |stream| stream::send(stream, bytes))
    }

    /// Writes the `n` bytes of `pipe`, at least one.
    pub fn write_from(&mut self, pipe: &Pipe, n: usize) -> Moved {
        self.give(n, |stream| pipe.drain(stream, n))
    }

    #[inline(always)]
    fn give(&mut self, n: usize, mut call: impl FnMut(&socket2::Socket) -> Result<usize, Errno>) -> Moved {
        loop {
            return match call(&self.stream) {
                Ok(0) => Moved::Nothing,
                Ok(given) => {
                    self.writable = given == n;
                    Moved::Bytes(given)
                }
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => {
                    self.writable = false;
                    Moved::Nothing
                }
                Err(error) => Moved::Broken(error.into()),
            };
        }
    }

    /// Tells the other end that nothing more will come. A peer that is gone need not be told.
    pub fn shut_down(&self) {
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// Makes the close that follows a reset.
    pub fn reset_on_close(&self) {
        let _ = self.stream.set_linger(Some(Duration::ZERO));
    }

    /// Asks the kernel whether neither a byte nor an end has come.
    pub fn is_quiet(&self) -> bool {
        let mut byte = [MaybeUninit::uninit()];
        self.stream.peek(&mut byte).is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
    }

    /// What broke the connection.
    pub fn error(&self) -> io::Error {
        self.stream.take_error().ok().flatten().unwrap_or_else(|| ErrorKind::ConnectionReset.into())
    }

    /// Lets the kernel watch that the other end lives, whether bytes wait for it or not. Of no meaning to Unix sockets.
    pub fn watch_peer(&self, side: Side) {
        // Clients are asked from the accept on.
        if side == Side::Upstream {
            let _ = self.stream.set_tcp_keepalive(&questions());
        }
        let _ = self.stream.set_tcp_user_timeout(Some(UNANSWERED_MAX));
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

/// Lets the kernel ask the silent peers of every connection that `listener` accepts whether they live.
pub fn ask_when_silent(listener: &socket2::Socket) {
    let _ = listener.set_tcp_keepalive(&questions().with_retries(KEEPALIVE_TIMES));
}

fn questions() -> TcpKeepalive {
    TcpKeepalive::new().with_time(KEEPALIVE_AFTER).with_interval(KEEPALIVE_EVERY)
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::os::unix::net::UnixStream;

    use mio::{Events, Poll};

    use super::*;

    #[test]
    fn that_a_write_is_worth_a_call_is_news_only_where_it_was_not_known() {
        let (ours, mut peer) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        peer.set_nonblocking(true).unwrap();
        let mut poll = Poll::new().unwrap();
        let registry = poll.registry().try_clone().unwrap();
        let mut socket = Socket::accepted(ours.try_clone().unwrap().into());
        socket.register(&registry, Token(0)).unwrap();
        let mut next_is_news = |socket: &mut Socket| {
            let mut events = Events::with_capacity(1);
            poll.poll(&mut events, Some(Duration::from_secs(10))).unwrap();
            socket.note(events.iter().next().expect("an event"))
        };
        assert!(!next_is_news(&mut socket), "it can be written to, as was known when it was made");
        peer.write_all(b"x").unwrap();
        assert!(next_is_news(&mut socket), "a byte has come");
        assert!(matches!(socket.read(&mut [0; 2]), Moved::Bytes(1)));
        while socket.is_writable() {
            socket.write(&[0; 65536]);
        }
        while peer.read(&mut [0; 65536]).is_ok() {}
        assert!(next_is_news(&mut socket), "it can be written to again");
        assert!(socket.is_writable() && !socket.is_readable());
        socket.deregister(&registry).unwrap();
        let mut moved = Socket::moved(ours.into());
        moved.register(&registry, Token(1)).unwrap();
        assert!(next_is_news(&mut moved), "of one from another process nothing is known");
    }
}
