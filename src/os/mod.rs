//! What the operating system offers beyond mio and socket2: signals as readiness, one-call accept, the descriptor limit, who is at
//! the other end of a Unix socket, splice, and writing that never waits. Nothing of ours is in here.

pub mod descriptors;
pub mod errors;
pub mod nonblocking;
pub mod peers;
pub mod pipe;
pub mod signals;
