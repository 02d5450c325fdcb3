//! An upgrade that is under way: the new process, who asked for it, and what it has been given.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::proxy::moment::Moment;
use crate::server::control::Connection;
use crate::server::giver::{Giver, SILENCE_MAX};
use crate::server::supervisor::Supervisor;

/// The variable of the environment that tells a new process whose place it is to take: the path of that one's control socket.
pub const TAKE_OVER: &str = "HAWKEY_TAKE_OVER";

/// How soon a new process that has not asked for anything is looked at again: it may have ended.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// How the program is started anew.
#[derive(Clone, Debug)]
pub struct Program {
    /// Its path.
    pub path: PathBuf,
    /// The arguments behind its name.
    pub arguments: Vec<OsString>,
}

/// The new process, until it serves or has failed.
#[derive(Debug)]
pub struct Upgrade {
    /// Who wants to know what came of it; nobody if it was a signal.
    pub asker: Option<Connection>,
    child: Child,
    began: Moment,
    /// What it is given, once it has asked, and when that was.
    pub giver: Option<(Giver, Moment)>,
}

impl Upgrade {
    /// Starts `program`, or the one at `path` with its arguments, to take over from the process with its control socket at `control`.
    pub fn start(
        program: &Program,
        path: Option<&Path>,
        control: &Path,
        asker: Option<Connection>,
        now: Moment,
    ) -> Result<Upgrade, (String, Option<Connection>)> {
        let path = path.unwrap_or(&program.path);
        let mut command = Command::new(path);
        command.args(&program.arguments).stdin(Stdio::null()).env(TAKE_OVER, control);
        for variable in Supervisor::OWN_VARIABLES {
            command.env_remove(variable);
        }
        match command.spawn() {
            Ok(child) => Ok(Upgrade { asker, child, began: now, giver: None }),
            Err(error) => Err((format!("{} cannot be started: {error}", path.display()), asker)),
        }
    }

    /// The process id of the new process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Milliseconds since it was asked for, and since the first of what moves was held still.
    pub fn millis(&self, now: Moment) -> (u128, u128) {
        let since = |begin| now.saturating_duration_since(begin).as_millis();
        (since(self.began), self.giver.as_ref().map_or(0, |(_, begin)| since(*begin)))
    }

    /// When there is something to do without an event.
    pub fn next_due(&self, now: Moment) -> Moment {
        match &self.giver {
            Some((giver, _)) => giver.deadline().unwrap_or(now),
            None => now + LOOK_EVERY,
        }
    }

    /// Why the new process will never serve, if that is known: it has ended, or said nothing for too long.
    pub fn has_failed(&mut self, now: Moment) -> Option<String> {
        let until = match &self.giver {
            Some((giver, _)) => giver.deadline()?,
            None => self.began + SILENCE_MAX,
        };
        match self.child.try_wait() {
            Ok(Some(status)) => Some(format!("the new process has ended ({status}) before it served")),
            Err(error) => Some(format!("the new process cannot be watched: {error}")),
            Ok(None) if until <= now => Some(format!("the new process said nothing for {} s", SILENCE_MAX.as_secs())),
            Ok(None) => None,
        }
    }

    /// Ends the new process, which will not serve.
    pub fn end(&mut self) -> io::Result<()> {
        self.child.kill()?;
        self.child.wait().map(drop)
    }
}
