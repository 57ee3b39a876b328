//! Agents as handles. A handle means one agent, whatever its lives: it goes on to mean it over restarts, and
//! says so when the agent was destroyed.

use std::{
    ffi::{c_char, c_void},
    sync::{Arc, Weak},
    time::Duration,
};

use hms_core::{Error, ErrorKind, agent::Message};
use hms_runtime::System;
use serde_json::{Value, json};

use crate::{
    command::caller,
    gate::UserData,
    guard::{Failure, guard},
    handle::{Doomed, TABLE},
    hms_drop_cb_t, input,
    operation::{OperationObject, Teller, hms_completion_cb_t, hms_operation_t},
    output::Out,
    status::hms_status_t,
    system::{SystemObject, closed, hms_system_t},
};

/// An agent.
pub struct hms_agent_t {
    _opaque: [u8; 0],
}

/// Who sends a message when the caller does not say.
const SOURCE: &str = "libhms";

/// What an agent's handle refers to.
pub(crate) struct AgentObject {
    system: Weak<SystemObject>,
    id: String,
}

impl AgentObject {
    fn system(&self) -> Result<Arc<SystemObject>, Error> {
        self.system.upgrade().ok_or_else(closed)
    }

    /// Runs a command about this agent. The result.
    fn run(&self, path: &'static str, args: Value) -> Result<Value, Error> {
        let object = self.system()?;
        let run = object.system.run(path, args, caller(&object.system, path), |_update| {});
        object.wait_for(run).map_err(|e| self.gone(e))
    }

    /// The same for a command that takes several agents and answers with a row each.
    fn run_on_it(&self, path: &'static str, mut args: Value) -> Result<(), Error> {
        args["agents"] = json!([self.id]);
        self.run(path, args).map(drop)
    }

    /// That the id is not found means that the agent is gone: it was there.
    fn gone(&self, e: Error) -> Error {
        if e.kind == ErrorKind::NotFound && e.message == Error::not_found("agent", &self.id).message {
            return Error::new(ErrorKind::AgentGone, format!("agent `{}` was destroyed", self.id));
        }
        e
    }
}

/// A handle for the agent of a row, as commands answer with it.
fn handle_of(object: &Arc<SystemObject>, row: &Value) -> Result<*mut hms_agent_t, Error> {
    let id = row["id"].as_str().ok_or_else(|| Error::internal("an agent without an id"))?.to_owned();
    TABLE.insert(Arc::new(AgentObject { system: Arc::downgrade(object), id }))
}

/// Creates an agent and starts it. args_json is what "agent create" takes: {"type": "process", "name": "web",
/// "config": {"command": ["sleep", "60"]}}, and what else docs/cli.md says.
///
/// Ownership: args_json is borrowed for the call. *out is set to NULL first, and on success to a handle that
/// hms_agent_release gives back.
///
/// Threads: any; blocks until the agent has started, or waits for one it depends on. A type that inherits the
/// environment reads this process's: no other thread may change it (setenv) meanwhile.
///
/// Errors: HMS_ERR_INVALID_HANDLE; HMS_ERR_INVALID_ARGUMENT, HMS_ERR_INVALID_CONFIG; HMS_ERR_ALREADY_EXISTS when
/// the name is taken; HMS_ERR_TYPE_UNAVAILABLE; HMS_ERR_CANCELLED when the system is closed meanwhile; and
/// whatever kept it from starting: then there is no such agent.
///
/// Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hms_agent_create(
    system: *const hms_system_t,
    args_json: *const c_char,
    out: *mut *mut hms_agent_t,
) -> hms_status_t {
    // SAFETY: passed on.
    guard("hms_agent_create", || unsafe { create(system, args_json, out, false) })
}

/// As hms_agent_create, but an agent of that name (which is needed) is changed to what args_json says instead; it
/// begins a new life only if that differs.
///
/// Ownership: as hms_agent_create.
///
/// Threads: as hms_agent_create.
///
/// Errors: as hms_agent_create, without HMS_ERR_ALREADY_EXISTS.
///
/// Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hms_agent_ensure(
    system: *const hms_system_t,
    args_json: *const c_char,
    out: *mut *mut hms_agent_t,
) -> hms_status_t {
    // SAFETY: passed on.
    guard("hms_agent_ensure", || unsafe { create(system, args_json, out, true) })
}

/// # Safety
/// As documented at hms_agent_create.
unsafe fn create(
    system: *const hms_system_t,
    args_json: *const c_char,
    out: *mut *mut hms_agent_t,
    ensure: bool,
) -> Result<(), Failure> {
    // SAFETY: passed on.
    let (out, object) = (unsafe { Out::new("out", out) }?, TABLE.get::<SystemObject>(system)?);
    let mut args = unsafe { input::json("args_json", args_json) }?;
    let Value::Object(fields) = &mut args else {
        return Err(Error::argument("args_json", "not a JSON object").into());
    };
    if ensure {
        fields.insert("ensure".into(), true.into());
    }
    let path = "agent create";
    let row = object.wait_for(object.system.run(path, args, caller(&object.system, path), |_update| {}))?;
    out.put(handle_of(&object, &row)?);
    Ok(())
}

/// Finds an agent by name or id.
///
/// Ownership: name is borrowed for the call. *out is set to NULL first, and on success to a handle that
/// hms_agent_release gives back.
///
/// Threads: any.
///
/// Errors: HMS_ERR_INVALID_HANDLE; HMS_ERR_INVALID_ARGUMENT; HMS_ERR_NOT_FOUND; HMS_ERR_CANCELLED when the system
/// is closed meanwhile.
///
/// Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hms_agent_get(
    system: *const hms_system_t,
    name: *const c_char,
    out: *mut *mut hms_agent_t,
) -> hms_status_t {
    guard("hms_agent_get", || {
        // SAFETY: the caller's, as documented, here and below.
        let (out, object) = (unsafe { Out::new("out", out) }?, TABLE.get::<SystemObject>(system)?);
        let args = json!({"agent": unsafe { input::text("name", name) }?});
        let path = "agent status";
        let row =
            object.wait_for(object.system.run(path, args, caller(&object.system, path), |_update| {}))?;
        out.put(handle_of(&object, &row)?);
        Ok(())
    })
}

/// Lists the agents: a JSON array, in order of creation. filter_json is what "agent list" takes, such as
/// {"status": "running"}; NULL: all.
///
/// Ownership: filter_json is borrowed for the call. *out_json is set to NULL first, and on success to a text that
/// hms_string_free frees.
///
/// Threads: any.
///
/// Errors: HMS_ERR_INVALID_HANDLE; HMS_ERR_INVALID_ARGUMENT; HMS_ERR_NOT_FOUND for a type that is none;
/// HMS_ERR_CANCELLED when the system is closed meanwhile.
///
/// Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hms_agent_list(
    system: *const hms_system_t,
    filter_json: *const c_char,
    out_json: *mut *mut c_char,
) -> hms_status_t {
    guard("hms_agent_list", || {
        // SAFETY: the caller's, as documented, here and below.
        let (out, object) = (unsafe { Out::new("out_json", out_json) }?, TABLE.get::<SystemObject>(system)?);
        let args = unsafe { input::json("filter_json", filter_json) }?;
        let path = "agent list";
        let rows =
            object.wait_for(object.system.run(path, args, caller(&object.system, path), |_update| {}))?;
        Ok(out.put_text(rows.to_string())?)
    })
}

/// Gives an agent's id, which never changes and is never given to another.
///
/// Ownership: *out_id is set to NULL first, and on success to a text that hms_string_free frees.
///
/// Threads: any; never blocks.
///
/// Errors: HMS_ERR_INVALID_HANDLE; HMS_ERR_INVALID_ARGUMENT.
///
/// Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hms_agent_id(agent: *const hms_agent_t, out_id: *mut *mut c_char) -> hms_status_t {
    guard("hms_agent_id", || {
        // SAFETY: the caller's, as documented.
        let out = unsafe { Out::new("out_id", out_id) }?;
        Ok(out.put_text(TABLE.get::<AgentObject>(agent)?.id.clone())?)
    })
}

/// Gives all that is known of an agent: a JSON object, as "agent status" answers.
///
/// Ownership: *out_json is set to NULL first, and on success to a text that hms_string_free frees.
///
/// Threads: any.
///
/// Errors: HMS_ERR_INVALID_HANDLE; HMS_ERR_INVALID_ARGUMENT; HMS_ERR_AGENT_GONE when it was destroyed;
/// HMS_ERR_CANCELLED when the system is closed.
///
/// Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hms_agent_status(
    agent: *const hms_agent_t,
    out_json: *mut *mut c_char,
) -> hms_status_t {
    guard("hms_agent_status", || {
        // SAFETY: the caller's, as documented.
        let out = unsafe { Out::new("out_json", out_json) }?;
        let object = TABLE.get::<AgentObject>(agent)?;
        Ok(out.put_text(object.run("agent status", json!({"agent": object.id}))?.to_string())?)
    })
}

/// Gives an agent's health as it was last found: {"status": "degraded", "issues": [{"code": "slow", "message":
/// "…", "severity": "degraded"}]}. status is healthy, degraded, critical or unknown.
///
/// Ownership: *out_json is set to NULL first, and on success to a text that hms_string_free frees.
///
/// Threads: any.
///
/// Errors: as hms_agent_status.
///
/// Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hms_agent_health(
    agent: *const hms_agent_t,
    out_json: *mut *mut c_char,
) -> hms_status_t {
    guard("hms_agent_health", || {
        // SAFETY: the caller's, as documented.
        let out = unsafe { Out::new("out_json", out_json) }?;
        let object = TABLE.get::<AgentObject>(agent)?;
        let status = object.run("agent status", json!({"agent": object.id}))?;
        Ok(out.put_text(json!({"status": status["health"], "issues": status["issues"]}).to_string())?)
    })
}

/// Sends a message to an agent and does not wait for an answer.
///
/// Ownership: source (who sends it; NULL: "libhms") and message_json are borrowed for the call.
///
/// Threads: any; in a private system it does not wait, in a shared one it waits for the host's answer.
///
/// Errors: HMS_ERR_INVALID_HANDLE; HMS_ERR_INVALID_ARGUMENT; HMS_ERR_QUEUE_FULL when too many messages wait for it;
/// HMS_ERR_INVALID_STATE when it is not meant to run; HMS_ERR_AGENT_GONE; HMS_ERR_CANCELLED when the system is
/// closed.
///
/// Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hms_agent_tell(
    agent: *const hms_agent_t,
    source: *const c_char,
    message_json: *const c_char,
) -> hms_status_t {
    guard("hms_agent_tell", || {
        let object = TABLE.get::<AgentObject>(agent)?;
        // SAFETY: the caller's, as documented.
        let message = unsafe { message_of(source, message_json) }?;
        let system = object.system()?;
        if let Some(kernel) = system.system.kernel() {
            system.require_open()?;
            return Ok(kernel.agents().tell(&object.id, message).map_err(|e| object.gone(e))?);
        }
        Ok(system.wait_for(system.system.tell(&object.id, message)).map_err(|e| object.gone(e))?)
    })
}

/// Sends a message to an agent and waits for its answer, at most deadline_ms.
///
/// Ownership: source (who sends it; NULL: "libhms") and message_json are borrowed for the call. *out_json is set
/// to NULL first, and on success to the answer, a text that hms_string_free frees.
///
/// Threads: any.
///
/// Errors: those of hms_agent_tell; HMS_ERR_TIMEOUT; HMS_ERR_WOULD_DEADLOCK in a callback that must not wait, and
/// when the agent itself waits for this caller; HMS_ERR_HANDLER_FAILED and what else the agent answers with.
///
/// Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hms_agent_ask(
    agent: *const hms_agent_t,
    source: *const c_char,
    message_json: *const c_char,
    deadline_ms: u64,
    out_json: *mut *mut c_char,
) -> hms_status_t {
    guard("hms_agent_ask", || {
        // SAFETY: the caller's, as documented, here and below.
        let out = unsafe { Out::new("out_json", out_json) }?;
        let object = TABLE.get::<AgentObject>(agent)?;
        let message = unsafe { message_of(source, message_json) }?;
        let system = object.system()?;
        let answer = system.wait_for(ask(&system.system, object, message, deadline_ms))?;
        Ok(out.put_text(answer.to_string())?)
    })
}

/// As hms_agent_ask, without waiting: on_done is told the answer.
///
/// Ownership: source and message_json are borrowed for the call. Of user_data the operation keeps the pointer until
/// it calls drop with it, once, after on_done, and also when this call fails. *out is set to NULL first, and on
/// success to a handle that hms_operation_destroy gives back.
///
/// Threads: any; does not wait.
///
/// Errors: HMS_ERR_INVALID_HANDLE; HMS_ERR_INVALID_ARGUMENT; HMS_ERR_CANCELLED when the system is closed. All else
/// is told to on_done.
///
/// Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hms_agent_ask_async(
    agent: *const hms_agent_t,
    source: *const c_char,
    message_json: *const c_char,
    deadline_ms: u64,
    on_done: hms_completion_cb_t,
    user_data: *mut c_void,
    drop: hms_drop_cb_t,
    out: *mut *mut hms_operation_t,
) -> hms_status_t {
    guard("hms_agent_ask_async", || {
        let user = UserData::new(user_data, drop);
        // SAFETY: the caller's, as documented, here and below.
        let out = unsafe { Out::new("out", out) }?;
        let object = TABLE.get::<AgentObject>(agent)?;
        let message = unsafe { message_of(source, message_json) }?;
        let system = object.system()?;
        system.require_open()?;
        let asked = system.system.clone();
        let call = async move { ask(&asked, object, message, deadline_ms).await };
        out.put(TABLE.insert(Arc::new(OperationObject::call(&system, Teller::new(user, on_done), call)))?);
        Ok(())
    })
}

async fn ask(
    system: &System,
    object: Arc<AgentObject>,
    message: Message,
    deadline_ms: u64,
) -> Result<Value, Error> {
    let answer = system.ask(&object.id, message, Duration::from_millis(deadline_ms)).await;
    answer.map_err(|e| object.gone(e))
}

/// # Safety
/// Both are NULL or NUL-terminated.
unsafe fn message_of(source: *const c_char, message_json: *const c_char) -> Result<Message, Error> {
    // SAFETY: passed on.
    let (source, body) = unsafe {
        (
            input::optional_text("source", source)?.unwrap_or(SOURCE),
            input::json("message_json", message_json)?,
        )
    };
    Ok(Message::new(source, body))
}

/// Starts an agent that is stopped, failed or quarantined; one that runs is left alone.
///
/// Ownership: nothing changes hands.
///
/// Threads: any; blocks until it has started, or waits for one it depends on.
///
/// Errors: HMS_ERR_INVALID_HANDLE; HMS_ERR_AGENT_GONE; HMS_ERR_CANCELLED when the system is closed; and whatever
/// kept it from starting.
///
/// Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hms_agent_start(agent: *const hms_agent_t) -> hms_status_t {
    guard("hms_agent_start", || Ok(TABLE.get::<AgentObject>(agent)?.run_on_it("agent start", json!({}))?))
}

/// Stops an agent, its children first: by asking, or with kill at once. It stays stopped until it is started.
///
/// Ownership: nothing changes hands.
///
/// Threads: any; blocks until it has ended.
///
/// Errors: HMS_ERR_INVALID_HANDLE; HMS_ERR_AGENT_GONE; HMS_ERR_CANCELLED when the system is closed; and whatever
/// kept it from ending.
///
/// Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hms_agent_stop(agent: *const hms_agent_t, kill: bool) -> hms_status_t {
    guard("hms_agent_stop", || {
        Ok(TABLE.get::<AgentObject>(agent)?.run_on_it("agent stop", json!({"kill": kill}))?)
    })
}

/// Restarts an agent: with reset it forgets its kept state, with kill it is ended at once.
///
/// Ownership: nothing changes hands.
///
/// Threads: any; blocks until the new life has started.
///
/// Errors: HMS_ERR_INVALID_HANDLE; HMS_ERR_AGENT_GONE; HMS_ERR_CANCELLED when the system is closed; and whatever
/// kept it from ending or starting.
///
/// Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hms_agent_restart(
    agent: *const hms_agent_t,
    reset: bool,
    kill: bool,
) -> hms_status_t {
    guard("hms_agent_restart", || {
        let args = json!({"reset": reset, "kill": kill});
        Ok(TABLE.get::<AgentObject>(agent)?.run_on_it("agent restart", args)?)
    })
}

/// Ends an agent and forgets it, its output and its state. Other handles of it say HMS_ERR_AGENT_GONE from then
/// on. (Who only does not need the handle any more calls hms_agent_release.)
///
/// Ownership: *agent is given back and set to NULL on success, and when the agent was gone already. NULL, or a
/// pointer to NULL, is HMS_OK. With any other error nothing is changed.
///
/// Threads: any; blocks until it has ended.
///
/// Errors: HMS_ERR_INVALID_HANDLE; HMS_ERR_AGENT_GONE; HMS_ERR_INVALID_STATE when others depend on it;
/// HMS_ERR_CANCELLED when the system is closed.
///
/// Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hms_agent_destroy(agent: *mut *mut hms_agent_t) -> hms_status_t {
    guard("hms_agent_destroy", || {
        // SAFETY: the caller's, as documented.
        let Some(doomed) = (unsafe { Doomed::<AgentObject>::new(agent) }) else { return Ok(()) };
        let destroyed = TABLE.get::<AgentObject>(doomed.handle())?.run_on_it("agent destroy", json!({}));
        if destroyed.as_ref().is_ok() || destroyed.as_ref().is_err_and(|e| e.kind == ErrorKind::AgentGone) {
            doomed.take()?;
        }
        Ok(destroyed?)
    })
}

/// Gives a handle back. The agent goes on.
///
/// Ownership: *agent is given back and set to NULL. NULL, or a pointer to NULL, is HMS_OK. With
/// HMS_ERR_INVALID_HANDLE nothing is changed.
///
/// Threads: any; never blocks.
///
/// Errors: HMS_ERR_INVALID_HANDLE.
///
/// Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hms_agent_release(agent: *mut *mut hms_agent_t) -> hms_status_t {
    guard("hms_agent_release", || {
        // SAFETY: the caller's, as documented.
        if let Some(doomed) = unsafe { Doomed::<AgentObject>::new(agent) } {
            doomed.take()?;
        }
        Ok(())
    })
}
