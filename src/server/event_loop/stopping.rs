//! The end: in peace, or at once.

use crate::proxy::session::Session;
use crate::proxy::turn::Turn;
use crate::server::event_loop::EventLoop;
use crate::server::queue::Share;
use crate::server::table::PairKey;

impl EventLoop {
    /// No more clients; idle sessions end now, the others when their exchanges do, all of them when the time is over.
    pub(super) fn begin_to_stop(&mut self) {
        self.fail_upgrade("hawkey was asked to stop");
        let sessions = self.pairs.iter().filter(|(_, pair)| !pair.has_ended()).count();
        log::info!("stopping sessions={sessions} drain_ms={}", self.drain.as_millis());
        self.supervisor.stopping(sessions, self.drain);
        for index in 0..self.listeners.len() {
            self.accept_all(index);
        }
        self.listeners.clear();
        if let Some(control) = &mut self.control {
            control.close();
        }
        self.turn.stopping = true;
        self.stop_by = Some(self.turn.now + self.drain);
        while let Some(idle) = self.net.upstreams.evict() {
            self.net.table.close(idle);
        }
        self.tell_all(|session, _| session.stop());
    }

    /// All sessions end now.
    pub(super) fn stop_at_once(&mut self) {
        if self.stop_by.is_none() {
            self.begin_to_stop();
        }
        self.stop_by = Some(self.turn.now);
        self.part_from_successor();
        self.tell_all(Session::stop_now);
    }

    /// Tells every session the same, but for those that are on their way to another process.
    pub(super) fn tell_all(&mut self, tell: impl Fn(&mut Session, &mut Turn)) {
        let keys: Vec<_> = self.pairs.iter().map(|(key, _)| PairKey(key as u32)).collect();
        for key in keys {
            // First what has come meanwhile, told or not: a request that is here already has begun.
            if let Some(pair) = self.pairs.get_mut(key.0 as usize) {
                pair.expect_client(&mut self.net);
            }
            self.drive(Share::only(key));
            if let Some(pair) = self.pairs.get_mut(key.0 as usize)
                && !pair.noted.is_frozen
                && !pair.has_ended()
            {
                tell(pair.session_mut(), &mut self.turn);
                self.drive(Share::only(key));
            }
        }
    }
}
