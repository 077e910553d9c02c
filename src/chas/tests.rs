//! Tests of the link, the client and the checks of answers.

mod answers;
mod client;
mod failures;
mod fake;
mod fleet;
mod link;
mod tokens;
