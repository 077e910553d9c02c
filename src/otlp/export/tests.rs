use super::super::convert::MetricConverter;
use super::super::wire::*;
use super::*;

/// Bytes of a text of hexadecimal digits.
fn bytes(hex: &str) -> Vec<u8> {
    let pairs = hex.as_bytes().chunks(2);
    pairs
        .map(|pair| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

fn wrapped<I: OtlpItem>(items: Vec<I>) -> ExportRequest<I> {
    let attributes = vec![OtlpAttribute::text("service.name", "s")];
    let (name, version) = ("n".to_owned(), "1".to_owned());
    let scope = Some(OtlpScope { name, version });
    let scopes = vec![ScopeItems { scope, items }];
    let resource = Some(OtlpResource { attributes });
    let resources = vec![ResourceItems { resource, scopes }];
    ExportRequest { resources }
}

/// The bytes were written by the messages that the project of OTLP makes for Python
/// (`opentelemetry-proto` 1.45.2), from the same values.
#[test]
fn messages_are_those_of_the_protocol() {
    let span = OtlpSpan {
        trace_id: vec![1; 16],
        span_id: vec![2; 8],
        parent_span_id: vec![3; 8],
        name: "step pull".to_owned(),
        kind: 3,
        start_time: 5,
        end_time: 6,
        attributes: vec![OtlpAttribute::new("k", AttributeValue::Number(-7))],
        status: Some(OtlpStatus {
            message: "m".to_owned(),
            code: 2,
        }),
        flags: 1,
    };
    let request = wrapped(vec![span]);
    let official = concat!(
        "0a87010a150a130a0c736572766963652e6e616d6512030a0173126e0a060a016e12013112640a10010101010101",
        "01010101010101010101120802020202020202022208030303030303030",
        "32a09737465702070756c6c30033905000000000000004106000000000000004a100a016b120b18f9ffffffffffff",
        "ffff017a0512016d1802850101000000",
    );
    assert_eq!(request.encode_to_vec(), bytes(official));
    let answer = OtlpAnswer::decode(&bytes("0a06080212026e6f")[..]).unwrap();
    let partial = answer.partial.unwrap();
    assert_eq!((partial.rejected, partial.message.as_str()), (2, "no"));
}

#[test]
fn metrics_of_a_text_are_those_of_the_protocol() {
    let text = "\
# HELP g d
# TYPE g gauge
# UNIT g bytes
g 0
# TYPE c counter
c_total{l=\"w\"} 1.5
# TYPE h histogram
h_sum{l=\"w\"} 2.5
h_count{l=\"w\"} 3
h_bucket{le=\"0.5\",l=\"w\"} 1
h_bucket{le=\"+Inf\",l=\"w\"} 3
# EOF
";
    let metrics = MetricConverter::new(4).convert(text, 9);
    let request = wrapped(metrics);
    let official = concat!(
        "0acb010a150a130a0c736572766963652e6e616d6512030a017312b1010a060a016e12013112200a016712016",
        "41a0242792a140a1219090000000000000021000000000000000012300a01633a2b0a25110400000000000000",
        "19090000000000000021000000000000f83f3a080a016c12030a01771002180112530a01684a4e0a4a1104000",
        "000000000001909000000000000002103000000000000002900000000000004403210010000000000000002000",
        "000000000003a08000000000000e03f4a080a016c12030a01771002",
    );
    assert_eq!(request.encode_to_vec(), bytes(official));
}

#[test]
fn the_resource_names_the_node_and_the_operator_s_attributes_come_first() {
    let environment = |name: &str| {
        Some(OsString::from(match name {
            "OTEL_EXPORTER_OTLP_ENDPOINT" => "http://c:4318",
            "OTEL_RESOURCE_ATTRIBUTES" => "deployment.environment.name=prod,host.name=other",
            "OTEL_SERVICE_NAME" => "mine",
            _ => return None,
        }))
    };
    let settings = ExportSettings::read(&environment).unwrap().unwrap();
    let resource = resource(&settings, ("n1", "h1"));
    let expected = [
        ("service.version", env!("CARGO_PKG_VERSION")),
        ("service.instance.id", "n1"),
        ("chas.node.id", "n1"),
        ("deployment.environment.name", "prod"),
        ("host.name", "other"),
        ("service.name", "mine"),
    ];
    let expected = expected.map(|(key, value)| OtlpAttribute::text(key, value));
    assert_eq!(resource.attributes, expected);
}

#[test]
fn the_page_names_every_variable() {
    let page = include_str!("../../../contrib/docs/otlp.md");
    let is_name = |char: char| char.is_ascii_uppercase() || char == '_';
    let sources = [
        include_str!("../settings.rs"),
        include_str!("../sampler.rs"),
    ];
    let shipped = sources.map(|source| source.split("mod tests {").next().unwrap());
    let words = shipped
        .iter()
        .flat_map(|source| source.split(|char| !is_name(char)));
    let names = words.filter(|word| word.starts_with("OTEL_") && !word.ends_with('_'));
    let parts = ["ENDPOINT", "PROTOCOL", "COMPRESSION", "HEADERS", "TIMEOUT"];
    let files = ["CERTIFICATE", "CLIENT_CERTIFICATE", "CLIENT_KEY"];
    let general = parts
        .into_iter()
        .chain(files)
        .map(|part| format!("OTEL_EXPORTER_OTLP_{part}"));
    let own = ["TRACES", "METRICS"].map(|which| format!("OTEL_{which}_EXPORTER"));
    let all: Vec<String> = names.map(str::to_owned).chain(general).chain(own).collect();
    assert!(all.len() > 15, "{all:?}");
    for name in all {
        assert!(
            page.contains(&format!("`{name}`")),
            "contrib/docs/otlp.md lacks {name}"
        );
    }
}
