//! Versions: of the library, and of its ABI.

use std::ffi::{CStr, c_char};

/// The ABI major: equal majors fit each other. The shared library is named after it.
pub const HMS_ABI_VERSION_MAJOR: u32 = 0;
/// The ABI minor: a library serves programs that were built for its own minor or a lower one.
pub const HMS_ABI_VERSION_MINOR: u32 = 1;

const VERSION: &CStr = match CStr::from_bytes_with_nul(concat!(env!("CARGO_PKG_VERSION"), "\0").as_bytes()) {
    Ok(version) => version,
    Err(_) => panic!("a version has no NUL"),
};

/// The ABI version of the library at run time: the major in the upper 16 bits, the minor in the lower.
///
/// Ownership: nothing changes hands.
///
/// Threads: any, also in the child of a fork.
///
/// Errors: none.
///
/// Since: 0.1.
#[unsafe(no_mangle)]
pub extern "C" fn hms_abi_version() -> u32 {
    HMS_ABI_VERSION_MAJOR << 16 | HMS_ABI_VERSION_MINOR
}

/// The version of the library, such as "0.1.0".
///
/// Ownership: the text is static; never free it.
///
/// Threads: any, also in the child of a fork.
///
/// Errors: none.
///
/// Since: 0.1.
#[unsafe(no_mangle)]
pub extern "C" fn hms_version() -> *const c_char {
    VERSION.as_ptr()
}
