//! Which upstream is asked next, connections that wait to be used again, and leaving failing upstreams alone.

use std::time::{Duration, Instant};

use crate::proxy::policy::{Address, Policy, UpstreamId};
use crate::proxy::route::RouteId;
use crate::proxy::session::Wanted;
use crate::server::table::SocketKey;

/// Every upstream of the policy, in its order.
#[derive(Debug)]
pub struct Upstreams {
    slots: Vec<Slot>,
    /// For each route, whose turn it is.
    turns: Vec<usize>,
    idle: usize,
    idle_max: usize,
    idle_for: Duration,
    cool_down: Duration,
    /// When the first idle connection is due, or earlier.
    next_due: Option<Instant>,
}

#[derive(Debug)]
struct Slot {
    address: Address,
    /// Connections without an exchange, the newest last.
    idle: Vec<(SocketKey, Instant)>,
    /// Left alone until then.
    failed_until: Option<Instant>,
}

impl Upstreams {
    /// The upstreams of `policy`. At most `idle_max` connections are kept in all, each for `idle_for`; an upstream that
    /// failed is left alone for `cool_down`, as long as there is another.
    pub fn new(policy: &Policy, idle_max: usize, idle_for: Duration, cool_down: Duration) -> Upstreams {
        let slot = |address: &Address| Slot { address: address.clone(), idle: Vec::new(), failed_until: None };
        Upstreams {
            slots: policy.upstreams.iter().map(|upstream| slot(&upstream.address)).collect(),
            turns: vec![0; policy.routes.iter().count()],
            idle: 0,
            idle_max,
            idle_for,
            cool_down,
            next_due: None,
        }
    }

    /// Whose turn it is among those that `wanted` names: the next that has not just failed, or the next if all have.
    pub fn choose(&mut self, wanted: &Wanted<'_>, now: Instant) -> Option<UpstreamId> {
        let RouteId(route) = wanted.route;
        let turn = self.turns.get_mut(route)?;
        let start = *turn;
        // Without upstreams nothing is in turn, and no remainder is taken.
        let in_turn = || (0..wanted.to.len()).map(|offset| (start + offset) % wanted.to.len());
        let is_cooling = |place: &usize| {
            let slot = wanted.to.get(*place).and_then(|id| self.slots.get(id.0 as usize));
            slot.and_then(|slot| slot.failed_until).is_some_and(|until| until > now)
        };
        let place = in_turn().find(|place| !is_cooling(place)).or_else(|| in_turn().next())?;
        *turn = (place + 1) % wanted.to.len();
        wanted.to.get(place).copied()
    }

    /// The address of an upstream.
    pub fn address(&self, id: UpstreamId) -> Option<&Address> {
        self.slots.get(id.0 as usize).map(|slot| &slot.address)
    }

    /// Takes the newest idle connection to an upstream: the one least likely to be closing.
    pub fn take_idle(&mut self, id: UpstreamId) -> Option<SocketKey> {
        let (key, _) = self.slots.get_mut(id.0 as usize)?.idle.pop()?;
        self.idle -= 1;
        Some(key)
    }

    /// Keeps a connection for later. The one that must go for it, if any, is returned, to be closed.
    pub fn put_idle(&mut self, id: UpstreamId, key: SocketKey, now: Instant) -> Option<SocketKey> {
        if self.idle_max == 0 {
            return Some(key);
        }
        let gone = if self.idle >= self.idle_max { self.evict() } else { None };
        let Some(slot) = self.slots.get_mut(id.0 as usize) else { return Some(key) };
        slot.idle.push((key, now));
        self.idle += 1;
        self.next_due.get_or_insert(now + self.idle_for);
        gone
    }

    /// Takes a connection out that was idle until now, because something happened on it.
    pub fn remove_idle(&mut self, id: UpstreamId, key: SocketKey) {
        let Some(slot) = self.slots.get_mut(id.0 as usize) else { return };
        let before = slot.idle.len();
        slot.idle.retain(|(idle, _)| *idle != key);
        self.idle -= before - slot.idle.len();
    }

    /// Takes out the connection that has been idle for longest: descriptors are short.
    pub fn evict(&mut self) -> Option<SocketKey> {
        let oldest = self
            .slots
            .iter_mut()
            .filter(|slot| !slot.idle.is_empty())
            .min_by_key(|slot| slot.idle.first().map(|(_, since)| *since))?;
        self.idle -= 1;
        Some(oldest.idle.remove(0).0)
    }

    /// How many connections are idle.
    pub fn idle(&self) -> usize {
        self.idle
    }

    /// When [`take_due`](Upstreams::take_due) has something to do, or earlier.
    pub fn next_due(&self) -> Option<Instant> {
        self.next_due
    }

    /// Takes out the connections that have been idle for too long.
    pub fn take_due(&mut self, now: Instant) -> Vec<SocketKey> {
        if self.next_due.is_none_or(|due| due > now) {
            return Vec::new();
        }
        let idle_for = self.idle_for;
        let mut due = Vec::new();
        for slot in &mut self.slots {
            let fresh = slot.idle.iter().position(|(_, since)| *since + idle_for > now).unwrap_or(slot.idle.len());
            due.extend(slot.idle.drain(..fresh).map(|(key, _)| key));
        }
        self.idle -= due.len();
        self.next_due =
            self.slots.iter().filter_map(|slot| slot.idle.first()).map(|(_, since)| *since + idle_for).min();
        due
    }

    /// An upstream could not be connected with: it is left alone for a while.
    pub fn note_failure(&mut self, id: UpstreamId, now: Instant) {
        if let Some(slot) = self.slots.get_mut(id.0 as usize) {
            slot.failed_until = Some(now + self.cool_down);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::policy::Upstream;
    use crate::proxy::route::{HostPattern, Route, RouteTable};

    const TO: [UpstreamId; 3] = [UpstreamId(0), UpstreamId(1), UpstreamId(2)];
    const WANTED: Wanted<'static> = Wanted { route: RouteId(0), to: &TO, fresh: false };

    fn upstreams(idle_max: usize) -> Upstreams {
        let upstream = |port| Upstream { written: String::new(), address: Address::Tcp(([127, 0, 0, 1], port).into()) };
        let route =
            Route { host: HostPattern::Any, prefix: String::new(), strip: false, dot_segments: false, to: TO.to_vec() };
        let policy = Policy {
            upstreams: vec![upstream(1), upstream(2), upstream(3)],
            routes: RouteTable::new(vec![route]),
            ..Policy::default()
        };
        Upstreams::new(&policy, idle_max, Duration::from_secs(30), Duration::from_secs(2))
    }

    fn turns(upstreams: &mut Upstreams, now: Instant, n: usize) -> Vec<u32> {
        (0..n).filter_map(|_| upstreams.choose(&WANTED, now)).map(|id| id.0).collect()
    }

    #[test]
    fn upstreams_take_turns_and_the_failing_ones_are_left_alone_for_a_while() {
        let (mut upstreams, now) = (upstreams(9), Instant::now());
        assert_eq!(turns(&mut upstreams, now, 4), [0, 1, 2, 0]);
        upstreams.note_failure(UpstreamId(1), now);
        assert_eq!(turns(&mut upstreams, now, 4), [2, 0, 2, 0]);
        let later = now + Duration::from_secs(2);
        assert_eq!(turns(&mut upstreams, later, 3), [1, 2, 0]);
    }

    #[test]
    fn if_all_have_failed_they_are_tried_all_the_same() {
        let (mut upstreams, now) = (upstreams(9), Instant::now());
        TO.iter().for_each(|id| upstreams.note_failure(*id, now));
        assert_eq!(turns(&mut upstreams, now, 4), [0, 1, 2, 0]);
    }

    fn keys(n: usize) -> Vec<SocketKey> {
        (0..n as u32).map(SocketKey::for_tests).collect()
    }

    #[test]
    fn the_newest_idle_connection_is_used_first_and_the_oldest_goes_first() {
        let (mut upstreams, now) = (upstreams(2), Instant::now());
        let keys = keys(3);
        let at = |seconds| now + Duration::from_secs(seconds);
        assert_eq!(upstreams.put_idle(UpstreamId(0), keys[0], at(0)), None);
        assert_eq!(upstreams.put_idle(UpstreamId(1), keys[1], at(1)), None);
        assert_eq!(upstreams.put_idle(UpstreamId(1), keys[2], at(2)), Some(keys[0]), "only two are kept");
        assert_eq!(upstreams.take_idle(UpstreamId(0)), None);
        assert_eq!(upstreams.take_idle(UpstreamId(1)), Some(keys[2]));
        assert_eq!(upstreams.take_due(at(30)), []);
        assert_eq!(upstreams.take_due(at(31)), [keys[1]]);
        assert_eq!((upstreams.idle, upstreams.next_due()), (0, None));
    }

    #[test]
    fn nothing_is_kept_where_nothing_may_be() {
        let (mut upstreams, key) = (upstreams(0), keys(1)[0]);
        assert_eq!(upstreams.put_idle(UpstreamId(0), key, Instant::now()), Some(key));
    }
}
