//! Under a supervisor: what it is told, and the sockets that it passes. The tests are the supervisor.

mod support;

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr as UnixAddress, UnixDatagram, UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use support::*;

/// A supervisor that hears what it is told.
struct Supervisor {
    socket: UnixDatagram,
    /// As the environment says it.
    name: String,
    _file: Option<TempPath>,
}

impl Supervisor {
    fn at_a_path() -> Supervisor {
        let path = TempPath::new(".notify");
        let socket = UnixDatagram::bind(&*path).unwrap();
        Supervisor { socket, name: path.display().to_string(), _file: Some(path) }
    }

    fn at_an_abstract_name() -> Supervisor {
        let name = format!("hawkey-supervisor-{}", std::process::id());
        let socket = UnixDatagram::bind_addr(&UnixAddress::from_abstract_name(&name).unwrap()).unwrap();
        Supervisor { socket, name: format!("@{name}"), _file: None }
    }

    /// Starts hawkey with this configuration and these variables beside.
    fn start(&self, config: &str, variables: &[(&str, &str)]) -> Proxy {
        Proxy::launch(config, LogPipe::Collected, |config| {
            let mut command = hawkey();
            command.arg("-c").arg(config).env("NOTIFY_SOCKET", &self.name).envs(variables.iter().copied());
            command
        })
    }

    /// What it is told next, which must come.
    fn hears(&self) -> String {
        self.hears_within(PATIENCE).expect("the supervisor is told something")
    }

    fn hears_within(&self, patience: Duration) -> Option<String> {
        let mut bytes = [0; 4096];
        self.socket.set_read_timeout(Some(patience)).unwrap();
        loop {
            return match self.socket.recv(&mut bytes) {
                Ok(n) => Some(String::from_utf8(bytes[..n].to_vec()).unwrap()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => None,
                // A process that is stopped for a moment hears so, if it waits for a time only (signal(7)).
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => panic!("{error}"),
            };
        }
    }

    fn hears_nothing(&self) {
        assert_eq!(self.hears_within(A_WHILE), None);
    }
}

fn to(origin: &Origin) -> String {
    format!("[[route]]\nmatch = \"/\"\nto = \"{origin}\"\n")
}

#[test]
fn it_is_told_when_clients_are_served_and_when_the_end_begins() {
    for supervisor in [Supervisor::at_a_path(), Supervisor::at_an_abstract_name()] {
        let origin = Origin::by_hand();
        // An address that is known before hawkey is there: READY alone says when to connect. No client gets a port of 127.0.0.9.
        let address = TcpListener::bind("127.0.0.9:0").unwrap().local_addr().unwrap();
        let listen = format!("listen = \"{address}\"\n{}", to(&origin));
        let mut proxy = std::thread::scope(|scope| {
            let starting = scope.spawn(|| supervisor.start(&listen, &[]));
            assert_eq!(supervisor.hears(), format!("READY=1\nSTATUS=Serving on {address}\n"));
            std::net::TcpStream::connect(address).expect("clients are taken once READY is told");
            starting.join().unwrap()
        });
        let mut client = Client::connect(&proxy);
        client.ask("GET /", &[], "");
        let mut upstream = origin.accept();
        upstream.request();
        supervisor.hears_nothing();
        proxy.stop();
        assert_eq!(supervisor.hears(), "STOPPING=1\nSTATUS=Stopping within 30 s, sessions: 1\n");
        upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        assert_eq!(client.response().status(), 200);
        assert_eq!(proxy.wait().code(), Some(0));
        supervisor.hears_nothing();
    }
}

#[test]
fn it_is_told_of_a_reload_whatever_comes_of_it() {
    let (supervisor, origin) = (Supervisor::at_a_path(), Origin::saying("ok"));
    let proxy = supervisor.start(&to(&origin), &[]);
    let ready = supervisor.hears();
    let reloads = || {
        let before = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        proxy.signal(Signal::HUP);
        let told = supervisor.hears();
        let after = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let micros = told.lines().find_map(|line| line.strip_prefix("MONOTONIC_USEC=")?.parse::<i64>().ok());
        let at = micros.unwrap_or_else(|| panic!("expected a time in {told:?}"));
        let micros_of = |time: rustix::time::Timespec| time.tv_sec * 1_000_000 + time.tv_nsec / 1000;
        assert!((micros_of(before)..=micros_of(after)).contains(&at), "{told}: not while it was reloading");
        assert!(told.starts_with("RELOADING=1\n"), "{told}");
        assert_eq!(supervisor.hears(), ready);
    };
    reloads();
    proxy.wait_for_log(&["reloaded"]);
    proxy.configure("timeouts = 5");
    reloads();
    proxy.wait_for_log(&["event=reload-failed"]);
}

#[test]
fn a_start_that_fails_is_not_told_as_ready() {
    let supervisor = Supervisor::at_a_path();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = taken.local_addr().unwrap().to_string();
    let ended = hawkey().args([&listen, "/=127.0.0.1:1"]).env("NOTIFY_SOCKET", &supervisor.name).output().unwrap();
    assert_eq!(ended.status.code(), Some(1));
    supervisor.hears_nothing();
}

#[test]
fn a_watchdog_hears_of_it_twice_within_its_time_and_nobody_else_wakes_it() {
    let supervisor = Supervisor::at_a_path();
    let origin = Origin::saying("ok");
    // The first sign comes at once, and the others behind it every half second.
    timed(Duration::from_millis(1990), Duration::from_secs(3), || {
        let _watched = supervisor.start(&to(&origin), &[("WATCHDOG_USEC", "1000000")]);
        assert!(supervisor.hears().starts_with("READY=1\n"));
        for _ in 0..5 {
            assert_eq!(supervisor.hears(), "WATCHDOG=1\n");
        }
    });

    // Without one, or with one that is meant for another process, there is nothing to wake up for.
    for variables in [&[][..], &[("WATCHDOG_USEC", "100000"), ("WATCHDOG_PID", "1")]] {
        let proxy = supervisor.start(&to(&origin), variables);
        assert!(supervisor.hears().starts_with("READY=1\n"));
        supervisor.hears_nothing();
        // What its start leaves to do comes later on a busy machine, and once.
        let sleeps = || {
            let before = proxy.wake_ups();
            std::thread::sleep(Duration::from_secs(1));
            proxy.wake_ups() == before
        };
        assert!(sleeps() || sleeps(), "an idle process sleeps, with {variables:?}");
    }
}

#[test]
fn nobody_hears_of_a_process_that_was_told_of_nobody() {
    let origin = Origin::saying("ok");
    let proxy = Proxy::launch(&to(&origin), LogPipe::Collected, |config| {
        let mut command = hawkey();
        command.arg("-c").arg(config).env("NOTIFY_SOCKET", "").env("WATCHDOG_USEC", "100000");
        command
    });
    assert_eq!(Client::connect(&proxy).get("/").status(), 200);
    // With a supervisor there is one descriptor more: the socket by which it is told.
    let told = Supervisor::at_a_path().start(&to(&origin), &[]);
    assert_eq!(Client::connect(&told).get("/").status(), 200);
    eventually("one descriptor less", || proxy.descriptors() + 1 == told.descriptors());
}

#[test]
fn a_supervisor_that_cannot_be_told_is_a_line_in_the_log() {
    let origin = Origin::saying("ok");
    let nobody = TempPath::new(".nobody").display().to_string();
    for (name, why) in [(&*nobody, "could not be told"), ("vsock:2:1", "NOTIFY_SOCKET: neither a path nor")] {
        let proxy = Proxy::launch(&to(&origin), LogPipe::Collected, |config| {
            let mut command = hawkey();
            command.arg("-c").arg(config).env("NOTIFY_SOCKET", name);
            command
        });
        proxy.wait_for_log(&["level=warn event=notify", why]);
        assert_eq!(Client::connect(&proxy).get("/").status(), 200);
    }
}

#[test]
fn an_embedded_server_tells_nobody() {
    const INSIDE: &str = "HAWKEY_TESTS_EMBED";
    if std::env::var_os(INSIDE).is_some() {
        let config = hawkey::Config::new().listen("127.0.0.1:0").unwrap().route("/", ["127.0.0.1:1"]).unwrap();
        let server = hawkey::Server::bind(config).unwrap();
        server.handle().stop().unwrap();
        return server.run().unwrap();
    }
    let supervisor = Supervisor::at_a_path();
    let ended = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "an_embedded_server_tells_nobody"])
        .env(INSIDE, "1")
        .env("NOTIFY_SOCKET", &supervisor.name)
        .stdout(Stdio::null())
        .status();
    assert!(ended.unwrap().success());
    supervisor.hears_nothing();
}

/// hawkey with `config`, and with `socket` passed as a supervisor passes one that it calls `name`, as 3; as 4 too, but nobody says so.
fn passing(socket: impl Into<OwnedFd>, name: &str, config: &Path) -> Command {
    let mut command = Command::new("sh");
    let run = "export LISTEN_PID=$$; exec \"$0\" --control off -c \"$1\" 3<&0 4<&0 </dev/null";
    command.args(["-c", run, env!("CARGO_BIN_EXE_hawkey")]).arg(config).stdin(Stdio::from(socket.into()));
    command.env("LISTEN_FDS", "1").env("LISTEN_FDNAMES", name).env_remove("RUST_LOG").env_remove("NOTIFY_SOCKET");
    command
}

/// What hawkey says that it cannot run because of.
fn refuses(socket: impl Into<OwnedFd>, config: &str) -> String {
    let config = TempPath::file(".toml", &format!("{config}\n[[route]]\nmatch = \"/\"\nto = \"127.0.0.1:1\"\n"));
    let ended = passing(socket, "web", &config).output().unwrap();
    assert_eq!(ended.status.code(), Some(1));
    String::from_utf8(ended.stderr).unwrap()
}

#[test]
fn a_passed_socket_is_listened_on_by_its_address_or_by_its_name() {
    for by_name in [false, true] {
        let origin = Origin::saying("ok");
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        // Somebody who came before hawkey was there.
        let waiting = Client::to(address);
        let listen = if by_name { "systemd:web".to_owned() } else { address.to_string() };
        let config = format!("listen = \"{listen}\"\n{}", to(&origin));
        let mut proxy =
            Proxy::launch(&config, LogPipe::Collected, |config| passing(socket.try_clone().unwrap(), "web", config));
        assert_eq!(proxy.address(), address);
        for mut client in [waiting, Client::connect(&proxy)] {
            assert_eq!(client.get("/").status(), 200);
        }
        proxy.stop();
        assert_eq!(proxy.wait().code(), Some(0));
        // The supervisor still has it, and clients wait for the next process.
        std::net::TcpStream::connect(address).unwrap();
    }
}

#[test]
fn several_sockets_of_one_name_stay_when_the_configuration_is_read_again() {
    let origin = Origin::saying("ok");
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let config = format!("listen = \"systemd:web\"\n{}", to(&origin));
    let proxy = Proxy::launch(&config, LogPipe::Collected, |config| {
        // Two descriptors of one socket: to hawkey they are two.
        let mut command = passing(socket, "web:web", config);
        command.env("LISTEN_FDS", "2");
        command
    });
    let before = proxy.descriptors();
    proxy.signal(Signal::HUP);
    proxy.wait_for_log(&["reloaded listeners=1"]);
    assert_eq!(Client::connect(&proxy).get("/").status(), 200);
    eventually("both are still there", || proxy.descriptors() == before + 1);
}

#[test]
fn the_file_of_a_passed_unix_socket_stays() {
    let origin = Origin::saying("ok");
    let path = TempPath::new(".sock");
    let socket = UnixListener::bind(&*path).unwrap();
    let config = format!("listen = \"unix:{}\"\n{}", path.display(), to(&origin));
    let mut proxy =
        Proxy::launch(&config, LogPipe::Collected, |config| passing(socket.try_clone().unwrap(), "", config));
    proxy.stop();
    assert_eq!(proxy.wait().code(), Some(0));
    UnixStream::connect(&*path).expect("the supervisor still listens");
}

#[test]
fn sockets_passed_to_another_process_are_none() {
    let origin = Origin::saying("ok");
    let proxy = Proxy::launch(&to(&origin), LogPipe::Collected, |config| {
        let mut command = hawkey();
        command.arg("-c").arg(config).env("LISTEN_PID", "1").env("LISTEN_FDS", "1");
        command
    });
    assert_eq!(Client::connect(&proxy).get("/").status(), 200);
}

#[test]
fn what_was_passed_and_what_is_configured_must_agree() {
    let socket = || TcpListener::bind("127.0.0.1:0").unwrap();
    let unused = socket();
    let address: SocketAddr = unused.local_addr().unwrap();
    assert_eq!(
        refuses(unused, "listen = \"127.0.0.1:0\""),
        format!(
            "hawkey: cannot listen on {address}, passed as `web`: no listener of the configuration has this address or this name\n"
        )
    );
    let missing = "hawkey: cannot listen on systemd:other: no socket of this name was passed\n";
    assert_eq!(refuses(socket(), "listen = [\"systemd:web\", \"systemd:other\"]"), missing);
    let wrong = "hawkey: cannot listen on the descriptor passed as `web`: it is no stream socket that listens\n";
    assert_eq!(refuses(UdpSocket::bind("127.0.0.1:0").unwrap(), "listen = \"systemd:web\""), wrong);
    assert_eq!(
        refuses(std::net::TcpStream::connect(address_of(&socket())).unwrap(), "listen = \"systemd:web\""),
        wrong
    );
    let file = std::fs::File::open("/dev/null").unwrap();
    assert!(
        refuses(file, "listen = \"systemd:web\"")
            .starts_with("hawkey: cannot listen on the descriptor passed as `web`: ")
    );
}

#[test]
fn an_environment_that_promises_what_was_not_passed_is_one_sentence() {
    let supervisor = Supervisor::at_a_path();
    let ended = Command::new("sh")
        .args(["-c", "LISTEN_PID=$$ LISTEN_FDS=1 exec \"$0\" 127.0.0.1:0 /=127.0.0.1:1", env!("CARGO_BIN_EXE_hawkey")])
        .env("NOTIFY_SOCKET", &supervisor.name)
        .output()
        .unwrap();
    assert_eq!(ended.status.code(), Some(1));
    let expected = "hawkey: cannot listen on what a supervisor passed: Bad file descriptor (os error 9)\n";
    assert_eq!(String::from_utf8(ended.stderr).unwrap(), expected);
}

fn address_of(socket: &TcpListener) -> SocketAddr {
    socket.local_addr().unwrap()
}
