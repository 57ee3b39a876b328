//! Operations: work that goes on while the caller does something else, and how its end is told.

use std::{
    ffi::{CString, c_char, c_void},
    future::Future,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use hms_core::{Error, ErrorKind, contain::contained};
use hms_runtime::{Cancel, runtime::Runtime};
use serde_json::Value;
use tokio::sync::watch;

use crate::{
    gate::{Gate, Role, UserData, role},
    guard::guard,
    handle::{Doomed, TABLE},
    output::{Out, put_if_wanted},
    status::{self, HMS_OK, hms_status_t},
    system::{Phase, SystemObject, closed},
    wait::block_on_for,
};

/// Work that is under way, or done.
pub struct hms_operation_t {
    _opaque: [u8; 0],
}

/// Is told how an operation ended, once, whatever becomes of it. status is HMS_OK or an error, message says what
/// went wrong ("" otherwise), result_json is the result (NULL on failure). The texts last until it returns.
///
/// It runs on a thread of the library, and may do so before the call that began the operation returns. It must not
/// wait for the system: such calls give HMS_ERR_WOULD_DEADLOCK. It must not throw or longjmp out.
pub type hms_completion_cb_t = Option<
    unsafe extern "C" fn(
        status: hms_status_t,
        message: *const c_char,
        result_json: *const c_char,
        user_data: *mut c_void,
    ),
>;

/// How work that ended well did.
#[derive(Debug, Clone)]
pub(crate) enum Done {
    /// A command line, with its exit code.
    Exit(i32),
    /// A call, with its result.
    Result(Value),
}

type Outcome = Result<Done, Error>;

/// Calls the callbacks of one operation, one after the other, and none after its completion.
pub(crate) struct Teller {
    gate: Arc<Gate>,
    on_done: hms_completion_cb_t,
    /// Whether nothing but the completion is to be told any more.
    muted: AtomicBool,
    /// Whether the completion was told. Held while a callback runs.
    over: Mutex<bool>,
}

impl Teller {
    pub(crate) fn new(user: UserData, on_done: hms_completion_cb_t) -> Arc<Self> {
        Arc::new(Self {
            gate: Gate::new(user),
            on_done,
            muted: AtomicBool::new(false),
            over: Mutex::default(),
        })
    }

    /// Runs `callback` with the user data on a thread where it holds up nobody, unless the operation is over.
    pub(crate) async fn tell(self: &Arc<Self>, callback: impl FnOnce(*mut c_void) + Send + 'static) {
        self.run(false, callback).await;
    }

    async fn run(self: &Arc<Self>, last: bool, callback: impl FnOnce(*mut c_void) + Send + 'static) {
        let teller = self.clone();
        let told = tokio::task::spawn_blocking(move || {
            let mut over = teller.over.lock().unwrap_or_else(PoisonError::into_inner);
            // What was given up may have left a callback that had not begun.
            let wanted = last || !teller.muted.load(Ordering::Acquire);
            if wanted
                && !std::mem::replace(&mut *over, last)
                && let Some(entered) = teller.gate.enter(Role::Told)
            {
                callback(entered.user_data());
            }
        });
        // A callback of C cannot panic, and the runtime lives as long as the operation.
        let _ = told.await;
    }

    /// Tells the outcome, and lets go of the user data.
    async fn complete(self: Arc<Self>, outcome: &Outcome) {
        let Some(on_done) = self.on_done else { return self.end() };
        let (status, message, result) = match outcome {
            Ok(Done::Result(value)) => (HMS_OK, String::new(), Some(value.to_string())),
            Ok(Done::Exit(_)) => (HMS_OK, String::new(), None),
            Err(e) => (status::of(e.kind), e.to_string(), None),
        };
        let c_text = |text: String| CString::new(text.replace('\0', "\u{fffd}")).unwrap_or_default();
        let (message, result) = (c_text(message), result.map(c_text));
        self.run(true, move |user_data| {
            let result = result.as_ref().map_or(std::ptr::null(), |text| text.as_ptr());
            // SAFETY: the caller promised a function that takes these, which last until it returns.
            unsafe { on_done(status, message.as_ptr(), result, user_data) }
        })
        .await;
        self.end();
    }

    fn end(&self) {
        *self.over.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.gate.close();
    }
}

/// What an operation's handle refers to.
pub(crate) struct OperationObject {
    cancel: Cancel,
    /// Turned on by destroy: the work is dropped where it stands.
    abandoned: watch::Sender<bool>,
    /// The outcome, once there is one.
    outcome: watch::Receiver<Option<Outcome>>,
    teller: Arc<Teller>,
    runtime: Arc<Runtime>,
}

impl OperationObject {
    /// Starts `work`, whose panic is its failure.
    pub(crate) fn start(
        runtime: Arc<Runtime>,
        cancel: Cancel,
        teller: Arc<Teller>,
        work: impl Future<Output = Outcome> + Send + 'static,
    ) -> Self {
        let (done, outcome) = watch::channel(None);
        let (abandoned, mut abandon) = watch::channel(false);
        let (told, kept) = (teller.clone(), runtime.clone());
        runtime.handle().spawn(async move {
            let outcome = tokio::select! {
                biased;
                Ok(_) = abandon.wait_for(|abandoned| *abandoned) => {
                    Err(Error::new(ErrorKind::Cancelled, "the operation was destroyed before it was done"))
                }
                outcome = contained(work) => outcome.and_then(|outcome| outcome),
            };
            told.complete(&outcome).await;
            done.send_replace(Some(outcome));
            // Until here, so that the completion is told whatever else ends.
            drop(kept);
        });
        Self { cancel, abandoned, outcome, teller, runtime }
    }

    /// Starts a call of `system`, which ends when it is cancelled and when the system is closed.
    pub(crate) fn call(
        system: &SystemObject,
        teller: Arc<Teller>,
        call: impl Future<Output = Result<Value, Error>> + Send + 'static,
    ) -> Self {
        let (cancel, mut phase) = (Cancel::new(), system.phase());
        let cancelled = cancel.clone();
        let work = async move {
            let result = tokio::select! {
                biased;
                result = call => result,
                _ = cancelled.cancelled() => {
                    Err(Error::new(ErrorKind::Cancelled, "the operation was cancelled"))
                }
                _ = phase.wait_for(|phase| *phase >= Phase::Closing) => Err(closed()),
            };
            result.map(Done::Result)
        };
        Self::start(system.runtime.clone(), cancel, teller, work)
    }

    /// Waits for the outcome, of which there is exactly one.
    async fn outcome(&self) -> Outcome {
        let mut outcome = self.outcome.clone();
        let outcome = outcome.wait_for(Option::is_some).await.ok().and_then(|outcome| outcome.clone());
        outcome.unwrap_or_else(|| Err(Error::internal("an operation ended without an outcome")))
    }
}

/// Waits until an operation is done, and its completion has been told. May be asked again, and by several
/// threads: the answer stays.
///
/// Ownership: *exit_code, unless exit_code is NULL, is set on success: to that of a command line, and to 0 after a
/// call, whose result hms_operation_result gives.
///
/// Threads: any. timeout_ms is how long to wait: 0 not at all, HMS_WAIT_FOREVER as long as it takes.
///
/// Errors: HMS_ERR_TIMEOUT when it goes on; HMS_ERR_PANIC when it panicked; HMS_ERR_CANCELLED when it was
/// cancelled, destroyed meanwhile, or its system closed; HMS_ERR_INVALID_HANDLE; HMS_ERR_WOULD_DEADLOCK in a
/// callback; and what the call reports. A command line that ended badly by its own account is HMS_OK here, with
/// its exit code.
///
/// Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hms_operation_wait(
    operation: *const hms_operation_t,
    timeout_ms: i64,
    exit_code: *mut i32,
) -> hms_status_t {
    guard("hms_operation_wait", || {
        let object = TABLE.get::<OperationObject>(operation)?;
        let what = "the operation was not done";
        let code = match block_on_for(&object.runtime, timeout_ms, what, object.outcome())?? {
            Done::Exit(code) => code,
            Done::Result(_) => 0,
        };
        // SAFETY: the caller's, as documented.
        unsafe { put_if_wanted(exit_code, code) };
        Ok(())
    })
}

/// Gives the result of an operation that is done.
///
/// Ownership: *result_json is set to NULL first, and on success to the result as JSON text (of a command line
/// "null"), which hms_string_free frees.
///
/// Threads: any; never blocks.
///
/// Errors: HMS_ERR_INVALID_STATE while it goes on (its own completion included, which has the result);
/// HMS_ERR_INVALID_HANDLE; HMS_ERR_INVALID_ARGUMENT; and what the call reported.
///
/// Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hms_operation_result(
    operation: *const hms_operation_t,
    result_json: *mut *mut c_char,
) -> hms_status_t {
    guard("hms_operation_result", || {
        // SAFETY: the caller's, as documented.
        let out = unsafe { Out::new("result_json", result_json) }?;
        let object = TABLE.get::<OperationObject>(operation)?;
        let outcome = object.outcome.borrow().clone();
        let result = match outcome {
            None => return Err(Error::new(ErrorKind::InvalidState, "the operation goes on").into()),
            Some(Ok(Done::Exit(_))) => Value::Null,
            Some(Ok(Done::Result(result))) => result,
            Some(Err(e)) => return Err(e.into()),
        };
        Ok(out.put_text(result.to_string())?)
    })
}

/// Asks an operation to end, and does not wait. It still has exactly one outcome; the first request
/// counts. signal is the number of the signal that was received, or 0: a command line ends as one that
/// this signal interrupted, a call with HMS_ERR_CANCELLED.
///
/// Ownership: nothing changes hands.
///
/// Threads: any; never blocks. Not for signal handlers: call it from a thread that learned of the signal.
///
/// Errors: HMS_ERR_INVALID_HANDLE; HMS_ERR_INVALID_ARGUMENT for a negative signal.
///
/// Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hms_operation_cancel(
    operation: *const hms_operation_t,
    signal: i32,
) -> hms_status_t {
    guard("hms_operation_cancel", || {
        let object = TABLE.get::<OperationObject>(operation)?;
        if signal < 0 {
            return Err(Error::argument("signal", format!("{signal} is no signal")).into());
        }
        object.cancel.cancel(signal);
        Ok(())
    })
}

/// Gives an operation back. One that still goes on is stopped where it stands, and completes with
/// HMS_ERR_CANCELLED: for an orderly end, cancel and wait first.
///
/// Ownership: *operation is given back and set to NULL. NULL, or a pointer to NULL, is HMS_OK. With
/// HMS_ERR_INVALID_HANDLE nothing is changed.
///
/// Threads: any; when it returns, nothing of the operation runs any more, its completion has been told and drop
/// has run. Within a callback of the operation it returns at once, and drop runs when that has returned. Threads
/// that wait for it return HMS_ERR_CANCELLED.
///
/// Errors: HMS_ERR_INVALID_HANDLE.
///
/// Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hms_operation_destroy(operation: *mut *mut hms_operation_t) -> hms_status_t {
    guard("hms_operation_destroy", || {
        // SAFETY: the caller's, as documented.
        let Some(doomed) = (unsafe { Doomed::<OperationObject>::new(operation) }) else { return Ok(()) };
        if role().is_none() && tokio::runtime::Handle::try_current().is_ok() {
            let where_ = "a blocking call on a thread of the system itself";
            return Err(Error::new(ErrorKind::WouldDeadlock, where_).into());
        }
        let object = doomed.take()?;
        object.teller.muted.store(true, Ordering::Release);
        object.cancel.cancel(0);
        object.abandoned.send_replace(true);
        object.teller.gate.wait();
        Ok(())
    })
}
