//! Finds where a chunked body ends (RFC 9112, 7.1), and what of it need not travel on.
//!
//! The scanner never copies: it walks over bytes and says of each run whether it is chunk data, framing, or to be cut out.
//! Chunk extensions and trailer sections are checked and cut. It reads the grammar to the letter: CRLF and nothing else ends a
//! line, a size is 1 to 15 hexadecimal digits.

/// Extension bytes that one chunk may carry.
pub const CHUNK_EXTENSION_BYTES_MAX: u16 = 256;
/// Extension bytes that one message may carry. Honest senders use none.
pub const EXTENSION_BYTES_MAX: u16 = 4096;
/// Bytes that a trailer section may hold.
pub const TRAILER_BYTES_MAX: u16 = 8192;
/// Digits of a chunk size: 15 cannot overflow 64 bits.
const SIZE_DIGITS_MAX: u8 = 15;

/// The place in a chunked body up to which it has been read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChunkScanner {
    state: State,
    /// Extension bytes so far, then trailer bytes.
    spent: u16,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// Before the first digit of a size.
    #[default]
    Begin,
    /// In a size. Digits are counted, because leading zeros are allowed and must end too.
    Size {
        size: u64,
        digits: u8,
    },
    /// In an extension of a chunk of `size` bytes.
    Extension {
        size: u64,
        bytes: u16,
        quotes: Quotes,
    },
    /// Behind the CR that ends a size line.
    SizeLf {
        size: u64,
    },
    /// In the data, with this much to come.
    Data {
        left: u64,
    },
    DataCr,
    DataLf,
    /// At the start of a trailer line.
    TrailerBegin,
    /// In the name of a trailer field.
    TrailerName,
    /// In the value of a trailer field.
    TrailerValue,
    /// Behind the CR that ends a trailer field.
    TrailerLf,
    /// Behind the CR that ends the trailer section.
    EndLf,
    End,
}

/// Where in the quoted strings of an extension it is (RFC 9110, 5.6.4).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Quotes {
    #[default]
    Outside,
    Inside,
    /// Inside, behind a backslash.
    Escaped,
}

impl Quotes {
    fn behind(self, byte: u8) -> Quotes {
        match (self, byte) {
            (Quotes::Outside, b'"') | (Quotes::Escaped, _) => Quotes::Inside,
            (Quotes::Inside, b'\\') => Quotes::Escaped,
            (Quotes::Inside, b'"') => Quotes::Outside,
            (same, _) => same,
        }
    }
}

/// What the next bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Run {
    /// This many bytes belong to the framing: size lines and line ends.
    Frame(usize),
    /// This many bytes are the content.
    Data(usize),
    /// This many bytes are an extension or a trailer field: not to be passed on.
    Cut(usize),
}

/// Why a body is not a chunked body.
pub type Wrong = &'static str;

impl ChunkScanner {
    /// Whether the body has been read to its end.
    pub fn has_ended(&self) -> bool {
        self.state == State::End
    }

    /// What the first bytes of `bytes` are; `None` if there are none, or if the body has ended before them.
    pub fn next(&mut self, bytes: &[u8]) -> Result<Option<Run>, Wrong> {
        let Some(first) = bytes.first().copied() else { return Ok(None) };
        Ok(Some(match self.state {
            State::End => return Ok(None),
            State::Data { left } => {
                let here = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
                let left = left.saturating_sub(here as u64);
                self.state = if left == 0 { State::DataCr } else { State::Data { left } };
                Run::Data(here)
            }
            _ => self.step(first)?,
        }))
    }

    /// Everything but data is read a byte at a time.
    fn step(&mut self, byte: u8) -> Result<Run, Wrong> {
        let (next, run) = match (self.state, byte) {
            (State::Begin, _) => (State::Size { size: digit(byte)?, digits: 1 }, Run::Frame(1)),
            (State::Size { size, .. }, b'\r') => (State::SizeLf { size }, Run::Frame(1)),
            (State::Size { size, .. }, b';') => {
                (State::Extension { size, bytes: 0, quotes: Quotes::Outside }, Run::Cut(1))
            }
            (State::Size { digits: SIZE_DIGITS_MAX, .. }, _) => return Err("a chunk size of more than 15 digits"),
            (State::Size { size, digits }, _) => {
                (State::Size { size: size << 4 | digit(byte)?, digits: digits.saturating_add(1) }, Run::Frame(1))
            }
            (State::Extension { size, quotes: Quotes::Outside, .. }, b'\r') => (State::SizeLf { size }, Run::Frame(1)),
            // Whoever reads on to the closing quote finds another end of this line than we.
            (State::Extension { .. }, b'\r') => return Err("a chunk extension with an open quote"),
            (State::Extension { bytes, .. }, _) if bytes >= CHUNK_EXTENSION_BYTES_MAX => {
                return Err("a chunk extension that is too long");
            }
            (State::Extension { size, bytes, quotes }, _) if may_stand_in_value(byte) => {
                self.spend(EXTENSION_BYTES_MAX, "chunk extensions that are too long")?;
                let (bytes, quotes) = (bytes.saturating_add(1), quotes.behind(byte));
                (State::Extension { size, bytes, quotes }, Run::Cut(1))
            }
            (State::Extension { .. }, _) => return Err("a control byte in a chunk extension"),
            (State::SizeLf { size: 0 }, b'\n') => {
                self.spent = 0;
                (State::TrailerBegin, Run::Frame(1))
            }
            (State::SizeLf { size }, b'\n') => (State::Data { left: size }, Run::Frame(1)),
            (State::SizeLf { .. }, _) => return Err("a chunk size line that does not end in CRLF"),
            (State::DataCr, b'\r') => (State::DataLf, Run::Frame(1)),
            (State::DataLf, b'\n') => (State::Begin, Run::Frame(1)),
            (State::DataCr | State::DataLf, _) => return Err("chunk data that is not followed by CRLF"),
            (State::TrailerBegin, b'\r') => (State::EndLf, Run::Frame(1)),
            (State::TrailerBegin | State::TrailerName, _) if is_token(byte) => {
                (State::TrailerName, self.trailer_byte()?)
            }
            (State::TrailerName, b':') => (State::TrailerValue, self.trailer_byte()?),
            (State::TrailerBegin | State::TrailerName, _) => return Err("a trailer that is not a field"),
            (State::TrailerValue, b'\r') => (State::TrailerLf, self.trailer_byte()?),
            (State::TrailerValue, _) if may_stand_in_value(byte) => (State::TrailerValue, self.trailer_byte()?),
            (State::TrailerValue, _) => return Err("a control byte in a trailer"),
            (State::TrailerLf, b'\n') => (State::TrailerBegin, self.trailer_byte()?),
            (State::TrailerLf, _) => return Err("a trailer that does not end in CRLF"),
            (State::EndLf, b'\n') => (State::End, Run::Frame(1)),
            (State::EndLf, _) => return Err("a trailer section that does not end in CRLF"),
            (State::Data { .. } | State::End, _) => return Ok(Run::Frame(0)),
        };
        self.state = next;
        Ok(run)
    }

    fn trailer_byte(&mut self) -> Result<Run, Wrong> {
        self.spend(TRAILER_BYTES_MAX, "a trailer section that is too long")?;
        Ok(Run::Cut(1))
    }

    fn spend(&mut self, max: u16, wrong: Wrong) -> Result<(), Wrong> {
        self.spent = self.spent.saturating_add(1);
        if self.spent > max { Err(wrong) } else { Ok(()) }
    }
}

fn digit(byte: u8) -> Result<u64, Wrong> {
    char::from(byte).to_digit(16).map(u64::from).ok_or("a chunk size that is not hexadecimal")
}

/// RFC 9110, 5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// RFC 9110, 5.5: visible characters, blanks, tabs and bytes beyond ASCII.
fn may_stand_in_value(byte: u8) -> bool {
    byte == b'\t' || (byte >= b' ' && byte != 0x7f)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What passes on, what the content is, and how many bytes were read, for a body given in pieces of `piece` bytes.
    fn scan(body: &[u8], piece: usize) -> Result<(Vec<u8>, Vec<u8>, usize, bool), Wrong> {
        let mut scanner = ChunkScanner::default();
        let (mut passed, mut content, mut read) = (Vec::new(), Vec::new(), 0);
        for part in body.chunks(piece) {
            let mut part = part;
            while let Some(run) = scanner.next(part)? {
                let (Run::Frame(n) | Run::Data(n) | Run::Cut(n)) = run;
                let (here, rest) = part.split_at(n);
                if !matches!(run, Run::Cut(_)) {
                    passed.extend_from_slice(here);
                }
                if matches!(run, Run::Data(_)) {
                    content.extend_from_slice(here);
                }
                read += n;
                part = rest;
            }
        }
        Ok((passed, content, read, scanner.has_ended()))
    }

    #[test]
    fn bodies_whole_byte_by_byte_and_with_bytes_behind_them() {
        let cases = [
            ("5\r\nhello\r\n0\r\n\r\n", "5\r\nhello\r\n0\r\n\r\n", "hello"),
            ("0\r\n\r\n", "0\r\n\r\n", ""),
            ("00000\r\n\r\n", "00000\r\n\r\n", ""),
            ("0;x=y\r\n\r\n", "0\r\n\r\n", ""),
            ("a\r\n0123456789\r\n0\r\n\r\n", "a\r\n0123456789\r\n0\r\n\r\n", "0123456789"),
            ("2;a=\"\\\";\\\\\";b=\"\"\r\nhi\r\n0\r\n\r\n", "2\r\nhi\r\n0\r\n\r\n", "hi"),
            ("A;a=b;c=\"d e\"\r\n0123456789\r\n0\r\n\r\n", "A\r\n0123456789\r\n0\r\n\r\n", "0123456789"),
            ("3\r\n\r\n\r\r\n2\r\nab\r\n0\r\n\r\n", "3\r\n\r\n\r\r\n2\r\nab\r\n0\r\n\r\n", "\r\n\rab"),
            ("1\r\nx\r\n0\r\nA: b\r\nC:\r\n\r\n", "1\r\nx\r\n0\r\n\r\n", "x"),
        ];
        for (body, passed, content) in cases {
            for behind in ["", "GET / HTTP/1.1\r\n"] {
                let whole = [body, behind].concat();
                for piece in [1, 2, 3, 7, whole.len()] {
                    let expected = (passed.as_bytes().to_vec(), content.as_bytes().to_vec(), body.len(), true);
                    assert_eq!(scan(whole.as_bytes(), piece), Ok(expected), "{whole:?} in pieces of {piece}");
                }
            }
            let cut = body.len() - 1;
            assert!(!scan(&body.as_bytes()[..cut], cut).unwrap().3, "{body:?} less one byte must not have ended");
        }
    }

    #[test]
    fn what_is_not_chunked_is_wrong_at_any_cut() {
        let long_extension = format!("1;{}\r\nx\r\n0\r\n\r\n", "e".repeat(300));
        let many_extensions = format!("{}0\r\n\r\n", format!("1;{}\r\nx\r\n", "e".repeat(250)).repeat(20));
        let long_trailer = format!("0\r\nA: {}\r\n\r\n", "t".repeat(9000));
        let cases = [
            "\r\n",
            "g\r\n",
            "-1\r\n",
            "+1\r\n",
            "0x1\r\n",
            " 1\r\n",
            "1 \r\n",
            "1_0\r\n",
            ";a\r\n",
            "1\n",
            "1\r\r\n",
            "1\rx",
            "1;a\nb\r\n",
            "1;a\rb\r\n",
            "1;\"a\r\nb\"\r\nx\r\n",
            "1;a=\"\r\nx\r\n",
            "1;a=\"b\\\"\r\nx\r\n",
            "0;a=\"\r\n\r\n",
            "1;\0\r\n",
            "1\r\nxy\r\n",
            "1\r\nx\n",
            "1\r\nx\r\r",
            "1\r\nx0\r\n",
            "0000000000000001\r\n",
            "ffffffffffffffff\r\n",
            "0\r\n x\r\n\r\n",
            "0\r\nA : b\r\n\r\n",
            "0\r\nA\r\n\r\n",
            "0\r\n: b\r\n\r\n",
            "0\r\nA: b\n\r\n",
            "0\r\nA: \0\r\n\r\n",
            "0\r\nA: b\r\n c\r\n\r\n",
            "0\r\n\n",
            "0\r\n\rx",
            "0\n\r\n",
            long_extension.as_str(),
            many_extensions.as_str(),
            long_trailer.as_str(),
        ];
        for body in cases {
            for piece in [1, 2, body.len()] {
                let told = scan(body.as_bytes(), piece);
                assert!(told.is_err(), "{body:?} in pieces of {piece}: {told:?}");
            }
        }
    }
}
