//! How a process ended, and the names of signals and resource limits.

use std::fmt;
use std::str::FromStr;

/// How a process ended.
///
/// Exactly one of `code` and `signal` is set, or neither when the kernel would
/// not tell (a process that somebody else reaped, before Linux 6.15). Unknown
/// is never reported as zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Exit {
    /// The exit code, 0 to 255.
    pub code: Option<i32>,
    /// The number of the signal that ended it.
    pub signal: Option<i32>,
    /// Whether it left a core file.
    pub core_dumped: bool,
}

impl Exit {
    /// It ended, and nobody can say how.
    pub const UNKNOWN: Exit = Exit { code: None, signal: None, core_dumped: false };

    /// Whether it ended with exit code 0.
    pub fn success(&self) -> bool {
        self.code == Some(0)
    }

    /// From the encoding that `wait(2)` has.
    #[cfg(target_os = "linux")]
    pub(crate) fn from_wait_status(status: i32) -> Self {
        let signal = status & 0x7f;
        if signal == 0 {
            Exit { code: Some((status >> 8) & 0xff), ..Exit::UNKNOWN }
        } else {
            Exit { code: None, signal: Some(signal), core_dumped: status & 0x80 != 0 }
        }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let core = if self.core_dumped { " (core dumped)" } else { "" };
        match (self.signal, self.code) {
            (Some(signal), _) => write!(f, "killed by {}{core}", SignalName(signal)),
            (None, Some(code)) => write!(f, "exit code {code}"),
            (None, None) => f.write_str("exit code unknown"),
        }
    }
}

/// A signal that can be sent. Real-time signals are left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Signal(i32);

impl Signal {
    /// Hang up; by custom: read the configuration again.
    pub const HUP: Signal = Signal(1);
    /// Interrupt, as Ctrl-C does.
    pub const INT: Signal = Signal(2);
    /// Quit, as Ctrl-\ does.
    pub const QUIT: Signal = Signal(3);
    /// End at once; cannot be caught.
    pub const KILL: Signal = Signal(9);
    /// Free for the program's use.
    pub const USR1: Signal = Signal(10);
    /// Free for the program's use.
    pub const USR2: Signal = Signal(12);
    /// Please end.
    pub const TERM: Signal = Signal(15);
    /// Continue after a stop.
    pub const CONT: Signal = Signal(18);
    /// Stop; cannot be caught.
    pub const STOP: Signal = Signal(19);

    /// The signal with this number; `None` unless it is one of the 31 that
    /// have names.
    pub fn from_number(number: i32) -> Option<Self> {
        name_of(number).map(|_| Signal(number))
    }

    /// Its number (Linux, x86 and ARM).
    pub fn number(self) -> i32 {
        self.0
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        SignalName(self.0).fmt(f)
    }
}

impl FromStr for Signal {
    type Err = String;

    /// Reads `TERM`, `SIGTERM` (in either case) and `15`.
    fn from_str(text: &str) -> Result<Self, String> {
        let word = text.trim();
        let named = if word.bytes().all(|b| b.is_ascii_digit()) {
            word.parse().ok().and_then(Signal::from_number)
        } else {
            let upper = word.to_ascii_uppercase();
            let name = upper.strip_prefix("SIG").unwrap_or(&upper);
            NAMES.iter().find(|(_, known)| *known == name).map(|(number, _)| Signal(*number))
        };
        named.ok_or_else(|| {
            format!("'{text}' is not a signal (use a name such as TERM, or a number from 1 to 31)")
        })
    }
}

struct SignalName(i32);

impl fmt::Display for SignalName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match name_of(self.0) {
            Some(name) => write!(f, "SIG{name}"),
            None => write!(f, "signal {}", self.0),
        }
    }
}

fn name_of(number: i32) -> Option<&'static str> {
    NAMES.iter().find(|(known, _)| *known == number).map(|(_, name)| *name)
}

const NAMES: [(i32, &str); 31] = [
    (1, "HUP"),
    (2, "INT"),
    (3, "QUIT"),
    (4, "ILL"),
    (5, "TRAP"),
    (6, "ABRT"),
    (7, "BUS"),
    (8, "FPE"),
    (9, "KILL"),
    (10, "USR1"),
    (11, "SEGV"),
    (12, "USR2"),
    (13, "PIPE"),
    (14, "ALRM"),
    (15, "TERM"),
    (16, "STKFLT"),
    (17, "CHLD"),
    (18, "CONT"),
    (19, "STOP"),
    (20, "TSTP"),
    (21, "TTIN"),
    (22, "TTOU"),
    (23, "URG"),
    (24, "XCPU"),
    (25, "XFSZ"),
    (26, "VTALRM"),
    (27, "PROF"),
    (28, "WINCH"),
    (29, "IO"),
    (30, "PWR"),
    (31, "SYS"),
];

/// A resource limit of a process, as `ulimit` has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Limit {
    /// Address space, in bytes.
    AddressSpace,
    /// Size of a core file, in bytes.
    Core,
    /// CPU time, in seconds.
    Cpu,
    /// Data segment, in bytes.
    Data,
    /// Largest file it may write, in bytes.
    FileSize,
    /// Locked memory, in bytes.
    LockedMemory,
    /// Open files: one above the highest descriptor.
    OpenFiles,
    /// Processes of its user.
    Processes,
    /// Stack of the main thread, in bytes.
    Stack,
}

impl Limit {
    /// Every limit, in the order of their names.
    pub const ALL: [Limit; 9] = [
        Limit::AddressSpace,
        Limit::Core,
        Limit::Cpu,
        Limit::Data,
        Limit::FileSize,
        Limit::LockedMemory,
        Limit::OpenFiles,
        Limit::Processes,
        Limit::Stack,
    ];

    /// Its name, as [`FromStr`] reads it.
    pub fn name(self) -> &'static str {
        match self {
            Limit::AddressSpace => "address_space",
            Limit::Core => "core",
            Limit::Cpu => "cpu",
            Limit::Data => "data",
            Limit::FileSize => "file_size",
            Limit::LockedMemory => "locked_memory",
            Limit::OpenFiles => "open_files",
            Limit::Processes => "processes",
            Limit::Stack => "stack",
        }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Limit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Limit::ALL.into_iter().find(|limit| limit.name() == text).ok_or_else(|| {
            let known = Limit::ALL.map(Limit::name).join(", ");
            format!("'{text}' is not a resource limit (known: {known})")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_read_by_name_and_number() {
        for text in ["TERM", "SIGTERM", "sigterm", "15"] {
            assert_eq!(text.parse::<Signal>().expect(text), Signal::TERM);
        }
        assert_eq!(Signal::KILL.to_string(), "SIGKILL");
        for text in ["", "0", "32", "SIG", "TERMINATE", "-9"] {
            assert!(text.parse::<Signal>().is_err(), "{text:?}");
        }
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn exits_say_what_happened() {
        assert_eq!(Exit::from_wait_status(3 << 8).to_string(), "exit code 3");
        assert_eq!(Exit::from_wait_status(9).to_string(), "killed by SIGKILL");
        assert_eq!(Exit::from_wait_status(11 | 0x80).to_string(), "killed by SIGSEGV (core dumped)");
        assert_eq!(Exit::from_wait_status(40).to_string(), "killed by signal 40");
        assert_eq!(Exit::UNKNOWN.to_string(), "exit code unknown");
        assert!(!Exit::UNKNOWN.success());
    }

    #[test]
    fn limits_are_read_by_name() {
        for limit in Limit::ALL {
            assert_eq!(limit.name().parse::<Limit>().expect("name"), limit);
        }
        assert!("ram".parse::<Limit>().expect_err("ram").contains("stack"));
    }
}
