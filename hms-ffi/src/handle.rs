//! Handles that are checked: the value of a handle is slot, generation and kind, never an address, so
//! that a stale, forged, twice destroyed or mistaken one is found out and not followed.
//!
//! ```text
//! 63          32 31         8 7      1 0
//! | generation  |    slot    |  kind  |1|     odd: no pointer to anything is
//! ```
//! A slot's generation moves on each time its object goes; a slot whose generations are used up is left.
//! Each slot has a lock of its own on a cache line of its own, so that calls on different handles do not
//! meet; slots stand in segments that double and never move.

use std::{
    any::Any,
    marker::PhantomData,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};

use hms_core::{Error, ErrorKind};

use crate::{
    agent, agent_type, guard::Failure, operation, registration, reply, service, subscription, system,
};

const KIND_BITS: u32 = 7;
const SLOT_BITS: u32 = 24;
const FIRST_SEGMENT: u32 = 16;
const SEGMENTS: usize = 20;
const _: () = assert!((FIRST_SEGMENT as u64) << (SEGMENTS as u32 - 1) <= 1 << (SLOT_BITS - 1));

/// What a handle refers to, and the C type that stands for it.
pub(crate) trait Object: Any + Send + Sync {
    /// The opaque type that C sees.
    type C;
    /// A number of its own among all kinds, at most 127, and never 0.
    const KIND: u8;
    /// Its word, for messages.
    const NOUN: &'static str;
}

// The kinds, side by side so that no two are equal.
impl Object for system::SystemObject {
    type C = system::hms_system_t;
    const KIND: u8 = 1;
    const NOUN: &'static str = "system";
}

impl Object for subscription::SubscriptionObject {
    type C = subscription::hms_subscription_t;
    const KIND: u8 = 2;
    const NOUN: &'static str = "subscription";
}

impl Object for operation::OperationObject {
    type C = operation::hms_operation_t;
    const KIND: u8 = 3;
    const NOUN: &'static str = "operation";
}

impl Object for agent::AgentObject {
    type C = agent::hms_agent_t;
    const KIND: u8 = 4;
    const NOUN: &'static str = "agent";
}

impl Object for service::ServiceObject {
    type C = service::hms_service_t;
    const KIND: u8 = 5;
    const NOUN: &'static str = "service";
}

impl Object for registration::RegistrationObject {
    type C = registration::hms_registration_t;
    const KIND: u8 = 6;
    const NOUN: &'static str = "registration";
}

impl Object for reply::ReplyObject {
    type C = reply::hms_reply_t;
    const KIND: u8 = 7;
    const NOUN: &'static str = "reply that waits for its answer";
}

impl Object for agent_type::LifeObject {
    type C = agent_type::hms_life_t;
    const KIND: u8 = 8;
    const NOUN: &'static str = "life that goes on";
}

type Stored = Arc<dyn Any + Send + Sync>;

#[repr(align(64))]
#[derive(Default)]
struct Slot(Mutex<State>);

#[derive(Default)]
struct State {
    /// Of the object that is here, or of the last one; 0 before the first.
    generation: u32,
    kind: u8,
    object: Option<Stored>,
}

#[derive(Default)]
struct Free {
    /// Slots that were used and are free again.
    again: Vec<u32>,
    /// The first slot that was never used.
    next: u32,
}

/// The handles of the process.
pub(crate) struct Table {
    segments: [OnceLock<Box<[Slot]>>; SEGMENTS],
    free: Mutex<Free>,
}

/// The one table of this process.
pub(crate) static TABLE: Table = Table::new();

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Table {
    const fn new() -> Self {
        Self {
            segments: [const { OnceLock::new() }; SEGMENTS],
            free: Mutex::new(Free { again: Vec::new(), next: 0 }),
        }
    }

    /// Puts an object in and returns its handle.
    pub(crate) fn insert<T: Object>(&self, object: Arc<T>) -> Result<*mut T::C, Error> {
        let at = {
            let mut free = lock(&self.free);
            match free.again.pop() {
                Some(at) => at,
                None => {
                    let at = free.next;
                    if segment_of(at).0 >= SEGMENTS {
                        return Err(Error::new(ErrorKind::QueueFull, "no handle is left")
                            .hint("destroy those that are not needed any more"));
                    }
                    free.next += 1;
                    at
                }
            }
        };
        let (segment, index) = segment_of(at);
        let slots = self.segments[segment]
            .get_or_init(|| (0..(FIRST_SEGMENT as usize) << segment).map(|_| Slot::default()).collect());
        let mut state = lock(&slots[index].0);
        state.generation += 1;
        state.kind = T::KIND;
        state.object = Some(object);
        Ok(Value { generation: state.generation, slot: at, kind: T::KIND }.encode() as *mut T::C)
    }

    /// The object of a handle, which lives at least as long as what is returned.
    pub(crate) fn get<T: Object>(&self, handle: *const T::C) -> Result<Arc<T>, Failure> {
        let value = Value::decode::<T>(handle as usize)?;
        let state = self.state(value).ok_or_else(|| unknown::<T>())?;
        let object = state.object.clone().ok_or_else(|| stale::<T>())?;
        drop(state);
        object.downcast().map_err(|_| unknown::<T>())
    }

    /// Takes the object out; the handle is stale from here on.
    pub(crate) fn take<T: Object>(&self, handle: *const T::C) -> Result<Arc<T>, Failure> {
        let value = Value::decode::<T>(handle as usize)?;
        let mut state = self.state(value).ok_or_else(|| unknown::<T>())?;
        let object = state.object.take().ok_or_else(|| stale::<T>())?;
        let used_up = state.generation == u32::MAX;
        drop(state);
        if !used_up {
            lock(&self.free).again.push(value.slot);
        }
        object.downcast().map_err(|_| unknown::<T>())
    }

    /// Every object of a kind that is in the table now.
    pub(crate) fn all<T: Object>(&self) -> Vec<Arc<T>> {
        let slots = self.segments.iter().filter_map(OnceLock::get).flatten();
        let objects = slots.filter_map(|slot| {
            let state = lock(&slot.0);
            state.object.clone().filter(|_| state.kind == T::KIND)
        });
        objects.filter_map(|object| object.downcast().ok()).collect()
    }

    /// The state of the slot, locked, if `value` is what it last gave out.
    fn state(&self, value: Value) -> Option<MutexGuard<'_, State>> {
        let (segment, index) = segment_of(value.slot);
        let slot = self.segments.get(segment)?.get()?.get(index)?;
        let state = lock(&slot.0);
        (state.generation == value.generation && state.kind == value.kind).then_some(state)
    }
}

/// The segment of a slot, and its place in it: segment `n` has `FIRST_SEGMENT << n` slots.
fn segment_of(slot: u32) -> (usize, usize) {
    let segment = (slot / FIRST_SEGMENT + 1).ilog2();
    let before = FIRST_SEGMENT * ((1 << segment) - 1);
    (segment as usize, (slot - before) as usize)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Value {
    generation: u32,
    slot: u32,
    kind: u8,
}

impl Value {
    fn encode(self) -> usize {
        let low = self.slot << (KIND_BITS + 1) | u32::from(self.kind) << 1 | 1;
        (u64::from(self.generation) << 32 | u64::from(low)) as usize
    }

    fn decode<T: Object>(handle: usize) -> Result<Self, Failure> {
        if handle == 0 {
            return Err(Failure::Handle(format!("NULL, but a {} is needed", T::NOUN)));
        }
        let low = handle as u32;
        let value = Self {
            generation: (handle as u64 >> 32) as u32,
            slot: low >> (KIND_BITS + 1),
            kind: (low >> 1) as u8 & 0x7f,
        };
        if low & 1 == 0 || value.generation == 0 || value.kind != T::KIND {
            return Err(unknown::<T>());
        }
        Ok(value)
    }
}

fn unknown<T: Object>() -> Failure {
    Failure::Handle(format!("not a {} of this process, or one that was destroyed", T::NOUN))
}

fn stale<T: Object>() -> Failure {
    Failure::Handle(format!("this {} was destroyed", T::NOUN))
}

/// A handle in a place of the caller's that is to be destroyed, `T **` in C.
pub(crate) struct Doomed<T: Object>(*mut *mut T::C, PhantomData<T>);

impl<T: Object> Doomed<T> {
    /// The place, or `None` when there is nothing to destroy: `place` or what it holds is NULL.
    ///
    /// # Safety
    /// `place` is NULL or may be read and written until the call returns.
    pub(crate) unsafe fn new(place: *mut *mut T::C) -> Option<Self> {
        // SAFETY: read only when it is not NULL, by the contract.
        let empty = place.is_null() || unsafe { place.read() }.is_null();
        (!empty).then_some(Self(place, PhantomData))
    }

    /// The handle.
    pub(crate) fn handle(&self) -> *const T::C {
        // SAFETY: `new` was promised that the place may be read until the call returns.
        unsafe { self.0.read() }
    }

    /// Takes the object out of the table and sets the caller's pointer to NULL.
    pub(crate) fn take(self) -> Result<Arc<T>, Failure> {
        let object = TABLE.take(self.handle())?;
        // SAFETY: `new` was promised that the place may be written until the call returns.
        unsafe { self.0.write(std::ptr::null_mut()) };
        Ok(object)
    }
}

#[cfg(test)]
mod tests;
