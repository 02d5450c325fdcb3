//! WebSockets: the handshake, the tunnel behind it, and every way in which either ends.

mod support;

use std::mem::MaybeUninit;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Resource, getrlimit};
use socket2::Socket;
use support::*;
use tungstenite::client::IntoClientRequest;
use tungstenite::handshake::client::Response as Handshake;
use tungstenite::handshake::server::{ErrorResponse, Request as Asked, Response as Agreed};
use tungstenite::protocol::frame::coding::{CloseCode, Data, OpCode};
use tungstenite::protocol::frame::{CloseFrame, Frame};
use tungstenite::{Message as Said, WebSocket};

/// An upstream that sends every message back.
fn echo() -> Origin {
    Origin::running(|connection| {
        let Ok(mut socket) = tungstenite::accept(connection.into_socket()) else { return };
        while let Ok(message) = socket.read() {
            if (message.is_text() || message.is_binary()) && socket.send(message).is_err() {
                return;
            }
        }
    })
}

/// A WebSocket through `proxy`.
fn web_socket(proxy: &Proxy) -> WebSocket<Socket> {
    handshake(proxy, "ws://example.com/chat").0
}

fn handshake(proxy: &Proxy, request: impl IntoClientRequest) -> (WebSocket<Socket>, Handshake) {
    let socket = Client::connect(proxy).into_socket();
    tungstenite::client(request, socket).unwrap_or_else(|error| panic!("the handshake failed: {error}"))
}

/// What comes back for a message.
fn echoed(socket: &mut WebSocket<Socket>, message: Said) -> Said {
    socket.send(message).expect("a message can be sent");
    socket.read().expect("a message comes back")
}

// Whole WebSockets, with a client and a server that know nothing of a proxy.

#[test]
fn text_and_binary_messages_come_and_go() {
    let origin = echo();
    let proxy = Proxy::to(&origin);
    let mut socket = web_socket(&proxy);
    for message in
        [Said::text(""), Said::text("hello, wörld"), Said::binary(vec![]), Said::binary(vec![0, 255, 13, 10])]
    {
        assert_eq!(echoed(&mut socket, message.clone()), message);
    }
    for length in [1, 125, 126, 127, 65_535, 65_536, 1_000_000] {
        let message = Said::binary(random_bytes(length as u64, length));
        assert!(echoed(&mut socket, message.clone()) == message, "{length} bytes");
    }
}

#[test]
fn fragmented_messages_arrive_whole() {
    let origin = echo();
    let proxy = Proxy::to(&origin);
    let mut socket = web_socket(&proxy);
    let fragment = |text: &'static str, code, last| Said::Frame(Frame::message(text, OpCode::Data(code), last));
    socket.send(fragment("one, ", Data::Text, false)).unwrap();
    socket.send(fragment("two, ", Data::Continue, false)).unwrap();
    socket.send(Said::Ping("between".into())).unwrap();
    socket.send(fragment("three", Data::Continue, true)).unwrap();
    assert_eq!(socket.read().unwrap(), Said::Pong("between".into()));
    assert_eq!(socket.read().unwrap(), Said::text("one, two, three"));
}

#[test]
fn pings_are_answered_from_both_sides() {
    let origin = Origin::running(|connection| {
        let Ok(mut socket) = tungstenite::accept(connection.into_socket()) else { return };
        socket.send(Said::Ping("upstream asks".into())).unwrap();
        while let Ok(message) = socket.read() {
            if let Said::Pong(bytes) = message {
                socket.send(Said::Binary(bytes)).unwrap();
            }
        }
    });
    let proxy = Proxy::to(&origin);
    let mut socket = web_socket(&proxy);
    assert_eq!(socket.read().unwrap(), Said::Ping("upstream asks".into()));
    assert_eq!(socket.read().unwrap(), Said::binary("upstream asks"));
    assert_eq!(echoed(&mut socket, Said::Ping("client asks".into())), Said::Pong("client asks".into()));
}

#[test]
fn messages_of_16_mib_go_both_ways() {
    let origin = echo();
    let proxy = Proxy::to(&origin);
    let mut socket = web_socket(&proxy);
    let bytes = random_bytes(16, 16 << 20);
    let came = echoed(&mut socket, Said::binary(bytes.clone())).into_data();
    assert_same_bytes(&came, &bytes, "16 MiB there and back");
}

#[test]
fn close_codes_and_reasons_pass_from_the_client_and_from_the_upstream() {
    let frame = CloseFrame { code: CloseCode::Library(4321), reason: "good night".into() };

    let origin = echo();
    let proxy = Proxy::to(&origin);
    let mut socket = web_socket(&proxy);
    socket.close(Some(frame.clone())).unwrap();
    assert_eq!(socket.read().unwrap(), Said::Close(Some(frame.clone())), "the echoed close");
    assert!(matches!(socket.read(), Err(tungstenite::Error::ConnectionClosed)));

    let told = frame.clone();
    let origin = Origin::running(move |connection| {
        let Ok(mut socket) = tungstenite::accept(connection.into_socket()) else { return };
        socket.close(Some(told.clone())).unwrap();
        while socket.read().is_ok() {}
    });
    let proxy = Proxy::to(&origin);
    let mut socket = web_socket(&proxy);
    assert_eq!(socket.read().unwrap(), Said::Close(Some(frame)));
    assert!(matches!(socket.read(), Err(tungstenite::Error::ConnectionClosed)));
    drop(socket);
    proxy.wait_for_log(&["tunnel=closed", "by=upstream"]);
}

#[test]
fn five_hundred_tunnels_are_open_at_once() {
    // Two descriptors a tunnel here, two in hawkey, and room for the other tests of this process.
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let count = usize::try_from(limit.saturating_sub(200) / 2).unwrap().min(500);
    assert!(count >= 100, "a limit of {limit} descriptors is too low to tell anything");
    let origin = echo();
    let proxy = Proxy::to(&origin);
    let before = proxy.memory();
    let mut sockets: Vec<_> = (0..count).map(|_| web_socket(&proxy)).collect();
    for round in 0..3 {
        for (number, socket) in sockets.iter_mut().enumerate() {
            socket.send(Said::text(format!("{round} of {number}"))).unwrap();
        }
        for (number, socket) in sockets.iter_mut().enumerate() {
            assert_eq!(socket.read().unwrap(), Said::text(format!("{round} of {number}")));
        }
    }
    assert_eq!(origin.connections(), count);
    let grown = proxy.memory().saturating_sub(before);
    assert!(grown < 1 << 20, "{count} idle tunnels take {grown} bytes: none may hold a buffer");
}

#[test]
fn a_tunnel_over_unix_sockets() {
    let (listen, origin) = (TempPath::new(".sock"), Origin::unix());
    let config = format!(
        "listen = [\"unix:{}\", \"127.0.0.1:0\"]\n[[route]]\nmatch = \"/\"\nto = \"{origin}\"",
        listen.display()
    );
    let _proxy = Proxy::start(&config);
    let mut client = Client::unix(&listen);
    client.ask("GET /", &HANDSHAKE, "");
    let mut upstream = origin.accept();
    upstream.request();
    upstream.send(SWITCHING);
    assert_eq!(client.head().status(), 101);
    client.send("up");
    upstream.expect("up");
    upstream.send("down");
    client.expect("down");
    client.end();
    upstream.expect_end();
    upstream.send("still");
    client.expect("still");
}

#[test]
fn subprotocol_and_extension_fields_pass_both_ways() {
    let origin = Origin::running(|connection| {
        // What the library's callback is made to return is large; it is the library's choice.
        #[expect(clippy::result_large_err)]
        let agree = |asked: &Asked, mut agreed: Agreed| -> Result<Agreed, ErrorResponse> {
            assert_eq!(asked.headers()["sec-websocket-protocol"], "chat, superchat");
            assert_eq!(asked.headers()["sec-websocket-version"], "13");
            assert_eq!(asked.headers()["x-real-ip"], "127.0.0.1");
            agreed.headers_mut().insert("sec-websocket-protocol", "superchat".parse().unwrap());
            agreed.headers_mut().insert("set-cookie", "a=b".parse().unwrap());
            Ok(agreed)
        };
        let mut socket = tungstenite::accept_hdr(connection.into_socket(), agree).expect("a handshake");
        while socket.read().is_ok() {}
    });
    let proxy = Proxy::to(&origin);
    let mut request = "ws://example.com/chat".into_client_request().unwrap();
    request.headers_mut().insert("sec-websocket-protocol", "chat, superchat".parse().unwrap());
    let (_socket, response) = handshake(&proxy, request);
    assert_eq!(response.headers()["sec-websocket-protocol"], "superchat");
    assert_eq!(response.headers()["set-cookie"], "a=b");
}

#[test]
fn memory_stays_where_it_was_while_a_reader_stalls() {
    const SIZE: usize = 100_000_000;
    let origin = Origin::by_hand();
    let proxy = Proxy::to(&origin);
    let (mut client, mut upstream) = tunnel(&proxy, &origin);
    let before = proxy.memory();
    let body = Arc::new(random_bytes(44, SIZE));
    for direction in ["down", "up"] {
        let (from, to) =
            if direction == "down" { (&mut *upstream, &mut *client) } else { (&mut *client, &mut *upstream) };
        let (writer, bytes) = (from.writer(), Arc::clone(&body));
        let sending = std::thread::spawn(move || writer.send(&*bytes));
        std::thread::sleep(Duration::from_millis(500));
        assert!(!sending.is_finished(), "{direction}: {SIZE} bytes left although nobody reads");
        let grown = proxy.memory().saturating_sub(before);
        assert!(grown < 2 << 20, "{direction}: hawkey grew by {grown} bytes");
        assert_same_bytes(&to.bytes(SIZE), &body, direction);
        sending.join().unwrap();
    }
}

// Step 1 and 2: what is a WebSocket request, and what the upstream gets.

/// The upgrade request as the upstream gets it, if it answers with 101 and a tunnel follows.
fn upgraded(fields: &[&str]) -> Message {
    let origin = Origin::by_hand();
    let proxy = Proxy::to(&origin);
    let mut client = Client::connect(&proxy);
    client.ask("GET /chat?room=1", fields, "");
    let mut upstream = origin.accept();
    let request = upstream.request();
    upstream.send(SWITCHING);
    assert_eq!(client.head().status(), 101, "{fields:?}");
    client.send("up");
    upstream.expect("up");
    upstream.send("down");
    client.expect("down");
    request
}

/// What hawkey forwards for a request that is no WebSocket handshake, whatever it looks like.
fn not_upgraded(method: &str, fields: &[&str]) -> Message {
    let origin = Origin::saying("ordinary");
    let proxy = Proxy::to(&origin);
    let mut client = Client::connect(&proxy);
    client.ask(&format!("{method} /"), fields, "");
    let head = client.response_head();
    assert_eq!(head.status(), 200, "{method} {fields:?}");
    origin.last_request()
}

#[test]
fn options_and_members_may_come_in_any_case_number_and_order() {
    let rest = &HANDSHAKE[2..];
    for (connection, upgrade) in [
        (&["Connection: keep-alive, Upgrade"][..], &["Upgrade: websocket"][..]),
        (&["connection: UPGRADE"], &["upgrade: WebSocket"]),
        (&["Connection: keep-alive", "Connection: x, upgrade"], &["Upgrade: websocket"]),
        (&["Connection: ,Upgrade ,, keep-alive"], &["Upgrade: h2c", "Upgrade: websocket"]),
        (
            &["Connection: Upgrade, HTTP2-Settings"],
            &["Upgrade: h2c, websocket", "HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA"],
        ),
    ] {
        let fields = [connection, upgrade, rest].concat();
        let request = upgraded(&fields);
        assert_eq!(request.list("connection"), ["upgrade"], "{fields:?}");
        assert_eq!(request.list("upgrade"), ["websocket"], "{fields:?}");
        assert_eq!(request.field("http2-settings"), None, "{fields:?}");
    }
}

#[test]
fn the_upstream_gets_the_handshake_as_it_came_and_who_asks() {
    let more = [
        "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits",
        "Origin: http://example.com",
        "Cookie: a=b",
    ];
    let request = upgraded(&[&HANDSHAKE[..], &more, &["X-Forwarded-For: 6.6.6.6"]].concat());
    assert_eq!(request.line, "GET /chat?room=1 HTTP/1.1");
    for (name, value) in [
        ("host", "example.com"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("sec-websocket-version", "13"),
        ("sec-websocket-extensions", "permessage-deflate; client_max_window_bits"),
        ("origin", "http://example.com"),
        ("cookie", "a=b"),
        ("x-real-ip", "127.0.0.1"),
        ("x-forwarded-for", "127.0.0.1"),
        ("x-forwarded-proto", "http"),
        ("x-forwarded-host", "example.com"),
    ] {
        assert_eq!(request.field(name), Some(value), "{name}");
    }
}

#[test]
fn any_other_upgrade_is_removed() {
    for (method, fields) in [
        (
            "GET",
            &["Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA"][..],
        ),
        ("GET", &["Connection: Upgrade", "Upgrade: TLS/1.0"]),
        ("GET", &["Upgrade: websocket"]),
        ("GET", &["Connection: keep-alive", "Upgrade: websocket"]),
        ("GET", &["Connection: Upgrade"]),
        ("GET", &["Connection: Upgrade", "Upgrade: websockets"]),
        ("POST", &["Connection: Upgrade", "Upgrade: websocket", "Content-Length: 0"]),
        ("HEAD", &["Connection: Upgrade", "Upgrade: websocket"]),
    ] {
        let request = not_upgraded(method, fields);
        assert_eq!(request.field("upgrade"), None, "{method} {fields:?}");
        assert_eq!(request.field("http2-settings"), None, "{method} {fields:?}");
        assert!(!request.list("connection").contains(&"upgrade".to_owned()), "{method} {fields:?}");
    }
}

#[test]
fn an_upgrade_request_with_a_body_is_400() {
    let origin = Origin::by_hand();
    let proxy = Proxy::to(&origin);
    for (length, body) in [("Content-Length: 4", "body"), ("Transfer-Encoding: chunked", "4\r\nbody\r\n0\r\n\r\n")] {
        let mut client = Client::connect(&proxy);
        client.ask("GET /", &[&HANDSHAKE[..], &[length]].concat(), body);
        client.expect_rejected(400);
    }
    origin.expect_no_connection(Duration::ZERO);
}

// Step 3: bytes behind the request.

#[test]
fn bytes_behind_an_upgrade_request_wait_for_the_101() {
    let origin = Origin::by_hand();
    let proxy = Proxy::to(&origin);
    let client = Client::connect(&proxy);
    client.ask("GET /", &HANDSHAKE, "early ");
    let mut upstream = origin.accept();
    upstream.request();
    client.send("and later");
    upstream.expect_silence(A_WHILE);
    upstream.send(SWITCHING);
    upstream.expect("early and later");
}

#[test]
fn more_than_a_buffer_of_early_bytes_arrives_whole() {
    let origin = Origin::by_hand();
    let proxy = Proxy::to(&origin);
    let mut client = Client::connect(&proxy);
    let early = random_bytes(34, 3_000_000);
    client.ask("GET /", &HANDSHAKE, "");
    let (writer, bytes) = (client.writer(), early.clone());
    let sending = std::thread::spawn(move || writer.send(bytes));
    let mut upstream = origin.accept();
    upstream.request();
    upstream.expect_silence(A_WHILE);
    upstream.send(SWITCHING);
    assert_same_bytes(&upstream.bytes(early.len()), &early, "the bytes behind the request");
    sending.join().unwrap();
    assert_eq!(client.head().status(), 101);
}

// Step 4: the answer.

#[test]
fn bytes_right_behind_the_101_are_delivered() {
    let origin = Origin::by_hand();
    let proxy = Proxy::to(&origin);
    let mut client = Client::connect(&proxy);
    client.ask("GET /", &HANDSHAKE, "");
    let mut upstream = origin.accept();
    upstream.request();
    upstream.send(format!("{SWITCHING}HTTP/1.1 200 OK\r\n\r\nlooks like an answer"));
    assert_eq!(client.head().status(), 101);
    client.expect("HTTP/1.1 200 OK\r\n\r\nlooks like an answer");
}

#[test]
fn a_101_whose_sender_ends_at_once_is_delivered_with_its_last_bytes() {
    let origin = Origin::by_hand();
    let proxy = Proxy::to(&origin);
    let mut client = Client::connect(&proxy);
    client.ask("GET /", &HANDSHAKE, "");
    let mut upstream = origin.accept();
    upstream.request();
    upstream.send(format!("{SWITCHING}bye"));
    upstream.end();
    assert_eq!(client.head().status(), 101);
    assert_eq!(client.rest(), (b"bye".to_vec(), Stop::End));
}

#[test]
fn interim_answers_before_the_101_are_passed_on() {
    let origin = Origin::by_hand();
    let proxy = Proxy::to(&origin);
    let mut client = Client::connect(&proxy);
    client.ask("GET /", &HANDSHAKE, "");
    let mut upstream = origin.accept();
    upstream.request();
    upstream.send(format!("HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n{SWITCHING}behind"));
    assert_eq!(client.head().status(), 103);
    assert_eq!(client.head().status(), 101);
    client.expect("behind");
}

#[test]
fn the_101_goes_out_with_the_fields_of_the_upstream_and_its_hop_by_hop_ones_anew() {
    let origin = Origin::by_hand();
    let proxy = Proxy::to(&origin);
    let mut client = Client::connect(&proxy);
    client.ask("GET /", &HANDSHAKE, "");
    let mut upstream = origin.accept();
    upstream.request();
    let more = "Set-Cookie: a=b\r\nSec-WebSocket-Protocol: chat\r\nContent-Length: 5\r\nKeep-Alive: timeout=5\r\nX-Hop: 1\r\n\r\n";
    let head = SWITCHING.replace("Connection: Upgrade", "Connection: x-hop, keep-alive, UPGRADE");
    upstream.send(format!("{}{more}", head.strip_suffix("\r\n").unwrap()));
    let head = client.head();
    assert_eq!(head.status(), 101);
    assert_eq!((head.list("connection"), head.list("upgrade")), (vec!["upgrade".into()], vec!["websocket".into()]));
    assert_eq!(head.field("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    assert_eq!((head.field("set-cookie"), head.field("sec-websocket-protocol")), (Some("a=b"), Some("chat")));
    for name in ["content-length", "transfer-encoding", "keep-alive", "x-hop"] {
        assert_eq!(head.field(name), None, "{name}");
    }
    upstream.send("bytes, not a body");
    client.expect("bytes, not a body");
}

#[test]
fn any_other_answer_is_an_ordinary_response_and_the_connection_is_kept() {
    for (answer, body) in [
        ("200 OK", "not a socket"),
        ("302 Found\r\nLocation: /elsewhere", ""),
        ("400 Bad Request", "no"),
        ("403 Forbidden", "a body"),
        ("426 Upgrade Required\r\nSec-WebSocket-Version: 13", "13, please"),
        ("500 Internal Server Error", "sorry"),
    ] {
        let origin = Origin::by_hand();
        let proxy = Proxy::to(&origin);
        let mut client = Client::connect(&proxy);
        // What waited behind the handshake is the next request.
        client.ask("GET /chat", &HANDSHAKE, request("GET /next", &[], ""));
        let mut upstream = origin.accept();
        assert_eq!(upstream.request().target(), "/chat");
        upstream.send(format!("HTTP/1.1 {answer}\r\nContent-Length: {}\r\n\r\n{body}", body.len()));
        let response = client.response();
        assert_eq!(format!("HTTP/1.1 {}", answer.lines().next().unwrap()), response.line);
        assert_eq!(response.text(), body);
        for name in ["location", "sec-websocket-version"] {
            assert_eq!(response.field(name).is_some(), answer.to_ascii_lowercase().contains(name), "{answer}: {name}");
        }
        assert_eq!(upstream.request().target(), "/next", "{answer}");
        upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nnext");
        assert_eq!(client.response().text(), "next", "{answer}");
    }
}

#[test]
fn a_101_that_does_not_answer_the_handshake_is_500() {
    let accept = "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
    for fields in [
        &["Connection: Upgrade", "Upgrade: websocket"][..],
        &["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Accept: AAAAAAAAAAAAAAAAAAAAAAAAAAA="],
        &["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Accept: s3pplmbitxaq9kygzzhzrbk+xoo="],
        &["Upgrade: websocket", accept],
        &["Connection: keep-alive", "Upgrade: websocket", accept],
        &["Connection: Upgrade", accept],
        &["Connection: Upgrade", "Upgrade: h2c", accept],
    ] {
        let origin = Origin::by_hand();
        let proxy = Proxy::to(&origin);
        let mut client = Client::connect(&proxy);
        client.ask("GET /", &HANDSHAKE, "");
        let mut upstream = origin.accept();
        upstream.request();
        upstream.send(format!("HTTP/1.1 101 Switching Protocols\r\n{}\r\n\r\n", fields.join("\r\n")));
        client.expect_own_answer(500);
        upstream.expect_gone();
    }
}

#[test]
fn a_101_that_nobody_asked_for_is_500() {
    for fields in [&[][..], &["Upgrade: websocket"], &["Connection: Upgrade", "Upgrade: h2c"]] {
        let origin = Origin::by_hand();
        let proxy = Proxy::to(&origin);
        let mut client = Client::connect(&proxy);
        client.ask("GET /", fields, "");
        let mut upstream = origin.accept();
        upstream.request();
        upstream.send(SWITCHING);
        client.expect_own_answer(500);
        upstream.expect_gone();
    }
}

#[test]
fn an_upstream_that_refuses_or_ends_during_the_handshake_is_500() {
    let origin = Origin::refusing();
    let proxy = Proxy::to(&origin);
    let mut client = Client::connect(&proxy);
    client.ask("GET /", &HANDSHAKE, "");
    client.expect_own_answer(500);

    let origin = Origin::by_hand();
    let proxy = Proxy::to(&origin);
    let mut client = Client::connect(&proxy);
    client.ask("GET /", &HANDSHAKE, "");
    let mut upstream = origin.accept();
    upstream.request();
    upstream.send("HTTP/1.1 101 Switch");
    drop(upstream);
    client.expect_own_answer(500);
}

#[test]
fn a_client_that_leaves_during_the_handshake_closes_its_upstream_connection() {
    let origin = Origin::by_hand();
    let proxy = Proxy::to(&origin);
    let client = Client::connect(&proxy);
    client.ask("GET /", &HANDSHAKE, "");
    let mut upstream = origin.accept();
    upstream.request();
    client.reset();
    upstream.expect_gone();
}

// Step 5: ends.

#[test]
fn each_direction_ends_for_itself_when_the_client_ends_first() {
    let origin = Origin::by_hand();
    let proxy = Proxy::to(&origin);
    let (mut client, mut upstream) = tunnel(&proxy, &origin);
    client.send("last words");
    client.end();
    assert_eq!(upstream.rest(), (b"last words".to_vec(), Stop::End));
    upstream.send("and a long answer");
    client.expect("and a long answer");
    client.expect_silence(A_WHILE);
    upstream.end();
    client.expect_end();
    proxy.wait_for_log(&["tunnel=closed", "by=client"]);
}

#[test]
fn each_direction_ends_for_itself_when_the_upstream_ends_first() {
    let origin = Origin::by_hand();
    let proxy = Proxy::to(&origin);
    let (mut client, mut upstream) = tunnel(&proxy, &origin);
    upstream.send("last words");
    upstream.end();
    assert_eq!(client.rest(), (b"last words".to_vec(), Stop::End));
    client.send("and a long answer");
    upstream.expect("and a long answer");
    upstream.expect_silence(A_WHILE);
    client.end();
    upstream.expect_end();
    proxy.wait_for_log(&["tunnel=closed", "by=upstream"]);
}

#[test]
fn nothing_is_lost_when_a_side_sends_much_and_ends() {
    let origin = Origin::by_hand();
    let proxy = Proxy::to(&origin);
    let bytes = random_bytes(43, 20_000_000);
    for direction in ["up", "down"] {
        let (mut client, mut upstream) = tunnel(&proxy, &origin);
        let (from, to) =
            if direction == "up" { (&mut *client, &mut *upstream) } else { (&mut *upstream, &mut *client) };
        let (writer, sent) = (from.writer(), bytes.clone());
        let sending = std::thread::spawn(move || {
            writer.send(sent);
            writer.end();
        });
        let (came, stop) = to.rest();
        assert_same_bytes(&came, &bytes, direction);
        assert_eq!(stop, Stop::End, "{direction}");
        sending.join().unwrap();
        to.send("heard");
        from.expect("heard");
    }
}

#[test]
fn a_reset_from_either_side_is_passed_on_as_a_reset() {
    let origin = Origin::by_hand();
    let proxy = Proxy::to(&origin);

    let (client, mut upstream) = tunnel(&proxy, &origin);
    client.reset();
    upstream.expect_reset();

    let (mut client, upstream) = tunnel(&proxy, &origin);
    upstream.reset();
    client.expect_reset();

    // Also when the other direction has ended already.
    let (mut client, mut upstream) = tunnel(&proxy, &origin);
    client.end();
    upstream.expect_end();
    upstream.reset();
    client.expect_reset();

    proxy.wait_for_logs(&["tunnel=closed"], 3);
}

#[test]
fn what_was_sent_before_a_reset_arrives_before_it() {
    let origin = Origin::by_hand();
    let proxy = Proxy::to(&origin);
    for _ in 0..20 {
        let (mut client, upstream) = tunnel(&proxy, &origin);
        upstream.send("last words");
        upstream.reset();
        assert_eq!(client.rest(), (b"last words".to_vec(), Stop::Reset));
    }
}

#[test]
fn the_last_words_of_an_upstream_that_closes_on_a_flood_arrive() {
    let origin = Origin::by_hand();
    let proxy = Proxy::to(&origin);
    let (mut client, upstream) = tunnel(&proxy, &origin);
    client.socket().set_write_timeout(Some(A_WHILE)).unwrap();
    while client.try_send([b'x'; 100_000]).is_ok() {}
    upstream.send("last words");
    drop(upstream);
    assert_eq!(client.rest(), (b"last words".to_vec(), Stop::Reset));
}

#[test]
fn the_last_words_of_an_upstream_arrive_although_writing_to_it_fails_first() {
    let origin = Origin::by_hand();
    let proxy = Proxy::to(&origin);
    let crowd = Crowd::of(&proxy);
    let (mut client, upstream) = tunnel(&proxy, &origin);
    client.send("never read");
    upstream.socket().peek(&mut [MaybeUninit::uninit()]).expect("bytes that will never be read");
    proxy.while_held(|| {
        client.send("never taken");
        crowd.stir();
        upstream.send("last words");
        drop(upstream);
    });
    assert_eq!(client.rest(), (b"last words".to_vec(), Stop::Reset));
}

#[test]
fn a_reset_is_noticed_although_the_other_side_does_not_read() {
    let origin = Origin::by_hand();
    let proxy = Proxy::to(&origin);
    for by in ["client", "upstream"] {
        let (client, upstream) = tunnel(&proxy, &origin);
        let from = if by == "client" { client.socket() } else { upstream.socket() };
        from.set_write_timeout(Some(A_WHILE)).unwrap();
        while std::io::Write::write(&mut &*from, &[b'x'; 100_000]).is_ok() {}
        let address = client.address().to_string();
        let mut other = if by == "client" {
            client.reset();
            upstream.writer()
        } else {
            upstream.reset();
            client.writer()
        };
        proxy.wait_for_log(&["tunnel=closed", &address, &format!("by={by}")]);
        assert_eq!(other.rest().1, Stop::Reset, "{by}");
    }
}

#[test]
fn a_closed_tunnel_leaves_nothing_behind() {
    let origin = Origin::by_hand();
    let proxy = Proxy::to(&origin);
    let before = proxy.descriptors();
    for round in 0..20 {
        let (client, upstream) = tunnel(&proxy, &origin);
        match round % 4 {
            0 => client.reset(),
            1 => upstream.reset(),
            2 => drop(client),
            _ => drop(upstream),
        }
    }
    eventually("every descriptor is closed", || proxy.descriptors() == before);
}

// Step 6: silence. Its limit is in timeouts.rs.

#[test]
fn the_kernel_watches_both_sides_of_a_tunnel_for_a_pulled_cable() {
    let origin = Origin::by_hand();
    // From when its handshake would have been late.
    let proxy = Proxy::with("[timeouts]\nupgrade = \"300ms\"\n", &origin);
    let (client, upstream) = tunnel(&proxy, &origin);
    expect_to_be_watched(client.socket());
    expect_to_be_watched(upstream.socket());
}

#[test]
fn urgent_data_does_not_stall_what_follows() {
    let origin = Origin::by_hand();
    let proxy = Proxy::to(&origin);
    let (mut client, mut upstream) = tunnel(&proxy, &origin);
    for direction in ["up", "down"] {
        let (from, to) =
            if direction == "up" { (&mut *client, &mut *upstream) } else { (&mut *upstream, &mut *client) };
        for _ in 0..3 {
            from.send("before");
            from.socket().send_out_of_band(b"!").unwrap();
            from.send("behind");
            // The urgent byte itself is out of band: it may be dropped, or arrive in line.
            to.expect("before");
            if to.bytes(1) == b"!" { to.expect("behind") } else { to.expect("ehind") }
        }
    }
}

#[test]
fn bytes_cross_in_both_directions_at_once() {
    let origin = Origin::by_hand();
    let proxy = Proxy::to(&origin);
    let (mut client, mut upstream) = tunnel(&proxy, &origin);
    let (up, down) = (random_bytes(1, 10_000_000), random_bytes(2, 10_000_000));
    let (up_writer, down_writer) = (client.writer(), upstream.writer());
    std::thread::scope(|scope| {
        scope.spawn(|| up_writer.send(&up));
        scope.spawn(|| down_writer.send(&down));
        let reader = scope.spawn(|| upstream.bytes(up.len()));
        assert_same_bytes(&client.bytes(down.len()), &down, "down");
        assert_same_bytes(&reader.join().unwrap(), &up, "up");
    });
}
