//! Metrics of OTLP, made of the text that `GET /metrics` gives at the same moment: there is no other
//! list of them, and no other numbers.

use std::collections::HashMap;

use super::wire::{
    CUMULATIVE, HistogramPoint, MetricPoints, NumberPoint, OtlpAttribute, OtlpGauge, OtlpHistogram,
    OtlpMetric, OtlpSum,
};

/// Families that the kernel counts since the node was booted begin so.
const OF_NODE: &str = "chas_node_";
/// Families that count for each container begin so; the agent may find it running.
const OF_CONTAINER: &str = "chas_container_";
/// Gauge with the time of the boot.
const BOOT_TIME: &str = "chas_node_boot_time_seconds";

/// Counter of a container, as it was sent last.
#[derive(Clone, Copy, Debug)]
struct SentCounter {
    start: u64,
    value: f64,
}

/// Converter, which knows since when each counter counts. Times are nanoseconds since 1970.
#[derive(Debug)]
pub(super) struct MetricConverter {
    /// Start of the agent, and so of all that it counts itself.
    begun: u64,
    /// Boot of the node, as it was told first: it is reckoned from the uptime, and not always the same.
    booted: Option<u64>,
    sent: HashMap<String, SentCounter>,
    sent_before: (u64, HashMap<String, SentCounter>),
}

/// Sample of a text.
#[derive(Debug)]
struct MetricSample<'t> {
    name: &'t str,
    labels: Vec<(&'t str, String)>,
    value: f64,
}

/// Family of a text, while its samples are read.
#[derive(Debug, Default)]
struct TextFamily<'t> {
    name: &'t str,
    kind: &'t str,
    help: &'t str,
    unit: &'t str,
    samples: Vec<MetricSample<'t>>,
}

/// Families of a text of OpenMetrics.
fn families(text: &str) -> Vec<TextFamily<'_>> {
    let mut families: Vec<TextFamily<'_>> = Vec::new();
    let mut help = "";
    for line in text.lines() {
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some("HELP"), Some(_), told) => help = told.unwrap_or_default(),
            (Some("#"), Some("TYPE"), Some(name), Some(kind)) => {
                let help = std::mem::take(&mut help);
                families.push(TextFamily {
                    name,
                    kind,
                    help,
                    ..TextFamily::default()
                });
            }
            (Some("#"), Some("UNIT"), Some(_), Some(unit)) => {
                if let Some(family) = families.last_mut() {
                    family.unit = unit;
                }
            }
            (Some("#"), ..) => {}
            _ => {
                if let (Some(family), Some(sample)) = (families.last_mut(), sample(line)) {
                    family.samples.push(sample);
                }
            }
        }
    }
    families
}

fn sample(line: &str) -> Option<MetricSample<'_>> {
    let name_end = line.find(['{', ' '])?;
    let (name, mut rest) = line.split_at(name_end);
    let mut labels = Vec::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        while !rest.starts_with('}') {
            let (label, after) = rest.trim_start_matches(',').split_once("=\"")?;
            let (value, after) = quoted(after)?;
            labels.push((label, value));
            rest = after;
        }
        rest = rest.strip_prefix('}')?;
    }
    let value = rest.split_ascii_whitespace().next()?.parse().ok()?;
    Some(MetricSample {
        name,
        labels,
        value,
    })
}

/// Value of a label up to its quotation mark, and the rest after that.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, char)) = chars.next() {
        match char {
            '"' => return Some((value, text.get(at + 1..)?)),
            '\\' => match chars.next()?.1 {
                'n' => value.push('\n'),
                other => value.push(other),
            },
            other => value.push(other),
        }
    }
    None
}

/// Unit, as UCUM writes it.
fn unit(unit: &str) -> &str {
    match unit {
        "seconds" => "s",
        "bytes" => "By",
        other => other,
    }
}

fn attributes<'t>(labels: impl Iterator<Item = &'t (&'t str, String)>) -> Vec<OtlpAttribute> {
    labels
        .map(|(label, value)| OtlpAttribute::text(label, value))
        .collect()
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "counts and times are neither negative nor beyond what a float has exactly"
)]
const fn integer(number: f64) -> u64 {
    number as u64
}

impl MetricConverter {
    /// A converter for an agent that began then.
    pub(super) fn new(begun: u64) -> Self {
        Self {
            begun,
            booted: None,
            sent: HashMap::new(),
            sent_before: (begun, HashMap::new()),
        }
    }

    /// The families of a text of OpenMetrics, whose numbers are of this time.
    pub(super) fn convert(&mut self, text: &str, now: u64) -> Vec<OtlpMetric> {
        let families = families(text);
        if self.booted.is_none() {
            let told = families.iter().find(|family| family.name == BOOT_TIME);
            let told = told.and_then(|family| family.samples.first());
            let nanos = |sample: &MetricSample<'_>| integer(sample.value) * 1_000_000_000;
            self.booted = told.map(nanos);
        }
        let metrics = families.iter().map(|family| OtlpMetric {
            name: name(family),
            description: family.help.to_owned(),
            unit: unit(family.unit).to_owned(),
            points: Some(match family.kind {
                "counter" => MetricPoints::Sum(OtlpSum {
                    points: self.numbers(family, now),
                    temporality: CUMULATIVE,
                    is_monotonic: true,
                }),
                "histogram" => MetricPoints::Histogram(OtlpHistogram {
                    points: self.histograms(family, now),
                    temporality: CUMULATIVE,
                }),
                _ => MetricPoints::Gauge(OtlpGauge {
                    points: self.numbers(family, now),
                }),
            }),
        });
        let metrics = metrics.collect();
        // What is gone is forgotten.
        self.sent_before = (now, std::mem::take(&mut self.sent));
        metrics
    }

    fn numbers(&mut self, family: &TextFamily<'_>, now: u64) -> Vec<NumberPoint> {
        let is_counter = family.kind == "counter";
        let samples = family.samples.iter();
        samples
            .map(|sample| NumberPoint {
                start_time: match is_counter {
                    true => self.start(family, sample, now).min(now),
                    false => 0,
                },
                time: now,
                value: Some(sample.value),
                attributes: attributes(sample.labels.iter()),
            })
            .collect()
    }

    /// Time since which a counter counts.
    fn start(&mut self, family: &TextFamily<'_>, sample: &MetricSample<'_>, now: u64) -> u64 {
        if family.name.starts_with(OF_NODE) {
            return self.booted.unwrap_or(self.begun);
        }
        if !family.name.starts_with(OF_CONTAINER) {
            return self.begun;
        }
        let key = format!("{}{:?}", sample.name, sample.labels);
        let (before, all) = &self.sent_before;
        let start = match all.get(&key) {
            Some(sent) if sent.value <= sample.value => sent.start,
            // It began anew, at some time since then.
            Some(_) => *before,
            // Nobody knows: it counts from here.
            None => now,
        };
        let value = sample.value;
        self.sent.insert(key, SentCounter { start, value });
        start
    }

    fn histograms(&self, family: &TextFamily<'_>, now: u64) -> Vec<HistogramPoint> {
        let mut points: Vec<(Vec<&(&str, String)>, HistogramPoint)> = Vec::new();
        for sample in &family.samples {
            let labels = sample.labels.iter().filter(|(label, _)| *label != "le");
            let labels: Vec<_> = labels.collect();
            let at = match points.iter().position(|(of, _)| *of == labels) {
                Some(at) => at,
                None => {
                    let point = HistogramPoint {
                        start_time: self.begun.min(now),
                        time: now,
                        attributes: attributes(labels.iter().copied()),
                        ..HistogramPoint::default()
                    };
                    points.push((labels, point));
                    points.len() - 1
                }
            };
            let point = &mut points[at].1;
            match sample.name.strip_prefix(family.name) {
                Some("_sum") => point.sum = Some(sample.value),
                Some("_count") => point.count = integer(sample.value),
                _ => {
                    // Those of the text count all that is smaller, too.
                    let smaller: u64 = point.bucket_counts.iter().sum();
                    let count = integer(sample.value).saturating_sub(smaller);
                    point.bucket_counts.push(count);
                    let bound = sample.labels.iter().find(|(label, _)| *label == "le");
                    let bound = bound.and_then(|(_, bound)| bound.parse::<f64>().ok());
                    point.bounds.extend(bound.filter(|bound| bound.is_finite()));
                }
            }
        }
        points.into_iter().map(|(_, point)| point).collect()
    }
}

/// Name of the family. An `info` has none of its own but that of its samples.
fn name(family: &TextFamily<'_>) -> String {
    match family.kind {
        "info" => format!("{}_info", family.name),
        _ => family.name.to_owned(),
    }
}

#[cfg(test)]
mod tests;
