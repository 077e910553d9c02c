//! The text that a scrape gets: all counts, and the numbers that are taken for it alone.

use super::family::ScrapeText;
use super::{ContainerNumbers, Metrics, MetricsFormat, NodeNumbers, containers};

impl Metrics {
    /// The text of all metrics, with the numbers of the node and of these containers.
    pub(crate) fn text_with(
        &self,
        node: &NodeNumbers,
        containers: &[ContainerNumbers],
        format: MetricsFormat,
    ) -> String {
        let mut scrape = ScrapeText::after(self.text(), format);
        node.write(&mut scrape);
        containers::write(containers, &mut scrape);
        scrape.end()
    }
}
