/* A shared system: what one program offers, every other that is attached can call.
 * argv[1] names a folder to work in. The hosts run in this process, as command lines do. */
#include "check.h"

static char home[4096];

static hms_operation_t *host(void)
{
    hms_operation_t *operation = NULL;
    hms_cli_options_t options = HMS_CLI_OPTIONS_INIT;
    const char *line[] = { "prog", "system", "run", "--home", home };
    options.host_program = "/bin/false";
    options.stdio[1] = options.stdio[2] = 2;
    CHECK_OK(hms_cli_start(&options, 5, line, &operation));
    return operation;
}

/* Attaches, once the host listens. */
static hms_system_t *attach(void)
{
    hms_system_options_t options = HMS_SYSTEM_OPTIONS_INIT;
    hms_system_t *system = NULL;
    int round;
    options.mode = HMS_SYSTEM_SHARED;
    options.home = home;
    for (round = 0; round < 3000; round++) {
        struct timespec pause = { 0, 10 * 1000 * 1000 };
        hms_status_t status = hms_system_open(&options, &system);
        if (status == HMS_OK) {
            return system;
        }
        CHECK(status == HMS_ERR_HOST_UNAVAILABLE);
        nanosleep(&pause, NULL);
    }
    CHECK(!"the host listens");
    return NULL;
}

static void on_call(const hms_service_call_t *call, hms_reply_t *reply, void *user_data)
{
    told_call((struct told *)user_data);
    CHECK(strcmp(call->service, "my.echo") == 0 && strcmp(call->method, "echo") == 0);
    CHECK_OK(hms_reply_send(&reply, call->args_json));
}

static void on_command(const hms_command_call_t *call, hms_reply_t *reply, void *user_data)
{
    told_call((struct told *)user_data);
    CHECK_OK(hms_reply_send(&reply, call->args_json));
}

static hms_status_t create(const hms_agent_info_t *info, void *user_data, void **instance)
{
    (void)info;
    (void)user_data;
    (void)instance;
    return HMS_ERR_INTERNAL;
}

static void on_events(const hms_event_t *const *events, size_t count, uint64_t lost, void *user_data)
{
    size_t at;
    CHECK(lost == 0);
    for (at = 0; at < count; at++) {
        CHECK(events[at]->data_length == 3 && memcmp(events[at]->data, "a\0b", 3) == 0);
        CHECK(strcmp(events[at]->content_type, "a/b") == 0 && strcmp(events[at]->subject, "me") == 0);
        told_call((struct told *)user_data);
    }
}

int main(int argc, char **argv)
{
    struct told told = TOLD_INIT, heard = TOLD_INIT;
    hms_operation_t *running;
    hms_system_t *mine, *other;
    hms_registration_t *service = NULL, *command = NULL, *again = NULL;
    hms_service_t *echo = NULL;
    hms_agent_t *sleeper = NULL;
    hms_subscription_t *events = NULL;
    hms_subscription_options_t wanted = HMS_SUBSCRIPTION_OPTIONS_INIT;
    hms_agent_vtable_t vtable = HMS_AGENT_VTABLE_INIT;
    hms_event_t event = HMS_EVENT_INIT;
    const hms_event_t *batch[100];
    const char *pattern = "app.shared";
    char *json = NULL;
    size_t at;

    CHECK(argc == 2);
    snprintf(home, sizeof home, "%s/shared", argv[1]);
    running = host();
    mine = attach();
    other = attach();

    CHECK_OK(hms_service_register(mine, "{\"id\":\"my.echo\",\"version\":\"1.0.0\"}", on_call, &told, told_drop, &service));
    CHECK_STATUS(HMS_ERR_ALREADY_EXISTS, hms_service_register(other, "{\"id\":\"my.echo\",\"version\":\"1.0.0\"}", on_call,
                                                              &told, told_drop, &again));
    CHECK(told_drops(&told) == 1);
    CHECK_OK(hms_command_register(mine, "{\"path\":\"my echo\",\"summary\":\"Echo\"}", on_command, &told, told_drop, &command));
    CHECK_OK(hms_service_list(other, &json));
    CHECK(strstr(json, "my.echo") != NULL);
    hms_string_free(json);
    CHECK_OK(hms_command_list(other, &json));
    CHECK(strstr(json, "\"my echo\"") != NULL);
    hms_string_free(json);
    CHECK_OK(hms_service_lookup(other, "my.echo", "^1", &echo));
    CHECK_OK(hms_service_call(echo, "echo", "[1,2]", 30000, &json));
    CHECK(strcmp(json, "[1,2]") == 0);
    hms_string_free(json);
    hms_string_free(run(other, "my echo", NULL));
    CHECK(told.calls == 2);

    /* Agents and events go through the host too. */
    CHECK_OK(hms_agent_create(mine, "{\"type\":\"process\",\"name\":\"s\",\"config\":{\"command\":[\"sleep\",\"300\"]}}",
                              &sleeper));
    CHECK_OK(hms_agent_release(&sleeper));
    CHECK_OK(hms_agent_get(other, "s", &sleeper));
    CHECK_OK(hms_agent_destroy(&sleeper));
    wanted.patterns = &pattern;
    wanted.pattern_count = 1;
    wanted.on_events = on_events;
    wanted.user_data = &heard;
    wanted.drop = told_drop;
    CHECK_OK(hms_subscription_create(other, &wanted, &events));
    event.type = pattern;
    event.subject = "me";
    event.content_type = "a/b";
    event.data = "a\0b";
    event.data_length = 3;
    for (at = 0; at < 100; at++) {
        batch[at] = &event;
    }
    CHECK_OK(hms_event_publish_batch(mine, batch, 100));
    CHECK_OK(hms_event_publish_bytes(mine, pattern, "me", "a/b", "a\0b", 3));
    told_wait(&heard, &heard.calls, 101);
    CHECK_OK(hms_subscription_destroy(&events));
    CHECK(told_drops(&heard) == 1);

    /* What a shared system does not do says so. */
    wanted.queue_policy = HMS_QUEUE_DROP_NEWEST;
    CHECK_STATUS(HMS_ERR_NOT_SUPPORTED, hms_subscription_create(other, &wanted, &events));
    vtable.create = create;
    CHECK_STATUS(HMS_ERR_NOT_SUPPORTED, hms_agent_type_register(mine, "{\"name\":\"mine\",\"version\":\"1.0.0\"}", &vtable,
                                                                &told, told_drop, &again));
    CHECK(told_drops(&heard) == 2 && told_drops(&told) == 2);

    /* Taken back, it is gone for all; with its program, too. */
    CHECK_OK(hms_registration_destroy(&service));
    CHECK(told_drops(&told) == 3);
    CHECK_STATUS(HMS_ERR_SERVICE_UNAVAILABLE, hms_service_call(echo, "echo", "1", 30000, &json));
    CHECK_OK(hms_service_register(mine, "{\"id\":\"my.echo\",\"version\":\"1.0.0\"}", on_call, &told, told_drop, &service));
    CHECK_OK(hms_service_call(echo, "echo", "\"again\"", 30000, &json));
    CHECK(strcmp(json, "\"again\"") == 0);
    hms_string_free(json);
    CHECK_OK(hms_system_close(&mine, false));
    told_wait(&told, &told.drops, 5);
    CHECK_STATUS(HMS_ERR_SERVICE_UNAVAILABLE, hms_service_call(echo, "echo", "1", 30000, &json));
    CHECK_OK(hms_registration_destroy(&service));
    CHECK_OK(hms_registration_destroy(&command));
    CHECK_OK(hms_service_release(&echo));
    CHECK_OK(hms_agent_release(&sleeper));
    CHECK_OK(hms_system_close(&other, false));
    CHECK_OK(hms_operation_cancel(running, SIGTERM));
    CHECK_OK(hms_operation_wait(running, 60000, NULL));
    CHECK_OK(hms_operation_destroy(&running));
    CHECK(told_drops(&told) == 5);
    puts("ok");
    return 0;
}
