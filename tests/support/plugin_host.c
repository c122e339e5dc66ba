/* Stands for QEMU: has one version of its interface for plugins, and runs two blocks of code.
 *
 *     plugin_host PLUGIN ARGUMENT...
 *
 * Block A has two instructions, the first of which reads memory, block B has one. A counts from
 * where the program says so: A runs 7 times then and B once, with other runs before and after. */
#include <dlfcn.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct qemu_plugin_insn {
  unsigned char bytes[4];
  void (*read)(unsigned int, uint32_t, uint64_t, void*);
  void* data;
};
struct qemu_plugin_tb {
  uint64_t address;
  size_t instructions;
  struct qemu_plugin_insn instruction[2];
  uint64_t *counter, value;
};

static void *translated, *called, *finished;

#if API < 7
#define SYSCALL(cpu, ...) \
  ((void (*)(uint64_t, unsigned, int64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, \
             uint64_t, uint64_t, uint64_t))called)(42, cpu, __VA_ARGS__, 0, 0, 0, 0, 0, 0)
#define TRANSLATED(block) ((void (*)(uint64_t, struct qemu_plugin_tb*))translated)(42, block)
#define FINISHED() ((void (*)(uint64_t, void*))finished)(42, NULL)
void qemu_plugin_register_vcpu_tb_trans_cb(uint64_t id, void* call) {
  (void)id, translated = call;
}
void qemu_plugin_register_vcpu_syscall_cb(uint64_t id, void* call) { (void)id, called = call; }
#else
#define SYSCALL(cpu, ...) \
  ((void (*)(unsigned, int64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, \
             uint64_t, uint64_t, void*))called)(cpu, __VA_ARGS__, 0, 0, 0, 0, 0, 0, NULL)
#define TRANSLATED(block) ((void (*)(struct qemu_plugin_tb*, void*))translated)(block, NULL)
#define FINISHED() ((void (*)(void*))finished)(NULL)
void qemu_plugin_register_vcpu_tb_trans_cb(uint64_t id, void* call, void* data) {
  (void)id, (void)data, translated = call;
}
void qemu_plugin_register_vcpu_syscall_cb(uint64_t id, void* call, void* data) {
  (void)id, (void)data, called = call;
}
#endif

void qemu_plugin_register_atexit_cb(uint64_t id, void* call, void* data) {
  (void)id, (void)data, finished = call;
}
void qemu_plugin_register_vcpu_mem_cb(struct qemu_plugin_insn* instruction,
                                      void (*call)(unsigned int, uint32_t, uint64_t, void*),
                                      int flags, int kind, void* data) {
  (void)flags, (void)kind;
  instruction->read = call;
  instruction->data = data;
}
unsigned int qemu_plugin_mem_size_shift(uint32_t info) { return info; }
bool qemu_plugin_mem_is_store(uint32_t info) { return (void)info, false; }
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb* block) { return block->instructions; }
uint64_t qemu_plugin_tb_vaddr(const struct qemu_plugin_tb* block) { return block->address; }
struct qemu_plugin_insn* qemu_plugin_tb_get_insn(struct qemu_plugin_tb* block, size_t index) {
  return &block->instruction[index];
}
size_t qemu_plugin_insn_size(const struct qemu_plugin_insn* instruction) {
  return sizeof instruction->bytes;
}
#if API < 3
const void* qemu_plugin_insn_data(const struct qemu_plugin_insn* instruction) {
  return instruction->bytes;
}
#else
size_t qemu_plugin_insn_data(const struct qemu_plugin_insn* instruction, void* to, size_t bytes) {
  memcpy(to, instruction->bytes, bytes);
  return bytes;
}
#endif
#if API < 2
void qemu_plugin_register_vcpu_tb_exec_inline(struct qemu_plugin_tb* block, int operation,
                                              void* counter, uint64_t value) {
  (void)operation, block->counter = counter, block->value = value;
}
#else
typedef struct {
  uint64_t* score; /* of two processors */
  size_t offset;
} qemu_plugin_u64;
void* qemu_plugin_scoreboard_new(size_t size) { return calloc(2, size); }
uint64_t qemu_plugin_u64_sum(qemu_plugin_u64 entry) { return entry.score[0] + entry.score[1]; }
void qemu_plugin_u64_set(qemu_plugin_u64 entry, unsigned int cpu, uint64_t value) {
  entry.score[cpu] = value;
}
int qemu_plugin_num_vcpus(void) { return 2; }
void qemu_plugin_register_vcpu_tb_exec_inline_per_vcpu(struct qemu_plugin_tb* block, int operation,
                                                       qemu_plugin_u64 entry, uint64_t value) {
  (void)operation, block->counter = entry.score, block->value = value;
}
#endif

static struct qemu_plugin_tb blocks[2] = {
    {.address = 0x1000, .instructions = 2, .instruction = {{.bytes = {1, 2, 3, 4}}, {.bytes = {5}}}},
    {.address = 0x2000, .instructions = 1, .instruction = {{.bytes = {9}}}},
};

static void run(int a, int b) {
  for (int i = 0; i < a; ++i) {
    blocks[0].counter[API < 2 ? 0 : i % 2] += blocks[0].value;
    struct qemu_plugin_insn* reads = &blocks[0].instruction[0];
    if (reads->read != NULL) reads->read(0, 3, 64u * (unsigned)i, reads->data);
  }
  for (int i = 0; i < b; ++i) *blocks[1].counter += blocks[1].value;
}

int main(int count, char** words) {
  void* plugin = count > 2 ? dlopen(words[1], RTLD_NOW) : NULL;
  if (plugin == NULL) return fprintf(stderr, "%s\n", dlerror()), 1;
  if (*(int*)dlsym(plugin, "qemu_plugin_version") != API) return fputs("version\n", stderr), 1;
  int (*install)(uint64_t, const void*, int, char**) =
      (int (*)(uint64_t, const void*, int, char**))dlsym(plugin, "qemu_plugin_install");
  if (install(42, NULL, count - 2, words + 2) != 0) return 1;
  TRANSLATED(&blocks[0]);
  TRANSLATED(&blocks[1]);
  run(3, 5);
  SYSCALL(0, 77701, 0, 0);
  run(7, 1);
  SYSCALL(0, 77702, 0, 0);
  run(100, 100);
  FINISHED();
  return 0;
}
