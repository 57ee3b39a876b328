//! `codex doctor`: what is wrong with the MCP servers of clients on this machine, and what to do about it.
//!
//! Looks, and does nothing else: at configurations, at `/proc`, and at the host if one runs. No server is sent a
//! byte, none is started, none is ended.

mod config;
mod processes;

use std::time::Duration;

use hms_core::{
    Result,
    command::{Caller, Surroundings},
    os::list,
    peer::{Attach, Client as Host},
};
use serde::Serialize;
use serde_json::{Value, json};

use crate::{clients::Client, install::Site};

pub(crate) use config::Known;

/// Between the two looks at processes: what is a zombie in both is one.
const BETWEEN: Duration = Duration::from_millis(250);
/// How long the host may take to tell of its agents.
const HOST: Duration = Duration::from_secs(1);

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Severity {
    /// It does not work now.
    Critical,
    /// It will not work, or costs something.
    Warning,
    /// It could be better.
    Info,
}

/// Something that was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    /// How bad it is.
    pub(crate) severity: Severity,
    /// What it is, for programs.
    pub(crate) code: &'static str,
    /// The client.
    pub(crate) client: String,
    /// The server; empty: none in particular.
    pub(crate) server: String,
    /// The process; 0: none.
    pub(crate) pid: i32,
    /// What was found.
    pub(crate) found: String,
    /// What to do.
    pub(crate) remedy: String,
}

impl Finding {
    /// A finding about a client.
    pub(crate) fn new(
        severity: Severity,
        code: &'static str,
        client: &str,
        found: impl Into<String>,
    ) -> Self {
        Self {
            severity,
            code,
            client: client.to_owned(),
            server: String::new(),
            pid: 0,
            found: found.into(),
            remedy: String::new(),
        }
    }

    /// About this server.
    pub(crate) fn of(mut self, server: &str) -> Self {
        server.clone_into(&mut self.server);
        self
    }

    /// About this process.
    pub(crate) fn at(mut self, pid: i32) -> Self {
        self.pid = pid;
        self
    }

    /// What to do.
    pub(crate) fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = remedy.into();
        self
    }
}

/// Looks at everything. The command ends with 1 when something is ill.
///
/// # Errors
/// When processes cannot be seen on this platform.
pub(crate) async fn run(
    surroundings: &Surroundings,
    site: Site,
    clients: Vec<&'static Client>,
) -> Result<Value> {
    let first = list::list();
    let of_config = tokio::task::spawn_blocking({
        let (site, clients) = (site.clone(), clients.clone());
        move || config::look(&site, &clients)
    });
    let (mut findings, known) =
        of_config.await.map_err(|e| hms_core::Error::internal(format!("looking at configurations: {e}")))?;
    let mut seen = processes::Seen::default();
    match first {
        Ok(first) => {
            tokio::time::sleep(BETWEEN).await;
            let second = list::list().unwrap_or_default();
            let same = |p: &list::Listed| first.iter().any(|f| f.id == p.id && f.state == p.state);
            // Only what has been so for a moment: a state passes.
            let lasting: Vec<bool> = second.iter().map(same).collect();
            seen = processes::look(&second, &lasting, &known, &site.places, &mut findings);
        }
        Err(e) => findings.push(
            Finding::new(
                Severity::Info,
                "processes-unseen",
                "",
                format!("processes cannot be looked at: {e}"),
            )
            .remedy("only the configuration was looked at"),
        ),
    }
    findings.extend(of_host(surroundings).await);
    findings.sort_by(|a, b| {
        (a.severity, &a.client, &a.server, a.pid).cmp(&(b.severity, &b.client, &b.server, b.pid))
    });
    let ill = findings.iter().any(|finding| finding.severity != Severity::Info);
    let verdict = if ill {
        "something is ill"
    } else if findings.is_empty() {
        "all is well"
    } else {
        "nothing is ill, some things could be better"
    };
    Ok(json!({
        "verdict": verdict,
        "ill": ill,
        "clients": clients.iter().map(|client| client.id).collect::<Vec<_>>(),
        "sessions": seen.sessions,
        "servers": seen.servers,
        "findings": findings,
    }))
}

/// What the host, if one runs, knows to be ill of wrapped servers.
async fn of_host(surroundings: &Surroundings) -> Vec<Finding> {
    let attach =
        Attach { start: None, deadline: HOST, name: "codex doctor".into(), ..surroundings.attach.clone() };
    let asked = tokio::time::timeout(HOST, async {
        let host = Host::attach(attach).await?;
        let caller = Caller { source: "codex doctor".into(), ..Caller::default() };
        host.run("agent list", json!({}), caller, |_| {}).await
    });
    let Ok(Ok(agents)) = asked.await else { return Vec::new() };
    let ill = |row: &&Value| {
        row["type"] == "mcp-server"
            && (row["health"] == "critical"
                || matches!(row["status"].as_str(), Some("failed" | "quarantined")))
    };
    agents.as_array().into_iter().flatten().filter(ill).map(of_agent).collect()
}

fn of_agent(row: &Value) -> Finding {
    let text = |key: &str| row[key].as_str().unwrap_or_default();
    let found = format!("the wrapped server is {}, health {}", text("status"), text("health"));
    Finding::new(Severity::Critical, "ill", "", found)
        .of(text("name"))
        .remedy(format!("codex-hms heal trigger {0}; codex-hms agent logs {0} tells why", text("name")))
}
