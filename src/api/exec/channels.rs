//! Messages of a watched program, as Kubernetes' clients speak them (`v4.channel.k8s.io` and
//! `v5.channel.k8s.io`): the first byte of each is its channel.

use axum::body::Bytes;
use serde_json::{Value, json};

use crate::exec::{ExecEnd, ExecInput, ExecOutput};

/// Versions that are spoken, the better first.
pub(super) const VERSIONS: [&str; 2] = ["v5.channel.k8s.io", "v4.channel.k8s.io"];

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const STATUS: u8 = 3;
const RESIZE: u8 = 4;
/// Of version 5 alone: the channel that the second byte names is closed.
const CLOSE: u8 = 255;

/// Bytes of a terminal's size in JSON; longer ones are none.
const SIZE_BYTES_MAX: usize = 1024;
/// Exit code of a program that was killed, for clients that know nothing but codes.
const KILLED: u32 = 137;

/// Message of a client. `None`: it means nothing.
pub(super) fn read(message: &Bytes, has_close: bool) -> Option<ExecInput> {
    match *message.first()? {
        STDIN if message.len() > 1 => Some(ExecInput::Bytes(message.slice(1..))),
        RESIZE => size(&message[1..]),
        CLOSE if has_close && message[1..] == [STDIN] => Some(ExecInput::End),
        _ => None,
    }
}

/// Size of a terminal. Go writes its members in capitals, others as they like.
fn size(text: &[u8]) -> Option<ExecInput> {
    if text.len() > SIZE_BYTES_MAX {
        return None;
    }
    let size: Value = serde_json::from_slice(text).ok()?;
    let members = size.as_object()?;
    let member = |name: &str| {
        let found = members
            .iter()
            .find(|(key, _)| key.eq_ignore_ascii_case(name));
        found?.1.as_u64()?.try_into().ok()
    };
    Some(ExecInput::Size {
        width: member("width")?,
        height: member("height")?,
    })
}

/// Message with a piece of what a program printed.
pub(super) fn printed(piece: &ExecOutput) -> Bytes {
    let (channel, bytes) = match piece {
        ExecOutput::Stdout(bytes) => (STDOUT, bytes),
        ExecOutput::Stderr(bytes) => (STDERR, bytes),
    };
    [&[channel], bytes.as_ref()].concat().into()
}

/// Last message: how the program ended.
pub(super) fn status(end: &ExecEnd) -> Bytes {
    let failure = |reason: &str, code: u32| {
        // Clients in Python look for the first cause, whatever the reason.
        let causes = json!([{"reason": "ExitCode", "message": code.to_string()}]);
        json!({"metadata": {}, "status": "Failure", "message": end.to_string(), "reason": reason,
            "details": {"causes": causes}})
    };
    let status = match end {
        ExecEnd::Exited(0) => json!({"metadata": {}, "status": "Success"}),
        ExecEnd::Exited(code) => failure("NonZeroExitCode", *code),
        ExecEnd::ContainerEnded => failure("ContainerEnded", KILLED),
        ExecEnd::Cut => failure("ExecCut", KILLED),
        ExecEnd::AgentStopped => failure("AgentStopped", KILLED),
        ExecEnd::Lost(_) => failure("ExecLost", KILLED),
    };
    [&[STATUS], status.to_string().as_bytes()].concat().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_of(message: &[u8], has_close: bool) -> Option<ExecInput> {
        read(&Bytes::copy_from_slice(message), has_close)
    }

    #[test]
    fn a_client_s_messages_are_read_and_those_that_mean_nothing_are_none() {
        let input = |bytes: &'static [u8]| Some(ExecInput::Bytes(bytes.into()));
        let size = |width, height| Some(ExecInput::Size { width, height });
        for (message, expected) in [
            (&b"\x00ls\n"[..], input(b"ls\n")),
            (b"\x00\x00", input(b"\0")),
            (b"\x00", None),
            (b"", None),
            (b"\x01out", None),
            (b"\x04{\"Width\":80,\"Height\":24}", size(80, 24)),
            (b"\x04{\"height\":1,\"width\":2}", size(2, 1)),
            (b"\x04{\"Width\":80}", None),
            (b"\x04{\"Width\":70000,\"Height\":-1}", None),
            (b"\x04no json", None),
            (b"\xff\x00", Some(ExecInput::End)),
            (b"\xff\x01", None),
            (b"\xff", None),
            (b"\xff\x00\x00", None),
        ] {
            assert_eq!(read_of(message, true), expected, "{message:?}");
        }
        assert_eq!(read_of(b"\xff\x00", false), None, "version 4 has none");
        let long = [b"\x04{\"Width\":80,\"Height\":24}", &[b' '; 2000][..]].concat();
        assert_eq!(read_of(&long, true), None);
    }

    #[test]
    fn output_and_end_are_written_as_clients_read_them() {
        let out = ExecOutput::Stdout(Bytes::from_static(b"a"));
        let err = ExecOutput::Stderr(Bytes::from_static(b"b"));
        assert_eq!(
            (&printed(&out)[..], &printed(&err)[..]),
            (&b"\x01a"[..], &b"\x02b"[..])
        );
        let told = |end: ExecEnd| {
            let message = status(&end);
            assert_eq!(message[0], 3);
            serde_json::from_slice::<Value>(&message[1..]).unwrap()
        };
        assert_eq!(
            told(ExecEnd::Exited(0)),
            json!({"metadata": {}, "status": "Success"})
        );
        let failed = told(ExecEnd::Exited(3));
        assert_eq!(failed["reason"], "NonZeroExitCode");
        assert_eq!(
            failed["details"],
            json!({"causes": [{"reason": "ExitCode", "message": "3"}]})
        );
        for end in [
            ExecEnd::ContainerEnded,
            ExecEnd::Cut,
            ExecEnd::AgentStopped,
            ExecEnd::Lost("no shim".to_owned()),
        ] {
            let told = told(end);
            assert_eq!(told["status"], "Failure", "{told}");
            assert_ne!(told["reason"], "NonZeroExitCode", "{told}");
            assert_eq!(told["details"]["causes"][0]["message"], "137", "{told}");
        }
    }
}
