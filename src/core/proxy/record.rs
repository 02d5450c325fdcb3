//! What is told of an exchange or a tunnel in the log: one `key=value` line each, in which no byte of a stranger can pass for
//! ours.

use std::fmt::{self, Write as _};
use std::ops::AddAssign;

use crate::proxy::moment::Moment;
use crate::proxy::policy::{ClientAddress, Policy, UpstreamId};
use crate::proxy::side::Side;

/// Whose line it is: the numbers that every line carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Number {
    /// Of the session, counted from 1 over the life of the process.
    pub session: u64,
    /// Of the request, counted from 1 over the life of the session; 0 before the first.
    pub request: u32,
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "session={} request={}", self.session, self.request)
    }
}

/// Bytes of a refused request's first line that the log shows.
const LINE_BYTES_SHOWN: usize = 256;

/// Bytes of text whose memory is used again.
const TEXT_KEPT_MAX: usize = 1024;

/// Bytes written to upstreams and to clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// To upstreams.
    pub up: u64,
    /// To clients.
    pub down: u64,
}

impl Traffic {
    /// Counts bytes that were written to one side.
    pub fn note(&mut self, to: Side, n: usize) {
        let counter = match to {
            Side::Client => &mut self.down,
            Side::Upstream => &mut self.up,
        };
        *counter = counter.saturating_add(n as u64);
    }
}

impl AddAssign for Traffic {
    fn add_assign(&mut self, more: Traffic) {
        self.up = self.up.saturating_add(more.up);
        self.down = self.down.saturating_add(more.down);
    }
}

/// What is remembered of an exchange until its line is written.
#[derive(Debug)]
pub struct Record {
    /// `method=… host=… target=…`, escaped; empty if nobody will read it.
    asked: String,
    /// When the first byte of the request was there.
    pub began: Moment,
    /// When the head of the final response was there.
    pub answered: Option<Moment>,
    /// The status that the client was told.
    pub status: Option<u16>,
    /// Who was asked last.
    pub upstream: Option<UpstreamId>,
    /// Bytes of it that were written.
    pub moved: Traffic,
    /// How it ended, if in any other way than complete.
    end: Option<String>,
}

/// How something ended, why, and by whom.
#[derive(Clone, Copy)]
pub struct End<'a> {
    /// One word.
    pub word: &'static str,
    /// `client`, `upstream` or `hawkey`.
    pub by: &'static str,
    /// A sentence, where the word is not enough.
    pub why: Option<&'a dyn fmt::Display>,
}

impl<'a> End<'a> {
    /// An end that needs no sentence.
    pub fn new(word: &'static str, by: &'static str) -> End<'a> {
        End { word, by, why: None }
    }

    /// An end and its reason.
    pub fn because(word: &'static str, by: &'static str, why: &'a dyn fmt::Display) -> End<'a> {
        End { word, by, why: Some(why) }
    }
}

impl fmt::Display for End<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "end={} by={}", self.word, self.by)?;
        match self.why {
            None => Ok(()),
            Some(why) => write!(f, " why={}", Quoted(why.to_string().as_bytes())),
        }
    }
}

impl Record {
    /// Begins a record at `began`, with the memory of `text`.
    pub fn new(began: Moment, mut text: String) -> Record {
        text.clear();
        let moved = Traffic::default();
        Record { asked: text, began, answered: None, status: None, upstream: None, moved, end: None }
    }

    /// Begins anew at `began`, with the memory of its text.
    pub fn renew(&mut self, began: Moment) {
        *self = Record::new(began, std::mem::take(&mut self.asked));
    }

    /// Gives up what is too much to be kept for the sake of its memory.
    pub fn trim(&mut self) {
        self.end = None;
        if self.asked.capacity() > TEXT_KEPT_MAX {
            self.asked = String::new();
        }
    }

    /// Bytes of memory of its text.
    #[cfg(test)]
    pub fn text_bytes(&self) -> usize {
        self.asked.capacity()
    }

    /// Remembers what was asked for, if the log is on.
    pub fn note_request(&mut self, method: &str, host: &[u8], target: &str) {
        if log::max_level() >= log::LevelFilter::Info {
            self.write_request(method, host, target);
        }
    }

    #[inline(never)]
    fn write_request(&mut self, method: &str, host: &[u8], target: &str) {
        if log::log_enabled!(log::Level::Info) {
            // What is written around the three.
            const FRAME: usize = "method= host=\"\" target=\"\"".len();
            self.asked.reserve_exact(FRAME + method.len() + host.len() + target.len());
            let _ = write!(self.asked, "method={method} host={} target={}", Quoted(host), Quoted(target.as_bytes()));
        }
    }

    /// Remembers the first line of what could not be understood as a request, if the log is on.
    #[cold]
    pub fn note_line(&mut self, bytes: &[u8]) {
        if log::log_enabled!(log::Level::Info) {
            let line = bytes.trim_ascii_start().split(|byte| matches!(byte, b'\r' | b'\n')).next().unwrap_or_default();
            let shown = line.get(..LINE_BYTES_SHOWN).unwrap_or(line);
            let _ = write!(self.asked, "method=- host=- target=- line={}", Quoted(shown));
        }
    }

    /// Takes note of how it ended. The first word counts: what follows from it is no news.
    pub fn note_end(&mut self, end: End<'_>) {
        self.end.get_or_insert_with(|| end.to_string());
    }

    /// Writes the line of an exchange that has ended.
    pub fn log(&self, number: Number, client: &ClientAddress, policy: &Policy, now: Moment) {
        log::info!(
            "{number} client={client} {} status={} upstream={} up={} down={} head_ms={} ms={} {}",
            self.asked(),
            OrDash(self.status),
            OrDash(upstream_name(policy, self.upstream)),
            self.moved.up,
            self.moved.down,
            OrDash(self.answered.map(|answered| answered.saturating_duration_since(self.began).as_millis())),
            now.saturating_duration_since(self.began).as_millis(),
            self.end.as_deref().unwrap_or("end=complete by=upstream"),
        );
    }

    /// Writes the line of a tunnel that has opened.
    pub fn log_open(&self, number: Number, client: &ClientAddress, policy: &Policy, now: Moment) {
        log::info!(
            "{number} tunnel=open client={client} {} status=101 upstream={} head_ms={}",
            self.asked(),
            OrDash(upstream_name(policy, self.upstream)),
            now.saturating_duration_since(self.began).as_millis(),
        );
    }

    fn asked(&self) -> &str {
        if self.asked.is_empty() { "method=- host=- target=-" } else { &self.asked }
    }
}

/// The address of an upstream, as the log has it.
pub fn upstream_name(policy: &Policy, id: Option<UpstreamId>) -> Option<impl fmt::Display + '_> {
    id.and_then(|id| policy.upstream(id)).map(|upstream| &upstream.address)
}

/// A value, or `-` where there is none.
pub struct OrDash<T>(pub Option<T>);

impl<T: fmt::Display> fmt::Display for OrDash<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(value) => value.fmt(f),
            None => f.write_str("-"),
        }
    }
}

/// Bytes of a stranger between quotes: visible ASCII and blanks as they are, all else escaped, so that a line stays a line.
pub struct Quoted<'a>(pub &'a [u8]);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.escape_ascii())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_strangers_say_stays_one_quoted_word() {
        let told = Quoted(b"/x\" end=complete\r\n\x1b[31m\xff\\").to_string();
        assert_eq!(told, r#""/x\" end=complete\r\n\x1b[31m\xff\\""#);
    }

    #[test]
    fn an_end_tells_its_reason() {
        let end = End::because("fault", "upstream", &"said \"no\"\n");
        assert_eq!(end.to_string(), r#"end=fault by=upstream why="said \"no\"\n""#);
    }
}
