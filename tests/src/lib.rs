//! hms-tests
