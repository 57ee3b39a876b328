//! Agent types of the program's own: a table of functions that the library calls for each agent of the type.

use std::{
    ffi::{CString, c_char, c_void},
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use hms_core::{
    Error, ErrorKind,
    agent::{
        AgentContext, AgentTypeSpec, Behaviour, BehaviourFactory, ExitReport, Health, Issue, Message,
        Snapshot, Started, Stop,
    },
};
use semver::Version;
use serde_json::{Value, json};

use crate::{
    gate::{Gate, Hold, Role, UserData},
    guard::guard,
    handle::TABLE,
    hms_drop_cb_t,
    input::{self, Versioned},
    output::Out,
    registration::{RegistrationObject, hms_registration_t},
    reply::{Awaited, hms_reply_t},
    status::{self, HMS_OK, hms_status_t},
    system::{SystemObject, hms_system_t},
};

/// What an agent of the program's own is told of itself, and by which it tells: of one life.
pub struct hms_life_t {
    _opaque: [u8; 0],
}

/// What create is told. It and its texts last until create returns.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct hms_agent_info_t {
    /// sizeof(hms_agent_info_t) of the library.
    pub struct_size: usize,
    /// The agent's id.
    pub id: *const c_char,
    /// Its name.
    pub name: *const c_char,
    /// Its configuration, a JSON object that fits the type's schema, defaults filled in.
    pub config_json: *const c_char,
    /// Which life begins, ascending over the agent's restarts.
    pub incarnation: u64,
    /// The life, to report by. It is the library's; it goes stale when the life has ended.
    pub life: *mut hms_life_t,
}

/// A message, as handle receives it. It and its texts last until handle returns.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct hms_message_t {
    /// sizeof(hms_message_t) of the library.
    pub struct_size: usize,
    /// Who sends it: an agent's id, or a name.
    pub source: *const c_char,
    /// What it says, as JSON.
    pub message_json: *const c_char,
}

/// How an agent is asked to end: one of HMS_STOP_...
pub type hms_stop_t = i32;

/// It shall end its work in an orderly way.
pub const HMS_STOP_GRACEFUL: hms_stop_t = 0;
/// It shall end at once.
pub const HMS_STOP_KILL: hms_stop_t = 1;

/// What the agents of a type do. Initialise it with HMS_AGENT_VTABLE_INIT; only create is needed.
///
/// Each life of an agent is an instance. create makes it, then restore (if there is a snapshot) and start; later
/// handle, one message at a time, and health and snapshot, which may run while handle does; at the end stop, and
/// last of all destroy. user_data is that of the type.
///
/// The functions run on threads of the library and may block, also on the system. One that does not return by its
/// deadline (30 seconds to start, a minute to handle) fails, and several that hang end in quarantine. None may
/// throw or longjmp out. Where a function returns a status, anything but HMS_OK is a failure.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct hms_agent_vtable_t {
    /// sizeof(hms_agent_vtable_t); HMS_AGENT_VTABLE_INIT sets it.
    pub struct_size: usize,
    /// Makes the instance of a life, to *instance. With a failure there is none, and destroy is not called.
    pub create: Option<
        unsafe extern "C" fn(
            info: *const hms_agent_info_t,
            user_data: *mut c_void,
            instance: *mut *mut c_void,
        ) -> hms_status_t,
    >,
    /// Begins its work. With HMS_OK it does it, unless *pending is set to true: then hms_life_ready says when.
    pub start: Option<unsafe extern "C" fn(instance: *mut c_void, pending: *mut bool) -> hms_status_t>,
    /// Answers a message by the reply, before it returns or later, exactly once. NULL: it takes none.
    pub handle: Option<
        unsafe extern "C" fn(instance: *mut c_void, message: *const hms_message_t, reply: *mut hms_reply_t),
    >,
    /// Finds out how well it is and answers with a health, as hms_agent_health gives one; or with null, for
    /// healthy. NULL: it is healthy unless hms_life_health says otherwise.
    pub health: Option<unsafe extern "C" fn(instance: *mut c_void, reply: *mut hms_reply_t)>,
    /// Answers with its state, any JSON, for the next life. NULL: it has none.
    pub snapshot: Option<unsafe extern "C" fn(instance: *mut c_void, reply: *mut hms_reply_t)>,
    /// Takes over the state of an earlier life, before start. NULL: it is ignored.
    pub restore: Option<
        unsafe extern "C" fn(
            instance: *mut c_void,
            state_version: u32,
            state_json: *const c_char,
        ) -> hms_status_t,
    >,
    /// Ends its work; returns when nothing of it is left. how is HMS_STOP_GRACEFUL or HMS_STOP_KILL.
    pub stop: Option<unsafe extern "C" fn(instance: *mut c_void, how: hms_stop_t) -> hms_status_t>,
    /// Frees the instance. Nothing is called with it any more.
    pub destroy: Option<unsafe extern "C" fn(instance: *mut c_void)>,
}

// SAFETY: an integer and optional function pointers, of which the caller gives valid ones; `struct_size` is first.
unsafe impl Versioned for hms_agent_vtable_t {
    const INIT: &'static str = "HMS_AGENT_VTABLE_INIT";
    const FIRST_SIZE: usize = 72;

    fn init() -> Self {
        Self {
            struct_size: size_of::<Self>(),
            create: None,
            start: None,
            handle: None,
            health: None,
            snapshot: None,
            restore: None,
            stop: None,
            destroy: None,
        }
    }
}

/// What a life's handle refers to.
pub(crate) struct LifeObject(AgentContext);

/// Offers an agent type to the system: agents of it can be created by anybody, and those that wait for it start.
/// spec_json says what it is: {"name": "counter", "version": "1.0.0", "schema": {a JSON Schema of an object}}, and
/// if you like "summary", "state_version" (of snapshots) and "tunables".
///
/// Ownership: spec_json and vtable are borrowed for the call and copied. Of user_data the registration keeps the
/// pointer until it calls drop with it, once, when it has ended (by hms_registration_destroy or with its system)
/// and every instance was destroyed, and also when this call fails. *out is set to NULL first, and on success to a
/// handle that hms_registration_destroy gives back: that ends the lives of the type's agents, which then wait
/// until somebody offers it again.
///
/// Threads: any.
///
/// Errors: HMS_ERR_INVALID_HANDLE; HMS_ERR_INVALID_ARGUMENT; HMS_ERR_INVALID_CONFIG for a schema that is none;
/// HMS_ERR_VERSION_MISMATCH when another version of it is offered; HMS_ERR_CANCELLED when the system is closed
/// meanwhile.
///
/// Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hms_agent_type_register(
    system: *const hms_system_t,
    spec_json: *const c_char,
    vtable: *const hms_agent_vtable_t,
    user_data: *mut c_void,
    drop: hms_drop_cb_t,
    out: *mut *mut hms_registration_t,
) -> hms_status_t {
    guard("hms_agent_type_register", || {
        let user = UserData::new(user_data, drop);
        // SAFETY: the caller's, as documented, here and below.
        let out = unsafe { Out::new("out", out) }?;
        let object = TABLE.get::<SystemObject>(system)?;
        let mut spec = unsafe { input::json("spec_json", spec_json) }?;
        if let Value::Object(fields) = &mut spec {
            fields
                .entry("schema")
                .or_insert_with(|| json!({"type": "object", "additionalProperties": false}));
            fields.entry("version").or_insert_with(|| Version::new(0, 0, 0).to_string().into());
        }
        let spec: AgentTypeSpec =
            serde_json::from_value(spec).map_err(|e| Error::argument("spec_json", e))?;
        let vtable: hms_agent_vtable_t = unsafe { input::versioned("vtable", vtable) }?;
        if vtable.create.is_none() {
            return Err(Error::argument("vtable", "create is NULL, but each life begins with it").into());
        }
        let gate = Gate::new(user);
        let factory = Arc::new(CType { vtable, gate: gate.clone(), state_version: spec.state_version });
        let registration = object.wait_for(object.system.offer_type(spec, factory))?;
        out.put(RegistrationObject::insert(&object, registration, gate)?);
        Ok(())
    })
}

/// Says that an agent does its work now, after a start that left it pending.
///
/// Ownership: nothing changes hands.
///
/// Threads: any; never blocks.
///
/// Errors: HMS_ERR_INVALID_HANDLE when that life has ended.
///
/// Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hms_life_ready(life: *const hms_life_t) -> hms_status_t {
    guard("hms_life_ready", || {
        TABLE.get::<LifeObject>(life)?.0.ready();
        Ok(())
    })
}

/// Says that an agent came to its end by itself. Supervision decides what follows: a restart, by its policy.
///
/// Ownership: reason is borrowed for the call.
///
/// Threads: any; never blocks. clean is whether that counts as success.
///
/// Errors: HMS_ERR_INVALID_HANDLE when that life has ended; HMS_ERR_INVALID_ARGUMENT.
///
/// Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hms_life_exited(
    life: *const hms_life_t,
    clean: bool,
    reason: *const c_char,
) -> hms_status_t {
    guard("hms_life_exited", || {
        let object = TABLE.get::<LifeObject>(life)?;
        // SAFETY: the caller's, as documented.
        let reason = unsafe { input::text("reason", reason) }?.to_owned();
        object.0.exited(ExitReport { clean, reason, code: None, signal: None });
        Ok(())
    })
}

/// Says how well an agent is, when that changes: a health, as hms_agent_health gives one.
///
/// Ownership: health_json is borrowed for the call.
///
/// Threads: any; never blocks.
///
/// Errors: HMS_ERR_INVALID_HANDLE when that life has ended; HMS_ERR_INVALID_ARGUMENT.
///
/// Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hms_life_health(
    life: *const hms_life_t,
    health_json: *const c_char,
) -> hms_status_t {
    guard("hms_life_health", || {
        let object = TABLE.get::<LifeObject>(life)?;
        // SAFETY: the caller's, as documented.
        object.0.health(unsafe { input::typed("health_json", health_json) }?);
        Ok(())
    })
}

/// A type that the program implements.
struct CType {
    vtable: hms_agent_vtable_t,
    gate: Arc<Gate>,
    state_version: u32,
}

impl BehaviourFactory for CType {
    fn create(&self, config: &Value) -> Result<Arc<dyn Behaviour>, Error> {
        let gone = || Error::new(ErrorKind::TypeUnavailable, "its type was taken back");
        let hold = self.gate.hold().ok_or_else(gone)?;
        // Held before the instance exists: what is asked for here is only whether there could be one.
        Ok(Arc::new(CAgent {
            life: Arc::new(CLife {
                vtable: self.vtable,
                instance: Mutex::new(None),
                handle: Mutex::new(0),
                hold,
            }),
            config: config.clone(),
            state_version: self.state_version,
            snapshot: Mutex::new(None),
        }))
    }
}

/// One life of an agent that the program implements.
struct CAgent {
    life: Arc<CLife>,
    config: Value,
    state_version: u32,
    /// What start hands to the instance first.
    snapshot: Mutex<Option<Snapshot>>,
}

struct CLife {
    vtable: hms_agent_vtable_t,
    /// Set by start.
    instance: Mutex<Option<Instance>>,
    /// Of the life, for the program; 0: none yet.
    handle: Mutex<usize>,
    // After the instance, which is destroyed while the user data is there.
    hold: Hold,
}

/// The program's instance, which is destroyed with this.
struct Instance {
    pointer: *mut c_void,
    destroy: Option<unsafe extern "C" fn(*mut c_void)>,
    hold: Hold,
}

// SAFETY: hms_agent_vtable_t says that its functions run on threads of the library.
unsafe impl Send for Instance {}

impl Drop for Instance {
    fn drop(&mut self) {
        if let Some(destroy) = self.destroy {
            let _entered = self.hold.enter(Role::Answers);
            // SAFETY: the caller promised a function that takes it; nothing else is called with it any more.
            unsafe { destroy(self.pointer) }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn c_text(text: &str) -> CString {
    CString::new(text.replace('\0', "\u{fffd}")).unwrap_or_default()
}

/// What a function of the program's reports.
fn check(status: hms_status_t, what: &str) -> Result<(), Error> {
    match status::kind_of(status) {
        _ if status == HMS_OK => Ok(()),
        kind => Err(Error::new(kind.unwrap_or(ErrorKind::HandlerFailed), format!("its {what} failed"))),
    }
}

impl CLife {
    fn instance(&self) -> Result<*mut c_void, Error> {
        let none = || Error::new(ErrorKind::InvalidState, "it has not started");
        lock(&self.instance).as_ref().map(|instance| instance.pointer).ok_or_else(none)
    }

    fn create(&self, cx: &AgentContext, config: &Value) -> Result<*mut c_void, Error> {
        let handle = TABLE.insert(Arc::new(LifeObject(cx.clone())))?;
        *lock(&self.handle) = handle as usize;
        let (id, name, config) = (c_text(cx.id()), c_text(&cx.name()), c_text(&config.to_string()));
        let info = hms_agent_info_t {
            struct_size: size_of::<hms_agent_info_t>(),
            id: id.as_ptr(),
            name: name.as_ptr(),
            config_json: config.as_ptr(),
            incarnation: cx.incarnation(),
            life: handle,
        };
        let create = self.vtable.create.ok_or_else(|| Error::internal("a type without create"))?;
        let mut instance = std::ptr::null_mut();
        let entered = self.hold.enter(Role::Answers);
        // SAFETY: the caller promised functions that take what their types say; texts last until they return.
        let status = unsafe { create(&raw const info, entered.user_data(), &raw mut instance) };
        check(status, "create")?;
        let (destroy, hold) = (self.vtable.destroy, entered.hold());
        *lock(&self.instance) = Some(Instance { pointer: instance, destroy, hold });
        Ok(instance)
    }

    fn start(&self, cx: &AgentContext, config: &Value, state: Option<Snapshot>) -> Result<Started, Error> {
        let instance = self.create(cx, config)?;
        if let (Some(restore), Some(state)) = (self.vtable.restore, state) {
            let text = CString::new(state.data).map_err(|_| Error::internal("a snapshot has a NUL"))?;
            let _entered = self.hold.enter(Role::Answers);
            // SAFETY: as in create.
            check(unsafe { restore(instance, state.state_version, text.as_ptr()) }, "restore")?;
        }
        let Some(start) = self.vtable.start else { return Ok(Started::Ready) };
        let mut pending = false;
        let _entered = self.hold.enter(Role::Answers);
        // SAFETY: as in create.
        check(unsafe { start(instance, &raw mut pending) }, "start")?;
        Ok(if pending { Started::Pending } else { Started::Ready })
    }

    fn handle(&self, message: &Message) -> Result<Awaited, Error> {
        let unwanted = || Error::new(ErrorKind::NotSupported, "this agent takes no messages");
        let handle = self.vtable.handle.ok_or_else(unwanted)?;
        let (source, body) = (c_text(&message.source), c_text(&message.body.to_string()));
        let message = hms_message_t {
            struct_size: size_of::<hms_message_t>(),
            source: source.as_ptr(),
            message_json: body.as_ptr(),
        };
        let instance = self.instance()?;
        let awaited = Awaited::new(None)?;
        let _entered = self.hold.enter(Role::Answers);
        // SAFETY: as in create.
        unsafe { handle(instance, &raw const message, awaited.handle()) }
        Ok(awaited)
    }

    /// Asks what answers by a reply alone.
    fn asked(&self, f: unsafe extern "C" fn(*mut c_void, *mut hms_reply_t)) -> Result<Awaited, Error> {
        let instance = self.instance()?;
        let awaited = Awaited::new(None)?;
        let _entered = self.hold.enter(Role::Answers);
        // SAFETY: as in create.
        unsafe { f(instance, awaited.handle()) }
        Ok(awaited)
    }

    fn stop(&self, how: Stop) -> Result<(), Error> {
        // Reports of a life that ends are not wanted any more.
        let _ = TABLE.take::<LifeObject>(std::mem::take(&mut *lock(&self.handle)) as *const hms_life_t);
        let Ok(instance) = self.instance() else { return Ok(()) };
        let Some(stop) = self.vtable.stop else { return Ok(()) };
        let how = match how {
            // A program's own agents live in it: there is nobody they could be left to.
            Stop::Graceful(_) | Stop::Detach => HMS_STOP_GRACEFUL,
            Stop::Kill => HMS_STOP_KILL,
        };
        let _entered = self.hold.enter(Role::Answers);
        // SAFETY: as in create.
        check(unsafe { stop(instance, how) }, "stop")
    }
}

impl Drop for CLife {
    fn drop(&mut self) {
        let _ = TABLE.take::<LifeObject>(*lock(&self.handle) as *const hms_life_t);
        let instance = lock(&self.instance).take();
        // Where it may block; without a runtime, or when that ends, right here.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn_blocking(move || drop(instance));
        }
    }
}

#[async_trait]
impl Behaviour for CAgent {
    async fn start(&self, cx: &AgentContext) -> Result<Started, Error> {
        let state = lock(&self.snapshot).take();
        self.life.start(cx, &self.config, state)
    }

    async fn handle(&self, _cx: &AgentContext, message: Message) -> Result<Value, Error> {
        let awaited = self.life.handle(&message)?;
        awaited.answer().await
    }

    async fn health(&self) -> Health {
        let Some(health) = self.life.vtable.health else { return Health::healthy() };
        let answer = match self.life.asked(health) {
            Ok(awaited) => awaited.answer().await,
            Err(e) => Err(e),
        };
        let told = answer.and_then(|health| match health {
            Value::Null => Ok(Health::healthy()),
            health => serde_json::from_value(health)
                .map_err(|e| Error::new(ErrorKind::HandlerFailed, format!("its answer is no health: {e}"))),
        });
        told.unwrap_or_else(|e| Health::of(vec![Issue::critical("health-check", e.message)]))
    }

    fn needs_checks(&self) -> bool {
        self.life.vtable.health.is_some()
    }

    fn blocks(&self) -> bool {
        true
    }

    async fn stop(&self, how: Stop) -> Result<(), Error> {
        self.life.stop(how)
    }

    async fn snapshot(&self) -> Option<Snapshot> {
        let awaited = self.life.asked(self.life.vtable.snapshot?).ok()?;
        let state = awaited.answer().await.ok()?;
        Some(Snapshot { state_version: self.state_version, data: state.to_string().into_bytes() })
    }

    async fn restore(&self, snapshot: Snapshot) -> Result<(), Error> {
        *lock(&self.snapshot) = Some(snapshot);
        Ok(())
    }
}
