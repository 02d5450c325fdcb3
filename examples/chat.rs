//! A chat over WebSockets, to see that an upgrade of hawkey is noticed by nobody: docs/upgrade.md has the commands.
//!
//! `chat serve ADDRESS` is the application, which passes on what each member says to all others. `chat join ADDRESS NAME` is a member:
//! lines from standard input are said, and what others say is printed. It never connects a second time.

use std::error::Error;
use std::io::{self, BufRead as _, ErrorKind};
use std::net::{TcpListener, TcpStream};
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use std::{env, thread};

use tungstenite::{Message, WebSocket, accept, client};

/// How long something to say may have to wait.
const TURN: Duration = Duration::from_millis(20);

/// Where each member hears what the others say.
type Members = Arc<Mutex<Vec<Sender<String>>>>;

fn main() -> ExitCode {
    let words: Vec<String> = env::args().skip(1).collect();
    let done = match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["serve", address] => serve(address),
        ["join", address, name] => join(address, name),
        _ => Err("usage: chat serve ADDRESS | chat join ADDRESS NAME".into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("chat: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(address: &str) -> Result<(), Box<dyn Error>> {
    let listener = TcpListener::bind(address)?;
    println!("chat: serving on {}", listener.local_addr()?);
    let members = Members::default();
    for stream in listener.incoming() {
        let (stream, members) = (stream?, members.clone());
        // A member that leaves ends its thread, and is nobody's loss.
        thread::spawn(move || accept(stream).ok().map(|socket| attend(socket, members)));
    }
    Ok(())
}

/// A member, from its handshake until it leaves.
fn attend(socket: WebSocket<TcpStream>, members: Members) {
    let (own, others) = channel();
    members.lock().expect("nobody panics").push(own.clone());
    // An error is how it leaves.
    let _ = converse(socket, &others, |said| {
        // Itself included, which shows that it was heard. Who has left is forgotten.
        members.lock().expect("nobody panics").retain(|member| member.send(said.clone()).is_ok());
    });
}

fn join(address: &str, name: &str) -> Result<(), Box<dyn Error>> {
    let (socket, _) = client(format!("ws://{address}/"), TcpStream::connect(address)?)?;
    let (say, to_say) = channel();
    say.send(format!("{name} is here"))?;
    let name = name.to_owned();
    thread::spawn(move || {
        io::stdin().lock().lines().map_while(Result::ok).try_for_each(|line| say.send(format!("{name}: {line}")))
    });
    converse(socket, &to_say, |said| println!("{said}"))
}

/// Says what is to be said and hears what comes, until either ends.
fn converse(
    mut socket: WebSocket<TcpStream>,
    to_say: &Receiver<String>,
    mut hear: impl FnMut(String),
) -> Result<(), Box<dyn Error>> {
    socket.get_ref().set_nodelay(true)?;
    socket.get_ref().set_read_timeout(Some(TURN))?;
    loop {
        match to_say.try_recv() {
            Ok(said) => socket.send(Message::text(said))?,
            Err(TryRecvError::Disconnected) => return Ok(socket.close(None)?),
            Err(TryRecvError::Empty) => match socket.read() {
                Ok(Message::Text(said)) => hear(said.to_string()),
                Ok(_) => {}
                Err(tungstenite::Error::Io(error))
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(error) => return Err(error.into()),
            },
        }
    }
}
