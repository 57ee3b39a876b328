//! Taking over what an earlier host left, when something stands in the way.

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use hms_core::{
    ErrorKind, Kernel,
    agent::{AgentSpec, Create, Desired, STOP_DEADLINE, Status, Stop},
    event::Subscribe,
    os::{
        exit::Signal,
        process::{Output, Process, Spawn},
        token::Token,
    },
    store,
};
use serde_json::{Value, json};

use crate::AgentsPlugin;

const LONG: Duration = Duration::from_secs(30);

struct System {
    kernel: Kernel,
    plugin: Arc<AgentsPlugin>,
}

impl System {
    async fn open(home: &Path) -> Self {
        let plugin = Arc::new(AgentsPlugin::default());
        let kernel = Kernel::describe(vec![plugin.clone()]).unwrap();
        let runtime = home.join("run");
        std::fs::create_dir_all(&runtime).unwrap();
        kernel.open(home, &runtime).await.unwrap();
        Self { kernel, plugin }
    }

    async fn create(&self, name: &str, config: Value) -> u64 {
        let how = Create { must_start: true, ..Create::default() };
        self.kernel.agents().create(AgentSpec::new(name, "process", config), how).await.unwrap();
        self.until(name, Status::Running).await;
        self.pid(name).unwrap()
    }

    fn pid(&self, name: &str) -> Option<u64> {
        self.kernel.agents().status(name).unwrap()["pid"].as_u64()
    }

    async fn until(&self, name: &str, wanted: Status) {
        let events = self.kernel.bus().subscribe(Subscribe::to(["agent.>"])).unwrap();
        let wait = async {
            while self.kernel.agents().state(name).unwrap().status != wanted {
                events.next_batch(64).await.unwrap();
            }
        };
        let waited = tokio::time::timeout(LONG, wait).await;
        assert!(waited.is_ok(), "`{name}` is {:?}, not {wanted:?}", self.kernel.agents().state(name));
    }

    async fn end(self, how: Stop) {
        self.kernel.close(how).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn adoption_survives_a_missing_env_file() {
    let home = tempfile::tempdir().unwrap();
    let env_file = home.path().join("vars");
    std::fs::write(&env_file, "ANSWER=42\n").unwrap();
    let system = System::open(home.path()).await;
    let config = json!({
        "command": ["sleep", "300"], "env_file": env_file,
        "liveness": {"exec": ["sh", "-c", "test \"$ANSWER\" = 42"]},
    });
    let pid = system.create("web", config).await;
    system.end(Stop::Detach).await;
    std::fs::remove_file(&env_file).unwrap();

    let system = System::open(home.path()).await;
    system.until("web", Status::Running).await;
    assert_eq!(system.pid("web"), Some(pid), "a second one beside the first");
    let health = system.kernel.agents().check("web").await.unwrap();
    assert!(health.issues.is_empty(), "its probes lost their environment: {health:?}");
    system.end(Stop::Graceful(STOP_DEADLINE)).await;
    assert!(!is_alive(pid), "it was not watched");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn adoption_survives_a_record_that_cannot_be_written() {
    let home = tempfile::tempdir().unwrap();
    let system = System::open(home.path()).await;
    let pid = system.create("web", json!({"command": ["sleep", "300"]})).await;
    let record = system.kernel.agents().dir("web").unwrap().join("process");
    system.end(Stop::Detach).await;
    std::fs::remove_file(&record).unwrap();
    std::fs::create_dir(&record).unwrap();

    let system = System::open(home.path()).await;
    system.until("web", Status::Running).await;
    assert_eq!(system.pid("web"), Some(pid));
    system.end(Stop::Graceful(STOP_DEADLINE)).await;
    assert!(!is_alive(pid));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_could_not_be_adopted_ends_before_the_next_start() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path().canonicalize().unwrap();
    let system = System::open(&home).await;
    system.create("web", json!({"command": ["sleep", "300"]})).await;
    let id = system.kernel.agents().id("web").unwrap();
    system.kernel.agents().stop("web", Stop::Kill).await.unwrap();

    // As a failed adoption leaves it: it runs, carries the agent's token, and no life has it.
    let vars = [Token::new(&home, &id, 1).to_env(), ("PATH".into(), "/bin:/usr/bin".into())];
    let args = ["300".into()];
    let left = Process::spawn(&Spawn {
        args: &args,
        clear_env: true,
        env: &vars,
        stdout: Output::Null,
        stderr: Output::Null,
        ..Spawn::new("sleep")
    })
    .unwrap();
    system.plugin.processes.survivors().entry(id).or_default();

    system.kernel.agents().start("web").await.unwrap();
    assert!(left.has_ended(), "two lives of one agent");
    system.until("web", Status::Running).await;
    assert!(system.plugin.processes.survivors().is_empty());
    system.end(Stop::Graceful(STOP_DEADLINE)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_of_a_life_does_not_reach_the_next_one() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path().canonicalize().unwrap();
    let system = System::open(&home).await;
    let pid = system.create("web", json!({"command": ["sleep", "300"]})).await;
    let id = system.kernel.agents().id("web").unwrap();
    // As when an order that was given up is carried out after the next start.
    let vars = [Token::new(&home, &id, 2).to_env(), ("PATH".into(), "/bin:/usr/bin".into())];
    let args = ["300".into()];
    let next = Process::spawn(&Spawn {
        args: &args,
        clear_env: true,
        env: &vars,
        stdout: Output::Null,
        stderr: Output::Null,
        ..Spawn::new("sleep")
    })
    .unwrap();
    system.kernel.agents().stop("web", Stop::Kill).await.unwrap();
    assert!(!is_alive(pid) && !next.has_ended());
    next.signal(Signal::KILL).unwrap();
    system.end(Stop::Graceful(STOP_DEADLINE)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_not_ready_in_time_says_so() {
    let home = tempfile::tempdir().unwrap();
    let system = System::open(home.path()).await;
    let exits = system.kernel.bus().subscribe(Subscribe::to(["agent.exited"])).unwrap();
    let config = json!({
        "command": ["sleep", "300"], "ready_timeout": "100ms",
        "readiness": {"log": "never printed"},
    });
    let spec = AgentSpec::new("late", "process", config);
    system.kernel.agents().create(spec, Create::default()).await.unwrap();
    let batch = tokio::time::timeout(LONG, exits.next_batch(1)).await.unwrap().unwrap();
    let told = batch.events[0].to_json();
    assert_eq!(told["data"]["exit"]["reason"], "not ready within 100ms", "{told}");
    assert_eq!(told["data"]["exit"]["signal"], 9);
    system.end(Stop::Graceful(STOP_DEADLINE)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_damaged_in_a_home_is_one_agents_trouble() {
    let home = tempfile::tempdir().unwrap();
    let system = System::open(home.path()).await;
    let pids = [
        system.create("well", json!({"command": ["sleep", "300"]})).await,
        system.create("homeless", json!({"command": ["sleep", "300"]})).await,
    ];
    let mut spec = AgentSpec::new("garbled", "process", json!({"command": ["sleep", "300"]}));
    spec.desired = Desired::Stopped;
    system.kernel.agents().create(spec, Create::default()).await.unwrap();
    let id = system.kernel.agents().id("garbled").unwrap();
    let garble =
        move |db: &_| store::agents::update_spec(db, &id, &json!("nonsense"), "running", 1).map(drop);
    system.kernel.store().write(garble).await.unwrap();
    let folder = system.kernel.agents().dir("homeless").unwrap();
    system.end(Stop::Detach).await;
    std::fs::remove_dir_all(&folder).unwrap();
    std::fs::write(&folder, "no folder").unwrap();

    let system = System::open(home.path()).await;
    for (name, pid) in ["well", "homeless"].into_iter().zip(pids) {
        system.until(name, Status::Running).await;
        assert_eq!(system.pid(name), Some(pid));
    }
    let state = system.kernel.agents().state("garbled").unwrap();
    assert_eq!(state.status, Status::Failed);
    assert!(state.reason.unwrap().contains("specification cannot be read"));
    let taken = AgentSpec::new("garbled", "group", json!({}));
    let e = system.kernel.agents().create(taken.clone(), Create::default()).await.unwrap_err();
    assert_eq!(e.kind, ErrorKind::AlreadyExists);
    system.kernel.agents().destroy("garbled").await.unwrap();
    system.kernel.agents().create(taken, Create::default()).await.unwrap();
    system.end(Stop::Graceful(STOP_DEADLINE)).await;
    assert!(!pids.into_iter().any(is_alive));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_update_that_begins_no_life_leaves_a_quarantine() {
    let home = tempfile::tempdir().unwrap();
    let system = System::open(home.path()).await;
    system.create("web", json!({"command": ["sleep", "300"]})).await;
    let agents = system.kernel.agents();
    agents.quarantine("web", "a test").await.unwrap();
    let mut spec = (*agents.spec("web").unwrap()).clone();
    spec.healing.insert("verify_window".into(), "3s".into());
    agents.update("web", spec.clone()).await.unwrap();
    assert_eq!(agents.state("web").unwrap().status, Status::Quarantined);
    // Another configuration is another attempt.
    spec.config["command"] = json!(["sleep", "301"]);
    agents.update("web", spec).await.unwrap();
    system.until("web", Status::Running).await;
    system.end(Stop::Graceful(STOP_DEADLINE)).await;
}

#[test]
fn what_cannot_be_started_is_said() {
    let env = BTreeMap::from([("PATH".to_owned(), "/bin:/usr/bin".to_owned())]);
    let found = |config: Value| super::check(&config, Some(&env)).err().map(|e| e.message);
    assert_eq!(found(json!({"command": ["sh"]})), None);
    assert_eq!(found(json!({"command": ["/bin/sh"], "cwd": "/"})), None);
    for (config, word) in [
        (json!({"command": ["no-such-program"]}), "no-such-program"),
        (json!({"command": ["./gone"], "cwd": "/tmp"}), "/tmp/gone"),
        (json!({"command": ["sh"], "cwd": "/no/such/folder"}), "/no/such/folder"),
        (json!({"command": ["sh"], "vars": {"PATH": "/nowhere"}}), "/nowhere"),
        (json!({"command": ["sh"], "env_file": "/no/such/file"}), "env_file /no/such/file"),
        (json!({"command": ["sh"], "user": "nobody-at-all"}), "`user`"),
    ] {
        let why = found(config).expect(word);
        assert!(why.contains(word), "{why}");
    }
}

fn is_alive(pid: u64) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}
