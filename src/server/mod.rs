//! The event loop: sockets, the clock, the pool of upstream connections. It knows nothing of HTTP.
//!
//! [`event_loop`] is where to begin; [`pair`] is where bytes move.

mod control;
mod deadlines;
mod event_loop;
mod journal;
mod listener;
mod pair;
mod socket;
mod source;
mod stop;
mod supervisor;
mod table;
mod upstreams;

use std::io;
use std::sync::Arc;

use mio::{Poll, Waker};

use crate::config::{self, Config, Listen};
use crate::os::signals::Signals;
use crate::proxy::policy::Address;
use crate::server::control::Control;
use crate::server::event_loop::{EventLoop, WAKE};
use crate::server::listener::Listener;
use crate::server::source::Source;
use crate::server::stop::StopFlag;

pub use crate::server::control::PROTOCOL as CONTROL_PROTOCOL;
pub use crate::server::journal::start as start_log;
pub use crate::server::listener::BindError;
pub use crate::server::stop::Handle;
pub use crate::server::supervisor::Supervisor;

/// A proxy that listens: clients may connect from here on, and are answered once it [runs](Server::run).
#[derive(Debug)]
pub struct Server {
    config: Config,
    poll: Poll,
    listeners: Vec<Listener>,
    addresses: Vec<Address>,
    signals: Option<Signals>,
    control: Option<Control>,
    source: Source,
    supervisor: Supervisor,
    stop: Arc<StopFlag>,
    handle: Handle,
}

impl Server {
    /// Binds every listener of `config`.
    ///
    /// # Errors
    ///
    /// One clear sentence about the first listener that cannot be bound; the others are let go again.
    pub fn bind(config: Config) -> Result<Server, BindError> {
        Server::bind_under(Supervisor::nobody(), config)
    }

    /// The same with the sockets that `supervisor` passed, where listeners have their addresses or name them. It is told when clients
    /// are served, when that ends, and in between that the loop turns.
    ///
    /// # Errors
    ///
    /// As for [`bind`](Server::bind); and about a passed socket that belongs to no listener, or a named one that was not passed.
    pub fn bind_under(mut supervisor: Supervisor, config: Config) -> Result<Server, BindError> {
        let listeners = listener::listen(&config.listen, supervisor.take_passed())?;
        let addresses = listeners.iter().map(|listener| listener.address().clone()).collect();
        let (poll, waker) = Poll::new()
            .and_then(|poll| Waker::new(poll.registry(), WAKE).map(|waker| (poll, Arc::new(waker))))
            .map_err(BindError::event_queue)?;
        let stop = Arc::new(StopFlag::default());
        let handle = Handle::new(stop.clone(), waker);
        let source = Source::default();
        Ok(Server {
            config,
            poll,
            listeners,
            addresses,
            signals: None,
            control: None,
            source,
            supervisor,
            stop,
            handle,
        })
    }

    /// Where it listens: on what was passed, then in the order of the configuration, with the ports that the kernel gave.
    pub fn addresses(&self) -> &[Address] {
        &self.addresses
    }

    /// Something to stop it with, from any thread.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Opens the control socket where [`Config::control`] says. If nothing is said, it is a default path, and hawkey goes on
    /// without a control socket, which the log tells, where that cannot be bound.
    ///
    /// # Errors
    ///
    /// If a path is said and cannot be bound.
    pub fn open_control(&mut self) -> Result<(), BindError> {
        let first = self.listeners.iter().find(|listener| Some(listener.listen()) == self.config.listen.first());
        let first = first.map(|listener| match listener.listen() {
            passed @ Listen::Passed(_) => passed.clone(),
            // With the port that the kernel gave.
            _ => Listen::Address(listener.address().clone()),
        });
        let Some(path) = self.config.control.path(first.as_ref()) else { return Ok(()) };
        self.control = match (Control::bind(&path), &self.config.control) {
            (Err(error), config::Control::Default) => {
                log::warn!("event=no-control why=\"{error}\"");
                None
            }
            (bound, _) => Some(bound?),
        };
        Ok(())
    }

    /// Says how the configuration is read again, on SIGHUP or when the control socket is asked to: by `read`, which gives it or a
    /// text on why it cannot be had, and which the loop waits for. People know it by `name`.
    pub fn reload_by(
        &mut self,
        name: impl Into<String>,
        read: impl FnMut() -> Result<Config, String> + Send + 'static,
    ) {
        self.source = Source::new(name.into(), Box::new(read));
    }

    /// Lets signals stop it: SIGTERM or SIGINT as [`Handle::stop`], a second one as [`Handle::stop_now`]; and SIGHUP read the
    /// configuration again: see [`reload_by`](Server::reload_by).
    pub fn stop_on_signals(&mut self) -> io::Result<()> {
        self.signals = Some(Signals::catch()?);
        Ok(())
    }

    /// Serves until it is stopped.
    ///
    /// # Errors
    ///
    /// Only if the kernel's event queue fails; whatever clients and upstreams do is no error here.
    pub fn run(self) -> io::Result<()> {
        EventLoop::new(self)?.run()
    }
}
