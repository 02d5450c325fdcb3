//! The heart of hawkey: one client's conversation with an upstream, without a socket and without a clock.
//!
//! [`http`] makes values of bytes, and bytes of values; [`proxy`] is a machine that is told facts and asked for wishes. Both do the
//! same each time that they are told the same, read and write nothing, and do not panic, whatever bytes they are given.
//!
//! This is a part of `hawkey`, which has both as `hawkey::http` and `hawkey::proxy`; embed that.

#![cfg_attr(not(test), deny(clippy::panic, clippy::unwrap_used))]

pub mod http;
pub mod proxy;
