//! What errors of system calls mean, where std has no name for it.

use std::io;

use rustix::io::Errno;

/// Whether descriptors, or the memory for one, have run out.
pub fn have_run_out(error: &io::Error) -> bool {
    is_one_of(error, &[Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM])
}

/// Whether a non-blocking connect goes on by itself.
pub fn is_under_way(error: &io::Error) -> bool {
    is_one_of(error, &[Errno::INPROGRESS])
}

/// Whether a failed accept says something of the connection, not of the listener (accept(2)).
pub fn is_of_the_connection(error: &io::Error) -> bool {
    is_one_of(error, &[Errno::CONNABORTED, Errno::PROTO, Errno::NETDOWN, Errno::HOSTUNREACH])
}

/// Whether the machine does not know the IP family.
pub fn lacks_the_family(error: &io::Error) -> bool {
    is_one_of(error, &[Errno::AFNOSUPPORT])
}

fn is_one_of(error: &io::Error, errnos: &[Errno]) -> bool {
    Errno::from_io_error(error).is_some_and(|errno| errnos.contains(&errno))
}
