-- All values of a hash in one msgpack document.
--
-- KEYS hash
return cmsgpack.pack(redis.call('HVALS', KEYS[1]))
