/* What both harnesses share: a log of everything a machine handed out, and cuts that follow from the input.
 *
 * The property is always the same: the log of the bytes fed whole equals the log of the same bytes fed in pieces.
 * Every piece is a fresh allocation of exactly its size, so that reading one byte too far is seen. Buffers begin
 * small and are given back early, so that short inputs make them grow, move and go; and an allocation can be
 * made to fail.
 */
#ifndef MOORING_FUZZ_OUTCOME_H
#define MOORING_FUZZ_OUTCOME_H

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "../../cext/buffer.h"

static long allocations_left = -1; /* until one fails; negative: none does */

void *failing_realloc(void *bytes, size_t size)
{
    if (allocations_left == 0)
        return NULL;
    if (allocations_left > 0)
        allocations_left--;
    return realloc(bytes, size);
}

#define INSIST(condition)                                                                                       \
    do {                                                                                                        \
        if (!(condition)) {                                                                                     \
            fprintf(stderr, "%s:%d: does not hold: %s\n", __FILE__, __LINE__, #condition);                      \
            abort();                                                                                            \
        }                                                                                                       \
    } while (0)

/* An input is at most 4096 bytes long, and each of them leaves at most one length and itself. */
typedef struct {
    size_t length;
    char bytes[1 << 17];
} record;

static void log_raw(record *log, const void *bytes, size_t length)
{
    INSIST(length <= sizeof log->bytes - log->length);
    if (length > 0)
        memcpy(log->bytes + log->length, bytes, length);
    log->length += length;
}

static void log_bytes(record *log, const char *bytes, size_t length)
{
    log_raw(log, &length, sizeof length);
    log_raw(log, bytes, length);
}

static void log_number(record *log, uint64_t number)
{
    log_raw(log, &number, sizeof number);
}

static void insist_equal(const record *one, const record *other)
{
    INSIST(one->length == other->length && memcmp(one->bytes, other->bytes, one->length) == 0);
}

/* How many bytes the next piece takes; `seed` moves on. One byte and a few are as likely as many. */
static size_t next_piece(uint32_t *seed, size_t left)
{
    static const unsigned char SIZES[8] = {1, 1, 2, 3, 5, 11, 40, 200};
    *seed = *seed * 1664525u + 1013904223u;
    size_t size = SIZES[*seed >> 29];
    return size < left ? size : left;
}

/* A piece of its own; free it. */
static char *piece_of(const char *bytes, size_t length)
{
    char *piece = malloc(length);
    INSIST(piece != NULL);
    memcpy(piece, bytes, length);
    return piece;
}

#endif
