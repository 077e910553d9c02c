//! Identity of a container's process: `user[:group]`, by name or number, resolved with the image's
//! own files. Pure.

use std::collections::BTreeSet;

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

/// Users and groups of an image: its `/etc/passwd` and `/etc/group`, empty where it has none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Accounts {
    /// Contents of `/etc/passwd`.
    pub(crate) passwd: String,
    /// Contents of `/etc/group`.
    pub(crate) group: String,
}

impl Accounts {
    /// Bytes of both files.
    pub(crate) fn bytes(&self) -> usize {
        self.passwd.len() + self.group.len()
    }
}

/// Whether `wanted` is a group as a number, which needs no file either.
pub(crate) fn is_number(wanted: &str) -> bool {
    !wanted.is_empty() && wanted.bytes().all(|byte| byte.is_ascii_digit())
}

/// Whether `wanted` is a user and a group as numbers, which are who they are without any file.
pub(crate) fn is_numbers(wanted: &str) -> bool {
    wanted
        .split_once(':')
        .is_some_and(|(user, group)| is_number(user) && is_number(group))
}

/// Identity that `user[:group]` stands for, by docker's rules.
///
/// Nobody means root. A number without an entry is taken as it is, with group 0. Without `:group`,
/// the group is the one of the user's entry, and the supplementary groups are those that list the
/// user's name: root's as anybody's. Of several entries the first counts. Broken lines of the files
/// are skipped. `root` needs no entry: an image without any files has it, too.
///
/// # Errors
/// [`Reason::UserNotFound`], [`Reason::GroupNotFound`]: a name has no entry, or a number, given or
/// in an entry, is above 2147483647.
pub(crate) fn resolve(wanted: &str, accounts: &Accounts) -> Result<User, Failure> {
    let (user, of_group) = wanted
        .split_once(':')
        .map_or((wanted, None), |(user, group)| (user, Some(group)));
    let user = if user.is_empty() { "0" } else { user };
    let number = id(NameKind::User, user)?;
    let mut entries = accounts.passwd.lines().filter_map(PasswdEntry::parse);
    let entry = entries.find(|entry| number.map_or(entry.name == user, |uid| entry.uid == uid));
    let mut found = match (entry, number.or((user == "root").then_some(0))) {
        (Some(entry), _) => User {
            uid: possible(NameKind::User, entry.name, entry.uid)?,
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
        (Some(name), _) => found.gid = group_id(name, &accounts.group)?,
        (None, Some(entry)) => {
            possible(NameKind::Group, entry.name, entry.gid)?;
            found.groups = supplementary(entry.name, &accounts.group)?;
        }
        (None, None) => {}
    }
    Ok(found)
}

/// The same identity, in these groups as well, by docker's rules: a name has an entry in the image,
/// a number is taken as it is.
///
/// # Errors
/// [`Reason::GroupNotFound`]: a name has no entry, or a number is above 2147483647.
pub(crate) fn with_groups(
    mut user: User,
    wanted: &BTreeSet<String>,
    accounts: &Accounts,
) -> Result<User, Failure> {
    for name in wanted {
        user.groups.push(group_id(name, &accounts.group)?);
    }
    user.groups.sort_unstable();
    user.groups.dedup();
    Ok(user)
}

fn group_id(name: &str, group: &str) -> Result<u32, Failure> {
    if let Some(gid) = id(NameKind::Group, name)? {
        return Ok(gid);
    }
    match groups(group).find(|(known, ..)| *known == name) {
        Some((_, gid, _)) => possible(NameKind::Group, name, gid),
        None if name == "root" => Ok(0),
        None => Err(unknown(NameKind::Group, name)),
    }
}

fn supplementary(user: &str, group: &str) -> Result<Vec<u32>, Failure> {
    let lists = |members: &str| members.split(',').any(|member| member.trim() == user);
    let mut found = groups(group)
        .filter(|(.., members)| lists(members))
        .map(|(name, gid, _)| possible(NameKind::Group, name, gid))
        .collect::<Result<Vec<_>, _>>()?;
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

/// Id of an entry, unless it is one that no process can have: -1 leaves a process who it is, and
/// that would be root.
fn possible(what: NameKind, name: &str, id: u32) -> Result<u32, Failure> {
    if id <= ID_MAX {
        return Ok(id);
    }
    let (word, file) = what.words();
    Err(Failure::new(
        what.reason(),
        format!(
            "the image's {file} gives the {word} of {name:?} as {id}, above the largest id, {ID_MAX}; correct the image, or \
             give user and group as numbers"
        ),
    ))
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

    const fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::User => ("user", "/etc/passwd"),
            Self::Group => ("group", "/etc/group"),
        }
    }
}

fn unknown(what: NameKind, name: &str) -> Failure {
    let (word, file) = what.words();
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

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n\n# comment\nbroken\nweb:x:1000:1001:Web:/srv/web:/bin/sh\nweb:x:0:0:second:/:/bin/sh\n1000:x:5:5:number:/:\n\
                          nohome:x:1002:1002:::/bin/sh\nhuge:x:99999999999:1::/:\nnobody:x:4294967295:1::/:\nlost:x:9:4294967295::/:\n\
                          many:x:8:8::/:\r\nlast:x:11:12:no newline:/last:/bin/sh";
    const GROUP: &str = "root:x:0:\nbin:x:1:root\nwheel:x:10:root,web2\nall:x:4294967295:many\nweb:x:1001:\nlogs:x:2000:web,other\nextra:x:1500:other, web\nbroken:x\nother:x:7:other\n";

    fn accounts() -> Accounts {
        Accounts {
            passwd: PASSWD.to_owned(),
            group: GROUP.to_owned(),
        }
    }

    #[track_caller]
    fn check(wanted: &str, uid: u32, gid: u32, groups: &[u32], home: Option<&str>) {
        let expected = User {
            uid,
            gid,
            groups: groups.to_vec(),
            home: home.map(str::to_owned),
        };
        assert_eq!(
            resolve(wanted, &accounts()).unwrap(),
            expected,
            "{wanted:?}"
        );
    }

    #[test]
    fn users_are_resolved_as_docker_does() {
        for root in ["", "root", "0", ":", "root:"] {
            check(root, 0, 0, &[1, 10], Some("/root"));
        }
        check("root:root", 0, 0, &[], Some("/root"));
        check("0:5", 0, 5, &[], Some("/root"));
        check("last", 11, 12, &[], Some("/last"));
        check("5", 5, 5, &[], Some("/"));
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
    fn further_groups_are_added_by_name_or_number() {
        let web = resolve("web", &accounts()).unwrap();
        let groups = |names: &[&str]| {
            let wanted = names.iter().map(|&name| name.to_owned()).collect();
            with_groups(web.clone(), &wanted, &accounts())
        };
        assert_eq!(groups(&[]).unwrap(), web);
        let found = groups(&["logs", "44", "bin"]).unwrap();
        assert_eq!((found.gid, found.groups), (1001, vec![1, 44, 1500, 2000]));
        for name in ["nogroup", "all", "4294967295"] {
            let failure = groups(&["44", name]).unwrap_err();
            assert_eq!(failure.reason, Reason::GroupNotFound, "{name}");
            assert!(failure.message.contains(name), "{failure}");
        }
    }

    #[test]
    fn root_gets_the_group_of_its_entry() {
        let accounts = Accounts {
            passwd: "root:x:0:7::/:".to_owned(),
            group: "root:x:7:\nextra:x:8:root".to_owned(),
        };
        let root = resolve("", &accounts).unwrap();
        assert_eq!((root.uid, root.gid, root.groups), (0, 7, vec![8]));
    }

    #[test]
    fn root_and_numbers_need_no_files() {
        for wanted in ["", "root", "0", "root:root", "0:root"] {
            let root = resolve(wanted, &Accounts::default()).unwrap();
            assert_eq!(root, User::default(), "{wanted:?}");
        }
        assert!(is_numbers("0:0") && is_numbers("1000:1001"));
        for named in ["", "0", "1000", "web", "1000:web", "root:0", "1000:", ":0"] {
            assert!(!is_numbers(named), "{named:?}");
        }
    }

    #[test]
    fn who_is_not_in_the_image_is_named() {
        for (wanted, named, expected) in [
            ("nobody-here", "nobody-here", Reason::UserNotFound),
            ("web:nogroup", "nogroup", Reason::GroupNotFound),
            ("4294967295", "4294967295", Reason::UserNotFound),
            ("0:4294967295", "4294967295", Reason::GroupNotFound),
            ("huge", "huge", Reason::UserNotFound),
            ("nobody", "4294967295", Reason::UserNotFound),
            ("lost", "4294967295", Reason::GroupNotFound),
            ("many", "all", Reason::GroupNotFound),
            ("web:all", "4294967295", Reason::GroupNotFound),
        ] {
            let error = resolve(wanted, &accounts()).unwrap_err();
            assert_eq!(error.reason, expected, "{wanted}");
            assert!(error.to_string().contains(named), "{error}");
        }
    }
}
