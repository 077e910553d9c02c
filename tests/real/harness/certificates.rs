//! Authorities of their own, what they sign, and TLS in front of a server that speaks none.

use std::fs::{self, File};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::{eventually, run};

/// An authority that nobody trusts unless told to.
#[derive(Debug)]
pub(crate) struct Authority {
    dir: PathBuf,
}

/// A certificate and its key, as PEM files.
#[derive(Clone, Debug)]
pub(crate) struct Certificate {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

impl Authority {
    /// Makes one in a directory that is made for it.
    pub(crate) fn new(dir: PathBuf) -> Self {
        fs::create_dir_all(&dir).expect("the disk takes it");
        let script = r#"
            cd "$0"
            openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -keyout ca.key -out ca.crt \
                -subj "/CN=the authority ${0##*/}"
        "#;
        run("sh", ["-ec".as_ref(), script.as_ref(), dir.as_os_str()])
            .expect("openssl is installed");
        Self { dir }
    }

    /// Its own certificate, by which it is trusted.
    pub(crate) fn certificate(&self) -> PathBuf {
        self.dir.join("ca.crt")
    }

    /// Signs a certificate for these names, as in `DNS:localhost,IP:127.0.0.1`.
    pub(crate) fn issue(&self, file: &str, names: &str) -> Certificate {
        let script = r#"
            cd "$0"
            openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout "$1.key" -out "$1.csr" -subj "/CN=$1"
            printf 'subjectAltName=%s\nbasicConstraints=CA:FALSE\n' "$2" >"$1.ext"
            openssl x509 -req -in "$1.csr" -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -out "$1.crt" -extfile "$1.ext"
        "#;
        let arguments = [
            "-ec".as_ref(),
            script.as_ref(),
            self.dir.as_os_str(),
            file.as_ref(),
            names.as_ref(),
        ];
        run("sh", arguments).expect("openssl is installed");
        let [certificate, key] = ["crt", "key"].map(|end| self.dir.join(format!("{file}.{end}")));
        Certificate { certificate, key }
    }
}

/// OpenSSL's TLS in front of a server (`stunnel`): it lets in who has a certificate of an authority, and passes on what is said.
#[derive(Debug)]
pub(crate) struct TlsDoor(Child);

impl TlsDoor {
    /// Opens it on a port of 127.0.0.1, with `shown` as its own certificate.
    pub(crate) fn open(
        port: u16,
        shown: &Certificate,
        trusted: &Path,
        upstream: SocketAddr,
    ) -> Self {
        let Certificate { certificate, key } = shown;
        let [config, log] = ["conf", "log"].map(|end| key.with_extension(end));
        let text = format!(
            "foreground = yes\npid =\nsyslog = no\n[door]\naccept = 127.0.0.1:{port}\nconnect = {upstream}\n\
             cert = {}\nkey = {}\nCAfile = {}\nverifyChain = yes\n",
            certificate.display(),
            key.display(),
            trusted.display()
        );
        fs::write(&config, text).expect("the disk takes it");
        let said = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .expect("a log file");
        let mut command = Command::new("stunnel4");
        command
            .arg(config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(said)
            .process_group(0);
        let mut child = command.spawn().expect("stunnel4 is installed");
        eventually("the door is open", Duration::from_secs(20), || {
            let ended = child.try_wait().expect("it is our child").is_some();
            assert!(
                !ended,
                "stunnel4 ended:\n{}",
                fs::read_to_string(&log).unwrap_or_default()
            );
            TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        Self(child)
    }
}

impl Drop for TlsDoor {
    /// Closes it, with every connection through it.
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
