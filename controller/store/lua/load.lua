-- Everything but the history, as it is at this moment, in one msgpack document: thousands of small replies
-- would cost the client far more than one large one.
--
-- KEYS meta bindings leases flags pools items notes
local all = {
    redis.call('HGET', KEYS[1], 'epoch') or '0',
    redis.call('HGET', KEYS[1], 'group') or '0',
    redis.call('HGET', KEYS[1], 'notes') or '0',
    tostring(redis.call('XLEN', KEYS[7])),
    redis.call('HVALS', KEYS[2]),
    redis.call('HVALS', KEYS[3]),
    redis.call('HGETALL', KEYS[4]),
    redis.call('HVALS', KEYS[5]),
    redis.call('HVALS', KEYS[6]),
}
return cmsgpack.pack(all)
