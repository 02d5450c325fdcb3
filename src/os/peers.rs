//! Unix sockets between processes of one user: a file that nobody else may open, and who is at the other end.

use std::io;
use std::os::fd::AsFd;

use rustix::fs::{Mode, fchmod};
use rustix::net::UCred;
use rustix::net::sockopt::socket_peercred;
use rustix::process::geteuid;

/// Makes the file that `socket` is about to be bound to its owner's alone. Linux gives that file the mode of the socket, so there
/// is no instant in which it has another, whatever the umask.
pub fn keep_private(socket: impl AsFd) -> io::Result<()> {
    Ok(fchmod(socket, Mode::RUSR | Mode::WUSR)?)
}

/// The process at the other end.
pub fn pid(socket: impl AsFd) -> io::Result<u32> {
    Ok(peer(socket)?.pid.as_raw_nonzero().get().unsigned_abs())
}

/// Whether root or the user that this process runs as is at the other end.
pub fn is_ours(socket: impl AsFd) -> io::Result<bool> {
    let user = peer(socket)?.uid;
    Ok(user.is_root() || user == geteuid())
}

fn peer(socket: impl AsFd) -> io::Result<UCred> {
    // A process that this one cannot see has the number 0, for which rustix has no value and gives an error that is none.
    socket_peercred(socket).map_err(|error| match error.raw_os_error() {
        0 => io::Error::other("who asks is outside of the container that hawkey runs in: ask from within"),
        _ => error.into(),
    })
}
