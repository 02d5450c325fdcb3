//! What came of a vector, held against what must have come.

use std::fmt;

use super::reading::{self, Response};
use super::vector::{Shown, Vector, unescape};

/// The target of the request that follows each vector.
pub const CANARY_TARGET: &str = "/canary";
/// A request that follows each vector in the same packet.
pub const CANARY: &[u8] = b"GET /canary HTTP/1.1\r\nHost: canary\r\n\r\n";
/// What a client says once its tunnel is open.
pub const WORDS: &[u8] = b"words\0\r\n\r\n";

/// What must come of a vector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    /// Whatever comes, client and upstream have the same reading of it.
    OneReading,
    /// This many requests reach the upstream and are answered by it.
    Forwarded(usize),
    /// The client is told this status and its connection ends, `behind` this many requests that were answered. `in_body`: some
    /// of the request may have left before it was known.
    Refused { status: u16, behind: usize, in_body: bool },
    /// hawkey answers with this status itself, and the connection goes on.
    Own(u16),
    /// The client gets this status and this body.
    Right(u16, Vec<u8>),
    /// The client gets hawkey's own answer with this status, or this body without its end and then a reset.
    Fault(u16, Vec<u8>),
    /// One of the two above: this body, or a fault.
    Clean(Vec<u8>),
    /// A tunnel, in which bytes travel untouched.
    Tunnel,
    /// A tunnel as above, or none: then a fault, or whatever has one reading.
    TunnelOrNone,
}

impl Expected {
    /// Whether the upstream may speak in a tunnel.
    pub fn may_be_tunnel(&self) -> bool {
        matches!(self, Expected::Tunnel | Expected::TunnelOrNone)
    }

    /// `None` if the line means nothing.
    pub fn parse(line: &str) -> Option<Expected> {
        let words: Vec<_> = line.split(' ').collect();
        let number = |text: &str| text.parse::<u16>().ok();
        let body = |text: &[&str]| unescape(&text.join(" ")).ok();
        Some(match words.as_slice() {
            ["one", "reading"] => Expected::OneReading,
            ["forwarded"] => Expected::Forwarded(1),
            ["forwarded", count] => Expected::Forwarded(count.parse().ok()?),
            ["refused", status] => Expected::Refused { status: number(status)?, behind: 0, in_body: false },
            ["refused", status, "in", "the", "body"] => {
                Expected::Refused { status: number(status)?, behind: 0, in_body: true }
            }
            ["refused", status, "behind", count] => {
                Expected::Refused { status: number(status)?, behind: count.parse().ok()?, in_body: false }
            }
            // What is not whole in time is refused with 408.
            ["late"] => Expected::Refused { status: 408, behind: 0, in_body: true },
            ["own", status] => Expected::Own(number(status)?),
            ["right", status, text @ ..] => Expected::Right(number(status)?, body(text)?),
            ["fault", status, text @ ..] => Expected::Fault(number(status)?, body(text)?),
            ["clean", text @ ..] => Expected::Clean(body(text)?),
            ["tunnel"] => Expected::Tunnel,
            ["tunnel", "or", "none"] => Expected::TunnelOrNone,
            _ => return None,
        })
    }
}

/// What came of a vector.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// All that the client got.
    pub got: Vec<u8>,
    pub end: End,
    /// The requests that the upstream read, in order.
    pub seen: Vec<Seen>,
    /// What the upstream got of a request that never became whole, as far as it is known whose it was.
    pub unfinished: Vec<u8>,
    /// What the upstream got in a tunnel.
    pub tunnelled: Vec<u8>,
}

/// How a client's connection stands at last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Open,
    Closed,
    Reset,
    /// Something was still to come, and did not.
    Silent,
}

/// A request that an upstream read.
#[derive(Clone, Debug)]
pub struct Seen {
    /// On which of all connections.
    pub connection: usize,
    /// Which of all requests; the upstream's answer tells it.
    pub number: usize,
    pub raw: Vec<u8>,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "  the client got {}, {:?}", Shown(&self.got), self.end)?;
        for seen in &self.seen {
            write!(f, "\n  the upstream got, as {} on {}, {}", seen.number, seen.connection, Shown(&seen.raw))?;
        }
        if !self.unfinished.is_empty() {
            write!(f, "\n  the upstream got, unfinished, {}", Shown(&self.unfinished))?;
        }
        if self.tunnelled.is_empty() { Ok(()) } else { write!(f, "\n  in the tunnel {}", Shown(&self.tunnelled)) }
    }
}

/// The answer of an upstream to the request with this number, which it tells together with its target.
pub fn answer(number: usize, target: &str) -> Vec<u8> {
    format!("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-Answers: {number} {target}\r\n\r\n").into_bytes()
}

/// Whether a client of `vector` that got these bytes on an open connection has got all.
pub fn is_answered(vector: &Vector, got: &[u8]) -> Result<bool, String> {
    let answers = reading::responses(got, vector.asks_with_head(), false)?;
    let has_switched = answers.last().is_some_and(|answer| answer.status == 101);
    if vector.expected == Expected::Tunnel || (has_switched && vector.expected == Expected::TunnelOrNone) {
        return Ok(answers.last().is_some_and(|answer| answer.body.len() >= echoed(vector).len()));
    }
    Ok(answers.last().is_some_and(|answer| answer.is_whole && target(answer) == Some(CANARY_TARGET)))
}

/// Whether a tunnel has opened.
pub fn is_switched(got: &[u8]) -> bool {
    let answers = reading::responses(got, false, false).unwrap_or_default();
    answers.last().is_some_and(|answer| answer.status == 101)
}

/// What the client gets in the tunnel: what came with the 101, and all it said itself.
fn echoed(vector: &Vector) -> Vec<u8> {
    let script = vector.script.as_ref().map_or(b"".as_slice(), |script| &script.bytes);
    let end = script.windows(7).position(|seven| seven == b"TUNNEL:").unwrap_or(script.len());
    [&script[end..], vector.early(), CANARY, WORDS].concat()
}

/// Whether the upstream's answer agrees to the handshake whose key is the example's of RFC 6455, 1.3.
fn is_agreed(vector: &Vector) -> bool {
    let script = vector.script.as_ref().map_or(b"".as_slice(), |script| &script.bytes);
    // In a response a bare line feed ends a line.
    let lines: Vec<_> =
        script.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line)).collect();
    reading::agree(
        &vector.client,
        &lines.join(b"\r\n".as_slice()),
        "dGhlIHNhbXBsZSBub25jZQ==",
        "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=",
    )
}

fn number(answer: &Response) -> Option<usize> {
    answer.field("x-answers")?.split(' ').next()?.parse().ok()
}

/// The target that an upstream's answer tells.
pub fn target(answer: &Response) -> Option<&str> {
    answer.field("x-answers")?.split(' ').nth(1)
}

/// What is wrong with an outcome.
pub fn judge(vector: &Vector, outcome: &Outcome) -> Result<(), String> {
    let mut answers = reading::responses(&outcome.got, vector.asks_with_head(), outcome.end == End::Closed)?;
    answers.retain(|answer| answer.status >= 200 || answer.status == 101);
    if outcome.end == End::Silent {
        return Err("something was to come, and did not".to_string());
    }
    // One reading: as many requests as answers, and each answer to its own request.
    let scripted = usize::from(vector.script.is_some());
    let asked: Vec<_> = outcome.seen.iter().skip(scripted).map(|seen| seen.number).collect();
    let answered: Vec<_> = answers.iter().filter_map(number).collect();
    if asked != answered {
        return Err(format!(
            "a double reading: the upstream was asked {asked:?}, the client got the answers {answered:?}"
        ));
    }
    let is_own = |answer: &Response| {
        number(answer).is_none()
            && answer.field("content-type") == Some("text/html; charset=utf-8")
            && (answer.body.is_empty() || answer.body == b"<h4>Not Supported</h4>")
    };
    let shown: Vec<_> = answers.iter().map(|answer| (answer.status, is_own(answer), answer.is_whole)).collect();
    let is_canary = |answer: Option<&Response>| answer.is_some_and(|answer| target(answer) == Some(CANARY_TARGET));
    let ends_well = |behind: usize| {
        let behind = behind + vector.more;
        let is_open = outcome.end == End::Open && answers.len() == behind + 1 && is_canary(answers.get(behind));
        let is_closed = outcome.end == End::Closed && answers.len() == behind;
        if vector.is_closed { is_closed } else { is_open }
    };
    let first = answers.first();
    let is_right = |status: Option<u16>, body: &[u8]| {
        first.is_some_and(|first| !is_own(first) && first.is_whole && first.body == body)
            && status.is_none_or(|status| first.is_some_and(|first| first.status == status))
            && ends_well(1)
    };
    let is_fault = |status: Option<u16>, body: &[u8]| match outcome.end {
        End::Reset => answers.len() <= 1 && first.is_none_or(|first| !first.is_whole && body.starts_with(&first.body)),
        _ => {
            first.is_some_and(|first| is_own(first) && status.is_none_or(|status| first.status == status))
                && ends_well(1)
        }
    };
    let has_one_reading = || {
        let refusals = answers.iter().filter(|answer| is_own(answer) && answer.field("connection").is_some()).count();
        let is_last = answers.last().is_some_and(|last| is_own(last) && last.field("connection") == Some("close"));
        match outcome.end {
            End::Open => refusals == 0 && is_canary(answers.last()),
            End::Closed => refusals == usize::from(is_last),
            End::Reset | End::Silent => false,
        }
    };
    let is_tunnel = || {
        first.is_some_and(|first| first.status == 101 && first.body == echoed(vector))
            && outcome.tunnelled == [vector.early(), CANARY, WORDS].concat()
    };
    let is_as_expected = match &vector.expected {
        Expected::OneReading => has_one_reading(),
        Expected::Forwarded(count) => answers.len() >= *count && !answers.iter().any(is_own) && ends_well(*count),
        Expected::Refused { status, behind, in_body } => {
            let refusal = answers.get(*behind);
            outcome.end == End::Closed
                && answers.len() == behind + 1
                && refusal.is_some_and(|refusal| is_own(refusal) && refusal.status == *status)
                && (*in_body || outcome.unfinished.is_empty())
        }
        Expected::Own(status) => first.is_some_and(|first| is_own(first) && first.status == *status) && ends_well(1),
        Expected::Right(status, body) => is_right(Some(*status), body),
        Expected::Fault(status, body) => is_fault(Some(*status), body),
        Expected::Clean(body) => is_right(None, body) || is_fault(None, body),
        Expected::Tunnel => is_tunnel(),
        Expected::TunnelOrNone if first.is_some_and(|first| first.status == 101) => is_tunnel() && is_agreed(vector),
        Expected::TunnelOrNone => outcome.tunnelled.is_empty() && (has_one_reading() || is_fault(None, b"TUNNEL:")),
    };
    if !is_as_expected {
        let closed = if vector.is_closed { ", and then the end" } else { "" };
        return Err(format!(
            "expected {:?}{closed}, came (status, own, whole) {shown:?}, {:?}",
            vector.expected, outcome.end
        ));
    }
    match outcome.seen.as_slice() {
        [first, next, ..] if vector.is_dropped && first.connection == next.connection => {
            Err("the upstream's connection was used again".to_string())
        }
        _ => Ok(()),
    }
}

#[test]
fn another_outcome_than_expected_is_told() {
    let vector = |expected: &str| {
        let text = format!("--- a\n# why\n> GET / HTTP/1.1\n>\n{expected}\n");
        super::vector::parse(&text).expect("a vector").remove(0)
    };
    let seen = |number| Seen { connection: 0, number, raw: Vec::new() };
    let refusal =
        b"HTTP/1.1 400 X\r\ncontent-type: text/html; charset=utf-8\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    let two = [answer(3, "/"), answer(4, CANARY_TARGET)].concat();
    let outcome =
        |got: &[u8], end, seen| Outcome { got: got.to_vec(), end, seen, unfinished: Vec::new(), tunnelled: Vec::new() };
    let forwarded = outcome(&two, End::Open, vec![seen(3), seen(4)]);
    let refused = outcome(refusal, End::Closed, Vec::new());
    assert_eq!(judge(&vector("forwarded"), &forwarded), Ok(()));
    assert_eq!(judge(&vector("one reading"), &forwarded), Ok(()));
    assert_eq!(judge(&vector("refused 400"), &refused), Ok(()));
    for (expected, outcome, part) in [
        ("refused 400", forwarded.clone(), "expected Refused"),
        ("forwarded 2", forwarded.clone(), "expected Forwarded(2)"),
        ("forwarded", refused.clone(), "expected Forwarded(1)"),
        ("refused 431", refused.clone(), "expected Refused"),
        ("refused 400", Outcome { end: End::Open, ..refused.clone() }, "expected Refused"),
        ("refused 400", Outcome { end: End::Reset, ..refused.clone() }, "expected Refused"),
        ("refused 400", Outcome { unfinished: b"GET".to_vec(), ..refused.clone() }, "expected Refused"),
        ("refused 400", Outcome { seen: vec![seen(3)], ..refused }, "a double reading"),
        ("forwarded", outcome(&two, End::Open, vec![seen(3), seen(4), seen(5)]), "a double reading"),
        ("one reading", outcome(&two, End::Open, vec![seen(4), seen(3)]), "a double reading"),
        ("one reading", outcome(&two, End::Silent, vec![seen(3), seen(4)]), "was to come"),
        ("one reading", outcome(&two[..two.len() - 1], End::Closed, Vec::new()), "the end within a head"),
        ("one reading", outcome(&two[..two.len() - 1], End::Reset, vec![seen(3)]), "expected OneReading"),
        ("tunnel or none", outcome(b"HTTP/1.1 101 X\r\n\r\nevil", End::Open, Vec::new()), "expected TunnelOrNone"),
        ("tunnel or none", Outcome { tunnelled: WORDS.to_vec(), ..forwarded.clone() }, "expected TunnelOrNone"),
    ] {
        let told = judge(&vector(expected), &outcome).unwrap_err();
        assert!(told.contains(part), "expected to read {part:?} for `{expected}`, came {told:?}");
    }
}
