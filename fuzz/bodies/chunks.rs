//! `ChunkScanner` against a decoder that reads the whole of a body with the grammar of RFC 9112, 7.1, beside it.

use hawkey::http::chunked::{CHUNK_EXTENSION_BYTES_MAX, ChunkScanner, EXTENSION_BYTES_MAX, Run, TRAILER_BYTES_MAX};

use super::message::{Shown, is_token, latin1};

/// What is read in a chunked body.
#[derive(Debug, Default, PartialEq, Eq)]
struct Reading {
    content: Vec<u8>,
    /// What travels on: all but extensions and trailers.
    passed: Vec<u8>,
    /// Bytes before the end of the body, before what is wrong, or in all.
    read: usize,
    verdict: Verdict,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Verdict {
    Ended,
    Wrong,
    /// More must come.
    #[default]
    More,
}

/// The input is a chunked body, and perhaps more behind it.
pub fn chunked(input: &[u8]) {
    let expected = decode(input);
    for piece in [input.len().max(1), 1, 2 + input.len() % 7] {
        let scanned = scan(input, piece);
        assert_eq!(scanned, expected, "in pieces of {piece} the left was scanned, the right decoded: {}", Shown(input));
    }
    if expected.verdict == Verdict::Ended {
        let again = decode(&expected.passed);
        let expected = Reading { read: expected.passed.len(), ..expected };
        assert_eq!(again, expected, "what is passed on reads as the left, and came as the right: {}", Shown(input));
    }
}

/// How many bytes the chunked body takes that `bytes` begin with; `None` if it is not whole.
pub fn length_of_chunked(bytes: &[u8]) -> Option<usize> {
    let reading = decode(bytes);
    (reading.verdict == Verdict::Ended).then_some(reading.read)
}

fn scan(body: &[u8], piece: usize) -> Reading {
    let mut scanner = ChunkScanner::default();
    let mut reading = Reading::default();
    for mut part in body.chunks(piece) {
        loop {
            match scanner.next(part) {
                Ok(None) => break,
                Err(_) => return Reading { verdict: Verdict::Wrong, ..reading },
                Ok(Some(run)) => {
                    let (Run::Frame(n) | Run::Data(n) | Run::Cut(n)) = run;
                    let (here, rest) = part.split_at(n);
                    if !matches!(run, Run::Cut(_)) {
                        reading.passed.extend_from_slice(here);
                    }
                    if matches!(run, Run::Data(_)) {
                        reading.content.extend_from_slice(here);
                    }
                    reading.read += n;
                    part = rest;
                }
            }
        }
    }
    if scanner.has_ended() {
        reading.verdict = Verdict::Ended;
    }
    reading
}

fn decode(body: &[u8]) -> Reading {
    let mut decoder = Decoder { body, reading: Reading::default() };
    decoder.reading.verdict = decoder.chunked_body().err().unwrap_or(Verdict::Ended);
    decoder.reading
}

struct Decoder<'a> {
    body: &'a [u8],
    reading: Reading,
}

impl Decoder<'_> {
    fn chunked_body(&mut self) -> Result<(), Verdict> {
        let mut extensions = 0;
        while self.chunk(&mut extensions)? > 0 {}
        let mut trailers = 0;
        while self.peek()? != b'\r' {
            self.trailer(&mut trailers)?;
        }
        self.line_end()
    }

    fn chunk(&mut self, extensions: &mut usize) -> Result<usize, Verdict> {
        let mut digits = String::new();
        while digits.is_empty() || !matches!(self.peek()?, b'\r' | b';') {
            let is_sound = digits.len() < 15 && self.peek()?.is_ascii_hexdigit();
            digits.push(char::from(self.take(is_sound)?));
        }
        if self.peek()? == b';' {
            self.cut(true)?;
            let (mut here, mut text) = (0, Vec::new());
            while self.peek()? != b'\r' {
                text.push(self.peek()?);
                (here, *extensions) = (here + 1, *extensions + 1);
                let is_short =
                    here <= usize::from(CHUNK_EXTENSION_BYTES_MAX) && *extensions <= usize::from(EXTENSION_BYTES_MAX);
                let is_sound = stands_in_value(self.peek()?);
                self.cut(is_short && is_sound)?;
            }
            if has_open_quote(&latin1(&text)) {
                return Err(Verdict::Wrong);
            }
        }
        self.line_end()?;
        let size = usize::from_str_radix(&digits, 16).map_err(|_| Verdict::Wrong)?;
        for _ in 0..size {
            let byte = self.take(true)?;
            self.reading.content.push(byte);
        }
        if size > 0 {
            self.line_end()?;
        }
        Ok(size)
    }

    fn trailer(&mut self, bytes: &mut usize) -> Result<(), Verdict> {
        let mut name = Vec::new();
        loop {
            let byte = self.peek()?;
            let is_sound = if name.is_empty() || byte != b':' { is_token(&latin1(&[byte])) } else { true };
            self.trailer_byte(is_sound, bytes)?;
            if byte == b':' {
                break;
            }
            name.push(byte);
        }
        loop {
            let byte = self.peek()?;
            self.trailer_byte(byte == b'\r' || stands_in_value(byte), bytes)?;
            if byte == b'\r' {
                break;
            }
        }
        let is_end = self.peek()? == b'\n';
        self.trailer_byte(is_end, bytes)
    }

    fn trailer_byte(&mut self, is_sound: bool, bytes: &mut usize) -> Result<(), Verdict> {
        *bytes += 1;
        self.cut(is_sound && *bytes <= usize::from(TRAILER_BYTES_MAX))
    }

    fn line_end(&mut self) -> Result<(), Verdict> {
        for expected in [b'\r', b'\n'] {
            let is_sound = self.peek()? == expected;
            self.take(is_sound)?;
        }
        Ok(())
    }

    fn peek(&self) -> Result<u8, Verdict> {
        self.body.get(self.reading.read).copied().ok_or(Verdict::More)
    }

    /// The next byte, which travels on.
    fn take(&mut self, is_sound: bool) -> Result<u8, Verdict> {
        let byte = self.peek()?;
        self.cut(is_sound)?;
        self.reading.passed.push(byte);
        Ok(byte)
    }

    /// The next byte, which does not travel on.
    fn cut(&mut self, is_sound: bool) -> Result<(), Verdict> {
        self.peek()?;
        if !is_sound {
            return Err(Verdict::Wrong);
        }
        self.reading.read += 1;
        Ok(())
    }
}

/// Whether a quoted string begins in `text` and does not end in it (RFC 9110, 5.6.4).
fn has_open_quote(text: &str) -> bool {
    let mut rest = text;
    while let Some((_, quoted)) = rest.split_once('"') {
        let mut characters = quoted.chars();
        loop {
            match characters.next() {
                None => return true,
                Some('"') => break,
                Some('\\') => drop(characters.next()),
                Some(_) => {}
            }
        }
        rest = characters.as_str();
    }
    false
}

fn stands_in_value(byte: u8) -> bool {
    byte == b'\t' || (b' '..0x7f).contains(&byte) || byte >= 0x80
}
