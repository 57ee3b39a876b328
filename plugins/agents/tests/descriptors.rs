//! A host that has run out of descriptors sees no process at all. What it holds it ends all the same, and never
//! says of something that runs that it has ended. Alone in its file, because the limit is the whole process's.
#![cfg(target_os = "linux")]

use std::{path::Path, sync::Arc, time::Duration};

use hms_agents::AgentsPlugin;
use hms_core::{
    Kernel,
    agent::{AgentSpec, Create, STOP_DEADLINE, Status, Stop},
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::json;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_held_is_ended_without_a_descriptor() {
    let home = tempfile::tempdir().unwrap();
    let kernel = Kernel::describe(vec![Arc::new(AgentsPlugin::default())]).unwrap();
    let runtime = home.path().join("run");
    std::fs::create_dir(&runtime).unwrap();
    kernel.open(home.path(), &runtime).await.unwrap();
    let agents = kernel.agents();
    let spec = AgentSpec::new("web", "process", json!({"command": ["sleep", "300"]}));
    let how = Create { must_start: true, ..Create::default() };
    let pid = agents.create(spec, how).await.unwrap()["pid"].as_u64().unwrap();

    let given = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(0), ..given }).unwrap();
    let stopped = tokio::time::timeout(Duration::from_secs(30), agents.stop("web", Stop::Kill)).await;
    setrlimit(Resource::Nofile, given).unwrap();

    stopped.expect("it ends").unwrap();
    assert!(!Path::new(&format!("/proc/{pid}")).exists(), "it runs, and nobody knows");
    assert_eq!(agents.state("web").unwrap().status, Status::Stopped);
    kernel.close(Stop::Graceful(STOP_DEADLINE)).await.unwrap();
}
