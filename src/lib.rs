//! A small reverse proxy for HTTP/1.1 and WebSocket: one thread, one event loop.
//!
//! Most people want the program `hawkey`. This library is for those who embed it:
//!
//! ```
//! use std::io::{Read, Write};
//! use std::net::{TcpListener, TcpStream};
//! use std::thread;
//!
//! use hawkey::proxy::policy::Address;
//! use hawkey::{Config, Server};
//!
//! // A web application of one answer.
//! let application = TcpListener::bind("127.0.0.1:0")?;
//! let upstream = application.local_addr()?.to_string();
//! thread::spawn(move || -> std::io::Result<()> {
//!     let (mut connection, _) = application.accept()?;
//!     let mut request = [0; 1024];
//!     let n = connection.read(&mut request)?;
//!     assert!(request[..n].starts_with(b"GET /hello HTTP/1.1\r\n"));
//!     connection.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
//! });
//!
//! // A proxy in front of it.
//! let config = Config::new().listen("127.0.0.1:0")?.route("/", [upstream])?;
//! let server = Server::bind(config)?;
//! let Address::Tcp(address) = server.addresses()[0].clone() else { unreachable!("a TCP listener was asked for") };
//! let handle = server.handle();
//! let running = thread::spawn(move || server.run());
//!
//! // A client.
//! let mut client = TcpStream::connect(address)?;
//! client.write_all(b"GET /hello HTTP/1.1\r\nHost: example.com\r\nConnection: close\r\n\r\n")?;
//! let mut response = String::new();
//! client.read_to_string(&mut response)?;
//! assert!(response.starts_with("HTTP/1.1 200 OK\r\n") && response.ends_with("\r\n\r\nhello"));
//!
//! drop(client);
//! handle.stop()?;
//! running.join().expect("the proxy did not panic")?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Layers
//!
//! ```text
//! main ──▶ server ──▶ config ──▶ proxy ──▶ http
//!             └─────▶ os
//! ```
//!
//! A module names the layers to its right and no others (`server` may name them all); a test holds `src` to that. [`http`] and [`proxy`]
//! are a package of their own, `hawkey-core`, which is compiled for speed while the rest is compiled for size.
//!
//! | layer | is |
//! | --- | --- |
//! | [`http`] | bytes in, values out |
//! | [`proxy`] | one client's conversation as a deterministic machine |
//! | [`config`] | text into listeners and a policy |
//! | `server` | the event loop: sockets, the clock, the pool of upstream connections |
//! | `os` | what mio and socket2 do not offer |

#![cfg_attr(not(test), deny(clippy::panic, clippy::unwrap_used))]

pub mod config;
mod os;
mod server;

pub use config::{Config, ConfigError, Listen};
#[doc(inline)]
pub use hawkey_core::{http, proxy};
pub use server::{BindError, CONTROL_PROTOCOL, Handle, Server, Supervisor, TAKE_OVER, start_log};
