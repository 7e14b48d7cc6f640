/* Included before everything else when the fuzzed core is compiled: see outcome.h. */
#include <stddef.h>

void *failing_realloc(void *bytes, size_t size);

#define BUFFER_FIRST 16
#define BUFFER_KEPT 64
#define BUFFER_REALLOC failing_realloc
