/* Set-associative caches with least recently used replacement, and what a prefetcher would see. */
#ifndef TILEWRIGHT_CACHES_H_
#define TILEWRIGHT_CACHES_H_

#include <stdint.h>

enum { MAX_LEVELS = 3 };

/* What a piece of code missed, per level: the data came from further away. A miss is "ahead" if a
 * prefetcher would have seen it coming: its line follows one that the same or another instruction
 * has just missed, at the distance of its last ones. It is "stored" if it was written to. */
typedef struct {
  uint64_t accesses, misses[MAX_LEVELS], ahead[MAX_LEVELS], stored[MAX_LEVELS];
} Misses;

/* What one instruction missed last. */
typedef struct {
  uint64_t line;
  int64_t stride;
} Pace;

/* "bytes:line:ways/bytes:line:ways/...", the nearest first; 0 if that makes no sense. */
int caches_set_up(const char* text);
int caches_levels(void);
void caches_clear(void);
void caches_access(uint64_t address, unsigned bytes, int store, Pace* pace, Misses* misses);
/* What something else used a while ago: where there is room for it, but not in the first level. */
void caches_place(uint64_t address, uint64_t bytes);

#endif /* TILEWRIGHT_CACHES_H_ */
