//! `on_disconnect` of containers on this node: refused where no CHaS could ever answer, and shown with
//! what is in force.

use state::desired::Record;
use state::spec::parse::{Deploy, FieldError};

use super::AgentNode;
use super::queries::moment;
use crate::api::Refusal;
use crate::view::DisconnectView;

impl AgentNode {
    /// Refuses deploys that are to be stopped by the silence of a CHaS that this node has not.
    pub(super) fn check_disconnect<'d>(
        &self,
        deploys: impl IntoIterator<Item = &'d Deploy>,
        field: impl Fn(&Deploy, &str) -> String,
    ) -> Result<(), Refusal> {
        if self.contact.is_some() {
            return Ok(());
        }
        let asking = deploys.into_iter();
        let asking = asking.filter(|deploy| deploy.spec.on_disconnect.stop_after.is_some());
        let faults: Vec<_> = asking
            .map(|deploy| FieldError {
                field: field(deploy, "on_disconnect.stop_after"),
                message:
                    "this node has no CHaS (api.chas_url) that could cease to answer; leave it out"
                        .to_owned(),
            })
            .collect();
        match faults.is_empty() {
            true => Ok(()),
            false => Err(Refusal::Invalid(faults)),
        }
    }

    /// Meaning of CHaS's silence for a container. `None`: it has none.
    pub(super) fn disconnect_view(&self, record: &Record) -> Option<DisconnectView> {
        let stop_after = record.spec.on_disconnect.stop_after?;
        let (board, taken) = (self.board(), moment(self.board()));
        let contact = board.contact();
        let stops_at = contact.and_then(|contact| contact.stops_at(&record.spec));
        Some(DisconnectView {
            stop_after,
            in_force: contact.and_then(|contact| contact.in_force(&record.spec)),
            silent_for: contact.map(|contact| contact.silent_for(taken.boot)),
            stops_at: stops_at.map(|at| taken.wall_at(at)),
        })
    }
}
