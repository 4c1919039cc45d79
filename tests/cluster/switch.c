/* SPDX-License-Identifier: Apache-2.0 */
/* A network switch in user space, for links that delay: the kernel's own netem is a module that
 * many machines lack.
 *
 *     switch CONTROL NETNS..     port i is a TAP device "eth0" in the network namespace at
 *                                NETNS[i], for a host whose Ethernet address is
 *                                02:00:00:00:00:i
 *
 * A frame that enters at port a for port b leaves when the slowest of these lets it:
 *
 *     uplink of a     one frame after another, at a's rate
 *     delay of a      added
 *     downlink of b   one frame after another, at b's rate, beginning while the frame still
 *                     arrives
 *
 * Frames keep their virtio header (10 bytes), so that a segmented packet of up to 64 KiB costs
 * one read and one write. What waits is a heap by (time, order of arrival). CONTROL is a FIFO;
 * each line is one command: "delay PORT|all USEC", "rate PORT|all MBIT" (0: no limit). */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <poll.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

enum {
    most_ports = 65,
    most_frames = 1 << 15, /* that wait */
    header_bytes = 10,     /* virtio_net_hdr */
    frame_bytes = 66000,   /* header, Ethernet, and the largest IP packet */
    reads_in_turn = 16     /* of one port, before others are looked at */
};

static const int64_t longest_queue = 200000000; /* ns that a frame may wait for a link */

typedef struct port {
    int fd;
    int64_t delay;              /* ns */
    double mbit;                /* 0: no limit */
    int64_t up_free, down_free; /* ns: when the link has sent what it was given */
} port;

typedef struct frame {
    int64_t due; /* ns */
    uint64_t order;
    int to;
    size_t bytes;
    unsigned char *data;
} frame;

static port ports[most_ports];
static int port_count;
static frame heap[most_frames];
static int waiting;
static uint64_t arrivals;

static int64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * INT64_C(1000000000) + t.tv_nsec;
}

/* ---- what waits -------------------------------------------------------------------------- */

static int is_before(const frame *a, const frame *b)
{
    return a->due != b->due ? a->due < b->due : a->order < b->order;
}

static void push(frame f)
{
    int i = waiting++;
    for (; i && is_before(&f, &heap[(i - 1) / 2]); i = (i - 1) / 2) heap[i] = heap[(i - 1) / 2];
    heap[i] = f;
}

static frame pop(void)
{
    const frame first = heap[0], last = heap[--waiting];
    int i = 0;
    for (int child; (child = 2 * i + 1) < waiting; i = child) {
        if (child + 1 < waiting && is_before(&heap[child + 1], &heap[child])) child++;
        if (!is_before(&heap[child], &last)) break;
        heap[i] = heap[child];
    }
    heap[i] = last;
    return first;
}

/* ---- frames ------------------------------------------------------------------------------ */

static int64_t serial_ns(const port *p, size_t bytes)
{
    return p->mbit > 0 ? (int64_t)((double)(bytes - header_bytes) * 8e3 / p->mbit) : 0;
}

/* `arrived`: when its last bit is at the switch. Dropped when too much waits: TCP sends it
 * again. */
static void forward(int to, const unsigned char *data, size_t bytes, int64_t arrived)
{
    port *p = &ports[to];
    int64_t sent = p->down_free + serial_ns(p, bytes);
    if (sent < arrived) sent = arrived;
    if (waiting == most_frames || sent - arrived > longest_queue) return;
    frame f = {
        .due = sent, .order = arrivals++, .to = to, .bytes = bytes, .data = malloc(bytes)};
    if (!f.data) return;
    p->down_free = sent;
    memcpy(f.data, data, bytes);
    push(f);
}

static void receive(int from)
{
    static unsigned char data[frame_bytes];
    port *p = &ports[from];
    for (int i = 0; i < reads_in_turn; i++) {
        const ssize_t got = read(p->fd, data, sizeof data);
        if (got < header_bytes + 14) return;
        const int64_t now = now_ns();
        if (p->up_free < now) p->up_free = now;
        if (p->up_free - now > longest_queue) continue;
        p->up_free += serial_ns(p, (size_t)got);
        const int64_t arrived = p->up_free + p->delay;
        const unsigned char *address = data + header_bytes;
        if (address[0] & 1) { /* to everyone */
            for (int to = 0; to < port_count; to++)
                if (to != from) forward(to, data, (size_t)got, arrived);
        } else if (address[0] == 2 && address[1] == 0 && address[5] < port_count &&
                   address[5] != from) {
            forward(address[5], data, (size_t)got, arrived);
        }
    }
}

static void deliver(void)
{
    for (const int64_t now = now_ns(); waiting && heap[0].due <= now;) {
        const frame f = pop();
        if (write(ports[f.to].fd, f.data, f.bytes) < 0 && errno != EAGAIN && errno != EIO)
            perror("switch: write"); /* EIO: the device is not up yet */
        free(f.data);
    }
}

/* ---- control ----------------------------------------------------------------------------- */

static void obey(const char *line)
{
    char what[16], which[16];
    double value;
    if (sscanf(line, "%15s %15s %lf", what, which, &value) != 3) {
        fprintf(stderr, "switch: what is \"%s\"?\n", line);
        return;
    }
    const int all = !strcmp(which, "all"), only = atoi(which);
    for (int i = 0; i < port_count; i++) {
        if (!all && i != only) continue;
        if (!strcmp(what, "delay")) ports[i].delay = (int64_t)(value * 1e3);
        if (!strcmp(what, "rate")) ports[i].mbit = value;
    }
}

static void read_control(int fd)
{
    static char text[1024];
    static size_t used;
    const ssize_t got = read(fd, text + used, sizeof text - 1 - used);
    if (got <= 0) return;
    used += (size_t)got;
    text[used] = 0;
    for (char *end; (end = strchr(text, '\n'));) {
        *end = 0;
        obey(text);
        used -= (size_t)(end + 1 - text);
        memmove(text, end + 1, used + 1);
    }
    if (used == sizeof text - 1) used = 0;
}

/* ---- set-up ------------------------------------------------------------------------------ */

static int open_port(const char *space)
{
    const int ns = open(space, O_RDONLY | O_CLOEXEC);
    if (ns < 0 || setns(ns, CLONE_NEWNET)) {
        perror(space);
        return -1;
    }
    close(ns);
    struct ifreq wish = {.ifr_name = "eth0", .ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR};
    const int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0 || ioctl(fd, TUNSETIFF, &wish) ||
        ioctl(fd, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4)) {
        perror("/dev/net/tun");
        return -1;
    }
    return fd;
}

int main(int argc, char **argv)
{
    if (argc < 3 || argc - 2 > most_ports) {
        fprintf(stderr, "usage: switch CONTROL NETNS.. (at most %d)\n", (int)most_ports);
        return 2;
    }
    const int control = open(argv[1], O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (control < 0) return perror(argv[1]), 1;
    port_count = argc - 2;
    struct pollfd watched[most_ports + 1];
    for (int i = 0; i < port_count; i++) {
        ports[i].fd = open_port(argv[i + 2]);
        if (ports[i].fd < 0) return 1;
        watched[i] = (struct pollfd){.fd = ports[i].fd, .events = POLLIN};
    }
    watched[port_count] = (struct pollfd){.fd = control, .events = POLLIN};
    prctl(PR_SET_TIMERSLACK, 1000UL); /* ns */
    /* Ranks that poll would otherwise keep the switch off the cores for milliseconds. Where
     * that is not permitted, delays come out longer. */
    const struct sched_param real_time = {.sched_priority = 1};
    sched_setscheduler(0, SCHED_FIFO, &real_time);
    puts("ready");
    fflush(stdout);
    for (;;) {
        const int64_t left = waiting ? heap[0].due - now_ns() : 0, due = left > 0 ? left : 0;
        const struct timespec limit = {due / 1000000000, due % 1000000000};
        if (ppoll(watched, (nfds_t)port_count + 1, waiting ? &limit : NULL, NULL) < 0 &&
            errno != EINTR)
            return perror("switch: ppoll"), 1;
        for (int i = 0; i < port_count; i++)
            if (watched[i].revents & POLLIN) receive(i);
        if (watched[port_count].revents & POLLIN) read_control(control);
        deliver();
    }
}
