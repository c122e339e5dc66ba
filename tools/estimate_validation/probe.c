/* How long a fixed piece of arithmetic takes that needs all that a core can begin in a cycle: longer
 * than the least where someone else has a share of the core, or its clock went down. */
#include <stdint.h>
#include <time.h>

enum { ROUNDS = 3000 };

#define FOUR "incq %%rax\n\tincq %%rcx\n\tincq %%rdx\n\tincq %%rsi\n\t"
#define SIX(one, other)                            \
  "vfmadd231ps %%ymm0, %%ymm1, %%ymm" one "\n\t"   \
  "vfmadd231ps %%ymm0, %%ymm1, %%ymm" other "\n\t" FOUR

static uint64_t now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

uint64_t probe_ns(void) {
  uint64_t start = now();
  for (int i = 0; i < ROUNDS; ++i)
    __asm__ volatile(SIX("2", "3") SIX("4", "5") SIX("6", "7") SIX("8", "9") SIX("10", "11")
                         SIX("12", "13")::
                         : "rax", "rcx", "rdx", "rsi", "ymm2", "ymm3", "ymm4", "ymm5", "ymm6",
                           "ymm7", "ymm8", "ymm9", "ymm10", "ymm11", "ymm12", "ymm13");
  return now() - start;
}
