//! Durations as people write them: `500ms`, `2s`, `1m`, `1h`, `1d`, and sums such as `1m30s`.

use std::time::Duration;

use crate::{Error, ErrorKind, Result};

const UNITS: [(&str, u64); 6] =
    [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000), ("w", 604_800_000)];

/// The longest duration in seconds: far from what would overflow a point in time.
const CENTURY: u64 = 100 * 365 * 86_400;

/// Parses `500ms`, `2s`, `1.5s`, `1m30s`, `1h`; a bare `0` is zero. Exact to the nanosecond.
///
/// # Errors
/// `invalid-argument`, which says the accepted forms.
pub fn parse(text: &str) -> Result<Duration> {
    let bad = || {
        Error::new(ErrorKind::InvalidArgument, format!("`{text}` is not a duration"))
            .hint("write it as 500ms, 2s, 1m or 1h")
    };
    let mut rest = text.trim();
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    if rest.is_empty() {
        return Err(bad());
    }
    let mut total: u128 = 0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(bad)?;
        let (number, after) = rest.split_at(digits);
        let unit_len = after.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(after.len());
        let (unit, remainder) = after.split_at(unit_len);
        let (_, ms) = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(bad)?;
        let nanos = scaled(number, u128::from(*ms) * 1_000_000).ok_or_else(bad)?;
        total = total.checked_add(nanos).ok_or_else(bad)?;
        rest = remainder;
    }
    let seconds = u64::try_from(total / 1_000_000_000).map_err(|_| bad())?;
    if seconds > CENTURY {
        return Err(bad().hint("nothing here takes longer than a century"));
    }
    Ok(Duration::new(seconds, (total % 1_000_000_000) as u32))
}

/// A decimal number of `unit`s, without floating point: `1.1` is not quite `1.1` there.
fn scaled(number: &str, unit: u128) -> Option<u128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    if fraction.is_empty() || fraction.len() > 12 {
        return None;
    }
    let whole: u128 = whole.parse().ok()?;
    let parts: u128 = fraction.parse().ok()?;
    whole.checked_mul(unit)?.checked_add(parts * unit / 10u128.pow(fraction.len() as u32))
}

/// The shortest form that [`parse`] reads back to the same value (to the millisecond).
pub fn format(duration: Duration) -> String {
    let mut ms = duration.as_millis() as u64;
    if ms == 0 {
        return "0s".into();
    }
    let mut out = String::new();
    for (unit, size) in [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)] {
        if ms >= size {
            out.push_str(&format!("{}{unit}", ms / size));
            ms %= size;
        }
    }
    out
}

/// `#[serde(with = "hms_core::duration::text")]` for a [`Duration`].
pub mod text {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    /// Writes the text form.
    pub fn serialize<S: Serializer>(d: &Duration, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&super::format(*d))
    }

    /// Reads the text form.
    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Duration, D::Error> {
        super::parse(&String::deserialize(d)?).map_err(D::Error::custom)
    }
}

/// `#[serde(default, with = "hms_core::duration::option")]` for an `Option<Duration>`.
pub mod option {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    /// Writes the text form, or null.
    pub fn serialize<S: Serializer>(d: &Option<Duration>, s: S) -> Result<S::Ok, S::Error> {
        match d {
            Some(d) => s.serialize_some(&super::format(*d)),
            None => s.serialize_none(),
        }
    }

    /// Reads the text form, or null.
    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Duration>, D::Error> {
        Option::<String>::deserialize(d)?.map(|t| super::parse(&t).map_err(D::Error::custom)).transpose()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_what_people_write() {
        for (text, ms) in
            [("500ms", 500), ("2s", 2_000), ("1m", 60_000), ("1m30s", 90_000), ("1.5s", 1_500), ("0", 0)]
        {
            assert_eq!(parse(text).unwrap(), Duration::from_millis(ms), "{text}");
        }
        for text in ["", "5", "s", "5 s", "-1s", "1y", "1s2", "..s", "1.s", "1.2.3s", "99999999999999999999w"]
        {
            let e = parse(text).unwrap_err();
            assert!(e.message.contains("is not a duration"), "{text}: {e}");
        }
    }

    proptest! {
        #[test]
        fn round_trips(ms in 0u64..3_000_000_000_000) {
            let d = Duration::from_millis(ms);
            prop_assert_eq!(parse(&format(d)).unwrap(), d);
        }
    }
}
