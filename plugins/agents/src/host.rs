//! The agent type `host`: watches the machine that the system runs on.
//!
//! CPU, memory and load come from sysinfo, with nothing else refreshed (no process list, no list of disks:
//! that would ask every mounted file system, and a dead network mount answers never). Of disks the one that
//! `path` is on is asked, on a thread that may block, and not again while it has not answered.
//!
//! Over a threshold it is degraded; memory or disk beyond `critical` is critical. It measures `cpuUsage` (0
//! to 1, of all cores), `memoryUsage` and `diskUsage` (bytes), `memoryRatio` and `diskRatio` (0 to 1) and
//! `load1` (of one minute, not per core).

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use async_trait::async_trait;
use hms_core::{
    Error, ErrorKind, Result,
    agent::{AgentContext, AgentTypeSpec, Behaviour, Health, Issue, Measurement, Started, Stop, Tunable},
    plugin::Registrar,
    schema,
};
use serde_json::{Map, Value, json};
use sysinfo::System;

use crate::{
    keys::{self, Keys},
    task::Task,
};

/// Registers the type.
pub(crate) fn register(to: &Registrar) -> Result<()> {
    let ratio = |about: &str, default: f64| {
        json!({
        "type": "number", "exclusiveMinimum": 0, "maximum": 1, "default": default, "description": about})
    };
    let properties = json!({
        "cpu": ratio("CPU usage of all cores (0 to 1) from which it is degraded", 0.95),
        "memory": ratio("part of the memory in use from which it is degraded", 0.95),
        "disk": ratio("part of the disk in use from which it is degraded", 0.95),
        "critical": ratio("part of memory or disk in use from which it is critical", 0.99),
        "load": {"type": "number", "exclusiveMinimum": 0, "default": 4,
            "description": "load of one minute per core from which it is degraded"},
        "path": {"type": "string", "x-value": "PATH", "default": "/", "description": "a path on the disk to watch"},
    });
    let tunable = |name: &str, max: f64, summary: &str| Tunable {
        name: name.into(),
        min: 0.5,
        max,
        integer: false,
        summary: summary.into(),
    };
    let spec = AgentTypeSpec {
        name: "host".into(),
        version: keys::version(),
        summary: "watches CPU, memory, disk and load of this machine".into(),
        schema: schema::object(properties, &[]),
        state_version: 0,
        tunables: vec![
            tunable("host.cpu", 1.0, "CPU usage from which it is degraded"),
            tunable("host.memory", 1.0, "part of the memory in use from which it is degraded"),
            tunable("host.load", 16.0, "load per core from which it is degraded"),
        ],
    };
    to.agent_type(spec, Arc::new(create))
}

fn create(config: &Value) -> Result<Arc<dyn Behaviour>> {
    Ok(Arc::new(Host { machine: Arc::new(Machine::new(Limits::read(config)?)?), first: Mutex::default() }))
}

#[derive(Debug, Clone)]
struct Limits {
    cpu: f64,
    memory: f64,
    disk: f64,
    critical: f64,
    load: f64,
    path: PathBuf,
}

impl Limits {
    fn read(config: &Value) -> Result<Self> {
        let keys = Keys::of("", config)?;
        Ok(Self {
            cpu: keys.number("cpu")?.unwrap_or(0.95),
            memory: keys.number("memory")?.unwrap_or(0.95),
            disk: keys.number("disk")?.unwrap_or(0.95),
            critical: keys.number("critical")?.unwrap_or(0.99),
            load: keys.number("load")?.unwrap_or(4.0),
            path: keys.text("path")?.unwrap_or("/").into(),
        })
    }
}

/// The machine, as last looked at.
struct Machine {
    limits: Limits,
    seen: Mutex<Seen>,
    /// Whether a look at the disk has not come back yet.
    asking_disk: AtomicBool,
}

struct Seen {
    /// Its CPU usage is what happened between the last two looks; at the first one, since the machine started.
    system: System,
    load: Option<f64>,
    disk: Option<Result<Disk, String>>,
}

/// Bytes of a file system, as `df` counts them.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Disk {
    used: u64,
    /// What can still be written without privileges.
    free: u64,
}

impl Disk {
    fn of(path: &Path) -> Result<Self, String> {
        let stat = rustix::fs::statvfs(path).map_err(|e| {
            let text = std::io::Error::from(e).to_string();
            format!("{}: {}", path.display(), text.split(" (os error").next().unwrap_or(&text))
        })?;
        let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
        Ok(Self { used: bytes(stat.f_blocks.saturating_sub(stat.f_bfree)), free: bytes(stat.f_bavail) })
    }

    fn ratio(self) -> f64 {
        ratio(self.used, self.used.saturating_add(self.free))
    }
}

fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

impl Machine {
    fn new(limits: Limits) -> Result<Self> {
        let system = System::new().map_err(|e| {
            Error::new(ErrorKind::NotSupported, format!("this machine cannot be measured: {e}"))
        })?;
        let seen = Mutex::new(Seen { system, load: None, disk: None });
        Ok(Self { limits, seen, asking_disk: AtomicBool::new(false) })
    }

    /// Looks at what the kernel keeps in memory: never waits for a device.
    fn look(&self) -> MutexGuard<'_, Seen> {
        let mut seen = self.seen();
        seen.system.refresh_cpu_usage();
        seen.system.refresh_memory();
        seen.load = System::load_average().ok().map(|load| load.one);
        seen
    }

    /// Asks the disk. While an earlier look has not come back, that is the answer.
    async fn ask_disk(self: &Arc<Self>) {
        if self.asking_disk.swap(true, Ordering::AcqRel) {
            self.seen().disk = Some(Err(format!("{}: the disk does not answer", self.limits.path.display())));
            return;
        }
        let machine = self.clone();
        let asked = tokio::task::spawn_blocking(move || {
            let disk = Disk::of(&machine.limits.path);
            machine.seen().disk = Some(disk);
            machine.asking_disk.store(false, Ordering::Release);
        });
        let _ = asked.await;
    }

    async fn check(self: &Arc<Self>) -> Health {
        self.ask_disk().await;
        let (cpu, memory, disk, load, cores) = {
            let seen = self.look();
            let memory = ratio(seen.system.used_memory(), seen.system.total_memory());
            let cores = seen.system.cpus().len().max(1);
            (cpu(&seen), memory, seen.disk.clone(), seen.load, cores)
        };
        let disk = disk.unwrap_or_else(|| Err("the disk was not asked".into())).map(Disk::ratio);
        Health::of(self.limits.judge(cpu, memory, disk, load.map(|load| load / cores as f64)))
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// CPU usage of all cores, 0 to 1.
fn cpu(seen: &Seen) -> f64 {
    (f64::from(seen.system.global_cpu_usage()) / 100.0).clamp(0.0, 1.0)
}

impl Limits {
    /// What is wrong. `load` is per core.
    fn judge(&self, cpu: f64, memory: f64, disk: Result<f64, String>, load: Option<f64>) -> Vec<Issue> {
        let mut issues = Vec::new();
        let percent = |value: f64| format!("{:.0}%", value * 100.0);
        if cpu >= self.cpu {
            issues.push(Issue::degraded("cpu", format!("CPU usage is {}", percent(cpu))));
        }
        if let Some(load) = load.filter(|load| *load >= self.load) {
            issues.push(Issue::degraded("load", format!("the load is {load:.1} per core")));
        }
        let mut full = |code: &str, used: f64, limit: f64, what: String| {
            let message = format!("{} of {what} is in use", percent(used));
            if used >= self.critical {
                issues.push(Issue::critical(code, message));
            } else if used >= limit {
                issues.push(Issue::degraded(code, message));
            }
        };
        full("memory", memory, self.memory, "the memory".into());
        match disk {
            Ok(used) => full("disk", used, self.disk, format!("the disk of {}", self.path.display())),
            Err(error) => issues.push(Issue::degraded("disk", error)),
        }
        issues
    }
}

/// The behaviour of a `host` agent.
struct Host {
    machine: Arc<Machine>,
    first: Mutex<Option<Task>>,
}

#[async_trait]
impl Behaviour for Host {
    async fn start(&self, cx: &AgentContext) -> Result<Started> {
        let machine = self.machine.clone();
        let first = Task::first_check(cx, async move { machine.check().await });
        *self.first.lock().unwrap_or_else(PoisonError::into_inner) = Some(first);
        Ok(Started::Pending)
    }

    async fn health(&self) -> Health {
        self.machine.check().await
    }

    fn needs_checks(&self) -> bool {
        true
    }

    fn facts(&self) -> Map<String, Value> {
        let seen = self.machine.seen();
        let mut facts = Map::new();
        facts.insert("cores".into(), seen.system.cpus().len().into());
        facts.insert("memory_bytes".into(), seen.system.total_memory().into());
        facts.insert("path".into(), self.machine.limits.path.display().to_string().into());
        facts
    }

    fn measure(&self) -> Vec<Measurement> {
        let seen = self.machine.look();
        let (used, total) = (seen.system.used_memory(), seen.system.total_memory());
        let mut all =
            vec![("cpuUsage", cpu(&seen)), ("memoryUsage", used as f64), ("memoryRatio", ratio(used, total))];
        if let Some(Ok(disk)) = &seen.disk {
            all.extend([("diskUsage", disk.used as f64), ("diskRatio", disk.ratio())]);
        }
        all.extend(seen.load.map(|load| ("load1", load)));
        all.into_iter().map(|(name, value)| (name.into(), value)).collect()
    }

    async fn stop(&self, _how: Stop) -> Result<()> {
        drop(self.first.lock().unwrap_or_else(PoisonError::into_inner).take());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use hms_core::agent::HealthStatus;

    use super::*;

    fn limits() -> Limits {
        Limits::read(
            &json!({"cpu": 0.5, "memory": 0.6, "disk": 0.7, "critical": 0.9, "load": 2, "path": "/data"}),
        )
        .unwrap()
    }

    #[test]
    fn thresholds_degrade_and_fullness_is_critical() {
        let worst = |cpu, memory, disk, load| Health::of(limits().judge(cpu, memory, Ok(disk), load));
        assert_eq!(worst(0.49, 0.59, 0.69, Some(1.9)), Health::healthy());
        for (health, code) in [
            (worst(0.5, 0.0, 0.0, None), "cpu"),
            (worst(0.0, 0.6, 0.0, None), "memory"),
            (worst(0.0, 0.0, 0.7, None), "disk"),
            (worst(0.0, 0.0, 0.0, Some(2.0)), "load"),
        ] {
            assert_eq!((health.status, health.issues[0].code.as_str()), (HealthStatus::Degraded, code));
        }
        assert_eq!(worst(1.0, 0.0, 0.0, None).status, HealthStatus::Degraded);
        let full = worst(0.0, 0.0, 0.9, None);
        assert_eq!(
            (full.status, full.issues[0].message.as_str()),
            (HealthStatus::Critical, "90% of the disk of /data is in use")
        );
        assert_eq!(worst(0.0, 0.95, 0.0, None).status, HealthStatus::Critical);
    }

    #[test]
    fn disks_are_measured_and_missing_paths_named() {
        let root = Disk::of(Path::new("/")).unwrap();
        assert!(root.used > 0 && (0.0..=1.0).contains(&root.ratio()), "{root:?}");
        let missing = Disk::of(Path::new("/nowhere/at/all")).unwrap_err();
        assert!(missing.starts_with("/nowhere/at/all: No such file"), "{missing}");
        assert_eq!(Disk { used: 0, free: 0 }.ratio(), 0.0);
    }

    #[tokio::test]
    async fn a_disk_that_does_not_answer_is_not_asked_again() {
        let machine = Arc::new(Machine::new(limits()).unwrap());
        machine.asking_disk.store(true, Ordering::Release);
        let health = machine.check().await;
        assert!(health.issues.iter().any(|i| i.message == "/data: the disk does not answer"), "{health:?}");
        assert!(machine.asking_disk.load(Ordering::Acquire));
    }
}
