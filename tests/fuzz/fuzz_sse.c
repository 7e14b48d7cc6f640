/* libFuzzer over the framer. Input: limit, wanted types, seed of the cuts (one byte each), then the stream.
 *
 * Properties: no cut changes what comes out; no event exceeds the limit; memory is bounded by it; an event that
 * was named as unwanted never leaves; and nothing is lost of a stream that is within the limit: its events
 * without the filter are those with it plus those it counted. Once memory has run out, nothing is read any more.
 */
#include "../../cext/sse.h"
#include "outcome.h"

static const size_t LIMITS[] = {1, 2, 3, 6, 8, 12, 24, 64, 256, 1 << 20};
static const sse_text WANTED[] = {{"a", 1}, {"status_update_event", 19}, {"", 0}, {"\xc3\xa4", 2}};

typedef struct {
    record log;
    uint64_t events;
    sse_framer framer;
} run;

static bool on_event(void *context, const sse_event *event)
{
    run *it = context;
    it->events++;
    INSIST(event->data.length <= it->framer.limit && event->type.length <= it->framer.limit);
    INSIST(event->listed == SSE_NOT_LISTED || it->framer.filter);
    INSIST(event->listed != SSE_NOT_LISTED || !it->framer.filter || event->type.length == 0);
    if (event->listed != SSE_NOT_LISTED) {
        const sse_text *name = &it->framer.wanted[event->listed];
        INSIST(name->length == event->type.length && memcmp(name->bytes, event->type.bytes, name->length) == 0);
    }
    log_bytes(&it->log, event->type.bytes, event->type.length);
    log_bytes(&it->log, event->data.bytes, event->data.length);
    return true;
}

static void begin(run *it, size_t limit, size_t wanted)
{
    it->log.length = it->events = 0;
    INSIST(sse_init(&it->framer, limit, wanted ? WANTED : NULL, wanted ? wanted - 1 : 0));
}

static void feed(run *it, const char *bytes, size_t length)
{
    char *piece = piece_of(bytes, length);
    INSIST(sse_feed(&it->framer, piece, length, on_event, it));
    free(piece);
    size_t bound = 2 * it->framer.limit + BUFFER_KEPT;
    INSIST(it->framer.data_buffer.capacity <= bound && it->framer.line.capacity <= bound);
    INSIST(it->framer.type_buffer.capacity <= bound && it->framer.id.capacity <= bound);
}

static void end(run *it)
{
    log_number(&it->log, it->framer.skipped);
    log_number(&it->log, it->framer.unwanted);
    log_number(&it->log, (uint64_t)it->framer.retry_ms);
    log_bytes(&it->log, it->framer.id.bytes, it->framer.id.length);
    sse_free(&it->framer);
}

static bool ignore_event(void *context, const sse_event *event)
{
    (void)context;
    return event->data.length != 7; /* a callback may refuse too */
}

static void feed_without_memory(const char *stream, size_t length, size_t limit, uint32_t seed)
{
    sse_framer framer;
    bool read = true;
    INSIST(sse_init(&framer, limit, NULL, 0));
    allocations_left = seed % 7;
    for (size_t at = 0, step; at < length; at += step) {
        step = next_piece(&seed, length - at);
        bool now = sse_feed(&framer, stream + at, step, ignore_event, NULL);
        INSIST(read || !now);
        read = now;
    }
    allocations_left = -1;
    INSIST(read || !sse_feed(&framer, "\n", 1, ignore_event, NULL));
    sse_free(&framer);
}

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size)
{
    if (size < 4)
        return 0;
    size_t limit = LIMITS[input[0] % (sizeof LIMITS / sizeof *LIMITS)], wanted = input[1] % 6;
    uint32_t seed = input[2];
    const char *stream = (const char *)input + 3;
    size_t length = size - 3;

    feed_without_memory(stream, length, limit, seed);
    static run whole, cut, all;
    begin(&whole, limit, wanted);
    feed(&whole, stream, length);
    begin(&cut, limit, wanted);
    for (size_t at = 0, step; at < length; at += step) {
        step = next_piece(&seed, length - at);
        feed(&cut, stream + at, step);
    }
    begin(&all, limit, 0);
    feed(&all, stream, length);
    INSIST(all.framer.skipped == whole.framer.skipped && all.framer.unwanted == 0);
    INSIST(all.events == whole.events + whole.framer.unwanted);
    end(&whole);
    end(&cut);
    end(&all);
    insist_equal(&whole.log, &cut.log);
    return 0;
}
