//! Which socket a token names, and who holds it.

use std::io;
use std::num::NonZeroU32;
use std::os::fd::{AsFd, BorrowedFd};

use mio::{Registry, Token};
use slab::Slab;

use crate::proxy::policy::UpstreamId;
use crate::server::socket::Socket;

/// A place in the table. Counted from 1, so that having none costs nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketKey(NonZeroU32);

impl SocketKey {
    fn new(place: u32) -> SocketKey {
        SocketKey(NonZeroU32::MIN.saturating_add(place))
    }

    fn place(self) -> usize {
        self.0.get() as usize - 1
    }
}

#[cfg(test)]
impl Table {
    /// Bytes that a socket costs here.
    pub const ENTRY_BYTES: usize = size_of::<Entry>();
}

#[cfg(test)]
impl SocketKey {
    /// A key that names no socket.
    pub fn for_tests(place: u32) -> SocketKey {
        SocketKey::new(place)
    }
}

/// A place among the pairs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PairKey(pub u32);

/// Whose socket it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// A session's: its client's.
    Client(PairKey),
    /// A session's: a connection to this upstream.
    Upstream(PairKey, UpstreamId),
    /// Nobody's: a connection to this upstream that waits to be used again.
    Idle(UpstreamId),
}

/// Tokens of streams: 20 bits of place, then 11 bits of generation, so that they fit where `usize` has 32 bits. The highest bit
/// is set in all other tokens.
const PLACE_BITS: u32 = 20;
const GENERATION_MASK: u32 = (1 << 11) - 1;

/// Every stream of the process.
///
/// A token carries the generation of its place, so that an event of a closed socket can name no stranger. Places are freed by
/// [`bury`](Table::bury) alone: within a turn, no key changes its meaning.
#[derive(Debug)]
pub struct Table {
    entries: Slab<Entry>,
    births: u32,
    /// Places whose sockets are closed already.
    dead: Vec<SocketKey>,
}

#[derive(Debug)]
struct Entry {
    /// `None` once it is closed.
    socket: Option<Socket>,
    holder: Holder,
    generation: u16,
}

impl Default for Table {
    fn default() -> Table {
        Table { entries: room(), births: 0, dead: Vec::new() }
    }
}

impl Table {
    /// Takes `socket` in, held by `holder`, and asks for its events.
    pub fn insert(&mut self, socket: Socket, holder: Holder, registry: &Registry) -> io::Result<SocketKey> {
        let generation = self.births & GENERATION_MASK;
        let vacant = self.entries.vacant_entry();
        let place = u32::try_from(vacant.key()).ok().filter(|place| *place < 1 << PLACE_BITS);
        let Some(place) = place else { return Err(io::Error::other("more sockets than tokens")) };
        socket.register(registry, Token((generation << PLACE_BITS | place) as usize))?;
        self.births = self.births.wrapping_add(1);
        vacant.insert(Entry { socket: Some(socket), holder, generation: generation as u16 });
        Ok(SocketKey::new(place))
    }

    /// The open socket that `token` names, and who holds it.
    pub fn named(&mut self, token: Token) -> Option<(SocketKey, &mut Socket, Holder)> {
        let bits = u32::try_from(token.0).ok()?;
        let place = bits & ((1 << PLACE_BITS) - 1);
        let entry = self.entries.get_mut(place as usize)?;
        let is_same = u32::from(entry.generation) == bits >> PLACE_BITS;
        let socket = entry.socket.as_mut().filter(|_| is_same)?;
        Some((SocketKey::new(place), socket, entry.holder))
    }

    /// The sockets at two keys that differ, if both are open.
    // In place it saves 10 instructions of an echo.
    #[inline]
    pub fn both(&mut self, one: SocketKey, other: SocketKey) -> Option<(&mut Socket, &mut Socket)> {
        let [one, other] = self.entries.get_disjoint_mut([one.place(), other.place()]).ok()?;
        one.socket.as_mut().zip(other.socket.as_mut())
    }

    /// The socket at `key`, if it is open.
    pub fn socket(&mut self, key: SocketKey) -> Option<&mut Socket> {
        self.entries.get_mut(key.place())?.socket.as_mut()
    }

    /// Whether the socket at `key` is open and worth a read.
    pub fn is_readable(&self, key: SocketKey) -> bool {
        self.open(key).is_some_and(Socket::is_readable)
    }

    /// Whether the socket at `key` is open and worth a write.
    pub fn is_writable(&self, key: SocketKey) -> bool {
        self.open(key).is_some_and(Socket::is_writable)
    }

    fn open(&self, key: SocketKey) -> Option<&Socket> {
        self.entries.get(key.place())?.socket.as_ref()
    }

    /// Gives the socket at `key` to another holder.
    pub fn hand_over(&mut self, key: SocketKey, holder: Holder) {
        if let Some(entry) = self.entries.get_mut(key.place()) {
            entry.holder = holder;
        }
    }

    /// Who holds the socket at `key`.
    pub fn holder(&self, key: SocketKey) -> Option<Holder> {
        self.entries.get(key.place()).map(|entry| entry.holder)
    }

    /// Closes the socket at `key`. The kernel forgets its registration with it.
    pub fn close(&mut self, key: SocketKey) {
        if let Some(entry) = self.entries.get_mut(key.place())
            && entry.socket.take().is_some()
        {
            self.dead.push(key);
        }
    }

    /// Closes the socket at `key`, which another process has: the kernel forgets its registration only if it is told to.
    pub fn let_go(&mut self, key: SocketKey, registry: &Registry) {
        if let Some(socket) = self.socket(key) {
            let _ = socket.deregister(registry);
        }
        self.close(key);
    }

    /// The descriptor of the socket at `key`, if it is open.
    pub fn descriptor(&self, key: SocketKey) -> Option<BorrowedFd<'_>> {
        self.open(key).map(AsFd::as_fd)
    }

    /// Frees the places of closed sockets.
    pub fn bury(&mut self) {
        while let Some(key) = self.dead.pop() {
            self.entries.try_remove(key.place());
            shrink(&mut self.entries);
        }
    }
}

/// What each table is given at the start: enough for the allocator to map it apart, where it grows without leaving holes. Pages
/// that are not used cost nothing. This and the sweep of deadlines took each of 5,000 idle tunnels from 277 to 233 bytes.
pub const TABLE_BYTES: usize = 132 * 1024;

/// An empty table.
pub fn room<T>() -> Slab<T> {
    Slab::with_capacity(TABLE_BYTES / size_of::<T>())
}

/// Gives memory back once less than a quarter of a table that has grown is in use, as far as nobody has a place near its end.
pub fn shrink<T>(table: &mut Slab<T>) {
    let least = TABLE_BYTES / size_of::<T>();
    if table.len() < table.capacity() / 4 && table.capacity() > least {
        shrink_to(table, least);
    }
}

#[cold]
fn shrink_to<T>(table: &mut Slab<T>, least: usize) {
    table.shrink_to_fit();
    table.reserve(least.saturating_sub(table.len()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_that_has_grown_shrinks_when_it_is_nearly_empty() {
        let mut table = room::<[u8; 1024]>();
        let least = table.capacity();
        let keys: Vec<_> = (0..10 * least).map(|_| table.insert([0; 1024])).collect();
        let grown = table.capacity();
        // The first stays: only places behind the last that is taken can be given back.
        for key in keys.into_iter().skip(1) {
            table.remove(key);
            shrink(&mut table);
        }
        assert!(grown >= 10 * least);
        assert_eq!((table.capacity(), table.len()), (least, 1), "of {grown} places");
        assert_eq!(table.insert([1; 1024]), 1, "a place is given out again");
    }
}
