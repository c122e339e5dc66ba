#include "npy.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
  tw_dtype dtype;
  const char* name;
  const char* code; /* as .npy files write it */
  size_t bytes;
} Dtype;

static const Dtype DTYPES[] = {
    {TW_FLOAT32, "float32", "<f4", 4}, {TW_FLOAT64, "float64", "<f8", 8},
    {TW_FLOAT16, "float16", "<f2", 2}, {TW_INT8, "int8", "|i1", 1},
    {TW_UINT8, "uint8", "|u1", 1},     {TW_INT16, "int16", "<i2", 2},
    {TW_INT32, "int32", "<i4", 4},     {TW_INT64, "int64", "<i8", 8},
    {TW_BOOL, "bool", "|b1", 1},
};
enum { COUNT = sizeof DTYPES / sizeof DTYPES[0], LONGEST_HEADER = 1 << 20, ALIGNMENT = 64 };

size_t tw_dtype_bytes(tw_dtype dtype) {
  for (int i = 0; i < COUNT; ++i)
    if (DTYPES[i].dtype == dtype) return DTYPES[i].bytes;
  return 0;
}

const char* tw_dtype_name(tw_dtype dtype) {
  for (int i = 0; i < COUNT; ++i)
    if (DTYPES[i].dtype == dtype) return DTYPES[i].name;
  return "?";
}

int tw_dtype_of(const char* name, tw_dtype* dtype) {
  for (int i = 0; i < COUNT; ++i)
    if (strcmp(DTYPES[i].name, name) == 0) {
      *dtype = DTYPES[i].dtype;
      return 0;
    }
  return 1;
}

size_t tw_elements(const tw_array* array) {
  size_t count = 1;
  for (int i = 0; i < array->rank; ++i) count *= (size_t)array->shape[i];
  return count;
}

/* The text behind "'key':" in the header, a Python dictionary literal; NULL if it has none. */
static const char* field(const char* header, const char* key) {
  char quoted[32];
  snprintf(quoted, sizeof quoted, "'%s':", key);
  const char* at = strstr(header, quoted);
  return at == NULL ? NULL : at + strlen(quoted);
}

static const char* read_header(const char* header, tw_array* array) {
  const char *order = field(header, "fortran_order"), *code = field(header, "descr"),
             *shape = field(header, "shape");
  if (order == NULL || code == NULL || shape == NULL) return "has a damaged header";
  order += strspn(order, " ");
  if (strncmp(order, "False", 5) != 0) return "is in Fortran order";
  code += strspn(code, " '");
  int found = 0;
  for (int i = 0; i < COUNT; ++i)
    if (strncmp(code, DTYPES[i].code, 3) == 0 && code[3] == '\'') {
      array->dtype = DTYPES[i].dtype;
      found = 1;
    }
  if (!found) return "has elements of a type that this runner cannot read";
  shape += strspn(shape, " (");
  array->rank = 0;
  while (*shape != ')' && *shape != '\0') {
    char* end = NULL;
    long long extent = strtoll(shape, &end, 10);
    if (end == shape || extent < 0) return "has a damaged shape";
    if (array->rank == TW_MAX_RANK) return "has too many axes";
    array->shape[array->rank++] = extent;
    shape = end + strspn(end, " ,");
  }
  return *shape == ')' ? NULL : "has a damaged shape";
}

static const char* read_array(FILE* file, tw_array* array) {
  unsigned char start[8], length[4] = {0, 0, 0, 0};
  if (fread(start, 1, 8, file) != 8 || memcmp(start, "\x93NUMPY", 6) != 0)
    return "is no .npy file";
  size_t digits = start[6] == 1 ? 2 : 4;
  if (fread(length, 1, digits, file) != digits) return "ends in its header";
  size_t bytes = length[0] | (size_t)length[1] << 8 | (size_t)length[2] << 16 |
                 (size_t)length[3] << 24;
  if (bytes > LONGEST_HEADER) return "has a damaged header";
  char* header = calloc(bytes + 1, 1);
  if (header == NULL) return "does not fit into memory";
  const char* wrong = fread(header, 1, bytes, file) == bytes ? read_header(header, array)
                                                             : "ends in its header";
  free(header);
  if (wrong != NULL) return wrong;
  size_t wanted = tw_elements(array) * tw_dtype_bytes(array->dtype);
  array->data = aligned_alloc(ALIGNMENT, (wanted + ALIGNMENT) / ALIGNMENT * ALIGNMENT);
  if (array->data == NULL) return "does not fit into memory";
  if (fread(array->data, 1, wanted, file) != wanted) {
    free(array->data);
    array->data = NULL;
    return "ends before its last element";
  }
  return NULL;
}

int npy_read(const char* path, tw_array* array, char* error, size_t room) {
  memset(array, 0, sizeof *array);
  FILE* file = fopen(path, "rb");
  const char* wrong = file == NULL ? strerror(errno) : read_array(file, array);
  if (file != NULL) fclose(file);
  if (wrong != NULL) snprintf(error, room, "%s: %s", path, wrong);
  return wrong != NULL;
}

int npy_write(const char* path, const tw_array* array, char* error, size_t room) {
  const char* code = "";
  for (int i = 0; i < COUNT; ++i)
    if (DTYPES[i].dtype == array->dtype) code = DTYPES[i].code;
  char header[512];
  int used = snprintf(header, sizeof header, "{'descr': '%s', 'fortran_order': False, 'shape': (",
                      code);
  for (int i = 0; i < array->rank; ++i)
    used += snprintf(header + used, sizeof header - (size_t)used, "%lld,",
                     (long long)array->shape[i]);
  used += snprintf(header + used, sizeof header - (size_t)used, "), }");
  while ((10 + used + 1) % ALIGNMENT != 0) header[used++] = ' ';
  header[used++] = '\n';
  unsigned char start[10] = {0x93, 'N', 'U', 'M', 'P', 'Y', 1, 0, (unsigned char)(used & 255),
                             (unsigned char)(used >> 8)};
  size_t bytes = tw_elements(array) * tw_dtype_bytes(array->dtype);
  FILE* file = fopen(path, "wb");
  int written = file != NULL && fwrite(start, 1, 10, file) == 10 &&
                fwrite(header, 1, (size_t)used, file) == (size_t)used &&
                fwrite(array->data, 1, bytes, file) == bytes;
  if (file != NULL && fclose(file) != 0) written = 0;
  if (!written) snprintf(error, room, "%s: cannot be written: %s", path, strerror(errno));
  return !written;
}
