#include "profile.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { DEPTH = 64 };
static const char BUILTIN[] = "vm.builtin.";

/* What the instrument keeps of the runs: a row of times each. */
typedef struct {
  char** names;
  double* seconds; /* runs x room */
  int room, runs, run, count, failed;
  int depth, outer[DEPTH]; /* of each open call, whether another ran inside it */
  double started[DEPTH];
} Recorder;

static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

/* Room for more calls, which only the first run needs. */
static int grow(Recorder* recorder) {
  int room = recorder->room ? 2 * recorder->room : 256;
  char** names = realloc(recorder->names, (size_t)room * sizeof *names);
  if (names == NULL) return 1;
  recorder->names = names;
  double* seconds = calloc((size_t)room * (size_t)recorder->runs, sizeof *seconds);
  if (seconds == NULL) return 1;
  if (recorder->count > 0)
    memcpy(seconds, recorder->seconds, (size_t)recorder->count * sizeof *seconds);
  free(recorder->seconds);
  recorder->seconds = seconds;
  recorder->room = room;
  return 0;
}

static void keep(Recorder* recorder, const TVMFFIAny* name, double seconds) {
  int64_t length = 0;
  const char* text = ffi_bytes(name, &length);
  size_t builtin = sizeof BUILTIN - 1;
  if (text == NULL || length < 0) return;
  if ((size_t)length >= builtin && memcmp(text, BUILTIN, builtin) == 0) return;
  if (recorder->run == 0) {
    if (recorder->count == recorder->room && grow(recorder)) {
      recorder->failed = 1;
      return;
    }
    char* name = strndup(text, (size_t)length);
    if (name == NULL) {
      recorder->failed = 1;
      return;
    }
    recorder->names[recorder->count] = name;
  } else if (recorder->count >= recorder->room) {
    recorder->failed = 1; /* another path through the model than the first run took */
    return;
  }
  recorder->seconds[(size_t)recorder->run * (size_t)recorder->room + (size_t)recorder->count++] = seconds;
}

/* Arguments: the function, its name, whether it is about to run, its result, its arguments. */
static int observe(void* handle, const TVMFFIAny* arguments, int32_t count, TVMFFIAny* result) {
  double time = now();
  Recorder* recorder = handle;
  memset(result, 0, sizeof *result); /* none: go on as if nobody had looked */
  if (count < 4) return 0;
  if (arguments[2].v_int64) {
    if (recorder->depth > 0 && recorder->depth <= DEPTH) recorder->outer[recorder->depth - 1] = 1;
    if (recorder->depth < DEPTH) {
      recorder->outer[recorder->depth] = 0;
      recorder->started[recorder->depth] = now();
    }
    ++recorder->depth;
    return 0;
  }
  if (recorder->depth == 0) return 0; /* the end of what began unseen */
  --recorder->depth;
  if (recorder->depth < DEPTH && !recorder->outer[recorder->depth])
    keep(recorder, &arguments[1], time - recorder->started[recorder->depth]);
  return 0;
}

static int by_size(const void* a, const void* b) {
  double x = *(const double*)a, y = *(const double*)b;
  return (x > y) - (x < y);
}

/* The median of each call; takes the names over. */
static int summarize(Recorder* recorder, int calls, Profile* profile) {
  double* column = calloc((size_t)recorder->runs, sizeof *column);
  profile->calls = calloc((size_t)calls + 1, sizeof *profile->calls);
  if (column == NULL || profile->calls == NULL) {
    free(column);
    return 1;
  }
  for (int i = 0; i < calls; ++i) {
    for (int run = 0; run < recorder->runs; ++run)
      column[run] = recorder->seconds[(size_t)run * (size_t)recorder->room + (size_t)i];
    qsort(column, (size_t)recorder->runs, sizeof *column, by_size);
    profile->calls[i].name = recorder->names[i];
    profile->calls[i].milliseconds = 1e3 * column[recorder->runs / 2];
    recorder->names[i] = NULL;
  }
  profile->count = calls;
  free(column);
  return 0;
}

int profile_run(tw_model* model, const tw_array* inputs, tw_array* outputs, int runs,
                Profile* profile, char* error, size_t room) {
  TVMFFIObjectHandle function = NULL;
  /* The virtual machine keeps the function, so that what it writes to has to stay, too. */
  static Recorder recorder;
  memset(&recorder, 0, sizeof recorder);
  recorder.runs = runs;
  if (TVMFFIFunctionCreate(&recorder, observe, NULL, &function) != 0) {
    ffi_error(error, room);
    return 1;
  }
  int status = tw_instrument(model, function), calls = 0;
  TVMFFIObjectDecRef(function);
  for (int run = 0; run < runs && status == 0; ++run) {
    recorder.run = run;
    recorder.count = recorder.depth = 0;
    status = tw_run(model, inputs, outputs);
    if (run == 0) calls = recorder.count;
    if (status == 0 && recorder.count != calls) recorder.failed = 1;
  }
  if (status != 0) {
    snprintf(error, room, "%s", tw_error());
  } else if (recorder.failed || summarize(&recorder, calls, profile)) {
    snprintf(error, room, "the kernels cannot be timed: runs differ, or there is no memory");
    status = 1;
  }
  for (int i = 0; i < calls && recorder.names != NULL; ++i) free(recorder.names[i]);
  free(recorder.names);
  free(recorder.seconds);
  return status;
}

void profile_free(Profile* profile) {
  for (int i = 0; i < profile->count; ++i) free(profile->calls[i].name);
  free(profile->calls);
  memset(profile, 0, sizeof *profile);
}
