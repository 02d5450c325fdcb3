//! Who comes in, and when nobody may.

use std::io;
use std::time::Duration;

use crate::config::Config;
use crate::os::errors;
use crate::proxy::session::Session;
use crate::server::event_loop::EventLoop;
use crate::server::pair::Pair;
use crate::server::table::{Holder, PairKey};

/// Connections accepted in one turn and from one listener, so that a wave of them does not make tunnels wait.
const ACCEPTS_MAX: usize = 16;
/// How long accepting pauses when descriptors have run out and none of ours is given back.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How often the log says that accepting is paused.
const ACCEPT_WARNING: Duration = Duration::from_secs(1);

impl EventLoop {
    /// Whether somebody may wait whom there is room for.
    pub(super) fn may_accept(&self) -> bool {
        if !self.listeners.iter().any(|listener| listener.is_ready) {
            return false;
        }
        let is_given = self.upgrade.as_ref().is_some_and(|upgrade| upgrade.giver.is_some());
        let is_paused = is_given || self.accept_paused_until.is_some_and(|until| until > self.turn.now);
        !is_paused && self.pairs.len() < self.connections_max
    }

    /// Accepts those who wait, as far as one turn goes.
    pub(super) fn accept(&mut self) {
        for index in 0..self.listeners.len() {
            for _ in 0..ACCEPTS_MAX {
                if !self.may_accept() || !self.accept_one(index) {
                    break;
                }
            }
        }
    }

    /// Accepts who waits at a listener that is about to close: the kernel has promised an answer.
    pub(super) fn accept_all(&mut self, index: usize) {
        self.listeners.iter_mut().skip(index).take(1).for_each(|listener| listener.is_ready = true);
        while self.pairs.len() < self.connections_max && self.accept_one(index) {}
    }

    /// Whether another client may wait.
    fn accept_one(&mut self, index: usize) -> bool {
        let Some(listener) = self.listeners.get_mut(index).filter(|listener| listener.is_ready) else { return false };
        let (socket, client) = match listener.accept() {
            Ok(Some(accepted)) => accepted,
            Ok(None) => return false,
            Err(error) => {
                self.pause_accepting(&error);
                return false;
            }
        };
        let entry = self.pairs.vacant_entry();
        let Ok(place) = u32::try_from(entry.key()) else { return false };
        let key = PairKey(place);
        match self.net.table.insert(socket, Holder::Client(key), &self.net.registry) {
            Ok(socket) => {
                self.sessions += 1;
                let session = Session::new(self.sessions, client, &self.turn);
                log::debug!("session={} request=0 event=accepted client={client}", self.sessions);
                let pair = entry.insert(Pair::new(session, socket));
                self.deadlines.arm(key, pair.session().deadline(), &mut pair.armed);
                true
            }
            Err(error) => {
                log::error!("event=error why=\"a connection could not be watched: {error}\"");
                true
            }
        }
    }

    /// What waits in the listener's queue stays there and is lost to nobody. Idle upstream connections are given up for it, but
    /// not the last: without an upstream, another client could not be served.
    fn pause_accepting(&mut self, error: &io::Error) {
        if errors::have_run_out(error)
            && self.net.upstreams.idle() > 1
            && let Some(oldest) = self.net.upstreams.evict()
        {
            self.net.table.close(oldest);
            return;
        }
        let now = self.turn.now;
        if self.accept_warned.is_none_or(|warned| now.saturating_duration_since(warned) > ACCEPT_WARNING) {
            self.accept_warned = Some(now);
            log::warn!("event=accept-paused why=\"{error}\" sessions={}", self.pairs.len());
        }
        self.accept_paused_until = Some(now + ACCEPT_PAUSE);
        self.attend_by(now + ACCEPT_PAUSE);
    }
}

/// How many clients there may be at once.
pub(super) fn connections_max(config: &Config, descriptors: usize) -> usize {
    let connections_max = config.connections.unwrap_or((descriptors / 2).saturating_sub(16).max(1));
    if connections_max > descriptors / 2 {
        log::warn!(
            "connections={connections_max} descriptors={descriptors} why=\"a proxied connection takes two descriptors\""
        );
    }
    connections_max
}
