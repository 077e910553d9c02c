//! Belt under the table: a filter in the kernel's traffic control, on all that comes out of a
//! container, which no flush of the host's rules takes away. It also keeps a container from sending
//! as another: at its own link its addresses are known, and a few instructions for each frame cost
//! less than rules of a bridge table, or addresses that the bridge must not learn.
//!
//! The bridge routes packets for 127.0.0.0/8 (`route_localnet`), for published ports. Without the
//! table's guard a container would reach what listens on the host's loopback alone.
//!
//! It is at the bridge's ports and not at the bridge: with `br_netfilter`, answers to callers on
//! 127.0.0.1 have that address again when they come out of the bridge.

use std::sync::Mutex;
use std::time::Duration;

use futures_util::{StreamExt as _, TryStreamExt as _};
use rtnetlink::packet_core::{
    DefaultNla, NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage,
    NetlinkPayload,
};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::tc::{
    TcAttribute, TcBpfFlags, TcFilterBpfOption, TcHandle, TcMessage, TcOption,
};
use rustix::io::Errno;
use tokio::time::Instant;

use self::program::{FrameSource, Instruction, program};
use super::{Netlink, errno};
use crate::lock::lock;

pub(in crate::network::bridge) mod program;

/// Queueing discipline that holds filters and nothing else, at its fixed place (`linux/pkt_sched.h`).
const CLSACT: &str = "clsact";
const CLSACT_PARENT: TcHandle = TcHandle {
    major: 0xffff,
    minor: 0xfff1,
};
const CLSACT_HANDLE: TcHandle = TcHandle {
    major: 0xffff,
    minor: 0,
};
/// Place of filters of what comes in.
const INGRESS: TcHandle = TcHandle {
    major: 0xffff,
    minor: TcHandle::MIN_INGRESS,
};

const BPF: &str = "bpf";
/// Attributes of a filter (`linux/pkt_cls.h`): the number of instructions, its program.
const TCA_BPF_OPS_LEN: u16 = 4;
const TCA_BPF_OPS: u16 = 5;
/// First filter of all, for every protocol (`ETH_P_ALL`, in network order).
const INFO: u32 = 1 << 16 | 0x0300;
/// The agent's own filter among those of this priority, others' being beside it: "chas".
const FILTER: TcHandle = TcHandle {
    major: 0x6368,
    minor: 0x6173,
};

/// Time at which the kernel was found to have no such filters.
static HAD_NONE: Mutex<Option<Instant>> = Mutex::new(None);
/// Time for which that is believed: each look runs `modprobe`, and a person may have loaded them.
const BELIEVED_FOR: Duration = Duration::from_secs(20);

/// State of the belt at a port of the bridge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::network::bridge) enum BeltState {
    /// Belt that is there; or the port is gone.
    Right,
    /// Belt that was put there now.
    Put,
    /// Belt that cannot be there; the table's guard holds alone.
    Missing(
        /// The reason, for a person.
        String,
    ),
}

impl Netlink {
    /// Puts the belt on a port of the bridge if it is not there. Filters of other programs stay.
    pub(in crate::network::bridge) async fn ensure_belt(
        &self,
        port: u32,
        source: Option<FrameSource>,
    ) -> BeltState {
        let Ok(port) = i32::try_from(port) else {
            return BeltState::Right;
        };
        let had_none = lock(&HAD_NONE).is_some_and(|at| at.elapsed() < BELIEVED_FOR);
        let result = if had_none {
            Err(Errno::NOENT)
        } else {
            let put = self.put_belt(port, source).await;
            put.map_err(|error| errno(&error).unwrap_or(Errno::IO))
        };
        match result {
            Ok(true) => BeltState::Put,
            Ok(false) | Err(Errno::NODEV) => BeltState::Right,
            Err(Errno::NOENT | Errno::OPNOTSUPP) => {
                if !had_none {
                    *lock(&HAD_NONE) = Some(Instant::now());
                }
                let reason = "the kernel has no such filters (sch_ingress, cls_bpf)";
                BeltState::Missing(reason.to_owned())
            }
            Err(Errno::INVAL | Errno::EXIST) => {
                let reason = "another program's filter has the first place at a link of the bridge";
                BeltState::Missing(reason.to_owned())
            }
            Err(error) => BeltState::Missing(format!("the kernel refuses it: {error}")),
        }
    }

    async fn put_belt(
        &self,
        port: i32,
        source: Option<FrameSource>,
    ) -> Result<bool, rtnetlink::Error> {
        let filter = filter(port, source);
        let mut place = TcMessage::with_index(port);
        (place.header.parent, place.header.handle) = (CLSACT_PARENT, CLSACT_HANDLE);
        place.attributes.push(TcAttribute::Kind(CLSACT.to_owned()));
        // Which costs less than the attempt to make the place that is there.
        if self.has_belt(port, &filter).await.unwrap_or(false) {
            return Ok(false);
        }
        let place = RouteNetlinkMessage::NewQueueDiscipline(place);
        match self.change(place, NLM_F_CREATE | NLM_F_EXCL).await {
            // The agent's own, or another program's.
            Err(error) if errno(&error) == Some(Errno::EXIST) => {}
            made => made?,
        }
        // It replaces the agent's own at most: nobody else's has this handle.
        let filter = RouteNetlinkMessage::NewTrafficFilter(filter);
        self.change(filter, NLM_F_CREATE | NLM_F_REPLACE).await?;
        Ok(true)
    }

    async fn has_belt(&self, port: i32, wanted: &TcMessage) -> Result<bool, rtnetlink::Error> {
        let mut asked = self.0.traffic_filter(port).get();
        asked = asked.ingress();
        let found: Vec<TcMessage> = asked.execute().try_collect().await?;
        Ok(found.iter().any(|found| is_same(found, wanted)))
    }

    async fn change(
        &self,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<(), rtnetlink::Error> {
        let mut request = NetlinkMessage::from(message);
        request.header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
        let mut answers = self.0.clone().request(request)?;
        while let Some(answer) = answers.next().await {
            if let NetlinkPayload::Error(error) = answer.payload
                && error.code.is_some()
            {
                return Err(rtnetlink::Error::NetlinkError(error));
            }
        }
        Ok(())
    }
}

fn filter(port: i32, source: Option<FrameSource>) -> TcMessage {
    let program = program(source);
    let mut message = TcMessage::with_index(port);
    (message.header.parent, message.header.handle) = (INGRESS, FILTER);
    message.header.info = INFO;
    let count = u16::try_from(program.len()).expect("a few");
    let options = vec![
        option((TCA_BPF_OPS_LEN, count.to_ne_bytes().to_vec())),
        option((TCA_BPF_OPS, bytes(&program))),
        act_direct(),
    ];
    message.attributes = vec![
        TcAttribute::Kind(BPF.to_owned()),
        TcAttribute::Options(options),
    ];
    message
}

fn option((kind, value): (u16, Vec<u8>)) -> TcOption {
    TcOption::Bpf(TcFilterBpfOption::Other(DefaultNla::new(kind, value)))
}

/// The program's result is what becomes of the packet.
const fn act_direct() -> TcOption {
    TcOption::Bpf(TcFilterBpfOption::Flags(TcBpfFlags::DirectAction))
}

/// The program's bytes, as the kernel takes and shows them.
fn bytes(program: &[Instruction]) -> Vec<u8> {
    let bytes = program.iter().flat_map(|&(code, yes, no, value)| {
        let [a, b] = code.to_ne_bytes();
        let [c, d, e, f] = value.to_ne_bytes();
        [a, b, yes, no, c, d, e, f]
    });
    bytes.collect()
}

/// Whether a filter, as the kernel shows it, has the place and does the same as a wanted one; the
/// kernel shows more of it.
fn is_same(found: &TcMessage, wanted: &TcMessage) -> bool {
    let [shown, asked] = [found, wanted].map(|filter| {
        filter.attributes.iter().find_map(|attribute| {
            let TcAttribute::Options(options) = attribute else {
                return None;
            };
            Some(options)
        })
    });
    let does_the_same = shown.zip(asked).is_some_and(|(shown, asked)| {
        let mut asked = asked.iter();
        asked.all(|option| shown.contains(option))
    });
    found.header.info == wanted.header.info && does_the_same
}
