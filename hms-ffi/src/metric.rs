//! Metrics: measurements of agents over time.

use std::ffi::c_char;

use crate::{
    command::caller,
    guard::guard,
    handle::TABLE,
    input,
    output::Out,
    status::hms_status_t,
    system::{SystemObject, hms_system_t},
};

/// Gives metrics over time, as "monitor metrics" answers. query_json says which, such as {"name": "cpuUsage",
/// "agent": "web", "since": "10m"}; NULL: all.
///
/// Ownership: query_json is borrowed for the call. *out_json is set to NULL first, and on success to a text that
/// hms_string_free frees.
///
/// Threads: any.
///
/// Errors: HMS_ERR_INVALID_HANDLE; HMS_ERR_INVALID_ARGUMENT; HMS_ERR_NOT_FOUND for an agent that there is not;
/// HMS_ERR_CANCELLED when the system is closed meanwhile.
///
/// Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hms_metric_query(
    system: *const hms_system_t,
    query_json: *const c_char,
    out_json: *mut *mut c_char,
) -> hms_status_t {
    guard("hms_metric_query", || {
        // SAFETY: the caller's, as documented, here and below.
        let out = unsafe { Out::new("out_json", out_json) }?;
        let object = TABLE.get::<SystemObject>(system)?;
        let query = unsafe { input::json("query_json", query_json) }?;
        let path = "monitor metrics";
        let run = object.system.run(path, query, caller(&object.system, path), |_update| {});
        Ok(out.put_text(object.wait_for(run)?.to_string())?)
    })
}
