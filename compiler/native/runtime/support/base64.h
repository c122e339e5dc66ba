/* Bytes as text of 64 letters, as JSON holds tensors. */
#ifndef TVM_SUPPORT_BASE64_H_
#define TVM_SUPPORT_BASE64_H_

#include <tvm/support/io.h>

#include <cstring>

namespace tvm {
namespace support {

constexpr char kBase64Letters[] =
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

class Base64OutStream : public Stream {
 public:
  explicit Base64OutStream(Stream* stream) : stream_(stream) {}

  using Stream::Read;
  using Stream::Write;
  size_t Read(void*, size_t) final { return 0; }
  size_t Write(const void* data, size_t size) final {
    const unsigned char* bytes = static_cast<const unsigned char*>(data);
    for (size_t i = 0; i < size; ++i) {
      held_[count_++] = bytes[i];
      if (count_ == 3) Flush();
    }
    return size;
  }
  void Finish() {
    if (count_) Flush();
  }

 private:
  void Flush() {
    for (int i = count_; i < 3; ++i) held_[i] = 0;
    const unsigned bits = held_[0] << 16 | held_[1] << 8 | held_[2];
    char text[4];
    for (int i = 0; i < 4; ++i) {
      text[i] = i <= count_ ? kBase64Letters[bits >> (18 - 6 * i) & 63] : '=';
    }
    stream_->Write(static_cast<const void*>(text), sizeof(text));
    count_ = 0;
  }

  Stream* stream_;
  unsigned char held_[3];
  int count_ = 0;
};

class Base64InStream : public Stream {
 public:
  explicit Base64InStream(Stream* stream) : stream_(stream) {}

  using Stream::Read;
  using Stream::Write;
  void InitPosition() { left_ = 0; }
  size_t Read(void* data, size_t size) final {
    unsigned char* bytes = static_cast<unsigned char*>(data);
    for (size_t i = 0; i < size; ++i) {
      if (!left_ && !Fill()) return i;
      bytes[i] = held_[next_++];
      --left_;
    }
    return size;
  }
  size_t Write(const void*, size_t) final { return 0; }

 private:
  bool Fill() {
    char text[4];
    if (stream_->Read(static_cast<void*>(text), sizeof(text)) != sizeof(text)) return false;
    unsigned bits = 0;
    int letters = 0;
    for (char letter : text) {
      const void* found = letter == '=' ? nullptr : std::memchr(kBase64Letters, letter, 64);
      if (found != nullptr) ++letters;
      bits = bits << 6 | static_cast<unsigned>(
                             found ? static_cast<const char*>(found) - kBase64Letters : 0);
    }
    for (int i = 0; i < 3; ++i) held_[i] = static_cast<unsigned char>(bits >> (16 - 8 * i));
    next_ = 0;
    left_ = letters > 0 ? letters - 1 : 0;
    return left_ > 0;
  }

  Stream* stream_;
  unsigned char held_[3];
  int next_ = 0, left_ = 0;
};

}  // namespace support
}  // namespace tvm
#endif
