-- Apply a group of commits, each of them whole or not at all.
--
-- Redis has no rollback, so everything about a commit is checked before its first write: against the data,
-- and against what the same commit did before (`leases`, `seats`).  A group has a number.  One whose reply
-- was lost is sent again with the same number and is then answered from what was kept, not applied again.
--
-- KEYS meta lock leases seats bindings flags pools items notes
-- ARGV token, lease of the lock in ms, epoch, number of the group, prefix of the indexes, group (msgpack)
local META, LOCK, LEASES, SEATS, BINDINGS, FLAGS, POOLS, ITEMS, NOTES = unpack(KEYS)
local token, ttl, epoch, number, index, packed = unpack(ARGV)

local seen = redis.call('HGET', META, 'epoch') or '0'
if seen ~= epoch then return {'epoch', seen} end
local holder = redis.call('GET', LOCK)
if holder and holder ~= token then return {'held', holder} end
local last = redis.call('HGET', META, 'group')
if last == number then return {'done', redis.call('HGET', META, 'verdicts')} end
if tonumber(last) ~= tonumber(number) - 1 then return {'gap', last} end
redis.call('SET', LOCK, token, 'PX', ttl)

local leases, seats -- what the commit at hand has changed: address -> {generation, seat}, seat -> address

local function lease_at(address)
    local known = leases[address]
    if known == nil then
        local value = redis.call('HGET', LEASES, address)
        known = false
        if value then
            local generation, seat = string.match(value, '^(%d+) (.-)\n')
            known = {generation, seat}
        end
        leases[address] = known
    end
    return known
end

local function holder_of(seat)
    if seats[seat] == nil then seats[seat] = redis.call('HGET', SEATS, seat) end
    return seats[seat]
end

local function vacate(op, address, generation)
    local known = lease_at(address)
    if not known or known[1] ~= generation then
        local found = known and ('generation ' .. known[1]) or 'no lease'
        return address .. ': expected generation ' .. generation .. ', the store has ' .. found
    end
    op.vacated = known[2]
    leases[address] = false
    if known[2] ~= '' then seats[known[2]] = false end
end

local check = {
    lease = function(op)
        local _, address, replaces, generation, seat = unpack(op)
        if replaces ~= '' then
            local wrong = vacate(op, address, replaces)
            if wrong then return wrong end
        elseif lease_at(address) then
            return address .. ': it has a lease already'
        end
        if seat ~= '' then
            local other = holder_of(seat)
            if other then return address .. ': seat ' .. seat .. ' has ' .. other .. ' already' end
            seats[seat] = address
        end
        leases[address] = {generation, seat}
    end,
    free = function(op) return vacate(op, op[2], op[3]) end,
}

local function leave(op)
    if op.vacated and op.vacated ~= '' then redis.call('HDEL', SEATS, op.vacated) end
end

local noted = tonumber(redis.call('HGET', META, 'notes') or '0')

local apply = {
    lease = function(op)
        local _, address, _, generation, seat, lease = unpack(op)
        leave(op)
        if seat ~= '' then redis.call('HSET', SEATS, seat, address) end
        redis.call('HSET', LEASES, address, generation .. ' ' .. seat .. '\n' .. lease)
    end,
    free = function(op)
        leave(op)
        redis.call('HDEL', LEASES, op[2])
    end,
    note = function(op)
        local _, address, app, note = unpack(op)
        noted = noted + 1
        local id = string.format('%.0f', noted)
        redis.call('XADD', NOTES, id .. '-0', 'note', note)
        if address ~= '' then redis.call('RPUSH', index .. 'address:' .. address, id) end
        if app ~= '' then redis.call('RPUSH', index .. 'app:' .. app, id) end
    end,
    bind = function(op) redis.call('HSET', BINDINGS, op[2], op[3]) end,
    unbind = function(op) redis.call('HDEL', BINDINGS, op[2]) end,
    flag = function(op) redis.call('HSET', FLAGS, op[2], op[3]) end,
    unflag = function(op) redis.call('HDEL', FLAGS, op[2]) end,
    pool = function(op) redis.call('HSET', POOLS, op[2], op[3]) end,
    unpool = function(op) redis.call('HDEL', POOLS, op[2]) end,
    item = function(op)
        local _, key, at, item = unpack(op)
        local value = redis.call('HGET', ITEMS, key)
        local since = value and string.match(value, '^(%S+) \n') or at
        redis.call('HSET', ITEMS, key, since .. ' \n' .. item)
    end,
    retire = function(op)
        local value = redis.call('HGET', ITEMS, op[2])
        local since, item = string.match(value or '', '^(%S+) \n(.*)$')
        if since then redis.call('HSET', ITEMS, op[2], since .. ' ' .. op[3] .. '\n' .. item) end
    end,
}

local function refusal(commit)
    leases, seats = {}, {}
    for _, op in ipairs(commit) do
        local wrong = check[op[1]] and check[op[1]](op)
        if wrong then return wrong end
    end
end

local verdicts = {}
for position, commit in ipairs(cmsgpack.unpack(packed)) do
    local wrong = refusal(commit)
    if not wrong then
        for _, op in ipairs(commit) do apply[op[1]](op) end
    end
    verdicts[position] = wrong or ''
end
local told = cmsgpack.pack(verdicts)
redis.call('HSET', META, 'group', number, 'verdicts', told, 'notes', string.format('%.0f', noted))
return {'done', told}
