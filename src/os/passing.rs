//! Bytes over a Unix socket, and descriptors with them (unix(7), `SCM_RIGHTS`).

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::cmsg_space;
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};

/// Descriptors that one call may pass: the kernel's `SCM_MAX_FD`.
pub const DESCRIPTORS_MAX: usize = 253;

/// Sends some of `bytes`, at least one, and all `descriptors` with the first of them.
pub fn send(socket: impl AsFd, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(Errno::INVAL.into());
    }
    Ok(sendmsg(socket, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL)?)
}

/// Receives some bytes into `room`, 0 at the end, and adds the descriptors that came with them to `descriptors`.
pub fn receive(socket: impl AsFd, room: &mut [u8], descriptors: &mut impl Extend<OwnedFd>) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(socket, &mut [IoSliceMut::new(room)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(passed) = message {
            descriptors.extend(passed);
        }
    }
    // Those that found no place here are lost, and nobody else is told.
    if received.flags.contains(ReturnFlags::CTRUNC) {
        return Err(Errno::MFILE.into());
    }
    Ok(received.bytes)
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn descriptors_come_no_later_than_the_bytes_that_they_were_sent_with() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (mut left, right) = UnixStream::pair().unwrap();
        send(&ours, b"none", &[]).unwrap();
        send(&ours, b"some", &vec![right.as_fd(); DESCRIPTORS_MAX]).unwrap();
        assert!(send(&ours, b"many", &vec![right.as_fd(); DESCRIPTORS_MAX + 1]).is_err());
        drop((ours, right));
        let (mut room, mut passed) = ([0; 100], Vec::new());
        assert_eq!(receive(&theirs, &mut room, &mut passed).unwrap(), 8, "as a stream has no messages");
        assert_eq!((&room[..8], passed.len()), (b"nonesome".as_slice(), DESCRIPTORS_MAX));
        assert_eq!(receive(&theirs, &mut room, &mut passed).unwrap(), 0);
        UnixStream::from(passed.pop().unwrap()).write_all(b"hello").unwrap();
        let mut came = [0; 5];
        left.read_exact(&mut came).unwrap();
        assert_eq!(&came, b"hello");
    }
}
