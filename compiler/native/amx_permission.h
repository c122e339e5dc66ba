/* Permission to use AMX tiles: Linux gives it to processes that ask. */
#ifndef TILEWRIGHT_AMX_PERMISSION_H_
#define TILEWRIGHT_AMX_PERMISSION_H_

#ifdef __cplusplus
extern "C" {
#endif

/* Asks once a process, for all of its threads; compiled modules that use AMX ask when they are
 * loaded. Returns 0 if tiles may be used, else the error number of the kernel's answer
 * (EOPNOTSUPP: this CPU has none; EINVAL: a kernel before 5.16; ENOSPC: a thread's alternate
 * signal stack is too small). Without permission the first tile instruction ends the process
 * with SIGILL. Safe to call from several threads. */
int tilewright_request_amx(void);

#ifdef __cplusplus
}
#endif

#endif /* TILEWRIGHT_AMX_PERMISSION_H_ */
