//! A packed session: what is read as one is a session that goes on, and says the same of itself again.

use std::rc::Rc;
use std::time::Duration;

use hawkey::proxy::moment::Moment;
use hawkey::proxy::packed::{Packed, PackedTunnel};
use hawkey::proxy::policy::Policy;
use hawkey::proxy::session::Session;
use hawkey::proxy::side::Side;
use hawkey::proxy::turn::Turn;

/// The input is records behind each other.
pub fn packed(input: &[u8]) {
    let mut rest = input;
    while let Ok((packed, behind)) = Packed::decode(rest) {
        let record = &rest[..rest.len() - behind.len()];
        for bytes in 0..record.len() {
            assert!(Packed::decode(&record[..bytes]).is_err(), "{bytes} bytes of {} are a record too", record.len());
        }
        keeps(&packed);
        rest = behind;
    }
}

/// Neither the bytes nor a session lose anything of `packed`, which is sound.
pub fn keeps(packed: &Packed) {
    let mut record = Vec::new();
    packed.encode(&mut record);
    let end = record.len();
    record.extend(b"next");
    assert_eq!(Packed::decode(&record), Ok((packed.clone(), &record[end..])), "what was encoded");

    // Two thousand million seconds after the clock began, and as far as it goes: that much can be told.
    let now = Moment::FIRST + Duration::from_secs(2_000_000_000);
    let told = |left| (now + left).saturating_duration_since(now);
    let tunnel = packed.tunnel.clone().map(|tunnel| PackedTunnel {
        open_for: now.saturating_duration_since(now.saturating_sub(tunnel.open_for)),
        ..tunnel
    });
    let packed = &Packed { time_left: packed.time_left.map(told), tunnel, ..packed.clone() };
    let turn = Turn::new(now, Rc::new(Policy::default()));
    let policy = Policy::knowing(&turn.policy, packed.upstream());
    let session = Session::unpack(packed, &policy, &turn);
    assert_eq!(session.pack(turn.now).as_ref(), Some(packed), "what was unpacked");
    assert_eq!(session.deadline(), packed.time_left.map(|left| now + left));
    assert_eq!((session.is_tunnel(), session.is_idle()), (packed.tunnel.is_some(), packed.tunnel.is_none()));

    let Some(tunnel) = &packed.tunnel else { return assert!(session.wants_read(Side::Client)) };
    let is_plain = tunnel.deaf.is_none() && Side::BOTH.into_iter().all(|from| tunnel.flows[from] == Default::default());
    assert_eq!(Side::BOTH.map(|from| session.is_straight(from)), [is_plain; 2]);
    let mut waits_for = 0;
    for from in Side::BOTH {
        let flow = tunnel.flows[from];
        assert_eq!(session.leaving(from.other()), flow.unsent);
        assert!(!session.wants_read(from) || !flow.has_ended, "an end of the {} is told once", from.as_str());
        waits_for += usize::from(session.wants_read(from)) + usize::from(session.wants_write(from.other()));
    }
    assert!(waits_for > 0, "it waits for nothing: {session:?}");
}
