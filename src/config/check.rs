//! The file as meant: every rule that a value can break.
//!
//! A file, a command line and the calls of an embedding program all become one [`Draft`], so that the same text means the same
//! everywhere. All flaws are gathered and told at once: who mends a file wants to mend it once.

use std::ops::Range;
use std::time::Duration;

use toml::Spanned;

use super::address;
use super::control::control;
use super::effective::{fault_status, http_1_0};
use super::error::{ConfigError, Flaw, Placed, Source};
use super::file::{self, File, Scalar, Texts};
use super::pattern::pattern;
use super::quantity;
use super::{Config, Listen, PASSED};
use crate::http::head;
use crate::proxy::policy::{FaultStatus, Http10, Limits, Policy, Timeouts, Trusted, Upstream, UpstreamId};
use crate::proxy::route::{HostPattern, Route, RouteTable};

/// See [`Config::from_toml`].
pub(super) fn toml(text: &str) -> Result<Config, ConfigError> {
    draft_of(text, File::parse, |draft, file| {
        draft.read(file);
        draft.require_both(
            "as in `listen = [\":8080\"]`",
            "as in `[[route]]`, `match = \"/\"`, `to = \"127.0.0.1:3000\"`",
        );
    })
}

/// See [`Config::control_path`].
pub(super) fn control_alone(text: &str) -> Result<Config, ConfigError> {
    draft_of(text, File::parse_listeners, Draft::read_listeners)
}

fn draft_of(
    text: &str,
    parse: fn(&str) -> Result<File, Placed>,
    read: fn(&mut Draft, &File),
) -> Result<Config, ConfigError> {
    let fail = |flaws| ConfigError::new(Source::File("configuration".to_owned()), text, flaws);
    let file = parse(text).map_err(|flaw| fail(vec![flaw]))?;
    let mut draft = Draft::default();
    read(&mut draft, &file);
    draft.finish().map_err(fail)
}

/// See [`Config::from_words`].
pub(super) fn words(words: &[&str]) -> Result<Config, ConfigError> {
    let mut draft = Draft::default();
    let mut routes = Vec::new();
    let mut start = 0;
    for word in words {
        let part = Part { text: word, span: start..start + word.len() };
        start += word.len() + 1;
        let is_listener = word.starts_with("unix:") || word.starts_with(PASSED);
        if let (false, Some((matching, to))) = (is_listener, part.split('=')) {
            routes.push((matching, to));
        } else if word.starts_with('/') {
            let flaw = Flaw::new("expected MATCH=UPSTREAM, as in /chat=127.0.0.1:4000");
            draft.routes_asked += 1;
            draft.flaws.push(flaw.at(part.span));
        } else if !is_listener && !word.contains(':') && !word.bytes().all(|byte| byte.is_ascii_digit()) {
            let flaw = Flaw::new(format!("`{word}` is neither a listener nor a route"));
            draft.flaws.push(flaw.help("a listener is written :8080, a route /=127.0.0.1:3000").at(part.span));
        } else {
            draft.listen(&part);
        }
    }
    for (matching, to) in routes {
        draft.route(&matching, to.parts(','), false, false);
    }
    draft.require_both("as in `hawkey :8080 /=127.0.0.1:3000`", "as in `hawkey :8080 /=127.0.0.1:3000`");
    draft.finish().map_err(|flaws| ConfigError::new(Source::Words("command line"), &words.join(" "), flaws))
}

/// See [`Config::listen`].
pub(super) fn listener(config: Config, text: &str) -> Result<Config, ConfigError> {
    let mut draft = Draft::of(config);
    draft.listen(&Part { text, span: 0..text.len() });
    draft.finish().map_err(|flaws| ConfigError::new(Source::Words("listener"), text, flaws))
}

/// See [`Config::route`].
pub(super) fn route(config: Config, matching: &str, to: &[&str]) -> Result<Config, ConfigError> {
    let mut draft = Draft::of(config);
    let line = format!("{matching}={}", to.join(","));
    let mut start = matching.len() + 1;
    let mut parts = Vec::new();
    for text in to {
        parts.push(Part { text, span: start..start + text.len() });
        start += text.len() + 1;
    }
    draft.route(&Part { text: matching, span: 0..matching.len() }, parts, false, false);
    draft.finish().map_err(|flaws| ConfigError::new(Source::Words("route"), &line, flaws))
}

/// A text and where it stands: in a file with its quotes, on a command line as it is.
#[derive(Clone, Debug)]
struct Part<'t> {
    text: &'t str,
    span: Range<usize>,
}

impl<'t> Part<'t> {
    /// What stands before and behind the first `mark`, of a text without quotes.
    fn split(&self, mark: char) -> Option<(Part<'t>, Part<'t>)> {
        let (before, after) = self.text.split_once(mark)?;
        let middle = self.span.start + before.len();
        let front = Part { text: before, span: self.span.start..middle };
        Some((front, Part { text: after, span: middle + mark.len_utf8()..self.span.end }))
    }

    /// What stands between the marks, of a text without quotes.
    fn parts(self, mark: char) -> Vec<Part<'t>> {
        let mut parts = Vec::new();
        let mut rest = self;
        while let Some((part, behind)) = rest.split(mark) {
            parts.push(part);
            rest = behind;
        }
        parts.push(rest);
        parts
    }
}

/// A configuration under examination.
#[derive(Default)]
struct Draft {
    config: Config,
    /// Where each of `config.listen` was written, if it was.
    listen_spans: Vec<Option<Range<usize>>>,
    routes: Vec<RouteDraft>,
    flaws: Vec<Placed>,
    listeners_asked: usize,
    routes_asked: usize,
}

/// A route whose upstreams have no numbers yet.
struct RouteDraft {
    host: HostPattern,
    prefix: String,
    strip: bool,
    dot_segments: bool,
    to: Vec<Upstream>,
    /// Where its match was written, if it was.
    span: Option<Range<usize>>,
}

impl Draft {
    /// Goes on from a configuration that has been examined.
    fn of(config: Config) -> Draft {
        let upstream = |id: &UpstreamId| config.policy.upstreams[id.0 as usize].clone();
        let open = |route: &Route| RouteDraft {
            host: route.host.clone(),
            prefix: route.prefix.clone(),
            strip: route.strip,
            dot_segments: route.dot_segments,
            to: route.to.iter().map(upstream).collect(),
            span: None,
        };
        let routes = config.policy.routes.iter().map(open).collect();
        Draft { listen_spans: vec![None; config.listen.len()], routes, config, ..Draft::default() }
    }

    /// Where clients and commands come in.
    fn read_listeners(&mut self, file: &File) {
        for part in texts(&file.listen) {
            self.listen(&part);
        }
        if let Some(text) = &file.control {
            match control(text.get_ref()) {
                Ok(control) => self.config.control = control,
                Err(flaw) => self.flaw(flaw, text),
            }
        }
    }

    fn read(&mut self, file: &File) {
        self.read_listeners(file);
        for part in texts(&file.trusted) {
            self.trust(&part);
        }
        for route in &file.route {
            self.read_route(route);
        }
        if let Some(status) = &file.fault_status {
            let known = [FaultStatus::InternalServerError, FaultStatus::BadGateway];
            match known.into_iter().find(|known| fault_status(*known).to_string() == status.get_ref().to_string()) {
                Some(known) => self.config.policy.fault_status = known,
                None => self.flaw(Flaw::new("fault_status: expected 500 or 502"), status),
            }
        }
        if let Some(answer) = &file.http_1_0 {
            let written = answer.get_ref().to_string();
            match [Http10::Refuse, Http10::Serve].into_iter().find(|known| http_1_0(*known) == written) {
                Some(known) => self.config.policy.http_1_0 = known,
                None => {
                    let flaw = Flaw::new("http_1_0: expected \"refuse\" or \"serve\"");
                    self.flaw(flaw.suggest(&written, &["refuse", "serve"]), answer);
                }
            }
        }
        self.read_timeouts(&file.timeouts);
        self.read_limits(&file.limits);
        let Config { cool_down, upstream_idle, .. } = Config::default();
        self.config.cool_down = self.duration("upstream.cool_down", &file.upstream.cool_down, cool_down);
        self.config.upstream_idle = self.duration("upstream.idle", &file.upstream.idle, upstream_idle);
    }

    fn read_timeouts(&mut self, written: &file::Timeouts) {
        let default = Timeouts::default();
        self.config.policy.timeouts = Timeouts {
            head: self.duration("timeouts.head", &written.head, default.head),
            keep_alive: self.duration("timeouts.keep_alive", &written.keep_alive, default.keep_alive),
            connect: self.duration("timeouts.connect", &written.connect, default.connect),
            upgrade: self.duration("timeouts.upgrade", &written.upgrade, default.upgrade),
            response: self.duration_or_off("timeouts.response", &written.response, default.response),
            idle: self.duration_or_off("timeouts.idle", &written.idle, default.idle),
            tunnel: self.duration_or_off("timeouts.tunnel", &written.tunnel, default.tunnel),
            linger: self.duration("timeouts.linger", &written.linger, default.linger),
        };
        self.config.drain = self.duration("timeouts.drain", &written.drain, Config::default().drain);
    }

    fn read_limits(&mut self, written: &file::Limits) {
        let default = head::Limits::default();
        let ceiling = head::CEILING;
        let bytes_max = self.size_up_to("limits.head", &written.head, ceiling.bytes_max).unwrap_or(default.bytes_max);
        let target = self.size_up_to("limits.target", &written.target, ceiling.target_bytes_max);
        if let (Some(target), Some(value)) = (target, &written.target)
            && target > bytes_max
        {
            let head = quantity::size_text(bytes_max as u64);
            let flaw = Flaw::new(format!("limits.target: a target is part of a head, which holds at most {head}"));
            self.flaw(flaw.help("raise `limits.head` as well"), value);
        }
        // A smaller head is wish enough: it need not be followed by a smaller target.
        let target_bytes_max = target.unwrap_or(default.target_bytes_max.min(bytes_max));
        let fields_max =
            self.count("limits.fields", &written.fields, 1, ceiling.fields_max).unwrap_or(default.fields_max);
        let body = written.body.as_ref().and_then(|value| match value.get_ref() {
            Scalar::Text(text) if text == "off" => None,
            scalar => {
                self.taken("limits.body", value, quantity::size(&scalar.to_string()), Some("\"off\" is no limit"))
            }
        });
        self.config.policy.limits = Limits { head: head::Limits { bytes_max, target_bytes_max, fields_max }, body };
        self.config.connections = self.count("limits.connections", &written.connections, 1, usize::MAX);
        let idle_upstreams = self.count("limits.idle_upstreams", &written.idle_upstreams, 0, usize::MAX);
        self.config.idle_upstreams = idle_upstreams.unwrap_or(Config::default().idle_upstreams);
    }

    fn read_route(&mut self, route: &Spanned<file::Route>) {
        let file::Route { matching, to, strip, dot_segments } = route.get_ref();
        if let (Some(matching), Some(_)) = (matching, to) {
            let matching = Part { text: matching.get_ref(), span: matching.span() };
            return self.route(&matching, texts(to), *strip, *dot_segments);
        }
        self.routes_asked += 1;
        for (key, missing, example) in [("match", matching.is_none(), "/"), ("to", to.is_none(), "127.0.0.1:3000")] {
            if missing {
                let flaw = Flaw::new(format!("this route has no `{key}`"));
                self.flaw(flaw.help(format!("as in `{key} = \"{example}\"`")), route);
            }
        }
    }

    fn listen(&mut self, part: &Part<'_>) {
        self.listeners_asked += 1;
        let listen = match address::listener(part.text) {
            Ok(listen) => listen,
            Err(flaw) => return self.flaws.push(flaw.at(part.span.clone())),
        };
        if let Some(index) = self.config.listen.iter().position(|other| address::overlap(other, &listen)) {
            let other = &self.config.listen[index];
            let flaw = match *other == listen {
                true => Flaw::new(format!("the listener `{listen}` is written twice")),
                false => Flaw::new(format!("the listeners `{other}` and `{listen}` ask for the same port")),
            };
            return self.flaws.push(flaw.at(part.span.clone()).after(self.listen_spans[index].clone()));
        }
        let upstreams = self.routes.iter().flat_map(|route| &route.to);
        if let Some(upstream) = upstreams.into_iter().find(|upstream| address::reaches(&upstream.address, &listen)) {
            let flaw = circle(upstream, &listen);
            self.flaws.push(flaw.at(part.span.clone()));
        }
        self.config.listen.push(listen);
        self.listen_spans.push(Some(part.span.clone()));
    }

    fn trust(&mut self, part: &Part<'_>) {
        let trusted: &mut Trusted = &mut self.config.policy.trusted;
        match part.text.parse() {
            Ok(network) => trusted.networks.push(network),
            Err(_) if part.text == "unix:" => trusted.unix = true,
            Err(error) => {
                let flaw = Flaw::new(format!("trusted: {error}"));
                let help =
                    "expected a network (10.0.0.0/8, fd00::/8), an address, or \"unix:\" for clients of Unix listeners";
                self.flaws.push(flaw.help(help).at(part.span.clone()));
            }
        }
    }

    fn route(&mut self, matching: &Part<'_>, to: Vec<Part<'_>>, strip: bool, dot_segments: bool) {
        self.routes_asked += 1;
        if to.is_empty() {
            let flaw = Flaw::new(format!("the route `{}` names no upstream", matching.text));
            self.flaws.push(flaw.help("as in 127.0.0.1:3000").at(matching.span.clone()));
        }
        let mut upstreams: Vec<Upstream> = Vec::new();
        for part in to {
            let found = match address::upstreams(part.text) {
                Ok(found) => found,
                Err(flaw) => {
                    self.flaws.push(flaw.at(part.span));
                    continue;
                }
            };
            let own =
                |upstream: &Upstream| self.config.listen.iter().find(|own| address::reaches(&upstream.address, own));
            if let Some((upstream, own)) = found.iter().find_map(|upstream| Some((upstream, own(upstream)?))) {
                self.flaws.push(circle(upstream, own).at(part.span));
            }
            for upstream in found {
                if upstreams.iter().all(|other| other.address != upstream.address) {
                    upstreams.push(upstream);
                }
            }
        }
        let (host, prefix) = match pattern(matching.text) {
            Ok(pattern) => pattern,
            Err(flaw) => return self.flaws.push(flaw.at(matching.span.clone())),
        };
        if let Some(other) = self.routes.iter().find(|other| other.host == host && other.prefix == prefix) {
            let flaw = Flaw::new(format!("two routes match `{}`", matching.text));
            let flaw = flaw.help("several upstreams of one route are written as a list");
            return self.flaws.push(flaw.at(matching.span.clone()).after(other.span.clone()));
        }
        let span = Some(matching.span.clone());
        self.routes.push(RouteDraft { host, prefix, strip, dot_segments, to: upstreams, span });
    }

    /// A file and a command line must have at least one listener and one route.
    fn require_both(&mut self, listener_example: &str, route_example: &str) {
        if self.listeners_asked == 0 {
            self.flaws.push(Flaw::new("there is no listener").help(listener_example).nowhere());
        }
        if self.routes_asked == 0 {
            self.flaws.push(Flaw::new("there is no route").help(route_example).nowhere());
        }
    }

    fn duration(&mut self, key: &str, written: &Option<Spanned<Scalar>>, default: Duration) -> Duration {
        let Some(value) = written else { return default };
        let duration = match value.get_ref() {
            Scalar::Text(text) if text == "off" => {
                Err(Flaw::new("this one must end some day").help("only response, idle and tunnel can be \"off\""))
            }
            scalar => quantity::duration(&scalar.to_string()),
        };
        self.taken(key, value, duration, None).unwrap_or(default)
    }

    fn duration_or_off(
        &mut self,
        key: &str,
        written: &Option<Spanned<Scalar>>,
        default: Option<Duration>,
    ) -> Option<Duration> {
        let Some(value) = written else { return default };
        match value.get_ref().to_string().as_str() {
            "off" => None,
            text @ ("0" | "0s" | "none" | "never" | "Off" | "OFF") => {
                let flaw = Flaw::new(format!("`{text}` is not a duration"));
                self.taken(key, value, Err(flaw), Some("\"off\" waits for ever"))
            }
            text => self.taken(key, value, quantity::duration(text), None),
        }
    }

    fn size_up_to(&mut self, key: &str, written: &Option<Spanned<Scalar>>, ceiling: usize) -> Option<usize> {
        let value = written.as_ref()?;
        let size = quantity::size(&value.get_ref().to_string()).and_then(|bytes| {
            let fits = usize::try_from(bytes).ok().filter(|bytes| *bytes <= ceiling);
            fits.ok_or_else(|| Flaw::new(format!("at most {} can be allowed", quantity::size_text(ceiling as u64))))
        });
        self.taken(key, value, size, None)
    }

    fn count(&mut self, key: &str, written: &Option<Spanned<Scalar>>, least: usize, most: usize) -> Option<usize> {
        let value = written.as_ref()?;
        let count = match value.get_ref() {
            Scalar::Integer(number) => match usize::try_from(*number) {
                Ok(count) if count < least => Err(Flaw::new(format!("must be at least {least}"))),
                Ok(count) if count > most => Err(Flaw::new(format!("at most {most} can be allowed"))),
                Ok(count) => Ok(count),
                Err(_) => Err(Flaw::new(format!("`{number}` is not a count"))),
            },
            Scalar::Text(text) => Err(Flaw::new(format!("expected a whole number, not \"{text}\""))),
        };
        self.taken(key, value, count, None)
    }

    /// What was understood of the value of `key`; if it was not, the flaw is noted.
    fn taken<T>(&mut self, key: &str, value: &Spanned<Scalar>, read: Result<T, Flaw>, help: Option<&str>) -> Option<T> {
        read.map_err(|flaw| {
            let flaw = flaw.of_key(key);
            self.flaw(help.map_or(flaw.clone(), |help| flaw.help(help)), value);
        })
        .ok()
    }

    fn flaw<T>(&mut self, flaw: Flaw, value: &Spanned<T>) {
        self.flaws.push(flaw.at(value.span()));
    }

    /// The configuration, if nothing is wrong with it.
    fn finish(self) -> Result<Config, Vec<Placed>> {
        if !self.flaws.is_empty() {
            return Err(self.flaws);
        }
        let mut upstreams = Vec::new();
        let routes = self.routes.into_iter().map(|route| Route {
            host: route.host,
            prefix: route.prefix,
            strip: route.strip,
            dot_segments: route.dot_segments,
            to: route.to.into_iter().map(|upstream| number(&mut upstreams, upstream)).collect(),
        });
        let table = RouteTable::new(routes.collect());
        Ok(Config {
            policy: in_order_of_search(Policy { routes: table, upstreams, ..self.config.policy }),
            ..self.config
        })
    }
}

/// The same policy with its upstreams numbered as the search finds them, so that the order of routes in a file, which means
/// nothing, leaves no trace.
fn in_order_of_search(policy: Policy) -> Policy {
    let mut upstreams = Vec::new();
    let found = policy.upstreams;
    let routes = policy.routes.renumbered(|id| number(&mut upstreams, found[id.0 as usize].clone()));
    Policy { routes, upstreams, ..policy }
}

/// Where `upstream` is among `upstreams`, each address being there once.
fn number(upstreams: &mut Vec<Upstream>, upstream: Upstream) -> UpstreamId {
    let found = upstreams.iter().position(|other| other.address == upstream.address);
    let index = found.unwrap_or_else(|| {
        upstreams.push(upstream);
        upstreams.len() - 1
    });
    UpstreamId(index as u32)
}

fn circle(upstream: &Upstream, own: &Listen) -> Flaw {
    let Upstream { written, address } = upstream;
    let who = if *written == address.to_string() { format!("`{written}`") } else { format!("`{written}` ({address})") };
    Flaw::new(format!("the upstream {who} is hawkey's own listener `{own}`: requests would go round in circles"))
}

/// The texts of a list, or the one that stands for a list.
fn texts(written: &Option<Spanned<Texts>>) -> Vec<Part<'_>> {
    let Some(written) = written else { return Vec::new() };
    match written.get_ref() {
        Texts::One(text) => vec![Part { text, span: written.span() }],
        Texts::Many(texts) => texts.iter().map(|text| Part { text: text.get_ref(), span: text.span() }).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file that has what every file must have, and `more` below it, which begins at line 5.
    fn file_with(more: &str) -> Result<Config, ConfigError> {
        Config::from_toml(&format!("listen = ':8080'\n[[route]]\nmatch = '/'\nto = '127.0.0.1:3000'\n{more}"))
    }

    /// Holds the first flaw of `text` against its message, place, marked text and help.
    #[track_caller]
    fn assert_flaw(text: &str, message: &str, place: (usize, usize), marked: &str, help: &str) {
        let told = Config::from_toml(text).expect_err(text).to_string();
        let (line, column) = place;
        let shown = text.lines().nth(line - 1).unwrap_or("");
        let margin = " ".repeat(line.to_string().len());
        let carets = format!("{margin} | {}{}", " ".repeat(column - 1), "^".repeat(marked.chars().count().max(1)));
        let from_here: String = shown.chars().skip(column - 1).collect();
        assert!(
            from_here.starts_with(marked),
            "the test is wrong: `{marked}` does not stand at {line}:{column} of {shown}"
        );
        let head = format!(
            "error: {message}\n{margin}--> configuration:{line}:{column}\n{margin} |\n{line} | {shown}\n{carets}\n"
        );
        assert!(told.starts_with(&head), "expected:\n{head}\ncame:\n{told}");
        assert!(told.contains(help), "expected `{help}` in:\n{told}");
    }

    #[test]
    fn a_file_with_everything_is_understood() {
        let config = Config::from_toml(
            r#"
            listen = [":8080"]
            trusted = ["10.0.0.0/8"]
            fault_status = 500
            http_1_0 = "refuse"

            [[route]]
            match = "example.com/api"
            to = ["127.0.0.1:3000", "127.0.0.1:3001"]
            strip = true

            [timeouts]
            response = "60s"

            [limits]
            body = "10MiB"
            "#,
        )
        .unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(config.listen, [Listen::EveryAddress(8080)]);
        assert_eq!(config.policy.limits.body, Some(10 << 20));
        let route = config.policy.routes.iter().next().expect("one route");
        assert_eq!((route.to_string().as_str(), route.strip, route.dot_segments), ("example.com/api", true, false));
        assert_eq!(route.to, [UpstreamId(0), UpstreamId(1)]);
        let written: Vec<_> = config.policy.upstreams.iter().map(|upstream| upstream.written.as_str()).collect();
        assert_eq!(written, ["127.0.0.1:3000", "127.0.0.1:3001"]);
        let defaults = Config { listen: config.listen.clone(), policy: config.policy.clone(), ..Config::default() };
        assert_eq!(config, defaults, "what is not written has its default");
    }

    #[test]
    fn an_address_is_kept_once_and_numbered_in_the_order_of_the_search() {
        let one = "[[route]]\nmatch = '/'\nto = ['127.0.0.1:2', '127.0.0.1:1', '127.0.0.1:2']\n";
        let other = "[[route]]\nmatch = '/a'\nto = '127.0.0.1:1'\n";
        let config = Config::from_toml(&format!("listen = ':0'\n{one}{other}")).unwrap();
        assert_eq!(Config::from_toml(&format!("listen = ':0'\n{other}{one}")).unwrap(), config);
        let written: Vec<_> = config.policy.upstreams.iter().map(|upstream| upstream.written.as_str()).collect();
        assert_eq!(written, ["127.0.0.1:1", "127.0.0.1:2"]);
        let to: Vec<_> = config.policy.routes.iter().map(|route| route.to.clone()).collect();
        assert_eq!(to, [vec![UpstreamId(0)], vec![UpstreamId(1), UpstreamId(0)]]);
    }

    #[test]
    fn every_value_has_its_place_when_it_is_wrong() {
        let cases = [
            (
                "[timeouts]\nhead = '60'",
                "timeouts.head: `60` is not a duration: time unit needed, for example 60sec or 60ms",
                (6, 8),
                "'60'",
                "\"60s\"",
            ),
            (
                "[timeouts]\nhead = 60",
                "timeouts.head: `60` is not a duration: time unit needed, for example 60sec or 60ms",
                (6, 8),
                "60",
                "\"60s\"",
            ),
            (
                "[timeouts]\nidle = '0s'",
                "timeouts.idle: `0s` is not a duration",
                (6, 8),
                "'0s'",
                "\"off\" waits for ever",
            ),
            ("[timeouts]\ndrain = '0s'", "timeouts.drain: a duration must be more than zero", (6, 9), "'0s'", ""),
            (
                "[timeouts]\nlinger = 'off'",
                "timeouts.linger: this one must end some day",
                (6, 10),
                "'off'",
                "only response, idle and tunnel",
            ),
            (
                "[upstream]\ncool_down = 'x'",
                "upstream.cool_down: `x` is not a duration: expected number at 0",
                (6, 13),
                "'x'",
                "\"2s\"",
            ),
            (
                "[upstream]\nidle = '2 years'",
                "upstream.idle: `2 years` is more than 365 days, the longest duration",
                (6, 8),
                "'2 years'",
                "",
            ),
            ("[limits]\nhead = '33KiB'", "limits.head: at most 32KiB can be allowed", (6, 8), "'33KiB'", ""),
            ("[limits]\nhead = 0", "limits.head: a size must be more than zero", (6, 8), "0", ""),
            (
                "[limits]\ntarget = '17KiB'",
                "limits.target: a target is part of a head, which holds at most 16KiB",
                (6, 10),
                "'17KiB'",
                "raise",
            ),
            ("[limits]\ntarget = '64KiB'", "limits.target: at most 32KiB can be allowed", (6, 10), "'64KiB'", ""),
            ("[limits]\nfields = 257", "limits.fields: at most 256 can be allowed", (6, 10), "257", ""),
            ("[limits]\nfields = 0", "limits.fields: must be at least 1", (6, 10), "0", ""),
            ("[limits]\nfields = '100'", "limits.fields: expected a whole number, not \"100\"", (6, 10), "'100'", ""),
            ("[limits]\nconnections = 0", "limits.connections: must be at least 1", (6, 15), "0", ""),
            ("[limits]\nconnections = -1", "limits.connections: `-1` is not a count", (6, 15), "-1", ""),
            ("[limits]\nbody = 0", "limits.body: a size must be more than zero", (6, 8), "0", "\"off\" is no limit"),
            ("[limits]\nbody = '10M'", "limits.body: `10M` is not a size", (6, 8), "'10M'", ""),
            (
                "[limits]\nbody = true",
                "invalid type: boolean `true`, expected text or a whole number",
                (6, 8),
                "true",
                "",
            ),
            ("[limits]\nbody = 99999999999999999999", "this number is too large", (6, 8), "99999999999999999999", ""),
            ("strip = 'yes'", "invalid type: string \"yes\", expected a boolean", (5, 9), "'yes'", ""),
            (
                "[[route]]\nmatch = '/'\nto = '127.0.0.1:1'",
                "two routes match `/`",
                (6, 9),
                "'/'",
                "first written at line 3, column 9",
            ),
            (
                "[[route]]\nmatch = '/a?b'\nto = '127.0.0.1:1'",
                "a match is a path, and cannot have a query",
                (6, 9),
                "'/a?b'",
                "`/a`",
            ),
            (
                "[[route]]\nmatch = '/a'\nto = ['127.0.0.1:1', '127.0.0.1']",
                "the upstream `127.0.0.1` has no port",
                (7, 22),
                "'127.0.0.1'",
                "",
            ),
            ("[[route]]\nmatch = '/a'\nto = []", "the route `/a` names no upstream", (6, 9), "'/a'", ""),
            ("[[route]]\nto = '127.0.0.1:1'", "this route has no `match`", (5, 1), "[[route]]", "match = \"/\""),
            ("[[route]]\nmatch = '/a'", "this route has no `to`", (5, 1), "[[route]]", "to = \"127.0.0.1:3000\""),
            (
                "[[route]]\nmatch = '/a'\nto = '127.0.0.1:8080'",
                "the upstream `127.0.0.1:8080` is hawkey's own listener `:8080`: requests would go round in circles",
                (7, 6),
                "'127.0.0.1:8080'",
                "",
            ),
            ("[timeouts]\nhed = '1s'", "unknown key `hed`", (6, 1), "hed", "did you mean `head`?"),
            ("[[route]]\nmacth = '/'", "unknown key `macth`", (6, 1), "macth", "did you mean `match`?"),
            ("[timeout]\nhead = '1s'", "unknown key `timeout`", (5, 2), "timeout", "did you mean `timeouts`?"),
            (
                "fault_status = 502",
                "unknown key `fault_status`",
                (5, 1),
                "fault_status",
                "belongs at the top, before the first table",
            ),
            ("[limits]\ntunnel = 'off'", "unknown key `tunnel`", (6, 1), "tunnel", "belongs in [timeouts]"),
            ("[upstream]\nzzzzzz = 1", "unknown key `zzzzzz`", (6, 1), "zzzzzz", "known here: cool_down, idle"),
            ("to = 'x'", "duplicate key", (5, 1), "to", ""),
            ("[limits]\nbody = ", "string values must be quoted, expected literal string", (6, 8), "", ""),
        ];
        for (more, message, place, marked, help) in cases {
            let text = format!("listen = ':8080'\n[[route]]\nmatch = '/'\nto = '127.0.0.1:3000'\n{more}");
            assert_flaw(&text, message, place, marked, help);
        }
    }

    #[test]
    fn the_top_of_the_file_too() {
        let cases = [
            ("listen = '8080'", "`8080` is not a listener", (1, 10), "'8080'", "did you mean `:8080`?"),
            (
                "listen = [':80', ':80']",
                "the listener `:80` is written twice",
                (1, 18),
                "':80'",
                "first written at line 1, column 11",
            ),
            (
                "listen = [':80', '[::1]:80']",
                "the listeners `:80` and `[::1]:80` ask for the same port",
                (1, 18),
                "'[::1]:80'",
                "",
            ),
            (
                "listen = [':80', 'systemd:a:b']",
                "`a:b` is not a name of passed sockets",
                (1, 18),
                "'systemd:a:b'",
                "FileDescriptorName=",
            ),
            (
                "listen = ['systemd:a', 'systemd:a']",
                "the listener `systemd:a` is written twice",
                (1, 24),
                "'systemd:a'",
                "first written at line 1, column 11",
            ),
            ("listen = [80]", "invalid type: integer `80`, expected a string", (1, 11), "80", ""),
            ("listen = 80", "invalid type: integer `80`, expected text or a list of texts", (1, 10), "80", ""),
            (
                "trusted = ['10.0.0.0/33']",
                "trusted: /33 is longer than the 32 bits of the address",
                (1, 12),
                "'10.0.0.0/33'",
                "expected a network",
            ),
            ("trusted = 'lan'", "trusted: `lan` is not an IP address", (1, 11), "'lan'", "expected a network"),
            ("fault_status = 503", "fault_status: expected 500 or 502", (1, 16), "503", ""),
            (
                "http_1_0 = 'server'",
                "http_1_0: expected \"refuse\" or \"serve\"",
                (1, 12),
                "'server'",
                "did you mean `serve`?",
            ),
            ("fault_staus = 502", "unknown key `fault_staus`", (1, 1), "fault_staus", "did you mean `fault_status`?"),
            ("timeouts = 5", "invalid type: integer `5`, expected a table", (1, 12), "5", ""),
            (
                "[route]\nmatch = '/'",
                "invalid type: table, expected a list",
                (1, 1),
                "[route]",
                "write it as `[[route]]`",
            ),
            ("listen 8080", "key with no value, expected `=`", (1, 8), "", ""),
        ];
        for (text, message, place, marked, help) in cases {
            assert_flaw(text, message, place, marked, help);
        }
    }

    #[test]
    fn what_is_missing_altogether_has_no_place() {
        let expected = r#"error: there is no listener
  = help: as in `listen = [":8080"]`

error: there is no route
  = help: as in `[[route]]`, `match = "/"`, `to = "127.0.0.1:3000"`
"#;
        for text in ["", "listen = []", "# nothing\n"] {
            assert_eq!(Config::from_toml(text).unwrap_err().to_string(), expected, "of {text:?}");
        }
    }

    #[test]
    fn every_flaw_is_told_in_the_order_of_the_text() {
        let told =
            file_with("[timeouts]\nhead = 'x'\n[limits]\nfields = 0").unwrap_err().in_file("hawkey.toml").to_string();
        let places: Vec<&str> = told.lines().filter_map(|line| line.trim_start().strip_prefix("--> ")).collect();
        assert_eq!(places, ["hawkey.toml:6:8", "hawkey.toml:8:10"], "{told}");
    }

    #[test]
    fn what_may_be_off_is_off_and_a_smaller_head_takes_the_target_with_it() {
        let config = file_with(
            "[timeouts]\nresponse = 'off'\nidle = 'off'\ntunnel = 'off'\n[limits]\nhead = '4KiB'\nbody = 'off'",
        )
        .unwrap_or_else(|error| panic!("{error}"));
        let timeouts = &config.policy.timeouts;
        assert_eq!((timeouts.response, timeouts.idle, timeouts.tunnel), (None, None, None));
        assert_eq!(config.policy.limits.body, None);
        assert_eq!(
            config.policy.limits.head,
            head::Limits { bytes_max: 4096, target_bytes_max: 4096, fields_max: 100 }
        );
    }

    #[test]
    fn a_command_line_says_the_same_in_one_line() {
        let config = Config::from_words([
            "/=127.0.0.1:1,127.0.0.1:2",
            ":8080",
            "systemd:a=b",
            "example.com/api=unix:/run/a=b.sock",
        ])
        .unwrap();
        let text = "listen = [':8080', 'systemd:a=b']\n[[route]]\nmatch = '/'\nto = ['127.0.0.1:1', '127.0.0.1:2']\n\
                    [[route]]\nmatch = 'example.com/api'\nto = 'unix:/run/a=b.sock'";
        assert_eq!(config, Config::from_toml(text).unwrap());
        let built = Config::new()
            .route("example.com/api", ["unix:/run/a=b.sock"])
            .and_then(|config| config.listen(":8080"))
            .and_then(|config| config.listen("systemd:a=b"));
        assert_eq!(built.and_then(|config| config.route("/", ["127.0.0.1:1", "127.0.0.1:2"])), Ok(config));
    }

    #[test]
    fn a_wrong_word_is_marked_in_its_line() {
        let cases = [
            (
                &[":8080", "/chat127.0.0.1"][..],
                "error: expected MATCH=UPSTREAM, as in /chat=127.0.0.1:4000\n --> command line\n  |\n  | :8080 /chat127.0.0.1\n  |       \
                 ^^^^^^^^^^^^^^\n",
            ),
            (
                &[":8080", "/=127.0.0.1:3000,:9,"],
                "error: the upstream `:9` has no address\n --> command line\n  |\n  | :8080 /=127.0.0.1:3000,:9,\n  |                        ^^\n  \
                 = help: did you mean `127.0.0.1:9`?\n\nerror: an upstream is missing here\n --> command line\n  |\n  | :8080 \
                 /=127.0.0.1:3000,:9,\n  |                           ^\n  = help: expected 127.0.0.1:3000, [::1]:3000, name:3000 or \
                 unix:/path\n",
            ),
            (
                &["8080", "/=127.0.0.1:3000"],
                "error: `8080` is not a listener\n --> command line\n  |\n  | 8080 /=127.0.0.1:3000\n  | ^^^^\n  = help: did you mean \
                 `:8080`?\n",
            ),
            (
                &["example.com", ":80", "/=127.0.0.1:3000"],
                "error: `example.com` is neither a listener nor a route\n --> command line\n  |\n  | example.com :80 /=127.0.0.1:3000\n  | \
                 ^^^^^^^^^^^\n  = help: a listener is written :8080, a route /=127.0.0.1:3000\n",
            ),
            (&[":80"], "error: there is no route\n  = help: as in `hawkey :8080 /=127.0.0.1:3000`\n"),
            (&["/=127.0.0.1:3000"], "error: there is no listener\n  = help: as in `hawkey :8080 /=127.0.0.1:3000`\n"),
            (
                &[":80", "/=127.0.0.1:80"],
                "error: the upstream `127.0.0.1:80` is hawkey's own listener `:80`: requests would go round in circles\n --> command line\n  \
                 |\n  | :80 /=127.0.0.1:80\n  |       ^^^^^^^^^^^^\n",
            ),
        ];
        for (words, expected) in cases {
            assert_eq!(Config::from_words(words).unwrap_err().to_string(), expected, "of {words:?}");
        }
    }

    #[test]
    fn the_calls_of_a_program_are_held_to_the_same_rules() {
        let config =
            Config::new().listen("127.0.0.1:8080").and_then(|config| config.route("/a", ["127.0.0.1:1"])).unwrap();
        let cases = [
            (
                config.clone().listen("127.0.0.1:8080"),
                "error: the listener `127.0.0.1:8080` is written twice\n --> listener\n",
            ),
            (
                config.clone().listen("127.0.0.1:1"),
                "error: the upstream `127.0.0.1:1` is hawkey's own listener `127.0.0.1:1`",
            ),
            (
                config.clone().route("/a/", ["127.0.0.1:2"]),
                "error: two routes match `/a/`\n --> route\n  |\n  | /a/=127.0.0.1:2\n  | ^^^\n",
            ),
            (
                config.clone().route("/b", ["127.0.0.1:2", "3"]),
                "error: `3` is not an upstream\n --> route\n  |\n  | /b=127.0.0.1:2,3\n  |                ^\n",
            ),
            (config.route::<&str>("/b", []), "error: the route `/b` names no upstream\n"),
        ];
        for (result, expected) in cases {
            let told = result.expect_err(expected).to_string();
            assert!(told.starts_with(expected), "expected:\n{expected}\ncame:\n{told}");
        }
    }

    #[test]
    fn no_text_is_too_odd_to_be_told_about() {
        let text = "listen = [':80']\r\n# ü\r\n[[route]]\nmatch = \"/\\u00fc\"\nto = \"ü:1\"\n[limits]\nbody = '1ü'\n";
        for end in (0..text.len()).filter(|end| text.is_char_boundary(*end)) {
            for odd in ["", "\0", "\"", "ü", "\u{1b}[2J", "\u{feff}", "[[", "\n\n"] {
                let told = Config::from_toml(&format!("{}{odd}", &text[..end]))
                    .expect_err("it is wrong wherever it is cut")
                    .to_string();
                let is_plain = |line: &str| !line.contains(char::is_control);
                assert!(
                    told.starts_with("error: ") && told.lines().all(is_plain),
                    "cut at {end}, then {odd:?}: {told:?}"
                );
            }
        }
    }
}
