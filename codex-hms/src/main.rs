//! The command line: the C functions of libhms, and the one place in HMS that handles signals.
//!
//! Parsing, running and printing are the library's (`hms_cli_start`), so that any program can offer the
//! same commands. What is left here is what only a program of its own may do: take its process's signals
//! and exit.

use std::{
    env,
    ffi::{CStr, CString, OsString, c_char, c_int},
    os::unix::ffi::OsStringExt,
    process::ExitCode,
    ptr, thread,
};

use hms::{
    HMS_OK, HMS_WAIT_FOREVER, hms_cli_options_t, hms_cli_start, hms_last_error_message, hms_operation_cancel,
    hms_operation_destroy, hms_operation_t, hms_operation_wait, hms_status_name, hms_status_t,
};
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    iterator::Signals,
    low_level,
};

/// What a shell reports of a program that SIGINT ended.
const INTERRUPTED: c_int = 130;
/// Something failed that is not the user's command.
const FAILED: u8 = 1;

fn main() -> ExitCode {
    match run() {
        Ok(code) => ExitCode::from(u8::try_from(code).unwrap_or(FAILED)),
        Err(problem) => {
            eprintln!("codex-hms: {problem}");
            ExitCode::from(FAILED)
        }
    }
}

fn run() -> Result<i32, String> {
    // Before anything is started, so that no signal meets its default. What the parent ignores for us, as
    // `nohup` and a shell's `&` do, stays ignored.
    let wanted = [SIGINT, SIGTERM, SIGHUP].into_iter().filter(|signal| !is_ignored(*signal));
    let signals = Signals::new(wanted).map_err(|e| format!("signals: {e}"))?;
    let mut operation = start()?;
    cancel_on(signals, Operation(operation))?;
    let mut code = 0;
    // SAFETY: `operation` is a handle that was just made; `code` and `operation` are ours to write.
    let waited = unsafe { hms_operation_wait(operation, HMS_WAIT_FOREVER, &raw mut code) };
    let outcome = check(waited);
    // SAFETY: as above. The signal thread may still cancel it, and is then told that it is gone.
    unsafe { hms_operation_destroy(&raw mut operation) };
    outcome.map(|()| code)
}

/// Starts the command line that this process was given.
fn start() -> Result<*mut hms_operation_t, String> {
    let program = env::current_exe().map_err(|e| format!("finding this program: {e}"))?;
    let host_program = c_text(program.into_os_string())?;
    let args = env::args_os().map(c_text).collect::<Result<Vec<_>, _>>()?;
    let argv: Vec<*const c_char> = args.iter().map(|arg| arg.as_ptr()).collect();
    let argc = c_int::try_from(argv.len()).map_err(|_| "too many arguments".to_owned())?;
    let options = hms_cli_options_t {
        struct_size: size_of::<hms_cli_options_t>(),
        program_name: c"codex-hms".as_ptr(),
        program_version: ptr::null(),
        host_program: host_program.as_ptr(),
        stdio: [0, 1, 2],
    };
    let mut operation = ptr::null_mut();
    // SAFETY: all that `options` and `argv` point to lives until the call returns.
    check(unsafe { hms_cli_start(&raw const options, argc, argv.as_ptr(), &raw mut operation) })?;
    Ok(operation)
}

fn is_ignored(signal: c_int) -> bool {
    // SAFETY: a null action only asks; all-zero is a valid value to be overwritten.
    unsafe {
        let mut current: libc::sigaction = std::mem::zeroed();
        libc::sigaction(signal, ptr::null(), &raw mut current) == 0 && current.sa_sigaction == libc::SIG_IGN
    }
}

/// A handle that goes to another thread, as every handle may.
struct Operation(*const hms_operation_t);

// SAFETY: a handle is a number that the library checks, not an address; any thread may use it.
unsafe impl Send for Operation {}

/// From here on a signal asks the operation to end. A second SIGINT does not wait for that.
fn cancel_on(mut signals: Signals, operation: Operation) -> Result<(), String> {
    let watch = move || {
        let operation = operation;
        let mut interrupted = false;
        for signal in signals.forever() {
            if signal == SIGINT && interrupted {
                low_level::exit(INTERRUPTED);
            }
            interrupted |= signal == SIGINT;
            // SAFETY: a handle that is gone by now is found out and refused.
            unsafe { hms_operation_cancel(operation.0, signal) };
        }
    };
    let started = thread::Builder::new().name("signals".into()).spawn(watch);
    started.map(drop).map_err(|e| format!("a thread for signals: {e}"))
}

/// The message of a call that failed.
fn check(status: hms_status_t) -> Result<(), String> {
    if status == HMS_OK {
        return Ok(());
    }
    // SAFETY: both are NUL-terminated, and are copied before this thread's next call.
    let text = |text: *const c_char| unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned();
    Err(format!("{} [{}]", text(hms_last_error_message()), text(hms_status_name(status))))
}

/// A text for C. The operating system gave it NUL-terminated, so that there is none inside.
fn c_text(text: OsString) -> Result<CString, String> {
    CString::new(text.into_vec()).map_err(|_| "an argument has a NUL inside".to_owned())
}
