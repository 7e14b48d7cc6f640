/* libFuzzer over the splitter. Input: limit, key, seed of the cuts (one byte each), then the document.
 *
 * Properties: no cut changes elements or mistake; an element is not empty, has no white space around it and
 * stays within the limit; a mistake is final and lies within the document; memory is bounded; and elements are
 * what they claim to be: put between brackets and commas they come out again. Running out of memory is final too.
 */
#include "../../cext/array.h"
#include "outcome.h"

static const size_t LIMITS[] = {1, 2, 3, 5, 8, 13, 40, 100, 1 << 20};
static const char *const KEYS[] = {NULL, "apps", "a", ""};

typedef struct {
    record log;
    record again; /* the elements, as an array of their own */
    array_splitter splitter;
} run;

static bool is_space(char byte)
{
    return byte == ' ' || byte == '\t' || byte == '\n' || byte == '\r';
}

static bool on_element(void *context, const char *bytes, size_t length)
{
    run *it = context;
    INSIST(length > 0 && length <= it->splitter.limit);
    INSIST(!is_space(bytes[0]) && !is_space(bytes[length - 1]));
    log_bytes(&it->log, bytes, length);
    log_raw(&it->again, it->again.length ? "," : "[", 1);
    log_raw(&it->again, bytes, length);
    return true;
}

static void begin(run *it, const char *key, size_t limit)
{
    it->log.length = it->again.length = 0;
    INSIST(array_init(&it->splitter, key, key ? strlen(key) : 0, limit));
}

static void feed(run *it, const char *bytes, size_t length)
{
    char *piece = piece_of(bytes, length);
    array_mistake before = it->splitter.mistake;
    array_mistake after = array_feed(&it->splitter, piece, length, on_element, it);
    free(piece);
    INSIST(after != ARRAY_NO_MEMORY && (before == ARRAY_FINE || after == before));
    INSIST(it->splitter.element.capacity <= 2 * it->splitter.limit + BUFFER_KEPT);
    INSIST(it->splitter.depth <= ARRAY_MAX_DEPTH);
}

static array_mistake end(run *it, size_t length)
{
    array_mistake mistake = array_close(&it->splitter);
    INSIST(mistake == array_close(&it->splitter));
    INSIST(mistake == ARRAY_FINE || it->splitter.mistake_offset <= length);
    INSIST(mistake != ARRAY_FINE || (it->splitter.depth == 0 && it->splitter.seen));
    log_number(&it->log, mistake);
    log_number(&it->log, it->splitter.mistake_offset);
    array_free(&it->splitter);
    return mistake;
}

/* The elements of `first`, as a document, must come out as they are. */
static void insist_same_again(run *first, size_t elements_logged)
{
    static run second;
    if (first->again.length == 0)
        return;
    log_raw(&first->again, "]", 1);
    begin(&second, NULL, SIZE_MAX / 4);
    feed(&second, first->again.bytes, first->again.length);
    INSIST(second.log.length == elements_logged);
    INSIST(memcmp(second.log.bytes, first->log.bytes, elements_logged) == 0);
    INSIST(end(&second, first->again.length) == ARRAY_FINE);
}

static bool ignore_element(void *context, const char *bytes, size_t length)
{
    (void)context;
    (void)bytes;
    return length != 7; /* a callback may refuse too */
}

static void feed_without_memory(const char *document, size_t length, const char *key, size_t limit, uint32_t seed)
{
    array_splitter splitter;
    array_mistake before = ARRAY_FINE;
    INSIST(array_init(&splitter, key, key ? strlen(key) : 0, limit));
    allocations_left = seed % 7;
    for (size_t at = 0, step; at < length; at += step) {
        step = next_piece(&seed, length - at);
        array_mistake now = array_feed(&splitter, document + at, step, ignore_element, NULL);
        INSIST(before == ARRAY_FINE || now == before);
        before = now;
    }
    allocations_left = -1;
    INSIST(before == ARRAY_FINE || array_close(&splitter) == before);
    array_free(&splitter);
}

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size)
{
    if (size < 4)
        return 0;
    size_t limit = LIMITS[input[0] % (sizeof LIMITS / sizeof *LIMITS)];
    const char *key = KEYS[input[1] % 4];
    uint32_t seed = input[2];
    const char *document = (const char *)input + 3;
    size_t length = size - 3;

    feed_without_memory(document, length, key, limit, seed);
    static run whole, cut;
    begin(&whole, key, limit);
    feed(&whole, document, length);
    insist_same_again(&whole, whole.log.length);
    begin(&cut, key, limit);
    for (size_t at = 0, step; at < length; at += step) {
        step = next_piece(&seed, length - at);
        feed(&cut, document + at, step);
    }
    end(&whole, length);
    end(&cut, length);
    insist_equal(&whole.log, &cut.log);
    return 0;
}
