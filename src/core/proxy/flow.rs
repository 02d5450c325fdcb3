//! One direction of bytes: what may leave, what has room.
//!
//! A request body, a response body and a tunnel are the same code with another framing. A flow that still holds something that
//! may leave is not read into, and that is all there is to backpressure.

use crate::http::chunked::{ChunkScanner, Run, Wrong};
use crate::http::framing::Framing;
use crate::proxy::buffer::{Buffer, Pool, Stays};
use crate::proxy::packed::PackedFlow;

/// Bytes travelling from one side to the other.
///
/// Between two turns it owns a buffer only if something in it could not leave or is not understood yet, and then one of the right size.
#[derive(Debug, Default)]
pub struct Flow {
    buffer: Option<Box<Buffer>>,
    /// Whether the side that it comes from has said that nothing more will come.
    end: EndOfFile,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum EndOfFile {
    /// More may come.
    #[default]
    Open,
    /// It has come, and waits for what is before it to leave.
    Arrived,
    /// The other side has been told.
    PassedOn,
}

impl Flow {
    /// Room to read into. Empty if the flow is as full as it may be.
    pub fn room(&mut self, pool: &mut Pool) -> &mut [u8] {
        let buffer = match self.buffer.take() {
            None => pool.lend(),
            Some(buffer) if buffer.is_large() => buffer,
            Some(small) => pool.lend_for(small),
        };
        self.buffer.insert(buffer).room()
    }

    /// Whether there is nothing of it: no byte, and no end.
    pub fn is_blank(&self) -> bool {
        self.buffer.is_none() && self.end == EndOfFile::Open
    }

    /// Lets `rest` leave, which was to go straight to the other side and could not. The flow is blank.
    pub fn keep(&mut self, rest: Box<Buffer>) {
        self.buffer = Some(rest);
    }

    /// What another process needs to go on with it. It is a tunnel's, between two turns: all in it may leave, and its end waits only
    /// for that.
    pub fn pack(&self) -> PackedFlow<'_> {
        debug_assert!(!self.has_pending());
        debug_assert_eq!(self.has_passed_end_on(), self.has_ended() && self.is_drained());
        PackedFlow { unsent: self.leaving(), has_ended: self.has_ended() }
    }

    /// Goes on with what was packed.
    pub fn unpack(packed: &PackedFlow<'_>) -> Flow {
        let has_unsent = !packed.unsent.is_empty();
        Flow {
            buffer: has_unsent.then(|| Box::new(Buffer::cleared(packed.unsent))),
            end: match packed.has_ended {
                false => EndOfFile::Open,
                true if has_unsent => EndOfFile::Arrived,
                true => EndOfFile::PassedOn,
            },
        }
    }

    /// Takes note that `n` bytes were read into the room.
    pub fn arrived(&mut self, n: usize) {
        if let Some(buffer) = &mut self.buffer {
            buffer.arrived(n);
        }
    }

    /// What may leave.
    pub fn leaving(&self) -> &[u8] {
        self.buffer.as_deref().map_or(&[], Buffer::leaving)
    }

    /// What has arrived and is not understood yet.
    pub fn pending(&self) -> &[u8] {
        self.buffer.as_deref().map_or(&[], Buffer::pending)
    }

    /// How many bytes may leave.
    pub fn leaving_bytes(&self) -> usize {
        self.buffer.as_deref().map_or(0, Buffer::leaving_bytes)
    }

    /// How many bytes have arrived and are not understood yet.
    pub fn pending_bytes(&self) -> usize {
        self.buffer.as_deref().map_or(0, Buffer::pending_bytes)
    }

    /// Whether all that may leave has left.
    pub fn is_drained(&self) -> bool {
        self.buffer.as_deref().is_none_or(Buffer::is_drained)
    }

    /// Whether anything has arrived that is not understood yet.
    pub fn has_pending(&self) -> bool {
        self.buffer.as_deref().is_some_and(Buffer::has_pending)
    }

    /// Takes note that `n` bytes have left.
    pub fn left(&mut self, n: usize) {
        if let Some(buffer) = &mut self.buffer {
            buffer.left(n);
        }
    }

    /// Lets everything pending leave.
    pub fn clear_all(&mut self) {
        self.clear(usize::MAX);
    }

    fn clear(&mut self, n: usize) {
        if let Some(buffer) = &mut self.buffer {
            buffer.clear(n);
        }
    }

    /// Puts `with` in the place of the first `n` pending bytes, and lets it leave.
    pub fn replace(&mut self, n: usize, with: &[u8]) {
        match &mut self.buffer {
            Some(buffer) => buffer.replace(n, with),
            None => self.buffer = Some(Box::new(Buffer::cleared(with))),
        }
    }

    /// Lets as much of a body leave as has arrived, and moves `framing` on: to `None` when its end is reached. `unframe` takes
    /// the chunked framing out. Returns the bytes of content.
    pub fn clear_body(&mut self, framing: &mut Framing, unframe: bool) -> Result<u64, Wrong> {
        let pending = self.pending_bytes();
        match framing {
            Framing::None => Ok(0),
            Framing::UntilClose => {
                self.clear_all();
                Ok(pending as u64)
            }
            Framing::Length(left) => {
                let here = usize::try_from(*left).unwrap_or(usize::MAX).min(pending);
                self.clear(here);
                framing.skip(here as u64);
                Ok(here as u64)
            }
            Framing::Chunked(scanner) => {
                let told = self.clear_chunks(scanner, unframe);
                if scanner.has_ended() {
                    *framing = Framing::None;
                }
                told
            }
        }
    }

    // Not inlined, or every body pays for what only chunks need: 14 instructions.
    #[inline(never)]
    fn clear_chunks(&mut self, scanner: &mut ChunkScanner, unframe: bool) -> Result<u64, Wrong> {
        let Some(buffer) = &mut self.buffer else { return Ok(0) };
        let mut content: u64 = 0;
        let told = buffer.sift(|bytes| {
            let Some(run) = scanner.next(bytes)? else { return Ok(None) };
            Ok(Some(match run {
                Run::Frame(n) => (n, if unframe { Stays::No } else { Stays::Yes }),
                Run::Data(n) => {
                    content = content.saturating_add(n as u64);
                    (n, Stays::Yes)
                }
                Run::Cut(n) => (n, Stays::No),
            }))
        });
        told.map(|()| content)
    }

    /// Drops what may leave but for its first `keep` bytes, and everything pending.
    pub fn truncate(&mut self, keep: usize) {
        if let Some(buffer) = &mut self.buffer {
            buffer.truncate(keep);
        }
    }

    /// Drops everything pending.
    pub fn drop_pending(&mut self) {
        if let Some(buffer) = &mut self.buffer {
            buffer.drop_pending();
        }
    }

    /// Drops what may leave, and keeps what is pending.
    pub fn drop_leaving(&mut self) {
        if let Some(buffer) = &mut self.buffer {
            buffer.drop_leaving();
        }
    }

    /// Whether nothing more will come.
    pub fn has_ended(&self) -> bool {
        self.end != EndOfFile::Open
    }

    /// Takes note that nothing more will come.
    pub fn end(&mut self) {
        if self.end == EndOfFile::Open {
            self.end = EndOfFile::Arrived;
        }
    }

    /// Whether the end is to be passed on now: it has come, and all before it has left. Says so once.
    pub fn passes_end_on(&mut self) -> bool {
        let now = self.end == EndOfFile::Arrived && self.is_drained();
        if now {
            self.end = EndOfFile::PassedOn;
        }
        now
    }

    /// Whether the end has been passed on.
    pub fn has_passed_end_on(&self) -> bool {
        self.end == EndOfFile::PassedOn
    }

    /// Another connection feeds this flow from now on.
    pub fn begin(&mut self) {
        self.end = EndOfFile::Open;
    }

    /// Gives a lent buffer back, and keeps what remains of it in one of its size.
    pub fn settle(&mut self, pool: &mut Pool) {
        match self.buffer.take() {
            Some(buffer) if !buffer.is_empty() => {
                self.buffer = Some(if buffer.is_large() { pool.keep(buffer) } else { buffer });
            }
            Some(buffer) => pool.take_back(buffer),
            None => {}
        }
    }

    /// Bytes of memory that it owns at this moment.
    pub fn buffer_bytes(&self) -> usize {
        self.buffer.as_deref().map_or(0, Buffer::capacity)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(flow: &mut Flow, pool: &mut Pool, bytes: &[u8]) {
        flow.room(pool)[..bytes.len()].copy_from_slice(bytes);
        flow.arrived(bytes.len());
    }

    #[test]
    fn a_rewritten_head_leaves_in_front_of_its_body() {
        for (head, with) in
            [("HEAD", "longer head"), ("long head", "h"), ("same", "size"), ("gone", ""), ("", "pushed")]
        {
            for settled in [false, true] {
                let (mut flow, mut pool) = (Flow::default(), Pool::default());
                read(&mut flow, &mut pool, [head, "body"].concat().as_bytes());
                if settled {
                    flow.settle(&mut pool);
                }
                flow.replace(head.len(), with.as_bytes());
                flow.clear_all();
                assert_eq!(
                    flow.leaving(),
                    [with, "body"].concat().as_bytes(),
                    "{head:?} by {with:?}, settled {settled}"
                );
            }
        }
    }

    #[test]
    fn a_second_head_leaves_behind_what_has_not_left() {
        let (mut flow, mut pool) = (Flow::default(), Pool::default());
        read(&mut flow, &mut pool, b"onetwothree");
        flow.replace(3, b"the first");
        flow.left(4);
        flow.replace(3, b"the second");
        flow.settle(&mut pool);
        flow.replace(5, b"the third and last of them");
        assert_eq!(flow.leaving(), b"firstthe secondthe third and last of them".as_slice());
    }

    #[test]
    fn a_head_grows_by_any_amount() {
        let (mut flow, mut pool) = (Flow::default(), Pool::default());
        let body = vec![b'x'; crate::proxy::buffer::READ_BYTES - 1];
        read(&mut flow, &mut pool, &[b"H".as_slice(), &body].concat());
        let with = vec![b'y'; 40_000];
        flow.replace(1, &with);
        flow.clear_all();
        assert_eq!(flow.leaving(), [with, body].concat());
    }

    #[test]
    fn chunked_bodies_lose_what_is_cut_at_any_piece() {
        let body = b"3;x=y\r\nabc\r\n0;z\r\nT: u\r\n\r\nGET";
        for (unframe, expected) in [(false, b"3\r\nabc\r\n0\r\n\r\n".as_slice()), (true, b"abc")] {
            for piece in 1..=body.len() {
                let (mut flow, mut pool) = (Flow::default(), Pool::default());
                let (mut framing, mut left, mut content) = (Framing::Chunked(ChunkScanner::default()), Vec::new(), 0);
                for part in body.chunks(piece) {
                    read(&mut flow, &mut pool, part);
                    content += flow.clear_body(&mut framing, unframe).unwrap();
                    left.extend_from_slice(flow.leaving());
                    flow.left(flow.leaving().len());
                    flow.settle(&mut pool);
                }
                assert_eq!(
                    (left.as_slice(), content, flow.pending()),
                    (expected, 3, b"GET".as_slice()),
                    "in pieces of {piece}"
                );
                assert_eq!(framing, Framing::None);
            }
        }
    }

    #[test]
    fn an_idle_flow_owns_nothing_and_a_stalled_one_what_it_holds() {
        let (mut flow, mut pool) = (Flow::default(), Pool::default());
        read(&mut flow, &mut pool, b"bytes");
        flow.clear_all();
        flow.left(2);
        flow.settle(&mut pool);
        assert_eq!(flow.buffer_bytes(), 3);
        flow.left(3);
        flow.settle(&mut pool);
        assert_eq!(flow.buffer_bytes(), 0);
    }

    #[test]
    fn a_stalled_flow_goes_on_in_a_large_buffer() {
        let (mut flow, mut pool) = (Flow::default(), Pool::default());
        read(&mut flow, &mut pool, b"half");
        flow.settle(&mut pool);
        read(&mut flow, &mut pool, b" whole");
        assert_eq!(flow.pending(), b"half whole");
    }
}
