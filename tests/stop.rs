//! Stopping: what has begun ends, nothing new begins, and the exit status says that it was asked for.

mod support;

use std::net::TcpStream;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use support::*;

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn sigterm_and_sigint_close_what_is_idle_and_exit_0() {
    for signal in [Signal::TERM, Signal::INT] {
        let origin = Origin::saying("ok");
        let mut proxy = Proxy::to(&origin);
        let mut idle = Client::connect(&proxy);
        assert_eq!(idle.get("/").status(), 200);
        let status = timed(Duration::ZERO, SECOND, || {
            proxy.signal(signal);
            proxy.wait()
        });
        assert_eq!(status.code(), Some(0), "{signal:?}");
        idle.expect_end();
    }
}

#[test]
fn a_stop_ends_accepting_and_lets_an_exchange_end() {
    let origin = Origin::by_hand();
    let mut proxy = Proxy::to(&origin);
    let address = proxy.address();
    let mut client = Client::connect(&proxy);
    client.ask("POST /", &["Content-Length: 4"], "bo");
    let mut upstream = origin.accept();
    let head = upstream.head();
    proxy.stop();
    eventually("no connection is taken any more", || TcpStream::connect(address).is_err());

    client.send("dy");
    assert_eq!(upstream.body_of(head).expect("a whole request").text(), "body");
    upstream.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n");
    client.response_head();
    client.expect("3\r\none\r\n");
    assert!(proxy.is_running(), "an exchange is still under way");
    upstream.send("3\r\ntwo\r\n0\r\n\r\n");
    client.expect("3\r\ntwo\r\n0\r\n\r\n");
    client.expect_end();
    drop(client);
    assert_eq!(timed(Duration::ZERO, SECOND, || proxy.wait()).code(), Some(0));
}

#[test]
fn the_last_answer_says_that_the_connection_closes() {
    let origin = Origin::by_hand();
    let mut proxy = Proxy::to(&origin);
    let mut client = Client::connect(&proxy);
    client.ask("GET /", &[], "");
    let mut upstream = origin.accept();
    upstream.request();
    let address = proxy.address();
    proxy.stop();
    eventually("no connection is taken any more", || TcpStream::connect(address).is_err());
    upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    let response = client.response();
    assert_eq!((response.text().as_str(), response.list("connection")), ("ok", vec!["close".to_owned()]));
    client.expect_end();
    assert_eq!(proxy.wait().code(), Some(0));
}

#[test]
fn a_tunnel_goes_on_until_the_drain_limit_and_is_ended_then() {
    let origin = Origin::by_hand();
    let mut proxy = Proxy::with("[timeouts]\ndrain = \"1500ms\"", &origin);
    let (mut client, mut upstream) = tunnel(&proxy, &origin);
    let status = timed(Duration::from_millis(1490), 3 * SECOND, || {
        proxy.stop();
        std::thread::sleep(Duration::from_millis(200));
        client.send("still open");
        upstream.expect("still open");
        client.expect_gone();
        upstream.expect_gone();
        proxy.wait()
    });
    assert_eq!(status.code(), Some(0));
}

#[test]
fn a_tunnel_that_ends_by_itself_lets_the_process_end_at_once() {
    let origin = Origin::by_hand();
    let mut proxy = Proxy::to(&origin);
    let (client, upstream) = tunnel(&proxy, &origin);
    proxy.stop();
    std::thread::sleep(A_WHILE);
    assert!(proxy.is_running());
    drop((client, upstream));
    assert_eq!(timed(Duration::ZERO, SECOND, || proxy.wait()).code(), Some(0));
}

#[test]
fn an_exchange_that_outlasts_the_drain_limit_is_cut() {
    let origin = Origin::by_hand();
    let mut proxy = Proxy::with("[timeouts]\ndrain = \"300ms\"", &origin);
    let mut client = Client::connect(&proxy);
    client.ask("GET /", &[], "");
    let mut upstream = origin.accept();
    upstream.request();
    upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf");
    let head = client.response_head();
    client.expect("half");
    let status = timed(Duration::from_millis(290), SECOND, || {
        proxy.stop();
        proxy.wait()
    });
    assert_eq!(status.code(), Some(0));
    assert_eq!(client.body_of(head).expect_err("it never comes whole").stop, Stop::Reset);
}

#[test]
fn a_second_signal_ends_at_once() {
    for second in [Signal::TERM, Signal::INT] {
        let origin = Origin::by_hand();
        let mut proxy = Proxy::to(&origin);
        let (mut client, _upstream) = tunnel(&proxy, &origin);
        proxy.stop();
        std::thread::sleep(A_WHILE);
        assert!(proxy.is_running(), "a tunnel is open");
        proxy.signal(second);
        timed(Duration::ZERO, SECOND, || proxy.wait());
        client.expect_gone();
    }
}

#[test]
fn a_stop_under_load_and_with_tunnels_causes_no_error() {
    let tunnels = Origin::by_hand();
    let origin = Origin::answering(|_| {
        std::thread::sleep(Duration::from_millis(5));
        Answer::ok("ok")
    });
    let mut proxy = Proxy::start(&format!(
        "[[route]]\nmatch = \"/\"\nto = \"{origin}\"\n[[route]]\nmatch = \"/tunnel\"\nto = \"{tunnels}\""
    ));
    let (address, begun) = (proxy.address(), Instant::now());
    let mut open: Vec<_> = (0..4).map(|_| tunnel(&proxy, &tunnels)).collect();
    let loads: Vec<_> = (0..8)
        .map(|number| {
            std::thread::spawn(move || {
                let mut answered = 0;
                // Until hawkey takes no more. What the kernel took for it and it never saw may be reset.
                while let Ok(stream) = TcpStream::connect(address) {
                    assert!(begun.elapsed() < PATIENCE, "hawkey goes on taking connections");
                    let mut client = Client::over(stream.into());
                    loop {
                        if client.try_send(request("GET /", &[], "")).is_err() {
                            break;
                        }
                        match client.try_response() {
                            Ok(response) => assert_eq!(response.status(), 200),
                            // A connection that was idle may be closed just when it is used again.
                            Err(cut) if cut.head.is_none() && cut.bytes.is_empty() => break,
                            Err(cut) => panic!("a cut answer: {cut:?}"),
                        }
                        answered += 1;
                        // Half of them keep their connections.
                        if number % 2 == 0 {
                            break;
                        }
                    }
                }
                answered
            })
        })
        .collect();
    std::thread::sleep(Duration::from_millis(500));
    proxy.stop();
    let answered: usize = loads.into_iter().map(|load| load.join().unwrap()).sum();
    assert!(answered > 8, "{answered} answers");
    assert_eq!(origin.requests().len(), answered, "every request that reached the upstream was answered");
    assert!(proxy.is_running(), "tunnels are open");
    for (client, upstream) in &mut open {
        client.send("last words");
        upstream.expect("last words");
        upstream.send("and theirs");
        client.expect("and theirs");
    }
    for (mut client, mut upstream) in open {
        client.end();
        upstream.expect_end();
        upstream.end();
        client.expect_end();
    }
    assert_eq!(timed(Duration::ZERO, 5 * SECOND, || proxy.wait()).code(), Some(0));
    let fault = proxy.log().into_iter().find(|line| line.contains(" status=5") || line.contains("end=fault"));
    assert_eq!(fault, None, "nobody was told of the stop by a fault");
}

#[test]
fn requests_that_are_here_when_the_stop_comes_are_answered() {
    let origin = Origin::saying("ok");
    let mut proxy = Proxy::to(&origin);
    let mut kept = Client::connect(&proxy);
    assert_eq!(kept.get("/").text(), "ok");
    // More than are accepted in one turn.
    let new = proxy.while_held(|| {
        kept.ask("GET /kept", &[], "");
        let new: Vec<Client> = (0..40).map(|_| Client::connect(&proxy)).collect();
        new.iter().for_each(|client| client.ask("GET /new", &[], ""));
        proxy.stop();
        new
    });
    for mut client in new.into_iter().chain([kept]) {
        let response = client.response();
        assert_eq!((response.text().as_str(), response.list("connection")), ("ok", vec!["close".to_owned()]));
        client.expect_end();
    }
    assert_eq!(proxy.wait().code(), Some(0));
}

#[test]
fn after_a_stop_the_next_process_can_listen_on_the_same_path() {
    let (listen, origin) = (TempPath::new(".sock"), Origin::saying("ok"));
    let config = format!("listen = [\"unix:{}\"]\n[[route]]\nmatch = \"/\"\nto = \"{origin}\"", listen.display());
    let mut proxy = Proxy::start(&config);
    assert_eq!(Client::unix(&listen).get("/").status(), 200);
    proxy.stop();
    assert_eq!(proxy.wait().code(), Some(0));
    let _next = Proxy::start(&config);
    assert_eq!(Client::unix(&listen).get("/").status(), 200);
}
