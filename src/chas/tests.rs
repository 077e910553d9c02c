//! The link over calls that only play their part, in virtual time; the client over sockets; and what answers are believed.

mod answers;
mod client;
mod fake;
mod faults;
mod fleet;
mod link;
