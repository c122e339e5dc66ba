// Runs AMX instructions on a CPU without AMX: they raise SIGILL there, and the handler here
// decodes and executes them on tile registers kept in memory, one set a thread.
//
// Test hardware only. What it computes is bit-exact to the instruction set manual (Intel SDM,
// volume 2, "TDPBF16PS", "TDPBSSD", "LDTILECFG", ...); how long it takes says nothing about a
// real AMX unit. An instruction that real hardware would refuse ends the process with a message
// that names it. Load with ctypes, or with LD_PRELOAD, which also grants the permission for
// tile data that such a kernel cannot grant.

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <dlfcn.h>
#include <immintrin.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <ucontext.h>
#include <unistd.h>

namespace {

constexpr int kTiles = 8, kRows = 16, kRowBytes = 64;

enum Op {
  kLdTileCfg, kStTileCfg, kTileRelease, kTileZero, kTileLoad, kTileLoadT1, kTileStore,
  kDpBssd, kDpBsud, kDpBusd, kDpBuud, kDpBf16, kOps
};
const char* const kNames[kOps] = {
    "ldtilecfg", "sttilecfg", "tilerelease", "tilezero", "tileloadd", "tileloaddt1", "tilestored",
    "tdpbssd", "tdpbsud", "tdpbusd", "tdpbuud", "tdpbf16ps"};

// An instruction, decoded. Register numbers are the hardware's; -1 stands for none.
struct Instruction {
  Op op;
  int length;
  int dst = -1, src1 = -1, src2 = -1;  // tiles
  int base = -1, index = -1, scale = 1;
  bool rip_relative = false;
  int32_t displacement = 0;
};

struct Config {
  uint8_t palette, start_row, reserved[14];
  uint16_t colsb[16];
  uint8_t rows[16];
};
static_assert(sizeof(Config) == 64, "the layout of the tile configuration");

struct State {
  Config config;
  alignas(64) uint8_t tile[kTiles][kRows][kRowBytes];
};
__thread State state;
uint64_t counts[kOps];
struct sigaction previous;

// Decodes the VEX-encoded AMX instruction at `code`; false if it is something else.
bool decode(const uint8_t* code, Instruction* out) {
  if (code[0] != 0xC4) return false;
  const uint8_t p1 = code[1], p2 = code[2], opcode = code[3], modrm = code[4];
  const bool r = !(p1 & 0x80), x = !(p1 & 0x40), b = !(p1 & 0x20);
  const int map = p1 & 0x1F, vvvv = (~p2 >> 3) & 15, prefix = p2 & 3;
  const bool w = p2 & 0x80, wide = p2 & 4;
  if (map != 2 || w || wide) return false;
  const int mod = modrm >> 6, reg = (modrm >> 3) & 7, rm = modrm & 7;
  Instruction ins{};
  ins.dst = ins.src1 = ins.src2 = ins.base = ins.index = -1;
  ins.scale = 1;
  ins.length = 5;

  if (opcode == 0x5E || opcode == 0x5C) {
    if (mod != 3 || r || b || vvvv > 7) return false;
    if (opcode == 0x5C && prefix != 2) return false;
    static const Op kByte[4] = {kDpBuud, kDpBusd, kDpBsud, kDpBssd};
    ins.op = opcode == 0x5C ? kDpBf16 : kByte[prefix];
    ins.dst = reg, ins.src1 = rm, ins.src2 = vvvv;
    *out = ins;
    return true;
  }
  if (opcode != 0x49 && opcode != 0x4B) return false;
  if (vvvv != 0) return false;
  if (opcode == 0x49 && mod == 3) {
    if (prefix == 0 && modrm == 0xC0) {
      ins.op = kTileRelease;
    } else if (prefix == 3 && rm == 0 && !r) {
      ins.op = kTileZero, ins.dst = reg;
    } else {
      return false;
    }
    *out = ins;
    return true;
  }
  if (mod == 3) return false;
  if (opcode == 0x49) {
    if (reg != 0 || prefix > 1) return false;
    ins.op = prefix ? kStTileCfg : kLdTileCfg;
  } else {
    if (rm != 4 || r || prefix == 0) return false;  // the stride needs a SIB byte
    static const Op kMove[4] = {kOps, kTileLoadT1, kTileStore, kTileLoad};
    ins.op = kMove[prefix], ins.dst = reg;
  }
  if (rm == 4) {
    const uint8_t sib = code[ins.length++];
    const int index = ((sib >> 3) & 7) | (x ? 8 : 0);
    if (index != 4) ins.index = index;
    ins.scale = 1 << (sib >> 6);
    if ((sib & 7) == 5 && mod == 0) {
      memcpy(&ins.displacement, code + ins.length, 4);
      ins.length += 4;
    } else {
      ins.base = (sib & 7) | (b ? 8 : 0);
    }
  } else if (rm == 5 && mod == 0) {
    ins.rip_relative = true;
    memcpy(&ins.displacement, code + ins.length, 4);
    ins.length += 4;
  } else {
    ins.base = rm | (b ? 8 : 0);
  }
  if (mod == 1) {
    ins.displacement = static_cast<int8_t>(code[ins.length++]);
  } else if (mod == 2) {
    memcpy(&ins.displacement, code + ins.length, 4);
    ins.length += 4;
  }
  *out = ins;
  return true;
}

const char* const kRegisters[16] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                    "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15"};

// The instruction in Intel syntax.
int print(const Instruction& ins, char* text, size_t size) {
  char memory[96] = "";
  if (ins.op == kLdTileCfg || ins.op == kStTileCfg || ins.op == kTileLoad ||
      ins.op == kTileLoadT1 || ins.op == kTileStore) {
    int n = snprintf(memory, sizeof memory, "[");
    const char* plus = "";
    if (ins.rip_relative) n += snprintf(memory + n, sizeof memory - n, "rip"), plus = "+";
    if (ins.base >= 0) n += snprintf(memory + n, sizeof memory - n, "%s", kRegisters[ins.base]), plus = "+";
    if (ins.index >= 0) {
      n += snprintf(memory + n, sizeof memory - n, "%s%s*%d", plus, kRegisters[ins.index], ins.scale);
      plus = "+";
    }
    if (ins.displacement || !*plus) {
      const int64_t d = ins.displacement;
      n += snprintf(memory + n, sizeof memory - n, "%s0x%llx", d < 0 ? "-" : plus,
                    static_cast<unsigned long long>(d < 0 ? -d : d));
    }
    snprintf(memory + n, sizeof memory - n, "]");
  }
  const char* name = kNames[ins.op];
  switch (ins.op) {
    case kTileRelease: return snprintf(text, size, "%s", name);
    case kTileZero: return snprintf(text, size, "%s tmm%d", name, ins.dst);
    case kLdTileCfg: case kStTileCfg: return snprintf(text, size, "%s %s", name, memory);
    case kTileLoad: case kTileLoadT1: return snprintf(text, size, "%s tmm%d,%s", name, ins.dst, memory);
    case kTileStore: return snprintf(text, size, "%s %s,tmm%d", name, memory, ins.dst);
    default: return snprintf(text, size, "%s tmm%d,tmm%d,tmm%d", name, ins.dst, ins.src1, ins.src2);
  }
}

// Ends the process as the hardware would, with a message.
[[noreturn]] void fault(const Instruction& ins, const char* kind, const char* format, ...) {
  char text[512];
  int n = snprintf(text, sizeof text, "AMX emulator: %s at ", kind);
  n += print(ins, text + n, sizeof text - n);
  n += snprintf(text + n, sizeof text - n, ": ");
  va_list arguments;
  va_start(arguments, format);
  n += vsnprintf(text + n, sizeof text - n, format, arguments);
  va_end(arguments);
  text[n++] = '\n';
  if (write(2, text, n) < 0) _exit(125);
  signal(SIGILL, SIG_DFL);
  sigset_t mask;  // the signal is blocked while its handler runs
  sigemptyset(&mask);
  sigaddset(&mask, SIGILL);
  pthread_sigmask(SIG_UNBLOCK, &mask, nullptr);
  raise(SIGILL);
  _exit(126);
}

// Moves bytes between tile rows and memory that may not be there.
void transfer(const Instruction& ins, bool store, void* local, uint64_t address, size_t bytes,
              int rows, int64_t stride) {
  struct iovec here[kRows], there[kRows];
  for (int i = 0; i < rows; ++i) {
    here[i] = {static_cast<uint8_t*>(local) + i * kRowBytes, bytes};
    there[i] = {reinterpret_cast<void*>(address + i * stride), bytes};
  }
  const ssize_t moved = store ? process_vm_writev(getpid(), here, rows, there, rows, 0)
                              : process_vm_readv(getpid(), here, rows, there, rows, 0);
  if (moved != static_cast<ssize_t>(bytes * rows)) {
    fault(ins, "page fault", "address 0x%llx, %d rows of %zu bytes, stride %lld",
          static_cast<unsigned long long>(address), rows, bytes, static_cast<long long>(stride));
  }
}

void load_config(const Instruction& ins, uint64_t address) {
  Config c;
  transfer(ins, false, &c, address, sizeof c, 1, 0);
  if (c.palette > 1) fault(ins, "#GP", "palette %d", c.palette);
  memset(&state, 0, sizeof state);
  if (c.palette == 0) return;
  for (uint8_t v : c.reserved)
    if (v) fault(ins, "#GP", "a reserved byte is not zero");
  for (int i = 0; i < 16; ++i) {
    if (i >= kTiles && (c.rows[i] || c.colsb[i])) fault(ins, "#GP", "tile %d does not exist", i);
    if (c.rows[i] > kRows || c.colsb[i] > kRowBytes)
      fault(ins, "#GP", "tile %d has %d rows of %d bytes", i, c.rows[i], c.colsb[i]);
    if (!c.rows[i] != !c.colsb[i])
      fault(ins, "#GP", "tile %d has %d rows of %d bytes", i, c.rows[i], c.colsb[i]);
  }
  if (c.start_row >= kRows) fault(ins, "#GP", "start row %d", c.start_row);
  state.config = c;
}

void check_tile(const Instruction& ins, int tile) {
  if (!state.config.palette) fault(ins, "#UD", "the tiles are not configured");
  if (!state.config.rows[tile]) fault(ins, "#UD", "tmm%d is not configured", tile);
}

template <typename A, typename B>
void dot_bytes(const Instruction& ins) {
  const Config& c = state.config;
  const int rows = c.rows[ins.dst], columns = c.colsb[ins.dst] / 4, depth = c.colsb[ins.src1] / 4;
  for (int m = 0; m < rows; ++m) {
    int32_t sum[16];
    memcpy(sum, state.tile[ins.dst][m], sizeof sum);
    for (int k = 0; k < depth; ++k) {
      const A* a = reinterpret_cast<const A*>(state.tile[ins.src1][m]) + 4 * k;
      const B* b = reinterpret_cast<const B*>(state.tile[ins.src2][k]);
      for (int n = 0; n < columns; ++n)
        for (int i = 0; i < 4; ++i)  // unsigned: the hardware's sum wraps
          sum[n] = static_cast<int32_t>(static_cast<uint32_t>(sum[n]) +
                                        static_cast<uint32_t>(int32_t{a[i]} * int32_t{b[4 * n + i]}));
    }
    memcpy(state.tile[ins.dst][m], sum, sizeof sum);
  }
}

void dot_bf16(const Instruction& ins) {
  const unsigned before = _mm_getcsr();
  _mm_setcsr(0x9FC0);  // all exceptions masked, round to nearest, denormals are zero both ways
  const Config& c = state.config;
  const int rows = c.rows[ins.dst], columns = c.colsb[ins.dst] / 4, depth = c.colsb[ins.src1] / 4;
  auto widen = [](const uint8_t* at) {
    uint16_t half;
    memcpy(&half, at, 2);
    const uint32_t word = static_cast<uint32_t>(half) << 16;
    float value;
    memcpy(&value, &word, 4);
    return value;
  };
  for (int m = 0; m < rows; ++m) {
    float even[16] = {}, odd[16] = {}, sum[16];
    memcpy(sum, state.tile[ins.dst][m], sizeof sum);
    for (int k = 0; k < depth; ++k) {
      const uint8_t* a = state.tile[ins.src1][m] + 4 * k;
      const float a0 = widen(a), a1 = widen(a + 2);
      for (int n = 0; n < columns; ++n) {
        const uint8_t* b = state.tile[ins.src2][k] + 4 * n;
        even[n] = __builtin_fmaf(a0, widen(b), even[n]);
        odd[n] = __builtin_fmaf(a1, widen(b + 2), odd[n]);
      }
    }
    for (int n = 0; n < columns; ++n) {
      const volatile float pair = even[n] + odd[n];  // two roundings, in this order
      sum[n] = sum[n] + pair;
    }
    memcpy(state.tile[ins.dst][m], sum, sizeof sum);
  }
  _mm_setcsr(before);
}

void dot(const Instruction& ins) {
  const int tiles[3] = {ins.dst, ins.src1, ins.src2};
  for (int t : tiles) check_tile(ins, t);
  if (ins.dst == ins.src1 || ins.dst == ins.src2 || ins.src1 == ins.src2)
    fault(ins, "#UD", "a tile is named twice");
  const Config& c = state.config;
  const int rows = c.rows[ins.dst], columns = c.colsb[ins.dst];
  for (int t : tiles)
    if (c.colsb[t] % 4) fault(ins, "#UD", "tmm%d has rows of %d bytes", t, c.colsb[t]);
  if (rows != c.rows[ins.src1] || columns != c.colsb[ins.src2] ||
      c.colsb[ins.src1] / 4 != c.rows[ins.src2])
    fault(ins, "#UD", "shapes %dx%d, %dx%d, %dx%d (rows, bytes) do not fit", rows, columns,
          c.rows[ins.src1], c.colsb[ins.src1], c.rows[ins.src2], c.colsb[ins.src2]);
  switch (ins.op) {
    case kDpBssd: return dot_bytes<int8_t, int8_t>(ins);
    case kDpBsud: return dot_bytes<int8_t, uint8_t>(ins);
    case kDpBusd: return dot_bytes<uint8_t, int8_t>(ins);
    case kDpBuud: return dot_bytes<uint8_t, uint8_t>(ins);
    default: return dot_bf16(ins);
  }
}

int64_t gpr(const ucontext_t* context, int number) {
  static const int kPlace[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP,
                                 REG_RSI, REG_RDI, REG_R8,  REG_R9,  REG_R10, REG_R11,
                                 REG_R12, REG_R13, REG_R14, REG_R15};
  return context->uc_mcontext.gregs[kPlace[number]];
}

void execute(const Instruction& ins, ucontext_t* context) {
  uint64_t address = static_cast<int64_t>(ins.displacement);
  if (ins.rip_relative) address += context->uc_mcontext.gregs[REG_RIP] + ins.length;
  if (ins.base >= 0) address += gpr(context, ins.base);
  const int64_t stride = ins.index < 0 ? 0 : gpr(context, ins.index) * ins.scale;
  const Config& c = state.config;
  switch (ins.op) {
    case kLdTileCfg:
      // Here the index register is a part of the address, as in any other instruction.
      load_config(ins, address + stride);
      break;
    case kStTileCfg: {
      Config copy = c;
      transfer(ins, true, &copy, address + stride, sizeof copy, 1, 0);
      break;
    }
    case kTileRelease:
      memset(&state, 0, sizeof state);
      break;
    case kTileZero:
      check_tile(ins, ins.dst);
      memset(state.tile[ins.dst], 0, sizeof state.tile[ins.dst]);
      break;
    case kTileLoad:
    case kTileLoadT1:
      check_tile(ins, ins.dst);
      memset(state.tile[ins.dst], 0, sizeof state.tile[ins.dst]);
      transfer(ins, false, state.tile[ins.dst], address, c.colsb[ins.dst], c.rows[ins.dst], stride);
      break;
    case kTileStore:
      check_tile(ins, ins.dst);
      transfer(ins, true, state.tile[ins.dst], address, c.colsb[ins.dst], c.rows[ins.dst], stride);
      break;
    default:
      dot(ins);
  }
  __atomic_fetch_add(&counts[ins.op], 1, __ATOMIC_RELAXED);
}

void on_sigill(int number, siginfo_t* info, void* raw) {
  auto* context = static_cast<ucontext_t*>(raw);
  const auto* code = reinterpret_cast<const uint8_t*>(context->uc_mcontext.gregs[REG_RIP]);
  Instruction ins;
  if (!decode(code, &ins)) {
    sigaction(SIGILL, &previous, nullptr);  // not ours: the instruction faults again
    return;
  }
  execute(ins, context);
  context->uc_mcontext.gregs[REG_RIP] += ins.length;
  (void)number, (void)info;
}

}  // namespace

extern "C" {

// Takes SIGILL over. Runs when the library is loaded; call again if something else took it.
__attribute__((constructor)) void amx_emulator_install() {
  struct sigaction action;
  memset(&action, 0, sizeof action);
  action.sa_sigaction = on_sigill;
  action.sa_flags = SA_SIGINFO;
  sigemptyset(&action.sa_mask);
  struct sigaction current;
  sigaction(SIGILL, &action, &current);
  if (current.sa_sigaction != on_sigill) previous = current;
}

// Writes the instruction at `code` to `text`; its length in bytes, 0 if it is none of AMX.
int amx_emulator_decode(const uint8_t* code, char* text, size_t size) {
  Instruction ins;
  if (!decode(code, &ins)) return 0;
  print(ins, text, size);
  return ins.length;
}

// How often an instruction was executed, by all threads; ~0 for a name that is none.
uint64_t amx_emulator_count(const char* name) {
  for (int i = 0; i < kOps; ++i)
    if (!strcmp(name, kNames[i])) return __atomic_load_n(&counts[i], __ATOMIC_RELAXED);
  return ~uint64_t{0};
}

void amx_emulator_reset_counts() { memset(counts, 0, sizeof counts); }

// Whether the calling thread's tiles are configured.
int amx_emulator_configured() { return state.config.palette; }

// Under LD_PRELOAD: the kernel's answer to a request for tile data, if it had AMX.
long syscall(long number, ...) {
  va_list arguments;
  va_start(arguments, number);
  long a[6];
  for (long& v : a) v = va_arg(arguments, long);
  va_end(arguments);
  if (number == SYS_arch_prctl && a[0] == 0x1023 && a[1] == 18) return 0;
  using Syscall = long (*)(long, ...);
  static Syscall next = reinterpret_cast<Syscall>(dlsym(RTLD_NEXT, "syscall"));
  return next(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}

}  // extern "C"
