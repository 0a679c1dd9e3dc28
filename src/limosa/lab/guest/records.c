/* Writes numbered records to one disk, each of them stable before it is acknowledged.
 *
 * Only disks that say so take records: the first block carries our magic and tells where a ring of records lies (so that a
 * disk with other contents can hold one too), or the disk is blank and `limosa.records=auto` was asked for.
 * limosa/lab/records.py lays disks out and verifies them; the layout is described there.
 */
#include "guest.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

enum { HEADER = 4096, BLANK = 65536, DEFAULT_BLOCK = 4096, DEFAULT_SLOTS = 4096, MAX_BLOCK = 1 << 20 };

struct header {
    char magic[8];
    uint32_t version, block_size;
    uint64_t ring_offset, slots;
    char name[NAME_SIZE];
    uint8_t unused[HEADER - 68];
    uint32_t crc;
} __attribute__((packed));

struct record {
    char magic[8];
    uint64_t number, realtime_ns;
    char name[NAME_SIZE];
    uint32_t size, crc;
    uint64_t payload[];
} __attribute__((packed));

_Static_assert(sizeof(struct header) == HEADER && sizeof(struct record) == 64, "as records.py reads them");

static const char DISK_MAGIC[8] = "limosdsk", RECORD_MAGIC[8] = "limosrec";

static bool all_zero(const uint8_t *bytes, size_t size) { return !bytes[0] && !memcmp(bytes, bytes + 1, size - 1); }

static bool lay_out(int fd, const char *disk, struct header *header) {
    uint64_t size = 0, block = number(parameter("records-size"), DEFAULT_BLOCK);
    if (ioctl(fd, BLKGETSIZE64, &size) || size < HEADER + block || block % 4096 || block > MAX_BLOCK) return false;
    memset(header, 0, sizeof *header);
    memcpy(header->magic, DISK_MAGIC, sizeof header->magic);
    header->version = 1;
    header->block_size = (uint32_t)block;
    header->ring_offset = HEADER;
    header->slots = (size - HEADER) / block < DEFAULT_SLOTS ? (size - HEADER) / block : DEFAULT_SLOTS;
    disk_serial(disk, header->name, sizeof header->name);
    if (!header->name[0]) snprintf(header->name, sizeof header->name, "%s", disk);
    header->crc = crc32_of(header, HEADER - 4);
    return pwrite(fd, header, HEADER, 0) == HEADER;
}

static bool find_ring(int fd, const char *disk, struct header *header) {
    static uint8_t start[BLANK] __attribute__((aligned(4096)));
    if (pread(fd, start, sizeof start, 0) != sizeof start) return false;
    memcpy(header, start, sizeof *header);
    if (!memcmp(header->magic, DISK_MAGIC, sizeof header->magic))
        return header->crc == crc32_of(header, HEADER - 4) && header->block_size <= MAX_BLOCK && header->slots;
    const char *asked = parameter("records");
    return asked && !strcmp(asked, "auto") && all_zero(start, sizeof start) && lay_out(fd, disk, header);
}

/* A guest that starts again on the same disk goes on where it stopped. */
static uint64_t last_written(int fd, const struct header *header, struct record *block) {
    uint64_t last = 0;
    for (uint64_t slot = 0; slot < header->slots; slot++) {
        if (pread(fd, block, 4096, (off_t)(header->ring_offset + slot * header->block_size)) != 4096) break;
        if (memcmp(block->magic, RECORD_MAGIC, sizeof block->magic)) break; /* the ring fills from its start */
        if (block->number > last) last = block->number;
    }
    return last;
}

static void fill(struct record *block, const struct header *header, uint64_t n) {
    memcpy(block->magic, RECORD_MAGIC, sizeof block->magic);
    block->number = n;
    block->realtime_ns = now_ns(CLOCK_REALTIME);
    memcpy(block->name, header->name, sizeof block->name);
    block->size = header->block_size;
    block->crc = 0;
    uint64_t x = n * 0x9E3779B97F4A7C15u | 1;
    for (uint32_t word = 0; word < (header->block_size - sizeof *block) / 8; word++) {
        x ^= x << 13, x ^= x >> 7, x ^= x << 17;
        block->payload[word] = x;
    }
    block->crc = crc32_of(block, header->block_size);
}

static void write_records(int fd, const struct header *header, struct disk_state *mine, struct record *block) {
    uint64_t n = last_written(fd, header, block) + 1, due = now_ns(CLOCK_MONOTONIC);
    mine->acknowledged = n - 1;
    for (;;) {
        uint64_t hz = state->records_hz, started = now_ns(CLOCK_MONOTONIC);
        due = due + 1000000000u < started ? started : due;
        sleep_until(due += 1000000000u / (hz ? hz : 20));
        if (!hz) continue;
        fill(block, header, n);
        started = now_ns(CLOCK_MONOTONIC);
        /* O_DSYNC: when pwrite returns, the record is as stable as after fsync. */
        off_t at = (off_t)(header->ring_offset + (n - 1) % header->slots * header->block_size);
        if (pwrite(fd, block, header->block_size, at) != (ssize_t)header->block_size) {
            if (errno == ENXIO || errno == ENODEV || access(mine->name, F_OK)) return;
            if (!atomic_fetch_add(&mine->errors, 1)) console("limosa-guest: %s: %s", mine->name, strerror(errno));
            continue; /* the same number again: it was not acknowledged */
        }
        mine->acknowledged = n++;
        uint64_t took = (now_ns(CLOCK_MONOTONIC) - started) / 1000;
        if (took > mine->slowest_us) mine->slowest_us = took;
    }
}

_Noreturn void run_records(int slot) {
    struct disk_state *mine = &state->disks[slot];
    static struct header header __attribute__((aligned(4096)));
    struct record *block = aligned_alloc(4096, MAX_BLOCK);
    chdir("/dev");
    int fd = open(mine->name, O_RDWR | O_DIRECT | O_DSYNC | O_CLOEXEC);
    if (fd >= 0 && find_ring(fd, mine->name, &header)) {
        snprintf(mine->label, sizeof mine->label, "%.*s", NAME_SIZE - 1, header.name);
        write_records(fd, &header, mine, block);
    }
    mine->active = 0;
    exit(0);
}
