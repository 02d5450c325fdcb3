//! Memory: docs/limits.md says what a connection may cost; a real process is held to it.
//!
//! What is measured is the memory that the process has of its own (RssAnon), so the tables' growth and the allocator's rounding are in
//! it. The process has always served a connection of the kind before, so the buffers that it keeps for the next turn are there already.
//! `cargo test --test memory -- --nocapture` prints the figures.

mod support;

use std::io::{ErrorKind, Write as _};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use support::*;

/// Connections of one kind at once.
const CROWD: usize = 2_000;
/// Bytes of an idle connection, with all that the tables take to grow.
const IDLE_BYTES_MAX: u64 = 256;
/// Bytes that a stalled reader may cost: one direction, and one only.
const STALLED_BYTES_MAX: u64 = 128 * 1024;
/// The same of a client that does all that docs/limits.md counts: places in the tables, an exchange, its log text and two flows.
const WORST_BYTES_MAX: u64 = 232 + 256 + (4 * 16 + 3) * 1024 + 2 * (80 + (64 + 16 + 2 * 8 + 2) * 1024 + 17 * 100);
/// Readers that stall at once.
const STALLED: usize = 8;
/// What a stalled reader is offered.
const OFFERED_BYTES: usize = 1 << 30;
/// Connections that come and go, unless `HAWKEY_CONNECTIONS` says another number.
const VISITS: usize = 20_000;
/// By how much memory may differ behind them: pages that the allocator keeps, and log lines that waited.
const LEFT_BYTES_MAX: u64 = 256 * 1024;
/// How many of them are there at once.
const BATCH: usize = 200;
/// What this process needs for both ends of its crowds.
const DESCRIPTORS: u64 = 6 * CROWD as u64;

#[test]
fn an_idle_client_costs_a_place_in_the_tables() {
    raise_descriptor_limit(DESCRIPTORS);
    let origin = Origin::saying("ok");
    let proxy = Proxy::to(&origin);
    let ask = || {
        let mut client = Client::connect(&proxy);
        assert_eq!(client.get("/").text(), "ok");
        client
    };
    let _first = ask();
    let before = proxy.memory();
    let _crowd: Vec<Client> = (0..CROWD).map(|_| ask()).collect();
    expect_cost("an idle client", each(&proxy, before, CROWD), IDLE_BYTES_MAX);
}

#[test]
fn an_idle_tunnel_costs_a_place_in_the_tables() {
    raise_descriptor_limit(DESCRIPTORS);
    let origin = Origin::by_hand();
    let proxy = Proxy::to(&origin);
    let open = || {
        let (mut client, mut upstream) = tunnel(&proxy, &origin);
        client.send("up");
        upstream.expect("up");
        upstream.send("down");
        client.expect("down");
        (client, upstream)
    };
    let _first = open();
    let before = proxy.memory();
    let _crowd: Vec<_> = (0..CROWD).map(|_| open()).collect();
    expect_cost("an idle tunnel", each(&proxy, before, CROWD), IDLE_BYTES_MAX);
}

#[test]
fn half_a_head_costs_what_arrived_and_little_more() {
    const LENGTHS: [usize; 5] = [1, 40, 400, 2_000, 8_000];
    const ARRIVED: usize = (1 + 40 + 400 + 2_000 + 8_000) / LENGTHS.len();
    raise_descriptor_limit(DESCRIPTORS);
    let origin = Origin::saying("ok");
    let proxy = Proxy::with("[timeouts]\nhead = \"5m\"", &origin);
    let head = format!("GET / HTTP/1.1\r\nHost: example.com\r\nX-Long: {}", "x".repeat(8_000));
    let gather = |count: usize| {
        let crowd: Vec<Client> = (0..count).map(|_| Client::connect(&proxy)).collect();
        // In two pieces, so that what waits is moved once.
        for piece in 0..2 {
            for (client, length) in crowd.iter().zip(LENGTHS.into_iter().cycle()) {
                let (first, second) = head[..length].split_at(length / 2);
                client.send(if piece == 0 { first } else { second });
            }
            see_all(&proxy);
        }
        crowd
    };
    drop(gather(LENGTHS.len()));
    let before = proxy.memory();
    for round in ["at first", "and once more"] {
        let crowd = gather(CROWD);
        let bytes = each(&proxy, before, CROWD);
        assert!(bytes >= ARRIVED as u64, "{ARRIVED} bytes of a head cannot wait in {bytes}");
        expect_cost(&format!("half a head of {ARRIVED} bytes, {round}"), bytes, ARRIVED as u64 + 1024);
        let descriptors = proxy.descriptors();
        drop(crowd);
        eventually("the crowd is gone", || proxy.descriptors() + CROWD <= descriptors);
    }
}

#[test]
fn a_stalled_reader_of_a_response_costs_one_read() {
    expect_stalled("a stalled reader of a response", STALLED_BYTES_MAX, |proxy, origin| {
        let (client, upstream) = exchange(proxy, origin, request("GET /", &[], ""));
        upstream.send(endless_response());
        let offered = upstream.writer();
        (client, upstream, offered)
    });
}

#[test]
fn a_stalled_reader_of_a_request_costs_one_read() {
    let length = format!("Content-Length: {OFFERED_BYTES}");
    expect_stalled("a stalled reader of a request", STALLED_BYTES_MAX, |proxy, origin| {
        let (client, upstream) = exchange(proxy, origin, request("POST /", &[&length], ""));
        let offered = client.writer();
        (client, upstream, offered)
    });
}

#[test]
fn a_stalled_reader_of_a_tunnel_costs_one_read() {
    expect_stalled("a client that stalls a tunnel", STALLED_BYTES_MAX, |proxy, origin| {
        let (client, upstream) = tunnel(proxy, origin);
        let offered = upstream.writer();
        (client, upstream, offered)
    });
    expect_stalled("an upstream that stalls a tunnel", STALLED_BYTES_MAX, |proxy, origin| {
        let (client, upstream) = tunnel(proxy, origin);
        let offered = client.writer();
        (client, upstream, offered)
    });
}

#[test]
fn the_worst_of_clients_costs_what_the_limits_say() {
    // Every `|` leaves as three bytes, and is three in the log.
    let target = format!("GET /{}", "|".repeat(8_000));
    let ahead = request("GET /next", &[], "").repeat(4_000);
    expect_stalled("the worst of clients", WORST_BYTES_MAX, |proxy, origin| {
        let (client, upstream) = exchange(proxy, origin, [request(&target, &[], ""), ahead.clone()].concat());
        upstream.send(endless_response());
        let offered = upstream.writer();
        (client, upstream, offered)
    });
}

#[test]
fn connections_that_have_come_and_gone_leave_nothing_behind() {
    const IDLE_UPSTREAMS: usize = 8;
    raise_descriptor_limit(DESCRIPTORS);
    let visits = std::env::var("HAWKEY_CONNECTIONS").map_or(VISITS, |text| text.parse().expect("a number"));
    let origin = Origin::running(serve);
    let proxy = Proxy::with(&format!("[limits]\nidle_upstreams = {IDLE_UPSTREAMS}"), &origin);
    let descriptors = proxy.descriptors() + IDLE_UPSTREAMS;
    let address = proxy.address();
    let settle = || {
        eventually("every connection is gone", || proxy.descriptors() <= descriptors);
        proxy.memory()
    };

    // What the busiest moment needs is kept for the next.
    (0..20).for_each(|_| visit(address));
    let before = settle();
    let begun = Instant::now();
    (0..visits / BATCH).for_each(|_| visit(address));
    let after = settle();
    println!(
        "{visits} connections in {:?}: {before} bytes before, {after} behind, {} descriptors",
        begun.elapsed(),
        proxy.descriptors()
    );
    assert!(after <= before + LEFT_BYTES_MAX, "hawkey grew from {before} to {after} bytes with {visits} connections");
}

/// A request of these bytes whose head the upstream has read.
fn exchange(proxy: &Proxy, origin: &Origin, request: Vec<u8>) -> (Client, Connection) {
    let client = Client::connect(proxy);
    client.send(request);
    let mut upstream = origin.accept();
    upstream.head();
    (client, upstream)
}

fn endless_response() -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {OFFERED_BYTES}\r\n\r\n")
}

/// What it costs if nobody reads what comes into the connections that `open` makes: both ends, and the one that offers.
fn expect_stalled(kind: &str, most: u64, open: impl Fn(&Proxy, &Origin) -> (Client, Connection, Wire)) {
    let origin = Origin::by_hand();
    let proxy = Proxy::to(&origin);
    let first = open(&proxy, &origin);
    offer(kind, &[&first.2]);
    let before = proxy.memory();
    let others: Vec<_> = (0..STALLED).map(|_| open(&proxy, &origin)).collect();
    offer(kind, &others.iter().map(|(_, _, offered)| offered).collect::<Vec<_>>());
    expect_cost(kind, each(&proxy, before, STALLED), most);
}

/// A batch of clients, all there at once, and gone in different ways.
fn visit(address: SocketAddr) {
    let mut clients: Vec<Client> = (0..BATCH).map(|_| Client::to(address)).collect();
    for (number, client) in clients.iter().enumerate() {
        match number % 6 {
            0 | 1 => client.ask("GET /small", &[], ""),
            2 => client.ask("GET /begun", &[], ""),
            3 => client.ask("GET /tunnel", &HANDSHAKE, ""),
            4 => client.send("GET /half HTTP/1.1\r\nHost: exam"),
            _ => {}
        }
    }
    for (number, client) in clients.iter_mut().enumerate() {
        match number % 6 {
            0 | 1 => assert_eq!(client.response().text(), "ok"),
            2 => {
                assert_eq!(client.head().status(), 200);
                client.expect("begun");
            }
            3 => {
                assert_eq!(client.head().status(), 101);
                client.send("echo");
                client.expect("echo");
            }
            _ => {}
        }
    }
    for (number, client) in clients.into_iter().enumerate() {
        // Of each kind, half in order and half with a reset.
        if number / 6 % 2 == 0 {
            client.reset();
        }
    }
}

/// The upstream that [`visit`] is made for.
fn serve(mut connection: Connection) {
    while let Ok(request) = connection.try_request() {
        let sent = match request.target() {
            "/tunnel" => {
                let echoed = connection.try_send(SWITCHING).is_ok() && connection.bytes(4) == b"echo";
                assert!(echoed && connection.try_send("echo").is_ok(), "a tunnel is open until its client has gone");
                connection.rest();
                return;
            }
            "/begun" => {
                // The client goes while it waits for the rest.
                let begun = connection.try_send("HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\nbegun");
                assert!(begun.is_ok(), "a response has its client until it has begun");
                connection.rest();
                return;
            }
            _ => connection.try_send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"),
        };
        if sent.is_err() {
            return;
        }
    }
}

/// Sends to each of `wires` as much of [`OFFERED_BYTES`] as it takes, until none takes any more.
fn offer(kind: &str, wires: &[&Wire]) {
    let piece = vec![b'x'; 1 << 20];
    let mut taken = vec![0; wires.len()];
    wires.iter().for_each(|wire| wire.socket().set_nonblocking(true).expect("a socket can be made non-blocking"));
    let mut last = Instant::now();
    while last.elapsed() < A_WHILE {
        std::thread::sleep(Duration::from_millis(1));
        for (wire, taken) in wires.iter().zip(&mut taken) {
            match wire.socket().write(&piece) {
                Ok(count) => {
                    *taken += count;
                    last = Instant::now();
                }
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock, "{kind}: {error}"),
            }
            assert!(*taken < OFFERED_BYTES / 16, "{kind}: {taken} bytes have left although nobody reads");
        }
    }
    println!("{kind}: the kernel took {taken:?} bytes");
}

/// Waits until hawkey has seen all that was sent before: sockets are served in the order in which they had something to tell.
fn see_all(proxy: &Proxy) {
    for _ in 0..2 {
        let mut client = Client::connect(proxy);
        client.ask("OPTIONS /", &["Max-Forwards: 0"], "");
        client.expect_empty(200);
    }
}

/// By how many bytes hawkey has grown since `before`, for each of `count`.
fn each(proxy: &Proxy, before: u64, count: usize) -> u64 {
    proxy.memory().saturating_sub(before) / count as u64
}

fn expect_cost(kind: &str, bytes: u64, most: u64) {
    println!("{kind}: {bytes} bytes");
    assert!(bytes <= most, "{kind} costs {bytes} bytes, and may cost {most}");
}
