//! A fuzz target: its name is that of the parser which it gives inputs to.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    chas_node_agent::hostile::survive(env!("CARGO_BIN_NAME"), input);
});
