/* TVM's RPC, served by this process: another machine uploads modules, runs and times them here. */
#ifndef TILEWRIGHT_RPC_H_
#define TILEWRIGHT_RPC_H_

#include <stddef.h>

/* Serve until killed, or, if tied, until standard input ends: each connection in a process and a
 * folder of its own, which is removed afterwards. Prints "listening on HOST:PORT" when ready;
 * returns 0 when standard input has ended, else with an error. */
int rpc_serve(const char* host, int port, int tied, char* error, size_t room);

#endif /* TILEWRIGHT_RPC_H_ */
