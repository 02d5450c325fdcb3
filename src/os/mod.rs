//! What the operating system offers beyond mio and socket2: signals as readiness, one-call accept, the descriptor limit, who is at
//! the other end of a Unix socket, descriptors that pass over one, the calls of every stream, splice, writing that never waits, and what
//! a service manager passes and is told. Nothing of ours is in here.

pub mod alarm;
pub mod clock;
pub mod descriptors;
pub mod errors;
pub mod inherited;
pub mod nonblocking;
pub mod notify;
pub mod passing;
pub mod peers;
pub mod pipe;
pub mod signals;
pub mod stream;
