//! The relay on a virtual clock.
