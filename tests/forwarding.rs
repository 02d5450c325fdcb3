//! Ordinary requests: what reaches the upstream, what reaches the client, and over which connections.

mod support;

use std::net::Shutdown;
use std::time::Duration;

use support::*;

/// Routes to two origins and more, as `match` and `to`, each with further lines.
fn routes(routes: &[(&str, &Origin, &str)]) -> String {
    let table = |(pattern, origin, more): &(&str, &Origin, &str)| {
        format!("[[route]]\nmatch = \"{pattern}\"\nto = \"{origin}\"\n{more}\n")
    };
    routes.iter().map(table).collect()
}

/// An origin that answers with the target and, for a test that asks for it, the body that it was sent.
fn echo() -> Origin {
    Origin::answering(|request| Answer::ok([request.target().as_bytes(), b" ", &request.body].concat()))
}

/// What the upstream gets for a request of these fields.
fn forwarded(fields: &[&str]) -> Message {
    let origin = echo();
    let proxy = Proxy::to(&origin);
    let mut client = Client::connect(&proxy);
    client.ask("GET /", fields, "");
    assert_eq!(client.response().status(), 200, "{fields:?}");
    origin.last_request()
}

/// What the client gets when the upstream answers a GET with these bytes and closes.
fn answered(bytes: impl Into<Vec<u8>>) -> (Result<Message, Cut>, Origin) {
    let answer = Answer::raw(bytes).then_close();
    let origin = Origin::answering(move |_| answer.clone());
    let proxy = Proxy::to(&origin);
    let mut client = Client::connect(&proxy);
    client.ask("GET /", &[], "");
    (client.try_response(), origin)
}

// Routes.

#[test]
fn a_prefix_matches_on_segment_borders_only() {
    let (a, rest) = (Origin::saying("a"), Origin::saying("rest"));
    let proxy = Proxy::start(&routes(&[("/a", &a, ""), ("/", &rest, "")]));
    let mut client = Client::connect(&proxy);
    for (target, expected) in
        [("/a", "a"), ("/a/", "a"), ("/a/b", "a"), ("/a?x", "a"), ("/ab", "rest"), ("/", "rest"), ("/A", "rest")]
    {
        assert_eq!(client.get(target).text(), expected, "{target}");
    }
}

#[test]
fn the_longest_match_wins_and_a_host_before_a_path() {
    let origins = ["exact", "exact/a", "wildcard", "/a/b", "/"].map(Origin::saying);
    let proxy = Proxy::start(&routes(&[
        ("/", &origins[4], ""),
        ("/a/b", &origins[3], ""),
        ("*.example.com", &origins[2], ""),
        ("www.example.com/a", &origins[1], ""),
        ("www.example.com", &origins[0], ""),
    ]));
    let mut client = Client::connect(&proxy);
    let cases = [
        ("www.example.com", "/", "exact"),
        ("WWW.Example.Com:8080", "/x", "exact"),
        ("www.example.com", "/a/b", "exact/a"),
        ("chat.example.com", "/a/b", "wildcard"),
        ("deep.chat.example.com", "/", "wildcard"),
        ("example.com", "/a/b", "/a/b"),
        ("example.org", "/a/b/c", "/a/b"),
        ("example.org", "/a", "/"),
        ("badexample.com", "/", "/"),
    ];
    for (host, target, expected) in cases {
        client.send(format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        assert_eq!(client.response().text(), expected, "{host}{target}");
    }
}

#[test]
fn no_route_is_404_with_an_empty_body_and_the_connection_is_kept() {
    let origin = echo();
    let proxy = Proxy::start(&routes(&[("/a", &origin, "")]));
    let mut client = Client::connect(&proxy);
    client.ask("GET /ab", &[], "");
    client.expect_own_answer(404);
    client.ask("POST /b", &["Content-Length: 4"], "body");
    client.expect_own_answer(404);
    client.ask("HEAD /c", &[], "");
    let head = client.response_to_head();
    assert_eq!((head.status(), head.field("content-type")), (404, Some(HTML)));
    assert_eq!(client.get("/a").text(), "/a ");
    assert_eq!(origin.requests().len(), 1);
}

#[test]
fn strip_removes_the_prefix_before_forwarding() {
    let origin = echo();
    let proxy = Proxy::start(&routes(&[("/api", &origin, "strip = true")]));
    let mut client = Client::connect(&proxy);
    for (target, expected) in [
        ("/api", "/"),
        ("/api/", "/"),
        ("/api?x=1", "/?x=1"),
        ("/api/users?x", "/users?x"),
        ("/api//x", "//x"),
        ("/api/api", "/api"),
    ] {
        client.get(target);
        assert_eq!(origin.last_request().target(), expected, "{target}");
    }
}

#[test]
fn a_target_is_forwarded_byte_by_byte_as_it_came() {
    let origin = echo();
    let proxy = Proxy::to(&origin);
    let mut client = Client::connect(&proxy);
    for target in [
        "/",
        "//",
        "//x//y",
        "/%2f",
        "/%00",
        "/a;b=c",
        "/a[1]?b[]",
        "/a.b/..c/...",
        "/?",
        "/?q=/../x",
        "/~!$&'()*+,=:@",
    ] {
        assert_eq!(client.get(target).status(), 200, "{target}");
        assert_eq!(origin.last_request().target(), target);
    }
}

#[test]
fn dot_segments_are_refused_plain_and_encoded_unless_the_route_allows_them() {
    let origin = echo();
    let proxy = Proxy::start(&routes(&[("/", &origin, ""), ("/free", &origin, "dot_segments = true")]));
    for target in ["/../x", "/a/..", "/a/../b", "/%2e%2e/x", "/a/%2E./b", "/a/.%2e?x"] {
        let mut client = Client::connect(&proxy);
        client.ask(&format!("GET {target}"), &[], "");
        client.expect_rejected(400);
    }
    assert_eq!(origin.connections(), 0);
    assert_eq!(Client::connect(&proxy).get("/free/../x").text(), "/free/../x ");
}

#[test]
fn a_backslash_in_a_path_is_refused_and_one_in_a_query_leaves_encoded() {
    let origin = echo();
    let proxy = Proxy::to(&origin);
    for target in ["/\\admin", "/x\\admin", "/x\\..\\admin"] {
        let mut client = Client::connect(&proxy);
        client.ask(&format!("GET {target}"), &[], "");
        client.expect_rejected(400);
    }
    assert_eq!(origin.connections(), 0);
    assert_eq!(Client::connect(&proxy).get("/x?\\").text(), "/x?%5C ");
}

#[test]
fn what_browsers_leave_as_it_is_leaves_encoded_and_is_routed_so() {
    let (here, other) = (echo(), echo());
    let proxy = Proxy::start(&routes(&[("/a%7Cb", &here, "strip = true"), ("/", &other, "")]));
    let mut client = Client::connect(&proxy);
    assert_eq!(client.get("/a|b/c|d?e|f").text(), "/c%7Cd?e%7Cf ");
    assert_eq!(here.requests().len(), 1, "the route for /a%7Cb answers for /a|b");
    assert_eq!(client.get("/?q={a}&r=100%").text(), "/?q=%7Ba%7D&r=100%25 ");
}

#[test]
fn absolute_form_is_routed_and_forwarded_by_its_own_host() {
    let (target, other) = (echo(), echo());
    let proxy = Proxy::start(&routes(&[("target.example", &target, ""), ("/", &other, "")]));
    let mut client = Client::connect(&proxy);
    client.send("GET http://target.example:8080/x?y HTTP/1.1\r\nHost: other.example\r\n\r\n");
    assert_eq!(client.response().text(), "/x?y ");
    let request = target.last_request();
    assert_eq!((request.target(), request.field("host")), ("/x?y", Some("target.example:8080")));
    client.send("GET http://target.example HTTP/1.1\r\nHost: target.example\r\n\r\n");
    assert_eq!(client.response().text(), "/ ");
    assert_eq!(other.connections(), 0);
}

#[test]
fn options_for_the_whole_server_is_forwarded_as_a_star() {
    let origin = echo();
    let proxy = Proxy::to(&origin);
    let mut client = Client::connect(&proxy);
    client.ask("OPTIONS *", &[], "");
    assert_eq!(client.response().text(), "* ");
    assert_eq!(origin.last_request().line, "OPTIONS * HTTP/1.1");
}

// Methods and versions.

#[test]
fn connect_and_trace_are_405() {
    let origin = echo();
    let proxy = Proxy::to(&origin);
    for line in ["CONNECT example.com:443", "TRACE /"] {
        let mut client = Client::connect(&proxy);
        client.ask(line, &[], "");
        assert_eq!(client.response().status(), 405, "{line}");
    }
    assert_eq!(origin.connections(), 0);
}

#[test]
fn a_request_that_may_go_no_further_is_not_forwarded() {
    let origin = echo();
    let proxy = Proxy::to(&origin);
    let mut client = Client::connect(&proxy);
    client.ask("OPTIONS *", &["Max-Forwards: 0"], "");
    client.response();
    assert_eq!(origin.connections(), 0);
}

#[test]
fn every_other_method_is_forwarded() {
    let origin = echo();
    let proxy = Proxy::to(&origin);
    let mut client = Client::connect(&proxy);
    for method in ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "PROPFIND", "M-SEARCH", "BREW"] {
        client.ask(&format!("{method} /x"), &["Content-Length: 2"], "hi");
        assert_eq!(client.response().text(), "/x hi", "{method}");
        assert_eq!(origin.last_request().method(), method);
    }
}

#[test]
fn http_1_0_and_versions_above_1_1_are_not_supported() {
    let origin = echo();
    let proxy = Proxy::to(&origin);
    for version in ["HTTP/1.0", "HTTP/1.2", "HTTP/2.0", "HTTP/3.0"] {
        let mut client = Client::connect(&proxy);
        client.send(format!("GET / {version}\r\nHost: example.com\r\n\r\n"));
        let response = client.response();
        assert_eq!((response.status(), response.text().as_str()), (500, "<h4>Not Supported</h4>"), "{version}");
        assert_eq!(response.field("content-type"), Some(HTML), "{version}");
        client.expect_end();
    }
    assert_eq!(origin.connections(), 0);
}

#[test]
fn head_is_refused_without_a_body() {
    let origin = Origin::by_hand();
    let proxy = Proxy::to(&origin);
    let mut client = Client::connect(&proxy);
    client.send("HEAD / HTTP/1.0\r\nHost: example.com\r\n\r\n");
    assert_eq!(client.response_to_head().status(), 500);
    client.expect_end();
}

#[test]
fn what_is_no_version_at_all_is_400() {
    let origin = echo();
    let proxy = Proxy::to(&origin);
    for line in [
        "GET / HTTP/01.1",
        "GET / http/1.1",
        "GET / HTTP/1",
        "GET / HTTP/1.1.1",
        "GET / HTTP/a.b",
        "GET /",
        "GET  / HTTP/1.1",
    ] {
        let mut client = Client::connect(&proxy);
        client.send(format!("{line}\r\nHost: example.com\r\n\r\n"));
        client.expect_rejected(400);
    }
    assert_eq!(origin.connections(), 0);
}

#[test]
fn what_is_not_http_is_refused_and_changes_nothing() {
    let origin = echo();
    let proxy = Proxy::to(&origin);
    let noise = random_bytes(20261122, 4096);
    let hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";
    let inputs: [&[u8]; 4] = [
        hello,
        b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\nGET / HTTP/1.1\r\n\r\n",
        &noise,
    ];
    for input in inputs {
        let mut client = Client::connect(&proxy);
        client.send(input);
        client.end();
        let (_, stop) = client.rest();
        assert_ne!(stop, Stop::Silence, "{:?}", input.get(..20));
    }
    assert_eq!(origin.connections(), 0);
    assert_eq!(Client::connect(&proxy).get("/").status(), 200);
}

#[test]
fn http_1_0_can_be_served_by_its_own_rules() {
    let origin = Origin::answering(|request| match request.target() {
        "/chunked" => Answer::raw(
            [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", chunked(b"in chunks", 3).as_slice()].concat(),
        ),
        _ => Answer::ok("hello"),
    });
    let proxy = Proxy::start(&format!("http_1_0 = \"serve\"\n{}", routes(&[("/", &origin, "")])));

    let mut once = Client::connect(&proxy);
    once.send("GET / HTTP/1.0\r\nHost: example.com\r\n\r\n");
    let response = once.response();
    assert_eq!((response.line.as_str(), response.text().as_str()), ("HTTP/1.0 200 OK", "hello"));
    once.expect_end();
    assert_eq!(origin.last_request().line, "GET / HTTP/1.1");

    let mut kept = Client::connect(&proxy);
    for _ in 0..2 {
        kept.send("GET / HTTP/1.0\r\nHost: example.com\r\nConnection: keep-alive\r\n\r\n");
        let response = kept.response();
        assert_eq!((response.text().as_str(), response.list("connection")), ("hello", vec!["keep-alive".to_owned()]));
    }

    let mut plain = Client::connect(&proxy);
    plain.send("GET /chunked HTTP/1.0\r\nHost: example.com\r\n\r\n");
    let response = plain.response();
    assert_eq!((response.field("transfer-encoding"), response.text().as_str()), (None, "in chunks"));
}

#[test]
fn a_post_in_http_1_0_without_a_length_is_the_last_request_of_its_connection() {
    let origin = echo();
    let proxy = Proxy::start(&format!("http_1_0 = \"serve\"\n{}", routes(&[("/", &origin, "")])));
    let mut client = Client::connect(&proxy);
    client.send("POST /one HTTP/1.0\r\nHost: example.com\r\nConnection: keep-alive\r\n\r\n");
    client.ask("GET /smuggled", &[], "");
    let response = client.response();
    assert_eq!((response.text().as_str(), response.list("connection")), ("/one ", vec!["close".to_owned()]));
    client.expect_gone();
    assert_eq!(origin.requests().len(), 1, "what may be its body is no request");
}

// Forwarding fields and hop-by-hop fields.

#[test]
fn the_upstream_is_told_who_asks_and_what_the_client_claims_is_replaced() {
    for claimed in [
        &[][..],
        &["X-Real-IP: 6.6.6.6", "X-Forwarded-For: 6.6.6.6", "X-Forwarded-For: 7.7.7.7"],
        &["x-forwarded-proto: https", "X-FORWARDED-HOST: evil.example", "Forwarded: for=6.6.6.6;proto=https"],
    ] {
        let request = forwarded(claimed);
        assert_eq!(request.field("x-real-ip"), Some("127.0.0.1"));
        assert_eq!(request.field("x-forwarded-for"), Some("127.0.0.1"));
        assert_eq!(request.field("x-forwarded-proto"), Some("http"));
        assert_eq!(request.field("x-forwarded-host"), Some("example.com"));
        assert_eq!(request.field("forwarded"), None);
        assert_eq!(request.field("host"), Some("example.com"));
    }
}

#[test]
fn a_trusted_client_is_believed_and_appended_to() {
    let origin = echo();
    let proxy = Proxy::start(&format!("trusted = [\"127.0.0.0/8\"]\n{}", routes(&[("/", &origin, "")])));
    let mut client = Client::connect(&proxy);
    let claimed = [
        "X-Real-IP: 203.0.113.9",
        "X-Forwarded-For: 203.0.113.9, 192.0.2.1",
        "X-Forwarded-For: 192.0.2.2",
        "X-Forwarded-Proto: https",
        "X-Forwarded-Host: www.example.com",
    ];
    client.ask("GET /", &claimed, "");
    client.response();
    let request = origin.last_request();
    assert_eq!(request.list("x-forwarded-for"), ["203.0.113.9", "192.0.2.1", "192.0.2.2", "127.0.0.1"]);
    assert_eq!(request.field("x-real-ip"), Some("203.0.113.9"));
    assert_eq!(request.field("x-forwarded-proto"), Some("https"));
    assert_eq!(request.field("x-forwarded-host"), Some("www.example.com"));

    client.get("/without");
    let request = origin.last_request();
    assert_eq!(request.field("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(request.field("x-real-ip"), Some("127.0.0.1"));
    assert_eq!(request.field("x-forwarded-proto"), Some("http"));
    assert_eq!(request.field("x-forwarded-host"), Some("example.com"));
}

#[test]
fn host_is_passed_on_unchanged() {
    let origin = echo();
    let proxy = Proxy::to(&origin);
    let mut client = Client::connect(&proxy);
    for host in ["Example.COM", "example.com:8080", "127.0.0.1:1", "[::1]:8080", "a_b.example"] {
        client.send(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        assert_eq!(client.response().status(), 200, "{host}");
        assert_eq!(origin.last_request().field("host"), Some(host));
    }
}

#[test]
fn ordinary_fields_arrive_as_they_were_sent() {
    let request = forwarded(&[
        "Cookie: a=b",
        "cOOkie: c=d",
        "Accept: */*",
        "X-Empty:",
        "X-Bytes: caf\u{e9}",
        "Authorization: Basic eA==",
    ]);
    assert_eq!(request.all("cookie"), ["a=b", "c=d"]);
    assert_eq!(request.field("accept"), Some("*/*"));
    assert_eq!(request.field("x-empty"), Some(""));
    assert_eq!(request.field("x-bytes"), Some("caf\u{c3}\u{a9}"));
    assert_eq!(request.field("authorization"), Some("Basic eA=="));
}

#[test]
fn hop_by_hop_fields_of_a_request_are_removed() {
    let request = forwarded(&[
        "Connection: keep-alive, X-Named",
        "Connection: x-also-named",
        "X-Named: 1",
        "X-Also-Named: 2",
        "Keep-Alive: timeout=5",
        "Proxy-Connection: keep-alive",
        "Proxy-Authorization: Basic eA==",
        "TE: trailers",
        "Trailer: X-Checksum",
        "Upgrade: h2c",
        "X-Stays: 3",
    ]);
    for name in
        ["x-named", "x-also-named", "keep-alive", "proxy-connection", "proxy-authorization", "te", "trailer", "upgrade"]
    {
        assert_eq!(request.field(name), None, "{name}");
    }
    assert!(!request.list("connection").iter().any(|option| option.starts_with("x-")), "{request:?}");
    assert_eq!(request.field("x-stays"), Some("3"));
}

#[test]
fn connection_cannot_name_away_what_hawkey_needs() {
    let origin = echo();
    let proxy = Proxy::to(&origin);
    let mut client = Client::connect(&proxy);
    let fields = [
        "Connection: Host, Content-Length, X-Forwarded-For, X-Real-IP, Authorization, Cookie",
        "Authorization: Basic eA==",
        "Cookie: a=b",
        "Content-Length: 4",
    ];
    client.ask("POST /", &fields, "body");
    assert_eq!(client.response().text(), "/ body");
    let request = origin.last_request();
    assert_eq!(request.field("host"), Some("example.com"));
    assert_eq!(request.field("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(request.field("x-real-ip"), Some("127.0.0.1"));
    assert_eq!((request.field("authorization"), request.field("cookie")), (None, None));
}

#[test]
fn hop_by_hop_fields_of_a_response_are_removed() {
    let (response, _origin) = answered(
        "HTTP/1.1 200 OK\r\nConnection: close, X-Named\r\nX-Named: 1\r\nKeep-Alive: timeout=5\r\nProxy-Connection: close\r\n\
         Upgrade: h2c\r\nTrailer: X-Checksum\r\nServer: origin\r\nSet-Cookie: a\r\nSet-Cookie: b\r\nContent-Length: 2\r\n\r\nhi",
    );
    let response = response.expect("a whole response");
    for name in ["x-named", "keep-alive", "proxy-connection", "upgrade", "trailer", "connection"] {
        assert_eq!(response.field(name), None, "{name}");
    }
    assert_eq!((response.field("server"), response.all("set-cookie")), (Some("origin"), vec!["a", "b"]));
    assert_eq!(response.text(), "hi");
}

#[test]
fn underscored_twins_of_the_framing_fields_are_dropped() {
    let request = forwarded(&["Content_Length: 5", "Transfer_Encoding: chunked"]);
    assert_eq!((request.field("content_length"), request.field("transfer_encoding")), (None, None));
}

// Bodies.

#[test]
fn request_bodies_of_both_framings_arrive_whole() {
    let origin = Origin::answering(|_| Answer::ok("got it"));
    let proxy = Proxy::to(&origin);
    let body = random_bytes(1, 10_000_000);
    for (field, bytes) in [
        (format!("Content-Length: {}", body.len()), body.clone()),
        ("Transfer-Encoding: chunked".to_owned(), chunked(&body, 70_001)),
    ] {
        let mut client = Client::connect(&proxy);
        client.ask("POST /", &[&field], &bytes);
        assert_eq!(client.response().text(), "got it", "{field}");
        assert_same_bytes(&origin.last_request().body, &body, &field);
    }
}

#[test]
fn response_bodies_of_every_framing_arrive_whole() {
    let body = random_bytes(2, 10_000_000);
    let length = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()).into_bytes();
    for (framing, bytes) in [
        ("length", [&length, body.as_slice()].concat()),
        (
            "chunked",
            [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".as_slice(), &chunked(&body, 70_001)].concat(),
        ),
        (
            "chunked by the byte",
            [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".as_slice(), &chunked(&body[..10_000], 1)]
                .concat(),
        ),
        ("until close", [b"HTTP/1.1 200 OK\r\n\r\n".as_slice(), &body].concat()),
    ] {
        let (response, _origin) = answered(bytes);
        let response =
            response.unwrap_or_else(|cut| panic!("{framing}: {:?} after {} bytes", cut.stop, cut.bytes.len()));
        let expected = if framing == "chunked by the byte" { &body[..10_000] } else { &body };
        assert_same_bytes(&response.body, expected, framing);
    }
}

#[test]
fn a_body_until_close_closes_the_connection_of_the_client_too() {
    let origin = Origin::answering(|_| Answer::raw("HTTP/1.1 200 OK\r\n\r\nall of it").then_close());
    let proxy = Proxy::to(&origin);
    let mut client = Client::connect(&proxy);
    let response = client.get("/");
    assert_eq!((response.text().as_str(), response.list("connection")), ("all of it", vec!["close".to_owned()]));
}

#[test]
fn bodies_stream_in_both_directions_at_once() {
    let origin = Origin::running(|mut connection| {
        // Each byte goes back as soon as it is there.
        let Ok(head) = connection.try_head() else { return };
        assert_eq!(head.field("content-length"), Some("3000000"));
        connection.send("HTTP/1.1 200 OK\r\nContent-Length: 3000000\r\n\r\n");
        for _ in 0..300 {
            let bytes = connection.bytes(10_000);
            connection.send(bytes);
        }
    });
    let proxy = Proxy::to(&origin);
    let mut client = Client::connect(&proxy);
    let body = random_bytes(3, 3_000_000);
    client.ask("POST /echo", &["Content-Length: 3000000"], "");
    let first = &body[..10_000];
    client.send(first);
    assert_eq!(client.response_head().status(), 200, "the answer begins before the body has been sent");
    assert_same_bytes(&client.bytes(10_000), first, "the first bytes come back before the rest is sent");
    let (writer, rest) = (client.writer(), body[10_000..].to_vec());
    let sending = std::thread::spawn(move || writer.send(rest));
    assert_same_bytes(&client.bytes(2_990_000), &body[10_000..], "the rest");
    sending.join().unwrap();
}

#[test]
fn nothing_is_collected_first() {
    let origin = Origin::by_hand();
    let proxy = Proxy::to(&origin);
    let mut client = Client::connect(&proxy);
    client.ask("POST /", &["Transfer-Encoding: chunked"], "3\r\none\r\n");
    let mut upstream = origin.accept();
    upstream.head();
    upstream.expect("3\r\none\r\n");
    client.send("3\r\ntwo\r\n");
    upstream.expect("3\r\ntwo\r\n");
    client.send("0\r\n\r\n");
    upstream.expect("0\r\n\r\n");
    upstream.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n");
    client.response_head();
    client.expect("3\r\none\r\n");
    upstream.send("0\r\n\r\n");
    client.expect("0\r\n\r\n");
}

#[test]
fn a_client_that_does_not_read_holds_back_its_upstream() {
    const SIZE: usize = 200_000_000;
    let origin = Origin::by_hand();
    let proxy = Proxy::to(&origin);
    let mut client = Client::connect(&proxy);
    let before = proxy.memory();
    client.ask("GET /big", &[], "");
    let mut upstream = origin.accept();
    upstream.request();
    let progress = upstream.writer();
    let sent = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counter = std::sync::Arc::clone(&sent);
    let sending = std::thread::spawn(move || {
        progress.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\n\r\n"));
        let piece = vec![b'x'; 100_000];
        for _ in 0..SIZE / piece.len() {
            progress.send(&piece);
            counter.fetch_add(piece.len(), std::sync::atomic::Ordering::Relaxed);
        }
    });
    let mut last = usize::MAX;
    eventually("the upstream is held back", || {
        std::thread::sleep(Duration::from_millis(300));
        let now = sent.load(std::sync::atomic::Ordering::Relaxed);
        std::mem::replace(&mut last, now) == now && now > 0
    });
    assert!(last < SIZE / 2, "{last} bytes left although nobody reads");
    let grown = proxy.memory().saturating_sub(before);
    assert!(grown < 4 << 20, "hawkey grew by {grown} bytes");
    let body = client.response().body;
    assert_eq!(body.len(), SIZE);
    assert!(body.iter().all(|byte| *byte == b'x'));
    sending.join().unwrap();
    let grown = proxy.memory().saturating_sub(before);
    assert!(grown < 4 << 20, "hawkey grew by {grown} bytes");
}

#[test]
fn an_upstream_that_does_not_read_holds_back_its_client() {
    let origin = Origin::by_hand();
    let proxy = Proxy::to(&origin);
    let mut client = Client::connect(&proxy);
    let before = proxy.memory();
    client.ask("POST /big", &["Content-Length: 50000000"], "");
    let mut upstream = origin.accept();
    let head = upstream.head();
    let writer = client.writer();
    let sending = std::thread::spawn(move || writer.send(vec![b'x'; 50_000_000]));
    std::thread::sleep(Duration::from_millis(500));
    assert!(!sending.is_finished(), "50 MB left although nobody reads");
    let grown = proxy.memory().saturating_sub(before);
    assert!(grown < 4 << 20, "hawkey grew by {grown} bytes");
    assert_eq!(upstream.body_of(head).expect("a whole request").body.len(), 50_000_000);
    sending.join().unwrap();
    upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    client.expect_empty(200);
}

#[test]
fn chunk_extensions_and_trailers_are_removed_both_ways() {
    let origin = Origin::answering(|_| {
        Answer::raw(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;a=b\r\nhi\r\n3; c=\"d\"\r\nyou\r\n0;e\r\nX-Sum: 1\r\n\r\n",
        )
    });
    let proxy = Proxy::to(&origin);
    let mut client = Client::connect(&proxy);
    for _ in 0..2 {
        client.ask(
            "POST /",
            &["Transfer-Encoding: chunked"],
            "4;x\r\nbody\r\n000;y=z\r\nX-Trailer: 1\r\nContent-Length: 9\r\n\r\n",
        );
        let response = client.response();
        assert_eq!((response.text().as_str(), &response.extensions, &response.trailers), ("hiyou", &vec![], &vec![]));
        let request = origin.last_request();
        assert_eq!((request.text().as_str(), &request.extensions, &request.trailers), ("body", &vec![], &vec![]));
        assert_eq!(request.field("content-length"), None);
    }
}

#[test]
fn a_chunked_body_that_is_not_well_formed_is_400_and_never_completed() {
    for body in [
        "4\r\nbodyX\r\n0\r\n\r\n",
        "4\nbody\r\n0\r\n\r\n",
        "4\r\nbody\n0\r\n\r\n",
        "+4\r\nbody\r\n0\r\n\r\n",
        "0x4\r\nbody\r\n0\r\n\r\n",
        " 4\r\nbody\r\n0\r\n\r\n",
        "4_0\r\nbody\r\n0\r\n\r\n",
        "\r\nbody\r\n0\r\n\r\n",
        "0000000000000004\r\nbody\r\n0\r\n\r\n",
        "4;a\nb\r\nbody\r\n0\r\n\r\n",
        "4;a\rb\r\nbody\r\n0\r\n\r\n",
        "4\r\r\nbody\r\n0\r\n\r\n",
        "4\r\nbody\r\n0\r\nX-Bad : 1\r\n\r\n",
        &format!("4;{}\r\nbody\r\n0\r\n\r\n", "x".repeat(300)),
        &format!("{}0\r\n\r\n", format!("1;{}\r\nx\r\n", "x".repeat(250)).repeat(20)),
    ] {
        let origin = Origin::running(|mut connection| {
            if connection.try_request().is_ok() {
                connection.send("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\ncompleted");
            }
        });
        let proxy = Proxy::to(&origin);
        let mut client = Client::connect(&proxy);
        client.ask("POST /", &["Transfer-Encoding: chunked"], body);
        let response = client.expect_empty(400);
        assert_eq!(response.list("connection"), ["close"], "{body:?}");
        client.expect_end();
    }
}

#[test]
fn a_request_that_ends_before_its_body_is_never_completed() {
    for (field, body) in [
        ("Content-Length: 10", "half"),
        ("Transfer-Encoding: chunked", "a\r\nhalf"),
        ("Transfer-Encoding: chunked", "4\r\nhalf\r\n"),
    ] {
        let origin = Origin::by_hand();
        let proxy = Proxy::to(&origin);
        let client = Client::connect(&proxy);
        client.ask("POST /", &[field], body);
        let mut upstream = origin.accept();
        let head = upstream.head();
        client.end();
        let cut = upstream.body_of(head).expect_err("half a body is not a body");
        assert_ne!(cut.stop, Stop::Silence, "{field}");
    }
}

#[test]
fn a_body_may_come_with_any_method_and_none_of_it_stays_behind() {
    let origin = echo();
    let proxy = Proxy::to(&origin);
    let mut client = Client::connect(&proxy);
    for method in ["GET", "DELETE", "OPTIONS"] {
        client.ask(&format!("{method} /one"), &["Content-Length: 26"], "GET /smuggled HTTP/1.1\r\n\r\n");
        assert_eq!(client.response().text(), "/one GET /smuggled HTTP/1.1\r\n\r\n");
        assert_eq!(client.get("/two").text(), "/two ");
    }
    assert_eq!(origin.requests().len(), 6);
}

#[test]
fn leading_zeros_of_a_length_are_written_anew() {
    let origin = echo();
    let proxy = Proxy::to(&origin);
    let mut client = Client::connect(&proxy);
    client.ask("POST /", &["Content-Length: 0004"], "body");
    assert_eq!(client.response().text(), "/ body");
    assert_eq!(origin.last_request().field("content-length"), Some("4"));
}

#[test]
fn a_message_with_two_readings_is_refused_and_not_forwarded() {
    let origin = echo();
    let proxy = Proxy::to(&origin);
    for (fields, status) in [
        (&["Content-Length: 4", "Transfer-Encoding: chunked"][..], 400),
        (&["Content-Length: 4", "Content-Length: 4"], 400),
        (&["Content-Length: 4, 4"], 400),
        (&["Content-Length: +4"], 400),
        (&["Content-Length:"], 400),
        (&["Content-Length: 18446744073709551620"], 400),
        (&["Transfer-Encoding: chunked, chunked"], 400),
        (&["Transfer-Encoding: chunked", "Transfer-Encoding: chunked"], 400),
        (&["Transfer-Encoding: xchunked"], 400),
        (&["Transfer-Encoding: gzip, chunked"], 501),
        (&["Host: other.example"], 400),
        (&["Bad Name: x"], 400),
        (&["Folded: x\r\n y"], 400),
    ] {
        let mut client = Client::connect(&proxy);
        client.ask("POST /", fields, "0\r\n\r\n");
        client.expect_rejected(status);
    }
    let mut client = Client::connect(&proxy);
    client.send("GET / HTTP/1.1\r\n\r\n");
    client.expect_rejected(400);
    assert_eq!(origin.connections(), 0);
}

// Answers without a body, and interim answers.

#[test]
fn head_204_and_304_end_with_their_head() {
    let origin = Origin::answering(|request| match (request.method(), request.target()) {
        ("HEAD", _) => Answer::raw("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"),
        (_, "/204") => Answer::raw("HTTP/1.1 204 No Content\r\n\r\n"),
        (_, "/304") => Answer::raw("HTTP/1.1 304 Not Modified\r\nContent-Length: 1000\r\nETag: \"x\"\r\n\r\n"),
        _ => Answer::ok("a body"),
    });
    let proxy = Proxy::to(&origin);
    let mut client = Client::connect(&proxy);
    client.ask("HEAD /", &[], "");
    let head = client.response_to_head();
    assert_eq!((head.status(), head.field("content-length")), (200, Some("1000")));
    assert_eq!(client.get("/204").status(), 204);
    assert_eq!(client.get("/304").status(), 304);
    assert_eq!(client.get("/").text(), "a body");
    assert_eq!(origin.connections(), 1, "one upstream connection served all four");
}

#[test]
fn bytes_behind_the_end_of_a_response_reach_nobody() {
    for (method, answer) in [
        ("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n"),
        ("GET", "HTTP/1.1 204 No Content\r\n\r\n"),
        ("GET", "HTTP/1.1 304 Not Modified\r\n\r\n"),
        ("GET", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
        ("GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ] {
        let origin = Origin::by_hand();
        let proxy = Proxy::to(&origin);
        let mut client = Client::connect(&proxy);
        client.ask(&format!("{method} /1"), &[], "");
        let mut first = origin.accept();
        first.request();
        first.send(format!("{answer}HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nEVIL"));
        assert_eq!(client.response_to_head().line, answer.lines().next().unwrap());
        first.expect_gone();
        if answer.contains("chunked") {
            client.expect("0\r\n\r\n");
        }
        client.ask("GET /2", &[], "");
        let mut second = origin.accept();
        assert_eq!(second.request().target(), "/2");
        second.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood");
        assert_eq!(client.response().text(), "good");
    }
}

#[test]
fn expect_100_continue_is_asked_and_answered_end_to_end() {
    let origin = Origin::by_hand();
    let proxy = Proxy::to(&origin);
    let mut client = Client::connect(&proxy);
    client.ask("POST /", &["Expect: 100-continue", "Content-Length: 4"], "");
    let mut upstream = origin.accept();
    let head = upstream.head();
    assert_eq!(head.field("expect"), Some("100-continue"));
    client.expect_silence(A_WHILE);
    upstream.send("HTTP/1.1 100 Continue\r\n\r\n");
    assert_eq!(client.head().status(), 100);
    client.send("body");
    assert_eq!(upstream.body_of(head).expect("a whole request").text(), "body");
    upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    assert_eq!(client.response().text(), "ok");
}

#[test]
fn a_body_that_does_not_wait_for_the_100_goes_on_as_it_comes() {
    let origin = Origin::by_hand();
    let proxy = Proxy::to(&origin);
    let mut client = Client::connect(&proxy);
    client.ask("POST /", &["Expect: 100-continue", "Content-Length: 4"], "body");
    let mut upstream = origin.accept();
    assert_eq!(upstream.request().text(), "body");
    upstream.send("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    assert_eq!(client.head().status(), 100);
    assert_eq!(client.response().text(), "ok");
}

#[test]
fn a_final_answer_instead_of_the_100_is_passed_on() {
    let origin = Origin::by_hand();
    let proxy = Proxy::to(&origin);
    let mut client = Client::connect(&proxy);
    client.ask("POST /", &["Expect: 100-continue", "Content-Length: 4"], "");
    let mut upstream = origin.accept();
    upstream.head();
    upstream.send("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno");
    let response = client.response();
    assert_eq!((response.status(), response.text().as_str()), (403, "no"));
    upstream.expect_gone();
}

#[test]
fn any_other_expectation_is_417() {
    let origin = echo();
    let proxy = Proxy::to(&origin);
    for fields in [&["Expect: 200-ok"][..], &["Expect: 100-continue, x"], &["Expect: 100-continue", "Expect: y"]] {
        let mut client = Client::connect(&proxy);
        client.ask("GET /", fields, "");
        assert_eq!(client.response().status(), 417, "{fields:?}");
    }
    assert_eq!(origin.connections(), 0);
}

#[test]
fn interim_answers_are_passed_on() {
    let origin = Origin::by_hand();
    let proxy = Proxy::to(&origin);
    let mut client = Client::connect(&proxy);
    client.ask("GET /", &[], "");
    let mut upstream = origin.accept();
    upstream.request();
    upstream
        .send("HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\nConnection: X-Hop\r\nX-Hop: 1\r\n\r\n");
    let early = client.head();
    assert_eq!((early.status(), early.field("link")), (103, Some("</style.css>; rel=preload")));
    assert_eq!((early.field("x-hop"), early.field("connection")), (None, None));
    upstream
        .send("HTTP/1.1 103 Early Hints\r\nLink: </more.css>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    assert_eq!(client.head().field("link"), Some("</more.css>"));
    assert_eq!(client.response().text(), "ok");
}

#[test]
fn interim_answers_without_end_are_a_fault() {
    let many = "HTTP/1.1 103 Early Hints\r\n\r\n".repeat(17);
    let origin =
        Origin::answering(move |_| Answer::raw(format!("{many}HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")));
    let proxy = Proxy::to(&origin);
    let mut client = Client::connect(&proxy);
    client.ask("GET /", &[], "");
    loop {
        match client.try_response() {
            Ok(response) if response.status() == 103 => {}
            Ok(response) => break assert_eq!(response.status(), 500),
            Err(cut) => break assert_eq!(cut.stop, Stop::Reset),
        }
    }
}

// Connections.

#[test]
fn upstream_connections_are_kept_and_reused() {
    let origin = echo();
    let proxy = Proxy::to(&origin);
    for _ in 0..3 {
        let mut client = Client::connect(&proxy);
        for _ in 0..5 {
            assert_eq!(client.get("/").status(), 200);
        }
    }
    assert_eq!((origin.connections(), origin.requests().len()), (1, 15));
}

#[test]
fn an_upstream_connection_that_asks_to_close_is_not_reused() {
    let origin =
        Origin::answering(|_| Answer::raw("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"));
    let proxy = Proxy::to(&origin);
    let mut client = Client::connect(&proxy);
    for _ in 0..3 {
        assert_eq!(client.get("/").text(), "ok");
    }
    assert_eq!(origin.connections(), 3);
}

#[test]
fn a_client_that_asks_to_close_is_answered_and_closed() {
    let origin = echo();
    let proxy = Proxy::to(&origin);
    let mut client = Client::connect(&proxy);
    client.ask("GET /", &["Connection: close"], "");
    let response = client.response();
    assert_eq!((response.text().as_str(), response.list("connection")), ("/ ", vec!["close".to_owned()]));
    client.expect_end();
}

#[test]
fn sixty_four_requests_in_one_packet_are_answered_in_order() {
    let origin = echo();
    let proxy = Proxy::to(&origin);
    let mut client = Client::connect(&proxy);
    let requests: Vec<u8> = (0..64).flat_map(|number| request(&format!("GET /{number}"), &[], "")).collect();
    client.send(requests);
    for number in 0..64 {
        assert_eq!(client.response().text(), format!("/{number} "));
    }
    client.expect_silence(A_WHILE);
    assert_eq!(origin.requests().len(), 64);
}

#[test]
fn an_empty_line_behind_a_body_begins_no_request() {
    let origin = Origin::saying("ok");
    let proxy = Proxy::with("[timeouts]\nkeep_alive = \"1500ms\"\nhead = \"200ms\"", &origin);
    let mut client = Client::connect(&proxy);
    client.ask("POST /", &["Content-Length: 4"], "body\r\n");
    assert_eq!(client.response().text(), "ok");
    client.expect_silence(Duration::from_millis(300));
    // On its own it is no request either, and what comes behind it is one.
    client.send("\r\n");
    timed(Duration::from_millis(1490), Duration::from_secs(3), || {
        assert_eq!(client.get("/next").text(), "ok");
        client.send("\r\n");
        client.expect_end();
    });
    assert_eq!(origin.requests().len(), 2);
    assert!(!proxy.log().iter().any(|line| line.contains("status=408")), "an idle connection is closed without a word");
}

#[test]
fn pipelined_requests_with_bodies_are_told_apart() {
    let origin = echo();
    let proxy = Proxy::to(&origin);
    let mut client = Client::connect(&proxy);
    let bytes = [
        request("POST /1", &["Content-Length: 3"], "one"),
        request("POST /2", &["Transfer-Encoding: chunked"], chunked(b"twenty-two", 4)),
        request("GET /3", &[], ""),
    ]
    .concat();
    client.send(&bytes);
    for expected in ["/1 one", "/2 twenty-two", "/3 "] {
        assert_eq!(client.response().text(), expected);
    }
    // The same bytes one at a time mean the same.
    for byte in &bytes {
        client.send([*byte]);
    }
    for expected in ["/1 one", "/2 twenty-two", "/3 "] {
        assert_eq!(client.response().text(), expected);
    }
}

#[test]
fn a_get_on_a_connection_that_was_just_closing_is_asked_once_more() {
    let origin = Origin::by_hand();
    let proxy = Proxy::to(&origin);
    let mut client = Client::connect(&proxy);
    let mut first = reused_once(&origin, &mut client);
    client.ask("GET /again", &[], "");
    assert_eq!(first.request().target(), "/again");
    drop(first);
    let mut second = origin.accept();
    assert_eq!(second.request().target(), "/again");
    second.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    assert_eq!(client.response().text(), "ok");
}

#[test]
fn a_get_is_asked_once_more_and_no_more_than_once() {
    let origin = Origin::by_hand();
    let proxy = Proxy::to(&origin);
    let mut client = Client::connect(&proxy);
    let mut first = reused_once(&origin, &mut client);
    client.ask("GET /again", &[], "");
    first.request();
    first.reset();
    let mut second = origin.accept();
    second.request();
    drop(second);
    client.expect_own_answer(500);
    origin.expect_no_connection(A_WHILE);
}

#[test]
fn a_post_is_never_sent_twice() {
    let origin = Origin::by_hand();
    let proxy = Proxy::to(&origin);
    let mut client = Client::connect(&proxy);
    let mut first = reused_once(&origin, &mut client);
    client.ask("POST /pay", &["Content-Length: 3"], "100");
    assert_eq!(first.request().text(), "100");
    drop(first);
    client.expect_own_answer(500);
    origin.expect_no_connection(A_WHILE);
}

#[test]
fn a_put_is_asked_once_more_if_it_is_whole_in_memory_and_else_not() {
    let origin = Origin::by_hand();
    let proxy = Proxy::to(&origin);
    let mut client = Client::connect(&proxy);
    let mut first = reused_once(&origin, &mut client);
    client.ask("PUT /small", &["Content-Length: 3"], "new");
    assert_eq!(first.request().text(), "new");
    drop(first);
    let mut second = origin.accept();
    let again = second.request();
    assert_eq!((again.target(), again.text().as_str()), ("/small", "new"));
    second.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    assert_eq!(client.response().text(), "ok");

    client.ask("PUT /large", &["Content-Length: 1000000"], vec![b'x'; 500_000]);
    second.head();
    second.bytes(500_000);
    second.reset();
    client.expect_empty(500);
    origin.expect_no_connection(A_WHILE);
}

#[test]
fn a_get_whose_answer_has_begun_is_not_asked_again() {
    let origin = Origin::by_hand();
    let proxy = Proxy::to(&origin);
    let mut client = Client::connect(&proxy);
    let mut first = reused_once(&origin, &mut client);
    client.ask("GET /", &[], "");
    first.request();
    first.send("HTTP/1.1 2");
    drop(first);
    client.expect_own_answer(500);
    origin.expect_no_connection(A_WHILE);
}

#[test]
fn bytes_on_an_idle_upstream_connection_close_it() {
    let origin = Origin::by_hand();
    let proxy = Proxy::to(&origin);
    let mut client = Client::connect(&proxy);
    let mut first = reused_once(&origin, &mut client);
    first.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nEVIL");
    first.expect_gone();
    client.ask("POST /", &["Content-Length: 2"], "hi");
    let mut second = origin.accept();
    assert_eq!(second.request().text(), "hi");
    second.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood");
    assert_eq!(client.response().text(), "good");
}

#[test]
fn an_idle_upstream_connection_that_ends_is_let_go() {
    let origin = Origin::by_hand();
    let proxy = Proxy::to(&origin);
    let mut client = Client::connect(&proxy);
    let mut first = reused_once(&origin, &mut client);
    first.end();
    first.expect_gone();
    client.ask("POST /", &["Content-Length: 2"], "hi");
    let mut second = origin.accept();
    second.request();
    second.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood");
    assert_eq!(client.response().text(), "good");
}

/// One exchange, after which its upstream connection waits to be reused.
fn reused_once(origin: &Origin, client: &mut Client) -> Connection {
    client.ask("GET /first", &[], "");
    let mut connection = origin.accept();
    connection.request();
    connection.send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfirst");
    assert_eq!(client.response().text(), "first");
    connection
}

// Cut answers, early answers, answers that take their time.

#[test]
fn a_cut_answer_ends_in_a_reset_and_never_looks_whole() {
    let (length, chunked) = ("Content-Length: 10", "Transfer-Encoding: chunked");
    let cases = [
        (length, ""),
        (length, "half"),
        (chunked, ""),
        (chunked, "5\r\nhe"),
        (chunked, "5\r\nhello\r\n"),
        (chunked, "5\r\nhello\r\n0\r\n"),
        (chunked, "5\r\nhello\r\n0\r\nX: y\r\n"),
        (chunked, "5\r\nhelloX"),
    ];
    for (framing, body) in cases {
        let origin = Origin::by_hand();
        let proxy = Proxy::to(&origin);
        let mut client = Client::connect(&proxy);
        client.ask("GET /", &[], "");
        let mut upstream = origin.accept();
        upstream.request();
        upstream.send(format!("HTTP/1.1 200 OK\r\n{framing}\r\n\r\n"));
        let head = client.response_head();
        upstream.send(body);
        drop(upstream);
        let cut = client.body_of(head).expect_err(body);
        assert_eq!(cut.stop, Stop::Reset, "{framing}, {body:?}");
    }
}

#[test]
fn an_answer_until_close_that_is_reset_is_reset() {
    let origin = Origin::by_hand();
    let proxy = Proxy::to(&origin);
    let mut client = Client::connect(&proxy);
    client.ask("GET /", &[], "");
    let mut upstream = origin.accept();
    upstream.request();
    upstream.send("HTTP/1.1 200 OK\r\n\r\nhalf");
    let head = client.response_head();
    client.expect("half");
    upstream.reset();
    let cut = client.body_of(head).expect_err("a reset is no end");
    assert_eq!(cut.stop, Stop::Reset);
}

#[test]
fn an_answer_until_close_that_is_reset_before_a_slow_client_has_read_it_is_reset() {
    let origin = Origin::by_hand();
    let proxy = Proxy::to(&origin);
    let mut client = Client::connect(&proxy);
    client.ask("GET /", &[], "");
    let mut upstream = origin.accept();
    upstream.request();
    upstream.send("HTTP/1.1 200 OK\r\n\r\n");
    upstream.socket().set_write_timeout(Some(A_WHILE)).unwrap();
    while upstream.try_send([b'x'; 100_000]).is_ok() {}
    let head = client.response_head();
    upstream.reset();
    // Who is answered now is answered behind the event of the reset.
    let mut next = Client::connect(&proxy);
    next.ask("OPTIONS /", &["Max-Forwards: 0"], "");
    next.expect_empty(200);
    let cut = client.body_of(head).expect_err("a reset is no end");
    assert_eq!(cut.stop, Stop::Reset);
}

#[test]
fn an_answer_until_close_whose_upstream_closes_on_the_upload_is_reset() {
    let origin = Origin::by_hand();
    let proxy = Proxy::to(&origin);
    let mut client = Client::connect(&proxy);
    client.ask("POST /", &["Content-Length: 500000000"], "");
    let mut upstream = origin.accept();
    upstream.head();
    upstream.send("HTTP/1.1 200 OK\r\n\r\nhalf");
    let head = client.response_head();
    client.expect("half");
    client.socket().set_write_timeout(Some(A_WHILE)).unwrap();
    while client.try_send([b'x'; 100_000]).is_ok() {}
    drop(upstream);
    let cut = client.body_of(head).expect_err("closing on an upload is no end");
    assert_eq!(cut.stop, Stop::Reset);
}

#[test]
fn an_answer_until_close_is_reset_although_a_write_is_told_of_it_first() {
    let origin = Origin::by_hand();
    let proxy = Proxy::to(&origin);
    let crowd = Crowd::of(&proxy);
    let mut client = Client::connect(&proxy);
    client.ask("POST /", &["Content-Length: 1000"], "");
    let mut upstream = origin.accept();
    upstream.head();
    upstream.send("HTTP/1.1 200 OK\r\n\r\nhalf");
    let head = client.response_head();
    client.expect("half");
    proxy.while_held(|| {
        client.send("more of the body");
        crowd.stir();
        upstream.reset();
    });
    let cut = client.body_of(head).expect_err("a reset is no end");
    assert_eq!(cut.stop, Stop::Reset);
}

#[test]
fn a_client_that_ends_its_side_within_an_answer_until_close_sees_that_it_is_cut() {
    let origin = Origin::by_hand();
    let proxy = Proxy::to(&origin);
    let mut client = Client::connect(&proxy);
    client.ask("GET /", &[], "");
    let mut upstream = origin.accept();
    upstream.request();
    upstream.send("HTTP/1.1 200 OK\r\n\r\nfirst half,");
    let head = client.response_head();
    client.expect("first half,");
    client.end();
    let cut = client.body_of(head).expect_err("the second half never comes");
    assert_eq!(cut.stop, Stop::Reset);
    upstream.expect_gone();
}

#[test]
fn an_early_answer_says_close_if_too_much_of_the_upload_is_to_come() {
    let origin = Origin::by_hand();
    let proxy = Proxy::to(&origin);
    for (length, connection) in [("1000", &[][..]), ("10000000", &["close"])] {
        let mut client = Client::connect(&proxy);
        client.ask("POST /upload", &[&format!("Content-Length: {length}")], "the first bytes");
        let mut upstream = origin.accept();
        upstream.head();
        upstream.send("HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\n\r\n");
        assert_eq!(client.expect_empty(413).list("connection"), connection, "{length} bytes in all");
    }
}

#[test]
fn an_early_answer_to_an_upload_is_passed_on_and_its_connection_not_reused() {
    let origin = Origin::by_hand();
    let proxy = Proxy::to(&origin);
    let mut client = Client::connect(&proxy);
    client.ask("POST /upload", &["Content-Length: 1000"], "the first bytes");
    let mut upstream = origin.accept();
    upstream.head();
    upstream.send("HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\nno");
    let response = client.response();
    assert_eq!((response.status(), response.text().as_str()), (401, "no"));
    assert_eq!(response.field("connection"), None, "so little is left of the body that it is drained");
    client.send(vec![b'x'; 985]);
    client.ask("GET /next", &[], "");
    let mut second = origin.accept();
    assert_eq!(second.request().target(), "/next");
    second.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    assert_eq!(client.response().text(), "ok");
    assert_ne!(upstream.rest().1, Stop::Silence, "the upstream connection is given up");
}

#[test]
fn an_early_answer_to_a_long_upload_arrives_and_the_client_is_closed() {
    let origin = Origin::by_hand();
    let proxy = Proxy::to(&origin);
    let mut client = Client::connect(&proxy);
    client.ask("POST /upload", &["Content-Length: 10000000"], "the first bytes");
    let mut upstream = origin.accept();
    upstream.head();
    upstream.send("HTTP/1.1 413 Content Too Large\r\nContent-Length: 8\r\n\r\ntoo much");
    let response = client.response();
    assert_eq!((response.status(), response.text().as_str()), (413, "too much"));
    let writer = client.writer();
    let sending = std::thread::spawn(move || while writer.try_send([b'x'; 10_000]).is_ok() {});
    assert_ne!(client.rest().1, Stop::Silence);
    drop(client);
    sending.join().unwrap();
}

#[test]
fn an_early_answer_arrives_although_its_upstream_has_closed_on_the_upload() {
    let origin = Origin::running(|mut connection| {
        if connection.try_head().is_ok() {
            // Closing with bytes unread resets the connection, right behind the answer.
            connection.send("HTTP/1.1 413 Content Too Large\r\nConnection: close\r\nContent-Length: 8\r\n\r\ntoo much");
        }
    });
    let proxy = Proxy::to(&origin);
    for _ in 0..20 {
        let mut client = Client::connect(&proxy);
        client.ask("POST /upload", &["Content-Length: 10000000"], "");
        let writer = client.writer();
        let sending = std::thread::spawn(move || while writer.try_send([b'x'; 10_000]).is_ok() {});
        let response = client.response();
        assert_eq!((response.status(), response.text().as_str()), (413, "too much"));
        client.socket().shutdown(Shutdown::Both).unwrap();
        sending.join().unwrap();
    }
}

#[test]
fn server_sent_events_arrive_as_they_are_sent() {
    let origin = Origin::by_hand();
    let proxy = Proxy::with(
        "[timeouts]\nresponse = \"900ms\"\nkeep_alive = \"900ms\"\nhead = \"900ms\"\nidle = \"900ms\"",
        &origin,
    );
    for framing in ["Transfer-Encoding: chunked", "X-Until: close"] {
        let mut client = Client::connect(&proxy);
        client.ask("GET /events", &["Accept: text/event-stream"], "");
        let mut upstream = origin.accept();
        upstream.request();
        upstream.send(format!("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n{framing}\r\n\r\n"));
        client.response_head();
        // A pause longer than every limit for ordinary answers: an event stream is quiet for as long as a tunnel may be.
        client.expect_silence(Duration::from_millis(1300));
        for event in ["data: one\n\n", "data: two\n\n"] {
            let sent =
                if framing.contains("chunked") { format!("{:x}\r\n{event}\r\n", event.len()) } else { event.into() };
            upstream.send(&sent);
            client.expect(&sent);
        }
    }
}

#[test]
fn a_long_upload_and_a_long_download_have_no_limit_as_a_whole() {
    let origin = Origin::by_hand();
    let proxy = Proxy::with(
        "[timeouts]\nresponse = \"1500ms\"\nidle = \"1500ms\"\nhead = \"1500ms\"\nkeep_alive = \"1500ms\"",
        &origin,
    );
    let mut client = Client::connect(&proxy);
    client.ask("PUT /", &["Content-Length: 8"], "");
    let mut upstream = origin.accept();
    for _ in 0..8 {
        std::thread::sleep(Duration::from_millis(250));
        client.send("u");
    }
    assert_eq!(upstream.request().text(), "uuuuuuuu");
    upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n");
    for _ in 0..8 {
        std::thread::sleep(Duration::from_millis(250));
        upstream.send("d");
    }
    assert_eq!(client.response().text(), "dddddddd");
}

#[test]
fn when_the_client_leaves_its_upstream_connection_is_closed() {
    let origin = Origin::by_hand();
    let proxy = Proxy::to(&origin);

    let client = Client::connect(&proxy);
    client.ask("GET /waiting", &[], "");
    let mut upstream = origin.accept();
    upstream.request();
    client.reset();
    upstream.expect_gone();

    let mut client = Client::connect(&proxy);
    client.ask("GET /streaming", &[], "");
    let mut upstream = origin.accept();
    upstream.request();
    upstream.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n");
    client.response_head();
    client.expect("2\r\nhi\r\n");
    drop(client);
    eventually("hawkey closes the upstream connection", || upstream.try_send("2\r\nhi\r\n").is_err());

    let mut next = Client::connect(&proxy);
    next.ask("GET /next", &[], "");
    let mut upstream = origin.accept();
    assert_eq!(upstream.request().target(), "/next");
    upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nmine");
    assert_eq!(next.response().text(), "mine");
}

#[test]
fn a_client_that_leaves_without_reading_is_noticed() {
    let origin = Origin::by_hand();
    let proxy = Proxy::to(&origin);
    let client = Client::connect(&proxy);
    client.ask("GET /big", &[], "");
    let mut upstream = origin.accept();
    upstream.request();
    let writer = upstream.writer();
    let sending = std::thread::spawn(move || {
        writer.send("HTTP/1.1 200 OK\r\nContent-Length: 500000000\r\n\r\n");
        while writer.try_send([b'x'; 100_000]).is_ok() {}
    });
    std::thread::sleep(A_WHILE);
    client.reset();
    upstream.expect_gone();
    sending.join().unwrap();
}

#[test]
fn a_client_that_leaves_while_its_upload_is_held_back_is_noticed() {
    let origin = Origin::by_hand();
    let proxy = Proxy::to(&origin);
    let client = Client::connect(&proxy);
    client.ask("POST /big", &["Content-Length: 500000000"], "");
    let mut upstream = origin.accept();
    upstream.head();
    client.socket().set_write_timeout(Some(A_WHILE)).unwrap();
    while client.try_send([b'x'; 100_000]).is_ok() {}
    client.reset();
    proxy.wait_for_log(&["target=\"/big\"", "by=client"]);
    assert_ne!(upstream.rest().1, Stop::Silence);
}

// Faults.

#[test]
fn an_answer_that_is_nonsense_is_500_and_its_connection_not_reused() {
    let too_large = format!("HTTP/1.1 200 OK\r\nX: {}\r\nContent-Length: 0\r\n\r\n", "x".repeat(70_000));
    let too_many = format!("HTTP/1.1 200 OK\r\n{}Content-Length: 0\r\n\r\n", "A: b\r\n".repeat(5000));
    let cases = [
        "SSH-2.0-OpenSSH_9.6\r\n\r\n",
        "<html>HTTP/0.9</html>\r\n\r\n",
        "HTTP/2.0 200 OK\r\n\r\n",
        "HTTP/1.1 99 Low\r\n\r\n",
        "HTTP/1.1 1000 High\r\n\r\n",
        "HTTP/1.1 600 High\r\n\r\n",
        "HTTP/1.1 000 Zero\r\n\r\n",
        "HTTP/1.1 abc Word\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nhi",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\nhi",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nhi",
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: a\rb\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        &too_large,
        &too_many,
    ];
    for bytes in cases {
        let origin = Origin::by_hand();
        let proxy = Proxy::to(&origin);
        let mut client = Client::connect(&proxy);
        client.ask("GET /", &[], "");
        let mut upstream = origin.accept();
        upstream.request();
        // An upstream whose head is refused half-way may be reset while it still writes.
        let _ = upstream.try_send(bytes);
        client.expect_own_answer(500);
        upstream.expect_gone();
    }
}

#[test]
fn an_upstream_that_ends_before_its_answer_is_500() {
    let ways: [fn(Connection); 3] = [drop, Connection::reset, |mut connection| {
        connection.request();
    }];
    for way in ways {
        let origin = Origin::running(way);
        let proxy = Proxy::to(&origin);
        let mut client = Client::connect(&proxy);
        client.ask("GET /", &[], "");
        client.expect_own_answer(500);
        client.ask("POST /", &["Content-Length: 2"], "hi");
        client.expect_own_answer(500);
    }
}

#[test]
fn a_fault_in_the_middle_of_an_upload_is_500_and_what_is_left_of_it_is_no_request() {
    let origin = Origin::by_hand();
    let proxy = Proxy::to(&origin);
    let mut client = Client::connect(&proxy);
    client.ask("POST /", &["Content-Length: 46"], "GET /");
    let mut upstream = origin.accept();
    upstream.head();
    upstream.reset();
    let response = client.expect_empty(500);
    // The rest of the body, which looks like the rest of a request.
    let _ = client.try_send("smuggled HTTP/1.1\r\nHost: evil.example\r\n\r\n");
    if response.list("connection").is_empty() {
        client.ask("GET /next", &[], "");
        let mut upstream = origin.accept();
        assert_eq!(upstream.request().target(), "/next");
        upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nnext");
        assert_eq!(client.response().text(), "next");
    } else {
        client.expect_gone();
    }
    origin.expect_no_connection(A_WHILE);
}

#[test]
fn the_status_of_a_fault_is_a_setting() {
    let origin = Origin::refusing();
    for (setting, status) in [("", 500), ("fault_status = 500\n", 500), ("fault_status = 502\n", 502)] {
        let proxy = Proxy::start(&format!("{setting}{}", routes(&[("/", &origin, "")])));
        let mut client = Client::connect(&proxy);
        client.ask("GET /", &[], "");
        client.expect_own_answer(status);
    }
}

#[test]
fn bare_line_feeds_of_an_upstream_are_written_anew() {
    let (response, _origin) = answered("HTTP/1.1 200 OK\nServer: old\nContent-Length: 2\n\nhi");
    let response = response.expect("a whole response");
    assert_eq!(
        (response.line.as_str(), response.field("server"), response.text().as_str()),
        ("HTTP/1.1 200 OK", Some("old"), "hi")
    );
}

#[test]
fn an_upstream_may_write_its_coding_in_any_case() {
    for coding in ["Chunked", "CHUNKED"] {
        let answer = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: {coding}\r\n\r\n2\r\nhi\r\n0\r\n\r\n");
        let (response, _origin) = answered(answer);
        let response = response.expect("a whole response");
        assert_eq!((response.text().as_str(), response.field("transfer-encoding")), ("hi", Some("chunked")));
    }
}

#[test]
fn an_http_1_0_upstream_is_understood() {
    let (response, _origin) = answered("HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi");
    let response = response.expect("a whole response");
    assert_eq!((response.line.as_str(), response.text().as_str()), ("HTTP/1.1 200 OK", "hi"));
    let (response, _origin) = answered("HTTP/1.0 200 OK\r\n\r\nuntil close");
    assert_eq!(response.expect("a whole response").text(), "until close");
}
