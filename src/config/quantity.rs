//! Durations, sizes and counts, as people write them.

use std::time::Duration;

use super::error::Flaw;

/// The longest duration. A year is longer than any wait that is meant; `"off"` is the word for "for ever".
const DURATION_MAX: Duration = Duration::from_secs(365 * 24 * 3600);

/// The units of a size. Those of 1,024 come first: printing takes the first that divides.
const UNITS: [(&str, u64); 7] = [
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("B", 1),
];

/// A duration with its unit: `2s`, `500ms`, `1h 30m`.
pub(super) fn duration(text: &str) -> Result<Duration, Flaw> {
    let duration = humantime::parse_duration(text).map_err(|error| {
        let flaw = Flaw::new(format!("`{text}` is not a duration: {error}"));
        match text.parse::<u64>() {
            Ok(seconds) => flaw.help(format!("did you mean \"{seconds}s\"?")),
            Err(_) => flaw.help("durations are written as \"500ms\", \"2s\", \"5m\", \"1h\""),
        }
    })?;
    if duration.is_zero() {
        Err(Flaw::new("a duration must be more than zero"))
    } else if duration > DURATION_MAX {
        Err(Flaw::new(format!("`{text}` is more than 365 days, the longest duration")))
    } else {
        Ok(duration)
    }
}

/// A size in bytes: `16KiB`, `64kB`, `512`. More than zero.
pub(super) fn size(text: &str) -> Result<u64, Flaw> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = (&text[..digits], text[digits..].trim());
    let not_a_size = || Flaw::new(format!("`{text}` is not a size"));
    let help = "sizes are written as \"10MiB\", \"64kB\", or as a number of bytes";
    if number.is_empty() {
        return Err(not_a_size().help(help));
    }
    let factor = match UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit)) {
        Some((_, factor)) => *factor,
        None if unit.is_empty() => 1,
        None => {
            let meant = UNITS.iter().find(|(name, _)| name.len() == 3 && name[..1].eq_ignore_ascii_case(unit));
            return Err(match meant {
                Some((meant, _)) => not_a_size().help(format!("did you mean \"{number}{meant}\"?")),
                None => not_a_size().help(help),
            });
        }
    };
    let too_large = || Flaw::new(format!("`{text}` is too large"));
    let bytes = number.parse::<u64>().ok().and_then(|number| number.checked_mul(factor)).ok_or_else(too_large)?;
    if bytes == 0 { Err(Flaw::new("a size must be more than zero")) } else { Ok(bytes) }
}

/// `bytes` as [`size`] reads it.
pub(super) fn size_text(bytes: u64) -> String {
    let exact = UNITS.iter().find(|(_, factor)| bytes >= *factor && bytes.is_multiple_of(*factor));
    let (unit, factor) = exact.unwrap_or(&("B", 1));
    format!("{}{unit}", bytes / factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        let cases = [
            ("1", 1),
            ("512B", 512),
            ("16KiB", 16 << 10),
            ("16kib", 16 << 10),
            ("64KB", 64_000),
            ("64kB", 64_000),
            ("10 MiB", 10 << 20),
            ("3MB", 3_000_000),
            ("2GiB", 2 << 30),
            ("2GB", 2_000_000_000),
        ];
        for (text, bytes) in cases {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for bytes in [1, 1023, 1024, 1000, 16 << 10, 64_000, 10 << 20, 5 << 30, u64::MAX] {
            assert_eq!(size(&size_text(bytes)), Ok(bytes), "{}", size_text(bytes));
        }
        for text in
            ["", "-1", "1.5MiB", "KiB", "1TiB", "1 2", "0", "0MiB", "18446744073709551616", "18014398509481984KiB", "é"]
        {
            assert!(size(text).is_err(), "`{text}` was taken for {:?}", size(text));
        }
        assert_eq!(size("10m"), Err(Flaw::new("`10m` is not a size").help("did you mean \"10MiB\"?")));
    }

    #[test]
    fn durations() {
        for (text, expected) in
            [("1ms", 1), ("2s", 2_000), ("1h", 3_600_000), ("1m 30s", 90_000), ("365days", 31_536_000_000)]
        {
            assert_eq!(duration(text), Ok(Duration::from_millis(expected)), "{text}");
        }
        for text in ["", "0s", "-1s", "1x", "366days", "99999999999999999years"] {
            assert!(duration(text).is_err(), "`{text}` was taken for {:?}", duration(text));
        }
        let expected = "`60` is not a duration: time unit needed, for example 60sec or 60ms";
        assert_eq!(duration("60"), Err(Flaw::new(expected).help("did you mean \"60s\"?")));
    }
}
