//! What will be asked and what will be answered, made from chance before anything moves, so that every reader can know what is
//! due to it.

use std::fmt::Write as _;
use std::time::Duration;

use crate::prng::{Prng, mix};

/// What a scenario is mostly about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    Exchanges,
    KeptConnections,
    Retries,
    Tunnels,
}

impl Family {
    /// Every fourth seed belongs to the same family.
    pub fn of(seed: u64) -> Family {
        [Family::Exchanges, Family::KeptConnections, Family::Retries, Family::Tunnels][(seed % 4) as usize]
    }
}

/// The client and the number of a request, both from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Id(pub usize, pub usize);

impl std::fmt::Display for Id {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.0, self.1)
    }
}

impl Id {
    pub fn read(text: &str) -> Option<Id> {
        let (client, request) = text.split_once('-')?;
        Some(Id(client.parse().ok()?, request.parse().ok()?))
    }
}

/// Content that can be told from any other at every place. Some of it looks like messages, to tempt whoever loses count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Content {
    key: u64,
    pub bytes: usize,
    tempts: bool,
}

const TEMPTING: &[u8] =
    b"\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: h\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n0\r\n\r\n";

impl Content {
    fn new(bytes: usize, may_tempt: bool, prng: &mut Prng) -> Content {
        Content { key: prng.next(), bytes, tempts: may_tempt && prng.chance(25) }
    }

    pub fn at(&self, place: usize) -> u8 {
        if self.tempts {
            return TEMPTING[(self.key as usize % TEMPTING.len() + place) % TEMPTING.len()];
        }
        mix(self.key.wrapping_add(place as u64 / 8)).to_le_bytes()[place % 8]
    }

    fn all(&self) -> Vec<u8> {
        (0..self.bytes).map(|place| self.at(place)).collect()
    }

    /// Whether `bytes` are what stands at `place`; else what is wrong.
    pub fn check(&self, place: usize, bytes: &[u8]) -> Result<(), String> {
        if place + bytes.len() > self.bytes {
            return Err(format!("{} bytes of content where {} were sent", place + bytes.len(), self.bytes));
        }
        match bytes.iter().enumerate().find(|(offset, byte)| self.at(place + offset) != **byte) {
            None => Ok(()),
            Some((offset, byte)) => {
                let at = place + offset;
                Err(format!("byte {at} of the content is {byte:#04x}, but {:#04x} was sent", self.at(at)))
            }
        }
    }
}

/// Who answers, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An upstream.
    Forwarded,
    /// hawkey, with this status; whether the connection goes on.
    AnsweredByUs { status: u16, keeps: bool },
    /// The head is sound and may reach an upstream, the body is not: hawkey, unless a byte of an answer has left.
    WrongBody { status: u16 },
    /// A 101, and a tunnel.
    Tunnel,
}

/// One request, whole.
pub struct Request {
    pub id: Id,
    pub method: &'static str,
    pub kind: Kind,
    pub is_http_1_0: bool,
    pub wire: Vec<u8>,
    pub head_bytes: usize,
    pub content: Content,
    pub is_chunked: bool,
    pub expects_continue: bool,
    /// Sent without waiting for the answer before.
    pub is_pipelined: bool,
    pub answer: Answer,
    pub tunnel: Option<TunnelPlan>,
}

impl Request {
    pub fn is_idempotent(&self) -> bool {
        matches!(self.method, "GET" | "HEAD" | "PUT" | "DELETE")
    }

    /// Whether it can be asked again on a new connection whatever has happened to the first, provided nothing was answered.
    pub fn may_be_repeated(&self) -> bool {
        self.is_idempotent() && self.wire.len() == self.head_bytes
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framed {
    Bodiless,
    Length,
    Chunked,
    UntilClose,
}

/// How a connection is left in the middle of something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leave {
    Close,
    Reset,
    /// Stays, and does nothing more.
    Silence,
}

/// What an origin does when its answer is out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    Keep,
    CloseAnnounced,
    CloseUnannounced,
    /// Says more than it was asked.
    Chatter,
}

/// What the origin answers.
pub struct Answer {
    pub interims: Vec<u16>,
    pub status: u16,
    pub framed: Framed,
    pub content: Content,
    pub wire: Vec<u8>,
    /// Does not wait for the body.
    pub is_early: bool,
    /// Leaves when so many bytes of the wire are out.
    pub cut: Option<(usize, Leave)>,
    pub after: After,
}

/// What passes through a tunnel, and how each end goes.
pub struct TunnelPlan {
    pub up: Content,
    pub down: Content,
    /// The client sends before it has seen the 101.
    pub is_early: bool,
    pub client_ends: Ends,
    pub origin_ends: Ends,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ends {
    /// Ends its direction when all is sent, and goes on reading.
    WhenSent,
    /// Ends its direction once the other's has ended.
    Second,
    /// Resets when all is sent.
    Reset,
}

/// What a client does beyond asking and reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mishap {
    Leave(Leave),
    /// Ends its direction, and goes on reading.
    HalfClose,
    /// Does nothing for so long.
    Pause(Duration),
}

/// What one client will do.
pub struct ClientPlan {
    pub requests: Vec<Request>,
    /// At which byte sent what happens.
    pub mishap_when_sent: Option<(usize, Mishap)>,
    /// At which byte read.
    pub mishap_when_read: Option<(usize, Mishap)>,
    pub starts_after: Duration,
    /// When all is answered: stays until it is told to leave.
    pub overstays: bool,
}

/// How much moves at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grain {
    /// A few bytes; messages are small, or it would take for ever.
    Fine,
    Mixed,
    Coarse,
}

impl Grain {
    /// How many bytes move now, of at most `n`.
    pub fn piece(self, n: usize, prng: &mut Prng) -> usize {
        let most = match self {
            Grain::Fine => prng.between(1, 5),
            Grain::Mixed => [1, prng.between(1, 100), prng.between(1, 4000), n][prng.below(4)],
            Grain::Coarse => [prng.between(1, 4000), prng.between(1, 70_000), n, n][prng.below(4)],
        };
        most.clamp(1, n.max(1))
    }

    pub fn room(self, prng: &mut Prng) -> usize {
        match self {
            Grain::Fine => prng.pick(&[1, 7, 100, 5000]),
            Grain::Mixed => prng.pick(&[500, 4096, 65_536]),
            Grain::Coarse => prng.pick(&[20_000, 65_536, 300_000]),
        }
    }

    fn content_bytes(self, prng: &mut Prng) -> usize {
        match self {
            Grain::Fine => prng.below(120),
            Grain::Mixed => [prng.below(10), prng.below(1000), prng.below(20_000)][prng.below(3)],
            Grain::Coarse => [prng.below(100), prng.below(70_000), prng.below(200_000)][prng.below(3)],
        }
    }
}

/// Everything that was decided before the beginning.
pub struct Scenario {
    pub family: Family,
    pub grain: Grain,
    /// Nobody misbehaves: every request must be answered by its origin.
    pub is_calm: bool,
    pub body_max: Option<u64>,
    pub serves_http_1_0: bool,
    pub clients: Vec<ClientPlan>,
}

/// The key of RFC 6455, 1.3, and what answers it.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

impl Scenario {
    pub fn new(seed: u64, prng: &mut Prng) -> Scenario {
        let family = Family::of(seed);
        let grain = prng.pick(&[Grain::Fine, Grain::Mixed, Grain::Mixed, Grain::Coarse]);
        let mut scenario = Scenario {
            family,
            grain,
            is_calm: prng.chance(30),
            body_max: prng.chance(15).then(|| grain.content_bytes(prng).max(1) as u64),
            serves_http_1_0: prng.chance(20),
            clients: Vec::new(),
        };
        let clients = if family == Family::KeptConnections { prng.between(1, 4) } else { prng.between(1, 2) };
        for client in 0..clients {
            let plan = scenario.client(client, prng);
            scenario.clients.push(plan);
        }
        scenario
    }

    pub fn request(&self, id: Id) -> Option<&Request> {
        self.clients.get(id.0)?.requests.get(id.1)
    }

    fn client(&self, client: usize, prng: &mut Prng) -> ClientPlan {
        let most = if self.family == Family::KeptConnections { 10 } else { 4 };
        let mut requests: Vec<Request> = Vec::new();
        let always_pipelines = prng.chance(25);
        for number in 0..prng.between(1, most) {
            let mut request = self.asked(Id(client, number), prng);
            request.is_pipelined = always_pipelines || prng.chance(30);
            let is_last = request.tunnel.is_some();
            requests.push(request);
            if is_last {
                break;
            }
        }
        let sent_bytes: usize = requests.iter().map(|request| request.wire.len()).sum();
        let read_bytes: usize = requests.iter().map(|request| request.answer.wire.len()).sum();
        let mut mishap = |bytes: usize| {
            let what = match prng.below(6) {
                0 => Mishap::Leave(Leave::Close),
                1 => Mishap::Leave(Leave::Reset),
                2 => Mishap::Leave(Leave::Silence),
                3 => Mishap::HalfClose,
                _ => Mishap::Pause(Duration::from_millis(prng.below(15_000) as u64)),
            };
            (!self.is_calm && prng.chance(15)).then(|| (prng.below(bytes + 1), what))
        };
        let (mishap_when_sent, mishap_when_read) = (mishap(sent_bytes), mishap(read_bytes));
        let starts_after = Duration::from_millis(if prng.chance(50) { 0 } else { prng.below(3000) as u64 });
        ClientPlan { requests, mishap_when_sent, mishap_when_read, starts_after, overstays: prng.chance(30) }
    }

    fn asked(&self, id: Id, prng: &mut Prng) -> Request {
        let is_tunnel = prng.chance(if self.family == Family::Tunnels { 60 } else { 3 });
        let asks_for_websocket = is_tunnel || prng.chance(if self.family == Family::Tunnels { 30 } else { 3 });
        if !asks_for_websocket && prng.chance(if self.is_calm { 3 } else { 8 }) {
            return self.unsound(id, prng);
        }
        let method = if asks_for_websocket {
            "GET"
        } else {
            prng.pick(&["GET", "GET", "GET", "POST", "POST", "PUT", "HEAD", "DELETE"])
        };
        let is_http_1_0 = self.serves_http_1_0 && !asks_for_websocket && prng.chance(40);
        let has_body = !asks_for_websocket && prng.chance(if matches!(method, "POST" | "PUT") { 85 } else { 8 });
        let is_chunked = has_body && !is_http_1_0 && prng.chance(50);
        let content = Content::new(if has_body { self.grain.content_bytes(prng) } else { 0 }, true, prng);
        let expects_continue = content.bytes > 0 && !is_http_1_0 && prng.chance(15);
        let version = if is_http_1_0 { "1.0" } else { "1.1" };
        let mut head = format!("{method} /r/{id} HTTP/{version}\r\nHost: h\r\nX-Id: {id}\r\n");
        if asks_for_websocket {
            let _ =
                write!(head, "Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: {KEY}\r\n");
        } else if is_http_1_0 && prng.chance(50) {
            head += "Connection: keep-alive\r\n";
        } else if prng.chance(6) {
            head += "Connection: close\r\n";
        } else if prng.chance(20) {
            head += "Connection: x-hop\r\nX-Hop: 1\r\nKeep-Alive: 5\r\nTE: trailers\r\n";
        }
        if expects_continue {
            head += "Expect: 100-continue\r\n";
        }
        if self.grain == Grain::Coarse && prng.chance(10) {
            let _ = write!(head, "X-Filler: {}\r\n", "f".repeat(prng.between(1, 12_000)));
        }
        let body = match (has_body, is_chunked) {
            (false, _) => Vec::new(),
            (true, true) => {
                head += "Transfer-Encoding: chunked\r\n";
                chunked(&content.all(), self.grain, prng)
            }
            (true, false) => {
                let _ = write!(head, "Content-Length: {}\r\n", content.bytes);
                content.all()
            }
        };
        let too_large = self.body_max.is_some_and(|max| content.bytes as u64 > max);
        let kind = match (too_large, is_chunked, is_tunnel) {
            (true, true, _) => Kind::WrongBody { status: 413 },
            (true, false, _) => Kind::AnsweredByUs { status: 413, keeps: false },
            (false, _, true) => Kind::Tunnel,
            (false, _, false) => Kind::Forwarded,
        };
        let tunnel = is_tunnel.then(|| self.tunnel(prng));
        let answer = self.answer(id, method, kind, expects_continue, prng);
        self.whole(id, method, kind, head, body, content, answer).with(
            is_http_1_0,
            is_chunked,
            expects_continue,
            tunnel,
        )
    }

    /// A request that is for us to answer, or to refuse.
    fn unsound(&self, id: Id, prng: &mut Prng) -> Request {
        let answered = |status, keeps| Kind::AnsweredByUs { status, keeps };
        let cases = [
            ("GET /none HTTP/1.1\r\nHost: none\r\n", "", answered(404, true)),
            ("POST /none HTTP/1.1\r\nHost: none\r\nContent-Length: 9\r\n", "nine byte", answered(404, true)),
            ("OPTIONS * HTTP/1.1\r\nHost: h\r\nMax-Forwards: 0\r\n", "", answered(200, true)),
            ("GET /smuggled HTTP/1.1\r\n", "", answered(400, false)),
            ("GET /smuggled HTTP/1.1\r\nHost: h\r\nHost: h\r\n", "", answered(400, false)),
            ("GET /a/../smuggled HTTP/1.1\r\nHost: h\r\n", "", answered(400, false)),
            (
                "POST /smuggled HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n",
                "0\r\n\r\n",
                answered(400, false),
            ),
            (
                "POST /smuggled HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip, chunked\r\n",
                "0\r\n\r\n",
                answered(501, false),
            ),
            ("TRACE /smuggled HTTP/1.1\r\nHost: h\r\n", "", answered(405, false)),
            ("GET /smuggled HTTP/2.0\r\nHost: h\r\n", "", answered(500, false)),
            (
                "PUT /smuggled HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\nExpect: a miracle\r\n",
                "ok",
                answered(417, false),
            ),
            (
                "POST /r/ HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n",
                "3\r\nabc\r\nx\r\n\r\n",
                Kind::WrongBody { status: 400 },
            ),
            (
                "POST /r/ HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n",
                "3\r\nabcd\r\n0\r\n\r\n",
                Kind::WrongBody { status: 400 },
            ),
            (
                "PUT /r/ HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n",
                "0\r\nT : u\r\n\r\n",
                Kind::WrongBody { status: 400 },
            ),
        ];
        let may_have_body = self.body_max.is_none_or(|max| max > 9);
        let cases: Vec<_> = cases.into_iter().filter(|(_, body, _)| may_have_body || body.is_empty()).collect();
        let (head, body, kind) = prng.pick(&cases);
        let head = head.replace("/r/", &format!("/r/{id}")) + &format!("X-Id: {id}\r\n");
        let method = ["GET", "POST", "OPTIONS", "TRACE", "PUT"]
            .into_iter()
            .find(|method| head.starts_with(method))
            .unwrap_or("GET");
        let mut content = Content::new(0, false, prng);
        if matches!(kind, Kind::WrongBody { .. }) {
            // What comes before the mistake may be passed on.
            content = Content { key: 0, bytes: 3, tempts: false };
        }
        let answer = self.answer(id, method, kind, false, prng);
        self.whole(id, method, kind, head, body.as_bytes().to_vec(), content, answer)
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of one message")]
    fn whole(
        &self,
        id: Id,
        method: &'static str,
        kind: Kind,
        head: String,
        body: Vec<u8>,
        content: Content,
        answer: Answer,
    ) -> Request {
        let mut wire = head.into_bytes();
        wire.extend_from_slice(b"\r\n");
        let head_bytes = wire.len();
        wire.extend(body);
        Request {
            id,
            method,
            kind,
            is_http_1_0: false,
            wire,
            head_bytes,
            content,
            is_chunked: false,
            expects_continue: false,
            is_pipelined: false,
            answer,
            tunnel: None,
        }
    }

    fn tunnel(&self, prng: &mut Prng) -> TunnelPlan {
        let mut ends = || {
            let reset = if self.is_calm { 0 } else { 15 };
            if prng.chance(reset) { Ends::Reset } else { [Ends::WhenSent, Ends::WhenSent, Ends::Second][prng.below(3)] }
        };
        let (client_ends, origin_ends) = (ends(), ends());
        TunnelPlan {
            up: Content::new(self.grain.content_bytes(prng), false, prng),
            down: Content::new(self.grain.content_bytes(prng), false, prng),
            is_early: prng.chance(30),
            client_ends,
            origin_ends,
        }
    }

    fn answer(&self, id: Id, method: &str, kind: Kind, expects_continue: bool, prng: &mut Prng) -> Answer {
        let mut interims: Vec<u16> =
            if prng.chance(15) { vec![prng.pick(&[102, 103]); prng.between(1, 3)] } else { Vec::new() };
        if expects_continue && prng.chance(70) {
            interims.insert(0, 100);
        }
        let mut framed =
            prng.pick(&[Framed::Length, Framed::Length, Framed::Chunked, Framed::Chunked, Framed::UntilClose]);
        let mut status = prng.pick(&[200, 200, 201, 404, 500, 204, 304, 426]);
        if kind == Kind::Tunnel {
            status = 101;
        }
        if method == "HEAD" || matches!(status, 101 | 204 | 304) {
            framed = Framed::Bodiless;
        }
        let content =
            Content::new(if framed == Framed::Bodiless { 0 } else { self.grain.content_bytes(prng) }, true, prng);
        let mut after = match prng.below(if self.is_calm { 12 } else { 20 }) {
            0..=11 => After::Keep,
            12 | 13 => After::CloseAnnounced,
            14..=16 => After::CloseUnannounced,
            _ => After::Chatter,
        };
        if framed == Framed::UntilClose {
            after = After::CloseAnnounced;
        }
        let is_http_1_0 = framed != Framed::Chunked && status != 101 && interims.is_empty() && prng.chance(8);
        let mut text = String::new();
        for interim in &interims {
            let _ = write!(text, "HTTP/1.1 {interim} Wait\r\nX-Id: {id}\r\n\r\n");
        }
        let _ = write!(text, "HTTP/1.{} {status} Said\r\nX-Id: {id}\r\n", if is_http_1_0 { 0 } else { 1 });
        text += match (status, after, is_http_1_0) {
            (101, _, _) => "Connection: Upgrade\r\nUpgrade: websocket\r\n",
            (_, After::CloseAnnounced, false) => "Connection: x-hop, close\r\nX-Hop: 1\r\n",
            (_, After::CloseAnnounced, true) => "",
            (_, _, true) => "Connection: keep-alive\r\nKeep-Alive: 5\r\n",
            (_, _, false) => "",
        };
        if status == 101 {
            let _ = write!(text, "Sec-WebSocket-Accept: {ACCEPT}\r\n");
        }
        let body = match framed {
            Framed::Length => {
                let _ = write!(text, "Content-Length: {}\r\n", content.bytes);
                content.all()
            }
            Framed::Chunked => {
                text += "Transfer-Encoding: chunked\r\n";
                chunked(&content.all(), self.grain, prng)
            }
            Framed::UntilClose => content.all(),
            Framed::Bodiless => {
                if method == "HEAD" && prng.chance(50) {
                    let _ = write!(text, "Content-Length: {}\r\n", prng.below(5000));
                }
                Vec::new()
            }
        };
        text += "\r\n";
        let mut wire = text.into_bytes();
        wire.extend(body);
        let may_cut = !self.is_calm && prng.chance(12);
        let cut = may_cut.then(|| {
            let how = prng.pick(&[Leave::Close, Leave::Reset, Leave::Silence]);
            // The end of the connection is how such a body ends; only a reset or silence cuts it.
            let how = if framed == Framed::UntilClose && how == Leave::Close { Leave::Reset } else { how };
            let all = wire.len() - usize::from(framed != Framed::UntilClose);
            (if prng.chance(20) { 0 } else { prng.between(0, all) }, how)
        });
        let is_early = expects_continue || (!self.is_calm && prng.chance(20));
        Answer { interims, status, framed, content, wire, is_early, cut, after }
    }
}

impl Request {
    fn with(self, is_http_1_0: bool, is_chunked: bool, expects_continue: bool, tunnel: Option<TunnelPlan>) -> Request {
        Request { is_http_1_0, is_chunked, expects_continue, tunnel, ..self }
    }
}

impl Kind {
    /// Whether an upstream may see a byte of the request.
    pub fn may_be_forwarded(self) -> bool {
        !matches!(self, Kind::AnsweredByUs { .. })
    }
}

/// `content` in chunks, with extensions and trailers that must not travel on.
fn chunked(content: &[u8], grain: Grain, prng: &mut Prng) -> Vec<u8> {
    let mut wire = Vec::new();
    let mut rest = content;
    let mut chunks = 0;
    while !rest.is_empty() {
        chunks += 1;
        let n = if chunks > 30 { rest.len() } else { grain.piece(rest.len(), prng) };
        let extension = if prng.chance(15) { ";x=\"y z\"" } else { "" };
        let zeros = "0".repeat(if prng.chance(5) { 3 } else { 0 });
        wire.extend_from_slice(format!("{zeros}{n:x}{extension}\r\n").as_bytes());
        wire.extend_from_slice(&rest[..n]);
        wire.extend_from_slice(b"\r\n");
        rest = &rest[n..];
    }
    let trailers = if prng.chance(25) { "X-Trailer: leaks\r\nHost: evil\r\n" } else { "" };
    wire.extend_from_slice(format!("0{}\r\n{trailers}\r\n", if prng.chance(10) { ";last" } else { "" }).as_bytes());
    wire
}
