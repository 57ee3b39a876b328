//! The agent type `heartbeat`: anything that must report in, or something is wrong.
//!
//! A beat is a message `{"beat": true, "status"?: text, "healthy"?: bool}` (`agent send NAME '{"beat":true}'`)
//! or, by the sd_notify protocol on the agent's socket, `WATCHDOG=1` or `READY=1`; `STATUS=…` alone is no
//! beat. After `interval` and `grace` without one it is critical, with the next one it is well again. Each
//! life, a new host's too, begins with a fresh interval; until the first beat its health is unknown.
//!
//! One timer runs at a time and nothing is asked: the beats and the timer tell. The number and time of beats
//! outlive the host; one that is killed may forget those of the last seconds.
//!
//! Its status shows `beats`, `last_beat_ms`, `said` (the last status), `notify_socket` and
//! `notify_ignored` (datagrams that were none of the protocol); it measures `beats`.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use hms_core::{
    Error, ErrorKind, Result,
    agent::{
        AgentContext, AgentTypeSpec, Behaviour, Health, Issue, Measurement, Message, Snapshot, Started, Stop,
        Tunable,
    },
    clock::Mono,
    duration,
    plugin::Registrar,
    schema,
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tokio::sync::Notify;

use crate::{
    keys::{self, Keys, duration_schema},
    process::notify::{Notification, NotifySocket},
    task::Task,
};

/// The version of its snapshots.
const STATE_VERSION: u32 = 1;
/// Beats are kept this often at most, so that fast ones do not keep the store busy.
const SAVE_EVERY: Duration = Duration::from_secs(5);

/// Registers the type.
pub(crate) fn register(to: &Registrar) -> Result<()> {
    let properties = json!({
        "interval": duration_schema("a beat is due this often", "30s"),
        "grace": duration_schema("a beat may come this much later", "5s"),
        "notify": {"type": "boolean", "default": true, "description": "listen on a notify socket (sd_notify) as well"},
    });
    let spec = AgentTypeSpec {
        name: "heartbeat".into(),
        version: keys::version(),
        summary: "waits for something to report in".into(),
        schema: schema::object(properties, &[]),
        state_version: STATE_VERSION,
        tunables: vec![Tunable {
            name: "heartbeat.grace".into(),
            min: 0.1,
            max: 300.0,
            integer: false,
            summary: "seconds that a beat may be late".into(),
        }],
    };
    to.agent_type(spec, Arc::new(create))
}

fn create(config: &Value) -> Result<Arc<dyn Behaviour>> {
    let keys = Keys::of("", config)?;
    let interval = keys.duration("interval")?.unwrap_or(Duration::from_secs(30));
    if interval.is_zero() {
        return Err(keys.wrong("interval", "is zero"));
    }
    let grace = keys.duration("grace")?.unwrap_or(Duration::from_secs(5));
    let pulse = Pulse { grace, state: Mutex::new(State::new(interval)), changed: Notify::new() };
    let notify = keys.flag("notify")?.unwrap_or(true);
    Ok(Arc::new(Heartbeat { notify, pulse: Arc::new(pulse), life: Mutex::default() }))
}

/// The behaviour of a `heartbeat` agent.
struct Heartbeat {
    notify: bool,
    pulse: Arc<Pulse>,
    life: Mutex<Option<Life>>,
}

struct Life {
    socket: Option<Arc<NotifySocket>>,
    _task: Task,
}

/// The beats, and the verdict that follows from them.
struct Pulse {
    grace: Duration,
    state: Mutex<State>,
    /// Wakes the timer: the time at which it is due moved in a way that it would not find out.
    changed: Notify,
}

struct State {
    interval: Duration,
    kept: Kept,
    /// When a beat is overdue; `None` once it is.
    due: Option<Mono>,
    verdict: Health,
    saved: Option<Mono>,
}

/// What outlives a life.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    beats: u64,
    last_beat_ms: Option<u64>,
    said: Option<String>,
}

/// One report.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Beat {
    beat: bool,
    #[serde(default)]
    status: Option<String>,
    #[serde(default)]
    healthy: Option<bool>,
}

impl Beat {
    /// Reads a message.
    fn read(body: Value) -> Result<Self> {
        let wrong = |problem: String| {
            Error::new(
                ErrorKind::InvalidArgument,
                format!("a heartbeat does not understand this message: {problem}"),
            )
            .hint("send {\"beat\": true}, with \"status\" (text) and \"healthy\" (true or false) if you like")
        };
        let beat: Self = serde_json::from_value(body).map_err(|e| wrong(e.to_string()))?;
        if !beat.beat {
            return Err(wrong("`beat` is not true".into()));
        }
        Ok(beat)
    }
}

impl State {
    fn new(interval: Duration) -> Self {
        Self { interval, kept: Kept::default(), due: None, verdict: Health::unknown(), saved: None }
    }

    fn snapshot(&self) -> Snapshot {
        // Serialising three plain fields does not fail.
        Snapshot { state_version: STATE_VERSION, data: serde_json::to_vec(&self.kept).unwrap_or_default() }
    }
}

impl Pulse {
    /// Takes a beat; answers when the next one is overdue.
    fn beat(&self, cx: &AgentContext, beat: Beat) -> Duration {
        let clock = cx.kernel().clock();
        let (now, wall) = (clock.now(), clock.wall_ms());
        let verdict = match beat.healthy {
            Some(false) => {
                let says = beat.status.as_deref().unwrap_or("it gave no reason");
                Health::of(vec![Issue::critical("reported", format!("it reports that it is ill: {says}"))])
            }
            Some(true) | None => Health::healthy(),
        };
        let mut state = self.state();
        let patience = state.interval + self.grace;
        state.kept.beats += 1;
        state.kept.last_beat_ms = Some(wall);
        state.kept.said = beat.status.or(state.kept.said.take());
        let was_overdue = state.due.replace(now + patience).is_none();
        let news = (state.verdict != verdict).then(|| verdict.clone());
        state.verdict = verdict;
        let save =
            state.saved.is_none_or(|at| now.saturating_sub(at) >= SAVE_EVERY).then(|| state.snapshot());
        if save.is_some() {
            state.saved = Some(now);
        }
        drop(state);

        if was_overdue {
            self.changed.notify_one();
        }
        if let Some(health) = news {
            cx.health(health);
        }
        if let Some(snapshot) = save {
            keep(cx.clone(), snapshot);
        }
        patience
    }

    /// Takes what was said on the notify socket.
    fn hear(&self, cx: &AgentContext, said: Notification) {
        if let Some(interval) = said.watchdog_interval {
            self.change_interval(cx, interval);
        }
        if said.watchdog_trigger || said.stopping {
            let status = said.status.clone();
            let what =
                if said.stopping { "it reports that it is stopping" } else { "it reports that it hangs" };
            let issue = if said.stopping {
                Issue::degraded("stopping", what)
            } else {
                Issue::critical("reported", what)
            };
            self.tell(cx, Health::of(vec![issue]), status);
        } else if said.watchdog || said.ready {
            self.beat(cx, Beat { beat: true, status: said.status, healthy: None });
        } else if let Some(status) = said.status {
            self.state().kept.said = Some(status);
        }
    }

    /// It says something of itself that is no beat.
    fn tell(&self, cx: &AgentContext, health: Health, status: Option<String>) {
        {
            let mut state = self.state();
            state.kept.said = status.or(state.kept.said.take());
            if state.verdict == health {
                return;
            }
            state.verdict = health.clone();
        }
        cx.health(health);
    }

    fn change_interval(&self, cx: &AgentContext, interval: Duration) {
        let now = cx.kernel().clock().now();
        {
            let mut state = self.state();
            state.interval = interval;
            if state.due.is_some() {
                state.due = Some(now + interval + self.grace);
            }
        }
        self.changed.notify_one();
    }

    /// Runs the timer: when a beat is overdue it says so, once, and waits for the next.
    async fn watch(&self, cx: &AgentContext) {
        let clock = cx.kernel().clock();
        loop {
            let Some(due) = self.state().due else {
                self.changed.notified().await;
                continue;
            };
            tokio::select! {
                () = clock.sleep_until(due) => {}
                () = self.changed.notified() => continue,
            }
            if let Some(health) = self.overdue(clock.now()) {
                cx.health(health);
            }
        }
    }

    /// The verdict when a beat is overdue now; beats that came meanwhile moved the time on.
    fn overdue(&self, now: Mono) -> Option<Health> {
        let mut state = self.state();
        state.due.filter(|due| *due <= now)?;
        state.due = None;
        let text = duration::format(state.interval + self.grace);
        let message = match state.kept.beats {
            0 => format!("no beat within {text}, and none ever"),
            beats => format!("no beat within {text}, after {beats}"),
        };
        state.verdict = Health::of(vec![Issue::critical("heartbeat", message)]);
        Some(state.verdict.clone())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn keep(cx: AgentContext, snapshot: Snapshot) {
    let kernel = cx.kernel().clone();
    kernel.spawn(async move {
        if let Err(e) = cx.save(snapshot).await {
            tracing::warn!(agent = cx.id(), error = %e, "beats could not be kept");
        }
    });
}

#[async_trait]
impl Behaviour for Heartbeat {
    async fn start(&self, cx: &AgentContext) -> Result<Started> {
        let path = NotifySocket::path_of(&cx.kernel().dirs().runtime, cx.id());
        let socket = if self.notify { Some(Arc::new(NotifySocket::bind(&path)?)) } else { None };
        {
            let mut state = self.pulse.state();
            state.due = Some(cx.kernel().clock().now() + state.interval + self.pulse.grace);
        }
        // Ready to listen at once: messages reach only agents that are. What is told here comes after that.
        cx.health(Health::unknown());
        let bound = socket.clone();
        let (pulse, cx) = (self.pulse.clone(), cx.clone());
        let task = Task::spawn(async move {
            let listen = async {
                let Some(socket) = socket else { return std::future::pending().await };
                loop {
                    pulse.hear(&cx, socket.next().await);
                }
            };
            tokio::join!(listen, pulse.watch(&cx));
        });
        *self.life.lock().unwrap_or_else(PoisonError::into_inner) = Some(Life { socket: bound, _task: task });
        Ok(Started::Ready)
    }

    async fn handle(&self, cx: &AgentContext, message: Message) -> Result<Value> {
        let due = self.pulse.beat(cx, Beat::read(message.body)?);
        let beats = self.pulse.state().kept.beats;
        Ok(json!({"beats": beats, "due_ms": due.as_millis() as u64}))
    }

    async fn health(&self) -> Health {
        self.pulse.state().verdict.clone()
    }

    fn facts(&self) -> Map<String, Value> {
        let mut facts = Map::new();
        {
            let state = self.pulse.state();
            facts.insert("beats".into(), state.kept.beats.into());
            facts.insert("last_beat_ms".into(), state.kept.last_beat_ms.into());
            if let Some(said) = &state.kept.said {
                facts.insert("said".into(), said.clone().into());
            }
        }
        let life = self.life.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(socket) = life.as_ref().and_then(|life| life.socket.as_ref()) {
            facts.insert("notify_socket".into(), socket.path().display().to_string().into());
            facts.insert("notify_ignored".into(), socket.ignored().into());
        }
        facts
    }

    fn measure(&self) -> Vec<Measurement> {
        vec![("beats".into(), self.pulse.state().kept.beats as f64)]
    }

    async fn snapshot(&self) -> Option<Snapshot> {
        Some(self.pulse.state().snapshot())
    }

    async fn restore(&self, snapshot: Snapshot) -> Result<()> {
        match serde_json::from_slice(&snapshot.data) {
            Ok(kept) if snapshot.state_version == STATE_VERSION => self.pulse.state().kept = kept,
            // Counting from zero is better than not watching.
            _ => tracing::warn!(
                version = snapshot.state_version,
                "the kept beats are not readable; counting from zero"
            ),
        }
        Ok(())
    }

    async fn stop(&self, how: Stop) -> Result<()> {
        let life = self.life.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(socket) = life.and_then(|life| life.socket)
            && how != Stop::Detach
        {
            NotifySocket::remove(socket.path());
        }
        Ok(())
    }
}
