//! Both ends of every proxy: an upstream, and clients that work in slices.
//!
//! `load` listens on a port of 127.0.0.1, which it prints; that is its upstream ([`compare::application`]). Then it does what standard
//! input says, a line each:
//!
//! ```text
//! connect ADDRESS GROUP...   clients connect, and `ready` is said
//! for MS                     a slice: the clients do what they do for so long, and what was done is told in a line of JSON
//! times OPERATIONS           the same for so many operations
//! leave                      all clients go, and `left` is said
//!
//! echo:CLIENTS:BYTES      tunnels on which a message goes and comes back, the next one at once
//! get:CLIENTS:BYTES       kept connections on which one GET follows the other
//! dial:CLIENTS:BYTES      connect, handshake, one message and its echo (none of 0 bytes), close; and again
//! stream:CLIENTS:FRAMES   tunnels on which so many frames of 64 KiB are asked for, and again
//! idle:CLIENTS:BYTES      tunnels that have had one message
//! kept:CLIENTS:BYTES      kept connections that have had one response
//! half:CLIENTS:BYTES      so many bytes of a request head
//! ```
//!
//! A group that ends in `:browser` sends the request head of a browser, the others a short one. A slice ends when everything that was
//! begun in it has come back; latencies are those of echoes. Anything that is not as it should be ends the load at once with a sentence:
//! an echo with a wrong byte, a status other than 200 or 101, a tunnel that was closed, five seconds in which nothing happens.

#![forbid(unsafe_code)]

mod client;
mod group;
mod load;

use std::error::Error;
use std::io::{self, BufRead as _};
use std::time::Duration;

use group::Group;
use load::{Limit, Load};

fn main() -> Result<(), Box<dyn Error>> {
    compare::net::raise_limit();
    let mut load = Load::new()?;
    loop {
        load.wait()?;
        let mut line = String::new();
        if io::stdin().lock().read_line(&mut line)? == 0 {
            return Ok(());
        }
        load.is_told = false;
        let mut words = line.split_whitespace();
        match (words.next(), words.next()) {
            (Some("connect"), Some(address)) => {
                load.connect(address.parse()?, words.map(Group::parse).collect::<Result<_, _>>()?)?;
                println!("ready");
            }
            (Some("for"), Some(ms)) => println!("{}", load.slice(Limit::Time(Duration::from_millis(ms.parse()?)))?),
            (Some("times"), Some(number)) => println!("{}", load.slice(Limit::Operations(number.parse()?))?),
            (Some("leave"), None) => {
                load.leave();
                println!("left");
            }
            _ => return Err(format!("not understood: {line}").into()),
        }
    }
}
