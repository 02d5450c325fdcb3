//! The heart of hawkey: one client's conversation with an upstream, without a socket and without a clock.
//!
//! [`http`] makes values of bytes, and bytes of values; [`proxy`] is a machine that is told facts and asked for wishes. Both do the
//! same each time that they are told the same, touch nothing of the world but the log, and do not panic, whatever bytes they are given.
//!
//! This is a part of `hawkey`, which has both as `hawkey::http` and `hawkey::proxy`; embed that. It is a package of its own so that it is
//! compiled for speed while the rest is compiled for size.

#![cfg_attr(not(test), deny(clippy::panic, clippy::unwrap_used))]

pub mod http;
pub mod proxy;
