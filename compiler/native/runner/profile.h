/* Times of every kernel call of an inference. */
#ifndef TILEWRIGHT_PROFILE_H_
#define TILEWRIGHT_PROFILE_H_

#include <stddef.h>

#include "ffi.h"
#include "tilewright.h"

typedef struct {
  char* name;
  double milliseconds; /* median of the runs */
} ProfiledCall;

typedef struct {
  ProfiledCall* calls; /* in the order of an inference */
  int count;
} Profile;

/* Run `runs` inferences with the virtual machine's instrument on, which stays on: nothing is to be
 * timed afterwards. */
int profile_run(tw_model* model, const tw_array* inputs, tw_array* outputs, int runs,
                Profile* profile, char* error, size_t room);
void profile_free(Profile* profile);

/* Have a function called before and after each call of the virtual machine; of model.c. */
int tw_instrument(tw_model* model, TVMFFIObjectHandle function);

#endif /* TILEWRIGHT_PROFILE_H_ */
