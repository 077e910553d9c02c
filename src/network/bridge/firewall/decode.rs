//! Meaning of a rule's expressions: a small machine with registers, of which only the parts that
//! tell destination ports, addresses and interfaces are followed.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use super::matches::match_ports;
use super::rules::{AddressRange, ChainName, PortMatch, Rule};
use crate::network::bridge::nfnetlink::{NetlinkAttributes, text};

const EXPRESSION_NAME: u16 = 1;
const EXPRESSION_DATA: u16 = 2;
const DATA_VALUE: u16 = 1;
const DATA_VERDICT: u16 = 2;
const VERDICT_CODE: u16 = 1;
const VERDICT_CHAIN: u16 = 2;
const ELEMENT_KEY: u16 = 1;
const ELEMENT_DATA: u16 = 2;
const ELEMENT_FLAGS: u16 = 3;
const ELEMENT_KEY_END: u16 = 10;
const INTERVAL_END: u32 = 1;

const NETWORK_HEADER: u32 = 1;
const TRANSPORT_HEADER: u32 = 2;
const META_IIFNAME: u32 = 6;
const META_OIFNAME: u32 = 7;
const META_L4PROTO: u32 = 16;
const EQUAL: u32 = 0;
const UNEQUAL: u32 = 1;
const BELOW: u32 = 2;
const AT_MOST: u32 = 3;
const ABOVE: u32 = 4;
const AT_LEAST: u32 = 5;
const NF_DROP: u32 = 0;
const IPV6: u32 = 10;

/// Bytes of a key that one part of a concatenation is padded to a multiple of.
const KEY_ALIGN: usize = 4;

/// Part of a packet that a register holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    Protocol,
    DestinationPort,
    Source { mask: u32 },
    Destination { mask: u32 },
    Interface,
}

/// Set that a rule looks up, with the parts of the key that are followed, by their offset in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SetLookup {
    pub(super) set: String,
    parts: Vec<(usize, Field)>,
}

/// Element of a set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Element {
    key: Vec<u8>,
    /// Last key of the range, if the element names it.
    end: Option<Vec<u8>>,
    /// Whether the element only ends the range that the one before began.
    ends_range: bool,
    jump: Option<String>,
}

/// State while the expressions of a rule are read.
struct RuleReader {
    rule: Rule,
    /// Fields that the registers hold, by the registers' offset in bytes.
    registers: BTreeMap<usize, Field>,
    ports: Vec<RangeInclusive<u16>>,
    /// Ports between the bounds that the rule sets one by one.
    bounds: Option<RangeInclusive<u16>>,
    /// Ports that the rule does not mean, while it means all others.
    except: Option<RangeInclusive<u16>>,
    lookups: Vec<SetLookup>,
    has_condition: bool,
    stops: bool,
}

/// Reads a rule, and answers it with the sets that it looks up.
pub(super) fn rule(chain: ChainName, expressions: NetlinkAttributes<'_>) -> (Rule, Vec<SetLookup>) {
    let mut reader = RuleReader {
        rule: Rule::new(chain),
        registers: BTreeMap::new(),
        ports: Vec::new(),
        bounds: None,
        except: None,
        lookups: Vec::new(),
        has_condition: false,
        stops: false,
    };
    for (_, expression) in expressions {
        let expression = NetlinkAttributes(expression);
        let name = expression.text(EXPRESSION_NAME).unwrap_or_default();
        // An expression that is not understood changes no register that is followed, at worst a
        // rule is taken to be wider than it is.
        let _ = reader.step(&name, expression.nested(EXPRESSION_DATA));
    }
    reader.finish()
}

impl Field {
    /// Bytes of registers, and of a set's key, that the field takes.
    const fn width(self) -> usize {
        match self {
            Self::Interface => 4 * KEY_ALIGN,
            Self::Protocol
            | Self::DestinationPort
            | Self::Source { .. }
            | Self::Destination { .. } => KEY_ALIGN,
        }
    }
}

impl RuleReader {
    fn step(&mut self, name: &str, data: NetlinkAttributes<'_>) -> Option<()> {
        self.has_condition |= !matches!(
            name,
            "immediate" | "counter" | "log" | "reject" | "target" | "nat" | "redir" | "masq"
        );
        match name {
            "payload" => self.load(data.number(1)?, payload_field(data)),
            "meta" => {
                let field = match data.number(2)? {
                    META_L4PROTO => Some(Field::Protocol),
                    META_IIFNAME | META_OIFNAME => Some(Field::Interface),
                    _ => None,
                };
                self.load(data.number(1)?, field);
            }
            "ct" | "fib" | "numgen" | "rt" | "exthdr" | "osf" | "xfrm" => {
                self.load(data.number(1)?, None);
            }
            "socket" | "hash" | "tunnel" | "byteorder" => self.load(data.number(2)?, None),
            "bitwise" => self.mask(data)?,
            "cmp" => {
                let value = data.nested(3).get(DATA_VALUE)?;
                let field = *self.registers.get(&offset(data.number(1)?))?;
                match data.number(2)? {
                    EQUAL => self.equals(field, value),
                    operator if field == Field::DestinationPort => {
                        self.compares(operator, port(value)?)?;
                    }
                    _ => {}
                }
            }
            "range" => {
                let field = self.registers.get(&offset(data.number(1)?))?;
                let [from, to] = [3, 4].map(|kind| data.nested(kind).get(DATA_VALUE));
                if *field == Field::DestinationPort {
                    let ports = port(from?)?..=port(to?)?;
                    match data.number(2)? {
                        EQUAL => self.ports.push(ports),
                        _ => self.except = Some(ports),
                    }
                }
            }
            "lookup" => self.look_up(data)?,
            "immediate" => {
                self.decide(data.nested(2).nested(DATA_VERDICT));
                self.load(data.number(1)?, None);
            }
            "nat" => {
                let is_ipv6 = data.number(2) == Some(IPV6);
                self.rule.redirects |= data.number(1)? == 1 && !is_ipv6;
            }
            "redir" => self.rule.redirects = true,
            "reject" => self.stops = true,
            "target" => match data.text(1)?.as_str() {
                "DNAT" | "REDIRECT" => self.rule.redirects = true,
                "REJECT" | "DROP" => self.stops = true,
                _ => {}
            },
            "match" => self.ports.extend(match_ports(&data.text(1)?, data.get(3)?)),
            _ => {}
        }
        Some(())
    }

    /// Notes what a register holds from now on; `None` is something that is not followed.
    fn load(&mut self, register: u32, field: Option<Field>) {
        let at = offset(register);
        let end = at + field.map_or(KEY_ALIGN, Field::width);
        self.registers
            .retain(|before, held| *before >= end || before + held.width() <= at);
        if let Some(field) = field {
            self.registers.insert(at, field);
        }
    }

    fn mask(&mut self, data: NetlinkAttributes<'_>) -> Option<()> {
        let field = self.registers.get(&offset(data.number(1)?)).copied();
        let mask = data.nested(4).get(DATA_VALUE);
        let word = mask.and_then(|mask| Some(u32::from_be_bytes(mask.try_into().ok()?)));
        let masked = match (field, word) {
            (Some(Field::Source { .. }), Some(mask)) => Some(Field::Source { mask }),
            (Some(Field::Destination { .. }), Some(mask)) => Some(Field::Destination { mask }),
            _ => None,
        };
        self.load(data.number(2)?, masked);
        Some(())
    }

    fn equals(&mut self, field: Field, value: &[u8]) {
        match field {
            Field::Protocol => self.rule.protocol = value.first().copied(),
            Field::DestinationPort => {
                self.ports.extend(port(value).map(|port| port..=port));
            }
            Field::Source { mask } => self.rule.addresses.extend(AddressRange::read(value, mask)),
            Field::Destination { mask } => {
                self.rule.to = AddressRange::read(value, mask);
                self.rule.addresses.extend(self.rule.to);
            }
            Field::Interface => self.rule.interfaces.push(interface(value)),
        }
    }

    /// Narrows the ports to those that compare so with `port`.
    fn compares(&mut self, operator: u32, port: u16) -> Option<()> {
        let (first, last) = match operator {
            AT_LEAST => (port, u16::MAX),
            ABOVE => (port.checked_add(1)?, u16::MAX),
            AT_MOST => (0, port),
            BELOW => (0, port.checked_sub(1)?),
            UNEQUAL => {
                self.except = Some(port..=port);
                return None;
            }
            _ => return None,
        };
        let bounds = self.bounds.take().unwrap_or(0..=u16::MAX);
        self.bounds = Some(first.max(*bounds.start())..=last.min(*bounds.end()));
        Some(())
    }

    fn look_up(&mut self, data: NetlinkAttributes<'_>) -> Option<()> {
        let from = offset(data.number(2)?);
        // A negated lookup (`!=`) names what is not meant.
        let negated = data.number(5).is_some_and(|flags| flags & 1 != 0);
        let is_verdict_map = data.number(3) == Some(0);
        // A key lies in registers side by side; later ones may be left over from other conditions.
        let mut parts = Vec::new();
        let mut at = from;
        while let Some(field) = self.registers.get(&at) {
            parts.push((at - from, *field));
            at += field.width();
        }
        let followed = parts
            .iter()
            .any(|(_, field)| matches!(field, Field::DestinationPort | Field::Interface));
        if !negated && (followed || is_verdict_map) {
            self.lookups.push(SetLookup {
                set: data.text(1)?,
                parts,
            });
        }
        if let Some(register @ 1..) = data.number(3) {
            self.load(register, None);
        }
        Some(())
    }

    fn decide(&mut self, verdict: NetlinkAttributes<'_>) {
        match verdict.number(VERDICT_CODE) {
            Some(NF_DROP) => self.stops = true,
            _ => self.rule.jumps.extend(verdict.text(VERDICT_CHAIN)),
        }
    }

    fn finish(mut self) -> (Rule, Vec<SetLookup>) {
        let protocol = self.rule.protocol;
        self.ports.extend(self.bounds);
        // All ports but some of every address are nobody's host ports, as are all.
        let except = self.except.filter(|_| self.rule.to.is_some());
        self.ports.extend(except.into_iter().flat_map(all_but));
        let named = self.ports.into_iter().map(|ports| PortMatch {
            protocol,
            ports,
            to: None,
        });
        self.rule.ports.extend(named);
        self.rule.stops_all = self.stops && !self.has_condition;
        (self.rule, self.lookups)
    }
}

/// Reads an element of a set.
pub(super) fn element(attributes: NetlinkAttributes<'_>) -> Element {
    let value = |kind| attributes.nested(kind).get(DATA_VALUE).map(<[u8]>::to_vec);
    let flags = attributes.number(ELEMENT_FLAGS).unwrap_or_default();
    Element {
        key: value(ELEMENT_KEY).unwrap_or_default(),
        end: value(ELEMENT_KEY_END),
        ends_range: flags & INTERVAL_END != 0,
        jump: attributes
            .nested(ELEMENT_DATA)
            .nested(DATA_VERDICT)
            .text(VERDICT_CHAIN),
    }
}

/// Adds to a rule what the elements of a set that it looks up name.
pub(super) fn add_elements(rule: &mut Rule, lookup: &SetLookup, mut elements: Vec<Element>) {
    rule.jumps
        .extend(elements.iter().filter_map(|element| element.jump.clone()));
    // The kernel gives them in an order of its own; an end stands right after its beginning here.
    elements.sort_by(|a, b| (&a.key, !a.ends_range).cmp(&(&b.key, !b.ends_range)));
    let of_ranges = elements.iter().any(|element| element.ends_range);
    for (i, element) in elements.iter().enumerate() {
        if element.ends_range {
            continue;
        }
        // Each range ends where the next element stands; the last one may have no end.
        let next = elements.get(i + 1).map(|next| &next.key);
        let mut found = PortMatch {
            protocol: rule.protocol,
            ports: 0..=0,
            to: None,
        };
        let mut has_port = false;
        for (at, field) in &lookup.parts {
            let Some(value) = element.key.get(*at..) else {
                continue;
            };
            match field {
                Field::Protocol => found.protocol = value.first().copied(),
                Field::DestinationPort => {
                    let Some(first) = port(value) else { continue };
                    let last = match (&element.end, next) {
                        (Some(end), _) => end.get(*at..).and_then(port),
                        (None, Some(next)) if of_ranges => {
                            port(next).map(|end| end.saturating_sub(1))
                        }
                        (None, None) if of_ranges || first == 0 => Some(u16::MAX),
                        (None, _) => None,
                    };
                    (found.ports, has_port) = (first..=last.unwrap_or(first).max(first), true);
                }
                Field::Destination { mask } => found.to = AddressRange::read(value, *mask),
                Field::Interface => rule.interfaces.push(interface(value)),
                Field::Source { .. } => {}
            }
        }
        if has_port {
            rule.ports.push(found);
        }
    }
}

/// Part of a packet that a `payload` expression loads.
fn payload_field(data: NetlinkAttributes<'_>) -> Option<Field> {
    match (data.number(2)?, data.number(3)?, data.number(4)?) {
        (TRANSPORT_HEADER, 2, 2) => Some(Field::DestinationPort),
        (NETWORK_HEADER, 9, 1) => Some(Field::Protocol),
        // Whole bytes of an address are its network.
        (NETWORK_HEADER, 12, bytes @ 1..=4) => Some(Field::Source { mask: mask(bytes) }),
        (NETWORK_HEADER, 16, bytes @ 1..=4) => Some(Field::Destination { mask: mask(bytes) }),
        _ => None,
    }
}

/// Ports before and after `except`.
fn all_but(except: RangeInclusive<u16>) -> impl Iterator<Item = RangeInclusive<u16>> {
    let before = except.start().checked_sub(1).map(|last| 0..=last);
    let after = except.end().checked_add(1).map(|first| first..=u16::MAX);
    before.into_iter().chain(after)
}

const fn mask(bytes: u32) -> u32 {
    u32::MAX << (32 - 8 * bytes)
}

/// Offset of a register in bytes: there are 4 of 16 bytes, which are the same as 16 of 4 bytes.
fn offset(register: u32) -> usize {
    let bytes = if register < 8 {
        register.saturating_sub(1) * 16
    } else {
        (register - 8).saturating_mul(4)
    };
    usize::try_from(bytes).unwrap_or_default()
}

/// Name of an interface; one that does not end is the beginning of many (`chas*`).
fn interface(value: &[u8]) -> String {
    const NAME_BYTES: usize = 16;
    let whole = value.len() >= NAME_BYTES || value.contains(&0);
    let name = text(value);
    if whole { name } else { format!("{name}*") }
}

fn port(value: &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes(value.get(..2)?.try_into().ok()?))
}
