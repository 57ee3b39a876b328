//! The doors of healing: strategies, budget, commands, service, configuration.

mod common;

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use common::{Lab, PATIENCE, Ward, actions, assert_verified, ill};
use hms_core::{Error, ErrorKind, agent::Stop, clock::Clock};
use hms_healing::{Incident, Outcome, PREFIX, StepResult};
use serde_json::{Value, json};

fn home() -> tempfile::TempDir {
    tempfile::tempdir().expect("there is a temporary folder")
}

#[tokio::test]
async fn a_strategy_that_panics_fails_or_is_missing_is_a_failed_step() {
    let home = home();
    let lab = Lab::open(home.path(), &Ward::default(), "").await;
    lab.strategy("explode", |_| panic!("boom"));
    lab.strategy("refuse", |_| Err(Error::new(ErrorKind::HandlerFailed, "not today")));
    lab.strategy("babble", |_| Ok(json!({"result": "verified"})));
    let ladder = json!(["explode", "refuse", "babble", "absent", "restart"]);
    let web = lab.admit("web", json!({"healing": {"ladder": ladder}})).await;
    web.feels(ill("broken"));
    let incident = lab.closed().await;
    assert_verified(&incident);
    let details: Vec<&str> = incident.steps.iter().filter_map(|s| s.detail.as_deref()).collect();
    let words = [
        "panicked: boom",
        "not today",
        "gave an answer that does not fit",
        "no service `hms.healing.strategy.absent`",
    ];
    for (detail, words) in details.iter().zip(words) {
        assert!(detail.contains(words), "{detail}");
    }
    assert!(incident.steps[..4].iter().all(|s| s.result == Some(StepResult::Failed)), "{incident:#?}");
    lab.close(Stop::Kill).await;
}

#[tokio::test]
async fn a_strategy_gets_the_incident_and_the_life_that_was_diagnosed() {
    let home = home();
    let lab = Lab::open(home.path(), &Ward::default(), "").await;
    let seen: Arc<Mutex<Vec<Value>>> = Arc::default();
    let (log, ward) = (seen.clone(), lab.ward.clone());
    lab.strategy("repair", move |args| {
        log.lock().expect("no panic").push(args);
        // It mends the agent without a restart.
        ward.lock().expect("no panic")["web"].feels(hms_core::agent::Health::healthy());
        Ok(json!({"detail": "mended"}))
    });
    let web = lab.admit("web", json!({"healing": {"ladder": ["repair"]}})).await;
    web.feels(ill("broken"));
    let incident = lab.closed().await;
    assert_verified(&incident);
    assert_eq!(incident.steps[0].detail.as_deref(), Some("mended"));
    let args = seen.lock().expect("no panic")[0].clone();
    assert_eq!(
        (&args["agent"], &args["incarnation"], &args["incident"]["cause_code"]),
        (&json!("web"), &json!(1), &json!("broken"))
    );
    assert_eq!(args["config"]["ladder"], json!(["repair"]));
    lab.close(Stop::Kill).await;
}

#[tokio::test]
async fn a_later_life_is_not_restarted_for_an_earlier_ones_illness() {
    let home = home();
    let lab = Lab::open(home.path(), &Ward::default(), "").await;
    let web = lab.admit("web", json!({})).await;
    web.feels(ill("broken"));
    let incident = lab.closed().await;
    assert_eq!(lab.state("web").incarnation, 2);
    let request = json!({"agent": "web", "id": incident.agent_id, "incident": incident, "incarnation": 1,
        "config": json!({"enabled": true, "on": "critical", "degraded_after": "0s", "alerts": true, "ladder": ["restart"],
            "ready_timeout": "1s", "verify_window": "1s", "max_exits": 0, "budget": {"actions": 1, "window": "1m"},
            "command": [], "command_timeout": "1s"})});
    let restart = lab.kernel.services().find(&format!("{PREFIX}restart")).expect("it is registered");
    let answer = restart.call("apply", request, PATIENCE).await.expect("it answers");
    assert_eq!(answer["result"], "superseded");
    assert_eq!((lab.state("web").incarnation, web.lives.load(SeqCst)), (2, 2));
    lab.close(Stop::Kill).await;
}

#[tokio::test]
async fn a_superseded_step_is_verified_and_costs_nothing() {
    let home = home();
    let lab = Lab::open(home.path(), &Ward::default(), "").await;
    let ward = lab.ward.clone();
    lab.strategy("late", move |_| {
        ward.lock().expect("no panic")["web"].feels(hms_core::agent::Health::healthy());
        Ok(json!({"result": "superseded"}))
    });
    let web = lab.admit("web", json!({"healing": {"ladder": ["late"]}})).await;
    web.feels(ill("broken"));
    let incident = lab.closed().await;
    assert_verified(&incident);
    assert_eq!(incident.steps[0].result, Some(StepResult::Superseded));
    let status = lab.command("heal status", json!({})).await.expect("it answers");
    assert_eq!(status["budget"], json!([]));
    lab.close(Stop::Kill).await;
}

#[tokio::test]
async fn an_exhausted_budget_escalates_and_recovers() {
    let home = home();
    let lab =
        Lab::open(home.path(), &Ward::default(), "[healing.budget]\nactions = 2\nwindow = \"5m\"\n").await;
    let web = lab.admit("web", json!({})).await;
    web.ill_until.store(u64::MAX, SeqCst);
    web.feels(ill("broken"));
    let incident = lab.closed().await;
    assert_eq!(actions(&incident), ["1 restart", "2 restart"]);
    assert_eq!(incident.outcome, Some(Outcome::Escalated));
    assert_eq!(incident.reason.as_deref(), Some("the budget of 2 actions within 5m is exhausted"));
    let status = lab.command("heal status", json!({})).await.expect("it answers");
    assert_eq!((&status["budget"][0]["used"], &status["budget"][0]["exhausted"]), (&json!(2), &json!(true)));

    web.ill_until.store(0, SeqCst);
    lab.clock.advance(Duration::from_secs(301));
    let healed =
        lab.drive(lab.command("heal trigger", json!({"agent": "web"}))).await.expect("there is room again");
    assert_eq!(healed["outcome"], "verified");
    lab.close(Stop::Kill).await;
}

#[tokio::test]
async fn not_too_many_are_healed_at_once() {
    let home = home();
    let lab =
        Lab::open(home.path(), &Ward::default(), "[healing]\nconcurrency = 2\nladder = [\"slow\"]\n").await;
    struct Slow(Arc<AtomicUsize>, Arc<AtomicUsize>, Arc<hms_core::clock::ManualClock>, common::Ward);
    #[async_trait::async_trait]
    impl hms_core::service::Service for Slow {
        async fn call(&self, _: &str, args: Value) -> hms_core::Result<Value> {
            use hms_core::clock::Clock;
            let inside = self.0.fetch_add(1, SeqCst) + 1;
            self.1.fetch_max(inside, SeqCst);
            self.2.sleep_until(self.2.now() + Duration::from_secs(1)).await;
            self.0.fetch_sub(1, SeqCst);
            let name = args["agent"].as_str().unwrap_or_default();
            self.3.lock().expect("no panic")[name].feels(hms_core::agent::Health::healthy());
            Ok(Value::Null)
        }
    }
    let (inside, most) = (Arc::default(), Arc::<AtomicUsize>::default());
    let service = Slow(inside, most.clone(), lab.clock.clone(), lab.ward.clone());
    let spec = hms_core::service::ServiceSpec::new(&format!("{PREFIX}slow"), "1.0.0", "slow")
        .method("apply", "slow");
    lab.kernel
        .services()
        .register(hms_core::owner::Owner::plugin("t"), spec, Arc::new(service))
        .expect("the name is free");
    for n in 0..6 {
        lab.admit(&format!("a{n}"), json!({})).await.feels(ill("broken"));
    }
    for _ in 0..6 {
        assert_verified(&lab.closed().await);
    }
    assert_eq!(most.load(SeqCst), 2);
    lab.close(Stop::Kill).await;
}

#[tokio::test]
async fn triggers_join_and_wait_for_the_outcome() {
    let home = home();
    let lab = Lab::open(home.path(), &Ward::default(), "").await;
    lab.admit("web", json!({})).await;
    let args = || json!({"agent": "web", "reason": "it is slow"});
    let both =
        async { tokio::join!(lab.command("heal trigger", args()), lab.command("heal trigger", args())) };
    let (first, second) = lab.drive(both).await;
    let (first, second) = (first.expect("it is verified"), second.expect("it is verified"));
    assert_eq!(first, second);
    let incident: Incident = serde_json::from_value(first).expect("it is an incident");
    assert_verified(&incident);
    assert_eq!((incident.cause.as_str(), incident.occurrences), ("it is slow", 1));
    assert_eq!(lab.patient("web").lives.load(SeqCst), 2);
    lab.close(Stop::Kill).await;
}

#[tokio::test]
async fn a_trigger_that_does_not_help_is_an_error() {
    let home = home();
    let lab = Lab::open(home.path(), &Ward::default(), "").await;
    let web = lab.admit("web", json!({})).await;
    web.ill_until.store(u64::MAX, SeqCst);
    let e =
        lab.drive(lab.command("heal trigger", json!({"agent": "web", "rung": "restart"}))).await.unwrap_err();
    assert_eq!(e.kind, ErrorKind::HandlerFailed);
    assert!(e.message.contains("agent `web` was not verified but failed: it did not help: "), "{e}");
    assert_eq!(e.hint.as_deref(), Some("`heal history web` shows the steps"));
    assert_eq!(actions(&lab.history().await[0]), ["1 restart"]);

    let e = lab.command("heal trigger", json!({"agent": "web", "rung": "restrat"})).await.unwrap_err();
    assert_eq!(e.kind, ErrorKind::InvalidArgument);
    assert!(e.to_string().contains("no healing strategy `restrat` (did you mean `restart`?"), "{e}");
    let e = lab.command("heal trigger", json!({"agent": "nobody"})).await.unwrap_err();
    assert_eq!(e.kind, ErrorKind::NotFound);
    lab.kernel.agents().stop("web", Stop::Kill).await.expect("it stops");
    let e = lab.command("heal trigger", json!({"agent": "web"})).await.unwrap_err();
    assert_eq!((e.kind, e.hint.as_deref()), (ErrorKind::InvalidState, Some("start it first")));
    lab.close(Stop::Kill).await;
}

#[tokio::test]
async fn waiting_ends_by_its_deadline_and_healing_goes_on() {
    let home = home();
    let lab = Lab::open(home.path(), &Ward::default(), "").await;
    let web = lab.admit("web", json!({})).await;
    web.stuck_until.store(2, SeqCst);
    let e =
        lab.drive(lab.command("heal trigger", json!({"agent": "web", "timeout": "5s"}))).await.unwrap_err();
    assert_eq!(e.kind, ErrorKind::Timeout);
    assert_eq!(lab.active().await.len(), 1);
    assert_verified(&lab.closed().await);

    let open =
        lab.command("heal trigger", json!({"agent": "web", "wait": false})).await.expect("it is opened");
    assert_eq!((&open["state"], &open["outcome"]), (&json!("open"), &Value::Null));
    assert_verified(&lab.closed().await);
    lab.close(Stop::Kill).await;
}

#[tokio::test]
async fn the_command_rung_runs_a_real_program() {
    let home = home();
    let lab = Lab::open(home.path(), &Ward::default(), "").await;
    let script =
        |text: &str| json!({"ladder": ["command"], "command": ["sh", "-c", text], "command_timeout": "20s"});
    let says = script("echo healing $(echo \"$HMS_INCIDENT\" | grep -c '\"cause_code\":\"trigger\"')");
    lab.admit("good", json!({"healing": says})).await;
    lab.command("heal trigger", json!({"agent": "good", "wait": false})).await.expect("it is opened");
    let incident = lab.closed_by(Duration::from_millis(1)).await;
    assert_verified(&incident);
    assert_eq!(incident.steps[0].detail.as_deref(), Some("healing 1"));

    lab.admit("bad", json!({"healing": script("echo no luck; exit 7")})).await;
    lab.command("heal trigger", json!({"agent": "bad", "wait": false})).await.expect("it is opened");
    let incident = lab.closed_by(Duration::from_millis(1)).await;
    assert_eq!(incident.steps[0].detail.as_deref(), Some("healing command `sh`: exit code 7: no luck"));

    let marker = home.path().join("pid");
    let text = format!("echo $$ > {}; sleep 1000", marker.display());
    lab.admit(
        "slow",
        json!({"healing": {"ladder": ["command"], "command": ["sh", "-c", text], "command_timeout": "2s"}}),
    )
    .await;
    lab.command("heal trigger", json!({"agent": "slow", "wait": false})).await.expect("it is opened");
    let pid = || std::fs::read_to_string(&marker).ok().and_then(|text| text.trim().parse::<u32>().ok());
    let began = std::time::Instant::now();
    while pid().is_none() {
        assert!(began.elapsed() < PATIENCE, "the command never began");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let incident = lab.closed_by(Duration::from_millis(50)).await;
    assert_eq!(incident.steps[0].detail.as_deref(), Some("healing command `sh` did not end within 2s"));
    let gone = !std::path::Path::new(&format!("/proc/{}", pid().expect("it was written"))).exists();
    assert!(gone, "what did not end was ended");
    lab.close(Stop::Kill).await;
}

#[tokio::test]
async fn the_service_answers() {
    let home = home();
    let lab = Lab::open(home.path(), &Ward::default(), "").await;
    lab.admit("web", json!({})).await;
    assert_eq!(
        lab.call("check_config", json!({"healing": {"verify_window": "5s"}})).await.expect("it fits"),
        json!({})
    );
    let e =
        lab.call("check_config", json!({"healing": {"ladder": ["restart", "quarantin"]}})).await.unwrap_err();
    assert_eq!(e.kind, ErrorKind::InvalidConfig);
    assert!(e.to_string().contains("no healing strategy `quarantin` (did you mean `quarantine`?"), "{e}");
    let e = lab.call("check_config", json!({"healing": {"verify": "5s"}})).await.unwrap_err();
    assert!(e.message.contains("unknown key `verify`"), "{e}");

    let well = lab
        .call("heal_agent", json!({"agent": "web", "health": {"status": "healthy"}}))
        .await
        .expect("it answers");
    assert_eq!(well["incident"], Value::Null);
    let report = json!({"agent": "web", "health": ill("anomaly")});
    let opened = lab.call("heal_agent", report).await.expect("it answers");
    let incident = lab.closed().await;
    assert_verified(&incident);
    assert_eq!(
        (opened["incident"].as_str(), incident.cause_code.as_str()),
        (Some(incident.id.as_str()), "anomaly")
    );
    let history = lab.call("history", json!({"agent": "web", "limit": 1})).await.expect("it answers");
    assert_eq!(history[0]["id"], incident.id);
    let e = lab.command("heal history", json!({"agent": "nobody"})).await.unwrap_err();
    assert_eq!(e.kind, ErrorKind::NotFound);
    lab.close(Stop::Kill).await;
}

#[tokio::test]
async fn history_waits_until_nothing_is_open() {
    let home = home();
    let lab = Lab::open(home.path(), &Ward::default(), "").await;
    let web = lab.admit("web", json!({})).await;

    // Nothing happened: a moment for something to begin, and no more.
    let begun = lab.clock.now();
    let none = lab.drive(lab.command("heal history", json!({"wait": true}))).await.expect("it answers");
    assert_eq!(none, json!([]));
    assert!(lab.clock.now() - begun < Duration::from_secs(5), "it waited for nothing");

    web.crash("boom");
    let all = lab.drive(lab.command("heal history", json!({"wait": true}))).await.expect("it answers");
    assert_eq!((&all[0]["agent"], &all[0]["outcome"]), (&json!("web"), &json!("verified")));

    web.stuck_until.store(u64::MAX, SeqCst);
    lab.told();
    web.crash("boom");
    lab.until("an incident is open", || lab.told().iter().any(|kind| kind == "heal.incident.opened")).await;
    let wait = json!({"agent": "web", "wait": true, "timeout": "100ms"});
    let e = lab.drive(lab.command("heal history", wait)).await.unwrap_err();
    assert_eq!(e.kind, ErrorKind::Timeout);
    assert_eq!(e.message, "the incident of agent `web` is still open after 100ms");
    lab.close(Stop::Kill).await;
}

#[tokio::test]
async fn settings_are_listed_and_set_for_all_or_one() {
    let home = home();
    let lab = Lab::open(home.path(), &Ward::default(), "").await;
    lab.admit("web", json!({})).await;
    let get = |args: Value| {
        let lab = &lab;
        async move { lab.command("heal configure", args).await.map(|rows| rows[0].clone()) }
    };
    let all = lab.command("heal configure", json!({})).await.expect("they are listed");
    let keys: Vec<&str> =
        all.as_array().into_iter().flatten().filter_map(|row| row["key"].as_str()).collect();
    for key in ["enabled", "ladder", "budget.actions", "history.retention", "concurrency"] {
        assert!(keys.contains(&key), "{key}: {keys:?}");
    }
    assert_eq!(get(json!({"key": "verify_window"})).await.expect("it is there")["origin"], "default");

    let set = get(json!({"key": "ladder", "value": "restart,quarantine"})).await.expect("it is set");
    assert_eq!((&set["value"], &set["default"][2]), (&json!(["restart", "quarantine"]), &json!("reset")));
    assert!(set["origin"].as_str().is_some_and(|o| o.starts_with("config.toml:")), "{set}");
    assert_eq!(
        lab.command("heal status", json!({})).await.expect("it answers")["ladder"],
        json!(["restart", "quarantine"])
    );

    let set =
        get(json!({"key": "healing.budget.actions", "value": "3", "agent": "web"})).await.expect("it is set");
    assert_eq!(
        (&set["key"], &set["value"], &set["origin"]),
        (&json!("budget.actions"), &json!(3), &json!("agent"))
    );
    assert_eq!(lab.kernel.agents().spec("web").expect("it exists").healing["budget"], json!({"actions": 3}));
    let unset =
        get(json!({"key": "budget.actions", "unset": true, "agent": "web"})).await.expect("it is unset");
    assert_eq!((&unset["value"], &unset["origin"]), (&json!(10), &json!("default")));
    assert!(lab.kernel.agents().spec("web").expect("it exists").healing.is_empty());
    assert_eq!(lab.patient("web").lives.load(SeqCst), 1, "a setting is no reason for another life");

    for (args, words) in [
        (json!({"key": "verify_windw", "value": "1s"}), "verify_windw"),
        (json!({"key": "verify_windw", "value": "1s", "agent": "web"}), "no healing setting `verify_windw`"),
        (json!({"key": "verify_window", "value": "soon"}), "soon"),
        (json!({"key": "verify_window", "value": "soon", "agent": "web"}), "verify_window"),
        (json!({"key": "ladder", "value": "restrat"}), "no healing strategy `restrat`"),
        (json!({"key": "concurrency", "value": "3", "agent": "web"}), "no healing setting `concurrency`"),
        (json!({"unset": true}), "argument `key`: is missing"),
    ] {
        let e = lab.command("heal configure", args.clone()).await.unwrap_err();
        assert!(e.message.contains(words), "{args}: {e}");
    }
    lab.close(Stop::Kill).await;
}
