//! Bodies that are no JSON, or say two things at once.

use super::*;

pub(super) fn not_json() -> Vec<Row> {
    let ambiguous = br#"{"name":"x","name":"localhost","image":"a.example/x"}"#;
    let deep = br#"{"name":"x","image":"a.example/x","resources":{"memory":"1g","memory":"64m"}}"#;
    let open = [br#"{"a":"#.repeat(127), b"1".to_vec(), b"}".repeat(127)].concat();
    let many = [
        &br#"{"name":"x","image":"x","zz":["#[..],
        &b"[],".repeat(300_000),
        b"[]]}",
    ]
    .concat();
    let utf16: Vec<u8> = "{\"name\":\"x\"}"
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect();
    let surrogate = br#"{"name":"x","image":"a.example/x","environment":{"A":"\ud800"}}"#;
    let large = format!(r#"{{"name":"{}"}}"#, "x".repeat(2 << 20)).into_bytes();
    vec![
        ("nothing", DEPLOY, vec![], 400, "InvalidRequest", &[]),
        (
            "a word",
            DEPLOY,
            b"deploy".to_vec(),
            400,
            "InvalidRequest",
            &[],
        ),
        (
            "half a body",
            DEPLOY,
            br#"{"name":"x""#.to_vec(),
            400,
            "InvalidRequest",
            &[],
        ),
        (
            "two bodies",
            DEPLOY,
            [with(&json!({})), with(&json!({}))].concat(),
            400,
            "InvalidRequest",
            &[],
        ),
        (
            "100,000 brackets",
            DEPLOY,
            b"[".repeat(100_000),
            400,
            "InvalidRequest",
            &[],
        ),
        (
            "127 objects in each other",
            DEPLOY,
            open,
            422,
            "InvalidSpec",
            &["name", "image", "a"],
        ),
        ("300,000 lists", DEPLOY, many, 422, "InvalidSpec", &["zz"]),
        (
            "a name twice",
            DEPLOY,
            ambiguous.to_vec(),
            400,
            "InvalidRequest",
            &[],
        ),
        (
            "a limit twice",
            DEPLOY,
            deep.to_vec(),
            400,
            "InvalidRequest",
            &[],
        ),
        (
            "another encoding",
            DEPLOY,
            utf16,
            400,
            "InvalidRequest",
            &[],
        ),
        (
            "a byte order mark",
            DEPLOY,
            b"\xef\xbb\xbf{}".to_vec(),
            400,
            "InvalidRequest",
            &[],
        ),
        (
            "no UTF-8",
            DEPLOY,
            b"{\"name\":\"\xff\"}".to_vec(),
            400,
            "InvalidRequest",
            &[],
        ),
        (
            "half a surrogate",
            DEPLOY,
            surrogate.to_vec(),
            400,
            "InvalidRequest",
            &[],
        ),
        (
            "a number beyond all",
            DEPLOY,
            br#"{"name":1e999}"#.to_vec(),
            400,
            "InvalidRequest",
            &[],
        ),
        ("2 MiB", DEPLOY, large, 413, "BodyTooLarge", &[]),
        ("a list", DEPLOY, b"[]".to_vec(), 422, "InvalidSpec", &[""]),
        (
            "a form",
            DEPLOY,
            b"name=x&image=y".to_vec(),
            400,
            "InvalidRequest",
            &[],
        ),
        (
            "a set with a set twice",
            SET,
            br#"{"containers":[],"containers":[]}"#.to_vec(),
            400,
            "InvalidRequest",
            &[],
        ),
    ]
}
