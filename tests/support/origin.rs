//! Scriptable upstreams: answering by themselves, or driven by hand, connection by connection.
//!
//! An origin counts its connections and keeps each request that it answered as it came.

use std::fmt;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::{Deref, DerefMut};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use socket2::{Domain, SockAddr, Socket, Type};

use super::message::{Cut, Head, Message, Wire};
use super::{PATIENCE, TempPath};

/// An upstream.
pub struct Origin {
    shared: Arc<Shared>,
    written: String,
    path: Option<TempPath>,
}

struct Shared {
    listener: Socket,
    accepted: AtomicUsize,
    requests: Mutex<Vec<Message>>,
    stopped: AtomicBool,
}

/// What an answering origin says to one request.
#[derive(Clone, Debug)]
pub struct Answer {
    bytes: Vec<u8>,
    closes: bool,
}

impl Answer {
    /// 200 with a body and its length.
    pub fn ok(body: impl AsRef<[u8]>) -> Answer {
        let mut answer = Answer::raw(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.as_ref().len()));
        answer.bytes.extend_from_slice(body.as_ref());
        answer
    }

    /// These bytes, whatever they are.
    pub fn raw(bytes: impl Into<Vec<u8>>) -> Answer {
        Answer { bytes: bytes.into(), closes: false }
    }

    /// The same, and then the connection is closed.
    pub fn then_close(self) -> Answer {
        Answer { closes: true, ..self }
    }
}

impl Origin {
    /// An upstream on a port of its own that a test drives by hand: see [`Origin::accept`].
    pub fn by_hand() -> Origin {
        let origin = Origin::refusing();
        origin.listen();
        origin
    }

    /// An upstream whose port is taken but refuses connections until [`Origin::listen`].
    pub fn refusing() -> Origin {
        Origin::bound(Ipv4Addr::LOCALHOST.into())
    }

    /// An upstream on an IPv6 address, driven by hand.
    pub fn ipv6() -> Origin {
        let origin = Origin::bound(Ipv6Addr::LOCALHOST.into());
        origin.listen();
        origin
    }

    fn bound(ip: IpAddr) -> Origin {
        let address = SocketAddr::new(ip, 0);
        let listener = Socket::new(Domain::for_address(address), Type::STREAM, None).expect("a socket can be made");
        listener.bind(&address.into()).expect("the kernel gives a port");
        let address = listener.local_addr().ok().and_then(|address| address.as_socket()).expect("a TCP address");
        Origin::new(listener, address.to_string(), None)
    }

    /// An upstream on a Unix socket, driven by hand.
    pub fn unix() -> Origin {
        let path = TempPath::new(".sock");
        let listener = Socket::new(Domain::UNIX, Type::STREAM, None).expect("a socket can be made");
        listener.bind(&SockAddr::unix(&*path).expect("a path that fits")).expect("the path is free");
        let origin = Origin::new(listener, format!("unix:{}", path.display()), Some(path));
        origin.listen();
        origin
    }

    /// An upstream that answers every request by `answer`.
    pub fn answering(answer: impl Fn(&Message) -> Answer + Send + Sync + 'static) -> Origin {
        Origin::by_hand().answer_by(answer)
    }

    /// An upstream that answers every request with this text.
    pub fn saying(text: &str) -> Origin {
        let answer = Answer::ok(text);
        Origin::answering(move |_| answer.clone())
    }

    /// An upstream that runs `script` for each connection, in a thread of its own.
    pub fn running(script: impl Fn(Connection) + Send + Sync + 'static) -> Origin {
        Origin::by_hand().run(script)
    }

    /// The same origin, answering by itself from here on.
    pub fn answer_by(self, answer: impl Fn(&Message) -> Answer + Send + Sync + 'static) -> Origin {
        let shared = Arc::clone(&self.shared);
        self.run(move |mut connection| {
            while let Ok(request) = connection.try_request() {
                let answer = answer(&request);
                shared.requests.lock().unwrap().push(request);
                if connection.try_send(&answer.bytes).is_err() || answer.closes {
                    return;
                }
            }
        })
    }

    fn run(self, script: impl Fn(Connection) + Send + Sync + 'static) -> Origin {
        let (shared, script) = (Arc::clone(&self.shared), Arc::new(script));
        spawn(move || {
            while !shared.stopped.load(Ordering::Relaxed) {
                if let Some(connection) = shared.accept(Duration::from_millis(50)) {
                    let script = Arc::clone(&script);
                    spawn(move || script(connection));
                }
            }
        });
        self
    }

    fn new(listener: Socket, written: String, path: Option<TempPath>) -> Origin {
        listener.set_nonblocking(true).expect("a socket can be made non-blocking");
        let shared = Shared {
            listener,
            accepted: AtomicUsize::new(0),
            requests: Mutex::new(Vec::new()),
            stopped: AtomicBool::new(false),
        };
        Origin { shared: Arc::new(shared), written, path }
    }

    /// From here on connections are taken.
    pub fn listen(&self) {
        self.shared.listener.listen(1024).expect("a bound socket can listen");
    }

    /// From here on hardly a connection may wait to be accepted: over a Unix socket one, and the next is turned away.
    pub fn shorten_backlog(&self) {
        self.shared.listener.listen(0).expect("a listening socket can be given another backlog");
    }

    /// The path of a Unix socket.
    pub fn path(&self) -> &Path {
        self.path.as_ref().expect("an origin on a Unix socket")
    }

    /// The next connection, which must come.
    pub fn accept(&self) -> Connection {
        self.shared.accept(PATIENCE).expect("hawkey connects to the upstream")
    }

    /// No connection comes for `duration`.
    pub fn expect_no_connection(&self, duration: Duration) {
        assert!(self.shared.accept(duration).is_none(), "hawkey connected to an upstream that it should leave alone");
    }

    /// How many connections came so far.
    pub fn connections(&self) -> usize {
        self.shared.accepted.load(Ordering::Relaxed)
    }

    /// The requests that were answered so far.
    pub fn requests(&self) -> Vec<Message> {
        self.shared.requests.lock().unwrap().clone()
    }

    /// The last request that was answered.
    pub fn last_request(&self) -> Message {
        self.requests().pop().expect("a request was answered")
    }
}

/// As a route of the configuration names it.
impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.written)
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::Relaxed);
    }
}

impl Shared {
    fn accept(&self, within: Duration) -> Option<Connection> {
        let begun = Instant::now();
        loop {
            match self.listener.accept() {
                Ok((socket, _)) => {
                    let number = self.accepted.fetch_add(1, Ordering::Relaxed);
                    return Some(Connection { wire: Wire::new(socket), number });
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    let left = within.checked_sub(begun.elapsed())?;
                    wait_readable(&self.listener, left);
                }
                Err(error) => panic!("accepting failed: {error}"),
            }
        }
    }
}

/// One connection from hawkey.
pub struct Connection {
    wire: Wire,
    number: usize,
}

impl Connection {
    /// The next request, which must come whole.
    pub fn request(&mut self) -> Message {
        self.try_request().unwrap_or_else(|cut| panic!("expected a whole request, came {cut:?}"))
    }

    /// The next request, if it comes whole.
    pub fn try_request(&mut self) -> Result<Message, Cut> {
        let head = self.wire.try_head()?;
        self.body_of(head)
    }

    /// The body behind a head that was read.
    pub fn body_of(&mut self, head: Head) -> Result<Message, Cut> {
        let message = self.wire.try_body(head, false)?;
        Ok(Message { connection: self.number, ..message })
    }

    /// Resets the connection.
    pub fn reset(self) {
        self.wire.reset();
    }

    /// The socket, for another protocol.
    pub fn into_socket(self) -> Socket {
        self.wire.into_socket()
    }
}

impl Deref for Connection {
    type Target = Wire;

    fn deref(&self) -> &Wire {
        &self.wire
    }
}

impl DerefMut for Connection {
    fn deref_mut(&mut self) -> &mut Wire {
        &mut self.wire
    }
}

fn wait_readable(socket: &Socket, within: Duration) {
    let mut sockets = [rustix::event::PollFd::new(socket, rustix::event::PollFlags::IN)];
    let within = rustix::event::Timespec::try_from(within).expect("a duration that fits");
    // An interrupted wait is a short one; who waits looks again.
    let _ = rustix::event::poll(&mut sockets, Some(&within));
}

/// Hundreds of connections may be served at once, so that each thread has a small stack.
fn spawn(run: impl FnOnce() + Send + 'static) {
    std::thread::Builder::new().stack_size(512 * 1024).spawn(run).expect("a thread can be started");
}
