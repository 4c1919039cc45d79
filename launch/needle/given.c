/* SPDX-License-Identifier: Apache-2.0 */
/* What flags give to a checkpoint with a vocabulary of its own: texts, which rank 0 tokenises,
 * or files of token ids; on every rank. */
#include "launch/needle/evaluate.h"

#include <stdlib.h>
#include <string.h>

void foreign_free(foreign_ids *f)
{
    for (int32_t i = 0; i < f->facts; i++) {
        free(f->fact[i].needle.ids);
        free(f->fact[i].question.ids);
        free(f->fact[i].answer.ids);
    }
    free(f->fact);
    free(f->prefix.ids);
    free(f->haystack.ids);
    free(f->pauses.ids);
    words_free(f->texts);
    memset(f, 0, sizeof *f);
}

static const char *haystack_of(const job *j)
{
    return j->config->needle ? j->config->needle->haystack : NULL;
}

/* A flag is missing without which nothing can be asked. */
static bool check_flags(const job *j, const char *dir, bool is_ids)
{
    static const char *const flags[] = {"needle", "question", "answer"};
    static const char *const of_text[] = {"chat", "system", "answer-prefix", "needles"};
    const bool set = job_text(j, "needles") != NULL;
    const char *missing = haystack_of(j) ? NULL : "haystack";
    for (int i = 0; i < 3 && !missing && !set; i++)
        if (!job_text(j, flags[i])) missing = flags[i];
    if (missing) {
        say_error(j,
                  "%s is not the constructed model: --haystack FILE, --needle, --question and "
                  "--answer TEXT are needed (--ids: files of token ids); --%s is missing",
                  dir, missing);
        return false;
    }
    for (int i = 0; i < 3 && set; i++)
        if (job_text(j, flags[i])) {
            say_error(j, "--%s and --needles: expected one of them", flags[i]);
            return false;
        }
    for (int i = 0; i < 4 && is_ids; i++)
        if (job_text(j, of_text[i])) {
            say_error(j, "--%s is for text, and --ids are none", of_text[i]);
            return false;
        }
    if (job_text(j, "system") && !job_switch(j, "chat")) {
        say_error(j, "--system: only with --chat");
        return false;
    }
    return true;
}

/* ---- ids --------------------- */

static bool read_ids(const job *j, foreign_ids *f)
{
    f->fact = calloc(1, sizeof *f->fact);
    f->facts = f->fact != NULL;
    banyan_status status = banyan_comm_agree(j->comm, f->fact ? BANYAN_OK : BANYAN_ERR_MEMORY);
    if (status) {
        job_failed(j, status, "token ids");
        return false;
    }
    const struct {
        const char *path;
        id_list *list;
    } file[] = {{haystack_of(j), &f->haystack},
                {job_text(j, "needle"), &f->fact->needle},
                {job_text(j, "question"), &f->fact->question},
                {job_text(j, "answer"), &f->fact->answer},
                {job_text(j, "prefix"), &f->prefix}};
    for (size_t i = 0; i < sizeof file / sizeof file[0]; i++)
        if (file[i].path &&
            ids_share(j, file[i].path, 0, &file[i].list->ids, &file[i].list->count))
            return false;
    foreign_find(f->fact);
    return true;
}

/* ---- texts --------------------- */

static banyan_status share_list(const job *j, id_list *list)
{
    banyan_status status = banyan_comm_broadcast(j->comm, &list->count, sizeof list->count, 0);
    if (status) return status;
    if (j->rank != 0) list->ids = malloc((size_t)(list->count + 1) * sizeof *list->ids);
    status =
        banyan_comm_agree(j->comm, list->ids || !list->count ? BANYAN_OK : BANYAN_ERR_MEMORY);
    if (status || !list->count) return status;
    return banyan_comm_broadcast(j->comm, list->ids, (size_t)list->count * sizeof *list->ids,
                                 0);
}

/* From rank 0 to all; its own stay. */
static banyan_status share_ids(const job *j, foreign_ids *f)
{
    int32_t numbers[2] = {f->facts, f->reply};
    banyan_status status = banyan_comm_broadcast(j->comm, numbers, sizeof numbers, 0);
    if (!status && j->rank != 0) f->fact = calloc((size_t)numbers[0], sizeof *f->fact);
    if (!status) status = banyan_comm_agree(j->comm, f->fact ? BANYAN_OK : BANYAN_ERR_MEMORY);
    if (status) return status;
    f->facts = numbers[0];
    f->reply = numbers[1];
    id_list *const lists[] = {&f->prefix, &f->haystack, &f->pauses};
    for (int i = 0; i < 3 && !status; i++) status = share_list(j, lists[i]);
    for (int32_t i = 0; i < f->facts && !status; i++) {
        foreign_fact *fact = &f->fact[i];
        int64_t said[2] = {fact->said, fact->said_count};
        status = share_list(j, &fact->needle);
        if (!status) status = share_list(j, &fact->question);
        if (!status) status = share_list(j, &fact->answer);
        if (!status) status = banyan_comm_broadcast(j->comm, said, sizeof said, 0);
        fact->said = said[0];
        fact->said_count = said[1];
    }
    return status;
}

static bool read_given(const job *j, const char *dir, foreign_ids *f)
{
    char why[2048] = "";
    const words_wish wish = {.dir = dir,
                             .system = job_text(j, "system"),
                             .prefix = job_text(j, "prefix"),
                             .haystack = haystack_of(j),
                             .needle = job_text(j, "needle"),
                             .question = job_text(j, "question"),
                             .answer = job_text(j, "answer"),
                             .begin = job_text(j, "answer-prefix"),
                             .set = job_text(j, "needles"),
                             .chat = job_switch(j, "chat")};
    bool good = j->rank != 0 || words_read(&wish, f, why, sizeof why);
    banyan_status status =
        agree_words(j->comm, good ? BANYAN_OK : BANYAN_ERR_CONFIG, why, sizeof why);
    if (status) {
        say_error(j, "%s", why);
        return false;
    }
    status = share_ids(j, f);
    if (status) job_failed(j, status, "sharing the texts' ids");
    return !status;
}

/* Are all ids the model's? */
static bool check_all(const job *j, const foreign_ids *f, int32_t vocab)
{
    char why[NEEDLE_WHY];
    for (int32_t i = -1; i < f->facts; i++) {
        const struct {
            const char *flag;
            const id_list *list;
        } all[] = {{"haystack", &f->haystack},
                   {"prefix", &f->prefix},
                   {"needle", i < 0 ? &f->prefix : &f->fact[i].needle},
                   {"question", i < 0 ? &f->prefix : &f->fact[i].question},
                   {"answer", i < 0 ? &f->prefix : &f->fact[i].answer}};
        for (int k = i < 0 ? 0 : 2; k < (i < 0 ? 2 : 5); k++) {
            const char *path = k ? job_text(j, all[k].flag) : haystack_of(j);
            if (ids_check(all[k].list->ids, all[k].list->count, vocab,
                          path ? path : "the tokenizer", why, sizeof why))
                continue;
            say_error(j, "--%s: %s", all[k].flag, why);
            return false;
        }
    }
    return true;
}

bool given_read(const job *j, const char *dir, int32_t vocab, foreign_ids *out)
{
    const bool is_ids = job_switch(j, "ids");
    if (!check_flags(j, dir, is_ids)) return false;
    bool good = is_ids ? read_ids(j, out) : read_given(j, dir, out);
    return good && check_all(j, out, vocab);
}
