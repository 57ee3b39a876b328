//! One agent's restarts: policy, intensity and back-off.

use std::{collections::VecDeque, time::Duration};

use serde::{Deserialize, Serialize};

use crate::clock::{Mono, Rng};

/// Which exits are followed by a restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
pub enum Restart {
    /// Every one.
    #[default]
    Permanent,
    /// Abnormal ones only: a clean end is a job done.
    Transient,
    /// None.
    Temporary,
}

/// At most `max` restarts within `window`; one more escalates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Intensity {
    /// Restarts allowed within the window; 0 means without limit.
    pub max: u32,
    /// The window.
    #[serde(with = "crate::duration::text")]
    pub window: Duration,
}

impl Default for Intensity {
    fn default() -> Self {
        Self { max: 5, window: Duration::from_secs(60) }
    }
}

/// How long to wait before the n-th restart in a row. The first is immediate.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Backoff {
    /// Delay of the second restart in a row; zero switches back-off off.
    #[serde(with = "crate::duration::text")]
    pub initial: Duration,
    /// No delay is longer.
    #[serde(with = "crate::duration::text")]
    pub max: Duration,
    /// Each delay is this many times the one before.
    pub factor: f64,
    /// The part of the delay (0–1) that is left to chance.
    pub jitter: f64,
    /// Healthy for this long, and the next restart is immediate again.
    #[serde(with = "crate::duration::text")]
    pub reset_after: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            initial: Duration::from_millis(100),
            max: Duration::from_secs(30),
            factor: 2.0,
            jitter: 0.2,
            reset_after: Duration::from_secs(10),
        }
    }
}

impl Backoff {
    /// The delay before restart number `attempt` in a row (0 is the first), with `chance` in 0–1.
    pub fn delay(&self, attempt: u32, chance: f64) -> Duration {
        if attempt == 0 || self.initial.is_zero() {
            return Duration::ZERO;
        }
        let exponent = f64::from(attempt - 1).min(64.0);
        let full =
            (self.initial.as_secs_f64() * self.factor.max(1.0).powf(exponent)).min(self.max.as_secs_f64());
        let kept = 1.0 - self.jitter.clamp(0.0, 1.0) * chance.clamp(0.0, 1.0);
        Duration::from_secs_f64(full * kept)
    }
}

/// When an agent is restarted, how often, and how fast.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RestartPolicy {
    /// Which exits are followed by a restart.
    pub policy: Restart,
    /// How many restarts are too many.
    pub intensity: Intensity,
    /// How long to wait between them.
    pub backoff: Backoff,
}

/// What to do about an exit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Start again after this delay.
    Restart(Duration),
    /// It was meant to end.
    Stay,
    /// It failed, and the policy does not restart it.
    Fail,
    /// Too many restarts: escalate.
    Escalate,
}

/// What one agent's restarts amount to so far.
#[derive(Debug, Default)]
pub struct RestartTracker {
    /// Times of the restarts within the window, oldest first.
    recent: VecDeque<Mono>,
    /// Restarts in a row without sustained health between them.
    attempts: u32,
    healthy_since: Option<Mono>,
    /// The longest time of health since the last exit that is over.
    healthy_for: Duration,
}

impl RestartTracker {
    /// Tells the tracker whether the agent is healthy now.
    pub fn health(&mut self, now: Mono, healthy: bool) {
        if !healthy {
            let spell = self.healthy_since.take().map_or(Duration::ZERO, |since| now.saturating_sub(since));
            self.healthy_for = self.healthy_for.max(spell);
        } else if self.healthy_since.is_none() {
            self.healthy_since = Some(now);
        }
    }

    /// Decides about an exit at `now`. `clean` is an exit that its own rules call success.
    pub fn on_exit(&mut self, policy: &RestartPolicy, now: Mono, clean: bool, rng: &Rng) -> Decision {
        match policy.policy {
            Restart::Temporary => return if clean { Decision::Stay } else { Decision::Fail },
            Restart::Transient if clean => return Decision::Stay,
            Restart::Transient | Restart::Permanent => {}
        }
        self.health(now, false);
        if std::mem::take(&mut self.healthy_for) >= policy.backoff.reset_after {
            self.attempts = 0;
        }
        if !self.admit(&policy.intensity, now) {
            return Decision::Escalate;
        }
        let delay = policy.backoff.delay(self.attempts, rng.unit());
        self.attempts = self.attempts.saturating_add(1);
        Decision::Restart(delay)
    }

    /// Forgets the past: somebody started the agent on purpose.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// Counts a restart at `now` unless that would be one too many.
    fn admit(&mut self, intensity: &Intensity, now: Mono) -> bool {
        if intensity.max == 0 {
            return true;
        }
        while self.recent.front().is_some_and(|&t| now.saturating_sub(t) >= intensity.window) {
            self.recent.pop_front();
        }
        if self.recent.len() >= intensity.max as usize {
            return false;
        }
        self.recent.push_back(now);
        true
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::clock::{Clock, ManualClock, Rng};

    fn policy(max: u32, window_ms: u64) -> RestartPolicy {
        RestartPolicy {
            intensity: Intensity { max, window: Duration::from_millis(window_ms) },
            ..RestartPolicy::default()
        }
    }

    #[test]
    fn clean_exits_follow_the_policy() {
        let rng = Rng::seeded(1);
        for (restart, clean, want) in [
            (Restart::Permanent, true, Decision::Restart(Duration::ZERO)),
            (Restart::Permanent, false, Decision::Restart(Duration::ZERO)),
            (Restart::Transient, true, Decision::Stay),
            (Restart::Transient, false, Decision::Restart(Duration::ZERO)),
            (Restart::Temporary, true, Decision::Stay),
            (Restart::Temporary, false, Decision::Fail),
        ] {
            let policy = RestartPolicy { policy: restart, ..RestartPolicy::default() };
            assert_eq!(
                RestartTracker::default().on_exit(&policy, Mono::ZERO, clean, &rng),
                want,
                "{restart:?} {clean}"
            );
        }
    }

    #[test]
    fn backoff_starts_over_after_sustained_health() {
        let (rng, clock) = (Rng::seeded(1), ManualClock::shared());
        let policy = policy(0, 1);
        let mut tracker = RestartTracker::default();
        for _ in 0..6 {
            tracker.on_exit(&policy, clock.now(), false, &rng);
        }
        tracker.health(clock.now(), true);
        clock.advance(policy.backoff.reset_after - Duration::from_millis(1));
        assert_ne!(tracker.on_exit(&policy, clock.now(), false, &rng), Decision::Restart(Duration::ZERO));
        tracker.health(clock.now(), true);
        clock.advance(policy.backoff.reset_after);
        assert_eq!(tracker.on_exit(&policy, clock.now(), false, &rng), Decision::Restart(Duration::ZERO));
    }

    #[test]
    fn illness_interrupts_sustained_health() {
        let rng = Rng::seeded(1);
        let policy = policy(0, 1);
        let mut tracker = RestartTracker::default();
        tracker.on_exit(&policy, Mono::ZERO, false, &rng);
        tracker.health(Mono::ZERO, true);
        tracker.health(Duration::from_secs(9), false);
        tracker.health(Duration::from_secs(9), true);
        assert_ne!(
            tracker.on_exit(&policy, Duration::from_secs(15), false, &rng),
            Decision::Restart(Duration::ZERO)
        );
    }

    #[test]
    fn health_that_lasted_counts_also_when_illness_came_before_the_exit() {
        let rng = Rng::seeded(1);
        let policy = policy(0, 1);
        let mut tracker = RestartTracker::default();
        tracker.on_exit(&policy, Mono::ZERO, false, &rng);
        tracker.health(Mono::ZERO, true);
        tracker.health(Duration::from_secs(10), false);
        let decision = tracker.on_exit(&policy, Duration::from_secs(11), false, &rng);
        assert_eq!(decision, Decision::Restart(Duration::ZERO));
        let decision = tracker.on_exit(&policy, Duration::from_secs(30), false, &rng);
        assert_ne!(decision, Decision::Restart(Duration::ZERO), "once");
    }

    proptest! {
        /// Never more than `max` restarts in any window, whatever the exits.
        #[test]
        fn intensity_holds(max in 1u32..6, window in 1u64..500, gaps in prop::collection::vec(0u64..200, 1..80)) {
            let (rng, policy) = (Rng::seeded(7), policy(max, window));
            let mut tracker = RestartTracker::default();
            let (mut now, mut restarts) = (0u64, Vec::<u64>::new());
            for gap in gaps {
                now += gap;
                let decision = tracker.on_exit(&policy, Duration::from_millis(now), false, &rng);
                let recent = restarts.iter().filter(|&&t| now - t < window).count();
                prop_assert_eq!(decision == Decision::Escalate, recent >= max as usize);
                if matches!(decision, Decision::Restart(_)) {
                    restarts.push(now);
                }
            }
        }

        /// Delays grow (before jitter), never pass the cap, and jitter only shortens.
        #[test]
        fn delays_are_bounded(initial in 1u64..5_000, max in 1u64..60_000, factor in 1.0f64..5.0, jitter in 0.0f64..1.0,
                              chance in 0.0f64..1.0, attempt in 0u32..2_000) {
            let backoff = Backoff {
                initial: Duration::from_millis(initial), max: Duration::from_millis(max), factor, jitter,
                reset_after: Duration::from_secs(1),
            };
            let full = Backoff { jitter: 0.0, ..backoff };
            let delay = backoff.delay(attempt, chance);
            prop_assert!(delay <= backoff.max);
            prop_assert!(delay <= full.delay(attempt, chance));
            prop_assert!(full.delay(attempt, 0.0) <= full.delay(attempt + 1, 0.0));
            let floor = full.delay(attempt, 0.0).mul_f64(1.0 - jitter);
            prop_assert!(delay + Duration::from_micros(1) >= floor);
        }

        /// The same seed and times give the same decisions: healing replays.
        #[test]
        fn decisions_replay(seed: u64, gaps in prop::collection::vec(0u64..300, 1..40)) {
            let run = || {
                let (rng, mut tracker, mut now) = (Rng::seeded(seed), RestartTracker::default(), 0);
                gaps.iter().map(|gap| {
                    now += gap;
                    tracker.on_exit(&policy(3, 400), Duration::from_millis(now), false, &rng)
                }).collect::<Vec<_>>()
            };
            prop_assert_eq!(run(), run());
        }
    }
}
