//! Two clients on one server: what each of them sees, and what it never sees.

use hms_core::clock::ManualClock;
use http_body_util::BodyExt;

use super::*;
use crate::pool::stream::{Full, Reading};

fn stream(number: u64) -> Arc<Stream> {
    Stream::new(number, 1 << 20, Full::Lose)
}

fn message(value: Value) -> Message {
    Message::parse(value.to_string()).unwrap()
}

fn call(id: Value, token: Value) -> Message {
    let meta = json!({ "progressToken": token });
    message(
        json!({ "jsonrpc": "2.0", "id": id, "method": "tools/call", "params": { "name": "t", "_meta": meta } }),
    )
}

/// Everything on a stream so far.
fn seen(stream: &Arc<Stream>) -> Vec<Value> {
    let clock = ManualClock::shared();
    let Some(mut reader) =
        stream.read(0, Reading { ids: false, primed: false, hang_up_after: None, gone: None, clock })
    else {
        return Vec::new();
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    stream.end();
    runtime.block_on(async {
        let mut all = Vec::new();
        while let Some(frame) = reader.frame().await {
            let text = String::from_utf8(frame.unwrap().into_data().unwrap().to_vec()).unwrap();
            let data = text.lines().find_map(|l| l.strip_prefix("data: ")).unwrap();
            all.push(serde_json::from_str(data).unwrap());
        }
        all
    })
}

fn sent(mux: &mut Mux) -> Vec<Value> {
    mux.take_out().iter().map(|l| serde_json::from_str(l).unwrap()).collect()
}

/// Clients 1 and 2, who share a server.
fn pair() -> (Mux, Arc<Stream>, Arc<Stream>) {
    let mut mux = Mux::default();
    let (one, two) = (stream(0), stream(0));
    mux.sit(1, one.clone());
    mux.sit(2, two.clone());
    (mux, one, two)
}

#[test]
fn the_same_ids_and_tokens_of_two_clients_do_not_meet() {
    let (mut mux, news1, news2) = pair();
    let (s1, s2) = (stream(1), stream(1));
    mux.request(Some(1), &call(json!(7), json!("same")), &s1);
    mux.request(Some(2), &call(json!(7), json!("same")), &s2);
    let out = sent(&mut mux);
    assert_ne!(out[0]["id"], out[1]["id"]);
    assert_ne!(out[0]["params"]["_meta"]["progressToken"], out[1]["params"]["_meta"]["progressToken"]);
    for (at, said) in [(1, "second"), (0, "first")] {
        let token = &out[at]["params"]["_meta"]["progressToken"];
        let params = json!({ "progressToken": token, "progress": at });
        mux.hear(message(json!({ "jsonrpc": "2.0", "method": "notifications/progress", "params": params })));
        mux.hear(message(json!({ "jsonrpc": "2.0", "id": out[at]["id"], "result": { "said": said } })));
    }
    for (s, progress, said) in [(s1, 0, "first"), (s2, 1, "second")] {
        let all = seen(&s);
        assert_eq!(all.len(), 2);
        assert_eq!(all[0]["params"], json!({ "progressToken": "same", "progress": progress }));
        assert_eq!(all[1], json!({ "jsonrpc": "2.0", "id": 7, "result": { "said": said } }));
    }
    assert!(seen(&news1).is_empty() && seen(&news2).is_empty() && mux.in_flight() == 0);
}

#[test]
fn a_client_cancels_its_own_request_only() {
    let (mut mux, ..) = pair();
    let (s1, s2) = (stream(1), stream(1));
    mux.request(Some(1), &call(json!("a"), json!(1)), &s1);
    mux.request(Some(2), &call(json!("a"), json!(1)), &s2);
    let out = sent(&mut mux);
    let cancel = message(
        json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": { "requestId": "a" } }),
    );
    mux.notification(2, &cancel);
    let cancelled = sent(&mut mux);
    assert_eq!((cancelled.len(), &cancelled[0]["params"]["requestId"]), (1, &out[1]["id"]));
    mux.notification(2, &cancel);
    assert!(sent(&mut mux).is_empty(), "it is cancelled once");
    mux.hear(message(json!({ "jsonrpc": "2.0", "id": out[1]["id"], "result": {} })));
    mux.hear(message(json!({ "jsonrpc": "2.0", "id": out[0]["id"], "result": {} })));
    assert_eq!((seen(&s1).len(), seen(&s2).len(), mux.unclaimed()), (1, 0, 1));
}

fn question(id: u64) -> Message {
    message(
        json!({ "jsonrpc": "2.0", "id": id, "method": "elicitation/create", "params": { "message": "?" } }),
    )
}

#[test]
fn a_question_goes_to_the_only_client_with_a_call_and_only_its_answer_counts() {
    let (mut mux, ..) = pair();
    let s2 = stream(1);
    mux.request(Some(2), &call(json!(1), json!(1)), &s2);
    sent(&mut mux);
    mux.hear(question(0));
    let answer = message(json!({ "jsonrpc": "2.0", "id": 0, "result": { "action": "accept" } }));
    mux.response(1, &answer);
    assert!(sent(&mut mux).is_empty(), "another client may not answer");
    mux.response(2, &answer);
    mux.response(2, &answer);
    assert_eq!(sent(&mut mux).len(), 1, "an answer counts once");
    assert_eq!(seen(&s2)[0]["method"], "elicitation/create");
}

#[test]
fn an_uncertain_question_is_refused_and_then_clients_take_turns() {
    let (mut mux, ..) = pair();
    let streams: Vec<_> = (1..=4).map(stream).collect();
    mux.request(Some(1), &call(json!(1), json!(1)), &streams[0]);
    mux.request(Some(2), &call(json!(1), json!(1)), &streams[1]);
    let first = sent(&mut mux);
    mux.hear(question(9));
    let refused = sent(&mut mux);
    assert_eq!((refused.len(), &refused[0]["id"]), (1, &json!(9)));
    assert!(refused[0]["error"]["message"].as_str().unwrap().contains("which client"));
    // From now on a client waits until the others' calls are done.
    mux.request(Some(1), &call(json!(2), json!(2)), &streams[2]);
    assert!(sent(&mut mux).is_empty());
    mux.hear(message(json!({ "jsonrpc": "2.0", "id": first[1]["id"], "result": {} })));
    let second = sent(&mut mux);
    assert_eq!(second.len(), 1, "client 2 has nothing in flight any more");
    mux.request(Some(2), &call(json!(2), json!(2)), &streams[3]);
    mux.hear(question(10));
    mux.hear(message(json!({ "jsonrpc": "2.0", "id": first[0]["id"], "result": {} })));
    assert!(sent(&mut mux).is_empty(), "client 1 has another call in flight");
    mux.hear(message(json!({ "jsonrpc": "2.0", "id": second[0]["id"], "result": {} })));
    assert_eq!(sent(&mut mux).len(), 1);
    assert!(seen(&streams[2]).iter().any(|m| m["id"] == 10), "the question was client 1's");
    assert!(seen(&streams[3]).is_empty() && seen(&streams[1]).iter().all(|m| m["id"] != 10));
}

#[test]
fn resources_are_subscribed_for_all_and_told_to_who_asked() {
    let (mut mux, news1, news2) = pair();
    let subscription = |method: &str, uri: &str| {
        message(json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": { "uri": uri } }))
    };
    for seat in [1, 2] {
        mux.request(Some(seat), &subscription("resources/subscribe", "file:///a"), &stream(1));
    }
    mux.request(Some(2), &subscription("resources/subscribe", "file:///b"), &stream(1));
    assert_eq!(sent(&mut mux).len(), 3);
    let s = stream(2);
    mux.request(Some(1), &subscription("resources/unsubscribe", "file:///a"), &s);
    assert!(sent(&mut mux).is_empty(), "client 2 still wants it");
    assert_eq!(seen(&s)[0]["result"], json!({}));
    let updated = json!({ "uri": "file:///a" });
    mux.hear(message(
        json!({ "jsonrpc": "2.0", "method": "notifications/resources/updated", "params": updated }),
    ));
    mux.hear(message(json!({ "jsonrpc": "2.0", "method": "notifications/tools/list_changed" })));
    mux.leave(2);
    let left: BTreeSet<String> = sent(&mut mux)
        .iter()
        .filter(|m| m["method"] == "resources/unsubscribe")
        .map(|m| m["params"]["uri"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(left, BTreeSet::from(["file:///a".into(), "file:///b".into()]));
    let methods = |news: &Arc<Stream>| -> Vec<String> {
        seen(news).iter().map(|m| m["method"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(methods(&news1), ["notifications/tools/list_changed"]);
    assert_eq!(methods(&news2), ["notifications/resources/updated", "notifications/tools/list_changed"]);
}

#[test]
fn log_messages_are_never_shown_to_the_wrong_client() {
    let (mut mux, news1, news2) = pair();
    let log = |level: &str| {
        let params = json!({ "level": level, "data": "secret" });
        message(json!({ "jsonrpc": "2.0", "method": "notifications/message", "params": params }))
    };
    let level = |level: &str| {
        message(
            json!({ "jsonrpc": "2.0", "id": 1, "method": "logging/setLevel", "params": { "level": level } }),
        )
    };
    let (s1, s2) = (stream(1), stream(2));
    mux.request(Some(1), &level("error"), &stream(3));
    mux.request(Some(2), &level("debug"), &stream(4));
    let quiet = stream(5);
    mux.request(Some(1), &level("warning"), &quiet);
    assert_eq!(sent(&mut mux).len(), 2, "less than another client wants is not the server's business");
    assert_eq!(seen(&quiet).len(), 1);
    mux.calls.clear();
    mux.request(Some(1), &call(json!(1), json!(1)), &s1);
    mux.hear(log("info"));
    mux.hear(log("error"));
    mux.request(Some(2), &call(json!(1), json!(1)), &s2);
    mux.hear(log("error"));
    assert_eq!(mux.unclaimed(), 1);
    assert_eq!((seen(&s1).len(), seen(&s2).len()), (1, 0));
    assert!(seen(&news1).is_empty() && seen(&news2).is_empty());
}

#[test]
fn when_the_server_goes_every_client_is_told_and_keeps_its_seat() {
    let (mut mux, ..) = pair();
    let (s1, s2) = (stream(1), stream(1));
    mux.request(Some(1), &call(json!("x"), json!(1)), &s1);
    mux.request(Some(2), &call(json!(5), json!(1)), &s2);
    mux.server_gone("the server exited with code 1");
    for (s, id) in [(s1, json!("x")), (s2, json!(5))] {
        let all = seen(&s);
        assert_eq!((&all[0]["id"], all.len()), (&id, 1));
        assert!(all[0]["error"]["message"].as_str().unwrap().contains("exited"));
    }
    assert_eq!((mux.seats(), mux.busy()), (2, false));
}

#[test]
fn a_listener_without_a_session_sees_its_subscription_under_its_own_id() {
    let mut mux = Mux::default();
    let (s1, s2) = (stream(1), stream(1));
    let listen =
        message(json!({ "jsonrpc": "2.0", "id": "l", "method": "subscriptions/listen", "params": {} }));
    mux.request(None, &listen, &s1);
    let number = mux.request(None, &listen, &s2);
    let out = sent(&mut mux);
    for request in &out {
        let meta = json!({ "io.modelcontextprotocol/subscriptionId": request["id"] });
        let params = json!({ "_meta": meta, "for": request["id"] });
        mux.hear(message(
            json!({ "jsonrpc": "2.0", "method": "notifications/tools/list_changed", "params": params }),
        ));
    }
    assert!(mux.take_tools_changed());
    mux.cancel(number, "the client closed the stream");
    assert_eq!(sent(&mut mux)[0]["params"]["requestId"], out[1]["id"]);
    for (s, request) in [(s1, &out[0]), (s2, &out[1])] {
        let all = seen(&s);
        assert_eq!((all.len(), &all[0]["params"]["for"]), (1, &request["id"]));
        assert_eq!(all[0]["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"], "l");
    }
}

#[test]
fn news_of_a_resource_are_not_those_of_its_neighbours() {
    for (subscribed, uri, wanted) in [
        ("file:///a", "file:///a", true),
        ("file:///a", "file:///a/b", true),
        ("file:///a/", "file:///a/b", true),
        ("file:///a", "file:///a#part", true),
        ("file:///a", "file:///a-secret", false),
        ("", "file:///a", false),
    ] {
        assert_eq!(covers(subscribed, uri), wanted, "{subscribed} {uri}");
    }
}

#[test]
fn a_client_cannot_subscribe_without_end() {
    let (mut mux, ..) = pair();
    let subscribe = |id: usize| {
        message(
            json!({"jsonrpc": "2.0", "id": id, "method": "resources/subscribe", "params": {"uri": format!("a:{id}")}}),
        )
    };
    for id in 0..SUBSCRIPTIONS {
        mux.request(Some(1), &subscribe(id), &stream(1));
    }
    assert_eq!(sent(&mut mux).len(), SUBSCRIPTIONS);
    let answers = stream(1);
    mux.request(Some(1), &subscribe(SUBSCRIPTIONS), &answers);
    assert!(sent(&mut mux).is_empty());
    assert_eq!(seen(&answers)[0]["error"]["code"], INTERNAL);
}
