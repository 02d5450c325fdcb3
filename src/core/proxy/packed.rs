//! A session that moves to another process: as values, and as the bytes that two versions of hawkey agree on.
//!
//! What moves is a tunnel, or a client between two requests; [`Session::pack`](crate::proxy::session::Session::pack) makes it and
//! [`Session::unpack`](crate::proxy::session::Session::unpack) goes on from it. Its bytes are one record, whose fields
//! docs/decisions/0009-packed-session.md lists. Whoever sends them may be of another version, or broken: [`Packed::decode`] refuses
//! what no session can be, allocates nothing but the path of a Unix socket, and promises never to panic.

use std::fmt;
use std::net::{IpAddr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::path::PathBuf;
use std::time::Duration;

use crate::proxy::buffer::READ_BYTES;
use crate::proxy::policy::{Address, ClientAddress};
use crate::proxy::record::Number;
use crate::proxy::side::{Both, Side};

/// The version of the record, to be agreed on before the first one. A field that a reader may skip is added without a new one: it
/// goes behind the others.
pub const VERSION: u32 = 1;
/// What may wait unsent in one direction: what a read brings, and a head that has grown to three times its size.
pub const UNSENT_BYTES_MAX: usize = 4 * READ_BYTES;
/// A record, the field that tells its length not counted: the bytes of both directions, and room for all other fields.
pub const RECORD_BYTES_MAX: usize = 2 * UNSENT_BYTES_MAX + 4096;
/// The path of a Unix socket; the kernel takes no longer one than 108.
const PATH_BYTES_MAX: usize = 1024;

const IDLE_CLIENT: u8 = 1;
const TUNNEL: u8 = 2;
/// Families of addresses, and none.
const NO_ADDRESS: u8 = 0;
const UNIX: u8 = 1;
const IP_V4: u8 = 4;
const IP_V6: u8 = 6;
/// The time left of what has no deadline.
const FOR_EVER: u64 = u64::MAX;

/// A session without its sockets. The bytes in it are borrowed: from the session, or from the record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packed<'a> {
    /// The numbers that its log lines carry.
    pub number: Number,
    /// Who the client is.
    pub client: ClientAddress,
    /// The client will send nothing more, though bytes of it may wait unread.
    pub is_client_done: bool,
    /// Time until the deadline: an instant means nothing to another process.
    pub time_left: Option<Duration>,
    /// Of a tunnel, the rest; a session without waits for a first or a next request.
    pub tunnel: Option<PackedTunnel<'a>>,
}

/// What a tunnel is beyond any session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackedTunnel<'a> {
    /// By its address, because every process numbers its upstreams itself.
    pub upstream: Option<Address>,
    /// Time since it opened.
    pub open_for: Duration,
    /// Bytes written to the upstream.
    pub up: u64,
    /// Bytes written to the client.
    pub down: u64,
    /// Whose end of file came first.
    pub ended_first: Option<Side>,
    /// Who takes nothing more.
    pub deaf: Option<Side>,
    /// By the side that the bytes come from.
    pub flows: Both<PackedFlow<'a>>,
}

/// One direction of a tunnel.
///
/// Whether its end was passed on is not said, because between two turns it follows: an end waits only for bytes in front of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PackedFlow<'a> {
    /// What has arrived and could not leave.
    pub unsent: &'a [u8],
    /// Nothing more will come.
    pub has_ended: bool,
}

impl PackedFlow<'_> {
    fn is_over(&self) -> bool {
        self.has_ended && self.unsent.is_empty()
    }
}

/// Why bytes are no record of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a packed session is malformed: {}", self.0)
    }
}

impl std::error::Error for Malformed {}

impl<'a> Packed<'a> {
    /// Whose sockets go with it, in this order.
    pub fn sockets(&self) -> &'static [Side] {
        if self.tunnel.is_some() { &Side::BOTH } else { &[Side::Client] }
    }

    /// The address of the upstream that a tunnel leads to.
    pub fn upstream(&self) -> Option<&Address> {
        self.tunnel.as_ref()?.upstream.as_ref()
    }

    /// Appends its record.
    pub fn encode(&self, into: &mut Vec<u8>) {
        let begin = into.len();
        into.extend([0; 4]);
        into.push(if self.tunnel.is_some() { TUNNEL } else { IDLE_CLIENT });
        into.extend(self.number.session.to_le_bytes());
        into.extend(self.number.request.to_le_bytes());
        encode_client(&self.client, into);
        into.push(u8::from(self.is_client_done));
        let time_left = self.time_left.map_or(FOR_EVER, |left| nanoseconds(left).min(FOR_EVER - 1));
        into.extend(time_left.to_le_bytes());
        if let Some(tunnel) = &self.tunnel {
            tunnel.encode(into);
        }
        let length = into.len() - begin - 4;
        debug_assert!(length <= RECORD_BYTES_MAX, "a record of {length} bytes");
        into[begin..begin + 4].copy_from_slice(&(length as u32).to_le_bytes());
    }

    /// Reads the record that `bytes` begin with, and says what stands behind it.
    pub fn decode(bytes: &'a [u8]) -> Result<(Packed<'a>, &'a [u8]), Malformed> {
        let mut all = Fields(bytes);
        let length = all.length(RECORD_BYTES_MAX, "it is longer than any")?;
        // What is left of it then was added by a later version, for those who know it.
        let mut fields = Fields(all.bytes(length)?);
        let is_tunnel = match fields.u8()? {
            IDLE_CLIENT => false,
            TUNNEL => true,
            _ => return Err(Malformed("neither a client nor a tunnel")),
        };
        let packed = Packed {
            number: Number { session: fields.u64()?, request: fields.u32()? },
            client: fields.client()?,
            is_client_done: fields.bool()?,
            time_left: match fields.u64()? {
                FOR_EVER => None,
                left => Some(Duration::from_nanos(left)),
            },
            tunnel: if is_tunnel { Some(PackedTunnel::decode(&mut fields)?) } else { None },
        };
        Ok((packed, all.0))
    }
}

impl<'a> PackedTunnel<'a> {
    fn encode(&self, into: &mut Vec<u8>) {
        into.extend(nanoseconds(self.open_for).to_le_bytes());
        into.extend(self.up.to_le_bytes());
        into.extend(self.down.to_le_bytes());
        into.extend([self.ended_first, self.deaf].map(number_of));
        encode_upstream(self.upstream.as_ref(), into);
        for side in Side::BOTH {
            let flow = self.flows[side];
            into.push(u8::from(flow.has_ended));
            into.extend((flow.unsent.len() as u32).to_le_bytes());
            into.extend(flow.unsent);
        }
    }

    fn decode(fields: &mut Fields<'a>) -> Result<PackedTunnel<'a>, Malformed> {
        let tunnel = PackedTunnel {
            open_for: Duration::from_nanos(fields.u64()?),
            up: fields.u64()?,
            down: fields.u64()?,
            ended_first: fields.side()?,
            deaf: fields.side()?,
            upstream: fields.upstream()?,
            flows: Both { client: fields.flow()?, upstream: fields.flow()? },
        };
        tunnel.check().map(|()| tunnel)
    }

    /// Whether a session can be like that between two turns. One that cannot would wait for what never happens.
    fn check(&self) -> Result<(), Malformed> {
        let Both { client, upstream } = &self.flows;
        let has_ended_first = match self.ended_first {
            None => !client.has_ended && !upstream.has_ended,
            Some(first) => self.flows[first].has_ended,
        };
        if !has_ended_first {
            return Err(Malformed("who ended first has not ended"));
        }
        if client.is_over() && upstream.is_over() {
            return Err(Malformed("both directions are over"));
        }
        if let Some(deaf) = self.deaf
            && (self.flows[deaf].is_over() || !self.flows[deaf.other()].unsent.is_empty())
        {
            return Err(Malformed("bytes for who takes none, or nothing left of who broke"));
        }
        Ok(())
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn number_of(side: Option<Side>) -> u8 {
    match side {
        None => 0,
        Some(Side::Client) => 1,
        Some(Side::Upstream) => 2,
    }
}

fn encode_client(client: &ClientAddress, into: &mut Vec<u8>) {
    match client {
        ClientAddress::Unix => into.push(UNIX),
        ClientAddress::Tcp(ip, port) => encode_tcp(*ip, *port, into),
    }
}

fn encode_tcp(ip: IpAddr, port: u16, into: &mut Vec<u8>) {
    match ip {
        IpAddr::V4(ip) => {
            into.push(IP_V4);
            into.extend(ip.octets());
        }
        IpAddr::V6(ip) => {
            into.push(IP_V6);
            into.extend(ip.octets());
        }
    }
    into.extend(port.to_le_bytes());
}

/// A path that is no text is told as the log shows it, which is all that it is needed for.
fn encode_upstream(upstream: Option<&Address>, into: &mut Vec<u8>) {
    match upstream {
        None => into.push(NO_ADDRESS),
        Some(Address::Tcp(address)) => {
            encode_tcp(address.ip(), address.port(), into);
            if let SocketAddr::V6(address) = address {
                into.extend(address.flowinfo().to_le_bytes());
                into.extend(address.scope_id().to_le_bytes());
            }
        }
        Some(Address::Unix(path)) => {
            let text = path.to_string_lossy();
            if text.len() > PATH_BYTES_MAX {
                return into.push(NO_ADDRESS);
            }
            into.push(UNIX);
            into.extend((text.len() as u32).to_le_bytes());
            into.extend(text.as_bytes());
        }
    }
}

/// What is left of a record.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn bytes(&mut self, n: usize) -> Result<&'a [u8], Malformed> {
        let (bytes, rest) = self.0.split_at_checked(n).ok_or(Malformed("it is cut short"))?;
        self.0 = rest;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (array, rest) = self.0.split_first_chunk().ok_or(Malformed("it is cut short"))?;
        self.0 = rest;
        Ok(*array)
    }

    fn u8(&mut self) -> Result<u8, Malformed> {
        self.array().map(u8::from_le_bytes)
    }

    fn u16(&mut self) -> Result<u16, Malformed> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, Malformed> {
        self.array().map(u64::from_le_bytes)
    }

    fn bool(&mut self) -> Result<bool, Malformed> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Malformed("neither yes nor no")),
        }
    }

    fn side(&mut self) -> Result<Option<Side>, Malformed> {
        match self.u8()? {
            0 => Ok(None),
            1 => Ok(Some(Side::Client)),
            2 => Ok(Some(Side::Upstream)),
            _ => Err(Malformed("there are two sides")),
        }
    }

    /// The length of what comes next, at most `max`.
    fn length(&mut self, max: usize, otherwise: &'static str) -> Result<usize, Malformed> {
        usize::try_from(self.u32()?).ok().filter(|length| *length <= max).ok_or(Malformed(otherwise))
    }

    fn client(&mut self) -> Result<ClientAddress, Malformed> {
        Ok(match self.u8()? {
            UNIX => ClientAddress::Unix,
            IP_V4 => ClientAddress::Tcp(IpAddr::V4(self.array::<4>()?.into()), self.u16()?),
            IP_V6 => ClientAddress::Tcp(IpAddr::V6(self.array::<16>()?.into()), self.u16()?),
            _ => return Err(Malformed("a client of an unknown family")),
        })
    }

    fn upstream(&mut self) -> Result<Option<Address>, Malformed> {
        Ok(Some(match self.u8()? {
            NO_ADDRESS => return Ok(None),
            IP_V4 => Address::Tcp(SocketAddrV4::new(self.array::<4>()?.into(), self.u16()?).into()),
            IP_V6 => {
                let (ip, port) = (self.array::<16>()?.into(), self.u16()?);
                Address::Tcp(SocketAddrV6::new(ip, port, self.u32()?, self.u32()?).into())
            }
            UNIX => {
                let length = self.length(PATH_BYTES_MAX, "a path is longer than any")?;
                let text = str::from_utf8(self.bytes(length)?).map_err(|_| Malformed("a path is no text"))?;
                Address::Unix(PathBuf::from(text))
            }
            _ => return Err(Malformed("an upstream of an unknown family")),
        }))
    }

    fn flow(&mut self) -> Result<PackedFlow<'a>, Malformed> {
        let has_ended = self.bool()?;
        let length = self.length(UNSENT_BYTES_MAX, "more is unsent than may be")?;
        Ok(PackedFlow { has_ended, unsent: self.bytes(length)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn idle() -> Packed<'static> {
        Packed {
            number: Number { session: 0x0102_0304, request: 3 },
            client: ClientAddress::Tcp([192, 0, 2, 7].into(), 0x1234),
            is_client_done: true,
            time_left: Some(Duration::from_nanos(0x0a0b)),
            tunnel: None,
        }
    }

    fn tunnel() -> Packed<'static> {
        let tunnel = PackedTunnel {
            upstream: Some(Address::Unix("/app".into())),
            open_for: Duration::from_secs(1),
            up: 1,
            down: 2,
            ended_first: Some(Side::Upstream),
            deaf: None,
            flows: Both {
                client: PackedFlow { unsent: b"", has_ended: false },
                upstream: PackedFlow { unsent: b"bye", has_ended: true },
            },
        };
        Packed { client: ClientAddress::Unix, is_client_done: false, time_left: None, tunnel: Some(tunnel), ..idle() }
    }

    fn record(packed: &Packed) -> Vec<u8> {
        let mut bytes = Vec::new();
        packed.encode(&mut bytes);
        bytes
    }

    fn of_tunnel(change: impl Fn(&mut PackedTunnel)) -> Vec<u8> {
        let mut packed = tunnel();
        packed.tunnel.iter_mut().for_each(change);
        record(&packed)
    }

    /// Both processes count on it: where this test has to be changed, [`VERSION`] has to be as well, unless a field was added behind
    /// the others.
    #[test]
    fn the_record_is_the_one_of_the_table() {
        let fields: [&[u8]; 8] = [
            b"\x1d\0\0\0",
            b"\x01",
            b"\x04\x03\x02\x01\0\0\0\0",
            b"\x03\0\0\0",
            b"\x04\xc0\0\x02\x07",
            b"\x34\x12",
            b"\x01",
            b"\x0b\x0a\0\0\0\0\0\0",
        ];
        assert_eq!(record(&idle()), fields.concat());
        let fields: [&[u8]; 15] = [
            b"\x47\0\0\0",
            b"\x02",
            b"\x04\x03\x02\x01\0\0\0\0",
            b"\x03\0\0\0",
            b"\x01",
            b"\0",
            b"\xff\xff\xff\xff\xff\xff\xff\xff",
            b"\0\xca\x9a\x3b\0\0\0\0",
            b"\x01\0\0\0\0\0\0\0",
            b"\x02\0\0\0\0\0\0\0",
            b"\x02",
            b"\0",
            b"\x01\x04\0\0\0/app",
            b"\0\0\0\0\0",
            b"\x01\x03\0\0\0bye",
        ];
        assert_eq!(record(&tunnel()), fields.concat());
    }

    #[test]
    fn addresses_of_every_family_arrive() {
        for text in ["192.0.2.1:80", "[2001:db8::1]:80", "[fe80::1%7]:80"] {
            let upstream = Some(Address::Tcp(text.parse().unwrap()));
            let bytes = of_tunnel(|tunnel| tunnel.upstream = upstream.clone());
            assert_eq!(Packed::decode(&bytes).unwrap().0.upstream(), upstream.as_ref());
        }
        let packed = Packed { client: ClientAddress::Tcp("2001:db8::7".parse().unwrap(), 9), ..idle() };
        assert_eq!(Packed::decode(&record(&packed)).unwrap().0, packed);
        let endless = of_tunnel(|tunnel| tunnel.upstream = Some(Address::Unix("x".repeat(PATH_BYTES_MAX + 1).into())));
        assert_eq!(Packed::decode(&endless).unwrap().0.upstream(), None);
    }

    #[test]
    fn fields_of_a_later_version_are_skipped() {
        for packed in [idle(), tunnel()] {
            let mut bytes = record(&packed);
            bytes.extend(b"later");
            bytes[0] += 5;
            bytes.extend(b"next");
            assert_eq!(Packed::decode(&bytes), Ok((packed, b"next".as_slice())));
        }
    }

    #[test]
    fn what_no_session_can_be_is_refused() {
        let sound = tunnel().tunnel.unwrap();
        let (over, open) = (PackedFlow { unsent: b"", has_ended: true }, PackedFlow::default());
        let full = PackedFlow { unsent: b"full", has_ended: false };
        let of = |ended_first, deaf, client, upstream| PackedTunnel {
            ended_first,
            deaf,
            flows: Both { client, upstream },
            ..sound.clone()
        };
        let (client, upstream) = (Some(Side::Client), Some(Side::Upstream));
        let cases = [
            ("an end that nobody began", of(None, None, open, over)),
            ("a first that is open", of(client, None, open, over)),
            ("two ends", of(client, None, over, over)),
            ("an end of the deaf", of(upstream, upstream, open, over)),
            ("bytes for the deaf", of(None, upstream, full, open)),
        ];
        for (name, tunnel) in cases {
            let bytes = record(&Packed { tunnel: Some(tunnel), ..idle() });
            assert!(Packed::decode(&bytes).is_err(), "{name}");
        }
    }

    #[test]
    fn what_is_beyond_a_limit_or_unknown_is_refused() {
        let of_idle = |place, why| (record(&idle()), place, why);
        let of_tunnel = |place, why| (record(&tunnel()), place, why);
        let cases = [
            of_idle(3, "it is longer than any"),
            of_idle(0, "it is cut short"),
            of_idle(4, "neither a client nor a tunnel"),
            of_idle(17, "a client of an unknown family"),
            of_idle(24, "neither yes nor no"),
            of_tunnel(52, "there are two sides"),
            of_tunnel(53, "an upstream of an unknown family"),
            of_tunnel(55, "a path is longer than any"),
            of_tunnel(58, "a path is no text"),
            of_tunnel(65, "more is unsent than may be"),
        ];
        for (mut bytes, place, why) in cases {
            bytes[place] = 0xff;
            assert_eq!(Packed::decode(&bytes), Err(Malformed(why)), "at {place}");
        }
    }

    #[test]
    fn what_lasts_too_long_for_the_record_lasts_as_long_as_it_can_say() {
        let packed = Packed { time_left: Some(Duration::MAX), ..idle() };
        let bytes = record(&packed);
        assert_eq!(Packed::decode(&bytes).unwrap().0.time_left, Some(Duration::from_nanos(u64::MAX - 1)));
        let bytes = of_tunnel(|tunnel| tunnel.open_for = Duration::MAX);
        let open_for = Packed::decode(&bytes).unwrap().0.tunnel.map(|tunnel| tunnel.open_for);
        assert_eq!(open_for, Some(Duration::from_nanos(u64::MAX)));
    }
}
