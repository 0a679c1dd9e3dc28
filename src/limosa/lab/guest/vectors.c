/* Computes with AVX2, if the processor had it when this program began, and holds every result against plain arithmetic.
 *
 * It looks once and then relies on what it saw, as libraries do. Taken to a processor without these instructions it is
 * killed by the first of them; on one that computes otherwise its errors are counted.
 */
#include "guest.h"

#include <immintrin.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { WORDS = 4096 };
static const uint64_t PAUSE_NS = 5000000; /* the rest of the guest is to be watched as well */

__attribute__((target("avx2"))) static void step_avx2(uint32_t *words, uint32_t by) {
    __m256i factor = _mm256_set1_epi32((int)(by | 1)), more = _mm256_set1_epi32((int)by);
    for (size_t i = 0; i < WORDS; i += 8) {
        __m256i value = _mm256_loadu_si256((const __m256i *)(words + i));
        value = _mm256_xor_si256(_mm256_mullo_epi32(value, factor), _mm256_srli_epi32(value, 7));
        _mm256_storeu_si256((__m256i *)(words + i), _mm256_add_epi32(value, more));
    }
}

__attribute__((optimize("no-tree-vectorize"))) static void step_plain(uint32_t *words, uint32_t by) {
    for (size_t i = 0; i < WORDS; i++) words[i] = ((words[i] * (by | 1)) ^ (words[i] >> 7)) + by;
}

_Noreturn void run_vectors(void) {
    static uint32_t fast[WORDS], slow[WORDS];
    if (!__builtin_cpu_supports("avx2")) {
        console("limosa-guest: no AVX2 here, so no vectors");
        exit(0);
    }
    for (uint32_t round = 1;; round++) {
        step_avx2(fast, round);
        step_plain(slow, round);
        if (memcmp(fast, slow, sizeof fast)) {
            state->vector_errors++;
            memcpy(fast, slow, sizeof fast);
        }
        state->vector_rounds++;
        sleep_until(now_ns(CLOCK_MONOTONIC) + PAUSE_NS);
    }
}
