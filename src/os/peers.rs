//! Unix sockets between processes of one user: a file that nobody else may open, and who is at the other end.

use std::io;
use std::os::fd::AsFd;

use rustix::fs::{Mode, fchmod};
use rustix::net::sockopt::socket_peercred;
use rustix::process::geteuid;

/// Makes the file that `socket` is about to be bound to its owner's alone. Linux gives that file the mode of the socket, so there
/// is no instant in which it has another, whatever the umask.
pub fn keep_private(socket: impl AsFd) -> io::Result<()> {
    Ok(fchmod(socket, Mode::RUSR | Mode::WUSR)?)
}

/// The process at the other end.
pub fn pid(socket: impl AsFd) -> io::Result<u32> {
    Ok(socket_peercred(socket)?.pid.as_raw_nonzero().get().unsigned_abs())
}

/// Whether root or the user that this process runs as is at the other end.
pub fn is_ours(socket: impl AsFd) -> io::Result<bool> {
    let peer = socket_peercred(socket)?.uid;
    Ok(peer.is_root() || peer == geteuid())
}
