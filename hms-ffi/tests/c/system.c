/* A system of one's own: a real process is created, seen, killed, healed, and gone when it is closed; the
 * program around it keeps its signals, its directory and its children. argv[1] names a folder to work in. */
#include "check.h"

static struct sigaction before[32];

static void remember_signals(void)
{
    int signal;
    for (signal = 1; signal < 32; signal++) {
        sigaction(signal, NULL, &before[signal]);
    }
}

static void check_signals(void)
{
    struct sigaction now;
    int signal;
    for (signal = 1; signal < 32; signal++) {
        sigaction(signal, NULL, &now);
        CHECK(now.sa_handler == before[signal].sa_handler);
    }
}

/* Waits for an event whose JSON has all of `parts`. */
static char *event_with(hms_subscription_t *events, const char *const *parts, int count)
{
    for (;;) {
        char *json = NULL;
        int at, found = 0;
        CHECK_OK(hms_subscription_next(events, 1, 30000, &json, NULL));
        for (at = 0; at < count; at++) {
            found += strstr(json, parts[at]) != NULL;
        }
        if (found == count) {
            return json;
        }
        hms_string_free(json);
    }
}

static hms_subscription_t *subscribe(hms_system_t *hms, const char *pattern, const char *filter, int64_t after)
{
    hms_subscription_t *events = NULL;
    hms_subscription_options_t wanted = HMS_SUBSCRIPTION_OPTIONS_INIT;
    wanted.patterns = &pattern;
    wanted.pattern_count = 1;
    wanted.filter = filter;
    wanted.after_sequence = after;
    CHECK_OK(hms_subscription_create(hms, &wanted, &events));
    return events;
}

static void a_process_lives_and_dies_with_its_system(const char *folder)
{
    const char *const restarted[] = { "\"agent.restarted\"", "\"web\"" };
    char home[4096];
    char *json;
    long pid, next;
    hms_system_t *hms = NULL, *second = NULL;
    hms_subscription_t *events;
    hms_system_options_t options = HMS_SYSTEM_OPTIONS_INIT;

    snprintf(home, sizeof home, "%s/home", folder);
    options.home = home;
    CHECK_OK(hms_system_open(&options, &hms));
    CHECK_STATUS(HMS_ERR_HOME_BUSY, hms_system_open(&options, &second));
    CHECK(second == NULL && says(home));
    events = subscribe(hms, "agent.>", NULL, -1);

    json = run(hms, "agent create",
               "{\"type\":\"process\",\"name\":\"web\",\"config\":{\"command\":[\"sleep\",\"300\"]}}");
    CHECK(strstr(json, "\"web\"") != NULL);
    hms_string_free(json);
    CHECK_STATUS(HMS_ERR_ALREADY_EXISTS,
                 hms_command_run(hms, "agent create",
                                 "{\"type\":\"process\",\"name\":\"web\",\"config\":{\"command\":[\"sleep\",\"1\"]}}",
                                 &json));
    json = run(hms, "agent list", NULL);
    pid = number(json, "pid");
    CHECK(strstr(json, "\"status\":\"running\"") != NULL && pid > 1 && kill((pid_t)pid, 0) == 0);
    hms_string_free(json);

    CHECK(kill((pid_t)pid, SIGKILL) == 0);
    hms_string_free(event_with(events, restarted, 2));
    json = run(hms, "agent status", "{\"agent\":\"web\"}");
    next = number(json, "pid");
    CHECK(next > 1 && next != pid && number(json, "restarts") == 1);
    hms_string_free(json);

    /* Another system in the same process does not see it. */
    CHECK_OK(hms_system_open(NULL, &second));
    json = run(second, "agent list", NULL);
    CHECK(strcmp(json, "[]") == 0);
    hms_string_free(json);
    CHECK_OK(hms_system_close(&second, false));

    CHECK_OK(hms_system_close(&hms, false));
    CHECK(hms == NULL && kill((pid_t)next, 0) != 0 && errno == ESRCH);
    CHECK_OK(hms_subscription_destroy(&events));
}

/* With agents_stay the process survives its system, and the next one on the home takes it over. */
static void agents_stay_for_the_next_system(const char *folder)
{
    char home[4096];
    char *json;
    long pid;
    const char *name = "\"db\"";
    hms_system_t *hms = NULL;
    hms_subscription_t *events;
    hms_system_options_t options = HMS_SYSTEM_OPTIONS_INIT;

    snprintf(home, sizeof home, "%s/stay", folder);
    options.home = home;
    CHECK_OK(hms_system_open(&options, &hms));
    json = run(hms, "agent create",
               "{\"type\":\"process\",\"name\":\"db\",\"config\":{\"command\":[\"sleep\",\"300\"]}}");
    hms_string_free(json);
    json = run(hms, "agent status", "{\"agent\":\"db\"}");
    pid = number(json, "pid");
    hms_string_free(json);
    CHECK_OK(hms_system_close(&hms, true));
    CHECK(kill((pid_t)pid, 0) == 0);
    CHECK_OK(hms_system_open(&options, &hms));
    /* The journal tells of it even when it was sooner than we could ask. */
    events = subscribe(hms, "agent.adopted", NULL, 0);
    hms_string_free(event_with(events, &name, 1));
    CHECK_OK(hms_subscription_destroy(&events));
    json = run(hms, "agent status", "{\"agent\":\"db\"}");
    CHECK(number(json, "pid") == pid && number(json, "restarts") == 0);
    hms_string_free(json);
    CHECK_OK(hms_system_close(&hms, false));
    CHECK(kill((pid_t)pid, 0) != 0);
}

/* A forked child that lives on does not keep its parent's homes locked. */
static void a_forked_child_holds_no_home(const char *folder)
{
    char home[4096];
    char byte = 0;
    int ends[2], status = -1;
    pid_t child;
    hms_system_t *hms = NULL;
    hms_system_options_t options = HMS_SYSTEM_OPTIONS_INIT;

    snprintf(home, sizeof home, "%s/forked", folder);
    options.home = home;
    CHECK_OK(hms_system_open(&options, &hms));
    CHECK(pipe(ends) == 0);
    child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        close(ends[1]);
        _exit(read(ends[0], &byte, 1) == 1 ? 0 : 1);
    }
    CHECK_OK(hms_system_close(&hms, false));
    CHECK_OK(hms_system_open(&options, &hms));
    CHECK_OK(hms_system_close(&hms, false));
    CHECK(write(ends[1], &byte, 1) == 1 && waitpid(child, &status, 0) == child && status == 0);
    close(ends[0]);
    close(ends[1]);
}

static void events_are_filtered_ordered_and_counted(void)
{
    char *json = NULL;
    uint64_t lost = 9;
    int round;
    hms_system_t *hms = NULL;
    hms_subscription_t *events, *small = NULL;
    hms_subscription_options_t wanted = HMS_SUBSCRIPTION_OPTIONS_INIT;
    const char *pattern = "app.*.done";

    CHECK_OK(hms_system_open(NULL, &hms));
    events = subscribe(hms, pattern, "data.n >= 2", -1);
    wanted.patterns = &pattern;
    wanted.pattern_count = 1;
    wanted.capacity = 2;
    CHECK_OK(hms_subscription_create(hms, &wanted, &small));
    CHECK_STATUS(HMS_ERR_TIMEOUT, hms_subscription_next(events, 0, 0, &json, &lost));
    CHECK_STATUS(HMS_ERR_TIMEOUT, hms_subscription_next(events, 0, 20, &json, &lost));
    CHECK(json == NULL && lost == 9);
    for (round = 1; round <= 4; round++) {
        char data[32];
        snprintf(data, sizeof data, "{\"n\":%d}", round);
        CHECK_OK(hms_event_publish(hms, "app.build.done", "me", data));
    }
    CHECK_OK(hms_event_publish(hms, "app.other", NULL, NULL));
    for (round = 2; round <= 4; round++) {
        CHECK_OK(hms_subscription_next(events, 1, 5000, &json, &lost));
        CHECK(number(json, "n") == round && lost == 0 && strstr(json, "\"subject\":\"me\"") != NULL);
        hms_string_free(json);
    }
    CHECK_STATUS(HMS_ERR_TIMEOUT, hms_subscription_next(events, 0, 0, &json, NULL));
    CHECK_OK(hms_subscription_next(small, 0, 5000, &json, &lost));
    CHECK(number(json, "n") == 3 && lost == 2);
    hms_string_free(json);
    CHECK_OK(hms_subscription_destroy(&small));
    CHECK_OK(hms_subscription_destroy(&events));
    CHECK_OK(hms_system_close(&hms, false));
}

/* A command line runs beside the caller, writes to the descriptors it is given, and ends when asked to. */
static void a_command_line_is_an_operation(const char *folder)
{
    char home[4096], text[256] = { 0 };
    int ends[2];
    int32_t code = -1;
    hms_operation_t *operation = NULL, *stale;
    hms_cli_options_t options = HMS_CLI_OPTIONS_INIT;
    const char *version[] = { "prog", "--version" };
    const char *wrong[] = { "prog", "frobnicate" };
    const char *host[] = { "prog", "system", "run", "--home", home };

    CHECK(pipe(ends) == 0);
    options.program_name = "my-tool";
    options.program_version = "7.8.9";
    options.host_program = "/bin/false";
    options.stdio[1] = ends[1];
    options.stdio[2] = ends[1];
    CHECK_OK(hms_cli_start(&options, 2, version, &operation));
    CHECK_OK(hms_operation_wait(operation, HMS_WAIT_FOREVER, &code));
    CHECK_OK(hms_operation_wait(operation, 0, NULL));
    CHECK(code == 0 && read(ends[0], text, sizeof text - 1) > 0 && strcmp(text, "my-tool 7.8.9\n") == 0);
    stale = operation;
    CHECK_OK(hms_operation_destroy(&operation));
    CHECK_STATUS(HMS_ERR_INVALID_HANDLE, hms_operation_wait(stale, 0, &code));

    CHECK_OK(hms_cli_start(&options, 2, wrong, &operation));
    CHECK_OK(hms_operation_wait(operation, HMS_WAIT_FOREVER, &code));
    memset(text, 0, sizeof text);
    CHECK(code == 2 && read(ends[0], text, sizeof text - 1) > 0 && strstr(text, "frobnicate") != NULL);
    CHECK_OK(hms_operation_destroy(&operation));

    /* A host goes on until it is asked to end. */
    snprintf(home, sizeof home, "%s/run", folder);
    CHECK_OK(hms_cli_start(&options, 5, host, &operation));
    CHECK_STATUS(HMS_ERR_TIMEOUT, hms_operation_wait(operation, 0, &code));
    CHECK_STATUS(HMS_ERR_INVALID_ARGUMENT, hms_operation_cancel(operation, -1));
    CHECK_OK(hms_operation_cancel(operation, SIGTERM));
    CHECK_OK(hms_operation_wait(operation, 30000, &code));
    CHECK_OK(hms_operation_destroy(&operation));

    /* Or until it is destroyed, when nothing of it runs any more: its home can be had at once. */
    CHECK_OK(hms_cli_start(&options, 5, host, &operation));
    CHECK_OK(hms_operation_destroy(&operation));
    CHECK(operation == NULL);
    close(ends[0]);
    close(ends[1]);
}

int main(int argc, char **argv)
{
    char cwd[4096], after[4096];
    CHECK(argc == 2 && getcwd(cwd, sizeof cwd) != NULL);
    CHECK(hms_abi_version() == (HMS_ABI_VERSION_MAJOR << 16 | HMS_ABI_VERSION_MINOR));
    remember_signals();
    a_process_lives_and_dies_with_its_system(argv[1]);
    agents_stay_for_the_next_system(argv[1]);
    a_forked_child_holds_no_home(argv[1]);
    events_are_filtered_ordered_and_counted();
    check_signals();
    a_command_line_is_an_operation(argv[1]);
    check_signals();
    CHECK(getcwd(after, sizeof after) != NULL && strcmp(cwd, after) == 0);
    /* No child is left that this program would have to wait for. */
    CHECK(waitpid(-1, NULL, WNOHANG) == -1 && errno == ECHILD);
    puts("ok");
    return 0;
}
