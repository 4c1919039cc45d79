/* SPDX-License-Identifier: Apache-2.0 */
/* Rank 1 sends items to rank 0, and believes something else than rank 0 does: another plan,
 * another call, another round, other items. Rank 0 says what, with both ranks and both values,
 * and where. Every case has a comm of its own, which is broken afterwards. The job ends with
 * exit code 7 when all checks passed: after a failure, MPI is not finalised. */
#include "comm/exchange.h"
#include "tests/world.h"

#include <unistd.h>

static banyan_comm *world;
static int rank, size;

enum { most_items = 4, most_bytes = 1 << 20 };
static char memory[most_items][most_bytes];

/* What a rank believes. */
typedef struct belief {
    uint64_t plan;
    int64_t merge, layer, token;
    int32_t round, items;
    size_t item_bytes;
    banyan_dtype dtype;
} belief;

static void take(void *ctx, void *out, const void *lo, const void *hi, size_t bytes)
{
    (void)ctx, (void)lo;
    memmove(out, hi, bytes);
}

static banyan_status pass(banyan_comm *comm, const belief *b)
{
    void *data[most_items] = {memory[0], memory[1], memory[2], memory[3]};
    banyan_schedule s = {0};
    banyan_exchange *x = NULL;
    int64_t messages = 0, bytes = 0;
    const banyan_exchange_args p = {
        .data = data,
        .item_bytes = b->item_bytes,
        .dtype = b->dtype,
        .combine = take,
        .mark = {{"merge", b->merge}, {"layer", b->layer}, {"token", b->token}}};
    for (int32_t i = 0; i < b->items; i++) banyan_schedule_add(&s, b->round, 1, 0, i, 1);
    banyan_schedule_sort(&s);
    CHECK(banyan_exchange_create(&s, rank, b->item_bytes, b->plan, NULL, &x) == BANYAN_OK);
    const banyan_status status = banyan_exchange_run(x, comm, &p, &messages, &bytes);
    banyan_exchange_destroy(x);
    banyan_schedule_free(&s);
    return status;
}

static const belief right = {0x1234, 7, 3, 4096, 0, 2, 520, BANYAN_F32};

/* words NULL: nothing is wrong. */
static void check(const belief *theirs, const char *words)
{
    banyan_comm *comm = NULL;
    CHECK(banyan_comm_split(world, 0, 0, &comm) == BANYAN_OK);
    if (rank == 1) (void)pass(comm, theirs);
    if (rank == 0) {
        const banyan_status status = pass(comm, &right);
        char expected[256];
        CHECK(status == (words ? BANYAN_ERR_COMM : BANYAN_OK) && comm->broken == !!words);
        if (words) {
            snprintf(expected, sizeof expected, "%s (merge 7, layer 3, token 4096, round 0)",
                     words);
            CHECK_MSG(!strcmp(banyan_error_message(), expected),
                      "\n    got      %s\n    expected %s", banyan_error_message(), expected);
            CHECK(pass(comm, &right) == BANYAN_ERR_COMM);
        }
    }
    banyan_comm_destroy(comm);
}

/* A message of the right size that is no packed one. */
static void check_foreign(void)
{
    banyan_comm *comm = NULL;
    CHECK(banyan_comm_split(world, 0, 0, &comm) == BANYAN_OK);
    char data[BANYAN_HEADER_BYTES + 2 * 520] = "\x01\x02\x03\x04";
    const banyan_message send = {0, data, sizeof data};
    if (rank == 1) CHECK(banyan_comm_exchange(comm, &send, 1, NULL, 0) == BANYAN_OK);
    if (rank == 0) {
        CHECK(pass(comm, &right) == BANYAN_ERR_COMM);
        CHECK_MSG(
            strstr(banyan_error_message(),
                   "rank 1 sends something that begins with 04030201, but rank 0 expects"),
            "%s", banyan_error_message());
    }
    banyan_comm_destroy(comm);
}

/* Items that arrive as they were sent, or with one bit turned on the way. */
static void check_items(int32_t at)
{
    banyan_comm *comm = NULL;
    CHECK(banyan_comm_split(world, 0, 0, &comm) == BANYAN_OK);
    banyan_comm_checksums(comm, 1);
    char data[BANYAN_HEADER_BYTES + 2 * 520] = "";
    message_header h = {.magic = header_magic,
                        .version = header_version,
                        .plan = right.plan,
                        .item_bytes = right.item_bytes,
                        .mark = {right.merge, right.layer, right.token},
                        .items = right.items};
    for (int i = BANYAN_HEADER_BYTES; i < (int)sizeof data; i++) data[i] = (char)(i * 37);
    h.checksum = banyan_items_checksum(data + sizeof h, sizeof data - sizeof h);
    memcpy(data, &h, sizeof h);
    if (at >= 0) data[BANYAN_HEADER_BYTES + at] ^= 4;
    const banyan_message send = {0, data, sizeof data};
    if (rank == 1) CHECK(banyan_comm_exchange(comm, &send, 1, NULL, 0) == BANYAN_OK);
    if (rank == 0) {
        CHECK(pass(comm, &right) == (at >= 0 ? BANYAN_ERR_COMM : BANYAN_OK));
        CHECK_MSG(at < 0 || strstr(banyan_error_message(),
                                   "rank 1 sent 1040 bytes of partials with checksum "),
                  "%s", banyan_error_message());
    }
    banyan_comm_destroy(comm);
}

int main(void)
{
    world = test_comm("mpi");
    rank = banyan_comm_rank(world);
    size = banyan_comm_size(world);
    CHECK(size == 2);
    check(&right, NULL);
    belief b = right;
    b.plan = 0x1235;
    check(&b, "rank 1 sends for plan 0000000000001235, but rank 0 has plan 0000000000001234");
    b = right, b.merge = 8;
    check(&b, "rank 1 sends merge 8, but rank 0 expects 7");
    b = right, b.layer = 4;
    check(&b, "rank 1 sends layer 4, but rank 0 expects 3");
    b = right, b.token = 4097;
    check(&b, "rank 1 sends token 4097, but rank 0 expects 4096");
    b = right, b.round = 2;
    check(&b, "rank 1 sends round 2, but rank 0 expects 0");
    b = right, b.dtype = BANYAN_BF16;
    check(&b, "rank 1 sends bf16, but rank 0 expects fp32");
    b = right, b.items = 1, b.item_bytes = 1040;
    check(&b, "rank 1 sends item size 1040, but rank 0 expects 520");
    /* other sizes: the transport sees that first, but the header says more */
    b = right, b.items = 1;
    check(&b, "rank 1 sends item count 1, but rank 0 expects 2");
    b = right, b.items = 3;
    check(&b, "rank 1 sends item count 3, but rank 0 expects 2");
    b = right, b.layer = 5, b.items = 4, b.item_bytes = most_bytes;
    check(&b, "rank 1 sends layer 5, but rank 0 expects 3");
    check_foreign();
    check_items(-1);
    for (int32_t at = 0; at < 1040; at += 173) check_items(at);
    check_items(1039);
    banyan_comm_destroy(world);
    const int failures = test_end();
    if (!failures) sleep(1); /* so that an earlier rank's failure is the job's */
    return failures ? failures : 7;
}
