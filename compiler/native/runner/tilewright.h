/* Run a deployed Tilewright model from C, without Python.
 *
 * A model is the folder that `tilewright deploy` makes. Link with libtilewright.so, libtvm_runtime.so
 * and libtvm_ffi.so from that folder's `lib`.
 *
 * Functions that can fail return NULL or a number other than 0, and tw_error() then says why. A
 * model may be used by one thread at a time. */
#ifndef TILEWRIGHT_H_
#define TILEWRIGHT_H_

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define TW_MAX_RANK 8

/* Element types, by the names that NumPy gives them. */
typedef enum {
  TW_FLOAT32,
  TW_FLOAT64,
  TW_FLOAT16,
  TW_INT8,
  TW_UINT8,
  TW_INT16,
  TW_INT32,
  TW_INT64,
  TW_BOOL
} tw_dtype;

/* A dense row-major array. The data of an output belongs to the model and is valid until the next
 * tw_run or tw_free. */
typedef struct {
  void* data;
  tw_dtype dtype;
  int rank;
  int64_t shape[TW_MAX_RANK];
} tw_array;

typedef struct tw_model tw_model;

/* Load a model that runs on `threads` threads; 0: as many as it was compiled for. */
tw_model* tw_load(const char* folder, int threads);
void tw_free(tw_model* model);

int tw_inputs(const tw_model* model);
int tw_outputs(const tw_model* model);
const char* tw_input_name(const tw_model* model, int index);
const char* tw_output_name(const tw_model* model, int index);
/* Shape and dtype of an input, without data; an extent that varies is -1. */
int tw_describe_input(const tw_model* model, int index, tw_array* array);

/* One inference: `inputs` and `outputs` have tw_inputs and tw_outputs elements. */
int tw_run(tw_model* model, const tw_array* inputs, tw_array* outputs);

/* Largest difference from the golden outputs, relative to the largest magnitude, that the model's
 * self-test accepts. */
double tw_tolerance(const tw_model* model);

/* Bytes of one element. */
size_t tw_dtype_bytes(tw_dtype dtype);
/* What went wrong in this thread's last failed call. */
const char* tw_error(void);

#ifdef __cplusplus
}
#endif

#endif /* TILEWRIGHT_H_ */
