/* A plugin of QEMU's user-mode emulator: how often each block of translated code ran, and what it
 * would have missed in the caches.
 *
 *     qemu-aarch64 -plugin libcounter.so,out=FILE[,caches=BYTES:LINE:WAYS/...] ...
 *
 * At exit it writes one line for each block: its address, its number of instructions, how often it
 * ran, and its bytes, all in hexadecimal but the counts; with caches also its accesses to memory and,
 * for each level, its misses, those of them that a prefetcher would have seen coming, and those that
 * were written to. A program can say by system calls that do not exist what is to be counted (see
 * kernel.c); all of it is counted if it says nothing.
 *
 * Distributions ship no header for plugins, so that the few declarations needed are written out
 * here, for the versions up to 7 of the interface (QEMU 4.2 to 11.1, docs/devel/tcg-plugins): it is
 * compiled for the one that the emulator has, -DQEMU_PLUGIN_API=N. Version 2 replaced counters in
 * memory by scoreboards, which have a row for each thread; 3 copies the bytes of instructions; 7
 * hands data to every callback, and no number of the plugin. One thread is counted exactly; several
 * are by their scoreboards, but misses of caches are not. */
#include <inttypes.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "caches.h"

#ifndef QEMU_PLUGIN_API
#define QEMU_PLUGIN_API 1
#endif

typedef uint64_t qemu_plugin_id_t;
typedef struct qemu_info_t qemu_info_t;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
enum qemu_plugin_op { QEMU_PLUGIN_INLINE_ADD_U64 };
enum qemu_plugin_cb_flags { QEMU_PLUGIN_CB_NO_REGS };
enum qemu_plugin_mem_rw { QEMU_PLUGIN_MEM_RW = 3 };
typedef uint32_t qemu_plugin_meminfo_t;

/* What callbacks that are not about one block get first and last. */
#if QEMU_PLUGIN_API < 7
#define FIRST(...) qemu_plugin_id_t plugin, __VA_ARGS__
#define LAST
#define NO_DATA
#define IGNORE (void)plugin
#else
#define FIRST(...) __VA_ARGS__
#define LAST , void* nothing
#define NO_DATA , NULL
#define IGNORE (void)nothing
#endif
typedef void Translated(FIRST(struct qemu_plugin_tb* block) LAST);
typedef void Called(FIRST(unsigned int cpu, int64_t number, uint64_t address, uint64_t bytes,
                          uint64_t c, uint64_t d, uint64_t e, uint64_t f, uint64_t g,
                          uint64_t h) LAST);
typedef void Finished(FIRST(void* data));
extern void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t id, Translated* call LAST);
extern void qemu_plugin_register_vcpu_syscall_cb(qemu_plugin_id_t id, Called* call LAST);
extern void qemu_plugin_register_atexit_cb(qemu_plugin_id_t id, Finished* call, void* data);
extern void qemu_plugin_register_vcpu_mem_cb(
    struct qemu_plugin_insn* instruction,
    void (*call)(unsigned int, qemu_plugin_meminfo_t, uint64_t, void*),
    enum qemu_plugin_cb_flags flags, enum qemu_plugin_mem_rw kind, void* data);
extern unsigned int qemu_plugin_mem_size_shift(qemu_plugin_meminfo_t info);
extern bool qemu_plugin_mem_is_store(qemu_plugin_meminfo_t info);
extern size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb* block);
extern uint64_t qemu_plugin_tb_vaddr(const struct qemu_plugin_tb* block);
extern struct qemu_plugin_insn* qemu_plugin_tb_get_insn(const struct qemu_plugin_tb* block,
                                                        size_t index);
extern size_t qemu_plugin_insn_size(const struct qemu_plugin_insn* instruction);
#if QEMU_PLUGIN_API < 3
extern const void* qemu_plugin_insn_data(const struct qemu_plugin_insn* instruction);
#else
extern size_t qemu_plugin_insn_data(const struct qemu_plugin_insn* instruction, void* to,
                                    size_t bytes);
#endif

static void copy_bytes(void* to, const struct qemu_plugin_insn* instruction, size_t bytes) {
#if QEMU_PLUGIN_API < 3
  memcpy(to, qemu_plugin_insn_data(instruction), bytes);
#else
  if (qemu_plugin_insn_data(instruction, to, bytes) != bytes) abort();
#endif
}

/* How often something ran. */
#if QEMU_PLUGIN_API < 2
extern void qemu_plugin_register_vcpu_tb_exec_inline(struct qemu_plugin_tb* block,
                                                     enum qemu_plugin_op operation, void* pointer,
                                                     uint64_t value);
typedef uint64_t Counter;
static void count_runs(struct qemu_plugin_tb* block, Counter* counter) {
  qemu_plugin_register_vcpu_tb_exec_inline(block, QEMU_PLUGIN_INLINE_ADD_U64, counter, 1);
}
static void counter_clear(Counter* counter) { *counter = 0; }
static uint64_t counter_value(const Counter* counter) { return *counter; }
#else
struct qemu_plugin_scoreboard;
typedef struct {
  struct qemu_plugin_scoreboard* score;
  size_t offset;
} qemu_plugin_u64;
extern struct qemu_plugin_scoreboard* qemu_plugin_scoreboard_new(size_t size);
extern uint64_t qemu_plugin_u64_sum(qemu_plugin_u64 entry);
extern void qemu_plugin_u64_set(qemu_plugin_u64 entry, unsigned int cpu, uint64_t value);
extern int qemu_plugin_num_vcpus(void);
extern void qemu_plugin_register_vcpu_tb_exec_inline_per_vcpu(struct qemu_plugin_tb* block,
                                                              enum qemu_plugin_op operation,
                                                              qemu_plugin_u64 entry,
                                                              uint64_t value);
typedef qemu_plugin_u64 Counter;
static void count_runs(struct qemu_plugin_tb* block, Counter* counter) {
  counter->score = qemu_plugin_scoreboard_new(sizeof(uint64_t));
  counter->offset = 0;
  qemu_plugin_register_vcpu_tb_exec_inline_per_vcpu(block, QEMU_PLUGIN_INLINE_ADD_U64, *counter,
                                                    1);
}
static void counter_clear(Counter* counter) {
  for (int cpu = 0; cpu < qemu_plugin_num_vcpus(); ++cpu)
    qemu_plugin_u64_set(*counter, (unsigned int)cpu, 0);
}
static uint64_t counter_value(const Counter* counter) { return qemu_plugin_u64_sum(*counter); }
#endif

__attribute__((visibility("default"))) int qemu_plugin_version = QEMU_PLUGIN_API;

/* The system calls of kernel.c. */
enum { CALL_BEGIN = 77701, CALL_END = 77702, CALL_WARM = 77703, CALL_USED = 77704 };

typedef struct Block Block;

typedef struct {
  Block* block;
  Pace pace;
} Site;

struct Block {
  Block* next;
  uint64_t address, counted;
  Counter runs;
  size_t instructions, size;
  Misses misses;
  Site* sites; /* one for each instruction, if there are caches */
  unsigned char bytes[];
};

static Block* blocks;
static char path[4096];
static bool active = true, ended;

static void accessed(unsigned int cpu, qemu_plugin_meminfo_t info, uint64_t address, void* data) {
  (void)cpu;
  Site* site = data;
  if (active)
    caches_access(address, 1u << qemu_plugin_mem_size_shift(info), qemu_plugin_mem_is_store(info),
                  &site->pace, &site->block->misses);
}

static void translated(FIRST(struct qemu_plugin_tb* block) LAST) {
  IGNORE;
  size_t instructions = qemu_plugin_tb_n_insns(block), size = 0;
  for (size_t i = 0; i < instructions; ++i)
    size += qemu_plugin_insn_size(qemu_plugin_tb_get_insn(block, i));
  Block* entry = calloc(1, sizeof *entry + size);
  if (entry == NULL) abort();
  entry->address = qemu_plugin_tb_vaddr(block);
  entry->instructions = instructions;
  if (caches_levels() > 0) {
    entry->sites = calloc(instructions, sizeof *entry->sites);
    if (entry->sites == NULL) abort();
  }
  for (size_t i = 0; i < instructions; ++i) {
    struct qemu_plugin_insn* instruction = qemu_plugin_tb_get_insn(block, i);
    size_t bytes = qemu_plugin_insn_size(instruction);
    copy_bytes(entry->bytes + entry->size, instruction, bytes);
    entry->size += bytes;
    if (entry->sites != NULL) {
      entry->sites[i].block = entry;
      qemu_plugin_register_vcpu_mem_cb(instruction, accessed, QEMU_PLUGIN_CB_NO_REGS,
                                       QEMU_PLUGIN_MEM_RW, &entry->sites[i]);
    }
  }
  entry->next = blocks;
  blocks = entry;
  count_runs(block, &entry->runs);
}

/* Forget what was counted so far. */
static void begin(void) {
  for (Block* block = blocks; block != NULL; block = block->next) {
    counter_clear(&block->runs);
    memset(&block->misses, 0, sizeof block->misses);
  }
  active = true;
}

/* Keep what was counted, whatever comes. */
static void end(void) {
  for (Block* block = blocks; block != NULL; block = block->next)
    block->counted = counter_value(&block->runs);
  active = false;
  ended = true;
}

static void called(FIRST(unsigned int cpu, int64_t number, uint64_t address, uint64_t bytes,
                         uint64_t c, uint64_t d, uint64_t e, uint64_t f, uint64_t g,
                         uint64_t h) LAST) {
  IGNORE;
  (void)cpu, (void)c, (void)d, (void)e, (void)f, (void)g, (void)h;
  if (number == CALL_BEGIN) begin();
  if (number == CALL_END) end();
  if (number == CALL_USED && caches_levels() > 0) caches_place(address, bytes);
  if (number == CALL_WARM && caches_levels() > 0) {
    Pace pace = {0};
    Misses nobodys = {0};
    /* What the program did until now to have its arguments is none of the kernel's. */
    if (active) caches_clear();
    active = false;
    for (uint64_t at = address; at < address + bytes; at += 16)
      caches_access(at, 1, 0, &pace, &nobodys);
  }
}

static void finished(FIRST(void* data)) {
  (void)data;
#if QEMU_PLUGIN_API < 7
  (void)plugin;
#endif
  FILE* file = fopen(path, "w");
  if (file == NULL) return; /* whoever reads it will miss it */
  for (const Block* block = blocks; block != NULL; block = block->next) {
    uint64_t count = ended ? block->counted : counter_value(&block->runs);
    if (count == 0) continue;
    fprintf(file, "%" PRIx64 " %zu %" PRIu64 " ", block->address, block->instructions, count);
    for (size_t i = 0; i < block->size; ++i) fprintf(file, "%02x", block->bytes[i]);
    if (caches_levels() > 0) fprintf(file, " %" PRIu64, block->misses.accesses);
    for (int i = 0; i < caches_levels(); ++i)
      fprintf(file, " %" PRIu64 " %" PRIu64 " %" PRIu64, block->misses.misses[i],
              block->misses.ahead[i], block->misses.stored[i]);
    fputc('\n', file);
  }
  fputs("end\n", file); /* without it the file is incomplete */
  fclose(file);
}

__attribute__((visibility("default"))) int qemu_plugin_install(qemu_plugin_id_t id,
                                                               const qemu_info_t* info, int count,
                                                               char** arguments) {
  (void)info;
  for (int i = 0; i < count; ++i) {
    if (strncmp(arguments[i], "out=", 4) == 0)
      snprintf(path, sizeof path, "%s", arguments[i] + 4);
    if (strncmp(arguments[i], "caches=", 7) == 0 && !caches_set_up(arguments[i] + 7)) {
      fprintf(stderr, "counter: no caches: %s\n", arguments[i] + 7);
      return 1;
    }
  }
  if (path[0] == '\0') {
    fputs("counter: out=FILE is missing\n", stderr);
    return 1;
  }
  qemu_plugin_register_vcpu_tb_trans_cb(id, translated NO_DATA);
  qemu_plugin_register_vcpu_syscall_cb(id, called NO_DATA);
  qemu_plugin_register_atexit_cb(id, finished, NULL);
  return 0;
}
