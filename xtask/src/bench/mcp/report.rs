//! What came of it, as a table and as JSON.

use std::{fmt::Write, time::Duration};

use serde_json::{Value, json};

use super::{Options, tree::Memory};
use crate::bench::Sample;

/// What issue 3 wants of the wrapper.
const GOAL: (f64, f64, f64) = (50.0, 10.0, 6.0);

/// One contender's figures.
pub(super) struct Measured {
    pub(super) name: String,
    pub(super) starts: Vec<Duration>,
    /// The calls, turn by turn.
    pub(super) turns: Vec<Vec<Duration>>,
    pub(super) memory_at_rest: Memory,
    pub(super) memory_after: Memory,
}

impl Measured {
    pub(super) fn new(name: String) -> Self {
        Self {
            name,
            starts: Vec::new(),
            turns: Vec::new(),
            memory_at_rest: Memory::default(),
            memory_after: Memory::default(),
        }
    }

    fn call(&self, part: f64) -> f64 {
        micros(Sample::new(self.turns.concat()).quantile(part))
    }

    fn start(&self, part: f64) -> f64 {
        micros(Sample::new(self.starts.clone()).quantile(part)) / 1e3
    }

    /// What a call costs on top of another's, in µs: the median over the turns of what their medians differ by.
    /// Neighbours in time meet the same noise, which drops out.
    fn added(&self, floor: &Self) -> f64 {
        let median = |turn: &Vec<Duration>| micros(Sample::new(turn.clone()).quantile(0.5));
        median_of(self.turns.iter().zip(&floor.turns).map(|(ours, bare)| median(ours) - median(bare)))
    }

    /// The same of a start, in ms.
    fn added_start(&self, floor: &Self) -> f64 {
        let pairs = self.starts.iter().zip(&floor.starts);
        median_of(pairs.map(|(ours, bare)| (micros(*ours) - micros(*bare)) / 1e3))
    }
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

fn median_of(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

fn mib(kib: u64) -> f64 {
    kib as f64 / 1024.0
}

pub(super) fn table(all: &[Measured], options: &Options) -> String {
    let mut text = String::new();
    let mut line = |words: std::fmt::Arguments<'_>| {
        let _ = writeln!(text, "{words}");
    };
    let Some((bare, rest)) = all.split_first() else { return text };
    line(format_args!(
        "{} calls and {} starts of each, in turns; {}\n",
        options.calls,
        options.starts,
        load()
    ));
    line(format_args!(
        "{:<22} {:>8} {:>8} {:>9} {:>7}  {:>8} {:>9}  {:>8} {:>8} {:>8} {:>9}",
        "",
        "call p50",
        "p99",
        "added p50",
        "x wrap",
        "start",
        "added",
        "resident",
        "private",
        "Pss",
        "loaded"
    ));
    line(format_args!(
        "{:<22} {:>5.0} µs {:>5.0} µs {:>9} {:>7}  {:>5.1} ms",
        bare.name,
        bare.call(0.5),
        bare.call(0.99),
        "",
        "",
        bare.start(0.5)
    ));
    let ours = rest.first().map_or(1.0, |wrap| wrap.added(bare));
    for one in rest {
        let (rest, loaded) = (&one.memory_at_rest, &one.memory_after);
        line(format_args!(
            "{:<22} {:>5.0} µs {:>5.0} µs {:>6.0} µs {:>6.1}x  {:>5.1} ms {:>6.1} ms  {:>4.1} MiB {:>4.1} MiB {:>4.1} MiB {:>5.1} MiB",
            one.name,
            one.call(0.5),
            one.call(0.99),
            one.added(bare),
            one.added(bare) / ours,
            one.start(0.5),
            one.added_start(bare),
            mib(rest.resident),
            mib(rest.private),
            mib(rest.proportional),
            mib(loaded.resident),
        ));
    }
    line(format_args!(
        "{:<22} {:>8} {:>8} {:>6.0} µs {:>7}  {:>8} {:>6.0} ms  {:>4.0} MiB",
        "goal of wrap", "", "", GOAL.0, "", "", GOAL.1, GOAL.2
    ));
    line(format_args!(
        "\nMemory is of every process but the server: after the start, and (resident) after the calls."
    ));
    text
}

pub(super) fn json(all: &[Measured], options: &Options) -> Value {
    let Some(bare) = all.first() else { return Value::Null };
    let each = all.iter().map(|one| {
        json!({
            "name": one.name,
            "callMicros": {"p50": one.call(0.5), "p90": one.call(0.9), "p99": one.call(0.99)},
            "addedCallMicros": one.added(bare),
            "startMillis": {"p50": one.start(0.5), "p90": one.start(0.9)},
            "addedStartMillis": one.added_start(bare),
            "memoryAtRest": one.memory_at_rest.json(),
            "memoryAfterCalls": one.memory_after.json(),
        })
    });
    json!({
        "calls": options.calls,
        "starts": options.starts,
        "bytes": options.bytes,
        "machine": load(),
        "goal": {"addedCallMicros": GOAL.0, "addedStartMillis": GOAL.1, "residentMib": GOAL.2},
        "contenders": each.collect::<Vec<_>>(),
    })
}

/// How busy the machine is: the figures are worth less when it is.
fn load() -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    format!("{cores} cores, load {}", load.split(' ').next().unwrap_or("unknown"))
}
