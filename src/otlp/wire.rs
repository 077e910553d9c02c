//! Messages of OTLP 1 as far as the agent sends them: field numbers and meanings of
//! `opentelemetry/proto/{common,resource,trace,metrics,collector}`, which are declared stable.

use std::fmt::Debug;
use std::time::SystemTime;

use prost::{Message, Oneof};

/// Kind of a span that answers another process (`SPAN_KIND_SERVER`).
pub(super) const SERVER: i32 = 2;

/// Time as the messages have it: nanoseconds since 1970.
pub(super) fn nanos(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    u64::try_from(since.unwrap_or_default().as_nanos()).unwrap_or(u64::MAX)
}

/// Text or number of an attribute (`AnyValue`).
#[derive(Clone, PartialEq, Message)]
pub(super) struct OtlpValue {
    #[prost(oneof = "AttributeValue", tags = "1, 3")]
    pub(super) value: Option<AttributeValue>,
}

/// Kinds of values that the agent's attributes have.
#[derive(Clone, PartialEq, Oneof)]
pub(super) enum AttributeValue {
    #[prost(string, tag = "1")]
    Text(String),
    #[prost(int64, tag = "3")]
    Number(i64),
}

/// Attribute (`KeyValue`).
#[derive(Clone, PartialEq, Message)]
pub(super) struct OtlpAttribute {
    #[prost(string, tag = "1")]
    pub(super) key: String,
    #[prost(message, optional, tag = "2")]
    pub(super) value: Option<OtlpValue>,
}

impl OtlpAttribute {
    pub(super) fn new(key: &str, value: AttributeValue) -> Self {
        Self {
            key: key.to_owned(),
            value: Some(OtlpValue { value: Some(value) }),
        }
    }

    pub(super) fn text(key: &str, text: &str) -> Self {
        Self::new(key, AttributeValue::Text(text.to_owned()))
    }
}

/// Sender of everything in a request (`Resource`).
#[derive(Clone, PartialEq, Message)]
pub(super) struct OtlpResource {
    #[prost(message, repeated, tag = "1")]
    pub(super) attributes: Vec<OtlpAttribute>,
}

/// Program that measured (`InstrumentationScope`).
#[derive(Clone, PartialEq, Message)]
pub(super) struct OtlpScope {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(string, tag = "2")]
    pub(super) version: String,
}

/// Span (`Span`). Times are nanoseconds since 1970.
#[derive(Clone, PartialEq, Message)]
pub(super) struct OtlpSpan {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) span_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    pub(super) parent_span_id: Vec<u8>,
    #[prost(string, tag = "5")]
    pub(super) name: String,
    /// 1: internal, 2: server, 3: client.
    #[prost(int32, tag = "6")]
    pub(super) kind: i32,
    #[prost(fixed64, tag = "7")]
    pub(super) start_time: u64,
    #[prost(fixed64, tag = "8")]
    pub(super) end_time: u64,
    #[prost(message, repeated, tag = "9")]
    pub(super) attributes: Vec<OtlpAttribute>,
    #[prost(message, optional, tag = "15")]
    pub(super) status: Option<OtlpStatus>,
    /// Trace flags of W3C, and whether the parent is another process's.
    #[prost(fixed32, tag = "16")]
    pub(super) flags: u32,
}

/// End of a span (`Status`).
#[derive(Clone, PartialEq, Message)]
pub(super) struct OtlpStatus {
    #[prost(string, tag = "2")]
    pub(super) message: String,
    /// 2: error.
    #[prost(int32, tag = "3")]
    pub(super) code: i32,
}

/// Family of numbers (`Metric`).
#[derive(Clone, PartialEq, Message)]
pub(super) struct OtlpMetric {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(string, tag = "2")]
    pub(super) description: String,
    /// Unit, as UCUM writes it.
    #[prost(string, tag = "3")]
    pub(super) unit: String,
    #[prost(oneof = "MetricPoints", tags = "5, 7, 9")]
    pub(super) points: Option<MetricPoints>,
}

/// Points of a family, by its kind.
#[derive(Clone, PartialEq, Oneof)]
pub(super) enum MetricPoints {
    #[prost(message, tag = "5")]
    Gauge(OtlpGauge),
    #[prost(message, tag = "7")]
    Sum(OtlpSum),
    #[prost(message, tag = "9")]
    Histogram(OtlpHistogram),
}

/// Numbers that go up and down (`Gauge`).
#[derive(Clone, PartialEq, Message)]
pub(super) struct OtlpGauge {
    #[prost(message, repeated, tag = "1")]
    pub(super) points: Vec<NumberPoint>,
}

/// `AGGREGATION_TEMPORALITY_CUMULATIVE`: each point counts from its start time on.
pub(super) const CUMULATIVE: i32 = 2;

/// Counters (`Sum`).
#[derive(Clone, PartialEq, Message)]
pub(super) struct OtlpSum {
    #[prost(message, repeated, tag = "1")]
    pub(super) points: Vec<NumberPoint>,
    #[prost(int32, tag = "2")]
    pub(super) temporality: i32,
    #[prost(bool, tag = "3")]
    pub(super) is_monotonic: bool,
}

/// Histograms (`Histogram`).
#[derive(Clone, PartialEq, Message)]
pub(super) struct OtlpHistogram {
    #[prost(message, repeated, tag = "1")]
    pub(super) points: Vec<HistogramPoint>,
    #[prost(int32, tag = "2")]
    pub(super) temporality: i32,
}

/// Number at a time (`NumberDataPoint`).
#[derive(Clone, PartialEq, Message)]
pub(super) struct NumberPoint {
    #[prost(fixed64, tag = "2")]
    pub(super) start_time: u64,
    #[prost(fixed64, tag = "3")]
    pub(super) time: u64,
    /// In a oneof of the protocol, so that a 0 is sent too.
    #[prost(double, optional, tag = "4")]
    pub(super) value: Option<f64>,
    #[prost(message, repeated, tag = "7")]
    pub(super) attributes: Vec<OtlpAttribute>,
}

/// Counts by size at a time (`HistogramDataPoint`).
#[derive(Clone, PartialEq, Message)]
pub(super) struct HistogramPoint {
    #[prost(fixed64, tag = "2")]
    pub(super) start_time: u64,
    #[prost(fixed64, tag = "3")]
    pub(super) time: u64,
    #[prost(fixed64, tag = "4")]
    pub(super) count: u64,
    #[prost(double, optional, tag = "5")]
    pub(super) sum: Option<f64>,
    #[prost(fixed64, repeated, tag = "6")]
    pub(super) bucket_counts: Vec<u64>,
    /// Upper ends of all buckets but the last.
    #[prost(double, repeated, tag = "7")]
    pub(super) bounds: Vec<f64>,
    #[prost(message, repeated, tag = "9")]
    pub(super) attributes: Vec<OtlpAttribute>,
}

/// Things that are sent in the same wrapping: spans and families.
pub(super) trait OtlpItem: Message + Default + Debug {}

impl OtlpItem for OtlpSpan {}
impl OtlpItem for OtlpMetric {}

/// Items of one program (`ScopeSpans`, `ScopeMetrics`).
#[derive(Clone, PartialEq, Message)]
pub(super) struct ScopeItems<I: OtlpItem> {
    #[prost(message, optional, tag = "1")]
    pub(super) scope: Option<OtlpScope>,
    #[prost(message, repeated, tag = "2")]
    pub(super) items: Vec<I>,
}

/// Items of one sender (`ResourceSpans`, `ResourceMetrics`).
#[derive(Clone, PartialEq, Message)]
pub(super) struct ResourceItems<I: OtlpItem> {
    #[prost(message, optional, tag = "1")]
    pub(super) resource: Option<OtlpResource>,
    #[prost(message, repeated, tag = "2")]
    pub(super) scopes: Vec<ScopeItems<I>>,
}

/// Body of `POST /v1/traces` and of `POST /v1/metrics` (`ExportTraceServiceRequest`,
/// `ExportMetricsServiceRequest`).
#[derive(Clone, PartialEq, Message)]
pub(super) struct ExportRequest<I: OtlpItem> {
    #[prost(message, repeated, tag = "1")]
    pub(super) resources: Vec<ResourceItems<I>>,
}

/// Answer to both (`ExportTraceServiceResponse`, `ExportMetricsServiceResponse`).
#[derive(Clone, PartialEq, Message)]
pub(super) struct OtlpAnswer {
    #[prost(message, optional, tag = "1")]
    pub(super) partial: Option<PartialSuccess>,
}

/// Part of a request that the collector refused (`Export…PartialSuccess`).
#[derive(Clone, PartialEq, Message)]
pub(super) struct PartialSuccess {
    #[prost(int64, tag = "1")]
    pub(super) rejected: i64,
    #[prost(string, tag = "2")]
    pub(super) message: String,
}
