//! One server's conversation, without I/O.
