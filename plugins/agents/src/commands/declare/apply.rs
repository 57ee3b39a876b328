//! Carrying out a plan, and saying what came of it.

use std::collections::{BTreeMap, HashSet};

use hms_core::{
    Error, ErrorKind, Kernel, Result,
    agent::{AgentSpec, Create},
    command::CommandContext,
};
use serde_json::{Value, json};

use super::{
    super::row,
    plan::{Change, Plan},
};

/// What was done to each agent, in the order it was done.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) created: Vec<String>,
    pub(super) updated: Vec<String>,
    pub(super) unchanged: Vec<String>,
    pub(super) removed: Vec<String>,
    failures: Vec<(String, Error)>,
}

/// Carries out `plan`. What fails keeps only those from being changed that need it.
pub(super) async fn apply(kernel: &Kernel, cx: &CommandContext, plan: Plan) -> Outcome {
    let total = plan.early.len() + plan.steps.len() + plan.late.len();
    let mut work = Work { kernel, cx, total, done: 0, failed: HashSet::new(), outcome: Outcome::default() };
    for name in plan.early {
        work.remove(name).await;
    }
    for (spec, change) in plan.steps {
        work.step(spec, change).await;
    }
    for name in plan.late {
        work.remove(name).await;
    }
    work.outcome
}

/// Removes `names`, in their order.
pub(super) async fn remove(kernel: &Kernel, cx: &CommandContext, names: Vec<String>) -> Outcome {
    apply(kernel, cx, Plan { early: names, ..Plan::default() }).await
}

struct Work<'a> {
    kernel: &'a Kernel,
    cx: &'a CommandContext,
    total: usize,
    done: usize,
    failed: HashSet<String>,
    outcome: Outcome,
}

impl Work<'_> {
    async fn step(&mut self, spec: AgentSpec, change: Change) {
        let name = spec.name.clone();
        let done = match change {
            Change::Keep => {
                self.done += 1;
                self.outcome.unchanged.push(name);
                return;
            }
            Change::Create => self.begin("creating", &name),
            Change::Update => self.begin("updating", &name),
        };
        let done = match done {
            Ok(()) => self.change(spec, change).await,
            Err(e) => Err(e),
        };
        match (done, change) {
            (Ok(()), Change::Create) => self.outcome.created.push(name),
            (Ok(()), _) => self.outcome.updated.push(name),
            (Err(e), _) => self.fail(name, e),
        }
    }

    async fn change(&self, spec: AgentSpec, change: Change) -> Result<()> {
        if let Some(lost) =
            spec.depends_on.iter().chain(&spec.parent).find(|need| self.failed.contains(*need))
        {
            return Err(Error::new(ErrorKind::InvalidState, format!("left as it was, because of `{lost}`")));
        }
        let agents = self.kernel.agents();
        if change == Change::Update {
            let name = spec.name.clone();
            return agents.update(&name, spec).await.map(drop);
        }
        let how = Create { env: self.cx.caller.env.clone(), must_start: true, ..Create::default() };
        agents.create(spec, how).await.map(drop)
    }

    async fn remove(&mut self, name: String) {
        let done = match self.begin("removing", &name) {
            Ok(()) => self.kernel.agents().destroy(&name).await,
            Err(e) => Err(e),
        };
        match done {
            Ok(_) => self.outcome.removed.push(name),
            // Somebody else was faster: it is gone, which is what was wanted.
            Err(e) if e.kind == ErrorKind::NotFound => self.outcome.removed.push(name),
            Err(e) => self.fail(name, e),
        }
    }

    fn begin(&mut self, what: &str, name: &str) -> Result<()> {
        self.cx.progress(self.done as f64 / self.total.max(1) as f64, format!("{what} `{name}`"));
        self.done += 1;
        if self.cx.is_cancelled() {
            return Err(Error::new(ErrorKind::Cancelled, "cancelled before it was its turn"));
        }
        Ok(())
    }

    fn fail(&mut self, name: String, e: Error) {
        self.failed.insert(name.clone());
        self.outcome.failures.push((name, e));
    }
}

impl Outcome {
    /// What a plan would do, for `--check`.
    pub(super) fn of_plan(plan: &Plan) -> Self {
        let named = |wanted: Change| {
            let steps = plan.steps.iter().filter(|(_, change)| *change == wanted);
            steps.map(|(spec, _)| spec.name.clone()).collect()
        };
        Self {
            created: named(Change::Create),
            updated: named(Change::Update),
            unchanged: named(Change::Keep),
            removed: plan.early.iter().chain(&plan.late).cloned().collect(),
            failures: Vec::new(),
        }
    }

    /// The error of a partial success, which says what was done nevertheless; nothing when all went well.
    pub(super) fn into_result(self, file: &str) -> Result<Self> {
        let Some((_, first)) = self.failures.first() else { return Ok(self) };
        let each: Vec<String> =
            self.failures.iter().map(|(name, e)| format!("`{name}`: {}", e.message)).collect();
        let mut message = format!("{file}: not everything could be done: {}", each.join("; "));
        for (what, names) in
            [("created", &self.created), ("updated", &self.updated), ("removed", &self.removed)]
        {
            if !names.is_empty() {
                message.push_str(&format!("; {what}: {}", names.join(", ")));
            }
        }
        let hint = first
            .hint
            .clone()
            .unwrap_or_else(|| "correct that, and run it again: it does what is left".into());
        Err(Error { kind: first.kind, message, hint: Some(hint) })
    }

    /// The JSON of `up` and `down`.
    pub(super) fn json(&self, kernel: &Kernel, file: &str, project: &str, applied: bool) -> Value {
        let words = if applied {
            ["created", "updated", "unchanged", "removed"]
        } else {
            ["create", "update", "unchanged", "remove"]
        };
        let groups = [&self.created, &self.updated, &self.unchanged, &self.removed];
        let rows: BTreeMap<&String, Value> =
            groups.iter().copied().flatten().filter_map(|n| Some((n, row(kernel, n).ok()?))).collect();
        let mut agents = Vec::new();
        for (word, names) in words.iter().zip(groups) {
            for name in names {
                let mut agent = json!({"agent": name, "change": word});
                for key in ["status", "health", "pid"] {
                    if let Some(value) = rows.get(name).and_then(|row| row.get(key)) {
                        agent[key] = value.clone();
                    }
                }
                agents.push(agent);
            }
        }
        json!({
            "file": file, "project": project, "applied": applied,
            "created": self.created, "updated": self.updated, "unchanged": self.unchanged, "removed": self.removed,
            "agents": agents,
        })
    }
}
