//! A head rewritten for the next hop (RFC 9110, 7.6).
//!
//! What is passed on is written anew from what was understood, never copied blindly: framing fields say the one thing that
//! we read in them, hop-by-hop fields end here, and what we say about the client cannot have been said by a client that is not trusted. Of all fields
//! that are passed on as they are, lines are copied that were read as holding just what would be written.

use std::io::Write as _;
use std::net::IpAddr;

use httparse::Header;

use crate::http::field::{Fields, Meaning, Meanings};
use crate::http::framing::Framing;
use crate::http::head::{RequestHead, ResponseHead, Version};

/// What the next hop is told beside what the client said.
#[derive(Clone, Copy, Debug)]
pub struct Forwarding<'a> {
    /// The target in origin-form, in two parts: a slash that is missing, and the rest.
    pub target: (&'a str, &'a str),
    /// The client's address; of a Unix socket there is none.
    pub client: Option<IpAddr>,
    /// Whether the client's own forwarding fields are believed.
    pub trusted: bool,
}

/// Appends `head` to `out` as it goes to the upstream.
pub fn request(head: &RequestHead<'_>, forwarding: &Forwarding<'_>, out: &mut Vec<u8>) {
    let (slash, rest) = forwarding.target;
    put(out, &[head.method, " ", slash, rest, " HTTP/1.1\r\nHost: "]);
    out.extend_from_slice(head.authority.map_or(b"", |authority| authority.text));
    put(out, &["\r\n"]);
    let passed_on = Meanings::OF_REQUESTS
        .and_if(head.expects_continue, Meanings::of(&[Meaning::Expect]))
        .and_if(forwarding.trusted, SAID_BY_TRUSTED);
    put_fields(&head.fields, passed_on, out);
    match head.framing {
        Framing::Length(bytes) => put_length(out, bytes),
        Framing::Chunked(_) => put(out, &["Transfer-Encoding: chunked\r\n"]),
        // A method that usually has a body is told that this one has none (RFC 9110, 8.6).
        Framing::None if head.usually_has_body() => put_length(out, 0),
        Framing::None | Framing::UntilClose => {}
    }
    if head.method == "OPTIONS"
        && let Some(forwards) = head.max_forwards
    {
        let _ = write!(out, "Max-Forwards: {}\r\n", forwards.saturating_sub(1));
    }
    if head.asks_for_websocket {
        put(out, &["Connection: Upgrade\r\nUpgrade: websocket\r\n"]);
    }
    put_origin_of(head, forwarding, out);
    put(out, &["\r\n"]);
}

/// What is passed on of a trusted client, too. Connection cannot name these: we would have set them if the client had not.
const SAID_BY_TRUSTED: Meanings =
    Meanings::of(&[Meaning::RealIp, Meaning::ForwardedHost, Meaning::ForwardedProto, Meaning::Forwarded]);

fn put_origin_of(head: &RequestHead<'_>, forwarding: &Forwarding<'_>, out: &mut Vec<u8>) {
    let mut room = IP_ROOM;
    let client = forwarding.client.map(|ip| ip_text(ip, &mut room));
    let said = |meaning| forwarding.trusted && head.fields.values(meaning).next().is_some();
    if let Some(client) = client.filter(|_| !said(Meaning::RealIp)) {
        put(out, &["X-Real-IP: "]);
        out.extend_from_slice(client);
        put(out, &["\r\n"]);
    }
    let mut in_front = "X-Forwarded-For: ";
    let mut put_hop = |hop: &[u8]| {
        put(out, &[in_front]);
        out.extend_from_slice(hop);
        in_front = ", ";
    };
    if forwarding.trusted {
        let hops = head.fields.values(Meaning::ForwardedFor).map(<[u8]>::trim_ascii);
        hops.filter(|hop| !hop.is_empty()).for_each(&mut put_hop);
    }
    client.into_iter().for_each(put_hop);
    if in_front == ", " {
        put(out, &["\r\n"]);
    }
    if !said(Meaning::ForwardedProto) {
        put(out, &["X-Forwarded-Proto: http\r\n"]);
    }
    if let Some(authority) = head.authority.filter(|authority| !authority.text.is_empty())
        && !said(Meaning::ForwardedHost)
    {
        put(out, &["X-Forwarded-Host: "]);
        out.extend_from_slice(authority.text);
        put(out, &["\r\n"]);
    }
}

/// How a response reaches its client.
#[derive(Clone, Copy, Debug)]
pub struct Returning<'a> {
    /// In whose words.
    pub version: Version,
    /// How the end of the body will be known to the client.
    pub framing: &'a Framing,
    /// Whether the client's connection is kept behind this response.
    pub keep: bool,
}

/// Appends `head` to `out` as it goes to the client. Not for a 101: see [`switching`].
pub fn response(head: &ResponseHead<'_>, returning: &Returning<'_>, out: &mut Vec<u8>) {
    put_status(head, returning.version, out);
    // 426 without Upgrade would not say to what (RFC 9110, 15.5.22); in HTTP/1.0 it says nothing anyway (7.8).
    let asks_to_upgrade = head.status == 426 && returning.version == Version::Http11;
    let passed_on = Meanings::OF_RESPONSES.and_if(asks_to_upgrade, Meanings::of(&[Meaning::Upgrade]));
    put_fields(&head.fields, passed_on, out);
    match (returning.framing, head.declared.length) {
        (Framing::Length(bytes), _) => put_length(out, *bytes),
        (Framing::Chunked(_), _) => put(out, &["Transfer-Encoding: chunked\r\n"]),
        // The length of a body that was left out is told all the same (RFC 9110, 8.6): HEAD and 304.
        (Framing::None, Some(bytes)) if head.status != 204 => put_length(out, bytes),
        (Framing::None | Framing::UntilClose, _) => {}
    }
    let connection = match (returning.keep, returning.version) {
        _ if head.status < 200 => "",
        (true, _) if asks_to_upgrade => "Connection: Upgrade\r\n",
        (false, _) if asks_to_upgrade => "Connection: Upgrade, close\r\n",
        (false, _) => "Connection: close\r\n",
        (true, Version::Http10) => "Connection: keep-alive\r\n",
        (true, Version::Http11) => "",
    };
    put(out, &[connection, "\r\n"]);
}

/// Appends `head`, a 101 that has been checked, to `out` as it goes to the client.
pub fn switching(head: &ResponseHead<'_>, out: &mut Vec<u8>) {
    put_status(head, Version::Http11, out);
    put_fields(&head.fields, Meanings::OF_RESPONSES, out);
    put(out, &["Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"]);
}

fn put_status(head: &ResponseHead<'_>, version: Version, out: &mut Vec<u8>) {
    put(out, &[version.as_str()]);
    // Of three digits, as every head that exists has.
    let [hundreds, tens, ones] =
        [head.status / 100, head.status / 10 % 10, head.status % 10].map(|digit| b'0' | digit as u8);
    out.extend_from_slice(&[b' ', hundreds, tens, ones, b' ']);
    put(out, &[head.reason, "\r\n"]);
}

fn put_length(out: &mut Vec<u8>, bytes: u64) {
    put(out, &["Content-Length: "]);
    put_number(out, bytes);
    put(out, &["\r\n"]);
}

/// Appends the fields that are `passed_on`, in their order, each as `name: value`. Lines that came just so, side by side, are copied at
/// once.
fn put_fields(fields: &Fields<'_>, passed_on: Meanings, out: &mut Vec<u8>) {
    let mut run = 0..0;
    for (field, _) in fields.iter().filter(|(_, meaning)| passed_on.contains(*meaning)) {
        match fields.plain_line(field) {
            Some(line) if run.is_empty() => run = line,
            Some(line) if line.start == run.end => run.end = line.end,
            line => {
                out.extend_from_slice(fields.text(run));
                if line.is_none() {
                    put_field(out, field);
                }
                run = line.unwrap_or_default();
            }
        }
    }
    out.extend_from_slice(fields.text(run));
}

fn put_field(out: &mut Vec<u8>, field: &Header<'_>) {
    put(out, &[field.name, ": "]);
    out.extend_from_slice(field.value);
    put(out, &["\r\n"]);
}

/// As `write!` does it, which takes six times as many instructions.
fn put_number(out: &mut Vec<u8>, number: u64) {
    let mut digits = [0; 20];
    let mut rest = number;
    let mut used = 0_usize;
    for digit in digits.iter_mut().rev() {
        *digit = b'0' | (rest % 10) as u8;
        rest /= 10;
        used = used.saturating_add(1);
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(digits.get(digits.len().saturating_sub(used)..).unwrap_or_default());
}

/// Room for the longest address.
const IP_ROOM: [u8; 45] = *b"ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255";

/// `ip` as text, in `room`.
fn ip_text(ip: IpAddr, room: &mut [u8; IP_ROOM.len()]) -> &[u8] {
    let mut free = room.as_mut_slice();
    match ip {
        IpAddr::V4(ip) => {
            let mut slots = free.iter_mut();
            let mut put = |byte| {
                if let Some(slot) = slots.next() {
                    *slot = byte;
                }
            };
            for (place, octet) in ip.octets().into_iter().enumerate() {
                if place > 0 {
                    put(b'.');
                }
                if octet >= 100 {
                    put(b'0' | (octet / 100));
                }
                if octet >= 10 {
                    put(b'0' | (octet / 10 % 10));
                }
                put(b'0' | (octet % 10));
            }
            free = slots.into_slice();
        }
        IpAddr::V6(ip) => {
            let _ = write!(free, "{ip}");
        }
    }
    let used = IP_ROOM.len().saturating_sub(free.len());
    room.get(..used).unwrap_or_default()
}

fn put(out: &mut Vec<u8>, parts: &[&str]) {
    parts.iter().for_each(|part| out.extend_from_slice(part.as_bytes()));
}

impl Version {
    /// As in a start line.
    pub fn as_str(self) -> &'static str {
        match self {
            Version::Http10 => "HTTP/1.0",
            Version::Http11 => "HTTP/1.1",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::head::{Limits, empty_fields};

    fn forwarded(text: &str, trusted: bool) -> String {
        forwarded_for(Some("192.0.2.7".parse().unwrap()), text, trusted)
    }

    fn forwarded_for(client: Option<IpAddr>, text: &str, trusted: bool) -> String {
        let mut storage = empty_fields();
        let (head, _) = RequestHead::parse(text.as_bytes(), &mut storage, &Limits::default()).unwrap().unwrap();
        let mut out = Vec::new();
        request(&head, &Forwarding { target: ("", &head.target.path_and_query), client, trusted }, &mut out);
        String::from_utf8(out).unwrap()
    }

    const OURS: &str =
        "X-Real-IP: 192.0.2.7\r\nX-Forwarded-For: 192.0.2.7\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: a\r\n\r\n";

    #[test]
    fn a_request_gains_what_we_know_of_the_client() {
        assert_eq!(
            forwarded("GET /x HTTP/1.1\r\nUser-Agent: u\r\nHost: a\r\nAccept:   */*  \r\n\r\n", false),
            format!("GET /x HTTP/1.1\r\nHost: a\r\nUser-Agent: u\r\nAccept: */*\r\n{OURS}")
        );
    }

    /// Lines that may be copied as they are, and lines that must not.
    const LINES: [&str; 8] =
        ["A: a\r\n", "B:b\r\n", "C: \r\n", "D:\r\n", "E:\te\r\n", "F: f \r\n", "G:  g\r\n", "TE: t\r\n"];

    /// What is left of them.
    fn written_anew(line: &str) -> String {
        let (name, value) = line.split_once(':').unwrap();
        if name == "TE" { String::new() } else { format!("{name}: {}\r\n", value.trim()) }
    }

    #[test]
    fn a_line_is_copied_only_if_it_stands_as_it_would_be_written() {
        for lines in (0..8 * 8 * 8).map(|n| [LINES[n / 64], LINES[n / 8 % 8], LINES[n % 8]]) {
            let expected = lines.map(written_anew).concat();
            let came = lines.concat();
            assert_eq!(
                forwarded(&format!("GET / HTTP/1.1\r\nHost: a\r\n{came}\r\n"), false),
                format!("GET / HTTP/1.1\r\nHost: a\r\n{expected}{OURS}")
            );
            for (came, end) in
                [(came.as_str(), "\r\n"), (&came.replace('\r', ""), "\n"), (&came.replacen('\r', "", 1), "\n")]
            {
                assert_eq!(
                    returned(&format!("HTTP/1.1 200 OK{end}{came}{end}"), Version::Http11, Framing::UntilClose, true),
                    format!("HTTP/1.1 200 OK\r\n{expected}\r\n"),
                    "{came:?}"
                );
            }
        }
    }

    #[test]
    fn hop_by_hop_fields_end_here_and_so_does_what_connection_names() {
        let text = "POST / HTTP/1.1\r\nHost: a\r\nConnection: close, X-Mine, Host, Content-Length, x-forwarded-for, Cookie\r\nX-Mine: 1\r\n\
                    Cookie: c\r\nContent-Length: 003\r\nKeep-Alive: 5\r\nProxy-Connection: x\r\nTE: trailers\r\nTrailer: x\r\n\
                    Proxy-Authorization: p\r\nUpgrade: h2c\r\nHTTP2-Settings: s\r\nContent_Length: 9\r\nmy_own: kept\r\n\r\n";
        assert_eq!(
            forwarded(text, false),
            format!("POST / HTTP/1.1\r\nHost: a\r\nmy_own: kept\r\nContent-Length: 3\r\n{OURS}")
        );
    }

    const SAID: &str = "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 1.1.1.1\r\nX-Real-IP: 1.1.1.1\r\nX-Forwarded-For: 2.2.2.2\r\n\
                        X-Forwarded-Proto: https\r\nX-Forwarded-Host: public\r\nForwarded: for=1.1.1.1\r\n\r\n";

    #[test]
    fn a_stranger_s_forwarding_fields_are_replaced() {
        assert_eq!(forwarded(SAID, false), format!("GET / HTTP/1.1\r\nHost: a\r\n{OURS}"));
    }

    #[test]
    fn a_trusted_peer_s_forwarding_fields_are_kept_and_its_address_is_appended() {
        assert_eq!(
            forwarded(SAID, true),
            "GET / HTTP/1.1\r\nHost: a\r\nX-Real-IP: 1.1.1.1\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: public\r\n\
             Forwarded: for=1.1.1.1\r\nX-Forwarded-For: 1.1.1.1, 2.2.2.2, 192.0.2.7\r\n\r\n"
        );
        assert_eq!(
            forwarded("GET / HTTP/1.1\r\nHost: a\r\n\r\n", true),
            format!("GET / HTTP/1.1\r\nHost: a\r\n{OURS}")
        );
    }

    #[test]
    fn a_client_without_an_address_adds_none() {
        let ours = "X-Forwarded-Proto: http\r\nX-Forwarded-Host: a\r\n\r\n";
        let start = "GET / HTTP/1.1\r\nHost: a\r\n";
        for trusted in [false, true] {
            for said in ["", "X-Forwarded-For: \r\n"] {
                let text = format!("{start}{said}\r\n");
                assert_eq!(forwarded_for(None, &text, trusted), format!("{start}{ours}"), "{said}{trusted}");
            }
        }
        let text = format!("{start}X-Forwarded-For: 1.1.1.1\r\nX-Forwarded-For: 2.2.2.2\r\n\r\n");
        assert_eq!(forwarded_for(None, &text, true), format!("{start}X-Forwarded-For: 1.1.1.1, 2.2.2.2\r\n{ours}"));
    }

    #[test]
    fn connection_cannot_name_a_trusted_peer_s_forwarding_fields_away() {
        let text = "GET / HTTP/1.1\r\nHost: a\r\nConnection: x-forwarded-proto, x-forwarded-host, x-real-ip\r\nX-Forwarded-Proto: https\r\n\
                    X-Forwarded-Host: public\r\nX-Real-IP: 1.1.1.1\r\n\r\n";
        assert_eq!(
            forwarded(text, true),
            "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: public\r\nX-Real-IP: 1.1.1.1\r\n\
             X-Forwarded-For: 192.0.2.7\r\n\r\n"
        );
    }

    #[test]
    fn a_handshake_keeps_its_fields() {
        let text = "GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket, h2c\r\nSec-WebSocket-Key: k\r\n\
                    Sec-WebSocket-Version: 13\r\n\r\n";
        assert_eq!(
            forwarded(text, false),
            format!(
                "GET / HTTP/1.1\r\nHost: a\r\nSec-WebSocket-Key: k\r\nSec-WebSocket-Version: 13\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n{OURS}"
            )
        );
    }

    #[test]
    fn an_absolute_target_s_host_is_written_as_host() {
        let text = forwarded("GET http://b:81/x HTTP/1.1\r\nHost: a\r\n\r\n", false);
        assert!(
            text.starts_with("GET /x HTTP/1.1\r\nHost: b:81\r\n") && text.contains("X-Forwarded-Host: b:81\r\n"),
            "{text}"
        );
    }

    #[test]
    fn numbers_and_addresses_are_as_they_are_displayed() {
        for number in [0, 7, 10, 255, 999, 1000, u64::MAX] {
            let mut out = Vec::new();
            put_number(&mut out, number);
            assert_eq!(String::from_utf8(out).unwrap(), number.to_string());
        }
        for ip in [
            "0.0.0.0",
            "255.10.100.9",
            "255.255.255.255",
            "::1",
            "2001:db8::ff00:42:8329",
            "::ffff:192.168.255.255",
            "1111:2222:3333:4444:5555:6666:7777:8888",
        ] {
            assert_eq!(ip_text(ip.parse().unwrap(), &mut IP_ROOM.clone()), ip.as_bytes());
        }
    }

    #[test]
    fn max_forwards_counts_down() {
        let text = forwarded("OPTIONS * HTTP/1.1\r\nHost: a\r\nMax-Forwards: 3\r\n\r\n", false);
        assert!(text.starts_with("OPTIONS * HTTP/1.1\r\n") && text.contains("Max-Forwards: 2\r\n"), "{text}");
    }

    fn returned(text: &str, version: Version, framing: Framing, keep: bool) -> String {
        let mut storage = empty_fields();
        let (head, _) = ResponseHead::parse(text.as_bytes(), &mut storage, &Limits::default()).unwrap().unwrap();
        let mut out = Vec::new();
        if head.status == 101 {
            switching(&head, &mut out);
        } else {
            response(&head, &Returning { version, framing: &framing, keep }, &mut out);
        }
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_response_loses_its_hop_by_hop_fields() {
        let text = "HTTP/1.0 200 Fine\nServer: s\nConnection: keep-alive, X-Mine\nX-Mine: 1\nKeep-Alive: 5\nUpgrade: h2\nContent-Length: 05\n\n";
        let expected = "HTTP/1.1 200 Fine\r\nServer: s\r\nContent-Length: 5\r\n\r\n";
        assert_eq!(returned(text, Version::Http11, Framing::Length(5), true), expected);
    }

    #[test]
    fn connection_cannot_name_the_length_of_a_response_away() {
        let text = "HTTP/1.1 200 OK\r\nConnection: content-length\r\nContent-Length: 0\r\n\r\n";
        assert_eq!(
            returned(text, Version::Http11, Framing::None, true),
            "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
        );
    }

    #[test]
    fn a_body_until_close_says_so() {
        let told = returned("HTTP/1.1 200 OK\r\n\r\n", Version::Http11, Framing::UntilClose, false);
        assert_eq!(told, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n");
    }

    #[test]
    fn the_length_of_a_body_left_out_is_told() {
        let told =
            returned("HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", Version::Http11, Framing::None, true);
        assert_eq!(told, "HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n");
        let told =
            returned("HTTP/1.1 204 No Content\r\nContent-Length: 9\r\n\r\n", Version::Http11, Framing::None, true);
        assert_eq!(told, "HTTP/1.1 204 No Content\r\n\r\n");
    }

    #[test]
    fn an_interim_response_says_nothing_about_the_connection() {
        let told = returned("HTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\n", Version::Http11, Framing::None, false);
        assert_eq!(told, "HTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\n");
    }

    #[test]
    fn a_426_says_to_what() {
        let told = returned(
            "HTTP/1.1 426 Upgrade Required\r\nUpgrade: websocket\r\nContent-Length: 0\r\n\r\n",
            Version::Http11,
            Framing::None,
            true,
        );
        assert_eq!(
            told,
            "HTTP/1.1 426 Upgrade Required\r\nUpgrade: websocket\r\nContent-Length: 0\r\nConnection: Upgrade\r\n\r\n"
        );
    }

    #[test]
    fn a_101_has_its_hop_by_hop_fields_written_anew_and_no_body() {
        let text = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade, X-Mine\r\nX-Mine: 1\r\nupgrade: WebSocket\r\nContent-Length: 5\r\n\
                    Sec-WebSocket-Accept: s\r\n\r\n";
        assert_eq!(
            returned(text, Version::Http11, Framing::None, true),
            "HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
        );
    }
}
