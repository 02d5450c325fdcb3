//! Where log lines wait until the turn is over.
//!
//! A line is formatted when it is logged and written at the end of the turn, all lines of a turn with one call where standard
//! error takes them. If it takes nothing, because nobody reads the pipe or the disk is full, the loop goes on: up to
//! [`WAITING_BYTES_MAX`] wait, what comes then is counted and lost.

use std::io::{self, Write};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::SystemTime;

use crate::os::nonblocking::Outlet;

/// Bytes of lines that wait for a reader.
const WAITING_BYTES_MAX: usize = 256 * 1024;

#[derive(Debug)]
struct Waiting {
    lines: Vec<u8>,
    lost: u64,
}

static WAITING: Mutex<Waiting> = Mutex::new(Waiting { lines: Vec::new(), lost: 0 });

/// Installs the logger of the process. `filter` is in the language of `RUST_LOG`, which counts if there is none; without either
/// it is `info`.
pub fn start(filter: Option<&str>) -> Result<(), String> {
    let from_environment = std::env::var("RUST_LOG").ok();
    let filter = filter.or(from_environment.as_deref()).filter(|filter| !filter.is_empty()).unwrap_or("info");
    env_filter::Builder::new().try_parse(filter).map_err(|error| format!("`{filter}` is no log filter: {error}"))?;
    env_logger::Builder::new()
        .parse_filters(filter)
        .format(|line, record| {
            let time = humantime::format_rfc3339_millis(SystemTime::now());
            let level = record.level().as_str().to_ascii_lowercase();
            writeln!(line, "time={time} level={level} {}", record.args())
        })
        .target(env_logger::Target::Pipe(Box::new(Journal)))
        .try_init()
        .map_err(|error| error.to_string())
}

/// Writes the lines that wait, as far as that goes without waiting. Whether some are left.
pub fn flush() -> bool {
    let mut waiting = WAITING.lock().unwrap_or_else(PoisonError::into_inner);
    if waiting.lost > 0 && waiting.lines.len() < WAITING_BYTES_MAX / 2 {
        let lost = std::mem::take(&mut waiting.lost);
        waiting.lines.extend_from_slice(
            format!("level=warn lost_lines={lost} why=\"standard error was not read\"\n").as_bytes(),
        );
    }
    if waiting.lines.is_empty() {
        return false;
    }
    static OUTLET: OnceLock<Outlet> = OnceLock::new();
    match OUTLET.get_or_init(|| Outlet::of(io::stderr())).write(io::stderr(), &waiting.lines) {
        Ok(n) => drop(waiting.lines.drain(..n)),
        // Closed for good, or a full disk: there is nobody to tell.
        Err(_) => waiting.lines.clear(),
    }
    // A turn with many lines does not own their memory for ever.
    if waiting.lines.is_empty() && waiting.lines.capacity() > WAITING_BYTES_MAX / 8 {
        waiting.lines = Vec::new();
    }
    !waiting.lines.is_empty()
}

struct Journal;

impl Write for Journal {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut waiting = WAITING.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.lines.len() + line.len() <= WAITING_BYTES_MAX {
            waiting.lines.extend_from_slice(line);
        } else {
            waiting.lost = waiting.lost.saturating_add(1);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
