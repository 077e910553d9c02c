//! Certificates, for 2020 to 2099, of which some are shown and some believed.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::TlsConnector;

use super::*;

const AUTHORITY: &str = include_str!("pem/ca-crt.pem");
const SERVER: [&str; 2] = [
    include_str!("pem/server-crt.pem"),
    include_str!("pem/server-key.pem"),
];
const CLIENT: [&str; 2] = [
    include_str!("pem/client-crt.pem"),
    include_str!("pem/client-key.pem"),
];

struct Files {
    directory: tempfile::TempDir,
    files: ApiTls,
}

impl Files {
    fn new([certificate, key]: [&str; 2], authority: Option<&str>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = directory.path().join(name);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
            path
        };
        let files = ApiTls {
            certificate: write("crt", certificate),
            key: write("key", key),
            client_authorities: authority.map(|text| write("ca", text)),
        };
        Self { directory, files }
    }

    fn read(&self) -> Result<TlsMaterial, String> {
        TlsMaterial::read(&self.files)
    }

    fn fault(&self) -> String {
        let fault = self.read().unwrap_err();
        fault.replace(&format!("{}/", self.directory.path().display()), "")
    }
}

fn client(shown: Option<[&str; 2]>, protocol: &[u8]) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    let authority = CertificateDer::from_pem_slice(AUTHORITY.as_bytes()).unwrap();
    roots.add(authority).unwrap();
    let building = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match shown {
        None => building.with_no_client_auth(),
        Some([certificate, key]) => {
            let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()];
            let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
            building.with_client_auth_cert(chain, key).unwrap()
        }
    };
    config.alpn_protocols = vec![protocol.to_vec()];
    config
}

/// What the agent learns of a client, and whether bytes go through.
async fn welcomed(door: &TlsInForce, client: ClientConfig) -> io::Result<ShownCertificate> {
    let (near, far) = tokio::io::duplex(64 << 10);
    let calling = async {
        let name = ServerName::try_from("localhost").unwrap();
        let connector = TlsConnector::from(Arc::new(client));
        let mut stream = connector.connect(name, far).await?;
        stream.write_all(b"hello").await?;
        stream.flush().await?;
        Ok::<_, io::Error>(stream)
    };
    let (welcomed, called) = tokio::join!(door.welcome(near), calling);
    let (mut stream, shown) = welcomed?;
    let mut bytes = [0; 5];
    stream.read_exact(&mut bytes).await?;
    assert_eq!(&bytes, b"hello");
    drop(called?);
    Ok(shown)
}

fn door(authority: Option<&str>) -> TlsInForce {
    let door = TlsInForce::default();
    door.replace(Files::new(SERVER, authority).read().unwrap());
    door
}

#[tokio::test]
async fn a_client_is_known_by_the_certificate_that_it_shows_and_may_show_none() {
    let known = door(Some(AUTHORITY));
    let shown = welcomed(&known, client(Some(CLIENT), PROTOCOL))
        .await
        .unwrap();
    assert_eq!(shown.names, ["ci.example", "spiffe://example/CI"]);
    let last = humantime::parse_rfc3339("2099-01-01T00:00:00Z").unwrap();
    assert_eq!(shown.last, Some(last));
    let shown = welcomed(&known, client(None, PROTOCOL)).await.unwrap();
    assert!(shown.names.is_empty());
    // Nobody asks for one where nobody would be believed.
    let shown = welcomed(&door(None), client(Some(CLIENT), PROTOCOL))
        .await
        .unwrap();
    assert!(shown.names.is_empty());
    // The server's own certificate is no authority.
    let strange = welcomed(&door(Some(SERVER[0])), client(Some(CLIENT), PROTOCOL)).await;
    assert!(strange.is_err(), "{strange:?}");
    let strange = welcomed(&known, client(None, b"h2")).await;
    assert!(strange.is_err(), "{strange:?}");
    let nothing = welcomed(&TlsInForce::default(), client(None, PROTOCOL)).await;
    assert!(nothing.is_err(), "{nothing:?}");
}

#[tokio::test]
async fn what_was_shown_before_other_authorities_came_proves_nothing_any_more() {
    let door = door(Some(AUTHORITY));
    let shown = welcomed(&door, client(Some(CLIENT), PROTOCOL))
        .await
        .unwrap();
    assert!(!shown.distrusted.is_cancelled());
    // Another certificate of the agent's own changes nothing of it.
    door.replace(Files::new(SERVER, Some(AUTHORITY)).read().unwrap());
    assert!(!shown.distrusted.is_cancelled());
    let other = format!("{AUTHORITY}{}", SERVER[0]);
    door.replace(Files::new(SERVER, Some(&other)).read().unwrap());
    assert!(shown.distrusted.is_cancelled());
    let again = welcomed(&door, client(Some(CLIENT), PROTOCOL))
        .await
        .unwrap();
    assert!(!again.distrusted.is_cancelled());
}

#[test]
fn files_that_cannot_be_used_are_named_with_their_fault() {
    for (files, says) in [
        (
            Files::new([SERVER[0], CLIENT[1]], None),
            "crt and key are no pair",
        ),
        (
            Files::new([SERVER[1], SERVER[1]], None),
            "crt: it holds no certificate",
        ),
        (
            Files::new([SERVER[0], SERVER[0]], None),
            "key: it holds no private key",
        ),
        (
            Files::new(["", SERVER[1]], None),
            "crt: it holds no certificate",
        ),
        (Files::new(SERVER, Some("")), "ca: it holds no certificate"),
        (
            Files::new(
                SERVER,
                Some("-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n"),
            ),
            "ca: ",
        ),
        (
            Files::new(
                [
                    "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n",
                    SERVER[1],
                ],
                None,
            ),
            "crt: ",
        ),
    ] {
        let fault = files.fault();
        assert!(fault.contains(says), "{says}: {fault}");
    }
    let gone = Files::new(SERVER, None);
    fs::remove_file(&gone.files.key).unwrap();
    assert!(
        gone.fault().starts_with("key: No such file"),
        "{}",
        gone.fault()
    );
    let large = Files::new(SERVER, None);
    fs::write(&large.files.certificate, vec![b'\n'; (1 << 20) + 1]).unwrap();
    assert!(large.fault().contains("larger than 1 MiB"));
    let open = Files::new(SERVER, Some(AUTHORITY));
    let authorities = open.files.client_authorities.as_ref().unwrap();
    fs::set_permissions(authorities, Permissions::from_mode(0o664)).unwrap();
    assert!(
        open.fault().contains("others may change it"),
        "{}",
        open.fault()
    );
}

#[test]
fn the_time_of_a_certificate_is_read_to_the_second() {
    let material = Files::new(SERVER, None).read().unwrap();
    let time = |text: &str| humantime::parse_rfc3339(text).unwrap();
    let (first, last) = (time("2020-01-01T00:00:00Z"), time("2099-01-01T00:00:00Z"));
    assert_eq!(material.valid, (first, last));
    let second = Duration::from_secs(1);
    assert_eq!(material.left(first - second), None);
    assert_eq!(material.left(last + second), None);
    let all = last.duration_since(first).unwrap();
    assert_eq!(material.left(first), Some((all, all)));
    assert_eq!(material.left(last - second), Some((second, all)));
}

#[test]
fn a_chain_counts_as_long_as_every_certificate_in_it_that_no_client_has() {
    let [between, ended_root] = [
        include_str!("pem/between-crt.pem"),
        include_str!("pem/ended-root-crt.pem"),
    ];
    let last = humantime::parse_rfc3339("2030-01-01T00:00:00Z").unwrap();
    for (behind, expected) in [
        (String::new(), None),
        (ended_root.to_owned(), None),
        (between.to_owned(), Some(last)),
        (format!("{between}{ended_root}"), Some(last)),
    ] {
        let chain = format!("{}{behind}", SERVER[0]);
        let material = Files::new([&chain, SERVER[1]], None).read().unwrap();
        assert_eq!(material.chain_last(), expected, "{behind}");
    }
}

#[test]
fn a_uri_that_looks_like_a_dns_name_is_no_name() {
    let odd = include_str!("pem/odd-crt.pem");
    let odd = CertificateDer::from_pem_slice(odd.as_bytes()).unwrap();
    assert_eq!(names(&odd), ["other.example", "urn:x:Y"]);
}
