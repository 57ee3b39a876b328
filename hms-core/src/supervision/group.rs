//! A parent's group: how often its children are restarted together, and how fast.

use std::collections::HashSet;

use super::{Decision, RestartPolicy, RestartTracker};
use crate::clock::{Mono, Rng};

/// What the restarts of one group amount to so far. The group is healthy while every member that is meant to
/// run is, and that for long enough starts its back-off over.
#[derive(Debug, Default)]
pub struct GroupTracker {
    restarts: RestartTracker,
    ill: HashSet<String>,
}

impl GroupTracker {
    /// Tells the tracker whether `member` is ill (or not up yet) now.
    pub fn health(&mut self, now: Mono, member: &str, ill: bool) {
        if !ill {
            self.ill.remove(member);
        } else if !self.ill.contains(member) {
            self.ill.insert(member.to_owned());
        }
        self.restarts.health(now, self.ill.is_empty());
    }

    /// `member` is none any more, or not meant to run: it says nothing of the group's health.
    pub fn leave(&mut self, now: Mono, member: &str) {
        self.health(now, member, false);
    }

    /// Decides about a member at `now` that failed too often.
    pub fn on_failure(&mut self, policy: &RestartPolicy, now: Mono, rng: &Rng) -> Decision {
        self.restarts.on_exit(policy, now, false, rng)
    }

    /// Forgets past failures: somebody started the parent on purpose.
    pub fn clear(&mut self, now: Mono) {
        self.restarts.clear();
        self.restarts.health(now, self.ill.is_empty());
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::supervision::Intensity;

    const NOW: Decision = Decision::Restart(Duration::ZERO);

    fn seconds(n: u64) -> Mono {
        Duration::from_secs(n)
    }

    /// Without limit; back-off by default, which starts over after 10 s.
    fn policy() -> RestartPolicy {
        RestartPolicy { intensity: Intensity { max: 0, window: seconds(1) }, ..RestartPolicy::default() }
    }

    #[test]
    fn the_health_of_all_members_starts_the_backoff_over() {
        let (rng, policy, mut group) = (Rng::seeded(1), policy(), GroupTracker::default());
        let fail = |group: &mut GroupTracker, at: u64| {
            group.health(seconds(at), "a", true);
            let decision = group.on_failure(&policy, seconds(at), &rng);
            group.health(seconds(at), "a", false);
            decision
        };
        group.health(seconds(0), "a", false);
        group.health(seconds(0), "b", false);
        assert_eq!(fail(&mut group, 0), NOW);
        assert_ne!(fail(&mut group, 9), NOW);
        assert_eq!(fail(&mut group, 19), NOW);
        // The others count, too.
        group.health(seconds(25), "b", true);
        group.health(seconds(26), "b", false);
        assert_ne!(fail(&mut group, 35), NOW);
        // Not those that have left.
        group.health(seconds(36), "b", true);
        group.leave(seconds(36), "b");
        assert_eq!(fail(&mut group, 46), NOW);
    }

    #[test]
    fn a_group_that_is_well_stays_so_when_its_past_is_forgotten() {
        let (rng, policy, mut group) = (Rng::seeded(1), policy(), GroupTracker::default());
        group.health(seconds(0), "a", false);
        group.clear(seconds(1));
        assert_eq!(group.on_failure(&policy, seconds(2), &rng), NOW);
        group.clear(seconds(3));
        assert_eq!(group.on_failure(&policy, seconds(4), &rng), NOW);
        group.clear(seconds(5));
        group.on_failure(&policy, seconds(6), &rng);
        group.health(seconds(6), "a", false);
        assert_eq!(group.on_failure(&policy, seconds(16), &rng), NOW);
    }
}
