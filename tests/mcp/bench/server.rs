//! The server of `cargo xtask bench mcp`, which compiles this one file by itself: a stdio MCP server that does as
//! little as one can, so that what is measured is what stands in front of it. One optional argument: how long the
//! text is that a call returns.

use std::io::{self, BufRead, Write};

fn main() -> io::Result<()> {
    let length = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(2);
    let called = format!(r#"{{"content":[{{"type":"text","text":"{}"}}]}}"#, "x".repeat(length));
    let (mut input, mut output) = (io::stdin().lock(), io::stdout().lock());
    let (mut line, mut answer) = (String::new(), String::new());
    while input.read_line(&mut line)? > 0 {
        if let Some(id) = word_after(&line, "\"id\":") {
            let result = match word_after(&line, "\"method\":").unwrap_or_default().trim_matches('"') {
                "initialize" => INITIALIZED,
                "tools/list" => TOOLS,
                "tools/call" => &called,
                _ => "{}",
            };
            for part in ["{\"jsonrpc\":\"2.0\",\"id\":", id, ",\"result\":", result, "}\n"] {
                answer.push_str(part);
            }
            output.write_all(answer.as_bytes())?;
            output.flush()?;
            answer.clear();
        }
        line.clear();
    }
    Ok(())
}

const INITIALIZED: &str = r#"{"protocolVersion":"2025-06-18","capabilities":{"tools":{}},"serverInfo":{"name":"bench","version":"1"}}"#;
const TOOLS: &str = r#"{"tools":[{"name":"echo","description":"Answers","inputSchema":{"type":"object","properties":{"text":{"type":"string"}}},"annotations":{"readOnlyHint":true}}]}"#;

/// The value behind a key, when it is a number or a text without commas. Clients write such a key once a message.
fn word_after<'a>(line: &'a str, key: &str) -> Option<&'a str> {
    let rest = line[line.find(key)? + key.len()..].trim_start();
    let end = rest.find([',', '}', '\n']).unwrap_or(rest.len());
    Some(rest[..end].trim_end())
}
