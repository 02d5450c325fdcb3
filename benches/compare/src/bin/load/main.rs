//! The clients of every proxy, in slices.
//!
//! ```text
//! load ADDRESS GROUP...
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
//! A group that ends in `:browser` sends the request head of a browser, the others a short one. The load opens what the groups say and prints `ready`. Then each line on standard input is a slice: `for MS` or `times OPERATIONS`. A
//! slice ends when everything that was begun in it has come back, and is told in a line of JSON; latencies are those of echoes.
//! The end of standard input ends it all. Anything that is not as it should be ends it at once with a sentence: an echo with
//! a wrong byte, a status other than 200 or 101, a tunnel that was closed, five seconds in which nothing happens.

#![forbid(unsafe_code)]

mod client;
mod group;
mod load;

use std::error::Error;
use std::io::{self, BufRead as _, Write as _};
use std::net::SocketAddr;
use std::time::Duration;

use group::Group;
use load::{Limit, Load};

fn main() -> Result<(), Box<dyn Error>> {
    let mut words = std::env::args().skip(1);
    let address: SocketAddr = words.next().ok_or("usage: load ADDRESS GROUP...")?.parse()?;
    let groups = words.map(|word| Group::parse(&word)).collect::<Result<Vec<_>, _>>()?;
    compare::net::raise_limit();
    let mut load = Load::new(address, groups)?;
    load.open()?;
    println!("ready");
    for line in io::stdin().lock().lines() {
        let limit = match line?.split_once(' ') {
            Some(("for", number)) => Limit::Time(Duration::from_millis(number.parse()?)),
            Some(("times", number)) => Limit::Operations(number.parse()?),
            _ => return Err("a slice is `for MS` or `times OPERATIONS`".into()),
        };
        println!("{}", load.slice(limit)?);
        io::stdout().flush()?;
    }
    Ok(())
}
