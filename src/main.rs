//! The program: arguments, configuration, run; exit codes.
//!
//! 0: ended as asked. 1: could not run, `route` found no route, or a running hawkey did not do what it was asked. 2: wrong usage or
//! configuration. What was asked for goes to
//! standard output, everything else to standard error.

#![cfg_attr(not(test), deny(clippy::panic, clippy::unwrap_used))]

mod arguments;
mod ask;
mod explain;

use std::fmt::{self, Display};
use std::io::{self, Read, Write};
use std::path::Path;
use std::process::ExitCode;
use std::{env, fs, path};

use arguments::{Arguments, Command, Source};
use hawkey::config::Control;
use hawkey::{Config, ConfigError, Server, Supervisor};

fn main() -> ExitCode {
    let outcome = match arguments::parse(env::args_os().skip(1)) {
        Ok(arguments) => obey(arguments),
        Err(sentence) => Err(Failure::Usage(format!("{sentence}\nsee hawkey --help"))),
    };
    match outcome {
        Ok(code) => code,
        Err(failure) => {
            if let Some(former) = env::var_os(hawkey::TAKE_OVER) {
                Server::give_up(Path::new(&former), &failure.to_string());
            }
            // Nobody is left to tell if standard error is closed.
            let _ = io::stderr().lock().write_all(failure.to_string().as_bytes());
            ExitCode::from(if matches!(failure, Failure::Run(_)) { 1 } else { 2 })
        }
    }
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

impl Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Usage(sentence) | Failure::Run(sentence) => writeln!(f, "hawkey: {sentence}"),
            Failure::Config(error) => error.fmt(f),
        }
    }
}

fn obey(arguments: Arguments) -> Result<ExitCode, Failure> {
    match &arguments.command {
        Command::Help => Ok(print(arguments::HELP)),
        Command::Version => Ok(print(concat!("hawkey ", env!("CARGO_PKG_VERSION"), "\n"))),
        Command::Check => Ok(print(configuration(&arguments)?)),
        Command::Route(target) => {
            let config = configuration(&arguments)?;
            let told = explain::explain(&config, target);
            print(&told.text);
            Ok(if told.is_found { ExitCode::SUCCESS } else { ExitCode::from(1) })
        }
        Command::Ask(question) => {
            let path = control_path(&arguments)?;
            ask::ask(question, &path).map(print).map_err(Failure::Run)
        }
        Command::Run => run(arguments),
    }
}

fn run(arguments: Arguments) -> Result<ExitCode, Failure> {
    let program = program();
    let config = configuration(&arguments)?;
    hawkey::start_log(arguments.log.as_deref()).map_err(Failure::Usage)?;
    let cannot = |error: hawkey::BindError| Failure::Run(error.to_string());
    let supervisor = Supervisor::from_environment().map_err(cannot)?;
    let mut server = match env::var_os(hawkey::TAKE_OVER) {
        None => {
            let mut server = Server::bind_under(supervisor, config).map_err(cannot)?;
            server.open_control().map_err(cannot)?;
            server
        }
        Some(former) => Server::take_over(supervisor, config, Path::new(&former)).map_err(Failure::Run)?,
    };
    let again = match arguments.source {
        Source::StandardInput => {
            Err("the configuration came from standard input, which cannot be read again".to_owned())
        }
        _ => Ok(env::args_os().skip(1).collect()),
    };
    server.upgrade_by(program, again);
    server.reload_by(name(&arguments.source), move || match &arguments.source {
        Source::File(_) => configuration(&arguments).map_err(|failure| match failure {
            Failure::Config(error) => error.to_string(),
            Failure::Usage(sentence) | Failure::Run(sentence) => sentence,
        }),
        other => Err(format!("the configuration came from the {}: only a file can be read again", name(other))),
    });
    let ended = server.stop_on_signals().and_then(|()| server.run());
    ended.map_err(|error| Failure::Run(format!("hawkey cannot go on: {error}")))?;
    Ok(ExitCode::SUCCESS)
}

/// The path of this program, to be told while it is what was started: by the time of an upgrade, another binary has its place. As it was
/// said, because a symbolic link may lead elsewhere by then.
fn program() -> path::PathBuf {
    let said = env::args_os().next().map(path::PathBuf::from).unwrap_or_default();
    let absolute = path::absolute(&said).ok().filter(|path| said.components().count() > 1 && path.is_file());
    absolute.or_else(|| env::current_exe().ok()).unwrap_or(said)
}

fn configuration(arguments: &Arguments) -> Result<Config, Failure> {
    let source = &arguments.source;
    let config = match source {
        Source::Words(words) => Config::from_words(words).map_err(Failure::Config)?,
        Source::StandardInput | Source::File(_) => {
            Config::from_toml(&text(source)?).map_err(|error| Failure::Config(error.in_file(&name(source))))?
        }
    };
    Ok(match control(arguments)? {
        Some(control) => Config { control, ..config },
        None => config,
    })
}

/// What `--control` says.
fn control(arguments: &Arguments) -> Result<Option<Control>, Failure> {
    let Some(said) = &arguments.control else { return Ok(None) };
    if said.as_os_str() == "off" {
        return Ok(Some(Control::Off));
    }
    let path =
        path::absolute(said).map_err(|error| Failure::Usage(format!("--control {}: {error}", said.display())))?;
    Ok(Some(Control::At(path)))
}

/// Where the hawkey that is asked has its control socket.
fn control_path(arguments: &Arguments) -> Result<path::PathBuf, Failure> {
    let run = |error: ConfigError| Failure::Run(format!("cannot tell where the control socket is:\n{error}"));
    let path = match (control(arguments)?, &arguments.source) {
        (Some(control), _) => control.path(None),
        (None, Source::Words(words)) if words.is_empty() => Some(ask::only_one().map_err(Failure::Run)?),
        (None, Source::Words(words)) => {
            let config = words.iter().try_fold(Config::new(), |config, word| config.listen(word)).map_err(run)?;
            config.control.path(config.listen.first())
        }
        (None, source) => {
            let text = text(source).map_err(|failure| match failure {
                Failure::Usage(sentence) => Failure::Run(sentence),
                other => other,
            })?;
            Config::control_path(&text).map_err(|error| run(error.in_file(&name(source))))?
        }
    };
    path.ok_or_else(|| {
        Failure::Run("the control socket is off, or cannot be told from this: name it by --control PATH".to_owned())
    })
}

/// What people know a configuration by.
fn name(source: &Source) -> String {
    match source {
        Source::Words(_) => "command line".to_owned(),
        Source::StandardInput => "standard input".to_owned(),
        Source::File(path) => path.display().to_string(),
    }
}

/// The text of a file, or of standard input.
fn text(source: &Source) -> Result<String, Failure> {
    let name = name(source);
    let bytes = match source {
        Source::File(path) => fs::read(path),
        _ => {
            let mut bytes = Vec::new();
            io::stdin().lock().read_to_end(&mut bytes).map(|_| bytes)
        }
    };
    let bytes = bytes.map_err(|error| Failure::Usage(format!("cannot read {name}: {error}")))?;
    String::from_utf8(bytes).map_err(|_| Failure::Usage(format!("{name} is not UTF-8 text")))
}

/// Writes what was asked for. A reader that has seen enough and left is no failure.
fn print(text: impl Display) -> ExitCode {
    let mut out = io::stdout().lock();
    let _ = write!(out, "{text}").and_then(|()| out.flush());
    ExitCode::SUCCESS
}
