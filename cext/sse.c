/* How it works.
 *
 * A line that lies within one piece is read where it lies: the event keeps pointers into the piece and, if it
 * ends there too, is handed out without having been copied. Only what is still unfinished when a piece ends
 * is copied: type and data into their buffers, the unfinished line into `line`. There is one shortcut, for
 * large events: once an unfinished line is known to be a data line, its value goes straight into the data
 * buffer, so that each byte of it is copied into it once, however many pieces it takes.
 *
 * Invariant: kept + line_length <= limit unless skipping. All memory is bounded by it, and it depends only
 * on the bytes of the stream, never on the cuts: a line is judged by how much of it there is, whether its
 * end has come or not.
 */
#include "sse.h"

static const char MARK[] = {'\xef', '\xbb', '\xbf'};

bool sse_init(sse_framer *framer, size_t limit, const sse_text *wanted, size_t wanted_count)
{
    *framer = (sse_framer){.limit = limit, .retry_ms = -1, .filter = wanted != NULL};
    size_t total = 0;
    for (size_t i = 0; i < wanted_count; i++) {
        if (wanted[i].length > SIZE_MAX - total)
            return false;
        total += wanted[i].length;
    }
    framer->wanted = calloc(wanted_count + 1, sizeof *framer->wanted);
    framer->wanted_bytes = malloc(total ? total : 1);
    if (framer->wanted == NULL || framer->wanted_bytes == NULL)
        return false;
    char *to = framer->wanted_bytes;
    for (size_t i = 0; i < wanted_count; i++) {
        if (wanted[i].length > 0)
            memcpy(to, wanted[i].bytes, wanted[i].length);
        framer->wanted[i] = (sse_text){to, wanted[i].length};
        to += wanted[i].length;
    }
    framer->wanted_count = wanted_count;
    return true;
}

void sse_free(sse_framer *framer)
{
    free(framer->wanted);
    free(framer->wanted_bytes);
    framer->wanted = NULL;
    framer->wanted_bytes = NULL;
    buffer_free(&framer->id);
    buffer_free(&framer->type_buffer);
    buffer_free(&framer->data_buffer);
    buffer_free(&framer->line);
}

/* -- the event being read */

static void begin_event(sse_framer *framer)
{
    framer->has_type = framer->type_in_piece = false;
    framer->has_data = framer->data_in_piece = false;
    framer->kept = 0;
    framer->skipping = false;
    buffer_clear(&framer->type_buffer);
    buffer_clear(&framer->data_buffer);
}

static void skip_event(sse_framer *framer)
{
    begin_event(framer);
    buffer_clear(&framer->line);
    framer->in_data = false;
    framer->skipping = true;
    framer->skipped++;
}

static size_t listed(const sse_framer *framer, sse_text type)
{
    for (size_t i = 0; i < framer->wanted_count; i++) {
        sse_text name = framer->wanted[i];
        if (name.length == type.length && memcmp(name.bytes, type.bytes, type.length) == 0)
            return i;
    }
    return SSE_NOT_LISTED;
}

static bool dispatch(sse_framer *framer, sse_on_event on_event, void *context)
{
    sse_event event = {{"", 0}, SSE_NOT_LISTED, framer->data};
    if (framer->has_type)
        event.type = framer->type_in_piece
                         ? framer->type
                         : (sse_text){framer->type_buffer.bytes, framer->type_buffer.length};
    if (!framer->data_in_piece)
        event.data = (sse_text){framer->data_buffer.bytes, framer->data_buffer.length};
    if (framer->filter && event.type.length > 0) {
        event.listed = listed(framer, event.type);
        if (event.listed == SSE_NOT_LISTED) {
            framer->unwanted++;
            return true;
        }
    }
    return on_event(context, &event);
}

/* Copies what points into the piece, because the piece is about to go. */
static bool settle_data(sse_framer *framer)
{
    if (!framer->data_in_piece)
        return true;
    framer->data_in_piece = false;
    return buffer_append(&framer->data_buffer, framer->data.bytes, framer->data.length);
}

static bool settle(sse_framer *framer)
{
    if (framer->type_in_piece) {
        framer->type_in_piece = false;
        framer->type_buffer.length = 0;
        if (!buffer_append(&framer->type_buffer, framer->type.bytes, framer->type.length))
            return false;
    }
    return settle_data(framer);
}

/* -- fields */

static bool add_data(sse_framer *framer, sse_text value)
{
    if (!framer->has_data) {
        framer->has_data = framer->data_in_piece = true;
        framer->data = value;
        return true;
    }
    return settle_data(framer) && buffer_append(&framer->data_buffer, "\n", 1) &&
           buffer_append(&framer->data_buffer, value.bytes, value.length);
}

static bool set_id(sse_framer *framer, sse_text value)
{
    if (value.length > 0 && memchr(value.bytes, '\0', value.length) != NULL)
        return true;
    buffer_clear(&framer->id);
    return buffer_append(&framer->id, value.bytes, value.length);
}

static void set_retry(sse_framer *framer, sse_text value)
{
    int64_t milliseconds = 0;
    if (value.length == 0 || value.length >= 10)
        return;
    for (size_t i = 0; i < value.length; i++) {
        if (value.bytes[i] < '0' || value.bytes[i] > '9')
            return;
        milliseconds = milliseconds * 10 + (value.bytes[i] - '0');
    }
    framer->retry_ms = milliseconds;
}

/* Whether the line is a field of this name; if so, `value` becomes what stands behind colon and space. */
static bool is_field(sse_text line, const char *name, size_t name_length, sse_text *value)
{
    if (line.length < name_length || memcmp(line.bytes, name, name_length) != 0)
        return false;
    if (line.length == name_length) {
        *value = (sse_text){"", 0};
        return true;
    }
    if (line.bytes[name_length] != ':')
        return false;
    size_t skip = name_length + 1;
    if (line.length > skip && line.bytes[skip] == ' ')
        skip++;
    *value = (sse_text){line.bytes + skip, line.length - skip};
    return true;
}

#define IS_FIELD(line, name, value) is_field(line, name, sizeof name - 1, value)

static bool read_field(sse_framer *framer, sse_text line)
{
    sse_text value;
    if (IS_FIELD(line, "data", &value)) {
        framer->kept += line.length;
        return add_data(framer, value);
    }
    if (IS_FIELD(line, "event", &value)) {
        framer->kept += line.length;
        framer->has_type = framer->type_in_piece = true;
        framer->type = value;
    } else if (IS_FIELD(line, "id", &value)) {
        return set_id(framer, value);
    } else if (IS_FIELD(line, "retry", &value)) {
        set_retry(framer, value);
    }
    return true;
}

/* -- lines */

static bool read_line(sse_framer *framer, sse_text line, sse_on_event on_event, void *context)
{
    if (line.length == 0) {
        bool taken = !framer->has_data || dispatch(framer, on_event, context);
        begin_event(framer);
        return taken;
    }
    if (framer->skipping)
        return true;
    if (line.length > framer->limit - framer->kept) {
        skip_event(framer);
        return true;
    }
    return read_field(framer, line);
}

/* Takes a part of a line whose end has not come; nothing of the event points into the piece by now. */
static bool take_part(sse_framer *framer, sse_text part)
{
    if (!framer->skipping && part.length > framer->limit - framer->kept - framer->line_length)
        skip_event(framer);
    if (framer->skipping) {
        framer->line_length = 1;
        return true;
    }
    framer->line_length += part.length;
    if (framer->in_data)
        return buffer_append(&framer->data_buffer, part.bytes, part.length);
    if (!buffer_append(&framer->line, part.bytes, part.length))
        return false;
    sse_text line = {framer->line.bytes, framer->line.length}, value;
    if (line.length <= sizeof "data:" - 1 || !IS_FIELD(line, "data", &value))
        return true;
    if (!add_data(framer, value) || !settle_data(framer))
        return false;
    framer->in_data = true;
    buffer_clear(&framer->line);
    return true;
}

/* Takes the last part of a line that began in an earlier piece. */
static bool end_line(sse_framer *framer, sse_text part, sse_on_event on_event, void *context)
{
    if (part.length > 0 && !take_part(framer, part))
        return false;
    size_t line_length = framer->line_length;
    framer->line_length = 0;
    if (framer->skipping)
        return true;
    if (framer->in_data) {
        framer->in_data = false;
        framer->kept += line_length;
        return true;
    }
    sse_text line = {framer->line.bytes, framer->line.length};
    bool read = read_line(framer, line, on_event, context) && settle(framer);
    buffer_clear(&framer->line);
    return read;
}

static const char *find(const char *at, const char *end, char byte)
{
    const char *found = memchr(at, byte, (size_t)(end - at));
    return found != NULL ? found : end;
}

/* Reads a piece that is not empty. The next CR and the next LF are each looked for only once passed. */
static bool read_piece(sse_framer *framer, const char *at, const char *end, sse_on_event on_event, void *context)
{
    if (framer->half_end && *at == '\n')
        at++;
    framer->half_end = false;
    const char *next_cr = find(at, end, '\r'), *next_lf = find(at, end, '\n');
    while (at < end) {
        if (next_cr < at)
            next_cr = find(at, end, '\r');
        if (next_lf < at)
            next_lf = find(at, end, '\n');
        const char *line_end = next_cr < next_lf ? next_cr : next_lf;
        sse_text line = {at, (size_t)(line_end - at)};
        if (line_end == end)
            return settle(framer) && take_part(framer, line);
        bool read = framer->line_length > 0 ? end_line(framer, line, on_event, context)
                                            : read_line(framer, line, on_event, context);
        if (!read)
            return false;
        at = line_end + 1;
        if (*line_end == '\r') {
            if (at == end)
                framer->half_end = true;
            else if (*at == '\n')
                at++;
        }
    }
    return settle(framer);
}

/* Drops a byte order mark at the very start. What may still become one is held back. */
static bool read_start(sse_framer *framer, const char **at, const char *end, sse_on_event on_event, void *context)
{
    while (*at < end && framer->mark < sizeof MARK && **at == MARK[framer->mark]) {
        framer->mark++;
        (*at)++;
    }
    if (framer->mark < sizeof MARK && *at == end)
        return true;
    framer->started = true;
    if (framer->mark == 0 || framer->mark == sizeof MARK)
        return true;
    return read_piece(framer, MARK, MARK + framer->mark, on_event, context);
}

bool sse_feed(sse_framer *framer, const char *bytes, size_t length, sse_on_event on_event, void *context)
{
    if (framer->failed)
        return false;
    if (length == 0)
        return true;
    const char *at = bytes, *end = bytes + length;
    bool read = framer->started || read_start(framer, &at, end, on_event, context);
    if (read && at < end)
        read = read_piece(framer, at, end, on_event, context);
    framer->failed = !read;
    return read;
}
