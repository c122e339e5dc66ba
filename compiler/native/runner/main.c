/* run: a deployed model from the command line, without Python.
 *
 * Exit codes: 0 success, 2 wrong usage, 4 failure, 5 the self-test failed. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "npy.h"
#include "profile.h"
#include "rpc.h"
#include "tilewright.h"

static const char USAGE[] =
    "usage: run FOLDER [options]\n"
    "       run --rpc PORT [--host ADDRESS] [--tied]\n"
    "  --input FILE     array of an input, in NumPy's format; once for each, in order\n"
    "  --output PREFIX  write outputs to PREFIX0.npy, PREFIX1.npy, ...\n"
    "  --bench N        time N inferences after some that are not counted\n"
    "  --warmup N       how many are not counted (10)\n"
    "  --profile        with --bench and --json: also every run's time and every kernel call's\n"
    "  --selftest       compare with the outputs that came with the model\n"
    "  --threads N      threads to run on\n"
    "  --json           print one JSON object\n"
    "  --maps FILE      write where files lie in memory, for profilers\n"
    "  --rpc PORT       serve TVM's RPC instead, on 127.0.0.1 unless --host says otherwise\n"
    "  --tied           serve no longer than until standard input ends\n";

/* System calls that do not exist: counter.c. */
enum { COUNTER_BEGIN = 77701, COUNTER_WARM = 77703 };
enum { MOST_INPUTS = 64, MESSAGE = 1024, PATH = 4096, MISUSE = 2, FAILURE = 4, DIFFERS = 5 };

typedef struct {
  const char *folder, *output, *host, *maps, *inputs[MOST_INPUTS];
  int input_count, bench, warmup, threads, port, tied, selftest, json, profile;
} Options;

typedef struct {
  double error;
  int same_bits;
} Difference;

static char message[MESSAGE];

static int misuse(const char* what, const char* word) {
  fprintf(stderr, "run: %s: %s\n%s", what, word, USAGE);
  return MISUSE;
}

static int fail(const char* what) {
  fprintf(stderr, "run: %s\n", what);
  return FAILURE;
}

static int read_count(const char* text, int least, int* value) {
  char* end = NULL;
  long number = text == NULL ? -1 : strtol(text, &end, 10);
  if (text == NULL || end == text || *end != '\0' || number < least || number > 1000000000) return 1;
  *value = (int)number;
  return 0;
}

static int parse(int count, char** words, Options* options) {
  for (int i = 1; i < count; ++i) {
    const char *word = words[i], *value = i + 1 < count ? words[i + 1] : NULL;
    struct {
      const char* name;
      int least;
      int* value;
    } numbers[] = {{"--bench", 1, &options->bench},
                   {"--warmup", 0, &options->warmup},
                   {"--threads", 1, &options->threads},
                   {"--rpc", 1, &options->port}};
    int number = -1;
    for (int j = 0; j < 4; ++j)
      if (strcmp(word, numbers[j].name) == 0) number = j;
    if (number >= 0) {
      if (read_count(value, numbers[number].least, numbers[number].value))
        return misuse("needs a number", word);
      ++i;
    } else if (strcmp(word, "--input") == 0 && value != NULL) {
      if (options->input_count == MOST_INPUTS) return misuse("too many inputs", value);
      options->inputs[options->input_count++] = value;
      ++i;
    } else if (strcmp(word, "--output") == 0 && value != NULL) {
      options->output = value;
      ++i;
    } else if (strcmp(word, "--maps") == 0 && value != NULL) {
      options->maps = value;
      ++i;
    } else if (strcmp(word, "--host") == 0 && value != NULL) {
      options->host = value;
      ++i;
    } else if (strcmp(word, "--selftest") == 0) {
      options->selftest = 1;
    } else if (strcmp(word, "--json") == 0) {
      options->json = 1;
    } else if (strcmp(word, "--profile") == 0) {
      options->profile = 1;
    } else if (strcmp(word, "--tied") == 0) {
      options->tied = 1;
    } else if (word[0] == '-') {
      return misuse("unknown option, or its value is missing", word);
    } else if (options->folder == NULL) {
      options->folder = word;
    } else {
      return misuse("more than one folder", word);
    }
  }
  if (options->port == 0 && options->tied) return misuse("needs --rpc", "--tied");
  if (options->port == 0 && options->host != NULL) return misuse("needs --rpc", "--host");
  if (options->folder == NULL && options->port == 0) return misuse("no folder was given", "");
  if (options->profile && !(options->bench > 0 && options->json))
    return misuse("needs --bench and --json", "--profile");
  return 0;
}

static double element(const tw_array* array, size_t index) {
  switch (array->dtype) {
    case TW_FLOAT32: return ((const float*)array->data)[index];
    case TW_FLOAT64: return ((const double*)array->data)[index];
    case TW_INT8: return ((const int8_t*)array->data)[index];
    case TW_UINT8:
    case TW_BOOL: return ((const uint8_t*)array->data)[index];
    case TW_INT16: return ((const int16_t*)array->data)[index];
    case TW_INT32: return ((const int32_t*)array->data)[index];
    case TW_INT64: return (double)((const int64_t*)array->data)[index];
    case TW_FLOAT16: break;
  }
  return NAN; /* compared bit for bit alone */
}

/* The largest error, relative to the largest magnitude wanted. */
static Difference compare(const tw_array* got, const tw_array* wanted) {
  size_t count = tw_elements(wanted);
  Difference difference = {INFINITY, 0};
  if (got->dtype != wanted->dtype || tw_elements(got) != count) return difference;
  difference.same_bits = memcmp(got->data, wanted->data, count * tw_dtype_bytes(got->dtype)) == 0;
  if (difference.same_bits) {
    difference.error = 0;
    return difference;
  }
  if (got->dtype == TW_FLOAT16) return difference;
  double error = 0, scale = 0;
  for (size_t i = 0; i < count; ++i) {
    double a = element(got, i), b = element(wanted, i);
    if (isnan(a) != isnan(b)) error = INFINITY;
    if (!isnan(a) && !isnan(b)) error = fmax(error, fabs(a - b));
    if (!isnan(b)) scale = fmax(scale, fabs(b));
  }
  difference.error = scale > 0 ? error / scale : error;
  return difference;
}

static int by_size(const void* a, const void* b) {
  double x = *(const double*)a, y = *(const double*)b;
  return (x > y) - (x < y);
}

static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

static int self_test(const tw_model* model, const char* folder, const tw_array* outputs,
                     Difference* worst) {
  worst->same_bits = 1;
  for (int i = 0; i < tw_outputs(model); ++i) {
    char path[PATH];
    tw_array golden;
    snprintf(path, sizeof path, "%s/golden/output%d.npy", folder, i);
    if (npy_read(path, &golden, message, sizeof message)) return 1;
    Difference difference = compare(&outputs[i], &golden);
    free(golden.data);
    worst->error = fmax(worst->error, difference.error);
    worst->same_bits = worst->same_bits && difference.same_bits;
  }
  return 0;
}

/* Times of whole runs in `seconds`, sorted; their median, least and 90th percentile. */
static int measure(tw_model* model, const Options* options, const tw_array* inputs,
                   tw_array* outputs, double* seconds, double* milliseconds) {
  int status = 0;
  for (int i = 0; i < options->warmup && status == 0; ++i) status = tw_run(model, inputs, outputs);
  for (int i = 0; i < options->bench && status == 0; ++i) {
    double start = now();
    status = tw_run(model, inputs, outputs);
    seconds[i] = now() - start;
  }
  qsort(seconds, (size_t)options->bench, sizeof *seconds, by_size);
  milliseconds[0] = 1e3 * seconds[options->bench / 2];
  milliseconds[1] = 1e3 * seconds[0];
  milliseconds[2] = 1e3 * seconds[(int)(0.9 * options->bench)];
  return status;
}

/* The rest of the JSON object: every run and every call of an inference. */
static void tell_profile(const Options* options, const double* seconds, const Profile* profile) {
  printf(", \"run_ms\": [");
  for (int i = 0; i < options->bench; ++i) printf(i ? ", %.6g" : "%.6g", 1e3 * seconds[i]);
  printf("], \"kernels\": [");
  for (int i = 0; i < profile->count; ++i)
    printf("%s[\"%s\", %.6g]", i ? ", " : "", profile->calls[i].name,
           profile->calls[i].milliseconds);
  printf("]");
}

static void tell(const Options* options, const tw_model* model, const Difference* worst,
                 const double* milliseconds, const double* seconds, const Profile* profile,
                 long peak_kib) {
  double tolerance = tw_tolerance(model);
  if (options->json) {
    printf("{\"selftest\": ");
    if (options->selftest)
      printf("{\"passed\": %s, \"error\": %.6g, \"tolerance\": %.6g, \"same_bits\": %s}",
             worst->error <= tolerance ? "true" : "false", fmin(worst->error, 1e300), tolerance,
             worst->same_bits ? "true" : "false");
    else
      printf("null");
    printf(", \"runs\": %d, \"median_ms\": %.6g, \"min_ms\": %.6g, \"p90_ms\": %.6g, "
           "\"peak_memory_kib\": %ld",
           options->bench, milliseconds[0], milliseconds[1], milliseconds[2], peak_kib);
    if (options->profile) tell_profile(options, seconds, profile);
    printf("}\n");
    return;
  }
  if (options->selftest)
    printf("self-test %s: error %.3g, %.3g is accepted%s\n",
           worst->error <= tolerance ? "passed" : "FAILED", worst->error, tolerance,
           worst->same_bits ? "; the same bits" : "");
  if (options->bench > 0)
    printf("%d runs: median %.3f ms, least %.3f ms, 90 %% below %.3f ms\n", options->bench,
           milliseconds[0], milliseconds[1], milliseconds[2]);
  printf("peak memory %.1f MiB\n", (double)peak_kib / 1024);
}

/* What the kernel says of this process's memory, copied. */
static int write_maps(const char* path) {
  FILE *from = fopen("/proc/self/maps", "r"), *to = fopen(path, "w");
  int status = from == NULL || to == NULL;
  for (int c = status ? EOF : getc(from); c != EOF; c = getc(from)) putc(c, to);
  if (from != NULL) fclose(from);
  if (to != NULL && fclose(to) != 0) status = 1;
  if (status) snprintf(message, sizeof message, "%s: cannot be written", path);
  return status;
}

static int infer(tw_model* model, const Options* options, const tw_array* inputs,
                 tw_array* outputs) {
  Difference worst = {0, 1};
  double milliseconds[3] = {0, 0, 0};
  if (tw_run(model, inputs, outputs)) return fail(tw_error());
  if (options->maps != NULL && write_maps(options->maps)) return fail(message);
  if (options->selftest && self_test(model, options->folder, outputs, &worst)) return fail(message);
  for (int i = 0; i < tw_outputs(model) && options->output != NULL; ++i) {
    char path[PATH];
    snprintf(path, sizeof path, "%s%d.npy", options->output, i);
    if (npy_write(path, &outputs[i], message, sizeof message)) return fail(message);
  }
  double* seconds = calloc((size_t)options->bench + 1, sizeof *seconds);
  if (seconds == NULL) return fail("no memory");
  Profile profile = {0};
  if (options->bench > 0 && measure(model, options, inputs, outputs, seconds, milliseconds)) {
    free(seconds);
    return fail(tw_error());
  }
  struct rusage usage; /* before the profile, whose own memory is not the model's */
  getrusage(RUSAGE_SELF, &usage);
  if (options->profile && profile_run(model, inputs, outputs, options->bench, &profile, message,
                                      sizeof message)) {
    free(seconds);
    return fail(message);
  }
  tell(options, model, &worst, milliseconds, seconds, &profile, usage.ru_maxrss);
  profile_free(&profile);
  free(seconds);
  return options->selftest && !(worst.error <= tw_tolerance(model)) ? DIFFERS : 0;
}

static int run(const Options* options) {
  tw_model* model = tw_load(options->folder, options->threads);
  if (model == NULL) return fail(tw_error());
  if (options->maps != NULL) {
    /* The counter that runs this (compiler/native/counter) forgets what it saw: packing weights
     * is no part of an inference. Without it the kernel knows no such calls. */
    syscall(COUNTER_WARM, 0, 0);
    syscall(COUNTER_BEGIN);
  }
  int wanted = tw_inputs(model), read = 0, status = 0;
  tw_array* inputs = calloc((size_t)wanted + 1, sizeof *inputs);
  tw_array* outputs = calloc((size_t)tw_outputs(model) + 1, sizeof *outputs);
  if (options->input_count != 0 && options->input_count != wanted) {
    snprintf(message, sizeof message, "%d, and %d were given", wanted, options->input_count);
    status = misuse("inputs that the model takes", message);
  }
  for (; read < wanted && status == 0; ++read) {
    char path[PATH];
    if (options->input_count > 0)
      snprintf(path, sizeof path, "%s", options->inputs[read]);
    else
      snprintf(path, sizeof path, "%s/golden/input%d.npy", options->folder, read);
    if (npy_read(path, &inputs[read], message, sizeof message)) status = fail(message);
  }
  if (status == 0) status = infer(model, options, inputs, outputs);
  for (int i = 0; i < read; ++i) free(inputs[i].data);
  free(inputs);
  free(outputs);
  tw_free(model);
  return status;
}

int main(int count, char** words) {
  Options options = {0};
  options.warmup = 10;
  for (int i = 1; i < count; ++i)
    if (strcmp(words[i], "--help") == 0 || strcmp(words[i], "-h") == 0) {
      fputs(USAGE, stdout);
      return 0;
    }
  int status = parse(count, words, &options);
  if (status != 0) return status;
  if (options.port == 0) return run(&options);
  const char* host = options.host != NULL ? options.host : "127.0.0.1";
  if (rpc_serve(host, options.port, options.tied, message, sizeof message) == 0) return 0;
  return fail(message);
}
