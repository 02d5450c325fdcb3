//! The request target and the authority: what they may hold, and where a target leads.
//!
//! Nothing is decoded or tidied: a request is routed by the same bytes that are forwarded.

use crate::http::reject::Reject;

/// A request target (RFC 9112, 3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target<'a> {
    /// The authority of an absolute-form target; it outranks Host (RFC 9112, 3.2.2).
    pub authority: Option<Authority<'a>>,
    /// Path and query in origin-form, or `*`. Of an absolute-form target what stands behind the authority, which may be
    /// empty or begin with the query.
    pub path_and_query: &'a str,
}

/// A host and perhaps a port, as in Host and in absolute-form targets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Authority<'a> {
    /// As written, with the port.
    pub text: &'a str,
    /// Without the port; an IPv6 address with its brackets.
    pub host: &'a str,
}

impl<'a> Target<'a> {
    /// Understands `text` as the target of a request with `method`.
    pub fn parse(method: &str, text: &'a str) -> Result<Target<'a>, Reject> {
        if text == "*" && method == "OPTIONS" {
            return Ok(Target { authority: None, path_and_query: text });
        }
        if !text.bytes().all(may_stand_in_target) {
            return Err(Reject::Malformed("the target holds a byte that must be percent-encoded"));
        }
        if text.starts_with('/') {
            return Target { authority: None, path_and_query: text }.with_one_reading();
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
        Target { authority: Some(authority), path_and_query }.with_one_reading()
    }

    /// What browsers leave as it is in a query, they encode in a path; and a backslash there is a slash to some servers.
    fn with_one_reading(self) -> Result<Target<'a>, Reject> {
        if self.path().contains(['\\', '^', '`', '{', '}']) {
            return Err(Reject::Malformed("the path holds a byte that must be percent-encoded"));
        }
        Ok(self)
    }

    /// The path, by which a request is routed: never empty.
    pub fn path(&self) -> &'a str {
        let path = self.path_and_query.split_once('?').map_or(self.path_and_query, |(path, _)| path);
        if path.is_empty() { "/" } else { path }
    }

    /// Whether a server might read a segment of the path as `..`: plain or percent-encoded, between slashes that are plain
    /// or percent-encoded, possibly with parameters behind it.
    pub fn has_dot_segments(&self) -> bool {
        let mut rest = self.path();
        loop {
            let after_dots = dot(rest).and_then(dot);
            if after_dots.is_some_and(|after| after.is_empty() || after.starts_with(';') || separator(after).is_some())
            {
                return true;
            }
            // On to the next segment.
            loop {
                if let Some(after) = separator(rest) {
                    rest = after;
                    break;
                }
                let mut characters = rest.chars();
                if characters.next().is_none() {
                    return false;
                }
                rest = characters.as_str();
            }
        }
    }
}

fn dot(text: &str) -> Option<&str> {
    text.strip_prefix('.').or_else(|| text.strip_prefix("%2e")).or_else(|| text.strip_prefix("%2E"))
}

fn separator(text: &str) -> Option<&str> {
    ["/", "\\", "%2f", "%2F", "%5c", "%5C"].iter().find_map(|separator| text.strip_prefix(separator))
}

/// RFC 3986 knows fewer bytes, but browsers leave `|` as it is in a path, and ``\ ^ ` { | }`` in a query, where each has one
/// reading. White space, quotes, angle brackets, `#` and bytes beyond ASCII are encoded by every client.
fn may_stand_in_target(byte: u8) -> bool {
    byte.is_ascii_graphic() && !matches!(byte, b'"' | b'<' | b'>' | b'#')
}

impl<'a> Authority<'a> {
    /// Understands a host with an optional port (RFC 3986, 3.2.2 and 3.2.3); `None` if it is anything else. The host may be
    /// empty only when all is.
    pub fn parse(text: &'a [u8]) -> Option<Authority<'a>> {
        let text = str::from_utf8(text).ok()?;
        let (host, port) = if text.starts_with('[') {
            let end = text.find(']')?;
            let (host, after) = text.split_at_checked(end.checked_add(1)?)?;
            let inside = host.strip_prefix('[')?.strip_suffix(']')?;
            inside.parse::<std::net::Ipv6Addr>().ok()?;
            (host, if after.is_empty() { None } else { Some(after.strip_prefix(':')?) })
        } else {
            let (host, port) = text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port)));
            if !is_name(host) || (host.is_empty() && port.is_some()) {
                return None;
            }
            (host, port)
        };
        let port_is_sound = port.is_none_or(|port| {
            port.is_empty()
                || (port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port > 0))
        });
        port_is_sound.then_some(Authority { text, host })
    }
}

/// Letters, digits, `-._~` and percent-encoded bytes. The other signs that RFC 3986 allows in names are in no host's name, but
/// in lists and in attacks.
fn is_name(host: &str) -> bool {
    let mut bytes = host.bytes();
    while let Some(byte) = bytes.next() {
        let sound = match byte {
            b'%' => (0..2).all(|_| bytes.next().is_some_and(|digit| digit.is_ascii_hexdigit())),
            _ => byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~'),
        };
        if !sound {
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_of_every_form() {
        let cases = [
            ("GET", "/", None, "/"),
            ("GET", "/a?b=/../c", None, "/a"),
            ("GET", "/?q={a|b}^`\\", None, "/"),
            ("GET", "http://h", Some("h"), "/"),
            ("GET", "HTTP://h:80/x", Some("h:80"), "/x"),
            ("GET", "http://h?x", Some("h"), "/"),
            ("GET", "https://[::1]:8/x", Some("[::1]:8"), "/x"),
            ("OPTIONS", "*", None, "*"),
            ("OPTIONS", "http://h", Some("h"), "*"),
        ];
        for (method, text, authority, path) in cases {
            let target = Target::parse(method, text).unwrap();
            assert_eq!((target.authority.map(|a| a.text), target.path()), (authority, path), "{method} {text}");
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
        for (text, host) in
            [("a", "a"), ("a.b:80", "a.b"), ("[::1]", "[::1]"), ("[::1]:3000", "[::1]"), ("", ""), ("a_b:", "a_b")]
        {
            assert_eq!(Authority::parse(text.as_bytes()).map(|a| a.host), Some(host), "{text}");
        }
        for text in [
            "a,b", "u@a", "a/b", "a#b", "a b", "a:0", "a:65536", "a:-1", "a:+1", "[::1", "[::1]80", "[x]", "::1",
            "a:b:c", ":80", "%zz", "%4", "a\tb", "a\u{e9}",
        ] {
            assert_eq!(Authority::parse(text.as_bytes()), None, "{text}");
        }
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
            assert!(Target { authority: None, path_and_query: path }.has_dot_segments(), "{path}");
        }
        for path in ["/", "/.", "/...", "/a..", "/..a/b", "/a/.b./", "/a?/../", "/%2e", "//", "*", "/..%20"] {
            assert!(!Target { authority: None, path_and_query: path }.has_dot_segments(), "{path}");
        }
    }
}
