//! Spans: begun where work begins, with the context of the work around it, and told to the queue when
//! they end.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use tokio::time::Instant;

use super::queue::SpanQueue;
use super::sampler::TraceSampler;
use super::wire::{AttributeValue, OtlpAttribute, OtlpSpan, OtlpStatus, SERVER, nanos};
use super::{Span, SpanFact, SpanOf};

/// Longest text of an attribute.
const TEXT_BYTES_MAX: usize = 1024;

/// Flags of a span: it is sampled, and whether its parent is another process's is known.
const FLAGS: u32 = 0x101;
/// Flag of a span whose parent is another process's.
const REMOTE_PARENT: u32 = 0x200;

tokio::task_local! {
    static AROUND: Arc<SpanPlace>;
}

/// Door for the spans of this process, once traces are sent.
static DOOR: OnceLock<Arc<SpanDoor>> = OnceLock::new();

/// The way of a span to the collector.
#[derive(Debug)]
pub(super) struct SpanDoor {
    pub(super) queue: SpanQueue,
    pub(super) sampler: TraceSampler,
}

impl SpanDoor {
    /// Makes it the door of all spans of this process, if there is none.
    pub(super) fn open(self: &Arc<Self>) {
        DOOR.set(Arc::clone(self)).ok();
    }
}

/// Name of a span within its trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct SpanContext {
    trace_id: [u8; 16],
    span_id: [u8; 8],
    is_sampled: bool,
}

impl SpanContext {
    /// Context that a caller sends in the header `traceparent` (W3C Trace Context, level 1).
    fn of_caller(header: &str) -> Option<Self> {
        let mut parts = header.split('-');
        let [version, trace_id, span_id, flags] = [(); 4].map(|()| parts.next());
        let [version] = hex(version?)?;
        // A later version may have more parts.
        if version == 0xff || (version == 0 && parts.next().is_some()) {
            return None;
        }
        let (trace_id, span_id) = (hex(trace_id?)?, hex(span_id?)?);
        let [flags] = hex(flags?)?;
        let is_valid = trace_id != [0; 16] && span_id != [0; 8];
        is_valid.then_some(Self {
            trace_id,
            span_id,
            is_sampled: flags & 1 == 1,
        })
    }
}

/// Bytes of a text of exactly so many, in small letters.
fn hex<const BYTES: usize>(text: &str) -> Option<[u8; BYTES]> {
    let is_small = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    if text.len() != 2 * BYTES || !text.as_bytes().iter().all(is_small) {
        return None;
    }
    let mut bytes = [0; BYTES];
    for (byte, two) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(str::from_utf8(two).ok()?, 16).ok()?;
    }
    Some(bytes)
}

/// Place of a span below its parent; without one, it is the first of a trace.
#[derive(Clone, Copy, Debug)]
struct TracePlace {
    context: SpanContext,
    parent: Option<[u8; 8]>,
}

impl TracePlace {
    fn below(parent: Option<SpanContext>, span_id: [u8; 8], sampler: TraceSampler) -> Self {
        let trace_id = parent.map_or_else(
            || {
                let mut trace_id = [0; 16];
                let halves = trace_id.chunks_exact_mut(8);
                halves.for_each(|half| half.copy_from_slice(&random_id()));
                trace_id
            },
            |parent| parent.trace_id,
        );
        let is_sampled = parent.map(|parent| parent.is_sampled);
        Self {
            context: SpanContext {
                trace_id,
                span_id,
                is_sampled: sampler.takes(is_sampled, trace_id),
            },
            parent: parent.map(|parent| parent.span_id),
        }
    }
}

fn random_id() -> [u8; 8] {
    state::store::random().max(1).to_be_bytes()
}

/// Place of a span, which is another one from when its caller is believed.
#[derive(Debug)]
struct SpanPlace {
    own: TracePlace,
    /// Place below the span that the caller names.
    asked: Option<TracePlace>,
    is_believed: AtomicBool,
}

impl SpanPlace {
    /// The place below the caller's span, if that counts.
    fn below_caller(&self) -> Option<TracePlace> {
        let is_believed = self.is_believed.load(Ordering::Relaxed);
        self.asked.filter(|_| is_believed)
    }

    fn now(&self) -> TracePlace {
        self.below_caller().unwrap_or(self.own)
    }

    /// Whether the span may be sent in the end.
    fn may_be_sent(&self) -> bool {
        let asked = self.asked.is_some_and(|asked| asked.context.is_sampled);
        self.own.context.is_sampled || asked
    }
}

/// Has the request that this task answers be part of the trace that its caller names, from now on.
pub(crate) fn believe_caller() {
    let believe = |place: &Arc<SpanPlace>| place.is_believed.store(true, Ordering::Relaxed);
    // Without a span there is nothing to believe.
    AROUND.try_with(believe).ok();
}

/// Span that is not ended yet.
#[derive(Debug)]
pub(super) struct OpenSpan {
    door: Arc<SpanDoor>,
    of: SpanOf,
    place: Arc<SpanPlace>,
    began: (SystemTime, Instant),
    facts: Vec<(SpanFact, AttributeValue)>,
    /// Word for the cause of a failure.
    failure: Option<String>,
}

impl OpenSpan {
    /// A span below `parent`, and below `asked` if that is believed.
    fn begin(
        door: &Arc<SpanDoor>,
        of: SpanOf,
        parent: Option<SpanContext>,
        asked: Option<SpanContext>,
    ) -> Self {
        let span_id = random_id();
        let below = |parent| TracePlace::below(parent, span_id, door.sampler);
        Self {
            door: Arc::clone(door),
            of,
            place: Arc::new(SpanPlace {
                own: below(parent),
                asked: asked.map(|asked| below(Some(asked))),
                is_believed: AtomicBool::new(false),
            }),
            began: (SystemTime::now(), Instant::now()),
            facts: Vec::new(),
            failure: None,
        }
    }

    fn tell(&mut self, fact: SpanFact, value: impl FnOnce() -> AttributeValue) {
        debug_assert!(self.of.facts().contains(&fact), "{:?} {fact:?}", self.of);
        if self.place.may_be_sent() {
            self.facts.push((fact, value()));
        }
    }

    fn word(&self, fact: SpanFact) -> &str {
        let told = self.facts.iter().find(|(told, _)| *told == fact);
        match told {
            Some((_, AttributeValue::Text(text))) => text,
            Some((_, AttributeValue::Number(_))) | None => "",
        }
    }

    /// Name of the span: of a closed set, as far as routes, steps and calls are.
    fn name(&self) -> String {
        let [first, second] = match self.of {
            SpanOf::Request => [self.word(SpanFact::Method), self.word(SpanFact::Route)],
            SpanOf::Step => ["step", self.word(SpanFact::Step)],
            SpanOf::Pull => ["pull", "image"],
            SpanOf::ChasCall => ["chas", self.word(SpanFact::Call)],
        };
        format!("{first} {second}").trim_end().to_owned()
    }

    fn ended(&self) -> OtlpSpan {
        let (start, began) = self.began;
        // By the steady clock: the other may be set meanwhile.
        let end = start + began.elapsed();
        let facts = self.facts.iter();
        let facts = facts.map(|(fact, value)| OtlpAttribute::new(fact.key(), value.clone()));
        let failure = self.failure.iter();
        let failure = failure.map(|word| OtlpAttribute::text(self.of.failure_key(), word));
        let TracePlace { context, parent } = self.place.now();
        let remote = self.place.below_caller().map_or(0, |_| REMOTE_PARENT);
        OtlpSpan {
            trace_id: context.trace_id.into(),
            span_id: context.span_id.into(),
            parent_span_id: parent.map(Vec::from).unwrap_or_default(),
            name: self.name(),
            kind: self.of.kind(),
            start_time: nanos(start),
            end_time: nanos(end),
            attributes: facts.chain(failure).collect(),
            status: self.failure.as_ref().map(|_| OtlpStatus {
                message: String::new(),
                code: 2,
            }),
            flags: FLAGS | remote,
        }
    }
}

impl Drop for OpenSpan {
    fn drop(&mut self) {
        if self.place.now().context.is_sampled {
            self.door.queue.push(self.ended());
        }
    }
}

impl SpanOf {
    /// Facts that a span of it may tell.
    const fn facts(self) -> &'static [SpanFact] {
        match self {
            Self::Request => &[
                SpanFact::Method,
                SpanFact::Route,
                SpanFact::Status,
                SpanFact::RequestId,
            ],
            Self::Step => &[SpanFact::Container, SpanFact::ContainerId, SpanFact::Step],
            Self::Pull => &[SpanFact::Image, SpanFact::Received],
            Self::ChasCall => &[SpanFact::Call, SpanFact::Method, SpanFact::Status],
        }
    }

    /// Key of the word for the cause of a failure.
    const fn failure_key(self) -> &'static str {
        match self {
            Self::Request | Self::ChasCall => "error.type",
            Self::Step | Self::Pull => "chas.reason",
        }
    }

    const fn kind(self) -> i32 {
        match self {
            Self::Step | Self::Pull => 1,
            Self::Request => SERVER,
            Self::ChasCall => 3,
        }
    }
}

impl SpanFact {
    /// Key of the attribute.
    const fn key(self) -> &'static str {
        match self {
            Self::Method => "http.request.method",
            Self::Route => "http.route",
            Self::Status => "http.response.status_code",
            Self::RequestId => "chas.request_id",
            Self::Container => "chas.container.name",
            Self::ContainerId => "chas.container.id",
            Self::Step => "chas.step",
            Self::Image => "chas.image",
            Self::Received => "chas.image.received_bytes",
            Self::Call => "chas.call",
        }
    }
}

impl Span {
    /// Begins a span, as part of the work around it, if that has one.
    pub(crate) fn begin(of: SpanOf) -> Self {
        let around = || AROUND.try_with(|around| around.now().context).ok();
        let open = |door| Box::new(OpenSpan::begin(door, of, around(), None));
        Self {
            open: DOOR.get().map(open),
        }
    }

    /// Begins a span for a caller that may name a trace, by its header `traceparent`. It is the first
    /// of a trace of its own, unless [`believe_caller`] says otherwise.
    pub(crate) fn follow<'a>(of: SpanOf, header: impl FnOnce() -> Option<&'a str>) -> Self {
        let asked = || header().and_then(SpanContext::of_caller);
        let open = |door| Box::new(OpenSpan::begin(door, of, None, asked()));
        Self {
            open: DOOR.get().map(open),
        }
    }

    /// Tells a fact.
    pub(crate) fn text(&mut self, fact: SpanFact, text: impl FnOnce() -> String) {
        if let Some(open) = &mut self.open {
            open.tell(fact, || {
                let mut text = text();
                text.truncate(text.floor_char_boundary(TEXT_BYTES_MAX));
                AttributeValue::Text(text)
            });
        }
    }

    /// Tells a number.
    pub(crate) fn number(&mut self, fact: SpanFact, number: u64) {
        if let Some(open) = &mut self.open {
            let number = i64::try_from(number).unwrap_or(i64::MAX);
            open.tell(fact, || AttributeValue::Number(number));
        }
    }

    /// Notes that the work failed, with a word for the cause.
    pub(crate) fn fail(&mut self, word: &str) {
        if let Some(open) = &mut self.open {
            open.failure = Some(word.to_owned());
        }
    }

    /// Notes that the work did not fail, after all.
    pub(crate) fn succeed(&mut self) {
        if let Some(open) = &mut self.open {
            open.failure = None;
        }
    }

    /// Does work of which the spans are part of this one.
    pub(crate) fn around<F: Future>(&self, work: F) -> impl Future<Output = F::Output> + use<F> {
        let place = self.open.as_ref().map(|open| Arc::clone(&open.place));
        let work = Box::pin(work);
        async move {
            match place {
                Some(place) => AROUND.scope(place, work).await,
                None => work.await,
            }
        }
    }
}

#[cfg(test)]
mod tests;
