//! Sockets that never block, and one epoll that tells when they are ready.
//!
//! A socket is registered once, edge-triggered and for both directions; nothing calls `epoll_ctl` again.

use std::fs::File;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::fs::MemfdFlags;
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, sockopt};
use rustix::process::{Resource, Rlimit};

/// How much is read at a time, and how much one socket may move before it is the others' turn.
pub const BUDGET: usize = 64 * 1024;

/// Connections that the kernel may hold until they are accepted.
const BACKLOG: i32 = 4096;
const EVENTS_MAX: usize = 256;

/// An epoll instance.
pub struct Poll {
    epoll: OwnedFd,
    events: Vec<epoll::Event>,
}

/// What is known about the socket that was registered under `key`.
#[derive(Clone, Copy)]
pub struct Event {
    /// As given to [`Poll::add`].
    pub key: usize,
    /// A read may bring bytes, an end or an error.
    pub is_readable: bool,
    /// A write may be taken.
    pub is_writable: bool,
    /// An end is behind the bytes that can be read, so that a short read is not the last one.
    pub is_ending: bool,
}

impl Poll {
    /// An epoll instance that watches nothing yet.
    pub fn new() -> io::Result<Poll> {
        Ok(Poll { epoll: epoll::create(CreateFlags::CLOEXEC)?, events: Vec::with_capacity(EVENTS_MAX) })
    }

    /// Watches a socket until it is closed.
    pub fn add(&self, socket: impl AsFd, key: usize) -> io::Result<()> {
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        Ok(epoll::add(&self.epoll, socket, EventData::new_u64(key as u64), flags)?)
    }

    /// Sleeps until something happens or `limit` is over, and appends what happened.
    pub fn wait(&mut self, limit: Option<Duration>, happened: &mut Vec<Event>) -> io::Result<()> {
        let limit = limit.map(|limit| limit.try_into().unwrap_or_default());
        match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut self.events), limit.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let broken = EventFlags::ERR | EventFlags::HUP;
        happened.extend(self.events.drain(..).map(|event| {
            let flags = event.flags;
            Event {
                key: event.data.u64() as usize,
                is_readable: flags.intersects(EventFlags::IN | EventFlags::RDHUP | broken),
                is_writable: flags.intersects(EventFlags::OUT | broken),
                is_ending: flags.intersects(EventFlags::RDHUP | broken),
            }
        }));
        Ok(())
    }
}

/// What came of an attempt to read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Read {
    /// So many bytes; fewer than were asked for, so there are no more for now.
    Short(usize),
    /// As many bytes as were asked for.
    Full(usize),
    /// Nothing for now.
    Nothing,
    /// The other side has ended, or the connection is broken.
    End,
}

/// Reads once into `buffer`.
pub fn read(socket: impl AsFd, buffer: &mut [u8]) -> Read {
    let asked = buffer.len();
    match rustix::net::recv(socket, buffer, RecvFlags::empty()) {
        Ok((0, _)) => Read::End,
        Ok((length, _)) if length < asked => Read::Short(length),
        Ok((length, _)) => Read::Full(length),
        Err(Errno::AGAIN | Errno::INTR) => Read::Nothing,
        Err(_) => Read::End,
    }
}

/// Takes up to the length of `scratch` from the socket without looking at it, which costs no copy.
pub fn discard(socket: impl AsFd, scratch: &mut [u8]) -> Read {
    let asked = scratch.len();
    match rustix::net::recv(socket, scratch, RecvFlags::TRUNC) {
        Ok((_, 0)) => Read::End,
        Ok((_, length)) if length < asked => Read::Short(length),
        Ok((_, length)) => Read::Full(length),
        Err(Errno::AGAIN | Errno::INTR) => Read::Nothing,
        Err(_) => Read::End,
    }
}

/// Writes once: how much was taken, 0 if the socket is full or still connecting, `None` if it is broken.
pub fn write(socket: impl AsFd, bytes: &[u8]) -> Option<usize> {
    match rustix::net::send(socket, bytes, SendFlags::NOSIGNAL) {
        Ok(taken) => Some(taken),
        Err(Errno::AGAIN | Errno::INTR) => Some(0),
        Err(_) => None,
    }
}

/// Writes a part of a file, which costs no copy, with the same outcome as [`write`].
pub fn write_file(socket: impl AsFd, file: impl AsFd, part: Range<usize>) -> Option<usize> {
    let mut at = part.start as u64;
    match rustix::fs::sendfile(socket, file, Some(&mut at), part.len()) {
        Ok(taken) => Some(taken),
        Err(Errno::AGAIN | Errno::INTR) => Some(0),
        Err(_) => None,
    }
}

/// A file in memory that holds these bytes.
pub fn memory_file(bytes: &[u8]) -> io::Result<File> {
    let mut file = File::from(rustix::fs::memfd_create("bytes", MemfdFlags::CLOEXEC)?);
    file.write_all(bytes)?;
    Ok(file)
}

/// Listens on a port of 127.0.0.1 that the kernel gives, and tells where on standard output. What is set on the listener is
/// inherited by what it accepts.
pub fn listen() -> io::Result<OwnedFd> {
    let listener = rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, flags(), None)?;
    sockopt::set_tcp_nodelay(&listener, true)?;
    rustix::net::bind(&listener, &SocketAddr::from(([127, 0, 0, 1], 0)))?;
    rustix::net::listen(&listener, BACKLOG)?;
    println!("{}", SocketAddr::try_from(rustix::net::getsockname(&listener)?)?);
    Ok(listener)
}

/// The next connection that waits, if one does.
pub fn accept(listener: impl AsFd) -> io::Result<Option<OwnedFd>> {
    match rustix::net::accept_with(listener, flags()) {
        Ok(socket) => Ok(Some(socket)),
        Err(Errno::AGAIN) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Begins a connection. Bytes may be written at once: the socket takes them when it is connected.
pub fn connect(address: SocketAddr) -> io::Result<OwnedFd> {
    let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, flags(), None)?;
    sockopt::set_tcp_nodelay(&socket, true)?;
    match rustix::net::connect(&socket, &address) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(socket),
        Err(error) => Err(error.into()),
    }
}

/// Raises the limit of descriptors as far as it goes.
pub fn raise_limit() {
    let Rlimit { maximum, .. } = rustix::process::getrlimit(Resource::Nofile);
    let _ = rustix::process::setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
}

fn flags() -> SocketFlags {
    SocketFlags::NONBLOCK | SocketFlags::CLOEXEC
}
