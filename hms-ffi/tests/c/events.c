/* Events: published in every form, received by callbacks, and callbacks that end in every way. */
#include "check.h"

static hms_system_t *hms;

static hms_subscription_options_t to(const char *const *pattern, struct told *told)
{
    hms_subscription_options_t wanted = HMS_SUBSCRIPTION_OPTIONS_INIT;
    wanted.patterns = pattern;
    wanted.pattern_count = 1;
    wanted.user_data = told;
    wanted.drop = told_drop;
    return wanted;
}

/* ---- what is received ---------------------------------------------------------------------------------- */

struct counting {
    struct told told; /* first */
    long next;
    uint64_t lost;
};

/* Numbers, in order; what is missing was counted. */
static void on_numbers(const hms_event_t *const *events, size_t count, uint64_t lost, void *user_data)
{
    struct counting *counting = (struct counting *)user_data;
    size_t at;
    pthread_mutex_lock(&counting->told.lock);
    counting->lost += lost;
    counting->next += (long)lost;
    for (at = 0; at < count; at++) {
        CHECK(events[at]->struct_size == sizeof(hms_event_t));
        CHECK(strcmp(events[at]->content_type, "application/json") == 0);
        CHECK(strlen((const char *)events[at]->data) == events[at]->data_length);
        CHECK(strtol((const char *)events[at]->data, NULL, 10) == counting->next);
        counting->next++;
    }
    counting->told.calls = counting->next;
    pthread_cond_broadcast(&counting->told.changed);
    pthread_mutex_unlock(&counting->told.lock);
}

static void batches_are_in_order_and_losses_are_counted(void)
{
    enum { EVENTS = 20000 };
    struct counting all = { TOLD_INIT, 0, 0 }, few = { TOLD_INIT, 0, 0 };
    const char *pattern = "app.number";
    hms_subscription_t *to_all = NULL, *to_few = NULL;
    hms_subscription_options_t wanted = to(&pattern, &all.told);
    char *text = NULL;
    int at;

    wanted.on_events = on_numbers;
    wanted.capacity = EVENTS;
    CHECK_OK(hms_subscription_create(hms, &wanted, &to_all));
    wanted.user_data = &few;
    wanted.capacity = 1;
    CHECK_OK(hms_subscription_create(hms, &wanted, &to_few));
    CHECK_STATUS(HMS_ERR_INVALID_STATE, hms_subscription_next(to_all, 0, 0, &text, NULL));
    for (at = 0; at < EVENTS; at++) {
        char number[16];
        snprintf(number, sizeof number, "%d", at);
        CHECK_OK(hms_event_publish(hms, "app.number", NULL, number));
    }
    told_wait(&all.told, &all.told.calls, EVENTS);
    told_wait(&few.told, &few.told.calls, EVENTS);
    CHECK_OK(hms_subscription_destroy(&to_all));
    CHECK_OK(hms_subscription_destroy(&to_few));
    CHECK(to_all == NULL && all.lost == 0 && all.next == EVENTS && told_drops(&all.told) == 1);
    CHECK(few.next == EVENTS && told_drops(&few.told) == 1);
}

static void on_one(const hms_event_t *event, uint64_t lost, void *user_data)
{
    struct told *told = (struct told *)user_data;
    const char bytes[] = { 'P', 0, 'G' };
    CHECK(lost == 0 && event->id[0] != '\0' && event->time_ms > 1600000000000u && event->sequence == 0);
    switch (told->calls) {
    case 0:
        CHECK(strcmp(event->type, "app.shot") == 0 && strcmp(event->subject, "me") == 0);
        CHECK(strcmp(event->content_type, "image/png") == 0 && event->data_length == sizeof bytes);
        CHECK(memcmp(event->data, bytes, sizeof bytes) == 0);
        break;
    case 1:
        CHECK(strcmp(event->type, "app.nothing") == 0 && event->subject == NULL && event->data == NULL);
        CHECK(event->content_type == NULL && event->data_length == 0);
        break;
    case 2:
        CHECK(strcmp(event->type, "app.first") == 0 && strcmp(event->source, "/a/b") == 0);
        CHECK(strcmp((const char *)event->data, "{\"n\":1}") == 0);
        break;
    default:
        CHECK(strcmp(event->type, "app.second") == 0 && strcmp(event->content_type, "text/plain") == 0);
        CHECK(event->data_length == 2 && memcmp(event->data, "hi", 2) == 0);
    }
    told_call(told);
}

static void everything_that_is_published_is_received(void)
{
    struct told told = TOLD_INIT;
    const char *pattern = "app.>";
    const char bytes[] = { 'P', 0, 'G' };
    hms_subscription_t *events = NULL;
    hms_subscription_options_t wanted = to(&pattern, &told);
    hms_event_t first = HMS_EVENT_INIT, second = HMS_EVENT_INIT, faulty = HMS_EVENT_INIT;
    const hms_event_t *batch[3];

    wanted.on_event = on_one;
    CHECK_OK(hms_subscription_create(hms, &wanted, &events));
    CHECK_OK(hms_event_publish_bytes(hms, "app.shot", "me", "image/png", bytes, sizeof bytes));
    CHECK_OK(hms_event_publish(hms, "app.nothing", NULL, NULL));
    first.type = "app.first";
    first.source = "/a/b";
    first.data = "{\"n\":1}";
    first.data_length = 7;
    second.type = "app.second";
    second.content_type = "text/plain";
    second.data = "hi";
    second.data_length = 2;
    faulty.type = "not a type";
    batch[0] = &first;
    batch[1] = &faulty;
    batch[2] = &second;
    /* All or none. */
    CHECK_STATUS(HMS_ERR_INVALID_ARGUMENT, hms_event_publish_batch(hms, batch, 3));
    CHECK(says("events[1]"));
    batch[1] = NULL;
    CHECK_STATUS(HMS_ERR_INVALID_ARGUMENT, hms_event_publish_batch(hms, batch, 3));
    batch[1] = &second;
    CHECK_OK(hms_event_publish_batch(hms, batch, 2));
    CHECK_OK(hms_event_publish_batch(hms, NULL, 0));
    told_wait(&told, &told.calls, 4);
    CHECK_OK(hms_subscription_destroy(&events));
    CHECK(told.calls == 4 && told_drops(&told) == 1);
}

static void full_queues_follow_their_policy(void)
{
    const char *pattern = "app.full";
    hms_subscription_options_t wanted = HMS_SUBSCRIPTION_OPTIONS_INIT;
    hms_subscription_t *events = NULL;
    char *json = NULL;
    uint64_t lost = 9;
    int round;

    wanted.patterns = &pattern;
    wanted.pattern_count = 1;
    wanted.capacity = 2;
    wanted.queue_policy = HMS_QUEUE_DROP_NEWEST;
    CHECK_OK(hms_subscription_create(hms, &wanted, &events));
    for (round = 0; round < 5; round++) {
        char n[16];
        snprintf(n, sizeof n, "{\"n\":%d}", round);
        CHECK_OK(hms_event_publish(hms, "app.full", NULL, n));
    }
    CHECK_OK(hms_subscription_next(events, 0, 5000, &json, &lost));
    CHECK(number(json, "n") == 0 && strstr(json, "\"n\":1") != NULL && lost == 0);
    hms_string_free(json);
    CHECK_OK(hms_subscription_next(events, 0, 5000, &json, &lost));
    CHECK(strcmp(json, "[]") == 0 && lost == 3);
    hms_string_free(json);
    CHECK_OK(hms_subscription_destroy(&events));

    wanted.queue_policy = 42;
    CHECK_STATUS(HMS_ERR_INVALID_ARGUMENT, hms_subscription_create(hms, &wanted, &events));
    CHECK(says("queue_policy"));
    wanted.queue_policy = HMS_QUEUE_BLOCK;
    wanted.block_ms = 10;
    wanted.after_sequence = 0;
    CHECK_STATUS(HMS_ERR_INVALID_ARGUMENT, hms_subscription_create(hms, &wanted, &events));
}

static void *publish_ten(void *unused)
{
    int round;
    (void)unused;
    for (round = 0; round < 10; round++) {
        CHECK_OK(hms_event_publish(hms, "app.wait", NULL, "1"));
    }
    return NULL;
}

static void a_publisher_waits_for_who_wants_it_to(void)
{
    const char *pattern = "app.wait";
    hms_subscription_options_t wanted = HMS_SUBSCRIPTION_OPTIONS_INIT;
    hms_subscription_t *events = NULL;
    pthread_t publisher;
    int round;

    wanted.patterns = &pattern;
    wanted.pattern_count = 1;
    wanted.capacity = 1;
    wanted.queue_policy = HMS_QUEUE_BLOCK;
    wanted.block_ms = 30000;
    CHECK_OK(hms_subscription_create(hms, &wanted, &events));
    CHECK(pthread_create(&publisher, NULL, publish_ten, NULL) == 0);
    for (round = 0; round < 10; round++) {
        char *json = NULL;
        uint64_t lost = 9;
        CHECK_OK(hms_subscription_next(events, 1, 30000, &json, &lost));
        CHECK(lost == 0);
        hms_string_free(json);
    }
    CHECK(pthread_join(publisher, NULL) == 0);
    CHECK_OK(hms_subscription_destroy(&events));
}

/* ---- how callbacks end --------------------------------------------------------------------------------- */

struct ending {
    struct told told; /* first */
    hms_subscription_t *own;
    hms_subscription_t **other;
    pthread_barrier_t *both;
    volatile int inside;
};

static void on_slow(const hms_event_t *event, uint64_t lost, void *user_data)
{
    struct ending *ending = (struct ending *)user_data;
    struct timespec pause = { 0, 100 * 1000 * 1000 };
    (void)event;
    (void)lost;
    ending->inside = 1;
    told_call(&ending->told);
    nanosleep(&pause, NULL);
    CHECK(told_drops(&ending->told) == 0);
    ending->inside = 0;
}

static void destroy_is_a_barrier(void)
{
    struct ending ending = { TOLD_INIT, NULL, NULL, NULL, 0 };
    const char *pattern = "app.slow";
    hms_subscription_options_t wanted = to(&pattern, &ending.told);
    hms_subscription_t *stale;
    long calls;

    wanted.on_event = on_slow;
    CHECK_OK(hms_subscription_create(hms, &wanted, &ending.own));
    CHECK_OK(hms_event_publish(hms, "app.slow", NULL, NULL));
    CHECK_OK(hms_event_publish(hms, "app.slow", NULL, NULL));
    told_wait(&ending.told, &ending.told.calls, 1);
    stale = ending.own;
    CHECK_OK(hms_subscription_destroy(&ending.own));
    calls = ending.told.calls;
    CHECK(ending.inside == 0 && told_drops(&ending.told) == 1);
    CHECK_OK(hms_event_publish(hms, "app.slow", NULL, NULL));
    CHECK(ending.told.calls == calls);
    CHECK_STATUS(HMS_ERR_INVALID_HANDLE, hms_subscription_destroy(&stale));
}

static void on_last(const hms_event_t *event, uint64_t lost, void *user_data)
{
    struct ending *ending = (struct ending *)user_data;
    char *text = NULL;
    hms_system_t *system = hms;
    (void)event;
    (void)lost;
    /* What would wait for the system is refused, and changes nothing. */
    CHECK_STATUS(HMS_ERR_WOULD_DEADLOCK, hms_command_run(hms, "agent list", NULL, &text));
    CHECK_STATUS(HMS_ERR_WOULD_DEADLOCK, hms_system_close(&system, false));
    CHECK(system == hms);
    /* What does not, works. */
    CHECK_OK(hms_event_publish(hms, "app.from.inside", NULL, NULL));
    CHECK_OK(hms_subscription_destroy(&ending->own));
    CHECK(ending->own == NULL && told_drops(&ending->told) == 0);
    told_call(&ending->told);
}

static void a_callback_may_end_itself(void)
{
    struct ending ending = { TOLD_INIT, NULL, NULL, NULL, 0 };
    const char *pattern = "app.last", *inside = "app.from.inside";
    hms_subscription_options_t wanted = to(&pattern, &ending.told), from = HMS_SUBSCRIPTION_OPTIONS_INIT;
    hms_subscription_t *heard = NULL;
    char *json = NULL;
    int round;

    from.patterns = &inside;
    from.pattern_count = 1;
    CHECK_OK(hms_subscription_create(hms, &from, &heard));
    wanted.on_event = on_last;
    CHECK_OK(hms_subscription_create(hms, &wanted, &ending.own));
    for (round = 0; round < 5; round++) {
        CHECK_OK(hms_event_publish(hms, "app.last", NULL, NULL));
    }
    told_wait(&ending.told, &ending.told.drops, 1);
    CHECK(ending.told.calls == 1);
    CHECK_OK(hms_subscription_next(heard, 0, 30000, &json, NULL));
    hms_string_free(json);
    CHECK_OK(hms_subscription_destroy(&heard));
}

static void on_mutual(const hms_event_t *event, uint64_t lost, void *user_data)
{
    struct ending *ending = (struct ending *)user_data;
    (void)event;
    (void)lost;
    told_call(&ending->told);
    pthread_barrier_wait(ending->both);
    CHECK_OK(hms_subscription_destroy(ending->other));
}

/* Each in its callback, two subscriptions destroy each other: neither waits for ever. */
static void two_callbacks_may_end_each_other(void)
{
    struct ending a = { TOLD_INIT, NULL, NULL, NULL, 0 }, b = { TOLD_INIT, NULL, NULL, NULL, 0 };
    pthread_barrier_t both;
    const char *pattern = "app.mutual";
    hms_subscription_options_t wanted = to(&pattern, &a.told);

    CHECK(pthread_barrier_init(&both, NULL, 2) == 0);
    a.both = b.both = &both;
    a.other = &b.own;
    b.other = &a.own;
    wanted.on_event = on_mutual;
    CHECK_OK(hms_subscription_create(hms, &wanted, &a.own));
    wanted.user_data = &b;
    CHECK_OK(hms_subscription_create(hms, &wanted, &b.own));
    CHECK_OK(hms_event_publish(hms, "app.mutual", NULL, NULL));
    told_wait(&a.told, &a.told.drops, 1);
    told_wait(&b.told, &b.told.drops, 1);
    CHECK(a.told.calls == 1 && b.told.calls == 1 && a.own == NULL && b.own == NULL);
    pthread_barrier_destroy(&both);
}

static void on_any(const hms_event_t *const *events, size_t count, uint64_t lost, void *user_data)
{
    (void)events;
    (void)count;
    (void)lost;
    told_call((struct told *)user_data);
}

static void what_fails_lets_go_of_its_user_data(void)
{
    struct told told = TOLD_INIT;
    const char *pattern = "app.>", *bad = "app..x";
    hms_subscription_options_t wanted = to(&pattern, &told);
    hms_subscription_t *events = NULL;

    wanted.on_events = on_any;
    CHECK_STATUS(HMS_ERR_INVALID_HANDLE, hms_subscription_create(NULL, &wanted, &events));
    CHECK(told_drops(&told) == 1);
    CHECK_STATUS(HMS_ERR_INVALID_ARGUMENT, hms_subscription_create(hms, &wanted, NULL));
    CHECK(told_drops(&told) == 2);
    wanted.patterns = &bad;
    CHECK_STATUS(HMS_ERR_INVALID_ARGUMENT, hms_subscription_create(hms, &wanted, &events));
    CHECK(told_drops(&told) == 3);
    wanted.patterns = &pattern;
    wanted.on_event = on_one;
    CHECK_STATUS(HMS_ERR_INVALID_ARGUMENT, hms_subscription_create(hms, &wanted, &events));
    CHECK(told_drops(&told) == 4 && events == NULL && says("on_events"));
    /* A program that was built before there were callbacks. */
    wanted.struct_size = 48;
    CHECK_OK(hms_subscription_create(hms, &wanted, &events));
    CHECK_OK(hms_subscription_destroy(&events));
    CHECK(told_drops(&told) == 4 && told.calls == 0);
}

static void bad_publishes(void)
{
    hms_event_t event = HMS_EVENT_INIT;
    const hms_event_t *one = &event;
    CHECK_STATUS(HMS_ERR_INVALID_HANDLE, hms_event_publish_bytes(NULL, "a.b", NULL, "a/b", "x", 1));
    CHECK_STATUS(HMS_ERR_INVALID_ARGUMENT, hms_event_publish_bytes(hms, "a.b", NULL, NULL, "x", 1));
    CHECK_STATUS(HMS_ERR_INVALID_ARGUMENT, hms_event_publish_bytes(hms, "a.b", NULL, "nonsense", "x", 1));
    CHECK_STATUS(HMS_ERR_INVALID_ARGUMENT, hms_event_publish_bytes(hms, "a.b", NULL, "a/b", NULL, 1));
    CHECK_STATUS(HMS_ERR_INVALID_ARGUMENT, hms_event_publish_bytes(hms, "a.b", NULL, "a/b", "x", (size_t)-1));
    CHECK_OK(hms_event_publish_bytes(hms, "a.b", NULL, "a/b", NULL, 0));
    CHECK_STATUS(HMS_ERR_INVALID_HANDLE, hms_event_publish_batch(NULL, &one, 1));
    CHECK_STATUS(HMS_ERR_INVALID_ARGUMENT, hms_event_publish_batch(hms, NULL, 1));
    CHECK_STATUS(HMS_ERR_INVALID_ARGUMENT, hms_event_publish_batch(hms, &one, 1));
    CHECK(says("`type`"));
    event.type = "a.b";
    event.data = "nonsense";
    event.data_length = 8;
    CHECK_STATUS(HMS_ERR_INVALID_ARGUMENT, hms_event_publish_batch(hms, &one, 1));
    event.data = NULL;
    CHECK_STATUS(HMS_ERR_INVALID_ARGUMENT, hms_event_publish_batch(hms, &one, 1));
    event.struct_size = 8;
    CHECK_STATUS(HMS_ERR_INVALID_ARGUMENT, hms_event_publish_batch(hms, &one, 1));
    CHECK(says("HMS_EVENT_INIT"));
}

/* With its system a subscription ends, and lets go; its handle stays until it is destroyed. */
static void a_callback_ends_with_its_system(void)
{
    struct told told = TOLD_INIT;
    const char *pattern = "app.>";
    hms_subscription_options_t wanted = to(&pattern, &told);
    hms_subscription_t *events = NULL;
    hms_system_t *system = NULL;

    wanted.on_events = on_any;
    CHECK_OK(hms_system_open(NULL, &system));
    CHECK_OK(hms_subscription_create(system, &wanted, &events));
    CHECK_OK(hms_event_publish(system, "app.x", NULL, NULL));
    told_wait(&told, &told.calls, 1);
    CHECK_OK(hms_system_close(&system, false));
    told_wait(&told, &told.drops, 1);
    CHECK_OK(hms_subscription_destroy(&events));
    CHECK(told_drops(&told) == 1);
}

int main(void)
{
    CHECK_OK(hms_system_open(NULL, &hms));
    batches_are_in_order_and_losses_are_counted();
    everything_that_is_published_is_received();
    full_queues_follow_their_policy();
    a_publisher_waits_for_who_wants_it_to();
    destroy_is_a_barrier();
    a_callback_may_end_itself();
    two_callbacks_may_end_each_other();
    what_fails_lets_go_of_its_user_data();
    bad_publishes();
    a_callback_ends_with_its_system();
    CHECK_OK(hms_system_close(&hms, false));
    puts("ok");
    return 0;
}
