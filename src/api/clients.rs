//! The clients that may call besides the bearers of the node's token, as their file has them now.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::SystemTime;

use state::access::{Client, ClientToken};
use subtle::{Choice, ConstantTimeEq as _};
use tokio_util::sync::CancellationToken;

/// Client that is known.
#[derive(Debug)]
pub(super) struct KnownClient {
    /// Client as the file has it.
    pub(super) client: Client,
    /// End of its being known as this.
    pub(super) ended: CancellationToken,
}

/// Clients, which may be replaced while the agent runs. Clones share them.
#[derive(Clone, Debug, Default)]
pub(crate) struct ClientList(Arc<RwLock<Vec<Arc<KnownClient>>>>);

/// Client that bears a token.
#[derive(Debug)]
pub(super) enum Bearer {
    /// The token is no client's.
    Unknown,
    /// The client whose token's time is over since.
    Late(SystemTime),
    /// The client, and the end of its token's time.
    Known(Arc<KnownClient>, Option<SystemTime>),
}

impl ClientList {
    /// Takes other clients from now on. Whoever is not among them just so as before loses what it
    /// still follows. True if anything is different.
    pub(crate) fn replace(&self, clients: Vec<Client>) -> bool {
        let mut now = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let mut before = std::mem::take(&mut *now);
        let count = before.len();
        let mut added = 0;
        for client in clients {
            let same = before.iter().position(|known| known.client == client);
            now.push(if let Some(place) = same {
                before.swap_remove(place)
            } else {
                added += 1;
                Arc::new(KnownClient {
                    client,
                    ended: CancellationToken::new(),
                })
            });
        }
        before.iter().for_each(|gone| gone.ended.cancel());
        added > 0 || now.len() != count
    }

    /// The client that bears this token.
    pub(super) fn bearing(&self, token: &str, at: SystemTime) -> Bearer {
        let clients = self.0.read().unwrap_or_else(PoisonError::into_inner);
        if clients.is_empty() {
            return Bearer::Unknown;
        }
        let given = ClientToken::of(token, None);
        let mut found = None;
        // All are compared, each in full: the time that it takes tells nothing of any.
        for known in clients.iter() {
            for token in &known.client.tokens {
                let is: Choice = token.hash.as_bytes().ct_eq(given.hash.as_bytes());
                if is.into() {
                    found = Some((known, token));
                }
            }
        }
        match found {
            None => Bearer::Unknown,
            Some((_, token)) if token.is_over(at) => Bearer::Late(token.expires.unwrap_or(at)),
            Some((known, token)) => Bearer::Known(Arc::clone(known), token.expires),
        }
    }
}

impl ClientList {
    /// The client that one of these names of a certificate stands for. `None`: none does, or they
    /// stand for several.
    pub(super) fn certified(&self, names: &[String]) -> Option<Arc<KnownClient>> {
        let clients = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let is_meant = |known: &&Arc<KnownClient>| {
            let mut certificates = known.client.certificates.iter();
            certificates.any(|name| names.contains(name))
        };
        let mut meant = clients.iter().filter(is_meant);
        let one = meant.next()?;
        meant.next().is_none().then(|| Arc::clone(one))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use state::access::{NameScope, Role};

    use super::*;

    fn client(name: &str, tokens: &[(&str, Option<SystemTime>)]) -> Client {
        let token = |(token, end): &(&str, Option<SystemTime>)| ClientToken::of(token, *end);
        Client {
            name: name.to_owned(),
            role: Role::Read,
            names: NameScope::All,
            tokens: tokens.iter().map(token).collect(),
            certificates: Vec::new(),
        }
    }

    #[test]
    fn a_token_is_its_client_s_until_its_time_is_over() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let second = Duration::from_secs(1);
        let clients = ClientList::default();
        assert!(matches!(clients.bearing("a", now), Bearer::Unknown));
        clients.replace(vec![
            client("one", &[("old", Some(now)), ("new", Some(now + second))]),
            client("two", &[("for ever", None)]),
        ]);
        let name = |token: &str, at| match clients.bearing(token, at) {
            Bearer::Unknown => "unknown".to_owned(),
            Bearer::Late(_) => "late".to_owned(),
            Bearer::Known(known, _) => known.client.name.clone(),
        };
        for (token, at, is) in [
            ("old", now, "late"),
            ("old", now - second, "one"),
            ("new", now, "one"),
            ("new", now + second, "late"),
            ("for ever", now + second, "two"),
            ("", now, "unknown"),
            (&ClientToken::of("new", None).hash, now, "unknown"),
        ] {
            assert_eq!(name(token, at), is, "{token}");
        }
    }

    #[test]
    fn a_certificate_stands_for_the_one_client_that_has_its_name() {
        let with = |name: &str, certificates: &[&str]| Client {
            certificates: certificates.iter().map(ToString::to_string).collect(),
            ..client(name, &[])
        };
        let clients = ClientList::default();
        clients.replace(vec![
            with("ci", &["ci.example", "spiffe://example/ci"]),
            with("ops", &["ops.example"]),
            client("neither", &[]),
        ]);
        for (names, is) in [
            (&["ci.example"][..], Some("ci")),
            (&["x.example", "spiffe://example/ci"], Some("ci")),
            (&["ops.example"], Some("ops")),
            (&["ci.example", "ops.example"], None),
            (&["ci.example.evil"], None),
            (&["neither"], None),
            (&[], None),
        ] {
            let names: Vec<_> = names.iter().map(ToString::to_string).collect();
            let known = clients.certified(&names);
            let name = known.as_ref().map(|known| known.client.name.as_str());
            assert_eq!(name, is, "{names:?}");
        }
    }

    #[test]
    fn who_stays_as_it_was_keeps_what_it_follows_and_all_others_lose_it() {
        let clients = ClientList::default();
        assert!(!clients.replace(Vec::new()));
        let (stays, goes) = (
            client("stays", &[("a", None)]),
            client("goes", &[("b", None)]),
        );
        assert!(clients.replace(vec![goes.clone(), stays.clone()]));
        let end = |token: &str| match clients.bearing(token, SystemTime::now()) {
            Bearer::Known(known, _) => known.ended.clone(),
            Bearer::Unknown | Bearer::Late(_) => panic!("{token}"),
        };
        let (staying, going) = (end("a"), end("b"));
        assert!(!clients.replace(vec![stays.clone(), goes.clone()]));
        assert!(!staying.is_cancelled() && !going.is_cancelled());
        let lower = Client {
            tokens: Vec::new(),
            ..goes
        };
        assert!(clients.replace(vec![stays, lower]));
        assert!(!staying.is_cancelled() && going.is_cancelled());
        assert!(clients.replace(Vec::new()) && staying.is_cancelled());
    }
}
