//! Long bodies and busy tunnels: most of their bytes go a shorter way, and come out the same.

mod support;

use std::thread;
use std::time::Duration;

use support::*;

/// What one read may bring. Bodies end around its multiples, with or without their heads.
const READ_BYTES: usize = 64 * 1024;

/// The number behind `name=` in a line of the log.
fn number(line: &str, name: &str) -> usize {
    let value = line.split(' ').find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
    value.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("expected {name}=NUMBER in: {line}"))
}

#[test]
fn bodies_of_any_length_come_whole_and_keep_their_connections() {
    let origin = Origin::answering(|request| Answer::ok(&request.body));
    let proxy = Proxy::to(&origin);
    let mut client = Client::connect(&proxy);
    let around = |bytes: usize| [bytes - 300, bytes - 1, bytes, bytes + 1, bytes + 300];
    let lengths = [1, 2, 3, 8].into_iter().flat_map(|reads| around(reads * READ_BYTES)).chain([10_000_000]);
    for (n, length) in lengths.enumerate() {
        let body = random_bytes(n as u64 + 1, length);
        client.ask(&format!("POST /{n}"), &[&format!("Content-Length: {length}")], &body);
        let response = client.response();
        assert_eq!(response.field("connection"), None, "of {length} bytes");
        assert_same_bytes(&response.body, &body, &format!("a body of {length} bytes"));
        let line = proxy.wait_for_log(&[&format!("target=\"/{n}\""), "end=complete"]);
        for name in ["up", "down"] {
            let counted = number(&line, name);
            // A head belongs to it.
            assert!((length + 30..length + 300).contains(&counted), "{name}={counted} of a body of {length} bytes");
        }
    }
    assert_eq!(origin.connections(), 1, "the upstream's connection is used again and again");
}

#[test]
fn a_long_body_that_does_not_wait_for_its_100_keeps_its_connection() {
    let origin = Origin::by_hand();
    let proxy = Proxy::to(&origin);
    let mut client = Client::connect(&proxy);
    let body = random_bytes(1, 1_000_000);
    client.ask("POST /", &["Expect: 100-continue", "Content-Length: 1000000"], "");
    let mut upstream = origin.accept();
    let head = upstream.head();
    let (writer, sent) = (client.writer(), body.clone());
    let sending = thread::spawn(move || writer.send(sent));
    assert_same_bytes(&upstream.body_of(head).expect("a whole request").body, &body, "the body");
    sending.join().unwrap();
    upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    let response = client.response();
    assert_eq!((response.text().as_str(), response.field("connection")), ("ok", None));
}

#[test]
fn a_long_body_until_close_comes_whole() {
    let body = random_bytes(1, 5_000_000);
    let answer = Answer::raw([b"HTTP/1.1 200 OK\r\n\r\n", body.as_slice()].concat()).then_close();
    let origin = Origin::answering(move |_| answer.clone());
    let proxy = Proxy::to(&origin);
    assert_same_bytes(&Client::connect(&proxy).get("/").body, &body, "the body");
}

#[test]
fn a_long_body_that_is_cut_never_looks_whole() {
    let origin = Origin::by_hand();
    let proxy = Proxy::to(&origin);
    let mut client = Client::connect(&proxy);
    client.ask("GET /", &[], "");
    let mut upstream = origin.accept();
    upstream.request();
    upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 5000000\r\n\r\n");
    upstream.send(random_bytes(1, 4_000_000));
    upstream.end();
    client.response_head();
    assert_eq!(client.rest().1, Stop::Reset);
}

/// Bytes that go both ways through `client` and `upstream` at once, to readers that pause; then each side ends.
fn cross(client: Client, upstream: Connection, bytes: usize) {
    let ends = [client.into_socket(), upstream.into_socket()].map(Wire::new);
    let [there, back] = [1, 2].map(|seed| random_bytes(seed, bytes));
    thread::scope(|scope| {
        for (mut end, (sends, expects)) in ends.into_iter().zip([(&there, &back), (&back, &there)]) {
            let writer = end.writer();
            scope.spawn(move || {
                writer.send(sends);
                writer.end();
            });
            scope.spawn(move || {
                let mut came = Vec::new();
                while came.len() < expects.len() {
                    // As much as is there at once, and then nothing for a while.
                    came.extend(end.bytes((expects.len() - came.len()).min(3_000_000)));
                    thread::sleep(Duration::from_millis(20));
                }
                assert_same_bytes(&came, expects, "what came through the tunnel");
                end.expect_end();
            });
        }
    });
}

#[test]
fn a_tunnel_that_is_full_both_ways_loses_nothing() {
    let origin = Origin::by_hand();
    let proxy = Proxy::to(&origin);
    let (client, upstream) = tunnel(&proxy, &origin);
    let answer_bytes = client.bytes_received();
    cross(client, upstream, 30_000_000);
    let line = proxy.wait_for_log(&["tunnel=closed"]);
    assert_eq!((number(&line, "up"), number(&line, "down")), (30_000_000, 30_000_000 + answer_bytes), "{line}");
}

#[test]
fn a_tunnel_over_unix_sockets_is_no_other() {
    let path = TempPath::new(".sock");
    let origin = Origin::unix();
    let routes = format!("route = [{{ match = \"/\", to = \"{origin}\" }}]");
    let proxy = Proxy::start(&format!("listen = \"unix:{}\"\n{routes}\n", path.display()));
    let mut client = Client::unix(&path);
    client.ask("GET /tunnel", &HANDSHAKE, "");
    let mut upstream = origin.accept();
    upstream.request();
    upstream.send(SWITCHING);
    assert_eq!(client.head().status(), 101);
    cross(client, upstream, 10_000_000);
    proxy.wait_for_log(&["tunnel=closed", "up=10000000"]);
}
