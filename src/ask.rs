//! `hawkey status`, `reload`, `upgrade` and `stop`: asks a running hawkey on its control socket, and tells what it answers.

use std::fmt::Write as _;
use std::io::{self, BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hawkey::CONTROL_PROTOCOL;
use hawkey::config::{default_folder, found};
use jzon::{JsonValue, object};

/// How long an answer may take. A reload may wait for name servers.
const ANSWER_MAX: Duration = Duration::from_secs(10);
const RELOAD_MAX: Duration = Duration::from_secs(120);
/// The new process may read its configuration for 5 s, and be silent for as long in the end.
const UPGRADE_MAX: Duration = Duration::from_secs(60);
/// Bytes of an answer: an upstream in it has about a hundred.
const ANSWER_BYTES_MAX: u64 = 16 << 20;

/// What a running hawkey is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Question {
    /// How things stand; as JSON, or for people.
    Status { json: bool },
    /// To read its configuration again.
    Reload,
    /// To give its place to a new process: of its own binary, or of another.
    Upgrade { binary: Option<PathBuf> },
    /// To stop.
    Stop,
}

/// The one control socket in the default folder that a hawkey is behind, or a sentence on why none can be chosen.
pub(crate) fn only_one() -> Result<PathBuf, String> {
    let folder = default_folder().display().to_string();
    let (left_behind, mut paths): (Vec<_>, Vec<_>) = found().into_iter().partition(|path| is_left_behind(path));
    if paths.is_empty() {
        // Whoever asks there is told that nobody is.
        paths.extend(left_behind.into_iter().next());
    }
    match paths.as_slice() {
        [path] => Ok(path.clone()),
        [] => Err(format!("no control socket of a hawkey is in {folder}: name it by --control PATH, or by -c FILE")),
        many => {
            let paths: Vec<_> = many.iter().map(|path| path.display().to_string()).collect();
            Err(format!("several control sockets are in {folder}: choose one by --control ({})", paths.join(", ")))
        }
    }
}

/// Whether the hawkey that listened there was killed, so that it could not remove its socket.
fn is_left_behind(path: &Path) -> bool {
    UnixStream::connect(path).is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
}

/// Asks the hawkey whose control socket is at `path`: what is to be printed, or a sentence on why it was not done.
pub(crate) fn ask(question: &Question, path: &Path) -> Result<String, String> {
    let (word, patience) = match question {
        Question::Status { .. } => ("status", ANSWER_MAX),
        Question::Reload => ("reload", RELOAD_MAX),
        Question::Upgrade { .. } => ("upgrade", UPGRADE_MAX),
        Question::Stop => ("stop", ANSWER_MAX),
    };
    let mut request = object! { "protocol": CONTROL_PROTOCOL, "ask": word };
    if let Question::Upgrade { binary: Some(binary) } = question {
        let binary = std::path::absolute(binary).map_err(|error| format!("{}: {error}", binary.display()))?;
        let text = binary.to_str().ok_or_else(|| format!("{} is not UTF-8 text", binary.display()))?;
        // It is an object, and takes any key.
        let _ = request.insert("binary", text);
    }
    let line = exchange(path, &request, patience).map_err(|error| told(&error, path))?;
    let answer = jzon::parse(&line).map_err(|_| format!("what answers at {} is no hawkey", path.display()))?;
    match (answer["protocol"].as_u64(), answer["error"].as_str()) {
        (_, Some(why)) => {
            let parted = if why.contains('\n') { '\n' } else { ' ' };
            Err(match question {
                Question::Reload => format!("the configuration stays as it was:{parted}{}", why.trim_end()),
                Question::Upgrade { .. } => format!("not upgraded:{parted}{}", why.trim_end()),
                Question::Status { .. } | Question::Stop => why.to_owned(),
            })
        }
        (Some(CONTROL_PROTOCOL), None) => Ok(match question {
            Question::Status { json: true } => line,
            Question::Status { json: false } => status(&answer),
            Question::Reload => reloaded(&answer),
            Question::Upgrade { .. } => upgraded(&answer),
            Question::Stop => stopping(&answer),
        }),
        _ => Err(format!("the hawkey at {} speaks another version of the control protocol", path.display())),
    }
}

fn exchange(path: &Path, request: &JsonValue, patience: Duration) -> io::Result<String> {
    let mut stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    match stream.write_all(format!("{}\n", request.dump()).as_bytes()) {
        // Who is not listened to has been told so already.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
        written => written?,
    }
    let mut line = String::new();
    BufReader::new(stream.take(ANSWER_BYTES_MAX)).read_line(&mut line)?;
    if line.ends_with('\n') { Ok(line) } else { Err(ErrorKind::UnexpectedEof.into()) }
}

fn told(error: &io::Error, path: &Path) -> String {
    let path = path.display();
    match error.kind() {
        ErrorKind::NotFound => format!("no hawkey runs with its control socket at {path}"),
        ErrorKind::ConnectionRefused => format!("no hawkey runs behind {path}: it has ended without removing that"),
        ErrorKind::PermissionDenied => {
            format!("{path}: permission denied: only root and the user that hawkey runs as may ask")
        }
        ErrorKind::WouldBlock => format!("the hawkey at {path} does not answer"),
        ErrorKind::UnexpectedEof => format!("the hawkey at {path} has left without an answer"),
        _ => format!("{path}: {error}"),
    }
}

/// A line for each thing that is told: its name, and what is said of it.
fn status(answer: &JsonValue) -> String {
    let (version, pid, since) = (&answer["version"], &answer["pid"], &answer["since"]);
    let mut out = format!("hawkey {version}, pid {pid}, since {since}\n");
    let mut line = |name: &str, told: &str| {
        // Writing to a string cannot fail.
        let _ = writeln!(out, "{name:13}  {told}");
    };
    let (mut sessions, mut phases) = (0, String::new());
    for (phase, count) in answer["sessions"].entries() {
        let count = count.as_u64().unwrap_or_default();
        if count > 0 {
            let before = if phases.is_empty() { "" } else { ", " };
            phases += &format!("{before}{count} {phase}");
        }
        sessions += count;
    }
    line("configuration", &answer["configuration"].to_string());
    for listener in answer["listeners"].members() {
        line("listener", &listener.to_string());
    }
    line("sessions", &if sessions == 0 { "0".to_owned() } else { format!("{sessions} ({phases})") });
    line("tunnels", &answer["sessions"]["tunnel"].to_string());
    line("bytes", &format!("{} up, {} down", answer["bytes"]["up"], answer["bytes"]["down"]));
    for upstream in answer["upstreams"].members() {
        let state = if upstream["state"] == "failed" { ", left alone: it has just failed" } else { "" };
        line("upstream", &format!("{}, {} idle{state}", upstream["address"], upstream["idle"]));
    }
    out
}

fn reloaded(answer: &JsonValue) -> String {
    let mut out = format!("reloaded {}:", answer["configuration"]);
    for (key, end) in [("listeners", ","), ("routes", ","), ("upstreams", "\n")] {
        let _ = write!(out, " {key} {}{end}", answer[key]);
    }
    if answer["control_stays"] == true {
        out += "the control socket stays where it is until hawkey is started anew\n";
    }
    out
}

fn upgraded(answer: &JsonValue) -> String {
    let moved = &answer["moved"];
    let mut out = format!(
        "upgraded in {} ms: pid {} has taken over from pid {}\n",
        answer["ms"], answer["pid"], answer["former_pid"]
    );
    let _ = writeln!(
        out,
        "moved: {} listeners, {} tunnels, {} waiting clients, which paused for at most {} ms",
        moved["listeners"], moved["tunnels"], moved["clients"], answer["still_ms"]
    );
    if answer["stay"] == 0 {
        out += "nothing is left in the old process\n";
    } else {
        let _ = writeln!(out, "the old process ends when its last {} sessions have ended or followed", answer["stay"]);
    }
    out
}

fn stopping(answer: &JsonValue) -> String {
    let (pid, sessions) = (&answer["pid"], &answer["sessions"]);
    if *sessions == 0 {
        return format!("hawkey, pid {pid}, has stopped: no session was left\n");
    }
    let seconds = answer["drain_ms"].as_u64().unwrap_or_default().div_ceil(1000);
    format!("hawkey, pid {pid}, stops: {sessions} of its sessions may go on for {seconds} s at most\n")
}
