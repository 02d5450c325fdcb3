//! One connection and how far it is.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::Instant;

use compare::net::{self, Poll, Read};
use compare::wire;

use crate::group::{Group, Kind};

/// The largest head that is expected.
const HEAD_BYTES_MAX: usize = 4096;
/// A body above this is counted and not looked at.
const LOOKED_AT_BYTES_MAX: usize = 64 * 1024;

/// A client. It has at most one request or message under way.
pub struct Client {
    /// Which group it belongs to.
    pub group: usize,
    /// When the operation under way was begun.
    pub begun: Instant,
    /// Whether a step is worth a call.
    pub is_queued: bool,
    socket: Option<OwnedFd>,
    stage: Stage,
    /// How much of the request or the message has left.
    sent: usize,
    /// A head that is not whole yet.
    head: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Stage {
    /// Nothing is under way.
    Quiet,
    /// The handshake has begun.
    Handshake,
    /// So many bytes of the echo have come.
    Echo(usize),
    /// The request has begun; its response's head has not come.
    Request,
    /// So many bytes of a body or a stream are to come.
    Body(usize),
    /// The request's part has begun.
    Half,
}

/// What came of a step.
#[derive(Debug, Default, PartialEq)]
pub struct Step {
    /// So many bytes came.
    pub bytes: usize,
    /// There may be more at once; now it is the others' turn.
    pub has_more: bool,
    /// What was under way is done.
    pub is_done: bool,
}

impl Client {
    /// A client that is not connected.
    pub fn new(group: usize, now: Instant) -> Client {
        Client { group, begun: now, is_queued: false, socket: None, stage: Stage::Quiet, sent: 0, head: Vec::new() }
    }

    /// Begins what the group does: the first time from the connection on, later the next message or request.
    pub fn begin(
        &mut self,
        group: &Group,
        poll: &Poll,
        key: usize,
        address: SocketAddr,
        now: Instant,
    ) -> Result<(), String> {
        self.begun = now;
        self.sent = 0;
        self.stage = match group.kind {
            Kind::Get | Kind::Kept => Stage::Request,
            Kind::Half => Stage::Half,
            Kind::Stream if self.socket.is_some() => Stage::Body(group.answer_bytes),
            Kind::Echo | Kind::Idle if self.socket.is_some() => Stage::Echo(0),
            Kind::Echo | Kind::Idle | Kind::Stream | Kind::Dial => Stage::Handshake,
        };
        if self.socket.is_none() {
            let socket = net::connect(address).map_err(|error| format!("cannot connect: {error}"))?;
            poll.add(&socket, key).map_err(|error| format!("cannot watch a socket: {error}"))?;
            self.socket = Some(socket);
        }
        self.send(group)
    }

    /// Goes on where it was: writes what is left, then reads once.
    pub fn step(&mut self, group: &Group, buffer: &mut [u8]) -> Result<Step, String> {
        let Some(socket) = &self.socket else { return Ok(Step::default()) };
        let read = match self.stage {
            Stage::Body(_) if group.answer_bytes > LOOKED_AT_BYTES_MAX => net::discard(socket, buffer),
            _ => net::read(socket, buffer),
        };
        let (bytes, has_more) = match read {
            Read::Nothing => (0, false),
            Read::Short(bytes) => (bytes, false),
            Read::Full(bytes) => (bytes, true),
            Read::End => return Err(self.broken(group)),
        };
        let is_done = bytes > 0 && self.received(group, &buffer[..bytes])?;
        if self.sent < self.outgoing(group).len() {
            self.send(group)?;
        }
        if self.stage == Stage::Half && self.sent == group.request.len() {
            self.stage = Stage::Quiet;
            return Ok(Step { bytes, has_more, is_done: true });
        }
        Ok(Step { bytes, has_more, is_done })
    }

    fn outgoing<'a>(&self, group: &'a Group) -> &'a [u8] {
        match self.stage {
            Stage::Handshake | Stage::Request | Stage::Half => &group.request,
            Stage::Echo(_) => &group.message,
            Stage::Body(_) if group.kind == Kind::Stream => &group.message,
            Stage::Body(_) | Stage::Quiet => &[],
        }
    }

    fn send(&mut self, group: &Group) -> Result<(), String> {
        let Some(socket) = &self.socket else { return Ok(()) };
        let Some(taken) = net::write(socket, &self.outgoing(group)[self.sent..]) else {
            return Err(self.broken(group));
        };
        self.sent += taken;
        Ok(())
    }

    /// Whether what was under way is done.
    fn received(&mut self, group: &Group, bytes: &[u8]) -> Result<bool, String> {
        match self.stage {
            Stage::Quiet | Stage::Half => Err(format!("{:?}: {} bytes that nobody asked for", group.kind, bytes.len())),
            Stage::Handshake | Stage::Request => self.received_head(group, bytes),
            Stage::Echo(at) => {
                let end = at + bytes.len();
                if group.echo.get(at..end) != Some(bytes) {
                    return Err(format!("{:?}: the echo is not what was sent", group.kind));
                }
                self.stage = Stage::Echo(end);
                Ok(end == group.echo.len() && self.end_message(group))
            }
            Stage::Body(left) => self.received_body(group, left, bytes.len()),
        }
    }

    fn received_body(&mut self, group: &Group, left: usize, came: usize) -> Result<bool, String> {
        let left = left.checked_sub(came).ok_or_else(|| format!("{:?}: more came than was asked for", group.kind))?;
        self.stage = if left == 0 { Stage::Quiet } else { Stage::Body(left) };
        Ok(left == 0)
    }

    fn end_message(&mut self, group: &Group) -> bool {
        self.stage = Stage::Quiet;
        if group.kind == Kind::Dial {
            self.socket = None;
        }
        true
    }

    fn received_head(&mut self, group: &Group, bytes: &[u8]) -> Result<bool, String> {
        let earlier = self.head.len();
        let Some(end) = (if earlier == 0 {
            wire::head_end(bytes)
        } else {
            self.head.extend_from_slice(bytes);
            wire::head_end(&self.head).map(|end| end - earlier)
        }) else {
            if earlier == 0 {
                self.head.extend_from_slice(bytes);
            }
            return if self.head.len() > HEAD_BYTES_MAX { Err("a head without an end".into()) } else { Ok(false) };
        };
        let head = if earlier == 0 { &bytes[..end] } else { &self.head[..earlier + end] };
        let status = if self.stage == Stage::Handshake { "101" } else { "200" };
        if head.get(9..12) != Some(status.as_bytes()) {
            return Err(format!("{:?}: {}", group.kind, head.escape_ascii()));
        }
        self.head = Vec::new();
        let rest = &bytes[end..];
        if self.stage == Stage::Request {
            return self.received_body(group, group.answer_bytes, rest.len());
        }
        if !rest.is_empty() {
            return Err("bytes came behind a 101".into());
        }
        if group.kind == Kind::Stream || group.message.is_empty() {
            return Ok(self.end_message(group));
        }
        self.stage = Stage::Echo(0);
        self.sent = 0;
        Ok(false)
    }

    fn broken(&self, group: &Group) -> String {
        format!("{:?}: a connection was closed ({:?})", group.kind, self.stage)
    }
}
