//! Kinds of problems: one table of their words, status codes and titles.

use axum::http::StatusCode;

/// Makes the type of the table.
macro_rules! kinds {
    ($($code:ident $status:ident $title:literal)*) => {
        /// Kind of a problem.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub(in crate::api) enum ProblemKind {
            $(#[doc = $title] $code,)*
        }

        impl ProblemKind {
            /// The kinds, in the order of the table.
            pub(in crate::api) const ALL: &'static [Self] = &[$(Self::$code,)*];

            /// The word by which programs tell problems apart; it never changes its meaning.
            pub(in crate::api) const fn code(self) -> &'static str {
                match self {
                    $(Self::$code => stringify!($code),)*
                }
            }

            /// Status code of its answer.
            pub(in crate::api) const fn status(self) -> StatusCode {
                match self {
                    $(Self::$code => StatusCode::$status,)*
                }
            }

            /// Title of its answer.
            pub(in crate::api) const fn title(self) -> &'static str {
                match self {
                    $(Self::$code => $title,)*
                }
            }
        }
    };
}

kinds! {
    InvalidRequest BAD_REQUEST "invalid request"
    Unauthorized UNAUTHORIZED "credentials required"
    BrowserRequest FORBIDDEN "request of a web page"
    RoleTooLow FORBIDDEN "role too low"
    NameOutOfScope FORBIDDEN "not a container of this caller's"
    PolicyDenied FORBIDDEN "denied by the node's policy"
    NotFound NOT_FOUND "no such container"
    NoSuchPath NOT_FOUND "Not Found"
    NoSuchMethod METHOD_NOT_ALLOWED "Method Not Allowed"
    BodyTooSlow REQUEST_TIMEOUT "request body too slow"
    Conflict CONFLICT "conflicts with existing state"
    Unconfirmed CONFLICT "to be confirmed"
    ContainerEnded CONFLICT "the program did not come to its end"
    ChangedMeanwhile PRECONDITION_FAILED "changed meanwhile"
    BodyTooLarge PAYLOAD_TOO_LARGE "request body too large"
    UnsupportedMediaType UNSUPPORTED_MEDIA_TYPE "request body of another type"
    ExpectationFailed EXPECTATION_FAILED "expectation failed"
    UnknownHost MISDIRECTED_REQUEST "meant for another host"
    InvalidSpec UNPROCESSABLE_ENTITY "invalid container specification"
    // As the IETF's draft-ietf-httpapi-idempotency-key-header has it.
    IdempotencyKeyReused UNPROCESSABLE_ENTITY "Idempotency-Key already used"
    // Its word is the reason for which the container failed.
    ContainerFailed UNPROCESSABLE_ENTITY "the container failed"
    TooManyGuesses TOO_MANY_REQUESTS "too many wrong tokens"
    TooManyRequests TOO_MANY_REQUESTS "too many concurrent requests"
    InternalError INTERNAL_SERVER_ERROR "Internal Server Error"
    Unavailable SERVICE_UNAVAILABLE "temporarily unavailable"
    ExecLost SERVICE_UNAVAILABLE "the program did not come to its end"
    WaitTimedOut GATEWAY_TIMEOUT "timed out; the work goes on"
    ExecTimedOut GATEWAY_TIMEOUT "the program did not come to its end"
    NodeFull INSUFFICIENT_STORAGE "node capacity exceeded"
}
