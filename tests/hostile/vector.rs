//! Vectors as text: what a client and an upstream send, and what must come of it. `README.md` tells the format.

use std::fmt;

use super::judge::Expected;

/// One conversation.
#[derive(Clone, Debug)]
pub struct Vector {
    name: String,
    /// What the client sends. A further request follows in the same packet.
    pub client: Vec<u8>,
    /// What the upstream answers the first request with; none is an ordinary answer.
    pub script: Option<Script>,
    pub expected: Expected,
    /// Whether the client's connection ends behind the first answers.
    pub is_closed: bool,
    /// Whether the upstream's connection must not be used again.
    pub is_dropped: bool,
    /// How many more requests are answered before the further one.
    pub more: usize,
}

/// What an upstream sends, and then.
#[derive(Clone, Debug, Default)]
pub struct Script {
    pub bytes: Vec<u8>,
    pub then: Then,
    /// Whether the connection is a tunnel from then on.
    pub opens_tunnel: bool,
}

/// What an upstream does when it has sent all it has to say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Then {
    #[default]
    Stays,
    Ends,
    Breaks,
}

impl fmt::Display for Vector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n  the client sends {}", self.name, Shown(&self.client))?;
        match &self.script {
            Some(script) => write!(f, "\n  the upstream sends {}, then {:?}", Shown(&script.bytes), script.then),
            None => Ok(()),
        }
    }
}

/// Bytes for people, and not all of them if they are many.
pub struct Shown<'a>(pub &'a [u8]);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let some = self.0.get(..400).unwrap_or(self.0);
        write!(f, "\"{}\"", some.escape_ascii())?;
        if some.len() < self.0.len() { write!(f, " and so on, {} bytes", self.0.len()) } else { Ok(()) }
    }
}

impl Vector {
    /// Whether the first answer has no body because of its request.
    pub fn asks_with_head(&self) -> bool {
        self.client.starts_with(b"HEAD ")
    }

    /// What stands behind the first head that the client sends.
    pub fn early(&self) -> &[u8] {
        let end = self.client.windows(4).position(|four| four == b"\r\n\r\n");
        end.map_or(b"", |end| &self.client[end + 4..])
    }
}

/// The vectors of a file; on error the line, and what is wrong with it.
pub fn parse(text: &str) -> Result<Vec<Vector>, String> {
    let mut all = Vec::new();
    each_template(text, |vectors| all.extend(vectors))?;
    Ok(all)
}

/// The same, but the vectors under each title by themselves, because all at once may be many.
pub fn each_template(text: &str, mut take: impl FnMut(Vec<Vector>)) -> Result<(), String> {
    let mut lines = text.lines().enumerate().map(|(index, line)| (index + 1, line)).peekable();
    while lines.next_if(|(_, line)| !line.starts_with("--- ")).is_some() {}
    while let Some((number, title)) = lines.next() {
        let mut template =
            Template { title: format!("{number}: {}", title.trim_start_matches("--- ")), ..Template::default() };
        while let Some((number, line)) = lines.next_if(|(_, line)| !line.starts_with("--- ")) {
            template.take(line).map_err(|error| format!("{number}: {error}"))?;
        }
        take(template.vectors().map_err(|error| format!("{number}: {error}"))?);
    }
    Ok(())
}

/// A part of a file from one title to the next.
#[derive(Default)]
struct Template {
    title: String,
    has_reason: bool,
    client: String,
    script: Option<String>,
    then: Then,
    /// Values for `{}`, for `{by}` and for `{and}`.
    with: Vec<String>,
    by: Vec<String>,
    and: Vec<String>,
    /// What is put at each place, and how many bytes it takes the place of.
    changes: Vec<(Vec<u8>, usize)>,
    /// Whether that is done to what the client sends, though there is a script.
    changes_request: bool,
    expected: Option<String>,
    is_closed: bool,
    is_dropped: bool,
    more: usize,
}

impl Template {
    fn take(&mut self, line: &str) -> Result<(), String> {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        match word {
            "" => {}
            "#" => self.has_reason = true,
            ">" => self.client.push_str(&ended(rest)),
            "<" => self.script.get_or_insert_default().push_str(&ended(rest)),
            "with" => self.with.extend(values(rest)?),
            "by" => self.by.extend(values(rest)?),
            "and" => self.and.extend(values(rest)?),
            "inserting" | "replacing" => {
                for value in values(rest)? {
                    self.changes.push((unescape(&value)?, usize::from(word == "replacing")));
                }
            }
            "in" if rest == "the request" => self.changes_request = true,
            "upstream" if rest == "ends" => self.then = Then::Ends,
            "upstream" if rest == "breaks" => self.then = Then::Breaks,
            "more" => self.more = rest.parse().map_err(|_| format!("`{rest}` is no number"))?,
            "closed" => self.is_closed = true,
            "dropped" => self.is_dropped = true,
            _ if self.expected.is_none() => self.expected = Some(line.to_string()),
            _ => return Err(format!("`{line}`, though something else was expected above")),
        }
        Ok(())
    }

    /// A vector for each value, or for each pair and triple of them, or for each place where something is changed.
    fn vectors(&self) -> Result<Vec<Vector>, String> {
        if !self.has_reason {
            return Err("it gives no reason".to_string());
        }
        let or_none = |values: &[String]| if values.is_empty() { vec![String::new()] } else { values.to_vec() };
        let mut vectors = Vec::new();
        for value in or_none(&self.with) {
            for by in or_none(&self.by) {
                for and in or_none(&self.and) {
                    let fill =
                        |text: &str| unescape(&text.replace("{}", &value).replace("{by}", &by).replace("{and}", &and));
                    let expected = self.expected.as_deref().ok_or("it expects nothing")?.replace("{}", &value);
                    let name = [self.title.as_str(), value.as_str(), by.as_str(), and.as_str()].join(" | ");
                    let whole = self.vector(
                        name,
                        &expected,
                        fill(&self.client)?,
                        self.script.as_deref().map(fill).transpose()?,
                    )?;
                    vectors.extend(self.changed(whole));
                }
            }
        }
        Ok(vectors)
    }

    fn vector(&self, name: String, expected: &str, client: Vec<u8>, script: Option<Vec<u8>>) -> Result<Vector, String> {
        let expected = Expected::parse(expected).ok_or_else(|| format!("`{expected}` means nothing here"))?;
        let opens_tunnel = expected.may_be_tunnel();
        Ok(Vector {
            name,
            client,
            script: script.map(|bytes| Script { bytes, then: self.then, opens_tunnel }),
            expected,
            is_closed: self.is_closed,
            is_dropped: self.is_dropped,
            more: self.more,
        })
    }

    /// The vector itself, or one for each place of it: anywhere in what the client sends, or in the head that the
    /// upstream sends.
    fn changed(&self, whole: Vector) -> Vec<Vector> {
        if self.changes.is_empty() {
            return vec![whole];
        }
        let places = match whole.script.as_ref().filter(|_| !self.changes_request) {
            Some(script) => script.bytes.windows(4).position(|four| four == b"\r\n\r\n").unwrap_or(0) + 1,
            None => whole.client.len(),
        };
        let mut vectors = Vec::new();
        for place in 0..places {
            for (with, instead_of) in &self.changes {
                let mut vector = whole.clone();
                let script = vector.script.as_mut().filter(|_| !self.changes_request);
                let bytes = script.map_or(&mut vector.client, |script| &mut script.bytes);
                bytes.splice(place..place + instead_of, with.iter().copied());
                let how = if *instead_of > 0 { "in the place of the byte" } else { "" };
                vector.name = format!("{} | {} {how} at {place}", whole.name, with.escape_ascii());
                vectors.push(vector);
            }
        }
        vectors
    }
}

/// A line with its end, as an escape: CRLF, unless the line ends in a backslash.
fn ended(line: &str) -> String {
    match line.strip_suffix('\\') {
        Some(open) if !line.ends_with("\\\\") => open.to_string(),
        _ => format!("{line}\\r\\n"),
    }
}

/// One value, or with `bytes 00-08 7f` one for each byte.
fn values(text: &str) -> Result<Vec<String>, String> {
    let Some(ranges) = text.strip_prefix("bytes ") else { return Ok(vec![text.to_string()]) };
    let mut values = Vec::new();
    for range in ranges.split(' ') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let byte = |text| u8::from_str_radix(text, 16).map_err(|_| format!("`{text}` is no byte"));
        values.extend((byte(first)?..=byte(last)?).map(|byte| format!("\\x{byte:02x}")));
    }
    Ok(values)
}

/// The bytes of a text: `\r \n \t \\ \xHH` stand for one byte, `\(ab*3)` for `ababab`.
pub fn unescape(text: &str) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('\\') {
        bytes.extend_from_slice(before.as_bytes());
        let wrong = || format!("`\\{after}` is no escape");
        let kind = after.chars().next().ok_or_else(wrong)?;
        rest = &after[kind.len_utf8()..];
        match kind {
            'r' => bytes.push(b'\r'),
            'n' => bytes.push(b'\n'),
            't' => bytes.push(b'\t'),
            '\\' => bytes.push(b'\\'),
            'x' => {
                let (digits, after) = rest.split_at_checked(2).ok_or_else(wrong)?;
                bytes.push(u8::from_str_radix(digits, 16).map_err(|_| wrong())?);
                rest = after;
            }
            '(' => {
                let (inside, after) = rest.split_once(')').ok_or_else(wrong)?;
                let (repeated, times) = inside.rsplit_once('*').ok_or_else(wrong)?;
                bytes.extend(unescape(repeated)?.repeat(times.parse().map_err(|_| wrong())?));
                rest = after;
            }
            _ => return Err(wrong()),
        }
    }
    bytes.extend_from_slice(rest.as_bytes());
    Ok(bytes)
}

#[test]
fn a_template_makes_a_vector_of_each_value_and_place() {
    let text = "--- a\n# why\n> {}{by}\\\nwith bytes 00-01\nby x\nby \\(yz*2)\none reading\n--- b\n# why\n> ab\\\ninserting \\r\nreplacing z\nlate\n";
    let sent: Vec<_> = parse(text).unwrap().into_iter().map(|vector| vector.client).collect();
    assert_eq!(sent, [b"\0x".as_slice(), b"\0yzyz", b"\x01x", b"\x01yzyz", b"\rab", b"zb", b"a\rb", b"az"]);
}

#[test]
fn what_is_no_vector_is_told() {
    for (text, part) in [
        ("--- a\n> GET\nlate\n", "no reason"),
        ("--- a\n# why\n> GET\n", "expects nothing"),
        ("--- a\n# why\n> GET\nperhaps\n", "means nothing"),
        ("--- a\n# why\n> \\q\nlate\n", "no escape"),
        ("--- a\n# why\n> GET\nlate\nlate\n", "something else"),
    ] {
        let told = parse(text).unwrap_err();
        assert!(told.contains(part), "expected to read {part:?}, came {told:?}");
    }
}
