//! The task that carries out what the relay decides: starts, stops, measurements, and the end of it all.

use std::{io::Write, sync::Arc, time::Duration};

use hms_core::os::{Exit, files};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout_at};

use super::{
    guard::Guard,
    process::{Life, in_words},
    supervised::Shared,
};
use crate::relay::{Action, Ending};

/// How long the outputs of a server that has ended may take to be read to their end.
const DRAIN: Duration = Duration::from_secs(2);
/// The same for its standard error, of which only the last line matters.
const DRAIN_STDERR: Duration = Duration::from_millis(100);
/// The same when the client has gone.
const DRAIN_LAST: Duration = Duration::from_millis(100);
/// A server whose output has ended but which does not end itself is ended after this.
const MUTE: Duration = Duration::from_secs(1);
/// How often memory is looked at, where there is a limit.
const WEIGH: Duration = Duration::from_secs(1);
/// A client whose stream is closed may still have left something to read, for this long.
const LAST_READ: Duration = Duration::from_millis(50);
/// What a shell says of a program that SIGKILL ended.
const KILLED: i32 = 128 + 9;

struct Supervisor {
    shared: Arc<Shared>,
    life: Option<Arc<Life>>,
    guard: Option<Guard>,
    /// When a server that was asked to end is ended.
    kill_at: Option<Instant>,
}

/// What woke it.
enum Woken {
    News,
    Exit(Exit),
    Weigh,
    Kill,
}

/// Supervises until the client has gone.
pub(super) async fn run(shared: Arc<Shared>, life: Arc<Life>) {
    let guard = set_guard(&shared).await;
    let mut supervisor = Supervisor { shared: shared.clone(), life: Some(life), guard, kill_at: None };
    let signal = supervisor.work().await;
    let code = supervisor.end(signal).await;
    shared.finish(code);
}

/// Off the way of the first messages: the server runs already.
async fn set_guard(shared: &Arc<Shared>) -> Option<Guard> {
    let hms = shared.launch.hms.clone()?;
    let program = shared.launch.program.clone();
    let set = tokio::task::spawn_blocking(move || Guard::set(&hms, &program)).await;
    match set {
        Ok(Ok(guard)) => Some(guard),
        Ok(Err(e)) => {
            say(
                shared,
                &format!("no guard: {e}; if this process is killed, what the server started may stay"),
            );
            None
        }
        Err(_) => None,
    }
}

fn say(shared: &Shared, remark: &str) {
    if let Some(mut file) = shared.launch.stderr.as_ref().filter(|_| shared.launch.remarks) {
        let _ = file.write_all(format!("codex-hms: {remark}\n").as_bytes());
    }
}

impl Supervisor {
    /// Works until the client goes; the signal by which it went, or 0.
    async fn work(&mut self) -> i32 {
        let mut weigh = interval(WEIGH);
        weigh.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let weighs = self.shared.launch.settings.memory_limit.is_some();
        loop {
            while let Some(action) = self.next_action() {
                self.act(action).await;
            }
            if let Some(signal) = self.shared.lock().close {
                return signal;
            }
            let alarm = self.alarm();
            let life = self.life.clone();
            let woken = tokio::select! {
                biased;
                exit = ended(life.as_deref()) => Woken::Exit(exit),
                () = self.shared.wake.notified() => Woken::News,
                () = sleep(alarm) => Woken::News,
                () = sleep(self.kill_at) => Woken::Kill,
                _ = weigh.tick(), if weighs && life.is_some() => Woken::Weigh,
            };
            match woken {
                Woken::Exit(exit) => self.exited(exit).await,
                Woken::Kill => {
                    self.kill_at = None;
                    self.kill().await;
                }
                Woken::Weigh => self.weigh().await,
                Woken::News => {
                    self.shared.with(|core, now| core.relay.timer(now, &mut core.out));
                    self.notice_mute();
                    self.notice_hangup();
                }
            }
        }
    }

    fn next_action(&self) -> Option<Action> {
        self.shared.lock().actions.pop_front()
    }

    /// When the relay, or a closed stream, wants attention next.
    fn alarm(&self) -> Option<Instant> {
        let mut core = self.shared.lock();
        core.alarm = core.relay.deadline();
        let hung_up = core.hung_up.map(|since| since + LAST_READ);
        let next = [core.alarm, hung_up].into_iter().flatten().min()?;
        Some(Instant::now() + next.saturating_sub(self.shared.clock.now()))
    }

    async fn act(&mut self, action: Action) {
        match action {
            Action::Start { life } => self.start(life).await,
            Action::Stop { life, gently } => {
                if self.life.as_ref().is_none_or(|l| l.number != life) {
                    return;
                }
                if gently {
                    self.shared.close_stdin();
                    self.kill_at = Some(Instant::now() + self.shared.launch.grace);
                } else {
                    self.kill().await;
                }
            }
            Action::Measure { life } => {
                let Some(used) = self.used().await else { return };
                self.shared.with(|core, now| core.relay.cpu(now, life, used.cpu, &mut core.out));
            }
            Action::Remember(text) => self.remember(text).await,
            Action::Say(remark) => say(&self.shared, &remark),
            Action::Tell(fact) => {
                if let Some(reporter) = &self.shared.launch.reporter {
                    reporter.tell(fact);
                }
            }
        }
    }

    async fn start(&mut self, number: u64) {
        let shared = self.shared.clone();
        let begun = tokio::task::spawn_blocking(move || {
            shared
                .launch
                .program
                .spawn(number)
                .map_err(|e| e.to_string())
                .and_then(|spawned| shared.begin(spawned).map_err(|e| e.to_string()))
        });
        match begun.await {
            Ok(Ok(life)) => self.life = Some(life),
            Ok(Err(why)) => {
                let ending = Ending { reason: format!("could not be started ({why})"), ..Ending::default() };
                self.shared.with(|core, now| core.relay.exited(now, number, &ending, &mut core.out));
            }
            Err(_) => {}
        }
    }

    /// The server's first process has ended: so does the rest, and what it said last is read.
    async fn exited(&mut self, exit: Exit) {
        let Some(life) = self.life.take() else { return };
        self.kill_at = None;
        self.end_tree(Some(&life)).await;
        let (now, number) = (Instant::now(), life.number);
        self.drain(number, now + DRAIN, now + DRAIN_STDERR).await;
        let last_words = self.shared.lock().last_words.take();
        let read = self.shared.read_by_server();
        let ending =
            Ending { reason: in_words(&exit), code: exit.code, signal: exit.signal, last_words, read };
        self.shared.with(|core, now| core.relay.exited(now, number, &ending, &mut core.out));
    }

    /// Waits until both outputs of a life have been read to their end.
    async fn drain(&self, life: u64, stdout: Instant, stderr: Instant) {
        loop {
            let missing = {
                let core = self.shared.lock();
                match (core.stdout_ended >= life, core.stderr_ended >= life) {
                    (true, true) => return,
                    (false, _) => stdout,
                    (true, false) => stderr,
                }
            };
            if timeout_at(missing, self.shared.drained.notified()).await.is_err() {
                return;
            }
        }
    }

    async fn kill(&self) {
        self.end_tree(self.life.as_ref()).await;
    }

    /// Ends all that carries the token of a life, or of any.
    async fn end_tree(&self, life: Option<&Arc<Life>>) {
        let (shared, life) = (self.shared.clone(), life.cloned());
        let end = move || {
            let (number, leader) = (life.as_ref().map(|l| l.number), life.and_then(|l| l.leader()));
            shared.launch.program.end(number, leader);
        };
        let _ = tokio::task::spawn_blocking(end).await;
    }

    async fn used(&self) -> Option<super::process::Used> {
        let life = self.life.clone()?;
        tokio::task::spawn_blocking(move || life.used()).await.ok()
    }

    async fn weigh(&self) {
        let (Some(used), Some(life)) = (self.used().await, &self.life) else { return };
        self.shared.with(|core, _| core.relay.memory(life.number, used.memory, &mut core.out));
    }

    /// A server that has closed its output will never answer again.
    fn notice_mute(&mut self) {
        let Some(life) = &self.life else { return };
        if self.kill_at.is_none() && self.shared.lock().stdout_ended >= life.number {
            self.kill_at = Some(Instant::now() + MUTE);
        }
    }

    /// What the client left to read is read, or cannot be, since the server does not take it.
    fn notice_hangup(&self) {
        let mut core = self.shared.lock();
        let due = core.hung_up.is_some_and(|since| self.shared.clock.now() >= since + LAST_READ);
        if due && core.close.is_none() {
            core.close = Some(0);
        }
    }

    async fn remember(&self, text: String) {
        let Some(file) = self.shared.launch.memory_file.clone() else { return };
        let write = move || {
            if let Some(folder) = file.parent() {
                let _ = files::create_private_dir(folder);
            }
            // Without it the next start is slower, and nothing else.
            let _ = files::write_private(&file, text.as_bytes());
        };
        let _ = tokio::task::spawn_blocking(write).await;
    }

    /// The client has gone. All in all this takes less than a second.
    async fn end(&mut self, signal: i32) -> i32 {
        let grace = Instant::now() + self.shared.launch.grace;
        let mut exit = None;
        if let Some(life) = self.life.clone() {
            if signal != 0 {
                life.signal(signal);
            }
            self.shared.close_stdin();
            exit = self.await_end(&life, signal, grace).await;
        }
        // Also when it went by itself: what it left behind goes with it.
        let life = self.life.take();
        let leader = life.as_ref().and_then(|l| l.leader());
        let shared = self.shared.clone();
        let _ = tokio::task::spawn_blocking(move || shared.launch.program.end(None, leader)).await;
        if let Some(life) = &life {
            let until = Instant::now() + DRAIN_LAST;
            self.drain(life.number, until, until).await;
            self.await_written(until).await;
        }
        if let Some(guard) = self.guard.take() {
            let _ = tokio::task::spawn_blocking(move || guard.relieve()).await;
        }
        match (life, exit) {
            (None, _) => 0,
            (Some(_), Some(Exit { code: Some(code), .. })) => code,
            (Some(_), Some(Exit { signal: Some(number), .. })) => 128 + number,
            (Some(_), _) => KILLED,
        }
    }

    /// Waits for a server that was asked to end; passes on signals that come meanwhile.
    async fn await_end(&self, life: &Life, mut signal: i32, grace: Instant) -> Option<Exit> {
        loop {
            tokio::select! {
                exit = life.ended() => return Some(exit),
                () = tokio::time::sleep_until(grace) => return None,
                () = self.shared.wake.notified() => {
                    let asked = self.shared.lock().close.unwrap_or(0);
                    if asked != signal && asked != 0 {
                        signal = asked;
                        life.signal(asked);
                    }
                }
            }
        }
    }

    async fn await_written(&self, until: Instant) {
        while !self.shared.lock().client.is_empty() {
            if timeout_at(until, self.shared.drained.notified()).await.is_err() {
                return;
            }
        }
    }
}

async fn ended(life: Option<&Life>) -> Exit {
    match life {
        Some(life) => life.ended().await,
        None => std::future::pending().await,
    }
}

async fn sleep(until: Option<Instant>) {
    match until {
        Some(until) => sleep_until(until).await,
        None => std::future::pending().await,
    }
}
