/* SPDX-License-Identifier: Apache-2.0 */
/* Checkpoint files that lie in every way that we could think of, each with the words that it
 * must be refused with; and files that are right, written and read back bit by bit. */
#include "launch/model/safetensors.h"
#include "tests/test.h"

#include <limits.h>
#include <math.h>
#include <sys/stat.h>
#include <unistd.h>

static char dir[] = "/tmp/banyan-safetensors-XXXXXX";

static void path_of(char *path, const char *name)
{
    snprintf(path, PATH_MAX, "%s/%s", dir, name);
}

static void remove_file(const char *name)
{
    char path[PATH_MAX];
    path_of(path, name);
    unlink(path);
}

static void write_bytes(const char *name, const void *data, size_t bytes)
{
    char path[PATH_MAX];
    path_of(path, name);
    FILE *f = fopen(path, "wb");
    CHECK(f && fwrite(data, 1, bytes, f) == bytes);
    if (f) fclose(f);
}

/* A file of this header (its length stated as `stated`, or truly with -1) and `data` zero
 * bytes. */
static void write_raw(const char *name, const char *header, int64_t stated, size_t data)
{
    size_t length = strlen(header);
    uint64_t n = stated < 0 ? length : (uint64_t)stated;
    unsigned char *all = calloc(8 + length + data, 1);
    for (int i = 0; i < 8; i++) all[i] = (unsigned char)(n >> (8 * i));
    memcpy(all + 8, header, length);
    write_bytes(name, all, 8 + length + data);
    free(all);
}

#define ONE(dtype, shape, begin, end)                                                          \
    "{\"a\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":[" begin "," end "]" \
    "}"                                                                                        \
    "}"
#define TWO(first, second)                                                                     \
    "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":" first                          \
    "},\"b\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":" second "}}"

static const struct {
    const char *header;
    int64_t stated;
    size_t data;
    const char *words;
} lies[] = {
    {ONE("F32", "[2]", "0", "8"), 99999, 8, "header has 99999 bytes, but only"},
    {ONE("F32", "[2]", "0", "8"), INT64_C(1) << 40, 8, "at most 100000000"},
    {ONE("F32", "[2]", "0", "8"), INT64_MAX, 8, "at most 100000000"},
    {ONE("F32", "[2]", "0", "8"), 20, 8, "header is no valid JSON"},
    {"[1, 2]", -1, 0, "header is no JSON object"},
    {"", -1, 0, "header is no valid JSON"},
    {"{\"a\":{}", -1, 0, "header is no valid JSON"},
    {ONE("F32", "[2]", "0", "8"), -1, 4, "out of range: the file has 4 bytes"},
    {ONE("F32", "[2]", "-8", "0"), -1, 8, "out of range"},
    {ONE("F32", "[2]", "8", "0"), -1, 8, "out of range"},
    {ONE("F32", "[2]", "0", "9223372036854775807"), -1, 8, "out of range"},
    {ONE("F32", "[3]", "0", "8"), -1, 8,
     "'a' has 8 bytes, but its shape and dtype F32 need 12"},
    {ONE("BF16", "[2,2]", "0", "4"), -1, 4, "need 8"},
    {ONE("F32", "[-2]", "0", "8"), -1, 8, "'a' needs \"dtype\", \"shape\""},
    {ONE("F32", "[1099511627776,1099511627776]", "0", "8"), -1, 8, "'a' needs"},
    {ONE("F32", "[2]", "\"0\"", "8"), -1, 8, "'a' needs"},
    {ONE("F32", "[1,1,1,1,1,1,1,1,1]", "0", "4"), -1, 4, "at most 8 extents"},
    {"{\"a\":{\"shape\":[2],\"data_offsets\":[0,8]}}", -1, 8, "'a' needs"},
    {"{\"a\":7}", -1, 0, "'a' needs"},
    {TWO("[0,8]", "[4,12]"), -1, 12, "tensors 'a' and 'b' overlap"},
    {TWO("[0,8]", "[0,8]"), -1, 8, "overlap"},
    {TWO("[0,8]", "[12,20]"), -1, 20, "hole of 4 bytes before tensor 'b'"},
    {TWO("[8,16]", "[16,24]"), -1, 24, "hole of 8 bytes before tensor 'a'"},
    {ONE("F32", "[2]", "0", "8"), -1, 9, "1 bytes after the last tensor"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},"
     "\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}",
     -1, 8, "duplicate object key"},
};

static void refused(const char *words)
{
    char why[1024] = "";
    safetensors *s = safetensors_open(dir, why, sizeof why);
    CHECK_MSG(!s && strstr(why, words), "expected \"%s\", got \"%s\"", words, why);
    safetensors_close(s);
}

static void test_lies(void)
{
    for (size_t i = 0; i < sizeof lies / sizeof *lies; i++) {
        write_raw("model.safetensors", lies[i].header, lies[i].stated, lies[i].data);
        refused(lies[i].words);
    }
    write_bytes("model.safetensors", "1234", 4);
    refused("shorter than 8 bytes");
    remove_file("model.safetensors");
    refused("holds neither model.safetensors nor model.safetensors.index.json");
}

static void test_index(void)
{
    const char *index = "model.safetensors.index.json";
    const char good[] = "{\"weight_map\": {\"a\": \"x.safetensors\"}}";
    write_bytes(index, good, sizeof good - 1);
    refused("x.safetensors: No such file");
    /* what the index promises and nobody asks for may be missing; what is asked for may not */
    char why[1024] = "";
    write_raw("x.safetensors",
              "{\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", -1, 4);
    safetensors *s = safetensors_open(dir, why, sizeof why);
    CHECK_MSG(s, "%s", why);
    CHECK(s && !safetensors_matrix(s, "a", 1, 0, why, sizeof why));
    CHECK_MSG(strstr(why, "tensor 'a' is missing"), "%s", why);
    safetensors_close(s);
    /* a dtype that nobody knows, in a tensor that nobody needs; the first one not asked for
     * is named */
    write_raw("x.safetensors", ONE("Q9", "[2]", "0", "5"), -1, 5);
    s = safetensors_open(dir, why, sizeof why);
    CHECK_MSG(s && safetensors_unused(s) == safetensors_row(s, 0), "%s", why);
    CHECK(s && !safetensors_matrix(s, "a", 2, 0, why, sizeof why) && !safetensors_unused(s));
    CHECK_MSG(strstr(why, "tensor 'a' has dtype Q9; BF16, F16 and F32 are read"), "%s", why);
    safetensors_close(s);
    write_bytes(index, "{}", 2);
    refused("needs an object \"weight_map\"");
    write_bytes(index, "{\n\n,", 4);
    refused("line 3");
    const char escape[] = "{\"weight_map\": {\"a\": \"../x.safetensors\"}}";
    write_bytes(index, escape, sizeof escape - 1);
    refused("no file name");
    const char both[] =
        "{\"weight_map\": {\"a\": \"x.safetensors\", \"b\": \"y.safetensors\"}}";
    write_bytes(index, both, sizeof both - 1);
    write_raw("x.safetensors", TWO("[0,8]", "[8,16]"), -1, 16);
    write_raw("y.safetensors", TWO("[0,8]", "[8,16]"), -1, 16);
    refused("is in both");
    remove_file("x.safetensors");
    remove_file("y.safetensors");
    remove_file(index);
}

/* ---- what is right ----------------------------------------------------------------------- */

static void fill(const void *arg, int64_t row, float *out)
{
    const float *value = arg;
    for (int i = 0; i < 3; i++) out[i] = value[row * 3 + i];
}

/* Values that each format holds exactly, subnormals of fp16 included, must come back bit by
 * bit. */
static const float exact[12] = {0,        -0.0f, 1,          -1.5f,     0x1p-14f,    -0x1p-15f,
                                0x1p-24f, 96.0f, 0x1.8p-13f, -0x1p-20f, 0x1.fcp+14f, 0.3125f};

static void test_round_trip(banyan_dtype dtype, int shards)
{
    tensor_source list[3] = {{"one", 4, 3, fill, exact},
                             {"two", 2, 3, fill, exact + 6},
                             {"norm", 3, 0, fill, exact + 3}};
    char why[1024] = "";
    bool good = safetensors_write(dir, list, 3, dtype, shards, why, sizeof why);
    CHECK_MSG(good, "%s", why);
    safetensors *s = safetensors_open(dir, why, sizeof why);
    CHECK_MSG(s && safetensors_count(s) == 3, "%s", why);
    if (!s) return;
    float back[12];
    const tensor *one = safetensors_matrix(s, "one", 4, 3, why, sizeof why);
    CHECK_MSG(one && tensor_to_float(one, 0, 12, back) == -1, "%s", why);
    CHECK(one && memcmp(back, exact, sizeof back) == 0);
    const tensor *norm = safetensors_matrix(s, "norm", 3, 0, why, sizeof why);
    CHECK(norm && tensor_to_float(norm, 1, 2, back) == -1 && back[0] == exact[4]);
    CHECK(!safetensors_matrix(s, "three", 1, 1, why, sizeof why));
    CHECK_MSG(strstr(why, "tensor 'three' is missing"), "%s", why);
    CHECK(!safetensors_matrix(s, "two", 3, 2, why, sizeof why));
    CHECK_MSG(strstr(why, "'two' has shape [2, 3]; config.json asks for [3, 2]"), "%s", why);
    safetensors_close(s);
}

/* ---- products ---------------------------------------------------------------------------- */

enum { PRODUCT_ROWS = 7, PRODUCT_IN = 1031 }; /* no multiple of anything */

static void fill_product(const void *arg, int64_t row, float *out)
{
    uint64_t seed = 17 + (uint64_t)row;
    (void)arg;
    for (int i = 0; i < PRODUCT_IN; i++) out[i] = test_normal(&seed);
}

/* Every other row times a vector, in each format, against float64: a sum of n products in
 * fp32 is off by at most n 2^-24 of the sum of their sizes, and here by far less, as it runs
 * in 64 lanes. */
static void test_product(banyan_dtype dtype)
{
    const tensor_source list[] = {{"w", PRODUCT_ROWS, PRODUCT_IN, fill_product, NULL}};
    char why[1024] = "";
    CHECK_MSG(safetensors_write(dir, list, 1, dtype, 1, why, sizeof why), "%s", why);
    safetensors *s = safetensors_open(dir, why, sizeof why);
    CHECK_MSG(s, "%s", why);
    if (!s) return;
    const tensor *t = safetensors_row(s, 0);
    float x[PRODUCT_IN], w[PRODUCT_IN], out[3];
    uint64_t seed = 5;
    for (int i = 0; i < PRODUCT_IN; i++) x[i] = test_normal(&seed);
    tensor_multiply(t, 1, 2, 3, PRODUCT_IN, x, out);
    for (int c = 0; c < 3; c++) {
        double sum = 0, size = 0;
        tensor_read(t, (1 + 2 * c) * PRODUCT_IN, PRODUCT_IN, w);
        for (int i = 0; i < PRODUCT_IN; i++) {
            sum += (double)w[i] * x[i];
            size += fabs((double)w[i] * x[i]);
        }
        CHECK_MSG(fabs(out[c] - sum) <= size * 0x1p-24 * (PRODUCT_IN / 64 + 7),
                  "%s, column %d: %g, expected %g", banyan_dtype_name(dtype), c, out[c], sum);
    }
    safetensors_close(s);
}

/* Rounding to nearest, ties to even, against a search over all values of the format. */
static double format_value(uint16_t bits, banyan_dtype dtype)
{
    int exponent_bits = dtype == BANYAN_BF16 ? 8 : 5, fraction_bits = 15 - exponent_bits;
    int bias = (1 << (exponent_bits - 1)) - 1, exponent = (bits & 0x7fff) >> fraction_bits;
    double fraction = ldexp(bits & ((1 << fraction_bits) - 1), -fraction_bits);
    double size = exponent ? ldexp(1 + fraction, exponent - bias) : ldexp(fraction, 1 - bias);
    return bits & 0x8000 ? -size : size;
}

static void test_rounding(banyan_dtype dtype)
{
    uint64_t seed = 7;
    float value[300];
    char why[1024] = "";
    for (int i = 0; i < 300; i++) {
        value[i] = (float)ldexp(test_uniform(&seed) - 0.5, (int)test_below(&seed, 30) - 26);
        if (i % 3 == 0) /* halfway between two neighbours */
            value[i] = (float)((format_value(0x2000 + (uint16_t)i, dtype) +
                                format_value(0x2001 + (uint16_t)i, dtype)) /
                               2);
    }
    tensor_source t = {"t", 100, 3, fill, value};
    CHECK(safetensors_write(dir, &t, 1, dtype, 1, why, sizeof why));
    safetensors *s = safetensors_open(dir, why, sizeof why);
    CHECK_MSG(s, "%s", why);
    const tensor *back = s ? safetensors_find(s, "t") : NULL;
    for (int i = 0; back && i < 300; i++) {
        uint16_t bits;
        float read;
        memcpy(&bits, back->data + 2 * i, sizeof bits);
        tensor_to_float(back, i, 1, &read);
        double error = fabs(format_value(bits, dtype) - value[i]);
        double up = fabs(format_value(bits + 1, dtype) - value[i]);
        double down =
            (bits & 0x7fff) ? fabs(format_value(bits - 1, dtype) - value[i]) : INFINITY;
        CHECK_MSG(read == format_value(bits, dtype), "%a is read as %a", value[i], read);
        CHECK_MSG(error <= up && error <= down &&
                      (bits % 2 == 0 || (error < up && error < down)),
                  "%a became %04x", value[i], bits);
    }
    safetensors_close(s);
}

static void test_not_finite(void)
{
    float value[12];
    char why[1024];
    memcpy(value, exact, sizeof value);
    value[7] = NAN;
    value[10] = INFINITY;
    tensor_source t = {"t", 4, 3, fill, value};
    CHECK(safetensors_write(dir, &t, 1, BANYAN_F32, 1, why, sizeof why));
    safetensors *s = safetensors_open(dir, why, sizeof why);
    float back[12];
    CHECK(s && tensor_to_float(safetensors_find(s, "t"), 0, 12, back) == 7);
    CHECK(s && tensor_find_bad(safetensors_find(s, "t"), 8, 4) == 10);
    CHECK(s && tensor_find_bad(safetensors_find(s, "t"), 0, 7) == -1);
    safetensors_close(s);
}

static void test_full_disk(void)
{
    char why[1024] = "";
    tensor_source t = {"t", 4, 3, fill, exact};
    CHECK(!safetensors_write("/proc/self", &t, 1, BANYAN_F32, 1, why, sizeof why));
    CHECK_MSG(strstr(why, "/proc/self/model.safetensors"), "%s", why);
    char path[PATH_MAX];
    path_of(path, "model.safetensors");
    unlink(path);
    CHECK(symlink("/dev/full", path) == 0);
    CHECK(!safetensors_write(dir, &t, 1, BANYAN_F32, 1, why, sizeof why));
    CHECK_MSG(strstr(why, "No space left on device"), "%s", why);
    unlink(path);
}

int main(void)
{
    if (!mkdtemp(dir)) return 99;
    test_lies();
    test_index();
    for (int dtype = BANYAN_F32; dtype <= BANYAN_F16; dtype++)
        for (int shards = 1; shards <= 3; shards++)
            test_round_trip((banyan_dtype)dtype, shards);
    test_round_trip(BANYAN_F32, 1); /* replaces the sharded form */
    for (int dtype = BANYAN_F32; dtype <= BANYAN_F16; dtype++)
        test_product((banyan_dtype)dtype);
    test_rounding(BANYAN_BF16);
    test_rounding(BANYAN_F16);
    test_not_finite();
    test_full_disk();
    char command[PATH_MAX + 16];
    snprintf(command, sizeof command, "rm -r '%s'", dir);
    CHECK(system(command) == 0);
    return test_end();
}
