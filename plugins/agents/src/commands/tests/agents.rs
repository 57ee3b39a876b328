//! `agent …`: one agent, and several at once.

use hms_core::ErrorKind;
use serde_json::json;

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_is_created_seen_and_destroyed() {
    let system = System::open().await;
    let row = system.sleeper("web", json!({"labels": {"tier": "front"}})).await;
    assert_eq!((row["name"].as_str(), row["type"].as_str()), (Some("web"), Some("process")));
    let pid = row["pid"].as_u64().unwrap();
    assert!(is_alive(pid));
    system.run("agent create", json!({"type": "group", "name": "team"})).await.unwrap();

    let list = system.run("agent list", json!({})).await.unwrap();
    let web = &list[0];
    for key in ["id", "name", "type", "status", "health", "restarts", "since_ms", "pid"] {
        assert!(!web[key].is_null(), "`{key}` is missing in {web}");
    }
    let narrowed = async |args| system.run("agent list", args).await.unwrap().as_array().unwrap().len();
    assert_eq!(narrowed(json!({"type": "process"})).await, 1);
    assert_eq!(narrowed(json!({"labels": {"tier": "front"}})).await, 1);
    assert_eq!(narrowed(json!({"labels": {"tier": "back"}})).await, 0);
    assert_eq!(narrowed(json!({"status": "running"})).await, 2);
    assert_eq!(narrowed(json!({"status": "stopped"})).await, 0);
    assert_eq!(narrowed(json!({"type": "http"})).await, 0);
    let e = system.fails("agent list", json!({"type": "proces"})).await;
    assert_eq!(e.kind, ErrorKind::NotFound);
    assert!(e.hint.as_ref().unwrap().contains("did you mean `process`?"), "{e}");

    let by_id = system.run("agent status", json!({"agent": web["id"]})).await.unwrap();
    assert_eq!((by_id["pid"].as_u64(), &by_id["config"]["command"]), (Some(pid), &json!(["sleep", "300"])));
    assert_eq!(by_id["labels"], json!({"tier": "front"}));

    let gone = system.run("agent destroy", json!({"agents": ["web"]})).await.unwrap();
    assert_eq!(gone[0]["name"], "web");
    assert!(!is_alive(pid));
    assert_eq!(system.names().await, ["team"]);
    system.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_creates_nothing() {
    let system = System::open().await;
    let create = async |args| system.fails("agent create", args).await;

    let e = create(json!({"type": "proces", "config": {}})).await;
    assert_eq!(e.kind, ErrorKind::TypeUnavailable);
    assert!(e.hint.as_ref().unwrap().contains("did you mean `process`?"), "{e}");

    let e = create(json!({"type": "process", "name": "a", "config": {"command": ["no-such-program-here"]}}))
        .await;
    assert!(e.message.contains("no-such-program-here"), "{e}");

    let e = create(
        json!({"type": "process", "name": "a", "config": {"command": ["sleep", "9"], "cwd": "/no/such/dir"}}),
    )
    .await;
    assert!(e.message.contains("/no/such/dir"), "{e}");

    let e = create(json!({"type": "process", "name": "a", "config": {"command": "sleep 9"}})).await;
    assert_eq!(e.kind, ErrorKind::InvalidConfig);
    assert!(e.message.contains("`command`"), "{e}");

    let e = create(json!({"type": "process", "name": "A b", "config": {"command": ["sleep", "9"]}})).await;
    assert!(e.message.contains("`name`"), "{e}");

    let e = create(json!({"type": "process", "name": "a", "health": {"interval": "often"}, "config": {"command": ["sleep", "9"]}})).await;
    assert_eq!(e.kind, ErrorKind::InvalidArgument);
    assert!(e.message.contains("`health.interval`") && e.message.contains("often"), "{e}");

    let e = create(json!({"type": "group", "name": "a", "depends_on": ["nobody"]})).await;
    assert!(e.message.contains("nobody"), "{e}");

    let e = create(json!({"type": "group", "name": ""})).await;
    assert!(e.message.contains("`name`: is empty"), "{e}");

    let e = create(json!({"type": "group", "ensure": true})).await;
    assert!(e.message.contains("`ensure`"), "{e}");

    let e = create(json!({"type": "group", "nmae": "a"})).await;
    assert!(e.message.contains("nmae"), "{e}");

    assert!(system.names().await.is_empty());
    assert_eq!(std::fs::read_dir(system.home.path().join("agents")).unwrap().count(), 0, "files are left");

    system.sleeper("taken", json!({})).await;
    let pid = system.pid("taken").await;
    let e = create(json!({"type": "group", "name": "taken"})).await;
    assert_eq!(e.kind, ErrorKind::AlreadyExists);
    assert_eq!(system.pid("taken").await, pid);
    system.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ensure_twice_is_one_agent_and_one_process() {
    let system = System::open().await;
    let first = system.sleeper("web", json!({"ensure": true})).await;
    let second = system.sleeper("web", json!({"ensure": true})).await;
    assert_eq!((&first["id"], &first["pid"]), (&second["id"], &second["pid"]));

    let args =
        json!({"type": "process", "name": "web", "ensure": true, "config": {"command": ["sleep", "301"]}});
    let third = system.run("agent create", args).await.unwrap();
    assert_eq!(first["id"], third["id"]);
    assert_ne!(first["pid"], third["pid"]);
    assert!(!is_alive(first["pid"].as_u64().unwrap()));
    system.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_agents_are_acted_upon_and_errors_do_not_stop_it() {
    let system = System::open().await;
    system.sleeper("db", json!({})).await;
    system.sleeper("web", json!({"depends_on": ["db"]})).await;
    let (db, web) = (system.pid("db").await, system.pid("web").await);

    let e = system.fails("agent restart", json!({"agents": ["web", "nobody", "db"], "kill": true})).await;
    assert_eq!(e.kind, ErrorKind::NotFound);
    assert!(e.message.starts_with("1 of 3 agents were not restarted: `nobody`: no agent `nobody`"), "{e}");
    assert!(e.message.ends_with("restarted: db, web"), "{e}");
    system.until("web", "running").await;
    assert!(!is_alive(db) && !is_alive(web));
    assert_ne!(system.pid("db").await, db);

    let rows = system.run("agent stop", json!({"agents": ["db", "web"]})).await.unwrap();
    assert_eq!(
        (rows[0]["name"].as_str(), rows[1]["name"].as_str()),
        (Some("web"), Some("db")),
        "dependents first"
    );
    assert_eq!(rows[0]["status"], "stopped");
    let rows = system.run("agent start", json!({"agents": ["web", "db"]})).await.unwrap();
    assert_eq!(
        (rows[0]["name"].as_str(), rows[1]["name"].as_str()),
        (Some("db"), Some("web")),
        "needs first"
    );
    system.until("web", "running").await;

    let e = system.fails("agent destroy", json!({"agents": ["db"]})).await;
    assert_eq!(e.kind, ErrorKind::InvalidState);
    assert!(e.message.contains("`web` needs `db`"), "{e}");
    assert_eq!(system.fails("agent stop", json!({"agents": ["nobody"]})).await.message, "no agent `nobody`");
    assert!(system.fails("agent stop", json!({"agents": []})).await.message.contains("agents"));

    // An id and a name of one agent are one agent.
    let id = system.kernel.agents().id("db").unwrap();
    let rows = system.run("agent destroy", json!({"agents": ["db", "web", id]})).await.unwrap();
    assert_eq!(rows.as_array().unwrap().len(), 2);
    assert!(system.names().await.is_empty());
    system.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_are_sent_and_answered() {
    let system = System::open().await;
    let e = system.fails("agent send", json!({"agent": "nobody", "message": 1})).await;
    assert_eq!(e.kind, ErrorKind::NotFound);

    let args = json!({"type": "process", "name": "echo", "config": {"command": ["cat"], "stdin": "fifo"}});
    system.run("agent create", args).await.unwrap();
    system.until("echo", "running").await;
    let sent = system.run("agent send", json!({"agent": "echo", "message": "one line"})).await.unwrap();
    assert_eq!(sent, json!({"agent": "echo", "sent": true}));
    assert_eq!(system.lines("echo", 1).await, ["one line"]);
    let answered =
        system.run("agent send", json!({"agent": "echo", "message": "two", "ask": true})).await.unwrap();
    assert!(answered.get("answer").is_some(), "{answered}");

    system.run("agent create", json!({"type": "group", "name": "team"})).await.unwrap();
    let e = system.fails("agent send", json!({"agent": "team", "message": {}, "ask": true})).await;
    assert_eq!(e.kind, ErrorKind::NotSupported);
    let e = system.fails("agent send", json!({"agent": "team", "message": {}, "timeout": "soon"})).await;
    assert!(e.message.contains("`timeout`") && e.message.contains("soon"), "{e}");

    let graph = system.run("agent graph", json!({})).await.unwrap();
    let messages: Vec<_> =
        graph["edges"].as_array().unwrap().iter().filter(|e| e["kind"] == "messages").collect();
    assert!(
        messages.contains(&&json!({"from": "test", "to": "echo", "kind": "messages", "count": 2})),
        "{graph}"
    );
    assert!(graph["nodes"].as_array().unwrap().contains(&json!({"name": "test", "kind": "peer"})));
    system.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_graph_shows_who_supervises_and_needs_whom() {
    let system = System::open().await;
    let create = async |name: &str, more: Value| {
        let mut args = json!({"type": "group", "name": name});
        args.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        system.run("agent create", args).await.unwrap()
    };
    create("shop", json!({})).await;
    create("db", json!({})).await;
    create("api", json!({"parent": "shop", "depends_on": ["db"]})).await;
    create("web", json!({"parent": "shop", "depends_on": ["db", "api"]})).await;

    let graph = system.run("agent graph", json!({})).await.unwrap();
    let edges = graph["edges"].as_array().unwrap();
    assert!(edges.contains(&json!({"from": "web", "to": "api", "kind": "depends_on"})), "{graph}");
    assert!(edges.contains(&json!({"from": "api", "to": "shop", "kind": "parent"})));
    assert_eq!(graph["nodes"].as_array().unwrap().len(), 4);
    let roots = graph["roots"].as_array().unwrap();
    assert_eq!((roots.len(), roots[0]["name"].as_str()), (1, Some("shop")));
    let below = roots[0]["children"].as_array().unwrap();
    let relations: Vec<_> =
        below.iter().map(|c| (c["name"].as_str().unwrap(), c["relation"].as_str().unwrap())).collect();
    assert_eq!(relations, [("api", "supervised"), ("web", "supervised")]);
    assert_eq!(below[0]["children"][0]["name"], "db");
    assert_eq!(below[1]["children"].as_array().unwrap().len(), 2);
    system.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn types_are_listed_with_their_schemas() {
    let system = System::open().await;
    let all = system.run("agent types", json!({})).await.unwrap();
    let names: Vec<_> = all.as_array().unwrap().iter().map(|t| t["name"].as_str().unwrap()).collect();
    for wanted in ["group", "heartbeat", "host", "http", "process", "tcp"] {
        assert!(names.contains(&wanted), "{names:?}");
    }
    system.sleeper("a", json!({})).await;
    let one = system.run("agent types", json!({"type": "process"})).await.unwrap();
    assert_eq!(one.as_array().unwrap().len(), 1);
    assert_eq!((&one[0]["schema"]["x-trailing"], &one[0]["agents"]), (&json!("command"), &json!(1)));
    assert_eq!(system.fails("agent types", json!({"type": "cron"})).await.kind, ErrorKind::NotFound);
    system.close().await;
}

#[test]
fn commands_that_create_ask_for_the_environment() {
    let kernel = Kernel::describe(vec![Arc::new(AgentsPlugin::default())]).unwrap();
    let specs = kernel.commands().list();
    let wants_env: Vec<_> =
        specs.iter().filter(|s| s.args["x-caller-env"] == true).map(|s| s.path.as_str()).collect();
    assert_eq!(wants_env, ["agent create", "up"]);
    for spec in &specs {
        for (name, property) in spec.args["properties"].as_object().unwrap() {
            let described = property.get("description").is_some() || property.get("properties").is_some();
            assert!(described, "`{}`: `{name}` has no description", spec.path);
        }
    }
}
