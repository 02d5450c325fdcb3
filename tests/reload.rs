//! Reloading: the new configuration holds from the next request on, and nobody notices the change.

mod support;

use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use rustix::process::Signal;
use support::*;

/// Reloads under load, unless `HAWKEY_RELOADS` says another number.
const RELOADS: usize = 1_000;
/// By how much memory may differ behind them: pages that the allocator keeps, and log lines that waited.
const LEFT_BYTES_MAX: u64 = 256 * 1024;

fn route(matching: &str, origin: &Origin) -> String {
    format!("[[route]]\nmatch = \"{matching}\"\nto = \"{origin}\"\n")
}

#[test]
fn routes_hold_from_the_next_request_on_by_command_and_by_signal() {
    let (one, two) = (Origin::saying("one"), Origin::saying("two"));
    let proxy = Proxy::controlled(&route("/", &one));
    let mut client = Client::connect(&proxy);
    assert_eq!(client.get("/").text(), "one");
    let told = proxy.reload(&(route("/", &two) + &route("/a", &one)));
    assert_eq!(told, format!("reloaded {}: listeners 1, routes 2, upstreams 2\n", proxy.config().display()));
    assert_eq!(client.get("/").text(), "two", "on the same connection");
    assert_eq!(client.get("/a").text(), "one");

    proxy.configure(&route("/", &one));
    proxy.signal(Signal::HUP);
    proxy.wait_for_logs(&["level=info reloaded listeners=1 routes=1 upstreams=1"], 1);
    assert_eq!(client.get("/").text(), "one");
}

#[test]
fn a_mistake_leaves_all_as_it_was_and_is_told_with_its_place() {
    let origin = Origin::saying("ok");
    let proxy = Proxy::controlled(&route("/", &origin));
    let mut client = Client::connect(&proxy);
    let place = format!("--> {}:2:1", proxy.config().display());
    for how in ["by command", "by signal"] {
        proxy.configure(&format!("fault_staus = 502\n{}", route("/", &origin)));
        if how == "by command" {
            let (code, told, why) = proxy.ask(&["reload"]);
            assert_eq!((code, told.as_str()), (Some(1), ""));
            assert!(why.contains(&place) && why.contains("did you mean `fault_status`?"), "{why}");
            assert!(why.starts_with("hawkey: the configuration stays as it was:\nerror: unknown key"), "{why}");
        } else {
            proxy.signal(Signal::HUP);
        }
        proxy.wait_for_logs(&["level=error event=reload-failed", &place], if how == "by command" { 1 } else { 2 });
        assert_eq!(client.get("/").text(), "ok", "{how}");
    }
    // A listener that cannot be had is a mistake too, and costs none of the others.
    let foreign = Origin::saying("foreign");
    proxy.configure(&format!(
        "listen = [\"127.0.0.1:0\", \"{foreign}\"]\n[[route]]\nmatch = \"/\"\nto = \"127.0.0.1:9\"\n"
    ));
    let (code, _, why) = proxy.ask(&["reload"]);
    assert_eq!(code, Some(1));
    assert!(why.contains("another process is listening there already"), "{why}");
    assert_eq!(client.get("/").text(), "ok");

    std::fs::remove_file(proxy.config()).unwrap();
    let (code, _, why) = proxy.ask(&["reload"]);
    assert_eq!(code, Some(1));
    assert!(why.contains("the configuration stays as it was: cannot read"), "{why}");
    assert_eq!(client.get("/").text(), "ok");
}

#[test]
fn what_was_not_read_from_a_file_cannot_be_read_again() {
    let origin = Origin::saying("ok");
    let control = TempPath::new(".sock");
    let to = format!("/={origin}");
    let words = [format!("--control={}", control.display()), "127.0.0.1:0".to_owned(), to];
    let proxy = Proxy::launch("", LogPipe::Collected, |_| {
        let mut command = program();
        command.args(&words);
        command
    });
    let output = program().arg("reload").arg("--control").arg(&*control).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let why = String::from_utf8(output.stderr).unwrap();
    assert!(why.contains("the configuration came from the command line: only a file can be read again"), "{why}");
    proxy.signal(Signal::HUP);
    proxy.wait_for_logs(&["event=reload-failed", "only a file can be read again"], 2);
    assert_eq!(Client::connect(&proxy).get("/").text(), "ok");
}

#[test]
fn listeners_come_and_go_without_a_gap_in_those_that_stay() {
    let origin = Origin::saying("ok");
    let unix = TempPath::new("-listener.sock");
    let with = |more: &str| format!("listen = [\"127.0.0.1:0\"{more}]\n{}", route("/", &origin));
    let proxy = Proxy::controlled(&with(""));
    let kept = proxy.address();
    let over = Arc::new(AtomicBool::new(false));
    let asking = thread::spawn({
        let over = Arc::clone(&over);
        move || {
            let mut asked = 0;
            while !over.load(Ordering::Relaxed) {
                assert_eq!(Client::to(kept).get("/").text(), "ok", "what stays takes every client");
                asked += 1;
            }
            asked
        }
    });
    for turn in 1..=20 {
        proxy.reload(&with(&format!(", \"127.0.0.2:0\", \"unix:{}\"", unix.display())));
        let lines = proxy.wait_for_logs(&[" listening=127.0.0.2:"], turn);
        let added = lines.last().and_then(|line| line.split_once(" listening=")?.1.parse().ok()).expect("an address");
        let mut through = Client::to(added);
        assert_eq!(through.get("/").text(), "ok");
        assert_eq!(Client::unix(&unix).get("/").text(), "ok");
        // Whoever waits when a listener goes has been promised an answer.
        let waiting: Vec<Client> = proxy.while_held(|| {
            let clients = (0..20).map(|_| Client::to(added)).collect();
            proxy.configure(&with(""));
            proxy.signal(Signal::HUP);
            clients
        });
        for mut client in waiting {
            assert_eq!(client.get("/").text(), "ok");
        }
        eventually("it is closed", || TcpStream::connect(added).is_err());
        assert!(!unix.exists(), "a Unix listener takes its file with it");
        assert_eq!(through.get("/").text(), "ok", "who came through it stays");
    }
    over.store(true, Ordering::Relaxed);
    assert!(asking.join().unwrap() > 0);
    assert_eq!(proxy.address(), kept);

    proxy.configure(&format!("listen = \"127.0.0.1:{}\"\n{}", kept.port(), route("/", &origin)));
    let (code, _, why) = proxy.ask(&["reload"]);
    assert_eq!(code, Some(1), "its own port, written in another way: {why}");
}

#[test]
fn a_listener_cannot_become_one_that_asks_for_the_same_port() {
    let origin = Origin::saying("ok");
    // No client gets a port of 127.0.0.8.
    let port = std::net::TcpListener::bind("127.0.0.8:0").unwrap().local_addr().unwrap().port();
    let with = |listen: &str| format!("listen = \"{listen}:{port}\"\n{}", route("/", &origin));
    let proxy = Proxy::controlled(&with("127.0.0.8"));
    proxy.configure(&with(""));
    let (code, _, why) = proxy.ask(&["reload"]);
    assert_eq!(code, Some(1));
    assert!(why.contains(&format!("127.0.0.8:{port} cannot become :{port} while hawkey runs")), "{why}");
    assert_eq!(Client::connect(&proxy).get("/").text(), "ok");
}

#[test]
fn timeouts_and_limits_hold_from_the_next_request_on() {
    let origin = Origin::by_hand();
    let proxy = Proxy::controlled(&route("/", &origin));
    let (client, mut tunnel_end) = tunnel(&proxy, &origin);
    let mut waits = Client::connect(&proxy);
    waits.ask("GET /old", &[], "");
    let mut old = origin.accept();
    old.request();
    proxy.reload(&(route("/", &origin) + "[timeouts]\nresponse = \"300ms\"\ntunnel = \"300ms\"\n[limits]\nbody = 3\n"));
    let mut next = Client::connect(&proxy);
    let _late = timed(Duration::from_millis(290), Duration::from_secs(3), || {
        next.ask("GET /new", &[], "");
        let late = origin.accept();
        next.expect_own_answer(504);
        late
    });
    next.ask("POST /", &["Content-Length: 4"], "1234");
    next.expect_rejected(413);
    // What was under way goes on by the rules that it began with.
    old.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    assert_eq!(waits.response().text(), "ok");
    client.send("still here");
    tunnel_end.expect("still here");
}

#[test]
fn an_exchange_under_way_ends_by_the_route_that_it_began_with() {
    let (one, two) = (Origin::by_hand(), Origin::saying("two"));
    let proxy = Proxy::controlled(&route("/", &one));
    let mut client = Client::connect(&proxy);
    client.ask("POST /", &["Content-Length: 4"], "bo");
    let mut upstream = one.accept();
    let head = upstream.head();
    for _ in 0..3 {
        proxy.reload(&route("/other", &two));
    }
    client.send("dy");
    assert_eq!(upstream.body_of(head).unwrap().text(), "body");
    upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    assert_eq!(client.response().text(), "ok");
    let line = proxy.wait_for_log(&["status=200"]);
    assert!(line.contains(&format!("upstream={one}")), "the log knows who answered: {line}");
    upstream.expect_gone();
    assert_eq!(client.get("/").status(), 404, "the next finds no route");
    assert_eq!(client.get("/other").text(), "two");
}

#[test]
fn idle_connections_go_with_the_last_route_to_their_upstream() {
    let (one, two) = (Origin::by_hand(), Origin::by_hand());
    let proxy = Proxy::controlled(&(route("/", &one) + &route("/two", &two)));
    let idle = |target: &str, origin: &Origin| {
        let mut client = Client::connect(&proxy);
        client.ask(&format!("GET {target}"), &[], "");
        let mut upstream = origin.accept();
        upstream.request();
        upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        assert_eq!(client.response().text(), "ok");
        upstream
    };
    let mut to_one = idle("/", &one);
    let mut to_two = idle("/two", &two);
    proxy.reload(&route("/two", &two));
    to_one.expect_end();
    let client = Client::connect(&proxy);
    client.ask("GET /two/again", &[], "");
    assert_eq!(to_two.request().target(), "/two/again", "the other connection is used again");
}

#[test]
fn a_thousand_reloads_under_load_are_noticed_by_nobody() {
    let reloads = std::env::var("HAWKEY_RELOADS").map_or(RELOADS, |number| number.parse().expect("a number"));
    let tunnels = Origin::by_hand();
    let origins: Vec<Origin> = ["zero", "one", "two"].into_iter().map(Origin::saying).collect();
    // The upstreams of `/` come and go, in another order each time; the others stay.
    let config = |turn: usize| {
        let to: Vec<_> = (0..=turn % 2).map(|n| format!("\"{}\"", origins[(turn + n) % 3])).collect();
        format!(
            "listen = [\"127.0.0.1:0\"{}]\n[[route]]\nmatch = \"/\"\nto = [{}]\n{}{}[timeouts]\nresponse = \"{}s\"\n",
            if turn % 3 == 1 { ", \"127.0.0.2:0\"" } else { "" },
            to.join(", "),
            route("/tunnel", &tunnels),
            if turn % 4 == 2 { route("/more", &origins[turn % 3]) } else { String::new() },
            30 + turn % 5
        )
    };
    let mut proxy = Proxy::controlled(&config(0));
    let address = proxy.address();
    let mut open: Vec<_> = (0..20).map(|_| tunnel(&proxy, &tunnels)).collect();
    let (over, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let loads: Vec<_> = (0..4)
        .map(|number| {
            let (over, answered) = (Arc::clone(&over), Arc::clone(&answered));
            thread::spawn(move || {
                let mut client = Client::to(address);
                while !over.load(Ordering::Relaxed) {
                    // Half of them ask on a new connection each.
                    if number % 2 == 0 {
                        client = Client::to(address);
                    }
                    let response = client.get("/");
                    assert_eq!(response.status(), 200);
                    assert!(["zero", "one", "two"].contains(&response.text().as_str()), "{response:?}");
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    let mut seen = 0;
    let mut reload = |proxy: &Proxy, turn: usize| {
        proxy.configure(&config(turn));
        let told = proxy.control_answer("reload");
        assert!(!told["routes"].is_null(), "{told}");
        // Each of them meets traffic.
        eventually("requests go on", || answered.load(Ordering::Relaxed) > seen);
        seen = answered.load(Ordering::Relaxed);
        let (client, upstream) = &mut open[turn % 20];
        client.send("up");
        upstream.expect("up");
        upstream.send("down");
        client.expect("down");
    };
    for turn in 1..=100 {
        reload(&proxy, turn);
    }
    let before = (proxy.memory(), proxy.descriptors());
    for turn in 101..=reloads + 100 {
        reload(&proxy, turn);
    }
    // What is under way at the moment: 4 clients, connections to 3 upstreams, a listener. On a busy machine more of what has ended may be
    // left, for a moment.
    eventually("no more descriptors than before", || proxy.descriptors() <= before.1 + 16);
    let after = (proxy.memory(), proxy.descriptors());
    println!("{reloads} reloads beside {} requests: bytes and descriptors {before:?}, then {after:?}", seen);
    over.store(true, Ordering::Relaxed);
    loads.into_iter().for_each(|load| load.join().expect("no request failed"));
    assert!(after.0 <= before.0 + LEFT_BYTES_MAX, "memory has grown from {} to {}", before.0, after.0);
    for (client, upstream) in &mut open {
        client.send("the end");
        upstream.expect("the end");
    }
    assert!(proxy.is_running());
    let log = proxy.log();
    let odd: Vec<_> = log.iter().filter(|line| line.contains("level=error") || line.contains("end=fault")).collect();
    assert!(odd.is_empty(), "{odd:?}");
}

#[test]
fn a_broken_file_is_told_to_the_log_too_when_the_file_names_who_is_asked() {
    let origin = Origin::saying("ok");
    let proxy = Proxy::controlled(&route("/", &origin));
    let control = format!("control = \"{}\"\n", proxy.control().display());
    for (broken, part) in [("fault_staus = 502\n", "did you mean `fault_status`?"), ("[timeouts\n", "--> ")] {
        proxy.configure(&format!("{control}{broken}{}", route("/", &origin)));
        let output = program().args(["reload", "-c"]).arg(proxy.config()).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{broken}");
        let told = String::from_utf8(output.stderr).unwrap();
        assert!(told.starts_with("hawkey: the configuration stays as it was:") && told.contains(part), "{told}");
        proxy.wait_for_log(&["event=reload-failed", part]);
    }
}
