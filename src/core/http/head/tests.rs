//! Heads that are understood, and heads that are refused.

use super::*;

/// What a parse comes to, in a form that can be compared: method, target, host, framing; or the status.
fn request(text: &[u8]) -> Result<Option<(String, usize)>, Reject> {
    let mut storage = empty_fields();
    let parsed = RequestHead::parse(text, &mut storage, &Limits::default())?;
    Ok(parsed.map(|(head, bytes)| {
        let host = head.authority.map_or("-".into(), |authority| String::from_utf8_lossy(authority.text));
        (format!("{} {} {host} {:?}", head.method, head.target.path_and_query, head.framing), bytes)
    }))
}

/// The same bytes told as they would be by a client that sends them one by one: the first verdict counts.
fn byte_by_byte(text: &[u8]) -> Result<Option<(String, usize)>, Reject> {
    for end in 1..text.len() {
        let told = request(&text[..end])?;
        assert!(told.is_none() || text.len() > end, "a verdict before the end of {:?}", String::from_utf8_lossy(text));
        if told.is_some() {
            return Ok(told);
        }
    }
    request(text)
}

#[test]
fn requests_whole_byte_by_byte_and_with_bytes_behind_them() {
    let cases = [
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", "GET / a None"),
        ("\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", "GET / a None"),
        ("GET / HTTP/1.1\r\nHost:\r\n\r\n", "GET /  None"),
        ("POST /x?y HTTP/1.1\r\nHost: a:1\r\nContent-Length: 0007\r\n\r\n", "POST /x?y a:1 Length(7)"),
        ("GET http://b/x HTTP/1.1\r\nHost: a\r\n\r\n", "GET /x b None"),
        ("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", "OPTIONS * a None"),
        ("GET / HTTP/1.0\r\n\r\n", "GET / - None"),
    ];
    for (text, expected) in cases {
        let whole = Ok(Some((expected.to_string(), text.len())));
        assert_eq!(request(text.as_bytes()), whole, "{text:?} whole");
        assert_eq!(byte_by_byte(text.as_bytes()), whole, "{text:?} byte by byte");
        let trailed = [text, "\0\nGET"].concat();
        assert_eq!(request(trailed.as_bytes()), whole, "{text:?} with bytes behind it");
    }
}

#[test]
fn what_is_refused_is_refused_at_any_cut() {
    let long_target = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(8192));
    let long_head = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(16 * 1024));
    let many_fields = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "A: b\r\n".repeat(100));
    let long_method = format!("{} / HTTP/1.1\r\nHost: a\r\n\r\n", "M".repeat(33));
    let cases = [
        (400, "GET / HTTP/1.1\r\n\r\n"),
        (400, "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n"),
        (400, "GET / HTTP/1.1\r\nHost: a, b\r\n\r\n"),
        (400, "GET http://a/ HTTP/1.1\r\nHost:\r\n\r\n"),
        (400, "GET / HTTP/1.1\nHost: a\n\n"),
        (400, "GET / HTTP/1.1\r\nHost: a\n\r\n"),
        (400, "GET / HTTP/1.1\r\nHost: a\r\n\n"),
        (400, "GET / HTTP/1.1\r\nHost : a\r\n\r\n"),
        (400, "GET / HTTP/1.1\r\nHost: a\r\n b\r\n\r\n"),
        (400, "GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n"),
        (400, "GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n"),
        (400, "GET / HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n"),
        (400, "GET / HTTP/1.1\r\nHost: a\r\nX\r\n\r\n"),
        (400, "GET  / HTTP/1.1\r\nHost: a\r\n\r\n"),
        (400, "GET /\r\nHost: a\r\n\r\n"),
        (400, "GET / HTTP/01.1\r\nHost: a\r\n\r\n"),
        (400, "GET / http/1.1\r\nHost: a\r\n\r\n"),
        (400, "GET /# HTTP/1.1\r\nHost: a\r\n\r\n"),
        (400, "GET * HTTP/1.1\r\nHost: a\r\n\r\n"),
        (400, "\r\n\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"),
        (400, "\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"),
        (400, "\x16\x03\x01\x02\0\x01"),
        (400, "SSH-2.0-OpenSSH_9.2\r\n"),
        (400, "PROXY TCP4 127.0.0.1 127.0.0.1 1 2\r\n"),
        (400, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n"),
        (400, "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"),
        (400, "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 1\r\n\r\n"),
        (400, long_method.as_str()),
        (405, "CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n"),
        (405, "TRACE / HTTP/1.1\r\nHost: a\r\n\r\n"),
        (414, long_target.as_str()),
        (417, "GET / HTTP/1.1\r\nHost: a\r\nExpect: tea\r\n\r\n"),
        (417, "GET / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nExpect: 100-continue\r\n\r\n"),
        (431, long_head.as_str()),
        (431, many_fields.as_str()),
        (500, "GET / HTTP/1.2\r\nHost: a\r\n\r\n"),
        (500, "GET / HTTP/0.9\r\n\r\n"),
        (500, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
        (501, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n"),
    ];
    for (status, text) in cases {
        let whole = request(text.as_bytes()).map_err(Reject::status);
        assert_eq!(whole, Err(status), "{text:.80?} whole");
        let cut = byte_by_byte(text.as_bytes()).map_err(Reject::status);
        assert_eq!(cut, Err(status), "{text:.80?} byte by byte");
    }
}

#[test]
fn no_lf_stands_in_a_request_but_behind_a_cr() {
    for text in [
        "GET /a HTTP/1.1\r\nHost: a\r\nA:\r\nB:\t\r\nC: c d \r\nD:d\r\n\r\n",
        "GET / HTTP/1.1\r\nA: a\r\nHost:  a  \r\n\r\n",
        "GET / HTTP/1.0\r\n\r\n",
    ] {
        assert!(matches!(request(text.as_bytes()), Ok(Some(_))), "{text:?}");
        for (cr, _) in text.match_indices("\r\n") {
            let bare = [&text[..cr], &text[cr + 1..]].concat();
            assert_eq!(request(bare.as_bytes()).map_err(Reject::status), Err(400), "{bare:?}");
        }
        for at in 0..text.len() - 1 {
            let stray = [&text[..at], "\n", &text[at..]].concat();
            assert_eq!(request(stray.as_bytes()).map_err(Reject::status), Err(400), "{stray:?}");
        }
    }
}

#[test]
fn the_limits_themselves_are_allowed() {
    let fields = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "A: b\r\n".repeat(99));
    assert!(request(fields.as_bytes()).unwrap().is_some(), "100 fields");
    let target = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(8191));
    assert!(request(target.as_bytes()).unwrap().is_some(), "a target of 8 KiB");
    let frame = "GET / HTTP/1.1\r\nHost: a\r\nX: \r\n\r\n".len();
    let head = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(16 * 1024 - frame));
    assert_eq!(request(head.as_bytes()).unwrap().unwrap().1, 16 * 1024, "a head of 16 KiB");
}

#[test]
fn a_websocket_is_asked_for_by_both_fields() {
    let asks = |head: &str| {
        let text = format!("{head}Host: a\r\n\r\n");
        let mut storage = empty_fields();
        RequestHead::parse(text.as_bytes(), &mut storage, &Limits::default()).unwrap().unwrap().0.asks_for_websocket
    };
    assert!(asks("GET / HTTP/1.1\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n"));
    assert!(asks(
        "GET / HTTP/1.1\r\nConnection: keep-alive\r\nUpgrade: h2c\r\nConnection: UPGRADE\r\nUpgrade: WebSocket\r\n"
    ));
    assert!(asks("GET / HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 0\r\n"));
    for head in [
        "GET / HTTP/1.1\r\nUpgrade: websocket\r\n",
        "GET / HTTP/1.1\r\nConnection: upgrade\r\n",
        "GET / HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: h2c\r\n",
        "POST / HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: websocket\r\n",
        "HEAD / HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: websocket\r\n",
        "GET / HTTP/1.0\r\nConnection: upgrade\r\nUpgrade: websocket\r\n",
    ] {
        assert!(!asks(head), "{head:?}");
    }
}

fn response(text: &[u8]) -> Result<Option<(u16, usize)>, Fault> {
    let mut storage = empty_fields();
    Ok(ResponseHead::parse(text, &mut storage, &Limits::default())?.map(|(head, bytes)| (head.status, bytes)))
}

#[test]
fn responses_whole_byte_by_byte_and_with_bytes_behind_them() {
    for (text, status) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n", 200),
        ("HTTP/1.1 200\r\n\r\n", 200),
        ("HTTP/1.0 404 Not Found\nA: b\n\n", 404),
        ("HTTP/1.1 101 Switching Protocols\r\nContent-Length: 1\r\nTransfer-Encoding: x\r\n\r\n", 101),
        ("HTTP/1.1 599 \r\n\r\n", 599),
    ] {
        assert_eq!(response(text.as_bytes()), Ok(Some((status, text.len()))), "{text:?} whole");
        for end in 0..text.len() {
            assert_eq!(response(&text.as_bytes()[..end]), Ok(None), "{text:?} cut at {end}");
        }
        assert_eq!(
            response(&[text.as_bytes(), b"\0x"].concat()),
            Ok(Some((status, text.len()))),
            "{text:?} with bytes behind it"
        );
    }
}

#[test]
fn a_stream_of_events_is_known_by_its_content_type_in_any_case() {
    for (kind, expected) in [
        ("text/event-stream", true),
        ("Text/Event-Stream; charset=utf-8", true),
        ("text/event-strean", false),
        ("text/event", false),
        ("application/octet-stream", false),
    ] {
        let text = format!("HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\n\r\n");
        let mut storage = empty_fields();
        let (head, _) = ResponseHead::parse(text.as_bytes(), &mut storage, &Limits::default()).unwrap().unwrap();
        assert_eq!(head.is_event_stream, expected, "{kind}");
    }
}

#[test]
fn responses_that_are_none_are_faults() {
    let endless = format!("HTTP/1.1 200 OK\r\nX: {}", "x".repeat(16 * 1024));
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "A: b\r\n".repeat(5000));
    for text in [
        "HTTP/1.1 099 x\r\n\r\n",
        "HTTP/1.1 600 x\r\n\r\n",
        "HTTP/1.1 000 x\r\n\r\n",
        "HTTP/1.1 1000 x\r\n\r\n",
        "HTTP/1.1 abc\r\n\r\n",
        "HTTP/2.0 200 OK\r\n\r\n",
        "SSH-2.0-OpenSSH_9.2\r\n",
        "<html>",
        "\r\nHTTP/1.1 200 OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n",
        "HTTP/1.1 200 OK\r\nA: b\0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nA: b\rc\r\n\r\n",
        "HTTP/1.1 200 OK\r\nA : b\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        endless.as_str(),
        many.as_str(),
    ] {
        assert!(response(text.as_bytes()).is_err(), "{text:.60?}: {:?}", response(text.as_bytes()));
    }
}
