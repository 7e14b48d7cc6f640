-- Keep the lock for another while, or (lease 0) give it back.
--
-- KEYS lock
-- ARGV token, lease of the lock in ms
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return {'held', holder} end
if ARGV[2] == '0' then
    redis.call('DEL', KEYS[1])
else
    redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
end
return {'done'}
