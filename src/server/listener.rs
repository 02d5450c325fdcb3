//! Bind, accept, pause when full.

use std::fmt;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::Path;

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use socket2::{Domain, SockAddr, Socket as RawSocket, Type};

use crate::config::Listen;
use crate::os::{descriptors, errors};
use crate::proxy::policy::{Address, ClientAddress};
use crate::server::socket::{self, Socket};

/// Connections that the kernel may hold for us until we accept them.
const BACKLOG: i32 = 1024;

/// A socket that clients connect to.
#[derive(Debug)]
pub struct Listener {
    socket: RawSocket,
    listen: Listen,
    address: Address,
    /// By which events name it, once it is registered.
    pub token: Token,
    /// Whether an accept is worth a call.
    pub is_ready: bool,
}

/// Why a listener could not be bound.
#[derive(Debug)]
pub struct BindError {
    listen: String,
    is_path: bool,
    error: io::Error,
}

impl BindError {
    /// The kernel gave no event queue, without which there is nothing to listen for.
    pub fn event_queue(error: io::Error) -> BindError {
        BindError { listen: "any address".into(), is_path: false, error }
    }

    /// A file of the file system could not be listened on.
    pub fn of_path(listen: String, error: io::Error) -> BindError {
        BindError { listen, is_path: true, error }
    }
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let BindError { listen, is_path, error } = self;
        match error.kind() {
            io::ErrorKind::AddrInUse => {
                write!(f, "cannot listen on {listen}: another process is listening there already")
            }
            io::ErrorKind::AddrNotAvailable => write!(f, "cannot listen on {listen}: this machine has no such address"),
            io::ErrorKind::PermissionDenied if !is_path => {
                write!(f, "cannot listen on {listen}: permission denied (a port below 1024 needs CAP_NET_BIND_SERVICE)")
            }
            io::ErrorKind::PermissionDenied => write!(f, "cannot listen on {listen}: permission denied"),
            io::ErrorKind::NotFound => write!(f, "cannot listen on {listen}: there is no such folder"),
            _ => write!(f, "cannot listen on {listen}: {error}"),
        }
    }
}

impl std::error::Error for BindError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}

impl Listener {
    /// Listens from here on.
    pub fn bind(listen: &Listen) -> Result<Listener, BindError> {
        let bound = match listen {
            Listen::EveryAddress(port) => bind_tcp(([0; 16], *port).into(), false).or_else(|error| {
                // A machine without IPv6 still has its IPv4 addresses.
                if errors::lacks_the_family(&error) { bind_tcp(([0; 4], *port).into(), true) } else { Err(error) }
            }),
            Listen::Address(Address::Tcp(address)) => bind_tcp(*address, true),
            Listen::Address(Address::Unix(path)) => {
                bind_unix(path, |_| Ok(())).map(|socket| (socket, Address::Unix(path.clone())))
            }
        };
        let is_path = matches!(listen, Listen::Address(Address::Unix(_)));
        let (socket, address) = bound.map_err(|error| BindError { listen: listen.to_string(), is_path, error })?;
        Ok(Listener { socket, listen: listen.clone(), address, token: Token(0), is_ready: false })
    }

    /// Where it was asked to listen.
    pub fn listen(&self) -> &Listen {
        &self.listen
    }

    /// Where it listens, with the port that the kernel gave.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Asks for its events, and tells the log that it listens.
    pub fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        self.token = token;
        registry.register(&mut SourceFd(&self.socket.as_raw_fd()), token, Interest::READABLE)?;
        log::info!("listening={}", self.address);
        Ok(())
    }

    /// The next client, if one waits. After one that left before it was accepted, it is worth asking again.
    pub fn accept(&mut self) -> io::Result<Option<(Socket, ClientAddress)>> {
        loop {
            match descriptors::accept(self.socket.as_fd()) {
                Ok((connection, address)) => {
                    let client = address.map_or(ClientAddress::Unix, ClientAddress::from);
                    return Ok(Some((Socket::accepted(connection), client)));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.is_ready = false;
                    return Ok(None);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if errors::is_of_the_connection(&error) => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Address::Unix(path) = &self.address {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Everything that is set here is inherited by accepted connections, which saves as many calls for each.
fn bind_tcp(address: std::net::SocketAddr, only_v6: bool) -> io::Result<(RawSocket, Address)> {
    let socket = RawSocket::new(Domain::for_address(address), Type::STREAM.nonblocking().cloexec(), None)?;
    if address.is_ipv6() {
        socket.set_only_v6(only_v6)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_tcp_nodelay(true)?;
    socket::ask_when_silent(&socket);
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    let address = socket.local_addr()?.as_socket().ok_or(io::ErrorKind::Unsupported)?;
    Ok((socket, Address::Tcp(address)))
}

/// A socket that listens at `path`, once `prepare` has seen it. Whoever lets go of it removes the file.
pub fn bind_unix(path: &Path, prepare: impl FnOnce(&RawSocket) -> io::Result<()>) -> io::Result<RawSocket> {
    let address = SockAddr::unix(path)?;
    let new = || RawSocket::new(Domain::UNIX, Type::STREAM.nonblocking().cloexec(), None);
    let socket = new()?;
    prepare(&socket)?;
    match socket.bind(&address) {
        // A file that nobody listens behind was left by a process that had no time to remove it.
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_left_over(&new()?, &address) => {
            std::fs::remove_file(path)?;
            socket.bind(&address)?;
        }
        bound => bound?,
    }
    socket.listen(BACKLOG)?;
    Ok(socket)
}

fn is_left_over(probe: &RawSocket, address: &SockAddr) -> bool {
    probe.connect(address).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}
