//! Containers whose program is run by a caller, in a session: what goes with that, and what does not.

use super::fields::Fields;
use super::{RestartPolicy, Spec};

/// Notes what would start such a container when nobody is there to run its program.
pub(super) fn check(spec: &Spec, top: &mut Fields<'_>) {
    if !spec.interactive {
        return;
    }
    if spec.restart.policy != RestartPolicy::Never {
        let fault = "waits for a caller each time it starts: give restart the policy \"never\"";
        top.fault("interactive", fault);
    }
    if spec.schedule.is_some() {
        let fault = "has no caller at the times of a schedule: leave out one of the two";
        top.fault("interactive", fault);
    }
}
