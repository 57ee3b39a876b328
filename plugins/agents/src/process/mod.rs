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
mod service;
#[cfg(test)]
mod tests;
mod undertaker;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use hms_core::{
    Error, ErrorKind, Kernel, Result,
    agent::{
        Adoption, AgentContext, AgentTypeSpec, Behaviour, ExitReport, Health, Issue, Measurement, Message,
        Started, Stop, Tunable,
    },
    bytesize,
    clock::{Mono, SharedClock},
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

/// How long adoption waits for a descriptor.
const HOLD_PATIENCE: Duration = Duration::from_secs(5);

/// What all process agents of a system share.
#[derive(Default)]
pub struct Processes {
    /// What the last host left running, by agent, until it is adopted or ended. Who is still here may have a
    /// tree that nobody watches.
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
    let logs = service::Logs { kernel: to.kernel().clone(), processes: processes.clone() };
    to.service(service::spec(), Arc::new(logs))?;
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

    /// Ends the tree of an agent that could not be adopted. Nothing else is known to end it: no life has it.
    async fn end_unadopted(&self, agent: &str, dir: &Path) -> Result<()> {
        if !self.survivors().contains_key(agent) {
            return Ok(());
        }
        let leader = Record::read(dir).map(|record| record.id);
        let survived = self.parts().undertaker.end(agent, Incarnations::All, leader).await;
        cannot_end(survived, agent)?;
        if let Some(leader) = leader
            && Process::adopt(&leader).map_or(true, |found| found.is_some())
        {
            return cannot_end(1, agent);
        }
        Record::remove(dir);
        self.survivors().remove(agent);
        Ok(())
    }

    fn parts(&self) -> &SharedParts {
        self.shared.get().expect("agents start after the organ is initialised")
    }
}

/// Whether an agent of this configuration could be started by whoever has the environment `inherited`
/// (`None`: this process's), found out before anything is changed.
pub(crate) fn check(config: &Value, inherited: Option<&BTreeMap<String, String>>) -> Result<()> {
    life::check(&Config::read(config)?, inherited)
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
    /// Whose tree could not be adopted, with its folder: to be ended all the same.
    unadopted: Option<(String, PathBuf)>,
}

#[async_trait]
impl Behaviour for ProcessAgent {
    async fn start(&self, cx: &AgentContext) -> Result<Started> {
        self.processes.end_unadopted(cx.id(), cx.dir()).await?;
        let parts = self.processes.parts();
        let life = Life::spawn(&self.config, cx, parts.nofile)?;
        parts.logs.watch(cx, &self.config.logs);
        Ok(self.begin(life, false, cx))
    }

    async fn check(&self, cx: &AgentContext) -> Result<()> {
        life::check(&self.config, cx.inherited_env().as_deref())
    }

    async fn adopt(&self, cx: &AgentContext) -> Result<Adoption> {
        let adoption = self.take_over(cx).await;
        let mut survivors = self.processes.survivors();
        if adoption.is_ok() {
            survivors.remove(cx.id());
        } else {
            // Also where only the record tells of it: the next start must not be a second one.
            survivors.entry(cx.id().to_owned()).or_default();
            self.state().unadopted = Some((cx.id().to_owned(), cx.dir().to_owned()));
        }
        adoption
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
        issues.extend(self.check_memory(&life).await);
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

    fn measure(&self) -> Vec<Measurement> {
        let Some(life) = self.life() else { return Vec::new() };
        let Some(usage) = life.process.usage() else { return Vec::new() };
        let now = life.now();
        let before = self.state().cpu_seen.replace((usage.cpu_time, now));
        let mut measured =
            vec![("memoryUsage".into(), usage.rss_bytes as f64), ("threads".into(), usage.threads as f64)];
        if let Some((cpu, at)) = before
            && now > at
        {
            let used = usage.cpu_time.saturating_sub(cpu).as_secs_f64();
            measured.push(("cpuUsage".into(), used / (now - at).as_secs_f64()));
        }
        measured
    }

    fn grace(&self) -> Option<Duration> {
        Some(self.config.stop.timeout)
    }

    async fn stop(&self, how: Stop) -> Result<()> {
        let (life, unadopted) = {
            let mut state = self.state();
            (state.life.take(), state.unadopted.clone())
        };
        if let Some(life) = &life {
            life.let_go();
        }
        if how == Stop::Detach {
            return Ok(());
        }
        let Some(life) = life else {
            return match unadopted {
                Some((agent, dir)) => self.processes.end_unadopted(&agent, &dir).await,
                None => Ok(()),
            };
        };
        if let Stop::Graceful(_) = how {
            life.ask_to_end(self.config.stop_signal()?, self.config.stop.timeout).await;
        }
        let mut survived = life.end_tree(&self.processes.parts().undertaker).await;
        // The child is ours to reap, and its end is certain or nearly so. Not where there was no descriptor left
        // to look for it with: what is held needs none.
        if !life.is_reaped().await {
            let _ = life.process.signal(Signal::KILL);
            survived = survived.max(usize::from(!life.is_reaped().await));
        }
        cannot_end(survived, &life.agent)?;
        Record::remove(&life.dir);
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

    async fn take_over(&self, cx: &AgentContext) -> Result<Adoption> {
        let survivors = self.processes.survivors().get(cx.id()).cloned().unwrap_or_default();
        let record = Record::read(cx.dir());
        let Some(record) = newest(record, &survivors) else { return Ok(Adoption::Absent) };
        let parts = self.processes.parts();
        let older = survivors.iter().filter(|t| t.token.incarnation < record.incarnation);
        for incarnation in older.map(|t| t.token.incarnation).collect::<HashSet<_>>() {
            parts.undertaker.sweep(cx.id(), incarnation, None);
        }
        match hold(&record, cx.kernel().clock()).await? {
            Some(process) => {
                let cx = cx.of_incarnation(record.incarnation);
                if let Err(e) = record.write(cx.dir()) {
                    // It still carries its token: the next host finds it without the record.
                    tracing::warn!(agent = cx.id(), error = %e, "the adopted process could not be recorded");
                }
                let life = Life::adopt(&self.config, &cx, process, record);
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

    async fn check_memory(&self, life: &Life) -> Option<Issue> {
        let limit = self.config.memory_limit?;
        let pid = life.process.pid();
        // A pass over the process table blocks for milliseconds: not on a thread that serves everybody.
        let used = tokio::task::spawn_blocking(move || {
            tree_usage(tree::descendants(pid).into_iter().map(|p| p.pid).chain([pid])).rss_bytes
        });
        let used = used.await.ok()?;
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

/// A hold on the recorded process; `None` when it has ended. Waits for descriptors where there are none just
/// now: a host that has many to adopt may be short of them for a moment.
async fn hold(record: &Record, clock: &SharedClock) -> Result<Option<Process>> {
    let until = clock.now() + HOLD_PATIENCE;
    let mut pause = Duration::from_millis(20);
    loop {
        match Process::adopt(&record.id) {
            Ok(held) => return Ok(held),
            Err(e) if clock.now() >= until => {
                return Err(Error::io(format!("process {}", record.id.pid), &e));
            }
            Err(_) => clock.sleep_until(clock.now() + pause).await,
        }
        pause = (pause * 2).min(Duration::from_millis(500));
    }
}

fn cannot_end(survived: usize, agent: &str) -> Result<()> {
    if survived == 0 {
        return Ok(());
    }
    let what = format!("{survived} processes of agent `{agent}` could not be ended");
    Err(Error::new(ErrorKind::PermissionDenied, what))
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
