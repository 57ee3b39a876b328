//! The event: what happened, about whom, when, and as which one in the journal.

use std::{collections::BTreeMap, fmt, sync::Arc};

use serde_json::Value;

use super::subject::{IntoSubject, Subject};
use crate::{Error, ErrorKind, Result};

/// Names that an extension may not take: CloudEvents defines them, or we do.
const RESERVED: [&str; 11] = [
    "specversion",
    "id",
    "source",
    "type",
    "subject",
    "time",
    "datacontenttype",
    "data",
    "sequence",
    "sequencetype",
    "extensions",
];
/// The longest name of an extension (CloudEvents advises 20).
const MAX_EXTENSION_NAME: usize = 64;

/// Extension attributes by name: strings, booleans, and integers of 32 bits.
pub type Extensions = BTreeMap<String, Value>;

/// Something that happened. Immutable once published; shared by all who see it.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// Unique, across restarts of the host too.
    pub id: EventId,
    /// Who says so: a URI reference, such as `/agents/7f3k`.
    pub source: Arc<str>,
    /// What happened (CloudEvents `type`); the subject by which the event is routed.
    pub kind: Subject,
    /// Whom it is about (CloudEvents `subject`), such as an agent's id.
    pub subject: Option<Arc<str>>,
    /// When, in milliseconds since the Unix epoch.
    pub time_ms: u64,
    /// Its place in the journal; `None` when it is not journaled. Ascending, not gapless.
    pub sequence: Option<u64>,
    /// The payload.
    pub data: Data,
    /// Further attributes.
    pub extensions: Extensions,
}

impl Event {
    /// About how many bytes of memory it takes: what queues are bounded by, beside the number of events.
    pub(crate) fn weight(&self) -> usize {
        size_of::<Self>()
            + self.data.weight()
            + self.extensions.iter().map(|(k, v)| k.len() + weight(v)).sum::<usize>()
    }
}

fn weight(value: &Value) -> usize {
    size_of::<Value>()
        + match value {
            Value::String(text) => text.len(),
            Value::Array(items) => items.iter().map(weight).sum(),
            Value::Object(fields) => fields.iter().map(|(name, field)| name.len() + weight(field)).sum(),
            Value::Null | Value::Bool(_) | Value::Number(_) => 0,
        }
}

/// The payload of an event.
#[derive(Debug, Clone, PartialEq)]
pub enum Data {
    /// JSON; `Null` means none.
    Json(Value),
    /// Anything else.
    Bytes {
        /// The media type.
        content_type: String,
        /// The content.
        bytes: Vec<u8>,
    },
}

impl Data {
    fn weight(&self) -> usize {
        match self {
            Self::Json(value) => weight(value),
            Self::Bytes { bytes, .. } => bytes.len(),
        }
    }

    /// The payload as JSON, if it is.
    #[must_use]
    pub fn as_json(&self) -> Option<&Value> {
        match self {
            Self::Json(value) => Some(value),
            Self::Bytes { .. } => None,
        }
    }
}

/// The id of an event. Formatted only when somebody reads it: most are never read.
#[derive(Clone)]
pub struct EventId(Id);

#[derive(Clone)]
enum Id {
    /// The `count`th event of the bus that calls itself `boot`.
    Counted {
        boot: Arc<str>,
        count: u64,
    },
    Text(Arc<str>),
}

impl EventId {
    pub(super) fn counted(boot: &Arc<str>, count: u64) -> Self {
        Self(Id::Counted { boot: boot.clone(), count })
    }

    pub(super) fn text(text: &str) -> Self {
        Self(Id::Text(text.into()))
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Id::Counted { boot, count } => write!(f, "{boot}-{count}"),
            Id::Text(text) => f.write_str(text),
        }
    }
}

impl fmt::Debug for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

impl PartialEq for EventId {
    fn eq(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Id::Counted { boot: a, count: m }, Id::Counted { boot: b, count: n }) => m == n && a == b,
            (Id::Text(a), Id::Text(b)) => a == b,
            _ => self.to_string() == other.to_string(),
        }
    }
}

impl Eq for EventId {}

/// An event to be published: what the publisher knows. The bus adds id, time and sequence.
///
/// A fault in it (a bad subject, a bad extension) is kept, and told by the publish.
#[derive(Debug, Clone)]
pub struct EventDraft {
    pub(super) kind: Result<Subject>,
    pub(super) source: Option<Arc<str>>,
    pub(super) subject: Option<Arc<str>>,
    pub(super) data: Data,
    pub(super) extensions: Extensions,
}

impl EventDraft {
    /// An event of `kind` with `data`.
    pub fn new(kind: impl IntoSubject, data: Data) -> Self {
        Self { kind: kind.into_subject(), source: None, subject: None, data, extensions: Extensions::new() }
    }

    /// An event of `kind` with JSON data (`Value::Null` for none).
    pub fn json(kind: impl IntoSubject, data: Value) -> Self {
        Self::new(kind, Data::Json(data))
    }

    /// An event of `kind` with `bytes` of the media type `content_type`. JSON is better given as such.
    pub fn bytes(kind: impl IntoSubject, content_type: impl Into<String>, bytes: impl Into<Vec<u8>>) -> Self {
        let content_type = content_type.into();
        let fault = check_content_type(&content_type);
        Self::new(kind, Data::Bytes { content_type, bytes: bytes.into() }).with_fault(fault)
    }

    /// Whom the event is about, such as an agent's id; empty for nobody in particular.
    #[must_use]
    pub fn subject(mut self, subject: impl AsRef<str>) -> Self {
        self.subject = Some(subject.as_ref()).filter(|subject| !subject.is_empty()).map(Into::into);
        self
    }

    /// Who says so, a URI reference; empty for the system itself.
    #[must_use]
    pub fn source(mut self, source: impl AsRef<str>) -> Self {
        self.source = Some(source.as_ref()).filter(|source| !source.is_empty()).map(Into::into);
        self
    }

    /// Adds the attribute `name` (lower-case letters and digits), a string, a boolean or a 32-bit integer.
    #[must_use]
    pub fn extension(mut self, name: impl Into<String>, value: impl Into<Value>) -> Self {
        let (name, value) = (name.into(), value.into());
        let fault = check_extension(&name, &value);
        self.extensions.insert(name, value);
        self.with_fault(fault)
    }

    /// Whether it can be published: for who publishes all of several, or none.
    ///
    /// # Errors
    /// `invalid-argument`, as the publish would say.
    pub fn check(&self) -> Result<()> {
        self.kind.as_ref().map(drop).map_err(Clone::clone)
    }

    /// About how many bytes of memory it takes.
    pub(crate) fn weight(&self) -> usize {
        size_of::<Self>() + self.data.weight()
    }

    /// Keeps the first fault for the publish.
    fn with_fault(mut self, fault: Result<()>) -> Self {
        if let (Ok(_), Err(fault)) = (&self.kind, fault) {
            self.kind = Err(fault);
        }
        self
    }
}

/// An extension has a name of lower-case letters and digits that nothing else has, and a scalar value.
pub(super) fn check_extension(name: &str, value: &Value) -> Result<()> {
    let bad = |problem: String| Err(Error::new(ErrorKind::InvalidArgument, problem));
    let legal = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    if name.is_empty() || name.len() > MAX_EXTENSION_NAME || !name.bytes().all(legal) {
        return bad(format!(
            "extension `{}`: a name has 1 to {MAX_EXTENSION_NAME} lower-case letters and digits",
            name.escape_debug()
        ));
    }
    if RESERVED.contains(&name) {
        return bad(format!("extension `{name}`: the name is taken by an attribute of its own"));
    }
    match value {
        Value::String(_) | Value::Bool(_) => Ok(()),
        Value::Number(n) if n.as_i64().is_some_and(|n| i32::try_from(n).is_ok()) => Ok(()),
        _ => bad(format!("extension `{name}`: a value is a string, a boolean or a 32-bit integer")),
    }
}

/// A media type has a type and a subtype.
pub(super) fn check_content_type(content_type: &str) -> Result<()> {
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    match essence.split_once('/') {
        Some((kind, subtype)) if !kind.is_empty() && !subtype.is_empty() => Ok(()),
        _ => Err(Error::new(
            ErrorKind::InvalidArgument,
            format!("content type `{}`: not a media type", content_type.escape_debug()),
        )
        .hint("write it as `image/png` or `application/octet-stream`")),
    }
}
