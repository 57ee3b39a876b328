//! `up` and `down`.

use hms_core::ErrorKind;
use serde_json::json;

use super::*;

const SHOP: &str = r#"
[project]
name = "shop"

[agents.web]
type = "process"
command = ["sleep", "300"]
depends_on = ["db"]
restart = { policy = "permanent", intensity = { max = 3, window = "10s" } }
health = { interval = "2s" }
labels = { tier = "front" }

[agents.db]
type = "process"
config = { command = ["sleep", "301"] }
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_difference_is_applied() {
    let system = System::open().await;
    system.sleeper("other", json!({})).await;
    system.declare(SHOP);
    let up = system.run("up", json!({"wait": true})).await.unwrap();
    assert_eq!(up["created"], json!(["db", "web"]), "needs first");
    assert_eq!((&up["project"], &up["applied"]), (&json!("shop"), &json!(true)));
    assert_eq!(up["agents"][0]["change"], "created");
    let spec = system.kernel.agents().spec("web").unwrap();
    assert_eq!((spec.restart.intensity.max, spec.health.interval), (3, Some(Duration::from_secs(2))));
    assert_eq!(spec.labels["tier"], "front");
    let (db, web) = (system.pid("db").await, system.pid("web").await);

    let up = system.run("up", json!({})).await.unwrap();
    assert_eq!(up["unchanged"], json!(["db", "web"]));
    assert_eq!((&up["created"], &up["updated"], &up["removed"]), (&json!([]), &json!([]), &json!([])));
    assert_eq!((system.pid("db").await, system.pid("web").await), (db, web));

    // One changes, one goes, one comes; what is equal keeps its process.
    system.declare(
        &SHOP
            .replace("\"300\"", "\"302\"")
            .replace("[agents.web]", "[agents.cache]\ntype = \"group\"\n\n[agents.web]"),
    );
    let up = system.run("up", json!({})).await.unwrap();
    assert_eq!(
        (&up["created"], &up["updated"], &up["unchanged"]),
        (&json!(["cache"]), &json!(["web"]), &json!(["db"]))
    );
    assert_eq!(system.pid("db").await, db);
    assert!(!is_alive(web));
    // `db` can only go once `web` needs it no more.
    system.declare(
        "[project]\nname = \"shop\"\n[agents.web]\ntype = \"process\"\ncommand = [\"sleep\", \"302\"]\n",
    );
    let up = system.run("up", json!({})).await.unwrap();
    assert_eq!((&up["updated"], &up["removed"]), (&json!(["web"]), &json!(["cache", "db"])));
    assert!(!is_alive(db));
    assert_eq!(system.names().await, ["other", "web"]);

    let down = system.run("down", json!({})).await.unwrap();
    assert_eq!(down["removed"], json!(["web"]));
    assert_eq!(system.names().await, ["other"]);
    assert_eq!(system.run("down", json!({})).await.unwrap()["removed"], json!([]), "down twice is down");
    system.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_was_stopped_is_brought_up_again() {
    let system = System::open().await;
    system.declare(SHOP);
    system.run("up", json!({})).await.unwrap();
    system.run("agent stop", json!({"agents": ["web"]})).await.unwrap();
    let up = system.run("up", json!({"wait": true})).await.unwrap();
    assert_eq!((&up["updated"], &up["unchanged"]), (&json!(["web"]), &json!(["db"])));
    assert_eq!(system.kernel.agents().state("web").unwrap().status.as_str(), "running");
    system.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_mistake_is_told_with_its_place_and_nothing_changes() {
    let system = System::open().await;
    system.sleeper("taken", json!({})).await;
    let file = system.work.path().join("hms.toml").display().to_string();
    let problems = async |text: &str| {
        system.declare(text);
        let e = system.fails("up", json!({"check": true})).await;
        let again = system.fails("up", json!({})).await;
        assert_eq!(e, again, "`--check` and `up` agree");
        assert_eq!(e.kind, ErrorKind::InvalidConfig);
        let lines: Vec<String> =
            e.message.lines().map(|l| l.strip_prefix(&format!("{file}:")).unwrap_or(l).to_owned()).collect();
        (lines, e.hint.unwrap_or_default())
    };

    let (found, _) = problems("[agents.a]\ntype = \"process\ncommand = []\n").await;
    assert!(found.len() == 1 && found[0].starts_with("2:"), "{found:?}");

    let (found, hint) = problems("[agent.a]\ntype = \"group\"\n").await;
    assert_eq!(
        (found, hint.as_str()),
        (vec!["1:2: unknown key `agent`".to_owned()], "did you mean `agents`?")
    );

    let (found, _) = problems(
        r#"[agents.a]
type = "process"
comand = ["sleep", "9"]
command = ["sleep", 9]
health = { interval = "often" }

[agents.b]
type = "grup"

[agents.c]
type = "process"
command = ["/no/such/program"]

[agents.d]
type = "group"
depends_on = ["nobody"]

[agents.taken]
type = "group"

[agents.e]
command = ["sleep"]

[agents."Bad Name"]
type = "group"

[agents.g]
type = "process"
command = ["sleep", "9"]
restart = { policy = "always", intensity = { maximum = 3 } }

[agents.h]
type = "process"
command = ["sleep", "9"]
stop = { signal = "SIGNOTHING" }
"#,
    )
    .await;
    let told = |place: &str, words: &[&str]| {
        let line = found
            .iter()
            .find(|l| l.starts_with(&format!("{place}: ")) && words.iter().all(|w| l.contains(w)));
        assert!(line.is_some(), "{place} {words:?} is not told in {found:#?}");
    };
    told("3:1", &["unknown key `comand`", "did you mean `command`?"]);
    told("4:21", &["agents.a.command.1", "expected string"]);
    told("5:12", &["agents.a.health.interval", "often"]);
    told("8:1", &["`grup`", "did you mean `group`?"]);
    told("12:1", &["/no/such/program"]);
    told("16:15", &["no agent `nobody`"]);
    told("18:9", &["already an agent `taken`"]);
    told("21:9", &["agents.e", "`type` is missing"]);
    told("24:9", &["Bad Name"]);
    told("30:13", &["agents.g.restart.policy", "always"]);
    told("30:46", &["unknown key `maximum`"]);
    told("35:10", &["SIGNOTHING"]);
    assert_eq!(found.len(), 12, "{found:#?}");

    let (found, _) = problems(
        "[agents.a]\ntype = \"group\"\ndepends_on = [\"b\"]\n[agents.b]\ntype = \"group\"\ndepends_on = [\"c\"]\n[agents.c]\ntype = \"group\"\ndepends_on = [\"a\"]\n",
    )
    .await;
    assert_eq!(found, ["3:1: dependency cycle: a → b → c → a"]);

    let (found, _) =
        problems("project = 3\n[agents.a]\ntype = \"group\"\nlabels = { \"hms.project\" = \"x\" }\n").await;
    assert!(
        found[0].starts_with("1:1: project: expected a table") && found[1].starts_with("4:"),
        "{found:?}"
    );

    assert_eq!(system.names().await, ["taken"]);
    let e = system.fails("up", json!({"file": "missing.toml"})).await;
    assert_eq!(e.kind, ErrorKind::NotFound);
    assert!(e.message.ends_with("missing.toml: no such file"), "{e}");
    assert_eq!(system.fails("down", json!({"file": "missing.toml"})).await, e);
    system.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_says_what_would_be_done_and_does_nothing() {
    let system = System::open().await;
    system.declare(SHOP);
    let check = system.run("up", json!({"check": true})).await.unwrap();
    assert_eq!((&check["created"], &check["applied"]), (&json!(["db", "web"]), &json!(false)));
    assert_eq!(check["agents"][0], json!({"agent": "db", "change": "create"}));
    assert!(system.names().await.is_empty());
    system.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn others_are_left_alone() {
    let system = System::open().await;
    system.declare(SHOP);
    system.run("up", json!({})).await.unwrap();
    // Somebody else's agent needs one of ours: it can neither go by `up` nor by `down`.
    system
        .run("agent create", json!({"type": "group", "name": "guest", "depends_on": ["web"]}))
        .await
        .unwrap();
    let e = system.fails("down", json!({})).await;
    assert_eq!(e.kind, ErrorKind::InvalidState);
    assert!(e.message.contains("`guest`") && e.message.contains("needs `web`"), "{e}");
    system.declare(
        "[project]\nname = \"shop\"\n[agents.db]\ntype = \"process\"\ncommand = [\"sleep\", \"301\"]\n",
    );
    let e = system.fails("up", json!({})).await;
    assert!(e.message.contains("`guest`"), "{e}");
    assert_eq!(system.names().await.len(), 3);

    // Another project may not take over a name.
    system.declare(&SHOP.replace("\"shop\"", "\"mall\""));
    let e = system.fails("up", json!({})).await;
    assert!(e.message.contains("belongs to project `shop`"), "{e}");

    system.run("agent destroy", json!({"agents": ["guest"]})).await.unwrap();
    let down = system.run("down", json!({"project": "shop"})).await.unwrap();
    assert_eq!(down["removed"], json!(["web", "db"]), "dependents first");
    assert_eq!(system.fails("down", json!({"project": "shop"})).await.kind, ErrorKind::NotFound);
    system.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_without_a_name_is_its_own_project_even_when_it_is_gone() {
    let system = System::open().await;
    system.declare("[agents.where]\ntype = \"process\"\ncommand = [\"sh\", \"-c\", \"pwd; exec sleep 300\"]\ncwd = \"sub\"\n");
    std::fs::create_dir(system.work.path().join("sub")).unwrap();
    system.run("up", json!({})).await.unwrap();
    let sub = system.work.path().canonicalize().unwrap().join("sub");
    assert_eq!(system.lines("where", 1).await, [sub.to_str().unwrap()]);
    std::fs::remove_file(system.work.path().join("hms.toml")).unwrap();
    let down = system.run("down", json!({})).await.unwrap();
    assert_eq!(down["removed"], json!(["where"]));
    system.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiting_says_who_is_not_ready() {
    let system = System::open().await;
    let text = r#"
[agents.slow]
type = "process"
command = ["sleep", "300"]
readiness = { exec = ["false"], interval = "100ms" }

[agents.later]
type = "process"
command = ["sleep", "300"]
depends_on = ["slow"]

[agents.fine]
type = "process"
command = ["sleep", "300"]
"#;
    system.declare(text);
    let e = system.fails("up", json!({"wait": true, "timeout": "300ms"})).await;
    assert_eq!(e.kind, ErrorKind::Timeout, "{e}");
    assert!(e.message.starts_with("2 of 3 agents are not ready after 300ms: `later` is waiting"), "{e}");
    assert!(e.message.contains("`slow` is starting") && !e.message.contains("`fine`"), "{e}");

    // One that has failed for good, and what waits for it, need no waiting.
    system.declare(
        &text.replace("\"300\"]\nreadiness", "\"never\"]\nrestart = { policy = \"temporary\" }\nreadiness"),
    );
    let e = system.fails("up", json!({"wait": true, "timeout": "25s"})).await;
    assert_eq!(e.kind, ErrorKind::HandlerFailed, "{e}");
    assert!(e.message.contains("`slow` is failed") && e.message.contains("`later` is waiting"), "{e}");
    system.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_start_keeps_only_its_dependents_from_it() {
    let system = System::open().await;
    // A loader that is missing is seen by no check before the start.
    let script = system.work.path().join("broken");
    std::fs::write(&script, "#!/no/such/interpreter\n").unwrap();
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    system.declare(
        "[agents.broken]\ntype = \"process\"\ncommand = [\"./broken\"]\n\
         [agents.needy]\ntype = \"group\"\ndepends_on = [\"broken\"]\n[agents.fine]\ntype = \"group\"\n",
    );
    let e = system.fails("up", json!({})).await;
    assert!(e.message.contains("`broken`: ") && e.message.contains("because of `broken`"), "{e}");
    assert!(e.message.ends_with("created: fine"), "{e}");
    assert_eq!(system.names().await, ["fine"]);

    std::fs::write(&script, "#!/bin/sh\nexec sleep 300\n").unwrap();
    let up = system.run("up", json!({})).await.unwrap();
    assert_eq!((&up["created"], &up["unchanged"]), (&json!(["broken", "needy"]), &json!(["fine"])));
    system.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_at_once_are_one_after_the_other() {
    let system = System::open().await;
    system.declare(SHOP);
    let (a, b) = tokio::join!(system.run("up", json!({})), system.run("up", json!({})));
    let (a, b) = (a.unwrap(), b.unwrap());
    let mut changes = [a["created"].clone(), b["created"].clone()];
    changes.sort_by_key(ToString::to_string);
    assert_eq!(changes, [json!(["db", "web"]), json!([])]);
    system.close().await;
}
