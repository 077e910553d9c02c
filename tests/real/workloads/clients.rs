//! Clients that note what they were told was committed, by number, while what they talk to is updated, cut and booted again.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::harness::finish;
use crate::harness::scratch::lock;
use crate::harness::systemd::Systemd;
use crate::stand::SOON;

pub(super) const REDIS_PORT: u16 = 6379;
pub(super) const NGINX_PORT: u16 = 8080;

/// A transaction of pgbench's own kind, which also leaves its number; the number is noted when its commit has been answered.
const NOTED: &str = "
\\set number :number + 1
\\set account random(1, 100000)
\\set delta random(-5000, 5000)
BEGIN;
UPDATE pgbench_accounts SET abalance = abalance + :delta WHERE aid = :account;
UPDATE pgbench_tellers SET tbalance = tbalance + :delta WHERE tid = :client_id + 1;
UPDATE pgbench_branches SET bbalance = bbalance + :delta WHERE bid = 1;
INSERT INTO pgbench_history (tid, bid, aid, delta, mtime) VALUES (:client_id + 1, 1, :account, :delta, now());
INSERT INTO noted VALUES (:run, :client_id, :number);
END;
\\shell echo :run :client_id :number >>/noted
";

/// The clients of PostgreSQL, in a root of their own on this computer.
pub(super) struct Postgres {
    root: PathBuf,
}

/// What runs in the background until it is told to stop.
pub(super) struct Load {
    stop: Arc<AtomicBool>,
    worker: Option<JoinHandle<()>>,
}

impl Load {
    fn start(mut turn: impl FnMut() + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let worker = thread::spawn(move || {
            while !told.load(Ordering::SeqCst) {
                turn();
                thread::sleep(Duration::from_millis(50));
            }
        });
        Self {
            stop,
            worker: Some(worker),
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(worker) = self.worker.take() {
            let _ = worker.join();
        }
    }
}

impl Postgres {
    pub(super) fn new(root: &Path) -> Self {
        super::images::clients(root);
        fs::write(root.join("noted.sql"), NOTED).unwrap();
        let root = root.to_owned();
        Self { root }
    }

    /// The password is in a file that only the clients read: no argument and no variable holds it.
    pub(super) fn set_password(&self, password: &str) {
        let file = self.root.join("pgpass");
        fs::write(&file, format!("*:*:*:*:{password}\n")).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    }

    fn command(&self, systemd: &Systemd, program: &str) -> Command {
        let mut command = systemd.command_in_network("chroot");
        command
            .arg(&self.root)
            .args([
                "env",
                "-i",
                "PATH=/usr/local/bin:/bin",
                "PGPASSFILE=/pgpass",
            ])
            .args(["PGCONNECT_TIMEOUT=5", "PGUSER=postgres", "PGHOST=127.0.0.1"])
            .arg(program);
        command
    }

    /// Answers to SQL, without a frame.
    pub(super) fn sql(&self, systemd: &Systemd, sql: &str) -> Result<String, String> {
        let mut command = self.command(systemd, "psql");
        let answer = finish(command.args(["-XAtqc", sql]))?;
        Ok(answer.trim_end().to_owned())
    }

    /// Fills its tables.
    pub(super) fn fill(&self, systemd: &Systemd) {
        let mut command = self.command(systemd, "pgbench");
        finish(command.args(["-i", "-q", "-s", "1"])).unwrap();
        self.sql(
            systemd,
            "CREATE TABLE noted (run int, client int, number int)",
        )
        .unwrap();
    }

    /// pgbench, and again whenever it ends: its connections break when the database does. `run` tells the runs apart.
    pub(super) fn load(&self, systemd: &Systemd, run: u32) -> Load {
        let mut run = run * 1000;
        let processes = self.command(systemd, "pgbench");
        let words: Vec<_> = processes.get_args().map(ToOwned::to_owned).collect();
        let program = processes.get_program().to_owned();
        Load::start(move || {
            run += 1;
            // What is cut off hears nothing any more.
            let _it_may_fail = Command::new("timeout")
                .args(["--signal=KILL", "6"])
                .arg(&program)
                .args(&words)
                .args(["-n", "-c", "4", "-j", "2", "-T", "3", "-f", "/noted.sql"])
                .args(["-D", &format!("run={run}"), "-D", "number=0"])
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status();
        })
    }

    /// How many bytes of transactions are noted.
    pub(super) fn mark(&self) -> u64 {
        fs::metadata(self.root.join("noted")).map_or(0, |noted| noted.len())
    }

    /// Forgets the transactions that were noted after this mark; their database is gone by now.
    pub(super) fn forget_since(&self, mark: u64) {
        // A client that has its answer may still be about to note it.
        thread::sleep(Duration::from_millis(300));
        if let Ok(noted) = fs::File::options()
            .write(true)
            .open(self.root.join("noted"))
        {
            noted.set_len(mark).unwrap();
        }
    }

    /// Transactions whose commit was answered.
    pub(super) fn noted(&self) -> BTreeSet<String> {
        let noted = fs::read_to_string(self.root.join("noted")).unwrap_or_default();
        noted.lines().map(|line| line.replace(' ', "|")).collect()
    }

    /// Proves that each noted transaction is there, whole; how many were noted.
    pub(super) fn assert_nothing_lost(&self, systemd: &Systemd) -> usize {
        let noted = self.noted();
        let rows = self
            .sql(systemd, "SELECT run, client, number FROM noted")
            .unwrap();
        let rows: BTreeSet<_> = rows.lines().map(str::to_owned).collect();
        let lost: Vec<_> = noted.difference(&rows).collect();
        assert!(
            lost.is_empty(),
            "{} of {}: {lost:?}",
            lost.len(),
            noted.len()
        );
        let sums = "SELECT (SELECT sum(abalance) FROM pgbench_accounts) = (SELECT sum(delta) FROM pgbench_history) \
            AND (SELECT sum(bbalance) FROM pgbench_branches) = (SELECT sum(delta) FROM pgbench_history) \
            AND (SELECT sum(tbalance) FROM pgbench_tellers) = (SELECT sum(delta) FROM pgbench_history) \
            AND (SELECT count(*) FROM pgbench_history) = (SELECT count(*) FROM noted)";
        assert_eq!(self.sql(systemd, sums).unwrap(), "t", "each is there whole");
        noted.len()
    }
}

/// A connection to Redis that has said its password.
pub(super) struct Redis(BufReader<TcpStream>);

impl Redis {
    pub(super) fn connect(stream: TcpStream, password: &str) -> io::Result<Self> {
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        let mut redis = Self(BufReader::new(stream));
        match redis.ask(&["AUTH", password])?.as_str() {
            "+OK" => Ok(redis),
            other => Err(io::Error::other(other.to_owned())),
        }
    }

    /// The first line of its answer.
    pub(super) fn ask(&mut self, words: &[&str]) -> io::Result<String> {
        let mut request = format!("*{}\r\n", words.len());
        for word in words {
            request += &format!("${}\r\n{word}\r\n", word.len());
        }
        self.0.get_mut().write_all(request.as_bytes())?;
        self.line()
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        if self.0.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(line.trim_end().to_owned())
    }

    /// All members of a set.
    pub(super) fn members(&mut self, key: &str) -> io::Result<BTreeSet<u64>> {
        let count = self.ask(&["SMEMBERS", key])?;
        let count: usize = count.trim_start_matches('*').parse().expect("an array");
        let mut members = BTreeSet::new();
        for _ in 0..count {
            self.line()?;
            members.insert(self.line()?.parse().expect("a number"));
        }
        Ok(members)
    }
}

/// Numbers that Redis said it has.
#[derive(Clone, Default)]
pub(super) struct Numbers(Arc<Mutex<BTreeSet<u64>>>);

impl Numbers {
    /// Writes one number after the other, and connects again whenever the connection breaks.
    pub(super) fn load(&self, systemd: &Systemd, password: &'static str) -> Load {
        let (noted, dial) = (self.clone(), systemd.dial(REDIS_PORT));
        let mut number = noted.count() as u64 * 1_000;
        Load::start(move || {
            let mut connected = dial().and_then(|stream| Redis::connect(stream, password));
            for _ in 0..200 {
                let Ok(redis) = &mut connected else { return };
                number += 1;
                match redis.ask(&["SADD", "noted", &number.to_string()]) {
                    Ok(answer) if answer == ":1" => _ = lock(&noted.0).insert(number),
                    _ => return,
                }
            }
        })
    }

    pub(super) fn count(&self) -> usize {
        lock(&self.0).len()
    }

    /// The numbers that are noted.
    pub(super) fn mark(&self) -> BTreeSet<u64> {
        lock(&self.0).clone()
    }

    /// Forgets the numbers that were noted after this mark.
    pub(super) fn forget_since(&self, mark: BTreeSet<u64>) {
        *lock(&self.0) = mark;
    }

    /// Proves that each noted number is there; how many were noted.
    pub(super) fn assert_nothing_lost(&self, systemd: &Systemd, password: &str) -> usize {
        let stream = systemd.connect(REDIS_PORT).unwrap();
        let there = Redis::connect(stream, password)
            .unwrap()
            .members("noted")
            .unwrap();
        let noted = lock(&self.0);
        let lost: Vec<_> = noted.difference(&there).collect();
        assert!(
            lost.is_empty(),
            "{} of {}: {lost:?}",
            lost.len(),
            noted.len()
        );
        noted.len()
    }
}

/// What nginx answers to who has this user and password: the status, and all of the answer.
pub(super) fn page(systemd: &Systemd, basic: Option<&str>) -> io::Result<(u16, String)> {
    use base64::Engine as _;
    let mut stream = systemd.connect(NGINX_PORT)?;
    stream.set_read_timeout(Some(SOON))?;
    let line = basic.map_or_else(String::new, |basic| {
        let encoded = base64::engine::general_purpose::STANDARD.encode(basic);
        format!("Authorization: Basic {encoded}\r\n")
    });
    write!(stream, "GET / HTTP/1.0\r\n{line}\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let status = answer.split(' ').nth(1).and_then(|word| word.parse().ok());
    Ok((status.unwrap_or_default(), answer))
}
