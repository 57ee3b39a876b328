//! hms-monitoring
