//! The file as written.
//!
//! Only the shape is held here: which tables there are, which keys they have, and where in the text each value stands. What
//! the values mean, and whether they may, is for `check` to say. Unknown keys are errors.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error, SeqAccess, Visitor};
use toml::Spanned;

/// The whole file.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub(super) struct File {
    pub(super) listen: Option<Spanned<Texts>>,
    pub(super) control: Option<Spanned<String>>,
    pub(super) trusted: Option<Spanned<Texts>>,
    pub(super) fault_status: Option<Spanned<Scalar>>,
    pub(super) http_1_0: Option<Spanned<Scalar>>,
    pub(super) route: Vec<Spanned<Route>>,
    pub(super) timeouts: Timeouts,
    pub(super) limits: Limits,
    pub(super) upstream: Upstream,
}

/// One `[[route]]`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub(super) struct Route {
    #[serde(rename = "match")]
    pub(super) matching: Option<Spanned<String>>,
    pub(super) to: Option<Spanned<Texts>>,
    pub(super) strip: bool,
    pub(super) dot_segments: bool,
}

/// `[timeouts]`: durations.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub(super) struct Timeouts {
    pub(super) head: Option<Spanned<Scalar>>,
    pub(super) keep_alive: Option<Spanned<Scalar>>,
    pub(super) connect: Option<Spanned<Scalar>>,
    pub(super) upgrade: Option<Spanned<Scalar>>,
    pub(super) response: Option<Spanned<Scalar>>,
    pub(super) idle: Option<Spanned<Scalar>>,
    pub(super) tunnel: Option<Spanned<Scalar>>,
    pub(super) linger: Option<Spanned<Scalar>>,
    pub(super) drain: Option<Spanned<Scalar>>,
}

/// `[limits]`: sizes and counts.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub(super) struct Limits {
    pub(super) connections: Option<Spanned<Scalar>>,
    pub(super) head: Option<Spanned<Scalar>>,
    pub(super) target: Option<Spanned<Scalar>>,
    pub(super) fields: Option<Spanned<Scalar>>,
    pub(super) body: Option<Spanned<Scalar>>,
    pub(super) idle_upstreams: Option<Spanned<Scalar>>,
}

/// `[upstream]`: durations.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub(super) struct Upstream {
    pub(super) cool_down: Option<Spanned<Scalar>>,
    pub(super) idle: Option<Spanned<Scalar>>,
}

/// Every key and the table that it belongs to; `""` is the top of the file. For those who look for one in the wrong table.
pub(super) const KEYS: [(&str, &[&str]); 5] = [
    ("", &["listen", "control", "trusted", "fault_status", "http_1_0", "route", "timeouts", "limits", "upstream"]),
    ("route", &["match", "to", "strip", "dot_segments"]),
    ("timeouts", &["head", "keep_alive", "connect", "upgrade", "response", "idle", "tunnel", "linger", "drain"]),
    ("limits", &["connections", "head", "target", "fields", "body", "idle_upstreams"]),
    ("upstream", &["cool_down", "idle"]),
];

/// One value. Text or a number is taken for any of them, so that `check` can say what was meant by `response = 60`.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Scalar {
    Text(String),
    Integer(i64),
}

impl fmt::Display for Scalar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Scalar::Text(text) => f.write_str(text),
            Scalar::Integer(number) => number.fmt(f),
        }
    }
}

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Scalar, D::Error> {
        struct Reader;
        impl Visitor<'_> for Reader {
            type Value = Scalar;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("text or a whole number")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Scalar, E> {
                Ok(Scalar::Text(text.to_owned()))
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<Scalar, E> {
                Ok(Scalar::Integer(number))
            }

            fn visit_i128<E: Error>(self, _: i128) -> Result<Scalar, E> {
                Err(E::custom("this number is too large"))
            }
        }
        deserializer.deserialize_any(Reader)
    }
}

/// One text or a list of them.
#[derive(Debug)]
pub(super) enum Texts {
    One(String),
    Many(Vec<Spanned<String>>),
}

impl<'de> Deserialize<'de> for Texts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Texts, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Texts;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("text or a list of texts")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Texts, E> {
                Ok(Texts::One(text.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Texts, A::Error> {
                let mut texts = Vec::new();
                while let Some(text) = list.next_element()? {
                    texts.push(text);
                }
                Ok(Texts::Many(texts))
            }
        }
        deserializer.deserialize_any(Reader)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_of_keys_is_the_one_that_the_parser_knows() {
        for (table, keys) in KEYS {
            let text = match table {
                "" => "unheard_of = 1".to_owned(),
                "route" => "[[route]]\nunheard_of = 1".to_owned(),
                table => format!("[{table}]\nunheard_of = 1"),
            };
            let message = toml::from_str::<File>(&text).unwrap_err().message().to_owned();
            let known: Vec<&str> = message.split('`').skip(3).step_by(2).collect();
            assert_eq!(known, keys, "keys of [{table}], from: {message}");
        }
    }
}
