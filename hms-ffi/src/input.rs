//! What callers hand in: text, paths, lists, structures. All of it is borrowed and copied or read
//! within the call, and an error names the argument.

use std::{
    ffi::{CStr, OsStr, OsString, c_char, c_void},
    path::PathBuf,
};

use hms_core::{Error, ErrorKind, Result};
use serde::de::DeserializeOwned;
use serde_json::Value;

/// A structure that is larger than this was never initialised.
const MAX_STRUCT: usize = 4096;

fn c_text<'a>(text: *const c_char) -> Option<&'a CStr> {
    // SAFETY: callers of this private function were promised NULL or NUL-terminated text.
    (!text.is_null()).then(|| unsafe { CStr::from_ptr(text) })
}

fn utf8<'a>(name: &str, text: &'a CStr) -> Result<&'a str> {
    text.to_str().map_err(|e| Error::argument(name, format!("not UTF-8 at byte {}", e.valid_up_to())))
}

/// The text of the argument `name`.
///
/// # Safety
/// `text` is NULL or NUL-terminated, and lasts until the call returns.
pub(crate) unsafe fn text<'a>(name: &str, text: *const c_char) -> Result<&'a str> {
    utf8(name, c_text(text).ok_or_else(|| Error::argument(name, "NULL, but a text is needed"))?)
}

/// The text of the argument `name`, which may be NULL.
///
/// # Safety
/// As [`text`].
pub(crate) unsafe fn optional_text<'a>(name: &str, text: *const c_char) -> Result<Option<&'a str>> {
    c_text(text).map(|text| utf8(name, text)).transpose()
}

/// The JSON of the argument `name`; NULL is `null`.
///
/// # Safety
/// As [`text`].
pub(crate) unsafe fn json(name: &str, text: *const c_char) -> Result<Value> {
    // SAFETY: passed on.
    match unsafe { optional_text(name, text) }? {
        Some(text) => serde_json::from_str(text).map_err(|e| Error::argument(name, format!("not JSON: {e}"))),
        None => Ok(Value::Null),
    }
}

/// What the JSON of the argument `name` describes.
///
/// # Safety
/// As [`text`].
pub(crate) unsafe fn typed<T: DeserializeOwned>(name: &str, text: *const c_char) -> Result<T> {
    // SAFETY: passed on.
    let value = unsafe { json(name, text) }?;
    serde_json::from_value(value).map_err(|e| Error::argument(name, e))
}

/// The path of the argument `name`, in the bytes of the file system; NULL is none, empty is an error.
///
/// # Safety
/// As [`text`].
pub(crate) unsafe fn path(name: &str, text: *const c_char) -> Result<Option<PathBuf>> {
    match c_text(text) {
        Some(path) if path.is_empty() => Err(Error::argument(name, "empty, but a path is needed")),
        Some(path) => Ok(Some(PathBuf::from(os_string(name, path)?))),
        None => Ok(None),
    }
}

/// The `length` bytes of the argument `name`.
///
/// # Safety
/// `data` is NULL, or points to `length` bytes that last until the call returns.
pub(crate) unsafe fn bytes<'a>(name: &str, data: *const c_void, length: usize) -> Result<&'a [u8]> {
    match (data.is_null(), length) {
        (_, 0) => Ok(&[]),
        (true, _) => Err(Error::argument(name, format!("NULL, but {length} bytes are announced"))),
        // SAFETY: the caller's promise; more than an address can count is no length.
        (false, length) if isize::try_from(length).is_ok() => {
            Ok(unsafe { std::slice::from_raw_parts(data.cast(), length) })
        }
        (false, _) => Err(Error::argument(name, format!("{length} is no length"))),
    }
}

/// `count` texts of a list, in the bytes of the operating system.
///
/// # Safety
/// `list` is NULL, or points to `count` pointers, each as [`text`] wants it.
pub(crate) unsafe fn arguments(
    name: &str,
    list: *const *const c_char,
    count: usize,
) -> Result<Vec<OsString>> {
    // SAFETY: passed on.
    unsafe { items(name, list, count) }?
        .enumerate()
        .map(|(at, item)| match c_text(item) {
            Some(item) => os_string(name, item),
            None => Err(Error::argument(&format!("{name}[{at}]"), "NULL, but a text is needed")),
        })
        .collect()
}

/// `count` texts of a list.
///
/// # Safety
/// As [`arguments`].
pub(crate) unsafe fn texts(name: &str, list: *const *const c_char, count: usize) -> Result<Vec<String>> {
    // SAFETY: passed on, here and in the closure.
    unsafe { items(name, list, count) }?
        .enumerate()
        .map(|(at, item)| unsafe { text(&format!("{name}[{at}]"), item) }.map(str::to_owned))
        .collect()
}

/// The pointers of a list.
///
/// # Safety
/// `list` is NULL, or points to `count` pointers.
pub(crate) unsafe fn items<T>(
    name: &str,
    list: *const *const T,
    count: usize,
) -> Result<impl Iterator<Item = *const T>> {
    if list.is_null() && count > 0 {
        return Err(Error::argument(name, format!("NULL, but {count} items are announced")));
    }
    // SAFETY: the caller promised `count` readable pointers.
    Ok((0..count).map(move |at| unsafe { list.add(at).read() }))
}

#[cfg(unix)]
fn os_string(_: &str, text: &CStr) -> Result<OsString> {
    use std::os::unix::ffi::OsStrExt;
    Ok(OsStr::from_bytes(text.to_bytes()).to_owned())
}

#[cfg(not(unix))]
fn os_string(name: &str, text: &CStr) -> Result<OsString> {
    utf8(name, text).map(|text| OsStr::new(text).to_owned())
}

/// A structure that begins with its `struct_size` and grows at its end only.
///
/// # Safety
/// The type is `repr(C)`, its first field is a `usize`, and any bytes make a valid value of it.
pub(crate) unsafe trait Versioned: Copy {
    /// The C macro that initialises one.
    const INIT: &'static str;
    /// The size it was first published with: no program has a smaller one.
    const FIRST_SIZE: usize;
    /// What the macro sets.
    fn init() -> Self;
}

/// The structure at `given`, of whatever version the caller was built for: fields that it does not know
/// keep their initial values, fields that we do not know must be zero.
///
/// # Safety
/// `given` is NULL (which stands for the initial values) or points to as many readable bytes as its
/// `struct_size` says.
pub(crate) unsafe fn versioned<T: Versioned>(name: &str, given: *const T) -> Result<T> {
    if given.is_null() {
        return Ok(T::init());
    }
    // SAFETY: the first field is there; nothing is assumed of alignment.
    let size = unsafe { given.cast::<usize>().read_unaligned() };
    if size < T::FIRST_SIZE || size > MAX_STRUCT {
        let problem = format!("struct_size is {size}, but must be at least {}", T::FIRST_SIZE);
        return Err(Error::argument(name, problem).hint(format!("initialise it with {}", T::INIT)));
    }
    let known = size.min(size_of::<T>());
    let mut value = T::init();
    // SAFETY: `size` bytes are readable; `known` of them fit `value`, of which any bytes are valid.
    let beyond = unsafe {
        std::ptr::copy_nonoverlapping(given.cast::<u8>(), (&raw mut value).cast::<u8>(), known);
        std::slice::from_raw_parts(given.cast::<u8>().add(known), size - known)
    };
    if beyond.iter().any(|byte| *byte != 0) {
        let problem =
            format!("argument `{name}`: it sets fields that this version of the library does not know");
        return Err(
            Error::new(ErrorKind::NotSupported, problem).hint("use a library at least as new as hms.h")
        );
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Clone, Copy, PartialEq)]
    #[repr(C)]
    struct Grown {
        struct_size: usize,
        old: u64,
        new: u64,
    }

    // SAFETY: plain integers.
    unsafe impl Versioned for Grown {
        const INIT: &'static str = "GROWN_INIT";
        const FIRST_SIZE: usize = 16;
        fn init() -> Self {
            Self { struct_size: size_of::<Self>(), old: 1, new: 2 }
        }
    }

    fn read(fields: &[u64]) -> Result<Grown> {
        // SAFETY: `fields` is as long as its first element says, or the size is refused unread.
        unsafe { versioned("options", fields.as_ptr().cast()) }
    }

    #[test]
    fn an_older_caller_gets_the_initial_value_of_what_it_does_not_know() {
        assert_eq!(read(&[16, 7]).unwrap(), Grown { struct_size: 16, old: 7, new: 2 });
        assert_eq!(read(&[24, 7, 8]).unwrap(), Grown { struct_size: 24, old: 7, new: 8 });
        // SAFETY: NULL is allowed.
        assert_eq!(unsafe { versioned::<Grown>("options", std::ptr::null()) }.unwrap(), Grown::init());
    }

    #[test]
    fn a_newer_caller_is_served_unless_it_uses_what_is_new() {
        assert_eq!(read(&[32, 7, 8, 0]).unwrap(), Grown { struct_size: 32, old: 7, new: 8 });
        assert_eq!(read(&[32, 7, 8, 9]).unwrap_err().kind, ErrorKind::NotSupported);
    }

    #[test]
    fn a_size_that_no_version_had_is_refused() {
        for size in [0, 8, 15, MAX_STRUCT as u64 + 1, u64::MAX] {
            let error = read(&[size, 7, 8]).unwrap_err();
            assert_eq!(error.kind, ErrorKind::InvalidArgument, "{size}");
            assert!(error.to_string().contains("GROWN_INIT"), "{error}");
        }
    }

    #[test]
    fn text_that_is_not_utf8_is_told_where() {
        // SAFETY: NUL-terminated.
        let error = unsafe { text("path", c"ab\xff".as_ptr()) }.unwrap_err();
        assert_eq!(error.message, "argument `path`: not UTF-8 at byte 2");
    }
}
