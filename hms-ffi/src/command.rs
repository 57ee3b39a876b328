//! Commands: everything a system can do, by path, with JSON in and out.

use std::{
    ffi::{CString, c_char, c_void},
    sync::{Arc, OnceLock},
};

use hms_core::{
    Error, ErrorKind, Kernel,
    command::{self, Caller, CommandContext, CommandSpec, Runs, Update},
};
use hms_runtime::{System, organs, runtime::Runtime};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::{
    gate::{Gate, Role, UserData},
    guard::guard,
    handle::TABLE,
    hms_drop_cb_t,
    input::{self, Versioned},
    operation::{OperationObject, Teller, hms_completion_cb_t, hms_operation_t},
    output::Out,
    registration::{RegistrationObject, hms_registration_t},
    reply::{Awaited, hms_reply_t},
    status::hms_status_t,
    system::{SystemObject, hms_system_t},
};

/// Receives an item that a streaming command emits. The text lasts until it returns.
///
/// It runs on a thread of the library, never twice at a time in one operation, and the command waits for it. It must
/// not wait for the system: such calls give HMS_ERR_WOULD_DEADLOCK. It must not throw or longjmp out.
pub type hms_command_item_cb_t =
    Option<unsafe extern "C" fn(item_json: *const c_char, user_data: *mut c_void)>;

/// Is told how far a command is: fraction is 0 to 1, or negative when that is not known. Otherwise as
/// hms_command_item_cb_t.
pub type hms_command_progress_cb_t =
    Option<unsafe extern "C" fn(fraction: f64, message: *const c_char, user_data: *mut c_void)>;

/// What hms_command_start is told. Initialise it with HMS_COMMAND_OPTIONS_INIT.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct hms_command_options_t {
    /// sizeof(hms_command_options_t); HMS_COMMAND_OPTIONS_INIT sets it.
    pub struct_size: usize,
    /// The arguments, a JSON object; NULL: none.
    pub args_json: *const c_char,
    /// Receives what a streaming command emits; NULL: nobody does.
    pub on_item: hms_command_item_cb_t,
    /// Is told how far it is; NULL: nobody is.
    pub on_progress: hms_command_progress_cb_t,
    /// Is told how it ended, once, after all else; NULL: nobody is.
    pub on_done: hms_completion_cb_t,
    /// What the callbacks are given.
    pub user_data: *mut c_void,
    /// Called with user_data after on_done, and when the call fails; NULL: nothing is.
    pub drop: hms_drop_cb_t,
}

// SAFETY: integers, raw pointers and optional function pointers, of which the caller gives valid ones;
// `struct_size` is first.
unsafe impl Versioned for hms_command_options_t {
    const INIT: &'static str = "HMS_COMMAND_OPTIONS_INIT";
    const FIRST_SIZE: usize = 56;

    fn init() -> Self {
        Self {
            struct_size: size_of::<Self>(),
            args_json: std::ptr::null(),
            on_item: None,
            on_progress: None,
            on_done: None,
            user_data: std::ptr::null_mut(),
            drop: None,
        }
    }
}

/// The call of a command, as its handler receives it. It and its texts last until the handler returns.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct hms_command_call_t {
    /// sizeof(hms_command_call_t) of the library.
    pub struct_size: usize,
    /// The path under which it was registered.
    pub path: *const c_char,
    /// The arguments, a JSON object that fits the command's schema, defaults filled in.
    pub args_json: *const c_char,
    /// Who asks: "cli", "libhms", or a name of the caller's.
    pub source: *const c_char,
    /// The caller's working directory, for relative paths; NULL: not known.
    pub cwd: *const c_char,
}

/// Answers the call of a command: with hms_reply_send or hms_reply_fail, before it returns or later, from any
/// thread, exactly once; hms_reply_item, hms_reply_progress and hms_reply_is_cancelled serve meanwhile.
///
/// It runs on threads of the library, several at a time, and may block, also on the system. It must not throw or
/// longjmp out.
pub type hms_command_call_cb_t = Option<
    unsafe extern "C" fn(call: *const hms_command_call_t, reply: *mut hms_reply_t, user_data: *mut c_void),
>;

/// Lists the commands there are: a JSON array, by path, of {"path", "summary", "args" (a JSON Schema), "runs",
/// "effect", "streams" ...}.
///
/// Ownership: *out_json is set to NULL first, and on success to a text that hms_string_free frees.
///
/// Threads: any.
///
/// Errors: HMS_ERR_INVALID_HANDLE; HMS_ERR_INVALID_ARGUMENT; HMS_ERR_CANCELLED when the system is closed
/// meanwhile.
///
/// Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hms_command_list(
    system: *const hms_system_t,
    out_json: *mut *mut c_char,
) -> hms_status_t {
    guard("hms_command_list", || {
        // SAFETY: the caller's, as documented.
        let out = unsafe { Out::new("out_json", out_json) }?;
        let object = TABLE.get::<SystemObject>(system)?;
        Ok(out.put_text(object.wait_for(object.system.commands())?.to_string())?)
    })
}

/// Runs a command, such as "agent list", and waits for its result.
///
/// Ownership: path and args_json (a JSON object; NULL for none) are borrowed for the call. *out_json is
/// set to NULL first, and on success to the result as JSON text, which hms_string_free frees.
///
/// Threads: any, several at once on one system; blocks until the command is done. A command whose agents
/// inherit this process's environment reads it: no other thread may change it (setenv) meanwhile. Items
/// that a streaming command emits before its result are not kept: hms_command_start hands them out.
///
/// Errors: HMS_ERR_INVALID_HANDLE; HMS_ERR_NOT_FOUND for a path that is no command;
/// HMS_ERR_INVALID_ARGUMENT naming what does not fit the command's schema; HMS_ERR_NOT_SUPPORTED for a
/// command that needs a terminal or streams (hms_cli_start runs those); HMS_ERR_CANCELLED when the
/// system is closed meanwhile; and whatever the command itself reports.
///
/// Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hms_command_run(
    system: *const hms_system_t,
    path: *const c_char,
    args_json: *const c_char,
    out_json: *mut *mut c_char,
) -> hms_status_t {
    guard("hms_command_run", || {
        // SAFETY: the caller's, as documented, here and below.
        let out = unsafe { Out::new("out_json", out_json) }?;
        let object = TABLE.get::<SystemObject>(system)?;
        let (path, args) = unsafe { (input::text("path", path)?, input::json("args_json", args_json)?) };
        let run = object.system.run(path, args, caller(&object.system, path), |_update| {});
        let result: Value = object.wait_for(run)?;
        out.put_text(result.to_string())?;
        Ok(())
    })
}

/// Starts a command and does not wait: callbacks are told what it emits, how far it is, and how it ended.
/// hms_operation_cancel cancels it, hms_operation_wait and hms_operation_result serve those who have no callback.
///
/// Ownership: path, options, and what they point to, are borrowed for the call; NULL means
/// HMS_COMMAND_OPTIONS_INIT. Of user_data the operation keeps the pointer until it calls drop with it, once, after
/// on_done, and also when this call fails (unless struct_size is wrong). *out is set to NULL first, and on success
/// to a handle that hms_operation_destroy gives back.
///
/// Threads: any; does not wait. The environment is read as hms_command_run does.
///
/// Errors: HMS_ERR_INVALID_HANDLE; HMS_ERR_INVALID_ARGUMENT; HMS_ERR_CANCELLED when the system is closed. All else
/// is told to on_done, and by hms_operation_wait.
///
/// Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hms_command_start(
    system: *const hms_system_t,
    path: *const c_char,
    options: *const hms_command_options_t,
    out: *mut *mut hms_operation_t,
) -> hms_status_t {
    guard("hms_command_start", || {
        // SAFETY: the caller's, as documented, here and below.
        let options: hms_command_options_t = unsafe { input::versioned("options", options) }?;
        let user = UserData::new(options.user_data, options.drop);
        let out = unsafe { Out::new("out", out) }?;
        let object = TABLE.get::<SystemObject>(system)?;
        let (path, args) =
            unsafe { (input::text("path", path)?.to_owned(), input::json("args_json", options.args_json)?) };
        object.require_open()?;
        let teller = Teller::new(user, options.on_done);
        let (told, system) = (teller.clone(), object.system.clone());
        let (on_item, on_progress) = (options.on_item, options.on_progress);
        let caller = caller(&system, &path);
        let call = async move {
            let update = |update| tell(told.clone(), update, on_item, on_progress);
            system.run_with(&path, args, caller, update).await
        };
        out.put(TABLE.insert(Arc::new(OperationObject::call(&object, teller, call)))?);
        Ok(())
    })
}

/// Tells the program what a command says before it ends.
async fn tell(
    teller: Arc<Teller>,
    update: Update,
    on_item: hms_command_item_cb_t,
    on_progress: hms_command_progress_cb_t,
) {
    match (update, on_item, on_progress) {
        (Update::Item { value }, Some(on_item), _) => {
            let item = c_text(value.to_string());
            // SAFETY: the caller promised a function that takes these, here and below.
            teller.tell(move |user_data| unsafe { on_item(item.as_ptr(), user_data) }).await;
        }
        (Update::Progress { fraction, message }, _, Some(on_progress)) => {
            let (fraction, message) = (fraction.unwrap_or(-1.0), c_text(message));
            let told =
                teller.tell(move |user_data| unsafe { on_progress(fraction, message.as_ptr(), user_data) });
            told.await;
        }
        _ => {}
    }
}

fn c_text(text: String) -> CString {
    CString::new(text.replace('\0', "\u{fffd}")).unwrap_or_default()
}

/// Offers a command to everybody in the system: on the command line, to tools, to programs. spec_json says what it
/// is: {"path": "build now", "summary": "Build the project", "args": {a JSON Schema of an object}}; what else it may
/// say is in docs/protocol.md.
///
/// Ownership: spec_json is borrowed for the call. Of user_data the registration keeps the pointer until it calls
/// drop with it, once, when it has ended (by hms_registration_destroy or with its system) and no on_call runs, and
/// also when this call fails. *out is set to NULL first, and on success to a handle that hms_registration_destroy
/// gives back.
///
/// Threads: any.
///
/// Errors: HMS_ERR_INVALID_HANDLE; HMS_ERR_INVALID_ARGUMENT; HMS_ERR_INVALID_CONFIG for a schema that is none;
/// HMS_ERR_ALREADY_EXISTS when the path is taken; HMS_ERR_NOT_SUPPORTED for a command that runs in its caller;
/// HMS_ERR_CANCELLED when the system is closed meanwhile.
///
/// Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hms_command_register(
    system: *const hms_system_t,
    spec_json: *const c_char,
    on_call: hms_command_call_cb_t,
    user_data: *mut c_void,
    drop: hms_drop_cb_t,
    out: *mut *mut hms_registration_t,
) -> hms_status_t {
    guard("hms_command_register", || {
        let user = UserData::new(user_data, drop);
        // SAFETY: the caller's, as documented, here and below.
        let out = unsafe { Out::new("out", out) }?;
        let object = TABLE.get::<SystemObject>(system)?;
        let spec = spec_of(unsafe { input::json("spec_json", spec_json) }?)?;
        let on_call =
            on_call.ok_or_else(|| Error::argument("on_call", "NULL, but a command has to answer"))?;
        let gate = Gate::new(user);
        let (runtime, threads) = (object.runtime.clone(), Semaphore::new(THREADS));
        let command = Arc::new(CCommand { on_call, gate: gate.clone(), runtime, threads });
        let path = spec.path.clone();
        let handler = command::handler(move |cx, args: Value| {
            let (command, path) = (command.clone(), path.clone());
            async move { command.call(path, cx, args).await }
        });
        let registration = object.wait_for(object.system.offer_command(spec, handler))?;
        out.put(RegistrationObject::insert(&object, registration, gate)?);
        Ok(())
    })
}

fn spec_of(mut given: Value) -> Result<CommandSpec, Error> {
    let Value::Object(fields) = &mut given else {
        return Err(Error::argument("spec_json", "not a JSON object"));
    };
    fields.entry("runs").or_insert_with(|| "host".into());
    fields.entry("args").or_insert_with(|| json!({"type": "object", "additionalProperties": false}));
    fields.entry("view").or_insert_with(|| json!({"as": "text", "pointer": ""}));
    let spec: CommandSpec = serde_json::from_value(given).map_err(|e| Error::argument("spec_json", e))?;
    let words = |path: &str| !path.is_empty() && path.split(' ').all(|word| !word.is_empty());
    if !words(&spec.path) || spec.path.contains(char::is_control) {
        return Err(Error::argument("spec_json", "the path is not words with single spaces between them"));
    }
    if spec.runs == Runs::Caller {
        let what = "a command that runs in its caller cannot be offered to others";
        return Err(Error::new(ErrorKind::NotSupported, what).hint("leave `runs` out"));
    }
    Ok(spec)
}

/// A command that the program answers.
struct CCommand {
    on_call: unsafe extern "C" fn(*const hms_command_call_t, *mut hms_reply_t, *mut c_void),
    gate: Arc<Gate>,
    runtime: Arc<Runtime>,
    threads: Semaphore,
}

/// How many calls of one command run at a time.
const THREADS: usize = 16;

impl CCommand {
    /// Calls it where it may block. Who gives the call up makes its reply stale.
    async fn call(self: Arc<Self>, path: String, cx: CommandContext, args: Value) -> Result<Value, Error> {
        let ended = || Error::internal("the runtime ended in the middle of a call");
        let _thread = self.threads.acquire().await.map_err(|_| ended())?;
        let command = self.clone();
        let called = tokio::task::spawn_blocking(move || command.hand_over(path, cx, &args));
        called.await.map_err(|_| ended())??.answer().await
    }

    fn hand_over(&self, path: String, cx: CommandContext, args: &Value) -> Result<Awaited, Error> {
        let gone = || Error::not_found("command", &path);
        let entered = self.gate.enter(Role::Answers).ok_or_else(gone)?;
        let (args, source) = (c_text(args.to_string()), c_text(cx.caller.source.clone()));
        let (cwd, path) = (cx.caller.cwd.clone().map(c_text), c_text(path));
        let awaited = Awaited::new(Some((cx, self.runtime.clone())))?;
        let call = hms_command_call_t {
            struct_size: size_of::<hms_command_call_t>(),
            path: path.as_ptr(),
            args_json: args.as_ptr(),
            source: source.as_ptr(),
            cwd: cwd.as_ref().map_or(std::ptr::null(), |cwd| cwd.as_ptr()),
        };
        // SAFETY: the caller promised a function that takes these, which last until it returns.
        unsafe { (self.on_call)(&raw const call, awaited.handle(), entered.user_data()) }
        Ok(awaited)
    }
}

/// This process, as the command at `path` sees it.
pub(crate) fn caller(system: &System, path: &str) -> Caller {
    let cwd = std::env::current_dir().ok().map(|dir| dir.display().to_string());
    let env = wants_env(system, path).then(|| {
        // A name or value that is not UTF-8 cannot travel; it must not end the call.
        let all = std::env::vars_os();
        all.filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?))).collect()
    });
    Caller { source: "libhms".into(), cwd, env }
}

/// Whether the command asks for the caller's environment, which holds secrets: it goes to no other.
fn wants_env(system: &System, path: &str) -> bool {
    /// What the built-in organs offer, for commands that run at a host.
    static DESCRIBED: OnceLock<Option<Kernel>> = OnceLock::new();
    let described = || DESCRIBED.get_or_init(|| Kernel::describe(organs()).ok()).as_ref();
    let kernel = system.kernel().or_else(described);
    let command = kernel.and_then(|kernel| kernel.commands().get(path).ok());
    command.is_some_and(|command| command.spec.args.get("x-caller-env") == Some(&Value::Bool(true)))
}
