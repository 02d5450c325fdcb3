//! Simulated connections: two directions of bytes with little room, and all that a kernel does to them.
//!
//! Bytes that were written are under way until they are delivered, in pieces. Where Linux has a habit that a proxy must live
//! with, so has this: a close with unread bytes is a reset, so is the answer to bytes for a socket that is gone, and an error is
//! told once, after which a read finds the end.

use std::collections::VecDeque;

use crate::prng::Prng;

/// One of the two ends of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// hawkey's.
    Ours,
    /// The client's or the origin's.
    Theirs,
}

impl End {
    pub fn other(self) -> End {
        match self {
            End::Ours => End::Theirs,
            End::Theirs => End::Ours,
        }
    }
}

/// What a read or a write came to.
#[derive(Debug, PartialEq, Eq)]
pub enum Moved<T> {
    Some(T),
    End,
    WouldBlock,
    Broken(&'static str),
}

/// How a connection that is asked for comes about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Making {
    Made,
    /// Will be made.
    Slow,
    /// Will be refused.
    Refused,
    /// Nobody answers, ever.
    Swallowed,
}

/// One direction.
struct Lane {
    bytes: VecDeque<u8>,
    /// How many of the bytes the reader can have.
    delivered: usize,
    room: usize,
    fin: Fin,
    /// The writer found no room, and is to be told when there is some.
    is_awaited: bool,
    /// The bytes up to here, counted over the life of the lane, arrive with the first behind `from`: (from, to).
    glued: Option<(usize, usize)>,
    /// Bytes delivered over the life of the lane.
    delivered_ever: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fin {
    Open,
    Sent,
    Delivered,
}

/// What one end knows of a reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reset {
    No,
    UnderWay,
    /// Arrived, and not told yet.
    Untold,
    Told,
}

/// What the kernel says of hawkey's end since it was last asked.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct Event {
    pub readable: bool,
    pub writable: bool,
    /// The other end will send nothing more, or the connection broke.
    pub read_closed: bool,
    pub broke: bool,
}

pub struct Connection {
    pub making: Making,
    /// By the end that reads.
    to_us: Lane,
    to_them: Lane,
    our_reset: Reset,
    their_reset: Reset,
    our_end_is_gone: bool,
    their_end_is_gone: bool,
    pub event: Event,
}

impl Lane {
    fn new(room: usize) -> Lane {
        Lane {
            bytes: VecDeque::new(),
            delivered: 0,
            room,
            fin: Fin::Open,
            is_awaited: false,
            glued: None,
            delivered_ever: 0,
        }
    }
}

impl Connection {
    /// A connection whose kernels hold so many bytes each way.
    pub fn new(making: Making, room: (usize, usize)) -> Connection {
        Connection {
            making,
            to_us: Lane::new(room.0),
            to_them: Lane::new(room.1),
            our_reset: Reset::No,
            their_reset: Reset::No,
            our_end_is_gone: false,
            their_end_is_gone: false,
            event: Event::default(),
        }
    }

    fn lane_to(&mut self, end: End) -> &mut Lane {
        match end {
            End::Ours => &mut self.to_us,
            End::Theirs => &mut self.to_them,
        }
    }

    fn reset_of(&mut self, end: End) -> &mut Reset {
        match end {
            End::Ours => &mut self.our_reset,
            End::Theirs => &mut self.their_reset,
        }
    }

    pub fn is_gone(&self, end: End) -> bool {
        match end {
            End::Ours => self.our_end_is_gone,
            End::Theirs => self.their_end_is_gone,
        }
    }

    fn gone(&mut self, end: End) {
        match end {
            End::Ours => self.our_end_is_gone = true,
            End::Theirs => self.their_end_is_gone = true,
        }
    }

    /// Whether a reset has arrived at `end`.
    pub fn has_broken(&self, end: End) -> bool {
        let reset = if end == End::Ours { self.our_reset } else { self.their_reset };
        matches!(reset, Reset::Untold | Reset::Told)
    }

    /// Writes some of `bytes`.
    pub fn write(&mut self, end: End, bytes: &[u8]) -> Moved<usize> {
        if self.has_broken(end) {
            let told = std::mem::replace(self.reset_of(end), Reset::Told) == Reset::Told;
            return Moved::Broken(if told { "broken pipe" } else { "connection reset by peer" });
        }
        let lane = self.lane_to(end.other());
        let n = bytes.len().min(lane.room - lane.bytes.len());
        if n < bytes.len() {
            lane.is_awaited = true;
        }
        lane.bytes.extend(&bytes[..n]);
        if n == 0 { Moved::WouldBlock } else { Moved::Some(n) }
    }

    /// Whether a write would do something.
    pub fn can_write(&self, end: End) -> bool {
        let lane = if end == End::Ours { &self.to_them } else { &self.to_us };
        self.has_broken(end) || lane.room > lane.bytes.len()
    }

    /// The bytes that were last written arrive all at once with the one that precedes the last `n`.
    pub fn glue(&mut self, end: End, n: usize) {
        let lane = self.lane_to(end.other());
        let written = lane.delivered_ever + lane.bytes.len() - lane.delivered;
        lane.glued = Some((written - n - 1, written));
    }

    /// How much more `end` can write now.
    pub fn room(&self, end: End) -> usize {
        let lane = if end == End::Ours { &self.to_them } else { &self.to_us };
        lane.room - lane.bytes.len()
    }

    /// Reads at most `n` bytes.
    pub fn read(&mut self, end: End, n: usize) -> Moved<Vec<u8>> {
        let lane = self.lane_to(end);
        let n = n.min(lane.delivered);
        if n > 0 {
            lane.delivered -= n;
            let read = lane.bytes.drain(..n).collect();
            if std::mem::take(&mut lane.is_awaited) && end == End::Theirs {
                self.event.writable = true;
            }
            return Moved::Some(read);
        }
        let has_ended = lane.fin == Fin::Delivered;
        match self.reset_of(end) {
            reset @ Reset::Untold => {
                *reset = Reset::Told;
                Moved::Broken("connection reset by peer")
            }
            Reset::Told => Moved::End,
            Reset::No | Reset::UnderWay if has_ended => Moved::End,
            Reset::No | Reset::UnderWay => Moved::WouldBlock,
        }
    }

    /// Bytes that a read would bring.
    pub fn readable_bytes(&self, end: End) -> usize {
        let lane = if end == End::Ours { &self.to_us } else { &self.to_them };
        lane.delivered
    }

    /// Whether a read would do something.
    pub fn can_read(&self, end: End) -> bool {
        let lane = if end == End::Ours { &self.to_us } else { &self.to_them };
        lane.delivered > 0 || lane.fin == Fin::Delivered || self.has_broken(end)
    }

    pub fn shut_down(&mut self, end: End) {
        let lane = self.lane_to(end.other());
        if lane.fin == Fin::Open {
            lane.fin = Fin::Sent;
        }
    }

    /// Whether `end` has said that it will send nothing more.
    pub fn has_shut_down(&self, end: End) -> bool {
        let lane = if end == End::Ours { &self.to_them } else { &self.to_us };
        lane.fin != Fin::Open
    }

    pub fn close(&mut self, end: End, prng: &mut Prng) {
        if self.readable_bytes(end) > 0 {
            return self.abort(end, prng);
        }
        self.shut_down(end);
        self.gone(end);
    }

    /// Closes with a reset: what is under way may get lost.
    pub fn abort(&mut self, end: End, prng: &mut Prng) {
        if self.is_gone(end) {
            return;
        }
        self.gone(end);
        self.send_reset(end.other(), prng);
    }

    fn send_reset(&mut self, to: End, prng: &mut Prng) {
        if self.is_gone(to) || *self.reset_of(to) != Reset::No || self.has_broken(to.other()) {
            return;
        }
        *self.reset_of(to) = Reset::UnderWay;
        let lane = self.lane_to(to);
        let under_way = lane.bytes.len() - lane.delivered;
        let survives = if prng.chance(50) { under_way } else { prng.below(under_way + 1) };
        lane.bytes.truncate(lane.delivered + survives);
        if survives < under_way && lane.fin == Fin::Sent {
            lane.fin = Fin::Open;
        }
    }

    /// What broke the connection; no call will tell it again.
    pub fn take_error(&mut self, end: End) -> &'static str {
        if self.has_broken(end) {
            *self.reset_of(end) = Reset::Told;
        }
        "connection reset by peer"
    }

    /// What the kernel has to tell of hawkey's end. An error that a call has told meanwhile is none any more.
    pub fn take_event(&mut self) -> Event {
        let event = std::mem::take(&mut self.event);
        Event { broke: event.broke && self.our_reset != Reset::Told, ..event }
    }

    /// hawkey's end is registered anew: the kernel tells all that is so, but no error that was told already.
    pub fn tell_anew(&mut self) {
        self.to_them.is_awaited |= !self.can_write(End::Ours);
        self.event = Event {
            readable: self.can_read(End::Ours),
            writable: self.can_write(End::Ours),
            read_closed: self.to_us.fin == Fin::Delivered || self.has_broken(End::Ours),
            broke: self.our_reset == Reset::Untold,
        };
    }

    /// Whether anything is under way to `end`.
    pub fn is_under_way(&self, end: End) -> bool {
        let (lane, reset) = match end {
            End::Ours => (&self.to_us, self.our_reset),
            End::Theirs => (&self.to_them, self.their_reset),
        };
        lane.bytes.len() > lane.delivered || lane.fin == Fin::Sent || reset == Reset::UnderWay
    }

    /// Delivers up to `n` bytes to `end`, or what comes behind the bytes.
    pub fn deliver(&mut self, end: End, n: usize, prng: &mut Prng) {
        if self.is_gone(end) {
            let lane = self.lane_to(end);
            let (lost, was_fin) = (lane.bytes.len(), lane.fin == Fin::Sent);
            lane.bytes.clear();
            lane.delivered = 0;
            if was_fin {
                lane.fin = Fin::Delivered;
            }
            if lost > 0 {
                self.send_reset(end.other(), prng);
            }
            *self.reset_of(end) = Reset::Told;
            return;
        }
        let lane = self.lane_to(end);
        let under_way = lane.bytes.len() - lane.delivered;
        let mut n = n.min(under_way);
        if let Some((from, to)) = lane.glued
            && lane.delivered_ever + n > from
        {
            n = under_way.min(to.saturating_sub(lane.delivered_ever)).max(n);
        }
        lane.delivered += n;
        lane.delivered_ever += n;
        let is_last = lane.bytes.len() == lane.delivered;
        let mut ended = false;
        if is_last && lane.fin == Fin::Sent && (n == 0 || prng.chance(50)) {
            lane.fin = Fin::Delivered;
            ended = true;
        }
        let mut broke = false;
        if is_last && !ended && n == 0 && *self.reset_of(end) == Reset::UnderWay {
            *self.reset_of(end) = Reset::Untold;
            broke = true;
        }
        if end == End::Ours {
            self.event.readable |= n > 0 || ended || broke;
            self.event.read_closed |= ended || broke;
            self.event.writable |= broke;
            self.event.broke |= broke;
        }
    }
}
