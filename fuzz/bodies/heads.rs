//! A head that is forwarded has the meaning that it came with, in the eyes of a second reader.

use std::net::{IpAddr, Ipv4Addr};

use hawkey::http::forward::{self, Forwarding, Returning};
use hawkey::http::framing::Framing;
use hawkey::http::head::{Limits, RequestHead, ResponseHead, Version, empty_fields};
use hawkey::http::target::Target;

use super::message::{Body, Head, Lines, Shown, is_token};

const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7));

/// The input is a request head, and perhaps more behind it.
pub fn request_head(input: &[u8]) {
    let bytes = agree_at_any_cut(input, "request", &|bytes| {
        let mut storage = empty_fields();
        RequestHead::parse(bytes, &mut storage, &Limits::default()).map(|head| head.map(|(_, bytes)| bytes)).ok()
    });
    let Some(bytes) = bytes else { return };
    let came = Request::read(&input[..bytes]).unwrap_or_else(|why| panic!("{why}, but accepted: {}", Shown(input)));
    for trusted in [false, true] {
        let mut storage = empty_fields();
        let parsed = RequestHead::parse(input, &mut storage, &Limits::default());
        let Ok(Some((head, _))) = parsed else { panic!("parsed once, not twice: {}", Shown(input)) };
        let mut out = Vec::new();
        let target = with_slash(&head.target);
        forward::request(&head, &Forwarding { target, client: Some(CLIENT), trusted }, &mut out);
        let left =
            Head::read(&out, Lines::Strict).unwrap_or_else(|why| panic!("{why}, in what leaves of {}", Shown(input)));
        let Some((left, length)) = left else { panic!("half a head leaves of {}", Shown(input)) };
        assert_eq!(length, out.len(), "something leaves behind the head of {}", Shown(input));
        assert_eq!(left, came.forwarded(trusted), "the left leaves, the right was meant: {}", Shown(input));
    }
}

/// As an exchange gives it: origin-form has a path.
fn with_slash<'t>(target: &'t Target<'_>) -> (&'static str, &'t str) {
    let text = &*target.path_and_query;
    if text.is_empty() || text.starts_with('?') { ("/", text) } else { ("", text) }
}

/// A head is whole at the same byte, wherever it is cut, and whatever stands behind it. Returns its length.
fn agree_at_any_cut(input: &[u8], what: &str, parse: &dyn Fn(&[u8]) -> Option<Option<usize>>) -> Option<usize> {
    let whole = parse(input);
    let accepted = whole.flatten();
    let end = accepted.unwrap_or(input.len());
    let step = (end / 16).max(1);
    let cuts = (0..end).step_by(step).chain(end.saturating_sub(3)..end);
    for cut in cuts {
        let told = parse(&input[..cut]);
        match (accepted, told) {
            (_, Some(None)) => {}
            // What is not accepted whole may be refused early, and a beginning of it late: a look is not taken at every byte.
            (None, None) => {}
            _ => panic!("a {what} is {whole:?}, but cut at {cut} it is {told:?}: {}", Shown(input)),
        }
    }
    if let Some(end) = accepted {
        for behind in [b"".as_slice(), b"\0\n", b"GET / HTTP/1.1\r\n\r\n"] {
            let told = parse(&[&input[..end], behind].concat());
            assert_eq!(told, whole, "a {what} before {behind:?}: {}", Shown(input));
        }
    }
    accepted
}

/// A query in which what browsers leave as it is stands encoded.
fn encoded(query: &str) -> String {
    let mut encoded = String::new();
    for (at, c) in query.char_indices() {
        let digits = query[at + c.len_utf8()..].bytes().take(2).filter(u8::is_ascii_hexdigit).count();
        match c {
            '\\' | '^' | '`' | '{' | '}' => encoded += &format!("%{:02X}", c as u32),
            '%' if digits < 2 => encoded += "%25",
            c => encoded.push(c),
        }
    }
    encoded
}

/// A request as the second reader understands it.
struct Request {
    head: Head,
    method: String,
    target: String,
    host: String,
    is_http_1_1: bool,
    body: Body,
}

impl Request {
    fn read(bytes: &[u8]) -> Result<Request, String> {
        // At most two empty lines in front are forgiven.
        let text = bytes.strip_prefix(b"\r\n").unwrap_or(bytes);
        let text = text.strip_prefix(b"\r\n").unwrap_or(text);
        let (head, length) = Head::read(text, Lines::Strict)?.ok_or("half a head")?;
        if length != text.len() {
            return Err(format!("a head of {length} bytes in {}", text.len()));
        }
        let [method, target, version] = head.words()?;
        if !is_token(method) || !target.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(format!("the method {method:?} or the target {target:?}"));
        }
        let is_http_1_1 = match version {
            "HTTP/1.1" => true,
            "HTTP/1.0" => false,
            _ => return Err(format!("the version {version:?}")),
        };
        let hosts = head.all("host");
        if hosts.len() > 1 || (hosts.is_empty() && is_http_1_1) {
            return Err(format!("the hosts {hosts:?}"));
        }
        let (host, target) = match target.split_once("://") {
            Some((_, rest)) if !target.starts_with('/') => rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len())),
            _ => (hosts.first().copied().unwrap_or_default(), target),
        };
        let target = match target {
            "" if method == "OPTIONS" => "*".to_owned(),
            "" => "/".to_owned(),
            query if query.starts_with('?') => format!("/{query}"),
            target => target.to_owned(),
        };
        let target = target.replace('|', "%7C");
        let target = match target.split_once('?') {
            Some((path, query)) => format!("{path}?{}", encoded(query)),
            None => target,
        };
        let body = head.request_body()?;
        if body == Body::Chunked && !is_http_1_1 {
            return Err("chunked in HTTP/1.0".into());
        }
        let (method, host) = (method.to_owned(), host.to_owned());
        Ok(Request { method, target, host, is_http_1_1, body, head })
    }

    /// The head that must leave.
    fn forwarded(&self, trusted: bool) -> Head {
        let named = self.head.list("connection");
        let mut fields = vec![("Host".to_owned(), self.host.clone())];
        for (name, value) in &self.head.fields {
            let kept = match kind(name) {
                Kind::EndToEnd => !named.contains(&name.to_ascii_lowercase()),
                Kind::Expectation => self.body != Body::None && self.is_http_1_1,
                Kind::Forwarding => trusted && !name.eq_ignore_ascii_case("x-forwarded-for"),
                Kind::HopByHop | Kind::Host | Kind::Length | Kind::Alias => false,
            };
            if kept {
                fields.push((name.clone(), value.clone()));
            }
        }
        let mut add = |name: &str, value: String| fields.push((name.to_owned(), value));
        match self.body {
            Body::Length(length) => add("Content-Length", length.to_string()),
            Body::Chunked => add("Transfer-Encoding", "chunked".into()),
            Body::None if matches!(self.method.as_str(), "POST" | "PUT" | "PATCH") => add("Content-Length", "0".into()),
            Body::None | Body::UntilClose => {}
        }
        let forwards = self.head.all("max-forwards").last().and_then(|value| decimal(value));
        if let Some(forwards) = forwards.filter(|_| self.method == "OPTIONS") {
            add("Max-Forwards", forwards.saturating_sub(1).to_string());
        }
        let asks = |name: &str, option: &str| self.head.list(name).iter().any(|member| member == option);
        if self.method == "GET" && self.is_http_1_1 && asks("connection", "upgrade") && asks("upgrade", "websocket") {
            add("Connection", "Upgrade".into());
            add("Upgrade", "websocket".into());
        }
        let said = |name: &str| trusted && !self.head.all(name).is_empty();
        if !said("x-real-ip") {
            add("X-Real-IP", CLIENT.to_string());
        }
        let before = self.head.all("x-forwarded-for").into_iter().filter(|value| trusted && !value.is_empty());
        let client = CLIENT.to_string();
        add("X-Forwarded-For", before.chain([client.as_str()]).collect::<Vec<_>>().join(", "));
        if !said("x-forwarded-proto") {
            add("X-Forwarded-Proto", "http".into());
        }
        if !said("x-forwarded-host") && !self.host.is_empty() {
            add("X-Forwarded-Host", self.host.clone());
        }
        Head { start: format!("{} {} HTTP/1.1", self.method, self.target), fields }
    }
}

/// What becomes of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    EndToEnd,
    HopByHop,
    Host,
    Length,
    Expectation,
    /// It tells of the client.
    Forwarding,
    /// It has a name that matters here, but for `_` in the place of `-`.
    Alias,
}

fn kind(name: &str) -> Kind {
    let name = name.to_ascii_lowercase();
    let kind = match name.replace('_', "-").as_str() {
        "connection"
        | "keep-alive"
        | "proxy-connection"
        | "proxy-authenticate"
        | "proxy-authorization"
        | "te"
        | "trailer"
        | "upgrade"
        | "http2-settings"
        | "max-forwards" => Kind::HopByHop,
        "host" => Kind::Host,
        "content-length" | "transfer-encoding" => Kind::Length,
        "expect" => Kind::Expectation,
        "x-real-ip" | "forwarded" => Kind::Forwarding,
        "content-type" | "sec-websocket-key" | "sec-websocket-accept" if name.contains('_') => Kind::Alias,
        other if other.starts_with("x-forwarded-") => Kind::Forwarding,
        _ => return Kind::EndToEnd,
    };
    if name.contains('_') { Kind::Alias } else { kind }
}

fn decimal(text: &str) -> Option<u32> {
    text.parse().ok().filter(|_| !text.starts_with('+'))
}

/// The input is a response head, and perhaps more behind it.
pub fn response_head(input: &[u8]) {
    let bytes = agree_at_any_cut(input, "response", &|bytes| {
        let mut storage = empty_fields();
        ResponseHead::parse(bytes, &mut storage, &Limits::default()).map(|head| head.map(|(_, bytes)| bytes)).ok()
    });
    let Some(bytes) = bytes else { return };
    let came = Head::read(&input[..bytes], Lines::Lenient);
    let Ok(Some((came, length))) = came else { panic!("{came:?}, but accepted: {}", Shown(input)) };
    assert_eq!(length, bytes, "where the head ends: {}", Shown(input));
    for (version, keep, answers_head) in [
        (Version::Http11, true, false),
        (Version::Http11, false, false),
        (Version::Http11, true, true),
        (Version::Http10, true, false),
        (Version::Http10, false, true),
    ] {
        returned(input, &came, version, keep, answers_head);
    }
}

/// The response goes back to a client that speaks `version`.
fn returned(input: &[u8], came: &Head, version: Version, keep: bool, answers_head: bool) {
    let mut storage = empty_fields();
    let parsed = ResponseHead::parse(input, &mut storage, &Limits::default());
    let Ok(Some((head, _))) = parsed else { panic!("parsed once, not twice: {}", Shown(input)) };
    let Ok(framing) = head.declared.of_response(head.status, answers_head, head.version) else { return };
    // As an exchange does it: HTTP/1.0 knows no chunks.
    let is_unframed = version == Version::Http10 && matches!(framing, Framing::Chunked(_));
    let told = if is_unframed { Framing::UntilClose } else { framing.clone() };
    let keep = keep && told != Framing::UntilClose;
    let mut out = Vec::new();
    match head.status {
        101 => forward::switching(&head, &mut out),
        _ => forward::response(&head, &Returning { version, framing: &told, keep }, &mut out),
    }
    let left = Head::read(&out, Lines::Strict);
    let Ok(Some((left, length))) = left else { panic!("{left:?} leaves of {}", Shown(input)) };
    assert_eq!(length, out.len(), "something leaves behind the head of {}", Shown(input));

    let body = |head: &Head| {
        head.response_body(parsed_status(head), answers_head)
            .unwrap_or_else(|why| panic!("{why}, in {head:?}, of {}", Shown(input)))
    };
    let expected = if is_unframed { Body::UntilClose } else { body(came) };
    assert_eq!(body(&left), expected, "the body that leaves is framed as the left: {}", Shown(input));

    let [_, status, reason] = came.words().unwrap_or_else(|why| panic!("{why}: {}", Shown(input)));
    let reason = if reason.is_ascii() { reason } else { "" };
    let version = if head.status == 101 { "HTTP/1.1" } else { version.as_str() };
    assert_eq!(left.start, format!("{version} {status} {reason}"), "the status line of {}", Shown(input));

    let named = came.list("connection");
    let is_426 = head.status == 426 && version == "HTTP/1.1";
    let passes = |(name, _): &&(String, String)| match kind(name) {
        Kind::HopByHop if name.eq_ignore_ascii_case("upgrade") => is_426,
        Kind::HopByHop if name.eq_ignore_ascii_case("max-forwards") => !named.contains(&"max-forwards".into()),
        Kind::HopByHop | Kind::Length | Kind::Alias => false,
        Kind::EndToEnd | Kind::Host | Kind::Expectation | Kind::Forwarding => {
            !named.contains(&name.to_ascii_lowercase())
        }
    };
    let expected: Vec<_> = came.fields.iter().filter(passes).collect();
    let is_ours = |name: &str| {
        let ours = ["connection", "content-length", "transfer-encoding"];
        ours.iter().any(|field| name.eq_ignore_ascii_case(field))
            || (head.status == 101 && name.eq_ignore_ascii_case("upgrade"))
    };
    let kept: Vec<_> = left.fields.iter().filter(|(name, _)| !is_ours(name)).collect();
    assert_eq!(kept, expected, "the left fields leave, the right were meant: {}", Shown(input));

    let options = left.list("connection");
    let says = |option: &str| options.iter().any(|said| said == option);
    assert_eq!(says("close"), head.status >= 200 && !keep, "whether {left:?} says close, of {}", Shown(input));
    assert_eq!(says("upgrade"), head.status == 101 || is_426, "whether {left:?} says upgrade, of {}", Shown(input));
}

fn parsed_status(head: &Head) -> u16 {
    head.words().ok().and_then(|[_, status, _]| status.parse().ok()).unwrap_or_default()
}
