//! The control socket: what a running hawkey tells and does when it is asked, and whom it does not listen to.

mod support;

use std::fs;
use std::io::{BufRead, BufReader, ErrorKind, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;
use support::*;

/// As in src/server/control.rs.
const REQUEST_BYTES_MAX: usize = 1024;
const CONNECTIONS_MAX: usize = 16;
const CONVERSATION_MAX: Duration = Duration::from_secs(10);

fn route(origin: &Origin) -> String {
    format!("[[route]]\nmatch = \"/\"\nto = \"{origin}\"\n")
}

/// Sends `bytes` and reads until the end.
fn say(path: &Path, bytes: impl AsRef<[u8]>) -> String {
    let mut stream = UnixStream::connect(path).expect("hawkey has a control socket");
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    // It may have been answered before it was sent whole.
    let _ = stream.write_all(bytes.as_ref());
    let mut told = Vec::new();
    let mut bytes = [0; 4096];
    loop {
        match stream.read(&mut bytes) {
            Ok(0) => break,
            Ok(n) => told.extend_from_slice(&bytes[..n]),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => break,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => panic!("{error}"),
        }
    }
    String::from_utf8(told).unwrap()
}

#[test]
fn status_tells_sessions_by_phase_bytes_and_upstreams() {
    let origin = Origin::answering(|_| Answer::ok("four"));
    let tunnels = Origin::by_hand();
    let proxy = Proxy::controlled(&format!(
        "{}[[route]]\nmatch = \"/tunnel\"\nto = \"{tunnels}\"\n[[route]]\nmatch = \"/gone\"\nto = \"{}\"\n",
        route(&origin),
        Origin::refusing()
    ));
    let (mut client, mut upstream) = tunnel(&proxy, &tunnels);
    client.send("12345");
    upstream.expect("12345");
    let mut idle = Client::connect(&proxy);
    assert_eq!(idle.get("/").text(), "four");
    assert_eq!(idle.get("/gone").status(), 500);

    let (code, told, _) = proxy.ask(&["status"]);
    assert_eq!(code, Some(0));
    for part in [
        concat!("hawkey ", env!("CARGO_PKG_VERSION"), ", pid "),
        &format!("configuration  {}\n", proxy.config().display()),
        &format!("listener       {}\n", proxy.address()),
        "sessions       2 (1 idle, 1 tunnel)\n",
        "tunnels        1\n",
        &format!("{origin}, 1 idle\n"),
        ", 0 idle, left alone: it has just failed\n",
    ] {
        assert!(told.contains(part), "expected `{part}` in:\n{told}");
    }
    let (code, json, _) = proxy.ask(&["status", "--json"]);
    let answer = jzon::parse(&json).expect("JSON");
    assert_eq!((code, answer["protocol"].as_u64()), (Some(0), Some(1)));
    let before = (answer["bytes"]["up"].as_u64().unwrap(), answer["bytes"]["down"].as_u64().unwrap());

    // What ends is counted as what goes on: nothing is lost, and nothing told twice.
    client.send("67890");
    upstream.expect("67890");
    upstream.send("12");
    client.expect("12");
    drop((client, upstream, idle));
    proxy.wait_for_log(&["tunnel=closed"]);
    let bytes = |json: &str| {
        let answer = jzon::parse(json).unwrap();
        (answer["bytes"]["up"].as_u64().unwrap(), answer["bytes"]["down"].as_u64().unwrap())
    };
    assert_eq!(bytes(&proxy.ask(&["status", "--json"]).1), (before.0 + 5, before.1 + 2));
}

#[test]
fn stop_stops_as_a_signal_does_and_takes_the_socket_away() {
    let origin = Origin::by_hand();
    let mut proxy = Proxy::controlled(&route(&origin));
    let open = tunnel(&proxy, &origin);
    let (code, told, _) = proxy.ask(&["stop"]);
    assert_eq!(code, Some(0));
    assert!(told.contains("stops: 1 of its sessions may go on for 30 s at most"), "{told}");
    assert!(!proxy.control().exists(), "its path is free for the next");
    assert!(proxy.is_running(), "a tunnel is open");
    drop(open);
    assert_eq!(proxy.wait().code(), Some(0));
    let (code, _, why) = proxy.ask(&["stop"]);
    assert_eq!(code, Some(1));
    assert!(why.contains("no hawkey runs with its control socket at"), "{why}");

    let mut proxy = Proxy::controlled(&route(&origin));
    let (_, told, _) = proxy.ask(&["stop"]);
    assert!(told.contains("has stopped: no session was left"), "{told}");
    assert_eq!(proxy.wait().code(), Some(0));
}

#[test]
fn the_file_is_its_owners_alone_from_its_first_instant() {
    let origin = Origin::saying("ok");
    let proxy = Proxy::controlled(&route(&origin));
    let mode = fs::metadata(proxy.control()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn another_user_is_not_listened_to_even_if_the_file_lets_it_in() {
    if !rustix::process::geteuid().is_root() {
        return println!("only root can be another user");
    }
    const NOBODY: u32 = 65534;
    let origin = Origin::saying("ok");
    let mut proxy = Proxy::controlled(&route(&origin));
    let copy = TempPath::new("-program");
    fs::copy(env!("CARGO_BIN_EXE_hawkey"), &*copy).unwrap();
    fs::set_permissions(&*copy, PermissionsExt::from_mode(0o755)).unwrap();
    let ask = || {
        let mut command = std::process::Command::new(&*copy);
        let output =
            command.uid(NOBODY).gid(NOBODY).arg("stop").arg("--control").arg(proxy.control()).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, why) = ask();
    assert_eq!(code, Some(1));
    assert!(why.contains("permission denied"), "{why}");
    fs::set_permissions(proxy.control(), PermissionsExt::from_mode(0o666)).unwrap();
    let (code, why) = ask();
    assert_eq!(code, Some(1));
    assert!(why.contains("only root and the user that hawkey runs as may ask"), "{why}");
    proxy.wait_for_log(&["event=control-refused"]);
    assert!(proxy.is_running());
}

#[test]
fn what_is_no_request_gets_a_sentence() {
    let origin = Origin::saying("ok");
    let proxy = Proxy::controlled(&route(&origin));
    for (bytes, part) in [
        (b"GET / HTTP/1.1\r\n".to_vec(), "a request is one JSON object on a line"),
        (b"{\"protocol\":9,\"ask\":\"status\"}\n".to_vec(), "version 1 of the control protocol, not 9"),
        (b"{\"protocol\":1,\"ask\":\"dance\"}\n".to_vec(), "can be asked for status, reload, upgrade and stop"),
        (vec![b' '; REQUEST_BYTES_MAX], "a request has at most 1024 bytes"),
        (vec![b' '; 1 << 20], "a request has at most 1024 bytes"),
    ] {
        let told = say(&proxy.control(), &bytes);
        assert!(told.contains(part), "expected `{part}` in: {told}");
        assert!(told.contains("\"protocol\":1") && told.ends_with("}\n"), "{told}");
    }
    let longest = format!("{{\"protocol\":1,\"ask\":\"status\"}}{}\n", " ".repeat(REQUEST_BYTES_MAX - 30));
    assert_eq!(longest.len(), REQUEST_BYTES_MAX);
    assert!(say(&proxy.control(), longest).contains("\"pid\":"));
}

#[test]
fn who_says_nothing_is_closed_and_makes_nobody_wait_for_long() {
    let origin = Origin::saying("ok");
    let proxy = Proxy::controlled(&route(&origin));
    let descriptors = proxy.descriptors();
    let watch = Watch::start();
    let silent: Vec<UnixStream> = (0..CONNECTIONS_MAX).map(|_| UnixStream::connect(proxy.control()).unwrap()).collect();
    eventually("all are taken in", || proxy.descriptors() == descriptors + CONNECTIONS_MAX);
    // One more waits in the kernel, and is served when the first of the others is closed.
    let mut next = UnixStream::connect(proxy.control()).unwrap();
    next.write_all(b"{\"protocol\":1,\"ask\":\"status\"}\n").unwrap();
    std::thread::sleep(A_WHILE);
    assert_eq!(proxy.descriptors(), descriptors + CONNECTIONS_MAX);
    assert_eq!(Client::connect(&proxy).get("/").text(), "ok", "clients notice nothing");
    let mut told = String::new();
    BufReader::new(next).read_line(&mut told).unwrap();
    assert!(told.contains("\"pid\":"), "{told}");
    watch.expect(CONVERSATION_MAX, CONVERSATION_MAX + Duration::from_secs(2));
    for mut stream in silent {
        assert_eq!(stream.read(&mut [0]).unwrap(), 0, "it is closed");
    }
}

#[test]
fn an_answer_that_is_longer_than_the_kernel_takes_at_once_comes_whole() {
    let origin = Origin::saying("ok");
    let to: Vec<String> =
        (0..12_000).map(|n| format!("\"127.{}.{}.{}:3000\"", 1 + n / 65536, n / 256 % 256, n % 256)).collect();
    let proxy =
        Proxy::controlled(&format!("{}[[route]]\nmatch = \"/many\"\nto = [{}]\n", route(&origin), to.join(",")));
    let mut slow = UnixStream::connect(proxy.control()).unwrap();
    slow.write_all(b"{\"protocol\":1,\"ask\":\"status\"}\n").unwrap();
    std::thread::sleep(A_WHILE);
    assert_eq!(Client::connect(&proxy).get("/").text(), "ok", "clients are served meanwhile");
    let mut told = String::new();
    BufReader::new(slow).read_line(&mut told).unwrap();
    assert!(told.len() > 500_000, "{} bytes", told.len());
    assert_eq!(jzon::parse(&told).unwrap()["upstreams"].members().count(), 12_001);
}

/// A folder for control sockets, gone with the test.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Folder {
        let path = TempPath::new("-folder").to_path_buf();
        fs::create_dir(&path).unwrap();
        Folder(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A hawkey whose default control socket is in this folder.
fn in_folder(folder: &Folder, config: &str) -> Proxy {
    Proxy::launch(config, LogPipe::Collected, |config| {
        let mut command = program();
        command.env("XDG_RUNTIME_DIR", &folder.0).arg("-c").arg(config);
        command
    })
}

fn status_in(folder: &Folder, words: &[&str]) -> (Option<i32>, String) {
    let output = program().env("XDG_RUNTIME_DIR", &folder.0).arg("status").args(words).output().unwrap();
    (output.status.code(), String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap())
}

#[test]
fn the_default_is_named_by_the_first_listener_and_found_by_it() {
    let (folder, origin) = (Folder::new(), Origin::saying("ok"));
    let (code, told) = status_in(&folder, &[]);
    assert_eq!(code, Some(1));
    assert!(told.contains("no control socket of a hawkey is in"), "{told}");

    let one = in_folder(&folder, &route(&origin));
    let name = format!("hawkey-{}.sock", one.address().port());
    assert!(folder.0.join(&name).exists(), "{name}, though port 0 was asked for");
    let (code, told) = status_in(&folder, &[]);
    assert_eq!(code, Some(0), "the only one needs no name: {told}");
    let listener = one.address().to_string();
    assert_eq!(status_in(&folder, &[&listener]).0, Some(0), "by its listener");
    // The file says port 0, which names nothing.
    let (code, told) = status_in(&folder, &["-c", one.config().to_str().unwrap()]);
    assert_eq!(code, Some(1));
    assert!(told.contains("name it by --control PATH"), "{told}");

    let (code, told) = status_in(&folder, &["-c", "missing.toml"]);
    assert_eq!(code, Some(1));
    assert!(told.starts_with("hawkey: cannot read missing.toml"), "{told}");

    let unix = TempPath::new("-web.sock");
    let two =
        in_folder(&folder, &format!("listen = [\"unix:{}\", \"127.0.0.1:0\"]\n{}", unix.display(), route(&origin)));
    two.wait_for_logs(&[" listening="], 2);
    let (code, told) = status_in(&folder, &[]);
    assert_eq!(code, Some(1));
    assert!(told.contains("several control sockets are in"), "{told}");
    let (code, told) = status_in(&folder, &["-c", two.config().to_str().unwrap()]);
    assert_eq!(code, Some(0), "by the file: {told}");
    assert!(told.contains("-web.sock"), "{told}");
}

#[test]
fn what_a_killed_hawkey_left_behind_is_no_choice() {
    let (folder, origin) = (Folder::new(), Origin::saying("ok"));
    for name in ["hawkey-1.sock", "hawkey-2.sock"] {
        drop(UnixListener::bind(folder.0.join(name)).expect("a socket"));
    }
    let (code, told) = status_in(&folder, &[]);
    assert_eq!(code, Some(1));
    assert!(told.contains("it has ended without removing that"), "{told}");

    let one = in_folder(&folder, &route(&origin));
    let (code, told) = status_in(&folder, &[]);
    assert_eq!(code, Some(0), "the only one that runs needs no name: {told}");
    assert!(told.contains(&one.address().to_string()), "{told}");
}

#[test]
fn without_a_default_hawkey_runs_and_without_what_was_asked_for_it_does_not() {
    let (folder, origin) = (Folder::new(), Origin::saying("ok"));
    let missing = folder.0.join("missing");
    let proxy = Proxy::launch(&route(&origin), LogPipe::Collected, |config| {
        let mut command = program();
        command.env("XDG_RUNTIME_DIR", &missing).arg("-c").arg(config);
        command
    });
    proxy.wait_for_log(&["level=warn event=no-control", "there is no such folder"]);
    assert_eq!(Client::connect(&proxy).get("/").text(), "ok");

    let config = TempPath::file(".toml", &format!("listen = \"127.0.0.1:0\"\n{}", route(&origin)));
    let path = missing.join("a.sock");
    let output = program().arg("--control").arg(&path).arg("-c").arg(&*config).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let why = String::from_utf8(output.stderr).unwrap();
    let expected = format!("hawkey: cannot listen on the control socket {}: there is no such folder\n", path.display());
    assert_eq!(why.lines().last().map(|line| format!("{line}\n")), Some(expected));
}

#[test]
fn a_file_that_was_left_is_replaced_and_one_in_use_is_not() {
    let (folder, origin) = (Folder::new(), Origin::saying("ok"));
    let path = folder.0.join("a.sock");
    let config = format!("control = \"{}\"\n{}", path.display(), route(&origin));
    drop(UnixListener::bind(&path).unwrap());
    let first = Proxy::launch(&config, LogPipe::Collected, |config| {
        let mut command = program();
        command.arg("-c").arg(config);
        command
    });
    let output = program().arg("status").arg("-c").arg(first.config()).output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    let second = program().arg("-c").arg(first.config()).output().unwrap();
    assert_eq!(second.status.code(), Some(1));
    let why = String::from_utf8(second.stderr).unwrap();
    assert!(why.contains("another process is listening there already"), "{why}");
    // Another path takes another process.
    first.configure(&config.replace("a.sock", "b.sock"));
    let output = program().args(["reload", "--control"]).arg(&path).output().unwrap();
    let told = String::from_utf8(output.stdout).unwrap();
    assert!(told.contains("the control socket stays where it is until hawkey is started anew"), "{told}");
    assert!(path.exists() && !folder.0.join("b.sock").exists());
    first.signal(Signal::KILL);
    eventually("it is gone", || UnixStream::connect(&path).is_err());
    let output = program().args(["status", "--control"]).arg(&path).output().unwrap();
    assert!(String::from_utf8(output.stderr).unwrap().contains("it has ended without removing that"));
}
