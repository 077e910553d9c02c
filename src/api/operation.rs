//! Operation of the API: parameters, bodies and problems of a route, for its handler and the document.

use super::error::ProblemKind;

/// Operation of the API.
#[derive(Debug)]
pub(super) struct Operation {
    /// Name, by which generated clients call it.
    pub(super) id: &'static str,
    /// Meaning, in a sentence.
    pub(super) summary: &'static str,
    /// Query parameters. Any other one is refused.
    pub(super) query: &'static [Parameter],
    /// Headers that mean something to it.
    pub(super) headers: &'static [Parameter],
    /// Body that it takes.
    pub(super) body: TakenBody,
    /// Status codes and bodies of its answers.
    pub(super) answers: &'static [(u16, AnswerBody)],
    /// Problems of its own, beside those that follow from the rest.
    pub(super) problems: &'static [ProblemKind],
}

impl Operation {
    /// An operation that takes nothing.
    pub(super) const fn of(id: &'static str, summary: &'static str) -> Self {
        Self {
            id,
            summary,
            query: &[],
            headers: &[],
            body: TakenBody::None,
            answers: &[],
            problems: &[],
        }
    }
}

/// Parameter of an operation: in the query, or a header.
#[derive(Clone, Copy, Debug)]
pub(super) struct Parameter {
    pub(super) name: &'static str,
    pub(super) kind: ParameterKind,
    pub(super) words: &'static str,
}

/// Values of a parameter.
#[derive(Clone, Copy, Debug)]
pub(super) enum ParameterKind {
    /// `true` or `false`.
    Flag,
    /// A number from 0 on.
    Whole,
    /// A text.
    Text,
    /// A text that must be given.
    Required,
    /// A text that may be given several times.
    Texts,
    /// A word of these.
    Word(&'static [&'static str]),
    /// Some of these words, with commas between them.
    Words(&'static [&'static str]),
}

/// Body that an operation takes.
#[derive(Clone, Copy, Debug)]
pub(super) enum TakenBody {
    /// None.
    None,
    /// JSON of this schema.
    Json(&'static str),
    /// Plain bytes, or JSON of this schema.
    Bytes(&'static str),
    /// An archive.
    Tar,
}

/// Body of an answer.
#[derive(Clone, Copy, Debug)]
pub(super) enum AnswerBody {
    /// None.
    None,
    /// JSON of one of these schemas.
    Json(&'static [&'static str]),
    /// A line of JSON of this schema after the other.
    Lines(&'static str),
    /// Server-Sent Events.
    Events,
    /// Text.
    Text,
    /// A page.
    Html,
    /// Text of OpenMetrics.
    OpenMetrics,
    /// An archive.
    Tar,
}
