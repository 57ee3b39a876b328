//! Events in the CloudEvents 1.0 JSON format: the form in which they leave the process and are kept.
//!
//! The journal sequence travels as the CloudEvents extension `sequence`: a string, padded with zeros so
//! that it sorts as text. Text payloads are written as text, other bytes as `data_base64`.

use std::sync::Arc;

use base64::{Engine, engine::general_purpose::STANDARD};
use jiff::Timestamp;
use serde_json::{Map, Value};

use super::model::{Data, Event, EventDraft, EventId, Extensions, check_content_type, check_extension};
use super::subject::Subject;
use crate::{Error, ErrorKind, Result};

const JSON: &str = "application/json";

impl Event {
    /// The time as RFC 3339 in UTC with milliseconds, which sorts as text.
    #[must_use]
    pub fn time_rfc3339(&self) -> String {
        let ms = i64::try_from(self.time_ms).unwrap_or(i64::MAX);
        // A clock beyond the year 9999 is out of RFC 3339's reach: say the last moment it can.
        let time = Timestamp::from_millisecond(ms).unwrap_or(Timestamp::MAX);
        format!("{time:.3}")
    }

    /// The event as a CloudEvents object.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let mut object = Map::new();
        let mut put = |name: &str, value: Value| {
            object.insert(name.to_owned(), value);
        };
        put("specversion", "1.0".into());
        put("id", self.id.to_string().into());
        put("source", (&*self.source).into());
        put("type", self.kind.as_str().into());
        if let Some(subject) = &self.subject {
            put("subject", (&**subject).into());
        }
        put("time", self.time_rfc3339().into());
        if let Some(sequence) = self.sequence {
            put("sequence", format!("{sequence:020}").into());
        }
        for (name, value) in &self.extensions {
            put(name, value.clone());
        }
        put_data(&mut object, &self.data);
        Value::Object(object)
    }

    /// The event that a CloudEvents object describes.
    ///
    /// # Errors
    /// `invalid-argument` naming the attribute that is missing or wrong.
    pub fn from_json(value: Value) -> Result<Self> {
        let Value::Object(mut object) = value else {
            return Err(bad("event", "not a JSON object"));
        };
        match take_text(&mut object, "specversion")?.as_deref() {
            Some("1.0") => {}
            Some(_) => return Err(bad("specversion", "only 1.0 is understood")),
            None => return Err(bad("specversion", "missing")),
        }
        let mut required = |name| take_text(&mut object, name)?.ok_or_else(|| bad(name, "missing"));
        let id = EventId::text(&required("id")?);
        let source = required("source")?.into();
        let kind = Subject::parse(&required("type")?).map_err(|e| e.context("attribute `type`"))?;
        let subject = take_text(&mut object, "subject")?.map(Into::into);
        let time_ms = match take_text(&mut object, "time")? {
            Some(time) => parse_time(&time)?,
            None => 0,
        };
        let sequence = match take_text(&mut object, "sequence")? {
            Some(text) => Some(text.parse().map_err(|_| bad("sequence", "not a number of 64 bits"))?),
            None => None,
        };
        take_text(&mut object, "sequencetype")?;
        let data = take_data(&mut object)?;
        let mut extensions = Extensions::new();
        for (name, value) in object {
            // JSON writes an attribute that is not there as null or not at all.
            if !value.is_null() {
                check_extension(&name, &value)?;
                extensions.insert(name, value);
            }
        }
        Ok(Self { id, source, kind, subject, time_ms, sequence, data, extensions })
    }
}

impl EventDraft {
    /// The draft as those attributes of a CloudEvents object that its publisher knows: how one travels to the
    /// host that publishes it.
    ///
    /// # Errors
    /// As [`EventDraft::check`].
    pub fn to_json(&self) -> Result<Value> {
        self.check()?;
        let mut object = self.extensions.clone().into_iter().collect::<Map<_, _>>();
        let kind = self.kind.as_ref().map(|kind| Arc::from(kind.as_str())).ok();
        let attributes = [("type", &kind), ("source", &self.source), ("subject", &self.subject)];
        for (name, value) in attributes {
            if let Some(value) = value {
                object.insert(name.to_owned(), (&**value).into());
            }
        }
        put_data(&mut object, &self.data);
        Ok(Value::Object(object))
    }

    /// The draft that such an object describes; what else it says is ignored.
    ///
    /// # Errors
    /// `invalid-argument` naming the attribute that is missing or wrong.
    pub fn from_json(value: Value) -> Result<Self> {
        let Value::Object(mut object) = value else {
            return Err(bad("event", "not a JSON object"));
        };
        object.retain(|_, value| value != "");
        let kind = take_text(&mut object, "type")?.ok_or_else(|| bad("type", "missing"))?;
        let (source, subject) = (take_text(&mut object, "source")?, take_text(&mut object, "subject")?);
        let draft = Self::new(kind.as_str(), take_data(&mut object)?);
        let draft = draft.source(source.unwrap_or_default()).subject(subject.unwrap_or_default());
        draft.check().map(|()| draft)
    }
}

fn put_data(object: &mut Map<String, Value>, data: &Data) {
    let (content_type, (name, value)) = match data {
        Data::Json(Value::Null) => return,
        Data::Json(value) => (JSON, ("data", value.clone())),
        Data::Bytes { content_type, bytes } => match std::str::from_utf8(bytes) {
            Ok(text) if content_type.starts_with("text/") => (content_type.as_str(), ("data", text.into())),
            _ => (content_type.as_str(), ("data_base64", STANDARD.encode(bytes).into())),
        },
    };
    object.insert("datacontenttype".to_owned(), content_type.into());
    object.insert(name.to_owned(), value);
}

/// Removes the attribute `name`, which is a non-empty string if it is there.
fn take_text(object: &mut Map<String, Value>, name: &str) -> Result<Option<String>> {
    match object.shift_remove(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if text.is_empty() => Err(bad(name, "empty")),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(bad(name, "not a string")),
    }
}

fn take_data(object: &mut Map<String, Value>) -> Result<Data> {
    let content_type = take_text(object, "datacontenttype")?;
    if let Some(content_type) = &content_type {
        check_content_type(content_type).map_err(|e| e.context("attribute `datacontenttype`"))?;
    }
    let data = object.shift_remove("data");
    if let Some(encoded) = object.shift_remove("data_base64").filter(|value| !value.is_null()) {
        let text = encoded.as_str().ok_or_else(|| bad("data_base64", "not a string"))?;
        if data.is_some() {
            return Err(bad("data", "given beside `data_base64`"));
        }
        let bytes = STANDARD.decode(text).map_err(|e| bad("data_base64", &format!("not base64: {e}")))?;
        let content_type = content_type.unwrap_or_else(|| "application/octet-stream".to_owned());
        return Ok(Data::Bytes { content_type, bytes });
    }
    match (data.unwrap_or(Value::Null), content_type) {
        (Value::String(text), Some(content_type)) if !is_json(&content_type) => {
            Ok(Data::Bytes { content_type, bytes: text.into_bytes() })
        }
        (value, Some(content_type)) if !value.is_null() && !is_json(&content_type) => {
            Err(bad("data", &format!("JSON, though its type is `{content_type}`")))
        }
        (value, _) => Ok(Data::Json(value)),
    }
}

fn is_json(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    essence.ends_with("/json") || essence.ends_with("+json")
}

fn parse_time(text: &str) -> Result<u64> {
    let time: Timestamp = text.parse().map_err(|e| bad("time", &format!("not RFC 3339: {e}")))?;
    u64::try_from(time.as_millisecond()).map_err(|_| bad("time", "before 1970"))
}

fn bad(name: &str, problem: &str) -> Error {
    let message =
        if name == "event" { format!("event: {problem}") } else { format!("attribute `{name}`: {problem}") };
    Error::new(ErrorKind::InvalidArgument, message).hint("events are CloudEvents 1.0 objects")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn sample() -> Value {
        json!({
            "specversion": "1.0",
            "id": "k3-17",
            "source": "/agents/web",
            "type": "agent.health.updated",
            "subject": "web",
            "time": "2026-03-01T12:30:00.250Z",
            "sequence": "00000000000000000042",
            "traceparent": "00-ab-cd-01",
            "datacontenttype": "application/json",
            "data": {"health": "healthy", "n": [1, 2.5, null]},
        })
    }

    #[test]
    fn an_object_is_read_and_written_back_the_same() {
        let event = Event::from_json(sample()).unwrap();
        assert_eq!((event.sequence, event.time_ms), (Some(42), 1_772_368_200_250));
        assert_eq!(event.extensions["traceparent"], "00-ab-cd-01");
        assert_eq!(event.to_json(), sample());
    }

    #[test]
    fn text_stays_readable_and_bytes_survive() {
        let mut event = Event::from_json(sample()).unwrap();
        event.data = Data::Bytes { content_type: "text/plain".into(), bytes: b"hello".to_vec() };
        assert_eq!(event.to_json()["data"], "hello");
        assert_eq!(Event::from_json(event.to_json()).unwrap(), event);
        event.data = Data::Bytes { content_type: "image/png".into(), bytes: vec![0xff, 0, 0x80] };
        assert_eq!(event.to_json()["data_base64"], "/wCA");
        assert_eq!(Event::from_json(event.to_json()).unwrap(), event);
    }

    #[test]
    fn a_draft_travels_with_all_that_it_says() {
        let draft = EventDraft::bytes("app.shot", "image/png", [0xff, 0]).subject("web").source("/me");
        let there = EventDraft::from_json(draft.to_json().unwrap()).unwrap();
        assert_eq!(there.to_json(), draft.to_json());
        assert_eq!(there.data, draft.data);
        let plain = json!({"type": "a.b", "subject": "", "data": {"n": 1}});
        assert_eq!(
            EventDraft::from_json(plain).unwrap().to_json().unwrap(),
            json!({"type": "a.b", "datacontenttype": "application/json", "data": {"n": 1}})
        );
        assert!(EventDraft::from_json(json!({"type": "not a kind"})).is_err());
        assert!(EventDraft::from_json(json!({"data": 1})).unwrap_err().message.contains("type"));
        assert!(EventDraft::json("not a kind", Value::Null).to_json().is_err());
    }

    #[test]
    fn faults_name_the_attribute() {
        let with = |name: &str, value: Value| {
            let mut object = sample();
            object[name] = value;
            Event::from_json(object).unwrap_err().message
        };
        assert_eq!(Event::from_json(json!([])).unwrap_err().message, "event: not a JSON object");
        assert_eq!(with("id", Value::Null), "attribute `id`: missing");
        assert_eq!(with("source", "".into()), "attribute `source`: empty");
        assert_eq!(with("specversion", "0.3".into()), "attribute `specversion`: only 1.0 is understood");
        assert!(with("type", "a..b".into()).starts_with("attribute `type`: subject `a..b`: empty token"));
        assert!(with("time", "yesterday".into()).starts_with("attribute `time`: not RFC 3339"));
        assert_eq!(with("time", "1969-12-31T23:59:59Z".into()), "attribute `time`: before 1970");
        assert_eq!(with("sequence", "-1".into()), "attribute `sequence`: not a number of 64 bits");
        assert_eq!(with("subject", 5.into()), "attribute `subject`: not a string");
        assert!(with("data_base64", "AA==".into()).contains("given beside"));
        assert!(with("Bad_Name", 1.into()).contains("extension `Bad_Name`"));
        assert!(with("nested", json!({})).contains("extension `nested`"));
        assert!(with("datacontenttype", "image/png".into()).contains("its type is `image/png`"));
        assert!(with("datacontenttype", "png".into()).contains("not a media type"));
    }

    fn extension() -> impl Strategy<Value = Value> {
        prop_oneof![
            any::<String>().prop_map(Value::from),
            any::<bool>().prop_map(Value::from),
            any::<i32>().prop_map(Value::from)
        ]
    }

    fn data() -> impl Strategy<Value = Data> {
        let bytes = |content_type: &'static str| {
            prop::collection::vec(any::<u8>(), 0..64)
                .prop_map(move |bytes| Data::Bytes { content_type: content_type.to_owned(), bytes })
        };
        prop_oneof![
            any::<String>().prop_map(|text| Data::Json(text.into())),
            any::<i64>().prop_map(|n| Data::Json(json!({ "n": [n] }))),
            Just(Data::Json(Value::Null)),
            bytes("application/octet-stream"),
            bytes("text/plain; charset=utf-8"),
            bytes("application/json"),
        ]
    }

    proptest! {
        #[test]
        fn every_event_survives_the_journey(
            time_ms in 0u64..253_402_300_799_999,
            sequence in any::<Option<u64>>(),
            subject in "[^\\x00]{1,9}",
            extensions in prop::collection::btree_map("e[0-9]{1,8}", extension(), 0..3),
            data in data(),
        ) {
            let event = Event {
                id: EventId::counted(&"boot".into(), time_ms),
                source: "/test".into(),
                kind: Subject::from_static("a.b"),
                subject: Some(subject.into()),
                time_ms,
                sequence,
                data,
                extensions,
            };
            let text = event.to_json().to_string();
            prop_assert_eq!(Event::from_json(serde_json::from_str(&text).unwrap()).unwrap(), event);
        }
    }
}
