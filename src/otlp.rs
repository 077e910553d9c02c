//! Traces and metrics for a collector, by OTLP over HTTP, behind the feature `otlp`. Without it every
//! call here is empty, and the compiler leaves nothing of it.
//!
//! The room knows none of the things that it tells of: whoever works begins a [`Span`], and whoever
//! wires gives the metrics as `GET /metrics` has them.

#[cfg(feature = "otlp")]
mod collector;
#[cfg(feature = "otlp")]
mod convert;
#[cfg(feature = "otlp")]
mod export;
#[cfg(not(feature = "otlp"))]
mod nothing;
#[cfg(feature = "otlp")]
mod queue;
#[cfg(feature = "otlp")]
mod sampler;
#[cfg(feature = "otlp")]
mod settings;
#[cfg(feature = "otlp")]
mod signal_log;
#[cfg(feature = "otlp")]
mod span;
#[cfg(feature = "otlp")]
mod wire;

#[cfg(feature = "otlp")]
pub(crate) use self::export::{end, start};
#[cfg(not(feature = "otlp"))]
pub(crate) use self::nothing::{believe_caller, end, start};
#[cfg(feature = "otlp")]
pub(crate) use self::span::believe_caller;

/// Work that has a span.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SpanOf {
    /// Request of the API.
    Request,
    /// Step of the reconciler on a container.
    Step,
    /// Pull of an image.
    Pull,
    /// Call to CHaS.
    ChasCall,
}

/// Facts that a span tells. There are few, so that none of them can be a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SpanFact {
    /// Method of HTTP.
    Method,
    /// Route of the API, without what a caller put into it.
    Route,
    /// Status of the answer.
    Status,
    /// Id of the request.
    RequestId,
    /// Name of the container.
    Container,
    /// Id of the container.
    ContainerId,
    /// Step.
    Step,
    /// Reference of the image.
    Image,
    /// Bytes that came from registries.
    Received,
    /// Kind of call.
    Call,
}

/// Span of work under way. It ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Span {
    /// `None`: no traces are sent.
    #[cfg(feature = "otlp")]
    open: Option<Box<span::OpenSpan>>,
}
