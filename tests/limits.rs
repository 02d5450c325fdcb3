//! Limits: how much a message may hold, how many connections there may be, and what happens at the border.

mod support;

use std::time::{Duration, Instant};

use support::*;

#[test]
fn a_head_over_its_limit_is_431() {
    let origin = Origin::saying("ok");
    let proxy = Proxy::to(&origin);
    let long = |length: usize| format!("X-Long: {}", "x".repeat(length));
    let mut client = Client::connect(&proxy);
    client.ask("GET /", &[&long(16_000)], "");
    assert_eq!(client.response().status(), 200, "a head just below 16 KiB");
    client.ask("GET /", &[&long(16_400)], "");
    client.expect_rejected(431);
}

#[test]
fn a_head_that_never_ends_is_431_and_takes_no_more_memory() {
    let origin = Origin::by_hand();
    let proxy = Proxy::to(&origin);
    let before = proxy.memory();
    let client = Client::connect(&proxy);
    client.send("GET / HTTP/1.1\r\n");
    let writer = client.writer();
    let sending = std::thread::spawn(move || {
        for _ in 0..1_000_000 {
            if writer.try_send("X: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\r\n").is_err() {
                return;
            }
        }
    });
    let mut client = client;
    let response = client.response();
    assert_eq!(response.status(), 431);
    assert_ne!(client.rest().1, Stop::Silence);
    let grown = proxy.memory().saturating_sub(before);
    assert!(grown < 1 << 20, "hawkey grew by {grown} bytes");
    drop(client);
    sending.join().unwrap();
}

#[test]
fn the_limit_of_a_head_is_a_setting() {
    let origin = Origin::saying("ok");
    let proxy = Proxy::with("[limits]\nhead = \"1KiB\"", &origin);
    let mut client = Client::connect(&proxy);
    assert_eq!(client.get("/").status(), 200);
    client.ask("GET /", &[&format!("X-Long: {}", "x".repeat(1000))], "");
    client.expect_rejected(431);
}

#[test]
fn a_target_over_its_limit_is_414() {
    let origin = Origin::saying("ok");
    let proxy = Proxy::to(&origin);
    let mut client = Client::connect(&proxy);
    assert_eq!(client.get(&format!("/{}", "x".repeat(8000))).status(), 200, "a target just below 8 KiB");
    client.ask(&format!("GET /{}", "x".repeat(8200)), &[], "");
    client.expect_rejected(414);

    let proxy = Proxy::with("[limits]\ntarget = \"100B\"", &origin);
    let mut client = Client::connect(&proxy);
    assert_eq!(client.get(&format!("/{}", "x".repeat(99))).status(), 200);
    client.ask(&format!("GET /{}", "x".repeat(100)), &[], "");
    client.expect_rejected(414);
}

#[test]
fn more_fields_than_allowed_are_431() {
    let origin = Origin::saying("ok");
    let proxy = Proxy::to(&origin);
    let mut client = Client::connect(&proxy);
    // Host is one of them.
    client.ask("GET /", &["A: b"; 99], "");
    assert_eq!(client.response().status(), 200, "100 fields");
    client.ask("GET /", &["A: b"; 100], "");
    client.expect_rejected(431);
}

#[test]
fn a_body_over_its_limit_is_413_by_length_and_by_chunks() {
    let origin = Origin::answering(|request| Answer::ok(request.body.len().to_string()));
    let proxy = Proxy::with("[limits]\nbody = \"1KiB\"", &origin);
    let mut client = Client::connect(&proxy);
    client.ask("POST /", &["Content-Length: 1024"], [b'x'; 1024]);
    assert_eq!(client.response().text(), "1024");
    client.ask("POST /", &["Transfer-Encoding: chunked"], chunked(&[b'x'; 1024], 100));
    assert_eq!(client.response().text(), "1024");
    assert_eq!(origin.requests().len(), 2);

    client.ask("POST /", &["Content-Length: 1025"], "");
    client.expect_rejected(413);

    let mut client = Client::connect(&proxy);
    client.ask("POST /", &["Transfer-Encoding: chunked"], chunked(&[b'x'; 1025], 100));
    client.expect_rejected(413);
    assert_eq!(origin.requests().len(), 2, "neither was completed");
}

#[test]
fn a_body_has_no_limit_unless_one_is_set() {
    let origin = Origin::answering(|request| Answer::ok(request.body.len().to_string()));
    let proxy = Proxy::to(&origin);
    let mut client = Client::connect(&proxy);
    client.ask("POST /", &["Content-Length: 50000000"], vec![b'x'; 50_000_000]);
    assert_eq!(client.response().text(), "50000000");
}

#[test]
fn at_the_connection_limit_accepting_pauses_and_resumes() {
    let origin = Origin::saying("ok");
    let proxy = Proxy::with("[limits]\nconnections = 2", &origin);
    let mut first = Client::connect(&proxy);
    let mut second = Client::connect(&proxy);
    assert_eq!((first.get("/").status(), second.get("/").status()), (200, 200));

    // The kernel takes the third; hawkey leaves it waiting.
    let mut third = Client::connect(&proxy);
    third.ask("GET /", &[], "");
    third.expect_silence(A_WHILE);
    assert_eq!((first.get("/").status(), second.get("/").status()), (200, 200), "the others are served as before");

    drop(first);
    assert_eq!(third.response().status(), 200);
    drop((second, third));
    for _ in 0..10 {
        assert_eq!(Client::connect(&proxy).get("/").status(), 200);
    }
}

#[test]
fn a_tunnel_counts_as_a_connection_until_it_ends() {
    let origin = Origin::by_hand();
    let proxy = Proxy::with("[limits]\nconnections = 1", &origin);
    let (client, _upstream) = tunnel(&proxy, &origin);
    let mut waiting = Client::connect(&proxy);
    waiting.ask("GET /", &[], "");
    waiting.expect_silence(A_WHILE);
    client.reset();
    let mut upstream = origin.accept();
    upstream.request();
    upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    waiting.expect_empty(200);
}

/// Descriptors of a process that soon has none left, and clients that come all at once.
const FEW: usize = 256;
const MANY: usize = 1_000;
/// As in src/server/event_loop.rs.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A proxy that may hold [`FEW`] descriptors, and as many connections as it likes. `tunnels` stand behind `/tunnel`.
fn short_of_descriptors(origin: &Origin, tunnels: &Origin) -> Proxy {
    let config = format!(
        "[[route]]\nmatch = \"/\"\nto = \"{origin}\"\n[[route]]\nmatch = \"/tunnel\"\nto = \"{tunnels}\"\n\
         [limits]\nconnections = {MANY}"
    );
    Proxy::launch(&config, LogPipe::Collected, |config| {
        let mut command = std::process::Command::new("sh");
        let run = "ulimit -n $2; exec \"$0\" --control off -c \"$1\"";
        command.args(["-c", run, env!("CARGO_BIN_EXE_hawkey")]).arg(config).arg(FEW.to_string()).env_remove("RUST_LOG");
        command
    })
}

/// So many clients that `proxy` runs out of descriptors; most wait in the kernel.
fn crowd_of_many(proxy: &Proxy) -> Vec<Client> {
    let crowd = (0..MANY).map(|_| Client::connect(proxy)).collect();
    // One is for the moment in which accepting looks whether there is one.
    eventually("every descriptor is used", || proxy.descriptors() >= FEW - 1);
    crowd
}

#[test]
fn out_of_descriptors_accepting_pauses_without_spinning_and_nothing_is_lost() {
    raise_descriptor_limit(3 * MANY as u64);
    let (origin, tunnels) = (Origin::saying("ok"), Origin::by_hand());
    let proxy = short_of_descriptors(&origin, &tunnels);
    let mut established: Vec<Client> = (0..10).map(|_| Client::connect(&proxy)).collect();
    let (mut client, mut upstream) = tunnel(&proxy, &tunnels);
    let mut expect_nothing_lost = |when: &str| {
        for client in &mut established {
            assert_eq!(client.get("/").text(), "ok", "{when}");
        }
        client.send("up");
        upstream.expect("up");
        upstream.send("down");
        client.expect("down");
    };
    expect_nothing_lost("at first");

    let crowd = crowd_of_many(&proxy);
    let (before, begun) = (proxy.cpu_ticks(), Instant::now());
    std::thread::sleep(Duration::from_secs(2));
    let (ticks, took) = (proxy.cpu_ticks() - before, begun.elapsed());
    assert!(ticks * 20 <= took.as_millis() as u64 / 10, "{ticks} ticks of 10 ms in {took:?} of waiting");
    proxy.wait_for_log(&["event=accept-paused"]);
    expect_nothing_lost("while there are none");
    drop(crowd);
    expect_nothing_lost("afterwards");
}

#[test]
fn when_descriptors_come_free_who_waited_behind_all_others_is_served_within_100_ms() {
    raise_descriptor_limit(3 * MANY as u64);
    let (origin, tunnels) = (Origin::saying("ok"), Origin::by_hand());
    let (proxy, plenty) = (short_of_descriptors(&origin, &tunnels), Proxy::to(&origin));
    let (mut took, mut with_plenty) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        let crowd = crowd_of_many(&proxy);
        let mut last = Client::connect(&proxy);
        last.ask("GET /", &[], "");
        last.expect_silence(A_WHILE);
        let begun = Instant::now();
        drop(crowd);
        assert_eq!(last.response().text(), "ok");
        took.push(begun.elapsed());

        // As many who have left, seen at once by one who has descriptors for all.
        let (mut last, begun) = plenty.while_held(|| {
            drop((0..MANY).map(|_| Client::connect(&plenty)).collect::<Vec<_>>());
            let last = Client::connect(&plenty);
            last.ask("GET /", &[], "");
            (last, Instant::now())
        });
        assert_eq!(last.response().text(), "ok");
        with_plenty.push(begun.elapsed());
    }
    took.sort();
    with_plenty.sort();
    // The median. On a slow or busy machine so many clients take their time by themselves.
    let most = Duration::from_millis(100).max(ACCEPT_PAUSE + 3 * with_plenty[1]);
    println!("{took:?}, and with descriptors for all {with_plenty:?}");
    assert!(took[1] <= most, "expected within {most:?}: {took:?}, and with descriptors for all {with_plenty:?}");
}

#[test]
fn out_of_descriptors_for_an_upstream_it_is_503_and_nothing_established_is_lost() {
    raise_descriptor_limit(3 * MANY as u64);
    let closing = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok";
    let (origin, tunnels) = (Origin::answering(move |_| Answer::raw(closing).then_close()), Origin::by_hand());
    let proxy = short_of_descriptors(&origin, &tunnels);
    let mut established = Client::connect(&proxy);
    assert_eq!(established.get("/").text(), "ok");
    let (mut client, mut upstream) = tunnel(&proxy, &tunnels);
    let crowd = crowd_of_many(&proxy);
    eventually("every descriptor is a client's", || proxy.descriptors() == FEW);
    established.ask("GET /", &[], "");
    let response = established.expect_rejected(503);
    assert!(response.field("retry-after").is_some(), "{response:?}");
    client.send("up");
    upstream.expect("up");
    drop(crowd);
    eventually("the crowd has left", || proxy.descriptors() < FEW / 2);
    assert_eq!(Client::connect(&proxy).get("/").text(), "ok");
    upstream.send("down");
    client.expect("down");
}

#[test]
fn unless_set_the_connection_limit_is_half_of_the_descriptors_less_sixteen() {
    let origin = Origin::saying("ok");
    let config = format!("[[route]]\nmatch = \"/\"\nto = \"{origin}\"");
    let proxy = Proxy::launch(&config, LogPipe::Collected, |config| {
        let mut command = std::process::Command::new("sh");
        // The soft limit is lower still: it is raised to the hard one at the start.
        let run = "ulimit -Sn 40; ulimit -Hn 64; exec \"$0\" --control off -c \"$1\"";
        command.args(["-c", run, env!("CARGO_BIN_EXE_hawkey")]).arg(config).env_remove("RUST_LOG");
        command
    });
    let mut clients: Vec<Client> = (0..16).map(|_| Client::connect(&proxy)).collect();
    for client in &mut clients {
        assert_eq!(client.get("/").status(), 200, "16 of 64 / 2 - 16");
    }
    let mut one_more = Client::connect(&proxy);
    one_more.ask("GET /", &[], "");
    one_more.expect_silence(A_WHILE);
    clients.pop();
    assert_eq!(one_more.response().status(), 200);
}

#[test]
fn a_client_that_asks_for_much_at_once_waits_its_turn() {
    // Many more than one turn answers; few enough for a pipe to hold their log lines.
    const REQUESTS: usize = 300;
    let origin = Origin::by_hand();
    let proxy = Proxy::start(&format!("[[route]]\nmatch = \"/elsewhere\"\nto = \"{origin}\""));
    let mut clients = [Client::connect(&proxy), Client::connect(&proxy)];
    for client in &mut clients {
        // So that both are known and idle.
        client.ask("GET /", &[], "");
        client.expect_own_answer(404);
    }
    let [noisy, neighbour] = &mut clients;
    proxy.while_held(|| {
        // Short enough to be read at once, and answered without an upstream.
        noisy.send(b"GET / HTTP/1.1\r\nHost:\r\n\r\n".repeat(REQUESTS));
        neighbour.ask("GET /", &[], "");
    });
    neighbour.expect_empty(404);
    for _ in 0..REQUESTS {
        noisy.expect_empty(404);
    }
    let address = neighbour.address().to_string();
    proxy.wait_for_log(&[&format!("client={address} "), " request=2 "]);
    let log = proxy.log();
    let before = log.iter().take_while(|line| !(line.contains(&address) && line.contains(" request=2 "))).count();
    assert!(before < REQUESTS / 2, "the neighbour was answered behind {before} lines of a client with {REQUESTS}");
}

#[test]
fn answers_that_lose_their_chunks_leave_no_connection_behind() {
    let origin = Origin::by_hand();
    let proxy = Proxy::start(&format!("http_1_0 = \"serve\"\n[[route]]\nmatch = \"/\"\nto = \"{origin}\""));
    let ask = || {
        let client = Client::connect(&proxy);
        client.send("GET / HTTP/1.0\r\nHost: example.com\r\n\r\n");
        client
    };
    let answer = |mut client: Client, upstream: &mut Connection| {
        upstream.request();
        upstream.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n");
        client.response_head();
        client.expect("hello");
        // Of this the client gets nothing but the end.
        upstream.send("0\r\n\r\n");
        client.expect_end();
    };
    let first = ask();
    let mut upstream = origin.accept();
    answer(first, &mut upstream);
    let before = proxy.descriptors();
    for _ in 0..10 {
        answer(ask(), &mut upstream);
    }
    assert_eq!(origin.connections(), 1, "the upstream's connection is kept");
    eventually("every client is gone", || proxy.descriptors() <= before);
}

#[test]
fn many_connections_come_and_go_and_leave_nothing_behind() {
    let origin = Origin::saying("ok");
    let proxy = Proxy::to(&origin);
    let visit = |count: usize| {
        for number in 0..count {
            let mut client = Client::connect(&proxy);
            assert_eq!(client.get("/").status(), 200);
            if number % 2 == 0 {
                client.reset();
            }
        }
    };
    visit(100);
    eventually("every client is gone", || proxy.descriptors() < 20);
    let (descriptors, memory) = (proxy.descriptors(), proxy.memory());
    visit(2000);
    eventually("every client is gone again", || proxy.descriptors() <= descriptors);
    let grown = proxy.memory().saturating_sub(memory);
    assert!(grown < 1 << 20, "hawkey grew by {grown} bytes");
}
