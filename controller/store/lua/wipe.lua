-- Forget everything but the header, some indexes at a time; the epoch goes on rising.
--
-- KEYS lock leases seats bindings flags pools items notes
-- ARGV token, pattern of the indexes, cursor ('0' at first)
-- Answers the cursor to go on with ('0' at the end).
local holder = redis.call('GET', KEYS[1])
if holder ~= ARGV[1] then return {'held', holder or 'nobody'} end
for position = 2, #KEYS do redis.call('UNLINK', KEYS[position]) end
local found = redis.call('SCAN', ARGV[3], 'MATCH', ARGV[2], 'COUNT', 5000)
for _, key in ipairs(found[2]) do redis.call('UNLINK', key) end
return {'done', found[1]}
