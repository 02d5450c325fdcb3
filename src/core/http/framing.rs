//! How the end of a body is known.
//!
//! RFC 9112, section 6.3, is a list of cases in order; so is this file. What the RFC lets a recipient repair, we refuse:
//! two readings of one message by two machines in a row is how requests are smuggled, and a proxy is always the first.

use crate::http::chunked::ChunkScanner;
use crate::http::head::Version;
use crate::http::reject::{Fault, Reject};

/// How the end of a body is known, and how much of it is still to come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Framing {
    /// There is no body, or nothing of it is left.
    None,
    /// This many bytes are left, never 0.
    Length(u64),
    /// The scanner knows.
    Chunked(ChunkScanner),
    /// The body ends with its connection. Only of responses.
    UntilClose,
}

impl Framing {
    /// A body of `bytes` bytes.
    pub fn length(bytes: u64) -> Framing {
        if bytes == 0 { Framing::None } else { Framing::Length(bytes) }
    }

    /// Whether the next `n` bytes are sure to be of the body, and not its last, without a look at them.
    pub fn holds_more_than(&self, n: usize) -> bool {
        match self {
            Framing::Length(left) => *left > n as u64,
            Framing::UntilClose => true,
            Framing::None | Framing::Chunked(_) => false,
        }
    }

    /// Moves on by `n` bytes that nobody needs to look at.
    pub fn skip(&mut self, n: u64) {
        if let Framing::Length(left) = self {
            *self = Framing::length(left.saturating_sub(n));
        }
    }
}

/// What the fields of one head say about its body, gathered while they are read.
#[derive(Clone, Copy, Debug, Default)]
pub struct Declared {
    /// Content-Length.
    pub length: Option<u64>,
    /// Whether Transfer-Encoding is `chunked`.
    pub chunked: bool,
}

impl Declared {
    /// Takes note of a Content-Length: digits that make a number below 2^63, once. A second one, a list, a sign or an overflow is refused.
    pub fn note_length(&mut self, value: &[u8]) -> Result<(), Reject> {
        const WRONG: Reject = Reject::Malformed("Content-Length is not one number");
        let add = |length: u64, byte: &u8| {
            let digit = Some(byte.wrapping_sub(b'0')).filter(|digit| *digit <= 9)?;
            length.checked_mul(10)?.checked_add(digit.into())
        };
        let length = value.iter().try_fold(0, add).filter(|length| *length <= i64::MAX as u64 && !value.is_empty());
        let length = length.ok_or(WRONG)?;
        match self.length.replace(length) {
            None => Ok(()),
            Some(_) => Err(Reject::Malformed("Content-Length stands twice")),
        }
    }

    /// Takes note of a Transfer-Encoding: exactly `chunked`, once. Every other spelling has been some server's other reading.
    pub fn note_coding(&mut self, value: &[u8]) -> Result<(), Reject> {
        if self.chunked {
            return Err(Reject::Malformed("Transfer-Encoding stands twice"));
        }
        if value != b"chunked" {
            return Err(if is_known_coding_before_chunked(value) {
                Reject::UnknownCoding
            } else {
                Reject::Malformed("Transfer-Encoding is not `chunked`")
            });
        }
        self.chunked = true;
        Ok(())
    }

    /// The framing of a request (RFC 9112, 6.3, cases 3 to 7).
    pub fn of_request(self, version: Version) -> Result<Framing, Reject> {
        match (self.chunked, self.length) {
            (true, Some(_)) => Err(Reject::Malformed("both Transfer-Encoding and Content-Length")),
            (true, None) if version == Version::Http10 => Err(Reject::Malformed("Transfer-Encoding in HTTP/1.0")),
            (true, None) => Ok(Framing::Chunked(ChunkScanner::default())),
            (false, Some(length)) => Ok(Framing::length(length)),
            (false, None) => Ok(Framing::None),
        }
    }

    /// The framing of a response with `status` (RFC 9112, 6.3, all cases).
    pub fn of_response(self, status: u16, answers_head: bool, version: Version) -> Result<Framing, Fault> {
        if matches!(status, 100..=199 | 204 | 304) || answers_head {
            return Ok(Framing::None);
        }
        match (self.chunked, self.length) {
            (true, Some(_)) => Err(Fault("both Transfer-Encoding and Content-Length")),
            (true, None) if version == Version::Http10 => Err(Fault("Transfer-Encoding in HTTP/1.0")),
            (true, None) => Ok(Framing::Chunked(ChunkScanner::default())),
            (false, Some(length)) => Ok(Framing::length(length)),
            (false, None) => Ok(Framing::UntilClose),
        }
    }
}

/// `gzip, chunked` and its like: sound, but not ours to decode (RFC 9112, 6.1: 501).
fn is_known_coding_before_chunked(value: &[u8]) -> bool {
    const KNOWN: [&[u8]; 5] = [b"gzip", b"deflate", b"compress", b"x-gzip", b"x-compress"];
    let mut members = value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).rev();
    let last_is_chunked = members.next() == Some(b"chunked");
    let mut before = members.peekable();
    last_is_chunked
        && before.peek().is_some()
        && before.all(|coding| KNOWN.iter().any(|known| coding.eq_ignore_ascii_case(known)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths() {
        for (value, expected) in
            [("0", Some(0)), ("5", Some(5)), ("0005", Some(5)), ("9223372036854775807", Some(i64::MAX as u64))]
        {
            let mut declared = Declared::default();
            assert_eq!(declared.note_length(value.as_bytes()), Ok(()), "{value}");
            assert_eq!(declared.length, expected, "{value}");
        }
        for value in [
            "+5",
            "-5",
            "5.0",
            "5e0",
            "0x5",
            "1_0",
            "\"5\"",
            "\u{665}",
            "5\0",
            "",
            " ",
            "5, 5",
            "5,5",
            "9223372036854775808",
            "18446744073709551616",
            "99999999999999999999999",
        ] {
            assert!(Declared::default().note_length(value.as_bytes()).is_err(), "{value}");
        }
    }

    #[test]
    fn a_second_length_is_refused_even_if_equal() {
        let mut declared = Declared::default();
        declared.note_length(b"5").unwrap();
        assert!(declared.note_length(b"5").is_err());
    }

    #[test]
    fn codings() {
        assert_eq!(Declared::default().note_coding(b"chunked"), Ok(()));
        for value in [
            "Chunked",
            "CHUNKED",
            "chunked,",
            ",chunked",
            "chunked, chunked",
            "xchunked",
            "chunked;q=1",
            "\"chunked\"",
            "identity",
            "gzip",
            "chunked, gzip",
            "identity, chunked",
            "\u{b}chunked",
            "chunked\u{c}",
            "\u{a0}chunked",
            "chunked x",
            "",
            "br, chunked",
        ] {
            assert_eq!(Declared::default().note_coding(value.as_bytes()).unwrap_err().status(), 400, "{value:?}");
        }
        for value in ["gzip, chunked", "GZIP,chunked", "deflate, gzip, chunked"] {
            assert_eq!(Declared::default().note_coding(value.as_bytes()), Err(Reject::UnknownCoding), "{value:?}");
        }
    }

    #[test]
    fn requests_by_the_cases_of_the_rfc() {
        let chunked = Framing::Chunked(ChunkScanner::default());
        let of = |length, chunked, version| Declared { length, chunked }.of_request(version);
        assert_eq!(of(None, false, Version::Http11), Ok(Framing::None));
        assert_eq!(of(Some(0), false, Version::Http11), Ok(Framing::None));
        assert_eq!(of(Some(7), false, Version::Http10), Ok(Framing::Length(7)));
        assert_eq!(of(None, true, Version::Http11), Ok(chunked));
        assert!(of(Some(7), true, Version::Http11).is_err());
        assert!(of(None, true, Version::Http10).is_err());
    }

    #[test]
    fn responses_by_the_cases_of_the_rfc() {
        let of = |length, status, head| Declared { length, chunked: false }.of_response(status, head, Version::Http11);
        assert_eq!(of(Some(7), 200, true), Ok(Framing::None));
        assert_eq!(of(Some(7), 304, false), Ok(Framing::None));
        assert_eq!(of(Some(7), 204, false), Ok(Framing::None));
        assert_eq!(of(Some(7), 103, false), Ok(Framing::None));
        assert_eq!(of(Some(7), 200, false), Ok(Framing::Length(7)));
        assert_eq!(of(None, 200, false), Ok(Framing::UntilClose));
        assert!(Declared { length: Some(1), chunked: true }.of_response(200, false, Version::Http11).is_err());
        assert!(Declared { length: None, chunked: true }.of_response(200, false, Version::Http10).is_err());
    }
}
