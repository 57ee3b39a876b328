//! Sizes as people write them: `512B`, `64MB` (millions), `64MiB` (2²⁰), `1GiB`.

use crate::{Error, ErrorKind, Result};

const UNITS: [(&str, u64); 10] = [
    ("B", 1),
    ("kB", 1_000),
    ("KB", 1_000),
    ("KiB", 1 << 10),
    ("MB", 1_000_000),
    ("MiB", 1 << 20),
    ("GB", 1_000_000_000),
    ("GiB", 1 << 30),
    ("TB", 1_000_000_000_000),
    ("TiB", 1 << 40),
];

/// Bytes in `text`: a whole or decimal number and a unit, such as `64MB` or `1.5GiB`; a bare `0` is zero.
///
/// # Errors
/// `invalid-argument`, which says the accepted forms.
pub fn parse(text: &str) -> Result<u64> {
    let bad = || {
        Error::new(ErrorKind::InvalidArgument, format!("`{text}` is not a size"))
            .hint("write it as 512B, 64KiB, 64MB, 64MiB or 1GiB")
    };
    let trimmed = text.trim();
    if trimmed == "0" {
        return Ok(0);
    }
    let digits = trimmed.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(bad)?;
    let (number, unit) = trimmed.split_at(digits);
    let (_, factor) = UNITS.iter().find(|(name, _)| *name == unit.trim_start()).ok_or_else(bad)?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || fraction.len() > 9 || fraction.contains('.') || number.ends_with('.') {
        return Err(bad());
    }
    let whole: u128 = whole.parse().map_err(|_| bad())?;
    let parts: u128 = if fraction.is_empty() { 0 } else { fraction.parse().map_err(|_| bad())? };
    let scale = 10u128.pow(fraction.len() as u32);
    let factor = u128::from(*factor);
    let bytes = whole.checked_mul(factor).and_then(|whole| whole.checked_add(parts * factor / scale));
    bytes.and_then(|bytes| bytes.try_into().ok()).ok_or_else(bad)
}

/// The form that [`parse`] reads back to the same number: the largest unit that divides it.
#[must_use]
pub fn format(bytes: u64) -> String {
    const EXACT: [(&str, u64); 8] = [
        ("TiB", 1 << 40),
        ("TB", 1_000_000_000_000),
        ("GiB", 1 << 30),
        ("GB", 1_000_000_000),
        ("MiB", 1 << 20),
        ("MB", 1_000_000),
        ("KiB", 1 << 10),
        ("kB", 1_000),
    ];
    match EXACT.iter().find(|(_, factor)| bytes > 0 && bytes.is_multiple_of(*factor)) {
        Some((unit, factor)) => format!("{}{unit}", bytes / factor),
        None => format!("{bytes}B"),
    }
}

/// For people: three digits or so, in binary units, `86.2MiB`.
#[must_use]
pub fn approximate(bytes: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = "B";
    for next in units {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    if unit == "B" || value >= 100.0 { format!("{value:.0}{unit}") } else { format!("{value:.1}{unit}") }
}

/// `#[serde(with = "hms_core::bytesize::text")]` for a `u64` of bytes.
pub mod text {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    /// Writes the text form.
    pub fn serialize<S: Serializer>(bytes: &u64, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&super::format(*bytes))
    }

    /// Reads the text form.
    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<u64, D::Error> {
        super::parse(&String::deserialize(d)?).map_err(D::Error::custom)
    }
}

/// `#[serde(default, with = "hms_core::bytesize::option")]` for an `Option<u64>` of bytes.
pub mod option {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    /// Writes the text form, or null.
    pub fn serialize<S: Serializer>(bytes: &Option<u64>, s: S) -> Result<S::Ok, S::Error> {
        match bytes {
            Some(bytes) => s.serialize_some(&super::format(*bytes)),
            None => s.serialize_none(),
        }
    }

    /// Reads the text form, or null.
    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Option<u64>, D::Error> {
        Option::<String>::deserialize(d)?
            .map(|text| super::parse(&text).map_err(D::Error::custom))
            .transpose()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_what_people_write() {
        for (text, bytes) in [
            ("512B", 512),
            ("64MB", 64_000_000),
            ("64MiB", 64 << 20),
            ("1GiB", 1 << 30),
            ("1.5KiB", 1536),
            (" 2 kB ", 2000),
            ("0", 0),
        ] {
            assert_eq!(parse(text).unwrap(), bytes, "{text}");
        }
        for text in ["", "5", "MB", "1.MB", ".5MB", "-1MB", "1mb", "1.2.3MB", "99999999999TiB"] {
            let e = parse(text).unwrap_err();
            assert!(e.message.contains("is not a size"), "{text}: {e}");
            assert!(e.to_string().contains("64MiB"), "says the forms: {e}");
        }
    }

    proptest! {
        #[test]
        fn round_trips(bytes in any::<u64>()) {
            prop_assert_eq!(parse(&format(bytes)).unwrap(), bytes);
        }
    }
}
