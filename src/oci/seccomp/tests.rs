use std::collections::BTreeSet;

use state::spec::{CAPABILITIES, DEFAULT_CAPABILITIES};

use super::*;

fn allowed_always(profile: &Value, name: &str) -> bool {
    let rules = profile["syscalls"].as_array().unwrap();
    rules.iter().any(|rule| {
        rule["action"] == "SCMP_ACT_ALLOW"
            && rule["args"].is_null()
            && rule["names"].as_array().unwrap().iter().any(|n| n == name)
    })
}

#[test]
fn nothing_that_reaches_the_host_is_allowed_and_no_name_stands_twice() {
    let profile = profile(Machine::X86_64, &["CAP_SYS_CHROOT".to_owned()], false);
    for name in [
        "mount",
        "umount2",
        "unshare",
        "setns",
        "bpf",
        "io_uring_setup",
        "keyctl",
        "add_key",
        "init_module",
        "reboot",
        "kexec_load",
        "open_by_handle_at",
        "perf_event_open",
        "pivot_root",
        "settimeofday",
        "clock_settime",
        "swapon",
        "userfaultfd",
        "iopl",
        "ioperm",
        "clone",
        "clone3",
        "personality",
        "socket",
        "quotactl",
        "fsopen",
        "move_mount",
        "open_tree",
        "vhangup",
        "acct",
        "syslog",
        "process_madvise",
        "lookup_dcookie",
        "mbind",
        "kcmp",
        "pidfd_getfd",
        "socketcall",
    ] {
        assert!(!allowed_always(&profile, name), "{name}");
    }
    for name in ["read", "execve", "chroot", "futex", "arch_prctl", "mknod"] {
        assert!(allowed_always(&profile, name), "{name}");
    }
    let names: Vec<_> = ALLOWED.split_ascii_whitespace().collect();
    let distinct: BTreeSet<_> = names.iter().collect();
    assert_eq!(names.len(), distinct.len());
}

#[test]
fn a_container_without_the_capability_gets_no_chroot() {
    assert!(!allowed_always(
        &profile(Machine::X86_64, &[], false),
        "chroot"
    ));
}

#[test]
fn the_architectures_are_the_machines_own() {
    assert_eq!(
        profile(Machine::X86_64, &[], false)["architectures"]
            .as_array()
            .unwrap()
            .len(),
        3
    );
    assert_eq!(
        profile(Machine::Aarch64, &[], false)["architectures"][0],
        "SCMP_ARCH_AARCH64"
    );
}

/// Rule of one name, taken apart: action, error, conditions.
type Part = (String, String, Option<u64>, Vec<(u64, String, u64, u64)>);

fn parts(rules: &Value) -> BTreeSet<Part> {
    let mut all = BTreeSet::new();
    for rule in rules.as_array().unwrap() {
        let conditions = rule["args"].as_array().into_iter().flatten().map(|arg| {
            (
                arg["index"].as_u64().unwrap(),
                arg["op"].as_str().unwrap().to_owned(),
                arg["value"].as_u64().unwrap(),
                arg["valueTwo"].as_u64().unwrap_or_default(),
            )
        });
        let conditions: Vec<_> = conditions.collect();
        for name in rule["names"].as_array().unwrap() {
            let (name, action) = (name.as_str().unwrap(), rule["action"].as_str().unwrap());
            all.insert((
                name.to_owned(),
                action.to_owned(),
                rule["errnoRet"].as_u64(),
                conditions.clone(),
            ));
        }
    }
    all
}

/// Rules of moby's list for a machine and capabilities, on a kernel of this decade.
fn moby(machine: Machine, capabilities: &[String]) -> Value {
    let list: Value = serde_json::from_str(include_str!("../tests/moby-seccomp.json")).unwrap();
    let architecture = match machine {
        Machine::X86_64 => "amd64",
        Machine::Aarch64 => "arm64",
    };
    let texts = |value: &Value| -> Vec<String> {
        let items = value.as_array().into_iter().flatten();
        items
            .map(|item| item.as_str().unwrap().to_owned())
            .collect()
    };
    let is_meant = |rule: &&Value| {
        let (within, without) = (&rule["includes"], &rule["excludes"]);
        let architectures = texts(&within["arches"]);
        (architectures.is_empty() || architectures.iter().any(|name| name == architecture))
            && !texts(&without["arches"])
                .iter()
                .any(|name| name == architecture)
            && texts(&within["caps"])
                .iter()
                .all(|name| capabilities.contains(name))
            && !texts(&without["caps"])
                .iter()
                .any(|name| capabilities.contains(name))
    };
    list["rules"]
        .as_array()
        .unwrap()
        .iter()
        .filter(is_meant)
        .cloned()
        .collect()
}

#[test]
fn the_list_is_moby_s_but_for_the_calls_that_make_sockets() {
    let all: Vec<String> = DEFAULT_CAPABILITIES.map(str::to_owned).into();
    for machine in [Machine::X86_64, Machine::Aarch64] {
        let every: Vec<String> = CAPABILITIES.map(str::to_owned).into();
        let each = every.iter().map(std::slice::from_ref);
        for capabilities in each.chain([&[], all.as_slice(), every.as_slice()]) {
            let own = parts(&profile(machine, capabilities, false)["syscalls"]);
            let other = parts(&moby(machine, capabilities));
            let differing: BTreeSet<_> = own
                .symmetric_difference(&other)
                .map(|part| part.0.as_str())
                .collect();
            // The families by the bits that the kernel reads, where moby compares all of the
            // register; and a call that moby leaves to AppArmor, which a host need not have.
            assert_eq!(
                differing,
                BTreeSet::from(["socket", "socketcall"]),
                "{machine:?}"
            );
            let lifted = parts(&profile(machine, capabilities, true)["syscalls"]);
            let differing = lifted.symmetric_difference(&other);
            assert!(
                differing.clone().all(|part| part.0 == "socket"),
                "{machine:?}"
            );
        }
    }
}

/// Whether a call with this first argument is allowed.
fn allows(rules: &Value, name: &str, argument: u64) -> bool {
    let mut rules = parts(rules).into_iter().filter(|part| part.0 == name);
    rules.any(|(_, action, _, conditions)| {
        action == "SCMP_ACT_ALLOW"
            && conditions.iter().all(|(index, op, value, second)| {
                assert_eq!(*index, 0, "{name}");
                match op.as_str() {
                    "SCMP_CMP_LT" => argument < *value,
                    "SCMP_CMP_EQ" => argument == *value,
                    "SCMP_CMP_GT" => argument > *value,
                    "SCMP_CMP_MASKED_EQ" => argument & value == *second,
                    other => panic!("{other}"),
                }
            })
    })
}

#[test]
fn sockets_of_the_same_families_as_moby_s_are_made_and_no_higher_bit_hides_one() {
    let own = profile(Machine::X86_64, &[], false)["syscalls"].take();
    let other = moby(Machine::X86_64, &[]);
    for family in 0..48 {
        let expected = !matches!(family, 38 | 40);
        assert_eq!(
            allows(&other, "socket", family),
            expected,
            "{family} at moby"
        );
        for high in [0, 1 << 32, 1 << 63] {
            assert_eq!(
                allows(&own, "socket", high | family),
                expected,
                "{family}, {high:x}"
            );
        }
    }
    for none in [48, 63, 64, 0x7FFF_FFFF, 0xFFFF_FFFF] {
        assert!(!allows(&own, "socket", none), "{none:x}");
    }
    assert!(
        allows(&other, "socket", 1 << 32 | 38),
        "what its comparison lets through"
    );
}
