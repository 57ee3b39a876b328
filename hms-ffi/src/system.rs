//! Systems: opening and closing one.

use std::{
    ffi::c_char,
    future::Future,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use hms_core::{Error, ErrorKind};
use hms_runtime::{Open, System, runtime::Runtime};
use serde_json::json;
use tokio::sync::watch;

use crate::{
    gate::refuse_inside,
    guard::{guard, watch_forks},
    handle::{Doomed, TABLE},
    input::{self, Versioned},
    output::Out,
    registration::{RegistrationObject, Registrations},
    status::hms_status_t,
    wait::block_on,
};

/// An open system.
pub struct hms_system_t {
    _opaque: [u8; 0],
}

/// How a system is opened: HMS_SYSTEM_PRIVATE or HMS_SYSTEM_SHARED.
pub type hms_system_mode_t = i32;

/// In this process alone: ephemeral, or on a home of its own that nobody else may use meanwhile.
pub const HMS_SYSTEM_PRIVATE: hms_system_mode_t = 0;
/// Attached to the host of a home, which other processes share.
pub const HMS_SYSTEM_SHARED: hms_system_mode_t = 1;

/// What hms_system_open is told. Initialise it with HMS_SYSTEM_OPTIONS_INIT.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct hms_system_options_t {
    /// sizeof(hms_system_options_t); HMS_SYSTEM_OPTIONS_INIT sets it.
    pub struct_size: usize,
    /// HMS_SYSTEM_PRIVATE (initial) or HMS_SYSTEM_SHARED.
    pub mode: hms_system_mode_t,
    /// The path of the home. NULL: private, an ephemeral one that is removed by hms_system_close; shared,
    /// $HMS_HOME or else the user's own.
    pub home: *const c_char,
    /// Shared: the program that runs a host when there is none, as `<program> system run`; NULL: start
    /// none. Private: must be NULL.
    pub host_program: *const c_char,
}

// SAFETY: integers and raw pointers, of which any bytes are valid; `struct_size` is first.
unsafe impl Versioned for hms_system_options_t {
    const INIT: &'static str = "HMS_SYSTEM_OPTIONS_INIT";
    const FIRST_SIZE: usize = 32;

    fn init() -> Self {
        Self {
            struct_size: size_of::<Self>(),
            mode: HMS_SYSTEM_PRIVATE,
            home: std::ptr::null(),
            host_program: std::ptr::null(),
        }
    }
}

/// How far a system is from its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    Open,
    /// Its calls are cancelled, its agents end.
    Closing,
    /// Nothing more will happen.
    Closed,
}

/// What a system's handle refers to.
pub(crate) struct SystemObject {
    pub(crate) system: System,
    phase: watch::Sender<Phase>,
    registrations: Mutex<Registrations>,
    // After the system: it lives in the runtime.
    pub(crate) runtime: Arc<Runtime>,
}

impl SystemObject {
    /// Blocks until `call` is done, or the system is being closed by another thread.
    pub(crate) fn wait_for<T>(&self, call: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        let mut phase = self.phase();
        let result = block_on(&self.runtime, async {
            tokio::select! {
                biased;
                result = call => Some(result),
                _ = phase.wait_for(|phase| *phase >= Phase::Closing) => None,
            }
        })?;
        match result {
            // What a system that closes says of its parts, that they are not there, would mislead.
            Some(result) if result.is_ok() || *phase.borrow() == Phase::Open => result,
            _ => Err(closed()),
        }
    }

    /// Keeps a registration in mind, to end it with the system.
    pub(crate) fn ends_with_it(&self, registration: &Arc<RegistrationObject>) -> Result<(), Error> {
        let mut registrations = self.registrations.lock().unwrap_or_else(PoisonError::into_inner);
        registrations.retain(|known| known.strong_count() > 0);
        registrations.push(Arc::downgrade(registration));
        drop(registrations);
        self.require_open()
    }

    fn end_registrations(&self) {
        let all = std::mem::take(&mut *self.registrations.lock().unwrap_or_else(PoisonError::into_inner));
        all.iter().filter_map(Weak::upgrade).for_each(|registration| registration.end());
    }

    /// An error once it is being closed.
    pub(crate) fn require_open(&self) -> Result<(), Error> {
        match *self.phase.borrow() {
            Phase::Open => Ok(()),
            Phase::Closing | Phase::Closed => Err(closed()),
        }
    }

    /// The phase, for who must know of its changes.
    pub(crate) fn phase(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }
}

/// What ends with its system.
pub(crate) fn closed() -> Error {
    Error::new(ErrorKind::Cancelled, "the system was closed before the call was done")
}

/// Opens a system. Several may be open in one process; they do not see each other.
///
/// Ownership: options, and what they point to, are borrowed for the call; NULL means
/// HMS_SYSTEM_OPTIONS_INIT. *out is set to NULL first, and on success to a handle that
/// hms_system_close gives back.
///
/// Threads: any; blocks until the system is open, at most some 20 seconds.
///
/// Errors: HMS_ERR_INVALID_ARGUMENT; HMS_ERR_HOME_BUSY when another process owns a private home;
/// HMS_ERR_HOST_UNAVAILABLE, HMS_ERR_VERSION_MISMATCH or HMS_ERR_PROTOCOL when a host cannot be attached
/// to; HMS_ERR_INVALID_CONFIG, HMS_ERR_STORE_CORRUPT, HMS_ERR_STORE_NEWER, HMS_ERR_PERMISSION_DENIED,
/// HMS_ERR_DISK_FULL, HMS_ERR_IO when the home is in no state to be opened: it is left as it is.
///
/// Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hms_system_open(
    options: *const hms_system_options_t,
    out: *mut *mut hms_system_t,
) -> hms_status_t {
    guard("hms_system_open", || {
        // SAFETY: the caller's, as documented.
        let (out, options) = unsafe { (Out::new("out", out)?, input::versioned("options", options)?) };
        // SAFETY: the same.
        let how = unsafe { open_of(&options) }?;
        watch_forks()?;
        let runtime = Runtime::acquire()?;
        let system = block_on(&runtime, System::open(how))??;
        let phase = watch::Sender::new(Phase::Open);
        let registrations = Mutex::default();
        out.put(TABLE.insert(Arc::new(SystemObject { system, phase, registrations, runtime }))?);
        Ok(())
    })
}

/// # Safety
/// The texts of `options` are NULL or NUL-terminated.
unsafe fn open_of(options: &hms_system_options_t) -> Result<Open, Error> {
    // SAFETY: passed on.
    let (home, start_host) =
        unsafe { (input::path("home", options.home)?, input::path("host_program", options.host_program)?) };
    match options.mode {
        HMS_SYSTEM_PRIVATE if start_host.is_some() => {
            Err(Error::argument("host_program", "a private system has no host program"))
        }
        HMS_SYSTEM_PRIVATE => Ok(Open::Private { home }),
        HMS_SYSTEM_SHARED => Ok(Open::Shared { home, start_host }),
        other => Err(Error::argument("mode", format!("{other} is neither private (0) nor shared (1)"))),
    }
}

/// Closes a system. Of a private one the agents are ended, dependents first; with agents_stay, and a home
/// of its own, they go on running for whoever opens that home next. From a shared one this process only
/// detaches. What other threads are waiting for on this system ends with HMS_ERR_CANCELLED; its subscriptions
/// give what they still hold, and then end in that way too.
///
/// Ownership: *system is given back and set to NULL, also when an error is returned for what went wrong
/// while closing. NULL, or a pointer to NULL, is HMS_OK. With HMS_ERR_INVALID_HANDLE nothing is changed.
///
/// Threads: any; blocks until the agents have ended.
///
/// Errors: HMS_ERR_INVALID_HANDLE; HMS_ERR_WOULD_DEADLOCK in a callback, and nothing is changed; what closing
/// the store reports.
///
/// Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hms_system_close(system: *mut *mut hms_system_t, agents_stay: bool) -> hms_status_t {
    guard("hms_system_close", || {
        // SAFETY: the caller's, as documented.
        let Some(doomed) = (unsafe { Doomed::<SystemObject>::new(system) }) else { return Ok(()) };
        refuse_inside()?;
        let object = doomed.take()?;
        object.phase.send_replace(Phase::Closing);
        let closed = block_on(&object.runtime, object.system.close(agents_stay));
        object.phase.send_replace(Phase::Closed);
        object.end_registrations();
        Ok(closed??)
    })
}

/// Tells every open system of the process that a call panicked, without waiting.
pub(crate) fn announce_panic(call: &'static str, message: &str) {
    for object in TABLE.all::<SystemObject>() {
        let (system, data) = (object.system.clone(), json!({"call": call, "message": message}));
        object.runtime.handle().spawn(async move {
            // There is nobody left to tell that it could not be told.
            let _ = system.publish("system.call.panicked", None, data).await;
        });
    }
}

#[cfg(test)]
mod tests {
    use std::{ffi::CStr, ptr};

    use super::*;
    use crate::{
        HMS_ERR_PANIC, HMS_OK, hms_string_free, hms_subscription_create, hms_subscription_destroy,
        hms_subscription_next, hms_subscription_options_t,
    };

    #[test]
    fn the_initial_values_have_the_published_size() {
        assert_eq!(size_of::<hms_system_options_t>(), hms_system_options_t::FIRST_SIZE);
        assert_eq!(size_of::<crate::hms_event_t>(), crate::hms_event_t::FIRST_SIZE);
        assert_eq!(size_of::<crate::hms_cli_options_t>(), crate::hms_cli_options_t::FIRST_SIZE);
    }

    #[test]
    fn a_panic_is_an_event_of_every_open_system_and_ends_none() {
        let mut system = ptr::null_mut();
        let mut events = ptr::null_mut();
        let pattern = c"system.call.panicked".as_ptr();
        let options = hms_subscription_options_t {
            patterns: &raw const pattern,
            pattern_count: 1,
            ..hms_subscription_options_t::init()
        };
        // SAFETY: every pointer is NULL or to something that outlives the calls.
        unsafe {
            assert_eq!(hms_system_open(ptr::null(), &raw mut system), HMS_OK);
            assert_eq!(hms_subscription_create(system, &raw const options, &raw mut events), HMS_OK);
            assert_eq!(guard("hms_test", || panic!("out of luck")), HMS_ERR_PANIC);
            let mut json = ptr::null_mut();
            assert_eq!(hms_subscription_next(events, 1, 30_000, &raw mut json, ptr::null_mut()), HMS_OK);
            let text = CStr::from_ptr(json).to_str().unwrap().to_owned();
            assert!(text.contains("hms_test") && text.contains("out of luck"), "{text}");
            hms_string_free(json);
            assert_eq!(hms_subscription_destroy(&raw mut events), HMS_OK);
            assert_eq!(hms_system_close(&raw mut system, false), HMS_OK);
        }
    }
}
