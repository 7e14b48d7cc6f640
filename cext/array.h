/* Cuts the elements of one JSON array out of a document that arrives in pieces, in plain C, undecoded.
 *
 * It knows nothing of Python. Elements are handed to a callback; their bytes live until it returns.
 */
#ifndef MOORING_ARRAY_H
#define MOORING_ARRAY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "buffer.h"

enum { ARRAY_MAX_DEPTH = 512 };

typedef enum {
    ARRAY_FINE,
    ARRAY_NO_MEMORY, /* or the callback refused */
    ARRAY_DOCUMENT_NOT_ARRAY,
    ARRAY_DOCUMENT_NOT_OBJECT,
    ARRAY_NAME_MISSING,
    ARRAY_COLON_MISSING,
    ARRAY_VALUE_MISSING,
    ARRAY_COMMA_MISSING,
    ARRAY_VALUE_NOT_ARRAY,
    ARRAY_SECOND,
    ARRAY_EMPTY_ELEMENT,
    ARRAY_BRACKET_MISMATCH,
    ARRAY_TOO_DEEP,
    ARRAY_ELEMENT_TOO_LONG,
    ARRAY_TRAILING,
    ARRAY_CUT_OFF,
    ARRAY_NO_SUCH_MEMBER,
} array_mistake;

typedef enum {
    ARRAY_BEFORE_DOCUMENT,
    ARRAY_BEFORE_FIRST_NAME,
    ARRAY_BEFORE_NAME,
    ARRAY_IN_NAME,
    ARRAY_BEFORE_COLON,
    ARRAY_BEFORE_VALUE,
    ARRAY_IN_OTHER_VALUE,
    ARRAY_AFTER_MEMBER,
    ARRAY_BEFORE_FIRST_ELEMENT,
    ARRAY_BEFORE_ELEMENT,
    ARRAY_IN_ELEMENT,
    ARRAY_AFTER_DOCUMENT,
} array_state;

typedef bool (*array_on_element)(void *context, const char *bytes, size_t length);

/* `mistake`, `mistake_offset` and `limit` may be read; the rest is the machine's own. */
typedef struct {
    array_mistake mistake;
    uint64_t mistake_offset; /* bytes from the document's start */
    size_t limit;            /* the most bytes that one element may take */

    char *key;               /* NULL: the document itself is the array */
    size_t key_length;
    array_state state;
    uint64_t offset;         /* of the piece being read */
    bool in_string, escaped;
    bool other_name;         /* the member's name differs from the key */
    size_t name_matched;     /* how much of the key it has repeated so far */
    bool seen;               /* the array has begun */
    size_t depth, base;      /* open brackets; those around the value being read */
    buffer element;          /* what earlier pieces held of the element being read */
    unsigned char curly[ARRAY_MAX_DEPTH / 8]; /* one bit for each open bracket: is it a curly one? */
} array_splitter;

/* `key` is copied. False if memory ran out; free it all the same. */
bool array_init(array_splitter *splitter, const char *key, size_t key_length, size_t limit);
void array_free(array_splitter *splitter);

/* Reads the next piece; what went wrong, now or earlier, or ARRAY_FINE. */
array_mistake array_feed(array_splitter *splitter, const char *bytes, size_t length, array_on_element on_element,
                         void *context);

/* The document has ended. */
array_mistake array_close(array_splitter *splitter);

#endif
