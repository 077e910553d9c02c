//! Restoring of the table after another program deleted it, or a part of it.

use super::{HostFirewall, HostPorts, PortTable, differences, failed};
use crate::network::NetworkError;
use crate::network::bridge::nftables;

/// Number of changes of the host's rules at which the table was as it should be, if it is known.
pub(super) type SeenRight = Option<u32>;

impl HostPorts {
    /// Rewrites the table if it is not as it was last written, and answers a line for each
    /// difference. Where nothing but the agent's own writes happened since it was seen right, this
    /// costs some ten microseconds.
    pub(in crate::network::bridge) async fn restore(&self) -> Result<Vec<String>, NetworkError> {
        let mut book = self.book.lock().await;
        let now = HostFirewall::generation();
        // Without a shape it is not written yet, or taken away on purpose.
        if book.shape.is_none() || now.is_some() && now == book.seen_right {
            return Ok(Vec::new());
        }
        let found = nftables::list(&self.table).await.map_err(failed)?;
        let shape = book.shape.as_deref();
        let lines = differences(&self.table, found.as_ref(), &book.published, shape);
        if lines.is_empty() {
            book.seen_right = now;
        } else {
            self.replace(&mut book).await?;
        }
        Ok(lines)
    }

    /// Notes that the agent itself wrote the table: since `before` there was that one change, or
    /// others happened as well. A whole table is right, whatever was before.
    pub(super) fn note_own_write(&self, book: &mut PortTable, before: SeenRight, is_whole: bool) {
        let was_right = is_whole || book.seen_right == before;
        let now = HostFirewall::generation();
        let is_only = before.and_then(|before| before.checked_add(1)) == now;
        book.seen_right = now.filter(|_| was_right && is_only);
    }
}
