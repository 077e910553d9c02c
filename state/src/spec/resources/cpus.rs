//! Lists of a host's CPUs as the kernel writes them: `0-3,8`.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Largest number of a CPU: the kernel is built for 8192 of them at most.
const CPU_MAX: u16 = 8191;
/// Longest list that is read: every second one of 512 CPUs.
const TEXT_BYTES_MAX: usize = 2048;

/// CPUs of a host by number: at least one, in order, ranges joined.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CpuList(Vec<(u16, u16)>);

/// Error of a text that is no list of CPUs; it says what the text must be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be a list of CPUs such as \"0-3\" or \"0,2\", each from 0 to 8191")]
pub struct InvalidCpus;

impl CpuList {
    /// CPUs of this list that are not in `other`; `None`: all are.
    #[must_use]
    pub fn beyond(&self, other: &Self) -> Option<Self> {
        let is_beyond = |cpu: &u16| {
            !other
                .0
                .iter()
                .any(|(first, last)| (first..=last).contains(&cpu))
        };
        let all = self.0.iter().flat_map(|(first, last)| *first..=*last);
        let beyond: Vec<_> = all.filter(is_beyond).map(|cpu| (cpu, cpu)).collect();
        (!beyond.is_empty()).then(|| Self::joined(beyond))
    }

    fn joined(mut ranges: Vec<(u16, u16)>) -> Self {
        ranges.sort_unstable();
        let mut joined: Vec<(u16, u16)> = Vec::new();
        for (first, last) in ranges {
            match joined.last_mut() {
                Some((_, end)) if first <= end.saturating_add(1) => *end = last.max(*end),
                Some(_) | None => joined.push((first, last)),
            }
        }
        Self(joined)
    }
}

impl FromStr for CpuList {
    type Err = InvalidCpus;

    fn from_str(text: &str) -> Result<Self, InvalidCpus> {
        if text.len() > TEXT_BYTES_MAX {
            return Err(InvalidCpus);
        }
        let ranges = text.split(',').map(|part| range(part.trim()));
        let ranges = ranges.map(|range| range.map(RangeInclusive::into_inner));
        ranges
            .collect::<Option<_>>()
            .map(Self::joined)
            .ok_or(InvalidCpus)
    }
}

fn range(text: &str) -> Option<RangeInclusive<u16>> {
    let number = |text: &str| {
        let is_plain = text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse().ok().filter(|cpu| is_plain && *cpu <= CPU_MAX)
    };
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let range = number(first)?..=number(last)?;
    (!range.is_empty()).then_some(range)
}

stored_as_text!(CpuList);

impl fmt::Display for CpuList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (first, last)) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            if first == last {
                write!(f, "{comma}{first}")?;
            } else {
                write!(f, "{comma}{first}-{last}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_in_order_with_its_ranges_joined() {
        for (text, shown) in [
            ("0", "0"),
            ("3,1,2", "1-3"),
            ("0-1,1-4", "0-4"),
            ("8191,0", "0,8191"),
            (" 1 , 5-6 ", "1,5-6"),
            ("4-4", "4"),
        ] {
            let list: CpuList = text.parse().unwrap();
            assert_eq!(list.to_string(), shown, "{text}");
            assert_eq!(shown.parse(), Ok(list), "{text}");
        }
        let long = "0,".repeat(TEXT_BYTES_MAX / 2) + "0";
        for text in [
            "", ",", "0,", "a", "-1", "1-", "2-1", "8192", "+1", "0-1-2", &long,
        ] {
            assert_eq!(text.parse::<CpuList>(), Err(InvalidCpus), "{text}");
        }
    }

    #[test]
    fn cpus_that_another_list_lacks_are_told() {
        let list = |text: &str| text.parse::<CpuList>().unwrap();
        assert_eq!(list("0-3").beyond(&list("0-7")), None);
        assert_eq!(list("0-9").beyond(&list("0-1,4")), Some(list("2-3,5-9")));
    }
}
