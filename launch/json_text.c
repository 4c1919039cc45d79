/* SPDX-License-Identifier: Apache-2.0 */
/* Values that JSON has no words for. Names of files are bytes; JSON holds UTF-8 only, and
 * jansson answers anything else with NULL, as when memory has run out; so it does with numbers
 * that are not finite. */
#include "launch/launch.h"

#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

json_t *json_finite(double value)
{
    return isfinite(value) ? json_real(value) : json_null();
}

json_t *json_text(const char *text)
{
    json_t *plain = json_string(text);
    if (plain || !text) return plain;
    char *shown = malloc(4 * strlen(text) + 1), *to = shown;
    if (!shown) return NULL;
    for (const char *from = text; *from;) {
        int bytes = 1; /* of the character that begins here */
        json_t *one = NULL;
        while (bytes <= 4 && !(one = json_stringn(from, (size_t)bytes)) && from[bytes]) bytes++;
        if (one) {
            memcpy(to, from, (size_t)bytes);
            to += bytes;
            from += bytes;
        } else {
            to += sprintf(to, "\\x%02X", (unsigned)(unsigned char)*from++);
        }
        json_decref(one);
    }
    *to = 0;
    plain = json_string(shown);
    free(shown);
    return plain;
}
