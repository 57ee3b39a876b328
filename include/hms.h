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
 * Errors: HMS_ERR_INVALID_HANDLE; HMS_ERR_WOULD_DEADLOCK in a callback, and nothing is changed; what closing the store reports.
 * Since: 0.1.
 */
hms_status_t hms_system_close(hms_system_t **system,
                              bool agents_stay);

/* ---- Commands ------------------------------------------------------------------------------------------ */

/**
 * Runs a command, such as "agent list", and waits for its result.
 *
 * Ownership: path and args_json (a JSON object; NULL for none) are borrowed for the call. *out_json is
 * set to NULL first, and on success to the result as JSON text, which hms_string_free frees.
 * Threads: any, several at once on one system; blocks until the command is done. A command whose agents
 * inherit this process's environment reads it: no other thread may change it (setenv) meanwhile. Items
 * that a streaming command emits before its result are not kept.
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

/* ---- Operations ---------------------------------------------------------------------------------------- */

/** Work that is under way, or done. */
typedef struct hms_operation_t hms_operation_t;

/**
 * Waits until an operation is done. May be asked again, and by several threads: the answer stays.
 *
 * Ownership: *exit_code, unless exit_code is NULL, is set on success.
 * Threads: any. timeout_ms is how long to wait: 0 not at all, HMS_WAIT_FOREVER as long as it takes.
 * Errors: HMS_ERR_TIMEOUT when it goes on; HMS_ERR_PANIC when it panicked; HMS_ERR_CANCELLED when it was
 * destroyed meanwhile; HMS_ERR_INVALID_HANDLE. An operation that ended badly by its own account is
 * HMS_OK here, with its exit code.
 * Since: 0.1.
 */
hms_status_t hms_operation_wait(const hms_operation_t *operation,
                                int64_t timeout_ms,
                                int32_t *exit_code);

/**
 * Asks an operation to end, and does not wait. It still has exactly one outcome; the first request
 * counts. signal is the number of the signal that was received, or 0: a command line ends as one that
 * this signal interrupted.
 *
 * Ownership: nothing changes hands.
 * Threads: any; never blocks. Not for signal handlers: call it from a thread that learned of the signal.
 * Errors: HMS_ERR_INVALID_HANDLE; HMS_ERR_INVALID_ARGUMENT for a negative signal.
 * Since: 0.1.
 */
hms_status_t hms_operation_cancel(const hms_operation_t *operation, int32_t signal);

/**
 * Gives an operation back. One that still goes on is stopped where it stands: for an orderly end, cancel
 * and wait first.
 *
 * Ownership: *operation is given back and set to NULL. NULL, or a pointer to NULL, is HMS_OK. With
 * HMS_ERR_INVALID_HANDLE nothing is changed.
 * Threads: any; when it returns, nothing of the operation runs any more. Threads that wait for it
 * return HMS_ERR_CANCELLED.
 * Errors: HMS_ERR_INVALID_HANDLE.
 * Since: 0.1.
 */
hms_status_t hms_operation_destroy(hms_operation_t **operation);

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
