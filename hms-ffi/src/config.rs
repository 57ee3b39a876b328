//! Configuration: what the system's config.toml says, and changing it.

use std::ffi::c_char;

use hms_core::Error;
use serde_json::{Value, json};

use crate::{
    command::caller,
    guard::guard,
    handle::TABLE,
    input,
    output::Out,
    status::hms_status_t,
    system::{SystemObject, hms_system_t},
};

const CONFIGURE: &str = "system configure";

fn configure(object: &SystemObject, args: Value) -> Result<Value, Error> {
    let run = object.system.run(CONFIGURE, args, caller(&object.system, CONFIGURE), |_update| {});
    object.wait_for(run)
}

/// Gives the configuration: a JSON array of {"key", "value", "default", "applies", "origin" ...}, of one key, of a
/// section with all its keys, or with NULL of everything.
///
/// Ownership: key ("monitoring.interval") is borrowed for the call. *out_json is set to NULL first, and on success
/// to a text that hms_string_free frees.
///
/// Threads: any.
///
/// Errors: HMS_ERR_INVALID_HANDLE; HMS_ERR_INVALID_ARGUMENT, also for a key that there is not;
/// HMS_ERR_CANCELLED when the system is closed meanwhile.
///
/// Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hms_config_get(
    system: *const hms_system_t,
    key: *const c_char,
    out_json: *mut *mut c_char,
) -> hms_status_t {
    guard("hms_config_get", || {
        // SAFETY: the caller's, as documented, here and below.
        let out = unsafe { Out::new("out_json", out_json) }?;
        let object = TABLE.get::<SystemObject>(system)?;
        let args = unsafe { input::optional_text("key", key) }?.map_or(json!({}), |key| json!({"key": key}));
        Ok(out.put_text(configure(&object, args)?["entries"].to_string())?)
    })
}

/// Changes the configuration: validated, written to the home's config.toml with its comments kept, applied at once
/// where that is safe (hms_config_get tells).
///
/// Ownership: key and value are borrowed for the call. value is as in TOML, text needs no quotes: "10s", "true";
/// NULL goes back to the default.
///
/// Threads: any.
///
/// Errors: HMS_ERR_INVALID_HANDLE; HMS_ERR_INVALID_ARGUMENT, also for a key that there is not and a value that does
/// not fit; HMS_ERR_CANCELLED when the system is closed meanwhile; and what writing the file reports.
///
/// Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hms_config_set(
    system: *const hms_system_t,
    key: *const c_char,
    value: *const c_char,
) -> hms_status_t {
    guard("hms_config_set", || {
        let object = TABLE.get::<SystemObject>(system)?;
        // SAFETY: the caller's, as documented.
        let (key, value) = unsafe { (input::text("key", key)?, input::optional_text("value", value)?) };
        let args = match value {
            Some(value) => json!({"key": key, "value": value}),
            None => json!({"key": key, "unset": true}),
        };
        Ok(configure(&object, args).map(drop)?)
    })
}
