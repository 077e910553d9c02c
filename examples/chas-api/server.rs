//! An example of the CHaS API server, in one process and without TLS. It knows nothing of the agent but the deploy body.
//!
//! Tests include this file by `#[path]`. Such a file's own modules are looked for beside it, those of a `mod server;` below
//! `server/`: their paths are spelt out, so that both find them.

#[path = "server/disk.rs"]
mod disk;
#[path = "server/nodes.rs"]
mod nodes;
#[path = "server/problem.rs"]
mod problem;
#[path = "server/schema.rs"]
mod schema;
#[path = "server/sets.rs"]
mod sets;
#[path = "server/tokens.rs"]
mod tokens;
