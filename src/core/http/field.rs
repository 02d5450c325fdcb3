//! The fields of a head and what they mean to a proxy, comma lists, and connection options.

use std::ops::Range;

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
        let known = |usual, meaning: Meaning| if name == usual { meaning } else { meaning.if_spelled(usual, name) };
        // Length and first letter tell nearly all names apart.
        match (name.len(), name.bytes().next().unwrap_or_default() | 0x20) {
            (2, b't') => known("TE", HopByHop),
            (4, b'h') => known("Host", Host),
            (6, b'e') => known("Expect", Expect),
            (7, b'u') => known("Upgrade", Upgrade),
            (7, b't') => known("Trailer", HopByHop),
            (9, b'x') => known("X-Real-IP", RealIp),
            (9, b'f') => known("Forwarded", Forwarded),
            (10, b'c') => known("Connection", Connection),
            (10, b'k') => known("Keep-Alive", HopByHop),
            (12, b'm') => known("Max-Forwards", MaxForwards),
            (12, b'c') => known("Content-Type", ContentType),
            (14, b'c') => known("Content-Length", ContentLength),
            (14, b'h') => known("HTTP2-Settings", HopByHop),
            (15, b'x') => known("X-Forwarded-For", ForwardedFor),
            (16, b'x') => known("X-Forwarded-Host", ForwardedHost),
            (16, b'p') => known("Proxy-Connection", HopByHop),
            (17, b't') => known("Transfer-Encoding", TransferEncoding),
            (17, b'x') => known("X-Forwarded-Proto", ForwardedProto),
            (17, b's') => known("Sec-WebSocket-Key", WebSocketKey),
            (18, b'p') => known("Proxy-Authenticate", HopByHop),
            (19, b'p') => known("Proxy-Authorization", HopByHop),
            (20, b's') => known("Sec-WebSocket-Accept", WebSocketAccept),
            (12.., b'x') => known(X_FORWARDED, Forwarded),
            _ => Other,
        }
    }

    /// This, if `name` is the `usual` one in another spelling; else what it is by its beginning.
    #[cold]
    #[inline(never)]
    fn if_spelled(self, usual: &str, name: &str) -> Meaning {
        let meaning = match name.get(..X_FORWARDED.len()) {
            _ if folded_eq(name, usual) => self,
            Some(start) if folded_eq(start, X_FORWARDED) => Meaning::Forwarded,
            _ => return Meaning::Other,
        };
        if name.contains('_') { Meaning::Alias } else { meaning }
    }
}

/// What the names of all fields of a kind begin with.
const X_FORWARDED: &str = "X-Forwarded-";

/// A set of meanings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meanings(u32);

impl Meanings {
    /// What is passed on to an upstream unless `Connection` names it. Of the others, we say ourselves what there is to say.
    pub const OF_REQUESTS: Meanings =
        Meanings::of(&[Meaning::Other, Meaning::ContentType, Meaning::WebSocketKey, Meaning::WebSocketAccept]);

    /// What is passed on to a client unless `Connection` names it.
    pub const OF_RESPONSES: Meanings = Meanings::of(&[
        Meaning::Other,
        Meaning::Host,
        Meaning::Expect,
        Meaning::MaxForwards,
        Meaning::ContentType,
        Meaning::WebSocketKey,
        Meaning::WebSocketAccept,
        Meaning::RealIp,
        Meaning::ForwardedFor,
        Meaning::ForwardedHost,
        Meaning::ForwardedProto,
        Meaning::Forwarded,
    ]);

    /// These.
    pub const fn of(mut meanings: &[Meaning]) -> Meanings {
        let mut all = Meanings(0);
        while let [meaning, others @ ..] = meanings {
            all.0 |= bit(*meaning);
            meanings = others;
        }
        all
    }

    /// These, and those if that is so.
    #[must_use]
    pub const fn and_if(self, is_so: bool, those: Meanings) -> Meanings {
        if is_so { Meanings(self.0 | those.0) } else { self }
    }

    /// Whether `meaning` is one of them.
    pub const fn contains(self, meaning: Meaning) -> bool {
        self.0 & bit(meaning) != 0
    }
}

const fn bit(meaning: Meaning) -> u32 {
    1_u32.wrapping_shl(meaning as u32)
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

/// Whether two texts are one but for their capitals.
///
/// It ends at the first difference. `eq_ignore_ascii_case` looks at 16 bytes before it does: it took 199 instructions to tell that
/// `application/octet-stream` is no event stream.
pub fn same_but_for_case(one: &[u8], other: &[u8]) -> bool {
    one.len() == other.len() && one.iter().zip(other).all(|(one, other)| one.eq_ignore_ascii_case(other))
}

/// The fields of a head, in their order, each with what it is to a proxy.
#[derive(Debug)]
pub struct Fields<'a> {
    /// The head that they stand in, to its end.
    head: &'a [u8],
    headers: &'a [Header<'a>],
    meanings: &'a mut [Meaning],
}

impl<'a> Fields<'a> {
    /// Finds out what each of the `headers` of a `head` is. `meanings` has room for as many.
    pub fn new(head: &'a [u8], headers: &'a [Header<'a>], meanings: &'a mut [Meaning]) -> Fields<'a> {
        for (field, meaning) in headers.iter().zip(&mut *meanings) {
            *meaning = Meaning::of(field.name);
        }
        Fields { head, headers, meanings }
    }

    /// Makes hop-by-hop what a Connection field names, if it is among these (RFC 9110, 7.6.1).
    #[cold]
    pub fn end_named(&mut self, among: Meanings) {
        let headers = self.headers;
        let is_named = |field: &Header<'_>| {
            let connection = headers.iter().filter(|other| Meaning::of(other.name) == Meaning::Connection);
            let mut named = connection.flat_map(|other| members(other.value));
            named.any(|member| member.eq_ignore_ascii_case(field.name.as_bytes()))
        };
        for (field, meaning) in headers.iter().zip(&mut *self.meanings) {
            if among.contains(*meaning) && is_named(field) {
                *meaning = Meaning::HopByHop;
            }
        }
    }

    /// Where in the head the line of `field` is, if it is the name, a colon and a blank, the value, CRLF, and nothing else.
    pub fn plain_line(&self, field: &Header<'_>) -> Option<Range<usize>> {
        let value_at = offset(self.head, field.value);
        let value_end = value_at.wrapping_add(field.value.len());
        // Between its name and its value, httparse lets nothing stand but the colon and, behind it, blanks and tabs.
        let is_plain = self.head.get(..value_at).is_some_and(|before| before.ends_with(b": "))
            && self.head.get(value_end..).is_some_and(|behind| behind.starts_with(b"\r\n"));
        is_plain.then_some(offset(self.head, field.name.as_bytes())..value_end.wrapping_add(2))
    }

    /// What stands `at` a place of the head.
    pub fn text(&self, at: Range<usize>) -> &'a [u8] {
        self.head.get(at).unwrap_or_default()
    }

    /// Whether all lines of the head end in CRLF. httparse takes a bare LF for the end of a line and lets none stand anywhere else,
    /// so that all of them are in front of a field or of the end: a search for them was a twentieth of the instructions that a GET takes.
    pub fn end_in_crlf(&self) -> bool {
        let begins_a_line = |field: &Header<'_>| {
            self.head.get(..offset(self.head, field.name.as_bytes())).is_some_and(|before| before.ends_with(b"\r\n"))
        };
        self.head.ends_with(b"\r\n\r\n") && self.headers.iter().all(begins_a_line)
    }

    /// Each field and its meaning.
    pub fn iter(&self) -> impl Iterator<Item = (&'a Header<'a>, Meaning)> {
        self.headers.iter().zip(self.meanings.iter().copied())
    }

    /// The values of the fields that mean this.
    pub fn values(&self, meaning: Meaning) -> impl Iterator<Item = &'a [u8]> {
        self.iter().filter(move |(_, found)| *found == meaning).map(|(field, _)| field.value)
    }
}

/// Where in `head` a part of it begins.
fn offset(head: &[u8], part: &[u8]) -> usize {
    part.as_ptr().addr().wrapping_sub(head.as_ptr().addr())
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
    /// Names of further fields.
    pub others: bool,
}

impl ConnectionOptions {
    /// Takes note of one more `Connection` field.
    pub fn note(&mut self, value: &[u8]) {
        match value {
            // What nearly all say, and nothing beside.
            b"keep-alive" => self.keep_alive = true,
            b"close" => self.close = true,
            b"Upgrade" => self.upgrade = true,
            list => members(list).for_each(|member| self.note_member(member)),
        }
    }

    fn note_member(&mut self, member: &[u8]) {
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
            ("x-forwarded-fox", Meaning::Forwarded),
            ("X-Forwarded-By_Me", Meaning::Alias),
            ("X-Real-IQ", Meaning::Other),
            ("Xyz-Forwarded-For", Meaning::Other),
            ("Content-Lengths", Meaning::Other),
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
    fn an_option_alone_is_what_it_is_in_a_list() {
        for option in ["close", "Close", "keep-alive", "Keep-Alive", "upgrade", "Upgrade", "x", ""] {
            let (mut alone, mut listed) = (ConnectionOptions::default(), ConnectionOptions::default());
            alone.note(option.as_bytes());
            listed.note(format!(",{option} ,").as_bytes());
            assert_eq!(alone, listed, "{option}");
        }
    }

    #[test]
    fn connection_options_add_up_over_several_fields() {
        let mut options = ConnectionOptions::default();
        options.note(b"keep-alive, Upgrade");
        options.note(b"X-Mine");
        assert_eq!(options, ConnectionOptions { close: false, keep_alive: true, upgrade: true, others: true });
    }
}
