use super::*;

const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

fn door() -> Arc<SpanDoor> {
    let sampler = TraceSampler::read(None, None).unwrap();
    let queue = SpanQueue::default();
    Arc::new(SpanDoor { queue, sampler })
}

fn span(door: &Arc<SpanDoor>, of: SpanOf, parent: Option<SpanContext>) -> Span {
    let open = Some(Box::new(OpenSpan::begin(door, of, parent)));
    Span { open }
}

fn attribute<'s>(span: &'s OtlpSpan, key: &str) -> Option<&'s AttributeValue> {
    let found = span
        .attributes
        .iter()
        .find(|attribute| attribute.key == key);
    found?.value.as_ref()?.value.as_ref()
}

#[test]
fn a_caller_s_trace_is_taken_up_if_its_header_is_one() {
    let context = SpanContext::of_caller(PARENT).unwrap();
    assert_eq!((context.trace_id[0], context.trace_id[15]), (0x0a, 0x9c));
    assert_eq!((context.span_id[0], context.span_id[7]), (0xb7, 0x31));
    assert!(context.is_sampled);
    let unsampled = PARENT.replace("-01", "-00");
    assert!(!SpanContext::of_caller(&unsampled).unwrap().is_sampled);
    let later = format!("{}-more", PARENT.replacen("00", "cc", 1));
    assert_eq!(SpanContext::of_caller(&later), Some(context));
    for other in [
        "",
        "00",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
        "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
        "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
        "00-00000000000000000000000000000000-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
        "00-0af7651916cd43dd8448eb211c80319-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319\u{e9}-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-+1",
    ] {
        assert_eq!(SpanContext::of_caller(other), None, "{other:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn work_inside_of_other_work_is_part_of_it_and_times_are_of_the_steady_clock() {
    let door = door();
    let mut step = span(&door, SpanOf::Step, None);
    step.text(SpanFact::Step, || "pull".to_owned());
    step.text(SpanFact::Container, || "\u{e9}".repeat(TEXT_BYTES_MAX));
    let (spans, inner) = (Arc::clone(&door), async {
        let around = AROUND.try_with(|around| *around).ok();
        drop(span(&door, SpanOf::Pull, around));
        tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    });
    step.around(inner).await;
    step.fail("ImageNotFound");
    assert!(AROUND.try_with(|_| ()).is_err());
    drop(step);
    let ended = spans.queue.take();
    let [pull, step] = &ended[..] else {
        panic!("{ended:?}");
    };
    assert_eq!(
        (pull.name.as_str(), step.name.as_str()),
        ("pull image", "step pull")
    );
    assert_eq!(pull.trace_id, step.trace_id);
    assert_eq!(pull.parent_span_id, step.span_id);
    assert!(step.parent_span_id.is_empty() && step.span_id.len() == 8);
    assert_eq!(step.end_time - step.start_time, 3_000_000_000);
    let text = |key| match attribute(step, key) {
        Some(AttributeValue::Text(text)) => text.as_str(),
        other => panic!("{key}: {other:?}"),
    };
    assert_eq!(text("chas.container.name").len(), TEXT_BYTES_MAX);
    assert_eq!(text("chas.reason"), "ImageNotFound");
    assert_eq!(step.status.as_ref().map(|status| status.code), Some(2));
    assert_eq!(pull.status, None);
}

#[test]
fn a_trace_that_is_not_sampled_costs_no_fact_and_is_not_sent_nor_is_any_part_of_it() {
    let door = door();
    let parent = SpanContext::of_caller(&PARENT.replace("-01", "-00"));
    let mut request = span(&door, SpanOf::Request, parent);
    request.text(SpanFact::Route, || panic!("nobody asks for it"));
    let context = request.open.as_ref().map(|open| open.context);
    drop(span(&door, SpanOf::Pull, context));
    drop(request);
    assert!(door.queue.take().is_empty());
}

#[test]
fn the_page_has_a_row_for_each_span_with_its_attributes() {
    let page = include_str!("../../../contrib/docs/otlp.md");
    for (of, name, (kind, number)) in [
        (SpanOf::Request, "`METHOD ROUTE`", ("server", 2)),
        (SpanOf::Step, "`step STEP`", ("internal", 1)),
        (SpanOf::Pull, "`pull image`", ("internal", 1)),
        (SpanOf::ChasCall, "`chas CALL`", ("client", 3)),
    ] {
        let keys = of.facts().iter().map(|fact| format!("`{}`", fact.key()));
        let keys = keys.collect::<Vec<_>>().join(", ");
        let row = format!("| {name} | {kind} | {keys} | `{}` |", of.failure_key());
        assert!(page.contains(&row), "contrib/docs/otlp.md lacks: {row}");
        assert_eq!(of.kind(), number);
    }
}
