//! Quantities as people write them: bytes (`512m`, `1Gi`) and CPU time (`0.5`, `500m`).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A number of bytes. Units are powers of 1024, with or without `i` or `b`, as docker and nerdctl
/// have them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ByteCount(pub u64);

/// CPU time in thousandths of a core.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CpuMillis(pub u64);

impl CpuMillis {
    /// Weight among all who want CPU time, as the kernel counts: a core has 1024.
    #[must_use]
    pub const fn shares(self) -> u64 {
        self.0.saturating_mul(1024) / 1000
    }
}

/// Error of a text that is no quantity; it says what the text must be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidQuantity {
    /// The text is not a number with one of the known units.
    #[error(
        "{0:?} is not a size: write a number of bytes, or one with k, m, g or t (powers of 1024), \
         such as \"512m\" or \"1Gi\""
    )]
    Bytes(String),
    /// The text is neither a number of cores nor one of thousandths.
    #[error(
        "{0:?} is not an amount of CPU: write cores, such as \"0.5\", \
         or thousandths of a core, such as \"500m\""
    )]
    Cpu(String),
}

/// A decimal number as thousandths, exactly. `None`: the text is no number, is finer than that, or
/// does not fit.
fn thousandths(text: &str) -> Option<u64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
    let fraction = fraction.trim_end_matches('0');
    if !digits(whole) || !(fraction.is_empty() || digits(fraction)) || fraction.len() > 3 {
        return None;
    }
    let fraction: u64 = format!("{fraction:0<3}").parse().ok()?;
    whole
        .parse::<u64>()
        .ok()?
        .checked_mul(1000)?
        .checked_add(fraction)
}

impl FromStr for ByteCount {
    type Err = InvalidQuantity;

    fn from_str(text: &str) -> Result<Self, InvalidQuantity> {
        let wrong = || InvalidQuantity::Bytes(text.to_owned());
        let lower = text.trim().to_ascii_lowercase();
        let number = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let shift = match &lower[number.len()..] {
            "" | "b" => 0,
            "k" | "kb" | "ki" | "kib" => 10,
            "m" | "mb" | "mi" | "mib" => 20,
            "g" | "gb" | "gi" | "gib" => 30,
            "t" | "tb" | "ti" | "tib" => 40,
            _ => return Err(wrong()),
        };
        let bytes = u128::from(thousandths(number).ok_or_else(wrong)?) * (1 << shift) / 1000;
        u64::try_from(bytes).map(Self).map_err(|_| wrong())
    }
}

impl FromStr for CpuMillis {
    type Err = InvalidQuantity;

    fn from_str(text: &str) -> Result<Self, InvalidQuantity> {
        let wrong = || InvalidQuantity::Cpu(text.to_owned());
        match text.trim().strip_suffix('m') {
            Some(millis) if millis.bytes().all(|b| b.is_ascii_digit()) => {
                millis.parse().map(Self).map_err(|_| wrong())
            }
            Some(_) => Err(wrong()),
            None => thousandths(text.trim()).map(Self).ok_or_else(wrong),
        }
    }
}

impl fmt::Display for ByteCount {
    /// The number in the largest unit that divides it: `512m`, `1g`, `1000`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(40, "t"), (30, "g"), (20, "m"), (10, "k")];
        match units
            .iter()
            .find(|(shift, _)| self.0 != 0 && self.0.is_multiple_of(1 << shift))
        {
            Some((shift, unit)) => write!(f, "{}{unit}", self.0 >> shift),
            None => write!(f, "{}", self.0),
        }
    }
}

impl fmt::Display for CpuMillis {
    /// The number of cores, without trailing zeros: `0.5`, `2`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = format!("{}.{:03}", self.0 / 1000, self.0 % 1000);
        f.write_str(text.trim_end_matches('0').trim_end_matches('.'))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes_are_powers_of_1024_in_every_spelling() {
        let table = [
            ("0", 0),
            ("1", 1),
            ("4096b", 4096),
            ("512m", 512 << 20),
            ("512Mi", 512 << 20),
            ("512MB", 512 << 20),
            ("1g", 1 << 30),
            ("1.5g", 3 << 29),
            ("0.5k", 512),
            (" 2t ", 2 << 40),
        ];
        for (text, bytes) in table {
            assert_eq!(text.parse(), Ok(ByteCount(bytes)), "{text}");
        }
    }

    #[test]
    fn a_text_that_is_no_size_is_refused() {
        for text in [
            "",
            "m",
            "-1",
            "1e3",
            "1.2.3",
            "12x",
            "0x10",
            "1,5g",
            "NaN",
            "999999999999t",
            "1.0001k",
            ".5m",
            "٣m",
            "5 m",
        ] {
            assert!(text.parse::<ByteCount>().is_err(), "{text}");
        }
    }

    #[test]
    fn cpu_is_cores_or_thousandths() {
        for (text, millis) in [
            ("0.5", 500),
            ("500m", 500),
            ("2", 2000),
            ("1.25", 1250),
            ("0.001", 1),
            ("1.", 1000),
        ] {
            assert_eq!(text.parse(), Ok(CpuMillis(millis)), "{text}");
        }
        for text in [
            "",
            "m",
            "-1",
            "0.0001",
            "1.5m",
            "half",
            "1e1",
            ".5",
            "18446744073709551615",
        ] {
            assert!(text.parse::<CpuMillis>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_printed_quantity_reads_back(bytes in 0..u64::MAX / 1000, millis in 0..u64::MAX / 1000) {
            prop_assert_eq!(ByteCount(bytes).to_string().parse(), Ok(ByteCount(bytes)));
            prop_assert_eq!(CpuMillis(millis).to_string().parse(), Ok(CpuMillis(millis)));
        }
    }
}
