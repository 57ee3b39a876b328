//! The scanner against serde_json, in any pieces, on anything.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{Envelope, Id, Kind, Lines, Piece, Scan, with_id};

/// What a stream shows, when it comes in pieces of these lengths.
fn cut(stream: &[u8], lengths: &[usize]) -> (Vec<u8>, Vec<Scan>) {
    let (mut lines, mut bytes, mut scans) = (Lines::default(), Vec::new(), Vec::new());
    let mut show = |piece: Piece<'_>| match piece {
        Piece::Line(line, scan) | Piece::Last(line, scan) => {
            bytes.extend_from_slice(line);
            scans.push(scan);
        }
        Piece::Part(part) => bytes.extend_from_slice(part),
    };
    let (mut rest, mut lengths) = (stream, lengths.iter().cycle());
    while !rest.is_empty() {
        let (now, later) = rest.split_at((*lengths.next().unwrap_or(&1)).clamp(1, rest.len()));
        lines.feed(now, &mut show);
        rest = later;
    }
    (bytes, scans)
}

fn one(line: &str) -> Envelope {
    let (_, mut scans) = cut(format!("{line}\n").as_bytes(), &[1 << 20]);
    assert_eq!(scans.len(), 1);
    let mut scan = scans.remove(0);
    assert_eq!(scan.kind, Kind::One, "{line}");
    scan.parts.remove(0)
}

fn id(value: &Value) -> Option<Id> {
    Id::from_json(value.to_string().as_bytes())
}

#[test]
fn messages_are_told_apart() {
    let call = one(
        r#"{"method":"tools/call","params":{"arguments":{"id":7,"method":"no","_meta":{"progressToken":1}},"name":"append","_meta":{"progressToken":"t","io.modelcontextprotocol/protocolVersion":"2026-07-28"}},"jsonrpc":"2.0","id":3}"#,
    );
    assert_eq!(call.as_request(), Some((&Id::from_json(b"3").unwrap(), "tools/call")));
    assert_eq!(call.name.as_deref(), Some("append"));
    assert_eq!(call.token, Some(Id::of_text("t")));
    assert!(call.stateless && call.as_response().is_none() && call.as_notification().is_none());

    let answer = one(r#" { "result" : { "id" : [ { "x" : "]}\"" } ] } , "id" : "a" }"#);
    assert_eq!(answer.as_response(), Some(&Id::of_text("a")));
    assert!(answer.result && !answer.error);

    let cancelled = one(r#"{"method":"notifications/cancelled","params":{"requestId":-1,"reason":"x"}}"#);
    assert_eq!(cancelled.as_notification(), Some("notifications/cancelled"));
    assert_eq!(cancelled.request, Id::from_json(b"-1"));

    let escaped = one(r#"{"\u0069d":"\u0061","method":"tools\/list"}"#);
    assert_eq!(escaped.as_request(), Some((&Id::of_text("a"), "tools/list")));
    let error = one(r#"{"error":{"code":1,"message":"m"},"id":null}"#);
    assert_eq!(error.as_response().map(Id::as_json), Some("null"));
}

#[test]
fn ids_are_equal_when_json_says_so() {
    for (a, b) in
        [("1", "1.0"), ("\"a\"", "\"\\u0061\""), ("10", "1e1"), ("\"é\"", "\"\\u00e9\""), ("0", "-0")]
    {
        assert_eq!(Id::from_json(a.as_bytes()), Id::from_json(b.as_bytes()), "{a} {b}");
    }
    for (a, b) in [("1", "\"1\""), ("1", "2"), ("9007199254740993", "9007199254740992")] {
        assert_ne!(Id::from_json(a.as_bytes()), Id::from_json(b.as_bytes()), "{a} {b}");
    }
    for none in ["true", "{}", "[1]", "", "\"", "1x"] {
        assert_eq!(Id::from_json(none.as_bytes()), None, "{none}");
    }
}

#[test]
fn what_is_no_message_is_opaque() {
    for line in [
        "hello",
        "{",
        "}",
        "[",
        "[1]",
        "[]",
        "{\"id\":1,}",
        "{\"id\" 1}",
        "{\"id\":1}x",
        "{\"id\":1}{\"id\":2}",
        "null",
        "\"x\"",
        "{\"id\":tru,\"method\":\"x\"}",
        "{'id':1}",
        "\u{0}",
        "{\"a\":\"",
        "[{\"id\":1},]",
        "{\"id\":{}",
    ] {
        let (_, scans) = cut(format!("{line}\n").as_bytes(), &[3]);
        assert_eq!(scans[0].kind, Kind::Opaque, "{line}");
        assert!(scans[0].parts.is_empty());
    }
    for line in ["", " ", "\r", "\t \r"] {
        assert_eq!(cut(format!("{line}\n").as_bytes(), &[1]).1[0].kind, Kind::Blank);
    }
    let (_, scans) = cut(b"[{\"id\":1,\"method\":\"a\"} , {\"method\":\"b\"}]\r\n", &[1]);
    assert_eq!((scans[0].kind, scans[0].parts.len()), (Kind::Batch, 2));
}

#[test]
fn a_long_line_streams_and_is_known_in_the_end() {
    let line = format!(
        "{{\"result\":{{\"text\":\"{}\"}},\"jsonrpc\":\"2.0\",\"id\":41}}\n",
        "x\\\"y".repeat(1 << 20)
    );
    let (mut lines, mut most, mut parts, mut ids) = (Lines::default(), 0, 0, Vec::new());
    for chunk in line.as_bytes().chunks(1 << 16) {
        lines.feed(chunk, |piece| match piece {
            Piece::Part(_) => parts += 1,
            Piece::Last(_, scan) => ids.extend(scan.parts[0].as_response().cloned()),
            Piece::Line(..) => panic!("it is long"),
        });
        most = most.max(lines.held.len());
    }
    assert!(parts > 10 && most <= (1 << 20) + (1 << 16), "{parts} {most}");
    assert_eq!(ids, [Id::from_json(b"41").unwrap()]);
    assert!(!lines.is_within());
}

#[test]
fn an_id_is_replaced_in_place() {
    let line = b"{ \"id\" :  12 , \"method\":\"m\", \"params\":{\"id\":12}}\n";
    let mut made = Vec::new();
    Lines::default().feed(line, |piece| {
        if let Piece::Line(line, scan) = piece {
            made = with_id(line, &scan.parts[0], &Id::of_text("new"));
        }
    });
    assert_eq!(made, b"{ \"id\" :  \"new\" , \"method\":\"m\", \"params\":{\"id\":12}}\n");
}

fn any_json(depth: u32) -> BoxedStrategy<Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(depth, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec(
                ("[a-zA-Z\"\\\\]{0,8}|id|method|params|_meta|name|progressToken", inner),
                0..4
            )
            .prop_map(|entries| Value::Object(entries.into_iter().collect())),
        ]
    })
    .boxed()
}

/// What the scanner should find, by way of a whole parse.
fn expected(message: &Value) -> Envelope {
    let text = |v: &Value| v.as_str().map(Into::into);
    let params = &message["params"];
    Envelope {
        id: id(&message["id"]).filter(|_| message.get("id").is_some()),
        id_at: (0, 0),
        method: text(&message["method"]),
        name: text(&params["name"]),
        token: params["_meta"].get("progressToken").and_then(id),
        progress: params.get("progressToken").and_then(id),
        request: params.get("requestId").and_then(id),
        result: message.get("result").is_some(),
        error: message.get("error").is_some(),
        stateless: params["_meta"].get("io.modelcontextprotocol/protocolVersion").is_some(),
    }
}

proptest! {
    /// In whatever pieces: nothing is lost, and the envelope is what a whole parse says.
    #[test]
    fn agrees_with_a_parser(
        name in prop::option::of(any_json(2)), meta in any_json(3), extra in any_json(4), number in any::<i32>(),
        shape in 0..6, lengths in prop::collection::vec(1usize..40, 1..6), pretty in any::<bool>(),
    ) {
        let mut message = json!({"jsonrpc": "2.0", "params": {"arguments": extra.clone(), "requestId": number, "_meta": meta}});
        if let Some(name) = name { message["params"]["name"] = name; }
        match shape {
            0 => { message["id"] = json!(number); message["method"] = json!("tools/call"); }
            1 => { message["id"] = json!("ü\u{1}\"\\"); message["result"] = extra; }
            2 => message["method"] = json!("notifications/progress"),
            3 => { message["error"] = extra; message["id"] = Value::Null; }
            4 => message["params"] = extra,
            _ => {}
        }
        let mut line = if pretty { format!("{message:#}").replace('\n', "\r\t") } else { message.to_string() };
        line.push('\n');
        let (bytes, scans) = cut(line.as_bytes(), &lengths);
        prop_assert_eq!(&bytes, line.as_bytes());
        let mut found = scans[0].parts[0].clone();
        if found.id.is_some() {
            let (from, to) = found.id_at;
            prop_assert_eq!(Id::from_json(&line.as_bytes()[from..to]), found.id.clone());
        }
        found.id_at = (0, 0);
        prop_assert_eq!(found, expected(&message));
    }

    /// Any bytes at all: nothing is lost, nothing panics, and what is called a message is one for a parser
    /// unless only its brackets' kinds are wrong.
    #[test]
    fn survives_anything(stream in prop::collection::vec(prop_oneof![
        Just(b'{'), Just(b'}'), Just(b'['), Just(b']'), Just(b'"'), Just(b'\\'), Just(b':'), Just(b','), Just(b'\n'), any::<u8>()
    ], 0..200), lengths in prop::collection::vec(1usize..9, 1..4)) {
        let mut stream = stream;
        stream.push(b'\n');
        let (bytes, scans) = cut(&stream, &lengths);
        prop_assert_eq!(bytes, stream.clone());
        prop_assert_eq!(scans.len(), stream.iter().filter(|b| **b == b'\n').count());
    }
}
