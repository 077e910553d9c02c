//! Settings of the export, from the variables that every program with OTLP understands.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use reqwest::Url;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};

use super::sampler::TraceSampler;

/// The environment, by name; an empty variable counts as unset.
pub(super) type Environment<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// Shortest interval between two sendings.
const INTERVAL_MIN: Duration = Duration::from_millis(100);

/// Destination of one kind of data.
#[derive(Clone, Debug)]
pub(super) struct SignalSettings {
    pub(super) url: Url,
    /// Headers, marked as secret.
    pub(super) headers: HeaderMap,
    /// Time for a call, with its answer.
    pub(super) timeout: Duration,
}

/// Files of certificates. The default is what the host trusts, and nothing that the agent shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct CertificateFiles {
    pub(super) authorities: Option<PathBuf>,
    pub(super) identity: Option<(PathBuf, PathBuf)>,
}

/// Settings of the whole export.
#[derive(Clone, Debug)]
pub(super) struct ExportSettings {
    pub(super) traces: Option<SignalSettings>,
    pub(super) metrics: Option<SignalSettings>,
    pub(super) files: CertificateFiles,
    pub(super) sampler: TraceSampler,
    /// Longest wait of an ended span.
    pub(super) span_delay: Duration,
    pub(super) metric_interval: Duration,
    /// Attributes of the resource that the operator gives.
    pub(super) resource: Vec<(String, String)>,
}

impl ExportSettings {
    /// Settings that the environment has; `None`: no endpoint is named, or the export is disabled.
    ///
    /// # Errors
    /// A variable that cannot be understood, or asks for what the agent cannot do.
    pub(super) fn read(environment: Environment<'_>) -> Result<Option<Self>, String> {
        let disabled = text(environment, "OTEL_SDK_DISABLED")?;
        if disabled.is_some_and(|value| value.eq_ignore_ascii_case("true")) {
            return Ok(None);
        }
        let traces = signal(environment, "TRACES")?;
        let metrics = signal(environment, "METRICS")?;
        if traces.is_none() && metrics.is_none() {
            return Ok(None);
        }
        let mut resource = Vec::new();
        if let Some(list) = text(environment, "OTEL_RESOURCE_ATTRIBUTES")? {
            resource = pairs("OTEL_RESOURCE_ATTRIBUTES", &list)?;
        }
        if let Some(name) = text(environment, "OTEL_SERVICE_NAME")? {
            resource.push(("service.name".to_owned(), name));
        }
        let interval = "OTEL_METRIC_EXPORT_INTERVAL";
        Ok(Some(Self {
            traces,
            metrics,
            files: files(environment)?,
            sampler: TraceSampler::read(
                text(environment, "OTEL_TRACES_SAMPLER")?.as_deref(),
                text(environment, "OTEL_TRACES_SAMPLER_ARG")?.as_deref(),
            )?,
            span_delay: time(environment, &["OTEL_BSP_SCHEDULE_DELAY"], 5_000)?.max(INTERVAL_MIN),
            metric_interval: time(environment, &[interval], 60_000)?.max(INTERVAL_MIN),
            resource,
        }))
    }
}

fn text(environment: Environment<'_>, name: &str) -> Result<Option<String>, String> {
    let value = environment(name).filter(|value| !value.is_empty());
    let value = value.map(OsString::into_string).transpose();
    value.map_err(|_| format!("{name} is not UTF-8"))
}

/// The first of these variables that is set, with its name.
fn first(environment: Environment<'_>, names: &[&str]) -> Result<Option<(String, String)>, String> {
    for name in names {
        if let Some(value) = text(environment, name)? {
            return Ok(Some(((*name).to_owned(), value)));
        }
    }
    Ok(None)
}

/// Destination of traces or metrics, the variables of which begin alike.
fn signal(environment: Environment<'_>, which: &str) -> Result<Option<SignalSettings>, String> {
    let exporter = format!("OTEL_{which}_EXPORTER");
    match text(environment, &exporter)?.as_deref() {
        None | Some("otlp") => {}
        Some("none") => return Ok(None),
        Some(other) => return Err(format!("{exporter} is {other:?}: give otlp or none")),
    }
    let own = |what: &str| format!("OTEL_EXPORTER_OTLP_{which}_{what}");
    let general = |what: &str| format!("OTEL_EXPORTER_OTLP_{what}");
    let either = |what: &str| first(environment, &[&own(what), &general(what)]);
    let own_endpoint = text(environment, &own("ENDPOINT"))?;
    let url = match (own_endpoint, text(environment, &general("ENDPOINT"))?) {
        (Some(url), _) => endpoint(&own("ENDPOINT"), &url)?,
        (None, Some(base)) => {
            let mut url = endpoint(&general("ENDPOINT"), &base)?;
            let path = url.path().trim_end_matches('/');
            url.set_path(&format!("{path}/v1/{}", which.to_ascii_lowercase()));
            url
        }
        (None, None) => return Ok(None),
    };
    for what in [
        "CERTIFICATE",
        "CLIENT_CERTIFICATE",
        "CLIENT_KEY",
        "TEMPORALITY_PREFERENCE",
    ] {
        if text(environment, &own(what))?.is_some_and(|value| value != "cumulative") {
            let name = own(what);
            return Err(format!(
                "{name} is not known to the agent: certificates are for both kinds (OTEL_EXPORTER_OTLP_{what}), and \
                 counts are cumulative"
            ));
        }
    }
    for (what, only) in [("PROTOCOL", "http/protobuf"), ("COMPRESSION", "none")] {
        if let Some((name, value)) = either(what)?.filter(|(_, value)| value != only) {
            return Err(format!("{name} is {value:?}: the agent knows {only} alone"));
        }
    }
    let mut headers = HeaderMap::new();
    if let Some((name, list)) = either("HEADERS")? {
        for (key, value) in pairs(&name, &list)? {
            // The value is a secret, and is not told.
            let wrong = || format!("{name}: {key:?} is no header, or its value is none");
            let header = HeaderName::from_bytes(key.as_bytes()).map_err(|_| wrong())?;
            let mut value = HeaderValue::from_str(&value).map_err(|_| wrong())?;
            value.set_sensitive(true);
            headers.insert(header, value);
        }
    }
    let timeout = time(environment, &[&own("TIMEOUT"), &general("TIMEOUT")], 10_000)?;
    Ok(Some(SignalSettings {
        url,
        headers,
        timeout,
    }))
}

fn endpoint(name: &str, value: &str) -> Result<Url, String> {
    // The value may hold a password, and is not told.
    let url = Url::parse(value).map_err(|error| format!("{name} is no URL: {error}"))?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err(format!("{name} is no URL of http or https"));
    }
    Ok(url)
}

fn files(environment: Environment<'_>) -> Result<CertificateFiles, String> {
    let file = |what: &str| text(environment, &format!("OTEL_EXPORTER_OTLP_{what}"));
    let identity = match (file("CLIENT_CERTIFICATE")?, file("CLIENT_KEY")?) {
        (Some(certificate), Some(key)) => Some((certificate.into(), key.into())),
        (None, None) => None,
        (Some(_), None) | (None, Some(_)) => {
            let both = "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE and OTEL_EXPORTER_OTLP_CLIENT_KEY";
            return Err(format!("{both} are of use only together"));
        }
    };
    Ok(CertificateFiles {
        authorities: file("CERTIFICATE")?.map(PathBuf::from),
        identity,
    })
}

/// Time in milliseconds.
fn time(environment: Environment<'_>, names: &[&str], default: u64) -> Result<Duration, String> {
    let Some((name, value)) = first(environment, names)? else {
        return Ok(Duration::from_millis(default));
    };
    let millis = value.trim().parse().ok();
    // An hour: a longer one would only be a wrong unit.
    let millis = millis.filter(|millis| (1..=3_600_000).contains(millis));
    let wrong = || format!("{name} is {value:?}: give milliseconds, from 1 to 3600000");
    Ok(Duration::from_millis(millis.ok_or_else(wrong)?))
}

/// Pairs of a list such as `a=1,b=2`, with values in the encoding of URLs.
fn pairs(name: &str, list: &str) -> Result<Vec<(String, String)>, String> {
    let items = list
        .split(',')
        .map(str::trim)
        .filter(|item| !item.is_empty());
    let pair = |item: &str| {
        let (key, value) = item.split_once('=')?;
        let key = key.trim();
        let value = decoded(value.trim())?;
        (!key.is_empty()).then(|| (key.to_owned(), value))
    };
    items
        .enumerate()
        .map(|(n, item)| {
            let wrong = || format!("{name}: entry {} is not key=value", n + 1);
            pair(item).ok_or_else(wrong)
        })
        .collect()
}

fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        if *byte == b'%' {
            let (code, after) = rest.split_at_checked(2)?;
            bytes.push(u8::from_str_radix(str::from_utf8(code).ok()?, 16).ok()?);
            rest = after;
        } else {
            bytes.push(*byte);
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Option<ExportSettings>, String> {
        let environment = |name: &str| {
            let found = variables.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| OsString::from(value))
        };
        ExportSettings::read(&environment)
    }

    const BASE: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318/x/");

    #[test]
    fn nothing_is_sent_that_no_endpoint_is_named_for() {
        assert!(read(&[]).unwrap().is_none());
        assert!(read(&[("OTEL_SERVICE_NAME", "x")]).unwrap().is_none());
        assert!(
            read(&[BASE, ("OTEL_SDK_DISABLED", "True")])
                .unwrap()
                .is_none()
        );
        let grpc_of_others = ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc");
        assert!(read(&[grpc_of_others]).unwrap().is_none());
        let own = ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "https://m/own?a=1");
        let only = read(&[own]).unwrap().unwrap();
        assert!(only.traces.is_none());
        assert_eq!(only.metrics.unwrap().url.as_str(), "https://m/own?a=1");
        let none = ("OTEL_TRACES_EXPORTER", "none");
        assert!(read(&[BASE, none]).unwrap().unwrap().traces.is_none());
    }

    #[test]
    fn a_base_is_followed_by_the_path_of_each_and_own_variables_come_first() {
        let all = read(&[
            BASE,
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
            ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/protobuf"),
            ("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "http/protobuf"),
            (
                "OTEL_EXPORTER_OTLP_HEADERS",
                "Authorization=Bearer%20s%2C3cret, b = 2",
            ),
            ("OTEL_EXPORTER_OTLP_METRICS_HEADERS", "c=3"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "2500"),
            ("OTEL_METRIC_EXPORT_INTERVAL", "1"),
            ("OTEL_RESOURCE_ATTRIBUTES", "a=b%3Dc,service.name=first"),
            ("OTEL_SERVICE_NAME", "second"),
        ]);
        let all = all.unwrap().unwrap();
        let (traces, metrics) = (all.traces.unwrap(), all.metrics.unwrap());
        assert_eq!(traces.url.as_str(), "http://c:4318/x/v1/traces");
        assert_eq!(metrics.url.as_str(), "http://c:4318/x/v1/metrics");
        assert_eq!(traces.headers["authorization"], "Bearer s,3cret");
        assert_eq!(traces.headers["b"], "2");
        assert!(!format!("{traces:?}").contains("s,3cret"));
        assert_eq!(metrics.headers.len(), 1);
        assert_eq!(traces.timeout, Duration::from_millis(2500));
        assert_eq!(all.metric_interval, INTERVAL_MIN);
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        let names = [
            pair("service.name", "first"),
            pair("service.name", "second"),
        ];
        assert_eq!(all.resource, [&[pair("a", "b=c")], &names[..]].concat());
    }

    #[test]
    fn what_cannot_be_understood_is_refused_by_its_name_and_no_secret_is_told() {
        for (variable, value, told) in [
            (
                "OTEL_EXPORTER_OTLP_PROTOCOL",
                "grpc",
                "the agent knows http/protobuf alone",
            ),
            (
                "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
                "http/json",
                "http/json",
            ),
            (
                "OTEL_EXPORTER_OTLP_COMPRESSION",
                "gzip",
                "the agent knows none alone",
            ),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "10s", "milliseconds"),
            ("OTEL_EXPORTER_OTLP_METRICS_TIMEOUT", "0", "milliseconds"),
            ("OTEL_METRIC_EXPORT_INTERVAL", "-1", "milliseconds"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "a=%zz", "entry 1"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "a=1,s3cret", "entry 2"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "a b=s3cret", "\"a b\""),
            ("OTEL_EXPORTER_OTLP_HEADERS", "a=s3cret%0a", "\"a\""),
            ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "s3cret", "no URL"),
            (
                "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
                "ftp://u:s3cret@h",
                "no URL of http",
            ),
            ("OTEL_RESOURCE_ATTRIBUTES", "=1", "entry 1"),
            ("OTEL_TRACES_EXPORTER", "zipkin", "otlp or none"),
            ("OTEL_TRACES_SAMPLER", "sometimes", "sometimes"),
            ("OTEL_EXPORTER_OTLP_CLIENT_KEY", "/k", "only together"),
        ] {
            let fault = read(&[BASE, (variable, value)]).unwrap_err();
            assert!(fault.contains(variable) && fault.contains(told), "{fault}");
            assert!(
                !fault.contains("s3cret") && !fault.contains('\n'),
                "{fault}"
            );
        }
    }
}
