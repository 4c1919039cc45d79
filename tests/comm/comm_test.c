/* SPDX-License-Identifier: Apache-2.0 */
/* What programs send: exchange, broadcast, allgather, allreduce, split, agree. Alone it runs on
 * "self"; under mpirun on any number of ranks. Every rank computes what every other one sends,
 * so each received byte is checked. */
#include "comm/comm.h"
#include "tests/world.h"

static banyan_comm *comm;
static int rank, size;

/* ---- exchange ---------------------------------------------------------------------------- */

/* Byte i of message `number` from one rank to another, in experiment `seed`. */
static unsigned char byte_of(uint64_t seed, int from, int to, int number, size_t i)
{
    uint64_t state = seed * 1000003u + (uint64_t)(from * 64 + to) * 64u + (uint64_t)number;
    return (unsigned char)(test_random(&state) + i * 7u + (i >> 8));
}

static void fill(unsigned char *data, size_t bytes, uint64_t seed, int from, int to, int number)
{
    const unsigned char first = byte_of(seed, from, to, number, 0);
    for (size_t i = 0; i < bytes; i++)
        data[i] = (unsigned char)(first + i * 7u + (i >> 8)); /* as byte_of */
}

static int is_filled(const unsigned char *data, size_t bytes, uint64_t seed, int from, int to,
                     int number)
{
    const unsigned char first = byte_of(seed, from, to, number, 0);
    for (size_t i = 0; i < bytes; i++)
        if (data[i] != (unsigned char)(first + i * 7u + (i >> 8))) return 0;
    return 1;
}

/* How many messages go from one rank to another, and how long each is: 0 to 3, of 0 bytes to
 * more than the transport takes as one piece. */
static int message_count(uint64_t seed, int from, int to)
{
    uint64_t state = seed * 77 + (uint64_t)(from * 64 + to);
    return (int)test_below(&state, 4);
}
static size_t message_size(uint64_t seed, int from, int to, int number)
{
    uint64_t state = seed * 99 + (uint64_t)(from * 64 + to) * 4u + (uint64_t)number;
    static const int64_t limits[] = {2, 100, 5000, 200000};
    return (size_t)test_below(&state, limits[test_below(&state, 4)]);
}

/* The messages of this rank, in a random order of peers; between a pair they stay in order. */
static int list_messages(uint64_t seed, int sends, banyan_message *list, int *number)
{
    int count = 0, next[64] = {0};
    uint64_t state = seed + (uint64_t)rank * 31u + (uint64_t)sends;
    for (int left = 1; left;) {
        left = 0;
        for (int peer = 0; peer < size; peer++) {
            const int from = sends ? rank : peer, to = sends ? peer : rank;
            if (next[peer] == message_count(seed, from, to)) continue;
            left = 1;
            if (test_below(&state, 2)) continue;
            const size_t bytes = message_size(seed, from, to, next[peer]);
            list[count] = (banyan_message){peer, malloc(bytes + 1), bytes};
            if (sends) fill(list[count].data, bytes, seed, from, to, next[peer]);
            number[count++] = next[peer]++;
        }
    }
    return count;
}

/* In one call, in two, or tested until it is through. */
static banyan_status exchange(uint64_t way, const banyan_message *sends, int send_count,
                              const banyan_message *recvs, int recv_count)
{
    if (way == 0) return banyan_comm_exchange(comm, sends, send_count, recvs, recv_count);
    banyan_status status =
        banyan_comm_exchange_start(comm, sends, send_count, recvs, recv_count);
    if (way == 1) return status ? status : banyan_comm_exchange_wait(comm);
    for (int done = 0; !status && !done;) status = banyan_comm_exchange_test(comm, &done);
    return status;
}

/* Nothing else while an exchange is under way, and no end without a beginning. */
static void test_started(void)
{
    int done = 0, mine = rank, theirs = -1;
    const banyan_message send = {(rank + 1) % size, &mine, sizeof mine},
                         recv = {(rank + size - 1) % size, &theirs, sizeof theirs};
    CHECK(banyan_comm_exchange_wait(comm) == BANYAN_ERR_ARGUMENT);
    CHECK(strstr(banyan_error_message(), "no exchange was started"));
    CHECK(banyan_comm_exchange_test(comm, &done) == BANYAN_ERR_ARGUMENT && !done);
    CHECK(banyan_comm_exchange_start(comm, &send, 1, &recv, 1) == BANYAN_OK);
    CHECK(banyan_comm_exchange_start(comm, &send, 1, &recv, 1) == BANYAN_ERR_ARGUMENT);
    CHECK(strstr(banyan_error_message(), "an exchange was started before"));
    if (size > 1) {
        CHECK(banyan_comm_exchange(comm, &send, 1, NULL, 0) == BANYAN_ERR_ARGUMENT);
        CHECK(strstr(banyan_error_message(), "expected exchange_wait before anything else"));
    }
    CHECK(banyan_comm_exchange_wait(comm) == BANYAN_OK);
    CHECK(theirs == recv.peer);
}

static void test_exchange(uint64_t seed)
{
    banyan_message sends[256], recvs[256];
    int send_number[256], recv_number[256];
    const int send_count = list_messages(seed, 1, sends, send_number);
    const int recv_count = list_messages(seed, 0, recvs, recv_number);
    const banyan_status status = exchange(seed % 3, sends, send_count, recvs, recv_count);
    CHECK_MSG(status == BANYAN_OK, "%s", banyan_error_message());
    for (int i = 0; i < recv_count; i++)
        CHECK(is_filled(recvs[i].data, recvs[i].bytes, seed, recvs[i].peer, rank,
                        recv_number[i]));
    for (int i = 0; i < send_count; i++) free(sends[i].data);
    for (int i = 0; i < recv_count; i++) free(recvs[i].data);
}

/* Only two ranks take part; nobody else calls. */
static void test_pair(void)
{
    if (size < 2 || (rank != 0 && rank != size - 1)) return;
    const int peer = rank ? 0 : size - 1;
    int mine = rank + 100, theirs = 0;
    const banyan_message send = {peer, &mine, sizeof mine},
                         recv = {peer, &theirs, sizeof theirs};
    for (int i = 0; i < 1000; i++) {
        mine = rank + 100 + i;
        CHECK(banyan_comm_exchange(comm, &send, 1, &recv, 1) == BANYAN_OK);
        CHECK(theirs == peer + 100 + i);
    }
}

/* 64 MiB and a bit from each rank to the next, as one piece and as many. */
static void test_big(size_t piece)
{
    const size_t bytes = ((size_t)(size > 3 ? 8 : 64) << 20) + 13, usual = comm->piece;
    const int next = (rank + 1) % size, before = (rank + size - 1) % size;
    unsigned char *out = malloc(bytes), *in = malloc(bytes);
    fill(out, bytes, 1, rank, next, 0);
    const banyan_message send = {next, out, bytes}, recv = {before, in, bytes};
    comm->piece = piece;
    CHECK(banyan_comm_exchange(comm, &send, 1, &recv, 1) == BANYAN_OK);
    CHECK(is_filled(in, bytes, 1, before, rank, 0));
    comm->piece = usual;
    free(out);
    free(in);
}

static void check_refused(const banyan_message *send, int sends, const banyan_message *recv,
                          int recvs, const char *words)
{
    CHECK(banyan_comm_exchange(comm, send, sends, recv, recvs) == BANYAN_ERR_ARGUMENT);
    CHECK_MSG(strstr(banyan_error_message(), words), "got %s, expected %s",
              banyan_error_message(), words);
}

/* A caller's mistake that this rank sees breaks nothing and needs nobody else. */
static void test_refusals(void)
{
    char data[8], words[64];
    const banyan_message far = {size, data, 8}, none = {0, NULL, 8}, own = {rank, data, 8},
                         shorter = {rank, data, 4};
    snprintf(words, sizeof words, "peer %d; expected a rank of 0..%d", size, size - 1);
    check_refused(&far, 1, NULL, 0, words);
    check_refused(NULL, 0, &far, 1, words);
    check_refused(&none, 1, NULL, 0, "send 0 has 8 bytes at NULL");
    check_refused(&own, -1, NULL, 0, "-1 sends");
    check_refused(NULL, 2, NULL, 0, "2 sends in no list");
    check_refused(&own, 1, &shorter, 1, "sends itself 8 bytes, but expects 4");
    check_refused(&own, 1, NULL, 0, "sends itself a message that it does not expect");
    check_refused(NULL, 0, &own, 1, "expects from itself a message that it does not send");
    CHECK(banyan_comm_broadcast(comm, data, 8, size) == BANYAN_ERR_ARGUMENT);
    CHECK(banyan_comm_broadcast(comm, NULL, 8, 0) == BANYAN_ERR_ARGUMENT);
    CHECK(banyan_comm_allgather(comm, data, 8, NULL) == BANYAN_ERR_ARGUMENT);
    CHECK(banyan_comm_allreduce(comm, NULL, 8, BANYAN_SUM) == BANYAN_ERR_ARGUMENT);
    CHECK(!comm->broken);
}

/* ---- collectives ------------------------------------------------------------------------- */

static void test_broadcast(void)
{
    static const size_t sizes[] = {0, 1, 8, 1000, 300000};
    for (int root = 0; root < size; root++)
        for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
            unsigned char *data = malloc(sizes[s] + 1);
            if (rank == root) fill(data, sizes[s], s, root, 0, 0);
            CHECK(banyan_comm_broadcast(comm, data, sizes[s], root) == BANYAN_OK);
            CHECK(is_filled(data, sizes[s], s, root, 0, 0));
            free(data);
        }
}

static void test_allgather(void)
{
    static const size_t sizes[] = {0, 1, 12, 5000, 100000};
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++)
        for (int in_place = 0; in_place < 2; in_place++) {
            const size_t bytes = sizes[s];
            unsigned char *all = malloc(bytes * (size_t)size + 1), *own = malloc(bytes + 1);
            unsigned char *mine = in_place ? all + bytes * (size_t)rank : own;
            fill(mine, bytes, s, rank, 0, 0);
            CHECK(banyan_comm_allgather(comm, mine, bytes, all) == BANYAN_OK);
            for (int r = 0; r < size; r++)
                CHECK(is_filled(all + bytes * (size_t)r, bytes, s, r, 0, 0));
            free(all);
            free(own);
        }
}

/* Values of which the sum depends on the order: magnitudes from 1e-8 to 1e8. */
static double value_of(int r, int i)
{
    uint64_t state = (uint64_t)r * 1000003u + (uint64_t)i;
    const double sign = test_below(&state, 2) ? 1 : -1;
    static const double scale[] = {1e-8, 1, 1e8};
    return sign * test_uniform(&state) * scale[test_below(&state, 3)];
}

static void test_allreduce(void)
{
    static const int counts[] = {1, 2, 5, 1024, 1025, 10000};
    for (size_t c = 0; c < sizeof counts / sizeof *counts; c++)
        for (int op = BANYAN_SUM; op <= BANYAN_MAX; op++) {
            double *values = malloc((size_t)counts[c] * sizeof *values);
            for (int i = 0; i < counts[c]; i++) values[i] = value_of(rank, i);
            CHECK(banyan_comm_allreduce(comm, values, counts[c], (banyan_op)op) == BANYAN_OK);
            int differ = 0;
            for (int i = 0; i < counts[c]; i++) { /* rank 0 first, to the bit */
                double want = value_of(0, i);
                for (int r = 1; r < size; r++) {
                    const double v = value_of(r, i);
                    want = op == BANYAN_SUM ? want + v : v > want ? v : want;
                }
                differ += memcmp(&want, &values[i], sizeof want) != 0;
            }
            CHECK_MSG(!differ, "op %d: %d of %d values differ", op, differ, counts[c]);
            free(values);
        }
    double nothing = rank == size - 1 ? 0.0 / 0.0 : 3;
    CHECK(banyan_comm_allreduce(comm, &nothing, 1, BANYAN_MAX) == BANYAN_OK);
    CHECK(nothing != nothing);
    CHECK(banyan_comm_allreduce(comm, NULL, 0, BANYAN_SUM) == BANYAN_OK);
}

/* ---- split and agree --------------------------------------------------------------------- */

/* Even and odd ranks in reversed order, without rank 2; then split again. */
static void test_split(void)
{
    banyan_comm *half = (banyan_comm *)comm, *again = NULL;
    const int color = rank == 2 ? -1 : rank % 2;
    CHECK(banyan_comm_split(comm, color, -rank, &half) == BANYAN_OK);
    CHECK((half == NULL) == (rank == 2));
    if (half) {
        int members[64], count = 0, at = -1;
        for (int r = size - 1; r >= 0; r--) {
            if (r == 2 || r % 2 != color) continue;
            if (r == rank) at = count;
            members[count++] = r;
        }
        CHECK(banyan_comm_size(half) == count && banyan_comm_rank(half) == at);
        CHECK(banyan_comm_nodes(half) >= 1 && banyan_comm_node(half, 0) == 0);
        int all[64];
        CHECK(banyan_comm_allgather(half, &rank, sizeof rank, all) == BANYAN_OK);
        CHECK(!memcmp(all, members, (size_t)count * sizeof *all));
        CHECK(banyan_comm_split(half, 0, 0, &again) == BANYAN_OK);
        CHECK(banyan_comm_size(again) == count && banyan_comm_rank(again) == at);
        CHECK(banyan_comm_agree(again, BANYAN_OK) == BANYAN_OK);
        banyan_comm_destroy(again);
    }
    CHECK(banyan_comm_agree(comm, BANYAN_OK) == BANYAN_OK);
    banyan_comm_destroy(half);
}

static void test_agree(void)
{
    CHECK(banyan_comm_agree(comm, BANYAN_OK) == BANYAN_OK);
    for (int bad = 0; bad < size; bad++) { /* ranks `bad` and up fail, each in its own way */
        banyan_status mine = BANYAN_OK;
        char words[64];
        if (rank >= bad) mine = banyan_fail(BANYAN_ERR_CONFIG, "layers is %d", rank);
        const banyan_status all = banyan_comm_agree(comm, mine);
        CHECK(all == (mine ? BANYAN_ERR_CONFIG : BANYAN_ERR_PEER));
        snprintf(words, sizeof words, mine ? "layers is %d" : "rank %d: layers is %d",
                 mine ? rank : bad, bad);
        CHECK_MSG(!strcmp(banyan_error_message(), words), "got %s, expected %s",
                  banyan_error_message(), words);
    }
    CHECK(banyan_comm_agree(comm, BANYAN_OK) == BANYAN_OK);
}

int main(int argc, char **argv)
{
    const int expected = argc > 1 ? atoi(argv[1]) : 1;
    comm = test_comm(NULL);
    rank = banyan_comm_rank(comm);
    size = banyan_comm_size(comm);
    CHECK_MSG(size == expected, "%d ranks, expected %d", size, expected);
    CHECK(rank >= 0 && rank < size && size <= 64);
    const int per_node = argc > 2 ? atoi(argv[2]) : size; /* usually they share this machine */
    CHECK(banyan_comm_nodes(comm) == size / per_node);
    for (int r = -1; r <= size; r++)
        CHECK(banyan_comm_node(comm, r) == (r < 0 || r == size ? -1 : r / per_node));
    const size_t usual = comm->piece;
    for (uint64_t seed = 0; seed < 60; seed++) {
        comm->piece = seed % 2 ? usual : 4096;
        test_exchange(seed);
    }
    comm->piece = usual;
    test_pair();
    test_started();
    test_big(usual);
    test_big(1000003);
    test_refusals();
    test_broadcast();
    test_allgather();
    test_allreduce();
    test_split();
    test_agree();
    banyan_comm_destroy(comm);
    return test_end();
}
