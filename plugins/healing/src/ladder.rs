//! The ladder: rungs are strategies, and a strategy is a service with a fixed contract, so that any plugin in
//! any language can add one.
//!
//! The service `hms.healing.strategy.<name>` has the method `apply`. Its argument:
//! `{agent, id, incident, incarnation, config}` — the agent's name and id, the incident so far, the life that
//! was diagnosed (null when any will do) and the healing settings of the agent. Its answer:
//! `{result?, detail?}`, where `result` is
//! - `applied` (the default): done; now verify whether it helped,
//! - `superseded`: the diagnosed life has been replaced already; verify,
//! - `contained`: the agent is out of service; a person has to look,
//! - `escalated`: somebody was told; the end.
//!
//! An error, a panic or a missing service is a step that failed: the next rung is tried.

use std::time::Duration;

use hms_core::{Error, ErrorKind, Kernel, Result, config::closest, contain::contained, service::ServiceSpec};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    config::Settings,
    incident::{Incident, StepResult},
};

/// What the ids of strategies begin with.
pub const PREFIX: &str = "hms.healing.strategy.";

/// The version of the contract.
pub const CONTRACT: &str = "1.0.0";

/// Beyond what the agent's own deadlines allow, for a strategy's own work.
const GRACE: Duration = Duration::from_secs(60);

/// What a strategy answers.
#[derive(Debug, Deserialize)]
pub(crate) struct Applied {
    /// What it came to.
    #[serde(default = "applied")]
    pub result: StepResult,
    /// More, for people.
    #[serde(default)]
    pub detail: Option<String>,
}

fn applied() -> StepResult {
    StepResult::Applied
}

/// The specification of the strategy `name`.
pub(crate) fn spec(name: &str, summary: &str) -> ServiceSpec {
    ServiceSpec::new(&format!("{PREFIX}{name}"), CONTRACT, summary).method("apply", summary)
}

/// The names of the strategies that are there now.
pub(crate) fn names(kernel: &Kernel) -> Vec<String> {
    let all = kernel.services().list();
    let mut names: Vec<String> =
        all.iter().filter_map(|(spec, _)| spec.id.strip_prefix(PREFIX).map(str::to_owned)).collect();
    names.dedup();
    names
}

/// Fails unless there is a strategy `name`; says which there are.
pub(crate) fn require(kernel: &Kernel, name: &str) -> Result<()> {
    let known = names(kernel);
    if known.iter().any(|k| k == name) {
        return Ok(());
    }
    let e = Error::new(ErrorKind::InvalidArgument, format!("no healing strategy `{name}`"));
    let all = known.join(", ");
    Err(e.hint(match closest(name, known.iter().map(String::as_str)) {
        Some(near) => format!("did you mean `{near}`? there are: {all}"),
        None => format!("there are: {all}"),
    }))
}

/// Applies the strategy `name` to the incident's agent. Whatever it does, this returns in bounded time.
///
/// # Errors
/// `service-unavailable` when there is none; its own; `panic`; `timeout`; `protocol` for an answer that does
/// not fit the contract.
pub(crate) async fn apply(
    kernel: &Kernel,
    name: &str,
    incident: &Incident,
    incarnation: Option<u64>,
    settings: &Settings,
) -> Result<Applied> {
    let service = kernel.services().find(&format!("{PREFIX}{name}"))?;
    let request = json!({
        "agent": incident.agent, "id": incident.agent_id, "incident": incident,
        "incarnation": incarnation, "config": settings,
    });
    let deadline = GRACE + settings.ready_timeout + settings.command_timeout;
    let answer = contained(service.call("apply", request, deadline)).await??;
    // No answer at all is what a handler without a result sends.
    let answer = if answer.is_null() { json!({}) } else { answer };
    serde_json::from_value::<Applied>(answer)
        .ok()
        .filter(|a| {
            use StepResult::{Applied, Contained, Escalated, Superseded};
            matches!(a.result, Applied | Superseded | Contained | Escalated)
        })
        .ok_or_else(|| {
            Error::new(ErrorKind::Protocol, format!("healing strategy `{name}` gave an answer that does not fit"))
                .hint("answer {\"result\": \"applied\"|\"superseded\"|\"contained\"|\"escalated\", \"detail\": text}")
        })
}

/// What a strategy is asked to do, on its side of the contract.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Request {
    pub(crate) agent: String,
    pub(crate) id: String,
    pub(crate) incident: Incident,
    pub(crate) incarnation: Option<u64>,
    pub(crate) config: Settings,
}

impl Request {
    pub(crate) fn read(args: Value) -> Result<Self> {
        serde_json::from_value(args)
            .map_err(|e| Error::new(ErrorKind::InvalidArgument, format!("healing strategy: {e}")))
    }

    /// The reason that the agent's own history shows.
    pub(crate) fn reason(&self) -> String {
        format!("healing: {}", self.incident.cause)
    }
}
