-- Forget items of the ledger that still are what the caller saw.
--
-- KEYS meta lock items
-- ARGV token, epoch, then pairs of key and value
local META, LOCK, ITEMS = unpack(KEYS)
local seen = redis.call('HGET', META, 'epoch') or '0'
if seen ~= ARGV[2] then return {'epoch', seen} end
local holder = redis.call('GET', LOCK)
if holder and holder ~= ARGV[1] then return {'held', holder} end
local gone = 0
for position = 3, #ARGV, 2 do
    if redis.call('HGET', ITEMS, ARGV[position]) == ARGV[position + 1] then
        gone = gone + redis.call('HDEL', ITEMS, ARGV[position])
    end
end
return {'done', gone}
