//! The program: arguments, configuration, run; exit codes.
//!
//! 0: ended as asked. 1: could not run, or `route` found no route. 2: wrong usage or configuration. What was asked for goes to
//! standard output, everything else to standard error.

#![cfg_attr(not(test), deny(clippy::panic, clippy::unwrap_used))]

mod arguments;
mod explain;

use std::fmt::Display;
use std::io::{self, Read, Write};
use std::process::ExitCode;
use std::{env, fs};

use arguments::{Arguments, Command, Source};
use hawkey::{Config, ConfigError, Server};

fn main() -> ExitCode {
    let outcome = match arguments::parse(env::args_os().skip(1)) {
        Ok(arguments) => obey(arguments),
        Err(sentence) => Err(Failure::Usage(format!("{sentence}\nsee hawkey --help"))),
    };
    let (told, code) = match outcome {
        Ok(code) => return code,
        Err(Failure::Usage(sentence)) => (format!("hawkey: {sentence}\n"), 2),
        Err(Failure::Config(error)) => (error.to_string(), 2),
        Err(Failure::Run(sentence)) => (format!("hawkey: {sentence}\n"), 1),
    };
    // Nobody is left to tell if standard error is closed.
    let _ = io::stderr().lock().write_all(told.as_bytes());
    ExitCode::from(code)
}

/// Why hawkey ends without having done what it was asked.
enum Failure {
    /// What was asked cannot be understood: a sentence.
    Usage(String),
    /// The configuration is wrong.
    Config(ConfigError),
    /// Nothing is wrong with what was asked, but it cannot be done: a sentence.
    Run(String),
}

fn obey(arguments: Arguments) -> Result<ExitCode, Failure> {
    match arguments.command {
        Command::Help => Ok(print(arguments::HELP)),
        Command::Version => Ok(print(concat!("hawkey ", env!("CARGO_PKG_VERSION"), "\n"))),
        Command::Check => Ok(print(configuration(&arguments.source)?)),
        Command::Route(target) => {
            let config = configuration(&arguments.source)?;
            let told = explain::explain(&config, &target);
            print(&told.text);
            Ok(if told.is_found { ExitCode::SUCCESS } else { ExitCode::from(1) })
        }
        Command::Run => run(configuration(&arguments.source)?, arguments.log.as_deref()),
    }
}

fn run(config: Config, log: Option<&str>) -> Result<ExitCode, Failure> {
    hawkey::start_log(log).map_err(Failure::Usage)?;
    let mut server = Server::bind(config).map_err(|error| Failure::Run(error.to_string()))?;
    let ended = server.stop_on_signals().and_then(|()| server.run());
    ended.map_err(|error| Failure::Run(format!("hawkey cannot go on: {error}")))?;
    Ok(ExitCode::SUCCESS)
}

fn configuration(source: &Source) -> Result<Config, Failure> {
    let (name, text) = match source {
        Source::Words(words) => return Config::from_words(words).map_err(Failure::Config),
        Source::StandardInput => {
            let mut bytes = Vec::new();
            ("standard input".to_owned(), io::stdin().lock().read_to_end(&mut bytes).map(|_| bytes))
        }
        Source::File(path) => (path.display().to_string(), fs::read(path)),
    };
    let bytes = text.map_err(|error| Failure::Usage(format!("cannot read {name}: {error}")))?;
    let text = String::from_utf8(bytes).map_err(|_| Failure::Usage(format!("{name} is not UTF-8 text")))?;
    Config::from_toml(&text).map_err(|error| Failure::Config(error.in_file(&name)))
}

/// Writes what was asked for. A reader that has seen enough and left is no failure.
fn print(text: impl Display) -> ExitCode {
    let mut out = io::stdout().lock();
    let _ = write!(out, "{text}").and_then(|()| out.flush());
    ExitCode::SUCCESS
}
