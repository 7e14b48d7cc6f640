-- Some notes up to a time, the newest first: of all, or of those that an index names.
--
-- KEYS notes, and the index (or the notes again: all)
-- ARGV id below which to look ('' at first), latest time ('' for any), most notes, most to look at
-- Answers the id below which to go on ('' at the end) and the notes in msgpack.
local NOTES, INDEX = unpack(KEYS)
local below, time, want, look = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])

local function entries()
    if INDEX == NOTES then
        return redis.call('XREVRANGE', NOTES, below == '' and '+' or '(' .. below .. '-0', '-', 'COUNT', look)
    end
    local stop = -1
    if below ~= '' then
        local place = redis.call('LPOS', INDEX, below, 'RANK', -1)
        if not place or place == 0 then return {} end
        stop = place - 1
    end
    local length = redis.call('LLEN', INDEX)
    if stop < 0 then stop = length - 1 end
    local found = {}
    local ids = redis.call('LRANGE', INDEX, math.max(stop - look + 1, 0), stop)
    for position = #ids, 1, -1 do
        found[#found + 1] = redis.call('XRANGE', NOTES, ids[position], ids[position])[1]
    end
    return found
end

local found, last = {}, ''
for _, entry in ipairs(entries()) do
    last = string.match(entry[1], '^%d+')
    local note = entry[2][2]
    if not time or cjson.decode(note).at <= time then found[#found + 1] = note end
    if #found == want then break end
end
return {last, cmsgpack.pack(found)}
