//! What the load and the relay are made of.
//!
//! Both are one thread and one edge-triggered epoll, so that one core shows what a program costs.

#![forbid(unsafe_code)]

pub mod application;
pub mod net;
pub mod wire;
