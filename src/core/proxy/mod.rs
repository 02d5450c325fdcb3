//! One client's conversation as a deterministic machine: told facts, asked for wishes. No sockets, no clock, no files.
//!
//! [`session`] is where to begin: it is told facts and asked for wishes.

pub mod buffer;
pub mod exchange;
pub mod flow;
pub mod moment;
pub mod packed;
pub mod policy;
pub mod record;
pub mod route;
pub mod session;
pub mod side;
pub mod step;
pub mod tunnel;
pub mod turn;
