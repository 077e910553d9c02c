//! Section `containers`: bounds and privileges of containers on this node.

use super::super::*;
use state::policy::patterns::TextPattern;
use state::spec::OWN_IDS as IDS;

use super::Layers;
use super::parse::Parsed;

/// Largest id: above it are numbers that programs take for negative ones, and users that may not
/// ping.
const ID_MAX: u32 = i32::MAX.unsigned_abs();

impl Layers {
    pub(super) fn containers(&mut self) -> ContainersSection {
        ContainersSection {
            max: self.value("containers.max", parse::number(1..=10_000)),
            allow_new_privileges: self.value("containers.allow_new_privileges", parse::flag),
            allow_host_network: self.value("containers.allow_host_network", parse::flag),
            devices: self
                .optional("containers.devices", devices)
                .unwrap_or_default(),
            runtimes: self
                .optional("containers.runtimes", runtimes::read)
                .unwrap_or_default(),
            capabilities: self.value("containers.capabilities", parse::capabilities),
            allow_socketcall: self.value("containers.allow_socketcall", parse::flag),
            user_namespaces: self
                .by_age("containers.user_namespaces", ["off", "auto"], auto)
                .unwrap_or_default(),
            user_ids: self.value("containers.user_ids", ids),
        }
    }
}

fn auto(text: &str) -> Parsed<bool> {
    match text.to_ascii_lowercase().as_str() {
        "auto" => Ok(true),
        "off" => Ok(false),
        _ => Err(format!("{text:?} is neither auto nor off")),
    }
}

/// Patterns of devices, separated by commas.
fn devices(text: &str) -> Parsed<Vec<TextPattern>> {
    let entries = text.split(',').map(str::trim);
    let patterns = entries.filter(|entry| !entry.is_empty()).map(|entry| {
        let names_one = entry.starts_with("/dev/") || entry.contains('/') && entry.contains(['=', '*']);
        let pattern = entry.parse().ok().filter(|_| names_one);
        pattern.ok_or_else(|| {
            format!(
                "{entry:?} is no device: write device nodes and CDI names, or the beginning of some and \
                 '*', such as /dev/fuse,/dev/snd/*,vendor.com/gpu=*"
            )
        })
    });
    patterns.collect()
}

fn ids(text: &str) -> Parsed<RangeInclusive<u32>> {
    let ends = text
        .split_once('-')
        .and_then(|(first, last)| Some((first.trim().parse().ok()?, last.trim().parse().ok()?)));
    match ends {
        Some((first, last)) if first >= IDS && last <= ID_MAX && first + (IDS - 1) <= last => {
            Ok(first..=last)
        }
        _ => Err(format!(
            "{text:?} is no range of ids for containers: write two numbers from {IDS} to {ID_MAX} with \
             {IDS} ids or more, such as \"2000224256-2147352575\""
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_holds_one_container_at_least_and_nobody_s_negative_ids() {
        for (text, range) in [
            ("65536-131071", Some(65_536..=131_071)),
            (" 100000 - 2147483647 ", Some(100_000..=2_147_483_647)),
            ("65536-131070", None),
            ("65535-200000", None),
            ("65536-2147483648", None),
            ("4294967295-4294967295", None),
            ("100000", None),
            ("", None),
        ] {
            assert_eq!(ids(text).ok(), range, "{text}");
        }
        let words = ["auto", "OFF", "on"].map(|text| auto(text).ok());
        assert_eq!(words, [Some(true), Some(false), None]);
    }
}
