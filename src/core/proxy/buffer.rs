//! A byte queue, on loan from a pool; it is as large as one read, and grows only by a rewritten head.
//!
//! Reading needs a large buffer for an instant; keeping what could not leave needs a small one for long. So large buffers
//! belong to a [`Pool`], are lent while a session is driven, and what remains in one is moved into a buffer of its own size.

use std::ops::Range;

/// What one read may bring.
pub const READ_BYTES: usize = 64 * 1024;
/// Room in front of what is read, so that a head can grow when it is rewritten without moving what is behind it: by two bytes for each of
/// a target that is as long as the default allows, and by some fields.
const HEADROOM: usize = 18 * 1024;
/// Large buffers that a pool keeps for the next turn; a turn rarely has use for more than two at once.
const LARGE_SPARE_MAX: usize = 4;
/// Small buffers that it keeps.
const SMALL_SPARE_MAX: usize = 64;
/// A small buffer that is used again is at most twice as large as what it holds, and at most so much larger. One is kept for that if it
/// is not too large itself.
const SMALL_SLACK: usize = 512;
const SMALL_KEPT_MAX: usize = 2048;

/// Bytes and three cursors: `sent ≤ cleared ≤ end ≤ capacity`.
///
/// `sent..cleared` may leave; `cleared..end` has arrived but is not understood yet; beyond `end` is room.
#[derive(Debug)]
pub struct Buffer {
    bytes: Box<[u8]>,
    sent: usize,
    cleared: usize,
    end: usize,
}

impl Buffer {
    fn with_capacity(capacity: usize) -> Buffer {
        let mut buffer = Buffer { bytes: vec![0; capacity].into_boxed_slice(), sent: 0, cleared: 0, end: 0 };
        buffer.empty();
        buffer
    }

    /// Drops everything, and leaves headroom.
    fn empty(&mut self) {
        let at = HEADROOM.min(self.bytes.len());
        (self.sent, self.cleared, self.end) = (at, at, at);
    }

    /// A buffer that holds `bytes` and no room; all of it may leave.
    pub fn cleared(bytes: &[u8]) -> Buffer {
        Buffer { bytes: bytes.into(), sent: 0, cleared: bytes.len(), end: bytes.len() }
    }

    /// Whether it is as large as a pool's.
    pub fn is_large(&self) -> bool {
        self.bytes.len() >= HEADROOM + READ_BYTES
    }

    /// Bytes of memory.
    pub fn capacity(&self) -> usize {
        self.bytes.len()
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.sent == self.end
    }

    /// What may leave.
    pub fn leaving(&self) -> &[u8] {
        self.slice(self.sent, self.cleared)
    }

    /// What has arrived and is not understood yet.
    pub fn pending(&self) -> &[u8] {
        self.slice(self.cleared, self.end)
    }

    /// Whether nothing is [`leaving`](Buffer::leaving).
    pub fn is_drained(&self) -> bool {
        self.sent == self.cleared
    }

    /// Whether anything is [`pending`](Buffer::pending).
    pub fn has_pending(&self) -> bool {
        self.cleared != self.end
    }

    /// How many bytes are [`leaving`](Buffer::leaving).
    pub fn leaving_bytes(&self) -> usize {
        self.cleared - self.sent
    }

    /// How many bytes are [`pending`](Buffer::pending).
    pub fn pending_bytes(&self) -> usize {
        self.end - self.cleared
    }

    /// Room for at least one more read, as far as there is any: moves the content to the front when the end is reached.
    pub fn room(&mut self) -> &mut [u8] {
        if self.is_empty() {
            self.empty();
        } else if self.end == self.bytes.len() && self.sent > HEADROOM {
            self.move_to(HEADROOM);
        }
        // `end` never passes the capacity.
        self.bytes.get_mut(self.end..).unwrap_or_default()
    }

    /// Takes note that `n` bytes were put into the room.
    pub fn arrived(&mut self, n: usize) {
        self.end = self.bytes.len().min(self.end + n);
    }

    /// Lets the next `n` pending bytes leave.
    pub fn clear(&mut self, n: usize) {
        self.cleared += n.min(self.pending_bytes());
    }

    /// Takes note that `n` bytes have left.
    pub fn left(&mut self, n: usize) {
        self.sent = self.cleared.min(self.sent + n);
    }

    /// Drops what may leave but for its first `keep` bytes, and everything pending.
    pub fn truncate(&mut self, keep: usize) {
        self.cleared = self.cleared.min(self.sent + keep);
        self.end = self.cleared;
    }

    /// Drops everything pending.
    pub fn drop_pending(&mut self) {
        self.end = self.cleared;
    }

    /// Drops what may leave.
    pub fn drop_leaving(&mut self) {
        self.sent = self.cleared;
    }

    /// Puts `with` in the place of the first `n` pending bytes, and lets it leave.
    pub fn replace(&mut self, n: usize, with: &[u8]) {
        let behind = self.end.min(self.cleared + n);
        if self.is_drained() && behind >= with.len() {
            // Nothing stands in front: grow towards the front, where the headroom is.
            self.sent = behind - with.len();
            self.cleared = behind;
        } else {
            let (cleared, end) = (self.cleared + with.len(), self.end + with.len() - (behind - self.cleared));
            if end > self.bytes.len() {
                let mut grown = vec![0; end];
                grown.splice(..self.bytes.len(), self.bytes.iter().copied());
                self.bytes = grown.into_boxed_slice();
            }
            self.bytes.copy_within(behind..self.end, cleared);
            (self.cleared, self.end) = (cleared, end);
        }
        let place = self.cleared - with.len()..self.cleared;
        self.bytes[place].copy_from_slice(with);
    }

    /// Walks over the pending bytes with `next`, which says how many of them come next and whether they stay, until it says
    /// `None`. What stays may leave; what does not is taken out in place, each byte moved at most once.
    pub fn sift<E>(&mut self, mut next: impl FnMut(&[u8]) -> Result<Option<(usize, Stays)>, E>) -> Result<(), E> {
        let (mut read, mut write) = (self.cleared, self.cleared);
        let told = loop {
            match next(self.slice(read, self.end)) {
                Ok(Some((n, stays))) => {
                    let n = n.min(self.end - read);
                    if stays == Stays::Yes {
                        if write != read {
                            self.bytes.copy_within(read..read + n, write);
                        }
                        write += n;
                    }
                    read += n;
                }
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        if write != read {
            self.bytes.copy_within(read..self.end, write);
            self.end -= read - write;
        }
        self.cleared = write;
        told
    }

    fn slice(&self, from: usize, to: usize) -> &[u8] {
        debug_assert!(self.sent <= self.cleared && self.cleared <= self.end && self.end <= self.bytes.len());
        self.bytes.get(from..to).unwrap_or_default()
    }

    fn move_to(&mut self, to: usize) {
        let to = to.min(self.bytes.len() - (self.end - self.sent));
        self.bytes.copy_within(self.sent..self.end, to);
        let (from, was) = (self.sent, (self.cleared, self.end));
        let moved = |cursor: usize| cursor - from + to;
        (self.sent, self.cleared, self.end) = (to, moved(was.0), moved(was.1));
    }
}

/// Whether bytes that were sifted stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stays {
    /// They may leave.
    Yes,
    /// They are taken out.
    No,
}

/// Large buffers, lent while a session is driven; and small ones for what remains of them, used again.
#[derive(Debug, Default)]
#[expect(clippy::vec_box, reason = "between pool and flow a buffer moves as one pointer")]
pub struct Pool {
    large: Vec<Box<Buffer>>,
    small: Vec<Box<Buffer>>,
    /// For bytes that go straight from one socket to the other; see [`straight`](Pool::straight).
    straight: Vec<u8>,
}

impl Pool {
    /// A large buffer with nothing in it.
    pub fn lend(&mut self) -> Box<Buffer> {
        self.large.pop().unwrap_or_else(Pool::another)
    }

    #[cold]
    fn another() -> Box<Buffer> {
        Box::new(Buffer::with_capacity(HEADROOM + READ_BYTES))
    }

    /// A large buffer with the content of `small`.
    pub fn lend_for(&mut self, mut small: Box<Buffer>) -> Box<Buffer> {
        let mut large = self.lend();
        (large.sent, large.cleared, large.end) = (small.sent, small.cleared, small.end);
        let kept = small.slice(small.sent, small.end);
        large.bytes[small.sent..small.end].copy_from_slice(kept);
        large.move_to(HEADROOM);
        small.empty();
        self.take_back(small);
        large
    }

    /// Where a read may put bytes that go straight to the other side and are in no flow.
    pub fn straight(&mut self) -> &mut [u8] {
        if self.straight.is_empty() {
            self.begin_straight();
        }
        &mut self.straight
    }

    /// Most of the memory of a proxy that has no tunnel would be this.
    #[cold]
    fn begin_straight(&mut self) {
        self.straight = vec![0; READ_BYTES];
    }

    /// What of the bytes that were to go [`straight`](Pool::straight) could not leave, in a buffer of its own.
    pub fn keep_straight(&self, rest: Range<usize>) -> Box<Buffer> {
        Box::new(Buffer::cleared(self.straight.get(rest).unwrap_or_default()))
    }

    /// Moves what remains in `large` into a buffer of about its size, and takes `large` back.
    pub fn keep(&mut self, mut large: Box<Buffer>) -> Box<Buffer> {
        let content = large.slice(large.sent, large.end);
        let largest = content.len() + content.len().min(SMALL_SLACK);
        let fits = |spare: &mut Box<Buffer>| (content.len()..=largest).contains(&spare.capacity());
        let mut small = self.small.pop_if(fits).unwrap_or_else(|| Box::new(Buffer::with_capacity(content.len())));
        small.bytes[..content.len()].copy_from_slice(content);
        let place = |cursor: usize| cursor - large.sent;
        (small.sent, small.cleared, small.end) = (0, place(large.cleared), place(large.end));
        large.empty();
        self.take_back(large);
        small
    }

    /// Takes a buffer back, in which nothing is. One that is too many is freed.
    pub fn take_back(&mut self, buffer: Box<Buffer>) {
        debug_assert!(buffer.is_empty());
        if buffer.is_large() {
            if self.large.len() < LARGE_SPARE_MAX {
                self.large.push(buffer);
            }
        } else if self.small.len() < SMALL_SPARE_MAX && buffer.capacity() <= SMALL_KEPT_MAX {
            self.small.push(buffer);
        }
    }
}
