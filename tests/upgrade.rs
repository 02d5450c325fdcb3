//! Upgrades: a new process takes over, and nobody at either end notices.

mod support;

use std::collections::{HashMap, VecDeque};
use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use support::*;

const TUNNELS: usize = 2_000;
const UPGRADES: usize = 10;
/// Threads that talk over them.
const SPEAKERS: usize = 4;
/// Tunnels that come and go meanwhile, at most.
const NEWCOMERS_MAX: usize = 20;
/// More than the kernel holds between the two ends of a tunnel.
const MUCH: usize = 40_000_000;

fn route(matching: &str, origin: &Origin) -> String {
    format!("[[route]]\nmatch = \"{matching}\"\nto = \"{origin}\"\n")
}

/// A hawkey with a control socket in front of one upstream.
fn before(origin: &Origin) -> Proxy {
    Proxy::controlled(&route("/", origin))
}

fn exchange(client: &mut Client, upstream: &mut Connection) {
    client.send("up");
    upstream.expect("up");
    upstream.send("down");
    client.expect("down");
}

/// A tunnel, and what has been said at both of its ends.
struct Conversation {
    number: usize,
    client: Client,
    upstream: Connection,
    said: usize,
    heard: usize,
    /// Bytes of the request.
    before: usize,
}

impl Conversation {
    /// The next message of both ends, as many as `count` of them behind each other.
    fn speak(&mut self, count: usize) {
        for _ in 0..count {
            self.client.send(self.message(self.said, "up"));
            self.upstream.send(self.message(self.said, "down"));
            self.said += 1;
        }
    }

    /// All that was said comes, in order.
    fn hear(&mut self) {
        for count in self.heard..self.said {
            let (up, down) = (self.message(count, "up"), self.message(count, "down"));
            self.upstream.expect(&up);
            self.client.expect(&down);
        }
        self.heard = self.said;
    }

    /// Its client, and what its last line tells of it.
    fn moved(&self) -> (String, String) {
        let (up, down) = (self.upstream.bytes_received() - self.before, self.client.bytes_received());
        (self.client.address().to_string(), format!(" up={up} down={down} "))
    }

    fn message(&self, count: usize, way: &str) -> String {
        format!("tunnel {} {way} message {count}\n", self.number)
    }
}

#[test]
fn a_tunnel_that_moves_before_it_was_looked_at_is_watched_all_the_same() {
    let origin = Origin::by_hand();
    let mut proxy = before(&origin);
    let (client, upstream) = tunnel(&proxy, &origin);
    let former = proxy.pid();
    proxy.upgrade();
    proxy.expect_gone(former);
    expect_to_be_watched(client.socket());
    expect_to_be_watched(upstream.socket());
}

#[test]
fn tunnels_in_conversation_move_again_and_again() {
    raise_descriptor_limit(2 * TUNNELS as u64 + 500);
    let (origin, by_itself) = (Origin::by_hand(), Origin::running(echo_after_a_pause));
    let mut proxy = Proxy::controlled(&(route("/tunnel", &origin) + &route("/", &by_itself)));
    let mut groups: Vec<Vec<Conversation>> = (0..SPEAKERS).map(|_| Vec::new()).collect();
    for number in 0..TUNNELS {
        let (client, upstream) = tunnel(&proxy, &origin);
        let before = upstream.bytes_received();
        groups[number % SPEAKERS].push(Conversation { number, client, upstream, said: 0, heard: 0, before });
    }
    let (over, address) = (AtomicBool::new(false), proxy.address());
    let mut left = Vec::new();
    thread::scope(|scope| {
        let speakers: Vec<_> = groups.iter_mut().map(|group| scope.spawn(|| converse(group, &over))).collect();
        let newcomers = scope.spawn(|| newcomers(address, &over));
        for _ in 0..UPGRADES {
            thread::sleep(Duration::from_millis(100));
            let former = proxy.pid();
            let told = proxy.upgrade_slowly();
            assert!(told["moved"]["tunnels"].as_usize() >= Some(TUNNELS), "{told}");
            proxy.expect_gone(former);
            left.push((proxy.memory(), proxy.descriptors()));
        }
        over.store(true, Ordering::Relaxed);
        let rounds: Vec<_> = speakers.into_iter().map(|speaker| speaker.join().unwrap()).collect();
        println!("{UPGRADES} upgrades beside {rounds:?} rounds and {} newcomers", newcomers.join().unwrap());
    });
    println!("bytes and descriptors behind each: {left:?}");
    let most = |what: fn(&(u64, usize)) -> u64| left.iter().map(what).max().unwrap();
    assert!(most(|left| left.0) <= left[0].0 + (1 << 20), "memory grows: {left:?}");
    // Newcomers, their upstreams, and who asks on the control socket.
    assert!(most(|left| left.1 as u64) <= left[0].1 as u64 + 3 * NEWCOMERS_MAX as u64, "descriptors grow: {left:?}");

    let conversations: Vec<_> = groups.into_iter().flatten().collect();
    let moved: Vec<_> = conversations.iter().map(Conversation::moved).collect();
    drop(conversations);
    let closed = proxy.wait_for_logs(&[" tunnel=closed ", &format!("upstream={origin} ")], TUNNELS);
    let by_client: HashMap<&str, &String> = closed.iter().map(|line| (word(line, "client"), line)).collect();
    for (client, told) in moved {
        let line = by_client[client.as_str()];
        assert!(line.contains(&told), "expected `{told}` in: {line}");
    }
    numbers_are_unique(&proxy.log());
}

/// Talks over all of `group` until that is `over`, in bursts and with pauses; how many rounds that were.
fn converse(group: &mut [Conversation], over: &AtomicBool) -> usize {
    let mut rounds = 0;
    while !over.load(Ordering::Relaxed) {
        for one in group.iter_mut() {
            one.speak([1, 0, 5][(one.number + rounds) % 3]);
        }
        group.iter_mut().for_each(Conversation::hear);
        rounds += 1;
        thread::sleep(Duration::from_millis(rounds as u64 % 4));
    }
    // Nothing came twice.
    for one in group {
        for socket in [one.client.socket(), one.upstream.socket()] {
            socket.set_nonblocking(true).unwrap();
            let came = socket.peek(&mut [std::mem::MaybeUninit::uninit()]);
            assert_eq!(came.unwrap_err().kind(), std::io::ErrorKind::WouldBlock, "of tunnel {}", one.number);
        }
    }
    rounds
}

/// Connects all the time, asks for something, and opens a tunnel; how often.
fn newcomers(address: SocketAddr, over: &AtomicBool) -> usize {
    let (mut open, mut count) = (VecDeque::new(), 0);
    while !over.load(Ordering::Relaxed) {
        let mut client = Client::to(address);
        assert_eq!(client.get("/").text(), "ok");
        client.ask("GET /", &HANDSHAKE, "");
        assert_eq!(client.head().status(), 101);
        client.send("hello");
        client.expect("hello");
        open.push_back(client);
        if open.len() == NEWCOMERS_MAX {
            let mut oldest = open.pop_front().unwrap();
            oldest.send("bye");
            oldest.expect("bye");
        }
        count += 1;
    }
    count
}

/// An upstream that takes some time to agree to a tunnel, so that many an upgrade finds it at that.
fn echo_after_a_pause(mut connection: Connection) {
    while let Ok(request) = connection.try_request() {
        if request.head.list("upgrade").is_empty() {
            connection.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
            continue;
        }
        thread::sleep(Duration::from_millis(10));
        connection.send(SWITCHING);
        let mut socket = connection.into_socket();
        let mut writer = socket.try_clone().unwrap();
        let _ = std::io::copy(&mut socket, &mut writer);
        return;
    }
}

/// The value of a key in a log line.
fn word<'l>(line: &'l str, key: &str) -> &'l str {
    let found = line.split(' ').find_map(|word| word.strip_prefix(key)?.strip_prefix('='));
    found.unwrap_or_else(|| panic!("no {key} in: {line}"))
}

/// Of each session, all lines name the same client, and of each of its requests one tells the end.
fn numbers_are_unique(log: &[String]) {
    let (mut clients, mut ends) = (HashMap::new(), HashMap::new());
    for line in log.iter().filter(|line| line.contains(" session=") && line.contains(" client=")) {
        let (session, client) = (word(line, "session"), word(line, "client"));
        assert_eq!(*clients.entry(session).or_insert(client), client, "two clients are session {session}");
        if line.contains(" end=") {
            let former = ends.insert((session, word(line, "request")), line);
            assert!(former.is_none(), "one request ends twice:\n{}\n{line}", former.unwrap());
        }
    }
    assert!(clients.len() > 100, "{} sessions", clients.len());
}

#[test]
fn what_waits_for_a_stalled_reader_moves_and_so_does_an_end_behind_it() {
    let origin = Origin::by_hand();
    let mut proxy = before(&origin);
    let body = std::sync::Arc::new(random_bytes(7, MUCH));
    let (mut down, mut up) = (tunnel(&proxy, &origin), tunnel(&proxy, &origin));
    let writers = [down.1.writer(), up.0.writer()].map(|writer| {
        let body = body.clone();
        thread::spawn(move || {
            writer.send(&*body);
            writer.end();
        })
    });
    for _ in 0..3 {
        thread::sleep(A_WHILE);
        assert!(writers.iter().all(|writer| !writer.is_finished()), "{MUCH} bytes left although nobody reads");
        let told = proxy.upgrade();
        assert_eq!(told["moved"]["tunnels"], 2, "{told}");
    }
    for (reader, writer, way) in [(&mut *down.0, &mut *down.1, "down"), (&mut *up.1, &mut *up.0, "up")] {
        assert_same_bytes(&reader.bytes(MUCH), &body, way);
        reader.expect_end();
        reader.send("the other way");
        writer.expect("the other way");
        reader.end();
        writer.expect_end();
    }
    writers.into_iter().for_each(|writer| writer.join().unwrap());
    for line in proxy.wait_for_logs(&[" tunnel=closed ", " end=closed "], 2) {
        let moved = [word(&line, "up"), word(&line, "down")].map(|bytes| bytes.parse().unwrap());
        assert!(moved.iter().any(|bytes: &usize| (MUCH..MUCH + 1000).contains(bytes)), "{line}");
    }
}

#[test]
fn the_last_bytes_that_a_stalled_reader_has_not_taken_come_without_another_word() {
    let origin = Origin::by_hand();
    let mut proxy = before(&origin);
    let (mut client, upstream) = tunnel(&proxy, &origin);
    let left_for_client = |proxy: &Proxy| {
        let (_, told, _) = proxy.ask(&["status", "--json"]);
        jzon::parse(&told).unwrap()["bytes"]["down"].as_usize().unwrap()
    };
    // Piece by piece, each of which hawkey reads whole, until it cannot be rid of one.
    let body = random_bytes(8, MUCH);
    let before = left_for_client(&proxy);
    let mut sent = 0;
    for piece in body.chunks(16_000) {
        upstream.send(piece);
        sent += piece.len();
        let patience = Instant::now() + A_WHILE;
        let has_left = |proxy: &Proxy| left_for_client(proxy) == before + sent;
        while !has_left(&proxy) && Instant::now() < patience {}
        if !has_left(&proxy) {
            break;
        }
    }
    assert!(sent < MUCH, "{MUCH} bytes left although nobody reads");
    let told = proxy.upgrade();
    assert_eq!(told["moved"]["tunnels"], 1, "{told}");
    assert_same_bytes(&client.bytes(sent), &body[..sent], "down");
}

#[test]
fn tunnels_that_move_all_they_can_move_in_the_midst_of_it() {
    let origin = Origin::by_hand();
    let mut proxy = before(&origin);
    let body = random_bytes(9, MUCH);
    let mut tunnels: Vec<_> = (0..3).map(|_| tunnel(&proxy, &origin)).collect();
    thread::scope(|scope| {
        let mut ends = Vec::new();
        for (client, upstream) in &mut tunnels {
            let (up, down) = (client.writer(), upstream.writer());
            for (from, to) in [(up, &mut **upstream), (down, &mut **client)] {
                let body = &body;
                scope.spawn(move || from.send(body));
                ends.push(scope.spawn(move || assert_same_bytes(&to.bytes(MUCH), body, "either way")));
            }
        }
        let mut upgrades = 0;
        while !ends.iter().all(|end| end.is_finished()) {
            proxy.upgrade();
            upgrades += 1;
        }
        println!("{upgrades} upgrades in the midst of 6 times {MUCH} bytes");
        assert!(upgrades > 1, "{upgrades} upgrades");
    });
}

#[test]
fn half_closed_tunnels_move_as_they_are() {
    let origin = Origin::by_hand();
    let mut proxy = before(&origin);
    let (mut one, mut two) = (tunnel(&proxy, &origin), tunnel(&proxy, &origin));
    for (ends, other) in [(&mut *one.0, &mut *one.1), (&mut *two.1, &mut *two.0)] {
        ends.send("last words");
        ends.end();
        other.expect("last words");
        other.expect_end();
    }
    for n in 0..3 {
        let told = proxy.upgrade();
        assert_eq!((&told["moved"]["tunnels"], &told["stay"]), (&2.into(), &0.into()), "{told}");
        for (ended, other) in [(&mut *one.0, &mut *one.1), (&mut *two.1, &mut *two.0)] {
            other.send(format!("more {n}"));
            ended.expect(&format!("more {n}"));
        }
    }
    for (ended, other) in [(&mut *one.0, &mut *one.1), (&mut *two.1, &mut *two.0)] {
        other.end();
        ended.expect_end();
    }
    proxy.wait_for_log(&[" tunnel=closed ", " end=closed by=client"]);
    proxy.wait_for_log(&[" tunnel=closed ", " end=closed by=upstream"]);
}

#[test]
fn an_end_that_comes_during_the_upgrade_is_heard() {
    let origin = Origin::by_hand();
    let proxy = before(&origin);
    for by_reset in [false, true] {
        let (client, mut upstream) = tunnel(&proxy, &origin);
        // The request to upgrade and the end are seen in one turn.
        let mut asker = proxy.while_held(|| {
            let mut asker = UnixStream::connect(proxy.control()).unwrap();
            asker.write_all(b"{\"protocol\":1,\"ask\":\"upgrade\"}\n").unwrap();
            if by_reset {
                client.reset()
            } else {
                drop(client)
            }
            asker
        });
        let mut told = String::new();
        asker.read_to_string(&mut told).unwrap();
        assert!(told.contains("\"former_pid\":"), "{told}");
        proxy.wait_for_logs(&[" upgraded "], 1 + usize::from(by_reset));
        if by_reset { upstream.expect_gone() } else { upstream.expect_end() }
    }
    proxy.wait_for_logs(&[" tunnel=closed "], 2);
}

#[test]
fn a_download_ends_whole_in_the_old_process_and_its_client_follows() {
    const SIZE: usize = 100_000_000;
    let (files, origin) = (Origin::by_hand(), Origin::saying("ok"));
    let mut proxy = Proxy::controlled(&(route("/file", &files) + &route("/", &origin)));
    let mut client = Client::connect(&proxy);
    client.ask("GET /file", &[], "");
    let mut upstream = files.accept();
    upstream.request();
    let body = random_bytes(100, SIZE);
    upstream.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\n\r\n"));
    let head = client.response_head();
    assert_eq!(head.status(), 200);

    thread::scope(|scope| {
        let sending = scope.spawn(|| upstream.send(&body));
        let former = proxy.pid();
        let told = proxy.upgrade_slowly();
        assert_eq!(told["stay"], 1, "{told}");
        assert_eq!(Client::connect(&proxy).get("/").text(), "ok");
        let status = proxy.control_answer("status");
        assert_eq!(status["pid"], told["pid"], "the new process is asked");
        assert!(is_alive(former), "a download is under way");
        assert_same_bytes(&client.body_of(head).unwrap().body, &body, "the download");
        sending.join().unwrap();
        proxy.expect_gone(former);
    });
    assert_eq!(client.get("/").text(), "ok", "the same connection, in the new process");
    numbers_go_on(&proxy, 3);
}

/// The next session is this one.
fn numbers_go_on(proxy: &Proxy, number: usize) {
    let mut client = Client::connect(proxy);
    client.get("/");
    proxy.wait_for_log(&[&format!(" session={number} "), &format!(" client={} ", client.address())]);
}

#[test]
fn clients_that_wait_move_whether_they_have_asked_before_or_not() {
    let origin = Origin::saying("ok");
    let mut proxy = before(&origin);
    let mut clients: Vec<_> = (0..50).map(|_| Client::connect(&proxy)).collect();
    for client in clients.iter_mut().skip(25) {
        assert_eq!(client.get("/").text(), "ok");
    }
    eventually("all are known", || proxy.control_answer("status")["sessions"]["idle"] == 50);
    let mut half = Client::connect(&proxy);
    half.send("GET / HTTP/1.1\r\n");
    eventually("half a request has come", || proxy.control_answer("status")["sessions"]["head"] == 1);
    let former = proxy.pid();
    let told = proxy.upgrade_slowly();
    assert_eq!((&told["moved"]["clients"], &told["stay"]), (&50.into(), &1.into()), "{told}");
    for client in &mut clients {
        assert_eq!(client.get("/").text(), "ok");
    }
    half.send("Host: a\r\n\r\n");
    assert_eq!(half.response().text(), "ok", "what has begun ends in the old process");
    proxy.expect_gone(former);
    assert_eq!(half.get("/").text(), "ok", "and what comes then in the new one");
    proxy.upgrade();
    drop(clients);
}

#[test]
fn a_handshake_that_is_under_way_follows_as_a_tunnel_through_all_processes() {
    let origin = Origin::by_hand();
    let mut proxy = before(&origin);
    let mut client = Client::connect(&proxy);
    client.ask("GET /tunnel", &HANDSHAKE, "");
    let mut upstream = origin.accept();
    upstream.request();
    let oldest = proxy.pid();
    assert_eq!(proxy.upgrade_slowly()["stay"], 1);
    let middle = proxy.pid();
    let told = proxy.upgrade_slowly();
    assert_eq!(told["stay"], 0, "{told}");
    // The one in the middle has nothing, but stands between the others.
    thread::sleep(A_WHILE);
    assert!(is_alive(oldest) && is_alive(middle));
    upstream.send(SWITCHING);
    assert_eq!(client.head().status(), 101);
    proxy.expect_gone(oldest);
    proxy.expect_gone(middle);
    exchange(&mut client, &mut upstream);
    proxy.upgrade();
    exchange(&mut client, &mut upstream);
}

#[test]
fn the_last_line_of_a_tunnel_tells_of_its_whole_life() {
    let origin = Origin::by_hand();
    let mut proxy = before(&origin);
    let begun = std::time::Instant::now();
    let (mut client, mut upstream) = tunnel(&proxy, &origin);
    for _ in 0..3 {
        exchange(&mut client, &mut upstream);
        thread::sleep(A_WHILE);
        proxy.upgrade();
    }
    let (address, down) = (client.address(), client.bytes_received());
    drop((client, upstream));
    let line = proxy.wait_for_log(&[" tunnel=closed "]);
    let lived = begun.elapsed().as_millis();
    let moved = format!(" client={address} upstream={origin} up=6 down={down} ");
    assert!(line.contains(" session=1 request=1 ") && line.contains(&moved), "expected `{moved}` in: {line}");
    // What passes while it moves is not counted, and nothing twice.
    let told: u128 = word(&line, "ms").parse().unwrap();
    assert!((3 * A_WHILE.as_millis() - 3..=lived).contains(&told), "{lived} ms: {line}");
}

#[test]
fn the_configuration_of_the_new_process_holds() {
    let (one, two, tunnels) = (Origin::saying("one"), Origin::saying("two"), Origin::by_hand());
    let (gone, added) = (TempPath::new("-gone.sock"), TempPath::new("-added.sock"));
    let config = |unix: &TempPath, origin: &Origin| {
        format!("listen = [\"127.0.0.1:0\", \"unix:{}\"]\n{}", unix.display(), route("/", origin))
    };
    let mut proxy = Proxy::controlled(&(config(&gone, &one) + &route("/tunnel", &tunnels)));
    proxy.wait_for_log(&["listening=unix:"]);
    let (mut client, mut upstream) = tunnel(&proxy, &tunnels);
    let (mut kept, mut by_unix) = (Client::connect(&proxy), Client::unix(&gone));
    assert_eq!((kept.get("/").text(), by_unix.get("/").text()), ("one".into(), "one".into()));

    // The route of the tunnel goes as well.
    proxy.configure(&config(&added, &two));
    let told = proxy.upgrade();
    assert_eq!(told["moved"]["listeners"], 2, "{told}");
    assert_eq!((kept.get("/").text(), by_unix.get("/").text()), ("two".into(), "two".into()));
    assert_eq!(Client::connect(&proxy).get("/").text(), "two");
    assert_eq!(Client::unix(&added).get("/").text(), "two");
    assert!(!gone.exists(), "the file of a listener that is no more");
    exchange(&mut client, &mut upstream);
    drop((client, upstream));
    proxy.wait_for_log(&[" tunnel=closed ", &format!(" upstream={tunnels} ")]);
}

#[test]
fn files_of_sockets_stay_until_the_last_process_ends() {
    let origin = Origin::saying("ok");
    let web = TempPath::new("-web.sock");
    let mut proxy = Proxy::controlled(&format!("listen = \"unix:{}\"\n{}", web.display(), route("/", &origin)));
    for _ in 0..2 {
        assert_eq!(Client::unix(&web).get("/").text(), "ok");
        proxy.upgrade();
        assert!(web.exists() && proxy.control().exists());
    }
    assert_eq!(Client::unix(&web).get("/").text(), "ok");
    let last = proxy.pid();
    let (code, told, _) = proxy.ask(&["stop"]);
    assert_eq!(code, Some(0), "{told}");
    proxy.expect_gone(last);
    assert!(!web.exists() && !proxy.control().exists());
}

#[test]
fn the_command_tells_what_moved_and_a_signal_does_the_same() {
    let origin = Origin::by_hand();
    let mut proxy = before(&origin);
    let (mut client, mut upstream) = tunnel(&proxy, &origin);
    let former = proxy.pid();
    let (code, told, why) = proxy.ask(&["upgrade"]);
    assert_eq!(code, Some(0), "{why}");
    let pid = word(&proxy.wait_for_log(&[" upgraded "]), "pid").to_owned();
    for part in [
        format!(" ms: pid {pid} has taken over from pid {former}\n"),
        "moved: 1 listeners, 1 tunnels, 0 waiting clients, which paused for at most ".to_owned(),
        "nothing is left in the old process\n".to_owned(),
    ] {
        assert!(told.contains(&part), "expected `{part}` in:\n{told}");
    }
    proxy.expect_gone(former);
    exchange(&mut client, &mut upstream);

    let former = proxy.pid();
    proxy.signal(Signal::USR2);
    proxy.wait_for_logs(&[" upgraded "], 2);
    proxy.expect_gone(former);
    exchange(&mut client, &mut upstream);
    let other = TempPath::new("-program");
    std::fs::copy(env!("CARGO_BIN_EXE_hawkey"), &*other).unwrap();
    let (code, _, why) = proxy.ask(&["upgrade", "--binary", other.to_str().unwrap()]);
    assert_eq!(code, Some(0), "{why}");
    proxy.wait_for_logs(&[" upgraded "], 3);
    assert_eq!(program_of(&proxy), *other);
    proxy.upgrade();
    assert_eq!(program_of(&proxy), *other, "it starts itself anew, not the first");
    exchange(&mut client, &mut upstream);
}

fn program_of(proxy: &Proxy) -> PathBuf {
    std::fs::read_link(format!("/proc/{}/exe", proxy.pid())).unwrap()
}

#[test]
fn the_path_of_the_program_may_lead_to_another_by_then() {
    let origin = Origin::saying("ok");
    let (link, other) = (TempPath::new("-link"), TempPath::new("-program"));
    symlink(env!("CARGO_BIN_EXE_hawkey"), &*link).unwrap();
    std::fs::copy(env!("CARGO_BIN_EXE_hawkey"), &*other).unwrap();
    let mut proxy = Proxy::launch(&route("/", &origin), LogPipe::Collected, |config| {
        let mut command = Command::new(&*link);
        command.env_remove("RUST_LOG").env_remove("NOTIFY_SOCKET");
        command.arg("--control").arg(config.with_extension("sock")).arg("-c").arg(config);
        command
    });
    std::fs::remove_file(&*link).unwrap();
    symlink(&*other, &*link).unwrap();
    proxy.upgrade();
    assert_eq!(program_of(&proxy), *other);
}

#[test]
fn who_is_connected_to_the_control_socket_does_not_hold_the_old_process() {
    let origin = Origin::saying("ok");
    let mut proxy = before(&origin);
    let connect = || UnixStream::connect(proxy.control()).unwrap();
    let (mut silent, mut late) = (connect(), connect());
    // A turn later both are taken in.
    proxy.control_answer("status");
    let former = proxy.pid();
    proxy.upgrade_slowly();
    late.write_all(b"{\"protocol\":1,\"ask\":\"status\"}\n").unwrap();
    let mut told = String::new();
    late.read_to_string(&mut told).unwrap();
    assert!(told.contains(&format!("\"pid\":{former}")), "{told}");
    proxy.expect_gone(former);
    assert_eq!(silent.read(&mut [0]).unwrap(), 0);
}
