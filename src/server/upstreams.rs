//! Which upstream is asked next, connections that wait to be used again, and leaving failing upstreams alone.

use std::rc::{Rc, Weak};
use std::time::Duration;

use crate::proxy::moment::Moment;
use crate::proxy::policy::{Address, Policy, Upstream, UpstreamId};
use crate::proxy::route::RouteId;
use crate::proxy::session::Wanted;
use crate::server::table::SocketKey;

/// Every upstream that a route of a living policy leads to. Places in the list are [`UpstreamId`]s, and mean the same to all of
/// these policies: see [`adopt`](Upstreams::adopt).
#[derive(Debug)]
pub struct Upstreams {
    slots: Vec<Slot>,
    /// The policy in force, and those before it that something under way may still hold.
    policies: Vec<Weak<Policy>>,
    /// For each route, whose turn it is.
    turns: Vec<usize>,
    idle: usize,
    keeping: Keeping,
    /// When the first idle connection is due, or earlier.
    next_due: Option<Moment>,
}

/// How many connections are kept, for how long, and for how long an upstream that failed is left alone.
#[derive(Clone, Copy, Debug)]
pub struct Keeping {
    /// Idle connections in all.
    pub idle_max: usize,
    /// Each of them.
    pub idle_for: Duration,
    /// As long as there is another upstream.
    pub cool_down: Duration,
}

#[derive(Debug)]
struct Slot {
    address: Address,
    /// A route of the policy in force leads to it.
    is_in_force: bool,
    /// Connections without an exchange, the newest last.
    idle: Vec<(SocketKey, Moment)>,
    /// Left alone until then.
    failed_until: Option<Moment>,
}

impl Upstreams {
    /// No upstreams yet.
    pub fn new(keeping: Keeping) -> Upstreams {
        let (slots, policies, turns) = Default::default();
        Upstreams { slots, policies, turns, idle: 0, keeping, next_due: None }
    }

    /// Numbers the upstreams of `policy`, which is in force from now on. An address keeps its number, its idle connections and its
    /// failures as long as a living policy leads to it; the numbers of all others are free. The policy's list has an entry
    /// for each number, whether a route of it leads there or not. Connections that must go are returned, to be closed.
    pub fn adopt(&mut self, policy: Policy, keeping: Keeping, now: Moment) -> (Rc<Policy>, Vec<SocketKey>) {
        let mut taken = vec![false; self.slots.len()];
        self.policies.retain(|former| match former.upgrade() {
            Some(former) => {
                for UpstreamId(id) in former.routes.iter().flat_map(|route| &route.to) {
                    taken.iter_mut().skip(*id as usize).take(1).for_each(|taken| *taken = true);
                }
                true
            }
            None => false,
        });
        self.slots.iter_mut().for_each(|slot| slot.is_in_force = false);
        let known: Vec<Option<usize>> = policy.upstreams.iter().map(|upstream| self.place(&upstream.address)).collect();
        for place in known.iter().flatten() {
            taken[*place] = true;
        }
        let mut gone = Vec::new();
        let mut numbers = Vec::new();
        for (upstream, known) in policy.upstreams.iter().zip(known) {
            let free = || taken.iter().position(|taken| !taken);
            let place = known.or_else(free).unwrap_or(taken.len());
            if place == taken.len() {
                taken.push(true);
                self.slots.push(Slot::of(&upstream.address));
            } else if known.is_none() {
                taken[place] = true;
                let former = std::mem::replace(&mut self.slots[place], Slot::of(&upstream.address));
                gone.extend(former.idle.into_iter().map(|(key, _)| key));
            }
            self.slots[place].is_in_force = true;
            numbers.push(UpstreamId(place as u32));
        }
        for slot in self.slots.iter_mut().filter(|slot| !slot.is_in_force) {
            gone.extend(slot.idle.drain(..).map(|(key, _)| key));
        }
        self.slots.truncate(taken.iter().rposition(|taken| *taken).map_or(0, |last| last + 1));
        self.idle -= gone.len();
        self.keeping = keeping;
        while self.idle > keeping.idle_max {
            gone.extend(self.evict());
        }
        // Connections may be due earlier than they were.
        self.next_due = (self.idle > 0).then_some(now);

        let mut upstreams: Vec<Upstream> = self.slots.iter().map(Slot::upstream).collect();
        for (upstream, UpstreamId(id)) in policy.upstreams.into_iter().zip(&numbers) {
            upstreams[*id as usize] = upstream;
        }
        let routes = policy.routes.renumbered(|UpstreamId(id)| numbers[id as usize]);
        self.turns = vec![0; routes.iter().count()];
        let policy = Rc::new(Policy { routes, upstreams, ..policy });
        self.policies.push(Rc::downgrade(&policy));
        (policy, gone)
    }

    fn place(&self, address: &Address) -> Option<usize> {
        self.slots.iter().position(|slot| slot.address == *address)
    }

    /// The upstreams of the policy in force: of each, how many idle connections it has, and whether it is left alone because it
    /// failed.
    pub fn in_force(&self, now: Moment) -> impl Iterator<Item = (&Address, usize, bool)> {
        let state = move |slot: &Slot| slot.failed_until.is_some_and(|until| until > now);
        self.slots.iter().filter(|slot| slot.is_in_force).map(move |slot| (&slot.address, slot.idle.len(), state(slot)))
    }

    /// Whose turn it is among those that `wanted` names: the next that has not just failed, or the next if all have.
    pub fn choose(&mut self, wanted: &Wanted<'_>, now: Moment) -> Option<UpstreamId> {
        let RouteId(route) = wanted.route;
        // What was routed by a former policy may have a number that no route has any more.
        let start = self.turns.get(route).copied().unwrap_or(0);
        // Without upstreams nothing is in turn, and no remainder is taken.
        let in_turn = || (0..wanted.to.len()).map(|offset| (start + offset) % wanted.to.len());
        let is_cooling = |place: &usize| {
            let slot = wanted.to.get(*place).and_then(|id| self.slots.get(id.0 as usize));
            slot.and_then(|slot| slot.failed_until).is_some_and(|until| until > now)
        };
        let place = in_turn().find(|place| !is_cooling(place)).or_else(|| in_turn().next())?;
        self.turns.iter_mut().skip(route).take(1).for_each(|turn| *turn = (place + 1) % wanted.to.len());
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

    /// Keeps a connection for later, if a route leads to its upstream. The one that must go, if any, is returned, to be closed.
    pub fn put_idle(&mut self, id: UpstreamId, key: SocketKey, now: Moment) -> Option<SocketKey> {
        let Keeping { idle_max, idle_for, .. } = self.keeping;
        if idle_max == 0 || self.slots.get(id.0 as usize).is_none_or(|slot| !slot.is_in_force) {
            return Some(key);
        }
        let gone = if self.idle >= idle_max { self.evict() } else { None };
        let Some(slot) = self.slots.get_mut(id.0 as usize) else { return Some(key) };
        slot.idle.push((key, now));
        self.idle += 1;
        self.next_due.get_or_insert(now + idle_for);
        gone
    }

    /// Takes a connection out that was idle until now, because something happened on it.
    #[cold]
    pub fn remove_idle(&mut self, id: UpstreamId, key: SocketKey) {
        let Some(slot) = self.slots.get_mut(id.0 as usize) else { return };
        let before = slot.idle.len();
        slot.idle.retain(|(idle, _)| *idle != key);
        self.idle -= before - slot.idle.len();
    }

    /// Takes out the connection that has been idle for longest: descriptors are short.
    #[cold]
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
    pub fn next_due(&self) -> Option<Moment> {
        self.next_due
    }

    /// Takes out the connections that have been idle for too long.
    pub fn take_due(&mut self, now: Moment) -> Vec<SocketKey> {
        if self.next_due.is_none_or(|due| due > now) {
            return Vec::new();
        }
        let idle_for = self.keeping.idle_for;
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
    #[cold]
    pub fn note_failure(&mut self, id: UpstreamId, now: Moment) {
        if let Some(slot) = self.slots.get_mut(id.0 as usize) {
            slot.failed_until = Some(now + self.keeping.cool_down);
        }
    }
}

impl Slot {
    fn of(address: &Address) -> Slot {
        Slot { address: address.clone(), is_in_force: false, idle: Vec::new(), failed_until: None }
    }

    fn upstream(&self) -> Upstream {
        Upstream { written: self.address.to_string(), address: self.address.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::route::{HostPattern, Route, RouteTable};

    const TO: [UpstreamId; 3] = [UpstreamId(0), UpstreamId(1), UpstreamId(2)];
    const WANTED: Wanted<'static> = Wanted { route: RouteId(0), to: &TO, fresh: false };

    fn keeping(idle_max: usize) -> Keeping {
        Keeping { idle_max, idle_for: Duration::from_secs(30), cool_down: Duration::from_secs(2) }
    }

    /// One route to these ports.
    fn policy(ports: &[u16]) -> Policy {
        let upstream =
            |port: &u16| Upstream { written: String::new(), address: Address::Tcp(([127, 0, 0, 1], *port).into()) };
        let to = (0..ports.len() as u32).map(UpstreamId).collect();
        let route = Route { host: HostPattern::Any, prefix: String::new(), strip: false, dot_segments: false, to };
        let upstreams = ports.iter().map(upstream).collect();
        Policy { upstreams, routes: RouteTable::new(vec![route]), ..Policy::default() }
    }

    fn upstreams(idle_max: usize) -> Upstreams {
        let mut upstreams = Upstreams::new(keeping(idle_max));
        upstreams.adopt(policy(&[1, 2, 3]), keeping(idle_max), Moment::FIRST);
        upstreams
    }

    /// Adopts a policy of these ports; the numbers that they have in it.
    fn adopt(upstreams: &mut Upstreams, ports: &[u16]) -> (Rc<Policy>, Vec<u32>, Vec<SocketKey>) {
        let (policy, gone) = upstreams.adopt(policy(ports), keeping(9), Moment::FIRST);
        let numbers: Vec<u32> = policy.routes.iter().flat_map(|route| &route.to).map(|id| id.0).collect();
        for (port, number) in ports.iter().zip(&numbers) {
            let told = policy.upstreams[*number as usize].address.to_string();
            assert_eq!(told, format!("127.0.0.1:{port}"), "the number of {port} names it");
            assert_eq!(upstreams.address(UpstreamId(*number)).unwrap().to_string(), told);
        }
        (policy, numbers, gone)
    }

    #[test]
    fn an_address_keeps_its_number_as_long_as_a_living_policy_leads_to_it() {
        let mut upstreams = Upstreams::new(keeping(9));
        let (first, numbers, _) = adopt(&mut upstreams, &[1, 2, 3]);
        assert_eq!(numbers, [0, 1, 2]);
        let (second, numbers, _) = adopt(&mut upstreams, &[4, 3]);
        assert_eq!(numbers, [3, 2], "what the first policy leads to is not given away");
        drop(first);
        let (_third, numbers, _) = adopt(&mut upstreams, &[3, 5, 6]);
        assert_eq!(numbers, [2, 0, 1], "what nothing leads to any more is");
        drop(second);
        let (_fourth, numbers, _) = adopt(&mut upstreams, &[5]);
        assert_eq!(numbers, [0]);
        drop(_third);
        let (fifth, _, _) = adopt(&mut upstreams, &[5]);
        assert_eq!(fifth.upstreams.len(), 1, "the list ends behind the last number in use");
        assert_eq!(upstreams.policies.len(), 2);
    }

    #[test]
    fn an_address_that_stays_keeps_its_failures_and_connections_and_one_that_goes_does_not() {
        let (mut upstreams, now, keys) = (Upstreams::new(keeping(9)), Moment::FIRST, keys(3));
        let (_first, ..) = adopt(&mut upstreams, &[1, 2, 3]);
        upstreams.note_failure(UpstreamId(1), now);
        for (id, key) in [(0, keys[0]), (1, keys[1])] {
            assert_eq!(upstreams.put_idle(UpstreamId(id), key, now), None);
        }
        let (_second, numbers, gone) = adopt(&mut upstreams, &[2, 4]);
        assert_eq!((numbers, gone), (vec![1, 3], vec![keys[0]]));
        assert_eq!(upstreams.put_idle(UpstreamId(0), keys[2], now), Some(keys[2]), "no route leads there");
        let told: Vec<_> = upstreams.in_force(now).map(|(_, idle, failed)| (idle, failed)).collect();
        assert_eq!(told, [(1, true), (0, false)]);
        assert_eq!((upstreams.take_idle(UpstreamId(1)), upstreams.idle()), (Some(keys[1]), 0));
    }

    #[test]
    fn fewer_connections_are_kept_and_for_less_time_from_an_adoption_on() {
        let (mut upstreams, now, keys) = (upstreams(9), Moment::FIRST, keys(3));
        for (key, at) in keys.iter().zip(0..) {
            upstreams.put_idle(UpstreamId(0), *key, now + Duration::from_secs(at));
        }
        let less = Keeping { idle_max: 2, idle_for: Duration::from_secs(5), cool_down: Duration::ZERO };
        let (_policy, gone) = upstreams.adopt(policy(&[1]), less, now + Duration::from_secs(3));
        assert_eq!(gone, [keys[0]]);
        assert_eq!(upstreams.take_due(now + Duration::from_secs(6)), [keys[1]]);
        assert_eq!(upstreams.next_due(), Some(now + Duration::from_secs(7)));
    }

    #[test]
    fn what_a_former_policy_has_routed_finds_an_upstream_though_its_route_is_gone() {
        let (mut upstreams, now) = (upstreams(9), Moment::FIRST);
        let wanted = Wanted { route: RouteId(7), to: &TO, fresh: true };
        assert_eq!(upstreams.choose(&wanted, now), Some(UpstreamId(0)));
    }

    fn turns(upstreams: &mut Upstreams, now: Moment, n: usize) -> Vec<u32> {
        (0..n).filter_map(|_| upstreams.choose(&WANTED, now)).map(|id| id.0).collect()
    }

    #[test]
    fn upstreams_take_turns_and_the_failing_ones_are_left_alone_for_a_while() {
        let (mut upstreams, now) = (upstreams(9), Moment::FIRST);
        assert_eq!(turns(&mut upstreams, now, 4), [0, 1, 2, 0]);
        upstreams.note_failure(UpstreamId(1), now);
        assert_eq!(turns(&mut upstreams, now, 4), [2, 0, 2, 0]);
        let later = now + Duration::from_secs(2);
        assert_eq!(turns(&mut upstreams, later, 3), [1, 2, 0]);
    }

    #[test]
    fn if_all_have_failed_they_are_tried_all_the_same() {
        let (mut upstreams, now) = (upstreams(9), Moment::FIRST);
        TO.iter().for_each(|id| upstreams.note_failure(*id, now));
        assert_eq!(turns(&mut upstreams, now, 4), [0, 1, 2, 0]);
    }

    fn keys(n: usize) -> Vec<SocketKey> {
        (0..n as u32).map(SocketKey::for_tests).collect()
    }

    #[test]
    fn the_newest_idle_connection_is_used_first_and_the_oldest_goes_first() {
        let (mut upstreams, now) = (upstreams(2), Moment::FIRST);
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
        assert_eq!(upstreams.put_idle(UpstreamId(0), key, Moment::FIRST), Some(key));
    }
}
