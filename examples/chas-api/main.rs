//! The process of the example: arguments, logging, run, exit code.

mod server;

fn main() {}
