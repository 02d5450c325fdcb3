//! A configuration's text is understood or refused in words, and what is understood says itself again.

use std::net::SocketAddr;

use hawkey::Config;
use toml::de::{DeTable, DeValue};

/// The input is a configuration file; its words are a command line.
pub fn configuration(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    if !asks_for_names(text) {
        check(Config::from_toml(text), text);
    }
    let words: Vec<_> = text.split_whitespace().collect();
    if !words.iter().flat_map(|word| word.split(['=', ','])).any(is_name) {
        check(Config::from_words(&words), text);
    }
}

fn check(config: Result<Config, hawkey::ConfigError>, text: &str) {
    match config {
        Err(error) => {
            let error = error.to_string();
            assert!(!error.is_empty(), "an error without words, for {text:?}");
            assert!(is_plain(&error), "an error that is no plain text, {error:?}, for {text:?}");
        }
        Ok(config) => {
            let printed = config.to_string();
            assert!(is_plain(&printed), "printed was no plain text, {printed:?}, for {text:?}");
            let again = Config::from_toml(&printed)
                .unwrap_or_else(|error| panic!("{error}\nin what was printed:\n{printed}\nfor {text:?}"));
            assert_eq!(again, config, "the left was read again from\n{printed}\nfor {text:?}");
            assert_eq!(again.to_string(), printed, "the left is printed again, for {text:?}");
        }
    }
}

/// Whether a terminal shows what stands there and does nothing else.
fn is_plain(text: &str) -> bool {
    text.chars().all(|c| c == '\n' || !c.is_control())
}

/// Names would be resolved, and a name server is no part of this.
fn asks_for_names(text: &str) -> bool {
    let Ok(file) = DeTable::parse(text) else { return false };
    let mut values: Vec<_> = file.get_ref().values().collect();
    while let Some(value) = values.pop() {
        match value.get_ref() {
            DeValue::String(text) if is_name(text) => return true,
            DeValue::Array(array) => values.extend(array.iter()),
            DeValue::Table(table) => values.extend(table.values()),
            _ => {}
        }
    }
    false
}

fn is_name(text: &str) -> bool {
    let Some((name, port)) = text.rsplit_once(':') else { return false };
    let is_address = text.starts_with("unix:") || text.parse::<SocketAddr>().is_ok();
    !is_address && port.parse::<u16>().is_ok() && !name.is_empty() && name != "localhost"
}
