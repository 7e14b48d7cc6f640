-- Some notes in the order they were written in, in msgpack, and the id of the last of them ('' for none).
--
-- KEYS notes
-- ARGV first id, last id, most notes
local found, last = {}, ''
for _, entry in ipairs(redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[2], 'COUNT', ARGV[3])) do
    last = string.match(entry[1], '^%d+')
    found[#found + 1] = entry[2][2]
end
return {last, cmsgpack.pack(found)}
