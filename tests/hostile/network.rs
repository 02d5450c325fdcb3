//! A vector played over sockets: to a real hawkey, in front of an upstream that reads strictly, with a second client beside it.

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use super::judge::{CANARY, End, Outcome, Seen, WORDS, answer, is_answered, is_switched, judge, target};
use super::reading;
use super::support::{PATIENCE, Proxy, eventually};
use super::vector::{Script, Then, Vector};

/// Clients at a time, each with a second one beside it.
const CLIENTS: usize = 32;
/// How long an upstream watches that nothing comes behind a handshake before it is answered.
const A_MOMENT: Duration = Duration::from_millis(10);

/// What came of all vectors.
#[derive(Debug, Default)]
pub struct Tally {
    /// What the upstream could not read.
    pub parser_failures: Vec<String>,
    /// Which vectors were not handled as they must be, and what came of them.
    pub wrong: Vec<(usize, String)>,
}

/// Plays all `vectors`, many at a time, each on a connection of its own and from an address of its own.
pub fn play_all(vectors: &[Vector]) -> Tally {
    let scripts =
        vectors.iter().enumerate().filter_map(|(index, vector)| Some((address(index), vector.script.clone()?)));
    let stage = Stage::new(scripts.collect());
    // Short enough that many vectors can wait for them, long enough for a busy machine.
    let timeouts = "[timeouts]\nhead = \"3s\"\nidle = \"3s\"\nresponse = \"3s\"\nupgrade = \"3s\"\n";
    let route = format!("[[route]]\nmatch = \"/\"\nto = \"{}\"\n", stage.address);
    let proxy = Proxy::start(&format!("{route}{timeouts}"));
    let (next, wrong) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for number in 0..CLIENTS {
            let (proxy, stage, next, wrong) = (&proxy, &stage, &next, &wrong);
            scope.spawn(move || {
                let mut beside = Beside::new(proxy.address(), number);
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(vector) = vectors.get(index) else { break };
                    let told = play(vector, address(index), proxy.address(), stage, &mut beside);
                    if let Err(why) = told {
                        wrong.lock().unwrap().push((index, format!("{vector}\n{why}")));
                        beside = Beside::new(proxy.address(), number);
                    }
                }
            });
        }
    });
    drop(proxy);
    let connections = &stage.shared.open;
    eventually("the upstream has read all", || connections.load(Ordering::Acquire) == 0);
    let parser_failures = std::mem::take(&mut *stage.shared.failures.lock().unwrap());
    Tally { parser_failures, wrong: wrong.into_inner().unwrap() }
}

/// The address of the client that plays this vector: hawkey tells it to the upstream, so that each request has its sender.
fn address(index: usize) -> IpAddr {
    Ipv4Addr::from(0x7f10_0001 + u32::try_from(index).expect("an index that fits")).into()
}

fn play(vector: &Vector, from: IpAddr, to: SocketAddr, stage: &Stage, beside: &mut Beside) -> Result<(), String> {
    beside.asks();
    let (got, end) = converse(vector, from, to)?;
    beside.is_answered()?;
    // Once more: this one most likely goes over the connection that the vector was forwarded on.
    beside.asks();
    beside.is_answered()?;
    let Book { seen, tunnelled } = stage.book(from);
    let outcome = Outcome { got, end, seen, unfinished: Vec::new(), tunnelled };
    judge(vector, &outcome).map_err(|why| format!("{why}\n{outcome}"))
}

fn connect(from: IpAddr, to: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::new(from, 0).into())?;
    socket.connect(&to.into())?;
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE / 2))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Sends all at once and reads until the canary is answered, or the connection ends.
fn converse(vector: &Vector, from: IpAddr, to: SocketAddr) -> Result<(Vec<u8>, End), String> {
    let mut stream = connect(from, to).map_err(|error| format!("no connection: {error}"))?;
    let sent = stream.write_all(&[&vector.client, CANARY].concat());
    sent.map_err(|error| format!("hawkey takes no bytes: {error}"))?;
    let (mut got, mut has_spoken, mut room) = (Vec::new(), false, [0; 16384]);
    loop {
        match stream.read(&mut room) {
            Ok(0) => return Ok((got, End::Closed)),
            Ok(n) => got.extend_from_slice(&room[..n]),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok((got, End::Reset)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok((got, End::Silent)),
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(format!("reading failed: {error}")),
        }
        if is_switched(&got) && !has_spoken {
            has_spoken = true;
            stream.write_all(WORDS).map_err(|error| format!("the tunnel takes no bytes: {error}"))?;
        }
        if is_answered(vector, &got)? {
            if !has_spoken {
                return Ok((got, End::Open));
            }
            // The upstream closes the tunnel when it has taken note of all that came.
            let _ = stream.shutdown(Shutdown::Write);
        }
    }
}

/// A client that asks its own questions beside each vector, on a connection that it keeps.
struct Beside {
    stream: TcpStream,
    client: usize,
    questions: usize,
}

impl Beside {
    fn new(to: SocketAddr, client: usize) -> Beside {
        let from = Ipv4Addr::new(127, 200, 0, u8::try_from(client).expect("a number that fits"));
        Beside { stream: connect(from.into(), to).expect("hawkey takes connections"), client, questions: 0 }
    }

    fn asks(&mut self) {
        self.questions += 1;
        let asked = format!("GET /beside/{}/{} HTTP/1.1\r\nHost: beside\r\n\r\n", self.client, self.questions);
        self.stream.write_all(asked.as_bytes()).expect("hawkey takes bytes");
    }

    /// The answer must be to its own question, and nothing may come behind it.
    fn is_answered(&mut self) -> Result<(), String> {
        let asked = format!("/beside/{}/{}", self.client, self.questions);
        let (mut got, mut room) = (Vec::new(), [0; 4096]);
        loop {
            let told = reading::responses(&got, false, false).map_err(|why| format!("the second client: {why}"))?;
            match told.as_slice() {
                [] => {}
                [answer] if answer.is_whole && target(answer) == Some(&asked) => return Ok(()),
                _ => return Err(format!("the second client, asking {asked}, got {}", got.escape_ascii())),
            }
            match self.stream.read(&mut room) {
                Ok(n @ 1..) => got.extend_from_slice(&room[..n]),
                stop => return Err(format!("the second client got {}, then {stop:?}", got.escape_ascii())),
            }
        }
    }
}

/// An upstream that reads strictly, and keeps a book of who asked what.
struct Stage {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    /// What to answer the first request of a client with.
    scripts: HashMap<IpAddr, Script>,
    books: Mutex<HashMap<IpAddr, Book>>,
    failures: Mutex<Vec<String>>,
    requests: AtomicUsize,
    connections: AtomicUsize,
    open: AtomicUsize,
    is_over: AtomicBool,
}

/// What one client has asked, and what it said in its tunnel.
#[derive(Clone, Default)]
struct Book {
    seen: Vec<Seen>,
    tunnelled: Vec<u8>,
}

impl Stage {
    fn new(scripts: HashMap<IpAddr, Script>) -> Stage {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("the kernel gives a port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let shared = Arc::new(Shared {
            scripts,
            books: Mutex::default(),
            failures: Mutex::default(),
            requests: AtomicUsize::new(0),
            connections: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
            is_over: AtomicBool::new(false),
        });
        let accepting = Arc::clone(&shared);
        std::thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                if accepting.is_over.load(Ordering::Acquire) {
                    return;
                }
                let shared = Arc::clone(&accepting);
                shared.open.fetch_add(1, Ordering::AcqRel);
                std::thread::spawn(move || {
                    if let Err(failure) = shared.serve(stream) {
                        shared.failures.lock().unwrap().push(failure);
                    }
                    shared.open.fetch_sub(1, Ordering::AcqRel);
                });
            }
        });
        Stage { address, shared }
    }

    fn book(&self, client: IpAddr) -> Book {
        self.shared.books.lock().unwrap().get(&client).cloned().unwrap_or_default()
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::Release);
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(self.address);
    }
}

impl Shared {
    /// Reads requests to the end of the connection; on error what could not be read.
    fn serve(&self, mut stream: TcpStream) -> Result<(), String> {
        let connection = self.connections.fetch_add(1, Ordering::Relaxed);
        let _ = stream.set_nodelay(true);
        let (mut asked, mut room) = (Vec::new(), [0; 16384]);
        loop {
            // A connection that is reset has said all it had to say.
            let n = stream.read(&mut room).unwrap_or(0);
            asked.extend_from_slice(&room[..n]);
            let request = reading::request(&asked).map_err(|why| format!("{why}\n  in {}", asked.escape_ascii()))?;
            let Some(request) = request else {
                if n == 0 {
                    return Ok(());
                }
                continue;
            };
            if request.raw.len() < asked.len() {
                return Err(format!("bytes behind a request: {}", asked.escape_ascii()));
            }
            asked.clear();
            let client: IpAddr = request.client.parse().map_err(|_| format!("the client {:?}", request.client))?;
            let number = self.requests.fetch_add(1, Ordering::Relaxed);
            let ordinary = answer(number, &request.target);
            let is_first = {
                let mut books = self.books.lock().unwrap();
                let seen = &mut books.entry(client).or_default().seen;
                seen.push(Seen { connection, number, raw: request.raw });
                seen.len() == 1
            };
            match self.scripts.get(&client).filter(|_| is_first) {
                // Who is not there any more needs no answer.
                None => drop(stream.write_all(&ordinary)),
                Some(script) => {
                    self.watch(&mut stream)?;
                    if self.perform(&mut stream, script, client) {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Nothing may come behind a request before it is answered.
    fn watch(&self, stream: &mut TcpStream) -> Result<(), String> {
        let mut room = [0; 1024];
        let _ = stream.set_read_timeout(Some(A_MOMENT));
        let early = stream.read(&mut room).unwrap_or(0);
        let _ = stream.set_read_timeout(None);
        if early == 0 { Ok(()) } else { Err(format!("before the answer came {}", room[..early].escape_ascii())) }
    }

    /// Answers as the script says. Whether the connection is done with.
    fn perform(&self, stream: &mut TcpStream, script: &Script, client: IpAddr) -> bool {
        let _ = stream.write_all(&script.bytes);
        match script.then {
            Then::Ends => return true,
            Then::Breaks => {
                let _ = socket2::SockRef::from(&*stream).set_linger(Some(Duration::ZERO));
                return true;
            }
            Then::Stays if !script.opens_tunnel => return false,
            Then::Stays => {}
        }
        let mut room = [0; 4096];
        let mut heard = Vec::new();
        while let Ok(n @ 1..) = stream.read(&mut room) {
            heard.extend_from_slice(&room[..n]);
            let _ = stream.write_all(&room[..n]);
        }
        if let Some(book) = self.books.lock().unwrap().get_mut(&client) {
            book.tunnelled = heard;
        }
        true
    }
}
