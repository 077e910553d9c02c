//! Audit: a line for each change that is asked for, written before the change is stored, in a chain
//! of fingerprints by which a line that was changed, cut out or put in is found later.

use std::cell::RefCell;
use std::io;
use std::path::Path;
use std::sync::Mutex;
use std::time::SystemTime;

use serde::Serialize;
use state::alarm::Alarm;
use state::event::{Event, EventKind, EventSubject};
use state::reason::Reason;
use state::store::{AuditVerdict, AuditedChange, ChangeCall, ChangeWitness};
use state::time::unix_ms;

use crate::journal::Journal;
use crate::lock::lock;
use file::ChainFile;

mod file;
mod line;
pub mod verify;

/// Directory of the lines in the state directory.
pub const DIRECTORY: &str = "audit";

/// A call that asks for a change, and whose it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct AuditCall {
    /// Caller: a name, or the part of the agent that acts by itself.
    pub by: String,
    /// Other end of the caller's connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    /// Method and path of the call.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub call: Option<String>,
    /// Id of the request, as its answer bears it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
}

impl AuditCall {
    /// A change that nobody calls for: a part of the agent makes it.
    #[must_use]
    pub fn of(by: &str) -> Self {
        Self {
            by: by.to_owned(),
            ..Self::default()
        }
    }
}

thread_local! {
    /// The call for which this thread changes the store.
    static ACTING: RefCell<Option<AuditCall>> = const { RefCell::new(None) };
}

/// Changes the store for a call: it stands in the lines of all changes within.
pub(crate) fn acting<T>(call: AuditCall, change: impl FnOnce() -> T) -> T {
    /// The call before, which is put back even if the change panics.
    struct Before(Option<AuditCall>);
    impl Drop for Before {
        fn drop(&mut self) {
            ACTING.set(self.0.take());
        }
    }
    let _before = Before(ACTING.replace(Some(call)));
    change()
}

/// The audit of one node.
#[derive(Debug)]
pub(crate) struct AuditLog {
    file: Mutex<ChainFile>,
    /// Whether a change that cannot be written down is refused.
    fail_closed: bool,
    journal: Journal,
}

impl AuditLog {
    /// The audit in a directory, which is made with the first line.
    pub(crate) fn new(directory: &Path, fail_closed: bool, journal: Journal) -> Self {
        Self {
            file: Mutex::new(ChainFile::new(directory, fail_closed)),
            fail_closed,
            journal,
        }
    }
}

impl ChangeWitness for AuditLog {
    fn hear(&self, changes: &[AuditedChange]) -> io::Result<()> {
        let call = ACTING.with_borrow(Clone::clone);
        let call = call.unwrap_or_else(|| AuditCall::of("agent"));
        let written = lock(&self.file).append(SystemTime::now(), &call, changes);
        let fault = written.as_ref().err().map(ToString::to_string);
        self.journal.set_alarm(Alarm::AuditFailing, "", fault);
        for change in changes {
            self.journal.record(asked(&call, change));
        }
        if self.fail_closed { written } else { Ok(()) }
    }

    fn call(&self) -> Option<ChangeCall> {
        let by = ACTING.with_borrow(|call| call.as_ref().map(|call| call.by.clone()));
        Some(ChangeCall {
            by: by.unwrap_or_else(|| "agent".to_owned()),
            at_ms: unix_ms(SystemTime::now()),
        })
    }
}

/// The event of a change that is asked for: who asked for what, and no value of it.
fn asked(call: &AuditCall, change: &AuditedChange) -> Event {
    let (verdict, message) = match &change.verdict {
        AuditVerdict::Allowed => (
            "allowed",
            change.signal.clone().or_else(|| change.image.clone()),
        ),
        AuditVerdict::Denied(why) => ("denied", Some(why.clone())),
        AuditVerdict::Unstored => ("unstored", None),
        AuditVerdict::Unsure => ("unsure", None),
    };
    let event = Event::from(EventKind::ChangeAsked {
        change: change.kind,
        name: change.name.clone(),
        by: call.by.clone(),
        request: call.request.clone(),
        verdict,
    });
    let event = match change.id {
        Some(id) => event.about(EventSubject {
            id,
            name: change.name.clone(),
            generation: change.after.as_ref().map(|spec| spec.generation),
        }),
        None => event,
    };
    let event = match &change.verdict {
        // Nothing else is denied by the store.
        AuditVerdict::Denied(_) => event.because(Reason::PolicyDenied),
        AuditVerdict::Allowed | AuditVerdict::Unstored | AuditVerdict::Unsure => event,
    };
    match message {
        Some(message) => event.saying(message),
        None => event,
    }
}

#[cfg(test)]
mod tests;
