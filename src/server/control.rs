//! The control socket: where a running hawkey is asked something by the user that it runs as, or by root.
//!
//! A connection carries one request and its answer, each one JSON object on a line: `{"protocol":1,"ask":"status"}`. What is asked is
//! understood here and answered elsewhere: whoever takes a [`next_request`](Control::next_request) has the connection with it, and
//! gives it back with an [`answer`](Control::answer), or keeps it. Nothing here waits, and all of it is bounded.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jzon::{JsonValue, object};
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use socket2::Socket as RawSocket;

use crate::os::{descriptors, errors, peers};
use crate::proxy::moment::Moment;
use crate::server::listener::{self, BindError, SocketFile};

/// The version that both ends of a control connection must be of. It stands in every request and every answer.
pub const PROTOCOL: u64 = 1;

/// Bytes of a request with its line end. The path of another program fits, and a reason not to take over.
const REQUEST_BYTES_MAX: usize = 1024;
/// Connections at once. Who comes after them waits in the kernel; a person asks on one at a time.
const CONNECTIONS_MAX: usize = 16;
/// From the accept until the answer has been taken. A program needs no millisecond for it; a person who types needs less.
const CONVERSATION_MAX: Duration = Duration::from_secs(10);
/// The same once another process has the socket, which this one must not outlive for long.
const FAREWELL_MAX: Duration = Duration::from_millis(500);
/// How soon accepting is tried again for which there was no descriptor, and how often the log tells of it.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// What can be asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// How things stand.
    Status,
    /// To read the configuration again.
    Reload,
    /// To stop in peace; asked again, at once.
    Stop,
    /// To start its own binary, or another, in its place.
    Upgrade {
        /// The other.
        binary: Option<PathBuf>,
    },
    /// To be given all that moves, by this version of the handover. Asked by a new process.
    TakeOver {
        /// The version.
        version: u64,
    },
    /// To go on, because the new process cannot run. Asked by that.
    GiveUp {
        /// Why not.
        why: String,
    },
}

/// The socket, its file, and who is connected.
#[derive(Debug)]
pub struct Control {
    /// `None` once nobody is taken any more.
    door: Option<Door>,
    connections: Vec<Connection>,
    /// When it wants to be attended to.
    due: Option<Moment>,
    /// When there may be somebody to accept of whom no event will tell.
    accept_again: Option<Moment>,
}

/// A listening socket, whose file goes with it.
#[derive(Debug)]
struct Door {
    socket: RawSocket,
    path: PathBuf,
    file: SocketFile,
}

/// Somebody who asks.
#[derive(Debug)]
pub struct Connection {
    stream: UnixStream,
    /// What has come of the request.
    request: Vec<u8>,
    /// What has not left of the answer, once there is one.
    answer: Option<Vec<u8>>,
    /// When it is closed at the latest.
    until: Moment,
}

impl Control {
    /// Listens at `path` from here on.
    pub fn bind(path: &Path) -> Result<Control, BindError> {
        let bound = listener::bind_unix(path, |socket| peers::keep_private(socket));
        let socket =
            bound.map_err(|error| BindError::of_path(format!("the control socket {}", path.display()), error))?;
        Ok(Control::at(Door { socket, path: path.to_path_buf(), file: SocketFile::Ours }))
    }

    /// Goes on with the socket of a former process, which is still the owner of its file.
    pub fn taken(path: PathBuf, socket: OwnedFd) -> Control {
        Control::at(Door { socket: socket.into(), path, file: SocketFile::Promised })
    }

    fn at(door: Door) -> Control {
        Control { door: Some(door), connections: Vec::new(), due: None, accept_again: None }
    }

    /// The socket and its path, for as long as anybody is taken in.
    pub fn door(&self) -> Option<(BorrowedFd<'_>, &Path)> {
        self.door.as_ref().map(|door| (door.socket.as_fd(), door.path.as_path()))
    }

    /// The file is this process's from now on.
    pub fn own_file(&mut self) {
        self.door.iter_mut().for_each(|door| door.file.settle());
    }

    /// Lets go of the socket, which another process has. Who is connected is answered here, if it asks soon.
    pub fn let_go(&mut self, registry: &Registry, now: Moment) {
        for connection in &mut self.connections {
            connection.until = connection.until.min(now + FAREWELL_MAX);
        }
        self.due = Some(now);
        if let Some(mut door) = self.door.take() {
            door.file = SocketFile::Theirs;
            let _ = registry.deregister(&mut SourceFd(&door.socket.as_raw_fd()));
        }
    }

    /// Whether somebody waits for an answer, or for the rest of it.
    pub fn is_busy(&self) -> bool {
        !self.connections.is_empty()
    }

    /// Asks for the events of the socket, and tells the log where it is. Its connections have the same token: they are few enough to
    /// be looked at together.
    pub fn register(&self, registry: &Registry, token: Token) -> io::Result<()> {
        let Some(door) = &self.door else { return Ok(()) };
        registry.register(&mut SourceFd(&door.socket.as_raw_fd()), token, Interest::READABLE)?;
        log::info!("control={}", door.path.display());
        Ok(())
    }

    /// Takes nobody in any more, and leaves the path to whoever comes next.
    pub fn close(&mut self) {
        self.door = None;
    }

    /// Something has happened, and it is `now`.
    pub fn stir(&mut self, now: Moment) {
        self.due = Some(now);
    }

    /// When it wants to be attended to.
    pub fn due(&self) -> Option<Moment> {
        self.due
    }

    /// Accepts, reads and writes as far as that goes. To be [settled](Control::settle) when what was asked is answered.
    pub fn attend(&mut self, registry: &Registry, token: Token, now: Moment) {
        self.accept(registry, token, now);
        self.connections.iter_mut().for_each(Connection::read);
        self.connections.iter_mut().for_each(Connection::write);
    }

    /// Drops who has been served, is late or has left.
    pub fn settle(&mut self, now: Moment) {
        self.connections.retain(|connection| !connection.is_over() && connection.until > now);
        let accept_again = self.accept_again.filter(|_| self.connections.len() < CONNECTIONS_MAX);
        self.due = self.connections.iter().map(|connection| connection.until).chain(accept_again).min();
    }

    /// A request that has come whole, and who asks.
    pub fn next_request(&mut self) -> Option<(Connection, Request)> {
        while let Some(place) = self.connections.iter().position(Connection::has_asked) {
            let connection = self.connections.swap_remove(place);
            match understood(&connection.request) {
                Ok(request) => return Some((connection, request)),
                Err(sentence) => self.answer(connection, Err(sentence)),
            }
        }
        None
    }

    /// Answers who asked: with what was asked for, or with a sentence on why it cannot be.
    pub fn answer(&mut self, mut connection: Connection, answer: Result<JsonValue, String>) {
        let mut answer = answer.unwrap_or_else(|sentence| object! { "error": sentence });
        // It is an object, and takes any key.
        let _ = answer.insert("protocol", PROTOCOL);
        let mut line = answer.dump().into_bytes();
        line.push(b'\n');
        connection.answer = Some(line);
        connection.write();
        self.connections.push(connection);
    }

    fn accept(&mut self, registry: &Registry, token: Token, now: Moment) {
        // If nothing ends this, somebody may still wait: for the others' turn, or for a place.
        self.accept_again = Some(now);
        while self.connections.len() < CONNECTIONS_MAX {
            let Some(door) = &self.door else { return self.accept_again = None };
            let stream = match descriptors::accept(door.socket.as_fd()) {
                Ok((stream, _)) => UnixStream::from(stream),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return self.accept_again = None,
                Err(error) if error.kind() == ErrorKind::Interrupted || errors::is_of_the_connection(&error) => {
                    continue;
                }
                Err(error) => {
                    log::warn!("event=control-paused why=\"{error}\"");
                    self.accept_again = Some(now + ACCEPT_PAUSE);
                    return;
                }
            };
            let interest = Interest::READABLE | Interest::WRITABLE;
            let watched = registry.register(&mut SourceFd(&stream.as_raw_fd()), token, interest);
            let connection = Connection { stream, request: Vec::new(), answer: None, until: now + CONVERSATION_MAX };
            match watched.and_then(|()| peers::is_ours(&connection.stream)) {
                Ok(true) => self.connections.push(connection),
                Ok(false) => {
                    log::warn!("event=control-refused why=\"another user asked on the control socket\"");
                    let sentence = "only root and the user that hawkey runs as may ask here";
                    self.answer(connection, Err(sentence.to_owned()));
                }
                Err(error) => {
                    log::warn!("event=control-refused why=\"{error}\"");
                    self.answer(connection, Err(error.to_string()));
                }
            }
        }
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        if self.file == SocketFile::Ours {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

impl Connection {
    /// The process that asks.
    pub fn pid(&self) -> io::Result<u32> {
        peers::pid(&self.stream)
    }

    /// The connection itself, for a longer conversation, and what has come behind the request.
    pub fn into_parts(self) -> (UnixStream, Vec<u8>) {
        let end = self.request.iter().position(|byte| *byte == b'\n').map_or(self.request.len(), |end| end + 1);
        (self.stream, self.request.get(end..).unwrap_or_default().to_vec())
    }

    /// Reads as much as a request may have.
    fn read(&mut self) {
        let mut bytes = [0; REQUEST_BYTES_MAX];
        while !self.has_asked() && self.answer.is_none() {
            // Never empty: as much would be a request.
            let room = bytes.get_mut(self.request.len()..).unwrap_or_default();
            match self.stream.read(room) {
                Ok(0) => return self.leave(),
                Ok(n) => self.request.extend_from_slice(room.get(..n).unwrap_or_default()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(_) => return self.leave(),
            }
        }
    }

    /// Whether a request is there, or as much as none may have.
    fn has_asked(&self) -> bool {
        self.answer.is_none() && (self.request.contains(&b'\n') || self.request.len() >= REQUEST_BYTES_MAX)
    }

    fn write(&mut self) {
        let Some(answer) = &mut self.answer else { return };
        while !answer.is_empty() {
            match self.stream.write(answer) {
                Ok(n) => drop(answer.drain(..n)),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(_) => return self.leave(),
            }
        }
    }

    /// Who has left waits for nothing.
    fn leave(&mut self) {
        self.answer = Some(Vec::new());
    }

    fn is_over(&self) -> bool {
        self.answer.as_ref().is_some_and(Vec::is_empty)
    }
}

/// What the line at the front of `bytes` asks for, or a sentence on why that cannot be said.
fn understood(bytes: &[u8]) -> Result<Request, String> {
    let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else {
        return Err(format!("a request has at most {REQUEST_BYTES_MAX} bytes"));
    };
    let line = bytes.get(..end).and_then(|line| std::str::from_utf8(line).ok()).ok_or("a request is UTF-8 text")?;
    let request = jzon::parse(line).map_err(|error| format!("a request is one JSON object on a line: {error}"))?;
    match request["protocol"].as_u64() {
        Some(PROTOCOL) => {}
        Some(other) => {
            return Err(format!("this hawkey speaks version {PROTOCOL} of the control protocol, not {other}"));
        }
        None => return Err(format!("a request has a version, as in {{\"protocol\":{PROTOCOL},\"ask\":\"status\"}}")),
    }
    match request["ask"].as_str() {
        Some("status") => Ok(Request::Status),
        Some("reload") => Ok(Request::Reload),
        Some("stop") => Ok(Request::Stop),
        Some("upgrade") => Ok(Request::Upgrade { binary: request["binary"].as_str().map(PathBuf::from) }),
        Some("take-over") => {
            let version = request["handover"].as_u64().ok_or("who takes over names a version of the handover")?;
            Ok(Request::TakeOver { version })
        }
        Some("give-up") => {
            Ok(Request::GiveUp { why: request["why"].as_str().unwrap_or("it did not say why").to_owned() })
        }
        _ => Err("this hawkey can be asked for status, reload, upgrade and stop".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_understood_or_a_sentence_says_why_not() {
        let asked = |line: &str| understood(format!("{line}\n").as_bytes());
        assert_eq!(asked(r#"{"protocol":1,"ask":"status"}"#), Ok(Request::Status));
        assert_eq!(asked(r#" { "ask": "reload", "more": [1], "protocol": 1 } "#), Ok(Request::Reload));
        assert_eq!(asked(r#"{"protocol":1,"ask":"stop"}"#), Ok(Request::Stop));
        assert_eq!(asked(r#"{"protocol":1,"ask":"upgrade"}"#), Ok(Request::Upgrade { binary: None }));
        let binary = Some(PathBuf::from("/new"));
        assert_eq!(asked(r#"{"protocol":1,"ask":"upgrade","binary":"/new"}"#), Ok(Request::Upgrade { binary }));
        assert_eq!(asked(r#"{"protocol":1,"ask":"take-over","handover":7}"#), Ok(Request::TakeOver { version: 7 }));
        let deep = "[".repeat(1000);
        for (line, part) in [
            ("", "one JSON object"),
            ("status", "one JSON object"),
            (deep.as_str(), "one JSON object"),
            ("[1]", "has a version"),
            (r#"{"ask":"status"}"#, "has a version"),
            (r#"{"protocol":"1","ask":"status"}"#, "has a version"),
            (r#"{"protocol":2,"ask":"status"}"#, "version 1 of the control protocol, not 2"),
            (r#"{"protocol":1}"#, "status, reload, upgrade and stop"),
            (r#"{"protocol":1,"ask":"dance"}"#, "status, reload, upgrade and stop"),
            (r#"{"protocol":1,"ask":"take-over"}"#, "names a version"),
        ] {
            let sentence = asked(line).expect_err(line);
            assert!(sentence.contains(part), "`{line}`: expected `{part}` in: {sentence}");
        }
        assert!(understood(b"\xff\n").unwrap_err().contains("UTF-8"));
        assert!(understood(&[b' '; REQUEST_BYTES_MAX]).unwrap_err().contains("at most 1024 bytes"));
    }
}
