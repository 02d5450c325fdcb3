//! hawkey in front of a small application, in one process: `cargo run --release --example demo`.
//!
//! It is also the example of embedding: a configuration built in code, bound, told of signals, and run. The application
//! behind it is in `demo/upstream.rs`, its page in `demo/index.html`.

use std::env;
use std::error::Error;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use hawkey::proxy::policy::Address;
use hawkey::{Config, ConfigError, Server};
use socket2::{Domain, Socket, Type};

#[path = "demo/upstream.rs"]
mod upstream;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("demo: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    // The terminal is for people here: a log only for those who ask for one.
    if env::var_os("RUST_LOG").is_some() {
        hawkey::start_log(None)?;
    }
    let upstream = upstream::start()?;
    let deaf = deaf_socket()?;
    let gone = deaf.local_addr()?.as_socket().ok_or("an IPv4 socket has an IPv4 address")?;

    let bind = |listen: &str| -> Result<Server, Box<dyn Error>> {
        let config = configuration(listen, upstream, gone)?;
        Ok(Server::bind(config)?)
    };
    let mut server = match env::args().nth(1) {
        Some(listen) => bind(&listen)?,
        // The usual port may be taken. Then any other will do.
        None => bind("127.0.0.1:8080").or_else(|_| bind("127.0.0.1:0"))?,
    };
    let Some(Address::Tcp(address)) = server.addresses().first() else {
        return Err("a browser opens no Unix socket: give an address and a port, such as 127.0.0.1:9000".into());
    };
    welcome(*address);
    server.stop_on_signals()?;
    server.run()?;
    println!("\n  Stopped.");
    Ok(())
}

/// Every path that the upstream answers leads there. `/gone` leads where nobody listens, and all else nowhere.
fn configuration(listen: &str, upstream: SocketAddr, gone: SocketAddr) -> Result<Config, ConfigError> {
    let mut config = Config::new().listen(listen)?.route("/gone", [gone.to_string()])?;
    for path in upstream::PATHS {
        config = config.route(path, [upstream.to_string()])?;
    }
    // Whoever presses Ctrl-C is waiting, and the page keeps a tunnel and a stream of events open for as long as it may.
    config.drain = Duration::from_secs(1);
    Ok(config)
}

/// A port that refuses: bound, so that nobody else is given it, and never listened on.
fn deaf_socket() -> Result<Socket, Box<dyn Error>> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
    Ok(socket)
}

fn welcome(mut address: SocketAddr) {
    if address.ip().is_unspecified() {
        address.set_ip(Ipv4Addr::LOCALHOST.into());
    }
    println!(
        "
  hawkey is running. Open this in a browser:

      http://{address}/app

  Or ask from another terminal:

      curl -i http://{address}/headers      what the upstream receives
      curl -N http://{address}/events       a response that never ends

  Ctrl-C stops it. RUST_LOG=info in front of the command shows what hawkey sees.
"
    );
}
