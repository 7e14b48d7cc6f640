/* An incremental framer for Server-Sent Events in plain C: bytes in, events out, any cut allowed.
 *
 * It knows nothing of Python. Events are handed to a callback; what they point to lives until it returns.
 */
#ifndef MOORING_SSE_H
#define MOORING_SSE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "buffer.h"

typedef struct {
    const char *bytes;
    size_t length;
} sse_text;

#define SSE_NOT_LISTED SIZE_MAX

typedef struct {
    sse_text type;  /* empty: the sender named none */
    size_t listed;  /* which of the wanted types this is, or SSE_NOT_LISTED */
    sse_text data;
} sse_event;

/* Returns false if it cannot take the event, which ends the framing like a failed allocation. */
typedef bool (*sse_on_event)(void *context, const sse_event *event);

/* The members up to `id` may be read; the rest is the machine's own. */
typedef struct {
    size_t limit;      /* the most bytes that one event may take */
    uint64_t skipped;  /* events over the limit */
    uint64_t unwanted; /* complete events of types that are not wanted */
    int64_t retry_ms;  /* what the sender asked for last; -1: nothing yet */
    buffer id;         /* the last event id */

    bool filter;       /* only the wanted types leave */
    sse_text *wanted;
    size_t wanted_count;
    char *wanted_bytes;

    bool failed;       /* memory ran out: nothing is read any more */
    bool started;      /* the byte order mark, if any, is behind us */
    size_t mark;       /* how many bytes of it have come */
    bool half_end;     /* the last piece ended in CR: an LF that follows belongs to it */

    bool skipping;     /* up to the next empty line */
    size_t kept;       /* bytes of the lines kept for the event being read; never above the limit */
    bool has_type, type_in_piece;
    sse_text type;     /* in the piece, or else in type_buffer */
    buffer type_buffer;
    bool has_data, data_in_piece;
    sse_text data;     /* in the piece, or else in data_buffer */
    buffer data_buffer;

    size_t line_length; /* bytes of the unfinished line; 1 while skipping, if there is one */
    bool in_data;       /* it is a data line, and its value goes straight into data_buffer */
    buffer line;        /* else: the line so far */
} sse_framer;

/* `wanted` (copied) may be NULL: then every event leaves. False if memory ran out; free it all the same. */
bool sse_init(sse_framer *framer, size_t limit, const sse_text *wanted, size_t wanted_count);
void sse_free(sse_framer *framer);

/* Reads the next piece. False if memory ran out or the callback refused, now or earlier. */
bool sse_feed(sse_framer *framer, const char *bytes, size_t length, sse_on_event on_event, void *context);

#endif
