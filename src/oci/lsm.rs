//! Security modules of the host's kernel, as far as they confine containers.

use std::fs;
use std::path::Path;

/// Profile of AppArmor for containers, which `contrib/chas-default.apparmor` defines. runc refuses a
/// profile that is not loaded, and the agent loads none: that takes a privilege it does not have.
pub(crate) const PROFILE: &str = "chas-default";

/// Security modules of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SecurityModules {
    pub(crate) apparmor: AppArmor,
    pub(crate) selinux: Selinux,
}

/// State of AppArmor, and of the profile for containers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AppArmor {
    /// The kernel has none, or it is off.
    Off,
    /// The profile is not loaded.
    NoProfile,
    /// The profile only logs what it would refuse.
    Complaining,
    /// The profile is in force.
    Enforcing,
}

/// State of SELinux.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Selinux {
    /// The kernel has none, or it is off.
    Off,
    /// Refusals are only logged.
    Permissive,
    /// Refusals are real.
    Enforcing,
}

impl SecurityModules {
    /// Modules of the host that the agent runs on.
    pub(crate) fn read() -> Self {
        Self::below(Path::new("/sys"))
    }

    fn below(sys: &Path) -> Self {
        let read = |file: &str| fs::read_to_string(sys.join(file)).unwrap_or_default();
        let apparmor = if read("module/apparmor/parameters/enabled").trim() == "Y" {
            let profiles = read("kernel/security/apparmor/profiles");
            let mut modes = profiles.lines().filter_map(|line| line.split_once(' '));
            match modes.find(|(name, _)| *name == PROFILE) {
                None => AppArmor::NoProfile,
                Some((_, "(enforce)")) => AppArmor::Enforcing,
                Some(_) => AppArmor::Complaining,
            }
        } else {
            AppArmor::Off
        };
        let selinux = match read("fs/selinux/enforce").trim() {
            "1" => Selinux::Enforcing,
            "" => Selinux::Off,
            _ => Selinux::Permissive,
        };
        Self { apparmor, selinux }
    }
}

impl AppArmor {
    /// Name of the profile for containers, if it is loaded.
    pub(crate) const fn profile(self) -> Option<&'static str> {
        match self {
            Self::Off | Self::NoProfile => None,
            Self::Complaining | Self::Enforcing => Some(PROFILE),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn modules(files: &[(&str, &str)]) -> SecurityModules {
        let sys = tempfile::tempdir().unwrap();
        for (file, content) in files {
            let path = sys.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        SecurityModules::below(sys.path())
    }

    #[test]
    fn the_profile_is_used_only_where_it_is_loaded() {
        const ENABLED: &str = "module/apparmor/parameters/enabled";
        const PROFILES: &str = "kernel/security/apparmor/profiles";
        for (enabled, profiles, expected) in [
            (
                "Y\n",
                "docker-default (enforce)\nchas-default (enforce)\n",
                AppArmor::Enforcing,
            ),
            ("Y\n", "chas-default (complain)\n", AppArmor::Complaining),
            (
                "Y\n",
                "chas-default-2 (enforce)\nchas-default//x (enforce)\n",
                AppArmor::NoProfile,
            ),
            ("Y\n", "", AppArmor::NoProfile),
            ("N\n", "chas-default (enforce)\n", AppArmor::Off),
        ] {
            let found = modules(&[(ENABLED, enabled), (PROFILES, profiles)]).apparmor;
            assert_eq!(found, expected, "{profiles}");
            let is_loaded = matches!(expected, AppArmor::Enforcing | AppArmor::Complaining);
            assert_eq!(found.profile().is_some(), is_loaded);
        }
        assert_eq!(modules(&[]).apparmor, AppArmor::Off);
    }

    #[test]
    fn selinux_is_enforcing_permissive_or_off() {
        let found = |content| modules(&[("fs/selinux/enforce", content)]).selinux;
        assert_eq!(found("1"), Selinux::Enforcing);
        assert_eq!(found("0"), Selinux::Permissive);
        assert_eq!(modules(&[]).selinux, Selinux::Off);
    }

    #[test]
    fn the_profile_that_is_shipped_has_the_name_that_is_looked_for() {
        let shipped = include_str!("../../contrib/chas-default.apparmor");
        assert!(
            shipped.contains(&format!("\nprofile {PROFILE} ")),
            "{shipped}"
        );
        for denied in [
            "deny network alg,",
            "deny network vsock,",
            "deny /dev/net/tun rw,",
        ] {
            assert!(shipped.contains(denied), "{denied}");
        }
    }
}
