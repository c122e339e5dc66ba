/* How values lie in a stream of TVM's runtime: see io.h. */
#ifndef TVM_SUPPORT_SERIALIZER_H_
#define TVM_SUPPORT_SERIALIZER_H_

#include <dlpack/dlpack.h>
#include <tvm/ffi/container/array.h>
#include <tvm/ffi/endian.h>
#include <tvm/ffi/string.h>
#include <tvm/support/io.h>

#include <string>
#include <type_traits>
#include <utility>
#include <vector>

static_assert(TVM_FFI_IO_NO_ENDIAN_SWAP, "values are written as they lie in memory");

namespace tvm {
namespace support {

/* Plain data. */
template <typename T>
struct Serializer<T, std::enable_if_t<std::is_arithmetic_v<T> || std::is_enum_v<T>>> {
  static void Write(Stream* stream, const T& value) { stream->Write(&value, sizeof(T)); }
  static bool Read(Stream* stream, T* value) {
    return stream->Read(static_cast<void*>(value), sizeof(T)) == sizeof(T);
  }
};

template <>
struct Serializer<DLDataType> {
  static void Write(Stream* stream, const DLDataType& value) {
    stream->Write(value.code);
    stream->Write(value.bits);
    stream->Write(value.lanes);
  }
  static bool Read(Stream* stream, DLDataType* value) {
    return stream->Read(&value->code) && stream->Read(&value->bits) && stream->Read(&value->lanes);
  }
};

template <>
struct Serializer<DLDevice> {
  static void Write(Stream* stream, const DLDevice& value) {
    stream->Write(static_cast<int32_t>(value.device_type));
    stream->Write(value.device_id);
  }
  static bool Read(Stream* stream, DLDevice* value) {
    int32_t type = 0;
    if (!stream->Read(&type)) return false;
    value->device_type = static_cast<DLDeviceType>(type);
    return stream->Read(&value->device_id);
  }
};

/* What saves itself. */
template <typename T>
struct Serializer<T, std::void_t<decltype(std::declval<T&>().Load(std::declval<Stream*>()))>> {
  static void Write(Stream* stream, const T& value) { value.Save(stream); }
  static bool Read(Stream* stream, T* value) { return value->Load(stream); }
};

template <>
struct Serializer<std::string> {
  static void Write(Stream* stream, const std::string& value) {
    stream->Write(static_cast<uint64_t>(value.size()));
    if (!value.empty()) stream->Write(value.data(), value.size());
  }
  static bool Read(Stream* stream, std::string* value) {
    uint64_t size = 0;
    if (!stream->Read(&size) || size > SIZE_MAX / 2) return false;
    value->resize(static_cast<size_t>(size));
    return value->empty() || stream->Read(&(*value)[0], value->size()) == value->size();
  }
};

template <typename T>
struct Serializer<std::vector<T>> {
  static void Write(Stream* stream, const std::vector<T>& value) {
    stream->Write(static_cast<uint64_t>(value.size()));
    stream->WriteArray(value.data(), value.size());
  }
  static bool Read(Stream* stream, std::vector<T>* value) {
    uint64_t size = 0;
    if (!stream->Read(&size) || size > SIZE_MAX / 2 / sizeof(T)) return false;
    value->resize(static_cast<size_t>(size));
    return stream->ReadArray(value->data(), value->size());
  }
};

template <>
struct Serializer<ffi::String> {
  static void Write(Stream* stream, const ffi::String& value) {
    stream->Write(std::string(value.data(), value.size()));
  }
  static bool Read(Stream* stream, ffi::String* value) {
    std::string text;
    if (!stream->Read(&text)) return false;
    *value = ffi::String(std::move(text));
    return true;
  }
};

template <typename T>
struct Serializer<ffi::Array<T>> {
  static void Write(Stream* stream, const ffi::Array<T>& value) {
    stream->Write(static_cast<uint64_t>(value.size()));
    for (const T& item : value) stream->Write(item);
  }
  static bool Read(Stream* stream, ffi::Array<T>* value) {
    uint64_t size = 0;
    if (!stream->Read(&size)) return false;
    value->clear();
    for (uint64_t i = 0; i < size; ++i) {
      T item;
      if (!stream->Read(&item)) return false;
      value->push_back(item);
    }
    return true;
  }
};

}  // namespace support
}  // namespace tvm
#endif
