//! Identity of a container's process: `user[:group]`, by name or number, resolved with the image's
//! own files. Pure.

use state::failure::Failure;
use state::reason::Reason;

/// Identity of a container's process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct User {
    /// User id.
    pub(crate) uid: u32,
    /// Group id.
    pub(crate) gid: u32,
    /// Supplementary groups, sorted.
    pub(crate) groups: Vec<u32>,
    /// Home directory, if `/etc/passwd` names one.
    pub(crate) home: Option<String>,
}

/// Largest id that may be asked for, as in docker: above it the C library's -1 begins.
const ID_MAX: u32 = i32::MAX.unsigned_abs();

/// Whether `wanted` can only be resolved with the image's `/etc/passwd` and `/etc/group`.
///
/// Plain root cannot be anyone else, and runc itself finds its home; so the commonest case costs no
/// look at the image.
pub(crate) fn needs_files(wanted: &str) -> bool {
    !matches!(
        wanted,
        "" | "0" | "root" | "0:0" | "root:root" | "0:root" | "root:0"
    )
}

/// Identity that `user[:group]` stands for, by docker's rules.
///
/// A number without an entry is taken as it is, with group 0. Without `:group`, the group is the
/// one of the user's entry, and the supplementary groups are those that list the user's name.
/// Broken lines of the files are skipped.
///
/// # Errors
/// [`Reason::UserNotFound`], [`Reason::GroupNotFound`]: a name has no entry, or a number is above
/// 2147483647.
pub(crate) fn resolve(wanted: &str, passwd: &str, group: &str) -> Result<User, Failure> {
    let (user, of_group) = wanted
        .split_once(':')
        .map_or((wanted, None), |(user, group)| (user, Some(group)));
    let user = if user.is_empty() { "0" } else { user };
    let number = id(NameKind::User, user)?;
    let mut entries = passwd.lines().filter_map(PasswdEntry::parse);
    let entry = entries.find(|entry| number.map_or(entry.name == user, |uid| entry.uid == uid));
    let mut found = match (entry, number) {
        (Some(entry), _) => User {
            uid: entry.uid,
            gid: entry.gid,
            groups: Vec::new(),
            home: entry.home.map(str::to_owned),
        },
        (None, Some(uid)) => User {
            uid,
            ..User::default()
        },
        (None, None) => return Err(unknown(NameKind::User, user)),
    };
    match (of_group.filter(|name| !name.is_empty()), entry) {
        (Some(name), _) => {
            found.gid = match id(NameKind::Group, name)? {
                Some(gid) => gid,
                None => groups(group)
                    .find(|(known, ..)| *known == name)
                    .map(|(_, gid, _)| gid)
                    .ok_or_else(|| unknown(NameKind::Group, name))?,
            };
        }
        (None, Some(entry)) => {
            let lists =
                |members: &str| members.split(',').any(|member| member.trim() == entry.name);
            found.groups = groups(group)
                .filter(|(.., members)| lists(members))
                .map(|(_, gid, _)| gid)
                .collect();
            found.groups.sort_unstable();
            found.groups.dedup();
        }
        (None, None) => {}
    }
    Ok(found)
}

/// Kind of a name or number.
#[derive(Clone, Copy)]
enum NameKind {
    User,
    Group,
}

impl NameKind {
    const fn reason(self) -> Reason {
        match self {
            Self::User => Reason::UserNotFound,
            Self::Group => Reason::GroupNotFound,
        }
    }
}

fn unknown(what: NameKind, name: &str) -> Failure {
    let (word, file) = match what {
        NameKind::User => ("user", "/etc/passwd"),
        NameKind::Group => ("group", "/etc/group"),
    };
    Failure::new(
        what.reason(),
        format!("the image's {file} has no {word} {name:?}; give one that it has, or a number"),
    )
}

/// Text as an id; `None` if it is a name.
fn id(what: NameKind, text: &str) -> Result<Option<u32>, Failure> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Ok(None);
    }
    match text.parse() {
        Ok(id) if id <= ID_MAX => Ok(Some(id)),
        _ => Err(Failure::new(
            what.reason(),
            format!("{text} is above the largest user or group id, {ID_MAX}"),
        )),
    }
}

/// Line of passwd(5).
#[derive(Clone, Copy)]
struct PasswdEntry<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: Option<&'a str>,
}

impl<'a> PasswdEntry<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let mut fields = line.trim().split(':');
        let name = fields
            .next()
            .filter(|name| !name.is_empty() && !name.starts_with('#'))?;
        let (uid, gid) = (fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?);
        Some(Self {
            name,
            uid,
            gid,
            home: fields.nth(1).filter(|home| home.starts_with('/')),
        })
    }
}

/// Lines of group(5): name, id, members.
fn groups(text: &str) -> impl Iterator<Item = (&str, u32, &str)> {
    text.lines().filter_map(|line| {
        let mut fields = line.trim().split(':');
        let name = fields
            .next()
            .filter(|name| !name.is_empty() && !name.starts_with('#'))?;
        let gid = fields.nth(1)?.parse().ok()?;
        Some((name, gid, fields.next().unwrap_or_default()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n\n# comment\nbroken\nweb:x:1000:1001:Web:/srv/web:/bin/sh\n\
                          nohome:x:1002:1002:::/bin/sh\nhuge:x:99999999999:1::/:\n";
    const GROUP: &str = "root:x:0:\nweb:x:1001:\nlogs:x:2000:web,other\nextra:x:1500:other, web\nbroken:x\nother:x:7:other\n";

    #[track_caller]
    fn check(wanted: &str, uid: u32, gid: u32, groups: &[u32], home: Option<&str>) {
        let expected = User {
            uid,
            gid,
            groups: groups.to_vec(),
            home: home.map(str::to_owned),
        };
        assert_eq!(
            resolve(wanted, PASSWD, GROUP).unwrap(),
            expected,
            "{wanted:?}"
        );
    }

    #[test]
    fn users_are_resolved_as_docker_does() {
        check("", 0, 0, &[], Some("/root"));
        check("root", 0, 0, &[], Some("/root"));
        check("web", 1000, 1001, &[1500, 2000], Some("/srv/web"));
        check("1000", 1000, 1001, &[1500, 2000], Some("/srv/web"));
        check("web:", 1000, 1001, &[1500, 2000], Some("/srv/web"));
        check("web:logs", 1000, 2000, &[], Some("/srv/web"));
        check("1000:0", 1000, 0, &[], Some("/srv/web"));
        check("4242", 4242, 0, &[], None);
        check("4242:4343", 4242, 4343, &[], None);
        check(":logs", 0, 2000, &[], Some("/root"));
        check("nohome", 1002, 1002, &[], None);
    }

    #[test]
    fn who_is_not_in_the_image_is_named() {
        for (wanted, named, expected) in [
            ("nobody", "nobody", Reason::UserNotFound),
            ("web:nogroup", "nogroup", Reason::GroupNotFound),
            ("4294967295", "4294967295", Reason::UserNotFound),
            ("0:4294967295", "4294967295", Reason::GroupNotFound),
            ("huge", "huge", Reason::UserNotFound),
        ] {
            let error = resolve(wanted, PASSWD, GROUP).unwrap_err();
            assert_eq!(error.reason, expected, "{wanted}");
            assert!(error.to_string().contains(named), "{error}");
        }
    }

    #[test]
    fn only_plain_root_needs_no_look_at_the_image() {
        assert!(!needs_files("") && !needs_files("0:0") && !needs_files("root"));
        assert!(
            needs_files("web")
                && needs_files("1000")
                && needs_files("root:web")
                && needs_files("0:5")
        );
    }
}
