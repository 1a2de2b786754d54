//! Times as text: what Python 3.11's `datetime.fromisoformat` accepts, and how its values are ordered.

use std::fmt::Write as _;

const SECOND: i64 = 1_000_000;
const DAY: i64 = 86_400 * SECOND;

/// A point in time, for comparison. The text it was read from stays what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timestamp {
    /// Microseconds since 1970-01-01 UTC; a time without an offset counts as UTC.
    pub micros_utc: i64,
    /// Whether the text has no offset.
    pub naive: bool,
}

/// Why a text is not a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotATime {
    /// It is not spelled as a date and a time.
    #[error("it should look like 2026-03-01T09:00:00.123456")]
    Spelling,
    /// There is no such day.
    #[error("there is no such day")]
    Day,
    /// There is no such time of day.
    #[error("there is no such time of day")]
    Clock,
    /// The offset from UTC is a day or more.
    #[error("the offset from UTC is not less than a day")]
    Offset,
}

/// Parses a time.
///
/// Accepted are dates as `2026-03-01`, `20260301`, `2026-W09-7` and `2026W097`, alone or followed by any one
/// character and a time of day as `09`, `09:00`, `09:00:00.123456` or `090000,123`, and an offset as `Z`,
/// `+05:30` or `-0530`. Digits beyond microseconds are cut off.
///
/// # Errors
/// [`NotATime`].
pub fn parse(text: &str) -> Result<Timestamp, NotATime> {
    // Python takes only ASCII here, but for the separator.
    let separator = separator(text).ok_or(NotATime::Spelling)?;
    let date = text.get(..separator).ok_or(NotATime::Spelling)?;
    let days = parse_date(date.as_bytes())?;
    let rest = &text[separator..];
    let mut characters = rest.chars();
    if characters.next().is_none() {
        return Ok(Timestamp {
            micros_utc: days * DAY,
            naive: true,
        });
    }
    let clock = characters.as_str();
    if clock.is_empty() || !clock.is_ascii() {
        return Err(NotATime::Spelling);
    }
    let (clock, offset) = match clock.find(['Z', '+', '-']) {
        None => (clock, None),
        Some(at) if clock.as_bytes()[at] == b'Z' => {
            if at + 1 != clock.len() {
                return Err(NotATime::Spelling);
            }
            (&clock[..at], Some(0))
        }
        Some(at) => {
            let offset = parse_clock(&clock.as_bytes()[at + 1..])?;
            if offset >= DAY {
                return Err(NotATime::Offset);
            }
            (
                &clock[..at],
                Some(if clock.as_bytes()[at] == b'-' {
                    -offset
                } else {
                    offset
                }),
            )
        }
    };
    let clock = parse_clock(clock.as_bytes())?;
    if clock >= DAY {
        return Err(NotATime::Clock);
    }
    Ok(Timestamp {
        micros_utc: days * DAY + clock - offset.unwrap_or_default(),
        naive: offset.is_none(),
    })
}

/// Finds where the date ends, as Python does: by its form.
fn separator(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    if bytes.len() == 7 {
        return Some(7);
    }
    let week = |at: usize| bytes.get(at) == Some(&b'W');
    let digit = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_digit);
    if bytes.get(4) == Some(&b'-') {
        if !week(5) {
            return Some(10.min(bytes.len()));
        }
        // With a day of the week, or without.
        if bytes.get(8) == Some(&b'-') {
            if bytes.len() == 9 {
                return None;
            }
            // A dash and two digits or more are a time of day with the dash before it.
            return Some(if bytes.len() > 10 && digit(10) { 8 } else { 10 });
        }
        return Some(8.min(bytes.len()));
    }
    if week(4) {
        let end = (7..bytes.len())
            .find(|at| !digit(*at))
            .unwrap_or(bytes.len());
        if end < 9 {
            return Some(end);
        }
        return Some(if end % 2 == 0 { 7 } else { 8 });
    }
    Some(8.min(bytes.len()))
}

fn number(digits: &[u8]) -> Option<i64> {
    digits.iter().try_fold(0, |value, digit| {
        digit
            .is_ascii_digit()
            .then(|| value * 10 + i64::from(digit - b'0'))
    })
}

fn parse_date(date: &[u8]) -> Result<i64, NotATime> {
    let year = date.get(..4).and_then(number).ok_or(NotATime::Spelling)?;
    let rest = &date[4..];
    let dashed = rest.first() == Some(&b'-');
    let rest = if dashed { &rest[1..] } else { rest };
    if rest.first() == Some(&b'W') {
        let week = rest.get(1..3).and_then(number).ok_or(NotATime::Spelling)?;
        let day = match (&rest[3..], dashed) {
            ([], _) => 1,
            ([b'-', day], true) | ([day], false) => number(&[*day]).ok_or(NotATime::Spelling)?,
            _ => return Err(NotATime::Spelling),
        };
        return week_date(year, week, day);
    }
    let month = rest.get(..2).and_then(number).ok_or(NotATime::Spelling)?;
    let day = match (&rest[2..], dashed) {
        ([b'-', day @ ..], true) | (day, false) if day.len() == 2 => {
            number(day).ok_or(NotATime::Spelling)?
        }
        _ => return Err(NotATime::Spelling),
    };
    if !(1..=9999).contains(&year)
        || !(1..=12).contains(&month)
        || day < 1
        || day > month_length(year, month)
    {
        return Err(NotATime::Day);
    }
    Ok(days_before(year, month) + day - 1)
}

fn leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

fn month_length(year: i64, month: i64) -> i64 {
    match month {
        2 if leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Returns the days from 1970-01-01 to the first of a month.
fn days_before(year: i64, month: i64) -> i64 {
    let before = year - 1;
    let years = before * 365 + before / 4 - before / 100 + before / 400 - 719_162;
    years
        + (1..month)
            .map(|month| month_length(year, month))
            .sum::<i64>()
}

fn week_date(year: i64, week: i64, day: i64) -> Result<i64, NotATime> {
    if !(1..=9999).contains(&year) || !(1..=7).contains(&day) {
        return Err(NotATime::Day);
    }
    let first = days_before(year, 1);
    // 1970-01-01 was a Thursday; Monday is 0.
    let weekday = (first + 3).rem_euclid(7);
    let long = weekday == 3 || (weekday == 2 && leap(year));
    if week < 1 || week > if long { 53 } else { 52 } {
        return Err(NotATime::Day);
    }
    // Week 1 is the one with the year's first Thursday.
    let monday = first - weekday + if weekday > 3 { 7 } else { 0 };
    let days = monday + (week - 1) * 7 + day - 1;
    // The last days of week 52 of 9999 are in a year that has no name.
    if days >= days_before(9999, 12) + 31 || days < days_before(1, 1) {
        Err(NotATime::Day)
    } else {
        Ok(days)
    }
}

/// Parses a time of day, or the size of an offset, to microseconds.
fn parse_clock(text: &[u8]) -> Result<i64, NotATime> {
    let colons = text.get(2) == Some(&b':');
    let mut parts = [0; 3];
    let mut at = 0;
    let mut count = 0;
    loop {
        parts[count] = text
            .get(at..at + 2)
            .and_then(number)
            .ok_or(NotATime::Spelling)?;
        count += 1;
        at += 2;
        match text.get(at) {
            None | Some(b'.' | b',') => break,
            Some(b':') if colons && count < 3 => at += 1,
            Some(_) if !colons && count < 3 => {}
            Some(_) => return Err(NotATime::Spelling),
        }
    }
    let mut micros = 0;
    if at < text.len() {
        let fraction = &text[at + 1..];
        if count < 3 || fraction.is_empty() || !fraction.iter().all(u8::is_ascii_digit) {
            return Err(NotATime::Spelling);
        }
        for index in 0..6 {
            micros = micros * 10
                + fraction
                    .get(index)
                    .map_or(0, |digit| i64::from(digit - b'0'));
        }
    }
    let [hours, minutes, seconds] = parts;
    if hours > 23 || minutes > 59 || seconds > 59 {
        return Err(NotATime::Clock);
    }
    Ok((hours * 3600 + minutes * 60 + seconds) * SECOND + micros)
}

/// Returns year, month and day of a number of days since 1970-01-01.
fn date_of(days: i64) -> (i64, i64, i64) {
    // 400 years have 146,097 days; the estimate is too low by two years at most, and never too high.
    let mut year = 1969 + (days * 400).div_euclid(146_097);
    while days_before(year + 1, 1) <= days {
        year += 1;
    }
    let mut month = 1;
    while month < 12 && days_before(year, month + 1) <= days {
        month += 1;
    }
    (year, month, days - days_before(year, month) + 1)
}

/// Returns a time as manifests have it in their names: `20260301_090000`, local to an offset from UTC.
#[must_use]
pub fn format_stamp(micros_since_epoch: i64, utc_offset_seconds: i32) -> String {
    let local = micros_since_epoch.div_euclid(SECOND) + i64::from(utc_offset_seconds);
    let (year, month, day) = date_of(local.div_euclid(86_400));
    let second = local.rem_euclid(86_400);
    format!(
        "{year:04}{month:02}{day:02}_{:02}{:02}{:02}",
        second / 3600,
        second / 60 % 60,
        second % 60
    )
}

/// Returns a time without an offset as Python's `isoformat` prints it: microseconds only if there are any.
#[must_use]
pub fn isoformat(micros_since_epoch: i64) -> String {
    let (year, month, day) = date_of(micros_since_epoch.div_euclid(DAY));
    let clock = micros_since_epoch.rem_euclid(DAY);
    let second = clock / SECOND;
    let mut text = format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}",
        second / 3600,
        second / 60 % 60,
        second % 60
    );
    if clock % SECOND != 0 {
        // Writing to a string cannot fail.
        let _ = write!(text, ".{:06}", clock % SECOND);
    }
    text
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn times_are_read_as_python_reads_them() {
        for (text, expected, naive) in [
            ("1970-01-01", 0, true),
            ("1970-01-01T00:00:00", 0, true),
            ("1970-01-01 00:00:01.5", 1_500_000, true),
            ("1970-01-02T00:00:00+00:00", DAY, false),
            ("1970-01-01T05:30:00+05:30", 0, false),
            ("1970-01-01T05:30:00+0530", 0, false),
            ("1970-01-01T00:00:00Z", 0, false),
            ("19700102T000000,123456789", DAY + 123_456, true),
            ("1970-W01-4", 0, true),
            ("1970W014T01", 3600 * SECOND, true),
            ("1969-12-31T23:59:59.999999", -1, true),
            ("2026-03-01T09:00:00.123456", 1_772_355_600_123_456, true),
            ("0001-01-01", -62_135_596_800_000_000, true),
            ("9999-12-31T23:59:59.999999", 253_402_300_799_999_999, true),
        ] {
            assert_eq!(
                parse(text),
                Ok(Timestamp {
                    micros_utc: expected,
                    naive
                }),
                "{text}"
            );
        }
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in [
            "",
            "yesterday",
            "2026",
            "2026-13-01",
            "2026-02-29",
            "2026-3-1",
            "2026-03-01T",
            "2026-03-01T24:00",
            "2026-03-01T9",
            "2026-03-01T09:60",
            "2026-03-01T09:00:00.",
            "2026-03-01T09:00:00+24:00",
            "2026-03-01T09:00:00Zx",
            "0000-01-01",
            "2026-03-01T09:0000",
            "2026-W54-1",
            "2026-W01-8",
            "２０２６-03-01",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn every_day_survives_printing_and_reading() {
        for days in (-719_162..2_932_896).step_by(13) {
            let micros = days * DAY + 3_723 * SECOND + 42;
            assert_eq!(parse(&isoformat(micros)).unwrap().micros_utc, micros);
        }
        assert_eq!(format_stamp(1_772_355_600_123_456, 0), "20260301_090000");
        assert_eq!(format_stamp(0, -3600), "19691231_230000");
    }
}
