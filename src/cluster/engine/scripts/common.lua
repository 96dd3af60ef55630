-- Begins every script. KEYS[1] is the prefix of all keys, with one hash tag; ARGV[1] the incarnation
-- of the engine that the caller knows, ARGV[2] the caller's life.
--
-- The engine runs one script at a time, so whatever has to be in order is decided here, and told in
-- the inbox of whoever it concerns. A script checks everything before it changes anything.
local P, INC, LIFE = KEYS[1], ARGV[1], ARGV[2]
local META, LIVES, NAMES, LAST = P .. 'meta', P .. 'lives', P .. 'names', P .. 'last'
local ORDER, HOLDS, ROOMS = P .. 'order', P .. 'holds', P .. 'rooms'

-- At `maxmemory` the engine refuses what takes memory, unless the script has written before.
local function allow_when_full() redis.call('DEL', P .. 'spare') end

local known_states = {}
local function state(life)
    local known = known_states[life]
    if known == nil then
        known = redis.call('HGET', LIVES, life)
        known_states[life] = known
    end
    return known
end
local function set_state(life, value)
    redis.call('HSET', LIVES, life, value)
    known_states[life] = value
end
local READS = { here = true, leaving = true, cut = true, released = true }
local function is_leaving(value) return value == 'leaving' or value == 'cut' end

-- Appends to the inbox of a life that still reads.
local function append(life, ...)
    if READS[state(life)] then redis.call('XADD', P .. 'in:' .. life, '*', ...) end
end
local function tell_all_but(life, ...)
    for _, other in ipairs(redis.call('HKEYS', LIVES)) do
        if other ~= life then append(other, ...) end
    end
end
local function whole(number) return string.format('%.0f', number) end

-- Why a command of this incarnation must not run; nothing if it may.
local function refusal_of_any()
    local meta = redis.call('HMGET', META, 'inc', 'phase')
    if meta[1] ~= INC then return 'UNKNOWN' end
    if not READS[state(LIFE)] then return 'UNKNOWN' end
    if meta[2] ~= 'open' then return 'EARLY' end
end
-- The same for a numbered command: each number runs once, and in order.
local function refusal(number)
    local meta = redis.call('HMGET', META, 'inc', 'phase')
    if meta[1] ~= INC then return 'UNKNOWN' end
    local last = tonumber(redis.call('HGET', LAST, LIFE) or '0')
    if number <= last then return 'DONE' end
    if not READS[state(LIFE)] then return 'UNKNOWN' end
    if meta[2] ~= 'open' then return 'EARLY' end
    if number ~= last + 1 then return 'GAP' end
    redis.call('HSET', LAST, LIFE, whole(number))
end

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

-- What is held for a name goes to the inbox of `life`, in order, and the origins hear where it is.
local function move_hold(name, life, session)
    local key = P .. 'hold:' .. name
    local moved, parts, origin = {}, {}, nil
    local function flush()
        if origin then append(life, 'm', origin, 'b', table.concat(parts)) end
        parts = {}
    end
    for _, held in ipairs(redis.call('LRANGE', key, 0, -1)) do
        local from, number, body = string.match(held, '^(%S+) (%d+);(.*)$')
        if from ~= origin then
            flush()
            origin = from
        end
        parts[#parts + 1] = number .. ':' .. session .. ';' .. body
        moved[from] = moved[from] and (moved[from] .. ',' .. number) or number
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
