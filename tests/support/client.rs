//! A raw client: it sends exactly the bytes that a test says, and reads responses strictly.

use std::net::SocketAddr;
use std::ops::{Deref, DerefMut};
use std::path::Path;

use socket2::{Domain, SockAddr, Socket, Type};

use super::message::{Cut, Head, Message, Wire};
use super::proxy::Proxy;
use super::request;

/// One connection to hawkey.
pub struct Client {
    wire: Wire,
}

impl Client {
    /// A connection to the first listener of `proxy`.
    pub fn connect(proxy: &Proxy) -> Client {
        Client::to(proxy.address())
    }

    /// A connection to `address`.
    pub fn to(address: SocketAddr) -> Client {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).expect("a socket can be made");
        socket.connect(&address.into()).unwrap_or_else(|error| panic!("hawkey listens on {address}: {error}"));
        Client::over(socket)
    }

    /// A connection that has been made.
    pub fn over(socket: Socket) -> Client {
        Client { wire: Wire::new(socket) }
    }

    /// A connection to a Unix socket.
    pub fn unix(path: &Path) -> Client {
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None).expect("a socket can be made");
        let address = SockAddr::unix(path).expect("a path that fits");
        socket.connect(&address).unwrap_or_else(|error| panic!("hawkey listens on {}: {error}", path.display()));
        Client::over(socket)
    }

    /// Our end's address, as hawkey sees it.
    pub fn address(&self) -> SocketAddr {
        self.wire.socket().local_addr().ok().and_then(|address| address.as_socket()).expect("a TCP client")
    }

    /// Sends a request to the host `example.com`, see [`request`].
    pub fn ask(&self, method_and_target: &str, fields: &[&str], body: impl AsRef<[u8]>) {
        self.wire.send(request(method_and_target, fields, body));
    }

    /// Asks for `target` and reads the response.
    pub fn get(&mut self, target: &str) -> Message {
        self.ask(&format!("GET {target}"), &[], "");
        self.response()
    }

    /// The next response, which must come whole. Not for HEAD.
    pub fn response(&mut self) -> Message {
        self.try_response().unwrap_or_else(|cut| panic!("expected a whole response, came {cut:?}"))
    }

    /// The next response, if it comes whole. Not for HEAD.
    pub fn try_response(&mut self) -> Result<Message, Cut> {
        let head = self.wire.try_head()?;
        let until_close = !matches!(head.status(), 100..200 | 204 | 304);
        if until_close { self.wire.try_body(head, true) } else { self.wire.try_body(bodiless(head), false) }
    }

    /// The next response, which is known to have a head only.
    pub fn response_to_head(&mut self) -> Head {
        self.wire.head()
    }

    /// The head of the next response; its body follows by [`Client::body_of`] or by hand.
    pub fn response_head(&mut self) -> Head {
        self.wire.head()
    }

    /// The body behind a head that was read.
    pub fn body_of(&mut self, head: Head) -> Result<Message, Cut> {
        self.wire.try_body(head, true)
    }

    /// Resets the connection.
    pub fn reset(self) {
        self.wire.reset();
    }

    /// The socket, for another protocol.
    pub fn into_socket(self) -> Socket {
        self.wire.into_socket()
    }

    /// The next response must be `status` with an empty body; it is returned.
    pub fn expect_empty(&mut self, status: u16) -> Message {
        let response = self.response();
        assert_eq!((response.status(), response.text().as_str()), (status, ""), "the answer {response:?}");
        response
    }

    /// The next response must be `status` with an empty body, and then the end: what a refused message gets.
    pub fn expect_rejected(&mut self, status: u16) -> Message {
        let response = self.expect_empty(status);
        assert_eq!(response.list("connection"), ["close"], "a refused message closes its connection: {response:?}");
        self.wire.expect_end();
        response
    }

    /// The next response must be hawkey's own for a fault, a late upstream or a missing route, the connection kept.
    pub fn expect_own_answer(&mut self, status: u16) {
        let response = self.expect_empty(status);
        assert_eq!(response.field("content-type"), Some(super::HTML), "{response:?}");
        assert_eq!(response.field("content-length"), Some("0"), "{response:?}");
        assert_eq!(response.field("connection"), None, "the connection is kept: {response:?}");
    }
}

/// A response whose length, if any, speaks of another response (RFC 9110, 8.6).
fn bodiless(mut head: Head) -> Head {
    head.fields.retain(|(name, _)| !name.eq_ignore_ascii_case("content-length"));
    head
}

impl Deref for Client {
    type Target = Wire;

    fn deref(&self) -> &Wire {
        &self.wire
    }
}

impl DerefMut for Client {
    fn deref_mut(&mut self) -> &mut Wire {
        &mut self.wire
    }
}
