//! What must hold of every message, conversation and configuration, for some thousands that chance has made: sound ones that must be
//! understood as they were meant, and the same with hostile changes. What is asserted of each stands in `fuzz/bodies`.
//!
//! The cases are the same in every run; `scripts/fuzz` looks further. A case that fails is made smaller and printed.

use std::fmt;

use hawkey::http::chunked::{ChunkScanner, Run};
use hawkey::http::framing::Framing;
use hawkey::http::head::{Limits, RequestHead, ResponseHead, empty_fields};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::test_runner::RngSeed;

#[path = "../fuzz/bodies/mod.rs"]
mod bodies;

fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, rng_seed: RngSeed::Fixed(7), ..ProptestConfig::default() }
}

/// Bytes that are printed as text.
#[derive(Clone, PartialEq, Eq)]
struct Bytes(Vec<u8>);

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", bodies::message::Shown(&self.0))
    }
}

// Hostile changes.

/// One change of a message, at a place that is found when the message is known.
#[derive(Clone, Debug)]
enum Change {
    Insert(Index, &'static [u8]),
    Replace(Index, u8),
    Remove(Index),
    /// A line stands twice.
    Repeat(Index),
    Truncate(Index),
}

const HOSTILE: &[&[u8]] = &[
    b"\r",
    b"\n",
    b"\r\n",
    b"\r\n\r\n",
    b"\0",
    b" ",
    b"\t",
    b"\x0b",
    b"\x0c",
    b"\x7f",
    b"\x80",
    b":",
    b",",
    b";",
    b"\"",
    b"_",
    b"/",
    b"\\",
    b"?",
    b"#",
    b"%",
    b"..",
    b"0",
    b"-",
    b"+",
    b"Content-Length: 5\r\n",
    b"Content-Length: 0\r\n",
    b"Content_Length: 5\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding : chunked\r\n",
    b"Transfer-Encoding: identity\r\n",
    b"Host: b\r\n",
    b"Connection: close, x-one\r\n",
    b"Connection: upgrade\r\nUpgrade: websocket\r\n",
    b"Expect: 100-continue\r\n",
    b" folded\r\n",
    b"X-Forwarded-For: 10.0.0.1\r\n",
    b"HTTP/1.0",
    b"http://c",
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
];

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let change = prop_oneof![
        4 => (any::<Index>(), select(HOSTILE)).prop_map(|(at, what)| Change::Insert(at, what)),
        2 => (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Change::Replace(at, byte)),
        2 => any::<Index>().prop_map(Change::Remove),
        1 => any::<Index>().prop_map(Change::Repeat),
        1 => any::<Index>().prop_map(Change::Truncate),
    ];
    vec(change, 1..4)
}

fn change(mut bytes: Vec<u8>, changes: &[Change]) -> Vec<u8> {
    for change in changes {
        match change {
            Change::Insert(at, what) => {
                let at = at.index(bytes.len() + 1);
                bytes.splice(at..at, what.iter().copied());
            }
            _ if bytes.is_empty() => {}
            Change::Replace(at, byte) => {
                let at = at.index(bytes.len());
                bytes[at] = *byte;
            }
            Change::Remove(at) => {
                bytes.remove(at.index(bytes.len()));
            }
            Change::Repeat(at) => {
                let at = at.index(bytes.len());
                let begin = bytes[..at].iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
                let end = bytes[at..].iter().position(|byte| *byte == b'\n').map_or(bytes.len(), |end| at + end + 1);
                let line = bytes[begin..end].to_vec();
                bytes.splice(begin..begin, line);
            }
            Change::Truncate(at) => bytes.truncate(at.index(bytes.len())),
        }
    }
    bytes
}

// Sound messages.

/// How a generated body is framed, and its bytes on the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Body {
    None,
    Length(Vec<u8>),
    Chunked(Chunked),
}

/// A chunked body and its content.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Chunked {
    wire: Bytes,
    content: Vec<u8>,
}

impl Body {
    fn fields(&self) -> String {
        match self {
            Body::None => String::new(),
            Body::Length(content) => format!("Content-Length: {}\r\n", content.len()),
            Body::Chunked(_) => "Transfer-Encoding: chunked\r\n".into(),
        }
    }

    fn wire(&self) -> &[u8] {
        match self {
            Body::None => b"",
            Body::Length(content) => content,
            Body::Chunked(chunked) => &chunked.wire.0,
        }
    }

    fn is(&self, framing: &Framing) -> bool {
        match (self, framing) {
            (Body::None, Framing::None | Framing::UntilClose) => true,
            (Body::Length(content), Framing::Length(length)) => content.len() as u64 == *length,
            (Body::Length(content), Framing::None) => content.is_empty(),
            (Body::Chunked(_), Framing::Chunked(_)) => true,
            _ => false,
        }
    }
}

fn chunked() -> impl Strategy<Value = Chunked> {
    let extension = prop_oneof![3 => Just(String::new()), 1 => r#";([ !#-~]|"([ !#-\[\]-~]|\\[ -~]){0,5}"){0,20}"#];
    let chunk = (vec(any::<u8>(), 1..40), 0..4_usize, extension.clone());
    let trailer = "[A-Za-z0-9-]{1,8}:[ -~]{0,20}\r\n";
    (vec(chunk, 0..5), extension, vec(trailer, 0..3)).prop_map(|(chunks, last, trailers)| {
        let (mut wire, mut all) = (Vec::new(), Vec::new());
        for (content, zeros, extension) in chunks {
            wire.extend_from_slice(format!("{}{:X}{extension}\r\n", "0".repeat(zeros), content.len()).as_bytes());
            wire.extend_from_slice(&content);
            wire.extend_from_slice(b"\r\n");
            all.extend(content);
        }
        wire.extend_from_slice(format!("0{last}\r\n{}\r\n", trailers.concat()).as_bytes());
        Chunked { wire: Bytes(wire), content: all }
    })
}

fn body() -> impl Strategy<Value = Body> {
    prop_oneof![
        3 => Just(Body::None),
        2 => vec(any::<u8>(), 0..60).prop_map(Body::Length),
        2 => chunked().prop_map(Body::Chunked),
    ]
}

/// Field lines that say nothing about framing, host or expectation, some of which end at a proxy.
fn fields() -> impl Strategy<Value = String> {
    let name = prop_oneof![
        3 => "[A-Za-z!#$%&'*+.^`|~-]{1,12}".prop_filter("means something", |name| !name.eq_ignore_ascii_case("host")),
        2 => select(&[
            "Accept", "Cookie", "x-one", "X-Two", "my_own", "TE", "Keep-Alive", "Proxy-Connection", "Trailer", "Content_Length",
            "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Forwarded-Port", "X-Real-IP", "Forwarded", "Max-Forwards",
            "HTTP2-Settings", "Content-Type", "X_Real_IP",
        ][..]).prop_map(str::to_owned),
    ];
    let line = prop_oneof![
        6 => (name, "[ \t]{0,2}", "([!-~]([ -~\t]{0,16}[!-~])?)?", "[ \t]{0,2}")
            .prop_map(|(name, before, value, behind)| format!("{name}:{before}{value}{behind}\r\n")),
        1 => select(&[
            "Connection: keep-alive\r\n", "Connection: close, X-One\r\n", "connection: x-two,, cookie\r\n", "Upgrade: h2c\r\n",
            "Connection: x-forwarded-for, host, content-length\r\n",
        ][..]).prop_map(str::to_owned),
    ];
    vec(line, 0..8).prop_map(|lines| lines.concat())
}

/// A request that must be understood, and what is meant by it.
#[derive(Clone, Debug)]
struct Request {
    method: String,
    host: String,
    body: Body,
    wire: Bytes,
}

fn request() -> impl Strategy<Value = Request> {
    let method = prop_oneof![
        3 => select(&["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"][..]).prop_map(str::to_owned),
        1 => "[A-Z]{1,12}".prop_filter("is not forwarded", |method| !matches!(method.as_str(), "CONNECT" | "TRACE")),
    ];
    let target = r"(/([A-Za-z0-9._~!$&'()*+,;=:@|-]|%[0-9a-fA-F]{2}){0,8}){1,3}(\?[A-Za-z0-9?/=&|^{}`%\\-]{0,8})?";
    let host = r"([a-z0-9.-]{1,12}|\[::1\])(:[1-9][0-9]{0,3})?";
    let absolute = prop_oneof![3 => Just(None), 1 => host.prop_map(Some)];
    (0..3_usize, method, target, host, absolute, fields(), fields(), body()).prop_map(
        |(empty_lines, method, target, host, absolute, before, behind, body)| {
            let place = absolute.as_ref().map_or(String::new(), |host| format!("http://{host}"));
            let head = format!(
                "{}{method} {place}{target} HTTP/1.1\r\n{before}Host: {host}\r\n{}{behind}\r\n",
                "\r\n".repeat(empty_lines),
                body.fields()
            );
            let wire = Bytes([head.as_bytes(), body.wire()].concat());
            Request { method, host: absolute.unwrap_or(host), body, wire }
        },
    )
}

/// A response that must be understood, and what is meant by it.
#[derive(Clone, Debug)]
struct Response {
    status: u16,
    body: Body,
    wire: Bytes,
}

fn response() -> impl Strategy<Value = Response> {
    let status = prop_oneof![
        3 => select(&[200, 204, 304, 404, 426, 500][..]),
        1 => select(&[100, 103][..]),
        1 => 200..600_u16,
    ];
    (status, "[ -~]{0,12}", fields(), fields(), body()).prop_map(|(status, reason, before, behind, body)| {
        let has_body = status >= 200 && status != 204 && status != 304;
        let body = if has_body { body } else { Body::None };
        let head = format!("HTTP/1.1 {status} {reason}\r\n{before}{}{behind}\r\n", body.fields());
        Response { status, wire: Bytes([head.as_bytes(), body.wire()].concat()), body }
    })
}

proptest! {
    #![proptest_config(cases(3000))]

    #[test]
    fn a_sound_request_is_understood_and_leaves_with_its_meaning(request in request()) {
        let mut storage = empty_fields();
        let parsed = RequestHead::parse(&request.wire.0, &mut storage, &Limits::default());
        let Ok(Some((head, bytes))) = parsed else { panic!("it came to {parsed:?}") };
        prop_assert_eq!(head.method, &request.method);
        prop_assert_eq!(head.authority.map(|authority| authority.text), Some(request.host.as_bytes()));
        prop_assert!(request.body.is(&head.framing), "the framing is {:?}", head.framing);
        prop_assert_eq!(&request.wire.0[bytes..], request.body.wire());
        bodies::request_head(&request.wire.0);
    }

    #[test]
    fn a_changed_request_has_one_meaning_or_is_refused(request in request(), changes in changes()) {
        bodies::request_head(&change(request.wire.0, &changes));
    }

    #[test]
    fn a_sound_response_is_understood_and_leaves_with_its_meaning(response in response()) {
        let mut storage = empty_fields();
        let parsed = ResponseHead::parse(&response.wire.0, &mut storage, &Limits::default());
        let Ok(Some((head, bytes))) = parsed else { panic!("it came to {parsed:?}") };
        prop_assert_eq!(head.status, response.status);
        let framing = head.declared.of_response(head.status, false, head.version);
        prop_assert!(framing.as_ref().is_ok_and(|framing| response.body.is(framing)), "the framing is {framing:?}");
        prop_assert_eq!(&response.wire.0[bytes..], response.body.wire());
        bodies::response_head(&response.wire.0);
    }

    #[test]
    fn a_changed_response_has_one_meaning_or_is_a_fault(response in response(), changes in changes()) {
        bodies::response_head(&change(response.wire.0, &changes));
    }

    #[test]
    fn a_sound_chunked_body_is_read_to_its_end_and_no_further(chunked in chunked(), behind in "[ -~]{0,5}") {
        let whole = [&chunked.wire.0, behind.as_bytes()].concat();
        let (mut scanner, mut rest, mut content) = (ChunkScanner::default(), whole.as_slice(), Vec::new());
        while let Some(run) = scanner.next(rest).map_err(TestCaseError::fail)? {
            let (Run::Frame(n) | Run::Data(n) | Run::Cut(n)) = run;
            let (here, behind) = rest.split_at(n);
            if matches!(run, Run::Data(_)) {
                content.extend_from_slice(here);
            }
            rest = behind;
        }
        prop_assert!(scanner.has_ended());
        prop_assert_eq!(content, chunked.content);
        prop_assert_eq!(rest, behind.as_bytes());
        bodies::chunked(&whole);
    }

    #[test]
    fn a_changed_chunked_body_is_read_as_the_grammar_has_it(chunked in chunked(), changes in changes()) {
        bodies::chunked(&change(chunked.wire.0, &changes));
    }
}

// Conversations.

const HANDSHAKE: &[u8] = b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
const SWITCHING: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// The acts of a conversation, as `bodies::session` reads them.
fn conversation() -> impl Strategy<Value = Bytes> {
    let said = |kind: &'static [u8], bytes: Vec<u8>| [kind, &bytes].concat();
    let cut = |bytes: Vec<u8>, at: Option<Index>| {
        let to = at.map_or(bytes.len(), |at| at.index(bytes.len() + 1));
        bytes[..to].to_vec()
    };
    let to = proptest::option::weighted(0.2, any::<Index>());
    let changed = || proptest::option::weighted(0.2, changes());
    let sound_or_not = |bytes: Bytes, changes: Option<Vec<Change>>| match changes {
        Some(changes) => change(bytes.0, &changes),
        None => bytes.0,
    };
    let act = prop_oneof![
        6 => (request(), changed(), to.clone())
            .prop_map(move |(request, changes, to)| said(b">", cut(sound_or_not(request.wire, changes), to))),
        6 => (response(), changed(), to)
            .prop_map(move |(response, changes, to)| said(b"<", cut(sound_or_not(response.wire, changes), to))),
        1 => Just(said(b">", HANDSHAKE.to_vec())),
        1 => Just(said(b"<", SWITCHING.to_vec())),
        2 => (select(vec![b">".as_slice(), b"<"]), vec(any::<u8>(), 0..40)).prop_map(move |(kind, bytes)| said(kind, bytes)),
        4 => select(vec![b"e".as_slice(), b"E", b"b", b"b!", b"B", b"B!", b"d", b"D", b"f", b"F", b"x", b"s", b"n", b"m", b"t", b"0"])
            .prop_map(<[u8]>::to_vec),
        1 => select(vec![b"q".as_slice(), b"Q"]).prop_map(<[u8]>::to_vec),
        2 => (select(vec![b"r".as_slice(), b"w", b"a"]), any::<u8>()).prop_map(move |(kind, n)| said(kind, vec![n])),
    ];
    // The upstream answers while it takes nothing of the request's end.
    let early = (request(), response(), any::<Index>()).prop_map(move |(request, response, at)| {
        let (begin, rest) = request.wire.0.split_at(at.index(request.wire.0.len()));
        vec![
            said(b">", begin.to_vec()),
            b"F".to_vec(),
            said(b">", rest.to_vec()),
            said(b"<", response.wire.0),
            b"F".to_vec(),
        ]
    });
    let acts = prop_oneof![20 => act.prop_map(|act| vec![act]), 1 => early];
    vec(acts, 1..12).prop_map(|acts| {
        // The byte that parts acts cannot be in one.
        let acts: Vec<Vec<u8>> =
            acts.concat().into_iter().map(|act| act.into_iter().filter(|byte| *byte != 0xff).collect()).collect();
        Bytes(acts.join(&0xff))
    })
}

proptest! {
    #![proptest_config(cases(4000))]

    #[test]
    fn a_session_survives_whatever_both_sides_do(conversation in conversation()) {
        bodies::session(&conversation.0);
    }

    #[test]
    fn a_session_survives_garbage(acts in vec((select(&b"><eEbBdDfFrwxsnmta0"[..]), vec(any::<u8>(), 0..60)), 0..20)) {
        let acts: Vec<Vec<u8>> = acts.into_iter().map(|(kind, bytes)| [&[kind], bytes.as_slice()].concat()).collect();
        bodies::session(&acts.join(&0xff));
    }
}

/// A head that never ends, and a body that the other side does not take, cost no more than their limits.
#[test]
fn what_does_not_end_or_is_not_taken_stays_within_the_limits() {
    let endless =
        |begin: &str, more: &str| [begin.as_bytes(), &more.repeat(200_000 / more.len()).into_bytes()].concat();
    for (begin, more) in [
        ("", "\r\n"),
        ("", "x"),
        ("GET /", "x"),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: ", "x"),
        ("GET / HTTP/1.1\r\nHost: a\r\n", "X: y\r\n"),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999\r\n\r\n", "x"),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", "1;extension\r\nx\r\n"),
        ("", "GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
    ] {
        let client = [b">", endless(begin, more).as_slice()].concat();
        let stalled = [b"s".as_slice(), &client, b"<x", b"t"].join(&0xff);
        bodies::session(&stalled);
    }
    for (begin, more) in [
        ("HTTP/1.1 200 OK\r\nX: ", "x"),
        ("", "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"),
        ("HTTP/1.1 200 OK\r\n\r\n", "x"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "1\r\nx\r\n"),
    ] {
        let upstream = [b"<", endless(begin, more).as_slice()].concat();
        bodies::session(
            &[b"f".as_slice(), b">GET / HTTP/1.1\r\nHost: a\r\n\r\n", &upstream, b"a\x0a", b"t"].join(&0xff),
        );
    }
    let tunnel = [b">", HANDSHAKE].concat();
    let flood = [b"<", SWITCHING, &[0; 200_000]].concat();
    bodies::session(&[tunnel.as_slice(), b"f", &flood, b"e", b"t"].join(&0xff));
}

// Routes and configurations.

proptest! {
    #![proptest_config(cases(3000))]

    #[test]
    fn the_most_particular_route_answers_and_strips_its_prefix(
        host in r"(([abW]\.){0,2}(com|COM)\.?|\[::1\]|)(:[0-9]{0,5})?",
        target in r"((http|HTTPS)://[ab]\.com(:80)?)?((/|%2f|/\.\.?|/%2e\.)[ab]{0,2}(;x)?){0,4}(\?[ -~]{0,5})?",
        matches in vec(r"(\*\.)?(([ab]\.){0,2}com|\[::1\])?(/[ab]{1,2}){0,3}/?", 0..8),
    ) {
        bodies::route(&[vec![host, target], matches].concat().join("\n").into_bytes());
    }

    #[test]
    fn garbage_is_no_route(lines in vec(r"[ -~\\]{0,12}", 0..5)) {
        bodies::route(lines.join("\n").as_bytes());
    }
}

/// A string of TOML, in which what cannot stand as it is is escaped.
fn quoted(text: &str) -> String {
    let escaped = text.chars().map(|c| match c {
        '"' | '\\' => format!("\\{c}"),
        c if c.is_control() => format!("\\u{:04x}", u32::from(c)),
        c => c.to_string(),
    });
    format!("\"{}\"", escaped.collect::<String>())
}

fn list(texts: &[String]) -> String {
    format!("[{}]", texts.iter().map(|text| quoted(text)).collect::<Vec<_>>().join(", "))
}

fn configuration() -> impl Strategy<Value = String> {
    let time = || select(&["1ms", "1s", "2m", "1h 2m 3s", "off", "0s", "99999999999s", "1", "-1s"][..]);
    let times = (
        select(&["head", "keep_alive", "connect", "upgrade", "response", "idle", "tunnel", "linger", "drain"][..]),
        time(),
    )
        .prop_map(|(key, time)| format!("timeouts.{key} = \"{time}\"\n"));
    let sizes = (
        select(&["head", "target", "fields", "body", "connections", "idle_upstreams"][..]),
        "[0-9]{1,6}|\"[0-9]{1,2}(B|KiB|MiB)?\"",
    )
        .prop_map(|(key, size)| format!("limits.{key} = {size}\n"));
    let line = prop_oneof![
        times,
        sizes,
        (select(&["cool_down", "idle"][..]), time()).prop_map(|(key, time)| format!("upstream.{key} = \"{time}\"\n")),
        select(
            &[
                "fault_status = 502\n",
                "fault_status = 503\n",
                "http_1_0 = \"serve\"\n",
                "trusted = [\"10.0.0.0/8\", \"unix:\"]\n"
            ][..]
        )
        .prop_map(str::to_owned),
    ];
    // A path may hold whatever a file's name may: line ends, escapes, quotes.
    let path = r#"/[ -~]{0,9}|/[\x01-\x1f\x7f\u{80}-\u{a0}\u{2028}"\\#a]{0,5}"#;
    let listen = prop_oneof![
        r":[0-9]{1,5}|127\.0\.0\.[0-9]:[0-9]{1,4}|\[::[0-9]\]:[0-9]{1,4}",
        path.prop_map(|path| format!("unix:{path}"))
    ];
    let to = prop_oneof![
        r"127\.0\.0\.[0-9]:[1-9]{1,4}|\[::[0-9]\]:[1-9]{1,4}",
        path.prop_map(|path| format!("unix:{path}"))
    ];
    let route = (r"(\*\.)?([ab]\.)?com(/[ab%2c]{0,4}){0,2}|(/[a-c]{0,2}){1,3}", vec(to, 0..3), any::<bool>()).prop_map(
        |(matching, to, strip)| format!("[[route]]\nmatch = \"{matching}\"\nto = {}\nstrip = {strip}\n", list(&to)),
    );
    (vec(listen, 0..3), vec(line, 0..4), vec(route, 0..4)).prop_map(|(listen, lines, routes)| {
        format!("listen = {}\n{}{}", list(&listen), lines.concat(), routes.concat())
    })
}

proptest! {
    #![proptest_config(cases(1500))]

    #[test]
    fn a_configuration_says_itself_again(text in configuration()) {
        bodies::configuration(text.as_bytes());
    }

    #[test]
    fn a_changed_configuration_says_itself_again_or_is_refused_in_words(text in configuration(), changes in changes()) {
        bodies::configuration(&change(text.into_bytes(), &changes));
    }

    #[test]
    fn garbage_is_no_configuration(text in "\\PC{0,80}|(?s:.{0,40})|[\\x00-\\x20\\x7f-\\u{a0}/:=.a-c\"\\\\\\[\\]]{0,40}") {
        bodies::configuration(text.as_bytes());
    }
}
