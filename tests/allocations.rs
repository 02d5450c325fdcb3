//! The hot path allocates nothing: messages of a tunnel, and requests on kept connections.
//!
//! Allocations are counted in the server's own thread, in two runs that differ in nothing but the number of operations.

use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Mutex;
use std::sync::mpsc::channel;
use std::thread;

use hawkey::proxy::policy::Address;
use hawkey::{Config, Server};

/// Operations before the count begins to matter: tables, pools and the kernel's buffers have found their sizes then.
const WARM_UP: usize = 200;
const OPERATIONS: usize = 10_000;
/// Who is faster in the beginning and in the end decides about a few allocations: no attempt may find more than these, and of so many one is
/// to find none.
const BY_CHANCE: u64 = 16;
const ATTEMPTS: usize = 5;

const GET: &str = "GET /hello?name=value HTTP/1.1\r\nHost: localhost:8080\r\nUser-Agent: test\r\nAccept: */*\r\n";
const ANSWER: &[u8] =
    b"HTTP/1.1 200 OK\r\nServer: test\r\nContent-Type: text/plain\r\nContent-Length: 12\r\n\r\nhello, world";
const CHUNKED_POST: &str =
    "POST /form HTTP/1.1\r\nHost: localhost:8080\r\nTransfer-Encoding: chunked\r\n\r\n3\r\na=b\r\n0\r\n\r\n";
const CHUNKED_ANSWER: &[u8] =
    b"HTTP/1.1 200 OK\r\nServer: test\r\nTransfer-Encoding: Chunked\r\n\r\nc\r\nhello, world\r\n0\r\n\r\n";
const HANDSHAKE: &[u8] = b"GET /tunnel HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
const SWITCHING: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

#[test]
fn messages_of_a_tunnel_allocate_nothing() {
    expect_none("a message", |address, messages| {
        let mut client = TcpStream::connect(address).expect("hawkey accepts");
        client.write_all(HANDSHAKE).expect("hawkey takes the handshake");
        read_behind(&mut client, b"\r\n\r\n");
        for _ in 0..messages {
            let mut echo = [0; 32];
            client.write_all(&[b'x'; 32]).expect("hawkey takes the message");
            client.read_exact(&mut echo).expect("the message comes back");
            assert_eq!(echo, [b'x'; 32]);
        }
    });
}

#[test]
fn requests_on_kept_connections_allocate_nothing() {
    expect_none("a GET", |address, requests| ask(address, requests, &get_with_cookie(1), ANSWER));
}

#[test]
fn requests_with_cookies_allocate_nothing() {
    expect_none("a GET with cookies", |address, requests| ask(address, requests, &get_with_cookie(1_500), ANSWER));
}

#[test]
fn bodies_in_chunks_allocate_nothing() {
    expect_none("a POST in chunks", |address, requests| ask(address, requests, CHUNKED_POST, CHUNKED_ANSWER));
}

/// A request with a cookie of so many bytes.
fn get_with_cookie(bytes: usize) -> String {
    format!("{GET}Cookie: {}\r\n\r\n", "c".repeat(bytes))
}

/// Asks for so many answers. Of each, the body comes as it is.
fn ask(address: SocketAddr, requests: usize, request: &str, answer: &[u8]) {
    let head_bytes = answer.windows(4).position(|end| end == b"\r\n\r\n").expect("a head") + 4;
    let mut clients = [(); 4].map(|()| TcpStream::connect(address).expect("hawkey accepts"));
    for client in (0..clients.len()).cycle().take(requests) {
        clients[client].write_all(request.as_bytes()).expect("hawkey takes the request");
        read_behind(&mut clients[client], &answer[head_bytes..]);
    }
}

/// Runs `operate` with two numbers of operations, which must not differ in what they allocate.
fn expect_none(what: &str, operate: fn(SocketAddr, usize)) {
    log_to_memory();
    let mut runs = Vec::new();
    let is_met = (0..ATTEMPTS).any(|_| {
        let (few, many) = (allocations(operate, WARM_UP), allocations(operate, WARM_UP + OPERATIONS));
        assert!(many <= few + BY_CHANCE, "{what}: {few} with {WARM_UP} operations, {many} with {OPERATIONS} more");
        runs.push((few, many));
        many <= few
    });
    println!("{what}: allocations in all with {WARM_UP} operations, and with {OPERATIONS} more: {runs:?}");
    assert!(is_met, "{what}: expected no more for {OPERATIONS} operations more than {WARM_UP}, came {runs:?}");
}

/// What a server allocates from its first turn to its last.
fn allocations(operate: fn(SocketAddr, usize), operations: usize) -> u64 {
    let origin = TcpListener::bind("127.0.0.1:0").expect("the kernel gives a port");
    let upstream = origin.local_addr().expect("it has an address").to_string();
    thread::spawn(move || {
        origin.incoming().for_each(|stream| drop(thread::spawn(|| answer(stream.expect("accepted")))))
    });
    let (tell, told) = channel();
    let running = thread::spawn(move || {
        let config = Config::new().listen("127.0.0.1:0").and_then(|config| config.route("/", [upstream.as_str()]));
        let server = Server::bind(config.expect("the configuration is sound")).expect("the kernel gives a port");
        let Address::Tcp(address) = server.addresses()[0] else { panic!("a TCP listener was asked for") };
        tell.send((address, server.handle())).expect("the test waits");
        allocation_counter::measure(move || server.run().expect("hawkey runs")).count_total
    });
    let (address, handle) = told.recv().expect("hawkey starts");
    operate(address, operations);
    handle.stop().expect("hawkey can be stopped");
    running.join().expect("hawkey does not panic")
}

/// Answers requests, and echoes what comes behind a handshake.
fn answer(mut stream: TcpStream) {
    let mut bytes = [0; 4096];
    let mut is_tunnel = false;
    while let Ok(n @ 1..) = stream.read(&mut bytes) {
        let request = &bytes[..n];
        let says = match is_tunnel {
            true => request,
            false if request.starts_with(b"GET /tunnel") => {
                is_tunnel = true;
                SWITCHING
            }
            false if request.starts_with(b"POST") => CHUNKED_ANSWER,
            false => ANSWER,
        };
        if stream.write_all(says).is_err() {
            return;
        }
    }
}

fn read_behind(stream: &mut TcpStream, end: &[u8]) {
    let (mut came, mut bytes) = (Vec::new(), [0; 4096]);
    while !came.ends_with(end) {
        let n = stream.read(&mut bytes).expect("hawkey answers");
        assert!(n > 0, "an answer, and not {:?}", String::from_utf8_lossy(&came));
        came.extend_from_slice(&bytes[..n]);
    }
}

/// The log is on, and each line is formatted into the same memory: what a logger does with it is not hawkey's path.
fn log_to_memory() {
    struct Memory(Mutex<String>);

    impl log::Log for Memory {
        fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
            metadata.level() <= log::Level::Info
        }

        fn log(&self, record: &log::Record<'_>) {
            if self.enabled(record.metadata()) {
                let mut line = self.0.lock().expect("nobody panics while logging");
                line.clear();
                let _ = write!(line, "{}", record.args());
            }
        }

        fn flush(&self) {}
    }

    static MEMORY: Memory = Memory(Mutex::new(String::new()));
    // Each test asks for it.
    let _ = log::set_logger(&MEMORY);
    log::set_max_level(log::LevelFilter::Info);
}
