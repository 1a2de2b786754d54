use super::*;
use crate::json::python::{Random, ask};
use crate::json::{Value, line, parse};

fn micros(text: &str) -> i64 {
    Timestamp::parse(text).unwrap().micros_utc
}

#[test]
fn every_form_of_one_time_means_the_same_point() {
    let expected = Timestamp {
        micros_utc: 1_772_355_630_500_000,
        naive: true,
    };
    for text in [
        "2026-03-01T09:00:30.5",
        "2026-03-01 09:00:30.500000",
        "2026-03-01x09:00:30,5000009",
        "2026-03-01é090030.5",
        "20260301T090030.5",
        "2026-W09-7T09:00:30.5",
        "2026W097😀09:00:30.5",
    ] {
        assert_eq!(Timestamp::parse(text), Ok(expected), "{text}");
    }
    for text in [
        "2026-03-01T09:00:30.5Z",
        "2026-03-01T09:00:30.5+00:00",
        "2026-03-01T14:30:30.5+05:30",
        "2026-03-01T14:30:30.5+0530",
        "2026-02-28T23:00:30.5-10",
        "2026-03-01T09:00:31.75+00:00:01.25",
    ] {
        let aware = Timestamp {
            naive: false,
            ..expected
        };
        assert_eq!(Timestamp::parse(text), Ok(aware), "{text}");
    }
}

#[test]
fn a_date_alone_is_its_midnight() {
    for text in ["1970-01-01", "19700101", "1970-W01-4", "1970W014"] {
        assert_eq!(micros(text), 0, "{text}");
    }
    assert_eq!(micros("1970-W01"), -3 * 86_400_000_000);
    assert_eq!(micros("1970W01"), -3 * 86_400_000_000);
}

#[test]
fn the_first_and_the_last_microsecond_can_be_read() {
    assert_eq!(micros("0001-01-01T00:00:00"), -62_135_596_800_000_000);
    assert_eq!(
        micros("9999-12-31T23:59:59.999999"),
        253_402_300_799_999_999
    );
    let last = micros("9999-12-31T23:59:59.999999-23:59:59.999999");
    assert_eq!(last, 253_402_300_799_999_999 + 86_399_999_999);
}

#[test]
fn what_is_not_a_timestamp_is_refused_with_its_reason() {
    use TimeError::{Date, Offset, Range, Time};
    for (text, reason) in [
        ("", Date),
        ("now", Date),
        ("2026-03", Date),
        ("2026-3-01", Date),
        ("2026-03x01", Date),
        ("２026-03-01", Date),
        ("2026-060", Date),
        ("0000-01-01", Range("year")),
        ("2026-13-01", Range("month")),
        ("2026-02-29", Range("day")),
        ("1900-02-29", Range("day")),
        ("2026-00-01", Range("month")),
        ("2026-01-00", Range("day")),
        ("2026-W54", Range("week")),
        ("2026-W00-1", Range("week")),
        ("2025-W53-1", Range("week")),
        ("2026-W09-8", Range("day of the week")),
        ("9999-W52-7", Range("year")),
        ("2026-03-01T", Time),
        ("2026-03-01é", Time),
        ("2026-03-01T9:00", Time),
        ("2026-03-01T09:", Time),
        ("2026-03-01T09:00:00.", Time),
        ("2026-03-01T09:0000", Time),
        ("2026-03-01T09:00:00 ", Time),
        ("2026-03-01T24:00:00", Range("hour")),
        ("2026-03-01T09:60:00", Range("minute")),
        ("2026-03-01T09:00:60", Range("second")),
        ("2026-03-01T09:00:00z", Time),
        ("2026-03-01T09:00:00Zulu", Offset),
        ("2026-03-01T09:00:00+", Offset),
        ("2026-03-01T09:00:00+1", Offset),
        ("2026-03-01T09:00:00+24:00", Range("UTC offset")),
    ] {
        assert_eq!(Timestamp::parse(text), Err(reason), "{text}");
    }
}

#[test]
fn every_day_is_printed_and_read_back() {
    let mut printed = String::new();
    for days in 0..MAX_DAYS {
        let time = (days - EPOCH_DAYS) * DAY_SECONDS * MICROS;
        let text = isoformat(time, None).unwrap();
        assert_eq!(micros(&text), time, "{text}");
        assert!(printed < text);
        printed = text;
    }
    assert_eq!(printed, "9999-12-31T00:00:00");
}

#[test]
fn times_are_printed_with_only_the_parts_that_they_have() {
    let time = 1_772_355_600_123_456;
    for (micros, offset, text) in [
        (time, None, "2026-03-01T09:00:00.123456"),
        (time - 123_456, None, "2026-03-01T09:00:00"),
        (
            time - 123_456 + 50,
            Some(0),
            "2026-03-01T09:00:00.000050+00:00",
        ),
        (time, Some(19_800), "2026-03-01T14:30:00.123456+05:30"),
        (time, Some(-34_215), "2026-02-28T23:29:45.123456-09:30:15"),
        (-1, None, "1969-12-31T23:59:59.999999"),
    ] {
        assert_eq!(isoformat(micros, offset).unwrap(), text);
    }
    assert_eq!(format_naive(time, 0).unwrap(), "20260301_090000");
    assert_eq!(format_naive(time, -34_215).unwrap(), "20260228_232945");
    assert_eq!(
        format_naive(-62_135_596_800_000_000, 0).unwrap(),
        "00010101_000000"
    );
}

#[test]
fn a_time_outside_the_years_1_to_9999_is_not_printed() {
    let (first, last) = (-62_135_596_800_000_000, 253_402_300_799_999_999);
    for (micros, offset) in [
        (i64::MIN, 0),
        (i64::MAX, 0),
        (first - 1, 0),
        (last + 1, 0),
        (first, -1),
        (last, 1),
    ] {
        assert_eq!(format_naive(micros, offset), Err(TimeError::Range("year")));
        let printed = isoformat(micros, Some(offset));
        assert_eq!(printed, Err(TimeError::Range("year")));
    }
    for offset in [86_400, -86_400, i32::MIN, i32::MAX] {
        let error = Err(TimeError::Range("UTC offset"));
        assert_eq!(format_naive(0, offset), error);
        assert_eq!(isoformat(0, Some(offset)), error);
    }
}

/// Reads one JSON string a line; answers with the microseconds and `naive` or `aware`, or `refused`.
const READ: &str = "
import json
from datetime import datetime, timedelta
out = []
for text in sys.stdin.read().splitlines():
    try:
        t = datetime.fromisoformat(json.loads(text))
    except ValueError:
        out.append('refused')
        continue
    at = t.replace(tzinfo=None) - datetime(1970, 1, 1)
    at = (at - (t.utcoffset() or timedelta())) // timedelta(microseconds=1)
    out.append(f'{at} ' + ('naive' if t.tzinfo is None else 'aware'))
print('\\n'.join(out))
";

fn random_digits(random: &mut Random, count: usize) -> String {
    (0..count)
        .map(|_| random.pick(&['0', '1', '2', '5', '9']))
        .collect()
}

fn random_clock(random: &mut Random, out: &mut String) {
    let colon = random.pick(&[":", ":", ""]);
    for part in 0..=random.below(3) {
        if part > 0 {
            out.push_str(colon);
        }
        out.push_str(random.pick(&[
            "00", "01", "09", "12", "23", "05", "17", "20", "22", "11", "24", "59", "60",
        ]));
    }
    if random.below(3) == 0 {
        out.push_str(random.pick(&[".", ",", ""]));
        let count = random.below(9);
        out.push_str(&random_digits(random, count));
    }
}

fn random_timestamp(random: &mut Random) -> String {
    const PARTS: [&str; 21] = [
        "", "", "", "0", "5", "9", "12", "-", ":", ".", ",", "T", "W", "Z", "+", " ", "x", "é",
        "😀", "\0", "\u{ff10}",
    ];
    let hyphen = random.pick(&["-", "-", ""]);
    let mut out = match random.below(4) {
        0 => random_digits(random, 4),
        _ => random
            .pick(&[
                "2026", "2024", "1900", "2000", "2020", "0001", "9999", "1970",
            ])
            .into(),
    };
    out.push_str(hyphen);
    if random.below(3) == 0 {
        out.push('W');
        out.push_str(random.pick(&["01", "09", "20", "30", "41", "52", "53", "00", "54"]));
        if random.below(2) == 0 {
            out.push_str(hyphen);
            out.push_str(random.pick(&["1", "2", "3", "4", "5", "6", "7", "0", "8"]));
        }
    } else {
        out.push_str(random.pick(&[
            "01", "02", "03", "04", "05", "06", "07", "08", "09", "11", "12", "13", "00",
        ]));
        out.push_str(hyphen);
        out.push_str(random.pick(&[
            "01", "02", "08", "09", "15", "20", "27", "28", "29", "30", "31", "00", "32",
        ]));
    }
    if random.below(6) != 0 {
        out.push_str(random.pick(&["T", "T", " ", "-", "5", "W", "é", "€", "😀", "\u{85}", "\0"]));
        random_clock(random, &mut out);
        match random.below(5) {
            0 => out.push('Z'),
            1 | 2 => {
                out.push_str(random.pick(&["+", "-"]));
                random_clock(random, &mut out);
            }
            _ => {}
        }
    }
    if random.below(3) == 0 {
        let mut from = random.below(out.len() + 1);
        let mut to = (from + random.below(3)).min(out.len());
        while !out.is_char_boundary(from) {
            from -= 1;
        }
        while !out.is_char_boundary(to) {
            to += 1;
        }
        out.replace_range(from..to, random.pick(&PARTS));
    }
    out
}

#[test]
fn python_reads_the_same_texts_as_the_same_times() {
    let mut random = Random::new(3);
    let texts: Vec<_> = (0..60_000).map(|_| random_timestamp(&mut random)).collect();
    let mut lines = String::new();
    for text in &texts {
        line(&Value::from(text.as_str()), &mut lines);
        lines.push('\n');
    }
    let ours: Vec<_> = texts
        .iter()
        .map(|text| match Timestamp::parse(text) {
            Ok(time) => {
                let kind = if time.naive { "naive" } else { "aware" };
                format!("{} {kind}", time.micros_utc)
            }
            Err(_) => "refused".to_owned(),
        })
        .collect();
    let refused = ours.iter().filter(|answer| *answer == "refused").count();
    assert!((10_000..50_000).contains(&refused), "{refused}");
    let Some(answer) = ask("v == (3, 11)", READ, &lines) else {
        return;
    };
    assert_eq!(answer.lines().count(), texts.len());
    for ((text, ours), theirs) in texts.iter().zip(&ours).zip(answer.lines()) {
        assert_eq!(ours, theirs, "{text:?}");
    }
}

/// Reads microseconds and an offset in seconds a line; answers with `isoformat` and the stamp.
const PRINT: &str = "
from datetime import datetime, timedelta, timezone
out = []
for text in sys.stdin.read().splitlines():
    micros, offset = map(int, text.split())
    utc = datetime(1970, 1, 1, tzinfo=timezone.utc) + timedelta(microseconds=micros)
    local = utc.astimezone(timezone(timedelta(seconds=offset)))
    # Python does not pad years, except in isoformat.
    stamp = f'{local.year:04}' + local.strftime('%m%d_%H%M%S')
    out.append(f'{utc.replace(tzinfo=None).isoformat()} {local.isoformat()} {stamp}')
print('\\n'.join(out))
";

#[test]
fn python_prints_the_same_text_of_the_same_times() {
    let mut random = Random::new(4);
    let mut lines = String::new();
    let mut ours = String::new();
    for _ in 0..20_000 {
        let seconds = i64::try_from(random.below(315_000_000_000)).unwrap() - 62_000_000_000;
        let fraction = random.pick(&[0, 1, 120_000, 999_999]);
        let time = seconds * MICROS + fraction;
        let offset = i32::try_from(random.below(172_799)).unwrap() - 86_399;
        let offset = random.pick(&[0, 3600, -34_200, offset]);
        lines.push_str(&format!("{time} {offset}\n"));
        ours.push_str(&format!(
            "{} {} {}\n",
            isoformat(time, None).unwrap(),
            isoformat(time, Some(offset)).unwrap(),
            format_naive(time, offset).unwrap()
        ));
    }
    let Some(answer) = ask("v >= (3, 11)", PRINT, &lines) else {
        return;
    };
    assert_eq!(answer.lines().count(), ours.lines().count());
    for (ours, theirs) in ours.lines().zip(answer.lines()) {
        assert_eq!(ours, theirs);
    }
}

#[test]
fn timestamps_in_records_keep_their_text() {
    let text = br#""2026-03-01T09:00:00.120000""#;
    let value = parse(text).unwrap();
    let read = Timestamp::parse(value.as_str().unwrap()).unwrap();
    let mut printed = String::new();
    line(&value, &mut printed);
    assert_eq!(printed.as_bytes(), text);
    assert_eq!(
        isoformat(read.micros_utc, None).unwrap(),
        "2026-03-01T09:00:00.120000"
    );
}
