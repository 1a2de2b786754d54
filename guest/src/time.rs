//! Timestamps as text: what Python 3.11's `datetime` reads and prints.
//!
//! Timestamps are kept as they are written. This module only says which point in time a text
//! means, so that texts can be ordered and compared, and prints the two forms that the store
//! itself writes.
//!
//! ```
//! use metalab_store_guest::time::{Timestamp, format_naive, isoformat};
//!
//! let time = Timestamp::parse("2026-03-01T09:00:00+05:30")?;
//! assert_eq!(isoformat(time.micros_utc, Some(0))?, "2026-03-01T03:30:00+00:00");
//! assert_eq!(format_naive(time.micros_utc, 3600)?, "20260301_043000");
//! # Ok::<(), metalab_store_guest::time::TimeError>(())
//! ```

const MICROS: i64 = 1_000_000;
const DAY_SECONDS: i64 = 86_400;
/// Days from 0001-01-01 to 1970-01-01.
const EPOCH_DAYS: i64 = 719_162;
/// Days from 0001-01-01 to 10000-01-01.
const MAX_DAYS: i64 = 3_652_059;

/// A point in time, read from text.
///
/// A naive timestamp, one without an offset, counts as UTC wherever it is compared with others.
/// There is no order on this type: compare `micros_utc`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Timestamp {
    /// Microseconds since 1970-01-01 UTC; up to a day outside the years 1 to 9999, by the offset.
    pub micros_utc: i64,
    /// Whether the text has no offset.
    pub naive: bool,
}

/// Tells why a text is not a timestamp, or a time not printable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TimeError {
    /// The text does not start with a date in one of the ISO 8601 forms.
    #[error("not an ISO 8601 date")]
    Date,
    /// What follows the date and the separator is not a time of day.
    #[error("not an ISO 8601 time of day")]
    Time,
    /// What follows the time of day is not a UTC offset.
    #[error("not an ISO 8601 UTC offset")]
    Offset,
    /// A part has the right form and no such value exists.
    #[error("{0} out of range")]
    Range(&'static str),
}

impl Timestamp {
    /// Reads a text as Python 3.11's `datetime.fromisoformat` does.
    ///
    /// A calendar date (`2026-03-01`, `20260301`) or week date (`2026-W09-7`, `2026W09`), alone or
    /// followed by any one character, a time (`09`, `09:00`, `0900`, `09:00:30.5`, with a point or
    /// a comma) and an offset (`Z`, `+05:30`, `-0530`, `+05:30:15.5`) or none. Digits behind the
    /// microseconds are cut off. A few malformed texts that Python happens to accept are accepted
    /// too, so that no record that the reference reads is unreadable here.
    ///
    /// # Errors
    ///
    /// The first part that is malformed or out of range.
    pub fn parse(text: &str) -> Result<Self, TimeError> {
        if text.chars().nth(6).is_none() {
            return Err(TimeError::Date);
        }
        let reader = Reader(text.as_bytes());
        let length = text.len();
        let separator = reader.date_length().min(length);
        let days = reader.date(separator)?;
        let mut clock = Clock::default();
        let mut offset = None;
        if length > separator {
            // The separator may be any character, of any length in bytes.
            let width = match reader.at(separator) {
                0x00..=0x7F => 1,
                0xE0..=0xEF => 3,
                0xF0..=0xFF => 4,
                _ => 2,
            };
            let start = separator + width;
            (clock, offset) = reader.time(start)?;
        }
        for (value, limit, name) in [
            (clock.hour, 24, "hour"),
            (clock.minute, 60, "minute"),
            (clock.second, 60, "second"),
        ] {
            if value >= limit {
                return Err(TimeError::Range(name));
            }
        }
        let local = (days - EPOCH_DAYS) * DAY_SECONDS * MICROS + clock.micros();
        Ok(Self {
            micros_utc: local - offset.unwrap_or(0),
            naive: offset.is_none(),
        })
    }
}

/// Prints the local time as `%Y%m%d_%H%M%S`: the stamp in the names of experiment manifests.
///
/// `micros_since_epoch` counts from 1970-01-01 UTC; fractions of a second are cut off. The offset
/// is in seconds, east of UTC positive.
///
/// # Errors
///
/// [`TimeError::Range`] if the local time is outside the years 1 to 9999.
pub fn format_naive(micros_since_epoch: i64, utc_offset_seconds: i32) -> Result<String, TimeError> {
    let t = Local::new(micros_since_epoch, utc_offset_seconds)?;
    Ok(format!(
        "{:04}{:02}{:02}_{:02}{:02}{:02}",
        t.year, t.month, t.day, t.hour, t.minute, t.second
    ))
}

/// Prints a time as Python's `isoformat` does: microseconds only if there are any.
///
/// With an offset (seconds, east of UTC positive) the local time is printed, followed by the
/// offset; without one the time in UTC, as a naive timestamp.
///
/// # Errors
///
/// [`TimeError::Range`] if the printed time is outside the years 1 to 9999, or the offset is a day
/// or more.
pub fn isoformat(micros_utc: i64, utc_offset_seconds: Option<i32>) -> Result<String, TimeError> {
    let t = Local::new(micros_utc, utc_offset_seconds.unwrap_or(0))?;
    let mut out = String::with_capacity(32);
    // Not by formatting: a time is printed for each row that the database gets.
    push_digits(t.year, 4, &mut out);
    for (mark, part) in [
        ('-', t.month),
        ('-', t.day),
        ('T', t.hour),
        (':', t.minute),
        (':', t.second),
    ] {
        out.push(mark);
        push_digits(part, 2, &mut out);
    }
    if t.micros != 0 {
        out.push('.');
        push_digits(t.micros, 6, &mut out);
    }
    if let Some(offset) = utc_offset_seconds {
        let size = i64::from(offset.unsigned_abs());
        out.push(if offset < 0 { '-' } else { '+' });
        push_digits(size / 3600, 2, &mut out);
        out.push(':');
        push_digits(size / 60 % 60, 2, &mut out);
        if size % 60 != 0 {
            out.push(':');
            push_digits(size % 60, 2, &mut out);
        }
    }
    Ok(out)
}

/// Appends a number that is not negative with so many digits.
fn push_digits(value: i64, count: u32, out: &mut String) {
    for place in (0..count).rev() {
        let digit = value / 10_i64.pow(place) % 10;
        out.push(char::from(
            b"0123456789"[usize::try_from(digit).unwrap_or_default()],
        ));
    }
}

/// A local time in parts.
struct Local {
    year: i64,
    month: i64,
    day: i64,
    hour: i64,
    minute: i64,
    second: i64,
    micros: i64,
}

impl Local {
    fn new(micros_utc: i64, utc_offset_seconds: i32) -> Result<Self, TimeError> {
        let offset = i64::from(utc_offset_seconds);
        if offset.abs() >= DAY_SECONDS {
            return Err(TimeError::Range("UTC offset"));
        }
        // Neither sum can overflow: the seconds of an i64 of microseconds are far from its ends.
        let seconds = micros_utc.div_euclid(MICROS) + offset;
        let days = seconds.div_euclid(DAY_SECONDS) + EPOCH_DAYS;
        if !(0..MAX_DAYS).contains(&days) {
            return Err(TimeError::Range("year"));
        }
        let (year, month, day) = civil(days);
        let of_day = seconds.rem_euclid(DAY_SECONDS);
        Ok(Self {
            year,
            month,
            day,
            hour: of_day / 3600,
            minute: of_day / 60 % 60,
            second: of_day % 60,
            micros: micros_utc.rem_euclid(MICROS),
        })
    }
}

fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

fn month_length(year: i64, month: i64) -> i64 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Returns the days from 0001-01-01 to the first day of a year (from 1 on).
fn days_before_year(year: i64) -> i64 {
    let past = year - 1;
    past * 365 + past / 4 - past / 100 + past / 400
}

/// Returns year, month and day of a number of days since 0001-01-01 (from 0 on).
fn civil(days: i64) -> (i64, i64, i64) {
    // The mean year has 365.2425 days, so that the estimate is the year or one too high.
    let estimate = days * 10_000 / 3_652_425 + 1;
    let mut year = estimate + 1;
    while days_before_year(year) > days {
        year -= 1;
    }
    let mut left = days - days_before_year(year);
    let mut month = 1;
    while left >= month_length(year, month) {
        left -= month_length(year, month);
        month += 1;
    }
    (year, month, left + 1)
}

/// A time of day or an offset as it is written, not yet checked for range.
#[derive(Clone, Copy, Default)]
struct Clock {
    hour: i64,
    minute: i64,
    second: i64,
    micro: i64,
}

impl Clock {
    fn seconds(self) -> i64 {
        self.hour * 3600 + self.minute * 60 + self.second
    }

    fn micros(self) -> i64 {
        self.seconds() * MICROS + self.micro
    }
}

/// A text that ends with an endless row of NULs, as C sees it.
struct Reader<'t>(&'t [u8]);

impl Reader<'_> {
    fn at(&self, index: usize) -> u8 {
        self.0.get(index).copied().unwrap_or(0)
    }

    /// Returns the number that exactly `count` digits make.
    fn number(&self, start: usize, count: usize) -> Option<i64> {
        (start..start + count).try_fold(0, |number, index| {
            let digit = self.at(index);
            let value = i64::from(digit.wrapping_sub(b'0'));
            digit.is_ascii_digit().then_some(number * 10 + value)
        })
    }

    /// Returns where the date ends. The forms overlap, since any character may separate.
    fn date_length(&self) -> usize {
        let length = self.0.len();
        match (self.at(4), self.at(5)) {
            _ if length == 7 => 7,
            // `2026-W09-1200`: a hyphen that separates is likelier than a digit that does.
            (b'-', b'W') if self.at(8) == b'-' && self.at(10).is_ascii_digit() => 8,
            (b'-', b'W') if self.at(8) == b'-' => 10,
            (b'-', b'W') => 8,
            (b'-', _) => 10,
            // `2026W09` or `2026W097`, and a digit may separate: those of a time come in pairs.
            (b'W', _) => {
                let digits = (7..length)
                    .take_while(|index| self.at(*index).is_ascii_digit())
                    .count();
                match digits {
                    0 | 1 => 7 + digits,
                    odd if odd % 2 == 1 => 7,
                    _ => 8,
                }
            }
            _ => 8,
        }
    }

    /// Reads the date that takes the first `length` bytes: the days since 0001-01-01.
    fn date(&self, length: usize) -> Result<i64, TimeError> {
        let year = self.number(0, 4).ok_or(TimeError::Date)?;
        let hyphen = self.at(4) == b'-';
        let hyphen_width = usize::from(hyphen);
        let second = 4 + hyphen_width;
        if self.at(second) == b'W' {
            let week = self.number(second + 1, 2).ok_or(TimeError::Date)?;
            let end = second + 3;
            let day = if end < length {
                if hyphen && self.at(end) != b'-' {
                    return Err(TimeError::Date);
                }
                self.number(end + hyphen_width, 1).ok_or(TimeError::Date)?
            } else {
                1
            };
            return week_date(year, week, day);
        }
        let month = self.number(second, 2).ok_or(TimeError::Date)?;
        if hyphen && self.at(second + 2) != b'-' {
            return Err(TimeError::Date);
        }
        let third = second + 2 + hyphen_width;
        let day = self.number(third, 2).ok_or(TimeError::Date)?;
        if third + 2 != length {
            return Err(TimeError::Date);
        }
        if year == 0 {
            return Err(TimeError::Range("year"));
        }
        if !(1..=12).contains(&month) {
            return Err(TimeError::Range("month"));
        }
        if !(1..=month_length(year, month)).contains(&day) {
            return Err(TimeError::Range("day"));
        }
        let months: i64 = (1..month).map(|month| month_length(year, month)).sum();
        Ok(days_before_year(year) + months + day - 1)
    }

    /// Reads the time of day and the offset (microseconds) from `start` to the end.
    fn time(&self, start: usize) -> Result<(Clock, Option<i64>), TimeError> {
        let length = self.0.len();
        let zone = (start..length).find(|index| matches!(self.at(*index), b'+' | b'-' | b'Z'));
        let (clock, rest) = self
            .clock(start, zone.unwrap_or(length))
            .ok_or(TimeError::Time)?;
        let Some(zone) = zone else {
            return if rest {
                Err(TimeError::Time)
            } else {
                Ok((clock, None))
            };
        };
        if self.at(zone) == b'Z' {
            return if self.at(zone + 1) == 0 {
                Ok((clock, Some(0)))
            } else {
                Err(TimeError::Offset)
            };
        }
        let (offset, rest) = self.clock(zone + 1, length).ok_or(TimeError::Offset)?;
        if rest {
            return Err(TimeError::Offset);
        }
        // An offset of less than a second is none.
        let micros = if offset.seconds() == 0 {
            0
        } else {
            offset.micros()
        };
        if micros >= DAY_SECONDS * MICROS {
            return Err(TimeError::Range("UTC offset"));
        }
        let sign = if self.at(zone) == b'-' { -1 } else { 1 };
        Ok((clock, Some(sign * micros)))
    }

    /// Reads `HH[:MM[:SS[.ffffff]]]`, with colons or without, and tells if something follows it.
    ///
    /// What it takes beyond that grammar is what CPython's reader takes: one stray character
    /// before `end`, a fraction of seconds right behind hours or minutes, and a fraction without its
    /// point when there are no colons.
    fn clock(&self, start: usize, end: usize) -> Option<(Clock, bool)> {
        let mut clock = Clock::default();
        let mut at = start;
        let mut colons = true;
        for part in 0..3 {
            let value = self.number(at, 2)?;
            match part {
                0 => clock.hour = value,
                1 => clock.minute = value,
                _ => clock.second = value,
            }
            let next = self.at(at + 2);
            at += 3;
            if part == 0 {
                colons = next == b':';
            }
            if at >= end {
                return Some((clock, next != 0));
            }
            match next {
                b':' if colons => {}
                b'.' | b',' => break,
                _ if colons => return None,
                _ => at -= 1,
            }
        }
        let digits = (end - at).min(6);
        clock.micro = self.number(at, digits)?;
        for _ in digits..6 {
            clock.micro *= 10;
        }
        at += digits;
        while self.at(at).is_ascii_digit() {
            at += 1;
        }
        Some((clock, self.at(at) != 0))
    }
}

/// Returns the days from 0001-01-01 to a day of an ISO week; its year may differ from the calendar's.
fn week_date(year: i64, week: i64, day: i64) -> Result<i64, TimeError> {
    if year == 0 {
        return Err(TimeError::Range("year"));
    }
    // 0001-01-01 is a Monday. Week 1 is the week that has the year's first Thursday.
    let first = days_before_year(year);
    let weekday = first % 7;
    let long = weekday == 3 || (weekday == 2 && is_leap(year));
    if !(1..=52 + i64::from(long)).contains(&week) {
        return Err(TimeError::Range("week"));
    }
    if !(1..=7).contains(&day) {
        return Err(TimeError::Range("day of the week"));
    }
    let monday = if weekday > 3 {
        first - weekday + 7
    } else {
        first - weekday
    };
    let days = monday + (week - 1) * 7 + day - 1;
    if days >= MAX_DAYS {
        return Err(TimeError::Range("year"));
    }
    Ok(days)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may stop where it fails")]
mod tests;
