//! Ids of the host's own accounts, which no container may have.

use std::io;
use std::path::Path;

use state::spec::OWN_IDS as IDS;

use crate::oci::host_ids::HostIds;

/// Ids of the accounts, by the files in `etc`: each as first and number.
///
/// # Errors
/// One of the files is there and cannot be read.
pub(super) fn reserved(etc: &Path) -> io::Result<Vec<(u32, u32)>> {
    let read = |files: [&str; 2]| -> io::Result<Vec<String>> {
        let texts = files
            .into_iter()
            .map(|file| read_or_absent(&etc.join(file)));
        texts.collect()
    };
    let ranges = read(["subuid", "subgid"])?;
    let ranges = ranges
        .iter()
        .flat_map(|text| text.lines())
        .filter_map(|line| {
            let mut fields = line
                .split(':')
                .skip(1)
                .map(|field| field.trim().parse().ok());
            Some((fields.next()??, fields.next()??))
        });
    let accounts = read(["passwd", "group"])?;
    let accounts = accounts.iter().flat_map(|text| text.lines());
    let accounts = accounts.filter_map(|line| Some((line.split(':').nth(2)?.parse().ok()?, 1)));
    Ok(ranges.chain(accounts).collect())
}

/// Text of a file, whatever its bytes; empty where it is absent.
fn read_or_absent(path: &Path) -> io::Result<String> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => {
            let message = format!("{}: {error}", path.display());
            Err(io::Error::new(error.kind(), message))
        }
    }
}

/// Whether a container with these ids would have some of a range, given as first and number.
pub(super) fn overlaps(&(first, number): &(u32, u32), ids: HostIds) -> bool {
    let end = u64::from(first) + u64::from(number);
    u64::from(ids.first) < end && first < ids.first.saturating_add(IDS)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lowest id of those that containers have.
    const FIRST: u32 = 2_000_224_256;

    #[test]
    fn ids_of_the_hosts_accounts_are_not_for_containers() {
        let etc = tempfile::tempdir().unwrap();
        let write = |file: &str, text: &str| std::fs::write(etc.path().join(file), text).unwrap();
        write("subuid", "web:2000224256:65536\nbroken\nalso:x:1\n");
        write("subgid", "web:100000:65536\n");
        write("passwd", "root:x:0:0::/:\nlarge:x:2000300000:5::/:\n");
        // Latin-1 of an old account hides no other.
        let mut passwd = std::fs::read(etc.path().join("passwd")).unwrap();
        passwd.extend(b"old:x:5:5:M\xfcller:/:\n");
        std::fs::write(etc.path().join("passwd"), passwd).unwrap();
        let reserved = reserved(etc.path()).unwrap();
        assert_eq!(
            reserved,
            [
                (2_000_224_256, 65_536),
                (100_000, 65_536),
                (0, 1),
                (2_000_300_000, 1),
                (5, 1)
            ]
        );
        let taken = |n: u32| {
            let ids = HostIds {
                first: FIRST + n * IDS,
            };
            reserved.iter().any(|range| overlaps(range, ids))
        };
        assert_eq!([0, 1, 2, 3].map(taken), [true, true, false, false]);
        std::fs::remove_file(etc.path().join("group")).ok();
        std::fs::create_dir(etc.path().join("group")).unwrap();
        let error = super::reserved(etc.path()).unwrap_err();
        assert!(error.to_string().contains("group: "), "{error}");
    }
}
