/* A deployed model in TVM's Relax virtual machine, behind the interface of tilewright.h. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "ffi.h"
#include "npy.h"
#include "profile.h"
#include "tilewright.h"

enum { ALIGNMENT = 64, MESSAGE = 1024, LINE = 4096, POOLED = 2, NAME = 256 };

typedef struct {
  char name[NAME];
  tw_array kind; /* -1: an extent that varies */
} Port;

typedef struct {
  Port* ports;
  int count;
} Ports;

/* A parameter that is packed when the model is loaded: by what, and into what. */
typedef struct {
  char function[NAME], name[NAME];
  int parameter, rank;
  DLDataType dtype;
  int64_t shape[TW_MAX_RANK], offset, bytes; /* of the compact tensor in its file */
} Prepared;

struct tw_model {
  char folder[LINE];
  int threads;
  double tolerance;
  Ports inputs, outputs;
  TVMFFIObjectHandle* parameters;
  int parameter_count;
  Prepared* prepared;
  int prepared_count;
  int64_t last_offset, last_bytes; /* of the parameter that was read last */
  void* memory; /* the parameters' file */
  size_t memory_bytes;
  TVMFFIAny library, machine, main, result;
  TVMFFIAny* arguments;
};

static _Thread_local char last_error[MESSAGE];

#define FAIL(...) return snprintf(last_error, sizeof last_error, __VA_ARGS__), 1
#define TRY(call) \
  if (call) return 1

const char* tw_error(void) { return last_error; }
int tw_inputs(const tw_model* model) { return model->inputs.count; }
int tw_outputs(const tw_model* model) { return model->outputs.count; }
double tw_tolerance(const tw_model* model) { return model->tolerance; }

static const char* port_name(const Ports* ports, int index) {
  return index >= 0 && index < ports->count ? ports->ports[index].name : NULL;
}
const char* tw_input_name(const tw_model* model, int index) {
  return port_name(&model->inputs, index);
}
const char* tw_output_name(const tw_model* model, int index) {
  return port_name(&model->outputs, index);
}

int tw_describe_input(const tw_model* model, int index, tw_array* array) {
  if (index < 0 || index >= model->inputs.count) FAIL("there is no input %d", index);
  *array = model->inputs.ports[index].kind;
  return 0;
}

/* A tensor object on memory that belongs to somebody else, or, if `own`, to it from now on. */
static void free_managed(DLManagedTensor* managed) {
  free(managed->manager_ctx);
  free(managed->dl_tensor.shape);
  free(managed);
}

static int wrap(void* data, int own, DLDataType dtype, int rank, const int64_t* shape,
                TVMFFIObjectHandle* tensor) {
  DLManagedTensor* managed = calloc(1, sizeof *managed);
  int64_t* extents = calloc((size_t)rank + 1, sizeof *extents);
  if (managed == NULL || extents == NULL) {
    free(managed);
    free(extents);
    if (own) free(data);
    FAIL("no memory");
  }
  memcpy(extents, shape, (size_t)rank * sizeof *extents);
  managed->manager_ctx = own ? data : NULL;
  managed->dl_tensor.data = data;
  managed->dl_tensor.device.device_type = kDLCPU;
  managed->dl_tensor.ndim = rank;
  managed->dl_tensor.dtype = dtype;
  managed->dl_tensor.shape = extents;
  managed->deleter = free_managed;
  if (TVMFFITensorFromDLPack(managed, 0, 0, tensor) == 0) return 0;
  ffi_error(last_error, sizeof last_error);
  free_managed(managed);
  return 1;
}

static int read_dtype(const char* name, DLDataType* dtype) {
  TVMFFIByteArray text = {name, strlen(name)};
  if (TVMFFIDataTypeFromString(&text, dtype) == 0) return 0;
  ffi_error(last_error, sizeof last_error);
  return 1;
}

/* "RANK extent extent ... rest": the extents, and where the rest begins. */
static const char* read_shape(const char* text, int* rank, int64_t* shape) {
  char* end = NULL;
  long count = strtol(text, &end, 10);
  if (end == text || count < 0 || count > TW_MAX_RANK) return NULL;
  for (long i = 0; i < count; ++i) {
    const char* start = end;
    shape[i] = strtoll(start, &end, 10);
    if (end == start) return NULL;
  }
  *rank = (int)count;
  return end + strspn(end, " ");
}

/* "DTYPE RANK extents NAME" */
static int add_port(const char* text, Ports* ports) {
  Port* grown = realloc(ports->ports, (size_t)(ports->count + 1) * sizeof *grown);
  if (grown == NULL) FAIL("no memory");
  ports->ports = grown;
  Port* port = &grown[ports->count];
  memset(port, 0, sizeof *port);
  char dtype[32];
  int used = 0;
  if (sscanf(text, "%31s%n", dtype, &used) != 1 || tw_dtype_of(dtype, &port->kind.dtype) != 0)
    FAIL("arrays of this type cannot be read by this runner: %s", text);
  const char* name = read_shape(text + used, &port->kind.rank, port->kind.shape);
  if (name == NULL) FAIL("damaged: %s", text);
  snprintf(port->name, sizeof port->name, "%s", name);
  ++ports->count;
  return 0;
}

/* "DTYPE OFFSET BYTES RANK extents NAME" */
static int add_parameter(tw_model* model, const char* text) {
  char name[32];
  int64_t offset, bytes, shape[TW_MAX_RANK];
  int used = 0, rank = 0;
  DLDataType dtype;
  if (sscanf(text, "%31s %" SCNd64 " %" SCNd64 "%n", name, &offset, &bytes, &used) != 3 ||
      read_shape(text + used, &rank, shape) == NULL)
    FAIL("damaged: %s", text);
  if (offset < 0 || bytes < 0 || (uint64_t)offset + (uint64_t)bytes > model->memory_bytes)
    FAIL("parameters.bin is truncated");
  TRY(read_dtype(name, &dtype));
  size_t count = (size_t)model->parameter_count;
  TVMFFIObjectHandle* grown = realloc(model->parameters, (count + 1) * sizeof *grown);
  if (grown == NULL) FAIL("no memory");
  model->parameters = grown;
  TRY(wrap((char*)model->memory + offset, 0, dtype, rank, shape, &grown[count]));
  ++model->parameter_count;
  model->last_offset = offset;
  model->last_bytes = bytes;
  return 0;
}

/* "FUNCTION DTYPE RANK extents NAME": of the parameter in the line above. */
static int add_prepared(tw_model* model, const char* text) {
  char dtype[32];
  int used = 0, count = model->prepared_count, last = model->parameter_count - 1;
  Prepared* grown = realloc(model->prepared, (size_t)(count + 1) * sizeof *grown);
  if (grown == NULL) FAIL("no memory");
  model->prepared = grown;
  Prepared* item = &grown[count];
  memset(item, 0, sizeof *item);
  const char* name = NULL;
  if (sscanf(text, "%255s %31s%n", item->function, dtype, &used) == 2)
    name = read_shape(text + used, &item->rank, item->shape);
  if (name == NULL || last < 0 || (count > 0 && grown[count - 1].parameter == last))
    FAIL("damaged: prepared %s", text);
  snprintf(item->name, sizeof item->name, "%s", name);
  TRY(read_dtype(dtype, &item->dtype));
  item->parameter = last;
  item->offset = model->last_offset;
  item->bytes = model->last_bytes;
  ++model->prepared_count;
  return 0;
}

static int map_parameters(tw_model* model) {
  char path[LINE + 32];
  snprintf(path, sizeof path, "%s/parameters.bin", model->folder);
  int file = open(path, O_RDONLY | O_CLOEXEC);
  struct stat facts;
  if (file < 0 || fstat(file, &facts) != 0) {
    int reason = errno;
    if (file >= 0) close(file);
    FAIL("%s: %s", path, strerror(reason));
  }
  model->memory_bytes = (size_t)facts.st_size;
  if (model->memory_bytes > 0)
    model->memory = mmap(NULL, model->memory_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE, file, 0);
  close(file);
  if (model->memory == MAP_FAILED) {
    model->memory = NULL;
    FAIL("%s: cannot be mapped into memory", path);
  }
  return 0;
}

/* Loading a library that lost its end would end the process. */
static int check_library(const tw_model* model, int64_t bytes) {
  char path[LINE + 32];
  struct stat facts;
  snprintf(path, sizeof path, "%s/module.so", model->folder);
  if (stat(path, &facts) != 0) FAIL("%s: %s", path, strerror(errno));
  if ((int64_t)facts.st_size != bytes) FAIL("%s: is truncated or another model's", path);
  return 0;
}

static int read_line(tw_model* model, const char* line, int* known) {
  const char* space = strchr(line, ' ');
  if (space == NULL) FAIL("model.txt is damaged: %s", line);
  size_t length = (size_t)(space - line);
  const char* rest = space + 1;
#define IS(word) (length == sizeof word - 1 && strncmp(line, word, length) == 0)
  if (IS("tilewright")) {
    if (strcmp(rest, "deploy/1") != 0 && strcmp(rest, "deploy/2") != 0)
      FAIL("the model was made by another release: %s", rest);
    *known = 1;
  } else if (IS("threads")) {
    if (model->threads == 0) model->threads = atoi(rest);
  } else if (IS("tolerance")) {
    model->tolerance = strtod(rest, NULL);
  } else if (IS("library")) {
    TRY(check_library(model, strtoll(rest, NULL, 10)));
  } else if (IS("input")) {
    TRY(add_port(rest, &model->inputs));
  } else if (IS("output")) {
    TRY(add_port(rest, &model->outputs));
  } else if (IS("parameter")) {
    TRY(add_parameter(model, rest));
  } else if (IS("prepared")) {
    TRY(add_prepared(model, rest));
  } else {
    FAIL("model.txt is damaged: %s", line);
  }
#undef IS
  return 0;
}

static int read_facts(tw_model* model) {
  char path[LINE + 32], line[LINE];
  snprintf(path, sizeof path, "%s/model.txt", model->folder);
  FILE* file = fopen(path, "r");
  if (file == NULL) FAIL("%s: %s", path, strerror(errno));
  int status = 0, known = 0;
  while (status == 0 && fgets(line, sizeof line, file) != NULL) {
    line[strcspn(line, "\n")] = '\0';
    if (line[0] != '\0') status = read_line(model, line, &known);
    if (status == 0 && !known) {
      snprintf(last_error, sizeof last_error, "%s: is no description of a model", path);
      status = 1;
    }
  }
  fclose(file);
  if (status == 0 && !known) FAIL("%s: is empty", path);
  return status;
}

/* A function of a module or, if `deep`, of those that it imports. */
static int find(const TVMFFIAny* module, const char* name, int deep, TVMFFIAny* function) {
  TVMFFIAny arguments[3] = {*module, ffi_text(name), ffi_int(deep)};
  arguments[2].type_index = kTVMFFIBool;
  TRY(ffi_call_global("ffi.ModuleGetFunction", arguments, 3, function, last_error,
                      sizeof last_error));
  if (function->type_index != kTVMFFIFunction) FAIL("the module has no %s", name);
  return 0;
}

static int start_machine(tw_model* model) {
  char path[LINE + 32], threads[16];
  snprintf(threads, sizeof threads, "%d", model->threads > 0 ? model->threads : 1);
  setenv("TVM_BIND_THREADS", "0", 0);
  setenv("TVM_NUM_THREADS", threads, 1);
  snprintf(path, sizeof path, "%s/module.so", model->folder);
  TVMFFIAny argument = ffi_text(path), loader = {0}, start = {0}, nothing = {0};
  TRY(ffi_call_global("ffi.ModuleLoadFromFile", &argument, 1, &model->library, last_error,
                      sizeof last_error));
  TRY(find(&model->library, "vm_load_executable", 0, &loader));
  int status =
      ffi_call(loader.v_obj, NULL, 0, &model->machine, last_error, sizeof last_error);
  ffi_release(&loader);
  TRY(status);
  TRY(find(&model->machine, "vm_initialization", 0, &start));
  TVMFFIAny device[3] = {ffi_int(kDLCPU), ffi_int(0), ffi_int(POOLED)};
  status = ffi_call(start.v_obj, device, 3, &nothing, last_error, sizeof last_error);
  ffi_release(&start);
  ffi_release(&nothing);
  TRY(status);
  return find(&model->machine, "main", 0, &model->main);
}

int tw_instrument(tw_model* model, TVMFFIObjectHandle function) {
  TVMFFIAny set = {0}, argument = ffi_object(function), nothing = {0};
  TRY(find(&model->machine, "set_instrument", 0, &set));
  int status = ffi_call(set.v_obj, &argument, 1, &nothing, last_error, sizeof last_error);
  ffi_release(&set);
  ffi_release(&nothing);
  return status;
}

/* Memory for a packed tensor, in large pages where the system has such. */
static void* packed_memory(size_t bytes) {
  const size_t large = (size_t)1 << 21;
  void* memory = NULL;
  if (posix_memalign(&memory, bytes >= 2 * large ? large : ALIGNMENT, bytes + 1) != 0) return NULL;
#ifdef MADV_HUGEPAGE
  if (bytes >= 2 * large) madvise(memory, bytes / large * large, MADV_HUGEPAGE);
#endif
  return memory;
}

/* Pages of the file that nobody reads any more. */
static void forget(const tw_model* model, const Prepared* item) {
  int64_t page = sysconf(_SC_PAGESIZE);
  int64_t first = (item->offset + page - 1) / page * page;
  int64_t end = (item->offset + item->bytes) / page * page;
  if (page > 0 && end > first)
    madvise((char*)model->memory + first, (size_t)(end - first), MADV_DONTNEED);
}

/* Puts the packed tensor in the place of the compact one. */
static int prepare(tw_model* model, const Prepared* item) {
  size_t bytes = ((size_t)item->dtype.bits * item->dtype.lanes + 7) / 8;
  for (int i = 0; i < item->rank; ++i)
    if (item->shape[i] < 0 || __builtin_mul_overflow(bytes, (size_t)item->shape[i], &bytes) ||
        bytes > PTRDIFF_MAX / 2)
      FAIL("damaged: the shape of %s", item->name);
  TVMFFIAny function = {0}, nothing = {0};
  char reason[MESSAGE / 2];
  if (find(&model->library, item->function, 1, &function)) {
    snprintf(reason, sizeof reason, "%.500s", last_error);
    FAIL("%s cannot be packed: %s", item->name, reason);
  }
  TVMFFIObjectHandle packed = NULL;
  void* memory = packed_memory(bytes);
  int status = 1;
  if (memory == NULL)
    snprintf(last_error, sizeof last_error, "no memory for %s: %zu bytes", item->name, bytes);
  else
    status = wrap(memory, 1, item->dtype, item->rank, item->shape, &packed);
  if (status == 0) {
    TVMFFIObjectHandle* place = &model->parameters[item->parameter];
    TVMFFIAny arguments[2] = {ffi_object(*place), ffi_object(packed)};
    status = ffi_call(function.v_obj, arguments, 2, &nothing, reason, sizeof reason);
    if (status == 0) {
      TVMFFIObjectDecRef(*place);
      *place = packed;
      forget(model, item);
    } else {
      TVMFFIObjectDecRef(packed);
      snprintf(last_error, sizeof last_error, "%s cannot make %s: %s", item->function, item->name,
               reason);
    }
  }
  ffi_release(&nothing);
  ffi_release(&function);
  return status;
}

static int load(tw_model* model) {
  TRY(map_parameters(model));
  TRY(read_facts(model));
  TRY(start_machine(model));
  for (int i = 0; i < model->prepared_count; ++i) TRY(prepare(model, &model->prepared[i]));
  size_t count = (size_t)(model->inputs.count + model->parameter_count);
  model->arguments = calloc(count + 1, sizeof *model->arguments);
  if (model->arguments == NULL) FAIL("no memory");
  for (int i = 0; i < model->parameter_count; ++i)
    model->arguments[model->inputs.count + i] = ffi_object(model->parameters[i]);
  return 0;
}

tw_model* tw_load(const char* folder, int threads) {
  tw_model* model = calloc(1, sizeof *model);
  if (model == NULL) {
    snprintf(last_error, sizeof last_error, "no memory");
    return NULL;
  }
  snprintf(model->folder, sizeof model->folder, "%s", folder);
  model->threads = threads;
  if (load(model) == 0) return model;
  tw_free(model);
  return NULL;
}

void tw_free(tw_model* model) {
  if (model == NULL) return;
  ffi_release(&model->result);
  ffi_release(&model->main);
  ffi_release(&model->machine);
  for (int i = 0; i < model->parameter_count; ++i) TVMFFIObjectDecRef(model->parameters[i]);
  ffi_release(&model->library);
  if (model->memory != NULL) munmap(model->memory, model->memory_bytes);
  free(model->arguments);
  free(model->parameters);
  free(model->prepared);
  free(model->inputs.ports);
  free(model->outputs.ports);
  free(model);
}

static void describe(const tw_array* array, char* text, size_t room) {
  int used = snprintf(text, room, "%s[", tw_dtype_name(array->dtype));
  for (int i = 0; i < array->rank && (size_t)used < room; ++i)
    used += snprintf(text + used, room - (size_t)used, i ? ", %lld" : "%lld",
                     (long long)array->shape[i]);
  if ((size_t)used < room) snprintf(text + used, room - (size_t)used, "]");
}

static int check_input(const Port* port, const tw_array* given) {
  int fits = given->dtype == port->kind.dtype && given->rank == port->kind.rank;
  for (int i = 0; fits && i < given->rank; ++i)
    fits = port->kind.shape[i] < 0 || port->kind.shape[i] == given->shape[i];
  if (fits) return 0;
  char has[160], wants[160];
  describe(given, has, sizeof has);
  describe(&port->kind, wants, sizeof wants);
  FAIL("input %s is %s, and the model takes %s (-1: any)", port->name, has, wants);
}

static int give(const TVMFFIAny* value, const Port* port, tw_array* output) {
  if (value->type_index != kTVMFFITensor) FAIL("output %s is no tensor", port->name);
  const DLTensor* tensor = (const DLTensor*)((const char*)value->v_obj + sizeof(TVMFFIObject));
  if (tensor->ndim > TW_MAX_RANK) FAIL("output %s has too many axes", port->name);
  output->data = (char*)tensor->data + tensor->byte_offset;
  output->dtype = port->kind.dtype;
  output->rank = tensor->ndim;
  memcpy(output->shape, tensor->shape, (size_t)tensor->ndim * sizeof output->shape[0]);
  return 0;
}

static int give_all(const tw_model* model, tw_array* outputs) {
  if (model->result.type_index == kTVMFFITensor) {
    if (model->outputs.count != 1) FAIL("the model gave one output");
    return give(&model->result, &model->outputs.ports[0], &outputs[0]);
  }
  for (int i = 0; i < model->outputs.count; ++i) {
    TVMFFIAny arguments[2] = {model->result, ffi_int(i)}, element;
    TRY(ffi_call_global("ffi.ArrayGetItem", arguments, 2, &element, last_error,
                        sizeof last_error));
    int status = give(&element, &model->outputs.ports[i], &outputs[i]);
    ffi_release(&element); /* the array keeps it */
    TRY(status);
  }
  return 0;
}

int tw_run(tw_model* model, const tw_array* inputs, tw_array* outputs) {
  int count = model->inputs.count, status = 0;
  void** copies = calloc((size_t)count + 1, sizeof *copies);
  if (copies == NULL) FAIL("no memory");
  ffi_release(&model->result);
  memset(model->arguments, 0, (size_t)count * sizeof *model->arguments);
  for (int i = 0; i < count && status == 0; ++i) {
    DLDataType dtype;
    TVMFFIObjectHandle tensor = NULL;
    void* data = inputs[i].data;
    status = check_input(&model->inputs.ports[i], &inputs[i]) ||
             read_dtype(tw_dtype_name(inputs[i].dtype), &dtype);
    if (status == 0 && (uintptr_t)data % ALIGNMENT != 0) {
      size_t bytes = tw_elements(&inputs[i]) * tw_dtype_bytes(inputs[i].dtype);
      copies[i] = aligned_alloc(ALIGNMENT, (bytes + ALIGNMENT) / ALIGNMENT * ALIGNMENT);
      if (copies[i] == NULL) {
        snprintf(last_error, sizeof last_error, "no memory");
        status = 1;
      } else {
        data = memcpy(copies[i], data, bytes);
      }
    }
    if (status == 0) status = wrap(data, 0, dtype, inputs[i].rank, inputs[i].shape, &tensor);
    if (status == 0) model->arguments[i] = ffi_object(tensor);
  }
  if (status == 0)
    status = ffi_call(model->main.v_obj, model->arguments, count + model->parameter_count,
                      &model->result, last_error, sizeof last_error);
  for (int i = 0; i < count; ++i) {
    ffi_release(&model->arguments[i]);
    free(copies[i]);
  }
  free(copies);
  return status || give_all(model, outputs);
}
