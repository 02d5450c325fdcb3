//! Reading and writing, inlined into whoever calls and without libc's functions around the calls: docs/decisions/0012 says why.

use std::os::fd::AsFd;

use rustix::io::Result;
use rustix::net::{RecvFlags, SendFlags};

/// Reads into `room`, and tells how much: 0 at the end.
#[inline(always)]
pub fn receive(stream: impl AsFd, room: &mut [u8]) -> Result<usize> {
    rustix::net::recv(stream, room, RecvFlags::empty()).map(|(n, _)| n)
}

/// Writes from `bytes`, and tells how many of them. That nobody reads any more is an error and no signal.
#[inline(always)]
pub fn send(stream: impl AsFd, bytes: &[u8]) -> Result<usize> {
    rustix::net::send(stream, bytes, SendFlags::NOSIGNAL)
}
