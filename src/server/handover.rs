//! What one process says to the next, and the next to it, while it hands over: messages with descriptors over a Unix socket.
//!
//! The giver sends its listeners, the control socket, and sessions in batches, of which each is acknowledged; then it says that this was
//! all. The taker says `Taken` when nothing can hinder it any more, and serves once it hears `Yours`: until the giver has said that, it can
//! take everything back, and from then on it sends what becomes movable later. docs/decisions/0011-handover.md has the bytes.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use crate::os::passing;
use crate::proxy::packed::{self, RECORD_BYTES_MAX};

/// The version of what is said here and of the records in it. The taker names it when it asks to take over.
pub const VERSION: u32 = packed::VERSION;

/// Descriptors of a batch, at most: as many as one message may carry, and an even number.
pub const BATCH_DESCRIPTORS_MAX: usize = passing::DESCRIPTORS_MAX - 1;
/// A batch that is so long already takes no further session. Most have none that holds a byte.
pub const BATCH_BYTES_ENOUGH: usize = 64 * 1024;
/// The longest body: a batch, and a record with all that it may hold.
const BODY_BYTES_MAX: usize = BATCH_BYTES_ENOUGH + RECORD_BYTES_MAX + 4;
/// Its kind, how many descriptors it carries, and the length of its body.
const HEAD_BYTES: usize = 6;
/// What one read may bring.
const READ_BYTES: usize = 64 * 1024;

/// What a message says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A listener, with its descriptor; the body is what the configuration calls it. `ours` is whether the file of a Unix socket is to
    /// be removed at the end.
    Listener {
        /// Whether its file is ours to remove.
        ours: bool,
    },
    /// The control socket, with its descriptor; the body is its path.
    Control,
    /// Sessions, each with its descriptors; the body is their records.
    Sessions,
    /// That was all; the body is the number of the last session, in 8 bytes.
    All,
    /// A batch has been understood.
    Acknowledged,
    /// The taker has all of it, and is ready to serve.
    Taken,
    /// The taker cannot; the body is why.
    Refused,
    /// The giver has let go: all that was sent is the taker's.
    Yours,
}

const KINDS: [(u8, Kind); 9] = [
    (1, Kind::Listener { ours: false }),
    (2, Kind::Listener { ours: true }),
    (3, Kind::Control),
    (4, Kind::Sessions),
    (5, Kind::All),
    (6, Kind::Acknowledged),
    (7, Kind::Taken),
    (8, Kind::Refused),
    (9, Kind::Yours),
];

/// A message that is being sent.
#[derive(Debug)]
pub struct Outgoing {
    bytes: Vec<u8>,
    sent: usize,
}

impl Outgoing {
    /// A message of `descriptors` descriptors, whose body `write` appends.
    pub fn new(kind: Kind, descriptors: usize, write: impl FnOnce(&mut Vec<u8>)) -> Outgoing {
        let number = KINDS.iter().find(|(_, known)| *known == kind).map_or(0, |(number, _)| *number);
        let mut bytes = vec![number, u8::try_from(descriptors).unwrap_or(u8::MAX), 0, 0, 0, 0];
        write(&mut bytes);
        let length = u32::try_from(bytes.len() - HEAD_BYTES).unwrap_or(u32::MAX);
        if let Some(place) = bytes.get_mut(2..HEAD_BYTES) {
            place.copy_from_slice(&length.to_le_bytes());
        }
        Outgoing { bytes, sent: 0 }
    }

    /// Whether none of it has left.
    pub fn is_whole(&self) -> bool {
        self.sent == 0
    }
}

/// A message that has come.
#[derive(Debug)]
pub struct Message {
    /// What it says.
    pub kind: Kind,
    /// More of that.
    pub body: Vec<u8>,
    /// What came with it.
    pub descriptors: Vec<OwnedFd>,
}

/// The connection between the two.
#[derive(Debug)]
pub struct Channel {
    stream: UnixStream,
    came: Vec<u8>,
    /// Descriptors come no later than their messages, in the same order.
    descriptors: VecDeque<OwnedFd>,
}

impl Channel {
    /// Over `stream`, of which these bytes have been read already.
    pub fn new(stream: UnixStream, came: Vec<u8>) -> Channel {
        Channel { stream, came, descriptors: VecDeque::new() }
    }

    /// Sends as much of `message` as goes now, and its `descriptors` with its first byte. Whether that was the rest.
    pub fn send(&self, message: &mut Outgoing, descriptors: &[BorrowedFd<'_>]) -> io::Result<bool> {
        while let Some(rest) = message.bytes.get(message.sent..).filter(|rest| !rest.is_empty()) {
            let descriptors = if message.is_whole() { descriptors } else { &[] };
            match passing::send(&self.stream, rest, descriptors) {
                Ok(n) => message.sent += n,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == ErrorKind::BrokenPipe => return Err(closed()),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// The next message, once it is there whole.
    ///
    /// # Errors
    ///
    /// That it would block, that the other process is gone, or that it says what cannot be understood.
    pub fn receive(&mut self) -> io::Result<Message> {
        loop {
            if let Some(message) = self.first()? {
                return Ok(message);
            }
            let before = self.came.len();
            self.came.resize(before + READ_BYTES, 0);
            let room = self.came.get_mut(before..).unwrap_or_default();
            let received = passing::receive(&self.stream, room, &mut self.descriptors);
            self.came.truncate(before + *received.as_ref().unwrap_or(&0));
            match received {
                Ok(0) => return Err(closed()),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // It has not read all that was said to it.
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return Err(closed()),
                Err(error) => return Err(error),
            }
        }
    }

    fn first(&mut self) -> io::Result<Option<Message>> {
        let nonsense = |what| Err(io::Error::new(ErrorKind::InvalidData, what));
        let Some((&[number, descriptors, ref length @ ..], rest)) = self.came.split_first_chunk::<HEAD_BYTES>() else {
            return Ok(None);
        };
        let length = u32::from_le_bytes(*length) as usize;
        let Some((_, kind)) = KINDS.iter().find(|(known, _)| *known == number) else {
            return nonsense("it says what no message begins with");
        };
        if length > BODY_BYTES_MAX {
            return nonsense("a message is longer than any");
        }
        let Some(body) = rest.get(..length).map(<[u8]>::to_vec) else { return Ok(None) };
        let count = usize::from(descriptors);
        if count > self.descriptors.len() {
            return nonsense("descriptors are missing");
        }
        self.came.drain(..HEAD_BYTES + length);
        Ok(Some(Message { kind: *kind, body, descriptors: self.descriptors.drain(..count).collect() }))
    }

    /// What has come and is no message.
    pub fn unread(&self) -> &[u8] {
        &self.came
    }

    /// The descriptor to be watched.
    pub fn raw_fd(&self) -> RawFd {
        self.stream.as_raw_fd()
    }

    /// From here on is waited for as long as it takes.
    pub fn set_patient(&self) -> io::Result<()> {
        self.stream.set_read_timeout(None)
    }

    /// From here on nothing is waited for.
    pub fn set_nonblocking(&self) -> io::Result<()> {
        self.stream.set_nonblocking(true)
    }
}

fn closed() -> io::Error {
    io::Error::new(ErrorKind::UnexpectedEof, "it has closed the connection")
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::os::fd::AsFd as _;

    use super::*;

    fn channels() -> (Channel, Channel) {
        let (giver, taker) = UnixStream::pair().unwrap();
        giver.set_nonblocking(true).unwrap();
        taker.set_nonblocking(true).unwrap();
        (Channel::new(giver, Vec::new()), Channel::new(taker, Vec::new()))
    }

    #[test]
    fn messages_of_any_length_come_whole_with_their_descriptors() {
        let (giver, mut taker) = channels();
        for (n, (kind, bytes, descriptors)) in [
            (Kind::Listener { ours: true }, 5, 1),
            (Kind::Sessions, BODY_BYTES_MAX, BATCH_DESCRIPTORS_MAX),
            (Kind::All, 8, 0),
            (Kind::Sessions, 300_000, 2),
            (Kind::Acknowledged, 0, 0),
        ]
        .into_iter()
        .enumerate()
        {
            let body = vec![n as u8; bytes];
            let mut outgoing = Outgoing::new(kind, descriptors, |into| into.extend_from_slice(&body));
            let passed = vec![giver.stream.as_fd(); descriptors];
            let message = loop {
                let is_sent = giver.send(&mut outgoing, &passed).unwrap();
                match taker.receive() {
                    Ok(message) => {
                        assert!(is_sent, "message {n} came before all of it was sent");
                        break message;
                    }
                    Err(error) => assert!(!is_sent && error.kind() == ErrorKind::WouldBlock, "message {n}: {error}"),
                }
            };
            assert_eq!((message.kind, message.descriptors.len()), (kind, descriptors), "message {n}");
            assert!(message.body == body, "message {n} has another body");
        }
        drop(giver);
        assert_eq!(taker.receive().unwrap_err().kind(), ErrorKind::UnexpectedEof);
    }

    #[test]
    fn what_is_no_message_is_refused() {
        for (bytes, part) in [
            (b"\0\0\0\0\0\0".as_slice(), "no message begins with"),
            (b"\x0a\0\0\0\0\0", "no message begins with"),
            (b"\x04\0\xff\xff\xff\xff", "longer than any"),
            (b"\x04\x02\0\0\0\0", "descriptors are missing"),
            (b"\x04\0", "closed the connection"),
        ] {
            let (giver, mut taker) = channels();
            (&giver.stream).write_all(bytes).unwrap();
            drop(giver);
            let error = taker.receive().unwrap_err().to_string();
            assert!(error.contains(part), "{bytes:?}: expected `{part}` in: {error}");
        }
    }
}
