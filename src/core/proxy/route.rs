//! Which upstreams answer a request: by host and path prefix.
//!
//! The table is sorted once, the most particular route first; the first that matches answers. So the order in the
//! configuration never matters, and [`RouteTable::explain`] tells the whole reasoning by walking the same list.

use std::fmt;

use crate::http::field::same_but_for_case;
use crate::http::reject::Reject;
use crate::http::target::Target;
use crate::proxy::policy::UpstreamId;

/// Routes, the most particular first: an exact host before a wildcard before any host, then the longer path first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RouteTable {
    sorted: Vec<Route>,
}

/// Where a route stands in its table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteId(pub usize);

/// A rule: what it matches, and where that leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// The hosts that it is for.
    pub host: HostPattern,
    /// `""` for every path, else `/a` or `/a/b`: no slash at the end. It matches on segment borders only.
    pub prefix: String,
    /// Whether the prefix is removed before a request is forwarded.
    pub strip: bool,
    /// Whether `..` segments may be forwarded.
    pub dot_segments: bool,
    /// Who answers, in turn. Never empty.
    pub to: Vec<UpstreamId>,
}

/// The hosts that a route is for, without port, in lower case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostPattern {
    /// Every host.
    Any,
    /// Every host below a domain: `*.example.com` is held as `.example.com`.
    Below(String),
    /// One host.
    Exact(String),
}

/// What a route has to say to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It is the first that matches.
    Chosen,
    /// It matches as well, but a more particular route was chosen.
    LessParticular,
    /// It is for another host.
    OtherHost,
    /// It is for another path.
    OtherPath,
}

impl RouteTable {
    /// Sorts `routes`, the most particular first.
    pub fn new(routes: Vec<Route>) -> RouteTable {
        let rank = |route: &Route| (route.host.rank(), route.prefix.len());
        // A slice's own sort would be 7 KB of program for it.
        let mut sorted = Vec::with_capacity(routes.len());
        for route in routes {
            let place = sorted.partition_point(|other| rank(other) >= rank(&route));
            sorted.insert(place, route);
        }
        RouteTable { sorted }
    }

    /// Where the route for `host` (without port, any case) and `path` (without query) stands, if there is one.
    pub fn position(&self, host: &[u8], path: &str) -> Option<RouteId> {
        self.sorted.iter().position(|route| route.answer(host, path) == Answer::Chosen).map(RouteId)
    }

    /// The route for `host` and `path`, if there is one.
    pub fn find(&self, host: &[u8], path: &str) -> Option<&Route> {
        self.position(host, path).and_then(|id| self.route(id))
    }

    /// The route that stands at `id`.
    pub fn route(&self, id: RouteId) -> Option<&Route> {
        self.sorted.get(id.0)
    }

    /// The same routes, each leading to what `renumber` makes of its upstreams.
    pub fn renumbered(mut self, mut renumber: impl FnMut(UpstreamId) -> UpstreamId) -> RouteTable {
        self.sorted.iter_mut().flat_map(|route| &mut route.to).for_each(|id| *id = renumber(*id));
        self
    }

    /// Every route in the order of the search, each with what it says to `host` and `path`.
    pub fn explain<'a>(&'a self, host: &[u8], path: &str) -> Vec<(&'a Route, Answer)> {
        let mut chosen = false;
        let mut say = |route: &'a Route| match route.answer(host, path) {
            Answer::Chosen if chosen => (route, Answer::LessParticular),
            answer => {
                chosen |= answer == Answer::Chosen;
                (route, answer)
            }
        };
        self.sorted.iter().map(&mut say).collect()
    }

    /// The routes in the order of the search.
    pub fn iter(&self) -> impl Iterator<Item = &Route> {
        self.sorted.iter()
    }
}

/// `path`, as a client may write it, in the form in which routes see it and upstreams get it.
pub fn path_seen(path: &str) -> Result<String, Reject> {
    Ok(Target::parse("GET", path)?.path().to_owned())
}

impl Route {
    fn answer(&self, host: &[u8], path: &str) -> Answer {
        if !self.host.matches(host) {
            Answer::OtherHost
        } else if !self.matches_path(path) {
            Answer::OtherPath
        } else {
            Answer::Chosen
        }
    }

    fn matches_path(&self, path: &str) -> bool {
        // `*`, the target of OPTIONS for a whole server, belongs to whoever answers for all of its paths.
        self.prefix.is_empty()
            || path.strip_prefix(self.prefix.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    /// What is left of an origin-form target once the prefix is removed, if this route removes it. A target that would be
    /// left empty, or as a bare query, gains the slash that origin-form asks for (RFC 9112, 3.2.1): the first of the pair.
    pub fn stripped<'t>(&self, target: &'t str) -> (&'static str, &'t str) {
        let rest = if self.strip { target.strip_prefix(self.prefix.as_str()).unwrap_or(target) } else { target };
        if rest.is_empty() || rest.starts_with('?') { ("/", rest) } else { ("", rest) }
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = if self.prefix.is_empty() { "/" } else { &self.prefix };
        match &self.host {
            HostPattern::Any => f.write_str(path),
            HostPattern::Below(domain) => write!(f, "*{domain}{path}"),
            HostPattern::Exact(host) => write!(f, "{host}{path}"),
        }
    }
}

impl HostPattern {
    /// Whether `host` (without port, any case) is meant. One final dot, the mark of a full domain name, does not count.
    pub fn matches(&self, host: &[u8]) -> bool {
        let host = host.strip_suffix(b".").unwrap_or(host);
        match self {
            HostPattern::Any => true,
            HostPattern::Exact(exact) => same_but_for_case(host, exact.as_bytes()),
            HostPattern::Below(domain) => host
                .len()
                .checked_sub(domain.len())
                .filter(|before| *before > 0)
                .and_then(|before| host.get(before..))
                .is_some_and(|end| same_but_for_case(end, domain.as_bytes())),
        }
    }

    fn rank(&self) -> (u8, usize) {
        match self {
            HostPattern::Any => (0, 0),
            HostPattern::Below(domain) => (1, domain.len()),
            HostPattern::Exact(_) => (2, 0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(host: HostPattern, prefix: &str) -> Route {
        Route { host, prefix: prefix.into(), strip: true, dot_segments: false, to: vec![UpstreamId(0)] }
    }

    fn table() -> RouteTable {
        RouteTable::new(vec![
            route(HostPattern::Any, ""),
            route(HostPattern::Any, "/a"),
            route(HostPattern::Below(".example.com".into()), "/b"),
            route(HostPattern::Below(".deep.example.com".into()), "/b"),
            route(HostPattern::Exact("www.example.com".into()), "/a/b"),
            route(HostPattern::Exact("www.example.com".into()), "/a"),
        ])
    }

    #[test]
    fn the_longest_match_wins_host_before_path() {
        let cases = [
            ("other", "/", "/"),
            ("other", "/a", "/a"),
            ("other", "/a/", "/a"),
            ("other", "/a/b", "/a"),
            ("other", "/ab", "/"),
            ("other", "/a*", "/"),
            ("other", "/*", "/"),
            ("WWW.Example.COM", "/a/b/c", "www.example.com/a/b"),
            ("www.example.com.", "/a/bc", "www.example.com/a"),
            ("www.example.com", "/b", "*.example.com/b"),
            ("x.deep.example.com", "/b", "*.deep.example.com/b"),
            ("deep.example.com", "/b", "*.example.com/b"),
            ("example.com", "/b", "/"),
            (".example.com", "/b", "/"),
            ("evilexample.com", "/b", "/"),
        ];
        for (host, path, expected) in cases {
            let found = table().find(host.as_bytes(), path).map(Route::to_string);
            assert_eq!(found.as_deref(), Some(expected), "{host}{path}");
        }
    }

    #[test]
    fn no_route_is_none() {
        let table = RouteTable::new(vec![route(HostPattern::Exact("a".into()), "/x")]);
        for (host, path) in [("a", "/"), ("a", "/xy"), ("a", "/x*"), ("b", "/x"), ("a", "*"), ("a", "/X")] {
            assert_eq!(table.find(host.as_bytes(), path), None, "{host}{path}");
        }
    }

    #[test]
    fn the_whole_server_belongs_to_the_route_of_all_paths() {
        assert_eq!(table().find(b"other", "*").map(Route::to_string).as_deref(), Some("/"));
    }

    #[test]
    fn what_is_stripped_is_the_prefix_and_nothing_else() {
        let route = route(HostPattern::Any, "/a");
        for (target, expected) in [("/a", "/"), ("/a?x", "/?x"), ("/a/", "/"), ("/a/b?c", "/b?c"), ("/a//b", "//b")] {
            let (slash, rest) = route.stripped(target);
            assert_eq!(format!("{slash}{rest}"), expected, "{target}");
        }
    }

    #[test]
    fn the_explanation_agrees_with_the_search() {
        let table = table();
        let told = table.explain(b"www.example.com", "/a/b");
        let said: Vec<_> = told.iter().map(|(route, answer)| (route.to_string(), *answer)).collect();
        let expected = [
            ("www.example.com/a/b", Answer::Chosen),
            ("www.example.com/a", Answer::LessParticular),
            ("*.deep.example.com/b", Answer::OtherHost),
            ("*.example.com/b", Answer::OtherPath),
            ("/a", Answer::LessParticular),
            ("/", Answer::LessParticular),
        ];
        assert_eq!(said, expected.map(|(route, answer)| (route.to_string(), answer)));
    }
}
