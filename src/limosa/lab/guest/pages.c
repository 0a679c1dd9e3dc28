/* Keeps a counter in every page of a region and notices every page that does not hold what was written.
 *
 * A page: the number of the pass, that number mixed with the page's index, and 510 words that depend on the index only.
 * Each visit verifies the counter before raising it; a check, on request, verifies every word. A page that a migration lost,
 * repeated, swapped or left stale cannot pass. After QEMU's own migration guest, which counts in one byte of each page.
 */
#include "guest.h"

#include <sched.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

enum { PAGE = 4096, WORDS = PAGE / 8, BATCH = 64 };

static uint64_t mix(uint64_t a, uint64_t b) { return (a * 0x9E3779B97F4A7C15u ^ b) * 0xBF58476D1CE4E5B9u; }

static void note_bad(struct dirtier_state *mine, uint64_t index) {
    if (!atomic_fetch_add(&mine->errors, 1)) {
        mine->first_bad = index;
        console("limosa-guest: page %llu is not what was written", (unsigned long long)index);
    }
}

static bool holds(const uint64_t *page, uint64_t pass, uint64_t index) { return page[0] == pass && page[1] == mix(pass, index); }

static void put(uint64_t *page, uint64_t pass, uint64_t index) {
    page[0] = pass;
    page[1] = mix(pass, index);
}

/* Pages before `next` have been visited in this pass, the others have not. */
static void check_all(struct dirtier_state *mine, uint64_t *region, uint64_t pages, uint64_t pass, uint64_t next) {
    for (uint64_t i = 0; i < pages; i++) {
        const uint64_t *page = region + i * WORDS;
        bool good = holds(page, i < next ? pass : pass - 1, i);
        for (uint64_t word = 2; word < WORDS && good; word++) good = page[word] == mix(i, word);
        if (!good) note_bad(mine, i);
    }
}

_Noreturn void run_dirtier(int slot) {
    struct dirtier_state *mine = &state->dirtiers[slot];
    uint64_t pages = mine->mib << 8;
    uint64_t *region = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (region == MAP_FAILED) {
        console("limosa-guest: no memory for %llu MiB of pages", (unsigned long long)mine->mib);
        mine->active = 0;
        exit(0);
    }
    madvise(region, pages * PAGE, MADV_NOHUGEPAGE); /* dirty page by page, as QEMU counts */
    setpriority(PRIO_PROCESS, 0, 10);
    for (uint64_t i = 0; i < pages; i++) {
        for (uint64_t word = 2; word < WORDS; word++) region[i * WORDS + word] = mix(i, word);
        put(region + i * WORDS, 0, i);
    }
    uint64_t due = now_ns(CLOCK_MONOTONIC);
    for (uint64_t pass = 1;; pass++) {
        for (uint64_t i = 0; i < pages; i++) {
            uint64_t *page = region + i * WORDS;
            if (!holds(page, pass - 1, i)) note_bad(mine, i);
            put(page, pass, i);
            if ((i + 1) % BATCH && i + 1 < pages) continue;
            uint64_t wanted = mine->checks_wanted, rate = mine->rate, now = now_ns(CLOCK_MONOTONIC);
            if (wanted != mine->checks_done) {
                check_all(mine, region, pages, pass, i + 1);
                mine->checks_done = wanted;
            }
            if (mine->stop) {
                mine->active = 0;
                exit(0);
            }
            if (!rate) continue;
            due += (uint64_t)BATCH * PAGE * 1000000000u / (rate << 20);
            /* No catching up after a pause: a burst right after a migration is not what was asked for. */
            if (due + 100000000u < now) due = now;
            sleep_until(due);
        }
        mine->passes = pass;
    }
}
