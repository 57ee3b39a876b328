//! Registrations: what the program offers to a system (services, commands, agent types), for as long as it does.

use std::sync::{Arc, Weak};

use hms_core::Error;
use hms_runtime::Registration;

use crate::{
    gate::Gate,
    guard::guard,
    handle::{Doomed, TABLE},
    status::hms_status_t,
    system::SystemObject,
};

/// Something that the program offers.
pub struct hms_registration_t {
    _opaque: [u8; 0],
}

/// What a registration's handle refers to.
pub(crate) struct RegistrationObject {
    registration: Registration,
    gate: Arc<Gate>,
}

impl RegistrationObject {
    /// A handle for it. With its system it ends, too.
    pub(crate) fn insert(
        system: &SystemObject,
        registration: Registration,
        gate: Arc<Gate>,
    ) -> Result<*mut hms_registration_t, Error> {
        let object = Arc::new(Self { registration, gate });
        if let Err(e) = system.ends_with_it(&object) {
            object.end();
            return Err(e);
        }
        TABLE.insert(object)
    }

    /// Takes it back, and lets go of the user data when no callback runs any more.
    pub(crate) fn end(&self) {
        self.registration.end();
        self.gate.close();
    }
}

/// The registrations of a system, which end with it.
pub(crate) type Registrations = Vec<Weak<RegistrationObject>>;

/// Takes back what was registered. Calls under way are still answered, if their handlers do; agents of a type wait
/// for another provider of it. When this returns, no callback of it runs and none ever will, and drop has run;
/// within such a callback it returns at once, and drop runs when that has returned.
///
/// Ownership: *registration is given back and set to NULL. NULL, or a pointer to NULL, is HMS_OK. With
/// HMS_ERR_INVALID_HANDLE nothing is changed.
///
/// Threads: any; waits for callbacks that run.
///
/// Errors: HMS_ERR_INVALID_HANDLE.
///
/// Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hms_registration_destroy(
    registration: *mut *mut hms_registration_t,
) -> hms_status_t {
    guard("hms_registration_destroy", || {
        // SAFETY: the caller's, as documented.
        let Some(doomed) = (unsafe { Doomed::<RegistrationObject>::new(registration) }) else {
            return Ok(());
        };
        let object = doomed.take()?;
        object.end();
        object.gate.wait();
        Ok(())
    })
}
