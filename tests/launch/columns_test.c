/* SPDX-License-Identifier: Apache-2.0 */
/* Tables that leave columns out, and sentences that are wrapped: what is printed, to the
 * letter. */
#include "launch/columns.h"
#include "tests/test.h"

#include <math.h>

static const column both[] = {{NULL, "name", -6, false},    {NULL, "n", 3, true},
                              {"time", "median", 8, false}, {NULL, "p95", 5, true},
                              {"also", "x", 4, true},       {"rest of it", "left", 5, true},
                              {NULL, "bar", 4, false},      {0}};
static const column plain[] = {{NULL, "a", 3, false}, {NULL, "b", 3, true}, {0}};

static char printed[4096];

static FILE *begin(void)
{
    memset(printed, 0, sizeof printed);
    return fmemopen(printed, sizeof printed, "w");
}

static void expect(FILE *f, const char *text)
{
    fclose(f);
    CHECK_MSG(!strcmp(printed, text), "printed\n%s\nexpected\n%s", printed, text);
}

static void print_table(FILE *f, bool is_wide)
{
    columns t = {both, is_wide, f, 0};
    columns_heading(&t);
    columns_cell(&t, "%s", "line");
    columns_cell(&t, "%d", 7);
    columns_number(&t, 2, 1.5);
    columns_cell(&t, "%d", 95);
    columns_cell(&t, "%s", "no");
    columns_cell(&t, "%d", 1);
    columns_number(&t, 1, 0.5);
    columns_end(&t, " below");
    columns_cell(&t, "%s", "large");
    columns_cell(&t, "%d", 8);
    columns_number(&t, 2, 1234567.89);
    columns_number(&t, 2, 1234.5);
    columns_number(&t, 2, 123456);
    columns_number(&t, 2, NAN);
    columns_number(&t, 2, -0.25);
    columns_end(&t, "");
    columns_cell(&t, "short");
    columns_end(&t, "");
}

static void test_tables(void)
{
    FILE *f = begin();
    print_table(f, false);
    expect(f, "       | time     | rest\n"
              "name   |   median |  bar\n"
              "line   |     1.50 |  0.5 below\n"
              "large  |  1234568 | -0.2\n"
              "short \n");
    f = begin();
    print_table(f, true);
    expect(f, "           | time           | also | rest of it\n"
              "name     n |   median   p95 |    x |  left  bar\n"
              "line     7 |     1.50    95 |   no |     1  0.5 below\n"
              "large    8 |  1234568  1234 | 1e+05 |     - -0.2\n"
              "short \n");
    f = begin();
    columns_heading(&(columns){plain, false, f, 0});
    columns_heading(&(columns){plain, true, f, 0});
    expect(f, "  a\n  a   b\n");
}

/* 24 words of 9 letters and a space. */
static void test_sentences(void)
{
    char words[512] = "", text[1024];
    for (int i = 0; i < 24; i++) strcat(words, i ? " sentences" : "sentences");
    FILE *f = begin();
    wrapped(f, false, 4, "%s", words);
    snprintf(text, sizeof text, "%.119s\n    %.109s\n    %s\n", words, words, "sentences");
    expect(f, text);
    f = begin();
    wrapped(f, true, 4, "%s", words);
    snprintf(text, sizeof text, "%s\n", words);
    expect(f, text);

    /* 120 characters stay on a line, of UTF-8 too, and 121 do not; a word that is longer is not
     * cut */
    f = begin();
    wrapped(f, false, 2, "\xc3\xa9%.111s 67890 2", words);
    wrapped(f, false, 2, "\xc3\xa9%.111s 67890 23", words);
    memset(words, 'x', 200);
    words[200] = 0;
    wrapped(f, false, 2, "  %s y", words);
    fclose(f);
    char *line = strtok(printed, "\n");
    CHECK(line && strlen(line) == 121);
    line = strtok(NULL, "\n");
    CHECK(line && strlen(line) == 119);
    line = strtok(NULL, "\n");
    CHECK(line && !strcmp(line, "  23"));
    line = strtok(NULL, "\n");
    CHECK(line && strlen(line) == 202);
    line = strtok(NULL, "\n");
    CHECK(line && !strcmp(line, "  y"));
}

/* Indentation, empty lines and gaps of lines that fit stay as they are. */
static void test_lines(void)
{
    const char text[] = "\n  a    b\n\n    c | d\n";
    FILE *f = begin();
    wrapping w;
    fputs(text, wrapped_begin(&w, f));
    wrapped_end(&w, false, 8);
    expect(f, text);
}

int main(void)
{
    test_tables();
    test_sentences();
    test_lines();
    return test_end();
}
