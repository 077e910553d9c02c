use super::*;

const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

fn door() -> Arc<SpanDoor> {
    door_of("parentbased_always_on")
}

fn door_of(sampler: &str) -> Arc<SpanDoor> {
    let sampler = TraceSampler::read(Some(sampler), None).unwrap();
    let queue = SpanQueue::default();
    Arc::new(SpanDoor { queue, sampler })
}

fn span(door: &Arc<SpanDoor>, of: SpanOf, parent: Option<SpanContext>) -> Span {
    let open = Some(Box::new(OpenSpan::begin(door, of, parent, None)));
    Span { open }
}

/// A request whose caller names this trace.
fn request(door: &Arc<SpanDoor>, header: &str) -> Span {
    let asked = Some(SpanContext::of_caller(header).unwrap());
    let open = OpenSpan::begin(door, SpanOf::Request, None, asked);
    let open = Some(Box::new(open));
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
        let around = AROUND.try_with(|around| around.now().context).ok();
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

/// The request and the pull inside of it, as they are sent.
async fn sent(sampler: &str, header: &str, is_let_in: bool) -> Vec<OtlpSpan> {
    let door = door_of(sampler);
    let mut request = request(&door, header);
    request.text(SpanFact::Route, || "/containers".to_owned());
    let (spans, inner) = (Arc::clone(&door), async move {
        if is_let_in {
            believe_caller();
        }
        let around = AROUND.try_with(|around| around.now().context).ok();
        drop(span(&door, SpanOf::Pull, around));
    });
    request.around(inner).await;
    drop(request);
    spans.queue.take()
}

#[tokio::test]
async fn a_caller_s_trace_and_its_choice_count_from_when_it_is_let_in() {
    let asked = SpanContext::of_caller(PARENT).unwrap();
    let unsampled = PARENT.replace("-01", "-00");
    // Outside of any request nobody is there to be believed.
    believe_caller();
    for (sampler, is_let_in, header, is_sent) in [
        ("parentbased_always_on", true, PARENT, true),
        ("parentbased_always_on", false, PARENT, true),
        ("parentbased_always_on", true, &unsampled, false),
        ("parentbased_always_on", false, &unsampled, true),
        ("parentbased_always_off", true, PARENT, true),
        ("parentbased_always_off", false, PARENT, false),
        ("parentbased_always_off", true, &unsampled, false),
        ("always_on", true, &unsampled, true),
        ("always_off", true, PARENT, false),
    ] {
        let spans = sent(sampler, header, is_let_in).await;
        let case = format!("{sampler}, let in: {is_let_in}, {header}: {spans:?}");
        let [pull, request] = &spans[..] else {
            assert!(!is_sent && spans.is_empty(), "{case}");
            continue;
        };
        assert!(is_sent, "{case}");
        assert_eq!(pull.parent_span_id, request.span_id, "{case}");
        assert_eq!(pull.trace_id, request.trace_id, "{case}");
        assert_eq!(request.trace_id == asked.trace_id, is_let_in, "{case}");
        assert_eq!(
            attribute(request, "http.route"),
            Some(&AttributeValue::Text("/containers".to_owned()))
        );
        // A root of its own; or below a parent, which is another process's.
        let (parent, flags) = match is_let_in {
            true => (&asked.span_id[..], 0x301),
            false => (&[][..], 0x101),
        };
        assert_eq!(
            (&request.parent_span_id[..], request.flags),
            (parent, flags),
            "{case}"
        );
        assert_eq!(pull.flags, 0x101, "{case}");
    }
}

#[test]
fn a_trace_that_is_not_sampled_costs_no_fact_and_is_not_sent_nor_is_any_part_of_it() {
    let door = door_of("always_off");
    let mut request = request(&door, PARENT);
    request.text(SpanFact::Route, || panic!("nobody asks for it"));
    let place = request.open.as_ref().map(|open| open.place.now().context);
    drop(span(&door, SpanOf::Pull, place));
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
