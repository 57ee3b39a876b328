//! The process of a stdio server: its tree, its memory, its end.
