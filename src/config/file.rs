//! The file as written.
//!
//! Only the shape is held here: which tables there are, which keys they have, and where in the text each value stands. What
//! the values mean, and whether they may, is for `check` to say. Unknown keys are errors.

use std::fmt;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::{Flaw, Placed, unknown_key};

/// The table of these keys. There are no others in it, and none of them must be.
macro_rules! table {
    ($(#[$about:meta])* $table:ident { $($key:literal => $field:ident: $written:ty,)* }) => {
        $(#[$about])*
        #[derive(Debug, Default)]
        pub(super) struct $table {
            $(pub(super) $field: $written,)*
        }

        impl $table {
            const KEYS: &[&str] = &[$($key),*];

            fn of(entries: &DeTable<'_>) -> Result<$table, Placed> {
                let mut table = $table::default();
                for (key, value) in entries {
                    match key.get_ref().as_ref() {
                        $($key => table.$field = Written::read(value)?,)*
                        unknown => return Err(unknown_key(unknown, $table::KEYS).at(key.span())),
                    }
                }
                Ok(table)
            }
        }

        impl Written for $table {
            fn read(value: &Value<'_>) -> Result<$table, Placed> {
                match value.get_ref() {
                    DeValue::Table(entries) => $table::of(entries),
                    _ => Err(mistaken(value, "a table").at(value.span())),
                }
            }
        }
    };
}

table! {
    /// The whole file.
    File {
        "listen" => listen: Option<Spanned<Texts>>,
        "control" => control: Option<Spanned<String>>,
        "trusted" => trusted: Option<Spanned<Texts>>,
        "fault_status" => fault_status: Option<Spanned<Scalar>>,
        "http_1_0" => http_1_0: Option<Spanned<Scalar>>,
        "route" => route: Vec<Spanned<Route>>,
        "timeouts" => timeouts: Timeouts,
        "limits" => limits: Limits,
        "upstream" => upstream: Upstream,
    }
}

table! {
    /// One `[[route]]`.
    Route {
        "match" => matching: Option<Spanned<String>>,
        "to" => to: Option<Spanned<Texts>>,
        "strip" => strip: bool,
        "dot_segments" => dot_segments: bool,
    }
}

table! {
    /// `[timeouts]`: durations.
    Timeouts {
        "head" => head: Option<Spanned<Scalar>>,
        "keep_alive" => keep_alive: Option<Spanned<Scalar>>,
        "connect" => connect: Option<Spanned<Scalar>>,
        "upgrade" => upgrade: Option<Spanned<Scalar>>,
        "response" => response: Option<Spanned<Scalar>>,
        "idle" => idle: Option<Spanned<Scalar>>,
        "tunnel" => tunnel: Option<Spanned<Scalar>>,
        "linger" => linger: Option<Spanned<Scalar>>,
        "drain" => drain: Option<Spanned<Scalar>>,
    }
}

table! {
    /// `[limits]`: sizes and counts.
    Limits {
        "connections" => connections: Option<Spanned<Scalar>>,
        "head" => head: Option<Spanned<Scalar>>,
        "target" => target: Option<Spanned<Scalar>>,
        "fields" => fields: Option<Spanned<Scalar>>,
        "body" => body: Option<Spanned<Scalar>>,
        "idle_upstreams" => idle_upstreams: Option<Spanned<Scalar>>,
    }
}

table! {
    /// `[upstream]`: durations.
    Upstream {
        "cool_down" => cool_down: Option<Spanned<Scalar>>,
        "idle" => idle: Option<Spanned<Scalar>>,
    }
}

/// Every key and the table that it belongs to; `""` is the top of the file. For those who look for one in the wrong table.
pub(super) const KEYS: [(&str, &[&str]); 5] = [
    ("", File::KEYS),
    ("route", Route::KEYS),
    ("timeouts", Timeouts::KEYS),
    ("limits", Limits::KEYS),
    ("upstream", Upstream::KEYS),
];

impl File {
    pub(super) fn parse(text: &str) -> Result<File, Placed> {
        File::of(DeTable::parse(text)?.get_ref())
    }

    /// Only what says where it listens and where it is asked, whatever else is wrong.
    pub(super) fn parse_listeners(text: &str) -> Result<File, Placed> {
        let (entries, _) = DeTable::parse_recoverable(text);
        let mut file = File::default();
        for (key, value) in entries.get_ref() {
            match key.get_ref().as_ref() {
                "listen" => file.listen = Written::read(value)?,
                "control" => file.control = Written::read(value)?,
                _ => {}
            }
        }
        Ok(file)
    }
}

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

/// One text or a list of them.
#[derive(Debug)]
pub(super) enum Texts {
    One(String),
    Many(Vec<Spanned<String>>),
}

/// A value as the parser has it.
type Value<'t> = Spanned<DeValue<'t>>;

/// What can be the value of a key.
trait Written: Sized {
    fn read(value: &Value<'_>) -> Result<Self, Placed>;
}

impl<T: Written> Written for Option<T> {
    fn read(value: &Value<'_>) -> Result<Option<T>, Placed> {
        T::read(value).map(Some)
    }
}

impl<T: Written> Written for Spanned<T> {
    fn read(value: &Value<'_>) -> Result<Spanned<T>, Placed> {
        Ok(Spanned::new(value.span(), T::read(value)?))
    }
}

impl Written for Vec<Spanned<Route>> {
    fn read(value: &Value<'_>) -> Result<Vec<Spanned<Route>>, Placed> {
        match value.get_ref() {
            DeValue::Array(list) => list.iter().map(Written::read).collect(),
            DeValue::Table(_) => Err(mistaken(value, "a list").help("write it as `[[route]]`").at(value.span())),
            _ => Err(mistaken(value, "a list").at(value.span())),
        }
    }
}

impl Written for Texts {
    fn read(value: &Value<'_>) -> Result<Texts, Placed> {
        match value.get_ref() {
            DeValue::String(text) => Ok(Texts::One(text.to_string())),
            DeValue::Array(list) => list.iter().map(Written::read).collect::<Result<_, _>>().map(Texts::Many),
            _ => Err(mistaken(value, "text or a list of texts").at(value.span())),
        }
    }
}

impl Written for Scalar {
    fn read(value: &Value<'_>) -> Result<Scalar, Placed> {
        match value.get_ref() {
            DeValue::String(text) => Ok(Scalar::Text(text.to_string())),
            DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
                Ok(number) => Ok(Scalar::Integer(number)),
                Err(_) => Err(Flaw::new("this number is too large").at(value.span())),
            },
            _ => Err(mistaken(value, "text or a whole number").at(value.span())),
        }
    }
}

impl Written for String {
    fn read(value: &Value<'_>) -> Result<String, Placed> {
        match value.get_ref() {
            DeValue::String(text) => Ok(text.to_string()),
            _ => Err(mistaken(value, "a string").at(value.span())),
        }
    }
}

impl Written for bool {
    fn read(value: &Value<'_>) -> Result<bool, Placed> {
        match value.get_ref() {
            DeValue::Boolean(yes) => Ok(*yes),
            _ => Err(mistaken(value, "a boolean").at(value.span())),
        }
    }
}

/// That `value` is something else.
fn mistaken(value: &Value<'_>, expected: &str) -> Flaw {
    let found = match value.get_ref() {
        DeValue::String(text) => format!("string {text:?}"),
        DeValue::Integer(number) => format!("integer `{number}`"),
        DeValue::Float(number) => format!("floating point `{number}`"),
        DeValue::Boolean(yes) => format!("boolean `{yes}`"),
        DeValue::Datetime(_) => "date".to_owned(),
        DeValue::Array(_) => "list".to_owned(),
        DeValue::Table(_) => "table".to_owned(),
    };
    Flaw::new(format!("invalid type: {found}, expected {expected}"))
}
