//! HTTP messages, and the connections that carry them, as a strict recipient sees them.
//!
//! Written apart from hawkey's own parser, so that the two cannot share a mistake. What hawkey sends must parse here with no
//! leniency at all; anything else panics. Bytes stand for characters one to one, so hostile ones can be compared too.

use std::fmt;
use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::time::Duration;

use socket2::Socket;

use super::PATIENCE;

/// How a connection stopped giving bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The sender ended its direction.
    End,
    /// The connection was reset.
    Reset,
    /// Nothing came in time.
    Silence,
}

/// A message that did not come whole.
pub struct Cut {
    /// Why no more came.
    pub stop: Stop,
    /// The head, if that much came.
    pub head: Option<Head>,
    /// The bytes of the part that was cut: of the head, or of the body as far as it was understood.
    pub bytes: Vec<u8>,
}

/// A start line and its fields.
#[derive(Clone, Debug)]
pub struct Head {
    /// The request line or the status line.
    pub line: String,
    /// Names as they came, and values, in order.
    pub fields: Vec<(String, String)>,
}

/// A message read whole.
#[derive(Clone)]
pub struct Message {
    /// Its start line and fields.
    pub head: Head,
    /// Its content, with chunks put together.
    pub body: Vec<u8>,
    /// Chunk extensions, which hawkey never forwards.
    pub extensions: Vec<String>,
    /// Lines of the trailer section, which hawkey never forwards either.
    pub trailers: Vec<String>,
    /// Which connection it came on, for requests to an origin: 0 for the first.
    pub connection: usize,
}

impl fmt::Debug for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} behind {:?} and {}", self.stop, self.head, shown(&self.bytes))
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} with the body {}", self.head, shown(&self.body))
    }
}

impl std::ops::Deref for Message {
    type Target = Head;

    fn deref(&self) -> &Head {
        &self.head
    }
}

impl Message {
    /// The body as text.
    pub fn text(&self) -> String {
        latin1(&self.body)
    }
}

impl Head {
    fn parse(bytes: &[u8]) -> Head {
        let text = latin1(bytes.strip_suffix(b"\r\n\r\n").expect("a head ends in an empty line"));
        let mut lines = text.split("\r\n");
        let line = lines.next().unwrap_or_default().to_owned();
        let field = |line: &str| {
            let (name, value) = line.split_once(':').unwrap_or_else(|| panic!("a field without a colon: {line:?}"));
            let is_token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
            assert!(!name.is_empty() && name.chars().all(is_token), "a field name that is no token: {line:?}");
            assert!(!value.contains(|c: char| c.is_control() && c != '\t'), "a control byte in a field: {line:?}");
            (name.to_owned(), value.trim_matches([' ', '\t']).to_owned())
        };
        Head { line: line.clone(), fields: lines.map(field).collect() }
    }

    /// Every value of the fields of this name, in order.
    pub fn all(&self, name: &str) -> Vec<&str> {
        self.fields.iter().filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str()).collect()
    }

    /// The value of the one field of this name, if there is one.
    pub fn field(&self, name: &str) -> Option<&str> {
        let values = self.all(name);
        assert!(values.len() < 2, "{name} came {} times: {self:?}", values.len());
        values.first().copied()
    }

    /// The members of a comma list, from every field of this name, in lower case.
    pub fn list(&self, name: &str) -> Vec<String> {
        let members = self.all(name).into_iter().flat_map(|value| value.split(','));
        members.map(|member| member.trim().to_ascii_lowercase()).filter(|member| !member.is_empty()).collect()
    }

    /// The method of a request.
    pub fn method(&self) -> &str {
        self.word(0)
    }

    /// The target of a request.
    pub fn target(&self) -> &str {
        self.word(1)
    }

    /// The status of a response.
    pub fn status(&self) -> u16 {
        self.word(1).parse().unwrap_or_else(|_| panic!("no status in {:?}", self.line))
    }

    fn word(&self, index: usize) -> &str {
        self.line.split(' ').nth(index).unwrap_or_else(|| panic!("a start line with too few words: {:?}", self.line))
    }

    fn length(&self) -> Option<usize> {
        let length = self.field("content-length");
        let length = length.map(|text| text.parse().unwrap_or_else(|_| panic!("Content-Length: {text:?} in {self:?}")));
        assert!(length.is_none() || !self.is_chunked(), "a message with two lengths: {self:?}");
        length
    }

    fn is_chunked(&self) -> bool {
        let coding = self.field("transfer-encoding");
        assert!(coding.is_none_or(|coding| coding == "chunked"), "another transfer coding: {self:?}");
        coding.is_some()
    }
}

/// One end of a connection: bytes out, messages in.
pub struct Wire {
    socket: Socket,
    unread: Vec<u8>,
    received: usize,
}

impl Wire {
    /// A connection in which nothing has been read yet.
    pub fn new(socket: Socket) -> Wire {
        socket.set_nonblocking(false).expect("a socket can be made blocking");
        socket.set_read_timeout(Some(PATIENCE)).expect("a socket can wait");
        socket.set_write_timeout(Some(PATIENCE)).expect("a socket can wait");
        // Unix sockets have no such option.
        let _ = socket.set_tcp_nodelay(true);
        Wire { socket, unread: Vec::new(), received: 0 }
    }

    /// The socket itself.
    pub fn socket(&self) -> &Socket {
        &self.socket
    }

    /// The same connection for another thread, which is to write only.
    pub fn writer(&self) -> Wire {
        Wire::new(self.socket.try_clone().expect("a descriptor can be duplicated"))
    }

    /// The socket, for another protocol. Nothing that was read may be waiting.
    pub fn into_socket(self) -> Socket {
        assert!(self.unread.is_empty(), "bytes wait in the buffer: {}", shown(&self.unread));
        self.socket
    }

    /// Bytes received so far.
    pub fn bytes_received(&self) -> usize {
        self.received
    }

    /// Sends all of `bytes`.
    pub fn send(&self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).expect("the connection takes bytes");
    }

    /// Sends all of `bytes`, if the other side takes them.
    pub fn try_send(&self, bytes: impl AsRef<[u8]>) -> std::io::Result<()> {
        (&self.socket).write_all(bytes.as_ref())
    }

    /// Ends our direction; the other one goes on.
    pub fn end(&self) {
        self.socket.shutdown(Shutdown::Write).expect("a direction can be ended");
    }

    /// Resets the connection.
    pub fn reset(self) {
        self.socket.set_linger(Some(Duration::ZERO)).expect("a socket can linger");
    }

    /// One head.
    pub fn try_head(&mut self) -> Result<Head, Cut> {
        let length = self.find(b"\r\n\r\n")?;
        Ok(Head::parse(&self.take(length)))
    }

    /// One head, which must come.
    pub fn head(&mut self) -> Head {
        self.try_head().unwrap_or_else(|cut| panic!("expected a head, came {cut:?}"))
    }

    /// The body that `head` announces. `until_close`: what holds for a message without a length.
    pub fn try_body(&mut self, head: Head, until_close: bool) -> Result<Message, Cut> {
        let mut message =
            Message { head, body: Vec::new(), extensions: Vec::new(), trailers: Vec::new(), connection: 0 };
        let read = if message.head.is_chunked() {
            self.read_chunks(&mut message)
        } else if let Some(length) = message.head.length() {
            self.read_into(&mut message.body, length)
        } else if until_close {
            self.read_to_end(&mut message.body)
        } else {
            Ok(())
        };
        match read {
            Ok(()) => Ok(message),
            Err(stop) => Err(Cut { stop, head: Some(message.head), bytes: message.body }),
        }
    }

    /// Exactly `count` bytes.
    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(count);
        let read = self.read_into(&mut bytes, count);
        read.unwrap_or_else(|stop| panic!("expected {count} bytes, came {} and then {stop:?}", bytes.len()));
        bytes
    }

    /// The text that comes next must be `expected`.
    pub fn expect(&mut self, expected: &str) {
        let mut bytes = Vec::new();
        let read = self.read_into(&mut bytes, expected.len());
        assert_eq!(latin1(&bytes), expected, "the bytes that came, then {read:?}");
    }

    /// Everything that still comes, and how it stops.
    pub fn rest(&mut self) -> (Vec<u8>, Stop) {
        let mut bytes = std::mem::take(&mut self.unread);
        loop {
            if let Err(stop) = self.fill() {
                return (bytes, stop);
            }
            bytes.append(&mut self.unread);
        }
    }

    /// Nothing more comes but the end.
    pub fn expect_end(&mut self) {
        let (bytes, stop) = self.rest();
        assert_eq!((shown(&bytes).as_str(), stop), (r#""""#, Stop::End), "expected a clean end and nothing before it");
    }

    /// Nothing more comes but a reset.
    pub fn expect_reset(&mut self) {
        let (bytes, stop) = self.rest();
        assert_eq!((shown(&bytes).as_str(), stop), (r#""""#, Stop::Reset), "expected a reset and nothing before it");
    }

    /// Nothing comes but the end or a reset.
    pub fn expect_gone(&mut self) {
        let (bytes, stop) = self.rest();
        assert!(bytes.is_empty() && stop != Stop::Silence, "expected the end, came {}, {stop:?}", shown(&bytes));
    }

    /// Nothing comes for `duration`, not even an end.
    pub fn expect_silence(&mut self, duration: Duration) {
        self.socket.set_read_timeout(Some(duration)).expect("a socket can wait");
        let filled = if self.unread.is_empty() { self.fill() } else { Ok(()) };
        self.socket.set_read_timeout(Some(PATIENCE)).expect("a socket can wait");
        assert_eq!(filled, Err(Stop::Silence), "expected silence, came {}", shown(&self.unread));
    }

    fn read_chunks(&mut self, message: &mut Message) -> Result<(), Stop> {
        loop {
            let line = self.line()?;
            let (size, extension) = line.split_once(';').unwrap_or((&line, ""));
            if line.contains(';') {
                message.extensions.push(extension.to_owned());
            }
            assert!(size.bytes().all(|byte| byte.is_ascii_hexdigit()), "a chunk size: {line:?}");
            let size = usize::from_str_radix(size, 16).unwrap_or_else(|_| panic!("a chunk size: {line:?}"));
            if size == 0 {
                break;
            }
            self.read_into(&mut message.body, size)?;
            let mut end = Vec::new();
            self.read_into(&mut end, 2)?;
            assert_eq!(end, b"\r\n", "a chunk ends in CRLF");
        }
        loop {
            let line = self.line()?;
            if line.is_empty() {
                return Ok(());
            }
            message.trailers.push(line);
        }
    }

    fn read_into(&mut self, bytes: &mut Vec<u8>, count: usize) -> Result<(), Stop> {
        let mut missing = count;
        loop {
            let some = missing.min(self.unread.len());
            bytes.extend(self.unread.drain(..some));
            missing -= some;
            if missing == 0 {
                return Ok(());
            }
            self.fill()?;
        }
    }

    fn read_to_end(&mut self, bytes: &mut Vec<u8>) -> Result<(), Stop> {
        let (rest, stop) = self.rest();
        bytes.extend(rest);
        if stop == Stop::End { Ok(()) } else { Err(stop) }
    }

    fn line(&mut self) -> Result<String, Stop> {
        let length = self.find(b"\r\n").map_err(|cut| cut.stop)?;
        let mut line = self.take(length);
        line.truncate(length - 2);
        Ok(latin1(&line))
    }

    /// How many bytes there are up to and with `mark`.
    fn find(&mut self, mark: &[u8]) -> Result<usize, Cut> {
        let mut looked_at = 0;
        loop {
            let from = looked_at.max(mark.len()) - mark.len();
            if let Some(at) = self.unread[from..].windows(mark.len()).position(|window| window == mark) {
                return Ok(from + at + mark.len());
            }
            looked_at = self.unread.len();
            self.fill().map_err(|stop| Cut { stop, head: None, bytes: self.unread.clone() })?;
        }
    }

    fn take(&mut self, count: usize) -> Vec<u8> {
        self.unread.drain(..count).collect()
    }

    fn fill(&mut self) -> Result<(), Stop> {
        let mut room = [0; 65536];
        match (&self.socket).read(&mut room) {
            Ok(0) => Err(Stop::End),
            Ok(count) => {
                self.received += count;
                self.unread.extend_from_slice(&room[..count]);
                Ok(())
            }
            Err(error) => match error.kind() {
                ErrorKind::ConnectionReset => Err(Stop::Reset),
                ErrorKind::WouldBlock | ErrorKind::TimedOut => Err(Stop::Silence),
                ErrorKind::Interrupted => self.fill(),
                _ => panic!("reading failed: {error}"),
            },
        }
    }
}

fn latin1(bytes: &[u8]) -> String {
    bytes.iter().copied().map(char::from).collect()
}

/// Bytes as a message of a failed test has them: quoted, and not all of them if they are many.
fn shown(bytes: &[u8]) -> String {
    let some = bytes.get(..300).unwrap_or(bytes).escape_ascii();
    if bytes.len() > 300 { format!("\"{some}\"... of {} bytes", bytes.len()) } else { format!("\"{some}\"") }
}
