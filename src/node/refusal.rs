//! Refusals of the store, as the API answers them.

use state::assign::AssignError;
use state::id::ContainerName;
use state::policy::Denial;
use state::spec::parse::FieldError;
use state::store::StoreError;

use crate::api::Refusal;

/// The refusal of a note about an order that changes nothing, in words: it was not written.
pub(super) fn unnoted(refusal: Refusal) -> String {
    match refusal {
        Refusal::Unavailable(text) => text,
        other @ (Refusal::Conflict(_)
        | Refusal::Unconfirmed(..)
        | Refusal::Unmatched(_)
        | Refusal::Denied(_)
        | Refusal::Invalid(_)
        | Refusal::NotFound(_)
        | Refusal::Reused(_)
        | Refusal::Full(_)) => format!("{other:?}"),
    }
}

pub(super) fn refusal(error: StoreError) -> Refusal {
    let text = error.to_string();
    match error {
        StoreError::Assign(
            AssignError::TakenByContainer { .. } | AssignError::TakenOnHost { .. },
        )
        | StoreError::Owned(..)
        | StoreError::VolumeSize { .. }
        | StoreError::RolledBack(..)
        | StoreError::NothingToConfirm
        | StoreError::UnkeptGeneration(..)
        | StoreError::NothingBefore(_)
        | StoreError::UnkeptGood(..)
        | StoreError::Unopenable(..)
        | StoreError::AlreadyBack(..)
        | StoreError::Changed(..)
        | StoreError::PinnedImage(..)
        | StoreError::Removing(_)
        | StoreError::Uncertain(_)
        | StoreError::OtherGeneration(_)
        | StoreError::Circle(..)
        | StoreError::UnreadableRecord(_) => Refusal::Conflict(text),
        StoreError::Unconfirmed(names) => Refusal::Unconfirmed(names.len(), text),
        StoreError::Unmatched(_)
        | StoreError::UnmatchedContainer(..)
        | StoreError::UnmatchedAbsent(_)
        | StoreError::UnmatchedPresent(..) => Refusal::Unmatched(text),
        StoreError::Denied(_, denials) => Refusal::Denied(denials),
        StoreError::KeyReused => Refusal::Reused(text),
        StoreError::Several(refused) => several(refused, text),
        StoreError::Assign(AssignError::NoIpv6(ports)) => no_ipv6(&ports, &text),
        StoreError::Assign(_)
        | StoreError::TooMany(_)
        | StoreError::NoCapacity(..)
        | StoreError::TooManyRules(_) => Refusal::Full(text),
        StoreError::NotFound(_) | StoreError::UnknownGeneration(..) => Refusal::NotFound(text),
        StoreError::Disk(source) if source.kind() == std::io::ErrorKind::StorageFull => {
            Refusal::Full(format!("{text}: {source}"))
        }
        StoreError::Unsealed(..) | StoreError::SecretUnsealed(..) => Refusal::Unavailable(text),
        StoreError::Unkept(_, source) => Refusal::Unavailable(format!("{text}: {source}")),
        StoreError::NoSecret(_, errors) => Refusal::Invalid(errors),
        StoreError::SecretUnfit(..) => {
            let field = "value".to_owned();
            Refusal::Invalid(vec![FieldError {
                field,
                message: text,
            }])
        }
        StoreError::TooManySecrets(_) => Refusal::Full(text),
        StoreError::UnknownSecret(_) => Refusal::NotFound(text),
        StoreError::SecretUsed(..) => Refusal::Conflict(text),
        StoreError::Audit(source) => Refusal::Unavailable(format!("{text}: {source}")),
        StoreError::Disk(source) | StoreError::Unsure(source) => {
            Refusal::Unavailable(format!("{text}: {source}"))
        }
        StoreError::Rebuilding | StoreError::Unknown(_) | StoreError::InUse(_) => {
            Refusal::Unavailable(text)
        }
    }
}

/// The refusal of a set. One that cannot be had as things are weighs more than one that there is no
/// room for.
fn several(refused: Vec<(ContainerName, StoreError)>, text: String) -> Refusal {
    let denials = refused
        .iter()
        .flat_map(|(name, error)| denials_of(name, error));
    let denials = denials.collect();
    let kinds: Vec<_> = refused
        .into_iter()
        .map(|(name, error)| named(&name, refusal(error)))
        .collect();
    let all = |is: fn(&Refusal) -> bool| kinds.iter().all(is);
    let mut invalid = Vec::new();
    for kind in &kinds {
        if let Refusal::Invalid(errors) = kind {
            invalid.extend(errors.iter().cloned());
        }
    }
    if !invalid.is_empty() {
        Refusal::Invalid(invalid)
    } else if all(|kind| matches!(kind, Refusal::Full(_))) {
        Refusal::Full(text)
    } else if all(|kind| matches!(kind, Refusal::Denied(_))) {
        Refusal::Denied(denials)
    } else {
        Refusal::Conflict(text)
    }
}

/// The refusal of ports on IPv6 addresses, by their places in the body.
fn no_ipv6(ports: &[usize], message: &str) -> Refusal {
    let faults = ports.iter().map(|place| FieldError {
        field: format!("exposed_ports[{place}].host_ip"),
        message: message.to_owned(),
    });
    Refusal::Invalid(faults.collect())
}

/// The refusal of one container of a set, with its name before each field.
fn named(container: &ContainerName, refusal: Refusal) -> Refusal {
    let Refusal::Invalid(errors) = refusal else {
        return refusal;
    };
    let errors = errors.into_iter().map(|error| FieldError {
        field: format!("{container}.{}", error.field),
        ..error
    });
    Refusal::Invalid(errors.collect())
}

/// The denials of one container of a set, with its name before each field.
fn denials_of(name: &ContainerName, error: &StoreError) -> Vec<Denial> {
    let StoreError::Denied(_, denials) = error else {
        return Vec::new();
    };
    let named = denials.iter().map(|denial| Denial {
        field: format!("{name}.{}", denial.field),
        ..denial.clone()
    });
    named.collect()
}
