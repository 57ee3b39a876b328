/* Agents as handles: a handle means one agent over all its lives, and says so when it is gone. */
#include "check.h"

static hms_system_t *hms;

#define SLEEP(name) \
    "{\"type\":\"process\",\"name\":\"" name "\",\"config\":{\"command\":[\"sleep\",\"300\"]}}"

static long pid_of(hms_agent_t *agent)
{
    char *json = NULL;
    long pid;
    CHECK_OK(hms_agent_status(agent, &json));
    pid = number(json, "pid");
    hms_string_free(json);
    return pid;
}

static int status_is(hms_agent_t *agent, const char *status)
{
    char *json = NULL;
    char wanted[64];
    int is;
    snprintf(wanted, sizeof wanted, "\"status\":\"%s\"", status);
    CHECK_OK(hms_agent_status(agent, &json));
    is = strstr(json, wanted) != NULL;
    hms_string_free(json);
    return is;
}

static void a_handle_means_its_agent_over_all_its_lives(void)
{
    hms_agent_t *web = NULL, *same = NULL, *by_id = NULL, *stale;
    char *id = NULL, *json = NULL;
    long pid, next;

    CHECK_OK(hms_agent_create(hms, SLEEP("web"), &web));
    CHECK_STATUS(HMS_ERR_ALREADY_EXISTS, hms_agent_create(hms, SLEEP("web"), &same));
    CHECK(same == NULL);
    CHECK_OK(hms_agent_ensure(hms, SLEEP("web"), &same));
    CHECK_OK(hms_agent_id(web, &id));
    CHECK_OK(hms_agent_get(hms, id, &by_id));
    pid = pid_of(web);
    CHECK(pid > 1 && pid_of(same) == pid && pid_of(by_id) == pid);
    CHECK_OK(hms_agent_list(hms, "{\"status\":\"running\"}", &json));
    CHECK(strstr(json, id) != NULL && number(json, "pid") == pid);
    hms_string_free(json);
    CHECK_OK(hms_agent_list(hms, "{\"status\":\"stopped\"}", &json));
    CHECK(strcmp(json, "[]") == 0);
    hms_string_free(json);
    CHECK_OK(hms_agent_health(web, &json));
    CHECK(strstr(json, "\"status\":\"healthy\"") != NULL && strstr(json, "\"issues\":[]") != NULL);
    hms_string_free(json);

    CHECK_OK(hms_agent_restart(web, false, true));
    next = pid_of(web);
    CHECK(next > 1 && next != pid && kill((pid_t)pid, 0) != 0);
    CHECK_OK(hms_agent_stop(web, false));
    CHECK(status_is(web, "stopped") && kill((pid_t)next, 0) != 0);
    CHECK_STATUS(HMS_ERR_INVALID_STATE, hms_agent_tell(web, NULL, "1"));
    CHECK_OK(hms_agent_start(web));
    CHECK(status_is(web, "running"));
    pid = pid_of(web);

    stale = same;
    CHECK_OK(hms_agent_release(&same));
    CHECK(same == NULL && status_is(web, "running"));
    CHECK_STATUS(HMS_ERR_INVALID_HANDLE, hms_agent_release(&stale));
    CHECK_OK(hms_agent_destroy(&web));
    CHECK(web == NULL && kill((pid_t)pid, 0) != 0);
    /* Gone is gone, also when another takes the name. */
    CHECK_OK(hms_agent_create(hms, SLEEP("web"), &web));
    CHECK_STATUS(HMS_ERR_AGENT_GONE, hms_agent_status(by_id, &json));
    CHECK(json == NULL && says(id));
    CHECK_STATUS(HMS_ERR_AGENT_GONE, hms_agent_health(by_id, &json));
    CHECK_STATUS(HMS_ERR_AGENT_GONE, hms_agent_tell(by_id, NULL, "1"));
    CHECK_STATUS(HMS_ERR_AGENT_GONE, hms_agent_ask(by_id, NULL, "1", 1000, &json));
    CHECK_STATUS(HMS_ERR_AGENT_GONE, hms_agent_start(by_id));
    CHECK_STATUS(HMS_ERR_AGENT_GONE, hms_agent_stop(by_id, true));
    CHECK_STATUS(HMS_ERR_AGENT_GONE, hms_agent_restart(by_id, false, false));
    CHECK_STATUS(HMS_ERR_AGENT_GONE, hms_agent_destroy(&by_id));
    CHECK(by_id == NULL && status_is(web, "running"));
    CHECK_OK(hms_agent_destroy(&web));
    hms_string_free(id);
}

struct answer {
    struct told told; /* first */
    hms_status_t status;
    char result[256];
    hms_operation_t *own;
};

static void on_answer(hms_status_t status, const char *message, const char *result, void *user_data)
{
    struct answer *answer = (struct answer *)user_data;
    char *text = NULL;
    CHECK((status == HMS_OK) == (result != NULL) && (status == HMS_OK) == (message[0] == '\0'));
    CHECK_STATUS(HMS_ERR_WOULD_DEADLOCK, hms_agent_list(hms, NULL, &text));
    answer->status = status;
    snprintf(answer->result, sizeof answer->result, "%s", result == NULL ? message : result);
    told_call(&answer->told);
}

static void messages_are_told_and_asked(void)
{
    hms_agent_t *beat = NULL, *web = NULL;
    hms_operation_t *operation = NULL, *stale;
    struct answer answer = { TOLD_INIT, 1, "", NULL };
    char *json = NULL, *again = NULL;
    int32_t code = 7;

    CHECK_OK(hms_agent_create(hms, "{\"type\":\"heartbeat\",\"name\":\"beat\",\"config\":{\"interval\":\"1h\"}}", &beat));
    CHECK_OK(hms_agent_tell(beat, "me", "{\"beat\":true}"));
    CHECK_OK(hms_agent_ask(beat, "me", "{\"beat\":true}", 30000, &json));
    CHECK_OK(hms_agent_ask_async(beat, NULL, "{\"beat\":true}", 30000, on_answer, &answer, told_drop, &operation));
    CHECK_OK(hms_operation_wait(operation, 30000, &code));
    CHECK(code == 0 && answer.told.calls == 1 && answer.status == HMS_OK);
    told_wait(&answer.told, &answer.told.drops, 1);
    CHECK_OK(hms_operation_result(operation, &again));
    CHECK(strcmp(again, answer.result) == 0);
    hms_string_free(again);
    hms_string_free(json);
    stale = operation;
    CHECK_OK(hms_operation_destroy(&operation));
    CHECK_STATUS(HMS_ERR_INVALID_HANDLE, hms_operation_result(stale, &again));
    CHECK(again == NULL && told_drops(&answer.told) == 1);

    /* What fails is told in the same way, once. */
    CHECK_OK(hms_agent_create(hms, SLEEP("web"), &web));
    CHECK_OK(hms_agent_ask_async(web, NULL, "1", 30000, on_answer, &answer, told_drop, &operation));
    CHECK_STATUS(HMS_ERR_NOT_SUPPORTED, hms_operation_wait(operation, 30000, NULL));
    CHECK_STATUS(HMS_ERR_NOT_SUPPORTED, hms_operation_result(operation, &again));
    CHECK(answer.status == HMS_ERR_NOT_SUPPORTED && answer.told.calls == 2);
    CHECK_OK(hms_operation_destroy(&operation));
    CHECK(told_drops(&answer.told) == 2);
    /* Without anybody to tell. */
    CHECK_OK(hms_agent_ask_async(beat, NULL, "{\"beat\":true}", 30000, NULL, &answer, told_drop, &operation));
    CHECK_OK(hms_operation_wait(operation, 30000, NULL));
    CHECK_OK(hms_operation_destroy(&operation));
    CHECK(told_drops(&answer.told) == 3 && answer.told.calls == 2);
    /* Drop runs when the call itself fails, too. */
    CHECK_STATUS(HMS_ERR_INVALID_HANDLE,
                 hms_agent_ask_async(NULL, NULL, "1", 1, on_answer, &answer, told_drop, &operation));
    CHECK_STATUS(HMS_ERR_INVALID_ARGUMENT,
                 hms_agent_ask_async(beat, NULL, "{", 1, on_answer, &answer, told_drop, &operation));
    CHECK_STATUS(HMS_ERR_INVALID_ARGUMENT,
                 hms_agent_ask_async(beat, NULL, "1", 1, on_answer, &answer, told_drop, NULL));
    CHECK(told_drops(&answer.told) == 6 && answer.told.calls == 2);
    CHECK_OK(hms_agent_release(&beat));
    CHECK_OK(hms_agent_release(&web));
}

static void mistakes(void)
{
    hms_agent_t *agent = NULL, *beat = NULL;
    char *json = NULL;
    CHECK_STATUS(HMS_ERR_INVALID_HANDLE, hms_agent_create(NULL, "{}", &agent));
    CHECK_STATUS(HMS_ERR_INVALID_ARGUMENT, hms_agent_create(hms, NULL, &agent));
    CHECK_STATUS(HMS_ERR_INVALID_ARGUMENT, hms_agent_create(hms, "[1]", &agent));
    CHECK_STATUS(HMS_ERR_INVALID_ARGUMENT, hms_agent_create(hms, "{}", &agent));
    CHECK_STATUS(HMS_ERR_INVALID_ARGUMENT, hms_agent_create(hms, SLEEP("x"), NULL));
    CHECK_STATUS(HMS_ERR_TYPE_UNAVAILABLE, hms_agent_create(hms, "{\"type\":\"nonsense\"}", &agent));
    CHECK_STATUS(HMS_ERR_INVALID_ARGUMENT, hms_agent_ensure(hms, "{\"type\":\"process\"}", &agent));
    CHECK_STATUS(HMS_ERR_INVALID_HANDLE, hms_agent_ensure(NULL, "{}", &agent));
    CHECK_STATUS(HMS_ERR_NOT_FOUND, hms_agent_get(hms, "nobody", &agent));
    CHECK_STATUS(HMS_ERR_INVALID_ARGUMENT, hms_agent_get(hms, NULL, &agent));
    CHECK_STATUS(HMS_ERR_INVALID_HANDLE, hms_agent_get(NULL, "web", &agent));
    CHECK(agent == NULL);
    CHECK_STATUS(HMS_ERR_INVALID_HANDLE, hms_agent_list(NULL, NULL, &json));
    CHECK_STATUS(HMS_ERR_INVALID_ARGUMENT, hms_agent_list(hms, NULL, NULL));
    CHECK_STATUS(HMS_ERR_INVALID_ARGUMENT, hms_agent_list(hms, "{\"nonsense\":1}", &json));
    CHECK_STATUS(HMS_ERR_INVALID_HANDLE, hms_agent_id(NULL, &json));
    CHECK_STATUS(HMS_ERR_INVALID_HANDLE, hms_agent_status(NULL, &json));
    CHECK_STATUS(HMS_ERR_INVALID_HANDLE, hms_agent_status((hms_agent_t *)hms, &json));
    CHECK_STATUS(HMS_ERR_INVALID_HANDLE, hms_agent_health(NULL, &json));
    CHECK_STATUS(HMS_ERR_INVALID_HANDLE, hms_agent_tell(NULL, NULL, "1"));
    CHECK_STATUS(HMS_ERR_INVALID_HANDLE, hms_agent_ask(NULL, NULL, "1", 1, &json));
    CHECK_STATUS(HMS_ERR_INVALID_HANDLE, hms_agent_start(NULL));
    CHECK_STATUS(HMS_ERR_INVALID_HANDLE, hms_agent_stop(NULL, false));
    CHECK_STATUS(HMS_ERR_INVALID_HANDLE, hms_agent_restart(NULL, false, false));
    CHECK_OK(hms_agent_destroy(NULL));
    CHECK_OK(hms_agent_destroy(&agent));
    CHECK_OK(hms_agent_release(NULL));
    CHECK_OK(hms_agent_release(&agent));
    CHECK_STATUS(HMS_ERR_INVALID_HANDLE, hms_operation_result(NULL, &json));
    CHECK_OK(hms_agent_get(hms, "beat", &beat));
    CHECK_STATUS(HMS_ERR_INVALID_ARGUMENT, hms_agent_status(beat, NULL));
    CHECK_STATUS(HMS_ERR_INVALID_ARGUMENT, hms_agent_id(beat, NULL));
    CHECK_STATUS(HMS_ERR_INVALID_ARGUMENT, hms_agent_tell(beat, NULL, "{"));
    CHECK_STATUS(HMS_ERR_INVALID_ARGUMENT, hms_agent_tell(beat, "\xff", "1"));
    CHECK_OK(hms_agent_release(&beat));
}

static void handles_outlive_their_system(void)
{
    hms_agent_t *web = NULL;
    char *json = NULL, *id = NULL;
    CHECK_OK(hms_agent_get(hms, "web", &web));
    CHECK_OK(hms_system_close(&hms, false));
    CHECK_STATUS(HMS_ERR_CANCELLED, hms_agent_status(web, &json));
    CHECK_STATUS(HMS_ERR_CANCELLED, hms_agent_tell(web, NULL, "1"));
    CHECK_STATUS(HMS_ERR_CANCELLED, hms_agent_destroy(&web));
    CHECK(web != NULL);
    CHECK_OK(hms_agent_id(web, &id));
    hms_string_free(id);
    CHECK_OK(hms_agent_release(&web));
}

int main(void)
{
    CHECK_OK(hms_system_open(NULL, &hms));
    a_handle_means_its_agent_over_all_its_lives();
    messages_are_told_and_asked();
    mistakes();
    handles_outlive_their_system();
    puts("ok");
    return 0;
}
