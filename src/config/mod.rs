//! Text into listeners and a [`Policy`].
//!
//! What is written is either a TOML file or the words of a command line; both are held to the same rules (`check`), and what
//! breaks one is shown at its place ([`ConfigError`]). A [`Config`] prints itself as the file that would give it, with every
//! default filled in. Names of upstreams are resolved here, so this is where hawkey may wait for a name server.

mod address;
mod check;
mod control;
mod effective;
mod error;
mod file;
mod pattern;
mod quantity;

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

pub use control::{Control, default_folder, found};
pub use error::{ConfigError, nearest};

use crate::proxy::policy::{Address, Policy};

/// All that hawkey is told before it starts.
///
/// ```
/// use hawkey::Config;
///
/// let config = Config::new()
///     .listen("127.0.0.1:0")?
///     .route("/", ["127.0.0.1:3000"])?
///     .route("/chat", ["127.0.0.1:4000", "127.0.0.1:4001"])?;
/// assert_eq!(config.policy.upstreams.len(), 3);
///
/// let same = Config::from_toml(&config.to_string())?;
/// assert_eq!(same, config);
/// # Ok::<(), hawkey::ConfigError>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Where clients come in.
    pub listen: Vec<Listen>,
    /// Where the control socket is, if one is asked for: see [`Server::open_control`](crate::Server::open_control).
    pub control: Control,
    /// What sessions are held to, and where their requests go.
    pub policy: Policy,
    /// Client connections at once, beyond which accepting pauses. `None`: half of the descriptor limit less 16, worked out at
    /// the start, because a proxied connection takes two descriptors.
    pub connections: Option<usize>,
    /// Idle upstream connections kept for reuse, in all. 0 keeps none.
    pub idle_upstreams: usize,
    /// How long an idle upstream connection is kept.
    pub upstream_idle: Duration,
    /// How long an upstream that just failed is skipped while its route has others.
    pub cool_down: Duration,
    /// How long exchanges and tunnels may go on after a stop.
    pub drain: Duration,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            listen: Vec::new(),
            control: Control::Default,
            policy: Policy::default(),
            connections: None,
            idle_upstreams: 128,
            upstream_idle: Duration::from_secs(30),
            cool_down: Duration::from_secs(2),
            drain: Duration::from_secs(30),
        }
    }
}

impl Config {
    /// Every default, and neither a listener nor a route yet.
    pub fn new() -> Config {
        Config::default()
    }

    /// Adds a listener: `:8080`, `127.0.0.1:8080`, `[::1]:8080`, `unix:/path` or `systemd:NAME`. Port 0 lets the kernel choose.
    ///
    /// # Errors
    ///
    /// If `text` is no listener, is already listened on, or is an upstream of a route.
    pub fn listen(self, text: &str) -> Result<Config, ConfigError> {
        check::listener(self, text)
    }

    /// Adds a route: requests that `matching` says (`/`, `/api`, `example.com`, `*.example.com/api`) are answered by each of
    /// `upstreams` in turn (`127.0.0.1:3000`, `[::1]:3000`, `name:3000`, `unix:/path`). Names are resolved now.
    ///
    /// # Errors
    ///
    /// If a text cannot be understood, a name is unknown, another route has the same match, or an upstream is one of the
    /// listeners.
    pub fn route<T: AsRef<str>>(
        self,
        matching: &str,
        upstreams: impl IntoIterator<Item = T>,
    ) -> Result<Config, ConfigError> {
        let upstreams: Vec<T> = upstreams.into_iter().collect();
        check::route(self, matching, &upstreams.iter().map(AsRef::as_ref).collect::<Vec<_>>())
    }

    /// Reads a configuration file's text. The keys are described in `docs/configuration.md`.
    ///
    /// # Errors
    ///
    /// Everything in it that cannot be understood, each with its line and column.
    ///
    /// ```
    /// let error = hawkey::Config::from_toml("listen = ':8080'\nfault_staus = 502").unwrap_err();
    /// assert!(error.to_string().contains("did you mean `fault_status`?"));
    /// ```
    pub fn from_toml(text: &str) -> Result<Config, ConfigError> {
        check::toml(text)
    }

    /// Reads of a configuration file's text only where its control socket is, if it says enough for that. Names are not resolved, and
    /// mistakes elsewhere are for the hawkey to tell of that is asked there.
    ///
    /// # Errors
    ///
    /// If its listeners or its control socket cannot be understood.
    pub fn control_path(text: &str) -> Result<Option<PathBuf>, ConfigError> {
        let config = check::control_alone(text)?;
        Ok(config.control.path(config.listen.first()))
    }

    /// Reads the words of a command line: listeners, and routes as `MATCH=UPSTREAM[,UPSTREAM...]`, in any order.
    ///
    /// # Errors
    ///
    /// Everything in them that cannot be understood; no listener; no route.
    ///
    /// ```
    /// let config = hawkey::Config::from_words([":8080", "/=127.0.0.1:3000", "example.com/api=unix:/run/api.sock"])?;
    /// assert_eq!(config.policy.upstreams.len(), 2);
    /// # Ok::<(), hawkey::ConfigError>(())
    /// ```
    pub fn from_words<T: AsRef<str>>(words: impl IntoIterator<Item = T>) -> Result<Config, ConfigError> {
        let words: Vec<T> = words.into_iter().collect();
        check::words(&words.iter().map(AsRef::as_ref).collect::<Vec<_>>())
    }
}

/// What the name of sockets that a supervisor passes stands behind.
const PASSED: &str = "systemd:";

/// Where clients come in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// A port of every address of the machine, of both IP families: `:8080`.
    EveryAddress(u16),
    /// One address.
    Address(Address),
    /// The sockets that a supervisor passes by this name: `systemd:web`.
    Passed(String),
}

impl Listen {
    /// Whether one of the two cannot be bound as long as the other is.
    pub fn overlaps(&self, other: &Listen) -> bool {
        address::overlap(self, other)
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Listen::EveryAddress(port) => write!(f, ":{port}"),
            Listen::Address(address) => address.fmt(f),
            Listen::Passed(name) => write!(f, "{PASSED}{name}"),
        }
    }
}
