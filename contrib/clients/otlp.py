"""Decodes what comes with OTLP's own classes, judges each field, and at SIGTERM says what is wrong: otlp.py PORT"""

import collections
import gzip
import http.server
import re
import signal
import sys
import time

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

START = time.time_ns() - 60 * 10**9
OURS = {"service.name", "service.version", "service.instance.id", "host.name", "chas.node.id"}
faults, seen, spans, series = collections.Counter(), collections.Counter(), {}, {}


def check(is_right, what):
    faults[what] += not is_right


def attributes(of, where):
    pairs = {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in of}
    check(len(pairs) == len(of) and all(pairs), f"{where}: each key once")
    return pairs


def judge_span(span):
    name, parent = span.name, span.parent_span_id
    check(span.span_id not in spans, f"{name}: an id of its own")
    spans[span.span_id] = span
    seen[f"span {name}"] += 1
    check([len(span.trace_id), len(span.span_id)] == [16, 8] and len(parent) in (0, 8), f"{name}: ids")
    check(any(span.trace_id) and any(span.span_id), f"{name}: ids of zeros")
    check(START < span.start_time_unix_nano <= span.end_time_unix_nano < time.time_ns(), f"{name}: times")
    kind = 2 if name[0].isupper() else 3 if name.startswith("chas ") else 1
    check(span.kind == kind, f"{name}: kind {span.kind}")
    check(span.flags == 0x101 or (span.flags == 0x301 and parent), f"{name}: flags {span.flags:#x}")
    is_failed = bool({"error.type", "chas.reason"} & set(attributes(span.attributes, name)))
    check(span.status.code == 2 * is_failed and not span.status.message, f"{name}: status {span.status.code}")


def judge_metric(metric):
    name, kind = metric.name, metric.WhichOneof("data")
    data = getattr(metric, kind)
    seen[kind] += 1
    check(re.fullmatch(r"[a-z][a-z0-9_]{0,254}", name) and not name.endswith("_total"), f"{name}: name")
    check(metric.description and metric.unit in ("", "s", "By"), f"{name}: unit {metric.unit!r} or description")
    check(kind == "gauge" or data.aggregation_temporality == 2, f"{name}: temporality")
    check(kind != "sum" or data.is_monotonic, f"{name}: monotonic")
    keys = [(name, *sorted(attributes(point.attributes, name).items())) for point in data.data_points]
    check(len(set(keys)) == len(keys), f"{name}: one point for its attributes")
    for key, point in zip(keys, data.data_points):
        start, now = point.start_time_unix_nano, point.time_unix_nano
        check(START < now < time.time_ns(), f"{name}: time")
        if kind == "histogram":
            value, bounds, counts = point.count, list(point.explicit_bounds), list(point.bucket_counts)
            check(bounds == sorted(set(bounds)) and bounds[-1] < float("inf"), f"{name}: bounds {bounds}")
            check(len(counts) == len(bounds) + 1 and sum(counts) == value, f"{name}: counts {counts} of {value}")
            check(point.HasField("sum") and (value or not point.sum), f"{name}: sum")
        else:
            value = point.as_double
            check(point.WhichOneof("value") == "as_double" and value == value, f"{name}: value")
        if kind == "gauge":
            check(start == 0, f"{name}: start")
            continue
        before = series.get(key, (start, value, 0))
        is_more = start > before[0] or (start == before[0] and value >= before[1])
        check(0 < start <= now and now > before[2] and is_more, f"{name}: it grows from its start on")
        series[key] = (start, value, now)


class Receiver(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        try:
            self.judge()
        except Exception as fault:
            check(False, f"{self.path}: {fault!r}")
            self.send_error(400)

    def judge(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        body = gzip.decompress(body) if self.headers["content-encoding"] == "gzip" else body
        is_spans = self.path == "/v1/traces"
        request = (ExportTraceServiceRequest if is_spans else ExportMetricsServiceRequest).FromString(body)
        request.DiscardUnknownFields()
        check(request.ByteSize() == len(body), f"{self.path}: a field that the protocol does not have")
        for sender in request.resource_spans if is_spans else request.resource_metrics:
            check(OURS <= set(attributes(sender.resource.attributes, "resource")), "resource: attributes")
            for scope in sender.scope_spans if is_spans else sender.scope_metrics:
                check(scope.scope.name and scope.scope.version, "scope: name and version")
                for item in scope.spans if is_spans else scope.metrics:
                    (judge_span if is_spans else judge_metric)(item)
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_):
        pass


def end(*_):
    for span in spans.values():
        if span.parent_span_id and span.flags == 0x101:
            parent = spans.get(span.parent_span_id)
            check(parent and parent.trace_id == span.trace_id, f"{span.name}: its parent was sent")
    kinds = ["span GET", "span POST", "span step", "span pull", "span chas", "sum", "gauge", "histogram"]
    for kind in kinds:
        check(any(name.startswith(kind) for name in seen), f"{kind}: none came")
    said = [f"{count:6} {what}" for what, count in sorted(seen.items())]
    said += [f"wrong {count} times: {what}" for what, count in faults.most_common() if count]
    print("\n".join(said))
    sys.exit(f"{len(spans)} spans, {len(series)} counts that only grow, {sum(faults.values())} faults")


signal.signal(signal.SIGTERM, end)
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Receiver).serve_forever()
