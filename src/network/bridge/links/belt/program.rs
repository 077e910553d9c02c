//! Program of the belt: which frames of a container pass, in the kernel's classic packet filter.

use std::net::{Ipv4Addr, Ipv6Addr};

/// Instruction (`linux/filter.h`): code, jumps if so and if not, a value.
pub(super) type Instruction = (u16, u8, u8, u32);

const LOAD_32: u16 = 0x20;
const LOAD_16: u16 = 0x28;
const LOAD_8: u16 = 0x30;
const IS: u16 = 0x15;
const RETURN: u16 = 0x06;

/// Results: drop (`TC_ACT_SHOT`), and pass to other filters (`TC_ACT_UNSPEC`).
const SHOT: u32 = 2;
const UNSPEC: u32 = u32::MAX;

/// Kinds of frames, and the places of their fields.
const IPV4: u32 = 0x0800;
const IPV6: u32 = 0x86dd;
const ARP: u32 = 0x0806;
const VLAN: [u32; 2] = [0x8100, 0x88a8];
const SENDER_MAC: u32 = 6;
const KIND: u32 = 12;
const ARP_SENDER_MAC: u32 = 22;
const ARP_SENDER: u32 = 28;
const IPV4_SENDER: u32 = 26;
const IPV4_RECEIVER: u32 = 30;
const IPV6_SENDER: u32 = 22;
const LOOPBACK: u32 = 127;

/// Place from which a container sends: everything else is somebody else's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::network::bridge) struct FrameSource {
    pub(in crate::network::bridge) mac: [u8; 6],
    pub(in crate::network::bridge) address: Ipv4Addr,
    /// Hardware address of the bridge, to which alone IPv6 packets go, and the container's own address.
    /// `None`: none pass.
    pub(in crate::network::bridge) ipv6: Option<([u8; 6], Ipv6Addr)>,
    /// Hardware address that packets go to alone, which is the bridge's: none to a neighbour.
    /// `None`: to everybody.
    pub(in crate::network::bridge) only_to: Option<[u8; 6]>,
}

/// Program for a container that sends from `source` only, or from everywhere.
pub(super) fn program(source: Option<FrameSource>) -> Vec<Instruction> {
    source.map_or_else(|| FROM_EVERYWHERE.to_vec(), from)
}

/// Program that drops IPv4 packets from and for 127.0.0.0/8, and those whose second VLAN tag hides
/// what they are: the kernel takes off one tag before filters, and another, of VLAN 0, behind them.
const FROM_EVERYWHERE: [Instruction; 10] = [
    (LOAD_16, 0, 0, KIND),
    (IS, 6, 0, VLAN[0]), // drop
    (IS, 5, 0, VLAN[1]), // drop
    (IS, 0, 5, IPV4),    // else pass
    (LOAD_8, 0, 0, IPV4_SENDER),
    (IS, 2, 0, LOOPBACK), // drop
    (LOAD_8, 0, 0, IPV4_RECEIVER),
    (IS, 0, 1, LOOPBACK), // else pass
    (RETURN, 0, 0, SHOT),
    (RETURN, 0, 0, UNSPEC),
];

/// Place where a program goes on.
#[derive(Clone, Copy)]
enum GoOn {
    /// Behind so many instructions.
    Skip(usize),
    Ipv4,
    Ipv6,
    Drop,
    Pass,
}

/// Instruction whose jumps are not counted yet.
type OpenInstruction = (u16, GoOn, GoOn, u32);

/// Program that passes IPv4, IPv6 and ARP from this source alone, and nothing for 127.0.0.0/8. An ARP
/// question whether an address is free has no sender.
fn from(source: FrameSource) -> Vec<Instruction> {
    use GoOn::{Drop, Ipv4, Ipv6, Pass, Skip};
    const NEXT: GoOn = Skip(0);
    let load = |code, place| (code, NEXT, NEXT, place);
    let must = |value| (IS, NEXT, Drop, value);
    let [first, rest] = halves(source.mac);
    let address = source.address.to_bits();
    let mut steps = vec![
        load(LOAD_32, SENDER_MAC),
        must(first),
        load(LOAD_16, SENDER_MAC + 4),
        must(rest),
        load(LOAD_16, KIND),
        (IS, Ipv4, NEXT, IPV4),
    ];
    if source.ipv6.is_some() {
        steps.push((IS, Ipv6, NEXT, IPV6));
    }
    steps.push(must(ARP));
    let receiver = source.only_to.map(halves);
    if let Some([first, rest]) = receiver {
        // Questions to everybody, and nothing to a neighbour: it would learn a way around the bridge.
        steps.extend([
            load(LOAD_32, 0),
            (IS, NEXT, Skip(2), first),
            load(LOAD_16, 4),
            (IS, Skip(3), Drop, rest),
            must(u32::MAX),
            load(LOAD_16, 4),
            must(0xffff),
        ]);
    }
    steps.extend([
        load(LOAD_32, ARP_SENDER_MAC),
        must(first),
        load(LOAD_16, ARP_SENDER_MAC + 4),
        must(rest),
        load(LOAD_32, ARP_SENDER),
        (IS, Pass, NEXT, address),
        (IS, Pass, Drop, 0),
    ]);
    let ipv4 = steps.len();
    if let Some([first, rest]) = receiver {
        let to = [load(LOAD_32, 0), must(first), load(LOAD_16, 4), must(rest)];
        steps.extend(to);
    }
    steps.extend([
        load(LOAD_32, IPV4_SENDER),
        must(address),
        load(LOAD_8, IPV4_RECEIVER),
        (IS, Drop, Pass, LOOPBACK),
    ]);
    let ipv6 = steps.len();
    if let Some((bridge, own)) = source.ipv6 {
        steps.extend(from_ipv6(bridge, own));
    }
    assemble(steps, [ipv4, ipv6])
}

/// Steps that pass an IPv6 packet from this address to this hardware address.
fn from_ipv6(bridge: [u8; 6], own: Ipv6Addr) -> impl Iterator<Item = OpenInstruction> {
    use GoOn::{Drop, Pass, Skip};
    let must = |(code, place, value): (u16, u32, u32)| {
        let load = (code, Skip(0), Skip(0), place);
        [load, (IS, Skip(0), Drop, value)]
    };
    let [first, rest] = halves(bridge);
    let words = own.to_bits().to_be_bytes();
    let words = words.chunks_exact(4).map(|word| {
        let bytes = word.iter();
        bytes.fold(0, |sum, byte| sum << 8 | u32::from(*byte))
    });
    let words: Vec<u32> = words.collect();
    let words = (IPV6_SENDER..).step_by(4).zip(words);
    let to = [(LOAD_32, 0, first), (LOAD_16, 4, rest)].into_iter();
    let all = to.chain(words.map(|(place, word)| (LOAD_32, place, word)));
    all.flat_map(must).chain([(IS, Pass, Pass, 0)])
}

/// The program of these steps, in which those for IPv4 and IPv6 begin at `places`.
fn assemble(steps: Vec<OpenInstruction>, [ipv4, ipv6]: [usize; 2]) -> Vec<Instruction> {
    let end = steps.len();
    let jump = |at: usize, to| {
        let target = match to {
            GoOn::Skip(over) => at + 1 + over,
            GoOn::Ipv4 => ipv4,
            GoOn::Ipv6 => ipv6,
            GoOn::Drop => end,
            GoOn::Pass => end + 1,
        };
        u8::try_from(target - at - 1).expect("a few instructions")
    };
    let steps = steps.into_iter().enumerate();
    let mut program: Vec<Instruction> = steps
        .map(|(at, (code, yes, no, value))| (code, jump(at, yes), jump(at, no), value))
        .collect();
    program.extend([(RETURN, 0, 0, SHOT), (RETURN, 0, 0, UNSPEC)]);
    program
}

/// The first four bytes of a hardware address, and the other two.
const fn halves([a, b, c, d, e, f]: [u8; 6]) -> [u32; 2] {
    [
        u32::from_be_bytes([a, b, c, d]),
        u32::from_be_bytes([0, 0, e, f]),
    ]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Runs the program as the kernel would.
    fn drops(program: &[Instruction], frame: &[u8]) -> bool {
        let (mut at, mut loaded) = (0, 0);
        loop {
            let (code, yes, no, value) = program[at];
            at += 1;
            let place = usize::try_from(value).unwrap_or(usize::MAX);
            let field = |length: usize| {
                let bytes = &frame[place..place + length];
                bytes
                    .iter()
                    .fold(0, |sum, byte| sum << 8 | u32::from(*byte))
            };
            match code {
                LOAD_32 => loaded = field(4),
                LOAD_16 => loaded = field(2),
                LOAD_8 => loaded = field(1),
                IS => at += usize::from(if loaded == value { yes } else { no }),
                _ => return value == SHOT,
            }
        }
    }

    const OWN: FrameSource = FrameSource {
        mac: [0x0a, 0x58, 10, 231, 0, 2],
        address: Ipv4Addr::new(10, 231, 0, 2),
        ipv6: None,
        only_to: None,
    };
    const NEIGHBOUR: FrameSource = FrameSource {
        mac: [0x0a, 0x58, 10, 231, 0, 3],
        address: Ipv4Addr::new(10, 231, 0, 3),
        ipv6: None,
        only_to: None,
    };
    const BRIDGE: [u8; 6] = [0x0a, 0x58, 10, 231, 0, 1];
    const NOBODY: FrameSource = FrameSource {
        mac: [0x0a, 0x58, 10, 231, 0, 2],
        address: Ipv4Addr::UNSPECIFIED,
        ipv6: None,
        only_to: None,
    };
    const LOCAL: FrameSource = FrameSource {
        mac: [0x0a, 0x58, 10, 231, 0, 2],
        address: Ipv4Addr::LOCALHOST,
        ipv6: None,
        only_to: None,
    };

    const OWN6: Ipv6Addr = Ipv6Addr::new(0xfd12, 0x3456, 0x789a, 0, 0, 0, 0, 2);

    /// IPv6 addresses that a container could send from: its own, a neighbour's, and those that are
    /// nobody's.
    fn any_sender6() -> impl Strategy<Value = Ipv6Addr> {
        let others = [
            "fd12:3456:789a::3",
            "fe80::2",
            "::",
            "::1",
            "fd12:3456:789a::1",
        ];
        let others = others.map(|text| text.parse().unwrap());
        prop::sample::select([&[OWN6][..], &others].concat())
    }

    fn frame(mac: [u8; 6], kind: u32, sender: FrameSource, receiver: [u8; 4]) -> Vec<u8> {
        let mut frame = vec![0; 54];
        frame[6..12].copy_from_slice(&mac);
        frame[12..14].copy_from_slice(&kind.to_be_bytes()[2..]);
        if kind == ARP {
            frame[22..28].copy_from_slice(&sender.mac);
            frame[28..32].copy_from_slice(&sender.address.octets());
        } else {
            frame[26..30].copy_from_slice(&sender.address.octets());
            frame[30..34].copy_from_slice(&receiver);
        }
        frame
    }

    /// The rule in words: own addresses everywhere, and never the host's loopback.
    fn may(guard: bool, mac: [u8; 6], kind: u32, sender: FrameSource, receiver: [u8; 4]) -> bool {
        let is_loopback = |first: u8| kind == IPV4 && first == 127;
        let hits_loopback = is_loopback(receiver[0]) || is_loopback(sender.address.octets()[0]);
        if !guard {
            return !VLAN.contains(&kind) && !hits_loopback;
        }
        let is_own = match kind {
            IPV4 => sender.address == OWN.address,
            ARP => sender == OWN || sender == NOBODY,
            _ => false,
        };
        is_own && mac == OWN.mac && !hits_loopback
    }

    proptest! {
        #[test]
        fn an_ipv6_frame_passes_from_ones_own_address_to_the_bridge_alone(
            isolated: bool,
            dual: bool,
            to in prop::sample::select(vec![BRIDGE, NEIGHBOUR.mac, [0xff; 6], [0x33, 0x33, 0, 0, 0, 1]]),
            mac in prop::sample::select(vec![OWN.mac, NEIGHBOUR.mac]),
            sender in any_sender6(),
        ) {
            let source = FrameSource {
                ipv6: dual.then_some((BRIDGE, OWN6)),
                only_to: isolated.then_some(BRIDGE),
                ..OWN
            };
            let mut frame = vec![0; 54];
            frame[..6].copy_from_slice(&to);
            frame[6..12].copy_from_slice(&mac);
            frame[12..14].copy_from_slice(&[0x86, 0xdd]);
            frame[22..38].copy_from_slice(&sender.octets());
            let passes = dual && to == BRIDGE && mac == OWN.mac && sender == OWN6;
            prop_assert_eq!(!drops(&program(Some(source)), &frame), passes);
        }

        #[test]
        fn a_frame_passes_if_the_rule_says_so(
            dual: bool,
            guard: bool,
            isolated: bool,
            to in prop::sample::select(vec![BRIDGE, NEIGHBOUR.mac, [0xff; 6]]),
            mac in prop::sample::select(vec![OWN.mac, NEIGHBOUR.mac, [0xff; 6], [0x0a, 0x58, 10, 231, 1, 2]]),
            kind in prop::sample::select(vec![IPV4, ARP, VLAN[0], VLAN[1], 0x86dd, 0x0026]),
            sender in prop::sample::select(vec![OWN, NEIGHBOUR, NOBODY, LOCAL]),
            receiver in prop::sample::select(vec![[10, 231, 0, 3], [127, 0, 0, 1], [127, 9, 9, 9], [126, 0, 0, 1]]),
        ) {
            let ipv6 = dual.then_some((BRIDGE, OWN6));
            let own = FrameSource { only_to: isolated.then_some(BRIDGE), ipv6, ..OWN };
            let program = program(guard.then_some(own));
            let mut frame = frame(mac, kind, sender, receiver);
            frame[..6].copy_from_slice(&to);
            let is_question = kind == ARP && to == [0xff; 6];
            let is_away = guard && isolated && to != BRIDGE && !is_question;
            let passes = may(guard, mac, kind, sender, receiver) && !is_away;
            prop_assert_eq!(!drops(&program, &frame), passes);
        }
    }
}
