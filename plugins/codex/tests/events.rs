//! In a running system: what hooks tell becomes events, failures are found, and healing is asked.

mod common;

use std::{
    fs::{self, File},
    os::fd::AsRawFd,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use common::{Lab, SOON};
use hms_codex::CodexPlugin;
use hms_core::{
    Kernel, Result,
    agent::{AgentContext, AgentSpec, AgentTypeSpec, Behaviour, Create, Health, Started, Stop},
    event::{Subscribe, Subscription},
    peer,
    plugin::{Manifest, Plugin, Registrar},
    service::{Service, ServiceSpec},
};
use serde_json::{Value, json};
use tokio::{net::UnixListener, sync::mpsc};

/// What a system has beside the organ: an agent type, and who heals.
struct Others(mpsc::UnboundedSender<Value>);

struct Quiet;

#[async_trait]
impl Behaviour for Quiet {
    async fn start(&self, _cx: &AgentContext) -> Result<Started> {
        Ok(Started::Ready)
    }

    async fn health(&self) -> Health {
        Health::healthy()
    }

    async fn stop(&self, _how: Stop) -> Result<()> {
        Ok(())
    }
}

struct Healing(mpsc::UnboundedSender<Value>);

#[async_trait]
impl Service for Healing {
    async fn call(&self, method: &str, args: Value) -> Result<Value> {
        assert_eq!(method, "trigger");
        self.0.send(args).expect("the test listens");
        Ok(json!({"incident": {}, "joined": false}))
    }
}

#[async_trait]
impl Plugin for Others {
    fn manifest(&self) -> Manifest {
        Manifest { id: "test.others", name: "Others", version: "1.0.0", ..Manifest::default() }
    }

    fn register(&self, to: &Registrar) -> Result<()> {
        let quiet = |_: &Value| Ok(Arc::new(Quiet) as Arc<dyn Behaviour>);
        let kind = AgentTypeSpec {
            name: "quiet".into(),
            version: semver::Version::new(1, 0, 0),
            summary: "does nothing".into(),
            schema: json!({"type": "object"}),
            state_version: 0,
            tunables: Vec::new(),
        };
        to.agent_type(kind, Arc::new(quiet))?;
        let spec = ServiceSpec::new("hms.healing", "1.0.0", "heals").method("trigger", "heals an agent");
        to.service(spec, Arc::new(Healing(self.0.clone())))
    }
}

struct Host {
    kernel: Kernel,
    asked: mpsc::UnboundedReceiver<Value>,
    events: Subscription,
}

impl Host {
    /// A system that listens in the lab's runtime folder.
    async fn of(lab: &Lab) -> Self {
        let (tell, asked) = mpsc::unbounded_channel();
        let kernel =
            Kernel::describe(vec![Arc::new(CodexPlugin::new()), Arc::new(Others(tell))]).expect("they fit");
        kernel.open(&lab.at("home"), &lab.at("run")).await.expect("the home is ours");
        let listener = UnixListener::bind(lab.at("run").join(peer::SOCKET)).expect("the folder is ours");
        let host = kernel.clone();
        tokio::spawn(async move {
            let mut peers = Vec::new();
            while let Ok((stream, _)) = listener.accept().await {
                peers.push(peer::serve(host.clone(), stream));
            }
        });
        let events = kernel.bus().subscribe(Subscribe::to(["codex.>"])).expect("it is open");
        Self { kernel, asked, events }
    }

    async fn next(&mut self, kind: &str) -> Value {
        let found = async {
            loop {
                let batch = self.events.next_batch(1).await.expect("the bus is open");
                if let Some(event) = batch.events.iter().find(|event| event.kind.as_str() == kind) {
                    return event.data.as_json().cloned().expect("it is JSON");
                }
            }
        };
        tokio::time::timeout(SOON, found).await.unwrap_or_else(|_| panic!("no {kind}"))
    }
}

/// What Codex writes to a hook.
fn input(event: &str, tool_use: &str, transcript: &Path) -> Value {
    json!({
        "session_id": "s1", "turn_id": "t1", "cwd": "/work", "model": "m", "permission_mode": "default",
        "transcript_path": transcript, "hook_event_name": event, "source": "startup", "reason": "other",
        "tool_name": "mcp__my_git__log", "tool_input": {"secret": "hunter2"}, "tool_use_id": tool_use,
        "tool_response": {"content": [{"type": "text", "text": "hunter2"}]},
    })
}

fn failed(tool_use: &str) -> String {
    let text = "tool call error: tool call failed for `my_git/log`\n\nCaused by:\n    Transport closed\n\nStack backtrace:\n 0: x";
    let output = json!([{"type": "input_text", "text": text}]);
    json!({"type": "response_item", "payload": {"type": "function_call_output", "call_id": tool_use, "output": output}}).to_string()
}

/// Runs the hook as Codex does.
async fn hook(lab: &mut Lab, input: &Value) {
    let file = lab.at("input.json");
    fs::write(&file, input.to_string()).expect("the folder is ours");
    let stdin = File::open(&file).expect("it is there");
    lab.stdio[0] = stdin.as_raw_fd();
    let (result, code) = lab.run("codex hook", json!({})).await;
    assert_eq!((result.expect("it never fails"), code), (Value::Null, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failures_in_a_row_are_told_and_healed() {
    let mut lab = Lab::new();
    let mut host = Host::of(&lab).await;
    let mut spec = AgentSpec::new("my-git", "quiet", json!({}));
    spec.labels.insert("mcp".into(), "my-git".into());
    host.kernel.agents().create(spec, Create::default()).await.expect("it is created");
    let transcript = lab.at("rollout.jsonl");
    fs::write(&transcript, "").expect("the folder is ours");

    hook(&mut lab, &input("SessionStart", "", &transcript)).await;
    assert_eq!(host.next("codex.session.started").await["source"], "startup");
    hook(&mut lab, &input("PreToolUse", "a", &transcript)).await;
    hook(&mut lab, &input("PostToolUse", "a", &transcript)).await;
    let finished = host.next("codex.tool.finished").await;
    assert_eq!((&finished["server"], &finished["tool"]), (&json!("my_git"), &json!("log")));
    assert!(!finished.to_string().contains("hunter2"), "{finished}");

    hook(&mut lab, &input("PreToolUse", "b", &transcript)).await;
    fs::write(&transcript, failed("b")).expect("it is ours");
    hook(&mut lab, &input("PreToolUse", "c", &transcript)).await;
    let failure = host.next("codex.tool.failed").await;
    assert_eq!(
        (&failure["tool_use"], &failure["kind"], &failure["in_a_row"]),
        (&json!("b"), &json!("transport"), &json!(1))
    );
    assert_eq!(failure["error"], "Transport closed");

    fs::write(&transcript, format!("{}\n{}", failed("b"), failed("c"))).expect("it is ours");
    let told = json!({"type": "agent-turn-complete", "thread-id": "s1", "turn-id": "t1", "cwd": "/work", "input-messages": ["secret"]});
    let (result, _) = lab.run("codex hook", json!({"notify": true, "program": [told.to_string()]})).await;
    assert_eq!(result.expect("it never fails"), Value::Null);
    assert_eq!(host.next("codex.tool.failed").await["in_a_row"], 2);
    let asked =
        tokio::time::timeout(SOON, host.asked.recv()).await.expect("healing is asked").expect("it is there");
    assert_eq!(asked["agent"], "my-git");
    assert!(asked["reason"].as_str().is_some_and(|reason| reason.contains("Transport closed")), "{asked}");
    host.kernel.close(Stop::Kill).await.expect("it closes");
}

#[tokio::test]
async fn the_program_that_notify_named_is_told_too() {
    let lab = Lab::new();
    let told = lab.at("told");
    std::process::Command::new("mkfifo").arg(&told).status().expect("it is there");
    let script = format!("printf %s \"$2:$3\" > {}", told.display());
    let args = json!({"notify": true, "program": ["/bin/sh", "-c", script, "x", "one", "two", "{}"]});
    let reader = tokio::task::spawn_blocking(move || fs::read_to_string(told));
    lab.run("codex hook", args).await.0.expect("it never fails");
    let text =
        tokio::time::timeout(SOON, reader).await.expect("it is told").expect("it reads").expect("a text");
    assert_eq!(text, "two:{}");
}

#[tokio::test]
async fn a_hook_without_a_host_or_with_one_that_hangs_takes_a_moment() {
    let mut lab = Lab::new();
    let began = Instant::now();
    for input in [json!({}), json!("x"), input("SessionStart", "", Path::new("/t"))] {
        hook(&mut lab, &input).await;
    }
    // It accepts, and never answers.
    let _listener = UnixListener::bind(lab.at("run").join(peer::SOCKET)).expect("the folder is ours");
    hook(&mut lab, &input("SessionStart", "", Path::new("/t"))).await;
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    assert!(!lab.at("log").exists(), "no host is started");
}
