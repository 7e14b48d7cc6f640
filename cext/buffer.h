/* A growable run of bytes, shared by the two machines of this folder.
 *
 * It grows by doubling and gives large memory back when it is emptied: one event of 16 MiB must not cost
 * 16 MiB for as long as the connection lives. How large it may become, its owner decides.
 */
#ifndef MOORING_BUFFER_H
#define MOORING_BUFFER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* What is given out first, what is kept when emptied, and who gives. Tests set them to meet every path soon. */
#ifndef BUFFER_FIRST
#define BUFFER_FIRST 1024
#define BUFFER_KEPT 65536
#define BUFFER_REALLOC realloc
#endif

typedef struct {
    char *bytes;
    size_t length;
    size_t capacity;
} buffer;

static inline void buffer_free(buffer *buf)
{
    free(buf->bytes);
    buf->bytes = NULL;
    buf->length = buf->capacity = 0;
}

static inline void buffer_clear(buffer *buf)
{
    buf->length = 0;
    if (buf->capacity > BUFFER_KEPT)
        buffer_free(buf);
}

/* False if memory ran out; then the buffer is as it was. */
static inline bool buffer_reserve(buffer *buf, size_t more)
{
    if (more <= buf->capacity - buf->length)
        return true;
    if (more > SIZE_MAX / 2 - buf->length)
        return false;
    size_t needed = buf->length + more;
    size_t capacity = buf->capacity ? buf->capacity : BUFFER_FIRST;
    while (capacity < needed)
        capacity *= 2; /* cannot overflow: needed is at most SIZE_MAX / 2 */
    char *bytes = BUFFER_REALLOC(buf->bytes, capacity);
    if (bytes == NULL)
        return false;
    buf->bytes = bytes;
    buf->capacity = capacity;
    return true;
}

static inline bool buffer_append(buffer *buf, const char *bytes, size_t length)
{
    if (!buffer_reserve(buf, length))
        return false;
    if (length > 0) /* memcpy wants pointers that are not null even then */
        memcpy(buf->bytes + buf->length, bytes, length);
    buf->length += length;
    return true;
}

#endif
