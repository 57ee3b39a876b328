//! Subscriptions: events that the caller's own threads take, or that are handed to callbacks.

use std::{
    ffi::{c_char, c_void},
    sync::Arc,
    time::Duration,
};

use hms_core::{
    Error, ErrorKind,
    event::{DEFAULT_CAPACITY, Event, Overflow, Subscribe},
};
use hms_runtime::{EventStream, runtime::Runtime};
use serde_json::Value;
use tokio::sync::{Mutex, watch};

use crate::{
    event::{EventBatch, hms_event_t},
    gate::{Gate, Role, UserData},
    guard::guard,
    handle::{Doomed, TABLE},
    hms_drop_cb_t,
    input::{self, Versioned},
    output::{Out, put_if_wanted},
    status::hms_status_t,
    system::{Phase, SystemObject, hms_system_t},
    wait::block_on_for,
};

/// A subscription to events.
pub struct hms_subscription_t {
    _opaque: [u8; 0],
}

/// As a timeout: wait as long as it takes.
pub const HMS_WAIT_FOREVER: i64 = -1;

/// What happens to events that do not fit a subscription's queue: one of HMS_QUEUE_...
pub type hms_queue_policy_t = i32;

/// The oldest event that waits makes room, and is counted as lost.
pub const HMS_QUEUE_DROP_OLDEST: hms_queue_policy_t = 0;
/// The new event is lost, and counted. Private systems only.
pub const HMS_QUEUE_DROP_NEWEST: hms_queue_policy_t = 1;
/// Who publishes with hms_event_publish (or _bytes, _batch), and not from a callback, waits for room, at most
/// block_ms; then the event is lost, and counted. Private systems only, and not with after_sequence.
pub const HMS_QUEUE_BLOCK: hms_queue_policy_t = 2;

/// Receives events, oldest first: count pointers, which last until it returns. lost more did not fit the queue
/// before the first of them; count may be 0 when there is only that to tell.
///
/// It runs on a thread of the subscription's own, never twice at a time. It may call what does not wait for the
/// system (publish in a private one, destroy, and so on); other calls give HMS_ERR_WOULD_DEADLOCK. It must not
/// throw or longjmp out.
pub type hms_event_batch_cb_t = Option<
    unsafe extern "C" fn(events: *const *const hms_event_t, count: usize, lost: u64, user_data: *mut c_void),
>;

/// Receives one event, as hms_event_batch_cb_t receives several; lost is about those just before it.
pub type hms_event_cb_t =
    Option<unsafe extern "C" fn(event: *const hms_event_t, lost: u64, user_data: *mut c_void)>;

/// The largest number of events that one call or callback is given, whatever it asks for.
const MAX_BATCH: usize = 4096;

/// What hms_subscription_create is told. Initialise it with HMS_SUBSCRIPTION_OPTIONS_INIT.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct hms_subscription_options_t {
    /// sizeof(hms_subscription_options_t); HMS_SUBSCRIPTION_OPTIONS_INIT sets it.
    pub struct_size: usize,
    /// Which types of events: "agent.exited", "agent.*.updated" (one token), "agent.>" (all beneath).
    /// An event that one of them matches is received once. None: all events.
    pub patterns: *const *const c_char,
    /// How many patterns there are.
    pub pattern_count: usize,
    /// A condition in CEL, such as "data.agent == 'web'"; NULL: none.
    pub filter: *const c_char,
    /// How many events wait at most; queue_policy says what happens beyond that. 0: 1024.
    pub capacity: usize,
    /// First replay the journal from after this sequence number (0: from its beginning); negative
    /// (initial): only what happens from now on.
    pub after_sequence: i64,
    /// HMS_QUEUE_DROP_OLDEST (initial), HMS_QUEUE_DROP_NEWEST or HMS_QUEUE_BLOCK.
    pub queue_policy: hms_queue_policy_t,
    /// Of HMS_QUEUE_BLOCK: how long publishers wait, in milliseconds.
    pub block_ms: u32,
    /// Receives the events, in batches: the fastest way. NULL: see on_event.
    pub on_events: hms_event_batch_cb_t,
    /// Receives the events, one by one. NULL, like on_events: hms_subscription_next takes them.
    pub on_event: hms_event_cb_t,
    /// What the callback is given.
    pub user_data: *mut c_void,
    /// Called with user_data when no callback runs any more and none will; NULL: nothing is.
    pub drop: hms_drop_cb_t,
}

// SAFETY: integers, raw pointers and optional function pointers, of which the caller gives valid ones;
// `struct_size` is first.
unsafe impl Versioned for hms_subscription_options_t {
    const INIT: &'static str = "HMS_SUBSCRIPTION_OPTIONS_INIT";
    const FIRST_SIZE: usize = 48;

    fn init() -> Self {
        Self {
            struct_size: size_of::<Self>(),
            patterns: std::ptr::null(),
            pattern_count: 0,
            filter: std::ptr::null(),
            capacity: 0,
            after_sequence: -1,
            queue_policy: HMS_QUEUE_DROP_OLDEST,
            block_ms: 0,
            on_events: None,
            on_event: None,
            user_data: std::ptr::null_mut(),
            drop: None,
        }
    }
}

/// What a subscription's handle refers to.
pub(crate) struct SubscriptionObject {
    /// Turned on by destroy, for who waits for events.
    destroyed: watch::Sender<bool>,
    reader: Reader,
    runtime: Arc<Runtime>,
}

/// Who reads the events.
enum Reader {
    /// The caller's threads, one at a time, so that each gets events in order.
    Caller(Box<Pull>),
    /// A thread of ours, which hands them to a callback.
    Callback(Arc<Gate>),
}

struct Pull {
    /// `None` once it has ended.
    stream: Mutex<Option<EventStream>>,
    /// Of the system: a remote one's events go on when this process has closed it.
    system: watch::Receiver<Phase>,
}

#[derive(Clone, Copy)]
enum Callback {
    Batch(unsafe extern "C" fn(*const *const hms_event_t, usize, u64, *mut c_void)),
    Single(unsafe extern "C" fn(*const hms_event_t, u64, *mut c_void)),
}

impl Callback {
    fn of(options: &hms_subscription_options_t) -> Result<Option<Self>, Error> {
        match (options.on_events, options.on_event) {
            (None, None) => Ok(None),
            (Some(batch), None) => Ok(Some(Self::Batch(batch))),
            (None, Some(single)) => Ok(Some(Self::Single(single))),
            (Some(_), Some(_)) => Err(Error::argument("on_event", "given beside on_events")
                .hint("events go to one of them; make a second subscription for the other")),
        }
    }
}

/// The next events and how many were lost before them; `None` at the end.
async fn next(
    stream: &mut EventStream,
    max: usize,
    mut destroyed: watch::Receiver<bool>,
    mut system: watch::Receiver<Phase>,
) -> Option<(Vec<Arc<Event>>, u64)> {
    // In this order: what was there before the system closed is still given.
    tokio::select! {
        biased;
        _ = destroyed.wait_for(|gone| *gone) => None,
        batch = stream.next_batch(max) => batch,
        _ = system.wait_for(|phase| *phase == Phase::Closed) => None,
    }
}

impl SubscriptionObject {
    /// The next events and how many were lost before them; an error at the end.
    async fn next(&self, pull: &Pull, max: usize) -> Result<(Vec<Value>, u64), Error> {
        let mut stream = tokio::select! {
            stream = pull.stream.lock() => stream,
            // Whoever holds it reads until then.
            () = async { let _ = self.destroyed.subscribe().wait_for(|gone| *gone).await; } => pull.stream.lock().await,
        };
        let batch = match stream.as_mut() {
            Some(stream) => next(stream, max, self.destroyed.subscribe(), pull.system.clone()).await,
            None => None,
        };
        let Some((events, lost)) = batch else {
            // Lets go of the system, which otherwise lived as long as this handle.
            *stream = None;
            let ended = "the subscription has ended: it was destroyed, or its system closed";
            return Err(Error::new(ErrorKind::Cancelled, ended));
        };
        Ok((events.iter().map(|event| event.to_json()).collect(), lost))
    }
}

/// What the thread of a subscription with a callback needs.
struct Dispatcher {
    stream: EventStream,
    callback: Callback,
    gate: Arc<Gate>,
    destroyed: watch::Receiver<bool>,
    system: watch::Receiver<Phase>,
    runtime: Arc<Runtime>,
}

impl Dispatcher {
    fn run(mut self) {
        // Of single events: what was lost before the next one.
        let mut missing = 0;
        loop {
            let (destroyed, system) = (self.destroyed.clone(), self.system.clone());
            let batch = self.runtime.block_on(next(&mut self.stream, MAX_BATCH, destroyed, system));
            let Some((events, lost)) = batch else { break };
            missing += lost;
            self.hand_over(&events, &mut missing);
        }
        // The system is let go of before the program is.
        drop(self.stream);
        self.gate.close();
    }

    fn hand_over(&self, events: &[Arc<Event>], missing: &mut u64) {
        let batch = EventBatch::new(events);
        match self.callback {
            Callback::Batch(callback) => {
                let Some(entered) = self.gate.enter(Role::Told) else { return };
                let pointers = batch.pointers();
                let lost = std::mem::take(missing);
                // SAFETY: the caller promised a function that takes these, which last until it returns.
                unsafe { callback(pointers.as_ptr(), pointers.len(), lost, entered.user_data()) }
            }
            Callback::Single(callback) => {
                for event in batch.pointers() {
                    // Each time: the last one may have destroyed the subscription.
                    let Some(entered) = self.gate.enter(Role::Told) else { return };
                    // SAFETY: as above.
                    unsafe { callback(*event, std::mem::take(missing), entered.user_data()) }
                }
            }
        }
    }
}

/// Subscribes to events. They wait in a bounded queue until a callback receives them, or, without one, until
/// hms_subscription_next takes them.
///
/// Ownership: options, and what they point to, are borrowed for the call; NULL means
/// HMS_SUBSCRIPTION_OPTIONS_INIT. Of user_data the subscription keeps the pointer until it calls drop with it,
/// once: when the subscription has ended, by hms_subscription_destroy or with its system, and also when this
/// call fails (unless struct_size is wrong or the process is a fork's child). *out is set to NULL first, and on
/// success to a handle that hms_subscription_destroy gives back. It may outlive its system.
///
/// Threads: any. Callbacks, drop included, run on a thread of the library.
///
/// Errors: HMS_ERR_INVALID_HANDLE; HMS_ERR_INVALID_ARGUMENT for a bad pattern, filter, capacity or policy;
/// HMS_ERR_NOT_SUPPORTED for a policy that a shared system does not have.
///
/// Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hms_subscription_create(
    system: *const hms_system_t,
    options: *const hms_subscription_options_t,
    out: *mut *mut hms_subscription_t,
) -> hms_status_t {
    guard("hms_subscription_create", || {
        // SAFETY: the caller's, as documented, here and below.
        let options: hms_subscription_options_t = unsafe { input::versioned("options", options) }?;
        let user = UserData::new(options.user_data, options.drop);
        let out = unsafe { Out::new("out", out) }?;
        let object = TABLE.get::<SystemObject>(system)?;
        let request = unsafe { request_of(&options) }?;
        let callback = Callback::of(&options)?;
        let stream = object.wait_for(object.system.subscribe_with(request))?;
        let (runtime, system) = (object.runtime.clone(), object.phase());
        let destroyed = watch::Sender::new(false);
        let reader = match callback {
            None => Reader::Caller(Box::new(Pull { stream: Mutex::new(Some(stream)), system })),
            Some(callback) => {
                let gate = Gate::new(user);
                let destroyed = destroyed.subscribe();
                let dispatcher = Dispatcher {
                    stream,
                    callback,
                    gate: gate.clone(),
                    destroyed,
                    system,
                    runtime: runtime.clone(),
                };
                std::thread::Builder::new()
                    .name("hms-events".into())
                    .spawn(move || dispatcher.run())
                    .map_err(|e| Error::io("starting a thread", &e))?;
                Reader::Callback(gate)
            }
        };
        out.put(TABLE.insert(Arc::new(SubscriptionObject { destroyed, reader, runtime }))?);
        Ok(())
    })
}

/// # Safety
/// What `options` point to is as its documentation says.
unsafe fn request_of(options: &hms_subscription_options_t) -> Result<Subscribe, Error> {
    // SAFETY: passed on.
    let (mut patterns, filter) = unsafe {
        (
            input::texts("patterns", options.patterns, options.pattern_count)?,
            input::optional_text("filter", options.filter)?.map(str::to_owned),
        )
    };
    if patterns.is_empty() {
        patterns.push(">".into());
    }
    let capacity = if options.capacity == 0 { DEFAULT_CAPACITY } else { options.capacity };
    let overflow = match options.queue_policy {
        HMS_QUEUE_DROP_OLDEST => Overflow::DropOldest,
        HMS_QUEUE_DROP_NEWEST => Overflow::DropNewest,
        HMS_QUEUE_BLOCK => Overflow::Block { deadline: Duration::from_millis(options.block_ms.into()) },
        other => return Err(Error::argument("queue_policy", format!("{other} is none of HMS_QUEUE_..."))),
    };
    let after_sequence = u64::try_from(options.after_sequence).ok();
    Ok(Subscribe { patterns, filter, capacity, overflow, after_sequence })
}

/// Takes the next events, waiting for the first of them.
///
/// Ownership: *events_json is set to NULL first, and on success to the text of a JSON array of
/// CloudEvents, oldest first, which hms_string_free frees. *lost, unless lost is NULL, is set on success to
/// the number of events that did not fit the queue before these.
///
/// Threads: any; of several at once on one subscription each event goes to one. max is the largest number
/// of events wanted (0, or beyond 4096: 4096). timeout_ms is how long to wait: 0 not at all,
/// HMS_WAIT_FOREVER as long as it takes.
///
/// Errors: HMS_ERR_TIMEOUT when none came; HMS_ERR_CANCELLED at the end: the subscription was destroyed
/// meanwhile, or its system closed and all was taken; HMS_ERR_INVALID_STATE when its events go to a callback;
/// HMS_ERR_INVALID_HANDLE; HMS_ERR_INVALID_ARGUMENT; HMS_ERR_WOULD_DEADLOCK in a callback.
///
/// Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hms_subscription_next(
    subscription: *const hms_subscription_t,
    max: usize,
    timeout_ms: i64,
    events_json: *mut *mut c_char,
    lost: *mut u64,
) -> hms_status_t {
    guard("hms_subscription_next", || {
        // SAFETY: the caller's, as documented, here and below.
        let out = unsafe { Out::new("events_json", events_json) }?;
        let object = TABLE.get::<SubscriptionObject>(subscription)?;
        let Reader::Caller(pull) = &object.reader else {
            let taken = "the events of this subscription go to its callback";
            return Err(Error::new(ErrorKind::InvalidState, taken).into());
        };
        let max = if max == 0 { MAX_BATCH } else { max.min(MAX_BATCH) };
        let next = block_on_for(&object.runtime, timeout_ms, "no event", object.next(pull, max))?;
        let (events, missing) = next?;
        out.put_text(Value::Array(events).to_string())?;
        unsafe { put_if_wanted(lost, missing) };
        Ok(())
    })
}

/// Ends a subscription. Threads that wait in hms_subscription_next return HMS_ERR_CANCELLED. When this returns, a
/// callback is not running and never will again, and drop has run.
///
/// Called from within that very callback (or from one that it would have to wait for) it returns at once: no
/// further callback comes, and drop runs when this one has returned.
///
/// Ownership: *subscription is given back and set to NULL. NULL, or a pointer to NULL, is HMS_OK. With
/// HMS_ERR_INVALID_HANDLE nothing is changed.
///
/// Threads: any; waits for a callback that runs.
///
/// Errors: HMS_ERR_INVALID_HANDLE.
///
/// Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hms_subscription_destroy(
    subscription: *mut *mut hms_subscription_t,
) -> hms_status_t {
    guard("hms_subscription_destroy", || {
        // SAFETY: the caller's, as documented.
        let Some(doomed) = (unsafe { Doomed::<SubscriptionObject>::new(subscription) }) else {
            return Ok(());
        };
        let object = doomed.take()?;
        object.destroyed.send_replace(true);
        if let Reader::Callback(gate) = &object.reader {
            gate.close();
            gate.wait();
        }
        Ok(())
    })
}
