//! Sections `registry` and `image`: access to registries, and the room for what they send.

use super::super::*;
use super::{Layers, SECOND, TEN_MINUTES};

const MINUTE: Duration = Duration::from_mins(1);
const TWO_MINUTES: Duration = Duration::from_secs(120);
const WEEK: Duration = Duration::from_hours(7 * 24);

impl Layers {
    pub(super) fn registry(&mut self) -> RegistrySection {
        let ten_minutes = parse::duration(SECOND..=TEN_MINUTES);
        let count = parse::number(1..=64);
        let stall_timeout = self.value("registry.stall_timeout", &ten_minutes);
        RegistrySection {
            insecure: self
                .optional("registry.insecure", parse::hosts)
                .unwrap_or_default(),
            token_hosts: self.token_hosts().unwrap_or_default(),
            auth_file: self.optional("registry.auth_file", parse::path),
            ca_file: self.optional("registry.ca_file", parse::path),
            hosts_dir: self.value("registry.hosts_dir", parse::path),
            follow_interval: self
                .optional("registry.follow_interval", parse::duration(MINUTE..=WEEK)),
            https_proxy: self.optional("registry.https_proxy", parse::proxy),
            http_proxy: self.optional("registry.http_proxy", parse::proxy),
            no_proxy: self
                .optional("registry.no_proxy", parse::no_proxy)
                .unwrap_or_default(),
            stall_timeout,
            connect_timeout: self.value(
                "registry.connect_timeout",
                parse::duration(SECOND..=TWO_MINUTES),
            ),
            answer_timeout: self
                .optional("registry.answer_timeout", &ten_minutes)
                .unwrap_or(stall_timeout),
            pulls_max: self.value("registry.pulls_max", &count),
            pulls_per_registry: self.value("registry.pulls_per_registry", &count),
        }
    }

    pub(super) fn image(&mut self) -> ImageSection {
        ImageSection {
            max_unpacked: self.optional("image.max_unpacked", image::max_unpacked),
            disk_reserve: self.optional("image.disk_reserve", image::disk_reserve),
        }
    }

    /// Hosts that get passwords; on a node from before any with TLS does.
    fn token_hosts(&mut self) -> Option<Vec<String>> {
        match self.defaults() {
            Defaults::Earlier => self.by_age("registry.token_hosts", ["any", ""], parse::hosts),
            Defaults::Current => self.optional("registry.token_hosts", parse::hosts),
        }
    }
}
