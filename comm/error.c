/* SPDX-License-Identifier: Apache-2.0 */
/* What an error says. The message belongs to the thread that failed, so that two caches used
 * from two threads never mix their words; the log setting is the library's only global
 * state. */
#include "comm/comm.h"

#include <stdarg.h>
#include <string.h>

enum { message_bytes = 1024 };

static _Thread_local char last_message[message_bytes];

static struct {
    banyan_log_level level;
    banyan_log_fn fn;
    void *arg;
} log_setting;

const char *banyan_error_message(void)
{
    return last_message;
}

banyan_status banyan_fail(banyan_status status, const char *format, ...)
{
    /* By way of a second buffer: the old message may be among the arguments. */
    char text[message_bytes];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    memcpy(last_message, text, strlen(text) + 1);
    return status;
}

banyan_status banyan_fail_at(banyan_status status, const banyan_mark *mark, int count)
{
    char text[256] = "";
    for (int i = 0; i < count; i++) {
        const size_t used = strlen(text);
        if (mark[i].name)
            snprintf(text + used, sizeof text - used, "%s%s %lld", used ? ", " : "",
                     mark[i].name, (long long)mark[i].value);
    }
    return *text ? banyan_fail(status, "%s (%s)", banyan_error_message(), text) : status;
}

void banyan_log_set(banyan_log_level level, banyan_log_fn fn, void *arg)
{
    log_setting.level = level;
    log_setting.fn = fn;
    log_setting.arg = arg;
}

void banyan_log(banyan_log_level level, const char *format, ...)
{
    if (!log_setting.fn || level > log_setting.level) return;
    char text[message_bytes];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    log_setting.fn(log_setting.arg, level, text);
}
