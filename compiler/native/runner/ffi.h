/* What the runner calls of TVM's runtime: its C interface, and nothing of its C++ one, so that it
 * does not matter which C++ library either was built with. */
#ifndef TILEWRIGHT_FFI_H_
#define TILEWRIGHT_FFI_H_

#include <stddef.h>
#include <tvm/ffi/c_api.h>

TVMFFIAny ffi_int(int64_t value);
TVMFFIAny ffi_text(const char* text); /* borrowed */
TVMFFIAny ffi_object(TVMFFIObjectHandle object);

/* Call a function; 0, or another number and a message in `error`. The result is owned: release
 * it. */
int ffi_call(TVMFFIObjectHandle function, TVMFFIAny* arguments, int count, TVMFFIAny* result,
             char* error, size_t room);
/* The same of a function that is registered under a name. */
int ffi_call_global(const char* name, TVMFFIAny* arguments, int count, TVMFFIAny* result,
                    char* error, size_t room);
/* Whether a function is registered under a name. */
int ffi_has_global(const char* name);
void ffi_release(TVMFFIAny* value);
/* Text or bytes in a value; length -1 if it holds neither. */
const char* ffi_bytes(const TVMFFIAny* value, int64_t* length);
/* The message of the error that this thread's last failed call raised. */
void ffi_error(char* error, size_t room);

#endif /* TILEWRIGHT_FFI_H_ */
