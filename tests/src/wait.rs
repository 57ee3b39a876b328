//! Waiting for conditions.

use std::{
    thread,
    time::{Duration, Instant},
};

/// How long anything may take that has no deadline of its own.
pub const PATIENCE: Duration = Duration::from_secs(30);

const PAUSE: Duration = Duration::from_millis(10);

/// Looks until `look` finds something. Panics, naming `what`, after `within`.
#[track_caller]
pub fn until<T>(what: &str, within: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begun.elapsed() < within, "{what}: not within {within:?}");
        thread::sleep(PAUSE);
    }
}

/// Looks for as long as `lasts`; panics, naming `what`, as soon as `holds` is false.
#[track_caller]
pub fn while_it_holds(what: &str, lasts: Duration, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while begun.elapsed() < lasts {
        assert!(holds(), "{what}: no more after {:?}", begun.elapsed());
        thread::sleep(PAUSE);
    }
}
