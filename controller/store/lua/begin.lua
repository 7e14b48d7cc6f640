-- A new epoch begins, unless the store has seen the same or a higher one.
--
-- KEYS meta lock
-- ARGV token, lease of the lock in ms, epoch, name of this attempt (so that it may be sent twice),
--      epoch and group as they were when the contents were read
local META, LOCK = unpack(KEYS)
local token, ttl, epoch, attempt, known_epoch, known_group = unpack(ARGV)
local holder = redis.call('GET', LOCK)
if holder and holder ~= token then return {'held', holder} end
local seen = redis.call('HGET', META, 'epoch')
if not seen then return {'headless', META} end
if seen == epoch and redis.call('HGET', META, 'begun') == attempt then return {'done'} end
if tonumber(epoch) <= tonumber(seen) then return {'epoch', seen} end
if seen ~= known_epoch or redis.call('HGET', META, 'group') ~= known_group then return {'written'} end
redis.call('SET', LOCK, token, 'PX', ttl)
redis.call('HSET', META, 'epoch', epoch, 'begun', attempt, 'group', '0', 'verdicts', '')
return {'done'}
