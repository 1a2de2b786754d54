//! The text of numbers.

use std::fmt::Write as _;

/// From this length on, the text of a float is shortened before it is converted.
const LONG_FLOAT: usize = 4096;

/// More significant digits than any float needs to be rounded correctly (767).
const DIGITS_KEPT: usize = 800;

/// Beyond this decimal exponent every float is zero or infinite.
const EXPONENT_KEPT: i64 = 10_000;

/// Reads a float as JSON's grammar has it: correctly rounded, too large is infinite.
pub(crate) fn parse_float(text: &str) -> f64 {
    // The grammar of JSON numbers is a part of Rust's, so that the conversion cannot fail.
    let parse = |text: &str| text.parse().unwrap_or(f64::NAN);
    if text.len() < LONG_FLOAT {
        parse(text)
    } else {
        parse(&shorten(text))
    }
}

/// Writes a long float shorter, without changing what it rounds to.
///
/// `str::parse` caps exponents at some 65,536 and adds the position of the point only then, so
/// that `0.000..(70,000 zeros)..1e100000` would read as a wrong number.
fn shorten(text: &str) -> String {
    let (sign, text) = match text.strip_prefix('-') {
        Some(text) => ("-", text),
        None => ("", text),
    };
    let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = || whole.bytes().chain(fraction.bytes());
    let zeros = digits().take_while(|digit| *digit == b'0').count();
    let mut kept: String = digits()
        .skip(zeros)
        .take(DIGITS_KEPT)
        .map(char::from)
        .collect();
    if digits()
        .skip(zeros + DIGITS_KEPT)
        .any(|digit| digit != b'0')
    {
        // What is cut off only matters by not being zero.
        kept.push('1');
    }
    let mut power = 0_i64;
    for digit in exponent.bytes().filter(u8::is_ascii_digit) {
        power = power
            .saturating_mul(10)
            .saturating_add(i64::from(digit - b'0'));
    }
    if exponent.starts_with('-') {
        power = -power;
    }
    let length = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
    let point = length(whole.len()).saturating_sub(length(zeros));
    let power = power
        .saturating_add(point)
        .clamp(-EXPONENT_KEPT, EXPONENT_KEPT);
    format!("{sign}0.{kept}0e{power}")
}

/// Returns the text of a float as Python's `repr` and `json` print it.
///
/// The shortest digits that read back as the same float, an exponent from `1e+16` up and below
/// `0.0001`, at least one digit after the point; `NaN`, `Infinity` and `-Infinity` as JSON names them.
#[must_use]
pub fn float_text(value: f64) -> String {
    let mut out = String::new();
    push_float(value, &mut out);
    out
}

/// Tells whether a float as JSON's grammar has it is, for certain, the text that [`float_text`] makes of its value.
///
/// Up to 15 digits no other text of as few stands for the same float, so that it is the shortest.
pub(super) fn is_own_text(text: &str) -> bool {
    let unsigned = text.strip_prefix('-').unwrap_or(text);
    let Some((whole, fraction)) = unsigned.split_once('.') else {
        return false;
    };
    if unsigned.len() > 16 || !fraction.bytes().all(|digit| digit.is_ascii_digit()) {
        return false;
    }
    // Below 0.0001 there is an exponent, and zeros at the end are left out but for one.
    let zeros = fraction.bytes().take_while(|digit| *digit == b'0').count();
    match fraction {
        "0" => true,
        _ if fraction.ends_with('0') => false,
        _ => whole != "0" || zeros < 4,
    }
}

/// Appends what [`float_text`] returns.
pub(crate) fn push_float(value: f64, out: &mut String) {
    if value.is_nan() {
        out.push_str("NaN");
        return;
    }
    if value.is_infinite() {
        out.push_str(if value > 0.0 { "Infinity" } else { "-Infinity" });
        return;
    }
    // Rust's own text has the same digits but for ties, and other rules for point and exponent.
    let start = out.len();
    let size = value.abs();
    let scientific = size != 0.0 && !(1e-4..1e16).contains(&size);
    if scientific {
        write_infallible(out, format_args!("{value:e}"));
    } else {
        write_infallible(out, format_args!("{value:?}"));
    }
    if may_tie(size) {
        settle_tie(value, scientific, start, out);
    }
    let mark = out.get(start..).and_then(|text| text.find('e'));
    let Some(mark) = mark.filter(|_| scientific) else {
        return;
    };
    let exponent = out.split_off(start + mark + 1);
    match exponent.strip_prefix('-') {
        Some(digits) => {
            out.push('-');
            push_exponent(digits, out);
        }
        None => {
            out.push('+');
            push_exponent(&exponent, out);
        }
    }
}

/// Tells whether the shortest text of a positive float may be one of two that are equally near.
///
/// Then its exact value has one digit more, a 5 at the end. With `f` binary places the value is
/// `odd / 2^f`, and its digits are those of `odd * 5^f`. Up to 15 digits the exact text is the
/// shortest one, and no shortest text has more than 17.
fn may_tie(size: f64) -> bool {
    const FRACTION_BITS: u32 = 52;
    let bits = size.to_bits();
    let exponent = bits >> FRACTION_BITS;
    let mantissa = (bits & ((1 << FRACTION_BITS) - 1)) | (1 << FRACTION_BITS);
    let zeros = mantissa.trailing_zeros();
    // The value of a normal float is `mantissa * 2^(exponent - 1075)`.
    let Some(places) = 1075_u64.checked_sub(exponent + u64::from(zeros)) else {
        return false;
    };
    // 5^26 has 19 digits.
    let places = u32::try_from(places).unwrap_or(u32::MAX);
    if !(1..=25).contains(&places) {
        return false;
    }
    let digits = u128::from(mantissa >> zeros) * 5_u128.pow(places);
    (10_u128.pow(15)..10_u128.pow(18)).contains(&digits)
}

/// Takes the even one of two texts that are equally near, as Python does; Rust takes the larger.
///
/// At a power of two the even one may belong to the float below; then there is no choice.
fn settle_tie(value: f64, scientific: bool, start: usize, out: &mut String) {
    let shortest = out.get(start..).unwrap_or_default();
    let mantissa = shortest.split('e').next().unwrap_or_default();
    let places = mantissa.split_once('.').map_or(0, |(_, after)| after.len());
    // Formatting to a number of places rounds ties to even.
    let even = if scientific {
        format!("{value:.places$e}")
    } else {
        format!("{value:.places$}")
    };
    if even.parse() == Ok(value) {
        out.truncate(start);
        out.push_str(&even);
    }
}

/// Appends an exponent's digits, at least two.
fn push_exponent(digits: &str, out: &mut String) {
    if digits.len() < 2 {
        out.push('0');
    }
    out.push_str(digits);
}

/// Appends an integer.
pub(super) fn push_int(value: i64, out: &mut String) {
    write_infallible(out, format_args!("{value}"));
}

fn write_infallible(out: &mut String, arguments: std::fmt::Arguments<'_>) {
    out.write_fmt(arguments)
        .expect("writing numbers into a string does not fail");
}
