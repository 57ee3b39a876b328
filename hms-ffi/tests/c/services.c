/* Services and commands of the program's own: answered at once or later, called with and without waiting, and
 * taken back while they are called. */
#include "check.h"

#include <sched.h>

static hms_system_t *hms;
static hms_reply_t *kept;

static void on_call(const hms_service_call_t *call, hms_reply_t *reply, void *user_data)
{
    struct told *told = (struct told *)user_data;
    hms_reply_t *same = reply;
    CHECK(call->struct_size == sizeof(hms_service_call_t) && strcmp(call->service, "my.adder") == 0);
    if (strcmp(call->method, "add") == 0) {
        int a = 0, b = 0;
        char sum[32];
        CHECK(sscanf(call->args_json, "[%d,%d]", &a, &b) == 2);
        snprintf(sum, sizeof sum, "%d", a + b);
        CHECK_STATUS(HMS_ERR_INVALID_ARGUMENT, hms_reply_send(&reply, "nonsense"));
        CHECK(reply == same);
        CHECK_STATUS(HMS_ERR_INVALID_STATE, hms_reply_item(reply, "1"));
        CHECK_OK(hms_reply_send(&reply, sum));
        /* Exactly once. */
        CHECK(reply == NULL);
        CHECK_STATUS(HMS_ERR_INVALID_HANDLE, hms_reply_send(&same, "1"));
        CHECK_STATUS(HMS_ERR_INVALID_HANDLE, hms_reply_fail(&same, HMS_ERR_IO, NULL));
    } else if (strcmp(call->method, "fail") == 0) {
        CHECK_STATUS(HMS_ERR_INVALID_ARGUMENT, hms_reply_fail(&reply, HMS_OK, "fine"));
        CHECK_STATUS(HMS_ERR_INVALID_ARGUMENT, hms_reply_fail(&reply, -12345, "strange"));
        CHECK_OK(hms_reply_fail(&reply, HMS_ERR_QUEUE_FULL, "no room"));
    } else if (strcmp(call->method, "block") == 0) {
        /* A handler may wait for the system, but not for itself. */
        char *json = NULL;
        hms_system_t *system = hms;
        CHECK_OK(hms_agent_list(hms, NULL, &json));
        CHECK_STATUS(HMS_ERR_WOULD_DEADLOCK, hms_system_close(&system, false));
        CHECK_OK(hms_reply_send(&reply, json));
        hms_string_free(json);
    } else {
        kept = reply;
    }
    told_call(told);
}

struct answer {
    struct told told; /* first */
    hms_status_t status;
    char result[256];
    hms_operation_t *own;
};

static void on_done(hms_status_t status, const char *message, const char *result, void *user_data)
{
    struct answer *answer = (struct answer *)user_data;
    answer->status = status;
    snprintf(answer->result, sizeof answer->result, "%s", result == NULL ? message : result);
    told_call(&answer->told);
}

static void services(void)
{
    struct told told = TOLD_INIT;
    struct answer answer = { TOLD_INIT, 1, "", NULL };
    hms_registration_t *mine = NULL, *second = NULL, *stale_registration;
    hms_service_t *adder = NULL, *none = NULL, *stale;
    hms_operation_t *operation = NULL;
    hms_reply_t *late;
    bool cancelled = false;
    char *json = NULL;
    const char *spec = "{\"id\":\"my.adder\",\"version\":\"1.2.3\",\"summary\":\"Adds\"}";

    CHECK_OK(hms_service_register(hms, spec, on_call, &told, told_drop, &mine));
    CHECK_STATUS(HMS_ERR_ALREADY_EXISTS, hms_service_register(hms, spec, on_call, &told, told_drop, &second));
    CHECK(second == NULL && told_drops(&told) == 1);
    CHECK_OK(hms_service_list(hms, &json));
    CHECK(strstr(json, "my.adder") != NULL && strstr(json, "hms.metrics") != NULL);
    hms_string_free(json);
    CHECK_STATUS(HMS_ERR_SERVICE_UNAVAILABLE, hms_service_lookup(hms, "my.adder", "^2", &none));
    CHECK(none == NULL && says("1.2.3"));
    CHECK_STATUS(HMS_ERR_INVALID_ARGUMENT, hms_service_lookup(hms, "my.adder", "nonsense", &none));
    CHECK_STATUS(HMS_ERR_SERVICE_UNAVAILABLE, hms_service_lookup(hms, "nobody", NULL, &none));
    CHECK_OK(hms_service_lookup(hms, "my.adder", "^1.2", &adder));
    CHECK_OK(hms_service_spec(adder, &json));
    CHECK(strstr(json, "\"version\":\"1.2.3\"") != NULL);
    hms_string_free(json);
    CHECK_OK(hms_service_call(adder, "add", "[2,40]", 30000, &json));
    CHECK(strcmp(json, "42") == 0);
    hms_string_free(json);
    CHECK_STATUS(HMS_ERR_QUEUE_FULL, hms_service_call(adder, "fail", NULL, 30000, &json));
    CHECK(json == NULL && says("no room"));
    CHECK_OK(hms_service_call(adder, "block", NULL, 30000, &json));
    CHECK(strcmp(json, "[]") == 0);
    hms_string_free(json);
    /* Answered by nobody in time: the reply is stale from then on. */
    CHECK_STATUS(HMS_ERR_TIMEOUT, hms_service_call(adder, "later", NULL, 50, &json));
    late = kept;
    CHECK(late != NULL);
    told_wait(&told, &told.calls, 4);
    while (hms_reply_is_cancelled(late, &cancelled) != HMS_ERR_INVALID_HANDLE) {
        CHECK(sched_yield() == 0);
    }
    CHECK_STATUS(HMS_ERR_INVALID_HANDLE, hms_reply_send(&late, "1"));
    CHECK(late == kept);

    /* Without waiting, answered later by another thread. */
    told.calls = 0;
    CHECK_OK(hms_service_call_async(adder, "later", NULL, 60000, on_done, &answer, told_drop, &operation));
    told_wait(&told, &told.calls, 1);
    CHECK_STATUS(HMS_ERR_TIMEOUT, hms_operation_wait(operation, 0, NULL));
    CHECK_STATUS(HMS_ERR_INVALID_STATE, hms_operation_result(operation, &json));
    CHECK_OK(hms_reply_send(&kept, "\"at last\""));
    CHECK_OK(hms_operation_wait(operation, 30000, NULL));
    CHECK(answer.told.calls == 1 && answer.status == HMS_OK && strcmp(answer.result, "\"at last\"") == 0);
    CHECK_OK(hms_operation_destroy(&operation));
    /* Cancelled. */
    CHECK_OK(hms_service_call_async(adder, "later", NULL, 60000, on_done, &answer, told_drop, &operation));
    told_wait(&told, &told.calls, 2);
    CHECK_OK(hms_operation_cancel(operation, 0));
    CHECK_STATUS(HMS_ERR_CANCELLED, hms_operation_wait(operation, 30000, NULL));
    CHECK(answer.told.calls == 2 && answer.status == HMS_ERR_CANCELLED);
    CHECK_OK(hms_operation_destroy(&operation));
    /* Destroyed: it completes all the same, before destroy returns. */
    CHECK_OK(hms_service_call_async(adder, "later", NULL, 60000, on_done, &answer, told_drop, &operation));
    told_wait(&told, &told.calls, 3);
    CHECK_OK(hms_operation_destroy(&operation));
    CHECK(answer.told.calls == 3 && answer.status == HMS_ERR_CANCELLED && told_drops(&answer.told) == 3);

    stale_registration = mine;
    CHECK_OK(hms_registration_destroy(&mine));
    CHECK(mine == NULL && told_drops(&told) == 2);
    CHECK_STATUS(HMS_ERR_INVALID_HANDLE, hms_registration_destroy(&stale_registration));
    CHECK_STATUS(HMS_ERR_SERVICE_UNAVAILABLE, hms_service_call(adder, "add", "[1,2]", 1000, &json));
    CHECK_STATUS(HMS_ERR_SERVICE_UNAVAILABLE, hms_service_lookup(hms, "my.adder", NULL, &none));
    stale = adder;
    CHECK_OK(hms_service_release(&adder));
    CHECK_STATUS(HMS_ERR_INVALID_HANDLE, hms_service_spec(stale, &json));
}

static hms_registration_t *itself;

static void on_end(const hms_service_call_t *call, hms_reply_t *reply, void *user_data)
{
    (void)call;
    CHECK_OK(hms_registration_destroy(&itself));
    CHECK(told_drops((struct told *)user_data) == 0);
    CHECK_OK(hms_reply_send(&reply, NULL));
}

static void a_service_may_take_itself_back(void)
{
    struct told told = TOLD_INIT;
    hms_service_t *service = NULL;
    char *json = NULL;
    CHECK_OK(hms_service_register(hms, "{\"id\":\"my.last\",\"version\":\"1.0.0\"}", on_end, &told, told_drop, &itself));
    CHECK_OK(hms_service_lookup(hms, "my.last", NULL, &service));
    CHECK_OK(hms_service_call(service, "end", NULL, 30000, &json));
    CHECK(strcmp(json, "null") == 0);
    hms_string_free(json);
    told_wait(&told, &told.drops, 1);
    CHECK_OK(hms_service_release(&service));
}

/* ---- commands ------------------------------------------------------------------------------------------ */

static void on_command(const hms_command_call_t *call, hms_reply_t *reply, void *user_data)
{
    long to = number(call->args_json, "to"), at;
    bool cancelled = true;
    CHECK(strcmp(call->path, "my count") == 0 && strcmp(call->source, "libhms") == 0 && call->cwd != NULL);
    CHECK_OK(hms_reply_is_cancelled(reply, &cancelled));
    CHECK(!cancelled);
    CHECK_OK(hms_reply_progress(reply, 0.5, "half"));
    for (at = 1; at <= to || to < 0; at++) {
        char item[32];
        hms_status_t status;
        snprintf(item, sizeof item, "%ld", at);
        status = hms_reply_item(reply, item);
        if (status != HMS_OK) {
            CHECK(status == HMS_ERR_CANCELLED || status == HMS_ERR_INVALID_HANDLE);
            told_call((struct told *)user_data);
            return;
        }
    }
    CHECK_OK(hms_reply_send(&reply, "{\"counted\":true}"));
}

struct counting {
    struct answer answer; /* first */
    long next;
    int progress;
    /* Set once the operation's handle is there: the next item destroys it. */
    int may_end;
    long ended_at;
};

static void on_item(const char *item, void *user_data)
{
    struct counting *counting = (struct counting *)user_data;
    CHECK(strtol(item, NULL, 10) == counting->next && counting->answer.told.calls == 0);
    counting->next++;
    if (__atomic_load_n(&counting->may_end, __ATOMIC_ACQUIRE) != 0) {
        CHECK(counting->ended_at == 0);
        counting->ended_at = counting->next;
        CHECK_OK(hms_operation_destroy(&counting->answer.own));
    }
}

static void on_progress(double fraction, const char *message, void *user_data)
{
    struct counting *counting = (struct counting *)user_data;
    CHECK(fraction > 0.4 && fraction < 0.6 && strcmp(message, "half") == 0 && counting->next == 1);
    counting->progress++;
}

static void commands(void)
{
    struct told told = TOLD_INIT;
    struct counting counting = { { TOLD_INIT, 1, "", NULL }, 1, 0, 0, 0 };
    hms_registration_t *mine = NULL, *second = NULL;
    hms_command_options_t options = HMS_COMMAND_OPTIONS_INIT;
    hms_operation_t *operation = NULL;
    char *json = NULL;
    const char *spec = "{\"path\":\"my count\",\"summary\":\"Count\",\"streams\":true,\"args\":{\"type\":\"object\","
                       "\"properties\":{\"to\":{\"type\":\"integer\",\"description\":\"how far\"}},"
                       "\"required\":[\"to\"],\"additionalProperties\":false}}";

    CHECK_OK(hms_command_register(hms, spec, on_command, &told, told_drop, &mine));
    CHECK_STATUS(HMS_ERR_ALREADY_EXISTS, hms_command_register(hms, spec, on_command, &told, told_drop, &second));
    CHECK(told_drops(&told) == 1);
    CHECK_OK(hms_command_list(hms, &json));
    CHECK(strstr(json, "\"my count\"") != NULL && strstr(json, "\"agent list\"") != NULL);
    hms_string_free(json);
    hms_string_free(run(hms, "my count", "{\"to\":3}"));
    CHECK_STATUS(HMS_ERR_INVALID_ARGUMENT, hms_command_run(hms, "my count", "{}", &json));

    options.args_json = "{\"to\":500}";
    options.on_item = on_item;
    options.on_progress = on_progress;
    options.on_done = on_done;
    options.user_data = &counting;
    options.drop = told_drop;
    CHECK_OK(hms_command_start(hms, "my count", &options, &operation));
    CHECK_OK(hms_operation_wait(operation, 60000, NULL));
    CHECK(counting.next == 501 && counting.progress == 1 && counting.answer.told.calls == 1);
    CHECK(counting.answer.status == HMS_OK && strcmp(counting.answer.result, "{\"counted\":true}") == 0);
    CHECK_OK(hms_operation_destroy(&operation));
    CHECK(told_drops(&counting.answer.told) == 1);

    /* One that never ends by itself is destroyed from within: its handler learns of it. */
    counting.next = 1;
    counting.answer.told.calls = 0;
    options.args_json = "{\"to\":-1}";
    options.on_progress = NULL;
    CHECK_OK(hms_command_start(hms, "my count", &options, &counting.answer.own));
    __atomic_store_n(&counting.may_end, 1, __ATOMIC_RELEASE);
    told_wait(&counting.answer.told, &counting.answer.told.drops, 2);
    CHECK(counting.ended_at > 1 && counting.next == counting.ended_at && counting.answer.status == HMS_ERR_CANCELLED);
    told_wait(&told, &told.calls, 1);

    /* What fails is told, what cannot begin lets go. */
    counting.answer.told.calls = 0;
    CHECK_OK(hms_command_start(hms, "my walk", &options, &operation));
    CHECK_STATUS(HMS_ERR_NOT_FOUND, hms_operation_wait(operation, 30000, NULL));
    CHECK(counting.answer.status == HMS_ERR_NOT_FOUND && counting.answer.told.calls == 1);
    CHECK_OK(hms_operation_destroy(&operation));
    CHECK_STATUS(HMS_ERR_INVALID_HANDLE, hms_command_start(NULL, "my count", &options, &operation));
    CHECK_STATUS(HMS_ERR_INVALID_ARGUMENT, hms_command_start(hms, NULL, &options, &operation));
    CHECK_STATUS(HMS_ERR_INVALID_ARGUMENT, hms_command_start(hms, "my count", &options, NULL));
    CHECK(told_drops(&counting.answer.told) == 6);
    CHECK_OK(hms_registration_destroy(&mine));
    CHECK(told_drops(&told) == 2);
    CHECK_STATUS(HMS_ERR_NOT_FOUND, hms_command_run(hms, "my count", "{\"to\":1}", &json));
}

static void mistakes(void)
{
    struct told told = TOLD_INIT;
    hms_registration_t *mine = NULL;
    hms_service_t *service = NULL, *wrong = (hms_service_t *)hms;
    hms_operation_t *operation = NULL;
    hms_reply_t *reply = NULL;
    bool cancelled = false;
    char *json = NULL;
    const char *spec = "{\"id\":\"my.adder\",\"version\":\"1.0.0\"}";

    CHECK_STATUS(HMS_ERR_INVALID_HANDLE, hms_service_register(NULL, spec, on_call, &told, told_drop, &mine));
    CHECK_STATUS(HMS_ERR_INVALID_ARGUMENT, hms_service_register(hms, NULL, on_call, &told, told_drop, &mine));
    CHECK_STATUS(HMS_ERR_INVALID_ARGUMENT, hms_service_register(hms, "{}", on_call, &told, told_drop, &mine));
    CHECK_STATUS(HMS_ERR_INVALID_ARGUMENT, hms_service_register(hms, spec, NULL, &told, told_drop, &mine));
    CHECK_STATUS(HMS_ERR_INVALID_ARGUMENT, hms_service_register(hms, spec, on_call, &told, told_drop, NULL));
    CHECK_STATUS(HMS_ERR_INVALID_HANDLE, hms_command_register(NULL, "{}", on_command, &told, told_drop, &mine));
    CHECK_STATUS(HMS_ERR_INVALID_ARGUMENT, hms_command_register(hms, "[]", on_command, &told, told_drop, &mine));
    CHECK_STATUS(HMS_ERR_INVALID_ARGUMENT,
                 hms_command_register(hms, "{\"path\":\"a  b\",\"summary\":\"x\"}", on_command, &told, told_drop, &mine));
    CHECK_STATUS(HMS_ERR_NOT_SUPPORTED,
                 hms_command_register(hms, "{\"path\":\"a b\",\"summary\":\"x\",\"runs\":\"caller\"}", on_command, &told,
                                      told_drop, &mine));
    CHECK_STATUS(HMS_ERR_INVALID_ARGUMENT,
                 hms_command_register(hms, "{\"path\":\"a b\",\"summary\":\"x\"}", NULL, &told, told_drop, &mine));
    CHECK(mine == NULL && told_drops(&told) == 10 && told.calls == 0);
    CHECK_STATUS(HMS_ERR_INVALID_HANDLE, hms_service_list(NULL, &json));
    CHECK_STATUS(HMS_ERR_INVALID_HANDLE, hms_service_lookup(NULL, "a", NULL, &service));
    CHECK_STATUS(HMS_ERR_INVALID_ARGUMENT, hms_service_lookup(hms, NULL, NULL, &service));
    CHECK_STATUS(HMS_ERR_INVALID_ARGUMENT, hms_service_lookup(hms, "a", NULL, NULL));
    CHECK_STATUS(HMS_ERR_INVALID_HANDLE, hms_service_spec(wrong, &json));
    CHECK_STATUS(HMS_ERR_INVALID_HANDLE, hms_service_call(NULL, "a", NULL, 1, &json));
    CHECK_STATUS(HMS_ERR_INVALID_HANDLE, hms_service_call_async(wrong, "a", NULL, 1, on_done, &told, told_drop, &operation));
    CHECK(told_drops(&told) == 11);
    CHECK_STATUS(HMS_ERR_INVALID_HANDLE, hms_service_release(&wrong));
    CHECK_OK(hms_service_release(NULL));
    CHECK_OK(hms_service_release(&service));
    CHECK_OK(hms_registration_destroy(NULL));
    CHECK_OK(hms_registration_destroy(&mine));
    CHECK_STATUS(HMS_ERR_INVALID_HANDLE, hms_reply_send(NULL, "1"));
    CHECK_STATUS(HMS_ERR_INVALID_HANDLE, hms_reply_send(&reply, "1"));
    CHECK_STATUS(HMS_ERR_INVALID_HANDLE, hms_reply_fail(&reply, HMS_ERR_IO, NULL));
    CHECK_STATUS(HMS_ERR_INVALID_HANDLE, hms_reply_item(NULL, "1"));
    CHECK_STATUS(HMS_ERR_INVALID_HANDLE, hms_reply_progress(NULL, 0.5, NULL));
    CHECK_STATUS(HMS_ERR_INVALID_HANDLE, hms_reply_is_cancelled(NULL, &cancelled));
    CHECK_STATUS(HMS_ERR_INVALID_ARGUMENT, hms_reply_is_cancelled(NULL, NULL));
    CHECK_STATUS(HMS_ERR_INVALID_HANDLE, hms_command_list(NULL, &json));
    CHECK_STATUS(HMS_ERR_INVALID_ARGUMENT, hms_command_list(hms, NULL));
}

/* Closing a system ends what was offered to it, and completes what goes on. */
static void all_ends_with_the_system(void)
{
    struct told told = TOLD_INIT;
    struct answer answer = { TOLD_INIT, 1, "", NULL };
    hms_registration_t *mine = NULL;
    hms_service_t *adder = NULL;
    hms_operation_t *operation = NULL;
    char *json = NULL;

    CHECK_OK(hms_service_register(hms, "{\"id\":\"my.adder\",\"version\":\"1.0.0\"}", on_call, &told, told_drop, &mine));
    CHECK_OK(hms_service_lookup(hms, "my.adder", NULL, &adder));
    CHECK_OK(hms_service_call_async(adder, "later", NULL, 60000, on_done, &answer, told_drop, &operation));
    told_wait(&told, &told.calls, 1);
    CHECK_OK(hms_system_close(&hms, false));
    CHECK_STATUS(HMS_ERR_CANCELLED, hms_operation_wait(operation, 30000, NULL));
    CHECK(answer.told.calls == 1 && answer.status == HMS_ERR_CANCELLED);
    told_wait(&told, &told.drops, 1);
    CHECK_STATUS(HMS_ERR_CANCELLED, hms_service_call(adder, "add", "[1,2]", 1000, &json));
    CHECK_OK(hms_operation_destroy(&operation));
    CHECK_OK(hms_registration_destroy(&mine));
    CHECK_OK(hms_service_release(&adder));
    CHECK(told_drops(&told) == 1 && told_drops(&answer.told) == 1);
}

int main(void)
{
    CHECK_OK(hms_system_open(NULL, &hms));
    services();
    a_service_may_take_itself_back();
    commands();
    mistakes();
    all_ends_with_the_system();
    puts("ok");
    return 0;
}
