/* SPDX-License-Identifier: Apache-2.0 */
/* Where a model says that its answer ends: transformers takes generation_config.json where
 * there is one, and config.json where not. */
#include "launch/generate/generate.h"
#include "launch/model/hf_config.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

/* *found: the file is there and has the field. */
static bool read_eos(const char *dir, const char *name, bool *found, token_ids *ids, char *why,
                     size_t why_bytes)
{
    char path[4096];
    hf_config file;
    const char *const field = "eos_token_id";
    *found = false;
    snprintf(path, sizeof path, "%s/%s", dir, name);
    if (access(path, F_OK) && errno == ENOENT) return true;
    if (!hf_file_open(dir, name, &file, why, why_bytes)) return false;
    const json_t *eos = hf_get(&file, NULL, field);
    size_t count = json_is_array(eos) ? json_array_size(eos) : eos ? 1 : 0;
    *found = eos;
    for (size_t i = 0; i < count && !file.failed; i++) {
        const json_t *one = json_is_array(eos) ? json_array_get(eos, i) : eos;
        json_int_t id = json_integer_value(one);
        if (!json_is_integer(one))
            hf_fail(&file, field, eos, "a token id or a list of them");
        else if (id >= 0 && id < UINT32_MAX && !ids_add(ids, (uint32_t)id))
            hf_fail(&file, field, eos, "memory for it");
    }
    bool good = !file.failed;
    hf_config_close(&file);
    return good;
}

bool ends_read(const char *dir, uint32_t **ends, int64_t *count, char *why, size_t why_bytes)
{
    token_ids ids = {0};
    bool found;
    if (!read_eos(dir, "generation_config.json", &found, &ids, why, why_bytes) ||
        (!found && !read_eos(dir, "config.json", &found, &ids, why, why_bytes))) {
        free(ids.id);
        return false;
    }
    *ends = ids.id;
    *count = ids.count;
    return true;
}
