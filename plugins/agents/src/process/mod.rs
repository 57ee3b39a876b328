//! The `process` type: a real process, supervised.
//!
//! A life is one child: spawned with its output going to files, watched by its pidfd, known to the next host
//! by its token and its record. What goes on around the child is in [`life`]; this file is the door.

mod config;
mod env;
mod life;
mod logkeeper;
pub mod logs;
pub(crate) mod notify;
mod record;
mod undertaker;

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use hms_core::{
    Error, ErrorKind, Kernel, Result,
    agent::{
        Adoption, AgentContext, AgentTypeSpec, Behaviour, ExitReport, Health, Issue, Message, Started, Stop,
        Tunable,
    },
    bytesize,
    clock::Mono,
    os::{
        exit::Signal,
        process::{Process, tree_usage},
        token::Incarnations,
        tree::{self, KillTree, Tagged},
    },
    plugin::Registrar,
    store,
};
use serde_json::{Map, Value};

use self::{config::Config, life::Life, logkeeper::LogKeeper, record::Record, undertaker::Undertaker};
use crate::probe::{ProbeContext, ProbeKind};

/// What all process agents of a system share.
#[derive(Default)]
pub struct Processes {
    /// What the last host left running, by agent; taken by adoption.
    survivors: Mutex<HashMap<String, Vec<Tagged>>>,
    shared: OnceLock<SharedParts>,
}

struct SharedParts {
    undertaker: Undertaker,
    logs: LogKeeper,
    /// The limits of descriptors that a child shall have: the host's own, before it raised them.
    nofile: Option<(u64, u64)>,
}

pub(crate) fn register(to: &Registrar, processes: Arc<Processes>) -> Result<()> {
    let spec = AgentTypeSpec {
        name: "process".into(),
        version: semver::Version::new(1, 0, 0),
        summary: "a process: started, watched, restarted, its output kept".into(),
        schema: config::schema(),
        state_version: 0,
        tunables: vec![Tunable {
            name: "process.stopTimeout".into(),
            min: 0.1,
            max: 120.0,
            integer: false,
            summary: "seconds a process has to end before it is killed".into(),
        }],
    };
    let factory = move |value: &Value| -> Result<Arc<dyn Behaviour>> {
        let config = Config::read(value)?;
        Ok(Arc::new(ProcessAgent { config, processes: processes.clone(), state: Mutex::default() }))
    };
    to.agent_type(spec, Arc::new(factory))
}

impl Processes {
    /// Looks once for what the last host left; ends what belongs to no agent any more.
    pub(crate) async fn find_survivors(&self, kernel: &Kernel) -> Result<()> {
        let home = kernel.dirs().home.clone();
        let undertaker = Undertaker::start(home.clone()).map_err(|e| Error::io("starting a thread", &e))?;
        let logs = LogKeeper::start(kernel)?;
        let nofile = hms_core::os::host::original_nofile();
        if self.shared.set(SharedParts { undertaker, logs, nofile }).is_err() {
            return Err(Error::internal("the agents organ is initialised already"));
        }
        let known: HashSet<String> = {
            let rows = kernel.store().read(store::agents::list).await?;
            rows.into_iter().map(|row| row.id).collect()
        };
        let survivors = tokio::task::spawn_blocking(move || {
            let mut by_agent: HashMap<String, Vec<Tagged>> = HashMap::new();
            for tagged in tree::scan(&home) {
                by_agent.entry(tagged.token.agent.clone()).or_default().push(tagged);
            }
            let strangers: Vec<String> = by_agent.keys().filter(|id| !known.contains(*id)).cloned().collect();
            let targets: Vec<KillTree<'_>> = strangers
                .iter()
                .map(|id| KillTree {
                    home: &home,
                    agent: Some(id),
                    incarnations: Incarnations::All,
                    leader: None,
                    cgroup: None,
                })
                .collect();
            if !targets.is_empty() {
                let report = tree::kill_trees(&targets);
                tracing::info!(killed = report.killed.len(), "ended processes of agents that do not exist");
            }
            by_agent.retain(|id, _| known.contains(id));
            by_agent
        })
        .await
        .map_err(|e| Error::internal(format!("looking for processes: {e}")))?;
        *self.survivors() = survivors;
        Ok(())
    }

    fn survivors(&self) -> MutexGuard<'_, HashMap<String, Vec<Tagged>>> {
        self.survivors.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn parts(&self) -> &SharedParts {
        self.shared.get().expect("agents start after the organ is initialised")
    }
}

struct ProcessAgent {
    config: Config,
    processes: Arc<Processes>,
    state: Mutex<State>,
}

/// What is known of the current life.
#[derive(Default)]
struct State {
    life: Option<Arc<Life>>,
    liveness_failures: u32,
    /// CPU time at the last measurement, and when.
    cpu_seen: Option<(Duration, Mono)>,
    /// CPU time when it last grew, and when.
    cpu_grew: Option<(Duration, Mono)>,
}

#[async_trait]
impl Behaviour for ProcessAgent {
    async fn start(&self, cx: &AgentContext) -> Result<Started> {
        let parts = self.processes.parts();
        let life = Life::spawn(&self.config, cx, parts.nofile)?;
        parts.logs.watch(cx, &self.config.logs);
        Ok(self.begin(life, false, cx))
    }

    async fn check(&self, cx: &AgentContext) -> Result<()> {
        life::check(&self.config, cx)
    }

    async fn adopt(&self, cx: &AgentContext) -> Result<Adoption> {
        let survivors = self.processes.survivors().remove(cx.id()).unwrap_or_default();
        let record = Record::read(cx.dir());
        let Some(record) = newest(record, &survivors) else { return Ok(Adoption::Absent) };
        let parts = self.processes.parts();
        let older = survivors.iter().filter(|t| t.token.incarnation < record.incarnation);
        for incarnation in older.map(|t| t.token.incarnation).collect::<HashSet<_>>() {
            parts.undertaker.sweep(cx.id(), incarnation, None);
        }
        match Process::adopt(&record.id).map_err(|e| Error::io("adopting a process", &e))? {
            Some(process) => {
                let cx = cx.of_incarnation(record.incarnation);
                record.write(cx.dir()).map_err(|e| Error::io("recording a process", &e))?;
                let life = Life::adopt(&self.config, &cx, process, record)?;
                parts.logs.watch(&cx, &self.config.logs);
                let started = self.begin(life, record.ready, &cx);
                Ok(Adoption::Adopted { incarnation: record.incarnation, started })
            }
            None => {
                Record::remove(cx.dir());
                parts.undertaker.sweep(cx.id(), record.incarnation, Some(record.id));
                let exit = ExitReport {
                    clean: false,
                    reason: "ended while no host was watching; the exit code is not known".into(),
                    code: None,
                    signal: None,
                };
                Ok(Adoption::Ended { incarnation: record.incarnation, exit })
            }
        }
    }

    async fn handle(&self, cx: &AgentContext, message: Message) -> Result<Value> {
        let life =
            self.life().ok_or_else(|| Error::new(ErrorKind::InvalidState, "the process is not running"))?;
        life.write_line(cx.dir(), &self.config, &message.body)
    }

    async fn health(&self) -> Health {
        let Some(life) = self.life() else { return Health::unknown() };
        let mut issues = Vec::new();
        if let Some(issue) = self.check_liveness(&life).await {
            issues.push(issue);
        }
        issues.extend(self.check_memory(&life));
        issues.extend(self.check_hang(&life));
        issues.extend(life.watchdog_issue());
        Health::of(issues)
    }

    fn needs_checks(&self) -> bool {
        let c = &self.config;
        c.liveness.is_some()
            || c.memory_limit.is_some()
            || c.hang.cpu_idle.is_some()
            || c.hang.log_silence.is_some()
    }

    fn facts(&self) -> Map<String, Value> {
        let mut facts = Map::new();
        if let Some(life) = self.life() {
            facts.insert("pid".into(), life.process.pid().into());
            if let Some(text) = life.status_text() {
                facts.insert("status_text".into(), text.into());
            }
        }
        facts
    }

    fn measure(&self) -> Vec<(&'static str, f64)> {
        let Some(life) = self.life() else { return Vec::new() };
        let Some(usage) = life.process.usage() else { return Vec::new() };
        let now = life.now();
        let before = self.state().cpu_seen.replace((usage.cpu_time, now));
        let mut measured = vec![("memoryUsage", usage.rss_bytes as f64), ("threads", usage.threads as f64)];
        if let Some((cpu, at)) = before
            && now > at
        {
            let used = usage.cpu_time.saturating_sub(cpu).as_secs_f64();
            measured.push(("cpuUsage", used / (now - at).as_secs_f64()));
        }
        measured
    }

    async fn stop(&self, how: Stop) -> Result<()> {
        let Some(life) = self.state().life.take() else { return Ok(()) };
        life.let_go();
        if how == Stop::Detach {
            return Ok(());
        }
        if let Stop::Graceful(_) = how {
            life.ask_to_end(self.config.stop_signal()?, self.config.stop.timeout).await;
        }
        let survived = self.processes.parts().undertaker.end(&life.agent, Some(life.process.id())).await;
        // The child is ours to reap, and its end is certain or nearly so.
        let _ = tokio::time::timeout(Duration::from_secs(2), life.process.wait()).await;
        Record::remove(&life.dir);
        if survived > 0 {
            return Err(Error::new(
                ErrorKind::PermissionDenied,
                format!("{survived} processes of agent `{}` could not be ended", life.agent),
            ));
        }
        Ok(())
    }

    async fn reset(&self, cx: &AgentContext) -> Result<()> {
        Record::remove(cx.dir());
        life::forget(cx);
        Ok(())
    }
}

impl Drop for ProcessAgent {
    /// A life that ended by itself was never stopped: its tasks end with it all the same.
    fn drop(&mut self) {
        if let Some(life) = self.state().life.take() {
            life.let_go();
        }
    }
}

impl ProcessAgent {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn life(&self) -> Option<Arc<Life>> {
        self.state().life.clone()
    }

    fn begin(&self, life: Arc<Life>, was_ready: bool, cx: &AgentContext) -> Started {
        *self.state() = State { life: Some(life.clone()), ..State::default() };
        life.watch_exit(&self.config, cx, self.processes.clone());
        life.begin_probes(&self.config, cx, was_ready)
    }

    /// `None` when all is well or nothing is to be asked.
    async fn check_liveness(&self, life: &Life) -> Option<Issue> {
        let probe = self.config.liveness.as_ref()?;
        let ProbeKind::Check(check) = &probe.kind else { return None };
        let outcome = check.run(&self.probe_context(life), probe.timeout).await;
        let mut state = self.state();
        let Err(why) = outcome else {
            state.liveness_failures = 0;
            return None;
        };
        state.liveness_failures += 1;
        let (failed, allowed) = (state.liveness_failures, probe.failures);
        Some(if failed >= allowed {
            Issue::critical("liveness", why)
        } else {
            Issue::degraded("liveness", format!("{why} ({failed} of {allowed} failures)"))
        })
    }

    fn check_memory(&self, life: &Life) -> Option<Issue> {
        let limit = self.config.memory_limit?;
        let pid = life.process.pid();
        let tree = tree::descendants(pid).into_iter().map(|p| p.pid).chain([pid]);
        let used = tree_usage(tree).rss_bytes;
        (used > limit).then(|| {
            let (used, limit) = (bytesize::approximate(used), bytesize::format(limit));
            Issue::critical("memory-limit", format!("uses {used} of memory, more than {limit}"))
        })
    }

    fn check_hang(&self, life: &Life) -> Option<Issue> {
        let text = hms_core::duration::format;
        if let Some(limit) = self.config.hang.cpu_idle
            && let Some(usage) = life.process.usage()
        {
            let now = life.now();
            let mut state = self.state();
            let (_, since) = match state.cpu_grew {
                Some((cpu, at)) if usage.cpu_time <= cpu => (cpu, at),
                _ => *state.cpu_grew.insert((usage.cpu_time, now)),
            };
            if now.saturating_sub(since) >= limit {
                return Some(Issue::critical("hang", format!("used no CPU time for {}", text(limit))));
            }
        }
        let limit = self.config.hang.log_silence?;
        let silent = life.silent_for();
        (silent >= limit).then(|| Issue::critical("hang", format!("printed nothing for {}", text(limit))))
    }

    fn probe_context(&self, life: &Life) -> ProbeContext {
        ProbeContext { clock: life.clock(), cwd: self.config.cwd.clone(), env: life.env.clone() }
    }
}

/// The record of what runs: the file's, unless a later life left its token but no record (the host was
/// killed between the spawn and the write).
fn newest(record: Option<Record>, survivors: &[Tagged]) -> Option<Record> {
    let latest = survivors.iter().map(|t| t.token.incarnation).max();
    match (record, latest) {
        (Some(record), latest) if latest.is_none_or(|l| l <= record.incarnation) => Some(record),
        (_, Some(incarnation)) => {
            // Of that life's processes the first group leader is the one that was spawned.
            let of_life = survivors.iter().filter(|t| t.token.incarnation == incarnation);
            let leader = of_life.filter(|t| t.pgid == t.id.pid).min_by_key(|t| t.id.start_time)?;
            Some(Record { incarnation, ready: false, id: leader.id })
        }
        (record, None) => record,
    }
}

/// The signals of a stop that a stopped (SIGSTOP) process must be woken for.
const WAKE: Signal = Signal::CONT;
