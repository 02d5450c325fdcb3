//! How a session moves to another process: what can, as what, and how it goes on there.

use std::rc::Rc;

use crate::proxy::flow::Flow;
use crate::proxy::moment::Moment;
use crate::proxy::packed::{Packed, UNSENT_BYTES_MAX};
use crate::proxy::policy::Policy;
use crate::proxy::session::{Phase, Session};
use crate::proxy::side::{Both, Side};
use crate::proxy::step::Steps;
use crate::proxy::tunnel::Tunnel;
use crate::proxy::turn::Turn;

impl Session {
    /// Whether it can move to another process: it is a tunnel, or waits for a request of which no byte has come. To be asked
    /// between two turns; while [steps](Session::next_step) are to be carried out, nothing moves.
    pub fn is_movable(&self) -> bool {
        let mut flows = Side::BOTH.into_iter().map(|from| &self.flows[from]);
        let moves = match self.phase {
            Phase::Tunnel(_) => flows.all(|flow| flow.leaving_bytes() <= UNSENT_BYTES_MAX),
            // Half an empty line may have come.
            Phase::Head { began: None } => flows.all(|flow| flow.buffer_bytes() == 0),
            Phase::Head { began: Some(_) }
            | Phase::Connect { .. }
            | Phase::Exchange(_)
            | Phase::Finish(_)
            | Phase::Linger
            | Phase::Closed => false,
        };
        moves && self.steps.is_empty()
    }

    /// What another process needs to go on with it, if it [can move](Session::is_movable).
    pub fn pack(&self, now: Moment) -> Option<Packed<'_>> {
        self.is_movable().then(|| Packed {
            number: self.number,
            client: self.client,
            is_client_done: self.is_client_done,
            time_left: self.deadline.map(|deadline| deadline.saturating_duration_since(now)),
            tunnel: match &self.phase {
                Phase::Tunnel(tunnel) => Some(tunnel.pack(&self.flows, now)),
                _ => None,
            },
        })
    }

    /// Goes on with what was [packed](Session::pack), under `policy`, which [knows](Policy::knowing) its upstream. Nothing of what
    /// its sockets are ready for is known.
    pub fn unpack(packed: &Packed<'_>, policy: &Rc<Policy>, turn: &Turn) -> Session {
        let (phase, flows) = match &packed.tunnel {
            None => (Phase::Head { began: None }, Both::default()),
            Some(tunnel) => {
                let Both { client, upstream } = &tunnel.flows;
                let flows = Both { client: Flow::unpack(client), upstream: Flow::unpack(upstream) };
                (Phase::Tunnel(Tunnel::unpack(tunnel, policy, turn.now)), flows)
            }
        };
        Session {
            number: packed.number,
            client: packed.client,
            flows,
            phase,
            steps: Steps::default(),
            deadline: packed.time_left.map(|left| turn.now + left),
            is_client_done: packed.is_client_done,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::proxy::packed::{PackedFlow, PackedTunnel};
    use crate::proxy::policy::{Address, ClientAddress};
    use crate::proxy::record::Number;

    fn turn() -> Turn {
        Turn::new(Moment::FIRST + Duration::from_secs(60), Rc::new(Policy::default()))
    }

    fn tunnel() -> Packed<'static> {
        let tunnel = PackedTunnel {
            upstream: Some(Address::Tcp(([192, 0, 2, 1], 80).into())),
            open_for: Duration::from_secs(5),
            up: 7,
            down: 8,
            ended_first: Some(Side::Client),
            deaf: None,
            flows: Both {
                client: PackedFlow { unsent: b"last words", has_ended: true },
                upstream: PackedFlow { unsent: b"unsent", has_ended: false },
            },
        };
        let number = Number { session: 1, request: 2 };
        let time_left = Some(Duration::from_secs(9));
        Packed { number, client: ClientAddress::Unix, is_client_done: true, time_left, tunnel: Some(tunnel) }
    }

    #[test]
    fn a_tunnel_goes_on_where_it_was() {
        let mut turn = turn();
        let policy = Policy::knowing(&turn.policy, tunnel().upstream());
        let mut session = Session::unpack(&tunnel(), &policy, &turn);
        assert_eq!(session.pack(turn.now), Some(tunnel()));
        assert_eq!(session.deadline(), Some(turn.now + Duration::from_secs(9)));
        session.sent(Side::Upstream, 4, &mut turn);
        let Some(tunnel) = session.pack(turn.now).and_then(|packed| packed.tunnel) else { panic!("{session:?}") };
        assert_eq!((tunnel.up, tunnel.flows.client.unsent), (11, b" words".as_slice()));
        session.sent(Side::Upstream, 6, &mut turn);
        assert!(!session.is_movable(), "the client's end is to be passed on");
        session.next_step();
        assert!(session.pack(turn.now).is_some_and(|packed| packed.tunnel.is_some()));
    }

    #[test]
    fn an_upstream_that_no_route_names_keeps_its_name() {
        let turn = turn();
        let session = Session::unpack(&tunnel(), &turn.policy, &turn);
        assert_eq!(session.pack(turn.now).and_then(|packed| packed.upstream().cloned()), None);
        let policy = Policy::knowing(&turn.policy, [tunnel().upstream(), tunnel().upstream()].into_iter().flatten());
        assert_eq!(policy.upstreams.len(), 1);
        assert_eq!(policy.upstreams.first().map(|upstream| upstream.written.as_str()), Some("192.0.2.1:80"));
        assert!(Rc::ptr_eq(&Policy::knowing(&policy, tunnel().upstream()), &policy));
    }

    #[test]
    fn a_client_moves_before_and_between_requests_only() {
        let mut turn = turn();
        let mut session = Session::new(1, ClientAddress::Unix, &turn);
        assert_eq!(session.pack(turn.now).map(|packed| packed.tunnel), Some(None));
        for (byte, moves) in [(b'\r', false), (b'\n', false), (b'G', false)] {
            session.room(Side::Client, &mut turn)[0] = byte;
            session.received(Side::Client, 1, &mut turn);
            session.settle(&mut turn);
            assert_eq!(session.is_movable(), moves, "behind {:?}", char::from(byte));
        }
    }

    #[test]
    fn a_deadline_that_has_passed_is_due_at_once() {
        let mut turn = turn();
        let session = Session::new(1, ClientAddress::Unix, &turn);
        turn.now += Duration::from_secs(3600);
        let packed = session.pack(turn.now).unwrap();
        assert_eq!(Session::unpack(&packed, &turn.policy, &turn).deadline(), Some(turn.now));
    }
}
