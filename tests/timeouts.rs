//! Waiting: how long hawkey waits for whom, and what the other side gets when the wait is over.

mod support;

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};
use support::*;

/// By how much a limit may be overrun on a busy machine. It may never be underrun.
const LATE: Duration = Duration::from_millis(400);

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// What `action` waits for comes at the limit, at most 100 ms late.
fn at_the_limit(limit: Duration, action: impl FnMut()) {
    mostly_timed(limit - ms(10), limit + ms(100), action);
}

#[test]
fn a_handshake_without_an_answer_is_504_after_five_seconds() {
    let origin = Origin::by_hand();
    let proxy = Proxy::to(&origin);
    let mut client = Client::connect(&proxy);
    client.ask("GET /chat", &HANDSHAKE, "");
    let mut upstream = timed(ms(4900), ms(5500), || {
        let mut upstream = origin.accept();
        upstream.request();
        client.expect_own_answer(504);
        upstream
    });
    upstream.expect_gone();
}

#[test]
fn the_wait_for_a_handshake_is_a_setting() {
    let origin = Origin::by_hand();
    let proxy = Proxy::with("[timeouts]\nupgrade = \"300ms\"", &origin);
    let mut client = Client::connect(&proxy);
    at_the_limit(ms(300), || {
        client.ask("GET /chat", &HANDSHAKE, "");
        client.expect_own_answer(504);
    });
}

#[test]
fn a_handshake_whose_answer_stops_in_the_head_is_504() {
    let origin = Origin::by_hand();
    let proxy = Proxy::with("[timeouts]\nupgrade = \"300ms\"", &origin);
    let mut client = Client::connect(&proxy);
    at_the_limit(ms(300), || {
        client.ask("GET /chat", &HANDSHAKE, "");
        let mut upstream = origin.accept();
        upstream.request();
        upstream.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upg");
        client.expect_own_answer(504);
        upstream.expect_gone();
    });
}

#[test]
fn after_a_504_the_connection_serves_the_next_request() {
    let origin = Origin::answering(|request| match request.target() {
        "/late" => {
            std::thread::sleep(ms(1800));
            Answer::ok("too late")
        }
        _ => Answer::ok("in time"),
    });
    let proxy = Proxy::with("[timeouts]\nresponse = \"1500ms\"", &origin);
    let mut client = Client::connect(&proxy);
    client.ask("GET /late", &[], "");
    client.expect_own_answer(504);
    assert_eq!(client.get("/next").text(), "in time");
    client.expect_silence(ms(500));
}

#[test]
fn a_response_that_does_not_begin_is_504_at_the_limit() {
    let origin = Origin::by_hand();
    let proxy = Proxy::with("[timeouts]\nresponse = \"300ms\"", &origin);
    let mut client = Client::connect(&proxy);
    at_the_limit(ms(300), || {
        client.ask("GET /", &[], "");
        let mut upstream = origin.accept();
        upstream.request();
        client.expect_own_answer(504);
        upstream.expect_gone();
    });
}

#[test]
fn a_response_that_stops_in_the_head_is_504_at_the_limit() {
    let origin = Origin::by_hand();
    let proxy = Proxy::with("[timeouts]\nresponse = \"300ms\"", &origin);
    let mut client = Client::connect(&proxy);
    at_the_limit(ms(300), || {
        client.ask("GET /", &[], "");
        let mut upstream = origin.accept();
        upstream.request();
        upstream.send("HTTP/1.1 200 OK\r\nContent-");
        client.expect_own_answer(504);
        upstream.expect_gone();
    });
}

#[test]
fn the_wait_for_a_response_begins_when_the_request_has_been_sent_whole() {
    let origin = Origin::by_hand();
    let proxy = Proxy::with("[timeouts]\nresponse = \"1500ms\"", &origin);
    let mut client = Client::connect(&proxy);
    client.ask("POST /slow", &["Content-Length: 6"], "");
    let mut upstream = origin.accept();
    for byte in ["u", "p", "l", "o", "a", "d"] {
        std::thread::sleep(ms(300));
        client.send(byte);
    }
    assert_eq!(upstream.request().text(), "upload");
    upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    client.expect_empty(200);
}

#[test]
fn a_response_that_stops_in_the_body_is_cut_with_a_reset() {
    for length in ["Content-Length: 10", "Transfer-Encoding: chunked"] {
        let origin = Origin::by_hand();
        let proxy = Proxy::with("[timeouts]\nidle = \"300ms\"", &origin);
        at_the_limit(ms(300), || {
            let mut client = Client::connect(&proxy);
            client.ask("GET /", &[], "");
            let mut upstream = origin.accept();
            upstream.request();
            upstream.send(format!("HTTP/1.1 200 OK\r\n{length}\r\n\r\n5\r\nhello"));
            let head = client.response_head();
            let cut = client.body_of(head).expect_err("the body never ends");
            assert_eq!(cut.stop, Stop::Reset, "{length}");
            upstream.expect_gone();
        });
    }
}

#[test]
fn the_wait_between_bytes_of_a_body_begins_anew_with_each() {
    let origin = Origin::by_hand();
    let proxy = Proxy::with("[timeouts]\nidle = \"1500ms\"", &origin);
    let mut client = Client::connect(&proxy);
    client.ask("GET /", &[], "");
    let mut upstream = origin.accept();
    upstream.request();
    upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n");
    for byte in ["s", "l", "o", "w", "l", "y"] {
        std::thread::sleep(ms(300));
        upstream.send(byte);
    }
    assert_eq!(client.response().text(), "slowly");
}

#[test]
fn an_upload_that_stops_is_ended_and_never_completed() {
    let origin = Origin::by_hand();
    let proxy = Proxy::with("[timeouts]\nidle = \"300ms\"", &origin);
    let mut client = Client::connect(&proxy);
    client.ask("POST /", &["Content-Length: 10"], "half");
    let mut upstream = origin.accept();
    let cut = upstream.try_request().expect_err("the body never comes whole");
    assert_ne!(cut.stop, Stop::Silence);
    let (_, stop) = client.rest();
    assert_ne!(stop, Stop::Silence, "the client is told as well");
}

#[test]
fn a_head_that_is_too_slow_is_408_however_its_bytes_come() {
    let origin = Origin::by_hand();
    let proxy = Proxy::with("[timeouts]\nhead = \"300ms\"", &origin);
    let mut stalled = Client::connect(&proxy);
    timed(ms(250), ms(300) + LATE, || {
        stalled.send("GET / HTTP/1.1\r\nHo");
        stalled.expect_rejected(408);
    });

    let mut trickling = Client::connect(&proxy);
    let watch = Watch::start();
    let writer = trickling.writer();
    let trickle = std::thread::spawn(move || {
        // A byte every 20 ms moves no limit: it is absolute.
        for byte in request("GET /trickle", &["X-Long: it goes on and on and on and on"], "") {
            if writer.try_send([byte]).is_err() {
                return;
            }
            std::thread::sleep(ms(20));
        }
    });
    let response = trickling.response();
    assert_eq!(response.status(), 408);
    watch.expect(ms(290), ms(300) + LATE);
    trickle.join().unwrap();
    origin.expect_no_connection(Duration::ZERO);
}

#[test]
fn a_connection_that_never_sends_anything_is_ended() {
    let origin = Origin::by_hand();
    let proxy = Proxy::with("[timeouts]\nhead = \"300ms\"\nkeep_alive = \"300ms\"", &origin);
    let (_, stop) = timed(ms(290), ms(300) + LATE, || Client::connect(&proxy).rest());
    assert_eq!(stop, Stop::End);
}

#[test]
fn an_idle_client_connection_is_closed_after_keep_alive() {
    let origin = Origin::saying("hello");
    let proxy = Proxy::with("[timeouts]\nkeep_alive = \"300ms\"", &origin);
    let mut client = Client::connect(&proxy);
    timed(ms(290), ms(300) + LATE, || {
        assert_eq!(client.get("/").text(), "hello");
        client.expect_end();
    });
}

#[test]
fn a_kept_connection_serves_requests_with_pauses_below_keep_alive() {
    let origin = Origin::saying("hello");
    let proxy = Proxy::with("[timeouts]\nkeep_alive = \"1500ms\"\nhead = \"200ms\"", &origin);
    let mut client = Client::connect(&proxy);
    for _ in 0..6 {
        assert_eq!(client.get("/").text(), "hello");
        std::thread::sleep(ms(300));
    }
}

#[test]
fn a_refused_client_that_does_not_close_is_let_go_after_linger() {
    let origin = Origin::by_hand();
    let proxy = Proxy::with("[timeouts]\nlinger = \"300ms\"", &origin);
    let before = proxy.descriptors();
    let mut client = Client::connect(&proxy);
    client.send("nonsense\r\n\r\n");
    client.expect_rejected(400);
    eventually("hawkey lets go of the connection", || proxy.descriptors() == before);
}

#[test]
fn a_connection_that_the_upstream_does_not_take_is_504_at_the_connect_limit() {
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    listener.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
    listener.listen(0).unwrap();
    let address = listener.local_addr().unwrap();
    // With its queue full the kernel swallows what asks for a connection, as a machine that is gone does.
    let waiting: Vec<Socket> = (0..4)
        .map(|_| {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            socket.set_nonblocking(true).unwrap();
            let _ = socket.connect(&address);
            socket
        })
        .collect();
    let to = address.as_socket().unwrap();
    let proxy = Proxy::start(&format!("[[route]]\nmatch = \"/\"\nto = \"{to}\"\n[timeouts]\nconnect = \"300ms\""));
    let mut client = Client::connect(&proxy);
    at_the_limit(ms(300), || {
        client.ask("GET /", &[], "");
        client.expect_own_answer(504);
    });
    drop(waiting);
}

#[test]
fn a_silent_tunnel_ends_at_its_limit() {
    let origin = Origin::by_hand();
    let proxy = Proxy::with("[timeouts]\ntunnel = \"400ms\"", &origin);
    timed(ms(390), ms(400) + LATE, || {
        let (mut client, mut upstream) = tunnel(&proxy, &origin);
        let (bytes, stop) = client.rest();
        assert!(bytes.is_empty() && stop != Stop::Silence, "{bytes:?} {stop:?}");
        let (bytes, stop) = upstream.rest();
        assert!(bytes.is_empty() && stop != Stop::Silence, "{bytes:?} {stop:?}");
    });
}

#[test]
fn bytes_in_either_direction_keep_a_tunnel_open() {
    let origin = Origin::by_hand();
    let proxy = Proxy::with("[timeouts]\ntunnel = \"1500ms\"", &origin);
    let (mut client, mut upstream) = tunnel(&proxy, &origin);
    for _ in 0..6 {
        std::thread::sleep(ms(300));
        client.send("ping");
        upstream.expect("ping");
    }
    for _ in 0..6 {
        std::thread::sleep(ms(300));
        upstream.send("pong");
        client.expect("pong");
    }
    timed(ms(1490), ms(1500) + LATE, || {
        upstream.send("pong");
        client.expect("pong");
        client.expect_gone();
    });
}

#[test]
fn a_tunnel_whose_limit_is_off_stays_open() {
    let origin = Origin::by_hand();
    let proxy = Proxy::with(
        "[timeouts]\ntunnel = \"off\"\nidle = \"700ms\"\nkeep_alive = \"700ms\"\nresponse = \"700ms\"",
        &origin,
    );
    let (mut client, upstream) = tunnel(&proxy, &origin);
    client.expect_silence(ms(1100));
    upstream.send("still there");
    client.expect("still there");
}

#[test]
fn a_response_whose_limit_is_off_may_take_its_time() {
    let origin = Origin::by_hand();
    let proxy = Proxy::with(
        "[timeouts]\nresponse = \"off\"\nidle = \"off\"\nkeep_alive = \"700ms\"\nupgrade = \"700ms\"",
        &origin,
    );
    let mut client = Client::connect(&proxy);
    client.ask("GET /poll", &[], "");
    let mut upstream = origin.accept();
    upstream.request();
    client.expect_silence(ms(1100));
    upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n");
    client.response_head();
    client.expect_silence(ms(1100));
    upstream.send("news");
    client.expect("news");
}

#[test]
fn deadlines_that_were_overtaken_wake_no_idle_process() {
    let origin = Origin::by_hand();
    let proxy = Proxy::with("[timeouts]\nhead = \"5s\"\nupgrade = \"500ms\"\n", &origin);
    let begun = Instant::now();
    // Their heads would be late at many different times.
    let tunnels: Vec<_> = (0..40)
        .map(|_| {
            std::thread::sleep(ms(10));
            tunnel(&proxy, &origin)
        })
        .collect();
    let opened = begun.elapsed();
    // The limits of their handshakes are looked at once each.
    eventually("the process sleeps", || {
        let before = proxy.wake_ups();
        std::thread::sleep(ms(600));
        proxy.wake_ups() == before
    });
    let before = proxy.wake_ups();
    assert!(begun.elapsed() < ms(5000), "no head is late yet, or there is nothing to see");
    std::thread::sleep((ms(5300) + opened).saturating_sub(begun.elapsed()));
    let wakes = proxy.wake_ups() - before;
    assert_eq!(wakes, 0, "wake-ups for what has become of the deadlines of {} tunnels", tunnels.len());
}
