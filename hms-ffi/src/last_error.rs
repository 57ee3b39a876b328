//! The message of the last failure, one per thread.

use std::{
    cell::RefCell,
    ffi::{CString, c_char},
};

thread_local! {
    static MESSAGE: RefCell<Option<CString>> = const { RefCell::new(None) };
}

/// Forgets the message. A thread that is ending has none any more.
pub(crate) fn clear() {
    let _ = MESSAGE.try_with(|m| m.borrow_mut().take());
}

/// Keeps `text`. C text has no NUL inside: it is shown as the replacement character.
pub(crate) fn set(text: &str) {
    let text = text.replace('\0', "\u{fffd}");
    let _ = MESSAGE.try_with(|m| *m.borrow_mut() = CString::new(text).ok());
}

/// The message, empty when there is none; valid until the next [`clear`] or [`set`] of this thread.
pub(crate) fn message() -> *const c_char {
    let kept = MESSAGE.try_with(|m| m.borrow().as_ref().map(|text| text.as_ptr()));
    kept.ok().flatten().unwrap_or(c"".as_ptr())
}
