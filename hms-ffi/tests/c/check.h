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

#endif
