//! The agent's parts on a real kernel. Needs root.

mod network;
