//! Payloads that are JSON, and that a program may stumble over all the same.

/// Far beyond what serde_json reads into values, and what a recursive reader has stack for.
const DEPTH: usize = 20_000;

/// Valid JSON texts: of every kind, with text that is no Unicode once unescaped, with control
/// characters, what looks like a template or a header, very deep, and very long.
pub fn odd_payloads() -> Vec<String> {
    let deep = format!("{}{}", "[".repeat(DEPTH), "]".repeat(DEPTH));
    let long = format!(r#"{{"text":"{}"}}"#, "🦀\\n".repeat(50_000));
    [
        "null",
        "true",
        "-0.0e-0",
        "1e999",
        r#""""#,
        r#""👩‍👩‍👧‍👦 \ud83e\udd80""#,
        r#""\ud800""#,
        r#"{"text":"\udc00\ud800","\ud800":1}"#,
        r#"{"text":"\u0000\r\n.\r\nBcc: x@example.com\u001b[31m\u202e"}"#,
        r#"{"text":"{{ payload }}{% raw %}","a":1,"a":2}"#,
        r#"[[],{},[null]]"#,
        "{ \r\n\t\"text\" :\n[ ] }",
    ]
    .map(str::to_owned)
    .into_iter()
    .chain([deep, long])
    .collect()
}
