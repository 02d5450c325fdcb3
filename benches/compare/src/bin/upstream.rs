//! The application behind every proxy.
//!
//! `upstream` listens on a port of 127.0.0.1, which it prints, and answers
//!
//! - `GET /bytes/N` with N bytes,
//! - a handshake for `/echo` with a tunnel in which every message comes back,
//! - a handshake for `/stream` with a tunnel in which a message of eight bytes, a number, is answered by so many frames of 64 KiB.
//!
//! It does no more than the exchange needs, so that it is never what a proxy waits for.

#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::error::Error;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use compare::net::{self, BUDGET, Event, Poll, Read};
use compare::wire::{self, FRAME_BYTES};
use slab::Slab;

const LISTENER: usize = usize::MAX;
const FIELDS_MAX: usize = 32;

fn main() -> Result<(), Box<dyn Error>> {
    net::raise_limit();
    let mut poll = Poll::new()?;
    let listener = net::listen()?;
    poll.add(&listener, LISTENER)?;
    let mut tools = Tools::new()?;
    let mut sessions = Slab::<Session>::new();
    let mut queue = VecDeque::new();
    let mut events = Vec::new();
    loop {
        let limit = if queue.is_empty() { None } else { Some(Duration::ZERO) };
        poll.wait(limit, &mut events)?;
        for event in events.drain(..) {
            if event.key == LISTENER {
                accept(&poll, &listener, &mut sessions)?;
            } else if sessions[event.key].take_note(event) {
                queue.push_back(event.key);
            }
        }
        for _ in 0..queue.len() {
            let Some(key) = queue.pop_front() else { break };
            let session = &mut sessions[key];
            session.is_queued = false;
            match session.drive(&mut tools) {
                Drive::Wait => {}
                Drive::Again => {
                    session.is_queued = true;
                    queue.push_back(key);
                }
                Drive::Close => {
                    sessions.remove(key);
                }
            }
        }
    }
}

fn accept(poll: &Poll, listener: &OwnedFd, sessions: &mut Slab<Session>) -> io::Result<()> {
    while let Some(socket) = net::accept(listener)? {
        let entry = sessions.vacant_entry();
        poll.add(&socket, entry.key())?;
        entry.insert(Session {
            socket,
            kind: Kind::Http,
            is_readable: false,
            is_ending: false,
            is_queued: false,
            is_last: false,
            input: Vec::new(),
            output: Vec::new(),
            pouring: None,
        });
    }
    Ok(())
}

/// What all sessions share.
struct Tools {
    buffer: Vec<u8>,
    /// One frame of a stream; a body is cut from it as well.
    frame: Vec<u8>,
    /// The same as a file, from which bulk goes to sockets without a copy.
    file: File,
    switching: Vec<u8>,
}

impl Tools {
    fn new() -> io::Result<Tools> {
        let frame = wire::stream_frame();
        let file = net::memory_file(&frame)?;
        Ok(Tools { buffer: vec![0; BUDGET], frame, file, switching: wire::switching() })
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

/// The same frame, or a body made of it, over and over: so many bytes are left, the next of which is at this place in the frame.
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
            let end =
                tools.frame.len().min(pouring.at.saturating_add(usize::try_from(pouring.left).unwrap_or(usize::MAX)));
            let Some(taken) = net::write_file(&self.socket, &tools.file, pouring.at..end) else { return Drive::Close };
            let is_full = taken < end - pouring.at;
            pouring.left -= taken as u64;
            pouring.at = (pouring.at + taken) % tools.frame.len();
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
                self.pouring = Some(Pouring { left: frames * tools.frame.len() as u64, at: 0 });
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
