/* Tells an observer outside, many times a second, that the guest runs and how far its work has come. */
#include "guest.h"

#include <arpa/inet.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

struct beat { /* little-endian; guestctl.py reads it */
    char magic[4];
    uint32_t interval_us;
    uint64_t sequence, monotonic_ns, realtime_ns, passes, page_errors, deaths, late_us;
    uint64_t disks;
    struct {
        char name[16];
        uint64_t acknowledged, errors;
    } disk[MAX_DISKS];
} __attribute__((packed));

static size_t compose(struct beat *beat, uint64_t sequence, uint64_t now) {
    beat->sequence = sequence;
    beat->monotonic_ns = now;
    beat->realtime_ns = now_ns(CLOCK_REALTIME);
    beat->passes = state->dirtiers[0].passes;
    beat->page_errors = 0;
    for (int i = 0; i < MAX_DIRTIERS; i++) beat->page_errors += state->dirtiers[i].errors;
    beat->deaths = state->deaths;
    beat->late_us = state->late_us;
    size_t disks = 0;
    for (int i = 0; i < MAX_DISKS; i++) {
        struct disk_state *disk = &state->disks[i];
        if (!disk->acknowledged) continue;
        memcpy(beat->disk[disks].name, disk->name, sizeof beat->disk[0].name);
        beat->disk[disks].acknowledged = disk->acknowledged;
        beat->disk[disks++].errors = disk->errors;
    }
    beat->disks = disks;
    return offsetof(struct beat, disk) + disks * sizeof beat->disk[0];
}

_Noreturn void run_heartbeat(const char *target) { /* ADDRESS:PORT,INTERVALms */
    char address[64];
    unsigned port, milliseconds;
    struct sockaddr_in to = {.sin_family = AF_INET};
    if (sscanf(target, "%63[^:]:%u,%ums", address, &port, &milliseconds) != 3 || inet_pton(AF_INET, address, &to.sin_addr) != 1) {
        console("limosa-guest: limosa.heartbeat=%s is not ADDRESS:PORT,INTERVALms", target);
        exit(0);
    }
    to.sin_port = htons((uint16_t)port);
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    mlockall(MCL_CURRENT | MCL_FUTURE);
    sched_setscheduler(0, SCHED_FIFO, &(struct sched_param){.sched_priority = 50});
    uint64_t interval = (uint64_t)milliseconds * 1000000u, due = now_ns(CLOCK_MONOTONIC);
    struct beat beat = {.magic = "LBT1", .interval_us = milliseconds * 1000};
    for (uint64_t sequence = 0;; sequence++) {
        sleep_until(due);
        uint64_t now = now_ns(CLOCK_MONOTONIC), late = (now - due) / 1000;
        if (late > state->late_us) state->late_us = late;
        /* What does not leave (no address yet, a full queue) is a gap, and a gap is what the observer measures. */
        sendto(fd, &beat, compose(&beat, sequence, now), 0, (struct sockaddr *)&to, sizeof to);
        state->beats = sequence + 1;
        due += interval;
        if (due < now) due = now + interval; /* no burst after a pause */
    }
}
