//! The two text formats: that of OpenMetrics, and the older one of Prometheus, which every scraper
//! reads, and `promtool check metrics`.

use std::fmt::Write as _;

/// Text format of metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MetricsFormat {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// Text format 0.0.4 of Prometheus.
    Text,
}

impl MetricsFormat {
    /// The `Content-Type` of a text in this format.
    pub(crate) const fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
        }
    }

    /// A text of OpenMetrics in this format.
    pub(super) fn convert(self, open: String) -> String {
        match self {
            Self::OpenMetrics => open,
            Self::Text => older(&open),
        }
    }
}

/// The older format has no units and no end, calls a family as its samples are called, and knows no
/// `info`.
fn older(open: &str) -> String {
    let mut text = String::with_capacity(open.len());
    let mut help = None;
    for line in open.lines() {
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some("HELP"), _, told) => help = told,
            (Some("#"), Some("TYPE"), Some(name), Some(kind)) => {
                let (suffix, kind) = match kind {
                    "counter" => ("_total", kind),
                    "info" => ("_info", "gauge"),
                    _ => ("", kind),
                };
                if let Some(help) = help.take() {
                    let _a_string_takes_all = writeln!(text, "# HELP {name}{suffix} {help}");
                }
                let _a_string_takes_all = writeln!(text, "# TYPE {name}{suffix} {kind}");
            }
            (Some("#"), ..) => {}
            _ => {
                text.push_str(line);
                text.push('\n');
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_older_format_names_families_as_their_samples() {
        let open = "# HELP a A build.\n# TYPE a info\na_info{v=\"1\"} 1\n# HELP b_seconds Time # of it.\n# TYPE b_seconds counter\n# UNIT b_seconds seconds\nb_seconds_total 1.5\n# HELP c C.\n# TYPE c histogram\nc_sum 0.0\n# EOF\n";
        let text = "# HELP a_info A build.\n# TYPE a_info gauge\na_info{v=\"1\"} 1\n# HELP b_seconds_total Time # of it.\n# TYPE b_seconds_total counter\nb_seconds_total 1.5\n# HELP c C.\n# TYPE c histogram\nc_sum 0.0\n";
        assert_eq!(MetricsFormat::Text.convert(open.to_owned()), text);
        assert_eq!(MetricsFormat::OpenMetrics.convert(open.to_owned()), open);
    }
}
