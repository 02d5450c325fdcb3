//! Hosts, targets and routes against their rules written down once more: which are sound, who answers, what is stripped.

use std::net::Ipv6Addr;

use hawkey::Config;
use hawkey::http::target::{Authority, Target};
use hawkey::proxy::route::{Answer, HostPattern, Route};

use super::message::Shown;

/// The input is lines: a host, a target, then matches, up to eight.
pub fn route(input: &[u8]) {
    let mut lines = input.split(|byte| *byte == b'\n');
    let (host, target) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    let host = authority(host, input);
    let Ok(target) = std::str::from_utf8(target) else { return };
    let Ok(target) = Target::parse("GET", target) else { return };
    check_target(&target, input);
    let host = target.authority.map(|authority| authority.host).or(host).unwrap_or_default();
    let host_text = std::str::from_utf8(host).expect("a host is ASCII");

    let mut config = Config::new();
    for pattern in lines.take(8).filter_map(|line| std::str::from_utf8(line).ok()) {
        if let Ok(with) = config.clone().route(pattern, ["127.0.0.1:1"]) {
            config = with;
        }
    }
    let table = &config.policy.routes;
    let path = target.path();
    let found = table.find(host, path);
    let best = table.iter().filter(|route| matches(route, host_text, path)).max_by_key(|route| rank(route));
    assert_eq!(found, best, "the left answers {host_text:?} {path:?}, the right should: {}", Shown(input));
    let explained = table.explain(host, path);
    let chosen: Vec<_> = explained.iter().filter(|(_, answer)| *answer == Answer::Chosen).map(|told| told.0).collect();
    assert_eq!(chosen, found.into_iter().collect::<Vec<_>>(), "who is said to answer: {}", Shown(input));
    for (route, answer) in explained {
        let is_match = matches!(answer, Answer::Chosen | Answer::LessParticular);
        assert_eq!(is_match, matches(route, host_text, path), "whether {route} matches: {}", Shown(input));
    }
    if let Some(found) = found {
        for strip in [false, true] {
            check_stripped(&Route { strip, ..found.clone() }, &target.path_and_query, input);
        }
    }
}

fn matches(route: &Route, host: &str, path: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    let is_host = match &route.host {
        HostPattern::Any => true,
        HostPattern::Exact(exact) => host == *exact,
        HostPattern::Below(domain) => host.ends_with(domain) && host.len() > domain.len(),
    };
    let with_slash = format!("{path}/");
    is_host && (path == route.prefix || with_slash.starts_with(&format!("{}/", route.prefix)))
}

/// A host before a domain before none, then the longer.
fn rank(route: &Route) -> (u8, usize, usize) {
    match &route.host {
        HostPattern::Any => (0, 0, route.prefix.len()),
        HostPattern::Below(domain) => (1, domain.len(), route.prefix.len()),
        HostPattern::Exact(_) => (2, 0, route.prefix.len()),
    }
}

/// What is forwarded begins with a slash, and is the target without the prefix, or with a slash more than that.
fn check_stripped(route: &Route, target: &str, input: &[u8]) {
    let (slash, rest) = route.stripped(target);
    let forwarded = format!("{slash}{rest}");
    assert!(forwarded.starts_with('/'), "{forwarded:?} is forwarded by {route}: {}", Shown(input));
    let prefix = if route.strip { route.prefix.as_str() } else { "" };
    assert_eq!(format!("{prefix}{rest}"), target, "what {route} strips: {}", Shown(input));
    let needs_slash = !rest.starts_with('/');
    assert_eq!(slash, if needs_slash { "/" } else { "" }, "the slash that {route} adds: {}", Shown(input));
}

fn check_target(target: &Target<'_>, input: &[u8]) {
    let text = &*target.path_and_query;
    assert!(is_uri(text), "the target {text:?}: {}", Shown(input));
    let path = text.split('?').next().filter(|path| !path.is_empty()).unwrap_or("/");
    assert_eq!(target.path(), path, "the path of {text:?}: {}", Shown(input));
    assert!(path.starts_with('/'), "the path {path:?}: {}", Shown(input));
    let plain = path.to_ascii_lowercase().replace("%2e", ".").replace("%2f", "/").replace("%5c", "/");
    let is_up = plain.split('/').any(|segment| segment.split(';').next() == Some(".."));
    assert_eq!(target.has_dot_segments(), is_up, "whether {path:?} leads up: {}", Shown(input));
}

/// RFC 3986, 3.3 and 3.4, and brackets.
pub fn is_uri(text: &str) -> bool {
    let mut parts = text.split('%');
    let is_plain =
        |part: &str| part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/?[]".contains(&byte));
    parts.next().is_none_or(is_plain) && parts.all(|part| is_encoded(part) && is_plain(&part[2..]))
}

/// Reads a host; the part without the port, if it is sound.
fn authority<'a>(text: &'a [u8], input: &[u8]) -> Option<&'a [u8]> {
    let told = Authority::parse(text).map(|authority| authority.host);
    let expected = std::str::from_utf8(text).ok().and_then(|text| {
        // The last colon that is not within brackets parts the port.
        let (host, port) = match text.rfind(':').filter(|colon| !text[*colon..].contains(']')) {
            Some(colon) => (&text[..colon], &text[colon + 1..]),
            None => (text, ""),
        };
        let is_number = matches!(port.trim_start_matches('0').parse::<u64>(), Ok(1..=65535));
        let is_port = port.is_empty() || (is_number && port.bytes().all(|byte| byte.is_ascii_digit()));
        let is_host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            Some(ip) => ip.parse::<Ipv6Addr>().is_ok(),
            None => is_name(host) && (!host.is_empty() || text.is_empty()),
        };
        (is_port && is_host).then_some(host.as_bytes())
    });
    assert_eq!(told, expected, "the left is the host that is read, the right the one that is meant: {}", Shown(input));
    told
}

fn is_name(host: &str) -> bool {
    let mut parts = host.split('%');
    let is_plain = |part: &str| part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte));
    parts.next().is_none_or(is_plain) && parts.all(|part| is_encoded(part) && is_plain(&part[2..]))
}

/// Whether two hexadecimal digits stand behind a percent sign.
fn is_encoded(part: &str) -> bool {
    part.get(..2).is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))
}
