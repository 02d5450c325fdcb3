//! The bytes that the load and the upstream say to each other.
//!
//! All handshakes carry the key of RFC 6455, section 1.3, so that its answer is
//! known to both sides: computing it would be the upstream's work and not the proxy's.

/// The nonce of every handshake.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
/// What answers it.
pub const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// One frame of a stream, with its head: a whole number of pages.
pub const FRAME_BYTES: usize = 64 * 1024;

const BINARY: u8 = 0x82;
const MASKED: u8 = 0x80;
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// How much a request says beside what it must.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fields {
    /// What a small program sends.
    Few,
    /// What a browser sends.
    Browser,
}

const FEW: &str = "Host: chat.example.com\r\nUser-Agent: load/1.0\r\nAccept: */*\r\n";
const BROWSER: &str = "Host: chat.example.com\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0\r\n\
    Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\n\
    Accept-Language: en-US,en;q=0.5\r\n\
    Accept-Encoding: gzip, deflate, br, zstd\r\n\
    Cookie: session=8f14e45fceea167a5a36dedd4bea2543\r\n";

/// A GET for a body of so many bytes.
pub fn get(body_bytes: usize, fields: Fields) -> Vec<u8> {
    let fields = match fields {
        Fields::Few => FEW.to_owned(),
        Fields::Browser => format!("{BROWSER}Referer: http://chat.example.com/\r\nConnection: keep-alive\r\n"),
    };
    format!("GET /bytes/{body_bytes} HTTP/1.1\r\n{fields}\r\n").into()
}

/// A WebSocket handshake.
pub fn handshake(path: &str, fields: Fields) -> Vec<u8> {
    let fields = match fields {
        Fields::Few => "Host: chat.example.com\r\nConnection: Upgrade\r\n".to_owned(),
        Fields::Browser => format!("{BROWSER}Origin: http://chat.example.com\r\nConnection: keep-alive, Upgrade\r\n"),
    };
    format!(
        "GET {path} HTTP/1.1\r\n{fields}Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n\r\n"
    )
    .into()
}

/// The upstream's answer to a handshake.
pub fn switching() -> Vec<u8> {
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {ACCEPT}\r\n\r\n"
    )
    .into()
}

/// The head of a response with a body of so many bytes.
pub fn response_head(body_bytes: u64, is_last: bool) -> Vec<u8> {
    let connection = if is_last { "Connection: close\r\n" } else { "" };
    format!(
        "HTTP/1.1 200 OK\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\nServer: upstream\r\nContent-Type: application/octet-stream\r\n\
         Cache-Control: no-store\r\nContent-Length: {body_bytes}\r\n{connection}\r\n"
    )
    .into()
}

/// Some bytes to put into a message.
pub fn payload(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| b'a' + (at % 23) as u8).collect()
}

/// A binary frame from an upstream.
pub fn frame(payload: &[u8]) -> Vec<u8> {
    let mut frame = frame_head(payload.len(), 0);
    frame.extend_from_slice(payload);
    frame
}

/// A binary frame from a client, masked.
pub fn masked_frame(payload: &[u8]) -> Vec<u8> {
    let mut frame = frame_head(payload.len(), MASKED);
    frame.extend_from_slice(&MASK);
    let begin = frame.len();
    frame.extend_from_slice(payload);
    unmask(&mut frame[begin..], MASK);
    frame
}

/// The frame of which a stream is made.
pub fn stream_frame() -> Vec<u8> {
    // Its length takes two bytes of the head.
    const HEAD_BYTES: usize = 4;
    frame(&payload(FRAME_BYTES - HEAD_BYTES))
}

fn frame_head(bytes: usize, masked: u8) -> Vec<u8> {
    let mut head = vec![BINARY];
    match bytes {
        0..126 => head.push(masked | bytes as u8),
        126..0x1_0000 => {
            head.push(masked | 126);
            head.extend_from_slice(&(bytes as u16).to_be_bytes());
        }
        _ => {
            head.push(masked | 127);
            head.extend_from_slice(&(bytes as u64).to_be_bytes());
        }
    }
    head
}

/// The length of the whole frame that `bytes` begin with and the place of its payload, once its head is there.
pub fn masked_frame_at(bytes: &[u8]) -> Option<Masked> {
    let (length, head) = match (*bytes.get(1)? & !MASKED) as usize {
        126 => (u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?) as usize, 4),
        127 => (u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?) as usize, 10),
        length => (length, 2),
    };
    let mask = bytes.get(head..head + 4)?.try_into().ok()?;
    Some(Masked { begin: head + 4, end: head + 4 + length, mask })
}

/// Where the payload of a client's frame is.
pub struct Masked {
    /// Where the payload begins.
    pub begin: usize,
    /// Where the frame ends.
    pub end: usize,
    /// What the payload is masked with.
    pub mask: [u8; 4],
}

/// Puts the head of an unmasked frame right before the payload of a masked one, over its mask, and tells where it begins.
pub fn put_frame_head(bytes: &mut [u8], frame: &Masked) -> usize {
    // A head without a mask is as long as the masked one less the mask.
    let begin = MASK.len();
    bytes.copy_within(..frame.begin - begin, begin);
    bytes[begin + 1] &= !MASKED;
    begin
}

/// Masks or unmasks.
pub fn unmask(payload: &mut [u8], mask: [u8; 4]) {
    let (words, rest) = payload.as_chunks_mut::<4>();
    for word in words {
        *word = (u32::from_ne_bytes(*word) ^ u32::from_ne_bytes(mask)).to_ne_bytes();
    }
    for (byte, mask) in rest.iter_mut().zip(mask) {
        *byte ^= mask;
    }
}

/// Where the head that `bytes` begin with ends, if it is whole.
pub fn head_end(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|window| window == b"\r\n\r\n").map(|at| at + 4)
}
