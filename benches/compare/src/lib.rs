//! What the load, the upstream and the relay have in common.
//!
//! All of them are one thread and one edge-triggered epoll, so that one core shows what a program costs.

#![forbid(unsafe_code)]

pub mod net;
pub mod wire;
