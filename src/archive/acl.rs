//! Access lists as `tar --acls` writes them, in words (acl(5)), made what the kernel takes
//! (`linux/posix_acl_xattr.h`).

/// Beginning of a pax key with an access list in words.
pub(super) const KEY: &str = "SCHILY.acl.";
const VERSION: u32 = 2;
/// Id of an entry that names nobody.
const NOBODY: u32 = u32::MAX;
/// Entries of one list; more than any file system takes.
const ENTRIES_MAX: usize = 1024;

/// Name of the attribute for the list that such a key names; `None`: it is not known.
pub(super) fn attribute(kind: &str) -> Option<&'static [u8]> {
    match kind {
        "access" => Some(b"system.posix_acl_access"),
        "default" => Some(b"system.posix_acl_default"),
        _ => None,
    }
}

/// Value of that attribute. `None`: the list is none, or tells users by names alone, which are not
/// those of this host.
pub(super) fn value(text: &[u8]) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(text).ok()?;
    let lines = text.split(['\n', ',']).map(|line| {
        let line = line.split('#').next().unwrap_or_default();
        line.trim()
    });
    let mut entries = Vec::new();
    for line in lines.filter(|line| !line.is_empty()) {
        entries.push(entry(line)?);
        if entries.len() > ENTRIES_MAX {
            return None;
        }
    }
    entries.sort_unstable();
    let mut value = VERSION.to_le_bytes().to_vec();
    for (tag, id, permissions) in &entries {
        value.extend(tag.to_le_bytes());
        value.extend(permissions.to_le_bytes());
        value.extend(id.to_le_bytes());
    }
    (!entries.is_empty()).then_some(value)
}

/// Tag, id and permissions of `KIND:NAME:rwx`, or `KIND:NAME:rwx:ID` as bsdtar has it.
fn entry(line: &str) -> Option<(u16, u32, u16)> {
    let parts: Vec<_> = line.split(':').collect();
    let (kind, name, permissions, id) = match parts[..] {
        [kind, name, permissions] => (kind, name, permissions, name),
        [kind, name, permissions, id] => (kind, name, permissions, id),
        [kind @ ("mask" | "other"), permissions] => (kind, "", permissions, ""),
        _ => return None,
    };
    let (own, named) = match kind {
        "user" | "u" => (0x01, Some(0x02)),
        "group" | "g" => (0x04, Some(0x08)),
        "mask" | "m" => (0x10, None),
        "other" | "o" => (0x20, None),
        _ => return None,
    };
    let (tag, id) = if name.is_empty() {
        (own, NOBODY)
    } else {
        (named?, id.parse().ok().filter(|id| *id != NOBODY)?)
    };
    let mut bits = 0;
    for letter in permissions.bytes() {
        bits |= match letter {
            b'r' => 4,
            b'w' => 2,
            b'x' => 1,
            b'-' => 0,
            _ => return None,
        };
    }
    Some((tag, id, bits))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_in_words_is_what_the_kernel_takes() {
        let gnu = "user::rw-\nuser:1000:r--\ngroup::r--\nmask::r--\nother::---\n";
        let bsd = "user::rw-,group::r--,other::---,mask::r--,user:lisa:r--:1000";
        let expected = [
            &2_u32.to_le_bytes()[..],
            &[1, 0, 6, 0, 255, 255, 255, 255],
            &[2, 0, 4, 0, 0xe8, 3, 0, 0],
            &[4, 0, 4, 0, 255, 255, 255, 255],
            &[0x10, 0, 4, 0, 255, 255, 255, 255],
            &[0x20, 0, 0, 0, 255, 255, 255, 255],
        ]
        .concat();
        for text in [gnu, bsd] {
            assert_eq!(value(text.as_bytes()), Some(expected.clone()), "{text}");
        }
        let with_comment = "user:7:rwx\t#effective:r--\n";
        assert_eq!(
            value(with_comment.as_bytes()).map(|value| value[4]),
            Some(2)
        );
        for wrong in [
            "",
            "user:lisa:r--",
            "user::rq-",
            "x::r",
            "user",
            "user:1:2:3:4",
            "mask:1:r--",
        ] {
            assert_eq!(value(wrong.as_bytes()), None, "{wrong}");
        }
        let many = "user:1:r--\n".repeat(ENTRIES_MAX + 1);
        assert_eq!(value(many.as_bytes()), None);
    }
}
