//! What a route matches: `/`, `/api`, `example.com`, `example.com/api`, `*.example.com/api`.

use std::net::Ipv6Addr;

use super::error::Flaw;
use crate::proxy::route::HostPattern;

/// The host and the path prefix of a match, in the form that a route holds them: the host in lower case, the prefix without a
/// slash at its end.
pub(super) fn pattern(text: &str) -> Result<(HostPattern, String), Flaw> {
    if text.is_empty() {
        return Err(Flaw::new("a match cannot be empty").help("`/` matches every request"));
    }
    if let Some((_, rest)) = text.split_once("://") {
        let flaw = Flaw::new(format!("a match has no scheme: `{text}`"));
        return Err(flaw.help(format!("did you mean `{rest}`?")));
    }
    let (host, path) = text.split_at(text.find('/').unwrap_or(text.len()));
    Ok((host_pattern(host, path)?, prefix(path)?))
}

fn host_pattern(host: &str, path: &str) -> Result<HostPattern, Flaw> {
    let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    if host.is_empty() {
        return Ok(HostPattern::Any);
    }
    if host == "*" {
        let all = if path.is_empty() { "/" } else { path };
        return Err(Flaw::new("`*` is no host").help(format!("for every host leave it out: `{all}`")));
    }
    if let Some(literal) = host.strip_prefix('[') {
        let ip = literal.strip_suffix(']').and_then(|ip| ip.parse::<Ipv6Addr>().ok());
        return ip.map(|ip| HostPattern::Exact(format!("[{ip}]"))).ok_or_else(|| {
            let flaw = Flaw::new(format!("`{host}` is not an IPv6 address in brackets"));
            flaw.help("a match has no port: a route answers on every listener")
        });
    }
    if let Some((name, port)) = host.split_once(':') {
        let flaw = Flaw::new(format!("a match has no port: `:{port}`"));
        return Err(flaw.help(format!("did you mean `{name}{path}`? A route answers on every listener")));
    }
    let (below, name) = match host.strip_prefix("*.") {
        Some(name) => (true, name),
        None => (false, host.as_str()),
    };
    if name.contains('*') {
        let flaw = Flaw::new(format!("`*` can only stand for the whole front of a host: `{host}`"));
        return Err(flaw.help("as in `*.example.com`"));
    }
    host_name(name)?;
    Ok(if below { HostPattern::Below(format!(".{name}")) } else { HostPattern::Exact(host) })
}

/// Whether `name` can be a host's name (RFC 1123, 2.1, and the underscores of container names).
pub(super) fn host_name(name: &str) -> Result<(), Flaw> {
    let bad = name.chars().find(|c| !matches!(c, 'a'..='z' | 'A'..='Z' | '0'..='9' | '-' | '_' | '.'));
    if let Some(bad) = bad {
        let flaw = Flaw::new(format!("`{bad}` cannot be in the name of a host: `{name}`"));
        return Err(if bad.is_ascii() {
            flaw
        } else {
            flaw.help("write the ASCII form of the name, which begins with xn--")
        });
    }
    if name.len() > 253 {
        return Err(Flaw::new(format!("a host's name has at most 253 bytes, and this one has {}", name.len())));
    }
    if name.split('.').any(str::is_empty) {
        return Err(Flaw::new(format!("a part of the host's name is empty: `{name}`")));
    }
    Ok(())
}

fn prefix(path: &str) -> Result<String, Flaw> {
    for (mark, what) in [('?', "a query"), ('#', "a fragment")] {
        if let Some((path, _)) = path.split_once(mark) {
            let flaw = Flaw::new(format!("a match is a path, and cannot have {what}"));
            return Err(flaw.help(format!("did you mean `{path}`?")));
        }
    }
    let prefix = path.strip_suffix('/').unwrap_or(path);
    if let Some(front) = prefix.strip_suffix('*') {
        let flaw = Flaw::new(format!("`*` has no meaning in a path: `{path}`"));
        return Err(flaw.help(format!("a path matches all that is below it: `{front}`")));
    }
    for segment in prefix.split('/').skip(1) {
        if segment.is_empty() {
            return Err(Flaw::new(format!("a segment of the path is empty: `{path}`")));
        }
        // A request is matched as it is written, and those with such segments are refused: this could match nothing.
        if matches!(segment.replace("%2e", ".").replace("%2E", ".").as_str(), "." | "..") {
            return Err(Flaw::new(format!("a match cannot have the segment `{segment}`")));
        }
        path_characters(segment)?;
    }
    Ok(prefix.to_owned())
}

/// RFC 3986, 3.3: `pchar`.
fn path_characters(segment: &str) -> Result<(), Flaw> {
    let mut rest = segment.chars();
    while let Some(c) = rest.next() {
        if c == '%' {
            let digits: String = rest.by_ref().take(2).collect();
            if digits.len() != 2 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(Flaw::new(format!("`%{digits}` is not a percent-encoded byte"))
                    .help("a percent sign itself is `%25`"));
            }
        } else if !c.is_ascii_alphanumeric() && !"-._~!$&'()*+,;=:@".contains(c) {
            let encoded: String = c.to_string().bytes().map(|byte| format!("%{byte:02X}")).collect();
            let flaw = Flaw::new(format!("`{}` cannot be in a path as it is", c.escape_default()));
            return Err(flaw.help(format!("as clients send it: `{encoded}`")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_match_is_a_host_and_a_prefix() {
        let any = HostPattern::Any;
        let exact = |host: &str| HostPattern::Exact(host.into());
        let below = |domain: &str| HostPattern::Below(domain.into());
        let cases = [
            ("/", any.clone(), ""),
            ("/api", any.clone(), "/api"),
            ("/api/", any.clone(), "/api"),
            ("/a/b.c;d=%2F", any, "/a/b.c;d=%2F"),
            ("example.com", exact("example.com"), ""),
            ("Example.COM./", exact("example.com"), ""),
            ("example.com/Api", exact("example.com"), "/Api"),
            ("my_app", exact("my_app"), ""),
            ("*.Example.com/api", below(".example.com"), "/api"),
            ("127.0.0.1", exact("127.0.0.1"), ""),
            ("[0:0::1]/x", exact("[::1]"), "/x"),
        ];
        for (text, host, prefix) in cases {
            assert_eq!(pattern(text), Ok((host, prefix.to_owned())), "{text}");
        }
    }

    #[test]
    fn what_is_no_match_says_why() {
        let cases = [
            ("", "cannot be empty", Some("`/` matches")),
            ("http://example.com/a", "no scheme", Some("`example.com/a`")),
            ("example.com:80/a", "no port: `:80`", Some("`example.com/a`")),
            ("[::1]:80", "brackets", None),
            ("[::g]", "brackets", None),
            ("*", "`*` is no host", Some("`/`")),
            ("*/api", "`*` is no host", Some("`/api`")),
            ("a.*.com", "whole front", None),
            ("*.*.com", "whole front", None),
            ("*example.com", "whole front", None),
            ("exa mple.com", "` ` cannot be in the name", None),
            ("bücher.de", "`ü` cannot be in the name", Some("xn--")),
            ("a..b", "part of the host's name is empty", None),
            (".example.com", "part of the host's name is empty", None),
            ("*.", "`*` is no host", None),
            ("/a?b", "a query", Some("`/a`")),
            ("/a#b", "a fragment", Some("`/a`")),
            ("/a/*", "`*` has no meaning", Some("`/a/`")),
            ("/a//b", "segment of the path is empty", None),
            ("//", "segment of the path is empty", None),
            ("/a/../b", "the segment `..`", None),
            ("/a/%2e%2E", "the segment `%2e%2E`", None),
            ("/.", "the segment `.`", None),
            ("/a b", "` ` cannot be in a path", Some("`%20`")),
            ("/ü", "cannot be in a path", Some("`%C3%BC`")),
            ("/a%2", "`%2` is not", None),
            ("/a%zz", "`%zz` is not", None),
        ];
        for (text, message, help) in cases {
            let flaw = pattern(text).expect_err(text);
            let told = format!("{flaw:?}");
            assert!(told.contains(message), "`{text}`: expected `{message}` in {told}");
            assert!(help.is_none_or(|help| told.contains(help)), "`{text}`: expected `{help:?}` in {told}");
        }
        let long = format!("{}.com", "a".repeat(250));
        assert!(pattern(&long).is_err(), "a name of 254 bytes was taken");
    }
}
