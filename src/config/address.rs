//! Addresses: of listeners, and of upstreams, whose names are resolved here.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::path::PathBuf;

use super::error::Flaw;
use super::pattern::host_name;
use super::{Listen, PASSED};
use crate::proxy::policy::{Address, Upstream};

/// The longest path of a Unix socket in bytes: `sun_path` holds 108, the last one zero.
const UNIX_PATH_BYTES_MAX: usize = 107;

/// Names of passed sockets have at most so many bytes in systemd.
const PASSED_BYTES_MAX: usize = 255;

/// `:8080`, `127.0.0.1:8080`, `[::1]:8080`, `unix:/path`, `systemd:NAME`.
pub(super) fn listener(text: &str) -> Result<Listen, Flaw> {
    if let Some(path) = text.strip_prefix("unix:") {
        return unix(path).map(Listen::Address);
    }
    if let Some(name) = text.strip_prefix(PASSED) {
        return passed(name).map(Listen::Passed);
    }
    if let Some(port) = text.strip_prefix(':')
        && !port.contains(':')
    {
        return parse_port(port).map(Listen::EveryAddress);
    }
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Ok(Listen::Address(Address::Tcp(address)));
    }
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Err(without_port("listener", ip, 8080));
    }
    let flaw = Flaw::new(format!("`{text}` is not a listener"));
    let Some((host, port)) = text.rsplit_once(':') else {
        let meant = parse_port(text).is_ok().then(|| format!("did you mean `:{text}`?"));
        return Err(flaw.help(meant.as_deref().unwrap_or("expected :8080, 127.0.0.1:8080, [::1]:8080 or unix:/path")));
    };
    parse_port(port)?;
    Err(match host {
        "*" => flaw.help(format!("every address of both families is `:{port}`")),
        "localhost" => flaw.help(format!("a listener is an address, not a name: did you mean `127.0.0.1:{port}`?")),
        _ => flaw.help("expected :8080, 127.0.0.1:8080, [::1]:8080 or unix:/path"),
    })
}

/// `127.0.0.1:3000`, `[::1]:3000`, `name:3000`, `unix:/path`: one upstream, or as many as the name has addresses.
pub(super) fn upstreams(text: &str) -> Result<Vec<Upstream>, Flaw> {
    let upstream = |address| Upstream { written: text.to_owned(), address };
    if let Some(path) = text.strip_prefix("unix:") {
        return Ok(vec![upstream(unix(path)?)]);
    }
    if let Some((scheme, rest)) = text.split_once("://") {
        let flaw = Flaw::new(format!("an upstream is an address, not a URL: `{text}`"));
        return Err(match scheme {
            "http" | "ws" => flaw.help(format!("did you mean `{}`?", rest.trim_end_matches('/'))),
            _ => flaw.help("upstreams are spoken to in plain HTTP/1.1"),
        });
    }
    if let Ok(address) = text.parse::<SocketAddr>() {
        upstream_port(address.port())?;
        return Ok(vec![upstream(Address::Tcp(address))]);
    }
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Err(without_port("upstream", ip, 3000));
    }
    if parse_port(text).is_ok() {
        return Err(Flaw::new(format!("`{text}` is not an upstream")).help(format!("did you mean `127.0.0.1:{text}`?")));
    }
    let expected = "expected 127.0.0.1:3000, [::1]:3000, name:3000 or unix:/path";
    let Some((name, port)) = text.rsplit_once(':') else {
        let flaw = Flaw::new(format!("the upstream `{text}` has no port"));
        return Err(if text.is_empty() { Flaw::new("an upstream is missing here") } else { flaw }.help(expected));
    };
    let port = parse_port(port)?;
    upstream_port(port)?;
    if name.is_empty() {
        let flaw = Flaw::new(format!("the upstream `{text}` has no address"));
        return Err(flaw.help(format!("did you mean `127.0.0.1:{port}`?")));
    }
    if let Ok(ip) = name.parse::<IpAddr>() {
        // Only an IPv6 address without brackets comes this far.
        let flaw = Flaw::new(format!("an IPv6 address stands in brackets: `{text}`"));
        return Err(flaw.help(format!("did you mean `{}`?", SocketAddr::new(ip, port))));
    }
    host_name(name.strip_suffix('.').unwrap_or(name)).map_err(|flaw| flaw.help(expected))?;
    // The resolver would take `127.1` and `1.2.3` for addresses. Here they are what they look like: mistakes.
    if name.rsplit('.').next().is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit())) {
        return Err(Flaw::new(format!("`{name}` is neither an IP address nor a name")).help(expected));
    }
    match (name, port).to_socket_addrs() {
        Ok(addresses) => {
            let found: Vec<Upstream> = addresses.map(|address| upstream(Address::Tcp(address))).collect();
            if found.is_empty() { Err(Flaw::new(format!("the name `{name}` has no address"))) } else { Ok(found) }
        }
        Err(error) => Err(Flaw::new(format!("the name `{name}` could not be resolved: {error}"))),
    }
}

/// Whether connecting to `upstream` would reach `listener`. Only what can be told without asking the machine for its
/// addresses: equal addresses, and a listener on all of them reached over loopback.
pub(super) fn reaches(upstream: &Address, listener: &Listen) -> bool {
    let (upstream, ip, port) = match (upstream, listener) {
        (Address::Tcp(upstream), Listen::EveryAddress(port)) => (upstream, None, *port),
        (Address::Tcp(upstream), Listen::Address(Address::Tcp(own))) => (upstream, Some(own.ip()), own.port()),
        (Address::Unix(upstream), Listen::Address(Address::Unix(own))) => return upstream == own,
        (Address::Unix(_), _) | (_, Listen::Address(Address::Unix(_)) | Listen::Passed(_)) => return false,
    };
    let to = upstream.ip().to_canonical();
    // Connecting to the unspecified address is connecting to this machine.
    let here = to.is_loopback() || to.is_unspecified();
    // Port 0 is no exception: an upstream cannot have it.
    upstream.port() == port
        && match ip {
            // A listener on `[::]` takes IPv4 as well, unless the system was told otherwise.
            None | Some(IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED)) => here,
            Some(own) if own.is_unspecified() => here && to.is_ipv4(),
            Some(own) if to.is_unspecified() => own.is_loopback() && own.is_ipv4() == to.is_ipv4(),
            Some(own) => own.to_canonical() == to,
        }
}

/// Whether both listeners would ask for the same port of the same address.
pub(super) fn overlap(one: &Listen, other: &Listen) -> bool {
    let (one, other) = match (one, other) {
        (Listen::EveryAddress(port), Listen::EveryAddress(other)) => return port == other && *port != 0,
        (Listen::EveryAddress(port), Listen::Address(address))
        | (Listen::Address(address), Listen::EveryAddress(port)) => {
            return matches!(address, Address::Tcp(address) if address.port() == *port && *port != 0);
        }
        (Listen::Address(one), Listen::Address(other)) => (one, other),
        (Listen::Passed(one), Listen::Passed(other)) => return one == other,
        (Listen::Passed(_), _) | (_, Listen::Passed(_)) => return false,
    };
    match (one, other) {
        (Address::Tcp(one), Address::Tcp(other)) => {
            let (ip, other_ip) = (one.ip().to_canonical(), other.ip().to_canonical());
            let same_family = ip.is_ipv4() == other_ip.is_ipv4();
            let covered = same_family && (ip.is_unspecified() || other_ip.is_unspecified());
            one.port() != 0 && one.port() == other.port() && (ip == other_ip || covered)
        }
        (Address::Unix(one), Address::Unix(other)) => one == other,
        (Address::Tcp(_), Address::Unix(_)) | (Address::Unix(_), Address::Tcp(_)) => false,
    }
}

fn unix(path: &str) -> Result<Address, Flaw> {
    if !path.starts_with('/') {
        return Err(Flaw::new(format!("`{path}` is not a whole path")).help("as in `unix:/run/app.sock`"));
    }
    if path.len() > UNIX_PATH_BYTES_MAX {
        let length = path.len();
        return Err(Flaw::new(format!(
            "the path of a socket has at most {UNIX_PATH_BYTES_MAX} bytes, and this one has {length}"
        )));
    }
    if path.contains('\0') {
        return Err(Flaw::new("a path cannot have a zero byte"));
    }
    Ok(Address::Unix(PathBuf::from(path)))
}

/// A name as `FileDescriptorName=` of a socket unit takes it.
fn passed(name: &str) -> Result<String, Flaw> {
    let may = |byte| matches!(byte, b' '..=b'~') && byte != b':';
    if name.is_empty() || name.len() > PASSED_BYTES_MAX || !name.bytes().all(may) {
        return Err(Flaw::new(format!("`{name}` is not a name of passed sockets"))
            .help("a socket unit's FileDescriptorName=, or without one the unit's own: `systemd:hawkey.socket`"));
    }
    Ok(name.to_owned())
}

fn without_port(what: &str, ip: IpAddr, example: u16) -> Flaw {
    let flaw = Flaw::new(format!("the {what} `{ip}` has no port"));
    match ip {
        IpAddr::V4(_) => flaw.help(format!("as in `{ip}:{example}`")),
        IpAddr::V6(_) => flaw.help(format!("brackets part an IPv6 address from its port: `[::1]:{example}`")),
    }
}

fn parse_port(text: &str) -> Result<u16, Flaw> {
    // `parse` alone would take `+80`.
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let number = text.parse().ok().filter(|_| digits);
    number.ok_or_else(|| Flaw::new(format!("`{text}` is not a port")).help("ports are numbers up to 65535"))
}

fn upstream_port(port: u16) -> Result<(), Flaw> {
    if port == 0 { Err(Flaw::new("an upstream cannot have port 0")) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listeners() {
        for text in [":8080", ":0", "127.0.0.1:8080", "[::1]:8080", "0.0.0.0:80", "unix:/run/a=b,c.sock", "systemd:web"]
        {
            assert_eq!(listener(text).map(|listen| listen.to_string()), Ok(text.to_owned()));
        }
        assert_eq!(listener(":80"), Ok(Listen::EveryAddress(80)));
    }

    #[test]
    fn what_is_no_listener_says_what_was_meant() {
        let cases = [
            ("8080", "did you mean `:8080`?"),
            (":65536", "`65536` is not a port"),
            (":+80", "`+80` is not a port"),
            (":", "`` is not a port"),
            ("127.0.0.1:99999", "`99999` is not a port"),
            ("*:80", "is `:80`"),
            ("127.0.0.1", "as in `127.0.0.1:8080`"),
            ("::1", "brackets part"),
            ("::1:8080", "brackets part"),
            ("localhost:80", "did you mean `127.0.0.1:80`?"),
            ("example.com:80", "expected :8080"),
            ("unix:run/a.sock", "not a whole path"),
            ("unix:", "not a whole path"),
            ("", "expected :8080"),
            ("systemd:", "`` is not a name"),
            ("systemd:a:b", "`a:b` is not a name"),
            ("systemd:ä", "`ä` is not a name"),
        ];
        for (text, part) in cases {
            let told = format!("{:?}", listener(text).expect_err(text));
            assert!(told.contains(part), "`{text}`: expected `{part}` in {told}");
        }
        assert!(listener(&format!("unix:/{}", "a".repeat(106))).is_ok());
        assert!(listener(&format!("unix:/{}", "a".repeat(107))).is_err(), "a path of 108 bytes was taken");
    }

    #[test]
    fn upstreams_keep_what_was_written() {
        for text in ["127.0.0.1:3000", "[::1]:3000", "unix:/run/api.sock"] {
            let found = upstreams(text).unwrap();
            assert_eq!(found.len(), 1, "{text}");
            assert_eq!((found[0].written.as_str(), found[0].address.to_string().as_str()), (text, text));
        }
        let named = upstreams("localhost:3000").unwrap();
        assert!(named.iter().all(|upstream| upstream.written == "localhost:3000"), "{named:?}");
        assert!(named.iter().any(|upstream| upstream.address.to_string().ends_with(":3000")), "{named:?}");
    }

    #[test]
    fn what_is_no_upstream_says_what_was_meant() {
        let unknown = format!("{}:80", "x".repeat(70));
        let cases = [
            ("", "missing here"),
            ("3000", "did you mean `127.0.0.1:3000`?"),
            (":3000", "did you mean `127.0.0.1:3000`?"),
            ("127.0.0.1", "as in `127.0.0.1:3000`"),
            ("127.0.0.1:0", "port 0"),
            ("app:0", "port 0"),
            ("127.0.0.1:65536", "`65536` is not a port"),
            ("app:http", "`http` is not a port"),
            ("app", "has no port"),
            ("::1:3000", "brackets part"),
            ("1:2:3:4:5:6:7:8:3000", "did you mean `[1:2:3:4:5:6:7:8]:3000`?"),
            ("127.1:3000", "neither an IP address nor a name"),
            ("127.0.0.256:3000", "neither an IP address nor a name"),
            ("http://127.0.0.1:3000/", "did you mean `127.0.0.1:3000`?"),
            ("https://127.0.0.1:3000", "plain HTTP/1.1"),
            ("a b:3000", "` ` cannot be in the name"),
            ("unix:api.sock", "not a whole path"),
            (unknown.as_str(), "could not be resolved"),
        ];
        for (text, part) in cases {
            let told = format!("{:?}", upstreams(text).expect_err(text));
            assert!(told.contains(part), "`{text}`: expected `{part}` in {told}");
        }
    }

    #[test]
    fn an_upstream_that_is_a_listener_is_seen() {
        let cases = [
            (":8080", "127.0.0.1:8080", true),
            (":8080", "[::1]:8080", true),
            (":8080", "127.9.9.9:8080", true),
            (":8080", "0.0.0.0:8080", true),
            (":8080", "[::ffff:127.0.0.1]:8080", true),
            (":8080", "127.0.0.1:8081", false),
            (":8080", "192.0.2.1:8080", false),
            (":0", "127.0.0.1:8080", false),
            ("0.0.0.0:8080", "127.0.0.1:8080", true),
            ("0.0.0.0:8080", "[::1]:8080", false),
            ("[::]:8080", "127.0.0.1:8080", true),
            ("192.0.2.1:8080", "192.0.2.1:8080", true),
            ("192.0.2.1:8080", "127.0.0.1:8080", false),
            ("127.0.0.1:8080", "0.0.0.0:8080", true),
            ("unix:/a", "unix:/a", true),
            ("unix:/a", "unix:/b", false),
            (":8080", "unix:/a", false),
        ];
        for (own, upstream, expected) in cases {
            let to = &upstreams(upstream).unwrap()[0].address;
            assert_eq!(reaches(to, &listener(own).unwrap()), expected, "{upstream} and the listener {own}");
        }
    }

    #[test]
    fn listeners_that_ask_for_the_same_port_overlap() {
        let cases = [
            (":80", ":80", true),
            (":80", ":81", false),
            (":0", ":0", false),
            (":80", "127.0.0.1:80", true),
            ("0.0.0.0:80", "127.0.0.1:80", true),
            ("0.0.0.0:80", "[::1]:80", false),
            ("127.0.0.1:80", "127.0.0.1:80", true),
            ("127.0.0.1:0", "127.0.0.1:0", false),
            ("127.0.0.1:80", "127.0.0.2:80", false),
            ("unix:/a", "unix:/a", true),
            ("unix:/a", ":80", false),
        ];
        for (one, other, expected) in cases {
            let (one, other) = (listener(one).unwrap(), listener(other).unwrap());
            assert_eq!((overlap(&one, &other), overlap(&other, &one)), (expected, expected), "{one} and {other}");
        }
    }
}
