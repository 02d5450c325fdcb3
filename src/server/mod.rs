//! The event loop: sockets, the clock, the pool of upstream connections. It knows nothing of HTTP.
//!
//! [`event_loop`] is where to begin; [`pair`] is where bytes move.

mod deadlines;
mod event_loop;
mod journal;
mod listener;
mod pair;
mod socket;
mod stop;
mod table;
mod upstreams;

use std::io;
use std::sync::Arc;

use mio::{Poll, Waker};

use crate::config::Config;
use crate::os::signals::Signals;
use crate::proxy::policy::Address;
use crate::server::event_loop::{EventLoop, WAKE};
use crate::server::listener::Listener;
use crate::server::stop::StopFlag;

pub use crate::server::journal::start as start_log;
pub use crate::server::listener::BindError;
pub use crate::server::stop::Handle;

/// A proxy that listens: clients may connect from here on, and are answered once it [runs](Server::run).
#[derive(Debug)]
pub struct Server {
    config: Config,
    poll: Poll,
    listeners: Vec<Listener>,
    addresses: Vec<Address>,
    signals: Option<Signals>,
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
        let listeners = config.listen.iter().map(Listener::bind).collect::<Result<Vec<_>, _>>()?;
        let addresses = listeners.iter().map(|listener| listener.address().clone()).collect();
        let (poll, waker) = Poll::new()
            .and_then(|poll| Waker::new(poll.registry(), WAKE).map(|waker| (poll, Arc::new(waker))))
            .map_err(BindError::event_queue)?;
        let stop = Arc::new(StopFlag::default());
        let handle = Handle::new(stop.clone(), waker);
        Ok(Server { config, poll, listeners, addresses, signals: None, stop, handle })
    }

    /// Where it listens, in the order of the configuration, with the ports that the kernel gave.
    pub fn addresses(&self) -> &[Address] {
        &self.addresses
    }

    /// Something to stop it with, from any thread.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Lets signals stop it: SIGTERM or SIGINT as [`Handle::stop`], a second one as [`Handle::stop_now`]. SIGHUP is noted in the
    /// log and does nothing.
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
        EventLoop::new(self.config, self.poll, self.listeners, self.signals, self.stop)?.run()
    }
}
