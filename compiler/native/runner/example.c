/* Load a deployed model, run it on zeros, and print the first numbers of its first output:
 *
 *     cc example.c -I. -L../lib -ltilewright -Wl,-rpath,'$ORIGIN/../lib' -o example
 *     ./example ..
 */
#include <stdio.h>
#include <stdlib.h>

#include "tilewright.h"

static int fail(void) {
  fprintf(stderr, "example: %s\n", tw_error());
  return 1;
}

int main(int count, char** words) {
  tw_model* model = tw_load(count > 1 ? words[1] : "..", 0);
  if (model == NULL) return fail();
  int inputs = tw_inputs(model);
  tw_array* given = calloc((size_t)inputs, sizeof *given);
  tw_array* results = calloc((size_t)tw_outputs(model), sizeof *results);
  for (int i = 0; i < inputs; ++i) {
    tw_describe_input(model, i, &given[i]);
    size_t elements = 1;
    for (int axis = 0; axis < given[i].rank; ++axis) {
      if (given[i].shape[axis] < 0) given[i].shape[axis] = 1; /* an extent that varies */
      elements *= (size_t)given[i].shape[axis];
    }
    given[i].data = calloc(elements, tw_dtype_bytes(given[i].dtype));
  }
  if (tw_run(model, given, results) != 0) return fail();
  printf("%s:", tw_output_name(model, 0));
  if (results[0].dtype == TW_FLOAT32)
    for (int i = 0; i < 4 && i < results[0].shape[results[0].rank - 1]; ++i)
      printf(" %g", ((const float*)results[0].data)[i]);
  printf("\n");
  for (int i = 0; i < inputs; ++i) free(given[i].data);
  free(given);
  free(results);
  tw_free(model);
  return 0;
}
