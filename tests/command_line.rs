//! The program as a person meets it at a prompt: what it prints, where, and the code it ends with.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write, pipe};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// Longer than any of these commands takes, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// A process that is gone when the test is.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// How a command ended.
#[derive(Debug)]
struct Ended {
    code: Option<i32>,
    out: String,
    err: String,
}

fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hawkey"));
    command.env("XDG_RUNTIME_DIR", env!("CARGO_TARGET_TMPDIR"));
    command.env_remove("RUST_LOG").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn hawkey(arguments: &[&str]) -> Ended {
    hawkey_reading(arguments, "")
}

/// Runs `hawkey arguments...` with `input` on its standard input, until it ends.
fn hawkey_reading(arguments: &[&str], input: &str) -> Ended {
    let mut running = Running(program().args(arguments).spawn().expect("hawkey starts"));
    // It may end without reading its input: whether it did is for the test to see.
    let _ = running.0.stdin.take().expect("piped").write_all(input.as_bytes());
    let out = text_of(running.0.stdout.take().expect("piped"));
    let err = text_of(running.0.stderr.take().expect("piped"));
    let told = |text: mpsc::Receiver<String>| {
        text.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("hawkey {arguments:?} still runs after {PATIENCE:?}"))
    };
    let (out, err) = (told(out), told(err));
    Ended { code: running.0.wait().expect("hawkey ends").code(), out, err }
}

/// All that comes out of a pipe until its end.
fn text_of(mut pipe: impl Read + Send + 'static) -> mpsc::Receiver<String> {
    let (tell, told) = mpsc::channel();
    thread::spawn(move || {
        let mut text = String::new();
        let _ = pipe.read_to_string(&mut text);
        let _ = tell.send(text);
    });
    told
}

/// A file that is gone when the test is.
struct Written(PathBuf);

impl Written {
    fn new(name: &str, text: impl AsRef<[u8]>) -> Written {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{}-{name}", std::process::id()));
        fs::write(&path, text).expect("a file in the target folder");
        Written(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().expect("a path of text")
    }
}

impl Drop for Written {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[track_caller]
fn assert_ended(ended: &Ended, code: i32, out: &str, err: &str) {
    assert_eq!(ended.code, Some(code), "the exit code of {ended:?}");
    assert_eq!(ended.out, out, "standard output of {ended:?}");
    assert_eq!(ended.err, err, "standard error of {ended:?}");
}

const FILE: &str = r#"
listen = [":8080"]
[[route]]
match = "/"
to = "127.0.0.1:3000"
[[route]]
match = "example.com/api"
to = ["127.0.0.1:3001", "unix:/run/api.sock"]
strip = true
"#;

#[test]
fn help_goes_to_standard_output() {
    for flag in ["-h", "--help"] {
        let ended = hawkey(&[flag]);
        assert_eq!((ended.code, ended.err.as_str()), (Some(0), ""), "{ended:?}");
        for part in
            ["usage:", "examples:", "--config", "--log", "RUST_LOG", "check", "route", "exit codes:", "name:3000"]
        {
            assert!(ended.out.contains(part), "`{part}` is not in the help:\n{}", ended.out);
        }
    }
}

#[test]
fn the_version_is_one_line() {
    for flag in ["-V", "--version"] {
        assert_ended(&hawkey(&[flag]), 0, concat!("hawkey ", env!("CARGO_PKG_VERSION"), "\n"), "");
    }
}

#[test]
fn a_reader_that_left_is_no_failure() {
    for arguments in [&["--help"][..], &["check", ":8080", "/=127.0.0.1:3000"]] {
        let (reader, writer) = pipe().expect("a pipe");
        drop(reader);
        let mut running = Running(program().args(arguments).stdout(writer).spawn().expect("hawkey starts"));
        let err = text_of(running.0.stderr.take().expect("piped")).recv_timeout(PATIENCE).expect("it ends");
        assert_eq!((running.0.wait().expect("it ends").code(), err.as_str()), (Some(0), ""), "{arguments:?}");
    }
}

#[test]
fn check_prints_a_configuration_that_checks() {
    let file = Written::new("check.toml", FILE);
    let first = hawkey(&["check", "-c", file.path()]);
    assert_eq!((first.code, first.err.as_str()), (Some(0), ""), "{first:?}");
    for line in
        ["listen = [\":8080\"]", "match = \"example.com/api\"", "strip = true", "tunnel = \"1h\"", "head = \"16KiB\""]
    {
        assert!(first.out.lines().any(|printed| printed == line), "expected the line `{line}` in:\n{}", first.out);
    }
    let again = hawkey_reading(&["check", "-c", "-"], &first.out);
    assert_ended(&again, 0, &first.out, "");
}

#[test]
fn the_documentation_shows_every_key_at_its_default() {
    let page = include_str!("../docs/configuration.md");
    let examples: Vec<&str> = page.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    let [smallest, whole] = examples[..] else { panic!("two examples were expected, {} are there", examples.len()) };
    let (smallest, printed) =
        (hawkey_reading(&["check", "-c", "-"], smallest), hawkey_reading(&["check", "-c", "-"], whole));
    assert_eq!((smallest.code, smallest.err.as_str()), (Some(0), ""), "{smallest:?}");
    assert_ended(&printed, 0, &smallest.out, "");

    let manual = include_str!("../docs/hawkey.1");
    for line in printed.out.lines() {
        let Some((key, _)) = line.trim_start_matches("# ").split_once([' ', ':']).filter(|(key, _)| !key.is_empty())
        else {
            continue;
        };
        assert!(whole.contains(&format!("{key} = ")), "`{key}` is not in the example");
        assert!(page.contains(&format!("| `{key}` |")), "`{key}` has no line in a table");
        assert!(
            manual.lines().any(|line| line.starts_with(".B") && line.contains(key)),
            "`{key}` is not in the manual"
        );
    }
}

#[test]
fn check_takes_words_as_well() {
    let ended = hawkey(&["check", ":8080", "/=127.0.0.1:3000"]);
    assert_eq!((ended.code, ended.err.as_str()), (Some(0), ""), "{ended:?}");
    assert!(ended.out.contains("to = [\"127.0.0.1:3000\"]"), "{}", ended.out);
}

#[test]
fn what_is_wrong_in_a_file_is_shown_at_its_place() {
    let file = Written::new("wrong.toml", "listen = \":8080\"\nfault_staus = 502\n");
    let expected = format!(
        "error: unknown key `fault_staus`\n --> {}:2:1\n  |\n2 | fault_staus = 502\n  | ^^^^^^^^^^^\n  = help: did you mean \
         `fault_status`?\n",
        file.path()
    );
    for arguments in [&["check", "-c", file.path()][..], &["-c", file.path()], &["route", "--config", file.path(), "/"]]
    {
        assert_ended(&hawkey(arguments), 2, "", &expected);
    }
}

#[test]
fn what_is_wrong_on_standard_input_too() {
    let ended = hawkey_reading(&["check", "-c", "-"], "listen = ':8080'\n[limits]\nhead = '64KiB'\n");
    assert_eq!((ended.code, ended.out.as_str()), (Some(2), ""), "{ended:?}");
    assert!(ended.err.contains(" --> standard input:3:8\n"), "{}", ended.err);
    assert!(ended.err.contains("\nerror: there is no route\n"), "{}", ended.err);
}

#[test]
fn what_is_wrong_in_the_words_is_marked() {
    let expected = "error: expected MATCH=UPSTREAM, as in /chat=127.0.0.1:4000\n --> command line\n  |\n  | :8080 \
                    /chat127.0.0.1\n  |       ^^^^^^^^^^^^^^\n";
    assert_ended(&hawkey(&[":8080", "/chat127.0.0.1"]), 2, "", expected);
}

#[test]
fn a_file_that_cannot_be_read_is_one_sentence() {
    let missing = Path::new(env!("CARGO_TARGET_TMPDIR")).join("there-is-no-such-file.toml");
    let missing = missing.to_str().expect("a path of text");
    let expected = format!("hawkey: cannot read {missing}: No such file or directory (os error 2)\n");
    assert_ended(&hawkey(&["-c", missing]), 2, "", &expected);
    let latin = Written::new("latin.toml", b"# caf\xe9\n");
    assert_ended(&hawkey(&["-c", latin.path()]), 2, "", &format!("hawkey: {} is not UTF-8 text\n", latin.path()));
}

#[test]
fn route_tells_who_answers_and_why_the_others_do_not() {
    let file = Written::new("route.toml", FILE);
    let expected = "\
/api/x, of the host example.com

example.com/api  answers, the path as /x
    127.0.0.1:3001
    unix:/run/api.sock
/                matches, but example.com/api is more particular
";
    assert_ended(&hawkey(&["route", "-c", file.path(), "http://example.com:8080/api/x?y=z"]), 0, expected, "");
    assert_ended(&hawkey(&["route", "-c", file.path(), "example.com/api/x"]), 0, expected, "");
}

#[test]
fn route_without_an_answer_ends_with_1() {
    let ended = hawkey(&["route", ":8080", "/chat=127.0.0.1:4000", "/chats"]);
    assert_ended(&ended, 1, "/chats, of any host\n\n/chat  is for another path\nno route answers: 404\n", "");
}

#[test]
fn wrong_usage_says_where_the_help_is() {
    let cases = [
        (&[][..], "expected a listener and a route, or -c FILE"),
        (&["--confg", "x"], "unknown option `--confg`; did you mean `--config`?"),
        (&["-c"], "`-c` wants a value"),
        (&["-c", "x", ":80"], "a file stands for the whole configuration: give either -c or `:80`, not both"),
        (&["chekc"], "unknown command `chekc`; did you mean `check`?"),
        (&["route", "-c", "x"], "expected a URL at the end, as in http://example.com/api/x"),
    ];
    for (arguments, sentence) in cases {
        assert_ended(&hawkey(arguments), 2, "", &format!("hawkey: {sentence}\nsee hawkey --help\n"));
    }
}

#[test]
fn a_port_in_use_is_one_sentence() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("an address").to_string();
    let ended = hawkey(&[&address, "/=127.0.0.1:1"]);
    assert_eq!((ended.code, ended.out.as_str()), (Some(1), ""), "{ended:?}");
    assert_eq!(ended.err.lines().count(), 1, "one sentence was expected: {}", ended.err);
    assert!(ended.err.starts_with("hawkey: ") && ended.err.contains(&address), "{}", ended.err);
}

#[test]
fn a_stop_is_an_end_as_asked() {
    let mut running = Running(program().args(["127.0.0.1:0", "/=127.0.0.1:1"]).spawn().expect("hawkey starts"));
    let log = BufReader::new(running.0.stderr.take().expect("piped"));
    let (tell, told) = mpsc::channel();
    thread::spawn(move || log.lines().map_while(Result::ok).all(|line| tell.send(line).is_ok()));
    let first = told.recv_timeout(PATIENCE).expect("a line when it listens");
    assert!(first.contains("level=info listening=127.0.0.1:"), "{first}");

    let id = rustix::process::Pid::from_child(&running.0);
    rustix::process::kill_process(id, rustix::process::Signal::TERM).expect("a signal");
    // Standard error ends when the process does.
    while told.recv_timeout(PATIENCE).is_ok() {}
    assert_eq!(running.0.wait().expect("it ends").code(), Some(0), "the exit code after SIGTERM");
}
