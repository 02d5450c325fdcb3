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
mod tests;
