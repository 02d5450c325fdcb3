//! HTTP and an expectation, from `tests/vectors/*.txt`, held against a session in memory.
//!
//! `tests/vectors/README.md` tells the format. Every vector is played whole, in pieces of 1, 2, 3 and 7 bytes, cut in two at every
//! byte, with a further request behind the client's last bytes, and with bytes that nobody asked for behind the upstream's. What
//! comes is compared byte by byte.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;
use std::{fmt, fs};

use hawkey::Config;
use hawkey::proxy::moment::Moment;
use hawkey::proxy::policy::{ClientAddress, Policy, UpstreamId};
use hawkey::proxy::session::{Session, Step};
use hawkey::proxy::side::{Both, Side};
use hawkey::proxy::turn::Turn;

macro_rules! files {
    ($($name:ident)*) => {
        const FILES: &[&str] = &[$(stringify!($name)),*];
        $(
            #[test]
            fn $name() {
                play_file(stringify!($name));
            }
        )*
    };
}

files! {
    request_line host fields hop_by_hop forwarding request_framing chunked expect pipelining responses response_framing interim
    upgrade http_1_0 own_answers
}

fn folder() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors")
}

fn play_file(name: &str) {
    let text = fs::read_to_string(folder().join(format!("{name}.txt"))).unwrap();
    let vectors = parse(&text).unwrap_or_else(|error| panic!("{name}.txt:{error}"));
    let failures: Vec<_> = vectors
        .iter()
        .filter_map(|vector| play_every_way(vector).err().map(|why| format!("{name}.txt:{vector}\n{why}")))
        .collect();
    assert!(failures.is_empty(), "{} of {} vectors\n\n{}", failures.len(), vectors.len(), failures.join("\n\n"));
    println!("{} vectors", vectors.len());
}

#[test]
fn every_file_of_the_folder_is_played() {
    for entry in fs::read_dir(folder()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if let Some(stem) = name.strip_suffix(".txt") {
            assert!(FILES.contains(&stem), "{name} is not among the files that are played");
        }
    }
}

// Vectors as they are written.

/// One vector: a conversation, and what must come of it.
#[derive(Clone, Debug)]
struct Vector {
    title: String,
    line: usize,
    /// The configuration, as TOML.
    config: String,
    client: ClientAddress,
    /// Whether no bytes may be put behind it.
    is_alone: bool,
    acts: Vec<(usize, Act)>,
}

impl fmt::Display for Vector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.line, self.title)
    }
}

/// What happens, or must have happened by then.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Act {
    /// One of the sides sends bytes.
    Sends(Side, Vec<u8>),
    Ends(Side),
    Breaks(Side),
    /// The upstream takes no more bytes.
    IsDeaf,
    /// How the next connection to an upstream fares, if not well.
    Meets(Obstacle),
    /// Nobody does anything until the deadline, which is this far away.
    Silence(Duration),
    /// One of the sides has got these bytes since the last time it was asked.
    Gets(Side, Vec<u8>),
    /// One of the sides has got a beginning of these bytes.
    GetsBeginning(Side, Vec<u8>),
    /// The client has got an answer of our own.
    Own {
        status: u16,
        keep: bool,
    },
    /// The upstream that was asked last.
    AskedAt(String),
    /// Whether the connection to it had been used before.
    OnUsedConnection(bool),
    /// Whether the last connection to an upstream that was let go may be used again.
    UpstreamKept(bool),
    /// The upstream has been told that the client's side ended.
    UpstreamToldEnd,
    /// The last.
    Last(Last),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Obstacle {
    Refused,
    Swallowed,
    NoDescriptor,
}

/// How a vector leaves the client's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Last {
    /// Open: a further request is answered as itself.
    Kept,
    /// Ended in good order.
    Closed,
    /// Ended by a reset.
    Cut,
    /// Refused with a status; the request, if it went out at all, was never completed.
    Refused(u16),
    /// Closed behind a client that had left.
    Gone,
    /// A tunnel.
    Tunnel,
    /// Something more must come first.
    Waits,
}

const ASKED: &str = "> GET / HTTP/1.1\n> Host: a\n>\n>> GET / HTTP/1.1\n>> Host: a\n>> {from a}\n>>\n";
const ANSWERED: &str =
    "< HTTP/1.1 200 OK\n< Content-Length: 2\n<\n< ok\\\n<< HTTP/1.1 200 OK\n<< Content-Length: 2\n<<\n<< ok\\\n";

/// The vectors of a file; on error the line, and what is wrong with it.
fn parse(text: &str) -> Result<Vec<Vector>, String> {
    let numbered: Vec<_> = text.lines().enumerate().map(|(index, line)| (index + 1, line)).collect();
    let mut parts = numbered.split(|(_, line)| line.starts_with("--- "));
    let titles = numbered.iter().filter(|(_, line)| line.starts_with("--- "));
    let preface = parts.next().unwrap_or_default();
    if let Some((number, line)) = preface.iter().find(|(_, line)| !line.is_empty() && !line.starts_with('#')) {
        return Err(format!("{number}: `{line}` stands before the first vector"));
    }
    let mut vectors = Vec::new();
    for ((number, title), lines) in titles.zip(parts) {
        let title = title.trim_start_matches("--- ");
        if !lines.iter().any(|(_, line)| line.starts_with("# ")) {
            return Err(format!("{number}: `{title}` gives no reason"));
        }
        let values: Vec<_> = lines.iter().filter_map(|(_, line)| line.strip_prefix("with ")).collect();
        let has_place = lines.iter().any(|(_, line)| !line.starts_with('#') && line.contains("{}"));
        if values.is_empty() == has_place {
            return Err(format!("{number}: `{title}` has values without a place for them, or the other way round"));
        }
        for value in if values.is_empty() { vec![""] } else { values } {
            vectors.push(parse_vector(*number, title, lines, value)?);
        }
    }
    Ok(vectors)
}

fn parse_vector(number: usize, title: &str, lines: &[(usize, &str)], value: &str) -> Result<Vector, String> {
    let mut vector = Vector {
        title: if value.is_empty() { title.to_string() } else { format!("{title}: {value}") },
        line: number,
        config: String::new(),
        client: ClientAddress::Tcp(IpAddr::from([192, 0, 2, 7]), 4242),
        is_alone: false,
        acts: Vec::new(),
    };
    let mut routes = String::new();
    let mut is_block_open = false;
    for (number, line) in lines {
        let at = |error: String| format!("{number}: {error}");
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        match word {
            "" | "#" | "with" => {}
            "set" => vector.config.push_str(&format!("{rest}\n")),
            "route" => routes.push_str(&route(rest).map_err(at)?),
            "alone" => vector.is_alone = true,
            "client" if rest == "unix:" => vector.client = ClientAddress::Unix,
            "client" if rest.parse::<IpAddr>().is_ok() => {
                vector.client = ClientAddress::Tcp(rest.parse().unwrap(), 4242)
            }
            "asked" | "answered" => {
                for line in if word == "asked" { ASKED } else { ANSWERED }.lines() {
                    vector.put_bytes(*number, line, is_block_open).map_err(at)?;
                    is_block_open = true;
                }
            }
            ">" | ">>" | ">~" | "<" | "<<" | "<~" => {
                let line = if value.is_empty() { line.to_string() } else { line.replace("{}", value) };
                vector.put_bytes(*number, &line, is_block_open).map_err(at)?;
                is_block_open = true;
                continue;
            }
            _ => {
                let line = line.replace("{}", value);
                vector.acts.push((*number, act(&line).ok_or_else(|| at(format!("`{line}` means nothing here")))?));
            }
        }
        is_block_open = false;
    }
    if routes.is_empty() {
        routes.push_str(&route("/ 127.0.0.1:3000").unwrap());
    }
    vector.config = format!("listen = [\":0\"]\n{}{routes}", vector.config);
    let lasts = vector.acts.iter().filter(|(_, act)| matches!(act, Act::Last(_))).count();
    if lasts != 1 || !matches!(vector.acts.last(), Some((_, Act::Last(_)))) {
        return Err(format!(
            "{number}: `{title}` does not end in one of kept, closed, cut, refused, gone, tunnel, waits"
        ));
    }
    Ok(vector)
}

impl Vector {
    /// Takes a line of bytes: one more of the block above it, or the first of a new one.
    fn put_bytes(&mut self, number: usize, line: &str, is_block_open: bool) -> Result<(), String> {
        let (mark, text) = line.split_once(' ').unwrap_or((line, ""));
        let bytes = match text.strip_prefix("{from ").and_then(|rest| rest.strip_suffix('}')) {
            Some(host) => from(&self.client, host),
            None => unescape(text)?,
        };
        let next = match mark {
            ">" => Act::Sends(Side::Client, bytes),
            "<" => Act::Sends(Side::Upstream, bytes),
            ">>" => Act::Gets(Side::Upstream, bytes),
            "<<" => Act::Gets(Side::Client, bytes),
            ">~" => Act::GetsBeginning(Side::Upstream, bytes),
            _ => Act::GetsBeginning(Side::Client, bytes),
        };
        match (self.acts.last_mut().filter(|_| is_block_open), next) {
            (Some((_, Act::Sends(side, before))), Act::Sends(same, bytes)) if *side == same => before.extend(bytes),
            (Some((_, Act::Gets(side, before))), Act::Gets(same, bytes)) if *side == same => before.extend(bytes),
            (Some((_, Act::GetsBeginning(side, before))), Act::GetsBeginning(same, bytes)) if *side == same => {
                before.extend(bytes)
            }
            (_, next) => self.acts.push((number, next)),
        }
        Ok(())
    }
}

fn act(line: &str) -> Option<Act> {
    let words: Vec<_> = line.split(' ').collect();
    Some(match words.as_slice() {
        ["client", "ends"] => Act::Ends(Side::Client),
        ["client", "breaks"] => Act::Breaks(Side::Client),
        ["upstream", "ends"] => Act::Ends(Side::Upstream),
        ["upstream", "breaks"] => Act::Breaks(Side::Upstream),
        ["upstream", "is", "deaf"] => Act::IsDeaf,
        ["upstream", "refuses"] => Act::Meets(Obstacle::Refused),
        ["upstream", "swallows"] => Act::Meets(Obstacle::Swallowed),
        ["no", "descriptor"] => Act::Meets(Obstacle::NoDescriptor),
        ["silence", seconds] => Act::Silence(Duration::from_secs(seconds.strip_suffix('s')?.parse().ok()?)),
        ["own", status, "kept"] => Act::Own { status: status.parse().ok()?, keep: true },
        ["own", status, "closed"] => Act::Own { status: status.parse().ok()?, keep: false },
        ["at", address] => Act::AskedAt(address.to_string()),
        ["on", "a", "new", "connection"] => Act::OnUsedConnection(false),
        ["on", "a", "used", "connection"] => Act::OnUsedConnection(true),
        ["upstream", "kept"] => Act::UpstreamKept(true),
        ["upstream", "dropped"] => Act::UpstreamKept(false),
        ["upstream", "told", "end"] => Act::UpstreamToldEnd,
        ["refused", status] => Act::Last(Last::Refused(status.parse().ok()?)),
        ["kept"] => Act::Last(Last::Kept),
        ["closed"] => Act::Last(Last::Closed),
        ["cut"] => Act::Last(Last::Cut),
        ["gone"] => Act::Last(Last::Gone),
        ["tunnel"] => Act::Last(Last::Tunnel),
        ["waits"] => Act::Last(Last::Waits),
        _ => return None,
    })
}

/// `/app 127.0.0.1:3000,127.0.0.1:3001 strip` as TOML.
fn route(text: &str) -> Result<String, String> {
    let mut words = text.split(' ');
    let (Some(pattern), Some(to)) = (words.next(), words.next()) else {
        return Err(format!("`{text}` is not a route"));
    };
    let to: Vec<_> = to.split(',').collect();
    let flags: String = words.map(|flag| format!("{flag} = true\n")).collect();
    Ok(format!("[[route]]\nmatch = \"{pattern}\"\nto = {to:?}\n{flags}"))
}

/// What hawkey tells an upstream about the client, for a request to `host`.
fn from(client: &ClientAddress, host: &str) -> Vec<u8> {
    let address = client.ip().map_or(String::new(), |ip| format!("X-Real-IP: {ip}\r\nX-Forwarded-For: {ip}\r\n"));
    format!("{address}X-Forwarded-Proto: http\r\nX-Forwarded-Host: {host}\r\n").into_bytes()
}

/// The bytes of a line, with CRLF at its end unless it ends in a backslash.
fn unescape(text: &str) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('\\') {
        bytes.extend_from_slice(before.as_bytes());
        let wrong = || format!("`\\{after}` is no escape");
        let Some(kind) = after.chars().next() else { return Ok(bytes) };
        rest = &after[kind.len_utf8()..];
        match kind {
            'r' => bytes.push(b'\r'),
            'n' => bytes.push(b'\n'),
            't' => bytes.push(b'\t'),
            '\\' => bytes.push(b'\\'),
            'x' => {
                let digits = rest.get(..2).ok_or_else(wrong)?;
                bytes.push(u8::from_str_radix(digits, 16).map_err(|_| wrong())?);
                rest = &rest[2..];
            }
            '(' => {
                let (inside, after) = rest.split_once(')').ok_or_else(wrong)?;
                let (repeated, times) = inside.rsplit_once('*').ok_or_else(wrong)?;
                let times = times.parse().map_err(|_| wrong())?;
                let repeated = unescape(&format!("{repeated}\\"))?;
                bytes.extend(repeated.repeat(times));
                rest = after;
            }
            _ => return Err(wrong()),
        }
    }
    bytes.extend_from_slice(rest.as_bytes());
    bytes.extend_from_slice(b"\r\n");
    Ok(bytes)
}

// The ways to play a vector.

/// How the bytes of a vector come, and what comes behind them.
#[derive(Clone, Copy, Debug)]
struct Way {
    pieces: Pieces,
    behind: Behind,
}

#[derive(Clone, Copy, Debug)]
enum Pieces {
    Whole,
    /// So many bytes at a time.
    Of(usize),
    /// So many bytes of each side's bytes at first, and then the others.
    Two(usize),
}

impl Pieces {
    fn of<'a>(&self, bytes: &'a [u8]) -> Vec<&'a [u8]> {
        match *self {
            Pieces::Of(piece) => bytes.chunks(piece).collect(),
            Pieces::Two(at) if at < bytes.len() => vec![&bytes[..at], &bytes[at..]],
            Pieces::Whole | Pieces::Two(_) => vec![bytes],
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Behind {
    Nothing,
    /// A further request, in the same packet as the client's last bytes.
    Request,
    /// A response that nobody asked for, in the same packet as the upstream's last bytes.
    Response,
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.pieces {
            Pieces::Whole => f.write_str("whole")?,
            Pieces::Of(piece) => write!(f, "in pieces of {piece}")?,
            Pieces::Two(at) => write!(f, "in two pieces, the first of {at}")?,
        }
        f.write_str(match self.behind {
            Behind::Nothing => "",
            Behind::Request => ", a further request behind it",
            Behind::Response => ", a response that nobody asked for behind it",
        })
    }
}

const CANARY: &str = "GET /canary HTTP/1.1\r\nHost: canary\r\n\r\n";
const CANARY_ANSWER: &str = "HTTP/1.1 204 No Content\r\n\r\n";
const UNASKED: &str = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil";

fn play_every_way(vector: &Vector) -> Result<(), String> {
    let pieces = [1, 2, 3, 7].map(Pieces::Of).into_iter().chain((1..vector.longest()).map(Pieces::Two));
    let pieces = std::iter::once(Pieces::Whole).chain(pieces);
    let mut ways: Vec<_> = pieces.map(|pieces| Way { pieces, behind: Behind::Nothing }).collect();
    if vector.allows_request_behind() {
        ways.extend([Pieces::Whole, Pieces::Of(1)].map(|pieces| Way { pieces, behind: Behind::Request }));
    }
    if vector.allows_response_behind() {
        ways.push(Way { pieces: Pieces::Whole, behind: Behind::Response });
    }
    let config = Config::from_toml(&vector.config).map_err(|error| format!("  its configuration: {error}"))?;
    let policy = Rc::new(config.policy);
    ways.into_iter().try_for_each(|way| {
        let played = catch_unwind(AssertUnwindSafe(|| play(vector, way, &policy)));
        let told = played.unwrap_or_else(|panic| Err(format!("a panic: {:?}", panic.downcast_ref::<String>())));
        told.map_err(|why| format!("  {way}\n{why}"))
    })
}

impl Vector {
    fn has(&self, is: impl Fn(&Act) -> bool) -> bool {
        self.acts.iter().any(|(_, act)| is(act))
    }

    /// How many bytes one of the sides sends at once, at most.
    fn longest(&self) -> usize {
        let sent = self.acts.iter().map(|(_, act)| if let Act::Sends(_, bytes) = act { bytes.len() } else { 0 });
        sent.max().unwrap_or(0)
    }

    fn last(&self) -> Last {
        match self.acts.last() {
            Some((_, Act::Last(last))) => *last,
            _ => Last::Waits,
        }
    }

    fn allows_request_behind(&self) -> bool {
        let is_final = matches!(self.last(), Last::Kept | Last::Closed | Last::Refused(_));
        let client_goes_on =
            !self.has(|act| matches!(act, Act::Silence(_) | Act::Ends(Side::Client) | Act::Breaks(Side::Client)));
        is_final && client_goes_on && !self.is_alone
    }

    fn allows_response_behind(&self) -> bool {
        let is_answered = self.has(|act| matches!(act, Act::Sends(Side::Upstream, _)));
        let is_failed =
            self.has(|act| matches!(act, Act::Ends(Side::Upstream) | Act::Breaks(Side::Upstream) | Act::Own { .. }));
        self.last() == Last::Kept && is_answered && !is_failed && !self.is_alone
    }

    fn last_of(&self, side: Side) -> Option<usize> {
        self.acts.iter().rposition(|(_, act)| matches!(act, Act::Sends(sender, _) if *sender == side))
    }
}

/// Plays a vector; on error what was expected and what came.
fn play(vector: &Vector, way: Way, policy: &Rc<Policy>) -> Result<(), String> {
    let mut world = World::new(policy, vector.client);
    for (index, (line, act)) in vector.acts.iter().enumerate() {
        let behind = match (way.behind, act) {
            (Behind::Request, Act::Sends(Side::Client, _)) if vector.last_of(Side::Client) == Some(index) => CANARY,
            (Behind::Response, Act::Sends(Side::Upstream, _)) if vector.last_of(Side::Upstream) == Some(index) => {
                UNASKED
            }
            _ => "",
        };
        world.play(act, behind, way).map_err(|why| format!("  line {line}: {why}"))?;
    }
    Ok(())
}

// The world of a session.

/// A session and what stands in for its sockets, its clock and the pool.
struct World {
    session: Session,
    turn: Turn,
    addresses: Vec<String>,
    client_address: ClientAddress,
    /// What the sides have sent and the session has not read yet.
    coming: Both<VecDeque<News>>,
    /// What the sides have got and no act has looked at yet.
    got: Both<Vec<u8>>,
    client: Connection,
    upstream: Option<Upstream>,
    obstacles: VecDeque<Obstacle>,
    idle: Vec<Upstream>,
    /// How often an upstream was chosen.
    chosen: usize,
    /// Whether the last connection to an upstream that was let go may be used again.
    was_kept: Option<bool>,
    upstream_told_end: bool,
}

enum News {
    Bytes(Vec<u8>),
    End,
    Break,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Connection {
    Open,
    /// We have said that nothing more will come.
    ShutDown,
    Closed,
    Reset,
}

struct Upstream {
    id: UpstreamId,
    /// Which of all connections it is.
    number: usize,
    is_used: bool,
    is_swallowed: bool,
    is_deaf: bool,
}

impl World {
    fn new(policy: &Rc<Policy>, client_address: ClientAddress) -> World {
        let addresses = policy.upstreams.iter().map(|upstream| upstream.address.to_string()).collect();
        let turn = Turn::new(Moment::FIRST, Rc::clone(policy));
        World {
            session: Session::new(1, client_address, &turn),
            turn,
            addresses,
            client_address,
            coming: Both::default(),
            got: Both::default(),
            client: Connection::Open,
            upstream: None,
            obstacles: VecDeque::new(),
            idle: Vec::new(),
            chosen: 0,
            was_kept: None,
            upstream_told_end: false,
        }
    }

    fn play(&mut self, act: &Act, behind: &str, way: Way) -> Result<(), String> {
        match act {
            Act::Sends(side, bytes) => {
                let bytes = [bytes, behind.as_bytes()].concat();
                let sender = self.upstream.as_ref().map(|upstream| upstream.number);
                for piece in way.pieces.of(&bytes) {
                    if *side == Side::Client || self.upstream.as_ref().map(|upstream| upstream.number) == sender {
                        self.comes(*side, News::Bytes(piece.to_vec()));
                    } else {
                        self.speaks_unasked(sender);
                    }
                }
            }
            Act::Ends(side) => self.leaves(*side, News::End),
            Act::Breaks(side) => self.leaves(*side, News::Break),
            Act::IsDeaf => self.upstream.as_mut().ok_or("no upstream is connected")?.is_deaf = true,
            Act::Meets(obstacle) => self.obstacles.push_back(*obstacle),
            Act::Silence(time) => {
                let deadline =
                    self.session.deadline().map(|deadline| deadline.saturating_duration_since(self.turn.now));
                equal("a deadline in", &Some(*time), &deadline)?;
                self.turn.now += *time;
                self.session.timed_out(&mut self.turn);
                self.drive();
            }
            Act::Gets(side, expected) => self.takes(*side, expected)?,
            Act::GetsBeginning(side, whole) => {
                let got = std::mem::take(&mut self.got[*side]);
                if !whole.starts_with(&got) {
                    return Err(differ(
                        &format!("the {} gets a beginning of", side.as_str()),
                        &Bytes(whole),
                        &Bytes(&got),
                    ));
                }
            }
            Act::Own { status, keep } => self.takes(Side::Client, own(*status, *keep).as_bytes())?,
            Act::AskedAt(address) => {
                let upstream = self.upstream.as_ref().map(|upstream| &self.addresses[upstream.id.0 as usize]);
                equal("asked at", &Some(address), &upstream)?;
            }
            Act::OnUsedConnection(is_used) => {
                equal("a used connection", &Some(*is_used), &self.upstream.as_ref().map(|upstream| upstream.is_used))?;
            }
            // A connection on which something came that nobody asked for is not used again.
            Act::UpstreamKept(kept) => {
                equal(
                    "the upstream's connection kept",
                    &Some(*kept && way.behind != Behind::Response),
                    &self.was_kept,
                )?;
            }
            Act::UpstreamToldEnd => equal("the upstream told of the end", &true, &self.upstream_told_end)?,
            Act::Last(last) => self.ends_as(*last, way)?,
        }
        Ok(())
    }

    fn ends_as(&mut self, last: Last, way: Way) -> Result<(), String> {
        match last {
            Last::Kept => {
                equal("the client's connection", &Connection::Open, &self.client)?;
                if way.behind == Behind::Response {
                    equal("the upstream's connection kept", &Some(false), &self.was_kept)?;
                }
                self.answers_canary(way.behind == Behind::Request)?;
            }
            Last::Closed => {
                let is_closed = matches!(self.client, Connection::ShutDown | Connection::Closed);
                equal("the client's connection is closed in good order", &true, &is_closed)
                    .map_err(|why| format!("{why}\n  it is {:?}", self.client))?;
            }
            Last::Cut => {
                equal("the client's connection", &Connection::Reset, &self.client)?;
                equal("the upstream is let go", &true, &self.upstream.is_none())?;
            }
            Last::Refused(status) => {
                self.takes(Side::Client, refusal(status).as_bytes())?;
                equal("the client's connection", &Connection::ShutDown, &self.client)?;
                equal("the upstream is let go", &true, &self.upstream.is_none())?;
            }
            Last::Gone => {
                equal("the session has ended", &true, &self.session.is_closed())?;
                equal("the upstream is let go", &true, &self.upstream.is_none())?;
            }
            Last::Tunnel => self.is_tunnel()?,
            Last::Waits => {
                equal("the client's connection", &Connection::Open, &self.client)?;
                equal("the session has ended", &false, &self.session.is_closed())?;
            }
        }
        self.takes(Side::Upstream, b"")?;
        self.takes(Side::Client, b"")
    }

    /// A further request, which may have been sent already, is answered as itself.
    fn answers_canary(&mut self, is_sent: bool) -> Result<(), String> {
        if !is_sent {
            // Nothing of what was before may be left over.
            self.takes(Side::Upstream, b"")?;
            self.takes(Side::Client, b"")?;
            self.comes(Side::Client, News::Bytes(CANARY.into()));
        }
        let about = from(&self.client_address, "canary");
        let forwarded = [b"GET /canary HTTP/1.1\r\nHost: canary\r\n", about.as_slice(), b"\r\n"].concat();
        self.takes(Side::Upstream, &forwarded).map_err(|why| format!("a further request: {why}"))?;
        self.comes(Side::Upstream, News::Bytes(CANARY_ANSWER.into()));
        self.takes(Side::Client, CANARY_ANSWER.as_bytes())
            .map_err(|why| format!("the answer to a further request: {why}"))
    }

    fn is_tunnel(&mut self) -> Result<(), String> {
        equal("a tunnel", &true, &self.session.is_tunnel())?;
        self.takes(Side::Upstream, b"")?;
        self.takes(Side::Client, b"")?;
        for (side, bytes) in [(Side::Client, b"up\0\r\n\r\n".as_slice()), (Side::Upstream, b"down\xff\r\n\r\n")] {
            self.comes(side, News::Bytes(bytes.into()));
            self.takes(side.other(), bytes)?;
        }
        self.comes(Side::Upstream, News::End);
        equal("the client's connection", &Connection::ShutDown, &self.client)?;
        self.comes(Side::Client, News::Bytes(b"last words".into()));
        self.takes(Side::Upstream, b"last words")?;
        self.comes(Side::Client, News::End);
        equal("the session has ended", &true, &self.session.is_closed())
    }

    /// A connection that the session has let go says something more: it must not be used again.
    fn speaks_unasked(&mut self, number: Option<usize>) {
        let before = self.idle.len();
        self.idle.retain(|idle| Some(idle.number) != number);
        if self.idle.len() < before {
            self.was_kept = Some(false);
        }
    }

    /// What the side has got since the last time is this.
    fn takes(&mut self, side: Side, expected: &[u8]) -> Result<(), String> {
        let got = std::mem::take(&mut self.got[side]);
        if got == expected {
            Ok(())
        } else {
            Err(differ(&format!("the {} gets", side.as_str()), &Bytes(expected), &Bytes(&got)))
        }
    }

    /// The kernel tells of the end of a client's side at once, though bytes of it may wait unread.
    fn leaves(&mut self, side: Side, news: News) {
        if side == Side::Client && !self.session.is_closed() {
            self.session.hung_up(&mut self.turn);
        }
        self.comes(side, news);
    }

    fn comes(&mut self, side: Side, news: News) {
        self.coming[side].push_back(news);
        self.drive();
    }

    /// Steps, reads and writes until nothing moves, as the event loop does it.
    fn drive(&mut self) {
        let mut moved = true;
        while moved {
            self.carry_out_steps();
            moved = false;
            for side in Side::BOTH {
                moved |= self.read(side);
            }
            for side in Side::BOTH {
                moved |= self.write(side);
            }
        }
        self.session.settle(&mut self.turn);
    }

    fn carry_out_steps(&mut self) {
        while let Some(step) = self.session.next_step() {
            self.carry_out(step);
        }
    }

    fn carry_out(&mut self, step: Step) {
        match step {
            Step::Connect => self.connect(),
            Step::Release => {
                // What has come unasked would be the next exchange's.
                let is_quiet = self.coming.upstream.is_empty();
                self.was_kept = Some(is_quiet);
                self.idle.extend(self.upstream.take().filter(|_| is_quiet));
            }
            Step::Close(Side::Upstream) | Step::Abort(Side::Upstream) => {
                if self.upstream.take().is_some() {
                    self.was_kept = Some(false);
                }
            }
            Step::Close(Side::Client) => self.client = Connection::Closed,
            Step::Abort(Side::Client) => self.client = Connection::Reset,
            Step::Shutdown(Side::Client) => self.client = Connection::ShutDown,
            Step::Shutdown(Side::Upstream) => self.upstream_told_end = true,
        }
    }

    fn connect(&mut self) {
        let wanted = self.session.wanted().unwrap();
        let id = wanted.to[self.chosen % wanted.to.len()];
        let idle = if wanted.fresh { None } else { self.idle.iter().position(|idle| idle.id == id) };
        self.chosen += 1;
        self.coming.upstream.clear();
        let used = idle.map(|place| Upstream { is_used: true, ..self.idle.remove(place) });
        let is_used = used.is_some();
        let obstacle = self.obstacles.pop_front();
        let is_swallowed = obstacle == Some(Obstacle::Swallowed);
        let new = Upstream { id, number: self.chosen, is_used: false, is_swallowed, is_deaf: false };
        self.upstream = match obstacle {
            Some(Obstacle::Refused | Obstacle::NoDescriptor) => None,
            Some(Obstacle::Swallowed) | None => Some(used.unwrap_or(new)),
        };
        self.session.connecting(id, is_used, &mut self.turn);
        match obstacle {
            Some(Obstacle::Refused) => self.session.broke(Side::Upstream, &"connection refused", &mut self.turn),
            Some(Obstacle::NoDescriptor) => self.session.starved(&mut self.turn),
            Some(Obstacle::Swallowed) | None => {}
        }
    }

    fn write(&mut self, side: Side) -> bool {
        if !self.session.wants_write(side) {
            return false;
        }
        if side == Side::Upstream {
            match &self.upstream {
                Some(Upstream { is_swallowed: false, is_deaf: false, .. }) => {}
                Some(Upstream { is_deaf: true, .. }) => {
                    self.session.deafened(Side::Upstream, &"broken pipe", &mut self.turn);
                    return true;
                }
                _ => return false,
            }
        }
        let n = self.session.leaving(side).len();
        self.got[side].extend_from_slice(self.session.leaving(side));
        self.session.sent(side, n, &mut self.turn);
        true
    }

    fn read(&mut self, side: Side) -> bool {
        let is_connected =
            side == Side::Client || self.upstream.as_ref().is_some_and(|upstream| !upstream.is_swallowed);
        if !is_connected || !self.session.wants_read(side) {
            return false;
        }
        match self.coming[side].pop_front() {
            None => return false,
            Some(News::End) => self.session.ended(side, &mut self.turn),
            Some(News::Break) => self.session.broke(side, &"connection reset", &mut self.turn),
            Some(News::Bytes(bytes)) => {
                let room = self.session.room(side, &mut self.turn);
                let n = room.len().min(bytes.len());
                room[..n].copy_from_slice(&bytes[..n]);
                if n < bytes.len() {
                    self.coming[side].push_front(News::Bytes(bytes[n..].to_vec()));
                }
                self.session.received(side, n, &mut self.turn);
                return n > 0;
            }
        }
        true
    }
}

/// An answer of our own, as it must read.
fn own(status: u16, keep: bool) -> String {
    let reason = match status {
        200 => "OK",
        400 => "Bad Request",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        413 => "Content Too Large",
        414 => "URI Too Long",
        417 => "Expectation Failed",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        _ => "no reason is known",
    };
    let field = match status {
        405 => "allow: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS\r\n",
        503 => "retry-after: 1\r\n",
        _ => "",
    };
    let connection = if keep { "" } else { "connection: close\r\n" };
    format!(
        "HTTP/1.1 {status} {reason}\r\ncontent-type: text/html; charset=utf-8\r\ncontent-length: 0\r\n{field}{connection}\r\n"
    )
}

/// What a refused request is told. With 500 only a version is refused.
fn refusal(status: u16) -> String {
    const NOT_SUPPORTED: &str = "<h4>Not Supported</h4>";
    match status {
        500 => own(500, false).replace("content-length: 0", "content-length: 22") + NOT_SUPPORTED,
        _ => own(status, false),
    }
}

/// Bytes for people: escaped, a line for a line.
struct Bytes<'a>(&'a [u8]);

impl fmt::Debug for Bytes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN_MAX: usize = 1500;
        let shown = &self.0[..self.0.len().min(SHOWN_MAX)];
        for line in shown.split_inclusive(|byte| *byte == b'\n') {
            write!(f, "\n      {}", line.escape_ascii())?;
        }
        match self.0.len() - shown.len() {
            _ if self.0.is_empty() => f.write_str("nothing"),
            0 => Ok(()),
            more => write!(f, " and {more} bytes more"),
        }
    }
}

fn equal<T: fmt::Debug + PartialEq>(what: &str, expected: &T, came: &T) -> Result<(), String> {
    if expected == came { Ok(()) } else { Err(differ(what, expected, came)) }
}

fn differ(what: &str, expected: &dyn fmt::Debug, came: &dyn fmt::Debug) -> String {
    format!("{what}\n    expected {expected:?}\n    came     {came:?}")
}

// The runner can fail.

/// What the runner says to a file of one vector.
fn verdict(text: &str) -> Result<(), String> {
    parse(&format!("--- a vector\n# a reason\n{text}"))?.iter().try_for_each(play_every_way)
}

#[test]
fn a_wrong_expectation_is_told() {
    assert_eq!(verdict("asked\nanswered\nupstream kept\nkept\n"), Ok(()));
    for (text, part) in [
        ("asked\nanswered\nclosed\n", "closed in good order"),
        ("asked\nanswered\ncut\n", "expected Reset"),
        ("asked\nanswered\nupstream dropped\nkept\n", "connection kept\n    expected Some(false)"),
        ("asked\nanswered\nrefused 400\n", "the client gets\n    expected \n      HTTP/1.1 400 Bad Request"),
        ("asked\nanswered\ntunnel\n", "a tunnel"),
        ("asked\nkept\n", "a further request"),
        ("asked\nsilence 59s\ncut\n", "expected Some(59s)\n    came     Some(60s)"),
        ("> GET / HTTP/1.1\n> Host: a\n>\n>> GET / HTTP/1.1\n>> Host: b\n>\nwaits\n", "the upstream gets"),
        ("> GET / HTTP/1.1\n> Host: a\n>\n>~ PUT\nwaits\n", "a beginning of"),
        ("asked\n< HTTP/1.1 200 OK\n<\nwaits\n", "the client gets\n    expected nothing"),
        ("asked\nat 127.0.0.1:1\nwaits\n", "127.0.0.1:3000"),
        ("asked\non a used connection\nwaits\n", "a used connection"),
        ("set http_1_0 = \"perhaps\"\nasked\nwaits\n", "its configuration"),
    ] {
        let told = verdict(text).unwrap_err();
        assert!(told.contains(part), "expected to read {part:?} for\n{text}\nin\n{told}");
    }
}

#[test]
fn a_vector_that_is_not_one_is_told() {
    for (text, part) in [
        ("> GET\n", "does not end in one of"),
        ("perhaps\nkept\n", "`perhaps` means nothing here"),
        ("> \\q\nkept\n", "is no escape"),
        ("> {}\nkept\n", "values without a place"),
        ("with a\n> GET\nkept\n", "values without a place"),
    ] {
        let told = verdict(text).unwrap_err();
        assert!(told.contains(part), "expected to read {part:?} for\n{text}\nin\n{told}");
    }
    assert!(parse("--- a vector\nkept\n").unwrap_err().contains("gives no reason"));
    assert!(parse("kept\n").unwrap_err().contains("before the first vector"));
}

#[test]
fn escapes_stand_for_bytes() {
    for (text, expected) in [
        ("a", b"a\r\n".as_slice()),
        ("", b"\r\n"),
        ("a\\", b"a"),
        ("\\", b""),
        ("\\r\\n\\t\\\\\\x00\\xff\\", b"\r\n\t\\\0\xff"),
        ("\\(ab\\r*3)c\\", b"ab\rab\rab\rc"),
    ] {
        assert_eq!(unescape(text).unwrap(), expected, "{text}");
    }
}
