//! What is left of a session after the 101: both directions opaque until both have ended.

use std::rc::Rc;
use std::time::Duration;

use crate::proxy::flow::Flow;
use crate::proxy::moment::Moment;
use crate::proxy::packed::PackedTunnel;
use crate::proxy::policy::{ClientAddress, Policy, UpstreamId};
use crate::proxy::record::{End, Number, OrDash, Traffic, upstream_name};
use crate::proxy::side::{Both, Side};

/// Two sockets that are one. There are thousands, most of them silent, so every field counts.
#[derive(Debug)]
pub struct Tunnel {
    policy: Rc<Policy>,
    opened: Moment,
    /// Bytes of it that were written.
    pub moved: Traffic,
    upstream: Option<UpstreamId>,
    /// Whose end of file came first.
    pub ended_first: Option<Side>,
    /// Who takes nothing more: its connection broke, and what it said before is all that is left to pass on.
    pub deaf: Option<Side>,
}

impl Tunnel {
    /// A tunnel that opens now.
    pub fn new(policy: Rc<Policy>, upstream: Option<UpstreamId>, now: Moment) -> Tunnel {
        Tunnel { policy, opened: now, moved: Traffic::default(), upstream, ended_first: None, deaf: None }
    }

    /// What another process needs to go on with it and its `flows`.
    pub fn pack<'f>(&self, flows: &'f Both<Flow>, now: Moment) -> PackedTunnel<'f> {
        PackedTunnel {
            upstream: self.upstream.and_then(|id| self.policy.upstream(id)).map(|upstream| upstream.address.clone()),
            open_for: now.saturating_duration_since(self.opened),
            up: self.moved.up,
            down: self.moved.down,
            ended_first: self.ended_first,
            deaf: self.deaf,
            flows: Both { client: flows.client.pack(), upstream: flows.upstream.pack() },
        }
    }

    /// Goes on with what was packed, under `policy`.
    pub fn unpack(packed: &PackedTunnel<'_>, policy: &Rc<Policy>, now: Moment) -> Tunnel {
        Tunnel {
            policy: Rc::clone(policy),
            opened: now.saturating_sub(packed.open_for),
            moved: Traffic { up: packed.up, down: packed.down },
            upstream: packed.upstream.as_ref().and_then(|address| policy.upstream_at(address)),
            ended_first: packed.ended_first,
            deaf: packed.deaf,
        }
    }

    /// How long it may be silent.
    pub fn silence_max(&self) -> Option<Duration> {
        self.policy.timeouts.tunnel
    }

    /// Writes the line of a tunnel that has ended.
    pub fn log(&self, number: Number, client: &ClientAddress, now: Moment, end: End<'_>) {
        log::info!(
            "{number} tunnel=closed client={client} upstream={} up={} down={} ms={} {end}",
            OrDash(upstream_name(&self.policy, self.upstream)),
            self.moved.up,
            self.moved.down,
            now.saturating_duration_since(self.opened).as_millis(),
        );
    }
}
