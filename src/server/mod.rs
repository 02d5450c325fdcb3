//! The event loop: sockets, the clock, the pool of upstream connections. It knows nothing of HTTP.
//!
//! [`event_loop`] is where to begin; [`pair`] is where bytes move.

mod clock;
mod control;
mod deadlines;
mod event_loop;
mod giver;
mod handover;
mod journal;
mod listener;
mod pair;
mod queue;
mod socket;
mod source;
mod stop;
mod supervisor;
mod table;
mod taker;
mod upgrade;
mod upstreams;

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
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
use crate::server::taker::Taker;
use crate::server::upgrade::Program;

pub use crate::server::control::PROTOCOL as CONTROL_PROTOCOL;
pub use crate::server::journal::start as start_log;
pub use crate::server::listener::BindError;
pub use crate::server::stop::Handle;
pub use crate::server::supervisor::Supervisor;
pub use crate::server::upgrade::TAKE_OVER;

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
    program: Result<Program, String>,
    former: Option<Taker>,
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
        Server::new(supervisor, config, listeners)
    }

    /// Takes over from the process that has its control socket at `path`, and that has started this one: its listeners, as far as `config`
    /// has them too, its control socket or [another](Server::open_control), and once this server [runs](Server::run) its tunnels and the
    /// clients that wait. Until then that process goes on if anything fails.
    ///
    /// # Errors
    ///
    /// Why that process gave nothing, or about a listener that cannot be bound, as a sentence.
    pub fn take_over(supervisor: Supervisor, config: Config, path: &Path) -> Result<Server, String> {
        let mut former = Taker::ask(path)?;
        let server = former.listen(&config.listen).and_then(|listeners| {
            let mut server = Server::new(supervisor, config, listeners)?;
            server.control = former.control(server.control_path().as_deref());
            server.open_control()?;
            Ok(server)
        });
        match server {
            Ok(server) => Ok(Server { former: Some(former), ..server }),
            Err(error) => {
                former.refuse(&error.to_string());
                Err(error.to_string())
            }
        }
    }

    /// Tells the process that has its control socket at `path`, and that has started this one to take over, why that cannot be.
    pub fn give_up(path: &Path, why: &str) {
        Taker::give_up(path, why);
    }

    fn new(supervisor: Supervisor, config: Config, listeners: Vec<Listener>) -> Result<Server, BindError> {
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
            program: Err("this program has not said how it is started anew".to_owned()),
            former: None,
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
        let Some(path) = self.control_path().filter(|_| self.control.is_none()) else { return Ok(()) };
        self.control = match (Control::bind(&path), &self.config.control) {
            (Err(error), config::Control::Default) => {
                log::warn!("event=no-control why=\"{error}\"");
                None
            }
            (bound, _) => Some(bound?),
        };
        Ok(())
    }

    /// Where the control socket is to be.
    fn control_path(&self) -> Option<PathBuf> {
        let first = self.listeners.iter().find(|listener| Some(listener.listen()) == self.config.listen.first());
        let first = first.map(|listener| match listener.listen() {
            passed @ Listen::Passed(_) => passed.clone(),
            // With the port that the kernel gave.
            _ => Listen::Address(listener.address().clone()),
        });
        self.config.control.path(first.as_ref())
    }

    /// Says how this program is started anew when it is asked to give its place to a new process: the program at `path`, with
    /// `arguments` behind its name; or why it cannot be.
    pub fn upgrade_by(&mut self, path: PathBuf, arguments: Result<Vec<OsString>, String>) {
        self.program = arguments.map(|arguments| Program { path, arguments });
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
    pub fn run(mut self) -> io::Result<()> {
        let former = self.former.take();
        match (EventLoop::new(self), former) {
            (Err(error), Some(former)) => {
                former.refuse(&error.to_string());
                Err(error)
            }
            (event_loop, former) => event_loop?.run(former),
        }
    }
}
