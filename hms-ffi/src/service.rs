//! Services: looking one up, calling it, and offering one.

use std::{
    ffi::{CString, c_char, c_void},
    sync::{Arc, Weak},
    time::Duration,
};

use async_trait::async_trait;
use hms_core::{
    Error, ErrorKind,
    service::{Service, ServiceSpec},
};
use hms_runtime::FoundService;
use semver::VersionReq;
use serde_json::Value;

use crate::{
    gate::{Gate, Role, UserData},
    guard::guard,
    handle::{Doomed, TABLE},
    hms_drop_cb_t, input,
    operation::{OperationObject, Teller, hms_completion_cb_t, hms_operation_t},
    output::Out,
    registration::{RegistrationObject, hms_registration_t},
    reply::{Awaited, hms_reply_t},
    status::hms_status_t,
    system::{SystemObject, closed, hms_system_t},
};

/// A service that was looked up.
pub struct hms_service_t {
    _opaque: [u8; 0],
}

/// A call of a service, as its handler receives it. It and its texts last until the handler returns.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct hms_service_call_t {
    /// sizeof(hms_service_call_t) of the library.
    pub struct_size: usize,
    /// The id under which it was registered.
    pub service: *const c_char,
    /// The method that is called.
    pub method: *const c_char,
    /// Its argument, as JSON.
    pub args_json: *const c_char,
}

/// Answers the call of a service: with hms_reply_send or hms_reply_fail, before it returns or later, from any
/// thread, exactly once. What is never answered keeps its caller waiting until the caller's deadline.
///
/// It runs on threads of the library, several at a time, and may block, also on the system. It must not throw or
/// longjmp out.
pub type hms_service_call_cb_t = Option<
    unsafe extern "C" fn(call: *const hms_service_call_t, reply: *mut hms_reply_t, user_data: *mut c_void),
>;

/// What a service's handle refers to.
pub(crate) struct ServiceObject {
    system: Weak<SystemObject>,
    service: FoundService,
}

impl ServiceObject {
    async fn call(self: Arc<Self>, method: String, args: Value, deadline_ms: u64) -> Result<Value, Error> {
        self.service.call(&method, args, Duration::from_millis(deadline_ms)).await
    }
}

/// Lists the services there are: a JSON array of {"spec": {"id", "version", "summary", "methods" ...}, "owner"}.
///
/// Ownership: *out_json is set to NULL first, and on success to a text that hms_string_free frees.
///
/// Threads: any.
///
/// Errors: HMS_ERR_INVALID_HANDLE; HMS_ERR_INVALID_ARGUMENT; HMS_ERR_CANCELLED when the system is closed
/// meanwhile.
///
/// Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hms_service_list(
    system: *const hms_system_t,
    out_json: *mut *mut c_char,
) -> hms_status_t {
    guard("hms_service_list", || {
        // SAFETY: the caller's, as documented.
        let out = unsafe { Out::new("out_json", out_json) }?;
        let object = TABLE.get::<SystemObject>(system)?;
        Ok(out.put_text(object.wait_for(object.system.services())?.to_string())?)
    })
}

/// Looks a service up: the highest version of id that requirement allows, such as "^1.2"; NULL: any.
///
/// Ownership: id and requirement are borrowed for the call. *out is set to NULL first, and on success to a handle
/// that hms_service_release gives back. It does not keep the service: once who offers it has gone, calls fail.
///
/// Threads: any.
///
/// Errors: HMS_ERR_INVALID_HANDLE; HMS_ERR_INVALID_ARGUMENT; HMS_ERR_SERVICE_UNAVAILABLE, with the versions there
/// are; HMS_ERR_CANCELLED when the system is closed meanwhile.
///
/// Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hms_service_lookup(
    system: *const hms_system_t,
    id: *const c_char,
    requirement: *const c_char,
    out: *mut *mut hms_service_t,
) -> hms_status_t {
    guard("hms_service_lookup", || {
        // SAFETY: the caller's, as documented, here and below.
        let out = unsafe { Out::new("out", out) }?;
        let object = TABLE.get::<SystemObject>(system)?;
        let (id, requirement) =
            unsafe { (input::text("id", id)?, input::optional_text("requirement", requirement)?) };
        let requirement = requirement.map_or(Ok(VersionReq::STAR), VersionReq::parse);
        let requirement = requirement
            .map_err(|e| Error::argument("requirement", e).hint("write it as in `^1.2` or `>=1.0, <3`"))?;
        let service = object.wait_for(object.system.service(id, &requirement))?;
        out.put(TABLE.insert(Arc::new(ServiceObject { system: Arc::downgrade(&object), service }))?);
        Ok(())
    })
}

/// Gives what a service is: {"id", "version", "summary", "depends_on", "methods"}.
///
/// Ownership: *out_json is set to NULL first, and on success to a text that hms_string_free frees.
///
/// Threads: any; never blocks.
///
/// Errors: HMS_ERR_INVALID_HANDLE; HMS_ERR_INVALID_ARGUMENT.
///
/// Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hms_service_spec(
    service: *const hms_service_t,
    out_json: *mut *mut c_char,
) -> hms_status_t {
    guard("hms_service_spec", || {
        // SAFETY: the caller's, as documented.
        let out = unsafe { Out::new("out_json", out_json) }?;
        let object = TABLE.get::<ServiceObject>(service)?;
        Ok(out.put_text(serde_json::json!(object.service.spec()).to_string())?)
    })
}

/// Calls a method of a service and waits for its answer, at most deadline_ms.
///
/// Ownership: method and args_json (NULL: null) are borrowed for the call. *out_json is set to NULL first, and on
/// success to the answer, a text that hms_string_free frees.
///
/// Threads: any.
///
/// Errors: HMS_ERR_INVALID_HANDLE; HMS_ERR_INVALID_ARGUMENT; HMS_ERR_NOT_FOUND for a method that it does not have;
/// HMS_ERR_TIMEOUT; HMS_ERR_SERVICE_UNAVAILABLE when who offered it has gone; HMS_ERR_CANCELLED when the system is
/// closed; HMS_ERR_WOULD_DEADLOCK in a callback that must not wait; HMS_ERR_HANDLER_FAILED and what else the
/// service answers with.
///
/// Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hms_service_call(
    service: *const hms_service_t,
    method: *const c_char,
    args_json: *const c_char,
    deadline_ms: u64,
    out_json: *mut *mut c_char,
) -> hms_status_t {
    guard("hms_service_call", || {
        // SAFETY: the caller's, as documented, here and below.
        let out = unsafe { Out::new("out_json", out_json) }?;
        let object = TABLE.get::<ServiceObject>(service)?;
        let (method, args) =
            unsafe { (input::text("method", method)?.to_owned(), input::json("args_json", args_json)?) };
        let system = object.system.upgrade().ok_or_else(closed)?;
        Ok(out.put_text(system.wait_for(object.call(method, args, deadline_ms))?.to_string())?)
    })
}

/// As hms_service_call, without waiting: on_done is told the answer.
///
/// Ownership: method and args_json are borrowed for the call. Of user_data the operation keeps the pointer until it
/// calls drop with it, once, after on_done, and also when this call fails. *out is set to NULL first, and on
/// success to a handle that hms_operation_destroy gives back.
///
/// Threads: any; does not wait.
///
/// Errors: HMS_ERR_INVALID_HANDLE; HMS_ERR_INVALID_ARGUMENT; HMS_ERR_CANCELLED when the system is closed. All else
/// is told to on_done.
///
/// Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hms_service_call_async(
    service: *const hms_service_t,
    method: *const c_char,
    args_json: *const c_char,
    deadline_ms: u64,
    on_done: hms_completion_cb_t,
    user_data: *mut c_void,
    drop: hms_drop_cb_t,
    out: *mut *mut hms_operation_t,
) -> hms_status_t {
    guard("hms_service_call_async", || {
        let user = UserData::new(user_data, drop);
        // SAFETY: the caller's, as documented, here and below.
        let out = unsafe { Out::new("out", out) }?;
        let object = TABLE.get::<ServiceObject>(service)?;
        let (method, args) =
            unsafe { (input::text("method", method)?.to_owned(), input::json("args_json", args_json)?) };
        let system = object.system.upgrade().ok_or_else(closed)?;
        system.require_open()?;
        let call = object.call(method, args, deadline_ms);
        out.put(TABLE.insert(Arc::new(OperationObject::call(&system, Teller::new(user, on_done), call)))?);
        Ok(())
    })
}

/// Gives the handle of a service back.
///
/// Ownership: *service is given back and set to NULL. NULL, or a pointer to NULL, is HMS_OK. With
/// HMS_ERR_INVALID_HANDLE nothing is changed.
///
/// Threads: any; never blocks.
///
/// Errors: HMS_ERR_INVALID_HANDLE.
///
/// Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hms_service_release(service: *mut *mut hms_service_t) -> hms_status_t {
    guard("hms_service_release", || {
        // SAFETY: the caller's, as documented.
        if let Some(doomed) = unsafe { Doomed::<ServiceObject>::new(service) } {
            doomed.take()?;
        }
        Ok(())
    })
}

/// Offers a service to everybody in the system. spec_json says what it is: {"id": "my.adder", "version": "1.0.0"},
/// and if you like "summary" and "methods": {"add": {"summary": "..."}}; where it has methods, others are refused
/// before they reach on_call.
///
/// Ownership: spec_json is borrowed for the call. Of user_data the registration keeps the pointer until it calls
/// drop with it, once, when it has ended (by hms_registration_destroy or with its system) and no on_call runs, and
/// also when this call fails. *out is set to NULL first, and on success to a handle that hms_registration_destroy
/// gives back.
///
/// Threads: any.
///
/// Errors: HMS_ERR_INVALID_HANDLE; HMS_ERR_INVALID_ARGUMENT; HMS_ERR_ALREADY_EXISTS when that id and version are
/// taken; HMS_ERR_CANCELLED when the system is closed meanwhile.
///
/// Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hms_service_register(
    system: *const hms_system_t,
    spec_json: *const c_char,
    on_call: hms_service_call_cb_t,
    user_data: *mut c_void,
    drop: hms_drop_cb_t,
    out: *mut *mut hms_registration_t,
) -> hms_status_t {
    guard("hms_service_register", || {
        let user = UserData::new(user_data, drop);
        // SAFETY: the caller's, as documented, here and below.
        let out = unsafe { Out::new("out", out) }?;
        let object = TABLE.get::<SystemObject>(system)?;
        let spec: ServiceSpec = unsafe { input::typed("spec_json", spec_json) }?;
        let on_call =
            on_call.ok_or_else(|| Error::argument("on_call", "NULL, but a service has to answer"))?;
        let gate = Gate::new(user);
        let id =
            CString::new(spec.id.clone()).map_err(|_| Error::argument("spec_json", "the id has a NUL"))?;
        let service = Arc::new(CService { id, on_call, gate: gate.clone() });
        let registration = object.wait_for(object.system.offer_service(spec, service))?;
        out.put(RegistrationObject::insert(&object, registration, gate)?);
        Ok(())
    })
}

/// A service that the program answers.
struct CService {
    id: CString,
    on_call: unsafe extern "C" fn(*const hms_service_call_t, *mut hms_reply_t, *mut c_void),
    gate: Arc<Gate>,
}

impl CService {
    fn hand_over(&self, method: &str, args: &Value) -> Result<Awaited, Error> {
        let gone = || {
            let id = self.id.to_string_lossy();
            Error::new(ErrorKind::ServiceUnavailable, format!("service `{id}` was taken back"))
        };
        let method = CString::new(method).map_err(|_| Error::argument("method", "has a NUL"))?;
        // JSON escapes a NUL.
        let args = CString::new(args.to_string()).unwrap_or_default();
        let awaited = Awaited::new(None)?;
        let call = hms_service_call_t {
            struct_size: size_of::<hms_service_call_t>(),
            service: self.id.as_ptr(),
            method: method.as_ptr(),
            args_json: args.as_ptr(),
        };
        let entered = self.gate.enter(Role::Answers).ok_or_else(gone)?;
        // SAFETY: the caller promised a function that takes these, which last until it returns.
        unsafe { (self.on_call)(&raw const call, awaited.handle(), entered.user_data()) }
        Ok(awaited)
    }
}

#[async_trait]
impl Service for CService {
    async fn call(&self, method: &str, args: Value) -> Result<Value, Error> {
        self.hand_over(method, &args)?.answer().await
    }

    fn blocks(&self) -> bool {
        true
    }
}
