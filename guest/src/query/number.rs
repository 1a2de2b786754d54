//! Exact comparison of numbers: integers of any size and floats, nothing is rounded.

use std::cmp::Ordering;

/// 2^63, the first float beyond the integers of 64 bits; it has an exact value.
const BEYOND: f64 = 9_223_372_036_854_775_808.0;

/// A number as JSON has it.
#[derive(Clone, Copy, Debug)]
pub enum Number<'a> {
    /// An integer of at most 64 bits.
    Int(i64),
    /// An integer beyond 64 bits in decimal: a minus sign or none, no leading zero.
    Big(&'a str),
    /// A float; NaN and the infinities included.
    Float(f64),
}

impl Number<'_> {
    /// Tells whether the number is NaN.
    #[must_use]
    pub fn is_nan(self) -> bool {
        matches!(self, Self::Float(value) if value.is_nan())
    }

    /// Compares the exact values; `None` if one of them is NaN. `0.0` and `-0.0` are equal.
    #[must_use]
    pub fn compare(self, other: Self) -> Option<Ordering> {
        match (self, other) {
            (Self::Int(left), Self::Int(right)) => Some(left.cmp(&right)),
            (Self::Int(left), Self::Float(right)) => int_with_float(left, right),
            (Self::Float(left), Self::Int(right)) => {
                int_with_float(right, left).map(Ordering::reverse)
            }
            (Self::Float(left), Self::Float(right)) => left.partial_cmp(&right),
            (Self::Big(left), Self::Big(right)) => Some(integers(left, right)),
            (Self::Big(left), Self::Int(_)) => Some(beyond(left)),
            (Self::Int(_), Self::Big(right)) => Some(beyond(right).reverse()),
            (Self::Big(left), Self::Float(right)) => big_with_float(left, right),
            (Self::Float(left), Self::Big(right)) => {
                big_with_float(right, left).map(Ordering::reverse)
            }
        }
    }
}

fn int_with_float(int: i64, float: f64) -> Option<Ordering> {
    if float.is_nan() {
        return None;
    }
    if float >= BEYOND {
        return Some(Ordering::Less);
    }
    if float < -BEYOND {
        return Some(Ordering::Greater);
    }
    let whole = float.trunc();
    #[expect(
        clippy::cast_possible_truncation,
        reason = "an integral float from -2^63 to below 2^63 converts exactly"
    )]
    let by_whole = int.cmp(&(whole as i64));
    // With equal whole parts the sign of the fraction decides.
    by_whole.then(0.0_f64.partial_cmp(&(float - whole))?).into()
}

/// Compares an integer beyond 64 bits with any that is not: its sign says all.
fn beyond(digits: &str) -> Ordering {
    if digits.starts_with('-') {
        Ordering::Less
    } else {
        Ordering::Greater
    }
}

fn big_with_float(big: &str, float: f64) -> Option<Ordering> {
    if float.is_nan() {
        None
    } else if float.is_infinite() {
        Some(0.0_f64.partial_cmp(&float)?)
    } else if float.abs() < BEYOND {
        Some(beyond(big))
    } else {
        // So large a float is an integer, of at most 309 digits, and this prints all of them.
        Some(integers(big, &format!("{float:.0}")))
    }
}

/// Compares two integers in decimal.
fn integers(left: &str, right: &str) -> Ordering {
    match (left.strip_prefix('-'), right.strip_prefix('-')) {
        (None, Some(_)) => Ordering::Greater,
        (Some(_), None) => Ordering::Less,
        (None, None) => digits(left, right),
        (Some(left), Some(right)) => digits(right, left),
    }
}

fn digits(left: &str, right: &str) -> Ordering {
    left.len().cmp(&right.len()).then_with(|| left.cmp(right))
}
