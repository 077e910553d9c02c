//! Runtimes of the node besides its own choice, by the names that deploy bodies give them.

use std::collections::BTreeMap;
use std::path::PathBuf;

use state::spec::RuntimeClass;

use super::parse::Parsed;

/// Runtime of containerd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RuntimeChoice {
    /// Program in place of runc, below runc's shim.
    Program(PathBuf),
    /// Shim of its own, by the runtime's name in containerd, as in `io.containerd.kata.v2`.
    Shim(String),
}

/// Runtimes as `NAME=PROGRAM` or `NAME=SHIM`, separated by commas.
pub(super) fn read(text: &str) -> Parsed<BTreeMap<String, RuntimeChoice>> {
    let mut runtimes = BTreeMap::new();
    let entries = text.split(',').map(str::trim);
    for entry in entries.filter(|entry| !entry.is_empty()) {
        let (name, choice) = entry
            .split_once('=')
            .and_then(|(name, choice)| Some((name.trim(), choice_of(choice.trim())?)))
            .ok_or_else(|| {
                format!(
                    "{entry:?} is no runtime: write NAME=PROGRAM with the path of a program that is called \
                     as runc is, such as crun=/usr/bin/crun, or NAME=SHIM with a runtime of containerd, \
                     such as kata=io.containerd.kata.v2"
                )
            })?;
        let class = name.parse::<RuntimeClass>();
        let class = class.map_err(|fault| format!("the runtime's name {name:?} {fault}"))?;
        if name == "default" {
            return Err("default is the name of the node's own choice; give another".to_owned());
        }
        if runtimes.insert(class.to_string(), choice).is_some() {
            return Err(format!("the runtime {name:?} is there twice"));
        }
    }
    Ok(runtimes)
}

fn choice_of(text: &str) -> Option<RuntimeChoice> {
    if text.starts_with('/') {
        return Some(RuntimeChoice::Program(text.into()));
    }
    shim_program(text).map(|_| RuntimeChoice::Shim(text.to_owned()))
}

/// File name of the shim that containerd starts for a runtime `io.containerd.NAME.VERSION`
/// (containerd, `runtime/v2/README.md`). `None`: it is no name of a runtime.
#[must_use]
pub fn shim_program(runtime: &str) -> Option<String> {
    let is_word = |word: &&str| {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        !word.is_empty() && word.bytes().all(is_plain)
    };
    let parts: Vec<&str> = runtime.split('.').collect();
    let [.., name, version] = parts.as_slice() else {
        return None;
    };
    (parts.len() >= 4 && parts.iter().all(is_word))
        .then(|| format!("containerd-shim-{name}-{version}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_runtime_is_a_program_or_a_shim_under_a_name_of_its_own() {
        let read_ok = read("crun=/usr/bin/crun, kata=io.containerd.kata.v2,").unwrap();
        assert_eq!(
            read_ok,
            BTreeMap::from([
                (
                    "crun".to_owned(),
                    RuntimeChoice::Program("/usr/bin/crun".into())
                ),
                (
                    "kata".to_owned(),
                    RuntimeChoice::Shim("io.containerd.kata.v2".to_owned())
                ),
            ])
        );
        assert!(read("").unwrap().is_empty());
        for (wrong, named) in [
            ("crun", "\"crun\""),
            ("crun=crun", "crun=crun"),
            ("Crun=/usr/bin/crun", "\"Crun\""),
            ("default=/usr/bin/crun", "default"),
            ("a=/x,a=/y", "twice"),
            ("a=kata.v2", "a=kata.v2"),
            ("a=io.containerd..v2", "a=io.containerd..v2"),
        ] {
            let fault = read(wrong).unwrap_err();
            assert!(fault.contains(named), "{fault}");
        }
        let shim = shim_program("io.containerd.kata.v2");
        assert_eq!(shim.as_deref(), Some("containerd-shim-kata-v2"));
    }
}
