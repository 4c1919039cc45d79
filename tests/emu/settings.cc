/* SPDX-License-Identifier: Apache-2.0 */
#include "settings.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

namespace emu
{

static long long number_from(const char *name, long long otherwise)
{
    const char *const text = getenv(name);
    return text && *text ? strtoll(text, nullptr, 0) : otherwise;
}

static void read_environment(settings &s)
{
    const char *const mode = getenv("BANYAN_EMU_MODE");
    s.mode = EMULATOR_LAZY;
    if (mode && !strcmp(mode, "eager"))
        s.mode = EMULATOR_EAGER;
    else if (mode && !strcmp(mode, "random"))
        s.mode = EMULATOR_RANDOM;
    else if (mode && strcmp(mode, "lazy")) {
        fprintf(stderr, "BANYAN_EMU_MODE is \"%s\", not eager, lazy or random\n", mode);
        abort();
    }
    s.seed = (uint64_t)number_from("BANYAN_EMU_SEED", 1);
    s.devices = (int)number_from("BANYAN_EMU_DEVICES", 1);
    s.capability = (int)number_from("BANYAN_EMU_CAPABILITY", 90);
    s.code = (int)number_from("BANYAN_EMU_CODE", 90);
    s.multiprocessors = (int)number_from("BANYAN_EMU_SMS", 132);
    s.memory = (size_t)number_from("BANYAN_EMU_MEMORY", 80LL << 30);
    s.guard = (int)number_from("BANYAN_EMU_GUARD", 1);
    s.idle = 0;
    s.kernels = s.copies = s.events = s.to_device = s.to_host = 0;
}

settings &get_settings()
{
    static settings *const all = [] {
        settings *const s = new settings;
        read_environment(*s);
        return s;
    }();
    return *all;
}

uint64_t next_seed()
{
    uint64_t x = get_settings().seed.fetch_add(1) * 0x9e3779b97f4a7c15; /* splitmix64 */
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
    x = (x ^ x >> 27) * 0x94d049bb133111eb;
    return x ^ x >> 31;
}

/* CUDA C Programming Guide, technical specifications per compute capability. */
int shared_limit()
{
    const int capability = get_settings().capability;
    if (capability >= 90) return 227 << 10;
    return (capability == 80 || capability == 87 ? 163 : 99) << 10;
}

} // namespace emu

using namespace emu;

void emulator_set_mode(enum emulator_mode mode, uint32_t seed)
{
    get_settings().mode = mode;
    get_settings().seed = (uint64_t)seed << 32 | 1;
}

enum emulator_mode emulator_get_mode(void)
{
    return (enum emulator_mode)get_settings().mode.load();
}

void emulator_set_devices(int count)
{
    get_settings().devices = count;
}

void emulator_set_capability(int capability)
{
    get_settings().capability = capability;
}

void emulator_set_code(int capability)
{
    get_settings().code = capability;
}

void emulator_set_multiprocessors(int count)
{
    get_settings().multiprocessors = count;
}

int emulator_get_multiprocessors(void)
{
    return get_settings().multiprocessors;
}

void emulator_set_memory(size_t bytes)
{
    get_settings().memory = bytes;
}

void emulator_set_idle(int on)
{
    get_settings().idle = on;
}

struct emulator_counts emulator_count(void)
{
    const settings &s = get_settings();
    return {s.kernels, s.copies, s.events, s.to_device, s.to_host};
}

void emulator_set_guard(int on)
{
    get_settings().guard = on;
}
