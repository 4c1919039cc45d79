/* SPDX-License-Identifier: Apache-2.0 */
/* Telling folders apart by the names in them. */
#include "launch/model/folder.h"

#include <dirent.h>
#include <fnmatch.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

/* In this order: a folder may hold several. */
static const struct {
    const char *pattern, *advice;
} others[] = {
    {"snapshots",
     "a folder of the hub's cache; the model is the folder in it, snapshots/REVISION"},
    {"adapter_config.json",
     "an adapter, which is nothing without its base model: merge the two "
     "(peft: merge_and_unload(), then save_pretrained())"},
    {"*.gguf", "a GGUF file; take the same model's safetensors, or convert it (transformers: "
               "from_pretrained(.., gguf_file=..), then save_pretrained())"},
    {"consolidated*",
     "weights as their makers publish them; take the same model as transformers "
     "has it, with config.json and model*.safetensors"},
    {"pytorch_model*.bin*", "weights of PyTorch's own form; convert them (transformers: "
                            "from_pretrained(..), then save_pretrained(), writes safetensors)"},
    {"*.pth",
     "weights of PyTorch's own form, as their makers publish them; take the same model as "
     "transformers has it, with config.json and model*.safetensors"},
    {"*.safetensors", "safetensors under another name; expected model.safetensors, or "
                      "model.safetensors.index.json that names the files"},
};

bool folder_explain(const char *dir, char *why, size_t why_bytes)
{
    enum { count = sizeof others / sizeof others[0] };
    char found[count][256] = {{0}};
    struct stat st;
    if (stat(dir, &st) == 0 && !S_ISDIR(st.st_mode)) {
        snprintf(why, why_bytes,
                 "%s: is a file; expected the folder that holds config.json and "
                 "model.safetensors",
                 dir);
        return true;
    }
    DIR *open = opendir(dir);
    for (const struct dirent *e = open ? readdir(open) : NULL; e; e = readdir(open))
        for (int i = 0; i < count; i++)
            if (!found[i][0] && fnmatch(others[i].pattern, e->d_name, 0) == 0)
                snprintf(found[i], sizeof found[i], "%s", e->d_name);
    if (open) closedir(open);
    for (int i = 0; i < count; i++) {
        if (!found[i][0]) continue;
        snprintf(why, why_bytes, "%s: holds no model.safetensors with config.json, but %s: %s",
                 dir, found[i], others[i].advice);
        return true;
    }
    return false;
}

bool folder_is_pointer(const char *path, const void *bytes, size_t count, char *why,
                       size_t why_bytes)
{
    static const char begin[] = "version https://git-lfs";
    if (count < sizeof begin - 1 || memcmp(bytes, begin, sizeof begin - 1) != 0) return false;
    snprintf(why, why_bytes,
             "%s: is a pointer of git-lfs, not the file itself; fetch it: git lfs pull", path);
    return true;
}
