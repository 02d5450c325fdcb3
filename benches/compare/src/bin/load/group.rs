//! Clients that all do the same, as a word: `echo:64:32`.

use compare::wire::{self, Fields};

/// What clients do, and the bytes they do it with.
pub struct Group {
    /// What its clients do.
    pub kind: Kind,
    /// How many there are.
    pub clients: usize,
    /// What a client begins with: a handshake, a GET, or a part of it.
    pub request: Vec<u8>,
    /// What follows a handshake; nothing if it is empty.
    pub message: Vec<u8>,
    /// What comes back for the message.
    pub echo: Vec<u8>,
    /// How many bytes come back for a GET's body, or for a message of a stream.
    pub answer_bytes: usize,
}

/// What a client does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// Messages on a tunnel.
    Echo,
    /// Requests on a kept connection.
    Get,
    /// A tunnel for each message.
    Dial,
    /// Messages on a tunnel, each answered by many frames.
    Stream,
    /// A tunnel that is quiet after a message.
    Idle,
    /// A connection that is quiet after a response.
    Kept,
    /// A connection that is quiet within a request head.
    Half,
}

impl Group {
    /// A group from its word.
    pub fn parse(word: &str) -> Result<Group, String> {
        let parse = || {
            let mut parts = word.split(':');
            let name = parts.next()?;
            let clients: usize = parts.next()?.parse().ok()?;
            let number: usize = parts.next()?.parse().ok()?;
            let fields = match parts.next() {
                None => Fields::Few,
                Some("browser") => Fields::Browser,
                Some(_) => return None,
            };
            if clients == 0 {
                return None;
            }
            Some(match name {
                "echo" => Group::echo(Kind::Echo, clients, number, fields),
                "dial" => Group::echo(Kind::Dial, clients, number, fields),
                "idle" => Group::echo(Kind::Idle, clients, number, fields),
                "stream" => {
                    let message = wire::masked_frame(&(number as u64).to_be_bytes());
                    let request = wire::handshake("/stream", fields);
                    Group {
                        kind: Kind::Stream,
                        clients,
                        request,
                        message,
                        echo: Vec::new(),
                        answer_bytes: number * wire::FRAME_BYTES,
                    }
                }
                "get" => Group::get(Kind::Get, clients, wire::get(number, fields), number),
                "kept" => Group::get(Kind::Kept, clients, wire::get(number, fields), number),
                "half" => {
                    let mut request = wire::get(1, fields);
                    request.truncate(number.min(request.len() - 1));
                    Group::get(Kind::Half, clients, request, 0)
                }
                _ => return None,
            })
        };
        parse().ok_or_else(|| format!("no group is called {word}"))
    }

    fn echo(kind: Kind, clients: usize, bytes: usize, fields: Fields) -> Group {
        let payload = wire::payload(bytes);
        let (message, echo) = match bytes {
            0 => (Vec::new(), Vec::new()),
            _ => (wire::masked_frame(&payload), wire::frame(&payload)),
        };
        Group { kind, clients, request: wire::handshake("/echo", fields), message, echo, answer_bytes: bytes }
    }

    fn get(kind: Kind, clients: usize, request: Vec<u8>, answer_bytes: usize) -> Group {
        Group { kind, clients, request, message: Vec::new(), echo: Vec::new(), answer_bytes }
    }

    /// Whether its clients do something in a slice.
    pub fn is_active(&self) -> bool {
        matches!(self.kind, Kind::Echo | Kind::Get | Kind::Dial | Kind::Stream)
    }
}
