//! Belt under the table: a filter in the kernel's traffic control, on all that comes out of a
//! container, which no flush of the host's rules takes away.
//!
//! The bridge routes packets for 127.0.0.0/8 (`route_localnet`), for published ports. Without the
//! table's guard a container would reach what listens on the host's loopback alone.
//!
//! It is at the bridge's ports and not at the bridge: with `br_netfilter`, answers to callers on
//! 127.0.0.1 have that address again when they come out of the bridge.

use std::sync::atomic::{AtomicBool, Ordering};

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

use super::{Netlink, errno};

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

/// Instruction of the kernel's classic packet filter (`linux/filter.h`): code, two jumps, a value.
type Instruction = (u16, u8, u8, u32);

/// Program that drops IPv4 packets from and for 127.0.0.0/8, and those whose second VLAN tag hides
/// what they are: the kernel takes off one tag before filters, and another, of VLAN 0, behind them.
const PROGRAM: [Instruction; 10] = [
    (0x28, 0, 0, 12),       // load the protocol
    (0x15, 6, 0, 0x8100),   // a VLAN tag: drop
    (0x15, 5, 0, 0x88a8),   // another kind of tag: drop
    (0x15, 0, 5, 0x0800),   // not IPv4: pass
    (0x30, 0, 0, 26),       // load the first byte of the sender
    (0x15, 2, 0, 127),      // 127: drop
    (0x30, 0, 0, 30),       // load the first byte of the receiver
    (0x15, 0, 1, 127),      // not 127: pass
    (0x06, 0, 0, 2),        // drop (TC_ACT_SHOT)
    (0x06, 0, 0, u32::MAX), // pass, to other filters (TC_ACT_UNSPEC)
];

/// Whether the kernel was found to have no such filters: each look would run `modprobe` again.
static HAS_NONE: AtomicBool = AtomicBool::new(false);

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
    pub(in crate::network::bridge) async fn ensure_belt(&self, port: u32) -> BeltState {
        let Ok(port) = i32::try_from(port) else {
            return BeltState::Right;
        };
        let result = if HAS_NONE.load(Ordering::Relaxed) {
            Err(Errno::NOENT)
        } else {
            let put = self.put_belt(port).await;
            put.map_err(|error| errno(&error).unwrap_or(Errno::IO))
        };
        match result {
            Ok(true) => BeltState::Put,
            Ok(false) | Err(Errno::NODEV) => BeltState::Right,
            Err(Errno::NOENT | Errno::OPNOTSUPP) => {
                HAS_NONE.store(true, Ordering::Relaxed);
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

    async fn put_belt(&self, port: i32) -> Result<bool, rtnetlink::Error> {
        let mut place = TcMessage::with_index(port);
        (place.header.parent, place.header.handle) = (CLSACT_PARENT, CLSACT_HANDLE);
        place.attributes.push(TcAttribute::Kind(CLSACT.to_owned()));
        // Which costs less than the attempt to make the place that is there.
        if self.has_belt(port).await.unwrap_or(false) {
            return Ok(false);
        }
        let place = RouteNetlinkMessage::NewQueueDiscipline(place);
        match self.change(place, NLM_F_CREATE | NLM_F_EXCL).await {
            // The agent's own, or another program's.
            Err(error) if errno(&error) == Some(Errno::EXIST) => {}
            made => made?,
        }
        // It replaces the agent's own at most: nobody else's has this handle.
        let filter = RouteNetlinkMessage::NewTrafficFilter(filter(port));
        self.change(filter, NLM_F_CREATE | NLM_F_REPLACE).await?;
        Ok(true)
    }

    async fn has_belt(&self, port: i32) -> Result<bool, rtnetlink::Error> {
        let mut asked = self.0.traffic_filter(port).get();
        asked = asked.ingress();
        let found: Vec<TcMessage> = asked.execute().try_collect().await?;
        Ok(found.iter().any(is_belt))
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

fn filter(port: i32) -> TcMessage {
    let mut message = TcMessage::with_index(port);
    (message.header.parent, message.header.handle) = (INGRESS, FILTER);
    message.header.info = INFO;
    let count = u16::try_from(PROGRAM.len()).expect("a few");
    let options = [
        (TCA_BPF_OPS_LEN, count.to_ne_bytes().to_vec()),
        (TCA_BPF_OPS, program()),
    ];
    let mut options = Vec::from(options.map(option));
    options.push(act_direct());
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
fn program() -> Vec<u8> {
    let bytes = PROGRAM.iter().flat_map(|&(code, yes, no, value)| {
        let [a, b] = code.to_ne_bytes();
        let [c, d, e, f] = value.to_ne_bytes();
        [a, b, yes, no, c, d, e, f]
    });
    bytes.collect()
}

fn is_belt(found: &TcMessage) -> bool {
    let wanted = [option((TCA_BPF_OPS, program())), act_direct()];
    let has = |attribute: &TcAttribute| {
        let TcAttribute::Options(options) = attribute else {
            return false;
        };
        wanted.iter().all(|one| options.contains(one))
    };
    found.header.info == INFO && found.attributes.iter().any(has)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel would do with a packet: run the program.
    fn drops(packet: &[u8]) -> bool {
        let (mut at, mut held) = (0, 0);
        loop {
            let (code, yes, no, value) = PROGRAM[at];
            at += 1;
            let place = usize::try_from(value).unwrap_or(usize::MAX);
            match code {
                0x28 => held = u32::from(u16::from_be_bytes([packet[place], packet[place + 1]])),
                0x30 => held = u32::from(packet[place]),
                0x15 => at += usize::from(if held == value { yes } else { no }),
                _ => return value == 2,
            }
        }
    }

    fn packet(protocol: u16, from: [u8; 4], to: [u8; 4]) -> Vec<u8> {
        let mut packet = vec![0; 54];
        packet[12..14].copy_from_slice(&protocol.to_be_bytes());
        packet[26..30].copy_from_slice(&from);
        packet[30..34].copy_from_slice(&to);
        packet
    }

    #[test]
    fn the_program_drops_loopback_and_hidden_packets_and_nothing_else() {
        let (inside, outside) = ([10, 231, 0, 2], [192, 0, 2, 1]);
        for (protocol, from, to, is_dropped) in [
            (0x0800, inside, outside, false),
            (0x0800, inside, [127, 0, 0, 1], true),
            (0x0800, inside, [127, 9, 9, 9], true),
            (0x0800, [127, 0, 0, 1], outside, true),
            (0x0800, inside, [126, 0, 0, 1], false),
            (0x0800, [128, 0, 0, 1], outside, false),
            // Of ARP and IPv6 these bytes mean something else.
            (0x0806, [127, 0, 0, 1], [127, 0, 0, 1], false),
            (0x86dd, [127, 0, 0, 1], [127, 0, 0, 1], false),
            (0x8100, inside, outside, true),
            (0x88a8, inside, outside, true),
        ] {
            assert_eq!(
                drops(&packet(protocol, from, to)),
                is_dropped,
                "{protocol:x} {from:?} {to:?}"
            );
        }
    }
}
