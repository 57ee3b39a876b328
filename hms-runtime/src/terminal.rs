//! The descriptors a command line talks through.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, IsTerminal, Write},
    os::fd::BorrowedFd,
};

use hms_core::{Error, Result};

/// Standard input, output and error of one command line.
pub(crate) struct Terminal {
    input: File,
    out: File,
    err: File,
}

/// Output has nobody who reads it any more: the command line ends without a word.
#[derive(Debug)]
pub(crate) struct Closed;

impl Terminal {
    /// Takes its own copies of the descriptors.
    pub(crate) fn open(stdio: [i32; 3]) -> Result<Self> {
        let [input, out, err] = stdio.map(duplicate);
        Ok(Self { input: input?, out: out?, err: err? })
    }

    pub(crate) fn is_terminal(&self) -> bool {
        self.out.is_terminal()
    }

    pub(crate) fn err_is_terminal(&self) -> bool {
        self.err.is_terminal()
    }

    pub(crate) fn asks(&self) -> bool {
        self.input.is_terminal() && self.err.is_terminal()
    }

    /// Columns and rows; zeros when not known.
    pub(crate) fn size(&self) -> (usize, usize) {
        rustix::termios::tcgetwinsize(&self.out).map_or((0, 0), |s| (s.ws_col.into(), s.ws_row.into()))
    }

    pub(crate) fn write(&self, text: &str) -> Result<(), Closed> {
        (&self.out).write_all(text.as_bytes()).map_err(|_| Closed)
    }

    /// Errors and progress; if nobody reads them, nobody misses them.
    pub(crate) fn complain(&self, text: &str) {
        let _ = (&self.err).write_all(text.as_bytes());
    }

    /// Asks a question that `y` or `yes` answers.
    pub(crate) fn confirm(&self, question: &str) -> bool {
        self.complain(&format!("{question} [y/N] "));
        let mut answer = String::new();
        let read = BufReader::new(&self.input).read_line(&mut answer);
        read.is_ok() && matches!(answer.trim().to_lowercase().as_str(), "y" | "yes")
    }
}

#[allow(unsafe_code, reason = "a descriptor handed over as a number can only be borrowed so")]
fn duplicate(fd: i32) -> Result<File> {
    // SAFETY: who starts a command line lends it three open descriptors for its duration; a number that is
    // not open makes `dup` fail.
    let owned = if fd < 0 {
        Err(io::Error::from(io::ErrorKind::InvalidInput))
    } else {
        unsafe { BorrowedFd::borrow_raw(fd) }.try_clone_to_owned()
    };
    owned.map(File::from).map_err(|e| Error::io(format!("descriptor {fd}"), &e))
}
