/* Agent types in C: agents of the program's own are started, asked, restarted after a failure with their state,
 * found ill, and gone with their type. */
#include "check.h"

static hms_system_t *hms;

/* What happened to the instances of a type. */
struct type {
    struct told told; /* first; calls: instances made */
    long started, stopped, destroyed, restored;
    hms_status_t start_with;
};

struct counter {
    struct type *type;
    hms_life_t *life;
    long count, step;
    bool ill;
};

static void note(struct type *type, long *what)
{
    pthread_mutex_lock(&type->told.lock);
    ++*what;
    pthread_cond_broadcast(&type->told.changed);
    pthread_mutex_unlock(&type->told.lock);
}

static hms_status_t create(const hms_agent_info_t *info, void *user_data, void **instance)
{
    struct counter *counter = (struct counter *)calloc(1, sizeof *counter);
    CHECK(info->struct_size == sizeof(hms_agent_info_t) && info->id[0] != '\0' && info->incarnation > 0);
    CHECK(strcmp(info->name, "one") == 0 || strcmp(info->name, "two") == 0);
    counter->type = (struct type *)user_data;
    counter->life = info->life;
    counter->step = number(info->config_json, "step");
    *instance = counter;
    note(counter->type, &counter->type->told.calls);
    return HMS_OK;
}

static hms_status_t start(void *instance, bool *pending)
{
    struct counter *counter = (struct counter *)instance;
    CHECK(!*pending);
    if (counter->type->start_with != HMS_OK) {
        return counter->type->start_with;
    }
    *pending = true;
    note(counter->type, &counter->type->started);
    CHECK_OK(hms_life_ready(counter->life));
    return HMS_OK;
}

static void handle(void *instance, const hms_message_t *message, hms_reply_t *reply)
{
    struct counter *counter = (struct counter *)instance;
    char text[64];
    CHECK(message->struct_size == sizeof(hms_message_t));
    if (strcmp(message->message_json, "\"crash\"") == 0) {
        CHECK_OK(hms_reply_send(&reply, NULL));
        CHECK_OK(hms_life_exited(counter->life, false, "told to crash"));
    } else if (strcmp(message->message_json, "\"ill\"") == 0) {
        counter->ill = true;
        CHECK_STATUS(HMS_ERR_INVALID_ARGUMENT, hms_life_health(counter->life, "{\"status\":\"purple\"}"));
        CHECK_OK(hms_life_health(counter->life, "{\"status\":\"degraded\",\"issues\":[{\"code\":\"ill\","
                                                "\"message\":\"feels ill\",\"severity\":\"degraded\"}]}"));
        CHECK_OK(hms_reply_send(&reply, NULL));
    } else if (strcmp(message->message_json, "\"refuse\"") == 0) {
        CHECK_OK(hms_reply_fail(&reply, HMS_ERR_PERMISSION_DENIED, "not for you"));
    } else if (strcmp(message->message_json, "\"list\"") == 0) {
        /* It may wait for the system. */
        char *json = NULL;
        CHECK_OK(hms_agent_list(hms, NULL, &json));
        CHECK_OK(hms_reply_send(&reply, json));
        hms_string_free(json);
    } else {
        CHECK(strcmp(message->source, "me") == 0);
        counter->count += counter->step;
        snprintf(text, sizeof text, "%ld", counter->count);
        CHECK_OK(hms_reply_send(&reply, text));
    }
}

static void health(void *instance, hms_reply_t *reply)
{
    struct counter *counter = (struct counter *)instance;
    CHECK_OK(hms_reply_send(&reply, counter->ill ? "{\"status\":\"degraded\",\"issues\":[{\"code\":\"ill\",\"message\":"
                                                   "\"feels ill\",\"severity\":\"degraded\"}]}"
                                                 : NULL));
}

static void snapshot(void *instance, hms_reply_t *reply)
{
    char text[64];
    snprintf(text, sizeof text, "{\"count\":%ld}", ((struct counter *)instance)->count);
    CHECK_OK(hms_reply_send(&reply, text));
}

static hms_status_t restore(void *instance, uint32_t state_version, const char *state)
{
    struct counter *counter = (struct counter *)instance;
    CHECK(state_version == 3);
    counter->count = number(state, "count");
    note(counter->type, &counter->type->restored);
    return HMS_OK;
}

static hms_status_t stop(void *instance, hms_stop_t how)
{
    struct counter *counter = (struct counter *)instance;
    CHECK(how == HMS_STOP_GRACEFUL || how == HMS_STOP_KILL);
    note(counter->type, &counter->type->stopped);
    return HMS_OK;
}

static void destroy(void *instance)
{
    struct counter *counter = (struct counter *)instance;
    struct type *type = counter->type;
    hms_life_t *life = counter->life;
    CHECK(told_drops(&type->told) == 0);
    CHECK_STATUS(HMS_ERR_INVALID_HANDLE, hms_life_ready(life));
    free(counter);
    note(type, &type->destroyed);
}

static hms_agent_vtable_t counters(void)
{
    hms_agent_vtable_t vtable = HMS_AGENT_VTABLE_INIT;
    vtable.create = create;
    vtable.start = start;
    vtable.handle = handle;
    vtable.health = health;
    vtable.snapshot = snapshot;
    vtable.restore = restore;
    vtable.stop = stop;
    vtable.destroy = destroy;
    return vtable;
}

static const char *const spec =
    "{\"name\":\"counter\",\"version\":\"1.0.0\",\"summary\":\"counts\",\"state_version\":3,\"schema\":{\"type\":\"object\","
    "\"properties\":{\"step\":{\"type\":\"integer\",\"default\":1,\"description\":\"how far\"}},"
    "\"additionalProperties\":false}}";

static long ask(hms_agent_t *agent, const char *message)
{
    char *json = NULL;
    long value;
    CHECK_OK(hms_agent_ask(agent, "me", message, 30000, &json));
    value = strtol(json, NULL, 10);
    hms_string_free(json);
    return value;
}

static void wait_for_status(hms_agent_t *agent, const char *status)
{
    char wanted[64];
    int round;
    snprintf(wanted, sizeof wanted, "\"status\":\"%s\"", status);
    for (round = 0; round < 3000; round++) {
        char *json = NULL;
        int is;
        struct timespec pause = { 0, 10 * 1000 * 1000 };
        CHECK_OK(hms_agent_status(agent, &json));
        is = strstr(json, wanted) != NULL;
        hms_string_free(json);
        if (is) {
            return;
        }
        nanosleep(&pause, NULL);
    }
    CHECK(!"the status comes");
}

static void agents_of_ones_own(void)
{
    struct type type = { TOLD_INIT, 0, 0, 0, 0, HMS_OK };
    hms_agent_vtable_t vtable = counters();
    hms_registration_t *mine = NULL, *again = NULL;
    hms_agent_t *one = NULL, *two = NULL;
    char *json = NULL;

    CHECK_OK(hms_agent_type_register(hms, spec, &vtable, &type, told_drop, &mine));
    CHECK_STATUS(HMS_ERR_INVALID_CONFIG,
                 hms_agent_create(hms, "{\"type\":\"counter\",\"config\":{\"step\":\"far\"}}", &one));
    CHECK_OK(hms_agent_create(hms, "{\"type\":\"counter\",\"name\":\"one\",\"config\":{\"step\":5}}", &one));
    CHECK(type.told.calls == 1 && type.started == 1);
    wait_for_status(one, "running");
    CHECK(ask(one, "1") == 5 && ask(one, "1") == 10);
    CHECK_STATUS(HMS_ERR_PERMISSION_DENIED, hms_agent_ask(one, "me", "\"refuse\"", 30000, &json));
    CHECK(says("not for you"));
    CHECK_OK(hms_agent_ask(one, "me", "\"list\"", 30000, &json));
    CHECK(strstr(json, "\"one\"") != NULL);
    hms_string_free(json);

    /* A restart hands the state on; each life is an instance of its own. */
    CHECK_OK(hms_agent_restart(one, false, false));
    wait_for_status(one, "running");
    CHECK(type.told.calls == 2 && type.restored == 1 && type.stopped == 1);
    told_wait(&type.told, &type.destroyed, 1);
    CHECK(ask(one, "1") == 15);
    /* What ends by itself is restarted. */
    CHECK_OK(hms_agent_tell(one, "me", "\"crash\""));
    told_wait(&type.told, &type.told.calls, 3);
    told_wait(&type.told, &type.destroyed, 2);
    wait_for_status(one, "running");
    /* What is ill says so. */
    ask(one, "\"ill\"");
    wait_for_status(one, "degraded");
    CHECK_OK(hms_agent_health(one, &json));
    CHECK(strstr(json, "feels ill") != NULL);
    hms_string_free(json);

    /* One that cannot start is not created. */
    type.start_with = HMS_ERR_IO;
    CHECK_STATUS(HMS_ERR_IO, hms_agent_create(hms, "{\"type\":\"counter\",\"name\":\"two\"}", &two));
    CHECK(two == NULL);
    type.start_with = HMS_OK;

    /* Without its type an agent waits, and goes on with its state when it is there again. */
    CHECK_OK(hms_registration_destroy(&mine));
    CHECK(told_drops(&type.told) == 1 && type.destroyed == type.told.calls);
    wait_for_status(one, "waiting");
    type.told.drops = 0;
    CHECK_OK(hms_agent_type_register(hms, spec, &vtable, &type, told_drop, &again));
    wait_for_status(one, "running");
    CHECK(ask(one, "1") > 0);
    CHECK_OK(hms_agent_destroy(&one));
    CHECK_OK(hms_registration_destroy(&again));
    CHECK(told_drops(&type.told) == 1 && type.destroyed == type.told.calls);
}

static void mistakes(void)
{
    struct type type = { TOLD_INIT, 0, 0, 0, 0, HMS_OK };
    hms_agent_vtable_t vtable = counters(), none = HMS_AGENT_VTABLE_INIT;
    hms_registration_t *mine = NULL;
    CHECK_STATUS(HMS_ERR_INVALID_HANDLE, hms_agent_type_register(NULL, spec, &vtable, &type, told_drop, &mine));
    CHECK_STATUS(HMS_ERR_INVALID_ARGUMENT, hms_agent_type_register(hms, NULL, &vtable, &type, told_drop, &mine));
    CHECK_STATUS(HMS_ERR_INVALID_ARGUMENT, hms_agent_type_register(hms, "[]", &vtable, &type, told_drop, &mine));
    CHECK_STATUS(HMS_ERR_INVALID_ARGUMENT, hms_agent_type_register(hms, spec, NULL, &type, told_drop, &mine));
    CHECK_STATUS(HMS_ERR_INVALID_ARGUMENT, hms_agent_type_register(hms, spec, &none, &type, told_drop, &mine));
    CHECK(says("create"));
    CHECK_STATUS(HMS_ERR_INVALID_ARGUMENT, hms_agent_type_register(hms, spec, &vtable, &type, told_drop, NULL));
    vtable.struct_size = 8;
    CHECK_STATUS(HMS_ERR_INVALID_ARGUMENT, hms_agent_type_register(hms, spec, &vtable, &type, told_drop, &mine));
    CHECK(mine == NULL && told_drops(&type.told) == 7 && type.told.calls == 0);
    CHECK_STATUS(HMS_ERR_INVALID_HANDLE, hms_life_ready(NULL));
    CHECK_STATUS(HMS_ERR_INVALID_HANDLE, hms_life_exited(NULL, true, "x"));
    CHECK_STATUS(HMS_ERR_INVALID_HANDLE, hms_life_health((hms_life_t *)hms, "{}"));
}

/* Its agents end with the system, and the type after them. */
static void all_ends_with_the_system(void)
{
    struct type type = { TOLD_INIT, 0, 0, 0, 0, HMS_OK };
    hms_agent_vtable_t vtable = counters();
    hms_registration_t *mine = NULL;
    hms_agent_t *one = NULL;
    CHECK_OK(hms_agent_type_register(hms, spec, &vtable, &type, told_drop, &mine));
    CHECK_OK(hms_agent_create(hms, "{\"type\":\"counter\",\"name\":\"one\"}", &one));
    CHECK_OK(hms_system_close(&hms, false));
    CHECK(type.stopped == 1);
    told_wait(&type.told, &type.told.drops, 1);
    CHECK(type.destroyed == 1);
    CHECK_OK(hms_registration_destroy(&mine));
    CHECK_OK(hms_agent_release(&one));
    CHECK(told_drops(&type.told) == 1);
}

int main(void)
{
    CHECK_OK(hms_system_open(NULL, &hms));
    agents_of_ones_own();
    mistakes();
    all_ends_with_the_system();
    puts("ok");
    return 0;
}
