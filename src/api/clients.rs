//! The clients that may call besides the bearers of the node's token, as their file has them now.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::SystemTime;

use state::access::{Client, ClientToken, NameScope};
use subtle::{Choice, ConstantTimeEq as _};
use tokio_util::sync::CancellationToken;

use super::access::{AccessEnd, CLIENT};

/// Client that is known.
#[derive(Debug)]
pub(super) struct KnownClient {
    /// Client as the file has it.
    pub(super) client: Client,
    /// Name as log and audit have it: none may be taken for the node's own token, or for root.
    pub(super) by: Arc<str>,
    /// Containers that it has to do with.
    pub(super) names: Arc<NameScope>,
    /// End of its being known by its certificates.
    pub(super) ended: CancellationToken,
    /// Tokens, each with the end of its being right.
    tokens: Vec<(ClientToken, CancellationToken)>,
}

impl KnownClient {
    /// A client as it is now. What it follows goes on where nothing that it rests on has changed
    /// since `before`, which is ended else.
    fn after(before: Option<&Self>, client: Client) -> Self {
        let same = before.filter(|before| {
            before.client.role == client.role && before.client.names == client.names
        });
        let ended = same
            .filter(|same| same.client.certificates == client.certificates)
            .map(|same| same.ended.clone());
        let known = |token: &ClientToken| {
            let tokens = same.map_or(&[][..], |same| &same.tokens);
            let kept = tokens.iter().find(|(kept, _)| kept == token);
            let end = kept.map(|(_, end)| end.clone());
            (token.clone(), end.unwrap_or_default())
        };
        if let Some(before) = before {
            before.end(ended.is_some(), |token| {
                same.is_some() && client.tokens.contains(token)
            });
        }
        Self {
            by: format!("{CLIENT}{}", client.name).into(),
            names: Arc::new(client.names.clone()),
            tokens: client.tokens.iter().map(known).collect(),
            ended: ended.unwrap_or_default(),
            client,
        }
    }

    /// Ends what rests on the certificates, unless they stay, and on the tokens that do not.
    fn end(&self, certificates_stay: bool, stays: impl Fn(&ClientToken) -> bool) {
        if !certificates_stay {
            self.ended.cancel();
        }
        let gone = self.tokens.iter().filter(|(token, _)| !stays(token));
        gone.for_each(|(_, end)| end.cancel());
    }
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
    /// The client, and the end of its token.
    Known(Arc<KnownClient>, AccessEnd),
}

impl ClientList {
    /// Takes other clients from now on. Whoever loses a token, a role or a name loses what it still
    /// follows by it. True if anything is different.
    pub(crate) fn replace(&self, clients: Vec<Client>) -> bool {
        let mut now = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let mut before = std::mem::take(&mut *now);
        let mut is_other = before.len() != clients.len();
        for client in clients {
            let place = before
                .iter()
                .position(|known| known.client.name == client.name);
            let same = place.map(|place| before.swap_remove(place));
            is_other |= same.as_ref().is_none_or(|same| same.client != client);
            now.push(Arc::new(KnownClient::after(same.as_deref(), client)));
        }
        before.iter().for_each(|gone| gone.end(false, |_| false));
        is_other
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
            for (token, end) in &known.tokens {
                let is: Choice = token.hash.as_bytes().ct_eq(given.hash.as_bytes());
                if is.into() {
                    found = Some((known, token, end));
                }
            }
        }
        match found {
            None => Bearer::Unknown,
            Some((_, token, _)) if token.is_over(at) => Bearer::Late(token.expires.unwrap_or(at)),
            Some((known, token, end)) => {
                let end = AccessEnd {
                    taken_back: end.clone(),
                    expires: token.expires,
                    ..AccessEnd::default()
                };
                Bearer::Known(Arc::clone(known), end)
            }
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

    use state::access::Role;

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
            Bearer::Known(_, end) => end.taken_back,
            Bearer::Unknown | Bearer::Late(_) => panic!("{token}"),
        };
        let (staying, going) = (end("a"), end("b"));
        assert!(!clients.replace(vec![stays.clone(), goes.clone()]));
        assert!(!staying.is_cancelled() && !going.is_cancelled());
        // Another token beside it, as when it is to be changed, cuts nothing.
        let more = client("stays", &[("new", None), ("a", None)]);
        assert!(clients.replace(vec![more.clone(), goes.clone()]));
        assert!(!staying.is_cancelled() && !going.is_cancelled());
        let without = Client {
            tokens: Vec::new(),
            ..goes
        };
        assert!(clients.replace(vec![more.clone(), without]));
        assert!(!staying.is_cancelled() && going.is_cancelled());
        let newer = end("new");
        let higher = Client {
            role: Role::Deploy,
            ..more
        };
        assert!(clients.replace(vec![higher]));
        assert!(staying.is_cancelled() && newer.is_cancelled());
        let last = end("a");
        assert!(clients.replace(Vec::new()) && last.is_cancelled());
    }
}
