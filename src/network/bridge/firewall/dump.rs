//! Reads the kernel's rule set (`linux/netfilter/nf_tables.h`): chains, rules, and the elements of
//! the sets that they look up.

use std::io;

use super::decode::{self, SetLookup};
use super::rules::{BaseChain, ChainName, Hook, Rule, RuleSet};
use crate::network::bridge::nfnetlink::{
    AF_UNSPEC, NLM_F_ACK, NLM_F_DUMP, NetfilterMessage, NetfilterSocket, NetlinkAttributes, put,
};

const NFTABLES: u16 = 10 << 8;
const GET_CHAIN: u16 = NFTABLES | 4;
const GET_RULE: u16 = NFTABLES | 7;
const GET_ELEMENTS: u16 = NFTABLES | 13;
const GET_GENERATION: u16 = NFTABLES | 16;

const GENERATION_ID: u16 = 1;
const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const CHAIN_POLICY: u16 = 5;
const CHAIN_TYPE: u16 = 7;
const HOOK_NUMBER: u16 = 1;
const RULE_TABLE: u16 = 1;
const RULE_CHAIN: u16 = 2;
const RULE_EXPRESSIONS: u16 = 4;
const ELEMENTS_TABLE: u16 = 1;
const ELEMENTS_SET: u16 = 2;
const ELEMENTS: u16 = 3;

const POLICY_DROP: u32 = 0;
const HOOK_PREROUTING: u32 = 0;
const HOOK_FORWARD: u32 = 2;
const HOOK_OUTPUT: u32 = 3;

/// Number of changes that the kernel has counted.
pub(super) fn generation() -> io::Result<u32> {
    let socket = NetfilterSocket::open()?;
    let mut generation = None;
    socket.ask(GET_GENERATION, NLM_F_ACK, AF_UNSPEC, &[], |message| {
        generation = message.attributes.number(GENERATION_ID);
    })?;
    generation.ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Reads all chains and rules that IPv4 packets can meet, with those of IPv6's alone if they are asked
/// for, and without those of the table `own`.
pub(super) fn read(own: &str, ipv6: bool) -> io::Result<RuleSet> {
    let socket = NetfilterSocket::open()?;
    let mut set = RuleSet::default();
    socket.ask(GET_CHAIN, NLM_F_DUMP, AF_UNSPEC, &[], |message| {
        let foreign = |base: &BaseChain| {
            let is_own = base.name.family != "inet" && base.name.table == own;
            !is_own && (ipv6 || base.name.family != "ip6")
        };
        set.base_chains.extend(base_chain(message).filter(foreign));
    })?;
    let mut open = Vec::new();
    socket.ask(GET_RULE, NLM_F_DUMP, AF_UNSPEC, &[], |message| {
        let of_interest = |chain: &ChainName| {
            let is_beside = |base: &BaseChain| {
                (base.name.family, &base.name.table) == (chain.family, &chain.table)
            };
            set.base_chains.iter().any(is_beside)
        };
        let chain = chain_name(message, RULE_TABLE, RULE_CHAIN);
        let Some(chain) = chain.filter(of_interest) else {
            return;
        };
        let (rule, lookups) = decode::rule(chain, message.attributes.nested(RULE_EXPRESSIONS));
        open.push((rule, message.family, lookups));
    })?;
    for (mut rule, family, lookups) in open {
        for lookup in lookups {
            add_elements(&socket, &mut rule, family, &lookup)?;
        }
        set.rules.push(rule);
    }
    Ok(set)
}

fn base_chain(message: NetfilterMessage<'_>) -> Option<BaseChain> {
    let attributes = message.attributes;
    let number = attributes.nested(CHAIN_HOOK).number(HOOK_NUMBER)?;
    let kind = attributes.text(CHAIN_TYPE)?;
    let hook = match (kind.as_str(), number) {
        ("nat", HOOK_PREROUTING | HOOK_OUTPUT) => Hook::Destination,
        ("filter", HOOK_FORWARD) => Hook::Forward,
        _ => return None,
    };
    Some(BaseChain {
        name: chain_name(message, CHAIN_TABLE, CHAIN_NAME)?,
        hook,
        drops: attributes.number(CHAIN_POLICY) == Some(POLICY_DROP),
    })
}

/// Name of a chain that packets of either family can meet.
fn chain_name(message: NetfilterMessage<'_>, table: u16, chain: u16) -> Option<ChainName> {
    let family = match message.family {
        1 => "inet",
        2 => "ip",
        10 => "ip6",
        _ => return None,
    };
    Some(ChainName {
        family,
        table: message.attributes.text(table)?,
        chain: message.attributes.text(chain)?,
    })
}

/// Adds what a rule looks up in a set. A set that is gone was changed meanwhile.
fn add_elements(
    socket: &NetfilterSocket,
    rule: &mut Rule,
    family: u8,
    lookup: &SetLookup,
) -> io::Result<()> {
    let mut request = Vec::new();
    put(&mut request, ELEMENTS_TABLE, &terminated(&rule.chain.table));
    put(&mut request, ELEMENTS_SET, &terminated(&lookup.set));
    let mut elements = Vec::new();
    let read = socket.ask(GET_ELEMENTS, NLM_F_DUMP, family, &request, |message| {
        let list = message.attributes.nested(ELEMENTS);
        elements.extend(list.map(|(_, element)| decode::element(NetlinkAttributes(element))));
    });
    match read {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(io::ErrorKind::Interrupted.into());
        }
        other => other?,
    }
    decode::add_elements(rule, lookup, elements);
    Ok(())
}

fn terminated(text: &str) -> Vec<u8> {
    [text.as_bytes(), &[0]].concat()
}
