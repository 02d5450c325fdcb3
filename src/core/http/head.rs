//! Where a head ends, and what it says: [`RequestHead`] and [`ResponseHead`], views over the bytes as they came.
//!
//! A view that exists is well formed: one Host at the most, no two lengths, no transfer coding but a single `chunked`, no byte
//! that two parsers could read in two ways. Parsing costs one pass of httparse, three short ones over its fields, and no allocation.

use std::mem::MaybeUninit;

use httparse::Header;

use crate::http::field::{ConnectionOptions, Fields, Meaning, Meanings, same_but_for_case};
use crate::http::framing::{Declared, Framing};
use crate::http::reject::{Fault, Reject};
use crate::http::target::{Authority, Target};
use crate::http::upgrade;

/// How much a head may hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a head, its leading and final empty lines included.
    pub bytes_max: usize,
    /// Bytes of the request target.
    pub target_bytes_max: usize,
    /// Number of fields.
    pub fields_max: usize,
}

/// The highest values that the configuration may set: a head must fit a buffer, and its fields an array on the stack.
pub const CEILING: Limits = Limits { bytes_max: 32 * 1024, target_bytes_max: 32 * 1024, fields_max: FIELDS_CEILING };

const FIELDS_CEILING: usize = 256;
/// Longer than any registered method by far.
const METHOD_BYTES_MAX: usize = 32;
/// Empty lines before a request line that are forgiven (RFC 9112, 2.2, asks for one).
const LEADING_EMPTY_LINES_MAX: usize = 2;

impl Default for Limits {
    fn default() -> Limits {
        Limits { bytes_max: 16 * 1024, target_bytes_max: 8 * 1024, fields_max: 100 }
    }
}

impl Limits {
    /// Whether a head that grew from `before` to `now` bytes without ending a line may have passed a limit on the way.
    pub fn may_be_passed(&self, before: usize, now: usize) -> bool {
        // A method, two blanks, and one byte of the target too many.
        let target = self.target_bytes_max.saturating_add(METHOD_BYTES_MAX + 3);
        now >= self.bytes_max || (before < target && now >= target)
    }
}

/// Room for the fields of one head, on the stack of the one who parses.
pub struct FieldStorage<'a> {
    headers: [MaybeUninit<Header<'a>>; FIELDS_CEILING],
    meanings: [Meaning; FIELDS_CEILING],
}

/// Room for the fields of one head.
pub fn empty_fields<'a>() -> FieldStorage<'a> {
    FieldStorage {
        headers: [const { MaybeUninit::uninit() }; FIELDS_CEILING],
        meanings: [Meaning::Other; FIELDS_CEILING],
    }
}

/// The HTTP versions that are served, or may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.0.
    Http10,
    /// HTTP/1.1.
    Http11,
}

/// A request line and fields that have been understood.
#[derive(Debug)]
pub struct RequestHead<'a> {
    /// GET, POST, …: case counts.
    pub method: &'a str,
    /// Where it wants to go.
    pub target: Target<'a>,
    /// HTTP/1.1, or 1.0 where that is served.
    pub version: Version,
    /// All fields, in their order.
    pub fields: Fields<'a>,
    /// The host that is meant: of the target if it names one, else of Host. `None` only in HTTP/1.0.
    pub authority: Option<Authority<'a>>,
    /// How the end of the body is known.
    pub framing: Framing,
    /// What the Connection fields say.
    pub options: ConnectionOptions,
    /// Whether a WebSocket is asked for: GET over HTTP/1.1 with both Connection and Upgrade saying so.
    pub asks_for_websocket: bool,
    /// The first `Sec-WebSocket-Key`; none if there are several.
    pub websocket_key: Option<&'a [u8]>,
    /// `Expect: 100-continue`.
    pub expects_continue: bool,
    /// Max-Forwards, where it is one number.
    pub max_forwards: Option<u32>,
}

impl<'a> RequestHead<'a> {
    /// The head that `bytes` begin with, and its length. `None` if it has not arrived whole.
    ///
    /// To be asked again whenever a line has ended, so that what is wrong is refused as soon as it can be known.
    pub fn parse(
        bytes: &'a [u8],
        storage: &'a mut FieldStorage<'a>,
        limits: &Limits,
    ) -> Result<Option<(RequestHead<'a>, usize)>, Reject> {
        let within = bytes.get(..limits.bytes_max).unwrap_or(bytes);
        let leading = leading_empty_lines(within)?;
        let text = within.get(leading..).unwrap_or_default();
        let headers = storage.headers.get_mut(..limits.fields_max).ok_or(Reject::TooManyFields)?;
        let mut request = httparse::Request::new(&mut []);
        let parsed = httparse::ParserConfig::default().parse_request_with_uninit_headers(&mut request, text, headers);
        let head_bytes = match parsed {
            Ok(httparse::Status::Complete(head_bytes)) => head_bytes,
            Ok(httparse::Status::Partial) => return partial(text, bytes.len(), limits),
            Err(httparse::Error::Version) => return other_version(text, bytes.len(), limits),
            Err(httparse::Error::TooManyHeaders) => return Err(Reject::TooManyFields),
            Err(error) => return Err(Reject::Malformed(in_words(error))),
        };
        let text = text.get(..head_bytes).unwrap_or_default();
        let fields = Fields::new(text, request.headers, &mut storage.meanings);
        if !fields.end_in_crlf() {
            return Err(BARE_LF);
        }
        let (Some(method), Some(target), Some(version)) = (request.method, request.path, request.version) else {
            return Err(Reject::Malformed("not a request line"));
        };
        if target.len() > limits.target_bytes_max {
            return Err(Reject::TargetTooLong);
        }
        let version = if version == 0 { Version::Http10 } else { Version::Http11 };
        if method.len() > METHOD_BYTES_MAX {
            return Err(Reject::Malformed("the method is longer than 32 characters"));
        }
        if matches!(method, "CONNECT" | "TRACE") {
            return Err(Reject::Method);
        }
        let mut head = RequestHead {
            method,
            target: Target::parse(method, target)?,
            version,
            fields,
            authority: None,
            framing: Framing::None,
            options: ConnectionOptions::default(),
            asks_for_websocket: false,
            websocket_key: None,
            expects_continue: false,
            max_forwards: None,
        };
        head.understand()?;
        Ok(Some((head, leading.saturating_add(head_bytes))))
    }

    fn understand(&mut self) -> Result<(), Reject> {
        let mut declared = Declared::default();
        let (mut keys, mut expectations, mut names_websocket) = (0_u8, 0_u8, false);
        for (field, meaning) in self.fields.iter() {
            match meaning {
                Meaning::Host => {
                    let host =
                        Authority::parse(field.value).ok_or(Reject::Malformed("Host is not a host and a port"))?;
                    if self.authority.replace(host).is_some() {
                        return Err(Reject::Malformed("Host stands twice"));
                    }
                }
                Meaning::ContentLength => declared.note_length(field.value)?,
                Meaning::TransferEncoding => declared.note_coding(field.value)?,
                Meaning::Connection => self.options.note(field.value),
                Meaning::Upgrade => names_websocket |= upgrade::names_websocket(field.value),
                Meaning::WebSocketKey => {
                    keys = keys.saturating_add(1);
                    self.websocket_key = Some(field.value).filter(|_| keys == 1);
                }
                Meaning::Expect => {
                    expectations = expectations.saturating_add(1);
                    self.expects_continue = field.value.eq_ignore_ascii_case(b"100-continue");
                    if expectations > 1 || !self.expects_continue {
                        return Err(Reject::Expectation);
                    }
                }
                Meaning::MaxForwards => self.max_forwards = number(field.value),
                _ => {}
            }
        }
        if self.options.others {
            self.fields.end_named(Meanings::OF_REQUESTS);
        }
        match (self.authority, self.version) {
            (None, Version::Http11) => return Err(Reject::Malformed("Host is missing")),
            (Some(host), _) if host.text.is_empty() && self.target.authority.is_some() => {
                return Err(Reject::Malformed("Host is empty"));
            }
            _ => {}
        }
        self.authority = self.target.authority.or(self.authority);
        self.framing = declared.of_request(self.version)?;
        self.asks_for_websocket =
            names_websocket && self.options.upgrade && self.method == "GET" && self.version == Version::Http11;
        if self.asks_for_websocket && self.framing != Framing::None {
            return Err(Reject::Malformed("a WebSocket handshake with a body"));
        }
        // An expectation without a body, or in HTTP/1.0, has nothing to wait for (RFC 9110, 10.1.1).
        self.expects_continue &= self.framing != Framing::None && self.version == Version::Http11;
        Ok(())
    }

    /// Whether the client means to send another request on this connection (RFC 9112, 9.3).
    pub fn is_persistent(&self) -> bool {
        match self.version {
            Version::Http11 => !self.options.close,
            // A body that only the end of its connection would end (RFC 1945, 7.2.2) must not be taken for a request.
            Version::Http10 if self.framing == Framing::None && self.usually_has_body() => false,
            Version::Http10 => self.options.keep_alive && !self.options.close,
        }
    }

    /// Whether the method is one whose requests usually have a body.
    pub fn usually_has_body(&self) -> bool {
        matches!(self.method, "POST" | "PUT" | "PATCH")
    }

    /// Whether asking twice does no more than asking once (RFC 9110, 9.2.2).
    pub fn is_idempotent(&self) -> bool {
        matches!(self.method, "GET" | "HEAD" | "OPTIONS" | "PUT" | "DELETE")
    }
}

/// A status line and fields that have been understood.
#[derive(Debug)]
pub struct ResponseHead<'a> {
    /// 100 to 599.
    pub status: u16,
    /// The reason phrase, for people; empty where it is not ASCII.
    pub reason: &'a str,
    /// HTTP/1.1 or 1.0.
    pub version: Version,
    /// All fields, in their order.
    pub fields: Fields<'a>,
    /// What the Connection fields say.
    pub options: ConnectionOptions,
    /// What the fields say about the body; the framing follows from the request too.
    pub declared: Declared,
    /// Whether Upgrade names websocket.
    pub upgrade_to_websocket: bool,
    /// The first `Sec-WebSocket-Accept`; none if there are several.
    pub websocket_accept: Option<&'a [u8]>,
    /// Whether the body is a stream of server-sent events: silent for long, and alive.
    pub is_event_stream: bool,
}

impl<'a> ResponseHead<'a> {
    /// The head that `bytes` begin with, and its length. `None` if it has not arrived whole.
    pub fn parse(
        bytes: &'a [u8],
        storage: &'a mut FieldStorage<'a>,
        limits: &Limits,
    ) -> Result<Option<(ResponseHead<'a>, usize)>, Fault> {
        let within = bytes.get(..limits.bytes_max).unwrap_or(bytes);
        let headers = storage.headers.get_mut(..limits.fields_max).ok_or(Fault("more fields than limits.fields"))?;
        let mut response = httparse::Response::new(&mut []);
        let parsed =
            httparse::ParserConfig::default().parse_response_with_uninit_headers(&mut response, within, headers);
        let head_bytes = match parsed {
            Ok(httparse::Status::Complete(head_bytes)) => head_bytes,
            Ok(httparse::Status::Partial) if bytes.len() >= limits.bytes_max => {
                return Err(Fault("a head larger than limits.head"));
            }
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(error) => return Err(Fault(in_words(error))),
        };
        let (Some(status), Some(version)) = (response.code, response.version) else {
            return Err(Fault("not a status line"));
        };
        // httparse forgives empty lines in front; a server has no reason to send any.
        if !bytes.starts_with(b"HTTP/") {
            return Err(Fault("an empty line before the status line"));
        }
        let mut head = ResponseHead {
            status,
            reason: response.reason.unwrap_or_default(),
            version: if version == 0 { Version::Http10 } else { Version::Http11 },
            fields: Fields::new(within.get(..head_bytes).unwrap_or_default(), response.headers, &mut storage.meanings),
            options: ConnectionOptions::default(),
            declared: Declared::default(),
            upgrade_to_websocket: false,
            websocket_accept: None,
            is_event_stream: false,
        };
        if !(100..=599).contains(&status) {
            return Err(Fault("a status that is not between 100 and 599"));
        }
        head.understand().map_err(|reject| match reject {
            Reject::Malformed(what) => Fault(what),
            _ => Fault("a transfer coding other than chunked"),
        })?;
        Ok(Some((head, head_bytes)))
    }

    fn understand(&mut self) -> Result<(), Reject> {
        let mut accepts = 0_u8;
        // A 101 has no body, whatever its fields say, and nor does any other interim response: their lengths are dropped.
        let has_lengths = self.status >= 200;
        for (field, meaning) in self.fields.iter() {
            match meaning {
                Meaning::ContentLength if has_lengths => self.declared.note_length(field.value)?,
                // In a response `chunked` may stand in any case: it is written anew, so nobody reads it twice.
                Meaning::TransferEncoding if has_lengths => {
                    let is_chunked = same_but_for_case(field.value, b"chunked");
                    self.declared.note_coding(if is_chunked { b"chunked" } else { field.value })?;
                }
                Meaning::Connection => self.options.note(field.value),
                Meaning::Upgrade => self.upgrade_to_websocket |= upgrade::names_websocket(field.value),
                Meaning::WebSocketAccept => {
                    accepts = accepts.saturating_add(1);
                    self.websocket_accept = Some(field.value).filter(|_| accepts == 1);
                }
                Meaning::ContentType => {
                    let (kind, _) = field.value.split_at_checked(b"text/event-stream".len()).unwrap_or_default();
                    self.is_event_stream = same_but_for_case(kind, b"text/event-stream");
                }
                _ => {}
            }
        }
        if self.options.others {
            self.fields.end_named(Meanings::OF_RESPONSES);
        }
        Ok(())
    }

    /// Whether the upstream means to answer another request on this connection (RFC 9112, 9.3).
    pub fn is_persistent(&self) -> bool {
        match self.version {
            Version::Http11 => !self.options.close,
            Version::Http10 => self.options.keep_alive && !self.options.close,
        }
    }
}

/// A number of digits and nothing else.
fn number(value: &[u8]) -> Option<u32> {
    let digits = str::from_utf8(value).ok()?;
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
}

/// How many bytes of empty lines stand before a request line.
fn leading_empty_lines(bytes: &[u8]) -> Result<usize, Reject> {
    if !matches!(bytes, [b'\r' | b'\n', ..]) {
        return Ok(0);
    }
    let mut rest = bytes;
    for _ in 0..LEADING_EMPTY_LINES_MAX {
        match rest.strip_prefix(b"\r\n") {
            Some(after) => rest = after,
            None => break,
        }
    }
    match rest {
        [b'\r', b'\n', ..] => Err(Reject::Malformed("more than two empty lines before a request")),
        [b'\n', ..] | [b'\r', _, ..] => Err(BARE_LF),
        _ => Ok(bytes.len().saturating_sub(rest.len())),
    }
}

/// A head that is not whole: is it still within its limits?
#[cold]
fn partial<T>(text: &[u8], arrived: usize, limits: &Limits) -> Result<Option<T>, Reject> {
    refuse_bare_lf(text)?;
    let mut words = text.split(|byte| *byte == b'\n').next().unwrap_or_default().split(|byte| *byte == b' ');
    if words.next().is_some_and(|method| method.len() > METHOD_BYTES_MAX) {
        return Err(Reject::Malformed("the method is longer than 32 characters"));
    }
    if words.next().is_some_and(|target| target.len() > limits.target_bytes_max) {
        return Err(Reject::TargetTooLong);
    }
    if arrived >= limits.bytes_max { Err(Reject::HeadTooLarge) } else { Ok(None) }
}

/// httparse did not know the version. A well-formed one is told that it is not supported, all else is malformed; which of the
/// two is known when the line has ended.
#[cold]
fn other_version<T>(text: &[u8], arrived: usize, limits: &Limits) -> Result<Option<T>, Reject> {
    let Some(line_bytes) = text.iter().position(|byte| *byte == b'\n') else { return partial(text, arrived, limits) };
    let line = text.get(..line_bytes).unwrap_or_default().strip_suffix(b"\r");
    let mut words = line.unwrap_or_default().split(|byte| *byte == b' ');
    let (method, target, version, more) = (words.next(), words.next(), words.next(), words.next());
    let is_well_formed = more.is_none()
        && method.is_some_and(|method| !method.is_empty() && method.len() <= METHOD_BYTES_MAX)
        && target.is_some_and(|target| !target.is_empty())
        && version.is_some_and(
            |version| matches!(version, [b'H', b'T', b'T', b'P', b'/', major, b'.', minor] if major.is_ascii_digit() && minor.is_ascii_digit()),
        );
    Err(if is_well_formed { Reject::Version } else { Reject::Malformed("not a request line") })
}

/// RFC 9112, 2.2, lets a recipient take a bare LF for a line end; not all do, so it has two readings.
const BARE_LF: Reject = Reject::Malformed("a line that does not end in CRLF");

/// Refuses the beginning of a head if one of its lines ends in a bare LF.
fn refuse_bare_lf(text: &[u8]) -> Result<(), Reject> {
    let ends_bare = |line: &[u8]| line.ends_with(b"\n") && !line.ends_with(b"\r\n");
    if text.split_inclusive(|byte| *byte == b'\n').any(ends_bare) { Err(BARE_LF) } else { Ok(()) }
}

#[cold]
fn in_words(error: httparse::Error) -> &'static str {
    match error {
        httparse::Error::HeaderName => "a field name that is not a token",
        httparse::Error::HeaderValue => "a control byte in a field",
        httparse::Error::NewLine => "a line that does not end in CRLF",
        httparse::Error::Status => "a status that is not three digits",
        httparse::Error::Token => "a request line or a field that is none",
        httparse::Error::TooManyHeaders => "more fields than limits.fields",
        httparse::Error::Version => "an HTTP version that is not served",
    }
}

#[cfg(test)]
mod tests;
