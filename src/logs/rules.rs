//! Rules for all loggers of a node, which its operator sets, and the words by which a call passes
//! them on.

use std::fmt::Write as _;

use state::quantity::ByteCount;

/// Rules for loggers. The default: none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct LoggerRules {
    /// Bytes that a container may print in a second, over ten of them; `None`: any number.
    pub(crate) rate: Option<ByteCount>,
    /// User that a logger becomes; `None`: it stays the one who started it, root.
    pub(crate) user: Option<LoggerUser>,
}

/// User of the loggers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LoggerUser {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl LoggerRules {
    /// Words of a call, each with a comma after it. Without rules there is none, as in version 0.1.
    pub(super) fn words(&self) -> String {
        let mut words = String::new();
        let mut add = |word: std::fmt::Arguments<'_>| {
            write!(words, "{word},").expect("writing to a string cannot fail");
        };
        if let Some(rate) = self.rate {
            add(format_args!("rate={}", rate.0));
        }
        if let Some(LoggerUser { uid, gid }) = self.user {
            add(format_args!("user={uid}:{gid}"));
        }
        words
    }

    /// Parses the words before `rest`, which begins with a slash. A word of a version to come is
    /// passed over: its logger is a logger.
    pub(super) fn parse(mut rest: &[u8]) -> Option<(Self, &[u8])> {
        let mut rules = Self::default();
        while rest.first()? != &b'/' {
            let comma = rest.iter().position(|byte| *byte == b',')?;
            let (key, value) = std::str::from_utf8(&rest[..comma]).ok()?.split_once('=')?;
            match key {
                "rate" => rules.rate = Some(ByteCount(value.parse().ok()?)),
                "user" => {
                    let (uid, gid) = value.split_once(':')?;
                    rules.user = Some(LoggerUser {
                        uid: uid.parse().ok()?,
                        gid: gid.parse().ok()?,
                    });
                }
                _ => {}
            }
            rest = &rest[comma + 1..];
        }
        Some((rules, rest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_come_back_with_what_follows_and_what_is_new_is_passed_over() {
        let user = LoggerUser { uid: 994, gid: 991 };
        for rules in [
            LoggerRules::default(),
            LoggerRules {
                rate: Some(ByteCount(1 << 20)),
                ..LoggerRules::default()
            },
            LoggerRules {
                rate: Some(ByteCount(1)),
                user: Some(user),
            },
        ] {
            let text = format!("{}/logs/a,b=c", rules.words());
            let parsed = LoggerRules::parse(text.as_bytes());
            assert_eq!(parsed, Some((rules, &b"/logs/a,b=c"[..])));
        }
        let newer = LoggerRules::parse(b"colour=red,rate=7,/d").unwrap();
        assert_eq!((newer.0.rate, newer.1), (Some(ByteCount(7)), &b"/d"[..]));
        for wrong in [
            "",
            "rate=7",
            "rate=x,/d",
            "user=7,/d",
            "relative,/d",
            "rate=-1,/d",
        ] {
            assert_eq!(LoggerRules::parse(wrong.as_bytes()), None, "{wrong}");
        }
    }
}
