//! Commands: everything a system can do, by path, with JSON in and out.

use std::{ffi::c_char, sync::OnceLock};

use hms_core::{Kernel, command::Caller};
use hms_runtime::{System, organs};
use serde_json::Value;

use crate::{
    guard::guard,
    handle::TABLE,
    input,
    output::Out,
    status::hms_status_t,
    system::{SystemObject, hms_system_t},
};

/// Runs a command, such as "agent list", and waits for its result.
///
/// Ownership: path and args_json (a JSON object; NULL for none) are borrowed for the call. *out_json is
/// set to NULL first, and on success to the result as JSON text, which hms_string_free frees.
///
/// Threads: any, several at once on one system; blocks until the command is done. A command whose agents
/// inherit this process's environment reads it: no other thread may change it (setenv) meanwhile. Items
/// that a streaming command emits before its result are not kept.
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
