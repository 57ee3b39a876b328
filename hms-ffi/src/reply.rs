//! Replies: how a handler of the program's (of a service, a command, an agent) answers, at once or later, from any
//! thread, exactly once.

use std::{
    ffi::c_char,
    sync::{Arc, Mutex, PoisonError},
};

use hms_core::{Error, ErrorKind, command::CommandContext};
use hms_runtime::runtime::Runtime;
use serde_json::Value;
use tokio::sync::oneshot;

use crate::{
    guard::{Failure, guard},
    handle::{Doomed, TABLE},
    input,
    status::{self, hms_status_t},
    wait::block_on,
};

/// Where the answer to one call goes.
pub struct hms_reply_t {
    _opaque: [u8; 0],
}

/// What a reply's handle refers to.
pub(crate) struct ReplyObject {
    answer: Mutex<Option<oneshot::Sender<Result<Value, Error>>>>,
    /// Of a command: what it says meanwhile.
    command: Option<(CommandContext, Arc<Runtime>)>,
}

/// Whoever waits for the answer. Once this is dropped, the handle is stale.
pub(crate) struct Awaited {
    handle: usize,
    answer: oneshot::Receiver<Result<Value, Error>>,
}

impl Awaited {
    /// A reply, and who waits for it.
    pub(crate) fn new(command: Option<(CommandContext, Arc<Runtime>)>) -> Result<Self, Error> {
        let (sender, answer) = oneshot::channel();
        let object = ReplyObject { answer: Mutex::new(Some(sender)), command };
        let handle = TABLE.insert(Arc::new(object))? as usize;
        Ok(Self { handle, answer })
    }

    /// The handle, for the handler.
    pub(crate) fn handle(&self) -> *mut hms_reply_t {
        self.handle as *mut hms_reply_t
    }

    /// The answer.
    pub(crate) async fn answer(mut self) -> Result<Value, Error> {
        let answer = (&mut self.answer).await;
        answer.unwrap_or_else(|_| Err(Error::internal("a reply went without an answer")))
    }
}

impl Drop for Awaited {
    fn drop(&mut self) {
        // Stale already when it was answered.
        let _ = TABLE.take::<ReplyObject>(self.handle());
    }
}

/// # Safety
/// `reply` is NULL or may be read and written until the call returns.
unsafe fn answer(reply: *mut *mut hms_reply_t, outcome: Result<Value, Error>) -> Result<(), Failure> {
    // SAFETY: passed on.
    let doomed = unsafe { Doomed::<ReplyObject>::new(reply) };
    let object = doomed.ok_or_else(|| Failure::Handle("NULL, but a reply is needed".into()))?.take()?;
    let sender = object.answer.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(sender) = sender {
        // Who waited may have gone in this moment.
        let _ = sender.send(outcome);
    }
    Ok(())
}

/// Answers a call with a result.
///
/// Ownership: result_json (NULL: null) is borrowed for the call. *reply is given back and set to NULL on success.
///
/// Threads: any, within the handler or after it has returned; never blocks.
///
/// Errors: HMS_ERR_INVALID_HANDLE when it was answered already or nobody waits for it any more;
/// HMS_ERR_INVALID_ARGUMENT for what is not JSON, and then it is still to be answered.
///
/// Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hms_reply_send(
    reply: *mut *mut hms_reply_t,
    result_json: *const c_char,
) -> hms_status_t {
    guard("hms_reply_send", || {
        // SAFETY: the caller's, as documented.
        unsafe { answer(reply, Ok(input::json("result_json", result_json)?)) }
    })
}

/// Answers a call with a failure: status is what it is, usually HMS_ERR_HANDLER_FAILED, and message says what went
/// wrong, for people.
///
/// Ownership: message (NULL: none) is borrowed for the call. *reply is given back and set to NULL on success.
///
/// Threads: as hms_reply_send.
///
/// Errors: HMS_ERR_INVALID_HANDLE as hms_reply_send; HMS_ERR_INVALID_ARGUMENT for HMS_OK or a status that there is
/// not, and then it is still to be answered.
///
/// Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hms_reply_fail(
    reply: *mut *mut hms_reply_t,
    status: hms_status_t,
    message: *const c_char,
) -> hms_status_t {
    guard("hms_reply_fail", || {
        // SAFETY: the caller's, as documented, here and below.
        let message = unsafe { input::optional_text("message", message) }?.unwrap_or("the handler failed");
        let kind = status::kind_of(status)
            .ok_or_else(|| Error::argument("status", format!("{status} is no failure")))?;
        unsafe { answer(reply, Err(Error::new(kind, message))) }
    })
}

/// Of a command's call: emits an item, as a streaming command does, waiting for a slow caller.
///
/// Ownership: item_json is borrowed for the call. The reply is still to be answered.
///
/// Threads: any, before it is answered; waits for room.
///
/// Errors: HMS_ERR_INVALID_HANDLE; HMS_ERR_INVALID_ARGUMENT; HMS_ERR_INVALID_STATE for a call that is none of a
/// command; HMS_ERR_CANCELLED when the caller has gone.
///
/// Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hms_reply_item(reply: *const hms_reply_t, item_json: *const c_char) -> hms_status_t {
    guard("hms_reply_item", || {
        let object = TABLE.get::<ReplyObject>(reply)?;
        let (cx, runtime) = object.command()?;
        // SAFETY: the caller's, as documented.
        let item = unsafe { input::json("item_json", item_json) }?;
        Ok(block_on(runtime, cx.emit(item))??)
    })
}

/// Of a command's call: says how far the work is. fraction is 0 to 1, or negative when that is not known. Dropped
/// when the caller does not keep up.
///
/// Ownership: message (NULL: none) is borrowed for the call. The reply is still to be answered.
///
/// Threads: any, before it is answered; never blocks.
///
/// Errors: as hms_reply_item, without HMS_ERR_CANCELLED.
///
/// Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hms_reply_progress(
    reply: *const hms_reply_t,
    fraction: f64,
    message: *const c_char,
) -> hms_status_t {
    guard("hms_reply_progress", || {
        let object = TABLE.get::<ReplyObject>(reply)?;
        let (cx, _) = object.command()?;
        // SAFETY: the caller's, as documented.
        let message = unsafe { input::optional_text("message", message) }?.unwrap_or_default();
        let known = (0.0..=1.0).contains(&fraction);
        cx.progress(known.then_some(fraction), message);
        Ok(())
    })
}

/// Of a command's call: whether its caller has cancelled it, or has gone. It should then be answered soon.
///
/// Ownership: *cancelled is set on success. The reply is still to be answered.
///
/// Threads: any, before it is answered; never blocks.
///
/// Errors: HMS_ERR_INVALID_HANDLE (also when nobody waits for the answer any more); HMS_ERR_INVALID_ARGUMENT;
/// HMS_ERR_INVALID_STATE for a call that is none of a command.
///
/// Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hms_reply_is_cancelled(
    reply: *const hms_reply_t,
    cancelled: *mut bool,
) -> hms_status_t {
    guard("hms_reply_is_cancelled", || {
        if cancelled.is_null() {
            return Err(Error::argument("cancelled", "NULL, but the answer goes there").into());
        }
        let object = TABLE.get::<ReplyObject>(reply)?;
        let is = object.command()?.0.is_cancelled();
        // SAFETY: not NULL, and the caller's, as documented.
        unsafe { cancelled.write(is) };
        Ok(())
    })
}

impl ReplyObject {
    fn command(&self) -> Result<&(CommandContext, Arc<Runtime>), Error> {
        let none = || Error::new(ErrorKind::InvalidState, "this is not the call of a command");
        self.command.as_ref().ok_or_else(none)
    }
}
