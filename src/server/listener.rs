//! Bind or take what was passed, accept, pause when full.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use socket2::{Domain, SockAddr, Socket as RawSocket, Type};

use crate::config::Listen;
use crate::os::inherited::Inherited;
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
    file: SocketFile,
    /// By which events name it, once it is registered.
    pub token: Token,
    /// Whether an accept is worth a call.
    pub is_ready: bool,
}

/// Whose the file of a Unix socket is, and so who removes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocketFile {
    /// This process's: it goes with the listener.
    Ours,
    /// That of whoever passed the socket.
    Theirs,
    /// That of the former process, until its place is taken.
    Promised,
}

impl SocketFile {
    /// What was promised is given.
    pub fn settle(&mut self) {
        if *self == SocketFile::Promised {
            *self = SocketFile::Ours;
        }
    }
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

    /// What was passed cannot be taken.
    pub fn passed(error: io::Error) -> BindError {
        BindError { listen: "what a supervisor passed".into(), is_path: false, error }
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
            io::ErrorKind::NotFound if *is_path => write!(f, "cannot listen on {listen}: there is no such folder"),
            _ => write!(f, "cannot listen on {listen}: {error}"),
        }
    }
}

impl std::error::Error for BindError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}

/// Listens as each of `listen` says: on all of `passed` that it means, which come first, or if there are none on a socket that is
/// bound now.
#[cold]
pub fn listen(listen: &[Listen], passed: Vec<Inherited>) -> Result<Vec<Listener>, BindError> {
    let mut listeners = Vec::new();
    let mut is_bound = vec![false; listen.len()];
    for Inherited { fd, name } in passed {
        let cannot = |what, error| BindError { listen: format!("{what} passed as `{name}`"), is_path: false, error };
        let mut listener =
            Listener::from_fd(fd, SocketFile::Theirs).map_err(|error| cannot("the descriptor".to_owned(), error))?;
        let Some(index) = listen.iter().position(|listen| listener.is_meant(listen, &name)) else {
            let error = io::Error::other("no listener of the configuration has this address or this name");
            return Err(cannot(format!("{},", listener.address), error));
        };
        is_bound[index] = true;
        listener.listen = listen[index].clone();
        listeners.push(listener);
    }
    for (listen, _) in listen.iter().zip(is_bound).filter(|(_, is_bound)| !is_bound) {
        listeners.push(Listener::bind(listen)?);
    }
    Ok(listeners)
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
            Listen::Passed(_) => Err(io::Error::new(io::ErrorKind::NotFound, "no socket of this name was passed")),
        };
        let is_path = matches!(listen, Listen::Address(Address::Unix(_)));
        let (socket, address) = bound.map_err(|error| BindError { listen: listen.to_string(), is_path, error })?;
        let (listen, file) = (listen.clone(), SocketFile::Ours);
        Ok(Listener { socket, listen, address, file, token: Token(0), is_ready: false })
    }

    /// Where it was asked to listen.
    pub fn listen(&self) -> &Listen {
        &self.listen
    }

    /// Listens on a socket that listens already: one that another process has opened.
    #[cold]
    pub fn from_fd(fd: OwnedFd, file: SocketFile) -> io::Result<Listener> {
        let socket = RawSocket::from(fd);
        if socket.r#type()? != Type::STREAM || !socket.is_listener()? {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no stream socket that listens"));
        }
        socket.set_cloexec(true)?;
        socket.set_nonblocking(true)?;
        let address = socket.local_addr()?;
        let address = if let Some(address) = address.as_socket() {
            set_what_connections_inherit(&socket)?;
            Address::Tcp(address)
        } else if let Some(path) = address.as_pathname() {
            Address::Unix(path.to_path_buf())
        } else {
            let name = address.as_abstract_namespace().ok_or(io::ErrorKind::Unsupported)?;
            Address::Unix(PathBuf::from(format!("@{}", name.escape_ascii())))
        };
        let listen = Listen::Address(address.clone());
        Ok(Listener { socket, listen, address, file, token: Token(0), is_ready: false })
    }

    /// Goes on with the socket of a former process, which `listen` means. `ours` is whether its file is to be removed at the end.
    pub fn taken(socket: OwnedFd, listen: Option<&Listen>, ours: bool) -> io::Result<Listener> {
        let mut listener = Listener::from_fd(socket, if ours { SocketFile::Promised } else { SocketFile::Theirs })?;
        if let Some(listen) = listen {
            listener.listen = listen.clone();
        }
        Ok(listener)
    }

    /// The file is this process's from now on.
    pub fn own_file(&mut self) {
        self.file.settle();
    }

    /// Whether this process removes its file.
    pub fn owns_file(&self) -> bool {
        self.file == SocketFile::Ours
    }

    /// Lets go of the socket, which another process has.
    pub fn let_go(&mut self, registry: &Registry) {
        self.file = SocketFile::Theirs;
        let _ = registry.deregister(&mut SourceFd(&self.socket.as_raw_fd()));
    }

    /// Where it listens, with the port that the kernel gave.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Whether `listen` means this socket, which was passed by this `name`. Whether a socket of every address takes both IP families
    /// is for whoever opened it to say.
    fn is_meant(&self, listen: &Listen, name: &str) -> bool {
        match listen {
            Listen::EveryAddress(port) => {
                matches!(&self.address, Address::Tcp(own) if own.ip().is_unspecified() && own.port() == *port)
            }
            Listen::Address(address) => *address == self.address,
            Listen::Passed(passed) => passed == name,
        }
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

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let (Address::Unix(path), SocketFile::Ours) = (&self.address, self.file) {
            let _ = std::fs::remove_file(path);
        }
    }
}

fn bind_tcp(address: std::net::SocketAddr, only_v6: bool) -> io::Result<(RawSocket, Address)> {
    let socket = RawSocket::new(Domain::for_address(address), Type::STREAM.nonblocking().cloexec(), None)?;
    if address.is_ipv6() {
        socket.set_only_v6(only_v6)?;
    }
    socket.set_reuse_address(true)?;
    set_what_connections_inherit(&socket)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    let address = socket.local_addr()?.as_socket().ok_or(io::ErrorKind::Unsupported)?;
    Ok((socket, Address::Tcp(address)))
}

/// What is set on a listener saves a call for each connection that it accepts.
fn set_what_connections_inherit(socket: &RawSocket) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    socket::ask_when_silent(socket);
    Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn passed_sockets_go_to_the_listeners_that_mean_them() {
        let passed = |address: &str, name: &str| {
            let socket = TcpListener::bind(address).unwrap();
            (socket.local_addr().unwrap(), Inherited { fd: socket.into(), name: name.to_owned() })
        };
        let (every, one) = passed("0.0.0.0:0", "");
        let (first, two) = passed("127.0.0.1:0", "web");
        let (second, three) = passed("127.0.0.1:0", "web");
        let mine = std::env::temp_dir().join(format!("hawkey-listener-{}.sock", std::process::id()));
        let listens = [
            Listen::Address(Address::Unix(mine.clone())),
            Listen::EveryAddress(every.port()),
            Listen::Passed("web".to_owned()),
        ];
        let listeners = listen(&listens, vec![one, two, three]).unwrap();
        let addresses: Vec<_> = listeners.iter().map(|listener| listener.address().clone()).collect();
        let expected = [Address::Tcp(every), Address::Tcp(first), Address::Tcp(second), Address::Unix(mine.clone())];
        assert_eq!(addresses, expected);
        for listener in &listeners {
            assert!(listener.socket.nonblocking().unwrap());
            assert!(rustix::io::fcntl_getfd(&listener.socket).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
        }
        assert!(listeners[0].socket.tcp_nodelay().unwrap() && listeners[0].socket.keepalive().unwrap());
        assert!(mine.exists());
        drop(listeners);
        assert!(!mine.exists(), "a file of ours goes with its listener");
    }
}
