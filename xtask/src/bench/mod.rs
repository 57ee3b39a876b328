//! Benchmarks: always a ratio to a floor measured in the same run, because these figures are read on shared
//! and noisy machines.

mod mcp;
mod respawn;

use std::time::Duration;

use crate::Outcome;

/// `cargo xtask bench <what>`.
pub(crate) fn run(args: &[String]) -> Outcome {
    match args.split_first() {
        Some((what, rest)) if what == "respawn" => respawn::run(rest),
        Some((what, rest)) if what == "mcp" => mcp::run(rest),
        _ => Err("which benchmark? respawn, mcp".into()),
    }
}

/// A sorted sample of durations.
pub(crate) struct Sample(Vec<Duration>);

impl Sample {
    pub(crate) fn new(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        Self(times)
    }

    /// The value below which this part (0–1) of the sample lies.
    pub(crate) fn quantile(&self, part: f64) -> Duration {
        let last = self.0.len().saturating_sub(1);
        self.0.get((last as f64 * part).round() as usize).copied().unwrap_or_default()
    }
}
