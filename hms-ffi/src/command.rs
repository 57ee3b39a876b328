//! Commands: everything a system can do, by path, with JSON in and out.

use std::ffi::c_char;

use hms_core::command::Caller;
use serde_json::Value;

use crate::{
    guard::guard,
    handle::TABLE,
    input,
    output::Out,
    status::hms_status_t,
    system::{SystemObject, hms_system_t},
    wait::block_on,
};

/// Runs a command, such as "agent list", and waits for its result.
///
/// Ownership: path and args_json (a JSON object; NULL for none) are borrowed for the call. *out_json is
/// set to NULL first, and on success to the result as JSON text, which hms_string_free frees.
///
/// Threads: any, several at once on one system; blocks until the command is done. Closing the system
/// from another thread ends the wait.
///
/// Errors: HMS_ERR_INVALID_HANDLE; HMS_ERR_NOT_FOUND for a path that is no command;
/// HMS_ERR_INVALID_ARGUMENT naming what does not fit the command's schema; HMS_ERR_NOT_SUPPORTED for a
/// command that needs a terminal or streams (hms_cli_start runs those); and whatever the command
/// itself reports.
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
        let run = object.system.run(path, args, caller(), |_update| {});
        let result: Value = block_on(&object.runtime, run)??;
        out.put_text(result.to_string())?;
        Ok(())
    })
}

/// This process, as a command sees it.
fn caller() -> Caller {
    let cwd = std::env::current_dir().ok().map(|dir| dir.display().to_string());
    Caller { source: "libhms".into(), cwd, env: None }
}
