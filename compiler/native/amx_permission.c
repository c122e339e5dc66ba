/* See amx_permission.h. Plain C that is C++ too: any system compiler may link it. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "amx_permission.h"

#include <errno.h>

#if defined(__linux__) && defined(__x86_64__)
#include <sys/syscall.h>
#include <unistd.h>

/* From the kernel's asm/prctl.h; headers older than the kernel lack them. */
enum { TILEWRIGHT_REQ_XCOMP_PERM = 0x1023, TILEWRIGHT_XFEATURE_XTILEDATA = 18 };

int tilewright_request_amx(void) {
  static int answer = -1; /* the kernel gives the same answer each time: a race is harmless */
  int known = __atomic_load_n(&answer, __ATOMIC_ACQUIRE);
  if (known != 0) {
    long refused =
        syscall(SYS_arch_prctl, TILEWRIGHT_REQ_XCOMP_PERM, TILEWRIGHT_XFEATURE_XTILEDATA);
    known = refused ? errno : 0;
    __atomic_store_n(&answer, known, __ATOMIC_RELEASE);
  }
  return known;
}
#else
int tilewright_request_amx(void) { return ENOSYS; }
#endif

__attribute__((constructor)) static void tilewright_request_amx_on_load(void) {
  (void)tilewright_request_amx();
}
