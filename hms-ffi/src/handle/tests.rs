//! What the handle table owes its callers: checked kinds, generations, and no reuse.

use std::{
    collections::HashSet,
    sync::atomic::{AtomicUsize, Ordering},
};

use super::*;

struct Left(u32);
struct Right;
enum LeftC {}
enum RightC {}

impl Object for Left {
    type C = LeftC;
    const KIND: u8 = 100;
    const NOUN: &'static str = "left";
}

impl Object for Right {
    type C = RightC;
    const KIND: u8 = 127;
    const NOUN: &'static str = "right";
}

fn is_refused<T>(result: Result<T, Failure>) -> bool {
    matches!(result, Err(Failure::Handle(_)))
}

#[test]
fn a_handle_finds_its_object_until_it_is_taken() {
    let table = Table::new();
    let handle = table.insert(Arc::new(Left(7))).unwrap();
    assert_eq!(table.get::<Left>(handle).ok().map(|left| left.0), Some(7));
    assert_eq!(table.all::<Left>().len(), 1);
    assert_eq!(table.take::<Left>(handle).ok().map(|left| left.0), Some(7));
    assert!(is_refused(table.get::<Left>(handle)) && is_refused(table.take::<Left>(handle)));
    assert!(table.all::<Left>().is_empty());
}

#[test]
fn a_stale_handle_does_not_reach_the_next_object_of_its_slot() {
    let table = Table::new();
    let old = table.insert(Arc::new(Left(1))).unwrap();
    assert!(table.take::<Left>(old).is_ok());
    let new = table.insert(Arc::new(Left(2))).unwrap();
    assert_eq!(old as u32, new as u32, "the slot is used again");
    assert_ne!(old, new);
    assert!(is_refused(table.get::<Left>(old)) && is_refused(table.take::<Left>(old)));
    assert_eq!(table.get::<Left>(new).ok().map(|left| left.0), Some(2));
}

#[test]
fn forged_and_mistaken_handles_are_refused() {
    let table = Table::new();
    let good = table.insert(Arc::new(Left(1))).unwrap() as usize;
    assert!(is_refused(table.get::<Right>(good as *const RightC)));
    for bit in 0..64 {
        assert!(is_refused(table.get::<Left>((good ^ 1 << bit) as *const LeftC)), "bit {bit}");
    }
    let stack = 0u64;
    for forged in [0, 1, usize::MAX, usize::MAX - 1, (&raw const stack) as usize] {
        assert!(is_refused(table.get::<Left>(forged as *const LeftC)), "{forged:#x}");
    }
}

#[test]
fn slots_stand_in_segments_that_double() {
    assert_eq!(segment_of(0), (0, 0));
    assert_eq!(segment_of(15), (0, 15));
    assert_eq!(segment_of(16), (1, 0));
    assert_eq!(segment_of(47), (1, 31));
    assert_eq!(segment_of(48), (2, 0));
    let table = Table::new();
    let handles: Vec<_> = (0..1000).map(|n| table.insert(Arc::new(Left(n))).unwrap()).collect();
    assert_eq!(handles.iter().collect::<HashSet<_>>().len(), 1000);
    for (n, handle) in handles.iter().enumerate() {
        assert_eq!(table.get::<Left>(*handle).ok().map(|left| left.0), Some(n as u32));
    }
}

#[test]
fn a_slot_whose_generations_are_used_up_is_left() {
    let table = Table::new();
    let first = table.insert(Arc::new(Left(0))).unwrap();
    assert!(table.take::<Left>(first).is_ok());
    lock(&table.segments[0].get().unwrap()[0].0).generation = u32::MAX - 1;
    let last = table.insert(Arc::new(Left(1))).unwrap();
    assert_eq!(last as usize >> 32, u32::MAX as usize);
    assert!(table.take::<Left>(last).is_ok());
    let next = table.insert(Arc::new(Left(2))).unwrap();
    assert_ne!(next as u32, last as u32, "another slot");
}

#[test]
fn of_many_threads_that_take_one_handle_one_gets_it() {
    let table = Table::new();
    for round in 0..200 {
        let handle = table.insert(Arc::new(Left(round))).unwrap() as usize;
        let got = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let _ = table.get::<Left>(handle as *const LeftC);
                    if table.take::<Left>(handle as *const LeftC).is_ok() {
                        got.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
        });
        assert_eq!(got.into_inner(), 1);
    }
}
