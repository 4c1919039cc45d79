/* SPDX-License-Identifier: Apache-2.0 */
/* A peer of the bench: torch's scaled_dot_product_attention, in a process of python3's, which
 * is asked for one call at a time, in turns with ours. One line goes there, one comes back:
 *
 *     (begin)                                             ok VERSION
 *     row HEADS KV KEY_DIM VALUE_DIM TOKENS ROWS THREADS DTYPE    ok
 *     turn                                                SECONDS
 *
 * or "no WHY". A prefill is one causal call over at most PEER_TOKENS tokens, since torch has
 * none that goes on from keys that are there; rates are compared. */
#include "launch/bench/bench.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PEER_TOKENS = 4096, MOST_TURNS = 9 };

struct bench_peer {
    const job *j;
    FILE *to, *from;
    pid_t process;
    char version[64];
    bool has_row;
    int64_t tokens; /* of the row's calls */
    double flops, seconds[MOST_TURNS];
    int turns;
};

static const char script[] =
    "import sys, time\n"
    "def say(*words): print(*words, flush=True)\n"
    "try:\n"
    "    import torch\n"
    "    from torch.nn.functional import scaled_dot_product_attention as attend\n"
    "except Exception as e:\n"
    "    say('no', ' '.join(str(e).split()))\n"
    "    sys.exit(1)\n"
    "say('ok', torch.__version__)\n"
    "torch.set_grad_enabled(False)\n"
    "def prepare(heads, kv, key_dim, value_dim, tokens, rows, threads, dtype):\n"
    "    torch.set_num_threads(threads)\n"
    "    def draw(h, n, dim): return torch.randn(1, h, n, dim).to(dtype)\n"
    "    q, k, v = draw(heads, rows or tokens, key_dim), draw(kv, tokens, key_dim), "
    "draw(kv, tokens, value_dim)\n"
    "    mask = torch.ones(rows, tokens, dtype=torch.bool).tril(tokens - rows) if rows > 1 "
    "else None\n"
    "    return lambda: attend(q, k, v, attn_mask=mask, is_causal=rows == 0, "
    "enable_gqa=heads != kv)\n"
    "for line in sys.stdin:\n"
    "    words = line.split()\n"
    "    try:\n"
    "        if words[0] == 'row':\n"
    "            call = prepare(*map(int, words[1:8]), getattr(torch, words[8]))\n"
    "            call()\n"
    "            say('ok')\n"
    "        else:\n"
    "            begin = time.perf_counter()\n"
    "            call()\n"
    "            say(time.perf_counter() - begin)\n"
    "    except Exception as e:\n"
    "        say('no', ' '.join(str(e).split())[:300])\n";

/* The answer, without what says that it is one. false: it said no, or nothing. */
static bool hear(bench_peer *p, char *text, int size)
{
    text[0] = 0;
    if (!fgets(text, size, p->from)) return false;
    text[strcspn(text, "\n")] = 0;
    const bool is_no = !strncmp(text, "no", 2);
    if (is_no || !strncmp(text, "ok", 2)) memmove(text, text + 2, strlen(text + 2) + 1);
    return !is_no;
}

static bool start(bench_peer *p)
{
    int there[2] = {-1, -1}, back[2] = {-1, -1};
    if (pipe(there) || pipe(back)) return false;
    signal(SIGPIPE, SIG_IGN); /* a peer that ends is an answer that does not come */
    p->process = fork();
    if (p->process == 0) {
        dup2(there[0], 0);
        dup2(back[1], 1);
        for (int i = 0; i < 2; i++) close(there[i]), close(back[i]);
        setenv("OMP_WAIT_POLICY", "passive", 1); /* between its turns it takes no core */
        execlp("python3", "python3", "-c", script, (char *)NULL);
        _exit(127);
    }
    close(there[0]);
    close(back[1]);
    p->to = fdopen(there[1], "w");
    p->from = fdopen(back[0], "r");
    return p->process > 0 && p->to && p->from;
}

bench_peer *bench_peer_open(const job *j, const char *name)
{
    char text[512];
    if (strcmp(name, "torch")) {
        say_error(j, "--peer \"%s\": expected torch", name);
        return NULL;
    }
    bench_peer *p = calloc(1, sizeof *p);
    if (!p) return NULL;
    p->j = j;
    if (!start(p) || !hear(p, text, sizeof text)) {
        say_error(j, "--peer torch: python3 has no torch here:%s",
                  p->from && text[0] ? text : " it did not start");
        bench_peer_close(p);
        return NULL;
    }
    snprintf(p->version, sizeof p->version, "%s", text + (text[0] == ' '));
    return p;
}

void bench_peer_close(bench_peer *p)
{
    if (!p) return;
    if (p->to) fclose(p->to); /* the end of its input ends it */
    if (p->from) fclose(p->from);
    if (p->process > 0) waitpid(p->process, NULL, 0);
    free(p);
}

void bench_peer_row(bench_peer *p, const bench_row *row, int64_t tokens, int threads)
{
    static const char *const names[] = {
        [BANYAN_F32] = "float32", [BANYAN_BF16] = "bfloat16", [BANYAN_F16] = "float16"};
    char text[512];
    p->has_row = false;
    p->turns = 0;
    if (row->use || row->kernel || row->value_in_key || row->sequences > 1 ||
        row->dtype > BANYAN_F16)
        return; /* torch has nothing like it */
    p->tokens = row->rows || tokens < PEER_TOKENS ? tokens : PEER_TOKENS;
    const double n = (double)p->tokens, rows = row->rows;
    const double pairs = row->rows ? rows * n - rows * (rows - 1) / 2 : n * (n + 1) / 2;
    p->flops = pairs * row->heads * 2 * (row->key_dim + row->value_dim);
    fprintf(p->to, "row %d %d %d %d %lld %d %d %s\n", row->heads, row->kv_heads, row->key_dim,
            row->value_dim, (long long)p->tokens, row->rows, threads, names[row->dtype]);
    fflush(p->to);
    p->has_row = hear(p, text, sizeof text);
    if (!p->has_row) say_error(p->j, "--peer torch, %s:%s", row->name, text);
}

void bench_peer_turn(bench_peer *p)
{
    char text[512];
    if (!p->has_row || p->turns == MOST_TURNS) return;
    fputs("turn\n", p->to);
    fflush(p->to);
    p->has_row = hear(p, text, sizeof text);
    if (p->has_row)
        p->seconds[p->turns++] = strtod(text, NULL);
    else
        say_error(p->j, "--peer torch:%s", text[0] ? text : " it ended");
}

bool bench_peer_result(bench_peer *p, bench_peer_rate *out)
{
    if (!p->has_row || !p->turns) return false;
    *out = (bench_peer_rate){.version = p->version, .tokens = p->tokens, .turns = p->turns};
    out->seconds = numbers_median(p->seconds, p->turns);
    out->spread = numbers_spread(p->seconds, p->turns);
    out->flops = p->flops / out->seconds;
    return true;
}
