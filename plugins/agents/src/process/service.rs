//! The service `hms.logs`: for agent types whose output the host writes itself. What is appended to the files
//! that `keep` names is kept within limits, and `agent logs` shows it.

use std::sync::Arc;

use async_trait::async_trait;
use hms_core::{
    Error, ErrorKind, Kernel, Result,
    os::files,
    service::{MethodSpec, Service, ServiceSpec},
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Processes, config::LogConfig, logs::Stream};

/// What the service is.
pub(super) fn spec() -> ServiceSpec {
    let summary = "keeps what is appended to an agent's output files within limits; answers their paths";
    let agent = json!({"type": "string", "description": "an agent, by id or name"});
    let args = hms_core::schema::object(json!({"agent": agent}), &["agent"]);
    let mut spec = ServiceSpec::new("hms.logs", "1.0.0", "the output of agents");
    spec.methods.insert("keep".into(), MethodSpec { summary: summary.into(), args });
    spec
}

/// What answers it.
pub(super) struct Logs {
    pub(super) kernel: Kernel,
    pub(super) processes: Arc<Processes>,
}

#[async_trait]
impl Service for Logs {
    /// `keep {agent}` answers `{"stdout": path, "stderr": path}`; both files are there then. Only whole lines
    /// should be appended.
    async fn call(&self, method: &str, args: Value) -> Result<Value> {
        #[derive(Deserialize)]
        struct Keep {
            agent: String,
        }
        if method != "keep" {
            return Err(Error::not_found("method of service `hms.logs`", method));
        }
        let keep: Keep = serde_json::from_value(args)
            .map_err(|e| Error::new(ErrorKind::InvalidArgument, format!("`keep`: {e}")))?;
        let dir = self.kernel.agents().dir(&keep.agent)?;
        for stream in [Stream::Stdout, Stream::Stderr] {
            let path = stream.path(&dir);
            files::append(&path).map_err(|e| Error::io(path.display(), &e))?;
        }
        self.processes.parts().logs.watch_dir(&dir, &LogConfig::default());
        Ok(json!({"stdout": Stream::Stdout.path(&dir), "stderr": Stream::Stderr.path(&dir)}))
    }
}
