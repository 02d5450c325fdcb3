//! What this process takes over from the one before it: its listeners and its control socket before it serves, and its sessions, then and
//! later.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::mem;
use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use jzon::{JsonValue, object};

use crate::config::Listen;
use crate::server::control::{Control, PROTOCOL};
use crate::server::giver::SILENCE_MAX;
use crate::server::handover::{Channel, Kind, Message, Outgoing, VERSION};
use crate::server::listener::{BindError, Listener};

/// Bytes of a reason that are told. With all that escaping may add, a request has room for them.
const WHY_BYTES_MAX: usize = 400;

/// What has been given so far, and the connection over which the rest comes.
#[derive(Debug)]
pub struct Taker {
    channel: Channel,
    /// What the configuration of the former process calls each listener, whether its file is to be removed at the end, and the socket.
    listeners: Vec<(String, bool, OwnedFd)>,
    control: Option<(PathBuf, OwnedFd)>,
    /// What this configuration has no use for.
    left: (Vec<Listener>, Option<Control>),
    /// The first message that is about neither.
    first: Option<Message>,
    /// Something may have come.
    pub is_stirred: bool,
}

impl Taker {
    /// Asks the process whose control socket is at `path` for its place, and takes what comes before the sessions.
    ///
    /// # Errors
    ///
    /// Why nothing is to be had there, as a sentence.
    pub fn ask(path: &Path) -> Result<Taker, String> {
        let failed = |error: io::Error| format!("nothing can be taken over at {}: {error}", path.display());
        let request = object! { "protocol": PROTOCOL, "ask": "take-over", "handover": VERSION };
        let stream = connect(path, &request).map_err(failed)?;
        let (listeners, control, left) = (Vec::new(), None, (Vec::new(), None));
        let channel = Channel::new(stream, Vec::new());
        let mut taker = Taker { channel, listeners, control, left, first: None, is_stirred: true };
        while taker.first.is_none() {
            let message = taker.channel.receive();
            let Message { kind, body, mut descriptors } =
                message.map_err(|error| taker.refusal().unwrap_or_else(|| failed(error)))?;
            match (kind, descriptors.pop()) {
                (Kind::Listener { ours }, Some(socket)) => {
                    taker.listeners.push((String::from_utf8_lossy(&body).into_owned(), ours, socket));
                }
                (Kind::Control, Some(socket)) => {
                    let path = PathBuf::from(String::from_utf8_lossy(&body).into_owned());
                    taker.control = Some((path, socket));
                }
                (_, last) => {
                    descriptors.extend(last);
                    taker.first = Some(Message { kind, body, descriptors });
                }
            }
        }
        Ok(taker)
    }

    /// Tells the process whose control socket is at `path` that nobody will take its place, and why. It is not insisted on.
    pub fn give_up(path: &Path, why: &str) {
        // As much as a request may have, and no part of a character.
        let shown = why.char_indices().take_while(|(at, _)| *at < WHY_BYTES_MAX).map(|(_, letter)| letter);
        let request = object! { "protocol": PROTOCOL, "ask": "give-up", "why": shown.collect::<String>() };
        // The answer is no news, but who leaves before it would not be heard.
        let _ = connect(path, &request).and_then(|mut stream| stream.read(&mut [0; 256]));
    }

    /// What it was told instead of being given anything.
    fn refusal(&self) -> Option<String> {
        let answer = jzon::parse(str::from_utf8(self.channel.unread()).ok()?.lines().next()?).ok()?;
        answer["error"].as_str().map(str::to_owned)
    }

    /// Listens as each of `listen` says: on all that came and that it names, or if there are none on a socket that is bound now.
    pub fn listen(&mut self, listen: &[Listen]) -> Result<Vec<Listener>, BindError> {
        let mut listeners = Vec::new();
        for (name, ours, socket) in self.listeners.drain(..) {
            let meant = listen.iter().find(|listen| listen.to_string() == name);
            let taken = Listener::taken(socket, meant, ours).map_err(BindError::passed)?;
            if meant.is_some() { &mut listeners } else { &mut self.left.0 }.push(taken);
        }
        for listen in listen {
            if !listeners.iter().any(|listener| listener.listen() == listen) {
                listeners.push(Listener::bind(listen)?);
            }
        }
        Ok(listeners)
    }

    /// The control socket that came, if it is to be at this path.
    pub fn control(&mut self, at: Option<&Path>) -> Option<Control> {
        let (path, socket) = self.control.take()?;
        let is_meant = at == Some(path.as_path());
        let control = Control::taken(path, socket);
        if is_meant {
            return Some(control);
        }
        self.left.1 = Some(control);
        None
    }

    /// The former process has gone: these are the listeners that nobody has a use for, to be closed. Their files go with them, and so has
    /// that of a control socket.
    pub fn take_what_is_left(&mut self) -> Vec<Listener> {
        let (listeners, control) = mem::take(&mut self.left);
        control.into_iter().for_each(|mut control| control.own_file());
        let mut listeners = listeners;
        listeners.iter_mut().for_each(Listener::own_file);
        listeners
    }

    /// The next message about sessions.
    pub fn receive(&mut self) -> io::Result<Message> {
        self.first.take().map_or_else(|| self.channel.receive(), Ok)
    }

    /// Says one word.
    pub fn say(&self, kind: Kind, body: &str) -> io::Result<()> {
        let mut message = Outgoing::new(kind, 0, |into| into.extend_from_slice(body.as_bytes()));
        // There is always room for one: the other side reads each before it goes on.
        if self.channel.send(&mut message, &[])? { Ok(()) } else { Err(ErrorKind::WouldBlock.into()) }
    }

    /// Says why it cannot go on. It is not insisted on.
    pub fn refuse(&self, why: &str) {
        let _ = self.say(Kind::Refused, &format!("the new process cannot take over: {why}"));
    }

    /// Says that all of it has come, and waits until it is this process's: that is so as well if the former one has ended. For how long is
    /// for that one to say, which would end this process rather than go on beside it.
    pub fn take(&mut self) -> io::Result<()> {
        self.channel.set_patient()?;
        self.say(Kind::Taken, "")?;
        match self.channel.receive() {
            Ok(Message { kind: Kind::Yours, .. }) => Ok(()),
            Ok(message) => Err(io::Error::other(format!("{:?} was not expected", message.kind))),
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// The descriptor to be watched.
    pub fn raw_fd(&self) -> RawFd {
        self.channel.raw_fd()
    }

    /// From here on nothing is waited for.
    pub fn set_nonblocking(&self) -> io::Result<()> {
        self.channel.set_nonblocking()
    }
}

fn connect(path: &Path, request: &JsonValue) -> io::Result<UnixStream> {
    let mut stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(SILENCE_MAX))?;
    stream.set_write_timeout(Some(SILENCE_MAX))?;
    match stream.write_all(format!("{}\n", request.dump()).as_bytes()) {
        // Who is not listened to has been told so already.
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error),
        _ => Ok(stream),
    }
}
