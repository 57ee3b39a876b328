//! Text that the library gave away, and how it comes back.

use std::ffi::{CString, c_char};

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
