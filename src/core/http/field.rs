//! Field names that mean something to a proxy, comma lists, and connection options.

use httparse::Header;

/// What a field is to a proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// Passed on as it came.
    Other,
    /// `Connection`: its members name what ends here.
    Connection,
    /// Ends at the next hop whoever names it (RFC 9110, 7.6.1), or is of no use behind us.
    HopByHop,
    /// `Upgrade`: hop-by-hop, and read for WebSocket.
    Upgrade,
    /// `Host`.
    Host,
    /// `Content-Length`.
    ContentLength,
    /// `Transfer-Encoding`.
    TransferEncoding,
    /// `Expect`.
    Expect,
    /// `Max-Forwards`.
    MaxForwards,
    /// `Content-Type`.
    ContentType,
    /// `Sec-WebSocket-Key`.
    WebSocketKey,
    /// `Sec-WebSocket-Accept`.
    WebSocketAccept,
    /// `X-Real-IP`.
    RealIp,
    /// `X-Forwarded-For`.
    ForwardedFor,
    /// `X-Forwarded-Host`.
    ForwardedHost,
    /// `X-Forwarded-Proto`.
    ForwardedProto,
    /// `Forwarded`, and any further `X-Forwarded-…`.
    Forwarded,
    /// One of the above with `_` for `-`. Some servers read the two as one name, so that it would smuggle: dropped.
    Alias,
}

impl Meaning {
    /// What the field `name` (any case) is to a proxy.
    pub fn of(name: &str) -> Meaning {
        use Meaning::*;
        // Written as is usual, it is found at once.
        let mut is_usual = false;
        let mut is = |usual: &str| {
            is_usual = name == usual;
            is_usual || folded_eq(name, usual)
        };
        // Length and first letter tell nearly all names apart at once.
        let first = name.bytes().next().unwrap_or_default().to_ascii_lowercase();
        let meaning = match (name.len(), first) {
            (2, b't') if is("TE") => HopByHop,
            (4, b'h') if is("Host") => Host,
            (6, b'e') if is("Expect") => Expect,
            (7, b'u') if is("Upgrade") => Upgrade,
            (7, b't') if is("Trailer") => HopByHop,
            (9, b'x') if is("X-Real-IP") => RealIp,
            (9, b'f') if is("Forwarded") => Forwarded,
            (10, b'c') if is("Connection") => Connection,
            (10, b'k') if is("Keep-Alive") => HopByHop,
            (12, b'm') if is("Max-Forwards") => MaxForwards,
            (12, b'c') if is("Content-Type") => ContentType,
            (14, b'c') if is("Content-Length") => ContentLength,
            (14, b'h') if is("HTTP2-Settings") => HopByHop,
            (15, b'x') if is("X-Forwarded-For") => ForwardedFor,
            (16, b'x') if is("X-Forwarded-Host") => ForwardedHost,
            (16, b'p') if is("Proxy-Connection") => HopByHop,
            (17, b't') if is("Transfer-Encoding") => TransferEncoding,
            (17, b'x') if is("X-Forwarded-Proto") => ForwardedProto,
            (17, b's') if is("Sec-WebSocket-Key") => WebSocketKey,
            (18, b'p') if is("Proxy-Authenticate") => HopByHop,
            (19, b'p') if is("Proxy-Authorization") => HopByHop,
            (20, b's') if is("Sec-WebSocket-Accept") => WebSocketAccept,
            (12.., b'x') if name.get(..12).is_some_and(|start| folded_eq(start, "X-Forwarded-")) => Forwarded,
            _ => return Other,
        };
        if !is_usual && name.bytes().any(|byte| byte == b'_') { Alias } else { meaning }
    }
}

/// Whether `name` is `known` when case does not count and `_` is read as `-`.
fn folded_eq(name: &str, known: &str) -> bool {
    // A letter and its capital differ in one bit, and so do no two other characters that a known name has.
    let is_same = |(ours, theirs): (u8, u8)| match theirs {
        b'-' => ours == b'-' || ours == b'_',
        b'a'..=b'z' | b'A'..=b'Z' => ours | 0x20 == theirs | 0x20,
        _ => ours == theirs,
    };
    name.len() == known.len() && name.bytes().zip(known.bytes()).all(is_same)
}

/// The fields of a head, in their order, each with what it is to a proxy.
#[derive(Clone, Copy, Debug)]
pub struct Fields<'a> {
    headers: &'a [Header<'a>],
    meanings: &'a [Meaning],
}

impl<'a> Fields<'a> {
    /// Finds out what each of `headers` is. `meanings` has room for as many.
    pub fn new(headers: &'a [Header<'a>], meanings: &'a mut [Meaning]) -> Fields<'a> {
        for (field, meaning) in headers.iter().zip(&mut *meanings) {
            *meaning = Meaning::of(field.name);
        }
        Fields { headers, meanings }
    }

    /// Each field and its meaning.
    pub fn iter(self) -> impl Iterator<Item = (&'a Header<'a>, Meaning)> {
        self.headers.iter().zip(self.meanings.iter().copied())
    }

    /// The values of the fields that mean this.
    pub fn values(self, meaning: Meaning) -> impl Iterator<Item = &'a [u8]> {
        self.iter().filter(move |(_, found)| *found == meaning).map(|(field, _)| field.value)
    }

    /// Whether a `Connection` field names the field `name`, which then ends here.
    pub fn named_by_connection(self, name: &str) -> bool {
        self.values(Meaning::Connection).flat_map(members).any(|member| member.eq_ignore_ascii_case(name.as_bytes()))
    }
}

/// The members of a comma-separated list (RFC 9110, 5.6.1), without the white space around them; empty ones are skipped.
pub fn members(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|member| !member.is_empty())
}

/// What the members of all `Connection` fields of a head say (RFC 9110, 7.6.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConnectionOptions {
    /// `close`.
    pub close: bool,
    /// `keep-alive`.
    pub keep_alive: bool,
    /// `upgrade`.
    pub upgrade: bool,
    /// Names of further fields: see [`Fields::named_by_connection`].
    pub others: bool,
}

impl ConnectionOptions {
    /// Takes note of one more `Connection` field.
    pub fn note(&mut self, value: &[u8]) {
        for member in members(value) {
            if member.eq_ignore_ascii_case(b"close") {
                self.close = true;
            } else if member.eq_ignore_ascii_case(b"keep-alive") {
                self.keep_alive = true;
            } else if member.eq_ignore_ascii_case(b"upgrade") {
                self.upgrade = true;
            } else {
                self.others = true;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_known_in_any_case_and_aliases_are_told_apart() {
        let cases = [
            ("hOST", Meaning::Host),
            ("Content_Length", Meaning::Alias),
            ("transfer_encoding", Meaning::Alias),
            ("X-Forwarded_For", Meaning::Alias),
            ("X-Forwarded-Port", Meaning::Forwarded),
            ("X-Forwarded-", Meaning::Forwarded),
            ("X-Forwarded", Meaning::Other),
            ("Cookie", Meaning::Other),
            ("my_field", Meaning::Other),
            ("TE", Meaning::HopByHop),
            ("", Meaning::Other),
        ];
        for (name, expected) in cases {
            assert_eq!(Meaning::of(name), expected, "{name}");
        }
    }

    #[test]
    fn every_known_name_is_known_in_each_of_its_spellings() {
        let known = [
            ("TE", Meaning::HopByHop),
            ("Host", Meaning::Host),
            ("Expect", Meaning::Expect),
            ("Upgrade", Meaning::Upgrade),
            ("Trailer", Meaning::HopByHop),
            ("X-Real-IP", Meaning::RealIp),
            ("Forwarded", Meaning::Forwarded),
            ("Connection", Meaning::Connection),
            ("Keep-Alive", Meaning::HopByHop),
            ("Max-Forwards", Meaning::MaxForwards),
            ("Content-Type", Meaning::ContentType),
            ("Content-Length", Meaning::ContentLength),
            ("HTTP2-Settings", Meaning::HopByHop),
            ("X-Forwarded-For", Meaning::ForwardedFor),
            ("X-Forwarded-Host", Meaning::ForwardedHost),
            ("Proxy-Connection", Meaning::HopByHop),
            ("Transfer-Encoding", Meaning::TransferEncoding),
            ("X-Forwarded-Proto", Meaning::ForwardedProto),
            ("Sec-WebSocket-Key", Meaning::WebSocketKey),
            ("Proxy-Authenticate", Meaning::HopByHop),
            ("Proxy-Authorization", Meaning::HopByHop),
            ("Sec-WebSocket-Accept", Meaning::WebSocketAccept),
        ];
        for (name, meaning) in known {
            for spelling in [name.to_owned(), name.to_lowercase(), name.to_uppercase()] {
                assert_eq!(Meaning::of(&spelling), meaning, "{spelling}");
                let alias = spelling.replace('-', "_");
                let expected = if alias == spelling { meaning } else { Meaning::Alias };
                assert_eq!(Meaning::of(&alias), expected, "{alias}");
            }
        }
    }

    #[test]
    fn lists_lose_their_white_space_and_empty_members() {
        let told: Vec<_> = members(b" a ,, b\t,c d,").collect();
        assert_eq!(told, [b"a".as_slice(), b"b", b"c d"]);
    }

    #[test]
    fn connection_options_add_up_over_several_fields() {
        let mut options = ConnectionOptions::default();
        options.note(b"keep-alive, Upgrade");
        options.note(b"X-Mine");
        assert_eq!(options, ConnectionOptions { close: false, keep_alive: true, upgrade: true, others: true });
    }
}
