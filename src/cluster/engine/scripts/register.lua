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

-- What is held for a name is a list of bundles: an origin, the numbers of its deliveries, with `+`
-- between them, and their pieces.
local function held_pieces(held) return string.match(held, '^(%S+) ([%d+]+);(.*)$') end
local function listed(numbers) return (string.gsub(numbers, '%+', ',')) end
-- What is held for a name goes to the inbox of `life`, in order, and the origins hear where it is.
local function move_hold(name, life, session)
    local key = P .. 'hold:' .. name
    local moved, parts, origin = {}, {}, nil
    local function flush()
        if origin then append(life, 'm', origin, 'b', table.concat(parts)) end
        parts = {}
    end
    for _, held in ipairs(redis.call('LRANGE', key, 0, -1)) do
        local from, numbers, body = held_pieces(held)
        if from ~= origin then
            flush()
            origin = from
        end
        parts[#parts + 1] = numbers .. ':' .. session .. ';' .. body
        moved[from] = (moved[from] and (moved[from] .. ',') or '') .. listed(numbers)
    end
    flush()
    for from, numbers in pairs(moved) do append(from, 'h', life, 'n', numbers) end
    redis.call('DEL', key)
    redis.call('SREM', HOLDS, name)
end

-- Rooms: at which lives there are members, who they are, and the rooms of each life.
local function seat(room, life, name)
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
        clear_room(room, life)
        tell_room(room, '')
    end
end

-- When no life is left to which a client could move, what is held for the names of lives that are
-- leaving comes back to these.
local function give_back_holds()
    for _, value in ipairs(redis.call('HVALS', LIVES)) do
        if value == 'here' then return end
    end
    for _, name in ipairs(redis.call('SMEMBERS', HOLDS)) do
        local life, session = owner(name)
        if life and is_leaving(state(life)) then move_hold(name, life, session) end
    end
end
