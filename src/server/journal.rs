//! Where log lines wait until the turn is over.
//!
//! A line is formatted when it is logged and written at the end of the turn, all lines of a turn with one call where standard
//! error takes them. If it takes nothing, because nobody reads the pipe or the disk is full, the loop goes on: up to
//! [`WAITING_BYTES_MAX`] wait, unless writing fails; what comes then is counted and lost, and told of when lines are taken again.

use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::SystemTime;

use crate::os::nonblocking::Outlet;

/// Bytes of lines that wait for a reader.
const WAITING_BYTES_MAX: usize = 256 * 1024;

/// Lines that have not been written yet, and what is known of those before them.
#[derive(Debug)]
struct Waiting {
    lines: Vec<u8>,
    /// Lines that nobody will read, and of which nobody has been told.
    lost: u64,
    /// Those that the last of `lines` tells of.
    telling: u64,
    /// What was written last ends within a line.
    is_torn: bool,
    /// The last attempt to write failed: the pipe is closed for good, or the disk full for now.
    is_failing: bool,
}

static WAITING: Mutex<Waiting> = Mutex::new(Waiting::new());
/// Whether there is anything in it. Most turns log nothing, and need not look: that saves 25 instructions of each.
static HAS_NEWS: AtomicBool = AtomicBool::new(false);

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
    HAS_NEWS.load(Ordering::Acquire) && write_news()
}

#[inline(never)]
fn write_news() -> bool {
    static OUTLET: OnceLock<Outlet> = OnceLock::new();
    let mut waiting = WAITING.lock().unwrap_or_else(PoisonError::into_inner);
    let are_left = waiting.flush(|bytes| OUTLET.get_or_init(|| Outlet::of(io::stderr())).write(io::stderr(), bytes));
    HAS_NEWS.store(are_left || waiting.lost > 0, Ordering::Release);
    are_left
}

impl Waiting {
    const fn new() -> Waiting {
        Waiting { lines: Vec::new(), lost: 0, telling: 0, is_torn: false, is_failing: false }
    }

    fn push(&mut self, line: &[u8]) {
        if self.lines.len() + line.len() > WAITING_BYTES_MAX {
            self.lost = self.lost.saturating_add(1);
            return;
        }
        if self.lines.is_empty() && self.is_torn {
            // The rest of that line was lost.
            self.lines.push(b'\n');
        }
        self.lines.extend_from_slice(line);
    }

    /// Offers the lines to `write`, and tells of those that were lost once it takes lines again. Whether some are left.
    fn flush(&mut self, mut write: impl FnMut(&[u8]) -> io::Result<usize>) -> bool {
        if !self.lines.is_empty() {
            let written = write(&self.lines);
            self.note_written(written);
        }
        if self.lines.is_empty() && self.lost > 0 && !self.is_failing {
            let lost = std::mem::take(&mut self.lost);
            self.push(format!("level=warn lost_lines={lost} why=\"standard error did not take them\"\n").as_bytes());
            self.telling = lost;
            let written = write(&self.lines);
            self.note_written(written);
        }
        // A turn with many lines does not own their memory for ever.
        if self.lines.is_empty() && self.lines.capacity() > WAITING_BYTES_MAX / 8 {
            self.lines = Vec::new();
        }
        !self.lines.is_empty()
    }

    fn note_written(&mut self, written: io::Result<usize>) {
        self.is_failing = written.is_err();
        match written {
            Ok(n) => {
                if let Some(last) = self.lines.drain(..n).next_back() {
                    self.is_torn = last != b'\n';
                }
                if self.lines.is_empty() {
                    self.telling = 0;
                }
            }
            Err(_) => {
                let ends = self.lines.iter().filter(|byte| **byte == b'\n').count() as u64;
                // Neither an end that parts a torn line from the next nor the line that tells of others is one of theirs.
                let own = u64::from(self.lines.starts_with(b"\n")) + u64::from(self.telling > 0);
                self.lost += ends.saturating_sub(own) + std::mem::take(&mut self.telling);
                self.lines.clear();
            }
        }
    }
}

struct Journal;

impl Write for Journal {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut waiting = WAITING.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.push(line);
        HAS_NEWS.store(true, Ordering::Release);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lines, each offered to a disk that takes as many bytes as it is told, and fails when that is 0.
    fn read(lines: &[(&str, usize)]) -> String {
        let (mut waiting, mut disk) = (Waiting::new(), Vec::new());
        for &(line, mut takes) in lines {
            if !line.is_empty() {
                waiting.push(format!("{line}\n").as_bytes());
            }
            waiting.flush(|bytes| {
                let n = bytes.len().min(takes);
                disk.extend_from_slice(&bytes[..n]);
                takes -= n;
                if n > 0 { Ok(n) } else { Err(io::ErrorKind::StorageFull.into()) }
            });
        }
        String::from_utf8(disk).unwrap()
    }

    #[test]
    fn a_disk_that_was_full_holds_whole_lines_and_how_many_were_lost() {
        let lost = |n| format!("level=warn lost_lines={n} why=\"standard error did not take them\"\n");
        assert_eq!(read(&[("one", 99), ("two", 99)]), "one\ntwo\n");
        assert_eq!(read(&[("one", 99), ("two", 0), ("three", 0), ("four", 999)]), format!("one\nfour\n{}", lost(2)));
        // Two bytes of the second line were taken: it is whole when the rest can be.
        assert_eq!(read(&[("one", 99), ("two", 2), ("three", 999)]), "one\ntwo\nthree\n");
        // If the rest never can, it ends where it was torn, and counts as lost.
        assert_eq!(read(&[("one", 2), ("two", 0), ("three", 0), ("four", 999)]), format!("on\nfour\n{}", lost(3)));
        assert_eq!(read(&[("one", 0), ("", 0), ("", 0), ("two", 999)]), format!("two\n{}", lost(1)));
        // No room for the line that tells of the others, or only for its beginning: they are told of later.
        assert_eq!(read(&[("one", 0), ("two", 4), ("three", 999)]), format!("two\nthree\n{}", lost(1)));
        assert_eq!(
            read(&[("one", 0), ("two", 0), ("four", 9), ("", 0), ("five", 999)]),
            format!("four\nleve\nfive\n{}", lost(2))
        );
    }
}
