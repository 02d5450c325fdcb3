//! HTTP/1.1 to the letter (RFC 9110, RFC 9112), written without a look at hawkey's own reading.
//!
//! Nothing is repaired and nothing is forgiven: what hawkey sends has exactly this reading, or is told to be wrong. Bytes that
//! are not a whole message yet are wrong as soon as nothing behind them could make them right.

/// A field name in lower case, and its value without the white space around it.
pub type Field = (String, String);

/// A request as an upstream gets it.
#[derive(Clone, Debug)]
pub struct Request {
    pub target: String,
    /// Who hawkey says has asked.
    pub client: String,
    /// Every byte of it.
    pub raw: Vec<u8>,
}

/// A response as a client gets it.
#[derive(Clone, Debug)]
pub struct Response {
    pub status: u16,
    pub fields: Vec<Field>,
    pub body: Vec<u8>,
    pub is_whole: bool,
}

impl Response {
    /// The only value of a field.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|field| field.0 == name).map(|field| field.1.as_str())
    }
}

/// How the end of a body is known.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Framing {
    Nothing,
    Length(usize),
    Chunked,
}

/// The request that `bytes` begin with; `None` if it is not whole yet.
pub fn request(bytes: &[u8]) -> Result<Option<Request>, String> {
    let Some((start, fields, head_bytes)) = head(bytes)? else { return Ok(None) };
    let target = request_line(&start)?;
    let host = only(&fields, "host")?.ok_or("no Host")?;
    if !is_authority(host) {
        return Err(format!("Host: {host:?}"));
    }
    let framing = framing(&fields)?;
    let connection = only(&fields, "connection")?;
    let is_handshake = only(&fields, "upgrade")? == Some("websocket") && connection == Some("Upgrade");
    for (name, value) in &fields {
        let ends_here = match name.as_str() {
            "te" | "trailer" | "keep-alive" | "http2-settings" | "forwarded" => true,
            "connection" | "upgrade" => !is_handshake,
            "expect" => !value.eq_ignore_ascii_case("100-continue"),
            _ => name.starts_with("proxy-"),
        };
        let alias = name.replace('_', "-");
        let is_alias = matches!(alias.as_str(), "content-length" | "transfer-encoding" | "host") && *name != alias;
        if ends_here || is_alias {
            return Err(format!("a field that ends at the proxy: {name}: {value}"));
        }
    }
    let client = only(&fields, "x-real-ip")?.ok_or("no X-Real-IP: nobody has asked this")?;
    // An empty Host says nothing that could be passed on.
    let asked_for = Some(host).filter(|host| !host.is_empty());
    let told =
        [("x-forwarded-for", Some(client)), ("x-forwarded-proto", Some("http")), ("x-forwarded-host", asked_for)];
    for (name, expected) in told {
        if only(&fields, name)? != expected {
            return Err(format!("{name} is not {expected:?}: {fields:?}"));
        }
    }
    let Some(body_bytes) = body(&bytes[head_bytes..], framing)?.used else { return Ok(None) };
    let raw = bytes[..head_bytes + body_bytes].to_vec();
    Ok(Some(Request { target, client: client.to_string(), raw }))
}

/// The responses in all that a client has got. `answers_head`: the first final one has no body. `has_ended`: nothing more will
/// come, and what came was not cut by a reset. A last one may not be whole; behind a 101 all is opaque, and its body.
pub fn responses(bytes: &[u8], answers_head: bool, has_ended: bool) -> Result<Vec<Response>, String> {
    let (mut rest, mut answers_head, mut told) = (bytes, answers_head, Vec::new());
    while let Some((start, fields, head_bytes)) = head(rest)? {
        let status = status_line(&start)?;
        rest = &rest[head_bytes..];
        let has_body = status >= 200 && !matches!(status, 204 | 304) && !answers_head;
        let declared = framing(&fields)?;
        if status < 200 && declared != Framing::Nothing {
            return Err(format!("a {status} with a length: {fields:?}"));
        }
        let closes = only(&fields, "connection")?.is_some_and(|value| value.eq_ignore_ascii_case("close"));
        let is_bare = only(&fields, "content-length")?.is_none() && only(&fields, "transfer-encoding")?.is_none();
        let until_close = status == 101 || (has_body && is_bare);
        if until_close && status != 101 && !closes {
            return Err(format!("a body until the close, on a connection that is kept: {fields:?}"));
        }
        let (body, is_whole, used) = if until_close {
            (rest.to_vec(), has_ended || status == 101, rest.len())
        } else {
            let read = body(rest, if has_body { declared } else { Framing::Nothing })?;
            (read.content, read.used.is_some(), read.used.unwrap_or(rest.len()))
        };
        rest = &rest[used..];
        answers_head &= status < 200;
        told.push(Response { status, fields, body, is_whole });
        if !is_whole {
            break;
        }
        if closes && !rest.is_empty() {
            return Err(format!("bytes behind a last answer: {}", rest.escape_ascii()));
        }
    }
    if has_ended && !rest.is_empty() {
        return Err(format!("the end within a head: {}", rest.escape_ascii()));
    }
    Ok(told)
}

/// Whether the heads that these bytes begin with ask for a WebSocket with this key, and agree with this answer to it (RFC 6455, 4).
pub fn agree(asked: &[u8], answered: &[u8], key: &str, accept: &str) -> bool {
    let has = |fields: &[Field], name: &str, member: &str| {
        let values = fields.iter().filter(|field| field.0 == name).flat_map(|field| field.1.split(','));
        values.map(|value| value.trim_matches([' ', '\t'])).any(|value| value.eq_ignore_ascii_case(member))
    };
    let is_switch = |fields: &[Field], told: &str, value: &str| {
        has(fields, "connection", "upgrade")
            && has(fields, "upgrade", "websocket")
            && only(fields, told) == Ok(Some(value))
    };
    let (Ok(Some((line, asks, _))), Ok(Some((status, answers, length)))) = (head(asked), head(answered)) else {
        return false;
    };
    match status_line(&format!("{status} ")) {
        Ok(101) => {
            line.starts_with("GET ")
                && is_switch(&asks, "sec-websocket-key", key)
                && is_switch(&answers, "sec-websocket-accept", accept)
        }
        Ok(100..200) => agree(asked, &answered[length..], key, accept),
        _ => false,
    }
}

/// The start line, the fields and the length of the head that `bytes` begin with.
fn head(bytes: &[u8]) -> Result<Option<(String, Vec<Field>, usize)>, String> {
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n");
    let text = &bytes[..end.map_or(bytes.len(), |end| end + 4)];
    for (at, byte) in text.iter().enumerate() {
        let is_sound = match byte {
            b'\n' => at > 0 && text[at - 1] == b'\r',
            b'\r' => at > 0 && text.get(at + 1).is_none_or(|next| *next == b'\n'),
            b'\t' => true,
            byte => !byte.is_ascii_control(),
        };
        if !is_sound {
            return Err(format!("the byte {byte:#04x} at {at} of {}", text.escape_ascii()));
        }
    }
    let Some(end) = end else { return Ok(None) };
    let text: String = bytes[..end].iter().copied().map(char::from).collect();
    let mut lines = text.split("\r\n");
    let start = lines.next().unwrap_or_default().to_string();
    let fields = lines.map(field).collect::<Result<_, _>>()?;
    Ok(Some((start, fields, end + 4)))
}

/// RFC 9112, 5: `field-name ":" OWS field-value OWS`, on one line.
fn field(line: &str) -> Result<Field, String> {
    let (name, value) = line.split_once(':').ok_or_else(|| format!("a line that is no field: {line:?}"))?;
    if !is_token(name) {
        return Err(format!("a field name that is no token: {line:?}"));
    }
    Ok((name.to_ascii_lowercase(), value.trim_matches([' ', '\t']).to_string()))
}

/// RFC 9112, 3: what is forwarded is in HTTP/1.1, and its target in origin-form, or `*` with OPTIONS.
fn request_line(line: &str) -> Result<String, String> {
    let wrong = || format!("a request line {line:?}");
    let words: Vec<_> = line.split(' ').collect();
    let [method, target, "HTTP/1.1"] = words.as_slice() else { return Err(wrong()) };
    // RFC 3986, 3.3 and 3.4; and brackets (docs/decisions/0003).
    let is_plain = |part: &str| part.chars().all(|c| c.is_ascii_alphanumeric() || "-._~!$&'()*+,;=:@/?[]".contains(c));
    let is_encoded = |part: &str| part.get(..2).is_some_and(|two| two.bytes().all(|byte| byte.is_ascii_hexdigit()));
    let mut parts = target.split('%');
    let is_sound = parts.next().is_some_and(is_plain) && parts.all(|part| is_encoded(part) && is_plain(&part[2..]));
    let is_origin_form = target.starts_with('/') && is_sound;
    if !is_token(method) || !(is_origin_form || (*target == "*" && *method == "OPTIONS")) {
        return Err(wrong());
    }
    Ok(target.to_string())
}

/// RFC 9112, 4.
fn status_line(line: &str) -> Result<u16, String> {
    let wrong = || format!("a status line {line:?}");
    let rest = line.strip_prefix("HTTP/1.1 ").ok_or_else(wrong)?;
    let (status, _) = rest.split_at_checked(3).filter(|(_, rest)| rest.starts_with(' ')).ok_or_else(wrong)?;
    let status = status.bytes().all(|byte| byte.is_ascii_digit()).then(|| status.parse().ok()).flatten();
    status.filter(|status| (100..600).contains(status)).ok_or_else(wrong)
}

/// RFC 9110, 7.2: a host with an optional port, and nothing that only looks like one.
fn is_authority(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, port),
        _ => (text, "80"),
    };
    let is_address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let is_name = || host.chars().all(|c| c.is_ascii_alphanumeric() || "-._~%".contains(c));
    let is_port =
        port.is_empty() || (port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|p| p > 0));
    is_address.map_or_else(is_name, |address| address.parse::<std::net::Ipv6Addr>().is_ok()) && is_port
}

/// RFC 9112, 6.3, without what it lets a recipient repair.
fn framing(fields: &[Field]) -> Result<Framing, String> {
    match (only(fields, "transfer-encoding")?, only(fields, "content-length")?) {
        (None, None) => Ok(Framing::Nothing),
        (Some("chunked"), None) => Ok(Framing::Chunked),
        (None, Some(length)) => {
            let parsed = length.parse().ok().filter(|n: &usize| n.to_string() == length);
            parsed.map(Framing::Length).ok_or_else(|| format!("Content-Length: {length:?}"))
        }
        (coding, length) => Err(format!("Transfer-Encoding: {coding:?}, Content-Length: {length:?}")),
    }
}

/// What has come of a body.
struct Body {
    content: Vec<u8>,
    /// How many bytes it took, if it is whole.
    used: Option<usize>,
}

fn body(bytes: &[u8], framing: Framing) -> Result<Body, String> {
    match framing {
        Framing::Nothing => Ok(Body { content: Vec::new(), used: Some(0) }),
        Framing::Length(length) => {
            let here = length.min(bytes.len());
            Ok(Body { content: bytes[..here].to_vec(), used: (here == length).then_some(length) })
        }
        Framing::Chunked => chunks(bytes),
    }
}

/// RFC 9112, 7.1, without extensions and trailers, which hawkey never forwards.
fn chunks(bytes: &[u8]) -> Result<Body, String> {
    let mut body = Body { content: Vec::new(), used: None };
    let mut at = 0;
    loop {
        let from = at;
        let wrong = |what| Err(format!("{what}, from {from} of {}", bytes.escape_ascii()));
        let digits = bytes[at..].iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
        match line_end(&bytes[at + digits..]) {
            _ if digits > 15 => return wrong("a chunk size of too many digits"),
            LineEnd::Wrong => return wrong("a chunk size line"),
            LineEnd::Partial => return Ok(body),
            LineEnd::Here if digits == 0 => return wrong("no chunk size"),
            LineEnd::Here => {}
        }
        let text: String = bytes[at..at + digits].iter().copied().map(char::from).collect();
        let size = usize::from_str_radix(&text, 16).map_err(|_| format!("a chunk size {text:?}"))?;
        at += digits + 2;
        let here = size.min(bytes.len() - at);
        body.content.extend_from_slice(&bytes[at..at + here]);
        at += here;
        if here < size {
            return Ok(body);
        }
        match line_end(&bytes[at..]) {
            LineEnd::Wrong => return wrong("a chunk or the trailer section that does not end in CRLF"),
            LineEnd::Partial => return Ok(body),
            LineEnd::Here => at += 2,
        }
        if size == 0 {
            return Ok(Body { used: Some(at), ..body });
        }
    }
}

enum LineEnd {
    Here,
    Partial,
    Wrong,
}

fn line_end(bytes: &[u8]) -> LineEnd {
    match bytes {
        [] | [b'\r'] => LineEnd::Partial,
        [b'\r', b'\n', ..] => LineEnd::Here,
        _ => LineEnd::Wrong,
    }
}

fn only<'a>(fields: &'a [Field], name: &str) -> Result<Option<&'a str>, String> {
    let mut values = fields.iter().filter(|field| field.0 == name).map(|field| field.1.as_str());
    match (values.next(), values.next()) {
        (_, Some(_)) => Err(format!("{name} stands twice: {fields:?}")),
        (value, None) => Ok(value),
    }
}

/// RFC 9110, 5.6.2.
fn is_token(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c))
}

const ASKED_BY: &str = "X-Real-IP: ::1\r\nX-Forwarded-For: ::1\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: a\r\n";

#[test]
fn a_request_of_one_reading_is_read() {
    for (start, fields, body) in [
        ("GET / HTTP/1.1", "Host: a", ""),
        ("OPTIONS * HTTP/1.1", "Host: a\r\nOther:\t x\t", ""),
        ("GET /a;b/%2F?c=?[] HTTP/1.1", "Host: a", ""),
        ("PUT / HTTP/1.1", "Host: a\r\nContent-Length: 2", "\r\n"),
        ("PUT / HTTP/1.1", "Host: a\r\nTransfer-Encoding: chunked", "2\r\nab\r\n00\r\n\r\n"),
        ("GET / HTTP/1.1", "Host: a\r\nConnection: Upgrade\r\nUpgrade: websocket", ""),
    ] {
        let text = format!("{start}\r\n{fields}\r\n{ASKED_BY}\r\n{body}");
        for end in 0..text.len() {
            let told = request(&text.as_bytes()[..end]);
            assert!(matches!(told, Ok(None)), "{end} bytes of {text:?}: {told:?}");
        }
        let told = request(format!("{text}behind").as_bytes());
        assert!(matches!(&told, Ok(Some(request)) if request.raw == text.as_bytes()), "{text:?}: {told:?}");
    }
}

#[test]
fn a_request_of_no_or_two_readings_is_told() {
    let wrong = |text: String| assert!(request(text.as_bytes()).is_err(), "expected to be wrong: {text:?}");
    for start in [
        "",
        "GET  / HTTP/1.1",
        "GET / HTTP/1.0",
        "GET / HTTP/1.1 ",
        "GET * HTTP/1.1",
        "GET /#a HTTP/1.1",
        "G\tT / HTTP/1.1",
        "GET http://a/ HTTP/1.1",
        "GET /\u{e9} HTTP/1.1",
        "GET /\\ HTTP/1.1",
        " GET / HTTP/1.1",
        "GET /\" HTTP/1.1",
    ] {
        wrong(format!("{start}\r\nHost: a\r\n{ASKED_BY}\r\n"));
    }
    for fields in [
        "Host: a,b",
        "Host: b",
        "Host: a\r\nHost: a",
        "Host: u@a",
        "Host: a:0",
        "Host: a\r\n b",
        "Host : a",
        "Host: a\r\n: b",
        "Host: a\r\nX",
        "Host: a\nX: y",
        "Host: a\rX: y",
        "Host: a\r\nX: \0",
        "Host: a\r\nX: \x7f",
        "Host: a\r\nTE: trailers",
        "Host: a\r\nContent_Length: 1",
        "Host: a\r\nConnection: close",
        "Host: a\r\nUpgrade: h2c",
        "Host: a\r\nX-Real-IP: ::2",
        "Host: a\r\nContent-Length: +1",
        "Host: a\r\nContent-Length: 01",
        "Host: a\r\nContent-Length: 1\r\nContent-Length: 1",
        "Host: a\r\nTransfer-Encoding: Chunked",
        "Host: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 1",
    ] {
        wrong(format!("POST / HTTP/1.1\r\n{fields}\r\n{ASKED_BY}\r\n"));
    }
    wrong("GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_string());
    for body in [
        "\r\n",
        "1;a\r\n",
        "1 \r\n",
        "0x1\r\n",
        "1\n",
        "1\r\r\n",
        "1\r\nab",
        "1\r\na\n",
        "0\r\nA: b\r\n",
        "0\r\n\n",
        "-1\r\n",
        "0000000000000001\r\n",
    ] {
        wrong(format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n{ASKED_BY}\r\n{body}"));
    }
}

#[test]
fn responses_are_read_one_behind_the_other() {
    let read = |text: &str, ended| {
        let told = responses(text.as_bytes(), false, ended)?;
        Ok::<_, String>(told.iter().map(|response| (response.status, response.is_whole)).collect::<Vec<_>>())
    };
    let ok = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    assert_eq!(read(&format!("HTTP/1.1 103 \r\n\r\n{ok}{ok}"), false), Ok(vec![(103, true), (200, true), (200, true)]));
    assert_eq!(read(&ok[..ok.len() - 1], false), Ok(vec![(200, false)]));
    let until_close = "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nok";
    assert_eq!(read(until_close, true), Ok(vec![(200, true)]));
    assert_eq!(read(until_close, false), Ok(vec![(200, false)]));
    for text in [
        "HTTP/1.0 200 OK\r\n\r\n",
        "HTTP/1.1 200\r\n\r\n",
        "HTTP/1.1 600 X\r\n\r\n",
        "HTTP/1.1 200 OK\r\n\r\nok",
        "HTTP/1.1 200 OK\n\n",
        "HTTP/1.1 100 \r\nContent-Length: 1\r\n\r\n",
        "HTTP/1.1 204 X\r\nConnection: close\r\n\r\nbehind",
        "\r\n",
    ] {
        assert!(read(text, false).is_err(), "expected to be wrong: {text:?}");
    }
    assert!(read(&ok[..20], true).is_err(), "an end within a head is no end");
}
