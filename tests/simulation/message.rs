//! A strict reader of HTTP/1.1 messages, written without a look at hawkey's own: two readings of what leaves must agree.

/// A start line and fields.
#[derive(Debug)]
pub struct Head {
    pub start: String,
    pub fields: Vec<(String, String)>,
}

impl Head {
    /// The head that `bytes` begin with, and its length; `None` if it is not whole.
    pub fn read(bytes: &[u8]) -> Result<Option<(Head, usize)>, String> {
        let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(None) };
        let text = std::str::from_utf8(&bytes[..end]).map_err(|_| "a head that is not text".to_string())?;
        let mut lines = text.split("\r\n");
        let start = lines.next().unwrap_or_default().to_string();
        let mut fields = Vec::new();
        for line in lines {
            let (name, value) = line.split_once(": ").ok_or_else(|| format!("a line that is no field: {line:?}"))?;
            if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
                return Err(format!("a field name that is no token: {name:?}"));
            }
            fields.push((name.to_ascii_lowercase(), value.to_string()));
        }
        if text.bytes().filter(|byte| matches!(byte, b'\r' | b'\n')).count() != 2 * fields.len() || start.is_empty() {
            return Err(format!("lines that do not end in CRLF: {text:?}"));
        }
        Ok(Some((Head { start, fields }, end + 4)))
    }

    /// The only value of a field.
    pub fn only(&self, name: &str) -> Result<Option<&str>, String> {
        let mut values = self.fields.iter().filter(|field| field.0 == name).map(|field| field.1.as_str());
        match (values.next(), values.next()) {
            (_, Some(_)) => Err(format!("`{name}` stands twice: {self:?}")),
            (value, None) => Ok(value),
        }
    }

    /// How the body is framed by the fields; `None` if they say nothing.
    pub fn declared(&self) -> Result<Option<Body>, String> {
        match (self.only("transfer-encoding")?, self.only("content-length")?) {
            (Some(_), Some(_)) => Err(format!("two lengths: {self:?}")),
            (Some("chunked"), None) => Ok(Some(Body::Chunked(Chunk::Size(String::new())))),
            (Some(other), None) => Err(format!("a transfer coding `{other}`")),
            (None, Some(length)) => {
                length.parse().map(|n| Some(Body::Length(n))).map_err(|_| format!("a length `{length}`"))
            }
            (None, None) => Ok(None),
        }
    }
}

/// What is still to come of a body.
#[derive(Debug, PartialEq)]
pub enum Body {
    Length(usize),
    Chunked(Chunk),
    UntilClose,
}

/// Where in a chunked body the next byte stands.
#[derive(Debug, PartialEq)]
pub enum Chunk {
    Size(String),
    Data(usize),
    /// These bytes and no others must come, then a chunk's data or, if there is none, the end.
    LineEnd(&'static [u8], Option<usize>),
    DataEnd(&'static [u8]),
    End,
}

impl Body {
    pub fn is_whole(&self) -> bool {
        matches!(self, Body::Length(0) | Body::Chunked(Chunk::End))
    }

    /// Takes what belongs to the body from the front of `bytes`; returns the content.
    pub fn take(&mut self, bytes: &mut Vec<u8>) -> Result<Vec<u8>, String> {
        match self {
            Body::UntilClose => Ok(std::mem::take(bytes)),
            Body::Length(left) => {
                let n = bytes.len().min(*left);
                *left -= n;
                Ok(bytes.drain(..n).collect())
            }
            Body::Chunked(chunk) => {
                let (mut at, mut content) = (0, Vec::new());
                while at < bytes.len() && *chunk != Chunk::End {
                    at += chunk.step(&bytes[at..], &mut content)?;
                }
                bytes.drain(..at);
                Ok(content)
            }
        }
    }
}

impl Chunk {
    /// Takes at least one of `bytes`; how many it took.
    fn step(&mut self, bytes: &[u8], content: &mut Vec<u8>) -> Result<usize, String> {
        match self {
            Chunk::Size(digits) => match bytes[0] {
                b'\r' => {
                    let size = usize::from_str_radix(digits, 16).map_err(|_| format!("a chunk size `{digits}`"))?;
                    *self = if size == 0 { Chunk::LineEnd(b"\n\r\n", None) } else { Chunk::LineEnd(b"\n", Some(size)) };
                }
                byte if byte.is_ascii_hexdigit() => digits.push(char::from(byte)),
                byte => return Err(format!("the byte {:?} in a chunk size, behind {digits:?}", char::from(byte))),
            },
            Chunk::Data(left) => {
                let n = bytes.len().min(*left);
                content.extend_from_slice(&bytes[..n]);
                *left -= n;
                if *left == 0 {
                    *self = Chunk::DataEnd(b"\r\n");
                }
                return Ok(n);
            }
            Chunk::LineEnd(expected, size) => {
                *expected = after(expected, bytes[0])?;
                if expected.is_empty() {
                    *self = size.map_or(Chunk::End, Chunk::Data);
                }
            }
            Chunk::DataEnd(expected) => {
                *expected = after(expected, bytes[0])?;
                if expected.is_empty() {
                    *self = Chunk::Size(String::new());
                }
            }
            Chunk::End => return Ok(0),
        }
        Ok(1)
    }
}

fn after(expected: &'static [u8], byte: u8) -> Result<&'static [u8], String> {
    match expected.split_first() {
        Some((first, rest)) if *first == byte => Ok(rest),
        _ => Err(format!("the byte {:?} where a chunked body has {expected:?}", char::from(byte))),
    }
}
