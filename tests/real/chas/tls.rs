//! TLS between the agent and CHaS, with OpenSSL at the other end: whom the agent trusts, what it shows, and files that change.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use super::Central;
use crate::harness::Testbed;
use crate::harness::certificates::{Authority, Certificate, TlsDoor};
use crate::harness::chas::Chas;
use crate::stand::{Stand, eventually};

const HERE: &str = "DNS:localhost,IP:127.0.0.1";

/// What the agent was told to read, and CHaS behind a door.
struct Guarded {
    door: Option<TlsDoor>,
    central: Central,
    dir: PathBuf,
    port: u16,
}

impl Guarded {
    /// The door shows `shown` and lets in whom `clients` signed; the agent trusts `servers` and shows `node`.
    async fn new(
        shown: &Certificate,
        clients: &Authority,
        servers: &Authority,
        node: &Certificate,
        bed: Testbed,
    ) -> Self {
        let dir = bed.dir.join("node");
        fs::create_dir(&dir).unwrap();
        let port = bed.port();
        let chas = Chas::start(&bed.namespace);
        let [ca, certificate, key] =
            ["ca.pem", "node.pem", "node.key"].map(|name| dir.join(name).display().to_string());
        let url = format!("https://127.0.0.1:{port}");
        let variables = [
            ("CHAS_API_URL", url.as_str()),
            ("CHAS_API_TOKEN", "a-token-that-nobody-else-may-see"),
            ("CHAS_API_CA_FILE", &ca),
            ("CHAS_API_CERT_FILE", &certificate),
            ("CHAS_API_KEY_FILE", &key),
        ];
        replace(Path::new(&ca), &servers.certificate());
        replace(Path::new(&certificate), &node.certificate);
        replace(Path::new(&key), &node.key);
        let door = Some(TlsDoor::open(
            port,
            shown,
            &clients.certificate(),
            chas.address(),
        ));
        let stand = Stand::with(bed, &variables).await;
        Self {
            door,
            central: Central { stand, chas },
            dir,
            port,
        }
    }

    /// Changes what the door shows, and whom it lets in.
    fn change(&mut self, shown: &Certificate, clients: &Authority) {
        self.door = None;
        self.door = Some(TlsDoor::open(
            self.port,
            shown,
            &clients.certificate(),
            self.central.chas.address(),
        ));
    }

    /// Waits until the agent says of CHaS that it is not reached, and that `part` is why.
    async fn is_refused(&self, part: &str) {
        let mut said = Value::Null;
        eventually(
            &format!("{part:?} is why CHaS is not reached"),
            async || {
                said = self.central.stand.agent.get("/health").await.1["chas"].clone();
                said["reachable"] == false
                    && said["error"]
                        .as_str()
                        .is_some_and(|error| error.contains(part))
            },
        )
        .await;
    }
}

/// As `mv` does: whoever reads sees the old file or the new.
fn replace(path: &Path, with: &Path) {
    let new = path.with_extension("new");
    fs::copy(with, &new).unwrap();
    fs::rename(new, path).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_checked_by_both_sides_and_changed_without_a_restart() {
    let bed = Testbed::new();
    let [ours, theirs] = ["ours", "theirs"].map(|name| Authority::new(bed.dir.join(name)));
    let server = ours.issue("server", HERE);
    let node = ours.issue("node", "DNS:node");
    let mut guarded = Guarded::new(&server, &ours, &ours, &node, bed).await;
    let one = guarded
        .central
        .list(&guarded.central.sleepers(&["a"]))
        .await;
    assert_eq!(one["containers"][0]["status"], "running");
    let before = guarded.central.running().await;
    let a = guarded.central.sleeper("a");

    // Whoever cannot prove to be CHaS is told nothing, not even the token.
    let stranger = theirs.issue("server", HERE);
    let namesake = ours.issue("elsewhere", "DNS:elsewhere.test");
    for (shown, part) in [
        (&stranger, "UnknownIssuer"),
        (&namesake, "not valid for name"),
    ] {
        guarded.change(shown, &ours);
        guarded.is_refused(part).await;
        let calls = guarded.central.chas.calls().len();
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert_eq!(guarded.central.chas.calls().len(), calls, "{part}");
        assert_eq!(guarded.central.running().await, before);
    }

    // CHaS's authority is another one from now on. What is no certificate at all changes nothing, and is said.
    guarded.change(&stranger, &ours);
    fs::write(
        guarded.dir.join("ca.pem"),
        "-----BEGIN CERTIFICATE-----\nbm90IG9uZQ==\n-----END CERTIFICATE-----\n",
    )
    .unwrap();
    guarded.is_refused("chas.ca_file").await;
    assert_eq!(guarded.central.running().await, before);
    replace(&guarded.dir.join("ca.pem"), &theirs.certificate());
    guarded
        .central
        .list(&[a.clone(), guarded.central.sleeper("b")])
        .await;

    // CHaS wants the node's certificate to be of the other authority, too.
    guarded.change(&stranger, &theirs);
    guarded.is_refused("alert").await;
    fs::remove_file(guarded.dir.join("node.pem")).unwrap();
    guarded.is_refused("cannot read").await;
    let other = theirs.issue("node", "DNS:node");
    replace(&guarded.dir.join("node.key"), &other.key);
    replace(&guarded.dir.join("node.pem"), &other.certificate);
    guarded
        .central
        .list(&[
            a,
            guarded.central.sleeper("b"),
            guarded.central.sleeper("c"),
        ])
        .await;
    let now = guarded.central.running().await;
    assert!(
        now.len() == 3 && now["a"] == before["a"],
        "{before:?} {now:?}"
    );
    assert_eq!(
        guarded.central.stand.agent.get("/health").await.1["chas"]["error"],
        json!(null)
    );
    let Guarded { door, central, .. } = guarded;
    drop(door);
    central.end().await;
}
