//! Door of this host: a unix socket for root, who needs no token there, for the kernel tells who
//! calls. What happens on the network never takes its places.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};

use super::Door;
use super::pace::Pace;
use super::shut::SentAway;
use super::slots::{OF_SOCKET, SlotLimits};
use super::stream::PacedStream;
use crate::api::caller::{CallerPeer, ShownCertificate};
use crate::config::private;

/// Interval at which a socket is looked for where it was put.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Error of a socket that cannot be listened on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SocketError {
    /// Another process listens on it.
    #[error("another agent answers there: give each agent a state.run_dir of its own")]
    Taken,
    /// Others can put another socket in its place.
    #[error("{0}: chown root and chmod 700 it, or choose another state.run_dir")]
    Open(String),
    /// Error of the system while the socket was made.
    #[error(transparent)]
    Make(#[from] io::Error),
}

/// A listening unix socket.
#[derive(Debug)]
pub(crate) struct SocketDoor {
    listener: UnixListener,
    place: SocketPlace,
    sent_away: SentAway,
}

/// Path of a socket, and the file that was put there.
#[derive(Clone, Debug)]
struct SocketPlace {
    path: PathBuf,
    file: (u64, u64),
}

impl SocketPlace {
    fn of(path: &Path) -> io::Result<Self> {
        let data = fs::symlink_metadata(path)?;
        Ok(Self {
            path: path.to_owned(),
            file: (data.dev(), data.ino()),
        })
    }

    /// Waits until the file is not there any more: whatever cleans up directories takes it for old.
    async fn lost(self) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let now = Self::of(&self.path);
            let is_gone = match now {
                Ok(now) => now.file != self.file,
                // What cannot be looked at now may be there.
                Err(error) => error.kind() == io::ErrorKind::NotFound,
            };
            if is_gone {
                let path = self.path.display();
                return tracing::warn!(%path, "socket lost");
            }
        }
    }
}

impl SocketDoor {
    /// Makes the socket at `path` anew, for this user alone.
    ///
    /// # Errors
    /// Another agent listens on it, others could put one of their own there, or it cannot be made.
    pub(crate) async fn open(path: &Path) -> Result<Self, SocketError> {
        if let Some(directory) = path.parent() {
            make_directory(directory)?;
        }
        if is_answered(path).await {
            return Err(SocketError::Taken);
        }
        Ok(Self {
            listener: make(path)?,
            place: SocketPlace::of(path)?,
            sent_away: SentAway::default(),
        })
    }
}

/// Makes the directory of the socket, unless it is there, and is its owner's alone to change.
fn make_directory(directory: &Path) -> Result<(), SocketError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)?;
    let data = fs::metadata(directory)?;
    let (owner, mode) = (data.uid(), data.mode() & 0o7777);
    let path = directory.display();
    if !private::is_own(owner) {
        let fault = format!("{path} belongs to user {owner}, who can put another socket there");
        return Err(SocketError::Open(fault));
    }
    if mode & 0o022 != 0 {
        let fault = format!("others can put another socket into {path} (mode {mode:04o})");
        return Err(SocketError::Open(fault));
    }
    Ok(())
}

/// Whether an agent listens on the socket. One that was left behind refuses, and another user's is
/// none of an agent.
async fn is_answered(path: &Path) -> bool {
    match UnixStream::connect(path).await {
        Ok(stream) => stream
            .peer_cred()
            .is_ok_and(|peer| private::is_own(peer.uid())),
        // More wait there than the kernel lets.
        Err(error) => error.kind() == io::ErrorKind::WouldBlock,
    }
}

/// Makes the socket beside its place, and puts it there when nobody else may open it.
fn make(path: &Path) -> io::Result<UnixListener> {
    let new = path.with_extension("new");
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(&new)?;
    fs::set_permissions(&new, Permissions::from_mode(0o600))?;
    fs::rename(&new, path)?;
    Ok(listener)
}

impl Door for SocketDoor {
    type Arrived = UnixStream;
    type Stream = PacedStream<UnixStream>;

    async fn accept(&self) -> io::Result<Option<(UnixStream, CallerPeer)>> {
        let (stream, _) = self.listener.accept().await?;
        let caller = stream.peer_cred()?;
        let peer = CallerPeer::Socket {
            uid: caller.uid(),
            pid: caller.pid(),
        };
        if !private::is_own(caller.uid()) {
            self.sent_away.note(peer, "the socket is for root alone");
            return Ok(None);
        }
        Ok(Some((stream, peer)))
    }

    async fn welcome(
        arrived: UnixStream,
        pace: Arc<Pace>,
    ) -> io::Result<(Self::Stream, ShownCertificate)> {
        let stream = PacedStream::new(arrived, pace);
        Ok((stream, ShownCertificate::default()))
    }

    fn places(&self) -> SlotLimits {
        OF_SOCKET
    }

    fn lost(&self) -> impl Future<Output = ()> + Send + 'static {
        self.place.clone().lost()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileTypeExt as _;

    use super::*;

    #[tokio::test]
    async fn the_socket_is_for_its_owner_alone_and_takes_the_place_of_what_was_left_there() {
        let directory = tempfile::tempdir().unwrap();
        let run_dir = directory.path().join("run");
        let path = run_dir.join("agent.sock");
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        drop(SocketDoor::open(&path).await.unwrap());
        assert_eq!((mode(&path), mode(&run_dir)), (0o600, 0o700));
        // Its owner is gone, and so is one that had not got further.
        drop(std::os::unix::net::UnixListener::bind(path.with_extension("new")).unwrap());
        let door = SocketDoor::open(&path).await.unwrap();
        let (called, caller) = tokio::join!(UnixStream::connect(&path), door.accept());
        called.unwrap();
        let (_, peer) = caller.unwrap().unwrap();
        let (uid, pid) = (rustix::process::geteuid().as_raw(), std::process::id());
        assert_eq!(
            peer,
            CallerPeer::Socket {
                uid,
                pid: i32::try_from(pid).ok()
            }
        );
        drop(door);
        fs::remove_file(&path).unwrap();
        fs::write(&path, "no socket").unwrap();
        let _door = SocketDoor::open(&path).await.unwrap();
        assert!(fs::metadata(&path).unwrap().file_type().is_socket());
        assert_eq!(fs::read_dir(&run_dir).unwrap().count(), 1);
    }

    #[tokio::test]
    async fn a_socket_that_is_answered_is_left_to_whoever_answers() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agent.sock");
        let first = SocketDoor::open(&path).await.unwrap();
        let refused = SocketDoor::open(&path).await.unwrap_err();
        assert!(refused.to_string().contains("state.run_dir"), "{refused}");
        let (called, caller) = tokio::join!(UnixStream::connect(&path), first.accept());
        assert!(called.is_ok() && caller.unwrap().is_some());
        let long = directory.path().join("x".repeat(100)).join("agent.sock");
        let refused = SocketDoor::open(&long).await.unwrap_err();
        assert!(matches!(refused, SocketError::Make(_)), "{refused}");
    }

    #[tokio::test]
    async fn where_others_could_put_a_socket_the_agent_puts_none() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agent.sock");
        for (mode, is_fine) in [
            (0o700, true),
            (0o755, true),
            (0o775, false),
            (0o1777, false),
        ] {
            fs::set_permissions(directory.path(), Permissions::from_mode(mode)).unwrap();
            let opened = SocketDoor::open(&path).await;
            match opened {
                Ok(_) => assert!(is_fine, "{mode:o}"),
                Err(error) => assert!(
                    !is_fine && error.to_string().contains("chmod 700"),
                    "{mode:o}: {error}"
                ),
            }
        }
        fs::set_permissions(directory.path(), Permissions::from_mode(0o700)).unwrap();
        // Only root can give a directory away.
        if std::os::unix::fs::chown(directory.path(), Some(65534), None).is_ok() {
            let refused = SocketDoor::open(&path).await.unwrap_err();
            assert!(refused.to_string().contains("user 65534"), "{refused}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_socket_is_missed_where_it_was_put_and_not_while_it_is_there() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agent.sock");
        let is_lost = async |door: &SocketDoor| {
            let within = 3 * LOOK_EVERY;
            tokio::time::timeout(within, door.lost()).await.is_ok()
        };
        let door = SocketDoor::open(&path).await.unwrap();
        assert!(!is_lost(&door).await);
        fs::remove_file(&path).unwrap();
        assert!(is_lost(&door).await);
        // Another file in its place is none of this door's.
        let _next = SocketDoor::open(&path).await.unwrap();
        assert!(is_lost(&door).await);
    }
}
