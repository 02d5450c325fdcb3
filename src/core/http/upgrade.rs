//! Was a WebSocket asked for, and does this 101 answer it (RFC 6455, 4.1 and 4.2; RFC 9110, 7.8).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::http::field::members;
use crate::http::head::{ResponseHead, Version};
use crate::http::reject::Fault;

/// What a server appends to the key before it hashes (RFC 6455, 1.3).
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// The `Sec-WebSocket-Accept` that answers the key of one handshake; of no key there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handshake {
    digest: Option<[u8; 20]>,
}

impl Handshake {
    /// The handshake that was begun with `key`.
    pub fn new(key: Option<&[u8]>) -> Handshake {
        let digest = key.map(|key| {
            let mut hash = sha1_smol::Sha1::from(key);
            hash.update(GUID);
            hash.digest().bytes()
        });
        Handshake { digest }
    }

    /// Whether `head`, a 101, agrees to what was asked. A 101 that does not must never open a tunnel: a client could use it
    /// to speak with the server past every rule of the proxy.
    pub fn check(&self, head: &ResponseHead<'_>) -> Result<(), Fault> {
        if head.version != Version::Http11 {
            return Err(Fault("a 101 in HTTP/1.0"));
        }
        if !head.options.upgrade {
            return Err(Fault("a 101 without the connection option `upgrade`"));
        }
        if !head.upgrade_to_websocket {
            return Err(Fault("a 101 to another protocol than websocket"));
        }
        let digest = self.digest.ok_or(Fault("a 101 to a handshake that had no Sec-WebSocket-Key"))?;
        let mut expected = [0; 28];
        let is_encoded = STANDARD.encode_slice(digest, &mut expected).is_ok();
        if !is_encoded || head.websocket_accept != Some(&expected) {
            return Err(Fault("a 101 whose Sec-WebSocket-Accept does not answer the key"));
        }
        Ok(())
    }
}

/// Whether `websocket` is among the members of an Upgrade field. A version (`websocket/13`) is not asked for by any RFC.
pub fn names_websocket(value: &[u8]) -> bool {
    value == b"websocket" || members(value).any(|member| member.eq_ignore_ascii_case(b"websocket"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::head::{Limits, ResponseHead, empty_fields};

    fn check(fields: &str, key: Option<&[u8]>) -> Result<(), Fault> {
        let text = format!("HTTP/1.1 101 Switching Protocols\r\n{fields}\r\n");
        let mut storage = empty_fields();
        let (head, _) = ResponseHead::parse(text.as_bytes(), &mut storage, &Limits::default()).unwrap().unwrap();
        Handshake::new(key).check(&head)
    }

    #[test]
    fn the_example_of_the_rfc_is_answered() {
        let fields =
            "Upgrade: WebSocket\r\nConnection: x, uPGRADE\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n";
        assert_eq!(check(fields, Some(b"dGhlIHNhbXBsZSBub25jZQ==")), Ok(()));
    }

    #[test]
    fn a_101_that_does_not_agree_opens_nothing() {
        let accept = "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n";
        let key: Option<&[u8]> = Some(b"dGhlIHNhbXBsZSBub25jZQ==");
        for (fields, key) in [
            (format!("Upgrade: websocket\r\n{accept}"), key),
            (format!("Connection: Upgrade\r\n{accept}"), key),
            (format!("Connection: Upgrade\r\nUpgrade: h2c\r\n{accept}"), key),
            ("Connection: Upgrade\r\nUpgrade: websocket\r\n".to_string(), key),
            (format!("Connection: Upgrade\r\nUpgrade: websocket\r\n{accept}"), None),
            (format!("Connection: Upgrade\r\nUpgrade: websocket\r\n{accept}{accept}"), key),
            (
                format!("Connection: Upgrade\r\nUpgrade: websocket\r\n{accept}"),
                Some(b"dGhlIHNhbXBsZSBub25jZQ=".as_slice()),
            ),
        ] {
            assert!(check(&fields, key).is_err(), "{fields:?} for {key:?}");
        }
    }

    #[test]
    fn websocket_is_found_in_lists() {
        for (value, expected) in
            [("websocket", true), ("h2c, WebSocket", true), ("websocket/13", false), ("websockets", false), ("", false)]
        {
            assert_eq!(names_websocket(value.as_bytes()), expected, "{value}");
        }
    }
}
