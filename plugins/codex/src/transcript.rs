//! What a session's transcript says of calls: Codex writes each result into a file of JSON lines.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    path::Path,
};

use serde_json::Value;

use crate::failures::{Answer, Call};

/// How much of the transcript's end is read.
const TAIL: u64 = 4 << 20;
/// The longest error that is told, in characters.
const ERROR: usize = 200;
/// Words of a result that stands for somebody's no.
const NO: [&str; 5] = ["rejected", "declined", "denied", "cancelled", "not approved"];

/// What the transcript at `path` says of `calls`, by call.
///
/// # Errors
/// When it cannot be read.
pub(crate) fn ask(path: &Path, calls: &[Call]) -> io::Result<BTreeMap<String, Answer>> {
    // Opening a FIFO would wait for ever.
    let about = std::fs::metadata(path)?;
    if !about.is_file() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut file = File::open(path)?;
    let size = about.len();
    file.seek(SeekFrom::Start(size.saturating_sub(TAIL)))?;
    let mut bytes = Vec::new();
    file.take(TAIL).read_to_end(&mut bytes)?;
    Ok(read(&String::from_utf8_lossy(&bytes), calls))
}

fn read(text: &str, calls: &[Call]) -> BTreeMap<String, Answer> {
    let outputs = text.lines().filter(|line| line.contains("function_call_output"));
    let outputs = outputs.filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let of_call = outputs.filter_map(|line| {
        let payload = &line["payload"];
        let id = payload["call_id"].as_str().filter(|_| payload["type"] == "function_call_output")?;
        let call = calls.iter().find(|call| call.id == id)?;
        Some((call.id.clone(), judge(&words(&payload["output"]))))
    });
    of_call.collect()
}

/// The text of an output: a text, or a list of parts.
fn words(output: &Value) -> String {
    match output {
        Value::String(text) => text.clone(),
        Value::Array(parts) => {
            let texts = parts.iter().filter_map(|part| part["text"].as_str());
            texts.collect::<Vec<_>>().join("\n")
        }
        _ => String::new(),
    }
}

fn judge(text: &str) -> Answer {
    let Some((_, report)) = text.split_once("tool call error:") else {
        let short = text.len() < 400;
        let lower = if short { text.to_lowercase() } else { String::new() };
        return if NO.iter().any(|word| lower.contains(word)) { Answer::Declined } else { Answer::Output };
    };
    let report = report.split("Stack backtrace").next().unwrap_or_default();
    let cause = report.split_once("Caused by:").map_or(report, |(_, cause)| cause);
    let cause = cause.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or("the call failed");
    let lower = cause.to_lowercase();
    let kind = if ["timed out", "timeout", "deadline"].iter().any(|word| lower.contains(word)) {
        "timeout"
    } else if ["transport", "closed", "broken pipe", "connection", "disconnected"]
        .iter()
        .any(|w| lower.contains(w))
    {
        "transport"
    } else {
        "protocol"
    };
    Answer::Failed { kind, error: cause.chars().take(ERROR).collect() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn line(id: &str, text: &str) -> String {
        let output = json!([{"type": "input_text", "text": "Wall time: 0.1 seconds\nOutput:"}, {"type": "input_text", "text": text}]);
        json!({"type": "response_item", "payload": {"type": "function_call_output", "call_id": id, "output": output}}).to_string()
    }

    fn call(id: &str) -> Call {
        Call { id: id.into(), turn: "t".into(), server: "s".into(), tool: "x".into() }
    }

    #[test]
    fn errors_are_told_apart() {
        let report = |cause: &str| {
            format!(
                "tool call error: tool call failed for `s/x`\n\nCaused by:\n    {cause}\n\nStack backtrace:\n   0: <unknown>"
            )
        };
        let text = [
            "half a line",
            &line("a", &report("Transport closed")),
            &line("b", &report("timed out awaiting tools/call after 60s")),
            &line("c", &report("Mcp error: -32000: boom")),
            &line("d", "fine"),
            &line("e", "user rejected MCP tool call"),
            &line("other", &report("Transport closed")),
        ]
        .join("\n");
        let answers = read(&text, &["a", "b", "c", "d", "e", "f"].map(call));
        let failed = |kind, error: &str| Some(Answer::Failed { kind, error: error.into() });
        let of = |id: &str| answers.get(id).cloned();
        assert_eq!(of("a"), failed("transport", "Transport closed"));
        assert_eq!(of("b"), failed("timeout", "timed out awaiting tools/call after 60s"));
        assert_eq!(of("c"), failed("protocol", "Mcp error: -32000: boom"));
        assert_eq!(of("d"), Some(Answer::Output));
        assert_eq!(of("e"), Some(Answer::Declined));
        assert_eq!(of("f"), None);
        assert_eq!(answers.len(), 5);
    }
}
