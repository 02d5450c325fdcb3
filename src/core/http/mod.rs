//! HTTP/1.1 as text: bytes in, values out. No input or output, no clock, and no state between two calls.
//!
//! Reading begins in [`head`], which makes the two views [`RequestHead`](head::RequestHead) and
//! [`ResponseHead`](head::ResponseHead); what they hold has been judged by [`target`], [`field`], [`framing`] and [`upgrade`].
//! Writing is [`forward`] for the messages of others and [`reply`] for our own.

// Every byte in here is a stranger's: no place is taken for granted, and no sum.
#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::arithmetic_side_effects))]

pub mod chunked;
pub mod field;
pub mod forward;
pub mod framing;
pub mod head;
pub mod reject;
pub mod reply;
pub mod target;
pub mod upgrade;
