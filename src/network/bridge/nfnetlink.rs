//! Messages of the kernel's netfilter over netlink (`linux/netfilter/nfnetlink.h`): a socket,
//! requests, and the attributes of the answers. What they mean is the asking rooms' matter.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::sockopt::{Timeout, set_socket_recv_buffer_size_force, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv, sendto, socket_with,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Longest wait for the kernel's answer. The kernel answers from RAM; a table of a million flows
/// takes half a second.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);

/// Buffer for one answer: the kernel sends at most 32 KiB at once.
const REPLY_BYTES_MAX: usize = 64 << 10;

/// Bytes of events that the kernel keeps while the agent is busy; a host's whole rules are some
/// hundred kilobytes.
const EVENT_BYTES_KEPT: usize = 1 << 20;

const NLM_F_REQUEST: u16 = 0x1;
/// Asks for an answer to a change.
pub(super) const NLM_F_ACK: u16 = 0x4;
/// Asks for everything of a kind.
pub(super) const NLM_F_DUMP: u16 = 0x300;
/// Mark of an answer during which the thing changed, so that parts may be missing.
const NLM_F_DUMP_INTR: u16 = 0x10;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// Mark of an attribute that is made of attributes.
pub(super) const NLA_F_NESTED: u16 = 0x8000;
const NLA_TYPE_MASK: u16 = 0x3fff;

/// Every protocol family.
pub(super) const AF_UNSPEC: u8 = 0;
/// IPv4.
pub(super) const AF_INET: u8 = 2;
/// IPv6.
pub(super) const AF_INET6: u8 = 10;

/// Socket to the netfilter of one netns: the one its thread was in when it was opened.
#[derive(Debug)]
pub(super) struct NetfilterSocket(OwnedFd);

/// Message of an answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct NetfilterMessage<'a> {
    /// Protocol family of the thing.
    pub(super) family: u8,
    pub(super) attributes: NetlinkAttributes<'a>,
}

impl<'a> NetfilterMessage<'a> {
    fn read(body: &'a [u8]) -> Self {
        Self {
            family: body.first().copied().unwrap_or(AF_UNSPEC),
            attributes: NetlinkAttributes(body.get(4..).unwrap_or_default()),
        }
    }
}

impl NetfilterSocket {
    pub(super) fn open() -> io::Result<Self> {
        let socket = socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            Some(netlink::NETFILTER),
        )?;
        bind(&socket, &SocketAddrNetlink::new(0, 0))?;
        set_socket_timeout(&socket, Timeout::Recv, Some(ANSWER_TIMEOUT))?;
        Ok(Self(socket))
    }

    /// Sends one request: the netlink header (16 bytes), nfnetlink's (4), and attributes. Hands
    /// each message of the answer to `each`, until the answer ends.
    ///
    /// # Errors
    /// The kernel's refusal; [`io::ErrorKind::Interrupted`] if what was asked for changed meanwhile.
    pub(super) fn ask(
        &self,
        kind: u16,
        flags: u16,
        family: u8,
        attributes: &[u8],
        each: impl FnMut(NetfilterMessage<'_>),
    ) -> io::Result<()> {
        let length = u32::try_from(20 + attributes.len()).expect("a request is some hundred bytes");
        let mut message = Vec::with_capacity(20 + attributes.len());
        message.extend(length.to_ne_bytes());
        message.extend(kind.to_ne_bytes());
        message.extend((NLM_F_REQUEST | flags).to_ne_bytes());
        message.extend([0; 8]);
        message.extend([family, 0, 0, 0]);
        message.extend(attributes);
        let kernel = SocketAddrNetlink::new(0, 0);
        sendto(&self.0, &message, SendFlags::empty(), &kernel)?;
        self.receive(each)
    }

    fn receive(&self, mut each: impl FnMut(NetfilterMessage<'_>)) -> io::Result<()> {
        let mut buffer = vec![0; REPLY_BYTES_MAX];
        let mut whole = true;
        loop {
            let (_, length) = recv(&self.0, buffer.as_mut_slice(), RecvFlags::empty())?;
            let mut rest = &buffer[..length];
            while let Some((kind, flags, body)) = next_message(&mut rest) {
                whole &= flags & NLM_F_DUMP_INTR == 0;
                match kind {
                    NLMSG_DONE if whole => return Ok(()),
                    NLMSG_DONE => return Err(io::ErrorKind::Interrupted.into()),
                    NLMSG_ERROR => return refusal(body),
                    _ => each(NetfilterMessage::read(body)),
                }
            }
        }
    }
}

/// Messages that the kernel sends of itself, as things change in one netns.
#[derive(Debug)]
pub(super) struct NetfilterEvents(AsyncFd<OwnedFd>);

impl NetfilterEvents {
    /// Listens to these groups (bits) in the calling thread's netns.
    #[expect(
        deprecated,
        reason = "the other form is `unsafe`, for descriptors that others close; this one is owned"
    )]
    pub(super) fn open(groups: u32) -> io::Result<Self> {
        let socket = socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            Some(netlink::NETFILTER),
        )?;
        // As much as is allowed without it: what is lost is compared all the same.
        if let Err(error) = set_socket_recv_buffer_size_force(&socket, EVENT_BYTES_KEPT) {
            tracing::debug!(%error, "buffer for events of nftables not enlarged");
        }
        bind(&socket, &SocketAddrNetlink::new(0, groups))?;
        Ok(Self(AsyncFd::with_interest(socket, Interest::READABLE)?))
    }

    /// Waits for the next messages, and hands `each` its kind and itself. Answers `false` if some
    /// were lost: the kernel keeps only so many.
    pub(super) async fn next(
        &self,
        mut each: impl FnMut(u16, NetfilterMessage<'_>),
    ) -> io::Result<bool> {
        let mut buffer = vec![0; REPLY_BYTES_MAX];
        let receive =
            |socket: &OwnedFd| Ok(recv(socket, buffer.as_mut_slice(), RecvFlags::empty())?);
        let length = match self.0.async_io(Interest::READABLE, receive).await {
            Ok((_, length)) => length,
            Err(error) if error.raw_os_error() == Some(Errno::NOBUFS.raw_os_error()) => {
                return Ok(false);
            }
            Err(error) => return Err(error),
        };
        let mut rest = &buffer[..length];
        while let Some((kind, _, body)) = next_message(&mut rest) {
            each(kind, NetfilterMessage::read(body));
        }
        Ok(true)
    }
}

/// Result that an error message carries; the code 0 is none.
fn refusal(body: &[u8]) -> io::Result<()> {
    let code = body.get(..4).and_then(|code| code.try_into().ok());
    match code.map_or(0, i32::from_ne_bytes) {
        0 => Ok(()),
        code => Err(io::Error::from_raw_os_error(-code)),
    }
}

/// Kind, flags and body of the next netlink message.
fn next_message<'a>(rest: &mut &'a [u8]) -> Option<(u16, u16, &'a [u8])> {
    let length = usize::try_from(u32::from_ne_bytes(rest.get(..4)?.try_into().ok()?)).ok()?;
    let kind = u16::from_ne_bytes(rest.get(4..6)?.try_into().ok()?);
    let flags = u16::from_ne_bytes(rest.get(6..8)?.try_into().ok()?);
    let body = rest.get(16..length)?;
    *rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    Some((kind, flags, body))
}

/// Appends a netlink attribute: length, kind, payload, and zeros up to a multiple of four.
pub(super) fn put(message: &mut Vec<u8>, kind: u16, payload: &[u8]) {
    let length = u16::try_from(payload.len() + 4).expect("attributes are some ten bytes");
    message.extend(length.to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(payload);
    message.resize(message.len().next_multiple_of(4), 0);
}

/// Iterator over netlink attributes; ends at the first malformed one.
#[derive(Clone, Copy, Debug)]
pub(super) struct NetlinkAttributes<'a>(pub(super) &'a [u8]);

impl<'a> NetlinkAttributes<'a> {
    /// Payload of the first attribute of this kind.
    pub(super) fn get(mut self, kind: u16) -> Option<&'a [u8]> {
        self.find(|(found, _)| *found == kind)
            .map(|(_, payload)| payload)
    }

    /// Attributes that the first attribute of this kind is made of; none if there is none.
    pub(super) fn nested(self, kind: u16) -> Self {
        Self(self.get(kind).unwrap_or_default())
    }

    /// Number of four bytes in network order.
    pub(super) fn number(self, kind: u16) -> Option<u32> {
        Some(u32::from_be_bytes(self.get(kind)?.try_into().ok()?))
    }

    /// Text that ends with a zero, or with the attribute.
    pub(super) fn text(self, kind: u16) -> Option<String> {
        self.get(kind).map(text)
    }
}

/// Text up to the first zero.
pub(super) fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0);
    String::from_utf8_lossy(&bytes[..end.unwrap_or(bytes.len())]).into_owned()
}

impl<'a> Iterator for NetlinkAttributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let length = usize::from(u16::from_ne_bytes(self.0.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(self.0.get(2..4)?.try_into().ok()?) & NLA_TYPE_MASK;
        let payload = self.0.get(4..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, payload))
    }
}
