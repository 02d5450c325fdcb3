//! `hawkey route`: who would answer a URL, and why the others would not.

use std::fmt::Write;
use std::str::FromStr;

use hawkey::Config;
use hawkey::proxy::policy::Upstream;
use hawkey::proxy::route::{self, Answer, Route};

/// What routes look at: a host without its port, and a path without its query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// Empty if the request names none.
    host: String,
    path: String,
}

impl FromStr for Target {
    type Err = String;

    /// Reads `http://host:80/path?query`, `host/path`, `host` or `/path`. The other schemes that a client may know the same
    /// place by, `https`, `ws` and `wss`, mean the same.
    fn from_str(text: &str) -> Result<Target, String> {
        let rest = match text.split_once("://") {
            Some(("http" | "https" | "ws" | "wss", rest)) if !rest.starts_with('/') => rest,
            Some((scheme, rest)) if !scheme.contains(['/', '?', '#']) => {
                let fault = if rest.starts_with('/') { "has no host" } else { "is not an HTTP URL" };
                return Err(format!("`{text}` {fault}: expected http://host/path, host/path or /path"));
            }
            _ => text,
        };
        let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        let path = &path[..path.find(['?', '#']).unwrap_or(path.len())];
        let host = match authority.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => {
                let is_port =
                    port.is_empty() || port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok();
                is_port.then_some(host).ok_or_else(|| format!("`{port}` is not a port, in `{text}`"))?
            }
            _ => authority,
        };
        let odd = |c: char| c.is_control() || c.is_whitespace();
        if text.is_empty() || host.contains('@') || text.contains(odd) {
            return Err(format!(
                "`{}` is not a URL: expected http://host/path, host/path or /path",
                text.escape_debug()
            ));
        }
        let path = if path.is_empty() { "/" } else { path };
        let path = route::path_seen(path).map_err(|reject| format!("`{path}` is answered with 400: {reject}"))?;
        Ok(Target { host: host.to_owned(), path })
    }
}

/// What `hawkey route` prints.
pub(crate) struct Told {
    /// A line for the target, one for each route, one for each upstream of the route that answers.
    pub(crate) text: String,
    /// Whether a route answers.
    pub(crate) is_found: bool,
}

/// Says of every route, in the order of the search, whether it answers `target`, and if not, why not.
pub(crate) fn explain(config: &Config, target: &Target) -> Told {
    let Target { host, path } = target;
    let routes = &config.policy.routes;
    let width = routes.iter().map(|route| route.to_string().chars().count()).max().unwrap_or(0);
    let said = routes.explain(host.as_bytes(), path);
    let chosen = said.iter().find(|(_, answer)| *answer == Answer::Chosen).map(|(route, _)| *route);

    let mut text = match host.as_str() {
        "" => format!("{path}, of any host\n\n"),
        host => format!("{path}, of the host {host}\n\n"),
    };
    for (route, answer) in said {
        let words = match answer {
            Answer::Chosen => "answers".to_owned() + &forwarding(route, path),
            Answer::LessParticular => format!("matches, but {} is more particular", chosen.unwrap_or(route)),
            Answer::OtherHost => "is for another host".to_owned(),
            Answer::OtherPath => "is for another path".to_owned(),
        };
        line(&mut text, &format!("{:width$}  {words}", route.to_string()));
        if answer == Answer::Chosen {
            for id in &route.to {
                line(&mut text, &format!("    {}", told(&config.policy.upstreams[id.0 as usize])));
            }
        }
    }
    if chosen.is_none() {
        line(&mut text, "no route answers: 404");
    }
    Told { text, is_found: chosen.is_some() }
}

fn forwarding(route: &Route, path: &str) -> String {
    let is_up = |segment: &str| segment.replace("%2e", ".").replace("%2E", ".") == "..";
    if !route.dot_segments && path.split('/').any(is_up) {
        return ", but refuses `..` segments: 400".to_owned();
    }
    match route.stripped(path) {
        ("", rest) if rest == path => String::new(),
        (slash, rest) => format!(", the path as {slash}{rest}"),
    }
}

fn told(upstream: &Upstream) -> String {
    let address = upstream.address.to_string();
    if address == upstream.written { address } else { format!("{address} ({})", upstream.written) }
}

fn line(text: &mut String, line: &str) {
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_a_host_and_a_path() {
        let cases = [
            ("http://example.com/api/x", "example.com", "/api/x"),
            ("http://example.com:8080/a?b=c#d", "example.com", "/a"),
            ("ws://example.com", "example.com", "/"),
            ("http://[::1]:80/", "[::1]", "/"),
            ("http://[::1]", "[::1]", "/"),
            ("http://example.com?x=http://y/", "example.com", "/"),
            ("example.com/api", "example.com", "/api"),
            ("example.com:80", "example.com", "/"),
            ("/api?to=http://x/", "", "/api"),
            ("/", "", "/"),
            ("a/b|c?d|", "a", "/b%7Cc"),
        ];
        for (text, host, path) in cases {
            assert_eq!(text.parse(), Ok(Target { host: host.into(), path: path.into() }), "{text}");
        }
        for text in [
            "",
            "ftp://example.com/",
            "http:///x",
            "http://a:http/",
            "http://a:65536/",
            "http://u@a/",
            "/a b",
            "/a\\b",
            "/%",
        ] {
            assert!(text.parse::<Target>().is_err(), "`{text}` was taken");
        }
    }

    #[test]
    fn every_route_says_why() {
        let config = Config::from_toml(
            "listen = ':0'\n[[route]]\nmatch = '/'\nto = '127.0.0.1:1'\n[[route]]\nmatch = '*.example.com'\nto = '127.0.0.1:2'\n\
             [[route]]\nmatch = 'example.com/api'\nto = ['127.0.0.1:3', 'unix:/run/a.sock']\nstrip = true\n\
             [[route]]\nmatch = 'example.com/x'\nto = '127.0.0.1:4'",
        )
        .unwrap();
        let told = explain(&config, &"http://example.com/api/v1".parse().unwrap());
        let expected = "\
/api/v1, of the host example.com

example.com/api  answers, the path as /v1
    127.0.0.1:3
    unix:/run/a.sock
example.com/x    is for another path
*.example.com/   is for another host
/                matches, but example.com/api is more particular
";
        assert_eq!(told.text, expected);
        assert!(told.is_found);
    }

    #[test]
    fn no_route_and_a_refused_path_are_told() {
        let config = Config::from_words([":0", "/api=127.0.0.1:1"]).unwrap();
        let told = explain(&config, &"/x".parse().unwrap());
        assert_eq!(
            (told.text.as_str(), told.is_found),
            ("/x, of any host\n\n/api  is for another path\nno route answers: 404\n", false)
        );
        let told = explain(&config, &"/api/%2E./x".parse().unwrap());
        assert!(told.text.contains("/api  answers, but refuses `..` segments: 400\n"), "{}", told.text);
    }
}
