//! Where requests come in and where they go: listeners, upstreams by turns, and the idle connections kept between.

mod support;

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use support::*;

/// One route over several upstreams.
fn by_turns(origins: &[&Origin], tables: &str) -> Proxy {
    let to: Vec<String> = origins.iter().map(|origin| format!("\"{origin}\"")).collect();
    Proxy::start(&format!("[[route]]\nmatch = \"/\"\nto = [{}]\n{tables}", to.join(", ")))
}

/// What `count` requests are answered with, one behind the other.
fn answers(client: &mut Client, count: usize) -> Vec<String> {
    (0..count).map(|_| client.get("/").text()).collect()
}

// Listeners.

#[test]
fn the_short_form_of_the_command_line_serves_both_families() {
    let origin = Origin::saying("hello");
    let proxy = Proxy::with_arguments(&[":0", &format!("/={origin}")]);
    let line = proxy.wait_for_log(&[" listening="]);
    assert!(line.contains("listening=[::]:"), "{line}");
    let port = proxy.address().port();
    for ip in [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()] {
        let mut client = Client::to(SocketAddr::new(ip, port));
        assert_eq!(client.get("/").text(), "hello", "{ip}");
        assert_eq!(origin.last_request().field("x-real-ip"), Some(ip.to_string().as_str()));
    }
}

#[test]
fn several_listeners_of_every_kind_at_once() {
    let (path, origin) = (TempPath::new(".sock"), Origin::saying("hello"));
    let proxy = Proxy::start(&format!(
        "listen = [\"127.0.0.1:0\", \"[::1]:0\", \"unix:{}\", \"127.0.0.1:0\"]\n[[route]]\nmatch = \"/\"\nto = \"{origin}\"",
        path.display()
    ));
    proxy.wait_for_logs(&[" listening="], 4);
    proxy.wait_for_log(&[&format!("listening=unix:{}", path.display())]);
    assert_eq!(proxy.addresses().len(), 3);
    for address in proxy.addresses() {
        assert_eq!(Client::to(address).get("/").text(), "hello", "{address}");
    }
    assert_eq!(Client::unix(&path).get("/").text(), "hello");
    proxy.wait_for_log(&["client=unix:"]);
}

#[test]
fn a_trusted_client_of_a_unix_listener_is_believed() {
    let (path, origin) = (TempPath::new(".sock"), Origin::saying("hello"));
    let _proxy = Proxy::start(&format!(
        "listen = [\"unix:{}\"]\ntrusted = [\"unix:\"]\n[[route]]\nmatch = \"/\"\nto = \"{origin}\"",
        path.display()
    ));
    let mut client = Client::unix(&path);
    client.ask("GET /", &["X-Forwarded-For: 203.0.113.9", "X-Real-IP: 203.0.113.9", "X-Forwarded-Proto: https"], "");
    assert_eq!(client.response().text(), "hello");
    let request = origin.last_request();
    assert_eq!(request.list("x-forwarded-for").first().map(String::as_str), Some("203.0.113.9"));
    assert_eq!(request.field("x-real-ip"), Some("203.0.113.9"));
    assert_eq!(request.field("x-forwarded-proto"), Some("https"));
}

#[test]
fn a_port_in_use_is_one_clear_sentence_and_exit_code_1() {
    let taken = Origin::by_hand();
    let (code, said) = Proxy::fails(&format!("listen = [\"{taken}\"]\n[[route]]\nmatch = \"/\"\nto = \"127.0.0.1:1\""));
    assert_eq!(code, Some(1), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.contains(&taken.to_string()), "{said}");
}

// Upstreams.

#[test]
fn a_unix_upstream() {
    let origin =
        Origin::unix().answer_by(|request| Answer::ok([request.target().as_bytes(), b" ", &request.body].concat()));
    let proxy = Proxy::to(&origin);
    let mut client = Client::connect(&proxy);
    for _ in 0..3 {
        client.ask("POST /x", &["Content-Length: 2"], "hi");
        assert_eq!(client.response().text(), "/x hi");
    }
    assert_eq!(origin.connections(), 1);
    proxy.wait_for_log(&[&format!("upstream={origin}")]);
}

#[test]
fn an_ipv6_upstream() {
    let origin = Origin::ipv6().answer_by(|_| Answer::ok("hello"));
    let proxy = Proxy::to(&origin);
    assert_eq!(Client::connect(&proxy).get("/").text(), "hello");
    proxy.wait_for_log(&[&format!("upstream={origin}")]);
}

#[test]
fn an_upstream_whose_socket_file_is_gone_is_500_or_the_next_is_tried() {
    let origin = Origin::unix();
    let proxy = Proxy::to(&origin);
    std::fs::remove_file(origin.path()).unwrap();
    let mut client = Client::connect(&proxy);
    client.ask("GET /", &[], "");
    client.expect_own_answer(500);

    let here = Origin::saying("here");
    let proxy = by_turns(&[&origin, &here], "");
    assert_eq!(answers(&mut Client::connect(&proxy), 4), ["here"; 4]);
}

#[test]
fn an_upstream_by_name_is_resolved_at_the_start() {
    let origin = Origin::saying("hello");
    let port = origin.to_string().rsplit_once(':').unwrap().1.to_owned();
    let proxy = Proxy::start(&format!("[[route]]\nmatch = \"/\"\nto = \"localhost:{port}\""));
    assert_eq!(Client::connect(&proxy).get("/").text(), "hello");
}

#[test]
fn a_name_that_nobody_knows_is_a_clear_error() {
    let (code, said) = Proxy::fails("[[route]]\nmatch = \"/\"\nto = \"nobody.invalid:3000\"");
    assert!(matches!(code, Some(1 | 2)), "{code:?}: {said}");
    assert!(said.contains("nobody.invalid"), "{said}");
}

#[test]
fn several_upstreams_are_taken_in_turn() {
    let (a, b, c) = (Origin::saying("a"), Origin::saying("b"), Origin::saying("c"));
    let proxy = by_turns(&[&a, &b, &c], "");
    let mut client = Client::connect(&proxy);
    let came = answers(&mut client, 9).concat();
    assert!(["abcabcabc", "bcabcabca", "cabcabcab"].contains(&came.as_str()), "{came}");
    for origin in [a, b, c] {
        assert_eq!(origin.connections(), 1, "each is kept");
    }
}

#[test]
fn a_refused_connection_tries_the_next_upstream() {
    let (gone, here) = (Origin::refusing(), Origin::saying("here"));
    let proxy = by_turns(&[&gone, &here], "");
    let mut client = Client::connect(&proxy);
    assert_eq!(answers(&mut client, 6), ["here"; 6]);
    client.ask("POST /", &["Content-Length: 2"], "hi");
    assert_eq!(client.response().text(), "here", "nothing of a POST had been sent to the one that refused");
    assert_eq!(here.last_request().text(), "hi");
}

#[test]
fn when_every_upstream_refuses_it_is_500_at_once() {
    let (a, b) = (Origin::refusing(), Origin::refusing());
    let proxy = by_turns(&[&a, &b], "");
    let mut client = Client::connect(&proxy);
    timed(Duration::ZERO, Duration::from_millis(500), || {
        for _ in 0..3 {
            client.ask("GET /", &[], "");
            client.expect_own_answer(500);
        }
    });
}

#[test]
fn an_upstream_that_just_failed_is_left_alone_until_it_has_cooled_down() {
    let (failing, here) = (Origin::refusing(), Origin::saying("here"));
    let proxy = by_turns(&[&failing, &here], "[upstream]\ncool_down = \"1s\"");
    let mut client = Client::connect(&proxy);
    assert_eq!(answers(&mut client, 2), ["here"; 2], "the other one failed on the way");
    failing.listen();
    let failing = failing.answer_by(|_| Answer::ok("back"));
    assert_eq!(answers(&mut client, 10), ["here"; 10]);
    assert_eq!(failing.connections(), 0);
    eventually("it is asked again", || client.get("/").text() == "back");
    let came = answers(&mut client, 4);
    assert_eq!(came.iter().filter(|answer| *answer == "back").count(), 2, "they take turns again: {came:?}");
}

/// An upstream on a Unix socket whose backlog is full; the connection that fills it.
fn busy() -> (Origin, Client) {
    let origin = Origin::unix();
    origin.shorten_backlog();
    let waiting = Client::unix(origin.path());
    (origin, waiting)
}

#[test]
fn a_lone_upstream_whose_backlog_is_full_is_503_until_it_accepts() {
    let (origin, _waiting) = busy();
    let proxy = Proxy::to(&origin);
    let mut client = Client::connect(&proxy);
    client.ask("GET /", &[], "");
    let response = client.expect_rejected(503);
    assert!(response.field("retry-after").is_some(), "{response:?}");
    let _origin = origin.answer_by(|_| Answer::ok("here"));
    eventually("it has accepted", || matches!(Client::connect(&proxy).get("/").status(), 200));
}

#[test]
fn an_upstream_whose_backlog_is_full_is_passed_over_but_has_not_failed() {
    let ((busy, _waiting), other) = (busy(), Origin::saying("other"));
    let proxy = by_turns(&[&busy, &other], "[upstream]\ncool_down = \"1m\"");
    let mut client = Client::connect(&proxy);
    assert_eq!(answers(&mut client, 6), ["other"; 6]);
    drop(busy.accept());
    let _busy = busy.answer_by(|_| Answer::ok("busy"));
    let mut came = answers(&mut client, 2);
    came.sort();
    assert_eq!(came, ["busy", "other"], "they take turns at once");
}

#[test]
fn a_lone_upstream_that_comes_back_answers_again() {
    let origin = Origin::refusing();
    let proxy = Proxy::to(&origin);
    let mut client = Client::connect(&proxy);
    client.ask("GET /", &[], "");
    client.expect_own_answer(500);
    origin.listen();
    let _origin = origin.answer_by(|_| Answer::ok("back"));
    eventually("it is asked again", || client.get("/").text() == "back");
}

// Idle connections to upstreams.

/// `count` exchanges at once, so that as many connections are idle behind them, in the order in which they became idle.
fn idle_connections(proxy: &Proxy, origin: &Origin, count: usize) -> Vec<Connection> {
    let mut clients: Vec<Client> = (0..count).map(|_| Client::connect(proxy)).collect();
    let mut connections = Vec::new();
    for client in &clients {
        client.ask("GET /", &[], "");
        let mut connection = origin.accept();
        connection.request();
        connections.push(connection);
    }
    for (client, connection) in clients.iter_mut().zip(&connections) {
        connection.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        client.expect_empty(200);
    }
    connections
}

#[test]
fn the_newest_idle_connection_is_reused_first() {
    let origin = Origin::by_hand();
    let proxy = Proxy::to(&origin);
    let mut connections = idle_connections(&proxy, &origin, 3);
    let client = Client::connect(&proxy);
    client.ask("GET /newest", &[], "");
    assert_eq!(connections.pop().unwrap().request().target(), "/newest");
    let client = Client::connect(&proxy);
    client.ask("GET /older", &[], "");
    assert_eq!(connections.pop().unwrap().request().target(), "/older");
}

#[test]
fn idle_connections_beyond_the_limit_are_closed() {
    let origin = Origin::by_hand();
    let proxy = Proxy::with("[limits]\nidle_upstreams = 1", &origin);
    let mut connections = idle_connections(&proxy, &origin, 3);
    let mut kept = 0;
    for connection in &mut connections {
        let socket = connection.socket().try_clone().unwrap();
        socket.set_read_timeout(Some(A_WHILE)).unwrap();
        loop {
            match std::io::Read::read(&mut &socket, &mut [0]) {
                Ok(0) => {}
                Ok(_) => panic!("nobody asked for anything"),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(_) => kept += 1,
            }
            break;
        }
    }
    assert_eq!(kept, 1);
    assert_eq!(origin.connections(), 3);
}

#[test]
fn an_idle_connection_is_closed_after_its_time() {
    let origin = Origin::by_hand();
    let proxy = Proxy::with("[upstream]\nidle = \"300ms\"", &origin);
    timed(Duration::from_millis(290), Duration::from_millis(900), || {
        idle_connections(&proxy, &origin, 1)[0].expect_gone();
    });
    let client = Client::connect(&proxy);
    client.ask("GET /fresh", &[], "");
    assert_eq!(origin.accept().request().target(), "/fresh");
}

#[test]
fn what_came_unasked_on_an_idle_connection_is_nobodys_answer_even_if_its_event_comes_late() {
    let origin = Origin::by_hand();
    let proxy = Proxy::to(&origin);
    let mut client = Client::connect(&proxy);
    client.ask("GET /first", &[], "");
    let mut idle = origin.accept();
    idle.request();
    idle.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    client.expect_empty(200);
    let _origin = origin.answer_by(|_| Answer::ok("good"));
    let crowd = Crowd::of(&proxy);
    proxy.while_held(|| {
        client.ask("GET /second", &[], "");
        crowd.stir();
        idle.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nEVIL");
    });
    assert_eq!(client.response().text(), "good");
    idle.expect_gone();
}

#[test]
fn an_idle_connection_is_reused_for_its_own_address_only() {
    let (a, b) = (Origin::saying("a"), Origin::saying("b"));
    let proxy = Proxy::start(&format!(
        "[[route]]\nmatch = \"/a\"\nto = \"{a}\"\n[[route]]\nmatch = \"/also-a\"\nto = \"{a}\"\n[[route]]\nmatch = \"/b\"\nto = \"{b}\""
    ));
    let mut client = Client::connect(&proxy);
    for _ in 0..3 {
        assert_eq!([client.get("/a").text(), client.get("/b").text(), client.get("/also-a").text()], ["a", "b", "a"]);
    }
    assert_eq!((a.connections(), b.connections()), (1, 1));
}
