//! The application behind every proxy.
//!
//! It listens on a port of 127.0.0.1 and answers
//!
//! - `GET /bytes/N` with N bytes,
//! - a handshake for `/echo` with a tunnel in which every message comes back,
//! - a handshake for `/stream` with a tunnel in which a message of eight bytes, a number, is answered by so many frames of 64 KiB.
//!
//! It does no more than the exchange needs, so that it is never what a proxy waits for.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

use slab::Slab;

use crate::net::{self, BUDGET, Event, Poll, Read};
use crate::wire::{self, FRAME_BYTES};

const FIELDS_MAX: usize = 32;
/// More than the caches next to a core hold: bytes that a proxy copies come from farther away, as they do with real upstreams.
const BULK_BYTES: usize = 128 * FRAME_BYTES;

/// An application. The sockets that it registers have keys from `first_key` on.
pub struct Application {
    first_key: usize,
    listener: OwnedFd,
    sessions: Slab<Session>,
    queue: VecDeque<usize>,
    tools: Tools,
}

impl Application {
    /// An application that listens, and tells where on standard output.
    pub fn new(poll: &Poll, first_key: usize) -> io::Result<Application> {
        let listener = net::listen()?;
        poll.add(&listener, first_key)?;
        Ok(Application { first_key, listener, sessions: Slab::new(), queue: VecDeque::new(), tools: Tools::new()? })
    }

    /// Takes note of an event of one of its sockets.
    pub fn take_note(&mut self, poll: &Poll, event: Event) -> io::Result<()> {
        let Some(key) = (event.key - self.first_key).checked_sub(1) else { return self.accept(poll) };
        if self.sessions[key].take_note(event) {
            self.queue.push_back(key);
        }
        Ok(())
    }

    /// Whether there is something to do without another event.
    pub fn is_busy(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Lets each session that has something to do go a step.
    pub fn act(&mut self) {
        for _ in 0..self.queue.len() {
            let Some(key) = self.queue.pop_front() else { break };
            let session = &mut self.sessions[key];
            session.is_queued = false;
            match session.drive(&mut self.tools) {
                Drive::Wait => {}
                Drive::Again => {
                    session.is_queued = true;
                    self.queue.push_back(key);
                }
                Drive::Close => {
                    self.sessions.remove(key);
                }
            }
        }
    }

    fn accept(&mut self, poll: &Poll) -> io::Result<()> {
        while let Some(socket) = net::accept(&self.listener)? {
            let entry = self.sessions.vacant_entry();
            poll.add(&socket, self.first_key + 1 + entry.key())?;
            entry.insert(Session::new(socket));
        }
        Ok(())
    }
}

/// What all sessions share.
struct Tools {
    buffer: Vec<u8>,
    /// One frame of a stream; a body is cut from it as well.
    frame: Vec<u8>,
    /// Many of them in a file, from which bulk goes to sockets without a copy.
    bulk: File,
    switching: Vec<u8>,
}

impl Tools {
    fn new() -> io::Result<Tools> {
        let frame = wire::stream_frame();
        let bulk = net::memory_file(&frame.repeat(BULK_BYTES / FRAME_BYTES))?;
        Ok(Tools { buffer: vec![0; BUDGET], frame, bulk, switching: wire::switching() })
    }
}

/// A connection. No more is read while an answer has not left.
struct Session {
    socket: OwnedFd,
    kind: Kind,
    is_readable: bool,
    is_ending: bool,
    is_queued: bool,
    /// The answer that is leaving is the last one.
    is_last: bool,
    /// What is not a whole request or frame yet.
    input: Vec<u8>,
    /// What could not leave.
    output: Vec<u8>,
    pouring: Option<Pouring>,
}

#[derive(Clone, Copy)]
enum Kind {
    Http,
    Echo,
    Stream,
}

/// A stream or a body, cut from the bulk over and over: so many bytes are left, the next of which is at this place.
#[derive(Clone, Copy)]
struct Pouring {
    left: u64,
    at: usize,
}

enum Drive {
    /// Nothing to do until an event tells.
    Wait,
    /// It is the others' turn.
    Again,
    Close,
}

impl Session {
    fn new(socket: OwnedFd) -> Session {
        Session {
            socket,
            kind: Kind::Http,
            is_readable: false,
            is_ending: false,
            is_queued: false,
            is_last: false,
            input: Vec::new(),
            output: Vec::new(),
            pouring: None,
        }
    }

    /// Whether the session must be queued.
    fn take_note(&mut self, event: Event) -> bool {
        self.is_readable |= event.is_readable;
        self.is_ending |= event.is_ending;
        let has_output = !self.output.is_empty() || self.pouring.is_some();
        let queued = !self.is_queued && (event.is_readable || (event.is_writable && has_output));
        self.is_queued |= queued;
        queued
    }

    fn drive(&mut self, tools: &mut Tools) -> Drive {
        if !self.output.is_empty() {
            let Some(taken) = net::write(&self.socket, &self.output) else { return Drive::Close };
            self.output.drain(..taken);
            if !self.output.is_empty() {
                return Drive::Wait;
            }
        }
        if let Some(pouring) = &mut self.pouring {
            let left = usize::try_from(pouring.left).unwrap_or(usize::MAX);
            let end = pouring.at + BUDGET.min(left).min(BULK_BYTES - pouring.at);
            let Some(taken) = net::write_file(&self.socket, &tools.bulk, pouring.at..end) else { return Drive::Close };
            let is_full = taken < end - pouring.at;
            pouring.left -= taken as u64;
            pouring.at = (pouring.at + taken) % BULK_BYTES;
            if pouring.left == 0 {
                self.pouring = None;
            } else {
                return if is_full { Drive::Wait } else { Drive::Again };
            }
        }
        if self.is_last {
            return Drive::Close;
        }
        if !self.is_readable {
            return Drive::Wait;
        }
        let Tools { buffer, .. } = tools;
        let length = match net::read(&self.socket, buffer) {
            Read::Full(length) => length,
            Read::Short(length) => {
                self.is_readable = self.is_ending;
                length
            }
            Read::Nothing => {
                self.is_readable = false;
                return Drive::Wait;
            }
            Read::End => return Drive::Close,
        };
        if self.received(length, tools).is_none() {
            return Drive::Close;
        }
        // Again also for what is still to be poured, and for an end that is behind what was read.
        if self.output.is_empty() && (self.is_readable || self.pouring.is_some() || self.is_last) {
            Drive::Again
        } else {
            Drive::Wait
        }
    }

    /// Answers what is whole in what was read. `None` if it makes no sense.
    fn received(&mut self, length: usize, tools: &mut Tools) -> Option<()> {
        let mut earlier = std::mem::take(&mut self.input);
        let mut buffer = std::mem::take(&mut tools.buffer);
        let bytes = if earlier.is_empty() {
            &mut buffer[..length]
        } else {
            earlier.extend_from_slice(&buffer[..length]);
            &mut earlier[..]
        };
        let mut at = 0;
        let outcome = loop {
            match self.answer(&mut bytes[at..], tools) {
                Some(0) => break Some(()),
                Some(taken) => at += taken,
                None => break None,
            }
        };
        self.input.extend_from_slice(&bytes[at..]);
        tools.buffer = buffer;
        outcome
    }

    /// Answers the first request or frame and tells how long it was; 0 if it is not whole.
    fn answer(&mut self, bytes: &mut [u8], tools: &Tools) -> Option<usize> {
        if let Kind::Http = self.kind {
            return self.respond(bytes, tools);
        }
        let Some(frame) = wire::masked_frame_at(bytes) else { return Some(0) };
        let Some(payload) = bytes.get_mut(frame.begin..frame.end) else { return Some(0) };
        wire::unmask(payload, frame.mask);
        match self.kind {
            Kind::Stream => {
                let frames = u64::from_be_bytes((&*payload).try_into().ok()?);
                self.pouring = Some(Pouring { left: frames * FRAME_BYTES as u64, at: 0 });
            }
            // The head of the answer goes where the mask was: one write without another copy.
            Kind::Echo | Kind::Http => {
                let begin = wire::put_frame_head(bytes, &frame);
                self.send(&bytes[begin..frame.end])?;
            }
        }
        Some(frame.end)
    }

    fn respond(&mut self, bytes: &[u8], tools: &Tools) -> Option<usize> {
        let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
        let mut request = httparse::Request::new(&mut fields);
        let httparse::Status::Complete(length) = request.parse(bytes).ok()? else { return Some(0) };
        let path = request.path?;
        let mut connection = request.headers.iter().filter(|field| field.name.eq_ignore_ascii_case("connection"));
        // lighttpd and HTTP/1.0 want a connection for each request.
        self.is_last = request.version == Some(0) || connection.any(|field| field.value.eq_ignore_ascii_case(b"close"));
        if let Some(number) = path.strip_prefix("/bytes/") {
            let left: u64 = number.parse().ok()?;
            let mut response = wire::response_head(left, self.is_last);
            if left <= FRAME_BYTES as u64 {
                response.extend_from_slice(&tools.frame[..left as usize]);
            } else {
                self.pouring = Some(Pouring { left, at: 0 });
            }
            self.send(&response)?;
        } else {
            self.kind = if path == "/stream" { Kind::Stream } else { Kind::Echo };
            self.is_last = false;
            self.send(&tools.switching)?;
        }
        Some(length)
    }

    fn send(&mut self, bytes: &[u8]) -> Option<()> {
        let taken = if self.output.is_empty() { net::write(&self.socket, bytes)? } else { 0 };
        self.output.extend_from_slice(&bytes[taken..]);
        Some(())
    }
}
