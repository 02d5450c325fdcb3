//! What is wrong with a configuration, shown at its place.
//!
//! Every rule gives a [`Flaw`]: one sentence, and possibly a way out. Put at a range of the text it becomes a [`Placed`]; all
//! of them together, with the text, are the [`ConfigError`] that a person reads.

use std::fmt;
use std::ops::Range;

use super::file::KEYS;

/// All that is wrong with a configuration, in the order of the text. Its `Display` is for people:
///
/// ```text
/// error: unknown key `fault_staus`
///  --> hawkey.toml:3:1
///   |
/// 3 | fault_staus = 502
///   | ^^^^^^^^^^^
///   = help: did you mean `fault_status`?
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    source: Source,
    text: String,
    flaws: Vec<Placed>,
}

/// Where the text came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// A file: places are lines and columns.
    File(String),
    /// A line of words: showing it is enough.
    Words(&'static str),
}

/// A rule that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Flaw {
    message: String,
    help: Option<String>,
}

/// A flaw, and the bytes of the text that it is about. Something that is missing has no place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Placed {
    flaw: Flaw,
    span: Option<Range<usize>>,
    /// Where the text already said what it must not say again.
    earlier: Option<Range<usize>>,
}

impl Flaw {
    // Cold, like `help` and `at`: 3.5 KB less of what leads here is compiled for speed.
    #[cold]
    pub(super) fn new(message: impl Into<String>) -> Flaw {
        Flaw { message: message.into(), help: None }
    }

    #[cold]
    pub(super) fn help(self, help: impl Into<String>) -> Flaw {
        Flaw { help: Some(help.into()), ..self }
    }

    /// Names the key whose value is wrong.
    pub(super) fn of_key(self, key: &str) -> Flaw {
        Flaw { message: format!("{key}: {}", self.message), ..self }
    }

    /// Asks whether the known word nearest to `word` was meant, if one is near.
    pub(super) fn suggest(self, word: &str, known: &[&str]) -> Flaw {
        match nearest(word, known) {
            Some(near) => self.help(format!("did you mean `{near}`?")),
            None => self,
        }
    }

    #[cold]
    pub(super) fn at(self, span: Range<usize>) -> Placed {
        Placed { flaw: self, span: Some(span), earlier: None }
    }

    pub(super) fn nowhere(self) -> Placed {
        Placed { flaw: self, span: None, earlier: None }
    }
}

impl Placed {
    pub(super) fn after(self, earlier: Option<Range<usize>>) -> Placed {
        Placed { earlier, ..self }
    }
}

impl From<toml::de::Error> for Placed {
    fn from(error: toml::de::Error) -> Placed {
        Placed { flaw: Flaw::new(error.message()), span: error.span(), earlier: None }
    }
}

/// A key that its table, which has the `known` ones, has not.
pub(super) fn unknown_key(key: &str, known: &[&str]) -> Flaw {
    let flaw = Flaw::new(format!("unknown key `{key}`"));
    let homes: Vec<String> = KEYS
        .iter()
        .filter(|(_, keys)| keys.contains(&key))
        .map(|(table, _)| match *table {
            "" => "at the top, before the first table".to_owned(),
            "route" => "in a [[route]]".to_owned(),
            table => format!("in [{table}]"),
        })
        .collect();
    match nearest(key, known) {
        None if !homes.is_empty() => flaw.help(format!("`{key}` belongs {}", homes.join(" or "))),
        None => flaw.help(format!("known here: {}", known.join(", "))),
        Some(_) => flaw.suggest(key, known),
    }
}

impl ConfigError {
    pub(super) fn new(source: Source, text: &str, found: Vec<Placed>) -> ConfigError {
        let start = |placed: &Placed| placed.span.as_ref().map_or(usize::MAX, |span| span.start);
        // A slice's own sort would be 7 KB of program for it.
        let mut flaws = Vec::new();
        for placed in found {
            let place = flaws.partition_point(|earlier| start(earlier) <= start(&placed));
            flaws.insert(place, placed);
        }
        ConfigError { source, text: text.to_owned(), flaws }
    }

    /// The same error, told of a file of this name. Until it has one, a file is called `configuration`.
    pub fn in_file(mut self, name: &str) -> ConfigError {
        if let Source::File(file) = &mut self.source {
            name.clone_into(file);
        }
        self
    }

    /// The line and column (both from 1, in characters) of byte `offset`, and the text of that line.
    fn locate(&self, offset: usize) -> (usize, usize, &str) {
        let offset = (0..=offset).rev().find(|offset| self.text.is_char_boundary(*offset)).unwrap_or(0);
        let (before, after) = self.text.split_at(offset);
        let start = before.rfind('\n').map_or(0, |end| end + 1);
        let end = after.find('\n').map_or(self.text.len(), |length| offset + length);
        let column = columns(&before[start..]) + 1;
        (before.matches('\n').count() + 1, column, self.text[start..end].trim_end_matches('\r'))
    }

    fn show(&self, placed: &Placed, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "error: {}", Plain(&placed.flaw.message))?;
        let mut margin = 1;
        if let Some(span) = &placed.span {
            let (line, column, shown) = self.locate(span.start);
            let number = match &self.source {
                Source::File(_) => line.to_string(),
                Source::Words(_) => String::new(),
            };
            margin = number.len().max(1);
            match &self.source {
                Source::File(name) => writeln!(f, "{:margin$}--> {}:{line}:{column}", "", Plain(name))?,
                Source::Words(name) => writeln!(f, "{:margin$}--> {name}", "")?,
            }
            let rest = columns(shown).saturating_sub(column - 1);
            let wide = self.text.get(span.clone()).map_or(0, columns);
            let carets = wide.min(rest).max(1);
            writeln!(f, "{:margin$} |", "")?;
            writeln!(f, "{number:margin$} | {}", Plain(shown))?;
            writeln!(f, "{:margin$} | {:indent$}{:^>carets$}", "", "", "", indent = column - 1)?;
        }
        if let (Some(earlier), Source::File(_)) = (&placed.earlier, &self.source) {
            let (line, column, _) = self.locate(earlier.start);
            writeln!(f, "{:margin$} = note: first written at line {line}, column {column}", "")?;
        }
        if let Some(help) = &placed.flaw.help {
            writeln!(f, "{:margin$} = help: {}", "", Plain(help))?;
        }
        Ok(())
    }
}

impl fmt::Display for ConfigError {
    /// Every flaw with its place, parted by empty lines. Ends with a line end, because it is not a single line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, placed) in self.flaws.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            self.show(placed, f)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

/// Text for a terminal: a control character is one blank, so that it does nothing and carets stay under what they mean.
struct Plain<'t>(&'t str);

impl fmt::Display for Plain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|c| fmt::Write::write_char(f, if c.is_control() { ' ' } else { c }))
    }
}

/// How many columns `text` takes, which is how many characters it has.
#[inline(never)] // Five places: 2.8 KB.
fn columns(text: &str) -> usize {
    text.chars().count()
}

/// The member of `known` that `word` was most likely meant to be, if any is near: at most a third of its letters off, where
/// two neighbours that changed places are one mistake.
pub fn nearest<'k>(word: &str, known: &[&'k str]) -> Option<&'k str> {
    let word = word.to_ascii_lowercase();
    let allowed = |candidate: &str| (columns(candidate).max(columns(&word)) / 3).max(1);
    known
        .iter()
        .map(|candidate| (distance(&word, &candidate.to_ascii_lowercase()), *candidate))
        .filter(|(distance, candidate)| *distance <= allowed(candidate))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Letters to insert, remove, replace or swap with their neighbour until `a` is `b` (optimal string alignment).
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before_last = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 0..a.len() {
        let mut row = vec![i + 1];
        for j in 0..b.len() {
            let replaced = last[j] + usize::from(a[i] != b[j]);
            let mut best = replaced.min(last[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && a[i] == b[j - 1] && a[i - 1] == b[j] {
                let swapped: usize = before_last[j - 1];
                best = best.min(swapped + 1);
            }
            row.push(best);
        }
        before_last = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flaw_is_shown_under_the_text_that_it_is_about() {
        let text = "listen = ':80'\nname = 'ü' \t \n";
        let error = ConfigError::new(
            Source::File("a.toml".into()),
            text,
            vec![Flaw::new("wrong name").help("another").at(22..26), Flaw::new("missing").nowhere()],
        );
        let expected = "error: wrong name\n --> a.toml:2:8\n  |\n2 | name = 'ü'   \n  |        ^^^\n  = help: another\n\nerror: missing\n";
        assert_eq!(error.to_string(), expected);
    }

    #[test]
    fn columns_are_characters() {
        let error = ConfigError::new(Source::File("f".into()), "a = 'ü' # b", vec![Flaw::new("m").at(11..12)]);
        assert_eq!(error.to_string(), "error: m\n --> f:1:11\n  |\n1 | a = 'ü' # b\n  |           ^\n");
    }

    #[test]
    fn a_span_over_several_lines_is_marked_on_its_first() {
        let error = ConfigError::new(Source::File("f".into()), "a = [\n1,\n]", vec![Flaw::new("m").at(4..10)]);
        assert_eq!(error.to_string(), "error: m\n --> f:1:5\n  |\n1 | a = [\n  |     ^\n");
    }

    #[test]
    fn the_end_of_a_text_has_a_place_too() {
        let error = ConfigError::new(Source::File("f".into()), "a = [", vec![Flaw::new("m").at(5..5)]);
        assert_eq!(error.to_string(), "error: m\n --> f:1:6\n  |\n1 | a = [\n  |      ^\n");
    }

    #[test]
    fn the_nearest_word_is_the_one_with_the_fewest_mistakes_and_not_too_many() {
        let known = ["fault_status", "http_1_0", "listen", "to", "trusted"];
        let cases = [
            ("fault_staus", Some("fault_status")),
            ("fault-status", Some("fault_status")),
            ("FAULT_STATUS", Some("fault_status")),
            ("http1_0", Some("http_1_0")),
            ("lsiten", Some("listen")),
            ("ot", Some("to")),
            // One swap and two letters: three of seven is too many.
            ("turst", None),
            ("xyz", None),
            ("", None),
        ];
        for (word, expected) in cases {
            assert_eq!(nearest(word, &known), expected, "{word}");
        }
    }

    #[test]
    fn distances_are_those_of_a_hand_count() {
        for (a, b, expected) in
            [("", "", 0), ("a", "", 1), ("ab", "ba", 1), ("kitten", "sitting", 3), ("abc", "abc", 0)]
        {
            assert_eq!(distance(a, b), expected, "{a} to {b}");
            assert_eq!(distance(b, a), expected, "{b} to {a}");
        }
    }
}
