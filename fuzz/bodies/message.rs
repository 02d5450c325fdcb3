//! A second reading of HTTP/1.1 (RFC 9112), written for plainness and strictness and without a look at hawkey's own.
//!
//! Bytes stand for characters one to one, so that hostile ones can be compared and shown.

use std::fmt;

/// A start line and fields; values without the white space around them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    pub start: String,
    pub fields: Vec<(String, String)>,
}

/// How the end of a body is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    None,
    Length(u64),
    Chunked,
    UntilClose,
}

/// Which line ends count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lines {
    /// CRLF.
    Strict,
    /// CRLF or a bare LF, which RFC 9112, 2.2, allows a recipient.
    Lenient,
}

impl Head {
    /// The head that `bytes` begin with, and its length; `None` if it is not whole.
    pub fn read(bytes: &[u8], lines: Lines) -> Result<Option<(Head, usize)>, String> {
        let mut texts = Vec::new();
        let mut length = 0;
        for line in bytes.split_inclusive(|byte| *byte == b'\n') {
            let Some(text) = line.strip_suffix(b"\n") else { return Ok(None) };
            let text = match (text.strip_suffix(b"\r"), lines) {
                (Some(text), _) => text,
                (None, Lines::Lenient) => text,
                (None, Lines::Strict) => return Err(format!("a bare LF behind {}", text.escape_ascii())),
            };
            if text.iter().any(|byte| (*byte < b' ' && *byte != b'\t') || *byte == 0x7f) {
                return Err(format!("a control byte in {}", text.escape_ascii()));
            }
            length += line.len();
            if text.is_empty() {
                return Head::of_lines(&texts).map(|head| Some((head, length)));
            }
            texts.push(latin1(text));
        }
        Ok(None)
    }

    fn of_lines(lines: &[String]) -> Result<Head, String> {
        let (start, lines) = lines.split_first().ok_or("no start line")?;
        let fields = lines.iter().map(|line| {
            let (name, value) = line.split_once(':').ok_or_else(|| format!("a line that is no field: {line:?}"))?;
            if !is_token(name) {
                return Err(format!("a field name that is no token: {line:?}"));
            }
            Ok((name.to_owned(), value.trim_matches([' ', '\t']).to_owned()))
        });
        Ok(Head { start: start.clone(), fields: fields.collect::<Result<_, _>>()? })
    }

    /// Method, target and version of a request; version, status and reason of a response.
    pub fn words(&self) -> Result<[&str; 3], String> {
        let mut words = self.start.splitn(3, ' ');
        match (words.next(), words.next(), words.next()) {
            (Some(one), Some(two), three) => Ok([one, two, three.unwrap_or_default()]),
            _ => Err(format!("not a start line: {:?}", self.start)),
        }
    }

    /// The values of a field, by its name in lower case.
    pub fn all(&self, name: &str) -> Vec<&str> {
        let is_it = |field: &&(String, String)| field.0.eq_ignore_ascii_case(name);
        self.fields.iter().filter(is_it).map(|field| field.1.as_str()).collect()
    }

    /// The members of a list, over all fields of a name, in lower case.
    pub fn list(&self, name: &str) -> Vec<String> {
        let members = self.all(name).into_iter().flat_map(|value| value.split(','));
        // A no-break space is no white space of a list (RFC 9110, 5.6.3).
        let members = members.map(|member| member.trim_matches([' ', '\t']).to_ascii_lowercase());
        members.filter(|member| !member.is_empty()).collect()
    }

    /// What the fields say about the body, if they say one thing.
    pub fn declared(&self) -> Result<Option<Body>, String> {
        match (self.all("transfer-encoding").as_slice(), self.all("content-length").as_slice()) {
            ([], []) => Ok(None),
            ([coding], []) if coding.eq_ignore_ascii_case("chunked") => Ok(Some(Body::Chunked)),
            ([], [length]) if !length.is_empty() && length.bytes().all(|byte| byte.is_ascii_digit()) => {
                length.parse().map(|length| Some(Body::Length(length))).map_err(|_| format!("the length {length:?}"))
            }
            (codings, lengths) => Err(format!("the codings {codings:?} with the lengths {lengths:?}")),
        }
    }

    /// The body of a request (RFC 9112, 6.3). A length of 0 is no body.
    pub fn request_body(&self) -> Result<Body, String> {
        Ok(match self.declared()? {
            None | Some(Body::Length(0)) => Body::None,
            Some(body) => body,
        })
    }

    /// The body of the response with `status` to a request, which may have been HEAD.
    pub fn response_body(&self, status: u16, answers_head: bool) -> Result<Body, String> {
        if status < 200 || matches!(status, 204 | 304) || answers_head {
            return Ok(Body::None);
        }
        Ok(match self.declared()? {
            None => Body::UntilClose,
            Some(Body::Length(0)) => Body::None,
            Some(body) => body,
        })
    }
}

/// RFC 9110, 5.6.2.
pub fn is_token(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c))
}

pub fn latin1(bytes: &[u8]) -> String {
    bytes.iter().copied().map(char::from).collect()
}

/// Messages that travel one behind the other over a connection.
#[derive(Debug, Default)]
pub struct Messages {
    unread: Vec<u8>,
    part: Part,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Part {
    #[default]
    Head,
    Length(u64),
    ChunkSize,
    ChunkData(u64),
    ChunkEnd,
    LastEnd,
    UntilClose,
}

impl Messages {
    /// Whether no message has begun that has not ended.
    pub fn is_at_border(&self) -> bool {
        self.part == Part::Head && self.unread.is_empty()
    }

    /// Whether only the end of the connection ends what has begun.
    pub fn is_until_close(&self) -> bool {
        self.part == Part::UntilClose
    }

    /// From here on, bytes are no messages.
    pub fn end_of_messages(&mut self) {
        self.unread.clear();
        self.part = Part::UntilClose;
    }

    /// Reads on. `body_of` judges every head, and says how its body is framed.
    pub fn read(&mut self, bytes: &[u8], mut body_of: impl FnMut(&Head) -> Result<Body, String>) -> Result<(), String> {
        self.unread.extend_from_slice(bytes);
        while !self.unread.is_empty() {
            let (used, next) = match self.part {
                Part::Head => {
                    let Some((head, length)) = Head::read(&self.unread, Lines::Strict)? else { break };
                    let next = match body_of(&head)? {
                        Body::None => Part::Head,
                        Body::Length(length) => Part::Length(length),
                        Body::Chunked => Part::ChunkSize,
                        Body::UntilClose => Part::UntilClose,
                    };
                    (length, next)
                }
                Part::Length(left) => {
                    let here = left.min(self.unread.len() as u64);
                    (here as usize, if here == left { Part::Head } else { Part::Length(left - here) })
                }
                Part::ChunkSize => {
                    let Some(end) = self.unread.iter().position(|byte| *byte == b'\n') else { break };
                    let digits = latin1(&self.unread[..end]);
                    let digits = digits.strip_suffix('\r').ok_or_else(|| format!("the chunk size {digits:?}"))?;
                    let is_sound = (1..16).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_hexdigit());
                    let size = u64::from_str_radix(digits, 16).ok().filter(|_| is_sound);
                    let size = size.ok_or_else(|| format!("the chunk size {digits:?}"))?;
                    (end + 1, if size == 0 { Part::LastEnd } else { Part::ChunkData(size) })
                }
                Part::ChunkData(left) => {
                    let here = left.min(self.unread.len() as u64);
                    (here as usize, if here == left { Part::ChunkEnd } else { Part::ChunkData(left - here) })
                }
                Part::ChunkEnd | Part::LastEnd => {
                    let Some(end) = self.unread.get(..2) else { break };
                    if end != b"\r\n" {
                        return Err(format!("{} where a chunk ends", end.escape_ascii()));
                    }
                    (2, if self.part == Part::ChunkEnd { Part::ChunkSize } else { Part::Head })
                }
                Part::UntilClose => (self.unread.len(), Part::UntilClose),
            };
            self.unread.drain(..used);
            self.part = next;
        }
        Ok(())
    }
}

/// An input as a failure shows it.
pub struct Shown<'a>(pub &'a [u8]);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.escape_ascii())
    }
}
