//! Streamable HTTP of 2026-07-28: what a request's headers have to say about its body, and which HTTP status an
//! error has. A server behind stdio sees no headers, so the pool stands in for it here.

use std::collections::{BTreeMap, BTreeSet};

use base64::{Engine, engine::general_purpose::STANDARD};
use hyper::{HeaderMap, StatusCode};
use serde_json::{Map, Value, json};

use super::message::{META_CAPABILITIES, META_VERSION, Message};

/// The first version without handshake and sessions.
pub(super) const VERSION: &str = "2026-07-28";
/// The versions with a handshake.
pub(super) const LEGACY: [&str; 4] = ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"];

const INVALID_PARAMS: i64 = -32602;
const HEADER_MISMATCH: i64 = -32020;
const UNSUPPORTED_VERSION: i64 = -32022;

/// An error to answer with: code, sentence, data.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Refusal {
    /// The JSON-RPC code.
    pub(super) code: i64,
    /// What is wrong.
    pub(super) message: String,
    /// What a program can use of it.
    pub(super) data: Option<Value>,
}

fn refusal(code: i64, message: impl Into<String>) -> Refusal {
    Refusal { code, message: message.into(), data: None }
}

/// The HTTP status that goes with a JSON-RPC error.
pub(super) fn status(code: i64) -> StatusCode {
    match code {
        -32700 | -32600 | INVALID_PARAMS | HEADER_MISMATCH | -32021 | UNSUPPORTED_VERSION => {
            StatusCode::BAD_REQUEST
        }
        -32601 => StatusCode::NOT_FOUND,
        _ => StatusCode::OK,
    }
}

/// Checks what can be checked of a request without asking the server.
///
/// # Errors
/// The first thing that is wrong, in the order of the specification.
pub(super) fn check(headers: &HeaderMap, request: &Message) -> Result<(), Refusal> {
    let meta = request.param("/_meta");
    let missing: Vec<&str> =
        [META_VERSION, META_CAPABILITIES].into_iter().filter(|key| meta.get(key).is_none()).collect();
    if !missing.is_empty() {
        return Err(refusal(INVALID_PARAMS, format!("params._meta lacks {}", missing.join(" and "))));
    }
    for name in ["mcp-protocol-version", "mcp-method", "mcp-name"] {
        if headers.get_all(name).iter().nth(1).is_some() {
            return Err(refusal(HEADER_MISMATCH, format!("the header {name} is there more than once")));
        }
    }
    let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok());
    let same = |name: &str, body: Option<&str>| {
        let header = text(name);
        if header.is_some() && header == body {
            return Ok(());
        }
        let header = header.map_or_else(|| "is missing".into(), |h| format!("is '{h}'"));
        let body = body.unwrap_or("no text");
        Err(refusal(HEADER_MISMATCH, format!("the header {name} {header}, the body says '{body}'")))
    };
    same("mcp-protocol-version", meta.get(META_VERSION).and_then(Value::as_str))?;
    same("mcp-method", Some(&request.method))?;
    let named = match request.method.as_str() {
        "tools/call" | "prompts/get" => request.param("/name"),
        "resources/read" => request.param("/uri"),
        _ => return Ok(()),
    };
    let Some(named) = named.as_str() else { return Ok(()) }; // the server says what it misses
    match text("mcp-name").map(decode) {
        Some(Some(header)) if header == named => Ok(()),
        Some(Some(header)) => Err(refusal(
            HEADER_MISMATCH,
            format!("the header mcp-name is '{header}', the body says '{named}'"),
        )),
        Some(None) => Err(refusal(HEADER_MISMATCH, "the header mcp-name is not valid Base64 of UTF-8")),
        None => {
            Err(refusal(HEADER_MISMATCH, format!("the header mcp-name is missing, the body says '{named}'")))
        }
    }
}

/// The versions without a handshake that a server's answer to `server/discover` lists. Those with one are spoken
/// to sessions, not here.
pub(super) fn spoken(discovered: &Value) -> Vec<&str> {
    let all = discovered.get("supportedVersions").and_then(Value::as_array).into_iter().flatten();
    all.filter_map(Value::as_str).filter(|v| !LEGACY.contains(v)).collect()
}

/// Whether the server speaks the version of a request.
///
/// # Errors
/// An answer that lists what it does speak.
pub(super) fn check_version(request: &Message, discovered: &Value) -> Result<(), Refusal> {
    let wanted = request.param("/_meta");
    let wanted = wanted.get(META_VERSION).and_then(Value::as_str).unwrap_or_default();
    let versions = spoken(discovered);
    if versions.contains(&wanted) {
        return Ok(());
    }
    let data = json!({ "supported": versions, "requested": wanted });
    Err(Refusal {
        data: Some(data),
        ..refusal(UNSUPPORTED_VERSION, "the server does not speak this protocol version")
    })
}

/// The text of a header value, which may be wrapped as `=?base64?…?=`; `None` if it is wrapped wrongly.
fn decode(value: &str) -> Option<String> {
    let Some(inner) = value.strip_prefix("=?base64?").and_then(|v| v.strip_suffix("?=")) else {
        return Some(value.into());
    };
    STANDARD.decode(inner).ok().and_then(|bytes| String::from_utf8(bytes).ok())
}

/// The parameters of tools that a client repeats as headers.
#[derive(Debug, Default)]
pub(super) struct Tools {
    by_name: BTreeMap<String, Vec<Mirrored>>,
}

/// A parameter that is repeated in the header `Mcp-Param-<header>`.
#[derive(Debug, PartialEq)]
struct Mirrored {
    path: Vec<String>,
    header: String,
    integer: bool,
}

impl Tools {
    /// Adds the tools of a page of `tools/list`; returns the cursor of the next page.
    pub(super) fn add(&mut self, page: &Value) -> Option<String> {
        for tool in page.get("tools").and_then(Value::as_array).into_iter().flatten() {
            let Some(name) = tool.get("name").and_then(Value::as_str) else { continue };
            let schema = tool.get("inputSchema").unwrap_or(&Value::Null);
            self.by_name.insert(name.into(), mirrored(schema).unwrap_or_default());
        }
        page.get("nextCursor").and_then(Value::as_str).map(Into::into)
    }

    /// Checks the headers of a call against its arguments.
    ///
    /// # Errors
    /// The first header that says something else than the body.
    pub(super) fn check(&self, headers: &HeaderMap, request: &Message) -> Result<(), Refusal> {
        let (name, arguments) = (request.param("/name"), request.param("/arguments"));
        let parameters = name.as_str().and_then(|n| self.by_name.get(n)).map_or(&[][..], Vec::as_slice);
        for parameter in parameters {
            let header = format!("mcp-param-{}", parameter.header.to_ascii_lowercase());
            let wrong = |what: &str| Err(refusal(HEADER_MISMATCH, format!("the header {header} {what}")));
            let mut values = headers.get_all(&header).iter();
            let (value, again) = (values.next(), values.next());
            if again.is_some() {
                return wrong("is there more than once");
            }
            let body = parameter.path.iter().try_fold(&arguments, |at, key| at.get(key)).and_then(written);
            match (value, body) {
                (None, None) => {}
                (Some(_), None) => return wrong("is there, but the body has no such argument"),
                (None, Some(_)) => return wrong("is missing, but the body has the argument"),
                (Some(value), Some(body)) => match value.to_str().ok().and_then(decode) {
                    None => return wrong("is not valid Base64 of UTF-8"),
                    Some(value) if value == body || parameter.integer && same_number(&value, &body) => {}
                    Some(_) => return wrong("says something else than the body"),
                },
            }
        }
        Ok(())
    }
}

/// How a value is written in a header; `None` for what is not mirrored.
fn written(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Bool(_) | Value::Number(_) => Some(value.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// Whether two decimal numbers are the same: `42.0` and `42` are.
fn same_number(a: &str, b: &str) -> bool {
    let whole = |text: &str| {
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        fraction.bytes().all(|b| b == b'0').then(|| whole.parse::<i128>().ok()).flatten()
    };
    whole(a).is_some() && whole(a) == whole(b)
}

/// The annotated parameters of a schema, or `None` when an annotation breaks the rules: clients drop such a
/// tool and send no headers for it.
fn mirrored(schema: &Value) -> Option<Vec<Mirrored>> {
    let mut found = Vec::new();
    let mut stack = vec![(Vec::<String>::new(), schema)];
    while let Some((path, at)) = stack.pop() {
        let Some(at) = at.as_object() else { continue };
        if let Some(annotation) = at.get("x-mcp-header") {
            found.push(annotated(&path, annotation, at)?);
        }
        for (name, sub) in at.get("properties").and_then(Value::as_object).into_iter().flatten() {
            stack.push(([path.clone(), vec![name.clone()]].concat(), sub));
        }
        let elsewhere = at.iter().filter(|(keyword, _)| APPLICATORS.contains(&keyword.as_str()));
        if elsewhere.into_iter().any(|(_, sub)| has_annotation(sub)) {
            return None;
        }
    }
    let distinct: BTreeSet<String> = found.iter().map(|m| m.header.to_ascii_lowercase()).collect();
    (distinct.len() == found.len()).then_some(found)
}

/// Keywords with schemas below them, other than `properties`: an annotation there is out of reach.
const APPLICATORS: [&str; 18] = [
    "items",
    "contains",
    "unevaluatedItems",
    "additionalProperties",
    "propertyNames",
    "unevaluatedProperties",
    "not",
    "if",
    "then",
    "else",
    "contentSchema",
    "allOf",
    "anyOf",
    "oneOf",
    "prefixItems",
    "patternProperties",
    "dependentSchemas",
    "$defs",
];

fn annotated(path: &[String], annotation: &Value, at: &Map<String, Value>) -> Option<Mirrored> {
    let header = annotation.as_str().filter(|h| !h.is_empty() && h.bytes().all(is_token))?;
    let kind =
        at.get("type").and_then(Value::as_str).filter(|t| ["string", "integer", "boolean"].contains(t))?;
    let (path, header) = (path.to_vec(), header.to_owned());
    (!path.is_empty()).then_some(Mirrored { path, header, integer: kind == "integer" })
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn has_annotation(value: &Value) -> bool {
    match value {
        Value::Object(map) => map.contains_key("x-mcp-header") || map.values().any(has_annotation),
        Value::Array(list) => list.iter().any(has_annotation),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    fn request(method: &str, mut params: Value) -> Message {
        params["_meta"] = json!({ META_VERSION: VERSION, META_CAPABILITIES: {} });
        Message::parse(json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params }).to_string())
            .unwrap()
    }

    #[test]
    fn headers_must_say_what_the_body_says() {
        let call = request("tools/call", json!({ "name": "größe" }));
        let with =
            |name| [("mcp-protocol-version", VERSION), ("mcp-method", "tools/call"), ("mcp-name", name)];
        assert_eq!(check(&headers(&with("=?base64?Z3LDtsOfZQ==?=")), &call), Ok(()));
        let code = |headers: &HeaderMap, call: &Message| check(headers, call).unwrap_err().code;
        assert_eq!(code(&headers(&with("=?base64?Z3LDtsOfZQ?=")), &call), HEADER_MISMATCH);
        assert_eq!(code(&headers(&with("other")), &call), HEADER_MISMATCH);
        assert_eq!(code(&headers(&with("x")[..2]), &call), HEADER_MISMATCH);
        assert_eq!(code(&headers(&with("x")[1..]), &call), HEADER_MISMATCH);
        let mut twice = headers(&with("=?base64?Z3LDtsOfZQ==?="));
        twice.append("mcp-method", "tools/call".parse().unwrap());
        assert_eq!(code(&twice, &call), HEADER_MISMATCH);
        let bare = Message::parse(r#"{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{}}"#).unwrap();
        assert_eq!(code(&headers(&with("x")), &bare), INVALID_PARAMS);
    }

    #[test]
    fn versions_with_a_handshake_are_not_offered_here() {
        let call = request("tools/list", json!({}));
        assert_eq!(check_version(&call, &json!({ "supportedVersions": ["2025-11-25", VERSION] })), Ok(()));
        let refused =
            check_version(&call, &json!({ "supportedVersions": ["2025-11-25", "2027-01-01"] })).unwrap_err();
        assert_eq!(refused.data, Some(json!({ "supported": ["2027-01-01"], "requested": VERSION })));
        assert_eq!(status(refused.code), StatusCode::BAD_REQUEST);
    }

    #[test]
    fn mirrored_parameters_are_compared() {
        let mut tools = Tools::default();
        let schema = json!({ "type": "object", "properties": {
            "region": { "type": "string", "x-mcp-header": "Region" },
            "deep": { "type": "object", "properties": { "n": { "type": "integer", "x-mcp-header": "N" } } },
        } });
        let bad = json!({ "properties": { "a": { "type": "number", "x-mcp-header": "A" } } });
        let hidden =
            json!({ "properties": { "a": { "anyOf": [{ "type": "string", "x-mcp-header": "A" }] } } });
        let page = json!({ "nextCursor": "2", "tools": [
            { "name": "t", "inputSchema": schema },
            { "name": "bad", "inputSchema": bad },
            { "name": "hidden", "inputSchema": hidden },
        ] });
        assert_eq!(tools.add(&page).as_deref(), Some("2"));
        let check = |tool: &str, arguments: Value, pairs: &[(&'static str, &str)]| {
            let call = request("tools/call", json!({ "name": tool, "arguments": arguments }));
            tools.check(&headers(pairs), &call).is_ok()
        };
        assert!(check("t", json!({}), &[]));
        assert!(check(
            "t",
            json!({ "region": "eu", "deep": { "n": 42 } }),
            &[("mcp-param-region", "eu"), ("mcp-param-n", "42.0")]
        ));
        assert!(check("t", json!({ "region": "=?base64?eu" }), &[("mcp-param-region", "=?base64?eu")]));
        assert!(check("t", json!({ "region": "eu" }), &[("mcp-param-region", "=?base64?ZXU=?=")]));
        assert!(!check("t", json!({ "region": "eu" }), &[("mcp-param-region", "=?base64?ZXU?=")]));
        assert!(!check("t", json!({ "region": "eu" }), &[]));
        assert!(!check("t", json!({ "region": null }), &[("mcp-param-region", "eu")]));
        assert!(!check("t", json!({ "deep": { "n": 42 } }), &[("mcp-param-n", "42.5")]));
        assert!(check("bad", json!({ "a": 1 }), &[]) && check("hidden", json!({ "a": "x" }), &[]));
    }
}
