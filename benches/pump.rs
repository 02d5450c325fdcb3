//! What a session costs in memory, without a socket: a GET from its first byte to the last of its answer, and a message of a tunnel on
//! both of its ways. `cargo bench --bench pump`

use std::net::{IpAddr, Ipv4Addr};
use std::rc::Rc;

use divan::Bencher;
use divan::counter::BytesCount;
use hawkey::Config;
use hawkey::proxy::moment::Moment;
use hawkey::proxy::policy::{ClientAddress, UpstreamId};
use hawkey::proxy::session::{Session, Step};
use hawkey::proxy::side::Side;
use hawkey::proxy::turn::Turn;

const CLIENT: ClientAddress = ClientAddress::Tcp(IpAddr::V4(Ipv4Addr::new(203, 0, 113, 7)), 50_000);

const GET: &[u8] = b"GET /hello HTTP/1.1\r\nHost: localhost:8080\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n";
const ANSWER: &[u8] =
    b"HTTP/1.1 200 OK\r\nServer: bench\r\nContent-Type: text/plain\r\nContent-Length: 12\r\n\r\nhello, world";
const HANDSHAKE: &[u8] = b"GET /chat HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
const SWITCHING: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

fn main() {
    divan::main();
}

#[divan::bench]
fn get_on_kept_connections(bencher: Bencher) {
    let (mut session, mut turn) = session();
    exchange(&mut session, &mut turn, GET, ANSWER, false);
    bencher.bench_local(|| exchange(&mut session, &mut turn, GET, ANSWER, true));
}

/// By bytes; in flows, as bytes go that have to wait, and straight.
#[divan::bench(args = [32, 16 * 1024, 64 * 1024])]
fn message_through_flows(bencher: Bencher, bytes: usize) {
    let (mut session, mut turn) = tunnel();
    let message = vec![b'x'; bytes];
    bencher.counter(BytesCount::new(bytes)).bench_local(|| {
        arrive(&mut session, Side::Client, &message, &mut turn);
        let sent = leave(&mut session, Side::Upstream, &mut turn);
        session.settle(&mut turn);
        sent
    });
}

#[divan::bench(args = [32, 16 * 1024, 64 * 1024])]
fn message_straight(bencher: Bencher, bytes: usize) {
    let (mut session, mut turn) = tunnel();
    let message = vec![b'x'; bytes];
    bencher.counter(BytesCount::new(bytes)).bench_local(|| {
        assert!(session.is_straight(Side::Client));
        turn.pool.straight()[..bytes].copy_from_slice(&message);
        session.passed(Side::Client, bytes, bytes, &mut turn);
    });
}

fn session() -> (Session, Turn) {
    let config = Config::new().listen("127.0.0.1:0").and_then(|config| config.route("/", ["127.0.0.1:9"]));
    let policy = config.expect("the configuration is sound").policy;
    let turn = Turn::new(Moment::FIRST, Rc::new(policy));
    (Session::new(1, CLIENT, &turn), turn)
}

fn tunnel() -> (Session, Turn) {
    let (mut session, mut turn) = session();
    exchange(&mut session, &mut turn, HANDSHAKE, SWITCHING, false);
    assert!(session.is_tunnel(), "the 101 answers the handshake");
    while session.next_step().is_some() {}
    (session, turn)
}

/// A request and its response, as `server::pair` plays them; what left for the client.
fn exchange(session: &mut Session, turn: &mut Turn, request: &[u8], response: &[u8], reused: bool) -> usize {
    arrive(session, Side::Client, request, turn);
    assert_eq!(session.next_step(), Some(Step::Connect), "the request is understood");
    session.connecting(UpstreamId(0), reused, turn);
    leave(session, Side::Upstream, turn);
    session.settle(turn);
    arrive(session, Side::Upstream, response, turn);
    let sent = leave(session, Side::Client, turn);
    session.next_step();
    session.settle(turn);
    sent
}

fn arrive(session: &mut Session, from: Side, bytes: &[u8], turn: &mut Turn) {
    assert!(session.wants_read(from), "bytes of this side are of use");
    session.room(from, turn)[..bytes.len()].copy_from_slice(bytes);
    session.received(from, bytes.len(), turn);
}

fn leave(session: &mut Session, to: Side, turn: &mut Turn) -> usize {
    assert!(session.wants_write(to), "something is to leave");
    let n = session.leaving(to).len();
    session.sent(to, n, turn);
    n
}
