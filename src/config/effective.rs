//! A [`Config`] as the file that would give it, every default filled in.

use std::fmt::{self, Display, Formatter};
use std::time::Duration;

use super::quantity::size_text;
use super::{Config, Control};
use crate::proxy::policy::{FaultStatus, Http10, Policy, Upstream, UpstreamId};

impl Display for Config {
    /// The configuration in TOML. [`Config::from_toml`] gives an equal one back, as long as the names in it have the same
    /// addresses.
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let policy = &self.policy;
        writeln!(f, "listen = {}", List(self.listen.iter().map(|listen| listen.to_string())))?;
        match &self.control {
            Control::Default => {
                writeln!(f, "# control: hawkey-PORT.sock of the first listener, in $XDG_RUNTIME_DIR or /run")?
            }
            Control::Off => writeln!(f, "control = \"off\"")?,
            Control::At(path) => writeln!(f, "control = {}", Quoted(&path.display().to_string()))?,
        }
        let unix = policy.trusted.unix.then(|| "unix:".to_owned());
        writeln!(
            f,
            "trusted = {}",
            List(policy.trusted.networks.iter().map(|network| network.to_string()).chain(unix))
        )?;
        writeln!(f, "fault_status = {}", fault_status(policy.fault_status))?;
        writeln!(f, "http_1_0 = {}", Quoted(http_1_0(policy.http_1_0)))?;

        for route in policy.routes.iter() {
            writeln!(f, "\n[[route]]")?;
            writeln!(f, "match = {}", Quoted(&route.to_string()))?;
            writeln!(f, "to = {}", List(written(policy, &route.to).into_iter()))?;
            for id in &route.to {
                let upstream = &policy.upstreams[id.0 as usize];
                let address = upstream.address.to_string();
                if address != upstream.written {
                    writeln!(f, "# {} is {address}", OneLine(&upstream.written))?;
                }
            }
            writeln!(f, "strip = {}", route.strip)?;
            writeln!(f, "dot_segments = {}", route.dot_segments)?;
        }

        let timeouts = &policy.timeouts;
        writeln!(f, "\n[timeouts]")?;
        writeln!(f, "head = {}", Time(Some(timeouts.head)))?;
        writeln!(f, "keep_alive = {}", Time(Some(timeouts.keep_alive)))?;
        writeln!(f, "connect = {}", Time(Some(timeouts.connect)))?;
        writeln!(f, "upgrade = {}", Time(Some(timeouts.upgrade)))?;
        writeln!(f, "response = {}", Time(timeouts.response))?;
        writeln!(f, "idle = {}", Time(timeouts.idle))?;
        writeln!(f, "tunnel = {}", Time(timeouts.tunnel))?;
        writeln!(f, "linger = {}", Time(Some(timeouts.linger)))?;
        writeln!(f, "drain = {}", Time(Some(self.drain)))?;

        let limits = &policy.limits;
        writeln!(f, "\n[limits]")?;
        match self.connections {
            Some(connections) => writeln!(f, "connections = {connections}")?,
            None => writeln!(f, "# connections: half of the descriptor limit less 16, worked out at the start")?,
        }
        writeln!(f, "head = {}", Quoted(&size_text(limits.head.bytes_max as u64)))?;
        writeln!(f, "target = {}", Quoted(&size_text(limits.head.target_bytes_max as u64)))?;
        writeln!(f, "fields = {}", limits.head.fields_max)?;
        writeln!(f, "body = {}", Quoted(&limits.body.map_or_else(|| "off".to_owned(), size_text)))?;
        writeln!(f, "idle_upstreams = {}", self.idle_upstreams)?;

        writeln!(f, "\n[upstream]")?;
        writeln!(f, "cool_down = {}", Time(Some(self.cool_down)))?;
        writeln!(f, "idle = {}", Time(Some(self.upstream_idle)))
    }
}

/// The texts that give the upstreams `to`: a name where all of its addresses are among them, else addresses. Another route may
/// name one of a name's addresses by itself, and an address is kept once.
fn written(policy: &Policy, to: &[UpstreamId]) -> Vec<String> {
    let mut texts: Vec<String> = Vec::new();
    for id in to {
        let upstream = &policy.upstreams[id.0 as usize];
        let same_name = |other: &Upstream| other.written == upstream.written;
        let all_of_them = policy.upstreams.iter().filter(|other| same_name(other)).count();
        let ours = to.iter().filter(|id| same_name(&policy.upstreams[id.0 as usize])).count();
        let text = if ours == all_of_them { upstream.written.clone() } else { upstream.address.to_string() };
        if !texts.contains(&text) {
            texts.push(text);
        }
    }
    texts
}

pub(super) fn fault_status(status: FaultStatus) -> i64 {
    match status {
        FaultStatus::InternalServerError => 500,
        FaultStatus::BadGateway => 502,
    }
}

pub(super) fn http_1_0(answer: Http10) -> &'static str {
    match answer {
        Http10::Refuse => "refuse",
        Http10::Serve => "serve",
    }
}

/// A basic string of TOML.
struct Quoted<'t>(&'t str);

impl Display for Quoted<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("\"")?;
        for c in self.0.chars() {
            match c {
                '"' => f.write_str("\\\"")?,
                '\\' => f.write_str("\\\\")?,
                c if c.is_control() => write!(f, "\\u{:04X}", u32::from(c))?,
                c => write!(f, "{c}")?,
            }
        }
        f.write_str("\"")
    }
}

/// Text in a comment, which no control character may end or disturb.
struct OneLine<'t>(&'t str);

impl Display for OneLine<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.0
            .chars()
            .try_for_each(|c| if c.is_control() { write!(f, "{}", c.escape_default()) } else { write!(f, "{c}") })
    }
}

/// A duration, or `"off"` for the one that never ends.
struct Time(Option<Duration>);

impl Display for Time {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(duration) => Quoted(&humantime::format_duration(duration).to_string()).fmt(f),
            None => f.write_str("\"off\""),
        }
    }
}

/// An array of strings.
struct List<I>(I);

impl<I: Iterator<Item = String> + Clone> Display for List<I> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("[")?;
        for (index, text) in self.0.clone().enumerate() {
            let comma = if index > 0 { ", " } else { "" };
            write!(f, "{comma}{}", Quoted(&text))?;
        }
        f.write_str("]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::policy::Address;

    const ALL: &str = r#"
        listen = [":8080", "127.0.0.1:9000", "[::1]:9001", "unix:/run/\"odd\" \\ \u0007name.sock", "systemd:web"]
        control = "/run/some where.sock"
        trusted = ["10.0.0.0/8", "unix:", "fd00::/8"]
        fault_status = 502
        http_1_0 = "serve"
        [[route]]
        match = "/"
        to = "localhost:3000"
        [[route]]
        match = "*.example.com/a%20b"
        to = ["[::1]:3000", "127.0.0.1:3000"]
        strip = true
        dot_segments = true
        [[route]]
        match = "[::1]"
        to = ["localhost:3001", "unix:/run/ü.sock"]
        [[route]]
        match = "www.example.com/a/b"
        to = "127.0.0.1:3001"
        [timeouts]
        head = "1500ms"
        keep_alive = "1m 1s"
        connect = "1us"
        upgrade = "3s"
        response = "off"
        idle = "off"
        tunnel = "off"
        linger = "4s"
        drain = "5s"
        [limits]
        connections = 1000
        head = 5000
        target = "1KiB"
        fields = 256
        body = "10MiB"
        idle_upstreams = 0
        [upstream]
        cool_down = "1s"
        idle = "90s"
    "#;

    #[test]
    fn what_is_printed_reads_as_the_same_configuration() {
        let smallest = "listen = ':0'\n[[route]]\nmatch = '/'\nto = '127.0.0.1:1'";
        for text in [smallest, ALL] {
            let config = Config::from_toml(text).unwrap_or_else(|error| panic!("{error}"));
            let printed = config.to_string();
            let again = Config::from_toml(&printed).unwrap_or_else(|error| panic!("{printed}\n{error}"));
            assert_eq!(again, config, "read again from:\n{printed}");
            assert_eq!(again.to_string(), printed, "the second print differs");
        }
    }

    #[test]
    fn a_name_stands_only_where_all_of_its_addresses_do() {
        let upstream = |written: &str, address: &str| Upstream {
            written: written.into(),
            address: Address::Tcp(address.parse().expect("an address")),
        };
        let upstreams = vec![upstream("app:80", "192.0.2.1:80"), upstream("app:80", "192.0.2.2:80")];
        let policy = Policy { upstreams, ..Policy::default() };
        assert_eq!(written(&policy, &[UpstreamId(0), UpstreamId(1)]), ["app:80"]);
        assert_eq!(written(&policy, &[UpstreamId(1)]), ["192.0.2.2:80"]);
    }

    #[test]
    fn every_default_is_filled_in() {
        let config = Config::new().listen(":8080").unwrap().route("/", ["127.0.0.1:3000"]).unwrap();
        let expected = r#"listen = [":8080"]
# control: hawkey-PORT.sock of the first listener, in $XDG_RUNTIME_DIR or /run
trusted = []
fault_status = 500
http_1_0 = "refuse"

[[route]]
match = "/"
to = ["127.0.0.1:3000"]
strip = false
dot_segments = false

[timeouts]
head = "10s"
keep_alive = "1m"
connect = "5s"
upgrade = "5s"
response = "1m"
idle = "1m"
tunnel = "1h"
linger = "2s"
drain = "30s"

[limits]
# connections: half of the descriptor limit less 16, worked out at the start
head = "16KiB"
target = "8KiB"
fields = 100
body = "off"
idle_upstreams = 128

[upstream]
cool_down = "2s"
idle = "30s"
"#;
        assert_eq!(config.to_string(), expected);
    }
}
