//! What the end-to-end tests share: a real hawkey process, a raw client, scriptable upstreams.
//!
//! A test is a story told over sockets. Whatever does not come as expected panics here, with what was awaited and what came,
//! so that the stories themselves stay short. Every wait is on a condition and ends after [`PATIENCE`].

// Each test file is a program of its own and uses its own part of this module.
#![allow(dead_code, unreachable_pub, unused_imports)]

mod client;
mod message;
mod origin;
mod proxy;

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

pub use client::Client;
pub use message::{Cut, Head, Message, Stop, Wire};
pub use origin::{Answer, Connection, Origin};
pub use proxy::{LogPipe, Proxy, hawkey, is_alive, program};

/// How long a test waits for what has to come. Long, because it only passes when something is wrong.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// How long a test watches that something does not come.
pub const A_WHILE: Duration = Duration::from_millis(200);

/// The fields of a WebSocket handshake, with the key of RFC 6455, section 1.3.
pub const HANDSHAKE: [&str; 4] = [
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
];

/// The head that answers [`HANDSHAKE`].
pub const SWITCHING: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
     Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// The content type of the answers that hawkey writes itself for a missing route, a fault, a late upstream and HTTP/1.0.
pub const HTML: &str = "text/html; charset=utf-8";

/// A request as bytes: `request("POST /x", &["Content-Length: 2"], "hi")`. Its host is `example.com`.
pub fn request(method_and_target: &str, fields: &[&str], body: impl AsRef<[u8]>) -> Vec<u8> {
    let mut bytes = format!("{method_and_target} HTTP/1.1\r\nHost: example.com\r\n").into_bytes();
    for field in fields {
        bytes.extend_from_slice(field.as_bytes());
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(b"\r\n");
    bytes.extend_from_slice(body.as_ref());
    bytes
}

/// A tunnel through `proxy`: the client's end and the upstream's end, both past the handshake, for raw bytes.
pub fn tunnel(proxy: &Proxy, origin: &Origin) -> (Client, Connection) {
    let mut client = Client::connect(proxy);
    client.ask("GET /tunnel", &HANDSHAKE, "");
    let mut upstream = origin.accept();
    upstream.request();
    upstream.send(SWITCHING);
    assert_eq!(client.head().status(), 101, "the upstream agreed to the upgrade");
    (client, upstream)
}

/// More clients than one turn of the loop takes events of, all known to hawkey and idle.
pub struct Crowd(Vec<Client>);

impl Crowd {
    /// A crowd in front of `proxy`.
    pub fn of(proxy: &Proxy) -> Crowd {
        let mut clients: Vec<Client> = (0..250).map(|_| Client::connect(proxy)).collect();
        for client in &mut clients {
            // hawkey answers this by itself.
            client.ask("OPTIONS /", &["Max-Forwards: 0"], "");
            client.expect_empty(200);
        }
        Crowd(clients)
    }

    /// Each begins a request: to a process that is held, what comes before and what comes behind are told in different turns.
    pub fn stir(&self) {
        self.0.iter().for_each(|client| client.send("GET"));
    }
}

/// Waits until `condition` holds; `what` says it in words.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < PATIENCE, "{what}: still not so after {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The kernel asks this end whether it lives, for the other one, when it is silent.
pub fn expect_to_be_watched(end: &socket2::Socket) {
    let ours = end.local_addr().unwrap().as_socket().unwrap();
    let theirs = end.peer_addr().unwrap().as_socket().unwrap();
    // Until what was sent last is acknowledged another timer runs. 2 is keep-alive.
    eventually("keep-alive is on", || kernel_timer(theirs, ours) == Some(2));
}

/// The timer that the kernel runs for the end of a connection that has these addresses: 2 is keep-alive.
fn kernel_timer(local: SocketAddr, remote: SocketAddr) -> Option<u8> {
    let hex = |address: SocketAddr| match address.ip() {
        IpAddr::V4(ip) => format!("{:08X}:{:04X}", u32::from_ne_bytes(ip.octets()), address.port()),
        IpAddr::V6(ip) => panic!("an IPv4 address is expected, not {ip}"),
    };
    let (local, remote) = (hex(local), hex(remote));
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    table.lines().find_map(|line| {
        let columns: Vec<&str> = line.split_ascii_whitespace().collect();
        let is_it = columns.get(1) == Some(&local.as_str()) && columns.get(2) == Some(&remote.as_str());
        is_it.then(|| columns[5].split(':').next().unwrap().parse().unwrap())
    })
}

/// A clock, and beside it a thread that only sleeps, over and over. By how much that comes too late tells how busy the machine is, and
/// hawkey and both of its sides come as late.
pub struct Watch {
    begun: Instant,
    over: Arc<AtomicBool>,
    sleeper: std::thread::JoinHandle<Vec<(Instant, Instant)>>,
}

impl Watch {
    const NAP: Duration = Duration::from_millis(5);
    /// What a nap takes longer on a machine that has nothing else to do, and more.
    const NAP_LATE: Duration = Duration::from_millis(1);

    pub fn start() -> Watch {
        let over = Arc::new(AtomicBool::new(false));
        let sleeps = Arc::clone(&over);
        let sleeper = std::thread::spawn(move || {
            let mut late = Vec::new();
            while !sleeps.load(Ordering::Relaxed) {
                let due = Instant::now() + Watch::NAP + Watch::NAP_LATE;
                std::thread::sleep(Watch::NAP);
                let woken = Instant::now();
                if woken > due {
                    late.push((due, woken));
                }
            }
            late
        });
        Watch { begun: Instant::now(), over, sleeper }
    }

    /// How long it has run, and how much of that the machine may have cost: hawkey and the test are woken by turns, so that each of them
    /// may have come too late.
    pub fn stop(self) -> (Duration, Duration) {
        let took = self.begun.elapsed();
        (took, 3 * self.late_naps().into_iter().map(|(due, woken)| woken - due).sum::<Duration>())
    }

    /// Of each nap that was late, when it should have ended and when it did.
    pub fn late_naps(self) -> Vec<(Instant, Instant)> {
        self.over.store(true, Ordering::Relaxed);
        self.sleeper.join().expect("a thread that sleeps does not panic")
    }

    /// The time must lie between `least` and `most`, or as much behind that as the machine was late.
    pub fn expect(self, least: Duration, most: Duration) {
        let (took, late) = self.stop();
        assert!(
            least <= took && took <= most + late,
            "expected to take between {least:?} and {most:?}, took {took:?}; a busy machine may have cost {late:?}"
        );
    }
}

/// How long `action` takes, which must lie between `least` and `most`; what it gives. What hawkey waits for must begin in `action`, or a
/// test that goes on late finds it early.
pub fn timed<T>(least: Duration, most: Duration, action: impl FnOnce() -> T) -> T {
    let watch = Watch::start();
    let value = action();
    watch.expect(least, most);
    value
}

/// The same where a machine that is busy with others may be late now and then: of three times the median counts. None may be early.
pub fn mostly_timed(least: Duration, most: Duration, mut action: impl FnMut()) {
    let (mut took, mut in_time) = (Vec::new(), 0);
    while in_time < 2 {
        let watch = Watch::start();
        action();
        took.push(watch.stop());
        in_time = took.iter().filter(|(took, late)| *took <= most + *late).count();
        assert!(
            took.iter().all(|(took, _)| least <= *took) && took.len() - in_time < 2,
            "expected to take between {least:?} and {most:?}, took, and a busy machine may have cost: {took:?}"
        );
    }
}

/// Lets this process, in which both ends of every connection but hawkey's own are, hold `needed` descriptors.
pub fn raise_descriptor_limit(needed: u64) {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).expect("the soft limit can be raised");
    assert!(
        maximum.is_none_or(|most| most > needed),
        "{current:?} descriptors, at most {maximum:?}: {needed} are needed"
    );
}

/// `count` bytes that look random and are the same for the same `seed`, which is printed with a failing test.
pub fn random_bytes(seed: u64, count: usize) -> Vec<u8> {
    println!("random bytes of seed {seed}");
    let mut state = seed.max(1);
    let mut bytes = Vec::with_capacity(count + 8);
    while bytes.len() < count {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(count);
    bytes
}

/// Compares long byte strings and tells where they first differ instead of printing them.
pub fn assert_same_bytes(came: &[u8], expected: &[u8], what: &str) {
    let differs = came.iter().zip(expected).position(|(a, b)| a != b);
    assert_eq!(differs, None, "{what}: a byte differs, of {} expected and {} that came", expected.len(), came.len());
    assert_eq!(came.len(), expected.len(), "{what}: the number of bytes");
}

/// A body as chunks of `size` bytes, the last chunk included.
pub fn chunked(body: &[u8], size: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(body.len() + body.len() / size * 8 + 16);
    for chunk in body.chunks(size) {
        bytes.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        bytes.extend_from_slice(chunk);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(b"0\r\n\r\n");
    bytes
}

/// A path in the temporary folder that is nobody else's; what lies there is removed when it is dropped.
pub struct TempPath(PathBuf);

impl TempPath {
    /// A path that ends in `suffix`, where nothing is yet.
    pub fn new(suffix: &str) -> TempPath {
        static COUNTER: AtomicUsize = AtomicUsize::new(0);
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        TempPath(std::env::temp_dir().join(format!("hawkey-{}-{number}{suffix}", std::process::id())))
    }

    /// A file that holds `text`.
    pub fn file(suffix: &str, text: &str) -> TempPath {
        let path = TempPath::new(suffix);
        std::fs::write(&path.0, text).expect("the temporary folder can be written to");
        path
    }
}

impl std::ops::Deref for TempPath {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempPath {
    fn drop(&mut self) {
        // It may never have been created, or been removed by who listened there.
        let _ = std::fs::remove_file(&self.0);
    }
}
