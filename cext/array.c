/* How it works.
 *
 * One state for each place in the document. A state reads from a position in the piece and returns how far it
 * came, so a cut between any two bytes is no special case. Only structure is read: strings with their escapes,
 * brackets (one bit each remembers their kind), and commas at the depth of the array. What stands between two
 * commas is the decoder's to judge.
 *
 * An element that lies within one piece is handed out from where it lies; only one that is cut is copied.
 *
 * The first mistake is final, and it is the one at the lowest offset: an element is judged too long before
 * anything that stands beyond its limit is judged at all. So cuts change neither elements nor mistakes.
 */
#include "array.h"

/* The bytes that mean something: outside strings, in them, and those that only separate. */
enum { PLAIN, QUOTE, OPENS, CLOSES, COMMA };
static const unsigned char KIND[256] = {
    ['"'] = QUOTE, ['['] = OPENS, ['{'] = OPENS, [']'] = CLOSES, ['}'] = CLOSES, [','] = COMMA,
};

static bool is_space(char byte)
{
    return byte == ' ' || byte == '\n' || byte == '\r' || byte == '\t';
}

static const char *after_space(const char *at, const char *end)
{
    while (at < end && is_space(*at))
        at++;
    return at;
}

bool array_init(array_splitter *splitter, const char *key, size_t key_length, size_t limit)
{
    *splitter = (array_splitter){.limit = limit, .key_length = key_length};
    if (key == NULL)
        return true;
    splitter->key = malloc(key_length ? key_length : 1);
    if (splitter->key != NULL && key_length > 0)
        memcpy(splitter->key, key, key_length);
    return splitter->key != NULL;
}

void array_free(array_splitter *splitter)
{
    free(splitter->key);
    splitter->key = NULL;
    buffer_free(&splitter->element);
}

/* -- one call: the piece, and where it is handed to */

typedef struct {
    array_splitter *splitter;
    const char *start, *end;
    array_on_element on_element;
    void *context;
} piece;

/* Every state returns through this when the document is wrong; nothing is read after it. */
static const char *refuse(piece *in, array_mistake mistake, const char *at)
{
    in->splitter->mistake = mistake;
    in->splitter->mistake_offset = in->splitter->offset + (uint64_t)(at - in->start);
    return at;
}

static const char *become(piece *in, array_state state, const char *at)
{
    in->splitter->state = state;
    return at;
}

/* -- brackets */

static const char *push(piece *in, const char *at)
{
    array_splitter *splitter = in->splitter;
    if (splitter->depth == ARRAY_MAX_DEPTH)
        return refuse(in, ARRAY_TOO_DEEP, at);
    unsigned char bit = (unsigned char)(1u << (splitter->depth % 8));
    unsigned char *byte = &splitter->curly[splitter->depth / 8];
    *byte = (unsigned char)(*at == '{' ? *byte | bit : *byte & ~bit);
    splitter->depth++;
    return at + 1;
}

static const char *pop(piece *in, const char *at)
{
    array_splitter *splitter = in->splitter;
    size_t top = splitter->depth - 1; /* callers are inside at least one bracket */
    bool curly = (splitter->curly[top / 8] >> (top % 8)) & 1;
    if (curly != (*at == '}'))
        return refuse(in, ARRAY_BRACKET_MISMATCH, at);
    splitter->depth = top;
    return at + 1;
}

/* -- values */

static const char *rest_of_string(array_splitter *splitter, const char *at, const char *end)
{
    while (at < end) {
        if (splitter->escaped) {
            splitter->escaped = false;
        } else if (*at == '\\') {
            splitter->escaped = true;
        } else if (*at == '"') {
            splitter->in_string = false;
            return at + 1;
        }
        at++;
    }
    return at;
}

static const char *too_long(piece *in, const char *start, size_t room, const char *reached)
{
    return (size_t)(reached - start) > room ? refuse(in, ARRAY_ELEMENT_TOO_LONG, start + room) : NULL;
}

/* Where the comma or bracket is that ends the value, or the piece's end; `room` is what it may take of it. */
static const char *end_of_value(piece *in, const char *start, size_t room)
{
    array_splitter *splitter = in->splitter;
    const char *at = start, *end = in->end, *refused;
    while (at < end) {
        if (splitter->in_string) {
            at = rest_of_string(splitter, at, end);
            continue;
        }
        while (at < end && KIND[(unsigned char)*at] == PLAIN)
            at++;
        if (at == end)
            break;
        int kind = KIND[(unsigned char)*at];
        bool shallow = splitter->depth == splitter->base;
        if (shallow && (kind == COMMA || kind == CLOSES))
            break;
        if (kind == QUOTE) {
            splitter->in_string = true;
            at++;
        } else if (kind == COMMA) {
            at++;
        } else {
            if ((refused = too_long(in, start, room, at + 1)) != NULL)
                return refused;
            at = kind == OPENS ? push(in, at) : pop(in, at);
            if (splitter->mistake != ARRAY_FINE)
                return at;
        }
    }
    return (refused = too_long(in, start, room, at)) != NULL ? refused : at;
}

/* -- around the array */

static const char *begin_array(piece *in, const char *at)
{
    array_splitter *splitter = in->splitter;
    if (splitter->seen)
        return refuse(in, ARRAY_SECOND, at);
    if (*at != '[')
        return refuse(in, splitter->key ? ARRAY_VALUE_NOT_ARRAY : ARRAY_DOCUMENT_NOT_ARRAY, at);
    at = push(in, at);
    splitter->seen = true;
    splitter->base = splitter->depth;
    return become(in, ARRAY_BEFORE_FIRST_ELEMENT, at);
}

static const char *before_document(piece *in, const char *at)
{
    if (in->splitter->key == NULL)
        return begin_array(in, at);
    if (*at != '{')
        return refuse(in, ARRAY_DOCUMENT_NOT_OBJECT, at);
    return become(in, ARRAY_BEFORE_FIRST_NAME, push(in, at));
}

static const char *before_name(piece *in, const char *at)
{
    if (*at != '"')
        return refuse(in, ARRAY_NAME_MISSING, at);
    in->splitter->other_name = false;
    in->splitter->name_matched = 0;
    in->splitter->in_string = true;
    return become(in, ARRAY_IN_NAME, at + 1);
}

static const char *in_name(piece *in, const char *at)
{
    array_splitter *splitter = in->splitter;
    const char *end = rest_of_string(splitter, at, in->end);
    size_t length = (size_t)(end - at) - (splitter->in_string ? 0 : 1);
    /* An escape needs no look of its own: a key holds no backslash, so a name with one is another name. */
    if (length > splitter->key_length - splitter->name_matched ||
        memcmp(splitter->key + splitter->name_matched, at, length) != 0)
        splitter->other_name = true;
    if (!splitter->other_name)
        splitter->name_matched += length;
    return splitter->in_string ? end : become(in, ARRAY_BEFORE_COLON, end);
}

static const char *before_value(piece *in, const char *at)
{
    array_splitter *splitter = in->splitter;
    if (!splitter->other_name && splitter->name_matched == splitter->key_length)
        return begin_array(in, at);
    if (KIND[(unsigned char)*at] == COMMA || KIND[(unsigned char)*at] == CLOSES)
        return refuse(in, ARRAY_VALUE_MISSING, at);
    splitter->base = splitter->depth;
    return become(in, ARRAY_IN_OTHER_VALUE, at);
}

static const char *end_object(piece *in, const char *at)
{
    return become(in, ARRAY_AFTER_DOCUMENT, pop(in, at));
}

static const char *after_member(piece *in, const char *at)
{
    if (*at == ',')
        return become(in, ARRAY_BEFORE_NAME, at + 1);
    return KIND[(unsigned char)*at] == CLOSES ? end_object(in, at) : refuse(in, ARRAY_COMMA_MISSING, at);
}

/* -- the array */

static const char *end_array(piece *in, const char *at)
{
    return become(in, in->splitter->key ? ARRAY_AFTER_MEMBER : ARRAY_AFTER_DOCUMENT, pop(in, at));
}

static const char *before_element(piece *in, const char *at)
{
    return *at == ',' || *at == ']' ? refuse(in, ARRAY_EMPTY_ELEMENT, at) : become(in, ARRAY_IN_ELEMENT, at);
}

static bool hand_out(piece *in, const char *bytes, size_t length)
{
    while (is_space(bytes[length - 1])) /* an element begins with a byte that is not white space */
        length--;
    return in->on_element(in->context, bytes, length);
}

static const char *in_element(piece *in, const char *start)
{
    array_splitter *splitter = in->splitter;
    buffer *element = &splitter->element;
    const char *at = end_of_value(in, start, splitter->limit - element->length);
    if (splitter->mistake != ARRAY_FINE)
        return at;
    size_t length = (size_t)(at - start);
    bool cut = element->length > 0 || at == in->end;
    if (cut && !buffer_append(element, start, length))
        return refuse(in, ARRAY_NO_MEMORY, at);
    if (at == in->end)
        return at;
    const char *following = at + 1;
    if (*at == ',')
        splitter->state = ARRAY_BEFORE_ELEMENT;
    else if (following = end_array(in, at), splitter->mistake != ARRAY_FINE)
        return following;
    if (!hand_out(in, cut ? element->bytes : start, cut ? element->length : length))
        return refuse(in, ARRAY_NO_MEMORY, at);
    buffer_clear(element);
    return following;
}

/* -- the machine */

static const char *step(piece *in, const char *at)
{
    array_splitter *splitter = in->splitter;
    switch (splitter->state) {
    case ARRAY_IN_NAME:
        return in_name(in, at);
    case ARRAY_IN_ELEMENT:
        return in_element(in, at);
    case ARRAY_IN_OTHER_VALUE:
        at = end_of_value(in, at, SIZE_MAX);
        return splitter->mistake != ARRAY_FINE || at == in->end ? at : after_member(in, at);
    default: /* the others begin at a byte that is not white space */
        at = after_space(at, in->end);
        if (at == in->end)
            return at;
    }
    switch (splitter->state) {
    case ARRAY_BEFORE_DOCUMENT:
        return before_document(in, at);
    case ARRAY_BEFORE_FIRST_NAME:
        return *at == '}' ? end_object(in, at) : before_name(in, at);
    case ARRAY_BEFORE_NAME:
        return before_name(in, at);
    case ARRAY_BEFORE_COLON:
        return *at == ':' ? become(in, ARRAY_BEFORE_VALUE, at + 1) : refuse(in, ARRAY_COLON_MISSING, at);
    case ARRAY_BEFORE_VALUE:
        return before_value(in, at);
    case ARRAY_AFTER_MEMBER:
        return after_member(in, at);
    case ARRAY_BEFORE_FIRST_ELEMENT:
        return *at == ']' ? end_array(in, at) : before_element(in, at);
    case ARRAY_BEFORE_ELEMENT:
        return before_element(in, at);
    default:
        return refuse(in, ARRAY_TRAILING, at);
    }
}

array_mistake array_feed(array_splitter *splitter, const char *bytes, size_t length, array_on_element on_element,
                         void *context)
{
    if (length == 0)
        return splitter->mistake;
    piece in = {splitter, bytes, bytes + length, on_element, context};
    const char *at = bytes;
    while (splitter->mistake == ARRAY_FINE && at < in.end)
        at = step(&in, at);
    splitter->offset += length;
    if (splitter->mistake != ARRAY_FINE)
        buffer_free(&splitter->element);
    return splitter->mistake;
}

array_mistake array_close(array_splitter *splitter)
{
    if (splitter->mistake == ARRAY_FINE && !(splitter->state == ARRAY_AFTER_DOCUMENT && splitter->seen)) {
        bool whole = splitter->state == ARRAY_AFTER_DOCUMENT;
        splitter->mistake = whole ? ARRAY_NO_SUCH_MEMBER : ARRAY_CUT_OFF;
        splitter->mistake_offset = splitter->offset;
        buffer_free(&splitter->element);
    }
    return splitter->mistake;
}
