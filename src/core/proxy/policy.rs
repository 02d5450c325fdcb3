//! All that a session may ask of the configuration.
//!
//! A [`Policy`] never changes. It is shared as `Rc<Policy>`; an exchange takes it when its request is understood and drops it
//! when it ends, so that a reload swaps one pointer and disturbs nothing that is under way.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use crate::http::head;
use crate::proxy::route::RouteTable;

/// What sessions are held to, and where their requests go.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Policy {
    /// Host and path prefix → upstreams.
    pub routes: RouteTable,
    /// Every upstream that a route names, each once. [`UpstreamId`] counts into this list.
    pub upstreams: Vec<Upstream>,
    /// How long a session waits for what.
    pub timeouts: Timeouts,
    /// How much a message may hold.
    pub limits: Limits,
    /// Peers whose forwarding fields are believed.
    pub trusted: Trusted,
    /// The status when an upstream fails.
    pub fault_status: FaultStatus,
    /// What becomes of an HTTP/1.0 request.
    pub http_1_0: Http10,
}

impl Policy {
    /// The upstream of this number.
    pub fn upstream(&self, UpstreamId(place): UpstreamId) -> Option<&Upstream> {
        self.upstreams.get(place as usize)
    }

    /// Which upstream is at `address`.
    pub fn upstream_at(&self, address: &Address) -> Option<UpstreamId> {
        let place = self.upstreams.iter().position(|upstream| upstream.address == *address)?;
        u32::try_from(place).ok().map(UpstreamId)
    }

    /// `policy`, with an upstream at each of `addresses`: itself if it has them, else one that is longer by those that it lacks, to
    /// which no route leads. So a tunnel that moves here can name whom it leads to, though nobody else is sent there.
    pub fn knowing<'a>(policy: &Rc<Policy>, addresses: impl IntoIterator<Item = &'a Address>) -> Rc<Policy> {
        let mut knowing = Rc::clone(policy);
        for address in addresses {
            if knowing.upstream_at(address).is_none() {
                let upstream = Upstream { written: address.to_string(), address: address.clone() };
                Rc::make_mut(&mut knowing).upstreams.push(upstream);
            }
        }
        knowing
    }
}

/// Where an upstream is in [`Policy::upstreams`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UpstreamId(pub u32);

/// One address that requests are forwarded to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    /// As the configuration has it, for people: `app:3000`.
    pub written: String,
    /// Where to connect.
    pub address: Address,
}

/// A socket's address: TCP over either IP family, or a path in the file system.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// An IP address and a port.
    Tcp(SocketAddr),
    /// A Unix stream socket.
    Unix(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(address) => address.fmt(f),
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// The other end of a client's connection. Unix sockets give no address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAddress {
    /// An IPv4 or IPv6 client; an IPv4 client of a dual-stack listener is told by its IPv4 address.
    Tcp(IpAddr, u16),
    /// A client of a Unix socket.
    Unix,
}

impl ClientAddress {
    /// The IP address, if there is one.
    pub fn ip(&self) -> Option<IpAddr> {
        match self {
            ClientAddress::Tcp(ip, _) => Some(*ip),
            ClientAddress::Unix => None,
        }
    }
}

impl From<SocketAddr> for ClientAddress {
    fn from(address: SocketAddr) -> ClientAddress {
        ClientAddress::Tcp(address.ip().to_canonical(), address.port())
    }
}

impl fmt::Display for ClientAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ClientAddress::Tcp(ip, port) => SocketAddr::new(*ip, *port).fmt(f),
            ClientAddress::Unix => f.write_str("unix:"),
        }
    }
}

/// How long a session waits for what. `None` is for ever.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// For a whole request head, from its first byte or, on a new connection, from the accept. Absolute: not moved by bytes,
    /// so that a head sent a byte at a time ends as well.
    pub head: Duration,
    /// For the next request on a kept connection.
    pub keep_alive: Duration,
    /// For a connection to an upstream.
    pub connect: Duration,
    /// For the answer to a WebSocket handshake, the connection included.
    pub upgrade: Duration,
    /// For the head of a response, from when the request has been passed on whole.
    pub response: Option<Duration>,
    /// Between two bytes of a body, of a request or of a response.
    pub idle: Option<Duration>,
    /// Between two bytes of a tunnel or of an event stream, in either direction.
    pub tunnel: Option<Duration>,
    /// For the client to close after a last response.
    pub linger: Duration,
}

impl Default for Timeouts {
    fn default() -> Timeouts {
        Timeouts {
            head: Duration::from_secs(10),
            keep_alive: Duration::from_secs(60),
            connect: Duration::from_secs(5),
            upgrade: Duration::from_secs(5),
            response: Some(Duration::from_secs(60)),
            idle: Some(Duration::from_secs(60)),
            tunnel: Some(Duration::from_secs(3600)),
            linger: Duration::from_secs(2),
        }
    }
}

/// How much a message may hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Of a head: bytes in all, bytes of the target, fields.
    pub head: head::Limits,
    /// Bytes of a request's body; `None` is no limit.
    pub body: Option<u64>,
}

/// The status when an upstream fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FaultStatus {
    /// 500, what hawkey's users expect.
    #[default]
    InternalServerError,
    /// 502, the habit of other proxies.
    BadGateway,
}

/// What becomes of an HTTP/1.0 request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Http10 {
    /// 500 `Not Supported`.
    #[default]
    Refuse,
    /// Answered as HTTP/1.0.
    Serve,
}

/// Peers whose forwarding fields are believed: networks, and possibly every client of a Unix socket.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trusted {
    /// IP networks.
    pub networks: Vec<Network>,
    /// Whether clients of Unix listeners are trusted.
    pub unix: bool,
}

impl Trusted {
    /// Whether what `client` says of the client before it is believed.
    pub fn contains(&self, client: &ClientAddress) -> bool {
        match client {
            ClientAddress::Tcp(ip, _) => self.networks.iter().any(|network| network.contains(*ip)),
            ClientAddress::Unix => self.unix,
        }
    }
}

/// An IP network: `10.0.0.0/8`, `fd00::/8`, or a single address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    prefix_bits: u8,
}

impl Network {
    /// The network of the first `prefix_bits` bits of `address`; `None` if the family has fewer bits.
    pub fn new(address: IpAddr, prefix_bits: u8) -> Option<Network> {
        (prefix_bits <= bits_of(address)).then_some(Network { address, prefix_bits })
    }

    /// Whether `ip` lies in this network. An address of the other family never does.
    pub fn contains(&self, ip: IpAddr) -> bool {
        match (self.address, ip) {
            (IpAddr::V4(ours), IpAddr::V4(theirs)) => {
                let differing = u32::from(ours) ^ u32::from(theirs);
                differing.leading_zeros() >= u32::from(self.prefix_bits)
            }
            (IpAddr::V6(ours), IpAddr::V6(theirs)) => {
                let differing = u128::from(ours) ^ u128::from(theirs);
                differing.leading_zeros() >= u32::from(self.prefix_bits)
            }
            _ => false,
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix_bits)
    }
}

impl std::str::FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Network, String> {
        let (address, prefix) = text.split_once('/').map_or((text, None), |(address, prefix)| (address, Some(prefix)));
        let address: IpAddr = address.parse().map_err(|_| format!("`{address}` is not an IP address"))?;
        let bits = match prefix {
            None => bits_of(address),
            Some(prefix) => prefix.parse().map_err(|_| format!("`{prefix}` is not a number of bits"))?,
        };
        Network::new(address, bits)
            .ok_or_else(|| format!("/{bits} is longer than the {} bits of the address", bits_of(address)))
    }
}

fn bits_of(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_contains_what_shares_its_prefix() {
        let cases = [
            ("10.0.0.0/8", "10.255.0.1", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("0.0.0.0/0", "203.0.113.9", true),
            ("192.0.2.7", "192.0.2.7", true),
            ("192.0.2.7", "192.0.2.6", false),
            ("fd00::/8", "fdff::1", true),
            ("fd00::/8", "fe00::1", false),
            ("::/0", "192.0.2.7", false),
        ];
        for (network, ip, expected) in cases {
            let parsed: Network = network.parse().unwrap();
            assert_eq!(parsed.contains(ip.parse().unwrap()), expected, "{ip} in {network}");
        }
    }

    #[test]
    fn a_network_that_cannot_be_says_why() {
        for (text, part) in
            [("10.0.0.0/33", "32 bits"), ("ten/8", "`ten`"), ("10.0.0.0/x", "`x`"), ("::1/129", "128 bits")]
        {
            let error = text.parse::<Network>().unwrap_err();
            assert!(error.contains(part), "{text}: expected {part} in: {error}");
        }
    }

    #[test]
    fn a_mapped_client_is_told_by_its_ipv4_address() {
        let mapped: SocketAddr = "[::ffff:192.0.2.7]:80".parse().unwrap();
        assert_eq!(ClientAddress::from(mapped).to_string(), "192.0.2.7:80");
    }
}
