//! The program as it is built unless the feature `otlp` is asked for: nothing of it is in there.

const PROGRAM: &str = env!("CARGO_BIN_EXE_chas-node-agent");

#[test]
fn nothing_of_the_export_is_in_the_program_and_no_crate_comes_with_it() {
    let program = std::fs::read(PROGRAM).expect("cargo built it");
    let has = |text: &str| {
        program
            .windows(text.len())
            .any(|part| part == text.as_bytes())
    };
    assert!(has("CHAS_API_URL"), "its variables are in its data");
    for word in [
        "OTEL_",
        "OTLP",
        "application/x-protobuf",
        "chas.container.name",
    ] {
        assert!(!has(word), "{word} is in {PROGRAM}");
    }
    let manifest = include_str!("../../Cargo.toml");
    assert!(manifest.lines().any(|line| line == "otlp = []"));
}
