// What a processor with AVX-512 VBMI2 allows for int4 weights under bit masks, one vector, two rows at a time: the loop of our kernel as a C
// compiler writes it, and the same with the two instructions that .NET does not offer (a mask straight from memory; dot products of bytes).
//   gcc -O2 -march=native bench/PackedRoutes/limit.c -o limit && ./limit
#include <immintrin.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { BLOCKS = 32, ROWS = 256 };

typedef unsigned char byte;

static __m512i bits, nibbles;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static inline __attribute__((always_inline)) __m512i take(const byte *place, const byte **values, int direct) {
    unsigned long long mask = *(const unsigned long long *)place;
    __m512i eights = _mm512_cvtepu32_epi64(_mm256_loadu_si256((const __m256i *)*values));
    *values += (_mm_popcnt_u64(mask) + 1) >> 1;
    __m512i codes = _mm512_xor_si512(_mm512_and_si512(_mm512_multishift_epi64_epi8(nibbles, eights), _mm512_set1_epi8(15)), _mm512_set1_epi8(8));
    __mmask64 keep = direct ? _cvtu64_mask64(mask) : _mm512_movepi8_mask(_mm512_multishift_epi64_epi8(bits, _mm512_set1_epi64(mask)));
    return _mm512_mask_expand_epi8(_mm512_set1_epi8(8), keep, codes);
}

static inline __attribute__((always_inline)) __m512 add(__m512i w, __m512i x, float scale, __m512 sum, int direct) {
    __m512i dot = direct ? _mm512_dpbusd_epi32(_mm512_setzero_si512(), w, x) : _mm512_madd_epi16(_mm512_maddubs_epi16(w, x), _mm512_set1_epi16(1));
    return _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot), _mm512_set1_ps(scale), sum);
}

static inline __attribute__((always_inline)) float two(const byte *p0, const byte *p1, const signed char *x, const float *scales, int direct) {
    const byte *v0 = p0 + BLOCKS * 8, *v1 = p1 + BLOCKS * 8;
    __m512 a = _mm512_setzero_ps(), b = a;
    for (int i = 0; i < BLOCKS; i++, p0 += 8, p1 += 8, x += 64) {
        __m512i at = _mm512_load_si512(x);
        a = add(take(p0, &v0, direct), at, scales[i], a, direct);
        b = add(take(p1, &v1, direct), at, scales[BLOCKS + i], b, direct);
    }
    return _mm512_reduce_add_ps(a) - _mm512_reduce_add_ps(b);
}

__attribute__((noinline)) static float ours(const byte *p, const byte *q, const signed char *x, const float *s) { return two(p, q, x, s, 0); }
__attribute__((noinline)) static float all(const byte *p, const byte *q, const signed char *x, const float *s) { return two(p, q, x, s, 1); }

int main(void) {
    byte table[64];
    for (int i = 0; i < 64; i++) table[i] = (i + 57) & 63;
    bits = _mm512_loadu_si512(table);
    for (int i = 0; i < 64; i++) table[i] = i % 8 * 4;
    nibbles = _mm512_loadu_si512(table);
    byte *stream = aligned_alloc(64, ROWS * 2048), *rows[ROWS], *to = stream;
    for (int r = 0; r < ROWS; r++) {
        rows[r] = to;
        for (int b = 0; b < BLOCKS; b++, to += 8) *(unsigned long long *)to = (unsigned long long)rand() << 42 ^ (unsigned long long)rand() << 21 ^ rand();
        for (int i = 0; i < BLOCKS * 17; i++) *to++ = rand();
    }
    signed char *x = aligned_alloc(64, BLOCKS * 64);
    float *scales = aligned_alloc(64, BLOCKS * 8), sum = 0;
    for (int i = 0; i < BLOCKS * 64; i++) x[i] = rand();
    for (int i = 0; i < BLOCKS * 2; i++) scales[i] = 0.01f;
    for (int direct = 0; direct < 2; direct++) {
        double best = 1e9;
        for (int run = 0; run < 2000; run++) {
            double start = now();
            for (int r = 0; r < ROWS; r += 2) sum += direct ? all(rows[r], rows[r + 1], x, scales) : ours(rows[r], rows[r + 1], x, scales);
            double took = now() - start;
            best = took < best ? took : best;
        }
        printf("%s: %.1f Gweights/s (%g)\n", direct ? "with masks from memory and byte dot products" : "as .NET can write it", ROWS * BLOCKS * 64.0 / best / 1e9, sum);
    }
    return 0;
}
