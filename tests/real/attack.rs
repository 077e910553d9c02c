//! What hostile callers send, each with the refusal that it gets.

mod requests;
