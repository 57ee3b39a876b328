//! The command line, for programs that offer it under a name of their own.

use std::{
    ffi::{c_char, c_int},
    path::PathBuf,
    sync::Arc,
};

use hms_core::Error;
use hms_runtime::{
    Cancel,
    cli::{self, Program},
    runtime::Runtime,
};

use crate::{
    gate::UserData,
    guard::{guard, watch_forks},
    handle::TABLE,
    input::{self, Versioned},
    operation::{Done, OperationObject, Teller, hms_operation_t},
    output::Out,
    status::hms_status_t,
};

/// What hms_cli_start is told about the program. Initialise it with HMS_CLI_OPTIONS_INIT.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct hms_cli_options_t {
    /// sizeof(hms_cli_options_t); HMS_CLI_OPTIONS_INIT sets it.
    pub struct_size: usize,
    /// What the program is called, in help and hints; NULL: "codex-hms".
    pub program_name: *const c_char,
    /// Its version, for --version; NULL: the library's.
    pub program_version: *const c_char,
    /// The program that runs a host when there is none, as `<program> system run`. Needed.
    pub host_program: *const c_char,
    /// Descriptors of standard input, output and error: 0, 1 and 2 initially. They are not closed.
    pub stdio: [c_int; 3],
}

// SAFETY: integers and raw pointers, of which any bytes are valid; `struct_size` is first.
unsafe impl Versioned for hms_cli_options_t {
    const INIT: &'static str = "HMS_CLI_OPTIONS_INIT";
    const FIRST_SIZE: usize = 48;

    fn init() -> Self {
        let none = std::ptr::null();
        let struct_size = size_of::<Self>();
        Self { struct_size, program_name: none, program_version: none, host_program: none, stdio: [0, 1, 2] }
    }
}

/// Starts a command line: reads the arguments, runs the command, writes its result or an error to the
/// descriptors. Its exit code is what hms_operation_wait returns; docs/cli.md lists them.
///
/// Ownership: options, and what they point to, and the argc texts of argv, are borrowed for the call.
/// argv[0] is ignored, as in main. *out is set to NULL first, and on success to a handle that
/// hms_operation_destroy gives back.
///
/// Threads: any; does not block. The descriptors must stay open until the operation is done.
///
/// Errors: HMS_ERR_INVALID_ARGUMENT. What is wrong with the command line is told to its user, on the
/// descriptor of standard error and by the exit code.
///
/// Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hms_cli_start(
    options: *const hms_cli_options_t,
    argc: c_int,
    argv: *const *const c_char,
    out: *mut *mut hms_operation_t,
) -> hms_status_t {
    guard("hms_cli_start", || {
        // SAFETY: the caller's, as documented, here and below.
        let (out, options) = unsafe { (Out::new("out", out)?, input::versioned("options", options)?) };
        let program = unsafe { program(&options) }?;
        let argc =
            usize::try_from(argc).map_err(|_| Error::argument("argc", format!("{argc} is negative")))?;
        let mut args = unsafe { input::arguments("argv", argv, argc) }?;
        args.drain(..1.min(args.len()));
        watch_forks()?;
        let (runtime, cancel) = (Runtime::acquire()?, Cancel::new());
        let work = cli::run(program, args, cancel.clone());
        let work = async move { Ok(Done::Exit(work.await)) };
        let teller = Teller::new(UserData::new(std::ptr::null_mut(), None), None);
        out.put(TABLE.insert(Arc::new(OperationObject::start(runtime, cancel, teller, work)))?);
        Ok(())
    })
}

/// # Safety
/// The texts of `options` are NULL or NUL-terminated.
unsafe fn program(options: &hms_cli_options_t) -> Result<Program, Error> {
    // SAFETY: passed on.
    let (name, version, host_program) = unsafe {
        (
            input::optional_text("program_name", options.program_name)?.unwrap_or("codex-hms"),
            input::optional_text("program_version", options.program_version)?,
            input::path("host_program", options.host_program)?,
        )
    };
    let host_program: PathBuf = host_program.ok_or_else(|| {
        Error::argument("host_program", "NULL, but a host may have to be started")
            .hint("give the path of this program, or of codex-hms")
    })?;
    if let Some(fd) = options.stdio.iter().find(|fd| **fd < 0) {
        return Err(Error::argument("stdio", format!("{fd} is no descriptor")));
    }
    let version = version.unwrap_or(env!("CARGO_PKG_VERSION")).to_owned();
    Ok(Program { name: name.into(), version, host_program, stdio: options.stdio })
}
