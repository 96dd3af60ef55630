-- Names, holds and rooms, for the scripts that change them.

-- A name's life, session and claim number.
local function owner(name)
    local value = redis.call('HGET', NAMES, name)
    if value then return string.match(value, '^(%S+) (%d+) (%d+)$') end
end
local function give(name, life, session, claim)
    redis.call('HSET', NAMES, name, life .. ' ' .. session .. ' ' .. claim)
    redis.call('ZADD', ORDER, claim, name)
    redis.call('SADD', P .. 'of:' .. life, name)
end
local function take(name, life)
    redis.call('HDEL', NAMES, name)
    redis.call('ZREM', ORDER, name)
    redis.call('SREM', P .. 'of:' .. life, name)
end

-- What is held for a name, or for a room's members at a life, is a list of bundles: an origin, the
-- numbers of its deliveries, with `+` between them, how many bundles were held before, and the pieces.
local function held_pieces(held) return string.match(held, '^(%S+) ([%d+]+) (%d+);(.*)$') end
local function listed(numbers) return (string.gsub(numbers, '%+', ',')) end
-- Takes what is held for a name; `all` are others that go the same way.
local function take_held(name, session, all)
    local key = P .. 'hold:' .. name
    for _, held in ipairs(redis.call('LRANGE', key, 0, -1)) do
        local from, numbers, serial, body = held_pieces(held)
        all[#all + 1] = { tonumber(serial), from, numbers, numbers .. ':' .. session .. ';' .. body }
    end
    redis.call('DEL', key)
    redis.call('SREM', HOLDS, name)
    return all
end
-- It goes to the inbox of `life`, in the order in which it was held, and the origins hear where it is.
local function move_held(all, life)
    table.sort(all, function(one, other) return one[1] < other[1] end)
    local moved, parts, origin = {}, {}, nil
    local function flush()
        if origin then append(life, 'm', origin, 'b', table.concat(parts)) end
        parts = {}
    end
    for _, held in ipairs(all) do
        local from, numbers = held[2], held[3]
        if from ~= origin then
            flush()
            origin = from
        end
        parts[#parts + 1] = held[4]
        moved[from] = (moved[from] and (moved[from] .. ',') or '') .. listed(numbers)
    end
    flush()
    for from, numbers in pairs(moved) do append(from, 'h', life, 'n', numbers) end
end
-- What was held for a room's members at a life is for nobody any more, and its origins hear that.
local function drop_held(room, life)
    local name = room .. '@' .. life
    local first, last = {}, {}
    for _, held in ipairs(take_held(name, '', {})) do
        local from, numbers = held[2], held[3]
        first[from] = first[from] or string.match(numbers, '^%d+')
        last[from] = string.match(numbers, '%d+$')
    end
    -- All of an origin's copies between these were held.
    for from, number in pairs(first) do
        append(from, 'p', number .. ' ' .. last[from], 'r', name .. ' -')
    end
end

-- Rooms: at which lives there are members, who they are, and the rooms of each life.
local function seat(room, life, name)
    if redis.call('ZSCORE', P .. 'seats:' .. life .. ':' .. room, name) then return end
    local serial = whole(redis.call('HINCRBY', META, 'seats', 1))
    redis.call('ZADD', P .. 'seats:' .. life .. ':' .. room, 'NX', serial, name)
    redis.call('SADD', P .. 'room:' .. room, life)
    redis.call('SADD', P .. 'rooms:' .. life, room)
    redis.call('SADD', ROOMS, room)
end
local function members(room)
    local count = 0
    for _, life in ipairs(redis.call('SMEMBERS', P .. 'room:' .. room)) do
        count = count + redis.call('ZCARD', P .. 'seats:' .. life .. ':' .. room)
    end
    return count
end
-- Each life with members hears at which lives they are, and who came or left.
local function tell_room(room, moved)
    local lives = redis.call('SMEMBERS', P .. 'room:' .. room)
    local all = table.concat(lives, ' ')
    for _, life in ipairs(lives) do append(life, 'j', room, 'l', all, 'm', moved) end
end
-- A life has no members in a room any more.
local function clear_room(room, life)
    redis.call('DEL', P .. 'seats:' .. life .. ':' .. room)
    redis.call('SREM', P .. 'rooms:' .. life, room)
    redis.call('SREM', P .. 'room:' .. room, life)
    if redis.call('EXISTS', P .. 'room:' .. room) == 0 then redis.call('SREM', ROOMS, room) end
end
local function clear_rooms(life)
    for _, room in ipairs(redis.call('SMEMBERS', P .. 'rooms:' .. life)) do
        drop_held(room, life)
        clear_room(room, life)
        tell_room(room, '')
    end
end

-- When no life is left to which a client could move, what is held for lives that are leaving comes back
-- to these: for their clients, and for members of rooms, in one order.
local function give_back_holds()
    for _, value in ipairs(redis.call('HVALS', LIVES)) do
        if value == 'here' then return end
    end
    local back = {}
    for _, name in ipairs(redis.call('SMEMBERS', HOLDS)) do
        local life, session = string.match(name, '^#[^@]+@(.+)$'), '0'
        if not life then life, session = owner(name) end
        if life and is_leaving(state(life)) then
            back[life] = take_held(name, session, back[life] or {})
        end
    end
    for life, all in pairs(back) do move_held(all, life) end
end
