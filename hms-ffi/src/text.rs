//! Memory that changes hands: text that the library gave away, and the program's own that callbacks are given.

use std::ffi::{CString, c_char, c_void};

/// Lets go of the user_data of a callback: called once, when no callback runs any more that is given it and none
/// will. Calls that take one say when that is, and call it too when they fail. It runs on whichever thread was the
/// last to need user_data, maybe within the call itself.
pub type hms_drop_cb_t = Option<unsafe extern "C" fn(user_data: *mut c_void)>;

/// Frees a text that the library returned through a `char **`.
///
/// Ownership: takes `text`, which nobody may use afterwards. NULL is accepted and ignored.
///
/// Threads: any, not only the one that received it.
///
/// Errors: none.
///
/// Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hms_string_free(text: *mut c_char) {
    if !text.is_null() {
        // SAFETY: the caller gives back what `CString::into_raw` gave out, once.
        drop(unsafe { CString::from_raw(text) });
    }
}
