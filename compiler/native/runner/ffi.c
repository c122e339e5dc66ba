#include "ffi.h"

#include <stdio.h>
#include <string.h>

TVMFFIAny ffi_int(int64_t value) {
  TVMFFIAny any = {0};
  any.type_index = kTVMFFIInt;
  any.v_int64 = value;
  return any;
}

TVMFFIAny ffi_text(const char* text) {
  TVMFFIAny any = {0};
  any.type_index = kTVMFFIRawStr;
  any.v_c_str = text;
  return any;
}

TVMFFIAny ffi_object(TVMFFIObjectHandle object) {
  TVMFFIAny any = {0};
  any.type_index = ((TVMFFIObject*)object)->type_index;
  any.v_obj = (TVMFFIObject*)object;
  return any;
}

void ffi_error(char* error, size_t room) {
  TVMFFIObjectHandle raised = NULL;
  TVMFFIErrorMoveFromRaised(&raised);
  if (raised == NULL) {
    snprintf(error, room, "unknown error");
    return;
  }
  const TVMFFIErrorCell* cell =
      (const TVMFFIErrorCell*)((const char*)raised + sizeof(TVMFFIObject));
  snprintf(error, room, "%.*s", (int)cell->message.size, cell->message.data);
  TVMFFIObjectDecRef(raised);
}

int ffi_call(TVMFFIObjectHandle function, TVMFFIAny* arguments, int count, TVMFFIAny* result,
             char* error, size_t room) {
  memset(result, 0, sizeof *result);
  if (TVMFFIFunctionCall(function, arguments, count, result) == 0) return 0;
  ffi_error(error, room);
  return 1;
}

int ffi_call_global(const char* name, TVMFFIAny* arguments, int count, TVMFFIAny* result,
                    char* error, size_t room) {
  TVMFFIByteArray key = {name, strlen(name)};
  TVMFFIObjectHandle function = NULL;
  if (TVMFFIFunctionGetGlobal(&key, &function) != 0) {
    ffi_error(error, room);
    return 1;
  }
  if (function == NULL) {
    snprintf(error, room, "TVM's runtime has no function %s", name);
    return 1;
  }
  int status = ffi_call(function, arguments, count, result, error, room);
  TVMFFIObjectDecRef(function);
  return status;
}

int ffi_has_global(const char* name) {
  TVMFFIByteArray key = {name, strlen(name)};
  TVMFFIObjectHandle function = NULL;
  if (TVMFFIFunctionGetGlobal(&key, &function) != 0 || function == NULL) return 0;
  TVMFFIObjectDecRef(function);
  return 1;
}

void ffi_release(TVMFFIAny* value) {
  if (value->type_index >= kTVMFFIStaticObjectBegin && value->v_obj != NULL)
    TVMFFIObjectDecRef(value->v_obj);
  memset(value, 0, sizeof *value);
}

const char* ffi_bytes(const TVMFFIAny* value, int64_t* length) {
  switch (value->type_index) {
    case kTVMFFIRawStr:
      *length = (int64_t)strlen(value->v_c_str);
      return value->v_c_str;
    case kTVMFFIByteArrayPtr: {
      const TVMFFIByteArray* array = (const TVMFFIByteArray*)value->v_ptr;
      *length = (int64_t)array->size;
      return array->data;
    }
    case kTVMFFISmallStr:
    case kTVMFFISmallBytes:
      *length = value->small_str_len;
      return value->v_bytes;
    case kTVMFFIStr:
    case kTVMFFIBytes: {
      const TVMFFIByteArray* array =
          (const TVMFFIByteArray*)((const char*)value->v_obj + sizeof(TVMFFIObject));
      *length = (int64_t)array->size;
      return array->data;
    }
    default:
      *length = -1;
      return NULL;
  }
}
