//! Operations: work that goes on while the caller does something else.

use std::{future::Future, sync::Arc};

use hms_core::{Error, ErrorKind, contain::contained};
use hms_runtime::{Cancel, runtime::Runtime};
use tokio::{sync::watch, task::AbortHandle};

use crate::{
    guard::guard,
    handle::{Doomed, TABLE},
    output::put_if_wanted,
    status::hms_status_t,
    wait::{block_on, block_on_for},
};

/// Work that is under way, or done.
pub struct hms_operation_t {
    _opaque: [u8; 0],
}

type Outcome = Result<i32, Error>;

/// What an operation's handle refers to.
pub(crate) struct OperationObject {
    cancel: Cancel,
    /// The outcome, once there is one; the sender goes with the task.
    outcome: watch::Receiver<Option<Outcome>>,
    task: AbortHandle,
    runtime: Arc<Runtime>,
}

impl OperationObject {
    /// Starts `work`, whose panic is its failure.
    pub(crate) fn start(
        runtime: Arc<Runtime>,
        cancel: Cancel,
        work: impl Future<Output = i32> + Send + 'static,
    ) -> Self {
        let (done, outcome) = watch::channel(None);
        let task = runtime.handle().spawn(async move {
            done.send_replace(Some(contained(work).await));
        });
        Self { cancel, outcome, task: task.abort_handle(), runtime }
    }

    /// Waits for the outcome, of which there is exactly one.
    async fn outcome(&self) -> Outcome {
        let mut outcome = self.outcome.clone();
        let abandoned = || Error::new(ErrorKind::Cancelled, "the operation was destroyed before it was done");
        match outcome.wait_for(Option::is_some).await {
            Ok(outcome) => outcome.clone().unwrap_or_else(|| Err(abandoned())),
            Err(_) => Err(abandoned()),
        }
    }
}

/// Waits until an operation is done. May be asked again, and by several threads: the answer stays.
///
/// Ownership: *exit_code, unless exit_code is NULL, is set on success.
///
/// Threads: any. timeout_ms is how long to wait: 0 not at all, HMS_WAIT_FOREVER as long as it takes.
///
/// Errors: HMS_ERR_TIMEOUT when it goes on; HMS_ERR_PANIC when it panicked; HMS_ERR_CANCELLED when it was
/// destroyed meanwhile; HMS_ERR_INVALID_HANDLE. An operation that ended badly by its own account is
/// HMS_OK here, with its exit code.
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
        let code = block_on_for(&object.runtime, timeout_ms, what, object.outcome())??;
        // SAFETY: the caller's, as documented.
        unsafe { put_if_wanted(exit_code, code) };
        Ok(())
    })
}

/// Asks an operation to end, and does not wait. It still has exactly one outcome; the first request
/// counts. signal is the number of the signal that was received, or 0: a command line ends as one that
/// this signal interrupted.
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

/// Gives an operation back. One that still goes on is stopped where it stands: for an orderly end, cancel
/// and wait first.
///
/// Ownership: *operation is given back and set to NULL. NULL, or a pointer to NULL, is HMS_OK. With
/// HMS_ERR_INVALID_HANDLE nothing is changed.
///
/// Threads: any; when it returns, nothing of the operation runs any more. Threads that wait for it
/// return HMS_ERR_CANCELLED.
///
/// Errors: HMS_ERR_INVALID_HANDLE.
///
/// Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hms_operation_destroy(operation: *mut *mut hms_operation_t) -> hms_status_t {
    guard("hms_operation_destroy", || {
        // SAFETY: the caller's, as documented.
        let Some(doomed) = (unsafe { Doomed::<OperationObject>::new(operation) }) else { return Ok(()) };
        let object = doomed.take()?;
        object.cancel.cancel(0);
        object.task.abort();
        // The outcome comes, or its sender goes, when the work has been dropped.
        let _ = block_on(&object.runtime, object.outcome())?;
        Ok(())
    })
}
