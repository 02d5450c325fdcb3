//! A session that moves to another process loses nothing on the way, whatever it is; and what is no record of one is refused.
//!
//! What is asserted stands in `fuzz/bodies/packed.rs`. The cases are the same in every run.

use std::net::SocketAddr;
use std::time::Duration;

use hawkey::proxy::packed::{Packed, PackedFlow, PackedTunnel, UNSENT_BYTES_MAX};
use hawkey::proxy::policy::{Address, ClientAddress};
use hawkey::proxy::record::Number;
use hawkey::proxy::side::{Both, Side};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::test_runner::RngSeed;

#[path = "../fuzz/bodies/mod.rs"]
mod bodies;

fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, rng_seed: RngSeed::Fixed(7), ..ProptestConfig::default() }
}

fn duration() -> impl Strategy<Value = Duration> {
    prop_oneof![
        (0..3_600_000_000_000_u64).prop_map(Duration::from_nanos),
        (0..u64::MAX).prop_map(Duration::from_nanos),
        select(vec![Duration::ZERO, Duration::from_nanos(u64::MAX - 1)]),
    ]
}

fn client() -> impl Strategy<Value = ClientAddress> {
    prop_oneof![
        Just(ClientAddress::Unix),
        any::<([u8; 4], u16)>().prop_map(|(ip, port)| ClientAddress::Tcp(ip.into(), port)),
        any::<([u8; 16], u16)>().prop_map(|(ip, port)| ClientAddress::Tcp(ip.into(), port)),
    ]
}

fn upstream() -> impl Strategy<Value = Option<Address>> {
    prop_oneof![
        Just(None),
        any::<SocketAddr>().prop_map(|address| Some(Address::Tcp(address))),
        "/\\PC{0,100}|@?[\\x00-\\x20a-z/]{0,9}".prop_map(|path| Some(Address::Unix(path.into()))),
    ]
}

/// Whether a tunnel is like that between two turns.
fn can_be(tunnel: &PackedTunnel) -> bool {
    let Both { client, upstream } = tunnel.flows;
    let is_over = |flow: PackedFlow| flow.has_ended && flow.unsent.is_empty();
    // Nothing waits for who is deaf, and what it said is not over: its end is passed on as a reset, and that is the end of all.
    let is_deaf = |side| tunnel.deaf == Some(side);
    let may_wait = |flow: PackedFlow, from: Side| {
        (!is_deaf(from.other()) || flow.unsent.is_empty()) && (!is_deaf(from) || !is_over(flow))
    };
    let first_is_first = match (client.has_ended, upstream.has_ended) {
        (false, false) => tunnel.ended_first.is_none(),
        (true, false) => tunnel.ended_first == Some(Side::Client),
        (false, true) => tunnel.ended_first == Some(Side::Upstream),
        (true, true) => tunnel.ended_first.is_some(),
    };
    first_is_first
        && !(is_over(client) && is_over(upstream))
        && may_wait(client, Side::Client)
        && may_wait(upstream, Side::Upstream)
}

/// A session without the bytes of its flows, which come beside it: each with whether its side has ended.
fn session() -> impl Strategy<Value = (Packed<'static>, [(Vec<u8>, bool); 2])> {
    let unsent = || (vec(any::<u8>(), 0..3), any::<bool>());
    let side = || select(vec![None, Some(Side::Client), Some(Side::Upstream)]);
    let tunnel = (upstream(), duration(), any::<(u64, u64)>(), side(), side()).prop_map(
        |(upstream, open_for, (up, down), ended_first, deaf)| {
            let flows = Both::default();
            PackedTunnel { upstream, open_for, up, down, ended_first, deaf, flows }
        },
    );
    let session = (any::<(u64, u32, bool)>(), client(), option::of(duration()), option::weighted(0.9, tunnel))
        .prop_map(|((session, request, is_client_done), client, time_left, tunnel)| {
            let number = Number { session, request };
            Packed { number, client, is_client_done, time_left, tunnel }
        });
    (session, [unsent(), unsent()])
}

fn put<'a>(flows: &'a [(Vec<u8>, bool); 2], session: Packed<'a>) -> Packed<'a> {
    let [client, upstream] = flows.each_ref().map(|(unsent, has_ended)| PackedFlow { unsent, has_ended: *has_ended });
    let tunnel = session.tunnel.map(|tunnel| PackedTunnel { flows: Both { client, upstream }, ..tunnel });
    Packed { tunnel, ..session }
}

proptest! {
    #![proptest_config(cases(4000))]

    #[test]
    fn what_can_be_arrives_and_nothing_else_does((session, flows) in session()) {
        let session = put(&flows, session);
        if session.tunnel.as_ref().is_none_or(can_be) {
            bodies::packed::keeps(&session);
        } else {
            let mut record = Vec::new();
            session.encode(&mut record);
            prop_assert!(Packed::decode(&record).is_err());
        }
    }

    #[test]
    fn a_changed_record_is_refused_or_a_session((session, flows) in session(), places in vec(any::<(Index, u8)>(), 1..4)) {
        let mut record = Vec::new();
        put(&flows, session).encode(&mut record);
        for (place, byte) in places {
            let place = place.index(record.len());
            record[place] = byte;
        }
        bodies::packed(&record);
    }

    #[test]
    fn garbage_is_no_record(bytes in vec(prop_oneof![0..8_u8, any::<u8>()], 0..120)) {
        bodies::packed(&bytes);
        // The same behind a length that is true.
        bodies::packed(&[&(bytes.len() as u32).to_le_bytes(), bytes.as_slice()].concat());
    }
}

#[test]
fn as_much_as_may_wait_unsent_arrives() {
    let bytes = vec![b'x'; UNSENT_BYTES_MAX];
    let flow = PackedFlow { unsent: &bytes, has_ended: false };
    let upstream = Some(Address::Unix("p".repeat(1024).into()));
    let tunnel = PackedTunnel {
        upstream,
        open_for: Duration::ZERO,
        up: 0,
        down: 0,
        ended_first: None,
        deaf: None,
        flows: Both { client: flow, upstream: flow },
    };
    let number = Number { session: 1, request: 1 };
    let client = ClientAddress::Tcp([0; 16].into(), 1);
    bodies::packed::keeps(&Packed { number, client, is_client_done: false, time_left: None, tunnel: Some(tunnel) });
}
