/* SPDX-License-Identifier: Apache-2.0 */
/* Text and token ids: the vectors that `tokenizers` gave for small vocabularies of every kind
 * (tests/reference/vocabularies.py), files that ask for what is not done here, text that is
 * none, and the layouts of chats. Argument: the folder of the vocabularies. */
#include "launch/text/text.h"
#include "tests/test.h"

#include <jansson.h>
#include <limits.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *root;
static char dir[] = "/tmp/banyan-text-XXXXXX";

static json_t *load(const char *kind, const char *name)
{
    char path[PATH_MAX];
    json_error_t error;
    snprintf(path, sizeof path, "%s/%s/%s", root, kind, name);
    json_t *file = json_load_file(path, JSON_ALLOW_NUL, &error);
    CHECK_MSG(file != NULL, "%s: %s", path, error.text);
    return file;
}

static tokenizer *open_kind(const char *kind)
{
    char path[PATH_MAX], why[1024] = "";
    snprintf(path, sizeof path, "%s/%s", root, kind);
    tokenizer *t = tokenizer_open(path, why, sizeof why);
    CHECK_MSG(t != NULL, "%s", why);
    return t;
}

/* A file of its own, as the folder `dir` has it. */
static tokenizer *open_changed(const json_t *file, char *why, size_t why_bytes)
{
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/tokenizer.json", dir);
    CHECK(json_dump_file(file, path, 0) == 0);
    return tokenizer_open(dir, why, why_bytes);
}

static void check_back(const tokenizer *t, const token_ids *ids, const json_t *back,
                       const char *kind, size_t row)
{
    token_decoder d = {.t = t};
    text out = {0};
    size_t seen = 0;
    uint32_t code;
    for (int64_t i = 0; i < ids->count; i++) {
        CHECK(decoder_add(&d, ids->id[i], &out));
        for (int width; seen < out.bytes; seen += (size_t)width) {
            width = utf8_next(out.data + seen, out.bytes - seen, &code);
            CHECK_MSG(width > 0, "%s: text %zu: no whole characters behind id %d", kind, row,
                      (int)i);
            if (width <= 0) width = 1;
        }
    }
    CHECK(decoder_end(&d, &out));
    CHECK_MSG(out.bytes == json_string_length(back) &&
                  !memcmp(out.bytes ? out.data : "", json_string_value(back), out.bytes),
              "%s: text %zu comes back as \"%.*s\"", kind, row, (int)out.bytes, out.data);
    free(out.data);
}

static void check_vectors(const char *kind)
{
    json_t *vectors = load(kind, "vectors.json"), *row, *one;
    tokenizer *t = open_kind(kind);
    size_t r, i;
    CHECK(json_array_size(vectors) >= 20);
    for (int pass = 0; t && pass < 2; pass++) { /* the second time words are remembered */
        json_array_foreach(vectors, r, row)
        {
            const json_t *words = json_object_get(row, "text"),
                         *want = json_object_get(row, "ids");
            char why[256] = "";
            token_ids ids = {0}, all = {0};
            CHECK_MSG(tokenizer_encode(t, json_string_value(words), json_string_length(words),
                                       false, &ids, why, sizeof why),
                      "%s", why);
            CHECK(tokenizer_encode(t, json_string_value(words), json_string_length(words), true,
                                   &all, why, sizeof why));
            CHECK_MSG((size_t)ids.count == json_array_size(want), "%s: text %zu: %d ids", kind,
                      r, (int)ids.count);
            json_array_foreach(want, i, one)
            {
                if ((int64_t)i >= ids.count || ids.id[i] == json_integer_value(one)) continue;
                CHECK_MSG(false, "%s: text %zu: id %zu is %u", kind, r, i, ids.id[i]);
                break;
            }
            int64_t ends = json_integer_value(json_object_get(row, "with_ends"));
            CHECK(all.count == ids.count + ends &&
                  !memcmp(all.id + ends, ids.count ? ids.id : all.id, (size_t)ids.count * 4));
            check_back(t, &ids, json_object_get(row, "back"), kind, r);
            free(ids.id);
            free(all.id);
        }
    }
    tokenizer_close(t);
    json_decref(vectors);
}

/* Runs of one character, in time that the test's limit allows only if it is not quadratic. */
static void check_long_runs(const char *kind)
{
    enum { BYTES = 1 << 20 };
    static const char *const run[] = {"a", " ", "<", "\n", "\xCC\x81", "\xE6\xBC\xA2",
                                      "A", "1"};
    tokenizer *t = open_kind(kind);
    char *data = malloc(BYTES), why[256];
    for (size_t k = 0; t && data && k < sizeof run / sizeof run[0]; k++) {
        size_t width = strlen(run[k]), bytes = BYTES / width * width;
        for (size_t i = 0; i < bytes; i++) data[i] = run[k][i % width];
        token_ids ids = {0};
        text out = {0};
        token_decoder d = {.t = t};
        CHECK(tokenizer_encode(t, data, bytes, false, &ids, why, sizeof why));
        for (int64_t i = 0; i < ids.count; i++) decoder_add(&d, ids.id[i], &out);
        CHECK(out.bytes == bytes && !memcmp(out.data, data, bytes));
        free(ids.id);
        free(out.data);
    }
    free(data);
    tokenizer_close(t);
}

/* ---- what is refused --------------------------------------------------------------------- */

static const struct refused {
    const char *kind, *where, *key, *value, *words;
} refused[] = {
    {"gpt2", "", "model", "{\"type\":\"Unigram\",\"vocab\":[]}", "model.type is \"Unigram\""},
    {"gpt2", "", "model", "7", "model is no object"},
    {"gpt2", "", "normaliser", "null", "\"normaliser\" is not known"},
    {"gpt2", "model", "dropout", "0.1", "model.dropout is set"},
    {"gpt2", "model", "end_of_word_suffix", "\"</w>\"", "end_of_word_suffix is set"},
    {"gpt2", "model", "unk_token", "\"nothing\"", "unk_token \"nothing\" is not in"},
    {"gpt2", "model", "merges", "[[\"a\",\"zzzz\"]]", "merges[0]: \"a\", \"zzzz\" or both"},
    {"gpt2", "model", "merges", "[\"a\"]", "merges[0] is no pair"},
    {"gpt2", "model", "vocab", "{\"a\":-1}", "\"a\" has no id"},
    {"gpt2", "model", "vocab", "{\"a\":1,\"b\":1}", "id 1 is \"a\" and \"b\""},
    {"gpt2", "", "normalizer", "{\"type\":\"NFKC\"}", "normalizer NFKC: not done here"},
    {"gpt2", "", "normalizer",
     "{\"type\":\"Replace\",\"pattern\":{\"Regex\":\"a+\"},\"content\":\"b\"}",
     "only strings are replaced"},
    {"gpt2", "", "pre_tokenizer", "{\"type\":\"Whitespace\"}", "pre_tokenizer Whitespace: not"},
    {"gpt2", "", "pre_tokenizer",
     "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"\\\\w+\"},\"behavior\":\"Isolated\"}",
     "none of the known (launch/text/scanners.def): \\w+"},
    {"gpt2", "pre_tokenizer", "use_regexes", "true", "\"use_regexes\" is not known here"},
    {"gpt2", "", "pre_tokenizer", "null", "ByteLevel stands in the decoder and not in the pre"},
    {"gpt2", "", "post_processor", "{\"type\":\"BertProcessing\"}", "post_processor Bert"},
    {"llama3", "post_processor", "single", "[]", "expected the text once"},
    {"llama3", "post_processor", "special_tokens", "{}",
     "special token \"<|begin_of_text|>\" has"},
    {"gpt2", "", "decoder", "{\"type\":\"WordPiece\"}", "decoder WordPiece: not done here"},
    {"gpt2", "", "added_tokens", "[{\"id\":3,\"content\":\"xyz\",\"single_word\":true}]",
     "\"xyz\" is a single_word"},
    {"gpt2", "", "added_tokens", "[{\"id\":0,\"content\":\"a\"}]", "\"a\" has id 0, and"},
    {"gpt2", "", "added_tokens", "[{\"id\":-4,\"content\":\"x\"}]", "entry 0 has no id"},
    {"llama2", "model", "vocab", "{\"<unk>\":0,\"<0x41>\":1}",
     "255 of 256 byte tokens are missing"},
};

static void check_refused(void)
{
    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++) {
        const struct refused *r = &refused[i];
        json_t *file = load(r->kind, "tokenizer.json");
        json_t *at = *r->where ? json_object_get(file, r->where) : file;
        char why[2048] = "";
        json_object_set_new(at, r->key, json_loads(r->value, JSON_DECODE_ANY, NULL));
        tokenizer *t = open_changed(file, why, sizeof why);
        CHECK_MSG(!t && strstr(why, r->words), "%s.%s: \"%s\"", r->where, r->key, why);
        tokenizer_close(t);
        json_decref(file);
    }
}

static void write_file(const char *name, const char *data)
{
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "wb");
    CHECK(f && fputs(data, f) >= 0);
    if (f) fclose(f);
}

static void remove_file(const char *name)
{
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    unlink(path);
}

static void check_files(void)
{
    static const char *const other[] = {"tokenizer.model", "tekken.json", "qwen.tiktoken"};
    char why[2048];
    write_file("tokenizer.json", "{\n\"model\": }");
    CHECK(!tokenizer_open(dir, why, sizeof why) && strstr(why, "tokenizer.json:2:"));
    remove_file("tokenizer.json");
    CHECK(!tokenizer_open(dir, why, sizeof why) && strstr(why, "No such file"));
    for (size_t i = 0; i < sizeof other / sizeof other[0]; i++) {
        write_file(other[i], "");
        CHECK_MSG(!tokenizer_open(dir, why, sizeof why) && strstr(why, other[i]) &&
                      strstr(why, "python3 -c"),
                  "%s", why);
        remove_file(other[i]);
    }
}

static void check_no_text(void)
{
    static const struct {
        const char *data, *words;
    } bad[] = {{"ab\xFFz", "byte 2, 0xFF, is not UTF-8"},
               {"\xED\xA0\x80", "byte 0, 0xED"},
               {"\xC0\x80", "byte 0, 0xC0"},
               {"x\xF0\x9F\x98", "byte 1, 0xF0, is not UTF-8: the text ends in mid character"}};
    tokenizer *t = open_kind("gpt2");
    for (size_t i = 0; t && i < sizeof bad / sizeof bad[0]; i++) {
        char why[256] = "";
        token_ids ids = {0};
        CHECK_MSG(!tokenizer_encode(t, bad[i].data, strlen(bad[i].data), false, &ids, why,
                                    sizeof why) &&
                      strstr(why, bad[i].words),
                  "%s", why);
        free(ids.id);
    }
    tokenizer_close(t);
}

/* Ids whose bytes are no text: a U+FFFD for the longest beginning of a character (Unicode 15.0,
 * 3.9, table 3-8), and bytes that are completed by a later id. */
static void check_faults(void)
{
    static const struct {
        const char *bytes, *text;
    } row[] = {{"a\xE2(b", "a\xEF\xBF\xBD(b"},
               {"\xF0\x9F"
                "A",
                "\xEF\xBF\xBD"
                "A"},
               {"\xED\xA0\x80", "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD"},
               {"\xE2\x82", "\xEF\xBF\xBD"},
               {"\xE2\x82\xAC", "\xE2\x82\xAC"},
               {"\xE2\xF0\x9F\x98\x80", "\xEF\xBF\xBD\xF0\x9F\x98\x80"}};
    json_t *file = load("gpt2", "tokenizer.json");
    json_t *words = json_object_get(json_object_get(file, "model"), "vocab");
    tokenizer *t = open_kind("gpt2");
    for (size_t i = 0; t && i < sizeof row / sizeof row[0]; i++) {
        text out = {0};
        token_decoder d = {.t = t};
        for (const char *b = row[i].bytes; *b; b++) {
            unsigned byte = (unsigned char)*b; /* U+0080 .. are named U+0122 .. or themselves */
            char name[3] = {(char)byte};
            unsigned code = byte < 127 ? byte : byte < 161 ? byte - 127 + 289 : byte;
            if (code > 127)
                name[0] = (char)(0xC0 | code >> 6), name[1] = (char)(0x80 | (code & 63));
            const json_t *id = json_object_get(words, name);
            CHECK(id != NULL);
            CHECK(decoder_add(&d, (uint32_t)json_integer_value(id), &out));
        }
        CHECK(decoder_end(&d, &out));
        CHECK_MSG(out.bytes == strlen(row[i].text) && !memcmp(out.data, row[i].text, out.bytes),
                  "row %zu: \"%.*s\"", i, (int)out.bytes, out.data);
        free(out.data);
    }
    tokenizer_close(t);
    json_decref(file);
}

/* ---- chats ------------------------------------------------------------------------------- */

static const struct chat {
    const char *kind, *tokens, *name, *text, *end;
} chats[] = {
    {"gpt2", "<|begin_of_text|> <|start_header_id|> <|end_header_id|> <|eot_id|>", "llama3",
     "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nS<|eot_id|>"
     "<|start_header_id|>user<|end_header_id|>\n\nQ?<|eot_id|>"
     "<|start_header_id|>assistant<|end_header_id|>\n\n",
     "<|eot_id|>"},
    {"gpt2", "<|im_start|> <|im_end|>", "chatml",
     "<|im_start|>system\n S\n<|im_end|>\n<|im_start|>user\n "
     "Q?\n<|im_end|>\n<|im_start|>assistant\n",
     "<|im_end|>"},
    {"gpt2", "<s> </s> [INST] [/INST]", "mistral", "<s>[INST] S\n\n\n Q?\n[/INST]", "</s>"},
    {"llama2", "[INST] [/INST]", "mistral", "<s>[INST]  S\n\n\n Q?\n[/INST]", "</s>"},
    {"gpt2", "[INST] [/INST] [SYSTEM_PROMPT] [/SYSTEM_PROMPT]", "mistral",
     "<s>[SYSTEM_PROMPT] S\n[/SYSTEM_PROMPT][INST] Q?\n[/INST]", "</s>"},
    {"llama2", "<|system|> <|user|> <|assistant|> <|end|>", "phi3",
     "<|system|>\n S\n<|end|>\n<|user|>\n Q?\n<|end|>\n<|assistant|>\n", "<|end|>"},
    {"gpt2", "<|system|> <|user|> <|assistant|> <|end|>", "phi4_mini",
     "<|system|> S\n<|end|><|user|> Q?\n<|end|><|assistant|>", "<|end|>"},
    {"llama2", "<start_of_turn> <end_of_turn>", "gemma",
     "<bos><start_of_turn>user\n S\n\n\nQ?<end_of_turn>\n<start_of_turn>model\n",
     "<end_of_turn>"},
};

static json_t *with_tokens(const char *kind, const char *tokens)
{
    json_t *file = load(kind, "tokenizer.json");
    char list[256], *rest = list;
    json_int_t id = 900;
    snprintf(list, sizeof list, "%s", tokens);
    for (char *name; (name = strsep(&rest, " "));)
        json_array_append_new(
            json_object_get(file, "added_tokens"),
            json_pack("{s:I, s:s, s:b}", "id", id++, "content", name, "special", 1));
    return file;
}

static void check_chats(void)
{
    char why[2048] = "";
    for (size_t i = 0; i < sizeof chats / sizeof chats[0]; i++) {
        json_t *file = with_tokens(chats[i].kind, chats[i].tokens);
        tokenizer *t = open_changed(file, why, sizeof why);
        CHECK_MSG(t != NULL, "%s", why);
        const chat_layout *l = t ? chat_choose(t, why, sizeof why) : NULL;
        CHECK_MSG(l != NULL, "%s", why);
        text out = {0};
        if (l) {
            CHECK(chat_write(l, " S\n", " Q?\n", &out));
            CHECK_MSG(!strcmp(l->name, chats[i].name) && !strcmp(l->end, chats[i].end) &&
                          !strcmp(out.data, chats[i].text),
                      "%s: \"%s\"", l->name, out.data);
        }
        free(out.data);
        tokenizer_close(t);
        json_decref(file);
    }
    tokenizer *t = open_kind("gpt2");
    CHECK(t && !chat_choose(t, why, sizeof why) &&
          strstr(why, "chatml (<|im_start|> <|im_end|>)"));
    tokenizer_close(t);
    json_t *file = with_tokens("gpt2", "<|im_start|> <|im_end|> <|im_sep|>");
    t = open_changed(file, why, sizeof why);
    CHECK(t && !chat_choose(t, why, sizeof why));
    tokenizer_close(t);
    json_decref(file);
}

int main(int argc, char **argv)
{
    static const char *const kinds[] = {"gpt2",  "smollm2", "llama3", "qwen2",   "qwen3_5",
                                        "o200k", "tekken",  "llama2", "mistral", "gemma"};
    if (argc != 2 || !mkdtemp(dir)) return 100;
    root = argv[1];
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) check_vectors(kinds[i]);
    check_long_runs("o200k");
    check_long_runs("qwen2");
    check_long_runs("llama2");
    check_refused();
    check_files();
    check_no_text();
    check_faults();
    check_chats();
    remove_file("tokenizer.json");
    rmdir(dir);
    return test_end();
}
