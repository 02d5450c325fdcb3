//! A real hawkey process: started with a configuration, watched by its log, ended with the test.

use std::io::{BufRead, BufReader, Write as _};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use jzon::JsonValue;
use rustix::process::{Pid, Signal};

use super::origin::Origin;
use super::{PATIENCE, TempPath, eventually, timed};

/// What becomes of the process's standard error once it listens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum LogPipe {
    /// Every line is read.
    Collected,
    /// The pipe stays open and nobody reads: it fills up.
    Unread,
    /// The pipe is closed.
    Closed,
}

/// A hawkey process, and after an upgrade the one that has taken over. All are killed when this is dropped.
pub struct Proxy {
    child: Child,
    log: Arc<Log>,
    config: TempPath,
}

#[derive(Default)]
struct Log {
    lines: Mutex<Vec<String>>,
    grown: Condvar,
}

impl Proxy {
    /// A proxy in front of one upstream, with every default.
    pub fn to(origin: &Origin) -> Proxy {
        Proxy::with("", origin)
    }

    /// The same, with tables of configuration behind its one route.
    pub fn with(tables: &str, origin: &Origin) -> Proxy {
        Proxy::start(&format!("[[route]]\nmatch = \"/\"\nto = \"{origin}\"\n{tables}"))
    }

    /// A proxy with this configuration. Unless it says where to listen, it is a port of 127.0.0.1 that the kernel gives.
    pub fn start(config: &str) -> Proxy {
        Proxy::launch(config, LogPipe::Collected, |config| {
            let mut command = hawkey();
            command.arg("-c").arg(config);
            command
        })
    }

    /// The same, with a control socket, beside the configuration.
    pub fn controlled(config: &str) -> Proxy {
        Proxy::launch(config, LogPipe::Collected, |config| {
            let mut command = program();
            command.arg("--control").arg(config.with_extension("sock")).arg("-c").arg(config);
            command
        })
    }

    /// The same, logging all that is logged at debug level.
    pub fn start_debug(config: &str) -> Proxy {
        Proxy::launch(config, LogPipe::Collected, |config| {
            let mut command = hawkey();
            command.arg("-c").arg(config).env("RUST_LOG", "debug");
            command
        })
    }

    /// A proxy from the arguments of its command line alone.
    pub fn with_arguments(arguments: &[&str]) -> Proxy {
        Proxy::launch("", LogPipe::Collected, |_| {
            let mut command = hawkey();
            command.args(arguments);
            command
        })
    }

    /// A proxy by a command that is given the path of the configuration.
    pub fn launch(config: &str, pipe: LogPipe, command: impl FnOnce(&std::path::Path) -> Command) -> Proxy {
        let config = config_file(config);
        let mut child = command(&config).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("hawkey starts");
        let stderr = child.stderr.take().expect("standard error is a pipe");
        let log = Arc::new(Log::default());
        let reader = Arc::clone(&log);
        std::thread::spawn(move || reader.collect(stderr, pipe));
        let mut proxy = Proxy { child, log, config };
        proxy.wait_until_listening();
        proxy
    }

    /// A proxy whose log goes where `command` says and is not seen here. It takes clients once `listens` holds.
    pub fn unlogged(
        config: &str,
        listens: impl FnMut() -> bool,
        command: impl FnOnce(&std::path::Path) -> Command,
    ) -> Proxy {
        let config = config_file(config);
        let child = command(&config).stdin(Stdio::null()).stdout(Stdio::null()).spawn().expect("hawkey starts");
        let proxy = Proxy { child, log: Arc::default(), config };
        eventually("hawkey listens", listens);
        proxy
    }

    /// Runs hawkey with a configuration that it cannot start with: its exit code, and what it says on standard error.
    pub fn fails(config: &str) -> (Option<i32>, String) {
        let config = config_file(config);
        let mut child = hawkey()
            .arg("-c")
            .arg(&*config)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("hawkey starts");
        let stderr = child.stderr.take().expect("standard error is a pipe");
        let log = Arc::new(Log::default());
        let reader = Arc::clone(&log);
        let collected = std::thread::spawn(move || reader.collect(stderr, LogPipe::Collected));
        let mut proxy = Proxy { child, log, config };
        let status = proxy.wait();
        collected.join().expect("standard error is read");
        (status.code(), proxy.log().join("\n"))
    }

    /// The control socket of a [`controlled`](Proxy::controlled) proxy.
    pub fn control(&self) -> PathBuf {
        self.config.with_extension("sock")
    }

    /// The file of its configuration.
    pub fn config(&self) -> &Path {
        &self.config
    }

    /// Writes its configuration anew, which it is not told.
    pub fn configure(&self, config: &str) {
        std::fs::write(&*self.config, with_listener(config)).expect("the configuration can be written");
    }

    /// What a `hawkey` command says to it: the exit code, standard output and standard error.
    pub fn ask(&self, words: &[&str]) -> (Option<i32>, String, String) {
        let output = program().args(words).arg("--control").arg(self.control()).output().expect("hawkey starts");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
        (output.status.code(), text(output.stdout), text(output.stderr))
    }

    /// Configures it anew and has it read that, which must succeed; what is told.
    pub fn reload(&self, config: &str) -> String {
        self.configure(config);
        let (code, told, why) = self.ask(&["reload"]);
        assert_eq!(code, Some(0), "a reload: {why}");
        told
    }

    /// The first TCP address that the process listens on; `[::]` is told as `[::1]`.
    pub fn address(&self) -> SocketAddr {
        self.addresses().first().copied().unwrap_or_else(|| panic!("no TCP listener in the log:\n{}", self.text()))
    }

    /// All TCP addresses that the process listens on.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        let lines = self.log();
        let written = lines.iter().filter_map(|line| Some(line.split_once(" listening=")?.1.trim_matches('"')));
        let reachable = |mut address: SocketAddr| {
            if address.ip().is_unspecified() {
                address.set_ip(std::net::Ipv6Addr::LOCALHOST.into());
            }
            address
        };
        written.filter_map(|written| written.parse().ok()).map(reachable).collect()
    }

    /// The lines of the log so far.
    pub fn log(&self) -> Vec<String> {
        self.log.lines.lock().unwrap().clone()
    }

    /// The first line with all of these parts, which must come.
    pub fn wait_for_log(&self, parts: &[&str]) -> String {
        self.wait_for_logs(parts, 1).remove(0)
    }

    /// The first `count` lines with all of these parts, which must come.
    pub fn wait_for_logs(&self, parts: &[&str], count: usize) -> Vec<String> {
        let begun = Instant::now();
        let mut lines = self.log.lines.lock().unwrap();
        loop {
            let matching = lines.iter().filter(|line| parts.iter().all(|part| line.contains(part)));
            let found: Vec<String> = matching.take(count).cloned().collect();
            if found.len() == count {
                return found;
            }
            let Some(left) = PATIENCE.checked_sub(begun.elapsed()) else {
                // The log is shown when this is dropped, which needs the lock.
                drop(lines);
                panic!("{} of {count} lines with {parts:?} in the log", found.len());
            };
            lines = self.log.grown.wait_timeout(lines, left).unwrap().0;
        }
    }

    /// Has a new process take over, which must succeed; what is told, as numbers by their names. If nothing stays in the old process, that
    /// is gone within a second.
    pub fn upgrade(&mut self) -> JsonValue {
        let former = self.pid();
        let told = self.upgrade_slowly();
        assert_eq!(told["former_pid"], former);
        if told["stay"] == 0 {
            self.expect_gone(former);
        }
        told
    }

    /// The same, whatever stays in the old process.
    pub fn upgrade_slowly(&self) -> JsonValue {
        let told = self.control_answer("upgrade");
        assert!(told["error"].is_null(), "an upgrade: {told}");
        self.wait_for_log(&[&format!(" upgraded pid={} ", told["pid"])]);
        told
    }

    /// Process `pid`, which is or was a hawkey of this test, is gone within a second.
    pub fn expect_gone(&mut self, pid: u32) {
        timed(Duration::ZERO, Duration::from_secs(1), || {
            // The first one is a child of ours, and stays a little until it is asked for.
            let is_there = |proxy: &mut Proxy| pid == proxy.child.id() && proxy.is_running() || is_alive(pid);
            eventually("the process is gone", || !is_there(self));
        });
    }

    /// What the control socket answers to one word, asked without a process of its own.
    pub fn control_answer(&self, word: &str) -> JsonValue {
        let mut stream = UnixStream::connect(self.control()).expect("hawkey has a control socket");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket can wait");
        stream.write_all(format!("{{\"protocol\":1,\"ask\":\"{word}\"}}\n").as_bytes()).expect("hawkey listens");
        let mut told = String::new();
        BufReader::new(stream).read_line(&mut told).expect("hawkey answers");
        jzon::parse(&told).unwrap_or_else(|error| panic!("{error}: {told}"))
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.pid() as i32).expect("a number of a process");
        rustix::process::kill_process(pid, signal).expect("the process takes signals");
    }

    /// Holds the process while `action` runs: what comes of it waits in the kernel and is seen at once, in order.
    pub fn while_held<T>(&self, action: impl FnOnce() -> T) -> T {
        self.signal(Signal::STOP);
        eventually("the process is held", || {
            self.proc_file("stat").rsplit_once(") ").is_some_and(|(_, stat)| stat.starts_with('T'))
        });
        let value = action();
        self.signal(Signal::CONT);
        value
    }

    /// How often the process has gone to sleep and been woken.
    pub fn wake_ups(&self) -> u64 {
        let status = self.proc_file("status");
        let line =
            status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")).expect("a line for switches");
        line.trim().parse().expect("a number of switches")
    }

    /// The process's number: of the newest, after upgrades.
    pub fn pid(&self) -> u32 {
        let lines = self.log.lines.lock().unwrap();
        let newest = lines.iter().rev().find_map(|line| line.split_once(" upgraded pid=")?.1.split(' ').next());
        newest.map_or(self.child.id(), |pid| pid.parse().expect("a number of a process"))
    }

    /// Asks the process to stop, as a service manager does.
    pub fn stop(&self) {
        self.signal(Signal::TERM);
    }

    /// Whether the process is still there: the first, after upgrades.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("a child can be waited for").is_none()
    }

    /// How the process ends, which it must: the first, after upgrades.
    pub fn wait(&mut self) -> ExitStatus {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("a child can be waited for") {
                return status;
            }
            assert!(begun.elapsed() < PATIENCE, "hawkey does not end; its log:\n{}", self.text());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Resident memory that is the process's own, in bytes.
    pub fn memory(&self) -> u64 {
        let status = self.proc_file("status");
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("a line for RssAnon");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number of kilobytes") * 1024
    }

    /// Processor time spent so far, user and system, in ticks of 10 ms.
    pub fn cpu_ticks(&self) -> u64 {
        let stat = self.proc_file("stat");
        let fields = stat.rsplit_once(')').expect("a name in parentheses").1;
        let ticks = fields.split_ascii_whitespace().skip(11).take(2);
        ticks.map(|ticks| ticks.parse::<u64>().expect("a number of ticks")).sum()
    }

    /// How many descriptors the process holds.
    pub fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid())).expect("the process runs").count()
    }

    /// What a descriptor of the process is, as the kernel names it.
    pub fn descriptor(&self, number: u32) -> PathBuf {
        let link = format!("/proc/{}/fd/{number}", self.pid());
        std::fs::read_link(&link).unwrap_or_else(|error| panic!("{link}: {error}"))
    }

    fn proc_file(&self, name: &str) -> String {
        std::fs::read_to_string(format!("/proc/{}/{name}", self.pid())).expect("the process runs")
    }

    fn text(&self) -> String {
        self.log().join("\n")
    }

    fn wait_until_listening(&mut self) {
        let begun = Instant::now();
        while !self.log().iter().any(|line| line.contains(" listening=")) {
            if let Some(status) = self.child.try_wait().expect("a child can be waited for") {
                panic!("hawkey ended with {status} instead of listening:\n{}", self.text());
            }
            assert!(begun.elapsed() < PATIENCE, "hawkey does not say where it listens:\n{}", self.text());
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if self.log().iter().any(|line| line.contains(" event=upgrade-begins ")) {
            end_successors(&self.config);
        }
        // Who was killed could not remove it.
        let _ = std::fs::remove_file(self.control());
        if std::thread::panicking() {
            eprintln!("the log of hawkey with {}:\n{}", self.config.display(), self.text());
        }
    }
}

/// Whether process `pid` runs, and has not just left its number behind.
pub fn is_alive(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| stat.rsplit_once(") ").is_some_and(|(_, stat)| !stat.starts_with(['Z', 'X'])))
}

/// Kills all that was started with this configuration, which is in no other test's hands. Successors are nobody's children.
fn end_successors(config: &Path) {
    let processes = std::fs::read_dir("/proc").expect("processes are listed").flatten();
    for pid in processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok()) {
        let is_ours = std::fs::read(format!("/proc/{pid}/cmdline"))
            .is_ok_and(|line| line.split(|byte| *byte == 0).any(|word| word == config.as_os_str().as_encoded_bytes()));
        if let Some(pid) = Pid::from_raw(pid).filter(|_| is_ours) {
            // It may have ended already.
            let _ = rustix::process::kill_process(pid, Signal::KILL);
        }
    }
}

impl Log {
    fn collect(&self, stderr: ChildStderr, pipe: LogPipe) {
        let mut stderr = BufReader::new(stderr);
        let mut line = Vec::new();
        while stderr.read_until(b'\n', &mut line).is_ok_and(|count| count > 0) {
            let text = String::from_utf8_lossy(line.trim_ascii_end()).into_owned();
            let listens = text.contains(" listening=");
            line.clear();
            self.lines.lock().unwrap().push(text);
            self.grown.notify_all();
            match pipe {
                LogPipe::Collected => {}
                LogPipe::Closed if listens => return,
                LogPipe::Unread if listens => {
                    // Kept for as long as any test runs: the process must find the pipe full, not closed.
                    std::mem::forget(stderr);
                    return;
                }
                LogPipe::Closed | LogPipe::Unread => {}
            }
        }
    }
}

/// The program under test, with nothing of the tests' own environment that could change what it does, and without a control socket.
pub fn hawkey() -> Command {
    let mut command = program();
    command.args(["--control", "off"]);
    command
}

/// The same, with a control socket where it says.
pub fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hawkey"));
    command.env_remove("RUST_LOG").env_remove("NOTIFY_SOCKET").stdin(Stdio::null());
    command
}

fn config_file(text: &str) -> TempPath {
    TempPath::file(".toml", &with_listener(text))
}

fn with_listener(text: &str) -> String {
    let listens = text.lines().any(|line| line.trim_start().starts_with("listen"));
    let listen = if listens { "" } else { "listen = [\"127.0.0.1:0\"]\n" };
    format!("{listen}{text}")
}
