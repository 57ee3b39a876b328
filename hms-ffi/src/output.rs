//! Where results go: NULL first, the result on success alone.

use std::ffi::{CString, c_char};

use hms_core::{Error, Result};

/// A place of the caller's for a pointer.
pub(crate) struct Out<T>(*mut *mut T);

impl<T> Out<T> {
    /// The place at `place`, now holding NULL. An error about the argument `name` when there is none.
    ///
    /// # Safety
    /// `place` is NULL, or points to a pointer that may be written until the call returns.
    pub(crate) unsafe fn new(name: &str, place: *mut *mut T) -> Result<Self> {
        if place.is_null() {
            return Err(Error::argument(name, "NULL, but the result goes there"));
        }
        // SAFETY: not NULL, so by the contract it may be written.
        unsafe { place.write(std::ptr::null_mut()) };
        Ok(Self(place))
    }

    /// Writes the result.
    pub(crate) fn put(self, value: *mut T) {
        // SAFETY: `new` was promised a place that lasts until the call returns, which is after this.
        unsafe { self.0.write(value) }
    }
}

impl Out<c_char> {
    /// Writes a text that the caller frees with `hms_string_free`.
    pub(crate) fn put_text(self, text: String) -> Result<()> {
        // JSON escapes a NUL, so that only a defect could bring one here.
        let text = CString::new(text).map_err(|_| Error::internal("a text for C has a NUL inside"))?;
        self.put(text.into_raw());
        Ok(())
    }
}

/// Writes `value` to an optional place.
///
/// # Safety
/// `place` is NULL or may be written.
pub(crate) unsafe fn put_if_wanted<T>(place: *mut T, value: T) {
    if !place.is_null() {
        // SAFETY: not NULL, so by the contract it may be written.
        unsafe { place.write(value) }
    }
}
