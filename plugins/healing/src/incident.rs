//! An incident: what was wrong with an agent, what was done about it, and whether that helped.
//!
//! This is the stable JSON of `heal history` and of the `heal.*` events.

use serde::{Deserialize, Serialize};

/// Texts that come from outside (reasons, outputs) are cut to this many characters.
const TEXT: usize = 600;

/// Whether an incident is still worked on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// It is.
    Open,
    /// It is not; there is an outcome.
    Closed,
}

/// What is going on in an open incident.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Something is being done, or about to be.
    Healing,
    /// Whether it helped is being watched.
    Verifying,
}

/// How an incident ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// The agent is well, and stayed so.
    Verified,
    /// What was asked for did not help, and nothing else was to be tried.
    Failed,
    /// Nothing that may be tried helped: a person is needed.
    Escalated,
    /// There is nothing to heal any more: stopped or destroyed by somebody, or finished.
    Cancelled,
}

/// What a step came to, before its verification.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StepResult {
    /// It was done.
    Applied,
    /// It was not needed: the life that was diagnosed had been replaced already.
    Superseded,
    /// The agent was taken out of service.
    Contained,
    /// Somebody was told.
    Escalated,
    /// It could not be done.
    Failed,
    /// The incident was cancelled meanwhile.
    Cancelled,
    /// The host ended meanwhile.
    Interrupted,
}

/// One thing that was done. Rung 0 is what others did (supervision, a dependency) and healing watched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// The place on the ladder, from 1; 0 for what healing did not do itself.
    pub rung: u32,
    /// The strategy's name; of rung 0: `supervision`, `wait`, `resume`, `quarantine`.
    pub action: String,
    /// When it began, in milliseconds since the Unix epoch.
    pub started_ms: u64,
    /// When it was over, its verification included.
    pub finished_ms: Option<u64>,
    /// What it came to.
    pub result: Option<StepResult>,
    /// Whether the agent was well afterwards, and stayed so.
    pub verified: bool,
    /// More, for people.
    pub detail: Option<String>,
}

/// An incident.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Incident {
    /// Its id.
    pub id: String,
    /// The agent's name.
    pub agent: String,
    /// The agent's id.
    pub agent_id: String,
    /// The agent's type.
    #[serde(rename = "type")]
    pub kind: String,
    /// What opened it, for people.
    pub cause: String,
    /// What opened it, for programs: `exited`, `alert`, `trigger`, `quarantined`, or the code of a health issue.
    pub cause_code: String,
    /// When it was opened, in milliseconds since the Unix epoch.
    pub opened_ms: u64,
    /// When it was closed.
    pub closed_ms: Option<u64>,
    /// Whether it is open.
    pub state: State,
    /// What is going on, while it is open.
    pub phase: Option<Phase>,
    /// How it ended.
    pub outcome: Option<Outcome>,
    /// Why it ended so, where `verified` does not say it all.
    pub reason: Option<String>,
    /// How often the agent failed in it: the exits, alerts and reports that joined it, and the first.
    pub occurrences: u64,
    /// How far it is, 0–100. Never goes back.
    pub progress: u8,
    /// The life of the agent that fell ill.
    pub incarnation: u64,
    /// What was done, in order.
    pub steps: Vec<Step>,
}

impl Incident {
    /// Whether it has ended.
    pub fn is_closed(&self) -> bool {
        self.state == State::Closed
    }

    /// How many rungs of the ladder were tried.
    pub fn rungs_taken(&self) -> usize {
        self.steps.iter().map(|step| step.rung as usize).max().unwrap_or(0)
    }

    /// Begins a step.
    pub(crate) fn begin(&mut self, rung: u32, action: &str, now_ms: u64, detail: Option<String>) {
        self.steps.push(Step {
            rung,
            action: action.into(),
            started_ms: now_ms,
            finished_ms: None,
            result: None,
            verified: false,
            detail: detail.map(|text| shorten(&text)),
        });
    }

    /// Says what the last step came to, keeping what is known unless there is something newer.
    pub(crate) fn note(&mut self, result: Option<StepResult>, detail: Option<String>) {
        let Some(step) = self.steps.last_mut() else { return };
        step.result = result.or(step.result);
        step.detail = detail.map(|text| shorten(&text)).or(step.detail.take());
    }

    /// Ends the last step, if it has not ended.
    pub(crate) fn finish(&mut self, now_ms: u64, verified: bool) {
        if let Some(step) = self.steps.last_mut().filter(|step| step.finished_ms.is_none()) {
            step.finished_ms = Some(now_ms);
            step.verified = verified;
        }
    }

    /// Moves progress on; backwards it does not go.
    pub(crate) fn advance(&mut self, percent: f64) {
        self.progress = self.progress.max(percent.clamp(0.0, 99.0) as u8);
    }
}

/// `text` in one piece that fits a record.
pub(crate) fn shorten(text: &str) -> String {
    match text.char_indices().nth(TEXT) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn incident() -> Incident {
        Incident {
            id: "i".into(),
            agent: "web".into(),
            agent_id: "a".into(),
            kind: "process".into(),
            cause: "killed by SIGKILL".into(),
            cause_code: "exited".into(),
            opened_ms: 5,
            closed_ms: None,
            state: State::Open,
            phase: Some(Phase::Healing),
            outcome: None,
            reason: None,
            occurrences: 1,
            progress: 0,
            incarnation: 1,
            steps: Vec::new(),
        }
    }

    #[test]
    fn its_json_is_stable() {
        let mut incident = incident();
        incident.begin(0, "supervision", 6, None);
        incident.note(Some(StepResult::Applied), None);
        incident.finish(9, true);
        incident.outcome = Some(Outcome::Verified);
        assert_eq!(
            json!(incident),
            json!({
                "id": "i", "agent": "web", "agent_id": "a", "type": "process", "cause": "killed by SIGKILL",
                "cause_code": "exited", "opened_ms": 5, "closed_ms": null, "state": "open", "phase": "healing",
                "outcome": "verified", "reason": null, "occurrences": 1, "progress": 0, "incarnation": 1,
                "steps": [{"rung": 0, "action": "supervision", "started_ms": 6, "finished_ms": 9,
                    "result": "applied", "verified": true, "detail": null}]
            })
        );
        assert_eq!(serde_json::from_value::<Incident>(json!(incident)).unwrap(), incident);
    }

    #[test]
    fn progress_never_goes_back_and_texts_are_bounded() {
        let mut incident = incident();
        incident.advance(40.0);
        incident.advance(10.0);
        assert_eq!(incident.progress, 40);
        incident.begin(1, "command", 1, Some("é".repeat(5_000)));
        assert_eq!(incident.steps[0].detail.as_ref().unwrap().chars().count(), TEXT + 1);
    }
}
