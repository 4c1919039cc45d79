/* SPDX-License-Identifier: Apache-2.0 */
/* tokenizer.h - inside launch/text.
 *
 *     text --added tokens that are not normalised-- rest --normalise-- --added tokens that
 *     are-- rest --steps (split, digits, blanks)-- pieces --merge-- ids */
#ifndef BANYAN_TOKENIZER_H
#define BANYAN_TOKENIZER_H

#include "launch/text/text.h"

#include <jansson.h>

/* ---- classes.c ------------------------ */

enum {
    OTHER,
    UPPER,  /* Lu, Lt */
    LOWER,  /* Ll */
    LETTER, /* Lm, Lo */
    MARK,
    NUMBER,
    SPACE,
    PUNCTUATION,
    SYMBOL,
    LATE, /* a number for Digits alone */
    CODES = 0x110000
};
uint8_t *classes_make(void); /* [CODES] for free(); NULL: out of memory */
/* The code point at s, of a valid text; its bytes in *bytes. */
uint32_t utf8_read(const char *s, size_t *bytes);
int utf8_write(uint32_t code, char out[4]);
/* The byte that a character of byte-level vocabularies stands for; -1: none. */
int level_byte(uint32_t code);

/* ---- nfc.c ---------------------------- */

typedef struct canon canon;
canon *canon_make(void); /* for free() */
/* Unicode normalisation form C (Unicode Standard Annex 15). */
bool nfc_add(const canon *c, const char *data, size_t bytes, text *out);

/* ---- scan.c --------------------------- */

enum { PREFIX_NONE, PREFIX_SPACE, PREFIX_ANY };
enum { SHORT_NONE, SHORT_EXACT, SHORT_FOLDED, SHORT_BEHIND };

/* One row of scanners.def: what a regular expression does, said in other words. */
typedef struct scanner {
    const char *name, *regex;
    int shorts; /* 's 't 're 've 'm 'll 'd: where, and in which letters */
    int prefix; /* what may stand before letters: a space, any but line ends and numbers */
    int cases;  /* 1: capitals begin a word; marks are letters */
    int marks;  /* 1: marks are letters */
    int digits; /* at most so many numbers together; 0: any */
    int ends;   /* 1: line ends join what stands before them; 2: "/" too */
} scanner;
const scanner *scanner_find(const char *regex); /* NULL: unknown */
extern const scanner scanner_table[];           /* ends with a NULL name */
/* The piece of `s` (n > 0 bytes) that begins it. */
size_t scan_piece(const scanner *sc, const uint8_t *classes, const char *s, size_t n);
size_t scan_digits(const uint8_t *classes, bool single, const char *s, size_t n);

/* ---- vocab.c -------------------------- */

typedef struct token {
    /* What it stands for: bytes, or characters before the decoder's changes. */
    const char *data;
    uint32_t bytes;
    bool is_known, is_special, is_added; /* added: data is its own */
    int16_t byte;                        /* of a byte token, <0x0A>; -1 */
} token;

typedef struct vocab {
    token *token; /* [ids] */
    int32_t ids;
    uint32_t *bucket; /* [buckets] id + 1, by hash of what merging can reach */
    size_t buckets;
} vocab;
int64_t vocab_find(const vocab *v, const char *data, size_t bytes); /* -1: not there */
bool vocab_index(vocab *v, size_t count); /* make room for `count` in the hash table */
void vocab_enter(vocab *v, uint32_t id);
uint64_t hash_bytes(const char *data, size_t bytes);

typedef struct merge {
    uint32_t left, right, id;
    int32_t rank; /* -1: an empty bucket */
} merge;
typedef struct merges {
    merge *bucket;
    size_t buckets;
} merges;
bool merges_make(merges *m, size_t count);
/* A pair that comes twice has its last rank, as there. */
void merges_enter(merges *m, uint32_t left, uint32_t right, uint32_t id, int32_t rank);
const merge *merges_find(const merges *m, uint32_t left, uint32_t right); /* NULL: none */

/* ---- bpe.c ---------------------------- */

enum { KEPT_BYTES = 22, KEPT_IDS = 10, KEPT = 1 << 15 };
/* A short piece, and the ids that it was cut into. */
typedef struct kept {
    uint8_t bytes, count;
    char data[KEPT_BYTES];
    uint32_t id[KEPT_IDS];
} kept;

typedef struct symbol {
    int64_t id; /* -1: gone */
    int64_t previous, next;
} symbol;
typedef struct candidate {
    int32_t rank;
    uint32_t id;
    int64_t at;
} candidate;

typedef struct bpe {
    vocab vocab;
    merges merges;
    bool is_byte_level, ignores_merges, fuses_unknown;
    int64_t unknown;      /* id, -1: none */
    int64_t of_byte[256]; /* byte-level: id of a byte; else of <0x00> ..; -1 */
    bool has_byte_tokens; /* byte fallback */
    bool cuts;            /* pieces may be cut where no merge can reach across */
    uint64_t *joins; /* [join_bits / 64], by hash of two characters that some merge joins */
    uint64_t join_mask;
    kept *kept;     /* [KEPT] */
    symbol *symbol; /* working memory, grows */
    candidate *heap;
    int64_t symbols, heap_room;
} bpe;
bool bpe_make(bpe *b); /* when vocab, merges and flags are filled in */
void bpe_free(bpe *b);
bool bpe_piece(bpe *b, const char *data, size_t bytes, token_ids *ids);

/* ---- added.c -------------------------- */

typedef struct added_token {
    char *data; /* normalised, if it is */
    size_t bytes;
    uint32_t id;
    bool strips_left, strips_right, is_normalised;
} added_token;
/* Those that are looked for together, sorted by their bytes. */
typedef struct added_set {
    added_token *token;
    int32_t count;
    bool begins[256]; /* the first bytes that occur */
} added_set;
void added_sort(added_set *set);
/* The longest that begins at s; NULL: none. */
const added_token *added_match(const added_set *set, const char *s, size_t n);

/* ---- the pipeline --------------------- */

enum { STEPS = 8 };
typedef enum normal_kind { NORMAL_NFC, NORMAL_PREPEND, NORMAL_REPLACE } normal_kind;
typedef struct normal_step {
    normal_kind kind;
    const char *from, *to; /* REPLACE from by to; PREPEND to */
} normal_step;

typedef enum cut_kind { CUT_SCAN, CUT_DIGITS, CUT_BYTES, CUT_BLANKS, CUT_BEHIND } cut_kind;
enum { BEGIN_NEVER, BEGIN_FIRST, BEGIN_ALWAYS };
typedef struct cut_step {
    cut_kind kind;
    const scanner *scanner; /* SCAN */
    bool is_single;         /* DIGITS: one by one */
    const char *blank; /* BLANKS: what stands for a space ..; BEHIND: a piece ends behind it */
    bool splits;       /* .. and whether pieces begin there */
    int begin;         /* BLANKS, BYTES: put one first, BEGIN_.. */
} cut_step;

struct tokenizer {
    json_t *file; /* strings point into it */
    bpe bpe;
    uint8_t *classes;
    canon *canon;          /* NULL: no NFC */
    added_set early, late; /* before and after normalising */
    normal_step normal[STEPS];
    cut_step cut[STEPS];
    int normals, cuts;
    token_ids before, behind; /* the post-processor's */
    /* The decoder: */
    const char *blank;     /* becomes a space; NULL: none */
    bool drops_first;      /* .. but of the first token it is dropped */
    bool falls_back;       /* byte tokens are bytes */
    bool is_byte_level;    /* characters are bytes */
    bool spaces;           /* no decoder: a space between tokens */
    bool fuses;            /* what follows looks at the whole text, not at each token */
    int strip;             /* spaces dropped from the beginning */
    text arena[2 * STEPS]; /* working memory of the steps */
    char *strings;         /* of the vocabulary, as bytes */
};
bool normalise(tokenizer *t, const char *data, size_t bytes, text *out);

/* read.c, steps.c: false: why */
bool read_model(tokenizer *t, const json_t *model, char *why, size_t why_bytes);
bool read_added(tokenizer *t, const json_t *list, char *why, size_t why_bytes);
bool read_steps(tokenizer *t, char *why, size_t why_bytes);
bool read_ends(tokenizer *t, char *why, size_t why_bytes); /* needs the vocabulary */
/* Has the object only keys of this list (parted by spaces)? */
bool known_keys(const json_t *object, const char *keys, const char *what, char *why,
                size_t why_bytes);

#endif
