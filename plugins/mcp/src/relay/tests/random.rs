//! Any interleaving of calls, answers, crashes, hangs, cancellations and time; and noise.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Move {
    Call(u8),
    Answer(prop::sample::Index),
    Cancel(prop::sample::Index),
    Exit,
    Start,
    Greet,
    Pass(u64),
    Cpu,
    Notify,
}

fn any_move() -> impl Strategy<Value = Move> {
    prop_oneof![
        6 => (0..4u8).prop_map(Move::Call),
        5 => any::<prop::sample::Index>().prop_map(Move::Answer),
        1 => any::<prop::sample::Index>().prop_map(Move::Cancel),
        1 => Just(Move::Exit),
        3 => Just(Move::Start),
        4 => Just(Move::Greet),
        2 => (0..20_000u64).prop_map(Move::Pass),
        1 => Just(Move::Cpu),
        1 => Just(Move::Notify),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    /// Whatever happens: a request gets one answer at most, and exactly one when all has settled; what may not be
    /// repeated reaches one server at most once; and each server gets things in the order they were said.
    #[test]
    fn every_request_gets_one_answer(moves in prop::collection::vec(any_move(), 1..120)) {
        let tools = ["read", "append", "set", "unknown"];
        let mut stage = Stage::ready(hang_settings());
        let (mut next, mut notes) = (0i64, 0i64);
        let mut said: BTreeMap<i64, &str> = BTreeMap::new();
        let mut cancelled: Vec<i64> = Vec::new();
        let at_server = |stage: &Stage| -> Vec<i64> {
            let life = stage.relay.life();
            let answered: Vec<i64> = stage.client.iter().filter_map(|m| m["id"].as_i64()).collect();
            stage.server.iter().filter(|(l, m)| *l == life && m["method"] == "tools/call")
                .filter_map(|(_, m)| m["id"].as_i64()).filter(|id| !answered.contains(id)).collect()
        };
        let up = |stage: &Stage| stage.starting.is_none() && !matches!(stage.relay.phase, Phase::Down(_) | Phase::GivenUp(_) | Phase::Starting(_));
        for step in moves {
            match step {
                Move::Call(tool) => {
                    next += 1;
                    said.insert(next, tools[tool as usize]);
                    stage.call(next, tools[tool as usize]);
                }
                Move::Answer(at) if up(&stage) && !at_server(&stage).is_empty() => {
                    let open = at_server(&stage);
                    let id = *at.get(&open);
                    if !cancelled.contains(&id) {
                        stage.reply(json!({"id": id, "result": {"life": stage.relay.life()}}));
                    }
                }
                Move::Cancel(at) => {
                    let open: Vec<i64> = said.keys().copied().filter(|id| stage.answers(*id).is_empty() && !cancelled.contains(id)).collect();
                    if !open.is_empty() {
                        let id = *at.get(&open);
                        cancelled.push(id);
                        stage.say(json!({"method": "notifications/cancelled", "params": {"requestId": id, "reason": "timeout"}}));
                    }
                }
                Move::Exit if up(&stage) => stage.exit(),
                Move::Start if stage.starting.is_some() => stage.start(),
                Move::Greet if up(&stage) => stage.greet(),
                Move::Pass(ms) => stage.pass(Duration::from_millis(ms)),
                Move::Cpu => { let life = stage.relay.life(); stage.step(|relay, now, out| relay.cpu(now, life, Duration::ZERO, out)); }
                Move::Notify => { notes += 1; stage.say(json!({"method": "notifications/n", "params": {"n": notes}})); }
                _ => {}
            }
            if stage.stopping.is_some() {
                stage.exit();
            }
        }
        // Let all settle: servers start, greet and answer.
        for _ in 0..200 {
            if stage.starting.is_some() { stage.start(); }
            if up(&stage) { stage.greet(); }
            for id in at_server(&stage) {
                if !cancelled.contains(&id) && up(&stage) && stage.stopping.is_none() {
                    stage.reply(json!({"id": id, "result": {}}));
                }
            }
            if stage.relay.in_flight() == 0 { break; }
            stage.pass(Duration::from_secs(1));
            let life = stage.relay.life();
            stage.step(|relay, now, out| relay.cpu(now, life, Duration::ZERO, out));
            if stage.stopping.is_some() { stage.exit(); }
        }
        for (id, tool) in &said {
            let answers = stage.answers(*id).len();
            if cancelled.contains(id) {
                prop_assert!(answers <= 1, "{id} ({tool}): {answers}");
            } else {
                prop_assert_eq!(answers, 1, "{} ({}) {:?}", id, tool, stage.relay.phase);
            }
            let most = if matches!(*tool, "read" | "set") { 2 } else { 1 };
            prop_assert!(stage.calls_sent(*id) <= most, "{id} ({tool}) was sent {} times", stage.calls_sent(*id));
        }
        // To each server, first sendings and notifications in the order they were said.
        let mut firsts: Vec<i64> = Vec::new();
        for (_, message) in &stage.server {
            if message["method"] == "tools/call" {
                let id = message["id"].as_i64().unwrap();
                if !firsts.contains(&id) { firsts.push(id); }
            }
        }
        prop_assert!(firsts.is_sorted(), "{firsts:?}");
        let noted: Vec<i64> = stage.server.iter().filter(|(_, m)| m["method"] == "notifications/n").map(|(_, m)| m["params"]["n"].as_i64().unwrap()).collect();
        prop_assert!(noted.is_sorted(), "{noted:?}");
    }

    /// Noise from both sides, in any pieces: no panic, and nothing is kept that grows.
    #[test]
    fn noise_is_survived(chunks in prop::collection::vec((any::<bool>(), prop_oneof![
        prop::collection::vec(any::<u8>(), 0..60),
        Just(b"{\"id\":1,\"method\":\"tools/call\"}\n".to_vec()),
        Just(b"{\"id\":1,\"result\":{}}\n".to_vec()),
        Just(b"{\"method\":\"notifications/cancelled\",\"params\":{\"requestId\":1}}\n".to_vec()),
        Just(b"{\"method\":\"notifications/progress\",\"params\":{\"progressToken\":[1]}}\n".to_vec()),
        Just(b"{\"id\":2,\"method\":\"initialize\",\"params\":7}\n".to_vec()),
        Just(b"{\"id\":2,\"result\":\"x\"}\n".to_vec()),
        Just(b"{\"id\":3,\"method\":\"tools/list\",\"params\":[]}\n".to_vec()),
        Just(b"{\"id\":3,\"result\":{\"tools\":7}}\n".to_vec()),
        Just(b"[[[[\n".to_vec()),
    ]), 0..60), exits in any::<bool>()) {
        let mut stage = Stage::new(Settings { warm: true, ..hang_settings() });
        stage.start();
        let (mut client, mut server) = (Lines::default(), Lines::default());
        for (n, (from_client, bytes)) in chunks.iter().enumerate() {
            let life = stage.relay.life();
            if *from_client {
                stage.step(|relay, now, out| client.feed(bytes, |piece| relay.client(now, piece, out)));
            } else {
                stage.step(|relay, now, out| server.feed(bytes, |piece| relay.server(now, life, piece, out)));
            }
            if exits && n % 7 == 6 {
                stage.exit();
                stage.pass(Duration::from_secs(6));
                if stage.starting.is_some() { stage.start(); server = Lines::default(); }
            }
        }
        prop_assert!(stage.relay.calls.len() <= 8 && stage.relay.own.len() <= 16);
    }
}
