/* Asks QEMU which version of its interface for plugins it has: it refuses a plugin for one that it
 * does not know yet, and says which is the newest that it does know. */
__attribute__((visibility("default"))) int qemu_plugin_version = 1000000;

__attribute__((visibility("default"))) int qemu_plugin_install(void) { return 1; }
