//! Events: what they look like in C, and publishing them.

use std::ffi::{c_char, c_void};

use hms_core::{
    Error,
    event::{Data, Event, EventDraft},
};

use crate::{
    gate,
    guard::guard,
    handle::TABLE,
    input::{self, Versioned},
    status::hms_status_t,
    system::{SystemObject, hms_system_t},
};

/// An event. As a callback receives it, everything is set that its publisher gave, and lasts until the callback
/// returns. To publish one, start with HMS_EVENT_INIT and set its type and what else is known; id, time_ms and
/// sequence are given by the system, whatever they say.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct hms_event_t {
    /// sizeof(hms_event_t) of whoever made it; HMS_EVENT_INIT sets it.
    pub struct_size: usize,
    /// What happened: "app.build.done", lower-case tokens with dots.
    pub r#type: *const c_char,
    /// Whom it is about, such as an agent's id; NULL: nobody.
    pub subject: *const c_char,
    /// Who says so, such as "/agents/7f3k"; published with NULL: this process.
    pub source: *const c_char,
    /// Unique.
    pub id: *const c_char,
    /// When, in milliseconds since the Unix epoch.
    pub time_ms: u64,
    /// Its place in the journal, ascending; 0: it is not journaled.
    pub sequence: u64,
    /// The media type of data: "application/json" of JSON, which is also what NULL means; NULL in an event
    /// without data.
    pub content_type: *const c_char,
    /// The payload; NULL: none. In an event that is received a NUL follows it, so that JSON is a C string.
    pub data: *const c_void,
    /// How long the payload is, in bytes, without that NUL.
    pub data_length: usize,
}

// SAFETY: integers and raw pointers, of which any bytes are valid; `struct_size` is first.
unsafe impl Versioned for hms_event_t {
    const INIT: &'static str = "HMS_EVENT_INIT";
    const FIRST_SIZE: usize = 80;

    fn init() -> Self {
        let none = std::ptr::null();
        Self {
            struct_size: size_of::<Self>(),
            r#type: none,
            subject: none,
            source: none,
            id: none,
            time_ms: 0,
            sequence: 0,
            content_type: none,
            data: std::ptr::null(),
            data_length: 0,
        }
    }
}

const JSON: &str = "application/json";

/// Events as C sees them: one piece of memory for their texts, the structures, and pointers to these.
pub(crate) struct EventBatch {
    _texts: Vec<u8>,
    _events: Vec<hms_event_t>,
    pointers: Vec<*const hms_event_t>,
}

/// Where the texts of an event begin; `None` is NULL.
struct Places {
    kind: usize,
    subject: Option<usize>,
    source: usize,
    id: usize,
    content_type: Option<usize>,
    data: Option<usize>,
    data_length: usize,
}

impl EventBatch {
    pub(crate) fn new<E: AsRef<Event>>(events: &[E]) -> Self {
        let mut texts = Vec::with_capacity(events.len() * 192);
        let places: Vec<_> = events.iter().map(|event| Places::write(event.as_ref(), &mut texts)).collect();
        // All are written: from here on the memory stays where it is.
        let at = |place: usize| texts[place..].as_ptr().cast::<c_char>();
        let maybe = |place: Option<usize>| place.map_or(std::ptr::null(), at);
        let made = events.iter().zip(&places).map(|(event, places)| {
            let event = event.as_ref();
            hms_event_t {
                struct_size: size_of::<hms_event_t>(),
                r#type: at(places.kind),
                subject: maybe(places.subject),
                source: at(places.source),
                id: at(places.id),
                time_ms: event.time_ms,
                sequence: event.sequence.unwrap_or(0),
                content_type: maybe(places.content_type),
                data: maybe(places.data).cast(),
                data_length: places.data_length,
            }
        });
        let events: Vec<_> = made.collect();
        let pointers = events.iter().map(std::ptr::from_ref).collect();
        Self { _texts: texts, _events: events, pointers }
    }

    /// Pointers to the events, for as long as this lives.
    pub(crate) fn pointers(&self) -> &[*const hms_event_t] {
        &self.pointers
    }
}

impl Places {
    fn write(event: &Event, texts: &mut Vec<u8>) -> Self {
        use std::io::Write as _;
        fn text(texts: &mut Vec<u8>, text: &str) -> usize {
            let at = texts.len();
            // C text ends at a NUL; none of these has one, but a foreign event might.
            texts.extend(text.bytes().map(|byte| if byte == 0 { b'?' } else { byte }));
            texts.push(0);
            at
        }
        let kind = text(texts, event.kind.as_str());
        let subject = event.subject.as_deref().map(|subject| text(texts, subject));
        let source = text(texts, &event.source);
        let id = texts.len();
        // Writing to memory does not fail, here and below.
        let _ = write!(texts, "{}\0", event.id);
        let content_type = match &event.data {
            Data::Json(serde_json::Value::Null) => None,
            Data::Json(_) => Some(text(texts, JSON)),
            Data::Bytes { content_type, .. } => Some(text(texts, content_type)),
        };
        let begin = texts.len();
        match &event.data {
            Data::Json(serde_json::Value::Null) => {}
            Data::Json(value) => drop(serde_json::to_writer(&mut *texts, value)),
            Data::Bytes { bytes, .. } => texts.extend_from_slice(bytes),
        }
        let data_length = texts.len() - begin;
        let data = content_type.map(|_| begin);
        texts.push(0);
        Self { kind, subject, source, id, content_type, data, data_length }
    }
}

/// Publishes an event whose payload is JSON.
///
/// Ownership: type ("app.build.done": lower-case tokens with dots), subject (whom it is about; NULL for
/// nobody) and data_json (any JSON; NULL for none) are borrowed for the call.
///
/// Threads: any. In a private system it waits only for room in subscriptions that block (HMS_QUEUE_BLOCK), and
/// in a callback not even for that; in a shared one it waits for the host's answer.
///
/// Errors: HMS_ERR_INVALID_HANDLE, HMS_ERR_INVALID_ARGUMENT; HMS_ERR_HOST_UNAVAILABLE;
/// HMS_ERR_WOULD_DEADLOCK in a callback of a shared system's events or completions;
/// HMS_ERR_CANCELLED when the system is closed meanwhile.
///
/// Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hms_event_publish(
    system: *const hms_system_t,
    r#type: *const c_char,
    subject: *const c_char,
    data_json: *const c_char,
) -> hms_status_t {
    guard("hms_event_publish", || {
        let object = TABLE.get::<SystemObject>(system)?;
        // SAFETY: the caller's, as documented.
        let (kind, subject, data) = unsafe {
            (
                input::text("type", r#type)?,
                input::optional_text("subject", subject)?,
                input::json("data_json", data_json)?,
            )
        };
        Ok(publish(&object, vec![EventDraft::json(kind, data).subject(subject.unwrap_or_default())])?)
    })
}

/// Publishes an event whose payload is bytes.
///
/// Ownership: type, subject (NULL for nobody), content_type (such as "image/png") and the length bytes at data
/// (NULL if there are none) are borrowed for the call.
///
/// Threads: as hms_event_publish.
///
/// Errors: as hms_event_publish.
///
/// Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hms_event_publish_bytes(
    system: *const hms_system_t,
    r#type: *const c_char,
    subject: *const c_char,
    content_type: *const c_char,
    data: *const c_void,
    length: usize,
) -> hms_status_t {
    guard("hms_event_publish_bytes", || {
        let object = TABLE.get::<SystemObject>(system)?;
        // SAFETY: the caller's, as documented.
        let (kind, subject, content_type, data) = unsafe {
            (
                input::text("type", r#type)?,
                input::optional_text("subject", subject)?,
                input::text("content_type", content_type)?,
                input::bytes("data", data, length)?,
            )
        };
        let draft = EventDraft::bytes(kind, content_type, data).subject(subject.unwrap_or_default());
        Ok(publish(&object, vec![draft])?)
    })
}

/// Publishes several events, in order: all of them, or none when one is faulty.
///
/// Ownership: events, which has count pointers, and what these point to, are borrowed for the call.
///
/// Threads: as hms_event_publish.
///
/// Errors: as hms_event_publish; HMS_ERR_INVALID_ARGUMENT names the event. When the host of a shared system goes
/// meanwhile, some of the first may have been published.
///
/// Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hms_event_publish_batch(
    system: *const hms_system_t,
    events: *const *const hms_event_t,
    count: usize,
) -> hms_status_t {
    guard("hms_event_publish_batch", || {
        let object = TABLE.get::<SystemObject>(system)?;
        // SAFETY: the caller's, as documented, here and below.
        let drafts = unsafe { input::items("events", events, count) }?
            .enumerate()
            .map(|(at, event)| {
                let name = format!("events[{at}]");
                if event.is_null() {
                    return Err(Error::argument(&name, "NULL, but an event is needed"));
                }
                let draft = unsafe { draft_of(&input::versioned(&name, event)?) };
                draft.and_then(|draft| draft.check().map(|()| draft)).map_err(|e| e.context(name))
            })
            .collect::<Result<Vec<_>, _>>()?;
        Ok(publish(&object, drafts)?)
    })
}

/// # Safety
/// What `event` points to is as its documentation says.
unsafe fn draft_of(event: &hms_event_t) -> Result<EventDraft, Error> {
    // SAFETY: passed on.
    let (kind, subject, source, content_type, data) = unsafe {
        (
            input::text("type", event.r#type)?,
            input::optional_text("subject", event.subject)?,
            input::optional_text("source", event.source)?,
            input::optional_text("content_type", event.content_type)?,
            input::bytes("data", event.data, event.data_length)?,
        )
    };
    let draft = match content_type {
        None | Some(JSON) if data.is_empty() => EventDraft::json(kind, serde_json::Value::Null),
        None | Some(JSON) => {
            let json =
                serde_json::from_slice(data).map_err(|e| Error::argument("data", format!("not JSON: {e}")));
            EventDraft::json(kind, json?)
        }
        Some(content_type) => EventDraft::bytes(kind, content_type, data),
    };
    Ok(draft.subject(subject.unwrap_or_default()).source(source.unwrap_or_default()))
}

fn publish(object: &SystemObject, mut drafts: Vec<EventDraft>) -> Result<(), Error> {
    if let (Some(kernel), Some(_)) = (object.system.kernel(), gate::role()) {
        // In a callback, which must not wait; nor is there anything to wait for but other subscribers.
        object.require_open()?;
        drafts.iter().try_for_each(EventDraft::check)?;
        return drafts.into_iter().try_for_each(|draft| kernel.bus().try_publish(draft).map(drop));
    }
    if drafts.len() == 1
        && let Some(draft) = drafts.pop()
    {
        return object.wait_for(object.system.publish_draft(draft));
    }
    object.wait_for(object.system.publish_all(drafts))
}
