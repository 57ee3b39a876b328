//! Messages on a line: found, told apart and answered, without being rewritten.
