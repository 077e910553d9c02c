//! Debian's `docker-registry`, mostly on loopback: open, behind a password, behind a token, with or without TLS.

use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::certificates::{Authority, Certificate};
use super::http::{Head, Server, answer};
use super::{Testbed, eventually, run};

/// Who may pull, and push, where a password or a token is asked for.
pub(crate) const USER: &str = "chas";
pub(crate) const PASSWORD: &str = "s3cret";
/// `USER:PASSWORD` as HTTP's Basic scheme carries them.
const BASIC: &str = "Basic Y2hhczpzM2NyZXQ=";

/// What a pull must show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Open,
    /// A password with every request (`htpasswd`).
    Password,
    /// A token of the token server, which asks for the password and lets it live that long.
    Token {
        lives_s: u32,
    },
}

/// A running registry. Ends with the value; its images end with the test's directory.
#[derive(Debug)]
pub(crate) struct Registry {
    address: String,
    configuration: PathBuf,
    push_address: String,
    authority: Option<PathBuf>,
    processes: Vec<Child>,
    tokens: Option<Server>,
}

impl Registry {
    /// An open one over plain HTTP.
    pub(crate) fn open(bed: &Testbed) -> Self {
        Self::start(bed, Access::Open, false)
    }

    /// As [`Self::open`], on another address of this computer.
    pub(crate) fn open_on(bed: &Testbed, host: Ipv4Addr) -> Self {
        Self::start_on(bed, host, Access::Open, false)
    }

    /// One that asks for `access`, over TLS with a certificate of its own authority if `tls`.
    ///
    /// Tests push to it through a second, open door onto the same images ([`Self::push_address`]).
    pub(crate) fn start(bed: &Testbed, access: Access, tls: bool) -> Self {
        Self::start_on(bed, Ipv4Addr::LOCALHOST, access, tls)
    }

    fn start_on(bed: &Testbed, host: Ipv4Addr, access: Access, tls: bool) -> Self {
        let port = bed.port();
        let dir = bed.dir.join(format!("registry{port}"));
        fs::create_dir(&dir).expect("the port is new");
        let mut extra = String::new();
        let mut authority = None;
        if tls {
            let signing = Authority::new(dir.join("authority"));
            let Certificate { certificate, key } =
                signing.issue("server", "DNS:localhost,IP:127.0.0.1");
            extra += &format!(
                "  tls: {{certificate: {}, key: {}}}\n",
                certificate.display(),
                key.display()
            );
            authority = Some(signing.certificate());
        }
        let mut tokens = None;
        match access {
            Access::Open => {}
            Access::Password => {
                let line = run("htpasswd", ["-Bbn", "-C5", USER, PASSWORD])
                    .expect("htpasswd (apache2-utils) is installed");
                fs::write(dir.join("htpasswd"), line).expect("the disk takes it");
                extra += &format!(
                    "auth: {{htpasswd: {{realm: test, path: {}/htpasswd}}}}\n",
                    dir.display()
                );
            }
            Access::Token { lives_s } => {
                let server = token_server(&dir, lives_s);
                extra += &format!(
                    "auth: {{token: {{realm: 'http://{}/token', service: test, issuer: test, rootcertbundle: {}/token.crt}}}}\n",
                    server.address(),
                    dir.display()
                );
                tokens = Some(server);
            }
        }
        let address = format!("{host}:{port}");
        let configuration = dir.join(format!("{address}.yml"));
        let mut processes = vec![serve(&dir, &address, &extra)];
        let push_address = if extra.is_empty() {
            address.clone()
        } else {
            format!("127.0.0.1:{}", bed.port())
        };
        if push_address != address {
            processes.push(serve(&dir, &push_address, ""));
        }
        Self {
            address,
            configuration,
            push_address,
            authority,
            processes,
            tokens,
        }
    }

    /// `host:port`, for image references.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Its configuration file, with which another process serves the same images at the same address of another network.
    pub(crate) fn configuration(&self) -> &Path {
        &self.configuration
    }

    /// `host:port` of the token server, plain HTTP, if there is one.
    pub(crate) fn token_address(&self) -> Option<String> {
        self.tokens
            .as_ref()
            .map(|server| server.address().to_string())
    }

    /// `host:port` of the open door, plain HTTP.
    pub(crate) fn push_address(&self) -> &str {
        &self.push_address
    }

    /// The certificate (PEM) of the authority that signed the registry's, if it speaks TLS.
    pub(crate) fn authority(&self) -> Option<&Path> {
        self.authority.as_deref()
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        for process in &mut self.processes {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

fn serve(dir: &Path, address: &str, extra: &str) -> Child {
    let config = dir.join(format!("{address}.yml"));
    let text = format!(
        "version: 0.1\nlog: {{level: warn}}\nstorage: {{filesystem: {{rootdirectory: {}/data}}, delete: {{enabled: true}}}}\nhttp:\n  addr: {address}\n  secret: test\n{extra}",
        dir.display()
    );
    fs::write(&config, text).expect("the disk takes it");
    let log_path = dir.join(format!("{address}.log"));
    let log = File::create(&log_path).expect("the disk takes it");
    let mut command = Command::new("docker-registry");
    command
        .arg("serve")
        .arg(&config)
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("a descriptor"))
        .stderr(log);
    let mut process = command
        .process_group(0)
        .spawn()
        .expect("docker-registry is installed");
    eventually("the registry answers", Duration::from_secs(20), || {
        let ended = process.try_wait().expect("it is our child");
        assert!(
            ended.is_none(),
            "the registry ended ({ended:?}):\n{}",
            fs::read_to_string(&log_path).unwrap_or_default()
        );
        TcpStream::connect(address).is_ok()
    });
    process
}

/// Hands out tokens as the distribution project's token specification says: whoever shows the password gets what is
/// asked for in `scope`, signed for `lives_s` seconds.
fn token_server(dir: &Path, lives_s: u32) -> Server {
    let make_key = r#"cd "$0"; openssl req -x509 -newkey rsa:2048 -nodes -days 2 -keyout token.key -out token.crt -subj /CN=tokens"#;
    run("sh", ["-ec".as_ref(), make_key.as_ref(), dir.as_os_str()]).expect("openssl is installed");
    let dir = dir.to_owned();
    Server::start(move |head, mut stream| {
        let stream = stream.get_mut();
        if head.method() != "GET" {
            return answer(stream, "405 Method Not Allowed", &[], "");
        }
        if head.header("authorization") != Some(BASIC) {
            return answer(
                stream,
                "401 Unauthorized",
                &[("WWW-Authenticate", "Basic realm=\"test\"")],
                "{}",
            );
        }
        let token = sign(&dir, &head, lives_s)?;
        let body = serde_json::json!({"token": token, "expires_in": lives_s}).to_string();
        answer(
            stream,
            "200 OK",
            &[("Content-Type", "application/json")],
            &body,
        )
    })
}

fn sign(dir: &Path, head: &Head, lives_s: u32) -> io::Result<String> {
    let query = head
        .second()
        .split_once('?')
        .map_or("", |(_, query)| query)
        .replace("%3A", ":")
        .replace("%2F", "/")
        .replace("%2C", ",");
    let access = query.split('&').filter_map(|pair| pair.strip_prefix("scope=")).filter_map(|scope| {
        let mut parts = scope.splitn(3, ':');
        let (kind, name, actions) = (parts.next()?, parts.next()?, parts.next()?);
        Some(serde_json::json!({"type": kind, "name": name, "actions": actions.split(',').collect::<Vec<_>>()}))
    });
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_err(io::Error::other)?
        .as_secs();
    let claims = serde_json::json!({
        "iss": "test", "aud": "test", "sub": USER, "jti": now.to_string(), "iat": now, "nbf": now - 5,
        "exp": now + u64::from(lives_s), "access": access.collect::<Vec<_>>(),
    });
    let script = r#"
        cd "$0"
        b64() { openssl base64 -A | tr '+/' '-_' | tr -d =; }
        certificate=$(grep -v CERTIFICATE token.crt | tr -d '\n')
        message=$(printf '{"typ":"JWT","alg":"RS256","x5c":["%s"]}' "$certificate" | b64).$(printf %s "$1" | b64)
        printf '%s.%s' "$message" "$(printf %s "$message" | openssl dgst -sha256 -sign token.key | b64)"
    "#;
    run(
        "sh",
        [
            "-ec".as_ref(),
            script.as_ref(),
            dir.as_os_str(),
            claims.to_string().as_ref(),
        ],
    )
    .map_err(io::Error::other)
}
