//! The link over calls that only play their part, in virtual time; the client over sockets; and
//! what answers are believed.

mod answers;
mod client;
mod failures;
mod fake;
mod fleet;
mod link;
