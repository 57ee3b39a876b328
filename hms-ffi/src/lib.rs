//! hms-ffi
