/* Calls one compiled kernel once, in emulation.
 *
 *     qemu-aarch64 [-plugin libcounter.so,...] kernel LIBRARY ARGUMENTS
 *
 * ARGUMENTS is a text file with a line for each argument of the kernel:
 *
 *     ROLE CODE BITS RANK EXTENT... FILE
 *
 * with DLPack's code of the type, and a file of plain values. An input's ("data", "weight",
 * "extra") is read, an output's ("output") is written. A kernel needs little of TVM's runtime:
 * workspaces, loops that would be parallel, errors. That little is here, so that nothing of TVM
 * has to be there for the emulated machine, and a process starts in milliseconds.
 *
 * The counter is told by system calls that do not exist when the kernel begins and ends, and
 * which memory would be in the caches by then: the data that the layer before has just written,
 * not the weights, which all other layers' weights have displaced. */
#include <dlfcn.h>
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <tvm/ffi/c_api.h>
#include <unistd.h>

enum { MAX_ARGUMENTS = 64, MAX_RANK = 12, ALIGNMENT = 64, GUARD = 4096, PATTERN = 0xA5 };
/* Beyond all system calls; the counter knows them too. */
enum { CALL_BEGIN = 77701, CALL_END = 77702, CALL_WARM = 77703, CALL_USED = 77704 };

typedef struct {
  char role[16];
  char file[4096];
  int64_t shape[MAX_RANK], strides[MAX_RANK];
  size_t bytes;
  DLTensor tensor;
} Argument;

static Argument arguments[MAX_ARGUMENTS];

static void fail(const char* what, const char* where) {
  fprintf(stderr, "%s: %s\n", where, what);
  exit(1);
}

/* The part of TVM's runtime that kernels call. */

static void* workspace(int device, int index, uint64_t bytes, int code, int bits) {
  (void)device, (void)index, (void)code, (void)bits;
  void* memory = NULL;
  if (posix_memalign(&memory, ALIGNMENT, bytes ? bytes : 1) != 0) return NULL;
  /* The runtime's workspaces are those of the kernels before, not memory that nobody touched. */
  syscall(CALL_USED, memory, bytes ? bytes : 1);
  return memory;
}

static int free_workspace(int device, int index, void* memory) {
  (void)device, (void)index;
  free(memory);
  return 0;
}

typedef struct {
  void* sync_handle;
  int32_t num_task;
} Group;

static int launch(int (*body)(int, Group*, void*), void* closure, int tasks) {
  (void)tasks;
  Group one = {NULL, 1};
  return body(0, &one, closure);
}

static int barrier(int task, Group* group) {
  (void)task, (void)group;
  return 0;
}

static int unknown_function(void* module, const char* name, void** function) {
  (void)module, (void)function;
  fail("the kernel calls this function, which only TVM's runtime has", name);
  return -1;
}

void TVMFFIErrorSetRaisedFromCStrParts(const char* kind, const char** parts, int32_t count) {
  fprintf(stderr, "%s: ", kind);
  for (int32_t i = 0; i < count; ++i)
    if (parts[i] != NULL) fputs(parts[i], stderr);
  fputc('\n', stderr);
}

void TVMFFIErrorSetRaisedFromCStr(const char* kind, const char* message) {
  TVMFFIErrorSetRaisedFromCStrParts(kind, &message, 1);
}

static void provide(void* library, const char* name, void* function) {
  void** place = dlsym(library, name);
  if (place != NULL) *place = function;
}

/* Arguments. */

static void read_argument(char* line, Argument* argument) {
  int code, bits, rank, used = 0;
  if (sscanf(line, "%15s %d %d %d%n", argument->role, &code, &bits, &rank, &used) != 4 ||
      rank < 0 || rank > MAX_RANK)
    fail("not an argument", line);
  char* at = line + used;
  size_t elements = 1;
  for (int i = 0; i < rank; ++i) {
    argument->shape[i] = strtoll(at, &at, 10);
    elements *= (size_t)argument->shape[i];
  }
  at += strspn(at, " ");
  at[strcspn(at, "\n")] = '\0';
  snprintf(argument->file, sizeof argument->file, "%s", at);
  int64_t step = 1;
  for (int i = rank - 1; i >= 0; --i) {
    argument->strides[i] = step;
    step *= argument->shape[i];
  }
  argument->bytes = elements * (size_t)((bits + 7) / 8);
  DLTensor* tensor = &argument->tensor;
  tensor->device.device_type = kDLCPU;
  tensor->ndim = rank;
  tensor->dtype = (DLDataType){(uint8_t)code, (uint8_t)bits, 1};
  tensor->shape = argument->shape;
  tensor->strides = argument->strides;
  if (posix_memalign(&tensor->data, ALIGNMENT, argument->bytes + GUARD) != 0)
    fail("no memory", line);
  int floating = code == kDLFloat || code == kDLBfloat;
  memset(tensor->data, floating ? 0xFF : PATTERN, argument->bytes);
  memset((char*)tensor->data + argument->bytes, PATTERN, GUARD);
}

static int is_output(const Argument* argument) { return strcmp(argument->role, "output") == 0; }

static void load(const Argument* argument) {
  FILE* file = fopen(argument->file, "rb");
  if (file == NULL || fread(argument->tensor.data, 1, argument->bytes, file) != argument->bytes)
    fail("it cannot be read, or is too short", argument->file);
  fclose(file);
}

static void store(const Argument* argument) {
  const unsigned char* guard = (const unsigned char*)argument->tensor.data + argument->bytes;
  for (int i = 0; i < GUARD; ++i)
    if (guard[i] != PATTERN) fail("it wrote behind the end of an output", "overrun");
  FILE* file = fopen(argument->file, "wb");
  if (file == NULL || fwrite(argument->tensor.data, 1, argument->bytes, file) != argument->bytes ||
      fclose(file) != 0)
    fail("it cannot be written", argument->file);
}

static void warm(const Argument* argument) {
  syscall(CALL_WARM, argument->tensor.data, argument->bytes);
}

int main(int count, char** words) {
  if (count != 3) fail("LIBRARY ARGUMENTS are wanted", words[0]);
  void* library = dlopen(words[1], RTLD_NOW | RTLD_LOCAL);
  if (library == NULL) fail(dlerror(), words[1]);
  provide(library, "__TVMBackendAllocWorkspace", (void*)workspace);
  provide(library, "__TVMBackendFreeWorkspace", (void*)free_workspace);
  provide(library, "__TVMBackendParallelLaunch", (void*)launch);
  provide(library, "__TVMBackendParallelBarrier", (void*)barrier);
  provide(library, "__TVMBackendGetFuncFromEnv", (void*)unknown_function);
  TVMFFISafeCallType kernel = (TVMFFISafeCallType)dlsym(library, "__tvm_ffi_main");
  if (kernel == NULL) fail("it has no function main", words[1]);

  FILE* list = fopen(words[2], "r");
  if (list == NULL) fail("it cannot be read", words[2]);
  static char line[8192];
  static TVMFFIAny values[MAX_ARGUMENTS];
  int given = 0;
  while (fgets(line, sizeof line, list) != NULL) {
    if (given == MAX_ARGUMENTS) fail("too many arguments", words[2]);
    Argument* argument = &arguments[given];
    read_argument(line, argument);
    if (!is_output(argument)) load(argument);
    values[given].type_index = kTVMFFIDLTensorPtr;
    values[given++].v_ptr = &argument->tensor;
  }
  fclose(list);

  for (int i = 0; i < given; ++i)
    if (is_output(&arguments[i])) warm(&arguments[i]);
  for (int i = 0; i < given; ++i)
    if (strcmp(arguments[i].role, "extra") == 0 || strcmp(arguments[i].role, "data") == 0)
      warm(&arguments[i]);
  TVMFFIAny result = {0};
  syscall(CALL_BEGIN);
  int status = kernel(NULL, values, given, &result);
  syscall(CALL_END);
  if (status != 0) fail("the kernel refused its arguments", words[1]);
  for (int i = 0; i < given; ++i)
    if (is_output(&arguments[i])) store(&arguments[i]);
  return 0;
}
