/*
 * hms.h - libhms, the self-healing runtime, in C.
 *
 * Generated from hms-ffi/src by `cargo xtask header`; do not edit. The guide is docs/c-abi.md.
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */

#ifndef HMS_H
#define HMS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/* ---- Versions ------------------------------------------------------------------------------------------ */

/** The ABI major: equal majors fit each other. The shared library is named after it. */
#define HMS_ABI_VERSION_MAJOR 0
/** The ABI minor: a library serves programs that were built for its own minor or a lower one. */
#define HMS_ABI_VERSION_MINOR 1

/**
 * The ABI version of the library at run time: the major in the upper 16 bits, the minor in the lower.
 *
 * Ownership: nothing changes hands.
 * Threads: any, also in the child of a fork.
 * Errors: none.
 * Since: 0.1.
 */
uint32_t hms_abi_version(void);

/**
 * The version of the library, such as "0.1.0".
 *
 * Ownership: the text is static; never free it.
 * Threads: any, also in the child of a fork.
 * Errors: none.
 * Since: 0.1.
 */
const char *hms_version(void);

/* ---- Statuses and messages ----------------------------------------------------------------------------- */

/** What a call returns: HMS_OK, or one of the negative HMS_ERR_... values, which are fixed for ever. */
typedef int32_t hms_status_t;

/** The call succeeded. */
#define HMS_OK 0
/** An argument is missing, malformed or out of range; nothing was changed. */
#define HMS_ERR_INVALID_ARGUMENT -1
/** A handle is stale, forged, destroyed, or of another kind. */
#define HMS_ERR_INVALID_HANDLE -2
/** A configuration does not fit its schema. */
#define HMS_ERR_INVALID_CONFIG -3
/** The named thing does not exist. */
#define HMS_ERR_NOT_FOUND -4
/** The name or id is taken. */
#define HMS_ERR_ALREADY_EXISTS -5
/** The thing exists, but its state does not allow the operation. */
#define HMS_ERR_INVALID_STATE -6
/** The time was up first. */
#define HMS_ERR_TIMEOUT -7
/** It was cancelled, or what it waited on has ended. */
#define HMS_ERR_CANCELLED -8
/** Waiting here would wait for the caller itself. */
#define HMS_ERR_WOULD_DEADLOCK -9
/** A bounded queue is full and its policy is to refuse. */
#define HMS_ERR_QUEUE_FULL -10
/** No running process offers the agent's type. */
#define HMS_ERR_TYPE_UNAVAILABLE -11
/** The agent that was meant has been destroyed. */
#define HMS_ERR_AGENT_GONE -12
/** No service answers to that id and version. */
#define HMS_ERR_SERVICE_UNAVAILABLE -13
/** Two parts speak different versions. */
#define HMS_ERR_VERSION_MISMATCH -14
/** The operating system refused for lack of rights. */
#define HMS_ERR_PERMISSION_DENIED -15
/** This build or platform cannot do it. */
#define HMS_ERR_NOT_SUPPORTED -16
/** There is no host and none could be started, or it went away. */
#define HMS_ERR_HOST_UNAVAILABLE -17
/** Another process owns the home. */
#define HMS_ERR_HOME_BUSY -18
/** The other side broke the protocol. */
#define HMS_ERR_PROTOCOL -19
/** The database cannot be read. */
#define HMS_ERR_STORE_CORRUPT -20
/** The database was written by a newer version. */
#define HMS_ERR_STORE_NEWER -21
/** The disk is full. */
#define HMS_ERR_DISK_FULL -22
/** Another error of the operating system. */
#define HMS_ERR_IO -23
/** A handler (of an agent, a service or a command) reported a failure. */
#define HMS_ERR_HANDLER_FAILED -24
/** A panic was contained; the process lives. */
#define HMS_ERR_PANIC -25
/** The call comes from the child of a fork, where the library does nothing. */
#define HMS_ERR_FORKED -26
/** A defect in HMS. */
#define HMS_ERR_INTERNAL -27

/**
 * The name of a status, such as "HMS_ERR_NOT_FOUND"; "unknown status" of any other number.
 *
 * Ownership: the text is static; never free it.
 * Threads: any, also in the child of a fork.
 * Errors: none.
 * Since: 0.1.
 */
const char *hms_status_name(hms_status_t status);

/**
 * What went wrong in this thread's last call, for people: what, where, and what to do about it. Empty
 * when that call succeeded. Every call but hms_last_error_message, hms_status_name, hms_version,
 * hms_abi_version and hms_string_free starts by clearing it.
 *
 * Ownership: the text belongs to the library and lasts until this thread's next call; never free it.
 * Threads: any; each sees its own message.
 * Errors: none. Never NULL.
 * Since: 0.1.
 */
const char *hms_last_error_message(void);

/* ---- Memory -------------------------------------------------------------------------------------------- */

/**
 * Lets go of the user_data of a callback: called once, when no callback runs any more that is given it and none
 * will. Calls that take one say when that is, and call it too when they fail. It runs on whichever thread was the
 * last to need user_data, maybe within the call itself.
 */
typedef void (*hms_drop_cb_t)(void *user_data);

/**
 * Frees a text that the library returned through a `char **`.
 *
 * Ownership: takes `text`, which nobody may use afterwards. NULL is accepted and ignored.
 * Threads: any, not only the one that received it.
 * Errors: none.
 * Since: 0.1.
 */
void hms_string_free(char *text);

/* ---- Systems ------------------------------------------------------------------------------------------- */

/** An open system. */
typedef struct hms_system_t hms_system_t;

/** How a system is opened: HMS_SYSTEM_PRIVATE or HMS_SYSTEM_SHARED. */
typedef int32_t hms_system_mode_t;

/** In this process alone: ephemeral, or on a home of its own that nobody else may use meanwhile. */
#define HMS_SYSTEM_PRIVATE 0
/** Attached to the host of a home, which other processes share. */
#define HMS_SYSTEM_SHARED 1

/** What hms_system_open is told. Initialise it with HMS_SYSTEM_OPTIONS_INIT. */
typedef struct hms_system_options_t {
    /** sizeof(hms_system_options_t); HMS_SYSTEM_OPTIONS_INIT sets it. */
    size_t struct_size;
    /** HMS_SYSTEM_PRIVATE (initial) or HMS_SYSTEM_SHARED. */
    hms_system_mode_t mode;
    /**
     * The path of the home. NULL: private, an ephemeral one that is removed by hms_system_close; shared,
     * $HMS_HOME or else the user's own.
     */
    const char *home;
    /**
     * Shared: the program that runs a host when there is none, as `<program> system run`; NULL: start
     * none. Private: must be NULL.
     */
    const char *host_program;
} hms_system_options_t;

/** The initial value of a hms_system_options_t: a private, ephemeral system. */
#define HMS_SYSTEM_OPTIONS_INIT { sizeof(hms_system_options_t), HMS_SYSTEM_PRIVATE, NULL, NULL }

/**
 * Opens a system. Several may be open in one process; they do not see each other.
 *
 * Ownership: options, and what they point to, are borrowed for the call; NULL means
 * HMS_SYSTEM_OPTIONS_INIT. *out is set to NULL first, and on success to a handle that
 * hms_system_close gives back.
 * Threads: any; blocks until the system is open, at most some 20 seconds.
 * Errors: HMS_ERR_INVALID_ARGUMENT; HMS_ERR_HOME_BUSY when another process owns a private home;
 * HMS_ERR_HOST_UNAVAILABLE, HMS_ERR_VERSION_MISMATCH or HMS_ERR_PROTOCOL when a host cannot be attached
 * to; HMS_ERR_INVALID_CONFIG, HMS_ERR_STORE_CORRUPT, HMS_ERR_STORE_NEWER, HMS_ERR_PERMISSION_DENIED,
 * HMS_ERR_DISK_FULL, HMS_ERR_IO when the home is in no state to be opened: it is left as it is.
 * Since: 0.1.
 */
hms_status_t hms_system_open(const hms_system_options_t *options, hms_system_t **out);

/**
 * Closes a system. Of a private one the agents are ended, dependents first; with agents_stay, and a home
 * of its own, they go on running for whoever opens that home next. From a shared one this process only
 * detaches. What other threads are waiting for on this system ends with HMS_ERR_CANCELLED; its subscriptions
 * give what they still hold, and then end in that way too.
 *
 * Ownership: *system is given back and set to NULL, also when an error is returned for what went wrong
 * while closing. NULL, or a pointer to NULL, is HMS_OK. With HMS_ERR_INVALID_HANDLE nothing is changed.
 * Threads: any; blocks until the agents have ended.
 * Errors: HMS_ERR_INVALID_HANDLE; HMS_ERR_WOULD_DEADLOCK in a callback, and nothing is changed; what closing
 * the store reports.
 * Since: 0.1.
 */
hms_status_t hms_system_close(hms_system_t **system, bool agents_stay);

/* ---- Operations ---------------------------------------------------------------------------------------- */

/** Work that is under way, or done. */
typedef struct hms_operation_t hms_operation_t;

/**
 * Is told how an operation ended, once, whatever becomes of it. status is HMS_OK or an error, message says what
 * went wrong ("" otherwise), result_json is the result (NULL on failure). The texts last until it returns.
 *
 * It runs on a thread of the library, and may do so before the call that began the operation returns. It must not
 * wait for the system: such calls give HMS_ERR_WOULD_DEADLOCK. It must not throw or longjmp out.
 */
typedef void (*hms_completion_cb_t)(hms_status_t status,
                                    const char *message,
                                    const char *result_json,
                                    void *user_data);

/**
 * Waits until an operation is done, and its completion has been told. May be asked again, and by several
 * threads: the answer stays.
 *
 * Ownership: *exit_code, unless exit_code is NULL, is set on success: to that of a command line, and to 0 after a
 * call, whose result hms_operation_result gives.
 * Threads: any. timeout_ms is how long to wait: 0 not at all, HMS_WAIT_FOREVER as long as it takes.
 * Errors: HMS_ERR_TIMEOUT when it goes on; HMS_ERR_PANIC when it panicked; HMS_ERR_CANCELLED when it was
 * cancelled, destroyed meanwhile, or its system closed; HMS_ERR_INVALID_HANDLE; HMS_ERR_WOULD_DEADLOCK in a
 * callback; and what the call reports. A command line that ended badly by its own account is HMS_OK here, with
 * its exit code.
 * Since: 0.1.
 */
hms_status_t hms_operation_wait(const hms_operation_t *operation,
                                int64_t timeout_ms,
                                int32_t *exit_code);

/**
 * Gives the result of an operation that is done.
 *
 * Ownership: *result_json is set to NULL first, and on success to the result as JSON text (of a command line
 * "null"), which hms_string_free frees.
 * Threads: any; never blocks.
 * Errors: HMS_ERR_INVALID_STATE while it goes on (its own completion included, which has the result);
 * HMS_ERR_INVALID_HANDLE; HMS_ERR_INVALID_ARGUMENT; and what the call reported.
 * Since: 0.1.
 */
hms_status_t hms_operation_result(const hms_operation_t *operation, char **result_json);

/**
 * Asks an operation to end, and does not wait. It still has exactly one outcome; the first request
 * counts. signal is the number of the signal that was received, or 0: a command line ends as one that
 * this signal interrupted, a call with HMS_ERR_CANCELLED.
 *
 * Ownership: nothing changes hands.
 * Threads: any; never blocks. Not for signal handlers: call it from a thread that learned of the signal.
 * Errors: HMS_ERR_INVALID_HANDLE; HMS_ERR_INVALID_ARGUMENT for a negative signal.
 * Since: 0.1.
 */
hms_status_t hms_operation_cancel(const hms_operation_t *operation, int32_t signal);

/**
 * Gives an operation back. One that still goes on is stopped where it stands, and completes with
 * HMS_ERR_CANCELLED: for an orderly end, cancel and wait first.
 *
 * Ownership: *operation is given back and set to NULL. NULL, or a pointer to NULL, is HMS_OK. With
 * HMS_ERR_INVALID_HANDLE nothing is changed.
 * Threads: any; when it returns, nothing of the operation runs any more, its completion has been told and drop
 * has run. Within a callback of the operation it returns at once, and drop runs when that has returned. Threads
 * that wait for it return HMS_ERR_CANCELLED.
 * Errors: HMS_ERR_INVALID_HANDLE.
 * Since: 0.1.
 */
hms_status_t hms_operation_destroy(hms_operation_t **operation);

/* ---- Registrations ------------------------------------------------------------------------------------- */

/** Something that the program offers. */
typedef struct hms_registration_t hms_registration_t;

/**
 * Takes back what was registered. Calls under way are still answered, if their handlers do; agents of a type wait
 * for another provider of it. When this returns, no callback of it runs and none ever will, and drop has run;
 * within such a callback it returns at once, and drop runs when that has returned.
 *
 * Ownership: *registration is given back and set to NULL. NULL, or a pointer to NULL, is HMS_OK. With
 * HMS_ERR_INVALID_HANDLE nothing is changed.
 * Threads: any; waits for callbacks that run.
 * Errors: HMS_ERR_INVALID_HANDLE.
 * Since: 0.1.
 */
hms_status_t hms_registration_destroy(hms_registration_t **registration);

/* ---- Replies ------------------------------------------------------------------------------------------- */

/** Where the answer to one call goes. */
typedef struct hms_reply_t hms_reply_t;

/**
 * Answers a call with a result.
 *
 * Ownership: result_json (NULL: null) is borrowed for the call. *reply is given back and set to NULL on success.
 * Threads: any, within the handler or after it has returned; never blocks.
 * Errors: HMS_ERR_INVALID_HANDLE when it was answered already or nobody waits for it any more;
 * HMS_ERR_INVALID_ARGUMENT for what is not JSON, and then it is still to be answered.
 * Since: 0.1.
 */
hms_status_t hms_reply_send(hms_reply_t **reply,
                            const char *result_json);

/**
 * Answers a call with a failure: status is what it is, usually HMS_ERR_HANDLER_FAILED, and message says what went
 * wrong, for people.
 *
 * Ownership: message (NULL: none) is borrowed for the call. *reply is given back and set to NULL on success.
 * Threads: as hms_reply_send.
 * Errors: HMS_ERR_INVALID_HANDLE as hms_reply_send; HMS_ERR_INVALID_ARGUMENT for HMS_OK or a status that there is
 * not, and then it is still to be answered.
 * Since: 0.1.
 */
hms_status_t hms_reply_fail(hms_reply_t **reply,
                            hms_status_t status,
                            const char *message);

/**
 * Of a command's call: emits an item, as a streaming command does, waiting for a slow caller.
 *
 * Ownership: item_json is borrowed for the call. The reply is still to be answered.
 * Threads: any, before it is answered; waits for room.
 * Errors: HMS_ERR_INVALID_HANDLE; HMS_ERR_INVALID_ARGUMENT; HMS_ERR_INVALID_STATE for a call that is none of a
 * command; HMS_ERR_CANCELLED when the caller has gone.
 * Since: 0.1.
 */
hms_status_t hms_reply_item(const hms_reply_t *reply,
                            const char *item_json);

/**
 * Of a command's call: says how far the work is. fraction is 0 to 1, or negative when that is not known. Dropped
 * when the caller does not keep up.
 *
 * Ownership: message (NULL: none) is borrowed for the call. The reply is still to be answered.
 * Threads: any, before it is answered; never blocks.
 * Errors: as hms_reply_item, without HMS_ERR_CANCELLED.
 * Since: 0.1.
 */
hms_status_t hms_reply_progress(const hms_reply_t *reply,
                                double fraction,
                                const char *message);

/**
 * Of a command's call: whether its caller has cancelled it, or has gone. It should then be answered soon.
 *
 * Ownership: *cancelled is set on success. The reply is still to be answered.
 * Threads: any, before it is answered; never blocks.
 * Errors: HMS_ERR_INVALID_HANDLE (also when nobody waits for the answer any more); HMS_ERR_INVALID_ARGUMENT;
 * HMS_ERR_INVALID_STATE for a call that is none of a command.
 * Since: 0.1.
 */
hms_status_t hms_reply_is_cancelled(const hms_reply_t *reply, bool *cancelled);

/* ---- Services ------------------------------------------------------------------------------------------ */

/** A service that was looked up. */
typedef struct hms_service_t hms_service_t;

/** A call of a service, as its handler receives it. It and its texts last until the handler returns. */
typedef struct hms_service_call_t {
    /** sizeof(hms_service_call_t) of the library. */
    size_t struct_size;
    /** The id under which it was registered. */
    const char *service;
    /** The method that is called. */
    const char *method;
    /** Its argument, as JSON. */
    const char *args_json;
} hms_service_call_t;

/**
 * Answers the call of a service: with hms_reply_send or hms_reply_fail, before it returns or later, from any
 * thread, exactly once. What is never answered keeps its caller waiting until the caller's deadline.
 *
 * It runs on threads of the library, several at a time, and may block, also on the system. It must not throw or
 * longjmp out.
 */
typedef void (*hms_service_call_cb_t)(const hms_service_call_t *call,
                                      hms_reply_t *reply,
                                      void *user_data);

/**
 * Lists the services there are: a JSON array of {"spec": {"id", "version", "summary", "methods" ...}, "owner"}.
 *
 * Ownership: *out_json is set to NULL first, and on success to a text that hms_string_free frees.
 * Threads: any.
 * Errors: HMS_ERR_INVALID_HANDLE; HMS_ERR_INVALID_ARGUMENT; HMS_ERR_CANCELLED when the system is closed
 * meanwhile.
 * Since: 0.1.
 */
hms_status_t hms_service_list(const hms_system_t *system,
                              char **out_json);

/**
 * Looks a service up: the highest version of id that requirement allows, such as "^1.2"; NULL: any.
 *
 * Ownership: id and requirement are borrowed for the call. *out is set to NULL first, and on success to a handle
 * that hms_service_release gives back. It does not keep the service: once who offers it has gone, calls fail.
 * Threads: any.
 * Errors: HMS_ERR_INVALID_HANDLE; HMS_ERR_INVALID_ARGUMENT; HMS_ERR_SERVICE_UNAVAILABLE, with the versions there
 * are; HMS_ERR_CANCELLED when the system is closed meanwhile.
 * Since: 0.1.
 */
hms_status_t hms_service_lookup(const hms_system_t *system,
                                const char *id,
                                const char *requirement,
                                hms_service_t **out);

/**
 * Gives what a service is: {"id", "version", "summary", "depends_on", "methods"}.
 *
 * Ownership: *out_json is set to NULL first, and on success to a text that hms_string_free frees.
 * Threads: any; never blocks.
 * Errors: HMS_ERR_INVALID_HANDLE; HMS_ERR_INVALID_ARGUMENT.
 * Since: 0.1.
 */
hms_status_t hms_service_spec(const hms_service_t *service, char **out_json);

/**
 * Calls a method of a service and waits for its answer, at most deadline_ms.
 *
 * Ownership: method and args_json (NULL: null) are borrowed for the call. *out_json is set to NULL first, and on
 * success to the answer, a text that hms_string_free frees.
 * Threads: any.
 * Errors: HMS_ERR_INVALID_HANDLE; HMS_ERR_INVALID_ARGUMENT; HMS_ERR_NOT_FOUND for a method that it does not have;
 * HMS_ERR_TIMEOUT; HMS_ERR_SERVICE_UNAVAILABLE when who offered it has gone; HMS_ERR_CANCELLED when the system is
 * closed; HMS_ERR_WOULD_DEADLOCK in a callback that must not wait; HMS_ERR_HANDLER_FAILED and what else the
 * service answers with.
 * Since: 0.1.
 */
hms_status_t hms_service_call(const hms_service_t *service,
                              const char *method,
                              const char *args_json,
                              uint64_t deadline_ms,
                              char **out_json);

/**
 * As hms_service_call, without waiting: on_done is told the answer.
 *
 * Ownership: method and args_json are borrowed for the call. Of user_data the operation keeps the pointer until it
 * calls drop with it, once, after on_done, and also when this call fails. *out is set to NULL first, and on
 * success to a handle that hms_operation_destroy gives back.
 * Threads: any; does not wait.
 * Errors: HMS_ERR_INVALID_HANDLE; HMS_ERR_INVALID_ARGUMENT; HMS_ERR_CANCELLED when the system is closed. All else
 * is told to on_done.
 * Since: 0.1.
 */
hms_status_t hms_service_call_async(const hms_service_t *service,
                                    const char *method,
                                    const char *args_json,
                                    uint64_t deadline_ms,
                                    hms_completion_cb_t on_done,
                                    void *user_data,
                                    hms_drop_cb_t drop,
                                    hms_operation_t **out);

/**
 * Gives the handle of a service back.
 *
 * Ownership: *service is given back and set to NULL. NULL, or a pointer to NULL, is HMS_OK. With
 * HMS_ERR_INVALID_HANDLE nothing is changed.
 * Threads: any; never blocks.
 * Errors: HMS_ERR_INVALID_HANDLE.
 * Since: 0.1.
 */
hms_status_t hms_service_release(hms_service_t **service);

/**
 * Offers a service to everybody in the system. spec_json says what it is: {"id": "my.adder", "version": "1.0.0"},
 * and if you like "summary" and "methods": {"add": {"summary": "..."}}; where it has methods, others are refused
 * before they reach on_call.
 *
 * Ownership: spec_json is borrowed for the call. Of user_data the registration keeps the pointer until it calls
 * drop with it, once, when it has ended (by hms_registration_destroy or with its system) and no on_call runs, and
 * also when this call fails. *out is set to NULL first, and on success to a handle that hms_registration_destroy
 * gives back.
 * Threads: any.
 * Errors: HMS_ERR_INVALID_HANDLE; HMS_ERR_INVALID_ARGUMENT; HMS_ERR_ALREADY_EXISTS when that id and version are
 * taken; HMS_ERR_CANCELLED when the system is closed meanwhile.
 * Since: 0.1.
 */
hms_status_t hms_service_register(const hms_system_t *system,
                                  const char *spec_json,
                                  hms_service_call_cb_t on_call,
                                  void *user_data,
                                  hms_drop_cb_t drop,
                                  hms_registration_t **out);

/* ---- Agent types --------------------------------------------------------------------------------------- */

/** What an agent of the program's own is told of itself, and by which it tells: of one life. */
typedef struct hms_life_t hms_life_t;

/** How an agent is asked to end: one of HMS_STOP_... */
typedef int32_t hms_stop_t;

/** It shall end its work in an orderly way. */
#define HMS_STOP_GRACEFUL 0
/** It shall end at once. */
#define HMS_STOP_KILL 1

/** What create is told. It and its texts last until create returns. */
typedef struct hms_agent_info_t {
    /** sizeof(hms_agent_info_t) of the library. */
    size_t struct_size;
    /** The agent's id. */
    const char *id;
    /** Its name. */
    const char *name;
    /** Its configuration, a JSON object that fits the type's schema, defaults filled in. */
    const char *config_json;
    /** Which life begins, ascending over the agent's restarts. */
    uint64_t incarnation;
    /** The life, to report by. It is the library's; it goes stale when the life has ended. */
    struct hms_life_t *life;
} hms_agent_info_t;

/** A message, as handle receives it. It and its texts last until handle returns. */
typedef struct hms_message_t {
    /** sizeof(hms_message_t) of the library. */
    size_t struct_size;
    /** Who sends it: an agent's id, or a name. */
    const char *source;
    /** What it says, as JSON. */
    const char *message_json;
} hms_message_t;

/**
 * What the agents of a type do. Initialise it with HMS_AGENT_VTABLE_INIT; only create is needed.
 *
 * Each life of an agent is an instance. create makes it, then restore (if there is a snapshot) and start; later
 * handle, one message at a time, and health and snapshot, which may run while handle does; at the end stop, and
 * last of all destroy. user_data is that of the type.
 *
 * The functions run on threads of the library and may block, also on the system. One that does not return by its
 * deadline (30 seconds to start, a minute to handle) fails, and several that hang end in quarantine. None may
 * throw or longjmp out. Where a function returns a status, anything but HMS_OK is a failure.
 */
typedef struct hms_agent_vtable_t {
    /** sizeof(hms_agent_vtable_t); HMS_AGENT_VTABLE_INIT sets it. */
    size_t struct_size;
    /** Makes the instance of a life, to *instance. With a failure there is none, and destroy is not called. */
    hms_status_t (*create)(const struct hms_agent_info_t *info, void *user_data, void **instance);
    /** Begins its work. With HMS_OK it does it, unless *pending is set to true: then hms_life_ready says when. */
    hms_status_t (*start)(void *instance, bool *pending);
    /** Answers a message by the reply, before it returns or later, exactly once. NULL: it takes none. */
    void (*handle)(void *instance, const struct hms_message_t *message, struct hms_reply_t *reply);
    /**
     * Finds out how well it is and answers with a health, as hms_agent_health gives one; or with null, for
     * healthy. NULL: it is healthy unless hms_life_health says otherwise.
     */
    void (*health)(void *instance, struct hms_reply_t *reply);
    /** Answers with its state, any JSON, for the next life. NULL: it has none. */
    void (*snapshot)(void *instance, struct hms_reply_t *reply);
    /** Takes over the state of an earlier life, before start. NULL: it is ignored. */
    hms_status_t (*restore)(void *instance, uint32_t state_version, const char *state_json);
    /** Ends its work; returns when nothing of it is left. how is HMS_STOP_GRACEFUL or HMS_STOP_KILL. */
    hms_status_t (*stop)(void *instance, hms_stop_t how);
    /** Frees the instance. Nothing is called with it any more. */
    void (*destroy)(void *instance);
} hms_agent_vtable_t;

/** The initial value of a hms_agent_vtable_t; set create, and what else the type does. */
#define HMS_AGENT_VTABLE_INIT { sizeof(hms_agent_vtable_t), NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL }

/**
 * Offers an agent type to the system: agents of it can be created by anybody, and those that wait for it start.
 * spec_json says what it is: {"name": "counter", "version": "1.0.0", "schema": {a JSON Schema of an object}}, and
 * if you like "summary", "state_version" (of snapshots) and "tunables".
 *
 * Ownership: spec_json and vtable are borrowed for the call and copied. Of user_data the registration keeps the
 * pointer until it calls drop with it, once, when it has ended (by hms_registration_destroy or with its system)
 * and every instance was destroyed, and also when this call fails. *out is set to NULL first, and on success to a
 * handle that hms_registration_destroy gives back: that ends the lives of the type's agents, which then wait
 * until somebody offers it again.
 * Threads: any.
 * Errors: HMS_ERR_INVALID_HANDLE; HMS_ERR_INVALID_ARGUMENT; HMS_ERR_INVALID_CONFIG for a schema that is none;
 * HMS_ERR_VERSION_MISMATCH when another version of it is offered; HMS_ERR_CANCELLED when the system is closed
 * meanwhile.
 * Since: 0.1.
 */
hms_status_t hms_agent_type_register(const hms_system_t *system,
                                     const char *spec_json,
                                     const hms_agent_vtable_t *vtable,
                                     void *user_data,
                                     hms_drop_cb_t drop,
                                     hms_registration_t **out);

/**
 * Says that an agent does its work now, after a start that left it pending.
 *
 * Ownership: nothing changes hands.
 * Threads: any; never blocks.
 * Errors: HMS_ERR_INVALID_HANDLE when that life has ended.
 * Since: 0.1.
 */
hms_status_t hms_life_ready(const hms_life_t *life);

/**
 * Says that an agent came to its end by itself. Supervision decides what follows: a restart, by its policy.
 *
 * Ownership: reason is borrowed for the call.
 * Threads: any; never blocks. clean is whether that counts as success.
 * Errors: HMS_ERR_INVALID_HANDLE when that life has ended; HMS_ERR_INVALID_ARGUMENT.
 * Since: 0.1.
 */
hms_status_t hms_life_exited(const hms_life_t *life, bool clean, const char *reason);

/**
 * Says how well an agent is, when that changes: a health, as hms_agent_health gives one.
 *
 * Ownership: health_json is borrowed for the call.
 * Threads: any; never blocks.
 * Errors: HMS_ERR_INVALID_HANDLE when that life has ended; HMS_ERR_INVALID_ARGUMENT.
 * Since: 0.1.
 */
hms_status_t hms_life_health(const hms_life_t *life, const char *health_json);

/* ---- Agents -------------------------------------------------------------------------------------------- */

/** An agent. */
typedef struct hms_agent_t hms_agent_t;

/**
 * Creates an agent and starts it. args_json is what "agent create" takes: {"type": "process", "name": "web",
 * "config": {"command": ["sleep", "60"]}}, and what else docs/cli.md says.
 *
 * Ownership: args_json is borrowed for the call. *out is set to NULL first, and on success to a handle that
 * hms_agent_release gives back.
 * Threads: any; blocks until the agent has started, or waits for one it depends on. A type that inherits the
 * environment reads this process's: no other thread may change it (setenv) meanwhile.
 * Errors: HMS_ERR_INVALID_HANDLE; HMS_ERR_INVALID_ARGUMENT, HMS_ERR_INVALID_CONFIG; HMS_ERR_ALREADY_EXISTS when
 * the name is taken; HMS_ERR_TYPE_UNAVAILABLE; HMS_ERR_CANCELLED when the system is closed meanwhile; and
 * whatever kept it from starting: then there is no such agent.
 * Since: 0.1.
 */
hms_status_t hms_agent_create(const hms_system_t *system,
                              const char *args_json,
                              hms_agent_t **out);

/**
 * As hms_agent_create, but an agent of that name (which is needed) is changed to what args_json says instead; it
 * begins a new life only if that differs.
 *
 * Ownership: as hms_agent_create.
 * Threads: as hms_agent_create.
 * Errors: as hms_agent_create, without HMS_ERR_ALREADY_EXISTS.
 * Since: 0.1.
 */
hms_status_t hms_agent_ensure(const hms_system_t *system,
                              const char *args_json,
                              hms_agent_t **out);

/**
 * Finds an agent by name or id.
 *
 * Ownership: name is borrowed for the call. *out is set to NULL first, and on success to a handle that
 * hms_agent_release gives back.
 * Threads: any.
 * Errors: HMS_ERR_INVALID_HANDLE; HMS_ERR_INVALID_ARGUMENT; HMS_ERR_NOT_FOUND; HMS_ERR_CANCELLED when the system
 * is closed meanwhile.
 * Since: 0.1.
 */
hms_status_t hms_agent_get(const hms_system_t *system,
                           const char *name,
                           hms_agent_t **out);

/**
 * Lists the agents: a JSON array, in order of creation. filter_json is what "agent list" takes, such as
 * {"status": "running"}; NULL: all.
 *
 * Ownership: filter_json is borrowed for the call. *out_json is set to NULL first, and on success to a text that
 * hms_string_free frees.
 * Threads: any.
 * Errors: HMS_ERR_INVALID_HANDLE; HMS_ERR_INVALID_ARGUMENT; HMS_ERR_NOT_FOUND for a type that is none;
 * HMS_ERR_CANCELLED when the system is closed meanwhile.
 * Since: 0.1.
 */
hms_status_t hms_agent_list(const hms_system_t *system,
                            const char *filter_json,
                            char **out_json);

/**
 * Gives an agent's id, which never changes and is never given to another.
 *
 * Ownership: *out_id is set to NULL first, and on success to a text that hms_string_free frees.
 * Threads: any; never blocks.
 * Errors: HMS_ERR_INVALID_HANDLE; HMS_ERR_INVALID_ARGUMENT.
 * Since: 0.1.
 */
hms_status_t hms_agent_id(const hms_agent_t *agent, char **out_id);

/**
 * Gives all that is known of an agent: a JSON object, as "agent status" answers.
 *
 * Ownership: *out_json is set to NULL first, and on success to a text that hms_string_free frees.
 * Threads: any.
 * Errors: HMS_ERR_INVALID_HANDLE; HMS_ERR_INVALID_ARGUMENT; HMS_ERR_AGENT_GONE when it was destroyed;
 * HMS_ERR_CANCELLED when the system is closed.
 * Since: 0.1.
 */
hms_status_t hms_agent_status(const hms_agent_t *agent, char **out_json);

/**
 * Gives an agent's health as it was last found: {"status": "degraded", "issues": [{"code": "slow", "message":
 * "…", "severity": "degraded"}]}. status is healthy, degraded, critical or unknown.
 *
 * Ownership: *out_json is set to NULL first, and on success to a text that hms_string_free frees.
 * Threads: any.
 * Errors: as hms_agent_status.
 * Since: 0.1.
 */
hms_status_t hms_agent_health(const hms_agent_t *agent, char **out_json);

/**
 * Sends a message to an agent and does not wait for an answer.
 *
 * Ownership: source (who sends it; NULL: "libhms") and message_json are borrowed for the call.
 * Threads: any; in a private system it does not wait, in a shared one it waits for the host's answer.
 * Errors: HMS_ERR_INVALID_HANDLE; HMS_ERR_INVALID_ARGUMENT; HMS_ERR_QUEUE_FULL when too many messages wait for it;
 * HMS_ERR_INVALID_STATE when it is not meant to run; HMS_ERR_AGENT_GONE; HMS_ERR_CANCELLED when the system is
 * closed.
 * Since: 0.1.
 */
hms_status_t hms_agent_tell(const hms_agent_t *agent,
                            const char *source,
                            const char *message_json);

/**
 * Sends a message to an agent and waits for its answer, at most deadline_ms.
 *
 * Ownership: source (who sends it; NULL: "libhms") and message_json are borrowed for the call. *out_json is set
 * to NULL first, and on success to the answer, a text that hms_string_free frees.
 * Threads: any.
 * Errors: those of hms_agent_tell; HMS_ERR_TIMEOUT; HMS_ERR_WOULD_DEADLOCK in a callback that must not wait, and
 * when the agent itself waits for this caller; HMS_ERR_HANDLER_FAILED and what else the agent answers with.
 * Since: 0.1.
 */
hms_status_t hms_agent_ask(const hms_agent_t *agent,
                           const char *source,
                           const char *message_json,
                           uint64_t deadline_ms,
                           char **out_json);

/**
 * As hms_agent_ask, without waiting: on_done is told the answer.
 *
 * Ownership: source and message_json are borrowed for the call. Of user_data the operation keeps the pointer until
 * it calls drop with it, once, after on_done, and also when this call fails. *out is set to NULL first, and on
 * success to a handle that hms_operation_destroy gives back.
 * Threads: any; does not wait.
 * Errors: HMS_ERR_INVALID_HANDLE; HMS_ERR_INVALID_ARGUMENT; HMS_ERR_CANCELLED when the system is closed. All else
 * is told to on_done.
 * Since: 0.1.
 */
hms_status_t hms_agent_ask_async(const hms_agent_t *agent,
                                 const char *source,
                                 const char *message_json,
                                 uint64_t deadline_ms,
                                 hms_completion_cb_t on_done,
                                 void *user_data,
                                 hms_drop_cb_t drop,
                                 hms_operation_t **out);

/**
 * Starts an agent that is stopped, failed or quarantined; one that runs is left alone.
 *
 * Ownership: nothing changes hands.
 * Threads: any; blocks until it has started, or waits for one it depends on.
 * Errors: HMS_ERR_INVALID_HANDLE; HMS_ERR_AGENT_GONE; HMS_ERR_CANCELLED when the system is closed; and whatever
 * kept it from starting.
 * Since: 0.1.
 */
hms_status_t hms_agent_start(const hms_agent_t *agent);

/**
 * Stops an agent, its children first: by asking, or with kill at once. It stays stopped until it is started.
 *
 * Ownership: nothing changes hands.
 * Threads: any; blocks until it has ended.
 * Errors: HMS_ERR_INVALID_HANDLE; HMS_ERR_AGENT_GONE; HMS_ERR_CANCELLED when the system is closed; and whatever
 * kept it from ending.
 * Since: 0.1.
 */
hms_status_t hms_agent_stop(const hms_agent_t *agent,
                            bool kill);

/**
 * Restarts an agent: with reset it forgets its kept state, with kill it is ended at once.
 *
 * Ownership: nothing changes hands.
 * Threads: any; blocks until the new life has started.
 * Errors: HMS_ERR_INVALID_HANDLE; HMS_ERR_AGENT_GONE; HMS_ERR_CANCELLED when the system is closed; and whatever
 * kept it from ending or starting.
 * Since: 0.1.
 */
hms_status_t hms_agent_restart(const hms_agent_t *agent,
                               bool reset,
                               bool kill);

/**
 * Ends an agent and forgets it, its output and its state. Other handles of it say HMS_ERR_AGENT_GONE from then
 * on. (Who only does not need the handle any more calls hms_agent_release.)
 *
 * Ownership: *agent is given back and set to NULL on success, and when the agent was gone already. NULL, or a
 * pointer to NULL, is HMS_OK. With any other error nothing is changed.
 * Threads: any; blocks until it has ended.
 * Errors: HMS_ERR_INVALID_HANDLE; HMS_ERR_AGENT_GONE; HMS_ERR_INVALID_STATE when others depend on it;
 * HMS_ERR_CANCELLED when the system is closed.
 * Since: 0.1.
 */
hms_status_t hms_agent_destroy(hms_agent_t **agent);

/**
 * Gives a handle back. The agent goes on.
 *
 * Ownership: *agent is given back and set to NULL. NULL, or a pointer to NULL, is HMS_OK. With
 * HMS_ERR_INVALID_HANDLE nothing is changed.
 * Threads: any; never blocks.
 * Errors: HMS_ERR_INVALID_HANDLE.
 * Since: 0.1.
 */
hms_status_t hms_agent_release(hms_agent_t **agent);

/* ---- Commands ------------------------------------------------------------------------------------------ */

/**
 * Receives an item that a streaming command emits. The text lasts until it returns.
 *
 * It runs on a thread of the library, never twice at a time in one operation, and the command waits for it. It must
 * not wait for the system: such calls give HMS_ERR_WOULD_DEADLOCK. It must not throw or longjmp out.
 */
typedef void (*hms_command_item_cb_t)(const char *item_json, void *user_data);

/**
 * Is told how far a command is: fraction is 0 to 1, or negative when that is not known. Otherwise as
 * hms_command_item_cb_t.
 */
typedef void (*hms_command_progress_cb_t)(double fraction, const char *message, void *user_data);

/** What hms_command_start is told. Initialise it with HMS_COMMAND_OPTIONS_INIT. */
typedef struct hms_command_options_t {
    /** sizeof(hms_command_options_t); HMS_COMMAND_OPTIONS_INIT sets it. */
    size_t struct_size;
    /** The arguments, a JSON object; NULL: none. */
    const char *args_json;
    /** Receives what a streaming command emits; NULL: nobody does. */
    hms_command_item_cb_t on_item;
    /** Is told how far it is; NULL: nobody is. */
    hms_command_progress_cb_t on_progress;
    /** Is told how it ended, once, after all else; NULL: nobody is. */
    hms_completion_cb_t on_done;
    /** What the callbacks are given. */
    void *user_data;
    /** Called with user_data after on_done, and when the call fails; NULL: nothing is. */
    hms_drop_cb_t drop;
} hms_command_options_t;

/** The call of a command, as its handler receives it. It and its texts last until the handler returns. */
typedef struct hms_command_call_t {
    /** sizeof(hms_command_call_t) of the library. */
    size_t struct_size;
    /** The path under which it was registered. */
    const char *path;
    /** The arguments, a JSON object that fits the command's schema, defaults filled in. */
    const char *args_json;
    /** Who asks: "cli", "libhms", or a name of the caller's. */
    const char *source;
    /** The caller's working directory, for relative paths; NULL: not known. */
    const char *cwd;
} hms_command_call_t;

/**
 * Answers the call of a command: with hms_reply_send or hms_reply_fail, before it returns or later, from any
 * thread, exactly once; hms_reply_item, hms_reply_progress and hms_reply_is_cancelled serve meanwhile.
 *
 * It runs on threads of the library, several at a time, and may block, also on the system. It must not throw or
 * longjmp out.
 */
typedef void (*hms_command_call_cb_t)(const hms_command_call_t *call,
                                      hms_reply_t *reply,
                                      void *user_data);

/** The initial value of a hms_command_options_t: no arguments, nobody to tell. */
#define HMS_COMMAND_OPTIONS_INIT { sizeof(hms_command_options_t), NULL, NULL, NULL, NULL, NULL, NULL }

/**
 * Lists the commands there are: a JSON array, by path, of {"path", "summary", "args" (a JSON Schema), "runs",
 * "effect", "streams" ...}.
 *
 * Ownership: *out_json is set to NULL first, and on success to a text that hms_string_free frees.
 * Threads: any.
 * Errors: HMS_ERR_INVALID_HANDLE; HMS_ERR_INVALID_ARGUMENT; HMS_ERR_CANCELLED when the system is closed
 * meanwhile.
 * Since: 0.1.
 */
hms_status_t hms_command_list(const hms_system_t *system, char **out_json);

/**
 * Runs a command, such as "agent list", and waits for its result.
 *
 * Ownership: path and args_json (a JSON object; NULL for none) are borrowed for the call. *out_json is
 * set to NULL first, and on success to the result as JSON text, which hms_string_free frees.
 * Threads: any, several at once on one system; blocks until the command is done. A command whose agents
 * inherit this process's environment reads it: no other thread may change it (setenv) meanwhile. Items
 * that a streaming command emits before its result are not kept: hms_command_start hands them out.
 * Errors: HMS_ERR_INVALID_HANDLE; HMS_ERR_NOT_FOUND for a path that is no command;
 * HMS_ERR_INVALID_ARGUMENT naming what does not fit the command's schema; HMS_ERR_NOT_SUPPORTED for a
 * command that needs a terminal or streams (hms_cli_start runs those); HMS_ERR_CANCELLED when the
 * system is closed meanwhile; and whatever the command itself reports.
 * Since: 0.1.
 */
hms_status_t hms_command_run(const hms_system_t *system,
                             const char *path,
                             const char *args_json,
                             char **out_json);

/**
 * Starts a command and does not wait: callbacks are told what it emits, how far it is, and how it ended.
 * hms_operation_cancel cancels it, hms_operation_wait and hms_operation_result serve those who have no callback.
 *
 * Ownership: path, options, and what they point to, are borrowed for the call; NULL means
 * HMS_COMMAND_OPTIONS_INIT. Of user_data the operation keeps the pointer until it calls drop with it, once, after
 * on_done, and also when this call fails (unless struct_size is wrong). *out is set to NULL first, and on success
 * to a handle that hms_operation_destroy gives back.
 * Threads: any; does not wait. The environment is read as hms_command_run does.
 * Errors: HMS_ERR_INVALID_HANDLE; HMS_ERR_INVALID_ARGUMENT; HMS_ERR_CANCELLED when the system is closed. All else
 * is told to on_done, and by hms_operation_wait.
 * Since: 0.1.
 */
hms_status_t hms_command_start(const hms_system_t *system,
                               const char *path,
                               const hms_command_options_t *options,
                               hms_operation_t **out);

/**
 * Offers a command to everybody in the system: on the command line, to tools, to programs. spec_json says what it
 * is: {"path": "build now", "summary": "Build the project", "args": {a JSON Schema of an object}}; what else it may
 * say is in docs/protocol.md.
 *
 * Ownership: spec_json is borrowed for the call. Of user_data the registration keeps the pointer until it calls
 * drop with it, once, when it has ended (by hms_registration_destroy or with its system) and no on_call runs, and
 * also when this call fails. *out is set to NULL first, and on success to a handle that hms_registration_destroy
 * gives back.
 * Threads: any.
 * Errors: HMS_ERR_INVALID_HANDLE; HMS_ERR_INVALID_ARGUMENT; HMS_ERR_INVALID_CONFIG for a schema that is none;
 * HMS_ERR_ALREADY_EXISTS when the path is taken; HMS_ERR_NOT_SUPPORTED for a command that runs in its caller;
 * HMS_ERR_CANCELLED when the system is closed meanwhile.
 * Since: 0.1.
 */
hms_status_t hms_command_register(const hms_system_t *system,
                                  const char *spec_json,
                                  hms_command_call_cb_t on_call,
                                  void *user_data,
                                  hms_drop_cb_t drop,
                                  hms_registration_t **out);

/* ---- Events -------------------------------------------------------------------------------------------- */

/**
 * An event. As a callback receives it, everything is set that its publisher gave, and lasts until the callback
 * returns. To publish one, start with HMS_EVENT_INIT and set its type and what else is known; id, time_ms and
 * sequence are given by the system, whatever they say.
 */
typedef struct hms_event_t {
    /** sizeof(hms_event_t) of whoever made it; HMS_EVENT_INIT sets it. */
    size_t struct_size;
    /** What happened: "app.build.done", lower-case tokens with dots. */
    const char *type;
    /** Whom it is about, such as an agent's id; NULL: nobody. */
    const char *subject;
    /** Who says so, such as "/agents/7f3k"; published with NULL: this process. */
    const char *source;
    /** Unique. */
    const char *id;
    /** When, in milliseconds since the Unix epoch. */
    uint64_t time_ms;
    /** Its place in the journal, ascending; 0: it is not journaled. */
    uint64_t sequence;
    /**
     * The media type of data: "application/json" of JSON, which is also what NULL means; NULL in an event
     * without data.
     */
    const char *content_type;
    /** The payload; NULL: none. In an event that is received a NUL follows it, so that JSON is a C string. */
    const void *data;
    /** How long the payload is, in bytes, without that NUL. */
    size_t data_length;
} hms_event_t;

/** The initial value of a hms_event_t that is to be published; set type. */
#define HMS_EVENT_INIT { sizeof(hms_event_t), NULL, NULL, NULL, NULL, 0, 0, NULL, NULL, 0 }

/**
 * Publishes an event whose payload is JSON.
 *
 * Ownership: type ("app.build.done": lower-case tokens with dots), subject (whom it is about; NULL for
 * nobody) and data_json (any JSON; NULL for none) are borrowed for the call.
 * Threads: any. In a private system it waits only for room in subscriptions that block (HMS_QUEUE_BLOCK), and
 * in a callback not even for that; in a shared one it waits for the host's answer.
 * Errors: HMS_ERR_INVALID_HANDLE, HMS_ERR_INVALID_ARGUMENT; HMS_ERR_HOST_UNAVAILABLE;
 * HMS_ERR_WOULD_DEADLOCK in a callback of a shared system's events or completions;
 * HMS_ERR_CANCELLED when the system is closed meanwhile.
 * Since: 0.1.
 */
hms_status_t hms_event_publish(const hms_system_t *system,
                               const char *type,
                               const char *subject,
                               const char *data_json);

/**
 * Publishes an event whose payload is bytes.
 *
 * Ownership: type, subject (NULL for nobody), content_type (such as "image/png") and the length bytes at data
 * (NULL if there are none) are borrowed for the call.
 * Threads: as hms_event_publish.
 * Errors: as hms_event_publish.
 * Since: 0.1.
 */
hms_status_t hms_event_publish_bytes(const hms_system_t *system,
                                     const char *type,
                                     const char *subject,
                                     const char *content_type,
                                     const void *data,
                                     size_t length);

/**
 * Publishes several events, in order: all of them, or none when one is faulty.
 *
 * Ownership: events, which has count pointers, and what these point to, are borrowed for the call.
 * Threads: as hms_event_publish.
 * Errors: as hms_event_publish; HMS_ERR_INVALID_ARGUMENT names the event. When the host of a shared system goes
 * meanwhile, some of the first may have been published.
 * Since: 0.1.
 */
hms_status_t hms_event_publish_batch(const hms_system_t *system,
                                     const hms_event_t *const *events,
                                     size_t count);

/* ---- Subscriptions ------------------------------------------------------------------------------------- */

/** A subscription to events. */
typedef struct hms_subscription_t hms_subscription_t;

/** What happens to events that do not fit a subscription's queue: one of HMS_QUEUE_... */
typedef int32_t hms_queue_policy_t;

/** As a timeout: wait as long as it takes. */
#define HMS_WAIT_FOREVER -1
/** The oldest event that waits makes room, and is counted as lost. */
#define HMS_QUEUE_DROP_OLDEST 0
/** The new event is lost, and counted. Private systems only. */
#define HMS_QUEUE_DROP_NEWEST 1
/**
 * Who publishes with hms_event_publish (or _bytes, _batch), and not from a callback, waits for room, at most
 * block_ms; then the event is lost, and counted. Private systems only, and not with after_sequence.
 */
#define HMS_QUEUE_BLOCK 2

/**
 * Receives events, oldest first: count pointers, which last until it returns. lost more did not fit the queue
 * before the first of them; count may be 0 when there is only that to tell.
 *
 * It runs on a thread of the subscription's own, never twice at a time. It may call what does not wait for the
 * system (publish in a private one, destroy, and so on); other calls give HMS_ERR_WOULD_DEADLOCK. It must not
 * throw or longjmp out.
 */
typedef void (*hms_event_batch_cb_t)(const hms_event_t *const *events,
                                     size_t count,
                                     uint64_t lost,
                                     void *user_data);

/** Receives one event, as hms_event_batch_cb_t receives several; lost is about those just before it. */
typedef void (*hms_event_cb_t)(const hms_event_t *event, uint64_t lost, void *user_data);

/** What hms_subscription_create is told. Initialise it with HMS_SUBSCRIPTION_OPTIONS_INIT. */
typedef struct hms_subscription_options_t {
    /** sizeof(hms_subscription_options_t); HMS_SUBSCRIPTION_OPTIONS_INIT sets it. */
    size_t struct_size;
    /**
     * Which types of events: "agent.exited", "agent.*.updated" (one token), "agent.>" (all beneath).
     * An event that one of them matches is received once. None: all events.
     */
    const char *const *patterns;
    /** How many patterns there are. */
    size_t pattern_count;
    /** A condition in CEL, such as "data.agent == 'web'"; NULL: none. */
    const char *filter;
    /** How many events wait at most; queue_policy says what happens beyond that. 0: 1024. */
    size_t capacity;
    /**
     * First replay the journal from after this sequence number (0: from its beginning); negative
     * (initial): only what happens from now on.
     */
    int64_t after_sequence;
    /** HMS_QUEUE_DROP_OLDEST (initial), HMS_QUEUE_DROP_NEWEST or HMS_QUEUE_BLOCK. */
    hms_queue_policy_t queue_policy;
    /** Of HMS_QUEUE_BLOCK: how long publishers wait, in milliseconds. */
    uint32_t block_ms;
    /** Receives the events, in batches: the fastest way. NULL: see on_event. */
    hms_event_batch_cb_t on_events;
    /** Receives the events, one by one. NULL, like on_events: hms_subscription_next takes them. */
    hms_event_cb_t on_event;
    /** What the callback is given. */
    void *user_data;
    /** Called with user_data when no callback runs any more and none will; NULL: nothing is. */
    hms_drop_cb_t drop;
} hms_subscription_options_t;

/** The initial value of a hms_subscription_options_t: all events from now on. */
#define HMS_SUBSCRIPTION_OPTIONS_INIT { sizeof(hms_subscription_options_t), NULL, 0, NULL, 0, -1, \
                                        HMS_QUEUE_DROP_OLDEST, 0, NULL, NULL, NULL, NULL }

/**
 * Subscribes to events. They wait in a bounded queue until a callback receives them, or, without one, until
 * hms_subscription_next takes them.
 *
 * Ownership: options, and what they point to, are borrowed for the call; NULL means
 * HMS_SUBSCRIPTION_OPTIONS_INIT. Of user_data the subscription keeps the pointer until it calls drop with it,
 * once: when the subscription has ended, by hms_subscription_destroy or with its system, and also when this
 * call fails (unless struct_size is wrong or the process is a fork's child). *out is set to NULL first, and on
 * success to a handle that hms_subscription_destroy gives back. It may outlive its system.
 * Threads: any. Callbacks, drop included, run on a thread of the library.
 * Errors: HMS_ERR_INVALID_HANDLE; HMS_ERR_INVALID_ARGUMENT for a bad pattern, filter, capacity or policy;
 * HMS_ERR_NOT_SUPPORTED for a policy that a shared system does not have.
 * Since: 0.1.
 */
hms_status_t hms_subscription_create(const hms_system_t *system,
                                     const hms_subscription_options_t *options,
                                     hms_subscription_t **out);

/**
 * Takes the next events, waiting for the first of them.
 *
 * Ownership: *events_json is set to NULL first, and on success to the text of a JSON array of
 * CloudEvents, oldest first, which hms_string_free frees. *lost, unless lost is NULL, is set on success to
 * the number of events that did not fit the queue before these.
 * Threads: any; of several at once on one subscription each event goes to one. max is the largest number
 * of events wanted (0, or beyond 4096: 4096). timeout_ms is how long to wait: 0 not at all,
 * HMS_WAIT_FOREVER as long as it takes.
 * Errors: HMS_ERR_TIMEOUT when none came; HMS_ERR_CANCELLED at the end: the subscription was destroyed
 * meanwhile, or its system closed and all was taken; HMS_ERR_INVALID_STATE when its events go to a callback;
 * HMS_ERR_INVALID_HANDLE; HMS_ERR_INVALID_ARGUMENT; HMS_ERR_WOULD_DEADLOCK in a callback.
 * Since: 0.1.
 */
hms_status_t hms_subscription_next(const hms_subscription_t *subscription,
                                   size_t max,
                                   int64_t timeout_ms,
                                   char **events_json,
                                   uint64_t *lost);

/**
 * Ends a subscription. Threads that wait in hms_subscription_next return HMS_ERR_CANCELLED. When this returns, a
 * callback is not running and never will again, and drop has run.
 *
 * Called from within that very callback (or from one that it would have to wait for) it returns at once: no
 * further callback comes, and drop runs when this one has returned.
 *
 * Ownership: *subscription is given back and set to NULL. NULL, or a pointer to NULL, is HMS_OK. With
 * HMS_ERR_INVALID_HANDLE nothing is changed.
 * Threads: any; waits for a callback that runs.
 * Errors: HMS_ERR_INVALID_HANDLE.
 * Since: 0.1.
 */
hms_status_t hms_subscription_destroy(hms_subscription_t **subscription);

/* ---- Configuration ------------------------------------------------------------------------------------- */

/**
 * Gives the configuration: a JSON array of {"key", "value", "default", "applies", "origin" ...}, of one key, of a
 * section with all its keys, or with NULL of everything.
 *
 * Ownership: key ("monitoring.interval") is borrowed for the call. *out_json is set to NULL first, and on success
 * to a text that hms_string_free frees.
 * Threads: any.
 * Errors: HMS_ERR_INVALID_HANDLE; HMS_ERR_INVALID_ARGUMENT, also for a key that there is not;
 * HMS_ERR_CANCELLED when the system is closed meanwhile.
 * Since: 0.1.
 */
hms_status_t hms_config_get(const hms_system_t *system,
                            const char *key,
                            char **out_json);

/**
 * Changes the configuration: validated, written to the home's config.toml with its comments kept, applied at once
 * where that is safe (hms_config_get tells).
 *
 * Ownership: key and value are borrowed for the call. value is as in TOML, text needs no quotes: "10s", "true";
 * NULL goes back to the default.
 * Threads: any.
 * Errors: HMS_ERR_INVALID_HANDLE; HMS_ERR_INVALID_ARGUMENT, also for a key that there is not and a value that does
 * not fit; HMS_ERR_CANCELLED when the system is closed meanwhile; and what writing the file reports.
 * Since: 0.1.
 */
hms_status_t hms_config_set(const hms_system_t *system,
                            const char *key,
                            const char *value);

/* ---- Metrics ------------------------------------------------------------------------------------------- */

/**
 * Gives metrics over time, as "monitor metrics" answers. query_json says which, such as {"name": "cpuUsage",
 * "agent": "web", "since": "10m"}; NULL: all.
 *
 * Ownership: query_json is borrowed for the call. *out_json is set to NULL first, and on success to a text that
 * hms_string_free frees.
 * Threads: any.
 * Errors: HMS_ERR_INVALID_HANDLE; HMS_ERR_INVALID_ARGUMENT; HMS_ERR_NOT_FOUND for an agent that there is not;
 * HMS_ERR_CANCELLED when the system is closed meanwhile.
 * Since: 0.1.
 */
hms_status_t hms_metric_query(const hms_system_t *system,
                              const char *query_json,
                              char **out_json);

/* ---- Command line -------------------------------------------------------------------------------------- */

/** What hms_cli_start is told about the program. Initialise it with HMS_CLI_OPTIONS_INIT. */
typedef struct hms_cli_options_t {
    /** sizeof(hms_cli_options_t); HMS_CLI_OPTIONS_INIT sets it. */
    size_t struct_size;
    /** What the program is called, in help and hints; NULL: "codex-hms". */
    const char *program_name;
    /** Its version, for --version; NULL: the library's. */
    const char *program_version;
    /** The program that runs a host when there is none, as `<program> system run`. Needed. */
    const char *host_program;
    /** Descriptors of standard input, output and error: 0, 1 and 2 initially. They are not closed. */
    int stdio[3];
} hms_cli_options_t;

/** The initial value of a hms_cli_options_t: the process's own streams; set host_program. */
#define HMS_CLI_OPTIONS_INIT { sizeof(hms_cli_options_t), NULL, NULL, NULL, { 0, 1, 2 } }

/**
 * Starts a command line: reads the arguments, runs the command, writes its result or an error to the
 * descriptors. Its exit code is what hms_operation_wait returns; docs/cli.md lists them.
 *
 * Ownership: options, and what they point to, and the argc texts of argv, are borrowed for the call.
 * argv[0] is ignored, as in main. *out is set to NULL first, and on success to a handle that
 * hms_operation_destroy gives back.
 * Threads: any; does not block. The descriptors must stay open until the operation is done.
 * Errors: HMS_ERR_INVALID_ARGUMENT. What is wrong with the command line is told to its user, on the
 * descriptor of standard error and by the exit code.
 * Since: 0.1.
 */
hms_status_t hms_cli_start(const hms_cli_options_t *options,
                           int argc,
                           const char *const *argv,
                           hms_operation_t **out);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* HMS_H */
