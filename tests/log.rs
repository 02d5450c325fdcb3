//! The log: one line an exchange, two a tunnel, and nothing in them that a stranger could forge.

mod support;

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::sync::mpsc;
use std::time::Duration;

use support::*;

/// A line of the log by its keys. What is quoted is given as it stands between the quotes, escapes and all.
fn keys(line: &str) -> BTreeMap<String, String> {
    assert!(line.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "a byte that should be escaped: {line:?}");
    let mut keys = BTreeMap::new();
    let mut rest = line;
    while !rest.is_empty() {
        let (key, behind) = rest.split_once('=').unwrap_or_else(|| panic!("{rest:?} is no key=value in: {line}"));
        assert!(key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "the key {key:?} in: {line}");
        let (value, behind) = match behind.strip_prefix('"') {
            Some(quoted) => {
                let end = closing_quote(quoted).unwrap_or_else(|| panic!("a quote that stays open: {line}"));
                (&quoted[..end], quoted[end + 1..].strip_prefix(' ').unwrap_or(&quoted[end + 1..]))
            }
            None => behind.split_once(' ').unwrap_or((behind, "")),
        };
        assert!(keys.insert(key.to_owned(), value.to_owned()).is_none(), "{key} stands twice in: {line}");
        rest = behind;
    }
    keys
}

fn closing_quote(text: &str) -> Option<usize> {
    let mut escaped = false;
    text.bytes().position(|byte| {
        let closes = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        closes
    })
}

fn number(keys: &BTreeMap<String, String>, key: &str) -> usize {
    keys[key].parse().unwrap_or_else(|_| panic!("{key} is no number: {keys:?}"))
}

/// A proxy that answers `GET /` from an upstream, and nothing else.
fn proxy_and_origin() -> (Proxy, Origin) {
    let origin = Origin::saying("hello");
    (Proxy::to(&origin), origin)
}

#[test]
fn an_exchange_is_one_line_that_tells_all_of_it() {
    let origin = Origin::by_hand();
    let proxy = Proxy::to(&origin);
    let mut client = Client::connect(&proxy);
    client.ask("POST /x?y=z", &["Content-Length: 4"], "body");
    let mut upstream = origin.accept();
    upstream.request();
    std::thread::sleep(Duration::from_millis(50));
    upstream.send("HTTP/1.1 201 Created\r\nContent-Length: 5\r\n\r\n");
    client.response_head();
    std::thread::sleep(Duration::from_millis(50));
    upstream.send("hello");
    client.expect("hello");

    let line = proxy.wait_for_log(&[" request=1 "]);
    assert!(line.starts_with("time="), "{line}");
    let keys = keys(&line);
    for (key, value) in [
        ("level", "info"),
        ("client", client.address().to_string().as_str()),
        ("method", "POST"),
        ("host", "example.com"),
        ("target", "/x?y=z"),
        ("status", "201"),
        ("upstream", origin.to_string().as_str()),
        ("end", "complete"),
    ] {
        assert_eq!(keys[key], value, "{key} in: {line}");
    }
    assert_eq!(number(&keys, "up"), upstream.bytes_received(), "{line}");
    assert_eq!(number(&keys, "down"), client.bytes_received(), "{line}");
    let (head_ms, ms) = (number(&keys, "head_ms"), number(&keys, "ms"));
    assert!((50..5000).contains(&head_ms) && (head_ms + 49..5000).contains(&ms), "{line}");
    assert!(["client", "upstream", "hawkey"].contains(&keys["by"].as_str()), "{line}");
    let time = &keys["time"];
    assert!(time.len() == "2026-11-22T14:37:05.123Z".len() && time.ends_with('Z'), "{time}");
}

#[test]
fn session_and_request_numbers_tell_exchanges_apart() {
    let (proxy, _origin) = proxy_and_origin();
    let (mut first, mut second) = (Client::connect(&proxy), Client::connect(&proxy));
    for target in ["/a", "/b"] {
        first.get(target);
        second.get(&format!("{target}{target}"));
    }
    let of = |target: &str| {
        let keys = keys(&proxy.wait_for_log(&[&format!("target=\"{target}\"")]));
        (number(&keys, "session"), number(&keys, "request"))
    };
    let (a, b, aa, bb) = (of("/a"), of("/b"), of("/a/a"), of("/b/b"));
    assert_eq!((a.0, a.1, b.1), (b.0, 1, 2));
    assert_eq!((aa.0, aa.1, bb.1), (bb.0, 1, 2));
    assert_ne!(a.0, aa.0);
}

#[test]
fn every_exchange_has_one_line() {
    let (proxy, _origin) = proxy_and_origin();
    let mut client = Client::connect(&proxy);
    for number in 0..50 {
        client.get(&format!("/{number}"));
    }
    let lines = proxy.wait_for_logs(&[" request="], 50);
    for (number, line) in lines.iter().enumerate() {
        let keys = keys(line);
        assert_eq!(
            (keys["request"].as_str(), keys["target"].as_str()),
            (&*(number + 1).to_string(), &*format!("/{number}"))
        );
    }
    std::thread::sleep(A_WHILE);
    assert_eq!(proxy.log().iter().filter(|line| line.contains(" request=")).count(), 50);
}

#[test]
fn a_line_says_why_an_exchange_ended() {
    let origin = Origin::answering(|request| match request.target() {
        "/nonsense" => Answer::raw("nonsense\r\n\r\n").then_close(),
        "/late" => {
            std::thread::sleep(Duration::from_millis(1800));
            Answer::ok("late")
        }
        _ => Answer::ok("hello"),
    });
    let config = format!("[[route]]\nmatch = \"a.example\"\nto = \"{origin}\"\n[timeouts]\nresponse = \"1500ms\"");
    let proxy = Proxy::start(&config);
    for (host, target, status, end) in [
        ("a.example", "/", 200, "complete"),
        ("b.example", "/missing", 404, "no-route"),
        ("a.example", "/nonsense", 500, "fault"),
        ("a.example", "/late", 504, "late"),
        ("a.example", "/../x", 400, "rejected"),
    ] {
        let mut client = Client::connect(&proxy);
        client.send(format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        assert_eq!(client.response().status(), status, "{host}{target}");
        let line = proxy.wait_for_log(&[&format!("status={status} ")]);
        let keys = keys(&line);
        assert_eq!(keys["end"], end, "{line}");
        assert_eq!(keys["client"], client.address().to_string(), "{line}");
        assert_eq!(number(&keys, "down"), client.bytes_received(), "{line}");
        let upstream = if matches!(end, "no-route" | "rejected") { "-".into() } else { origin.to_string() };
        assert_eq!(keys["upstream"], upstream, "{line}");
    }
}

#[test]
fn a_line_says_who_left() {
    let origin = Origin::by_hand();
    let proxy = Proxy::to(&origin);

    let client = Client::connect(&proxy);
    client.ask("GET /left", &[], "");
    let mut upstream = origin.accept();
    upstream.request();
    client.reset();
    let line = proxy.wait_for_log(&["target=\"/left\""]);
    let told = keys(&line);
    assert_eq!((told["end"].as_str(), told["by"].as_str()), ("client-left", "client"), "{line}");
    assert_eq!(told["status"], "-", "{line}");

    let mut client = Client::connect(&proxy);
    client.ask("GET /cut", &[], "");
    let mut upstream = origin.accept();
    upstream.request();
    upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf");
    client.response_head();
    upstream.reset();
    let line = proxy.wait_for_log(&["target=\"/cut\""]);
    let told = keys(&line);
    assert_ne!(told["end"], "complete", "{line}");
    assert_eq!(told["by"], "upstream", "{line}");
    assert_eq!(told["status"], "200", "{line}");
}

#[test]
fn a_tunnel_is_one_line_when_it_opens_and_one_when_it_ends() {
    let origin = Origin::by_hand();
    let proxy = Proxy::to(&origin);
    let (mut client, mut upstream) = tunnel(&proxy, &origin);

    let line = proxy.wait_for_log(&["tunnel=open"]);
    let open = keys(&line);
    for (key, value) in [
        ("client", client.address().to_string().as_str()),
        ("method", "GET"),
        ("host", "example.com"),
        ("target", "/tunnel"),
        ("status", "101"),
        ("upstream", origin.to_string().as_str()),
    ] {
        assert_eq!(open[key], value, "{key} in: {line}");
    }
    number(&open, "head_ms");

    client.send([b'u'; 1000]);
    upstream.bytes(1000);
    upstream.send([b'd'; 2000]);
    client.bytes(2000);
    assert_eq!(proxy.log().iter().filter(|line| line.contains("tunnel=")).count(), 1, "it is still open");
    std::thread::sleep(Duration::from_millis(50));
    client.end();
    upstream.expect_end();
    upstream.end();
    client.expect_end();

    let line = proxy.wait_for_log(&["tunnel=closed"]);
    let closed = keys(&line);
    assert_eq!((&closed["session"], &closed["request"]), (&open["session"], &open["request"]), "{line}");
    assert_eq!((&closed["client"], &closed["upstream"]), (&open["client"], &open["upstream"]), "{line}");
    assert_eq!(closed["by"], "client", "the client ended first: {line}");
    // Whether the handshake counts is left open; the bytes of the tunnel do.
    assert!((1000..=upstream.bytes_received()).contains(&number(&closed, "up")), "{line}");
    assert!((2000..=client.bytes_received()).contains(&number(&closed, "down")), "{line}");
    assert!((50..5000).contains(&number(&closed, "ms")), "{line}");
    assert_eq!(proxy.log().iter().filter(|line| line.contains(" request=")).count(), 2, "no third line");
}

#[test]
fn a_line_says_by_whom_a_tunnel_was_reset() {
    let origin = Origin::by_hand();
    let proxy = Proxy::to(&origin);
    for by in ["client", "upstream"] {
        let (mut client, mut upstream) = tunnel(&proxy, &origin);
        let address = client.address().to_string();
        if by == "client" {
            client.reset();
            upstream.expect_reset();
        } else {
            upstream.reset();
            client.expect_reset();
        }
        let line = proxy.wait_for_log(&["tunnel=closed", &address]);
        assert_eq!(keys(&line)["by"], by, "{line}");
    }
}

#[test]
fn a_refused_request_is_told_by_its_first_line() {
    let (proxy, _origin) = proxy_and_origin();
    for (sent, told) in
        [("TRACE /x HTTP/1.1\r\nHost: a\r\n\r\n", "TRACE /x HTTP/1.1"), ("\x16\x03\x01", "\\x16\\x03\\x01")]
    {
        let mut client = Client::connect(&proxy);
        client.send(sent);
        client.response();
        let line = keys(&proxy.wait_for_log(&[&client.address().to_string(), "end=rejected"]));
        assert_eq!(line.get("line").map(String::as_str), Some(told), "{line:?}");
    }
}

#[test]
fn hostile_bytes_are_escaped_and_forge_nothing() {
    let (proxy, _origin) = proxy_and_origin();
    let inputs: [&[u8]; 9] = [
        b"GET /x?status=500&end=fault HTTP/1.1\r\nHost: example.com\r\n\r\n",
        b"GET /a%0d%0atime=forged HTTP/1.1\r\nHost: example.com\r\n\r\n",
        b"GET /'`status=1 HTTP/1.1\r\nHost: example.com\r\n\r\n",
        b"GET /\"status=1 HTTP/1.1\r\nHost: example.com\r\n\r\n",
        b"GET /\\\" HTTP/1.1\r\nHost: example.com\r\n\r\n",
        b"GET /\x1b[31mred HTTP/1.1\r\nHost: example.com\r\n\r\n",
        b"GET /\xff\xfe\xc3\xa9 HTTP/1.1\r\nHost: example.com\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: example.com\"status=1\r\n\r\n",
        b"GET /\nlevel=error HTTP/1.1\r\nHost: example.com\r\n\r\n",
    ];
    for input in inputs {
        let mut client = Client::connect(&proxy);
        client.send(input);
        let status = client.response().status();
        let line = proxy.wait_for_log(&[&client.address().to_string()]);
        assert_eq!(number(&keys(&line), "status"), usize::from(status), "{line}");
    }
    for line in proxy.log() {
        keys(&line);
    }
    assert_eq!(proxy.log().iter().filter(|line| line.contains(" request=")).count(), inputs.len());
}

/// Whether a line with all of these parts came, with its session and request numbers.
fn expect_event(proxy: &Proxy, session: usize, parts: &[&str]) {
    let line = proxy.wait_for_log(&[&[&format!(" session={session} "), " request=1 ", "level=debug"], parts].concat());
    keys(&line);
}

#[test]
fn debug_tells_phases_and_events_each_with_its_numbers() {
    let origin = Origin::by_hand();
    let config = format!("[[route]]\nmatch = \"example.com\"\nto = \"{origin}\"\n[timeouts]\nresponse = \"1500ms\"");
    let proxy = Proxy::start_debug(&config);
    let session = |client: &Client| {
        number(&keys(&proxy.wait_for_log(&[&client.address().to_string(), " request=1 "])), "session")
    };

    let mut client = Client::connect(&proxy);
    client.send("GET / HTTP/1.1\r\nHost: nowhere.example\r\n\r\n");
    assert_eq!(client.response().status(), 404);
    expect_event(&proxy, session(&client), &["event=no-route"]);

    let (client, upstream) = tunnel(&proxy, &origin);
    let number = session(&client);
    expect_event(&proxy, number, &["event=upgrade-asked"]);
    expect_event(&proxy, number, &["event=upgrade-answered"]);
    expect_event(&proxy, number, &["phase="]);
    upstream.reset();
    expect_event(&proxy, number, &["event=error"]);

    let mut client = Client::connect(&proxy);
    client.ask("GET /late", &[], "");
    assert_eq!(client.response().status(), 504);
    expect_event(&proxy, session(&client), &["event=time-out"]);

    let mut client = Client::connect(&proxy);
    client.ask("GET /nonsense", &[], "");
    let upstream = loop {
        let mut upstream = origin.accept();
        if upstream.request().target() == "/nonsense" {
            break upstream;
        }
    };
    upstream.send("nonsense\r\n\r\n");
    assert_eq!(client.response().status(), 500);
    expect_event(&proxy, session(&client), &["event=error"]);
}

#[test]
fn without_debug_there_are_neither_phases_nor_events() {
    let origin = Origin::by_hand();
    let proxy = Proxy::to(&origin);
    let (client, _upstream) = tunnel(&proxy, &origin);
    client.reset();
    proxy.wait_for_log(&["tunnel=closed"]);
    let log = proxy.log().join("\n");
    assert!(!log.contains("phase=") && !log.contains("event=") && !log.contains("level=debug"), "{log}");
}

#[test]
fn the_filter_can_be_an_argument() {
    let origin = Origin::saying("hello");
    let proxy = Proxy::with_arguments(&["--log", "debug", "127.0.0.1:0", &format!("/={origin}")]);
    assert_eq!(Client::connect(&proxy).get("/").text(), "hello");
    proxy.wait_for_log(&["level=debug", "phase="]);
}

#[test]
fn a_standard_error_that_nobody_reads_stops_nothing() {
    for pipe in [LogPipe::Unread, LogPipe::Closed] {
        let origin = Origin::saying("hello");
        let config = format!("[[route]]\nmatch = \"/\"\nto = \"{origin}\"");
        let mut proxy = Proxy::launch(&config, pipe, |config| {
            let mut command = support::hawkey();
            command.arg("-c").arg(config);
            command
        });
        // Ten times what a pipe of 64 KiB takes, even if a line were only 200 bytes long.
        let target = format!("/{}", "x".repeat(1000));
        let mut client = Client::connect(&proxy);
        for _ in 0..600 {
            assert_eq!(client.get(&target).text(), "hello", "{pipe:?}");
        }
        proxy.stop();
        assert_eq!(proxy.wait().code(), Some(0), "{pipe:?}");
    }
}

#[test]
fn lines_that_waited_for_a_reader_come_by_themselves() {
    let (listen, origin) = (TempPath::new(".sock"), Origin::saying("hello"));
    let config = format!("listen = [\"unix:{}\"]\n[[route]]\nmatch = \"/\"\nto = \"{origin}\"", listen.display());
    let (reader, log) = std::io::pipe().expect("a pipe");
    let is_listening = || UnixStream::connect(&*listen).is_ok();
    let _proxy = Proxy::unlogged(&config, is_listening, |config| {
        let mut command = support::hawkey();
        command.arg("-c").arg(config).stderr(log);
        command
    });
    // Two and a half times what the pipe takes, and less than may wait beside that.
    let mut client = Client::unix(&listen);
    for n in 0..150 {
        assert_eq!(client.get(&format!("/{n}/{}", "x".repeat(1000))).text(), "hello");
    }
    // From here on, nothing happens but that somebody reads.
    let (lines, told) = mpsc::channel();
    std::thread::spawn(move || {
        BufReader::new(reader).lines().map_while(Result::ok).try_for_each(|line| lines.send(line))
    });
    for n in 0..150 {
        let asked = format!(" target=\"/{n}/");
        let mut lines = std::iter::from_fn(|| told.recv_timeout(Duration::from_secs(10)).ok());
        assert!(lines.any(|line| line.contains(&asked)), "no line tells of request {n}");
    }
}

/// Runs hawkey by the shell's `script`, where `"$@"` is the program and its arguments; then what `served` says must hold, several
/// hundred log lines must stop nothing, and it must end as asked. `"$LOG"` is the path `log`.
fn expect_served_by(script: &str, log: &Path, served: impl FnOnce(&Proxy)) {
    let (listen, origin) = (TempPath::new(".sock"), Origin::saying("hello"));
    let config = format!("listen = [\"unix:{}\"]\n[[route]]\nmatch = \"/\"\nto = \"{origin}\"", listen.display());
    let is_listening = || UnixStream::connect(&*listen).is_ok();
    let mut proxy = Proxy::unlogged(&config, is_listening, |config| {
        let mut command = Command::new("sh");
        command.args(["-c", script, "sh", env!("CARGO_BIN_EXE_hawkey"), "--control", "off", "-c"]).arg(config);
        command.env("LOG", log).env_remove("RUST_LOG");
        command
    });
    let target = format!("/{}", "x".repeat(1000));
    let mut first = Client::unix(&listen);
    assert_eq!(first.get(&target).text(), "hello", "{script}");
    // With everything that it opens when it is first needed, and a connection to the upstream that waits for the next request.
    let with_one = proxy.descriptors();
    drop(first);
    for _ in 0..4 {
        let mut client = Client::unix(&listen);
        for _ in 0..100 {
            assert_eq!(client.get(&target).text(), "hello", "{script}");
        }
    }
    served(&proxy);
    eventually("every client is gone", || proxy.descriptors() < with_one);
    let ticks = proxy.cpu_ticks();
    std::thread::sleep(Duration::from_millis(500));
    let ticks = proxy.cpu_ticks() - ticks;
    assert!(ticks <= 5, "{script}: {ticks} ticks of 10 ms in half a second with nothing to do");
    proxy.stop();
    assert_eq!(proxy.wait().code(), Some(0), "{script}");
}

#[test]
fn a_standard_error_that_is_closed_stops_nothing() {
    expect_served_by("exec \"$@\" 2>&-", Path::new("-"), |proxy| {
        // Else a socket would be given its number, and the log to a client.
        assert_eq!(proxy.descriptor(2), Path::new("/dev/null"));
    });
    expect_served_by("exec \"$@\" <&- >&- 2>&-", Path::new("-"), |proxy| {
        for number in 0..3 {
            assert_eq!(proxy.descriptor(number), Path::new("/dev/null"));
        }
    });
}

#[test]
fn a_full_disk_stops_nothing() {
    expect_served_by("exec \"$@\" 2>/dev/full", Path::new("-"), |proxy| {
        assert_eq!(proxy.descriptor(2), Path::new("/dev/full"));
    });
}

#[test]
fn a_file_that_takes_no_more_stops_nothing() {
    let log = TempPath::file(".log", "");
    // At most 32 or 64 KiB, as the shell counts; the last write before that is a short one.
    expect_served_by("ulimit -f 64; exec \"$@\" 2>>\"$LOG\"", &log, |_| {
        let written = std::fs::metadata(&*log).expect("the log is a file").len();
        assert!(matches!(written, 0x8000 | 0x10000), "a full file was expected, not one of {written} bytes");
    });
}
