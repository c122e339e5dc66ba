#include "rpc.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include "ffi.h"

/* The handshake of TVM's RPC (python/tvm/rpc/base.py of the pinned release). */
enum { MAGIC = 0xFF271, MISMATCH = MAGIC + 2, LONGEST_KEY = 4096, PATH = 4096, MESSAGE = 512 };

static char folder[PATH];

static int receive(int connection, void* data, size_t bytes) {
  char* at = data;
  while (bytes > 0) {
    ssize_t got = recv(connection, at, bytes, 0);
    if (got <= 0) return 1;
    at += got;
    bytes -= (size_t)got;
  }
  return 0;
}

static int transmit(int connection, const void* data, size_t bytes) {
  const char* at = data;
  while (bytes > 0) {
    ssize_t sent = send(connection, at, bytes, MSG_NOSIGNAL);
    if (sent <= 0) return 1;
    at += sent;
    bytes -= (size_t)sent;
  }
  return 0;
}

/* A client says "client:..."; the answer is this server's own key. The client's may end with
 * " -timeout=SECONDS", the longest that its session may take. */
static int shake(int connection, int* limit_ms) {
  static const char own[] = "server:tilewright";
  int32_t magic = 0, length = 0, size = sizeof own - 1;
  char key[LONGEST_KEY + 1];
  if (receive(connection, &magic, 4) || magic != MAGIC) return 1;
  if (receive(connection, &length, 4) || length < 7 || length > LONGEST_KEY) return 1;
  if (receive(connection, key, (size_t)length)) return 1;
  key[length] = '\0';
  const char* limit = strstr(key, "-timeout=");
  double seconds = limit != NULL ? atof(limit + strlen("-timeout=")) : 0;
  *limit_ms = seconds > 0 && seconds < 1e6 ? (int)(1e3 * seconds) : -1;
  if (strncmp(key, "client:", 7) != 0) {
    int32_t mismatch = MISMATCH;
    transmit(connection, &mismatch, 4);
    return 1;
  }
  return transmit(connection, &magic, 4) || transmit(connection, &size, 4) ||
         transmit(connection, own, (size_t)size);
}

static int refuse(const char* message) {
  TVMFFIErrorSetRaisedFromCStr("RPCError", message);
  return -1;
}

/* Files stay in the connection's own folder, whatever name the client gives. */
static int inside(const TVMFFIAny* name, char* path) {
  int64_t length = -1;
  const char* text = ffi_bytes(name, &length);
  if (length < 0) return refuse("a file's name is expected");
  const char* last = text + length;
  while (last > text && last[-1] != '/') --last;
  int rest = (int)(text + length - last);
  if (rest == 0 || (last[0] == '.' && (rest == 1 || (rest == 2 && last[1] == '.'))))
    return refuse("that is no file's name");
  if (snprintf(path, PATH, "%s/%.*s", folder, rest, last) >= PATH)
    return refuse("a file's name is too long");
  return 0;
}

static int give_text(const char* text, TVMFFIAny* result) {
  TVMFFIByteArray bytes = {text, strlen(text)};
  return TVMFFIStringFromByteArray(&bytes, result);
}

static int workpath(void* self, const TVMFFIAny* arguments, int32_t count, TVMFFIAny* result) {
  (void)self;
  char path[PATH];
  if (count != 1) return refuse("one argument is expected");
  return inside(&arguments[0], path) ? -1 : give_text(path, result);
}

static int load_module(void* self, const TVMFFIAny* arguments, int32_t count, TVMFFIAny* result) {
  (void)self;
  char path[PATH], error[MESSAGE];
  if (count != 1) return refuse("one argument is expected");
  if (inside(&arguments[0], path)) return -1;
  TVMFFIAny argument = ffi_text(path);
  if (ffi_call_global("ffi.ModuleLoadFromFile", &argument, 1, result, error, sizeof error) == 0)
    return 0;
  return refuse(error);
}

static int upload(void* self, const TVMFFIAny* arguments, int32_t count, TVMFFIAny* result) {
  (void)self;
  (void)result;
  char path[PATH];
  int64_t length = -1;
  if (count != 2) return refuse("two arguments are expected");
  if (inside(&arguments[0], path)) return -1;
  const char* data = ffi_bytes(&arguments[1], &length);
  if (length < 0) return refuse("bytes are expected");
  FILE* file = fopen(path, "wb");
  int written = file != NULL && fwrite(data, 1, (size_t)length, file) == (size_t)length;
  if (file != NULL && fclose(file) != 0) written = 0;
  return written ? 0 : refuse("the file cannot be written: is the disk full?");
}

static int download(void* self, const TVMFFIAny* arguments, int32_t count, TVMFFIAny* result) {
  (void)self;
  char path[PATH];
  if (count != 1) return refuse("one argument is expected");
  if (inside(&arguments[0], path)) return -1;
  FILE* file = fopen(path, "rb");
  if (file == NULL) return refuse("there is no such file");
  fseek(file, 0, SEEK_END);
  long size = ftell(file);
  rewind(file);
  char* data = size >= 0 ? malloc((size_t)size + 1) : NULL;
  int status = -1;
  if (data != NULL && fread(data, 1, (size_t)size, file) == (size_t)size) {
    TVMFFIByteArray bytes = {data, (size_t)size};
    status = TVMFFIBytesFromByteArray(&bytes, result);
  } else {
    refuse("the file cannot be read");
  }
  free(data);
  fclose(file);
  return status;
}

static int remove_file(void* self, const TVMFFIAny* arguments, int32_t count, TVMFFIAny* result) {
  (void)self;
  (void)result;
  char path[PATH];
  if (count != 1) return refuse("one argument is expected");
  if (inside(&arguments[0], path)) return -1;
  remove(path);
  return 0;
}

static int set(const char* name, TVMFFISafeCallType call) {
  TVMFFIObjectHandle function = NULL;
  TVMFFIByteArray key = {name, strlen(name)};
  if (TVMFFIFunctionCreate(NULL, call, NULL, &function) != 0) return 1;
  int status = TVMFFIFunctionSetGlobal(&key, function, 1);
  TVMFFIObjectDecRef(function);
  return status;
}

static int serve_in_child(int connection) {
  char error[MESSAGE];
  if (set("tvm.rpc.server.workpath", workpath) || set("tvm.rpc.server.load_module", load_module) ||
      set("tvm.rpc.server.upload", upload) || set("tvm.rpc.server.download", download) ||
      set("tvm.rpc.server.remove", remove_file))
    return 1;
  TVMFFIAny argument = ffi_int(connection), result;
  if (ffi_call_global("rpc.ServerLoop", &argument, 1, &result, error, sizeof error) == 0) return 0;
  fprintf(stderr, "run: %s\n", error);
  return 1;
}

static void remove_folder(void) {
  DIR* listing = opendir(folder);
  if (listing != NULL) {
    for (struct dirent* entry = readdir(listing); entry != NULL; entry = readdir(listing)) {
      char path[PATH + 256];
      snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
      remove(path); /* not "." and "..", which are not empty */
    }
    closedir(listing);
  }
  rmdir(folder);
}

/* Whether standard input has ended; what it says is ignored. */
static int input_ended(void) {
  char ignored[256];
  return read(STDIN_FILENO, ignored, sizeof ignored) <= 0;
}

/* Wait until a descriptor has something to say, which is 1, standard input has ended, if that
 * matters, which is 2, or a time has passed, which is 0. */
static int await(int descriptor, int tied, int limit_ms) {
  struct pollfd watched[] = {{descriptor, POLLIN, 0}, {STDIN_FILENO, POLLIN, 0}};
  for (;;) {
    int ready = poll(watched, tied ? 2 : 1, limit_ms);
    if (ready < 0 && errno != EINTR) return 1;
    if (ready == 0) return 0;
    if (ready > 0 && watched[0].revents) return 1;
    if (ready > 0 && tied && watched[1].revents && input_ended()) return 2;
  }
}

/* One connection in a process of its own: a crashing kernel ends nothing else, and one that never
 * ends is killed after its session's time. 1 if standard input has ended. */
static int serve(int connection, int limit_ms, int tied) {
  const char* root = getenv("TMPDIR");
  snprintf(folder, sizeof folder, "%s/tilewright-rpc-XXXXXX", root ? root : "/tmp");
  if (mkdtemp(folder) == NULL) {
    fprintf(stderr, "run: no temporary folder: %s\n", strerror(errno));
    close(connection);
    return 0;
  }
  int alive[2] = {-1, -1}, status = 0, outcome = 1;
  pid_t child = pipe(alive) == 0 ? fork() : -1;
  if (child == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    close(alive[0]); /* the other end closes with this process */
    _exit(serve_in_child(connection));
  }
  close(connection);
  if (alive[1] >= 0) close(alive[1]);
  if (child > 0) {
    outcome = await(alive[0], tied, limit_ms);
    if (outcome != 1) kill(child, SIGKILL);
    waitpid(child, &status, 0);
  }
  if (alive[0] >= 0) close(alive[0]);
  remove_folder();
  if (outcome == 0)
    fprintf(stderr, "run: a connection took more than %d s\n", limit_ms / 1000);
  else if (child < 0 || (outcome == 1 && status != 0))
    fprintf(stderr, "run: a connection ended with status %d\n", status);
  return outcome == 2;
}

int rpc_serve(const char* host, int port, int tied, char* error, size_t room) {
  struct sockaddr_in address = {0};
  if (!ffi_has_global("rpc.ServerLoop")) {
    snprintf(error, room, "this build of TVM's runtime has no RPC");
    return 1;
  }
  address.sin_family = AF_INET;
  address.sin_port = htons((uint16_t)port);
  if (port > 65535 || inet_pton(AF_INET, host, &address.sin_addr) != 1) {
    snprintf(error, room, "%s:%d is no IPv4 address and port", host, port);
    return 1;
  }
  int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), yes = 1;
  setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
  if (listener < 0 || bind(listener, (struct sockaddr*)&address, sizeof address) != 0 ||
      listen(listener, 4) != 0) {
    snprintf(error, room, "cannot listen on %s:%d: %s", host, port, strerror(errno));
    return 1;
  }
  signal(SIGPIPE, SIG_IGN);
  printf("listening on %s:%d\n", host, port);
  fflush(stdout);
  for (;;) {
    if (await(listener, tied, -1) == 2) return 0;
    int limit_ms = -1, connection = accept(listener, NULL, NULL);
    if (connection < 0) continue;
    setsockopt(connection, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    /* A client that says nothing must not keep others waiting. */
    struct timeval limit = {10, 0}, none = {0, 0};
    setsockopt(connection, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    int welcome = shake(connection, &limit_ms) == 0;
    setsockopt(connection, SOL_SOCKET, SO_RCVTIMEO, &none, sizeof none);
    if (!welcome)
      close(connection);
    else if (serve(connection, limit_ms, tied))
      return 0;
  }
}
