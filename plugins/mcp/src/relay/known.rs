//! What is known of a server beyond one life of it: its handshake, what the client has seen of it, and what of
//! that may be answered from memory.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json, value::RawValue};

use crate::jsonrpc::{Envelope, Id};

/// Results that are longer are not remembered.
const LONGEST: usize = 4 << 20;
/// More subscriptions are not opened again.
const MOST: usize = 4096;

/// What a server answered last time, kept between runs.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Memory {
    /// The parameters of `initialize` that `greeting` answers.
    #[serde(default)]
    pub(crate) hello: Value,
    /// The result of `initialize`.
    #[serde(default)]
    pub(crate) greeting: Option<Box<RawValue>>,
    /// The result of `server/discover`.
    #[serde(default)]
    pub(crate) discovery: Option<Box<RawValue>>,
    /// The result of `tools/list`, when it fits one page.
    #[serde(default)]
    pub(crate) tools: Option<Box<RawValue>>,
}

/// The list of tools as the client was shown it.
#[derive(Debug, Default, Clone)]
pub(crate) struct Shown {
    pub(crate) tools: Vec<Value>,
    pub(crate) complete: bool,
}

/// All that.
#[derive(Default)]
pub(crate) struct Known {
    /// The client's `params` of `initialize`, as JSON text.
    pub(crate) hello: Option<String>,
    /// The server has answered it, and the client has that.
    pub(crate) greeted: bool,
    /// The result that the client has.
    pub(crate) greeting: Option<Value>,
    /// The client has sent `notifications/initialized`.
    pub(crate) initialized: bool,
    /// The client speaks 2026-07-28 or later.
    pub(crate) stateless: bool,
    /// `_meta` of such a client, without what belongs to one request.
    pub(crate) meta: Option<Value>,
    /// Resources that the client has subscribed to.
    pub(crate) subscribed: BTreeSet<String>,
    /// `params` of the last `logging/setLevel`.
    pub(crate) level: Option<String>,
    /// The tools that the client knows.
    pub(crate) shown: Option<Shown>,
    /// By tool: annotated as read-only or idempotent.
    pub(crate) repeatable: BTreeMap<String, bool>,
    pub(crate) memory: Memory,
    /// The memory differs from what is stored.
    pub(crate) unsaved: bool,
}

#[derive(Deserialize)]
struct Params<'a> {
    #[serde(borrow, default)]
    params: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Answered<'a> {
    #[serde(borrow, default)]
    result: Option<&'a RawValue>,
}

/// `params` of a message, as JSON text.
pub(crate) fn params_of(line: &[u8]) -> Option<&str> {
    serde_json::from_slice::<Params<'_>>(line).ok()?.params.map(RawValue::get)
}

/// `result` of a message, as JSON text.
pub(crate) fn result_of(line: &[u8]) -> Option<&str> {
    serde_json::from_slice::<Answered<'_>>(line).ok()?.result.map(RawValue::get)
}

impl Known {
    /// A request of the client goes by.
    pub(crate) fn heard(&mut self, envelope: &Envelope, line: &[u8]) {
        if envelope.stateless && self.meta.is_none() {
            self.stateless = true;
            let meta = params_of(line).and_then(|p| serde_json::from_str::<Value>(p).ok());
            self.meta = meta.map(|mut params| params["_meta"].take()).map(|mut meta| {
                if let Some(meta) = meta.as_object_mut() {
                    meta.remove("progressToken");
                }
                meta
            });
        }
        let params = || params_of(line);
        match envelope.method.as_deref().unwrap_or_default() {
            "initialize" => {
                // Another handshake is another session.
                *self = Self { memory: std::mem::take(&mut self.memory), ..Self::default() };
                self.hello = params().map(Into::into);
            }
            "resources/subscribe" => {
                if let Some(uri) = uri(params())
                    && self.subscribed.len() < MOST
                {
                    self.subscribed.insert(uri);
                }
            }
            "resources/unsubscribe" => {
                if let Some(uri) = uri(params()) {
                    self.subscribed.remove(&uri);
                }
            }
            "logging/setLevel" => self.level = params().map(Into::into),
            _ => {}
        }
    }

    /// The server has answered `initialize`; this is the line.
    pub(crate) fn greeted(&mut self, line: &[u8]) {
        let Some(result) = result_of(line) else { return };
        self.greeted = true;
        self.greeting = serde_json::from_str(result).ok();
        self.remember_greeting(result);
    }

    /// Keeps a result of `initialize` for the next run.
    pub(crate) fn remember_greeting(&mut self, result: &str) {
        let hello = self.hello.as_deref().and_then(|h| serde_json::from_str(h).ok()).unwrap_or_default();
        self.unsaved |= self.memory.hello != hello || differs(self.memory.greeting.as_deref(), result);
        self.memory.hello = hello;
        self.memory.greeting = raw(result);
    }

    /// Keeps a result of `server/discover`.
    pub(crate) fn remember_discovery(&mut self, result: &str) {
        self.unsaved |= differs(self.memory.discovery.as_deref(), result);
        self.memory.discovery = raw(result);
    }

    /// The result of `initialize` that may be given from memory: the client says the same as the last one.
    pub(crate) fn greeting_from_memory(&self) -> Option<String> {
        let hello: Value = serde_json::from_str(self.hello.as_deref()?).ok()?;
        let same = |member: &str| hello.get(member) == self.memory.hello.get(member);
        let known = same("protocolVersion") && same("capabilities") && same("clientInfo");
        self.memory.greeting.as_ref().filter(|_| known).map(|g| g.get().to_owned())
    }

    /// A page of tools went to the client.
    pub(crate) fn listed(&mut self, result: &str, later_page: bool) {
        let Ok(mut page) = serde_json::from_str::<Value>(result) else { return };
        let more = page.get("nextCursor").is_some_and(Value::is_string);
        let tools = match page["tools"].take() {
            Value::Array(tools) => tools,
            _ => return,
        };
        self.learn(&tools);
        if !later_page {
            self.unsaved |=
                more != self.memory.tools.is_none() || differs(self.memory.tools.as_deref(), result);
            self.memory.tools = raw(result).filter(|_| !more);
            self.shown = Some(Shown::default());
        }
        if let Some(shown) = &mut self.shown {
            shown.tools.extend(tools);
            shown.complete = !more;
        }
    }

    /// Keeps a whole list of tools that the client has not asked for.
    pub(crate) fn remember_tools(&mut self, result: &str) {
        self.unsaved |= differs(self.memory.tools.as_deref(), result);
        self.memory.tools = raw(result);
    }

    /// Takes the annotations of tools.
    pub(crate) fn learn(&mut self, tools: &[Value]) {
        for tool in tools {
            let says = |hint: &str| tool["annotations"][hint] == json!(true);
            if let Some(name) = tool["name"].as_str() {
                self.repeatable.insert(name.into(), says("readOnlyHint") || says("idempotentHint"));
            }
        }
    }

    /// Whether a tool is annotated as read-only or idempotent.
    pub(crate) fn is_repeatable(&self, tool: &str) -> bool {
        self.repeatable.get(tool).copied().unwrap_or(false)
    }

    /// What the server has now, all pages, against what the client was shown. True when that is no longer so;
    /// the client is taken to know the new list from then on.
    pub(crate) fn tools_differ(&mut self, now: Vec<Value>) -> bool {
        self.learn(&now);
        let Some(shown) = &mut self.shown else { return false };
        let same = if shown.complete { shown.tools == now } else { now.starts_with(&shown.tools) };
        if !same {
            *shown = Shown { tools: now, complete: true };
        }
        !same
    }

    /// The parameters of a request of ours.
    pub(crate) fn own_params(&self, mut params: Value) -> Option<String> {
        if let Some(meta) = &self.meta {
            params["_meta"] = meta.clone();
        }
        params.as_object().is_some_and(|p| !p.is_empty()).then(|| params.to_string())
    }
}

/// Whether a result says something else than the remembered one.
fn differs(old: Option<&RawValue>, new: &str) -> bool {
    old.is_none_or(|old| {
        let parsed = |text: &str| serde_json::from_str::<Value>(text).ok();
        old.get() != new && parsed(old.get()) != parsed(new)
    })
}

fn raw(result: &str) -> Option<Box<RawValue>> {
    RawValue::from_string(result.to_owned()).ok().filter(|r| r.get().len() <= LONGEST)
}

fn uri(params: Option<&str>) -> Option<String> {
    serde_json::from_str::<Value>(params?).ok()?["uri"].as_str().map(Into::into)
}

/// The subscription that a notification belongs to.
pub(crate) fn subscription_of(line: &[u8]) -> Option<Id> {
    let params: Value = serde_json::from_str(params_of(line)?).ok()?;
    let id = params["_meta"].get("io.modelcontextprotocol/subscriptionId")?;
    Id::from_json(id.to_string().as_bytes())
}
