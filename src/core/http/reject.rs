//! Why a message is refused, and with which status.
//!
//! [`Reject`] is for requests: the client is told by a status. [`Fault`] is for responses: the upstream failed us.

use std::fmt;

/// Why a request is refused. Its connection is closed behind the answer, because where the next request would begin is not
/// known, or not worth believing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reject {
    /// It has no reading, or more than one. The words say what is wrong with it.
    Malformed(&'static str),
    /// CONNECT or TRACE.
    Method,
    /// It did not arrive within its time.
    TooSlow,
    /// The body is larger than the limit.
    BodyTooLarge,
    /// The target is longer than the limit.
    TargetTooLong,
    /// An expectation other than `100-continue`.
    Expectation,
    /// The head holds more bytes than the limit.
    HeadTooLarge,
    /// The head holds more fields than the limit.
    TooManyFields,
    /// A well-formed HTTP version that is not served.
    Version,
    /// A transfer coding that is known but not understood here.
    UnknownCoding,
    /// There is no room for another connection to an upstream: no descriptor is left here, or its backlog is full.
    Full,
}

impl Reject {
    /// The status that tells the client.
    pub fn status(self) -> u16 {
        match self {
            Reject::Malformed(_) => 400,
            Reject::Method => 405,
            Reject::TooSlow => 408,
            Reject::BodyTooLarge => 413,
            Reject::TargetTooLong => 414,
            Reject::Expectation => 417,
            Reject::HeadTooLarge | Reject::TooManyFields => 431,
            Reject::Version => 500,
            Reject::UnknownCoding => 501,
            Reject::Full => 503,
        }
    }
}

impl fmt::Display for Reject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Reject::Malformed(what) => what,
            Reject::Method => "CONNECT and TRACE are not forwarded",
            Reject::TooSlow => "the request did not arrive in time",
            Reject::BodyTooLarge => "the body is larger than limits.body",
            Reject::TargetTooLong => "the target is longer than limits.target",
            Reject::Expectation => "an expectation other than 100-continue",
            Reject::HeadTooLarge => "the head is larger than limits.head",
            Reject::TooManyFields => "more fields than limits.fields",
            Reject::Version => "an HTTP version that is not served",
            Reject::UnknownCoding => "a transfer coding other than chunked",
            Reject::Full => "no room for another connection to an upstream",
        })
    }
}

/// Why a response cannot be passed on. The words say what is wrong with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault(pub &'static str);

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}
