//! The few messages that a relay writes itself. Each ends its line.

use serde_json::{Value, json};

use super::{Envelope, Id};

/// An error of ours in answer to a request.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    /// What happened, for people and models.
    pub(crate) message: String,
    /// The same for programs: under `data.hms`.
    pub(crate) data: Value,
}

impl Failure {
    /// The code that SDKs use for a connection that is gone.
    const CODE: i32 = -32_000;

    /// The member `error`.
    pub(crate) fn to_json(&self) -> Value {
        json!({"code": Self::CODE, "message": self.message, "data": {"hms": self.data}})
    }

    /// The answer to `id`.
    pub(crate) fn answer(&self, id: &Id) -> String {
        format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{}}}"#, self.to_json())
    }
}

/// A response with a result that is JSON text already.
pub(crate) fn respond(id: &Id, result: &str) -> Vec<u8> {
    format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"result\":{result}}}\n").into_bytes()
}

/// A request with parameters that are JSON text already.
pub(crate) fn request(id: &Id, method: &str, params: Option<&str>) -> Vec<u8> {
    let method = json!(method);
    let params = params.map(|p| format!(",\"params\":{p}")).unwrap_or_default();
    format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"method\":{method}{params}}}\n").into_bytes()
}

/// A notification.
pub(crate) fn notification(method: &str, params: Option<Value>) -> Vec<u8> {
    let mut message = json!({"jsonrpc": "2.0", "method": method});
    if let Some(params) = params {
        message["params"] = params;
    }
    format!("{message}\n").into_bytes()
}

/// The same message with another id, otherwise byte for byte.
pub(crate) fn with_id(line: &[u8], envelope: &Envelope, id: &Id) -> Vec<u8> {
    let (from, to) = envelope.id_at;
    [&line[..from], id.as_json().as_bytes(), &line[to..]].concat()
}
