//! Upgrades that do not take place: the old process says why, and goes on as if nothing had been tried.

mod support;

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use support::*;

/// As in src/server/giver.rs.
const SILENCE_MAX: Duration = Duration::from_secs(5);

fn route(origin: &Origin) -> String {
    format!("[[route]]\nmatch = \"/\"\nto = \"{origin}\"\n")
}

fn is_echoing(client: &mut Client, upstream: &mut Connection) {
    client.send("up");
    upstream.expect("up");
    upstream.send("down");
    client.expect("down");
}

/// A program of sh in one line.
fn script(line: &str) -> TempPath {
    let path = TempPath::file("-script", &format!("#!/bin/sh\n{line}\n"));
    fs::set_permissions(&*path, Permissions::from_mode(0o755)).unwrap();
    path
}

/// The sentence that `hawkey upgrade` says with these words behind it, which must fail.
fn refusal(proxy: &Proxy, words: &[&str]) -> String {
    let (code, told, why) = proxy.ask(&[&["upgrade"], words].concat());
    assert_eq!((code, told.as_str()), (Some(1), ""), "{why}");
    assert!(why.starts_with("hawkey: "), "{why}");
    why
}

#[test]
fn a_broken_configuration_is_told_with_its_place_and_changes_nothing() {
    let origin = Origin::by_hand();
    let mut proxy = Proxy::controlled(&route(&origin));
    let (mut client, mut upstream) = tunnel(&proxy, &origin);
    proxy.configure(&format!("fault_staus = 502\n{}", route(&origin)));
    let why = refusal(&proxy, &[]);
    let place = format!("--> {}:2:1", proxy.config().display());
    assert!(why.starts_with("hawkey: not upgraded:\nerror: unknown key"), "{why}");
    assert!(why.contains(&place) && why.contains("did you mean `fault_status`?"), "{why}");
    proxy.wait_for_log(&["level=error event=upgrade-failed", &place]);
    is_echoing(&mut client, &mut upstream);
    proxy.signal(Signal::USR2);
    proxy.wait_for_logs(&["level=error event=upgrade-failed", &place], 2);
    is_echoing(&mut client, &mut upstream);

    // What only the new process can find out.
    let foreign = Origin::saying("foreign");
    proxy.configure(&format!("listen = [\"127.0.0.1:0\", \"{foreign}\"]\n{}", route(&origin)));
    let why = refusal(&proxy, &[]);
    assert!(why.contains(&format!("cannot listen on {foreign}: another process is listening there already")), "{why}");
    is_echoing(&mut client, &mut upstream);

    proxy.configure(&route(&origin));
    proxy.upgrade();
    is_echoing(&mut client, &mut upstream);
}

#[test]
fn a_binary_that_does_not_take_over_is_told_of() {
    let origin = Origin::by_hand();
    let mut proxy = Proxy::controlled(&route(&origin));
    let (mut client, mut upstream) = tunnel(&proxy, &origin);
    let text = TempPath::file("-text", "this is no program");
    let unmarked = TempPath::file("-unmarked", "neither is this");
    fs::set_permissions(&*text, Permissions::from_mode(0o755)).unwrap();
    let exits = script("exit 3");
    let other = script("exec /bin/true");
    for (binary, part) in [
        ("/nowhere/hawkey", "/nowhere/hawkey cannot be started: No such file"),
        (text.to_str().unwrap(), "cannot be started: Exec format error"),
        (unmarked.to_str().unwrap(), "cannot be started: Permission denied"),
        (exits.to_str().unwrap(), "the new process has ended (exit status: 3) before it served"),
        (other.to_str().unwrap(), "the new process has ended (exit status: 0) before it served"),
    ] {
        let why = refusal(&proxy, &["--binary", binary]);
        assert!(why.contains(part), "expected `{part}` in: {why}");
        is_echoing(&mut client, &mut upstream);
    }
    proxy.upgrade();
    is_echoing(&mut client, &mut upstream);
}

#[test]
fn a_binary_that_stays_silent_is_ended_and_meanwhile_all_goes_on() {
    let (tunnels, origin) = (Origin::by_hand(), Origin::saying("ok"));
    let mut proxy =
        Proxy::controlled(&format!("{}[[route]]\nmatch = \"/tunnel\"\nto = \"{tunnels}\"\n", route(&origin)));
    let (mut client, mut upstream) = tunnel(&proxy, &tunnels);
    let mut kept = Client::connect(&proxy);
    let silent = script("exec sleep 60");
    let mut exchanges = |are_over: &dyn Fn(usize) -> bool| {
        let mut took = Vec::new();
        while !are_over(took.len()) {
            let begun = Instant::now();
            is_echoing(&mut client, &mut upstream);
            assert_eq!(kept.get("/").text(), "ok");
            assert_eq!(Client::connect(&proxy).get("/").text(), "ok");
            took.push(begun.elapsed());
            thread::sleep(Duration::from_millis(5));
        }
        took.sort();
        took
    };
    let quiet = exchanges(&|count| count == 50)[25];
    let watch = Watch::start();
    thread::scope(|scope| {
        let asking = scope.spawn(|| refusal(&proxy, &["--binary", silent.to_str().unwrap()]));
        let line = proxy.wait_for_log(&["event=upgrade-begins"]);
        let refused = refusal(&proxy, &[]);
        assert!(refused.contains("an upgrade is under way already"), "{refused}");
        let (code, _, why) = proxy.ask(&["reload"]);
        assert_eq!(code, Some(1));
        assert!(why.contains("an upgrade is under way"), "{why}");
        let took = exchanges(&|_| asking.is_finished());
        let why = asking.join().unwrap();
        assert!(why.contains("the new process said nothing for 5 s"), "{why}");
        watch.expect(SILENCE_MAX, SILENCE_MAX + Duration::from_secs(1));
        // On a busy machine they take longer, in quiet too.
        let (median, longest) = (took[took.len() / 2], took[took.len() - 1]);
        println!("{} exchanges, of {median:?} and at most {longest:?}, and of {quiet:?} in quiet", took.len());
        assert!(
            median <= (10 * quiet).max(Duration::from_millis(40)),
            "{median:?} beside an upgrade, {quiet:?} in quiet"
        );
        assert!(longest < SILENCE_MAX / 2, "an exchange took {longest:?}");
        let pid = line.rsplit_once("pid=").unwrap().1.parse().unwrap();
        assert!(!is_alive(pid), "the silent process");
    });
    proxy.upgrade();
    is_echoing(&mut client, &mut upstream);
}

#[test]
fn who_is_asked_to_stop_in_the_middle_stops() {
    let origin = Origin::saying("ok");
    let mut proxy = Proxy::controlled(&route(&origin));
    let silent = script("exec sleep 60");
    let pid = thread::scope(|scope| {
        let asking = scope.spawn(|| refusal(&proxy, &["--binary", silent.to_str().unwrap()]));
        let line = proxy.wait_for_log(&["event=upgrade-begins"]);
        proxy.stop();
        let why = asking.join().unwrap();
        assert!(why.contains("hawkey was asked to stop"), "{why}");
        line.rsplit_once("pid=").unwrap().1.parse().unwrap()
    });
    assert_eq!(proxy.wait().code(), Some(0));
    assert!(!is_alive(pid), "the new process");
    assert!(!proxy.control().exists());
    let why = refusal(&proxy, &[]);
    assert!(why.contains("no hawkey runs with its control socket at"), "{why}");
}

#[test]
fn what_cannot_be_started_anew_says_so() {
    let origin = Origin::saying("ok");
    let proxy = Proxy::launch(&route(&origin), LogPipe::Collected, |config| {
        let mut command = program();
        command
            .arg("--control")
            .arg(config.with_extension("sock"))
            .args(["-c", "-"])
            .stdin(File::open(config).unwrap());
        command
    });
    let why = refusal(&proxy, &[]);
    assert!(why.contains("the configuration came from standard input, which cannot be read again"), "{why}");
    assert_eq!(Client::connect(&proxy).get("/").text(), "ok");

    let proxy = Proxy::start(&route(&origin));
    proxy.signal(Signal::USR2);
    proxy.wait_for_log(&["event=upgrade-failed", "without a control socket nothing can be handed over"]);
    assert_eq!(Client::connect(&proxy).get("/").text(), "ok");
    for words in [&["--control", "off"][..], &["-c", TempPath::file(".toml", "control = \"off\"\n").to_str().unwrap()]]
    {
        let output = program().arg("upgrade").args(words).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        let why = String::from_utf8(output.stderr).unwrap();
        assert!(
            why.contains("the control socket is off, or cannot be told from this: name it by --control PATH"),
            "{why}"
        );
    }
}
