//! hms-runtime

pub mod argv;
pub mod view;
