//! The text that a scrape gets: all counts, and the numbers that are taken for it alone.

use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;

use super::containers::Containers;
use super::node::Scraped;
use super::{ContainerNumbers, Metrics, MetricsFormat, NodeNumbers};

impl Metrics {
    /// The text of all metrics, with the numbers of the node and of these containers.
    pub(crate) fn text_with(
        &self,
        node: &NodeNumbers,
        containers: Vec<ContainerNumbers>,
        format: MetricsFormat,
    ) -> String {
        // Registries of this scrape alone: callers may see different containers.
        let mut scraped = Registry::with_prefix("chas");
        scraped.register_collector(Box::new(Scraped::of_node(node)));
        scraped.register_collector(Box::new(Containers(containers)));
        let mut of_process = Registry::default();
        of_process.register_collector(Box::new(Scraped::of_process(node)));
        let mut text = self.text();
        for registry in [scraped, of_process] {
            text.truncate(text.trim_end_matches("# EOF\n").len());
            encode(&mut text, &registry).expect("writing to a string cannot fail");
        }
        // What has no labels is written with none by the encoder for counts alone.
        format.convert(text.replace("{} ", " "))
    }
}
