/* Times multiplications of tiles that are in registers: the peak of one core's tile unit. */
#define _GNU_SOURCE
#include <immintrin.h>
#include <stdint.h>
#include <string.h>
#include <time.h>

#define TILES __attribute__((target("amx-tile,amx-int8,amx-bf16"), noinline))

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec + 1e-9 * t.tv_nsec;
}

/* Four accumulators take turns: each waits for four multiplications, longer than one takes. */
TILES static double run_int8(long rounds) {
  double start = now();
  for (long i = 0; i < rounds; ++i) {
    _tile_dpbusd(0, 4, 6);
    _tile_dpbusd(1, 4, 7);
    _tile_dpbusd(2, 5, 6);
    _tile_dpbusd(3, 5, 7);
  }
  return now() - start;
}

TILES static double run_bf16(long rounds) {
  double start = now();
  for (long i = 0; i < rounds; ++i) {
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  return now() - start;
}

/* Seconds for `rounds` times four multiplications of full tiles of zeros. */
TILES double tilewright_amx_peak(int is_bf16, long rounds) {
  uint8_t config[64];
  memset(config, 0, sizeof config);
  config[0] = 1;
  for (int i = 0; i < 8; ++i) {
    config[16 + 2 * i] = 64;
    config[48 + i] = 16;
  }
  _tile_loadconfig(config);
  double seconds = is_bf16 ? run_bf16(rounds) : run_int8(rounds);
  _tile_release();
  return seconds;
}
