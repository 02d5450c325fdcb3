//! How long a program takes from its start until it accepts a connection.
//!
//! `start ADDRESS TIMES CORE OWN_CORE COMMAND...` starts the command on one core so many times, and from another core tries to
//! connect to the address until that succeeds. Prints the milliseconds of each start, one a line.

#![forbid(unsafe_code)]

use std::error::Error;
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{CpuSet, sched_setaffinity};

const PATIENCE: Duration = Duration::from_secs(5);

fn main() -> Result<(), Box<dyn Error>> {
    let words = std::env::args().skip(1).collect::<Vec<_>>();
    let [address, times, core, own_core, program, arguments @ ..] = &words[..] else {
        return Err("usage: start ADDRESS TIMES CORE OWN_CORE COMMAND...".into());
    };
    let address: SocketAddr = address.parse()?;
    let (core, own_core) = (core.parse()?, own_core.parse()?);
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    for _ in 0..times.parse::<usize>()? {
        // A child inherits the core.
        pin(core)?;
        let begun = Instant::now();
        let mut child = Guard(command.spawn()?);
        pin(own_core)?;
        while TcpStream::connect(address).is_err() {
            if begun.elapsed() > PATIENCE {
                return Err(format!("{program} does not listen after {PATIENCE:?}").into());
            }
        }
        println!("{:.3}", begun.elapsed().as_secs_f64() * 1e3);
        child.end()?;
        while TcpStream::connect(address).is_ok() {
            sleep(Duration::from_millis(1));
        }
    }
    Ok(())
}

fn pin(core: usize) -> Result<(), Box<dyn Error>> {
    let mut cores = CpuSet::new();
    cores.set(core);
    Ok(sched_setaffinity(None, &cores)?)
}

/// A child that does not outlive this.
struct Guard(Child);

impl Guard {
    fn end(&mut self) -> Result<(), Box<dyn Error>> {
        let pid = Pid::from_raw(self.0.id().try_into()?).ok_or("a process without a number")?;
        kill_process(pid, Signal::TERM)?;
        let begun = Instant::now();
        while self.0.try_wait()?.is_none() {
            if begun.elapsed() > PATIENCE {
                self.0.kill()?;
            }
            sleep(Duration::from_millis(1));
        }
        Ok(())
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
