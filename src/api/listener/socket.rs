//! Door of this host: a unix socket for root, who needs no token there, for the kernel tells who
//! calls. What happens on the network never takes its places.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::Path;

use tokio::net::{UnixListener, UnixStream};

use super::Door;
use super::shut::SentAway;
use super::slots::{OF_SOCKET, SlotLimits};
use crate::api::caller::CallerPeer;

/// Error of a socket that cannot be listened on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SocketError {
    /// Another process listens on it.
    #[error("another agent answers there: give each agent a state.run_dir of its own")]
    Taken,
    /// Error of the system while the socket was made.
    #[error(transparent)]
    Make(#[from] io::Error),
}

/// A listening unix socket.
#[derive(Debug)]
pub(crate) struct SocketDoor {
    listener: UnixListener,
    own_uid: u32,
    sent_away: SentAway,
}

impl SocketDoor {
    /// Makes the socket at `path` anew, for this user alone.
    ///
    /// # Errors
    /// Another process listens on it, or it cannot be made.
    pub(crate) async fn open(path: &Path) -> Result<Self, SocketError> {
        if is_answered(path).await {
            return Err(SocketError::Taken);
        }
        Ok(Self {
            listener: make(path)?,
            own_uid: rustix::process::geteuid().as_raw(),
            sent_away: SentAway::default(),
        })
    }
}

/// Whether a process listens on the socket. One that was left behind refuses.
async fn is_answered(path: &Path) -> bool {
    match UnixStream::connect(path).await {
        Ok(_) => true,
        // More wait there than the kernel lets.
        Err(error) => error.kind() == io::ErrorKind::WouldBlock,
    }
}

/// Makes the socket beside its place, and puts it there when nobody else may open it.
fn make(path: &Path) -> io::Result<UnixListener> {
    if let Some(directory) = path.parent() {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)?;
    }
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
    type Stream = UnixStream;

    async fn accept(&self) -> io::Result<Option<(UnixStream, CallerPeer)>> {
        let (stream, _) = self.listener.accept().await?;
        let caller = stream.peer_cred()?;
        let peer = CallerPeer::Socket {
            uid: caller.uid(),
            pid: caller.pid(),
        };
        if caller.uid() != 0 && caller.uid() != self.own_uid {
            self.sent_away.note(peer, "the socket is for root alone");
            return Ok(None);
        }
        Ok(Some((stream, peer)))
    }

    fn places(&self) -> SlotLimits {
        OF_SOCKET
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
}
