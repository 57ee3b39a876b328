//! hms-healing
