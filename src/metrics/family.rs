//! Families of numbers that are taken for a scrape, written in the format that it asks for.

use std::fmt::Write as _;

use super::MetricsFormat;

/// Last line of a text of OpenMetrics.
const END: &str = "# EOF\n";

/// Numbers that are taken for a scrape under one name.
#[derive(Debug)]
pub(super) struct Family {
    pub(super) name: &'static str,
    pub(super) help: &'static str,
    /// Ending of the name; empty where a number has none.
    pub(super) unit: &'static str,
    pub(super) is_counter: bool,
}

/// Text of a scrape while it is written. Callers may see different containers: it is theirs alone.
#[derive(Debug)]
pub(super) struct ScrapeText {
    text: String,
    format: MetricsFormat,
}

impl ScrapeText {
    /// Goes on after the counts, which are written as OpenMetrics.
    pub(super) fn after(mut counts: String, format: MetricsFormat) -> Self {
        counts.truncate(counts.trim_end_matches(END).len());
        let text = format.convert(counts);
        Self { text, format }
    }

    /// The whole text.
    pub(super) fn end(mut self) -> String {
        if self.format == MetricsFormat::OpenMetrics {
            self.text.push_str(END);
        }
        self.text
    }

    /// Writes a family, and each of its samples with the labels that it has.
    pub(super) fn write<Labels, Word>(
        &mut self,
        family: &Family,
        samples: impl Iterator<Item = (Labels, f64)>,
    ) where
        Labels: AsRef<[(&'static str, Word)]>,
        Word: AsRef<str>,
    {
        let Family { name, help, .. } = family;
        let mut name = (*name).to_owned();
        if !family.unit.is_empty() {
            name = format!("{name}_{}", family.unit);
        }
        let sample = match family.is_counter {
            true => format!("{name}_total"),
            false => name.clone(),
        };
        let kind = if family.is_counter {
            "counter"
        } else {
            "gauge"
        };
        let is_open = self.format == MetricsFormat::OpenMetrics;
        let shown = if is_open { &name } else { &sample };
        let text = &mut self.text;
        let _a_string_takes_all = write!(text, "# HELP {shown} {help}.\n# TYPE {shown} {kind}\n");
        if is_open && !family.unit.is_empty() {
            let _a_string_takes_all = writeln!(text, "# UNIT {name} {}", family.unit);
        }
        for (labels, value) in samples {
            text.push_str(&sample);
            let mut before = '{';
            for (label, word) in labels.as_ref() {
                text.push(before);
                text.push_str(label);
                text.push_str("=\"");
                push_escaped(text, word.as_ref());
                text.push('"');
                before = ',';
            }
            if before == ',' {
                text.push('}');
            }
            push_number(text, value);
        }
    }
}

/// Largest count up to which a float has all whole numbers.
const WHOLE_MAX: f64 = 9_007_199_254_740_992.0;

/// Adds a sample's number and the line's end, as `{:?}` writes it: most are whole, and a float's
/// digits cost ten times those of a whole number.
fn push_number(text: &mut String, value: f64) {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "it is whole and small enough"
    )]
    let whole = (value.abs() < WHOLE_MAX).then_some(value as i64);
    #[expect(clippy::cast_precision_loss, reason = "it came from a float")]
    let is_same = |whole: &i64| (*whole as f64).to_bits() == value.to_bits();
    let _a_string_takes_all = match whole.filter(is_same) {
        Some(whole) => writeln!(text, " {whole}.0"),
        None => writeln!(text, " {value:?}"),
    };
}

/// Adds the value of a label. Names of the kernel's links may hold nearly anything.
fn push_escaped(text: &mut String, word: &str) {
    if !word.contains(['\\', '"', '\n']) {
        text.push_str(word);
        return;
    }
    for char in word.chars() {
        match char {
            '\\' => text.push_str("\\\\"),
            '"' => text.push_str("\\\""),
            '\n' => text.push_str("\\n"),
            other => text.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_written_as_a_float() {
        for (value, written) in [
            (0.0, "0.0"),
            (-0.0, "-0.0"),
            (-3.0, "-3.0"),
            (0.125, "0.125"),
            (4_503_599_627_370_497.0, "4503599627370497.0"),
            (1e16, "1e16"),
            (1.5e300, "1.5e300"),
            (f64::NAN, "NaN"),
            (f64::INFINITY, "inf"),
        ] {
            let mut text = String::new();
            push_number(&mut text, value);
            assert_eq!(text, format!(" {written}\n"));
            assert_eq!(text, format!(" {value:?}\n"));
        }
    }

    #[test]
    fn a_family_is_called_in_each_format_as_that_has_it() {
        let family = Family {
            name: "chas_link_sent",
            help: "Bytes that were sent",
            unit: "bytes",
            is_counter: true,
        };
        let written = |format| {
            let text = String::new();
            let mut scrape = ScrapeText { text, format };
            let labels = [("link", "a\"\\\nb"), ("to", "c")];
            scrape.write(&family, [(labels, 1.5)].into_iter());
            let none: &[(&str, &str)] = &[];
            scrape.write(&family, [(none, 2.0)].into_iter());
            scrape.text
        };
        let head = "# HELP chas_link_sent_bytes Bytes that were sent.\n# TYPE chas_link_sent_bytes counter\n# UNIT chas_link_sent_bytes bytes\n";
        let one = "chas_link_sent_bytes_total{link=\"a\\\"\\\\\\nb\",to=\"c\"} 1.5\n";
        let other = "chas_link_sent_bytes_total 2.0\n";
        let open = written(MetricsFormat::OpenMetrics);
        assert_eq!(open, format!("{head}{one}{head}{other}"));
        let head = "# HELP chas_link_sent_bytes_total Bytes that were sent.\n# TYPE chas_link_sent_bytes_total counter\n";
        let text = written(MetricsFormat::Text);
        assert_eq!(text, format!("{head}{one}{head}{other}"));
    }
}
