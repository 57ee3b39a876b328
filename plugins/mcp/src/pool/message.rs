//! One JSON-RPC message of a client or a server: what kind it is, and its few places that a pool has to change.
//!
//! A pool gives every request of every client an id of its own, and so has to change ids, progress tokens and
//! what refers to them. Nothing else of a message is touched: the places are found as byte ranges of the text
//! and replaced there, so that numbers, key order and unknown members reach the other side as they were.

use std::{borrow::Cow, ops::Range};

use serde::Deserialize;
use serde_json::{Value, value::RawValue};

/// The `_meta` key that names the protocol of a request from 2026-07-28 on.
pub(super) const META_VERSION: &str = "io.modelcontextprotocol/protocolVersion";
/// The `_meta` key of a client's capabilities from 2026-07-28 on.
pub(super) const META_CAPABILITIES: &str = "io.modelcontextprotocol/clientCapabilities";
/// The `_meta` key by which a request of 2026-07-28 asks for log messages.
pub(super) const META_LOG_LEVEL: &str = "io.modelcontextprotocol/logLevel";

/// Why a text is no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flaw {
    /// It is not JSON.
    Syntax,
    /// It is JSON, but neither a request nor a notification nor a response.
    Shape,
}

/// What a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// It has a method and an id.
    Request,
    /// It has a method and no id.
    Notification,
    /// It has an id and a result or an error.
    Response,
}

/// A message with the places in it that matter to a pool. The text has no line breaks.
#[derive(Debug, Clone)]
pub(super) struct Message {
    text: String,
    /// What it is.
    pub(super) kind: Kind,
    /// The method; empty for a response.
    pub(super) method: String,
    id: Option<Range<usize>>,
    params: Option<Range<usize>>,
    result: Option<Range<usize>>,
    error: Option<Range<usize>>,
    /// `params._meta.progressToken` of a request, `params.progressToken` of a notification.
    token: Option<Range<usize>>,
    /// `params.requestId`.
    refers: Option<Range<usize>>,
    /// `params._meta["io.modelcontextprotocol/subscriptionId"]`.
    subscription: Option<Range<usize>>,
}

#[derive(Deserialize)]
struct Shell<'a> {
    #[serde(borrow)]
    jsonrpc: Option<&'a RawValue>,
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    #[serde(borrow)]
    method: Option<Cow<'a, str>>,
    #[serde(borrow)]
    params: Option<&'a RawValue>,
    #[serde(borrow)]
    result: Option<&'a RawValue>,
    #[serde(borrow)]
    error: Option<&'a RawValue>,
}

#[derive(Deserialize, Default)]
struct Params<'a> {
    #[serde(borrow, rename = "_meta")]
    meta: Option<&'a RawValue>,
    #[serde(borrow, rename = "progressToken")]
    token: Option<&'a RawValue>,
    #[serde(borrow, rename = "requestId")]
    refers: Option<&'a RawValue>,
}

#[derive(Deserialize, Default)]
struct Meta<'a> {
    #[serde(borrow, rename = "progressToken")]
    token: Option<&'a RawValue>,
    #[serde(borrow, rename = "io.modelcontextprotocol/subscriptionId")]
    subscription: Option<&'a RawValue>,
}

impl Message {
    /// Reads one message.
    ///
    /// # Errors
    /// What is wrong with the text.
    pub(super) fn parse(text: impl Into<String>) -> Result<Self, Flaw> {
        let mut text: String = text.into();
        if text.contains(['\n', '\r']) {
            // Between tokens they are white space; inside a string JSON has them escaped.
            text = text.replace(['\n', '\r'], " ");
        }
        let place = |value: &RawValue| place(&text, value);
        let shell: Shell<'_> = serde_json::from_str(&text).map_err(|e| match e.classify() {
            serde_json::error::Category::Data => Flaw::Shape,
            _ => Flaw::Syntax,
        })?;
        if shell.jsonrpc.is_none_or(|v| v.get() != "\"2.0\"") {
            return Err(Flaw::Shape);
        }
        let answered = shell.result.is_some() || shell.error.is_some();
        let kind = match (&shell.method, shell.id) {
            (Some(_), Some(id)) if valid_id(id) && !answered => Kind::Request,
            (Some(_), None) if !answered && !text_has_id(&text) => Kind::Notification,
            // The id of an error is null when the other side could not read the request's.
            (None, Some(id)) if valid_id(id) && answered => Kind::Response,
            (None, None) if shell.error.is_some() => Kind::Response,
            _ => return Err(Flaw::Shape),
        };
        let params: Params<'_> =
            shell.params.and_then(|p| serde_json::from_str(p.get()).ok()).unwrap_or_default();
        let meta: Meta<'_> = params.meta.and_then(|m| serde_json::from_str(m.get()).ok()).unwrap_or_default();
        let token = if kind == Kind::Request { meta.token } else { params.token };
        let (id, params_at, token) = (shell.id.map(place), shell.params.map(place), token.map(place));
        let (refers, subscription) = (params.refers.map(place), meta.subscription.map(place));
        let (result, error) = (shell.result.map(place), shell.error.map(place));
        let method = shell.method.map(Cow::into_owned).unwrap_or_default();
        Ok(Self { method, kind, id, params: params_at, result, error, token, refers, subscription, text })
    }

    /// The whole text, on one line.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// The id as it is written: a number, or a string with its quotes.
    pub(super) fn id(&self) -> Option<&str> {
        self.at(&self.id)
    }

    /// The progress token as it is written.
    pub(super) fn token(&self) -> Option<&str> {
        self.at(&self.token)
    }

    /// The id of the request that a `notifications/cancelled` is about, as it is written.
    pub(super) fn refers(&self) -> Option<&str> {
        self.at(&self.refers)
    }

    /// The id of the `subscriptions/listen` that a notification belongs to, as it is written.
    pub(super) fn subscription(&self) -> Option<&str> {
        self.at(&self.subscription)
    }

    /// The parameters as they are written.
    pub(super) fn params(&self) -> Option<&str> {
        self.at(&self.params)
    }

    /// The result as it is written.
    pub(super) fn result(&self) -> Option<&str> {
        self.at(&self.result)
    }

    /// The error of a response.
    pub(super) fn error(&self) -> Option<Value> {
        serde_json::from_str(self.at(&self.error)?).ok()
    }

    /// The parameter at a JSON pointer; null when there is none.
    pub(super) fn param(&self, pointer: &str) -> Value {
        let params = self.params().and_then(|p| serde_json::from_str::<Value>(p).ok());
        params.and_then(|p| p.pointer(pointer).cloned()).unwrap_or_default()
    }

    fn at(&self, range: &Option<Range<usize>>) -> Option<&str> {
        range.as_ref().and_then(|r| self.text.get(r.clone()))
    }

    /// The text with another id, and another progress token where it has one.
    pub(super) fn with_id(&self, id: &str, token: Option<&str>) -> String {
        self.replaced(&[(&self.id, Some(id)), (&self.token, token)])
    }

    /// The text with another progress token.
    pub(super) fn with_token(&self, token: &str) -> String {
        self.replaced(&[(&self.token, Some(token))])
    }

    /// The text with another `requestId`.
    pub(super) fn with_refers(&self, id: &str) -> String {
        self.replaced(&[(&self.refers, Some(id))])
    }

    /// The text with another subscription id.
    pub(super) fn with_subscription(&self, id: &str) -> String {
        self.replaced(&[(&self.subscription, Some(id))])
    }

    fn replaced(&self, places: &[(&Option<Range<usize>>, Option<&str>)]) -> String {
        let mut edits: Vec<(Range<usize>, &str)> =
            places.iter().filter_map(|(range, new)| Some((range.as_ref()?.clone(), (*new)?))).collect();
        edits.sort_by_key(|(range, _)| range.start);
        let mut out = String::with_capacity(self.text.len() + 32);
        let mut from = 0;
        for (range, new) in edits {
            out.push_str(&self.text[from..range.start]);
            out.push_str(new);
            from = range.end;
        }
        out.push_str(&self.text[from..]);
        out
    }
}

/// Where a value borrowed from `text` lies in it.
fn place(text: &str, value: &RawValue) -> Range<usize> {
    let start = value.get().as_ptr() as usize - text.as_ptr() as usize;
    start..start + value.get().len()
}

/// Strings and whole numbers are ids; the specification forbids the rest.
fn valid_id(id: &RawValue) -> bool {
    let text = id.get();
    text.starts_with('"') || text.parse::<i64>().is_ok() || text.parse::<u64>().is_ok()
}

/// Whether a message has a member `id`, even if it is null: then it is no notification.
fn text_has_id(text: &str) -> bool {
    serde_json::from_str::<Value>(text).is_ok_and(|v| v.get("id").is_some())
}

/// The messages of a text that is one message or, where batches are allowed, an array of them.
///
/// # Errors
/// As [`Message::parse`]; an empty batch is of a wrong shape.
pub(super) fn messages(text: &str) -> Result<(Vec<Message>, bool), Flaw> {
    if !text.trim_start().starts_with('[') {
        return Ok((vec![Message::parse(text)?], false));
    }
    let parts: Vec<&RawValue> = serde_json::from_str(text).map_err(|_| Flaw::Syntax)?;
    if parts.is_empty() {
        return Err(Flaw::Shape);
    }
    let messages = parts.into_iter().map(|p| Message::parse(p.get())).collect::<Result<Vec<_>, _>>()?;
    Ok((messages, true))
}

/// An error response. `id` is written as it is; `None` becomes null.
pub(super) fn error(id: Option<&str>, code: i64, message: &str, data: Option<Value>) -> String {
    let mut body = serde_json::json!({ "code": code, "message": message });
    if let Some(data) = data {
        body["data"] = data;
    }
    format!(r#"{{"jsonrpc":"2.0","id":{},"error":{body}}}"#, id.unwrap_or("null"))
}

/// A response with this error, as another side gave it.
pub(super) fn refused(id: &str, error: &Value) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{error}}}"#)
}

/// A response with this result, which is written as it is.
pub(super) fn result(id: &str, result: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{result}}}"#)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_replaced_and_nothing_else() {
        let text = r#"{ "id" : "a\"b", "x": 1.50, "jsonrpc":"2.0","method":"tools/call",
            "params":{"name":"t","_meta":{"progressToken":7,"y":1e400}}}"#;
        let message = Message::parse(text).unwrap();
        assert_eq!(
            (message.kind, message.id(), message.token()),
            (Kind::Request, Some(r#""a\"b""#), Some("7"))
        );
        let sent = message.with_id("12", Some("\"p12\""));
        assert!(
            sent.contains(r#""id" : 12,"#) && sent.contains(r#""progressToken":"p12","y":1e400"#),
            "{sent}"
        );
        assert!(sent.contains("1.50") && !sent.contains('\n'), "{sent}");
    }

    #[test]
    fn kinds_are_told_apart() {
        let kind = |text: &str| Message::parse(text).map(|m| m.kind);
        assert_eq!(kind(r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#), Ok(Kind::Request));
        assert_eq!(kind(r#"{"jsonrpc":"2.0","method":"notifications/x"}"#), Ok(Kind::Notification));
        assert_eq!(kind(r#"{"jsonrpc":"2.0","id":"1","result":{}}"#), Ok(Kind::Response));
        assert_eq!(kind(r#"{"jsonrpc":"2.0","id":null,"error":{"code":1}}"#), Ok(Kind::Response));
        for wrong in [
            r#"{"jsonrpc":"2.0","id":null,"method":"ping"}"#,
            r#"{"jsonrpc":"2.0","id":1.5,"method":"ping"}"#,
            r#"{"jsonrpc":"1.0","id":1,"method":"ping"}"#,
            r#"{"jsonrpc":"2.0","id":1}"#,
            r#"{"jsonrpc":"2.0","result":{}}"#,
            r#"{"jsonrpc":"2.0","id":1,"id":2,"method":"ping"}"#,
            "7",
        ] {
            assert_eq!(kind(wrong), Err(Flaw::Shape), "{wrong}");
        }
        assert_eq!(kind("{"), Err(Flaw::Syntax));
        assert_eq!(messages("[]").unwrap_err(), Flaw::Shape);
    }

    #[test]
    fn what_refers_to_a_request_is_replaced() {
        let cancel = r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"q"}}"#;
        let message = Message::parse(cancel).unwrap();
        assert_eq!(message.refers(), Some("\"q\""));
        assert_eq!(message.with_refers("3"), cancel.replace("\"q\"", "3"));
        let change = r#"{"jsonrpc":"2.0","method":"notifications/tools/list_changed","params":{"_meta":{"io.modelcontextprotocol/subscriptionId":9}}}"#;
        let message = Message::parse(change).unwrap();
        assert_eq!(message.subscription(), Some("9"));
        assert_eq!(message.with_subscription("\"l\""), change.replace(":9", ":\"l\""));
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in ".{0,200}", keys in proptest::collection::vec("(id|method|params|result|error|jsonrpc)", 0..6)) {
            let _ = messages(&text);
            let odd: Vec<String> = keys.iter().map(|k| format!("\"{k}\":{}", serde_json::json!(text))).collect();
            let _ = messages(&format!("{{{}}}", odd.join(",")));
        }

        #[test]
        fn a_replaced_id_is_the_only_difference(id in ".{0,20}", x in proptest::num::i64::ANY, text in ".{0,40}") {
            let sent = serde_json::json!({
                "params": { "_meta": { "progressToken": id, "x": x }, "text": text }, "id": id, "method": "m", "jsonrpc": "2.0",
            });
            let message = Message::parse(sent.to_string()).unwrap();
            let mut changed: Value = serde_json::from_str(&message.with_id("77", Some("78"))).unwrap();
            proptest::prop_assert_eq!(&changed["id"], 77);
            proptest::prop_assert_eq!(&changed["params"]["_meta"]["progressToken"], 78);
            changed["id"] = sent["id"].clone();
            changed["params"]["_meta"]["progressToken"] = sent["id"].clone();
            proptest::prop_assert_eq!(changed, sent);
        }
    }
}
