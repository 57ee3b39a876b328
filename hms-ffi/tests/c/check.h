/* What the C tests share: a check that says where it failed, and temporary text. */
#ifndef CHECK_H
#define CHECK_H

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "hms.h"

#define CHECK(condition)                                                                      \
    do {                                                                                      \
        if (!(condition)) {                                                                   \
            fprintf(stderr, "%s:%d: %s\n  last error: %s\n", __FILE__, __LINE__, #condition, \
                    hms_last_error_message());                                                \
            exit(1);                                                                          \
        }                                                                                     \
    } while (0)

#define CHECK_STATUS(expected, call)                                                            \
    do {                                                                                        \
        hms_status_t status_ = (call);                                                          \
        if (status_ != (expected)) {                                                            \
            fprintf(stderr, "%s:%d: %s\n  gives %s instead of %s: %s\n", __FILE__, __LINE__, #call, \
                    hms_status_name(status_), hms_status_name(expected), hms_last_error_message()); \
            exit(1);                                                                            \
        }                                                                                       \
    } while (0)

#define CHECK_OK(call) CHECK_STATUS(HMS_OK, call)

/* Whether the last message says `part`. */
static inline int says(const char *part)
{
    return strstr(hms_last_error_message(), part) != NULL;
}

/* Runs a command that has to succeed, and returns its JSON. */
static inline char *run(hms_system_t *hms, const char *path, const char *args)
{
    char *json = NULL;
    CHECK_OK(hms_command_run(hms, path, args, &json));
    CHECK(json != NULL);
    return json;
}

/* The number behind "key": in a JSON text, or -1. */
static inline long number(const char *json, const char *key)
{
    char quoted[64];
    const char *found;
    snprintf(quoted, sizeof quoted, "\"%s\":", key);
    found = strstr(json, quoted);
    return found == NULL ? -1 : strtol(found + strlen(quoted), NULL, 10);
}

/* What callbacks do, for the thread that waits for it. */
struct told {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    long calls;
    long drops;
};

#define TOLD_INIT { PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0, 0 }

static inline void told_call(struct told *told)
{
    pthread_mutex_lock(&told->lock);
    told->calls++;
    pthread_cond_broadcast(&told->changed);
    pthread_mutex_unlock(&told->lock);
}

/* A hms_drop_cb_t that counts. */
static inline void told_drop(void *user_data)
{
    struct told *told = (struct told *)user_data;
    pthread_mutex_lock(&told->lock);
    told->drops++;
    pthread_cond_broadcast(&told->changed);
    pthread_mutex_unlock(&told->lock);
}

/* Waits, for at most 30 seconds, until *count (one of told's) is at least `wanted`. */
static inline void told_wait(struct told *told, const long *count, long wanted)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += 30;
    pthread_mutex_lock(&told->lock);
    while (*count < wanted) {
        CHECK(pthread_cond_timedwait(&told->changed, &told->lock, &until) == 0);
    }
    pthread_mutex_unlock(&told->lock);
}

static inline long told_drops(struct told *told)
{
    long drops;
    pthread_mutex_lock(&told->lock);
    drops = told->drops;
    pthread_mutex_unlock(&told->lock);
    return drops;
}

#endif
