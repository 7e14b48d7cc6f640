-- Take the lock, look whether the keys are ours, and make the header if there is nothing at all.
--
-- KEYS meta lock leases seats bindings flags pools items notes
-- ARGV token, lease of the lock in ms, newest schema
local types = {'hash', 'string', 'hash', 'hash', 'hash', 'hash', 'hash', 'hash', 'stream'}
local empty = true
for position, key in ipairs(KEYS) do
    local found = redis.call('TYPE', key).ok
    if found ~= 'none' then
        if found ~= types[position] then return {'foreign', key, found} end
        if position ~= 2 then empty = false end
    end
end
local META, LOCK = KEYS[1], KEYS[2]
local program = redis.call('HGET', META, 'program')
if not empty and program ~= 'mooring' then return {'headless', META} end
local holder = redis.call('GET', LOCK)
if holder and holder ~= ARGV[1] then return {'held', holder} end
redis.call('SET', LOCK, ARGV[1], 'PX', ARGV[2])
if empty then
    redis.call('HSET', META, 'program', 'mooring', 'schema', ARGV[3], 'epoch', '0', 'group', '0', 'notes', '0')
    return {'created', ARGV[3]}
end
return {'found', redis.call('HGET', META, 'schema') or '0'}
