//! What a running hawkey is asked on its control socket, and by signals: how things stand, to reload, to stop.

use std::process;

use jzon::{JsonValue, array, object};
use mio::Token;

use crate::config::{Config, Listen};
use crate::os::signals::{Asked, Signals};
use crate::proxy::record::Quoted;
use crate::proxy::session::Session;
use crate::server::clock;
use crate::server::control::{Connection, Request};
use crate::server::event_loop::accepting::connections_max;
use crate::server::event_loop::{CONTROL, EventLoop, keeping};
use crate::server::listener::Listener;
use crate::server::stop::Stop;

impl EventLoop {
    /// Attends to the control socket.
    pub(super) fn serve_control(&mut self) {
        let Some(control) = &mut self.control else { return };
        control.attend(&self.net.registry, CONTROL, self.turn.now);
        while let Some((connection, request)) = self.control.as_mut().and_then(|control| control.next_request()) {
            match request {
                Request::Status => self.answer(connection, Ok(self.status())),
                Request::Reload => {
                    let outcome = self.reload();
                    self.answer(connection, outcome);
                }
                Request::Stop => {
                    let told = self.stop_as_asked();
                    self.answer(connection, Ok(told));
                }
                Request::Upgrade { binary } => self.upgrade(binary, Some(connection)),
                Request::TakeOver { version } => self.hand_over_to(connection, version),
                Request::GiveUp { why } => self.give_up_upgrade(connection, &why),
            }
        }
        if let Some(control) = &mut self.control {
            control.settle(self.turn.now);
        }
    }

    pub(super) fn answer(&mut self, connection: Connection, answer: Result<JsonValue, String>) {
        if let Some(control) = &mut self.control {
            control.answer(connection, answer);
            control.stir(self.turn.now);
        }
    }

    /// Does what signals and handles ask for.
    pub(super) fn heed(&mut self) {
        for asked in self.signals.as_mut().map(Signals::take).unwrap_or_default() {
            match asked {
                Asked::Stop => drop(self.stop_as_asked()),
                // The log has told what came of it.
                Asked::Reload => drop(self.reload()),
                Asked::Upgrade => self.upgrade(None, None),
            }
        }
        match self.stop.take() {
            None => {}
            Some(Stop::InPeace) if self.stop_by.is_some() => {}
            Some(Stop::InPeace) => self.begin_to_stop(),
            Some(Stop::AtOnce) => self.stop_at_once(),
        }
    }

    /// Stops in peace; asked again, at once.
    fn stop_as_asked(&mut self) -> JsonValue {
        if self.stop_by.is_some() {
            self.stop_at_once()
        } else {
            self.begin_to_stop()
        }
        let under_way = self.pairs.iter().filter(|(_, pair)| !pair.session().is_closed()).count();
        object! { "pid": process::id(), "sessions": under_way, "drain_ms": self.drain.as_millis() as u64 }
    }

    fn status(&self) -> JsonValue {
        let mut sessions = JsonValue::new_object();
        Session::STANDINGS.iter().for_each(|standing| sessions[*standing] = 0.into());
        let mut moved = self.turn.moved;
        for (_, pair) in self.pairs.iter().filter(|(_, pair)| !pair.session().is_closed()) {
            let count = &mut sessions[pair.session().standing()];
            *count = (count.as_u64().unwrap_or_default() + 1).into();
            moved += pair.session().moved();
        }
        let mut upstreams = array![];
        for (address, idle, is_cooling) in self.net.upstreams.in_force(self.turn.now) {
            let state = if is_cooling { "failed" } else { "ok" };
            // It is an array, and takes anything.
            let _ = upstreams.push(object! { "address": address.to_string(), "state": state, "idle": idle });
        }
        let listeners: Vec<_> = self.listeners.iter().map(|listener| listener.address().to_string()).collect();
        object! {
            "version": env!("CARGO_PKG_VERSION"),
            "pid": process::id(),
            "since": humantime::format_rfc3339_seconds(self.since).to_string(),
            "configuration": self.source.name(),
            "listeners": listeners,
            "sessions": sessions,
            "bytes": object! { "up": moved.up, "down": moved.down },
            "upstreams": upstreams,
        }
    }

    /// Reads the configuration again and puts it in force. With the least thing wrong, all stays as it is.
    fn reload(&mut self) -> Result<JsonValue, String> {
        self.supervisor.reloading();
        let outcome = self.read_and_replace();
        self.supervisor.ready(&self.listeners);
        match &outcome {
            Ok(told) => log::info!(
                "reloaded listeners={} routes={} upstreams={}",
                told["listeners"],
                told["routes"],
                told["upstreams"]
            ),
            Err(why) => log::error!("event=reload-failed why={}", Quoted(why.trim_end().as_bytes())),
        }
        outcome
    }

    fn read_and_replace(&mut self) -> Result<JsonValue, String> {
        if self.is_ending() {
            return Err("hawkey is stopping".to_owned());
        }
        if self.upgrade.is_some() {
            return Err("an upgrade is under way".to_owned());
        }
        let config = self.source.read()?;
        // That may have taken a while.
        self.turn.now = clock::now();
        self.replace_listeners(&config)?;
        let told = object! {
            "configuration": self.source.name(),
            "listeners": config.listen.len(),
            "routes": config.policy.routes.iter().count(),
            "upstreams": config.policy.upstreams.len(),
            // Where it is asked for is where it must be found again: only a new process opens another.
            "control_stays": config.control != self.control_asked,
        };
        self.connections_max = connections_max(&config, self.descriptors);
        self.drain = config.drain;
        let keeping = keeping(&config);
        let (policy, gone) = self.net.upstreams.adopt(config.policy, keeping, self.turn.now);
        self.turn.put_in_force(policy);
        gone.into_iter().for_each(|key| self.net.table.close(key));
        Ok(told)
    }

    /// Opens the listeners that are new, then closes those that are no longer named. Who waits at one of them is taken in.
    fn replace_listeners(&mut self, config: &Config) -> Result<(), String> {
        // A supervisor may have passed several sockets for one.
        let current = |listen: &&Listen| self.listeners.iter().any(|listener| listener.listen() == *listen);
        let added: Vec<_> = config.listen.iter().filter(|listen| !current(listen)).collect();
        let former: Vec<_> =
            self.listeners.iter().map(Listener::listen).filter(|listen| !config.listen.contains(listen)).collect();
        if let Some((new, old)) =
            added.iter().find_map(|new| former.iter().find(|old| old.overlaps(new)).map(|old| (new, old)))
        {
            return Err(format!("{old} cannot become {new} while hawkey runs: they ask for the same port. Restart it"));
        }
        let mut opened = Vec::new();
        for listen in added {
            let mut listener = Listener::bind(listen).map_err(|error| error.to_string())?;
            let registered = listener.register(&self.net.registry, Token(self.next_listener));
            registered.map_err(|error| format!("{listen} cannot be watched: {error}"))?;
            self.next_listener += 1;
            opened.push(listener);
        }
        let former: Vec<_> = former.into_iter().cloned().collect();
        for listen in former {
            if let Some(index) = self.listeners.iter().rposition(|listener| *listener.listen() == listen) {
                self.accept_all(index);
                let gone = self.listeners.remove(index);
                log::info!("closed={}", gone.address());
            }
        }
        self.listeners.append(&mut opened);
        Ok(())
    }
}
