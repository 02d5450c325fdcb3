//! Another process takes a session over between two turns: it is packed, sent as bytes and unpacked, and neither side may notice.
//!
//! Much of what could be forgotten on the way mends itself: an end of file is read again, a failed write fails again. So what a session
//! says of itself is held, whenever it has been driven and whenever it has moved, to what the driver knows from what it did.

use std::rc::Rc;
use std::time::Duration;

use hawkey::proxy::moment::Moment;
use hawkey::proxy::packed::{Packed, PackedFlow, PackedTunnel};
use hawkey::proxy::policy::{Address, ClientAddress, Policy};
use hawkey::proxy::session::Session;
use hawkey::proxy::side::{Both, Side};
use hawkey::proxy::turn::Turn;

use crate::driver::{Net, Pair};
use crate::ledger::Context;

/// What the driver knows of a session.
pub struct Known {
    session: u64,
    client: ClientAddress,
    is_client_done: bool,
    /// The number of the last request, and since when the session waits for the next.
    idle: (u32, Moment),
    tunnel: Option<Tunnel>,
}

struct Tunnel {
    opened: Moment,
    /// When bytes were last read or written.
    moved: Moment,
    written: Both<u64>,
    ended: Both<bool>,
    ended_first: Option<Side>,
    deaf: Option<Side>,
}

impl Known {
    pub fn new(session: u64, client: ClientAddress, now: Moment) -> Known {
        Known { session, client, is_client_done: false, idle: (0, now), tunnel: None }
    }

    pub fn hung_up(&mut self) {
        self.is_client_done = true;
    }

    /// Bytes were read, and `session` was told: it may be a tunnel by that.
    pub fn read(&mut self, session: &Session, now: Moment) {
        if session.is_tunnel() {
            let opens = || Tunnel {
                opened: now,
                moved: now,
                written: Both::default(),
                ended: Both::default(),
                ended_first: None,
                deaf: None,
            };
            self.tunnel.get_or_insert_with(opens).moved = now;
        }
    }

    pub fn wrote(&mut self, to: Side, n: usize, now: Moment) {
        if let Some(tunnel) = self.tunnel.as_mut().filter(|_| n > 0) {
            tunnel.written[to] += n as u64;
            tunnel.moved = now;
        }
    }

    pub fn ended(&mut self, from: Side) {
        if let Some(tunnel) = &mut self.tunnel {
            tunnel.ended[from] = true;
            tunnel.ended_first.get_or_insert(from);
        }
    }

    pub fn deafened(&mut self, side: Side) {
        if let Some(tunnel) = &mut self.tunnel {
            tunnel.deaf.get_or_insert(side);
        }
    }

    /// Holds `session` to what is known, if it is one that can move.
    pub fn check(&mut self, session: &Session, to: Option<&Address>, turn: &Turn) -> Result<(), String> {
        let (now, timeouts) = (turn.now, &turn.policy.timeouts);
        let request = session.number().request;
        if session.is_idle() && self.idle.0 != request {
            self.idle = (request, now);
        }
        let deadline = match &self.tunnel {
            Some(tunnel) => timeouts.tunnel.map(|max| tunnel.moved + max),
            None => Some(self.idle.1 + if request == 0 { timeouts.head } else { timeouts.keep_alive }),
        };
        let packed = session.pack(now);
        if session.is_movable() != packed.is_some() || (session.is_tunnel() && packed.is_none()) {
            return Err(format!("a session that could move is packed as {packed:?}"));
        }
        let Some(packed) = packed else { return Ok(()) };
        let mut known = Packed {
            number: packed.number,
            client: self.client,
            is_client_done: self.is_client_done,
            time_left: deadline.map(|deadline| deadline.saturating_duration_since(now)),
            tunnel: self.tunnel.as_ref().map(|tunnel| tunnel.pack(session, to, now)),
        };
        known.number.session = self.session;
        if packed != known {
            return Err(format!("the session says of itself:\n  {packed:?}\nbut is known to be:\n  {known:?}"));
        }
        for side in Side::BOTH {
            let is_done = |tunnel: &Tunnel| tunnel.ended[side] || tunnel.deaf == Some(side.other());
            if session.wants_read(side) && self.tunnel.as_ref().is_some_and(is_done) {
                return Err(format!(
                    "the {} is wanted, though its end was told or the other takes nothing",
                    side.as_str()
                ));
            }
        }
        Ok(())
    }

    /// Time that counts for nothing, because the session was nowhere.
    fn skip(&mut self, time: Duration) {
        self.idle.1 += time;
        if let Some(tunnel) = &mut self.tunnel {
            tunnel.opened += time;
            tunnel.moved += time;
        }
    }
}

impl Tunnel {
    fn pack<'s>(&self, session: &'s Session, to: Option<&Address>, now: Moment) -> PackedTunnel<'s> {
        let flow = |from: Side| PackedFlow { unsent: session.leaving(from.other()), has_ended: self.ended[from] };
        PackedTunnel {
            upstream: to.cloned(),
            open_for: now.saturating_duration_since(self.opened),
            up: self.written.upstream,
            down: self.written.client,
            ended_first: self.ended_first,
            deaf: self.deaf,
            flows: Both { client: flow(Side::Client), upstream: flow(Side::Upstream) },
        }
    }
}

/// Moves the session, if it can be: it goes on as what its bytes say, under a policy that has other numbers, with sockets of whose
/// readiness nothing is known.
pub fn move_over(pair: &mut Pair, net: &mut Net, turn: &mut Turn, context: &mut Context) -> Result<(), String> {
    turn.now = context.now;
    let Some(packed) = pair.session.pack(turn.now) else { return Ok(()) };
    let mut bytes = Vec::new();
    packed.encode(&mut bytes);
    bytes.extend(b"the next record");
    let is_told_whole = Packed::decode(&bytes) == Ok((packed, b"the next record"));
    let (true, Ok((packed, _))) = (is_told_whole, Packed::decode(&bytes)) else {
        return Err(format!("the session is read as {:?}; {}", Packed::decode(&bytes), pair.state()));
    };
    context.note(|| format!("another process takes over {packed:?}"));
    let pause = Duration::from_micros(context.prng.below(200) as u64);
    context.now += pause;
    turn.now = context.now;
    pair.known.skip(pause);
    let mut policy = Policy::clone(&turn.policy);
    match context.prng.below(3) {
        0 => policy.upstreams.clear(),
        1 => policy.upstreams.reverse(),
        _ => {}
    }
    let policy = Policy::knowing(&Rc::new(policy), packed.upstream());
    pair.session = Session::unpack(&packed, &policy, turn);
    if pair.session.pack(turn.now).as_ref() != Some(&packed) {
        return Err(format!("{packed:?} goes on as something else; {}", pair.state()));
    }
    pair.forget_events(net);
    pair.check_known(turn)
}
