/* A plugin of QEMU's user-mode emulator: how often each block of translated code ran.
 *
 *     qemu-aarch64 -plugin libcounter.so,out=FILE ...
 *
 * At exit it writes one line for each block: its address, its number of instructions, how often it
 * ran, and its bytes, all in hexadecimal but the counts. Distributions ship no header for plugins,
 * so that the few declarations needed of version 1 of the interface (QEMU 4.2 and later,
 * docs/devel/tcg-plugins) are written out here. One thread is counted exactly; several are not. */
#include <inttypes.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef uint64_t qemu_plugin_id_t;
typedef struct qemu_info_t qemu_info_t;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
enum qemu_plugin_op { QEMU_PLUGIN_INLINE_ADD_U64 };

extern void qemu_plugin_register_vcpu_tb_trans_cb(
    qemu_plugin_id_t id, void (*call)(qemu_plugin_id_t, struct qemu_plugin_tb*));
extern void qemu_plugin_register_vcpu_tb_exec_inline(struct qemu_plugin_tb* block,
                                                     enum qemu_plugin_op operation, void* pointer,
                                                     uint64_t value);
extern void qemu_plugin_register_atexit_cb(qemu_plugin_id_t id,
                                           void (*call)(qemu_plugin_id_t, void*), void* data);
extern size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb* block);
extern uint64_t qemu_plugin_tb_vaddr(const struct qemu_plugin_tb* block);
extern struct qemu_plugin_insn* qemu_plugin_tb_get_insn(const struct qemu_plugin_tb* block,
                                                        size_t index);
extern const void* qemu_plugin_insn_data(const struct qemu_plugin_insn* instruction);
extern size_t qemu_plugin_insn_size(const struct qemu_plugin_insn* instruction);

__attribute__((visibility("default"))) int qemu_plugin_version = 1;

typedef struct Block {
  struct Block* next;
  uint64_t address, count;
  size_t instructions, size;
  unsigned char bytes[];
} Block;

static Block* blocks;
static char path[4096];

static void translated(qemu_plugin_id_t id, struct qemu_plugin_tb* block) {
  (void)id;
  size_t instructions = qemu_plugin_tb_n_insns(block), size = 0;
  for (size_t i = 0; i < instructions; ++i)
    size += qemu_plugin_insn_size(qemu_plugin_tb_get_insn(block, i));
  Block* entry = calloc(1, sizeof *entry + size);
  if (entry == NULL) abort();
  entry->address = qemu_plugin_tb_vaddr(block);
  entry->instructions = instructions;
  for (size_t i = 0; i < instructions; ++i) {
    struct qemu_plugin_insn* instruction = qemu_plugin_tb_get_insn(block, i);
    size_t bytes = qemu_plugin_insn_size(instruction);
    memcpy(entry->bytes + entry->size, qemu_plugin_insn_data(instruction), bytes);
    entry->size += bytes;
  }
  entry->next = blocks;
  blocks = entry;
  qemu_plugin_register_vcpu_tb_exec_inline(block, QEMU_PLUGIN_INLINE_ADD_U64, &entry->count, 1);
}

static void finished(qemu_plugin_id_t id, void* data) {
  (void)id;
  (void)data;
  FILE* file = fopen(path, "w");
  if (file == NULL) return; /* whoever reads it will miss it */
  for (const Block* block = blocks; block != NULL; block = block->next) {
    if (block->count == 0) continue;
    fprintf(file, "%" PRIx64 " %zu %" PRIu64 " ", block->address, block->instructions,
            block->count);
    for (size_t i = 0; i < block->size; ++i) fprintf(file, "%02x", block->bytes[i]);
    fputc('\n', file);
  }
  fputs("end\n", file); /* without it the file is incomplete */
  fclose(file);
}

__attribute__((visibility("default"))) int qemu_plugin_install(qemu_plugin_id_t id,
                                                               const qemu_info_t* info, int count,
                                                               char** arguments) {
  (void)info;
  for (int i = 0; i < count; ++i)
    if (strncmp(arguments[i], "out=", 4) == 0)
      snprintf(path, sizeof path, "%s", arguments[i] + 4);
  if (path[0] == '\0') {
    fputs("counter: out=FILE is missing\n", stderr);
    return 1;
  }
  qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
  qemu_plugin_register_atexit_cb(id, finished, NULL);
  return 0;
}
