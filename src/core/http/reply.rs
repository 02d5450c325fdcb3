//! The responses that we write ourselves.

use crate::http::head::Version;
use crate::http::reject::Reject;

/// A response of our own: a status line, a few fields, and nearly always an empty body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The status.
    pub status: u16,
    body: &'static str,
    /// A field that goes with the status, with its line end.
    field: &'static str,
    sends_body: bool,
}

impl Reply {
    /// An empty response with `status`.
    pub fn new(status: u16) -> Reply {
        Reply { status, body: "", field: "", sends_body: true }
    }

    /// What a refused request is told.
    pub fn to(reject: Reject) -> Reply {
        let reply = Reply::new(reject.status());
        match reject {
            Reject::Version => Reply { body: "<h4>Not Supported</h4>", ..reply },
            // RFC 9110, 15.5.6: a 405 lists what is allowed.
            Reject::Method => Reply { field: "allow: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS\r\n", ..reply },
            Reject::Full => Reply { field: "retry-after: 1\r\n", ..reply },
            _ => reply,
        }
    }

    /// The same without its body, as HEAD is answered.
    pub fn without_body(self) -> Reply {
        Reply { sends_body: false, ..self }
    }

    /// Appends the response to `out`, in the words of `version`; `keep` says whether the connection goes on.
    pub fn write(&self, version: Version, keep: bool, out: &mut Vec<u8>) {
        let connection = match (version, keep) {
            (_, false) => "connection: close\r\n",
            (Version::Http10, true) => "connection: keep-alive\r\n",
            (Version::Http11, true) => "",
        };
        let parts = [
            version.as_str(),
            " ",
            status_line(self.status),
            "\r\ncontent-type: text/html; charset=utf-8\r\ncontent-length: ",
            &self.body.len().to_string(),
            "\r\n",
            self.field,
            connection,
            "\r\n",
            if self.sends_body { self.body } else { "" },
        ];
        parts.iter().for_each(|part| out.extend_from_slice(part.as_bytes()));
    }
}

/// Status and reason phrase of what we say (RFC 9110, 15).
fn status_line(status: u16) -> &'static str {
    match status {
        200 => "200 OK",
        400 => "400 Bad Request",
        404 => "404 Not Found",
        405 => "405 Method Not Allowed",
        408 => "408 Request Timeout",
        413 => "413 Content Too Large",
        414 => "414 URI Too Long",
        417 => "417 Expectation Failed",
        431 => "431 Request Header Fields Too Large",
        501 => "501 Not Implemented",
        502 => "502 Bad Gateway",
        503 => "503 Service Unavailable",
        504 => "504 Gateway Timeout",
        _ => "500 Internal Server Error",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(reply: Reply, version: Version, keep: bool) -> String {
        let mut out = Vec::new();
        reply.write(version, keep, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn no_route() {
        assert_eq!(
            text(Reply::new(404), Version::Http11, true),
            "HTTP/1.1 404 Not Found\r\ncontent-type: text/html; charset=utf-8\r\ncontent-length: 0\r\n\r\n"
        );
    }

    #[test]
    fn another_version() {
        assert_eq!(
            text(Reply::to(Reject::Version), Version::Http11, false),
            "HTTP/1.1 500 Internal Server Error\r\ncontent-type: text/html; charset=utf-8\r\ncontent-length: 22\r\n\
             connection: close\r\n\r\n<h4>Not Supported</h4>"
        );
    }

    #[test]
    fn head_is_told_the_length_of_a_body_that_does_not_come() {
        let text = text(Reply::to(Reject::Version).without_body(), Version::Http11, false);
        assert!(text.contains("content-length: 22\r\n") && text.ends_with("\r\n\r\n"), "{text}");
    }

    #[test]
    fn every_reject_has_a_line_of_its_own_and_a_true_length() {
        use Reject::*;
        for reject in [
            Malformed("x"),
            Method,
            TooSlow,
            BodyTooLarge,
            TargetTooLong,
            Expectation,
            HeadTooLarge,
            TooManyFields,
            Version,
            UnknownCoding,
            Full,
        ] {
            let text = text(Reply::to(reject), super::Version::Http11, false);
            assert!(text.starts_with(&format!("HTTP/1.1 {} ", reject.status())), "{reject:?}: {text}");
            let (head, body) = text.split_once("\r\n\r\n").unwrap();
            assert!(head.contains(&format!("content-length: {}\r\n", body.len())), "{reject:?}: {text}");
        }
    }

    #[test]
    fn an_http_1_0_client_is_told_that_its_connection_is_kept() {
        let text = text(Reply::new(404), Version::Http10, true);
        assert!(text.starts_with("HTTP/1.0 404") && text.contains("connection: keep-alive\r\n"), "{text}");
    }
}
