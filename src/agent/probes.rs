//! Probes of the containers, wired and started.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::backoff;
use crate::exec::ExecRoom;
use crate::journal::Journal;
use crate::metrics::Metrics;
use crate::probe::{NodeProbes, Probes};
use crate::reconcile::Handle;
use crate::writer::Writer;

/// Starts them. Nothing is asked before the reconciler has looked at it.
pub(super) fn start(
    (writer, handle, execs): (&Writer, Handle, &ExecRoom),
    (journal, metrics): (Journal, &Metrics),
    (stop, tracker): (&CancellationToken, &TaskTracker),
) {
    let told = (journal, metrics.clone());
    let asker = Arc::new(NodeProbes::new(execs.clone()));
    let draw = |ceiling| backoff::delay(ceiling, ceiling, 0);
    let probes = Probes::new(writer.clone(), handle, told, asker, draw);
    tracker.spawn(probes.run(stop.clone()));
}
