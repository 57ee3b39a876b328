//! Events: publishing, and subscriptions that are read by the caller's own threads.

use std::{ffi::c_char, sync::Arc};

use hms_core::{Error, ErrorKind, event::DEFAULT_CAPACITY};
use hms_runtime::{EventStream, runtime::Runtime};
use serde_json::Value;
use tokio::sync::{Mutex, watch};

use crate::{
    guard::guard,
    handle::{Doomed, TABLE},
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

/// The largest number of events that one call returns, whatever it asks for.
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
    /// How many events wait at most; beyond that the oldest are lost, and counted. 0: 1024.
    pub capacity: usize,
    /// First replay the journal from after this sequence number (0: from its beginning); negative
    /// (initial): only what happens from now on.
    pub after_sequence: i64,
}

// SAFETY: integers and raw pointers, of which any bytes are valid; `struct_size` is first.
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
        }
    }
}

/// What a subscription's handle refers to.
pub(crate) struct SubscriptionObject {
    /// One reader at a time, so that each gets events in order. `None` once it has ended.
    stream: Mutex<Option<EventStream>>,
    /// Turned on by destroy, for readers that wait.
    destroyed: watch::Sender<bool>,
    /// Of the system: a remote one's events go on when this process has closed it.
    system: watch::Receiver<Phase>,
    runtime: Arc<Runtime>,
}

impl SubscriptionObject {
    /// The next events and how many were lost before them; an error at the end.
    async fn next(&self, max: usize) -> Result<(Vec<Value>, u64), Error> {
        let (mut destroyed, mut system) = (self.destroyed.subscribe(), self.system.clone());
        let read = async { self.stream.lock().await.as_mut()?.next_batch(max).await };
        // In this order: what was there before the system closed is still given.
        let batch = tokio::select! {
            biased;
            _ = destroyed.wait_for(|gone| *gone) => None,
            batch = read => batch,
            _ = system.wait_for(|phase| *phase == Phase::Closed) => None,
        };
        let Some((events, lost)) = batch else {
            // Lets go of the system, which otherwise lived as long as this handle.
            *self.stream.lock().await = None;
            let ended = "the subscription has ended: it was destroyed, or its system closed";
            return Err(Error::new(ErrorKind::Cancelled, ended));
        };
        Ok((events.iter().map(|event| event.to_json()).collect(), lost))
    }
}

/// Publishes an event.
///
/// Ownership: type ("app.build.done": lower-case tokens with dots), subject (whom it is about; NULL for
/// nobody) and data_json (any JSON; NULL for none) are borrowed for the call.
///
/// Threads: any; in a private system it does not wait, in a shared one it waits for the host's answer.
///
/// Errors: HMS_ERR_INVALID_HANDLE, HMS_ERR_INVALID_ARGUMENT; HMS_ERR_HOST_UNAVAILABLE;
/// HMS_ERR_CANCELLED when the system is closed meanwhile.
///
/// Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hms_event_publish(
    system: *const hms_system_t,
    r#type: *const c_char,
    subject: *const c_char,
    data_json: *const c_char,
) -> hms_status_t {
    guard("hms_event_publish", || {
        let object = TABLE.get::<SystemObject>(system)?;
        // SAFETY: the caller's, as documented.
        let (kind, subject, data) = unsafe {
            (
                input::text("type", r#type)?,
                input::optional_text("subject", subject)?.map(str::to_owned),
                input::json("data_json", data_json)?,
            )
        };
        Ok(object.wait_for(object.system.publish(kind, subject, data))?)
    })
}

/// Subscribes to events, which wait in a bounded queue until hms_subscription_next takes them.
///
/// Ownership: options, and what they point to, are borrowed for the call; NULL means
/// HMS_SUBSCRIPTION_OPTIONS_INIT. *out is set to NULL first, and on success to a handle that
/// hms_subscription_destroy gives back. It may outlive its system.
///
/// Threads: any.
///
/// Errors: HMS_ERR_INVALID_HANDLE; HMS_ERR_INVALID_ARGUMENT for a bad pattern, filter or capacity.
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
        let (out, options) = unsafe { (Out::new("out", out)?, input::versioned("options", options)?) };
        let object = TABLE.get::<SystemObject>(system)?;
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
        let after = u64::try_from(options.after_sequence).ok();
        let subscribe = object.system.subscribe(patterns, filter, capacity, after);
        let subscription = SubscriptionObject {
            stream: Mutex::new(Some(object.wait_for(subscribe)?)),
            destroyed: watch::Sender::new(false),
            system: object.phase(),
            runtime: object.runtime.clone(),
        };
        out.put(TABLE.insert(Arc::new(subscription))?);
        Ok(())
    })
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
/// meanwhile, or its system closed and all was taken; HMS_ERR_INVALID_HANDLE;
/// HMS_ERR_INVALID_ARGUMENT.
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
        let max = if max == 0 { MAX_BATCH } else { max.min(MAX_BATCH) };
        let next = block_on_for(&object.runtime, timeout_ms, "no event", object.next(max))?;
        let (events, missing) = next?;
        out.put_text(Value::Array(events).to_string())?;
        unsafe { put_if_wanted(lost, missing) };
        Ok(())
    })
}

/// Ends a subscription. Threads that wait in hms_subscription_next return HMS_ERR_CANCELLED.
///
/// Ownership: *subscription is given back and set to NULL. NULL, or a pointer to NULL, is HMS_OK. With
/// HMS_ERR_INVALID_HANDLE nothing is changed.
///
/// Threads: any.
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
        Ok(())
    })
}
