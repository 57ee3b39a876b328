//! hms-examples
