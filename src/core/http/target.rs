//! The request target and the authority: what they may hold, and where a target leads.
//!
//! Nothing is decoded or tidied, and a request is routed by the same bytes that are forwarded. The few bytes that browsers leave
//! as they are although RFC 3986 knows them only percent-encoded are encoded here, before anything else is done with a target.

use std::borrow::Cow;
use std::fmt::Write as _;

use crate::http::reject::Reject;

/// A request target (RFC 9112, 3.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target<'a> {
    /// The authority of an absolute-form target; it outranks Host (RFC 9112, 3.2.2).
    pub authority: Option<Authority<'a>>,
    /// Path and query in origin-form, or `*`. Of an absolute-form target what stands behind the authority, which may be
    /// empty or begin with the query.
    pub path_and_query: Cow<'a, str>,
    /// What bytes it holds, as it came.
    kinds: u8,
}

/// A host and perhaps a port, as in Host and in absolute-form targets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Authority<'a> {
    /// As written, with the port. All of it is ASCII.
    pub text: &'a [u8],
    /// Without the port; an IPv6 address with its brackets.
    pub host: &'a [u8],
}

impl<'a> Target<'a> {
    /// Understands `text` as the target of a request with `method`.
    pub fn parse(method: &str, text: &'a str) -> Result<Target<'a>, Reject> {
        if text.starts_with('/') || (text == "*" && method == "OPTIONS") {
            return Target::new(None, text);
        }
        let rest = ["http://", "https://"]
            .iter()
            .find_map(|scheme| {
                let (start, rest) = text.split_at_checked(scheme.len())?;
                start.eq_ignore_ascii_case(scheme).then_some(rest)
            })
            .ok_or(Reject::Malformed("the target is neither a path nor an http URL"))?;
        let authority_bytes = rest.bytes().take_while(|byte| !matches!(byte, b'/' | b'?')).count();
        let (authority, path_and_query) = rest.split_at_checked(authority_bytes).unwrap_or((rest, ""));
        let authority = Authority::parse(authority.as_bytes())
            .filter(|authority| !authority.host.is_empty())
            .ok_or(Reject::Malformed("the target's authority is not a host and a port"))?;
        // RFC 9112, 3.2.4: OPTIONS for a server without a path is `*` for the server behind the last proxy.
        let path_and_query = if method == "OPTIONS" && path_and_query.is_empty() { "*" } else { path_and_query };
        Target::new(Some(authority), path_and_query)
    }

    fn new(authority: Option<Authority<'a>>, path_and_query: &'a str) -> Result<Target<'a>, Reject> {
        let kinds = kinds_of(path_and_query);
        let is_sound = kinds & STRAY == 0;
        let path_and_query = if is_sound { path_and_query.into() } else { encoded(path_and_query)? };
        Ok(Target { authority, path_and_query, kinds })
    }

    /// The path, by which a request is routed: never empty.
    pub fn path(&self) -> &str {
        let path = match self.kinds & QUERY {
            0 => &self.path_and_query,
            _ => self.path_and_query.split('?').next().unwrap_or_default(),
        };
        if path.is_empty() { "/" } else { path }
    }

    /// Whether a server might read a segment of the path as `..`: plain or percent-encoded, between slashes that are plain
    /// or percent-encoded, possibly with parameters behind it.
    pub fn has_dot_segments(&self) -> bool {
        // Most paths have nothing of the kind, and need no walk along their segments.
        if self.kinds & DOT == 0 {
            return false;
        }
        let mut rest = self.path();
        loop {
            let after_dots = dot(rest).and_then(dot);
            if after_dots.is_some_and(|after| after.is_empty() || after.starts_with(';') || separator(after).is_some())
            {
                return true;
            }
            let mut ends = rest.bytes().enumerate().filter(|(_, byte)| matches!(byte, b'/' | b'\\' | b'%'));
            let Some(segment) = ends.find_map(|(at, _)| separator(rest.get(at..)?)) else { return false };
            rest = segment;
        }
    }
}

fn dot(text: &str) -> Option<&str> {
    text.strip_prefix('.').or_else(|| text.strip_prefix("%2e")).or_else(|| text.strip_prefix("%2E"))
}

fn separator(text: &str) -> Option<&str> {
    ["/", "\\", "%2f", "%2F", "%5c", "%5C"].iter().find_map(|separator| text.strip_prefix(separator))
}

/// A path and query in which every byte may stand (RFC 3986, 3.3 and 3.4): what browsers leave as it is, encoded; anything else
/// refused.
#[cold]
fn encoded(text: &str) -> Result<Cow<'_, str>, Reject> {
    let query_at = text.find('?').unwrap_or(text.len());
    let strays = text.bytes().enumerate().filter(|(at, byte)| match byte {
        b'%' => !encodes_a_byte(text, *at),
        byte => kind_of(*byte) & STRAY != 0,
    });
    let (mut out, mut copied) = (String::new(), 0);
    for (at, byte) in strays {
        let part = text.get(copied..at).filter(|_| is_left_by_browsers(byte, at > query_at));
        out.push_str(part.ok_or(Reject::Malformed("the target holds a byte that must be percent-encoded"))?);
        let _ = write!(out, "%{byte:02X}");
        copied = at.saturating_add(1);
    }
    if copied == 0 {
        return Ok(text.into());
    }
    out.push_str(text.get(copied..).unwrap_or_default());
    Ok(out.into())
}

/// Whether two hexadecimal digits follow the percent sign that stands `at` a place of `text`.
fn encodes_a_byte(text: &str, at: usize) -> bool {
    text.bytes().skip(at).skip(1).take(2).filter(u8::is_ascii_hexdigit).count() == 2
}

/// The byte may not stand in a target, or as `%` only before two digits. RFC 3986, 3.3 and 3.4, allows `pchar`, slashes and question marks.
/// And we brackets, which it reserves: `?a[]=b` is all over the web, and read alike everywhere.
const STRAY: u8 = 1;
/// The byte may stand in a host's name.
const IN_NAME: u8 = 2;
/// The byte is `?`.
const QUERY: u8 = 4;
/// The byte is a dot, or may begin one that is percent-encoded.
const DOT: u8 = 8;

/// What each byte is. Comparisons take more than twice as many instructions.
const KINDS: [u8; 256] = {
    let mut kinds = [0; 256];
    let (mut rest, mut byte): (&mut [u8], u8) = (&mut kinds, 0);
    while let Some((kind, after)) = rest.split_first_mut() {
        *kind = match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'~' => IN_NAME,
            b'.' => IN_NAME | DOT,
            b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' => 0,
            b'=' | b':' | b'@' | b'/' | b'[' | b']' => 0,
            b'?' => QUERY,
            b'%' => STRAY | DOT,
            _ => STRAY,
        };
        (rest, byte) = (after, byte.wrapping_add(1));
    }
    kinds
};

fn kind_of(byte: u8) -> u8 {
    KINDS.get(usize::from(byte)).copied().unwrap_or(STRAY)
}

/// What bytes `text` holds.
fn kinds_of(text: &str) -> u8 {
    text.bytes().fold(0, |kinds, byte| kinds | kind_of(byte))
}

/// What the URL standard of browsers does not encode, and servers read alike. About a lone percent sign and a backslash in a path they
/// disagree, and the others of these are encoded there.
fn is_left_by_browsers(byte: u8, in_query: bool) -> bool {
    byte == b'|' || (in_query && matches!(byte, b'%' | b'\\' | b'^' | b'`' | b'{' | b'}'))
}

impl<'a> Authority<'a> {
    /// Understands a host with an optional port (RFC 3986, 3.2.2 and 3.2.3); `None` if it is anything else. The host may be
    /// empty only when all is.
    pub fn parse(text: &'a [u8]) -> Option<Authority<'a>> {
        let host_bytes = if text.starts_with(b"[") { literal_bytes(text)? } else { name_bytes(text) };
        let (host, after) = text.split_at_checked(host_bytes)?;
        let is_sound = match after {
            [] => true,
            [b':', port @ ..] => !host.is_empty() && (port.is_empty() || is_port(port)),
            _ => false,
        };
        is_sound.then_some(Authority { text, host })
    }
}

/// How many bytes of an IPv6 address in brackets `text` begins with.
#[cold]
fn literal_bytes(text: &[u8]) -> Option<usize> {
    let end = text.iter().position(|byte| *byte == b']')?;
    str::from_utf8(text.get(1..end)?).ok()?.parse::<std::net::Ipv6Addr>().ok()?;
    end.checked_add(1)
}

/// How many bytes of a host's name `text` begins with: letters, digits, `-._~` and percent-encoded bytes. The other signs that RFC
/// 3986 allows in names are in no host's name, but in lists and in attacks.
fn name_bytes(text: &[u8]) -> usize {
    let mut rest = text;
    loop {
        let plain = rest.iter().position(|byte| kind_of(*byte) & IN_NAME == 0).unwrap_or(rest.len());
        rest = rest.get(plain..).unwrap_or_default();
        match rest {
            [b'%', high, low, after @ ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => rest = after,
            _ => return text.len().saturating_sub(rest.len()),
        }
    }
}

/// Whether `text` is digits that make a number from 1 to 65535.
fn is_port(text: &[u8]) -> bool {
    let add = |port: u16, byte: &u8| {
        let digit = Some(byte.wrapping_sub(b'0')).filter(|digit| *digit <= 9)?;
        port.checked_mul(10)?.checked_add(digit.into())
    };
    text.iter().try_fold(0, add).is_some_and(|port| port > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_of_every_form() {
        let cases = [
            ("GET", "/", None, "/"),
            ("GET", "/a?b=/../c", None, "/a"),
            ("GET", "/a|b?q={a|b}^`\\", None, "/a%7Cb"),
            ("GET", "http://h", Some("h"), "/"),
            ("GET", "HTTP://h:80/x", Some("h:80"), "/x"),
            ("GET", "http://h?x", Some("h"), "/"),
            ("GET", "https://[::1]:8/x", Some("[::1]:8"), "/x"),
            ("OPTIONS", "*", None, "*"),
            ("OPTIONS", "http://h", Some("h"), "*"),
        ];
        for (method, text, authority, path) in cases {
            let target = Target::parse(method, text).unwrap();
            assert_eq!(
                (target.authority.map(|a| a.text), target.path()),
                (authority.map(str::as_bytes), path),
                "{method} {text}"
            );
        }
    }

    #[test]
    fn what_browsers_leave_as_it_is_leaves_encoded() {
        for (text, path_and_query) in [
            ("/a[1]?b[]=%20%7c", "/a[1]?b[]=%20%7c"),
            ("/a|b||", "/a%7Cb%7C%7C"),
            ("/|?|", "/%7C?%7C"),
            ("/?\\^`{|}", "/?%5C%5E%60%7B%7C%7D"),
            ("/?100%&b=%zz%4%", "/?100%25&b=%25zz%254%25"),
            ("http://h?{}", "?%7B%7D"),
        ] {
            let target = Target::parse("GET", text).unwrap();
            assert_eq!(target.path_and_query, path_and_query, "{text}");
            let is_as_it_was = matches!(target.path_and_query, Cow::Borrowed(_));
            assert_eq!(is_as_it_was, text == path_and_query, "{text}: only what changes is copied");
        }
    }

    #[test]
    fn what_is_no_target_is_refused() {
        for text in [
            "foo",
            "*",
            "",
            "/a#b",
            "/\u{e9}",
            "/a\"",
            "/a\\b",
            "/a%",
            "/a%2",
            "/a%zz?b",
            "http://h/\\x",
            "/<",
            "/>",
            "ftp://h/",
            "http:///x",
            "http://u@h/",
            "http://h:0/",
            "http://h:99999/",
            "http://:80/",
            "//",
            "http:/h",
        ] {
            let refused = Target::parse("GET", text);
            assert_eq!(refused.is_err(), text != "//", "{text}: {refused:?}");
        }
    }

    #[test]
    fn hosts_as_they_must_be() {
        for (text, host) in [
            ("a", "a"),
            ("a.b:80", "a.b"),
            ("[::1]", "[::1]"),
            ("[::1]:3000", "[::1]"),
            ("", ""),
            ("a_b:", "a_b"),
            ("%4a%7E:00065535", "%4a%7E"),
            ("A-~9:1", "A-~9"),
        ] {
            assert_eq!(Authority::parse(text.as_bytes()).map(|a| a.host), Some(host.as_bytes()), "{text}");
        }
        for text in [
            "a,b", "u@a", "a/b", "a#b", "a b", "a:0", "a:65536", "a:-1", "a:+1", "[::1", "[::1]80", "[x]", "::1",
            "a:b:c", ":80", ":", "a:8 ", "a:/", "[::1]:0", "[]", "%zz", "%4", "a\tb", "a\u{e9}",
        ] {
            assert_eq!(Authority::parse(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn bytes_stand_where_the_rfc_lets_them() {
        for byte in 0..=u8::MAX {
            let is_unreserved = byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
            let host = [b'h', byte];
            assert_eq!(Authority::parse(&host).is_some_and(|a| a.host == host), is_unreserved, "{byte:#x} in a host");
            let Some(target) = std::str::from_utf8(&[b'/', byte]).ok().map(String::from) else { continue };
            let is_passed_on = Target::parse("GET", &target).is_ok_and(|parsed| parsed.path_and_query == target);
            let may_stand = is_unreserved || b"!$&'()*+,;=:@/?[]".contains(&byte);
            assert_eq!(is_passed_on, may_stand, "{byte:#x} in a target");
        }
    }

    fn with_path(path: &str) -> Target<'_> {
        Target { authority: None, path_and_query: path.into(), kinds: kinds_of(path) }
    }

    #[test]
    fn dot_segments_plain_and_encoded() {
        for path in [
            "/..",
            "/../a",
            "/a/..",
            "/a/../b",
            "/%2e%2e/",
            "/.%2E/x",
            "/%2e./x",
            "/a%2f../b",
            "/a/..%2fb",
            "/..;x/",
            "/a%5c..",
            "/a\\..\\b",
        ] {
            assert!(with_path(path).has_dot_segments(), "{path}");
        }
        for path in ["/", "/.", "/...", "/a..", "/..a/b", "/a/.b./", "/a?/../", "/%2e", "//", "*", "/..%20"] {
            assert!(!with_path(path).has_dot_segments(), "{path}");
        }
    }
}
