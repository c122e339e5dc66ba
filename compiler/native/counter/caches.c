#include "caches.h"

#include <stdlib.h>
#include <string.h>

enum { STREAMS = 16, NEAR = 2 };

typedef struct {
  uint64_t sets;
  unsigned ways;
  uint64_t* lines; /* sets x ways, most recently used first; line + 1, 0 is empty */
} Level;

static Level levels[MAX_LEVELS];
static int depth;
static unsigned shift;
static uint64_t streams[STREAMS];
static unsigned oldest;

int caches_levels(void) { return depth; }

int caches_set_up(const char* text) {
  const char* at = text;
  for (depth = 0; *at != '\0' && depth < MAX_LEVELS; ++depth) {
    char* end = NULL;
    uint64_t bytes = strtoull(at, &end, 10);
    if (*end != ':') return 0;
    uint64_t line = strtoull(end + 1, &end, 10);
    if (*end != ':') return 0;
    uint64_t ways = strtoull(end + 1, &end, 10);
    if (*end != '/' && *end != '\0') return 0;
    at = *end == '/' ? end + 1 : end;
    if (line == 0 || (line & (line - 1)) != 0 || ways == 0 || bytes / line < ways) return 0;
    if (depth > 0 && line != 1ull << shift) return 0; /* one size of lines for all levels */
    for (shift = 0; (1ull << shift) < line; ++shift) continue;
    Level* level = &levels[depth];
    level->sets = bytes / line / ways;
    level->ways = (unsigned)ways;
    level->lines = calloc(level->sets * ways, sizeof *level->lines);
    if (level->lines == NULL) return 0;
  }
  return depth > 0 && *at == '\0';
}

void caches_clear(void) {
  for (int i = 0; i < depth; ++i)
    memset(levels[i].lines, 0, levels[i].sets * levels[i].ways * sizeof *levels[i].lines);
}

/* Whether the line was there; it is now, as the most recently used one of its set. */
static int touch(Level* level, uint64_t line) {
  uint64_t* set = level->lines + (line % level->sets) * level->ways;
  uint64_t tag = line + 1;
  if (set[0] == tag) return 1;
  unsigned way = 1;
  while (way < level->ways && set[way] != tag) ++way;
  int found = way < level->ways;
  if (!found) way = level->ways - 1;
  memmove(set + 1, set, way * sizeof *set);
  set[0] = tag;
  return found;
}

/* Whether the line follows, or goes before, one that was missed a short while ago. */
static int in_stream(uint64_t line) {
  for (unsigned i = 0; i < STREAMS; ++i) {
    int64_t distance = (int64_t)(line - streams[i]);
    if (distance != 0 && distance <= NEAR && distance >= -NEAR) {
      streams[i] = line;
      return 1;
    }
  }
  streams[oldest] = line;
  oldest = (oldest + 1) % STREAMS;
  return 0;
}

void caches_access(uint64_t address, unsigned bytes, int store, Pace* pace, Misses* misses) {
  uint64_t last = (address + bytes - 1) >> shift;
  /* In pieces of 8 bytes: releases of the emulator differ in how they take vectors apart. */
  misses->accesses += bytes > 8 ? bytes / 8 : 1;
  for (uint64_t line = address >> shift; line <= last; ++line) {
    if (touch(&levels[0], line)) continue;
    int64_t stride = (int64_t)(line - pace->line);
    int ahead = in_stream(line) || (stride != 0 && stride == pace->stride);
    pace->stride = stride;
    pace->line = line;
    for (int i = 0; i < depth; ++i) {
      if (i > 0 && touch(&levels[i], line)) break;
      ++misses->misses[i];
      misses->ahead[i] += (uint64_t)ahead;
      misses->stored[i] += (uint64_t)(store != 0);
    }
  }
}

static void place(uint64_t line) {
  for (int i = depth > 1; i < depth; ++i) {
    Level* level = &levels[i];
    uint64_t* set = level->lines + (line % level->sets) * level->ways;
    unsigned way = 0;
    while (way < level->ways && set[way] != 0 && set[way] != line + 1) ++way;
    int last = i + 1 == depth;
    if (way == level->ways && !last) continue;
    set[way < level->ways ? way : way - 1] = line + 1;
    return;
  }
}

void caches_place(uint64_t address, uint64_t bytes) {
  for (uint64_t line = address >> shift; line <= (address + bytes - 1) >> shift; ++line)
    place(line);
}
