//! What every input must satisfy, as plain functions: libFuzzer feeds them with what it finds (`fuzz/fuzz_targets`), `cargo test`
//! with the committed seeds (`tests/corpora.rs`) and with generated messages (`tests/properties.rs`).
//!
//! A body panics if hawkey does, or if what it makes of the input has another meaning than a second, naive reading of it.

#![allow(dead_code, reason = "nobody uses all of them")]

mod chunks;
mod config;
mod conversation;
mod heads;
pub mod message;
pub mod packed;
mod routing;

pub use chunks::chunked;
pub use config::configuration;
pub use conversation::session;
pub use heads::{request_head, response_head};
pub use packed::packed;
pub use routing::route;

/// What is done with an input.
pub type Body = fn(&[u8]);

/// Every body by the name of its target.
pub const ALL: [(&str, Body); 7] = [
    ("request_head", request_head),
    ("response_head", response_head),
    ("chunked", chunked),
    ("session", session),
    ("configuration", configuration),
    ("route", route),
    ("packed", packed),
];
