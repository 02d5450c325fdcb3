//! What the command line asks for.

use std::ffi::OsString;
use std::path::PathBuf;

use hawkey::config::nearest;
use lexopt::{Arg, Parser, ValueExt};

use crate::ask::Question;
use crate::explain::Target;

/// The answer to `--help`.
pub(crate) const HELP: &str = "\
hawkey: a reverse proxy for HTTP/1.1 and WebSocket

usage:
  hawkey [OPTIONS] LISTEN... MATCH=UPSTREAM[,UPSTREAM...]...
  hawkey [OPTIONS] -c FILE
  hawkey check (-c FILE | LISTEN... MATCH=UPSTREAM...)
  hawkey route (-c FILE | LISTEN... MATCH=UPSTREAM...) URL
  hawkey (status [--json] | reload | upgrade [--binary PATH] | stop)
         [--control PATH | -c FILE | LISTEN]

examples:
  hawkey :8080 /=127.0.0.1:3000
  hawkey :8080 /=127.0.0.1:3000 /chat=127.0.0.1:4000 example.com/api=unix:/run/api.sock
  hawkey -c hawkey.toml
  hawkey check -c hawkey.toml
  hawkey route -c hawkey.toml http://example.com/api/x

words:
  LISTEN    where clients come in: :8080 (every address, both IP families),
            127.0.0.1:8080, [::1]:8080, unix:/path, systemd:NAME (sockets passed by
            that name). Port 0: the kernel chooses
  MATCH     which requests: /, /api, example.com, example.com/api, *.example.com/api.
            /api is /api, /api/ and /api/x, never /apix. The longest match wins,
            host before path
  UPSTREAM  who answers: 127.0.0.1:3000, [::1]:3000, name:3000 (resolved at the
            start), unix:/path. Several answer in turn

commands:
  check     prints the configuration with every default filled in, or what is wrong
            with it and where
  route     prints which route and upstreams answer URL, and why the others do not.
            URL is http://host/path, host/path or /path
  status    prints how a running hawkey stands: sessions, bytes, upstreams
  reload    has it read its file again; with a mistake in it, all stays as it was
  upgrade   has it start its binary anew and give that its place, with every tunnel
  stop      has it stop, as SIGTERM does
  The last four find it by its control socket: of PATH, of FILE, of LISTEN, or the
  only one there is

options:
  -c, --config FILE  reads FILE (TOML); - is standard input. A file stands for all of
                     it: no LISTEN and no MATCH=UPSTREAM beside it
      --control PATH where the control socket is; off for none. Without it `control`
                     in FILE, without that hawkey-PORT.sock of the first listener in
                     $XDG_RUNTIME_DIR or /run
      --json         status: as JSON
      --binary PATH  upgrade: to this program instead of its own
      --log FILTER   what is logged on standard error: off, error, warn, info, debug,
                     trace. Without it RUST_LOG, without that info
  -h, --help         prints this
  -V, --version      prints the version

exit codes:
  0  ended as asked (SIGTERM or SIGINT; a second one ends at once)
  1  could not run: a port in use, for example; route: no route answers; status,
     reload, upgrade, stop: it was not done
  2  wrong usage or configuration

Timeouts, limits, trusted networks and stripped prefixes are for a configuration
file: docs/configuration.md, hawkey(1).
";

const OPTIONS: [&str; 7] = ["--binary", "--config", "--control", "--json", "--log", "--help", "--version"];
const COMMANDS: [&str; 6] = ["check", "route", "status", "reload", "upgrade", "stop"];

/// A command line that was understood.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Arguments {
    /// What to do.
    pub(crate) command: Command,
    /// With which configuration.
    pub(crate) source: Source,
    /// Where the control socket is, if it says so.
    pub(crate) control: Option<PathBuf>,
    /// What to log, if it says so.
    pub(crate) log: Option<String>,
}

/// What to do.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Command {
    /// Proxy until stopped.
    Run,
    /// Print the effective configuration.
    Check,
    /// Say who would answer.
    Route(Target),
    /// Ask a running hawkey.
    Ask(Question),
    /// Print the help.
    Help,
    /// Print the version.
    Version,
}

/// Where the configuration is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// In a file.
    File(PathBuf),
    /// In what is piped in.
    StandardInput,
    /// In the command line itself.
    Words(Vec<String>),
}

/// Understands the arguments behind the program's name, or says in a sentence why not.
pub(crate) fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Arguments, String> {
    let mut parser = Parser::from_args(arguments);
    let (mut file, mut log, mut control, mut binary, mut json) = (None, None, None, None, false);
    let mut words: Vec<String> = Vec::new();
    while let Some(argument) = parser.next().map_err(sentence)? {
        match argument {
            Arg::Short('h') | Arg::Long("help") => return Ok(Arguments::bare(Command::Help)),
            Arg::Short('V') | Arg::Long("version") => return Ok(Arguments::bare(Command::Version)),
            Arg::Short('c') | Arg::Long("config") => once("--config", &mut file, parser.value().map_err(sentence)?)?,
            Arg::Long("log") => {
                let filter = parser.value().and_then(|value| value.string()).map_err(sentence)?;
                once("--log", &mut log, filter)?;
            }
            Arg::Long("control") => once("--control", &mut control, parser.value().map_err(sentence)?.into())?,
            Arg::Long("binary") => once("--binary", &mut binary, parser.value().map_err(sentence)?.into())?,
            Arg::Long("json") => json = true,
            Arg::Short(letter) => return Err(unknown_option(&format!("-{letter}"))),
            Arg::Long(name) => return Err(unknown_option(&format!("--{name}"))),
            Arg::Value(word) => words.push(word.string().map_err(sentence)?),
        }
    }
    let command = match command(&mut words, file.is_some())? {
        Command::Ask(Question::Status { .. }) => Command::Ask(Question::Status { json }),
        _ if json => return Err("--json is for `hawkey status`".to_owned()),
        Command::Ask(Question::Upgrade { .. }) => Command::Ask(Question::Upgrade { binary }),
        _ if binary.is_some() => return Err("--binary is for `hawkey upgrade`".to_owned()),
        command => command,
    };
    let is_question = matches!(command, Command::Ask(_));
    let source = match file {
        Some(_) if !words.is_empty() => {
            let words = words.join(" ");
            return Err(format!("a file stands for the whole configuration: give either -c or `{words}`, not both"));
        }
        Some(path) if path == "-" => Source::StandardInput,
        Some(path) => Source::File(path.into()),
        None if words.is_empty() && !is_question => {
            return Err("expected a listener and a route, or -c FILE".to_owned());
        }
        None => Source::Words(words),
    };
    Ok(Arguments { command, source, control, log })
}

impl Arguments {
    fn bare(command: Command) -> Arguments {
        Arguments { command, source: Source::Words(Vec::new()), control: None, log: None }
    }
}

/// Takes the command, and what belongs to it, out of the words.
fn command(words: &mut Vec<String>, has_file: bool) -> Result<Command, String> {
    let Some(first) = words.first() else { return Ok(Command::Run) };
    match first.as_str() {
        "check" => {
            words.remove(0);
            Ok(Command::Check)
        }
        "route" => {
            words.remove(0);
            // Without this, the last of the routes would be taken for a forgotten URL.
            let is_route = |word: &String| !word.contains("://") && word.contains('=');
            match words.pop() {
                Some(url) if has_file || !is_route(&url) || words.iter().any(is_route) => {
                    url.parse().map(Command::Route)
                }
                _ => Err("expected a URL at the end, as in http://example.com/api/x".to_owned()),
            }
        }
        "status" => asking(words, Question::Status { json: false }),
        "reload" => asking(words, Question::Reload),
        "upgrade" => asking(words, Question::Upgrade { binary: None }),
        "stop" => asking(words, Question::Stop),
        // Neither a listener nor a route is a bare word.
        word if word.bytes().all(|byte| byte.is_ascii_lowercase()) => {
            let meant = nearest(word, &COMMANDS).map(|near| format!("; did you mean `{near}`?"));
            Err(format!("unknown command `{word}`{}", meant.unwrap_or_default()))
        }
        _ => Ok(Command::Run),
    }
}

fn asking(words: &mut Vec<String>, question: Question) -> Result<Command, String> {
    words.remove(0);
    match words.as_slice() {
        [] | [_] => Ok(Command::Ask(question)),
        [_, more, ..] => Err(format!("one listener is enough to name a running hawkey: what is `{more}`?")),
    }
}

fn once<T>(option: &str, place: &mut Option<T>, value: T) -> Result<(), String> {
    match place.replace(value) {
        Some(_) => Err(format!("{option} is given twice")),
        None => Ok(()),
    }
}

fn unknown_option(option: &str) -> String {
    let meant = nearest(option, &OPTIONS).map(|near| format!("; did you mean `{near}`?"));
    format!("unknown option `{option}`{}", meant.unwrap_or_default())
}

fn sentence(error: lexopt::Error) -> String {
    match error {
        lexopt::Error::MissingValue { option: Some(option) } => format!("`{option}` wants a value"),
        lexopt::Error::UnexpectedValue { option, .. } => format!("`{option}` has no value"),
        lexopt::Error::NonUnicodeValue(value) => format!("`{}` is not UTF-8 text", value.display()),
        error => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Arguments, String> {
        parse(line.split_whitespace().map(OsString::from))
    }

    fn words(line: &str) -> Source {
        Source::Words(line.split_whitespace().map(str::to_owned).collect())
    }

    #[test]
    fn what_is_asked_for() {
        let target = |url: &str| Command::Route(url.parse().unwrap());
        let file = || Source::File("hawkey.toml".into());
        let cases = [
            (":80 /=127.0.0.1:1", Command::Run, words(":80 /=127.0.0.1:1"), None),
            ("-c hawkey.toml", Command::Run, file(), None),
            ("-chawkey.toml --log=debug", Command::Run, file(), Some("debug")),
            ("--log hawkey=trace --config hawkey.toml", Command::Run, file(), Some("hawkey=trace")),
            ("-c -", Command::Run, Source::StandardInput, None),
            ("check -c hawkey.toml", Command::Check, file(), None),
            ("-c hawkey.toml check", Command::Check, file(), None),
            ("check :80 /=127.0.0.1:1", Command::Check, words(":80 /=127.0.0.1:1"), None),
            ("route -c hawkey.toml /x?a=b", target("/x"), file(), None),
            ("status", Command::Ask(Question::Status { json: false }), words(""), None),
            ("status :80 --json", Command::Ask(Question::Status { json: true }), words(":80"), None),
            ("-c hawkey.toml reload", Command::Ask(Question::Reload), file(), None),
            ("stop -c hawkey.toml", Command::Ask(Question::Stop), file(), None),
            ("route :80 /=127.0.0.1:1 http://a/?b=c", target("http://a/"), words(":80 /=127.0.0.1:1"), None),
        ];
        for (line, command, source, log) in cases {
            assert_eq!(
                parsed(line),
                Ok(Arguments { command, source, control: None, log: log.map(str::to_owned) }),
                "hawkey {line}"
            );
        }
        for (line, command) in [
            ("--help", Command::Help),
            (":80 -h", Command::Help),
            ("-V", Command::Version),
            ("check --version", Command::Version),
        ] {
            assert_eq!(parsed(line).map(|arguments| arguments.command), Ok(command), "hawkey {line}");
        }
    }

    #[test]
    fn wrong_usage_is_a_sentence() {
        let cases = [
            ("", "expected a listener and a route, or -c FILE"),
            ("check", "expected a listener and a route, or -c FILE"),
            ("--confg x", "unknown option `--confg`; did you mean `--config`?"),
            ("--verison", "unknown option `--verison`; did you mean `--version`?"),
            ("--frobnicate", "unknown option `--frobnicate`"),
            ("-x", "unknown option `-x`"),
            ("-c", "`-c` wants a value"),
            ("--log", "`--log` wants a value"),
            ("-c a -c b", "--config is given twice"),
            ("--log a --log b -c c", "--log is given twice"),
            ("-c a :80 /=b:1", "a file stands for the whole configuration: give either -c or `:80 /=b:1`, not both"),
            ("chekc -c a", "unknown command `chekc`; did you mean `check`?"),
            ("frobnicate", "unknown command `frobnicate`"),
            ("relaod", "unknown command `relaod`; did you mean `reload`?"),
            ("reload :80 :81", "one listener is enough to name a running hawkey: what is `:81`?"),
            ("check --json -c a", "--json is for `hawkey status`"),
            ("--control a --control b -c c", "--control is given twice"),
            ("route -c a", "expected a URL at the end, as in http://example.com/api/x"),
            ("route :80 /=b:1", "expected a URL at the end, as in http://example.com/api/x"),
        ];
        for (line, expected) in cases {
            assert_eq!(parsed(line), Err(expected.to_owned()), "hawkey {line}");
        }
    }

    #[test]
    fn the_help_names_every_option_and_fits_a_terminal() {
        for option in OPTIONS {
            assert!(HELP.contains(option), "{option} is not in the help");
        }
        for line in HELP.lines() {
            assert!(line.chars().count() <= 88, "too long: {line}");
        }
    }
}
