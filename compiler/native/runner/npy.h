/* Arrays in NumPy's file format, versions 1 to 3, little endian and in C order. */
#ifndef TILEWRIGHT_NPY_H_
#define TILEWRIGHT_NPY_H_

#include "tilewright.h"

/* Read a file into memory of its own, aligned as compiled code wants it; free(array->data) when
 * done. Give 0, or another number and a message in `error`. */
int npy_read(const char* path, tw_array* array, char* error, size_t room);
int npy_write(const char* path, const tw_array* array, char* error, size_t room);

size_t tw_elements(const tw_array* array);
const char* tw_dtype_name(tw_dtype dtype);
/* 0 if the name is one of NumPy's that arrays here can have. */
int tw_dtype_of(const char* name, tw_dtype* dtype);

#endif /* TILEWRIGHT_NPY_H_ */
