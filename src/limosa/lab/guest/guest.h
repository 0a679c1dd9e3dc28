/* The programs of limosa's test guest: what they share.
 *
 * One static binary. Process 1 (`guest.c`) loads drivers, brings devices up and starts the others; each of the others does
 * one thing and reports into one page-aligned `struct state` that all of them map. Nothing here is meant for a machine with
 * contents of value: it is the inside of a lab guest, and exists to notice what a migration spoils.
 */
#ifndef LIMOSA_GUEST_H
#define LIMOSA_GUEST_H

#define _GNU_SOURCE
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>

enum { MAX_DISKS = 32, MAX_DIRTIERS = 4, NAME_SIZE = 32 };

typedef _Atomic uint64_t counter;

struct disk_state {
    char name[NAME_SIZE];   /* as the kernel calls it, such as vda */
    char label[NAME_SIZE];  /* as the disk itself says, once records are written */
    counter active;         /* a writer runs */
    counter acknowledged;   /* number of the last record that the disk confirmed as stable */
    counter errors;         /* writes that failed */
    counter slowest_us;     /* longest write, in microseconds */
};

struct dirtier_state {
    counter active;
    counter stop;           /* raised to end it */
    counter mib;            /* size of the region */
    counter rate;           /* MiB/s; 0 is without limit */
    counter passes;         /* complete passes over the region */
    counter errors;         /* pages that did not hold what was written */
    counter first_bad;      /* index of the first such page */
    counter checks_wanted;  /* raised by whoever wants a full check */
    counter checks_done;    /* follows checks_wanted */
};

struct state {
    counter deaths;         /* programs of ours that ended unasked: a sign of spoiled memory */
    counter records_hz;     /* records per second and disk; 0 pauses */
    counter beats;          /* heartbeats sent */
    counter late_us;        /* the heartbeat's longest delay, as the guest itself sees it */
    counter vector_rounds;  /* calculations with AVX2 */
    counter vector_errors;  /* those that plain arithmetic did not confirm */
    struct disk_state disks[MAX_DISKS];
    struct dirtier_state dirtiers[MAX_DIRTIERS];
};

extern struct state *state;

/* common.c */
const char *parameter(const char *name);                  /* `limosa.NAME=` on the kernel's command line, or NULL */
uint64_t number(const char *text, uint64_t otherwise);
uint64_t now_ns(int clock);
void sleep_until(uint64_t ns);                            /* CLOCK_MONOTONIC */
int read_text(char *into, size_t size, const char *format, ...) __attribute__((format(printf, 3, 4)));
bool write_text(const char *text, const char *format, ...) __attribute__((format(printf, 2, 3)));
void console(const char *format, ...) __attribute__((format(printf, 1, 2)));
uint32_t crc32_of(const void *bytes, size_t size);
void sha256_hex(int fd, uint64_t length, char into[65], uint64_t *done);
void disk_serial(const char *disk, char *into, size_t size);
bool is_disk(const char *name);

/* One program each; they do not return. `slot` is an index into the arrays of `struct state`. */
_Noreturn void run_dirtier(int slot);
_Noreturn void run_records(int slot);
_Noreturn void run_heartbeat(const char *target);
_Noreturn void run_vectors(void);
_Noreturn void run_agent(void);

/* drivers.c */
void load_drivers_for(const char *modalias);
void load_drivers_for_all_devices(void);

/* guest.c */
pid_t start_dirtier(int first_slot, uint64_t mib, uint64_t rate);

#endif
