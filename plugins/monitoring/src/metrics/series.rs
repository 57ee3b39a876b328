//! Samples in memory: the newest ones of each series, compact and bounded, and points made of many.
//!
//! A sample takes 12 bytes (an offset of 4, a value of 8) and a series holds [`RECENT`] of them, so that a
//! series costs at most 768 bytes of samples and about 120 of its own, and an agent with the usual seven
//! metrics about 6 KiB. Everything older is in the store.

use std::{collections::VecDeque, time::Duration};

use serde_json::{Value, json};

/// Samples of a series that stay in memory: ten minutes at the default interval.
pub(crate) const RECENT: usize = 64;

/// The newest samples of one metric of one agent.
#[derive(Debug, Default)]
pub(crate) struct Recent {
    /// What the offsets count from.
    base_ms: u64,
    offsets: VecDeque<u32>,
    values: VecDeque<f64>,
}

impl Recent {
    /// Adds a sample. The time of one that is older than the last (the wall clock was set back) is moved
    /// up to the last.
    pub(crate) fn push(&mut self, time_ms: u64, value: f64) {
        if self.values.len() == RECENT {
            self.offsets.pop_front();
            self.values.pop_front();
        }
        let time_ms = time_ms.max(self.last().map_or(0, |(last, _)| last));
        if self.offsets.is_empty() {
            self.base_ms = time_ms;
        }
        let offset = u32::try_from(time_ms - self.base_ms).unwrap_or_else(|_| self.rebase(time_ms));
        self.offsets.push_back(offset);
        self.values.push_back(value);
    }

    /// Counts from the oldest sample again, every 49 days; what then still is out of reach is forgotten.
    fn rebase(&mut self, time_ms: u64) -> u32 {
        while let Some(&oldest) = self.offsets.front() {
            let base = self.base_ms + u64::from(oldest);
            if let Ok(offset) = u32::try_from(time_ms - base) {
                self.base_ms = base;
                self.offsets.iter_mut().for_each(|o| *o -= oldest);
                return offset;
            }
            self.offsets.pop_front();
            self.values.pop_front();
        }
        self.base_ms = time_ms;
        0
    }

    /// The newest sample.
    pub(crate) fn last(&self) -> Option<(u64, f64)> {
        Some((self.base_ms + u64::from(*self.offsets.back()?), *self.values.back()?))
    }

    /// Whether every sample since this time is here.
    pub(crate) fn reaches(&self, since_ms: u64) -> bool {
        self.offsets.front().is_some_and(|first| self.base_ms + u64::from(*first) <= since_ms)
    }

    /// The samples of this span, oldest first.
    pub(crate) fn between(&self, since_ms: u64, until_ms: u64) -> impl Iterator<Item = (u64, f64)> + '_ {
        let times = self.offsets.iter().map(|o| self.base_ms + u64::from(*o));
        times.zip(self.values.iter().copied()).filter(move |(t, _)| (since_ms..=until_ms).contains(t))
    }
}

/// Points of a series, as an answer shows them: each sample, or each span of `step` as its mean, least
/// and greatest value.
#[derive(Debug)]
pub(crate) struct Points {
    step_ms: Option<u64>,
    points: Vec<Value>,
    bucket: Option<Bucket>,
    /// Over all samples.
    total: Bucket,
    last: f64,
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    start_ms: u64,
    count: u64,
    /// The mean so far: a sum of large values may not be a number any more.
    mean: f64,
    min: f64,
    max: f64,
}

impl Bucket {
    fn new(start_ms: u64) -> Self {
        Self { start_ms, count: 0, mean: 0.0, min: f64::INFINITY, max: f64::NEG_INFINITY }
    }

    fn add(&mut self, value: f64) {
        self.count += 1;
        self.mean += (value - self.mean) / self.count as f64;
        self.min = self.min.min(value);
        self.max = self.max.max(value);
    }

    fn point(&self) -> Value {
        json!([self.start_ms, self.mean, self.min, self.max])
    }
}

impl Points {
    /// No points yet.
    pub(crate) fn new(step: Option<Duration>) -> Self {
        let step_ms = step.map(|s| (s.as_millis() as u64).max(1));
        Self { step_ms, points: Vec::new(), bucket: None, total: Bucket::new(0), last: 0.0 }
    }

    /// Adds a sample; their times ascend.
    pub(crate) fn add(&mut self, time_ms: u64, value: f64) {
        self.total.add(value);
        self.last = value;
        let Some(step_ms) = self.step_ms else {
            self.points.push(json!([time_ms, value]));
            return;
        };
        let start_ms = time_ms - time_ms % step_ms;
        let bucket = match &mut self.bucket {
            Some(bucket) if bucket.start_ms == start_ms => bucket,
            other => {
                if let Some(done) = other.replace(Bucket::new(start_ms)) {
                    self.points.push(done.point());
                }
                other.get_or_insert_with(|| Bucket::new(start_ms))
            }
        };
        bucket.add(value);
    }

    /// The series, with its points and the figures of all its samples; `None` when there are none.
    pub(crate) fn finish(mut self) -> Option<Value> {
        if let Some(bucket) = self.bucket.take() {
            self.points.push(bucket.point());
        }
        let Bucket { count, mean, min, max, .. } = self.total;
        (count > 0).then(|| {
            json!({"count": count, "min": min, "avg": mean, "max": max, "last": self.last, "points": self.points})
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_newest_samples_stay() {
        let mut recent = Recent::default();
        assert!(!recent.reaches(u64::MAX), "an empty series reaches nothing");
        for n in 0..200u64 {
            recent.push(1_000_000 + n * 10, n as f64);
        }
        assert_eq!(recent.last(), Some((1_001_990, 199.0)));
        let oldest = 1_000_000 + (200 - RECENT as u64) * 10;
        assert!(recent.reaches(oldest) && !recent.reaches(oldest - 1));
        assert_eq!(
            recent.between(1_001_970, 1_001_980).collect::<Vec<_>>(),
            [(1_001_970, 197.0), (1_001_980, 198.0)]
        );
        assert_eq!(recent.between(0, u64::MAX).count(), RECENT);
    }

    #[test]
    fn time_may_jump() {
        let mut recent = Recent::default();
        recent.push(5_000, 1.0);
        recent.push(4_000, 2.0);
        assert_eq!(recent.between(0, u64::MAX).collect::<Vec<_>>(), [(5_000, 1.0), (5_000, 2.0)]);
        let far = 6_000 + u64::from(u32::MAX);
        recent.push(far, 3.0);
        assert_eq!(
            recent.between(0, u64::MAX).collect::<Vec<_>>(),
            [(far, 3.0)],
            "out of reach is forgotten"
        );
        recent.push(far + 7, 4.0);
        assert_eq!(recent.last(), Some((far + 7, 4.0)));
    }

    #[test]
    fn steps_have_mean_least_and_greatest() {
        let mut points = Points::new(Some(Duration::from_secs(1)));
        for (t, v) in [(1_000, 1.0), (1_500, 3.0), (2_100, 8.0)] {
            points.add(t, v);
        }
        let series = points.finish().unwrap();
        assert_eq!(series["points"], json!([[1_000, 2.0, 1.0, 3.0], [2_000, 8.0, 8.0, 8.0]]));
        assert_eq!(
            (&series["min"], &series["avg"], &series["max"], &series["last"]),
            (&json!(1.0), &json!(4.0), &json!(8.0), &json!(8.0))
        );
        assert!(Points::new(None).finish().is_none());
    }

    proptest! {
        /// Whatever the samples: spans of a step hold all of them, in order.
        #[test]
        fn no_sample_is_lost_in_a_step(pauses in prop::collection::vec((0u64..5_000, -1e6f64..1e6), 1..200), step in 1u64..9_000) {
            let (mut stepped, mut raw, mut t) = (Points::new(Some(Duration::from_millis(step))), Points::new(None), 0);
            for (pause, value) in pauses {
                t += pause;
                stepped.add(t, value);
                raw.add(t, value);
            }
            let (stepped, raw) = (stepped.finish().unwrap(), raw.finish().unwrap());
            prop_assert_eq!(&stepped["count"], &raw["count"]);
            let rows = stepped["points"].as_array().unwrap();
            prop_assert!(rows.windows(2).all(|w| w[0][0].as_u64() < w[1][0].as_u64()));
            prop_assert!(rows.iter().all(|p| p[2].as_f64() <= p[3].as_f64()));
            let greatest = rows.iter().filter_map(|p| p[3].as_f64()).fold(f64::MIN, f64::max);
            prop_assert_eq!(Some(greatest), raw["max"].as_f64());
        }
    }
}
