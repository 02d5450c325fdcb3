//! What it costs to return from a function that has called the kernel: see docs/decisions/0012.
//!
//! `returns` sends a few bytes over a socket pair and receives them, over and over: in one loop without a return, and in a function
//! that returns each time. It prints both in nanoseconds, the least of some rounds.

#![forbid(unsafe_code)]

use std::error::Error;
use std::hint::black_box;
use std::os::fd::OwnedFd;
use std::time::Instant;

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair};

const ROUNDS: usize = 7;
const TIMES: u32 = 100_000;

fn main() -> Result<(), Box<dyn Error>> {
    let pair = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    let (mut inlined, mut returned) = (u128::MAX, u128::MAX);
    for _ in 0..ROUNDS {
        inlined = inlined.min(nanos(|| exchange(&pair)));
        returned = returned.min(nanos(|| exchange_and_return(&pair)));
    }
    println!("without a return {inlined} ns, with one {returned} ns");
    Ok(())
}

#[inline(always)]
fn nanos(mut act: impl FnMut()) -> u128 {
    let begun = Instant::now();
    for _ in 0..TIMES {
        act();
    }
    begun.elapsed().as_nanos() / u128::from(TIMES)
}

#[inline(always)]
fn exchange((here, there): &(OwnedFd, OwnedFd)) {
    let mut room = [0; 64];
    // Neither can fail: the pair is this function's own, and never more is in it than it takes.
    let _ = black_box(send(here, b"as many bytes as a short message", SendFlags::empty()));
    let _ = black_box(recv(there, &mut room[..], RecvFlags::empty()));
}

#[inline(never)]
fn exchange_and_return(pair: &(OwnedFd, OwnedFd)) {
    exchange(pair);
}
