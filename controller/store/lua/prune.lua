-- Look at some notes from a position on and forget the old ones that no longer answer a question: a note says
-- who has the address until the next note about it, so it goes once that next one is old as well.
--
-- KEYS meta lock notes
-- ARGV token, epoch, prefix of the indexes, time, first id, number of notes
local META, LOCK, NOTES = unpack(KEYS)
local token, epoch, index, time, first, many = unpack(ARGV)
local seen = redis.call('HGET', META, 'epoch') or '0'
if seen ~= epoch then return {'epoch', seen} end
local holder = redis.call('GET', LOCK)
if holder and holder ~= token then return {'held', holder} end
time = tonumber(time)

local function note_with(id)
    local entry = redis.call('XRANGE', NOTES, id, id)[1]
    return entry and cjson.decode(entry[2][2])
end

local function is_needed(id, address)
    local key = index .. 'address:' .. address
    local position = redis.call('LPOS', key, id)
    local successor = position and redis.call('LINDEX', key, position + 1)
    local next_note = successor and note_with(successor)
    return not next_note or next_note.at >= time
end

local gone, last, any_old = 0, '', false
for _, entry in ipairs(redis.call('XRANGE', NOTES, first, '+', 'COUNT', many)) do
    last = string.match(entry[1], '^%d+')
    local note = cjson.decode(entry[2][2])
    local address = note.address ~= cjson.null and note.address
    local app = note.app ~= cjson.null and note.app
    if note.at < time then
        any_old = true
        if not (address and is_needed(last, address)) then
            redis.call('XDEL', NOTES, entry[1])
            if address then redis.call('LREM', index .. 'address:' .. address, 1, last) end
            if app then redis.call('LREM', index .. 'app:' .. app, 1, last) end
            gone = gone + 1
        end
    end
end
return {'done', gone, any_old and last or ''}
