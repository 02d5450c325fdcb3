//! The upstream of the demo: it stands for the application that somebody has.
//!
//! A small HTTP/1.1 server with a thread for each connection. Connections are kept, bodies of requests are skipped, and what
//! it does not understand ends the connection.

use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use httparse::Status;
use tungstenite::handshake::derive_accept_key;
use tungstenite::protocol::{Role, WebSocket};

/// What it answers. `/app` is the page; `/fail` is answered by hanging up.
pub(crate) const PATHS: [&str; 6] = ["/app", "/headers", "/ws", "/events", "/slow", "/fail"];

const PAGE: &str = include_str!("index.html");
const HTML: &str = "text/html; charset=utf-8";
const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";

const FIELDS_MAX: usize = 128;
const HEAD_BYTES_MAX: usize = 64 * 1024;
const SLOW: Duration = Duration::from_secs(3);
const TICK: Duration = Duration::from_secs(1);

/// Listens on a loopback port that the kernel chooses, and answers there until the process ends.
pub(crate) fn start() -> io::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // An error here is a client that left; there is nobody to tell.
            thread::spawn(move || Connection { stream, received: Vec::new() }.serve());
        }
    });
    Ok(address)
}

/// A request as it arrived, without its body.
struct Request {
    method: String,
    target: String,
    fields: Vec<(String, String)>,
    is_last: bool,
}

impl Request {
    fn new(head: &httparse::Request<'_, '_>) -> Request {
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        let mut request = Request {
            method: head.method.unwrap_or_default().to_owned(),
            target: head.path.unwrap_or_default().to_owned(),
            fields: head.headers.iter().map(|field| (field.name.to_owned(), text(field.value))).collect(),
            is_last: false,
        };
        request.is_last = head.version == Some(0) || request.has("connection", "close");
        request
    }

    fn path(&self) -> &str {
        self.target.split_once('?').map_or(&*self.target, |(path, _)| path)
    }

    fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|field| field.0.eq_ignore_ascii_case(name)).map(|(_, value)| &**value)
    }

    /// Whether the comma list `name` has `member`, in any case.
    fn has(&self, name: &str, member: &str) -> bool {
        self.field(name).is_some_and(|list| list.split(',').any(|one| one.trim().eq_ignore_ascii_case(member)))
    }

    /// The key of a WebSocket handshake (RFC 6455, 4.2.1), if this is one.
    fn websocket_key(&self) -> Option<&str> {
        let is_handshake =
            self.method == "GET" && self.has("connection", "upgrade") && self.has("upgrade", "websocket");
        self.field("sec-websocket-key").filter(|_| is_handshake)
    }

    /// The request as JSON. A list of pairs, because fields have an order and may come twice.
    fn to_json(&self) -> String {
        let fields: Vec<_> =
            self.fields.iter().map(|(name, value)| format!("[{}, {}]", quoted(name), quoted(value))).collect();
        format!(
            "{{\n  \"method\": {},\n  \"target\": {},\n  \"fields\": [\n    {}\n  ]\n}}\n",
            quoted(&self.method),
            quoted(&self.target),
            fields.join(",\n    ")
        )
    }
}

/// A connection and the bytes that arrived on it but belong to nothing yet.
struct Connection {
    stream: TcpStream,
    received: Vec<u8>,
}

impl Connection {
    fn serve(mut self) -> io::Result<()> {
        self.stream.set_nodelay(true)?;
        while let Some(request) = self.read_request()? {
            match (request.path(), request.websocket_key()) {
                ("/ws", Some(key)) => return self.echo(key),
                ("/ws", None) => self.reply(&request, "400 Bad Request", TEXT, "A WebSocket is spoken here.\n")?,
                ("/app" | "/app/", _) => self.reply(&request, "200 OK", HTML, PAGE)?,
                ("/headers", _) => self.reply(&request, "200 OK", JSON, &request.to_json())?,
                ("/slow", _) => {
                    thread::sleep(SLOW);
                    self.reply(&request, "200 OK", TEXT, "This took three seconds.\n")?;
                }
                ("/events", _) if request.method == "GET" => return self.tick(),
                ("/fail", _) => return Ok(()),
                _ => self.reply(&request, "404 Not Found", TEXT, "The upstream has nothing here.\n")?,
            }
            if request.is_last {
                break;
            }
        }
        Ok(())
    }

    /// The next request, its body skipped; `None` when the other side has no more to say.
    fn read_request(&mut self) -> io::Result<Option<Request>> {
        loop {
            let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
            let mut head = httparse::Request::new(&mut fields);
            match head.parse(&self.received).map_err(io::Error::other)? {
                Status::Complete(length) => {
                    let request = Request::new(&head);
                    self.received.drain(..length);
                    self.skip_body(&request)?;
                    return Ok(Some(request));
                }
                Status::Partial if self.received.len() > HEAD_BYTES_MAX => {
                    return Err(io::Error::other("the head has no end"));
                }
                Status::Partial => {
                    if !self.receive()? {
                        return Ok(None);
                    }
                }
            }
        }
    }

    fn skip_body(&mut self, request: &Request) -> io::Result<()> {
        if request.has("expect", "100-continue") {
            self.stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        if !request.has("transfer-encoding", "chunked") {
            return self.skip(request.field("content-length").unwrap_or("0").parse().map_err(io::Error::other)?);
        }
        loop {
            let size = match httparse::parse_chunk_size(&self.received) {
                Ok(Status::Complete((length, size))) => {
                    self.received.drain(..length);
                    size
                }
                Ok(Status::Partial) if self.receive()? => continue,
                _ => return Err(io::Error::other("a chunk without a size")),
            };
            // The line end behind the chunk; behind the last one it is the end of an empty trailer section.
            self.skip(size)?;
            self.skip(2)?;
            if size == 0 {
                return Ok(());
            }
        }
    }

    fn skip(&mut self, mut bytes: u64) -> io::Result<()> {
        while bytes > 0 {
            if self.received.is_empty() && !self.receive()? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let here = self.received.len().min(usize::try_from(bytes).unwrap_or(usize::MAX));
            self.received.drain(..here);
            bytes -= here as u64;
        }
        Ok(())
    }

    /// Waits for more bytes; `false` at the end of the stream.
    fn receive(&mut self) -> io::Result<bool> {
        let mut bytes = [0; 16 * 1024];
        let count = self.stream.read(&mut bytes)?;
        self.received.extend_from_slice(&bytes[..count]);
        Ok(count > 0)
    }

    fn reply(&mut self, request: &Request, status: &str, kind: &str, body: &str) -> io::Result<()> {
        // A page that is isolated from other origins is given a clock that is fine enough to time a round trip.
        let mut message = format!(
            "HTTP/1.1 {status}\r\n\
             content-type: {kind}\r\n\
             content-length: {}\r\n\
             cache-control: no-store\r\n\
             cross-origin-opener-policy: same-origin\r\n\
             cross-origin-embedder-policy: require-corp\r\n",
            body.len()
        );
        message.push_str(if request.is_last { "connection: close\r\n\r\n" } else { "\r\n" });
        if request.method != "HEAD" {
            message.push_str(body);
        }
        self.stream.write_all(message.as_bytes())
    }

    /// Server-sent events: a counter, every second, for as long as somebody listens.
    fn tick(mut self) -> io::Result<()> {
        let head = "HTTP/1.1 200 OK\r\n\
                    content-type: text/event-stream\r\n\
                    cache-control: no-store\r\n\
                    transfer-encoding: chunked\r\n\r\n";
        self.stream.write_all(head.as_bytes())?;
        for count in 1_u64.. {
            let event = format!("data: {count}\n\n");
            self.stream.write_all(format!("{:x}\r\n{event}\r\n", event.len()).as_bytes())?;
            thread::sleep(TICK);
        }
        Ok(())
    }

    /// Says yes to a handshake, and from there on sends every message back as it came.
    fn echo(mut self, key: &str) -> io::Result<()> {
        let head = format!(
            "HTTP/1.1 101 Switching Protocols\r\n\
             connection: upgrade\r\n\
             upgrade: websocket\r\n\
             sec-websocket-accept: {}\r\n\r\n",
            derive_accept_key(key.as_bytes())
        );
        self.stream.write_all(head.as_bytes())?;
        let mut socket = WebSocket::from_partially_read(self.stream, self.received, Role::Server, None);
        // Pings and the closing handshake are answered inside `read`.
        while let Ok(message) = socket.read() {
            if (message.is_text() || message.is_binary()) && socket.send(message).is_err() {
                break;
            }
        }
        Ok(())
    }
}

/// `text` as a JSON string.
fn quoted(text: &str) -> String {
    let mut json = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => json.extend(['\\', c]),
            c if c.is_control() => write!(json, "\\u{:04x}", u32::from(c)).expect("a String takes every character"),
            c => json.push(c),
        }
    }
    json.push('"');
    json
}
