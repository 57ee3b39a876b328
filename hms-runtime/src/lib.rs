//! hms-runtime
