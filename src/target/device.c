// SPDX-License-Identifier: Apache-2.0
// Facts of this machine, from /proc and /sys. Reading them costs a few dozen system calls, so they are kept a while.
#include <dirent.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/time.h"
#include "target/health.h"

#define FACTS_NS (5 * TD_S_NS)
#define HOT_MILLIDEGREES 95000 // where common processors begin to throttle

static long read_number(const char *path, long otherwise) {
    FILE *f = fopen(path, "re");
    long v = otherwise;
    if (f) {
        if (fscanf(f, "%ld", &v) != 1)
            v = otherwise;
        fclose(f);
    }
    return v;
}

static bool read_word(const char *path, char *out, size_t cap) {
    FILE *f = fopen(path, "re");
    if (!f)
        return false;
    bool ok = fgets(out, (int)cap, f) != NULL;
    fclose(f);
    if (ok)
        out[strcspn(out, "\n")] = 0;
    return ok;
}

static void read_memory(struct td_world *w) {
    char line[128];
    unsigned long long kib;
    FILE *f = fopen("/proc/meminfo", "re");
    while (f && fgets(line, sizeof line, f)) {
        if (sscanf(line, "MemTotal: %llu", &kib) == 1)
            w->device.ram_bytes = kib << 10;
        else if (sscanf(line, "MemAvailable: %llu", &kib) == 1)
            w->device.ram_free_bytes = kib << 10;
    }
    if (f)
        fclose(f);
}

static void read_power(struct td_world *w) {
    DIR *dir = opendir("/sys/class/power_supply");
    struct dirent *entry;
    w->device.battery_percent = 100;
    while (dir && (entry = readdir(dir))) {
        char path[320], word[32];
        if (entry->d_name[0] == '.')
            continue;
        snprintf(path, sizeof path, "/sys/class/power_supply/%s/scope", entry->d_name);
        if (read_word(path, word, sizeof word) && strcmp(word, "Device") == 0)
            continue; // of a mouse or a headset
        snprintf(path, sizeof path, "/sys/class/power_supply/%s/type", entry->d_name);
        if (!read_word(path, word, sizeof word) || strcmp(word, "Battery") != 0)
            continue;
        snprintf(path, sizeof path, "/sys/class/power_supply/%s/status", entry->d_name);
        if (read_word(path, word, sizeof word) && strcmp(word, "Discharging") == 0)
            w->device.on_battery = true;
        snprintf(path, sizeof path, "/sys/class/power_supply/%s/capacity", entry->d_name);
        w->device.battery_percent = (uint32_t)read_number(path, 100);
    }
    if (dir)
        closedir(dir);
}

static void read_heat(struct td_world *w) {
    for (int i = 0; i < 16 && !w->device.hot; i++) {
        char path[64];
        snprintf(path, sizeof path, "/sys/class/thermal/thermal_zone%d/temp", i);
        w->device.hot = read_number(path, 0) >= HOT_MILLIDEGREES;
    }
}

void td_device_facts(struct td_world *world, uint64_t now_ns) {
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    static struct td_world kept; // only its device part is used
    static uint64_t read_ns;
    pthread_mutex_lock(&lock);
    if (!read_ns || now_ns >= read_ns + FACTS_NS) {
        memset(&kept.device, 0, sizeof kept.device);
        long cores = sysconf(_SC_NPROCESSORS_ONLN);
        kept.device.cores = cores > 0 ? (uint32_t)cores : 1;
        read_memory(&kept);
        read_power(&kept);
        read_heat(&kept);
        read_ns = now_ns ? now_ns : 1;
    }
    world->device = kept.device;
    pthread_mutex_unlock(&lock);
}
