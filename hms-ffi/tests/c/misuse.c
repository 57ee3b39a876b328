/* Every mistake that a caller can make gives its documented status, and none crashes. */
#include "check.h"

#define GARBAGE(type) ((type)(uintptr_t)0xdeadbeef)

/* Addresses and numbers that were never handles. */
static size_t forged(uintptr_t *out, size_t max, const void *real)
{
    static long somewhere = 0;
    uintptr_t bits = (uintptr_t)real;
    const uintptr_t list[] = { 1, 2, 3, UINTPTR_MAX, (uintptr_t)&somewhere, bits + 1, bits - 1, bits ^ 2,
                               bits ^ ((uintptr_t)1 << 20), bits ^ ((uintptr_t)1 << 40), bits << 1 };
    size_t count = sizeof list / sizeof list[0];
    CHECK(count <= max);
    memcpy(out, list, sizeof list);
    return count;
}

static void null_everywhere(hms_system_t *hms, hms_subscription_t *events)
{
    char *text = GARBAGE(char *);
    uint64_t lost = 7;
    int32_t code = 7;
    hms_subscription_t *no_events = NULL;
    hms_system_t *no_system = NULL;
    hms_operation_t *no_operation = NULL;

    CHECK_STATUS(HMS_ERR_INVALID_ARGUMENT, hms_system_open(NULL, NULL));
    CHECK(says("`out`"));
    CHECK_STATUS(HMS_ERR_INVALID_HANDLE, hms_command_run(NULL, "agent list", NULL, &text));
    CHECK(text == NULL && says("hms_command_run") && says("system"));
    CHECK_STATUS(HMS_ERR_INVALID_ARGUMENT, hms_command_run(hms, NULL, NULL, &text));
    CHECK(says("`path`"));
    CHECK_STATUS(HMS_ERR_INVALID_ARGUMENT, hms_command_run(hms, "agent list", NULL, NULL));
    CHECK_STATUS(HMS_ERR_INVALID_HANDLE, hms_event_publish(NULL, "a.b", NULL, NULL));
    CHECK_STATUS(HMS_ERR_INVALID_ARGUMENT, hms_event_publish(hms, NULL, NULL, NULL));
    CHECK_STATUS(HMS_ERR_INVALID_HANDLE, hms_subscription_create(NULL, NULL, &no_events));
    CHECK_STATUS(HMS_ERR_INVALID_ARGUMENT, hms_subscription_create(hms, NULL, NULL));
    CHECK_STATUS(HMS_ERR_INVALID_HANDLE, hms_subscription_next(NULL, 1, 0, &text, &lost));
    CHECK_STATUS(HMS_ERR_INVALID_ARGUMENT, hms_subscription_next(events, 1, 0, NULL, &lost));
    CHECK_STATUS(HMS_ERR_INVALID_HANDLE, hms_operation_wait(NULL, 0, &code));
    CHECK_STATUS(HMS_ERR_INVALID_HANDLE, hms_operation_cancel(NULL, 0));
    CHECK_STATUS(HMS_ERR_INVALID_ARGUMENT, hms_cli_start(NULL, 0, NULL, NULL));
    CHECK_STATUS(HMS_ERR_INVALID_ARGUMENT, hms_cli_start(NULL, 0, NULL, &no_operation));
    CHECK(says("host_program") && no_operation == NULL);
    CHECK(lost == 7 && code == 7);

    CHECK_OK(hms_system_close(NULL, false));
    CHECK_OK(hms_system_close(&no_system, false));
    CHECK_OK(hms_subscription_destroy(NULL));
    CHECK_OK(hms_subscription_destroy(&no_events));
    CHECK_OK(hms_operation_destroy(NULL));
    CHECK_OK(hms_operation_destroy(&no_operation));
    hms_string_free(NULL);
}

static void bad_values(hms_system_t *hms)
{
    const char *not_utf8 = "agent \xff list";
    const char *bad_pattern = "agent..x";
    const char *holed[2] = { "agent.>", NULL };
    char *text = GARBAGE(char *);
    hms_system_t *other = GARBAGE(hms_system_t *);
    hms_subscription_t *events = GARBAGE(hms_subscription_t *);
    hms_system_options_t options = HMS_SYSTEM_OPTIONS_INIT;
    hms_subscription_options_t wanted = HMS_SUBSCRIPTION_OPTIONS_INIT;
    struct {
        hms_system_options_t known;
        uint64_t unknown;
    } newer;

    CHECK_STATUS(HMS_ERR_INVALID_ARGUMENT, hms_command_run(hms, not_utf8, NULL, &text));
    CHECK(text == NULL && says("`path`") && says("byte 6"));
    CHECK_STATUS(HMS_ERR_INVALID_ARGUMENT, hms_command_run(hms, "agent list", "{", &text));
    CHECK(says("`args_json`") && says("JSON"));
    CHECK_STATUS(HMS_ERR_INVALID_ARGUMENT, hms_command_run(hms, "agent list", "[1]", &text));
    CHECK_STATUS(HMS_ERR_INVALID_ARGUMENT, hms_command_run(hms, "agent list", "{\"tpye\":1}", &text));
    CHECK(says("tpye"));
    CHECK_STATUS(HMS_ERR_NOT_FOUND, hms_command_run(hms, "agent frobnicate", NULL, &text));
    CHECK(says("agent frobnicate"));
    CHECK_STATUS(HMS_ERR_NOT_FOUND, hms_command_run(hms, "agent status", "{\"agent\":\"nobody\"}", &text));
    CHECK(says("nobody"));

    options.mode = 42;
    CHECK_STATUS(HMS_ERR_INVALID_ARGUMENT, hms_system_open(&options, &other));
    CHECK(other == NULL && says("42"));
    options.mode = HMS_SYSTEM_PRIVATE;
    options.host_program = "/bin/true";
    CHECK_STATUS(HMS_ERR_INVALID_ARGUMENT, hms_system_open(&options, &other));
    options.host_program = NULL;
    options.home = "";
    CHECK_STATUS(HMS_ERR_INVALID_ARGUMENT, hms_system_open(&options, &other));
    options.home = NULL;
    options.struct_size = 4;
    CHECK_STATUS(HMS_ERR_INVALID_ARGUMENT, hms_system_open(&options, &other));
    CHECK(says("HMS_SYSTEM_OPTIONS_INIT"));
    memset(&options, 0xff, sizeof options);
    CHECK_STATUS(HMS_ERR_INVALID_ARGUMENT, hms_system_open(&options, &other));
    memset(&newer, 0, sizeof newer);
    newer.known.struct_size = sizeof newer;
    newer.unknown = 1;
    CHECK_STATUS(HMS_ERR_NOT_SUPPORTED, hms_system_open(&newer.known, &other));

    CHECK_STATUS(HMS_ERR_INVALID_ARGUMENT, hms_event_publish(hms, "not a subject", NULL, NULL));
    CHECK_STATUS(HMS_ERR_INVALID_ARGUMENT, hms_event_publish(hms, "a.b", NULL, "nonsense"));
    wanted.patterns = &bad_pattern;
    wanted.pattern_count = 1;
    CHECK_STATUS(HMS_ERR_INVALID_ARGUMENT, hms_subscription_create(hms, &wanted, &events));
    CHECK(events == NULL);
    wanted.patterns = holed;
    wanted.pattern_count = 2;
    CHECK_STATUS(HMS_ERR_INVALID_ARGUMENT, hms_subscription_create(hms, &wanted, &events));
    CHECK(says("patterns[1]"));
    wanted.patterns = NULL;
    CHECK_STATUS(HMS_ERR_INVALID_ARGUMENT, hms_subscription_create(hms, &wanted, &events));
    wanted.pattern_count = 0;
    wanted.filter = "type ==";
    CHECK_STATUS(HMS_ERR_INVALID_ARGUMENT, hms_subscription_create(hms, &wanted, &events));
}

static void bad_command_lines(void)
{
    const char *holed[2] = { "prog", NULL };
    hms_operation_t *operation = GARBAGE(hms_operation_t *);
    hms_cli_options_t options = HMS_CLI_OPTIONS_INIT;

    options.host_program = "/bin/true";
    CHECK_STATUS(HMS_ERR_INVALID_ARGUMENT, hms_cli_start(&options, -1, holed, &operation));
    CHECK(operation == NULL && says("`argc`"));
    CHECK_STATUS(HMS_ERR_INVALID_ARGUMENT, hms_cli_start(&options, 2, NULL, &operation));
    CHECK_STATUS(HMS_ERR_INVALID_ARGUMENT, hms_cli_start(&options, 2, holed, &operation));
    CHECK(says("argv[1]"));
    options.stdio[1] = -1;
    CHECK_STATUS(HMS_ERR_INVALID_ARGUMENT, hms_cli_start(&options, 1, holed, &operation));
    CHECK(says("stdio"));
}

static void forged_handles(hms_system_t *hms, hms_subscription_t *events)
{
    uintptr_t wrong[16];
    size_t count = forged(wrong, 16, hms);
    char *text = NULL;
    size_t at;

    for (at = 0; at < count; at++) {
        hms_system_t *system = (hms_system_t *)wrong[at];
        hms_subscription_t *subscription = (hms_subscription_t *)wrong[at];
        hms_operation_t *operation = (hms_operation_t *)wrong[at];
        CHECK_STATUS(HMS_ERR_INVALID_HANDLE, hms_command_run(system, "agent list", NULL, &text));
        CHECK_STATUS(HMS_ERR_INVALID_HANDLE, hms_system_close(&system, false));
        CHECK(system == (hms_system_t *)wrong[at]);
        CHECK_STATUS(HMS_ERR_INVALID_HANDLE, hms_subscription_destroy(&subscription));
        CHECK_STATUS(HMS_ERR_INVALID_HANDLE, hms_operation_destroy(&operation));
        CHECK_STATUS(HMS_ERR_INVALID_HANDLE, hms_operation_cancel(operation, 0));
    }
    /* Of another kind. */
    CHECK_STATUS(HMS_ERR_INVALID_HANDLE, hms_command_run((hms_system_t *)events, "agent list", NULL, &text));
    CHECK_STATUS(HMS_ERR_INVALID_HANDLE, hms_subscription_next((hms_subscription_t *)hms, 1, 0, &text, NULL));
    CHECK_STATUS(HMS_ERR_INVALID_HANDLE, hms_operation_wait((hms_operation_t *)hms, 0, NULL));
}

static void use_after_destroy(void)
{
    hms_system_t *hms = NULL;
    hms_system_t *copy;
    hms_subscription_t *events = NULL;
    hms_subscription_t *second = NULL;
    char *text = NULL;
    int rounds;

    CHECK_OK(hms_system_open(NULL, &hms));
    copy = hms;
    CHECK_OK(hms_subscription_create(hms, NULL, &events));
    CHECK_OK(hms_subscription_create(hms, NULL, &second));
    {
        hms_subscription_t *stale = second;
        CHECK_OK(hms_subscription_destroy(&second));
        CHECK(second == NULL);
        CHECK_STATUS(HMS_ERR_INVALID_HANDLE, hms_subscription_destroy(&stale));
        CHECK_STATUS(HMS_ERR_INVALID_HANDLE, hms_subscription_next(stale, 1, 0, &text, NULL));
        /* Its place is given to another; the stale handle does not reach that one. */
        CHECK_OK(hms_subscription_create(hms, NULL, &second));
        CHECK(second != stale);
        CHECK_STATUS(HMS_ERR_INVALID_HANDLE, hms_subscription_next(stale, 1, 0, &text, NULL));
    }
    CHECK_OK(hms_system_close(&hms, false));
    CHECK(hms == NULL);
    CHECK_STATUS(HMS_ERR_INVALID_HANDLE, hms_system_close(&copy, false));
    CHECK_STATUS(HMS_ERR_INVALID_HANDLE, hms_command_run(copy, "agent list", NULL, &text));
    CHECK_STATUS(HMS_ERR_INVALID_HANDLE, hms_event_publish(copy, "a.b", NULL, NULL));
    /* A subscription gives what it still holds, and then has ended, for ever. */
    for (rounds = 0; rounds < 100; rounds++) {
        hms_status_t status = hms_subscription_next(events, 0, HMS_WAIT_FOREVER, &text, NULL);
        if (status == HMS_ERR_CANCELLED) {
            break;
        }
        CHECK(status == HMS_OK);
        hms_string_free(text);
    }
    CHECK_STATUS(HMS_ERR_CANCELLED, hms_subscription_next(events, 0, HMS_WAIT_FOREVER, &text, NULL));
    CHECK_OK(hms_subscription_destroy(&events));
    CHECK_OK(hms_subscription_destroy(&second));
}

static void *wait_for_an_event(void *events)
{
    char *text = GARBAGE(char *);
    hms_status_t status = hms_subscription_next((hms_subscription_t *)events, 1, HMS_WAIT_FOREVER, &text, NULL);
    CHECK(text == NULL);
    /* Before it waits, while it waits, or after: one of the two. */
    CHECK(status == HMS_ERR_CANCELLED || status == HMS_ERR_INVALID_HANDLE);
    return NULL;
}

static void destroyed_by_another_thread(hms_system_t *hms)
{
    const char *pattern = "nothing.is.called.that";
    hms_subscription_options_t wanted = HMS_SUBSCRIPTION_OPTIONS_INIT;
    int round;

    wanted.patterns = &pattern;
    wanted.pattern_count = 1;
    for (round = 0; round < 50; round++) {
        pthread_t threads[4];
        hms_subscription_t *events = NULL;
        int at;
        CHECK_OK(hms_subscription_create(hms, &wanted, &events));
        for (at = 0; at < 4; at++) {
            CHECK(pthread_create(&threads[at], NULL, wait_for_an_event, events) == 0);
        }
        CHECK_OK(hms_subscription_destroy(&events));
        for (at = 0; at < 4; at++) {
            CHECK(pthread_join(threads[at], NULL) == 0);
        }
    }
}

static hms_system_t *shared_system;

static void *use_it(void *unused)
{
    int round;
    (void)unused;
    for (round = 0; round < 200; round++) {
        char *text = NULL;
        hms_status_t status = hms_command_run(shared_system, "agent list", NULL, &text);
        CHECK(status == HMS_OK || status == HMS_ERR_INVALID_HANDLE || status == HMS_ERR_CANCELLED);
        CHECK((status == HMS_OK) == (text != NULL));
        hms_string_free(text);
    }
    return NULL;
}

static void *close_it(void *closed)
{
    hms_system_t *mine = shared_system;
    hms_status_t status = hms_system_close(&mine, false);
    CHECK(status == HMS_OK || status == HMS_ERR_INVALID_HANDLE);
    CHECK((status == HMS_OK) == (mine == NULL));
    *(int *)closed = status == HMS_OK;
    return NULL;
}

/* 8 threads use what 8 others close; exactly one of those closes it. */
static void closed_while_used(void)
{
    pthread_t users[8], closers[8];
    int closed[8], at, sum = 0;

    CHECK_OK(hms_system_open(NULL, &shared_system));
    for (at = 0; at < 8; at++) {
        CHECK(pthread_create(&users[at], NULL, use_it, NULL) == 0);
    }
    for (at = 0; at < 8; at++) {
        CHECK(pthread_create(&closers[at], NULL, close_it, &closed[at]) == 0);
    }
    for (at = 0; at < 8; at++) {
        CHECK(pthread_join(users[at], NULL) == 0);
        CHECK(pthread_join(closers[at], NULL) == 0);
        sum += closed[at];
    }
    CHECK(sum == 1);
}

static void *sees_no_message(void *unused)
{
    (void)unused;
    CHECK(hms_last_error_message()[0] == '\0');
    return NULL;
}

static void messages_belong_to_threads(void)
{
    pthread_t other;
    CHECK_STATUS(HMS_ERR_INVALID_HANDLE, hms_operation_cancel(NULL, 0));
    CHECK(hms_last_error_message()[0] != '\0');
    CHECK(pthread_create(&other, NULL, sees_no_message, NULL) == 0);
    CHECK(pthread_join(other, NULL) == 0);
    CHECK_OK(hms_operation_destroy(NULL));
    CHECK(hms_last_error_message()[0] == '\0');
    CHECK(strcmp(hms_status_name(HMS_ERR_HOME_BUSY), "HMS_ERR_HOME_BUSY") == 0);
    CHECK(strcmp(hms_status_name(-12345), "unknown status") == 0);
}

/* In the child of a fork every call that could touch the parent's system is turned away. */
static void after_a_fork(hms_system_t *hms)
{
    int status = -1;
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        char *text = NULL;
        CHECK_STATUS(HMS_ERR_FORKED, hms_command_run(hms, "agent list", NULL, &text));
        CHECK(says("fork"));
        CHECK_STATUS(HMS_ERR_FORKED, hms_system_open(NULL, &hms));
        CHECK_STATUS(HMS_ERR_FORKED, hms_system_close(&hms, false));
        CHECK(hms_version()[0] != '\0' && hms_abi_version() != 0);
        _exit(0);
    }
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    hms_string_free(run(hms, "agent list", NULL));
}

int main(void)
{
    hms_system_t *hms = NULL;
    hms_subscription_t *events = NULL;

    messages_belong_to_threads();
    CHECK_OK(hms_system_open(NULL, &hms));
    CHECK_OK(hms_subscription_create(hms, NULL, &events));
    null_everywhere(hms, events);
    bad_values(hms);
    bad_command_lines();
    forged_handles(hms, events);
    destroyed_by_another_thread(hms);
    after_a_fork(hms);
    /* After all that, the system still answers. */
    hms_string_free(run(hms, "agent list", NULL));
    CHECK_OK(hms_subscription_destroy(&events));
    CHECK_OK(hms_system_close(&hms, false));
    use_after_destroy();
    closed_while_used();
    puts("ok");
    return 0;
}
