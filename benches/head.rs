//! What a head costs in memory: to be parsed, to have its body's end known, to be rewritten for the next hop. `cargo bench --bench head`
//!
//! `scripts/count` tells what all of it comes to, beside other programs; here it is seen which part has changed.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};

use divan::Bencher;
use divan::counter::BytesCount;
use hawkey::http::chunked::{ChunkScanner, Run};
use hawkey::http::forward::{self, Forwarding, Returning};
use hawkey::http::framing::Framing;
use hawkey::http::head::{Limits, RequestHead, ResponseHead, Version, empty_fields};

const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 7));

const SHORT: &str = "GET /hello HTTP/1.1\r\nHost: localhost:8080\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n";
const BROWSER: &str = "GET /app/items?page=2&sort=name HTTP/1.1\r\nHost: www.example.com\r\nConnection: keep-alive\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36\r\n\
    Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8\r\n\
    Accept-Encoding: gzip, deflate, br\r\nAccept-Language: en-US,en;q=0.9\r\nReferer: https://www.example.com/app\r\n\
    Cookie: session=0123456789abcdef0123456789abcdef; theme=dark\r\nCache-Control: max-age=0\r\n\r\n";
const HANDSHAKE: &str = "GET /chat HTTP/1.1\r\nHost: www.example.com\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
const RESPONSE: &str = "HTTP/1.1 200 OK\r\nServer: bench\r\nDate: Wed, 25 Nov 2026 12:00:00 GMT\r\n\
    Content-Type: text/html; charset=utf-8\r\nContent-Length: 100\r\nCache-Control: no-store\r\n\r\n";

fn main() {
    divan::main();
}

fn request(kind: &str) -> &'static str {
    match kind {
        "short" => SHORT,
        "browser" => BROWSER,
        _ => HANDSHAKE,
    }
}

#[divan::bench(args = ["short", "browser", "handshake"])]
fn parse_request(bencher: Bencher, kind: &str) {
    let text = request(kind);
    bencher.counter(BytesCount::of_str(text)).bench_local(|| {
        let mut storage = empty_fields();
        let parsed = RequestHead::parse(black_box(text.as_bytes()), &mut storage, &Limits::default());
        matches!(parsed, Ok(Some((head, _))) if head.framing == Framing::None)
    });
}

#[divan::bench(args = ["short", "browser", "handshake"])]
fn rewrite_request(bencher: Bencher, kind: &str) {
    let text = request(kind);
    let mut storage = empty_fields();
    let Ok(Some((head, _))) = RequestHead::parse(text.as_bytes(), &mut storage, &Limits::default()) else {
        panic!("a sound head: {text}")
    };
    let mut out = Vec::with_capacity(4096);
    bencher.bench_local(|| {
        out.clear();
        let target = ("", &*head.target.path_and_query);
        let forwarding = Forwarding { target, client: Some(CLIENT), trusted: false };
        forward::request(black_box(&head), &forwarding, &mut out);
        out.len()
    });
}

#[divan::bench]
fn parse_response(bencher: Bencher) {
    bencher.counter(BytesCount::of_str(RESPONSE)).bench_local(|| {
        let mut storage = empty_fields();
        let parsed = ResponseHead::parse(black_box(RESPONSE.as_bytes()), &mut storage, &Limits::default());
        matches!(parsed, Ok(Some((head, _))) if head.declared.of_response(200, false, head.version).is_ok())
    });
}

#[divan::bench]
fn rewrite_response(bencher: Bencher) {
    let mut storage = empty_fields();
    let Ok(Some((head, _))) = ResponseHead::parse(RESPONSE.as_bytes(), &mut storage, &Limits::default()) else {
        panic!("a sound head: {RESPONSE}")
    };
    let returning = Returning { version: Version::Http11, framing: &Framing::Length(100), keep: true };
    let mut out = Vec::with_capacity(4096);
    bencher.bench_local(|| {
        out.clear();
        forward::response(black_box(&head), &returning, &mut out);
        out.len()
    });
}

/// 64 KiB in chunks of so many bytes.
#[divan::bench(args = [16, 1024, 16384])]
fn scan_chunks(bencher: Bencher, chunk: usize) {
    let body = format!("{chunk:x}\r\n{}\r\n", "x".repeat(chunk)).repeat(65536 / chunk);
    bencher.counter(BytesCount::of_str(&body)).bench_local(|| {
        let (mut scanner, mut rest, mut runs) = (ChunkScanner::default(), black_box(body.as_bytes()), 0);
        while let Ok(Some(run)) = scanner.next(rest) {
            let (Run::Frame(n) | Run::Data(n) | Run::Cut(n)) = run;
            rest = &rest[n..];
            runs += 1;
        }
        runs
    });
}
