-- Begins every script. It is run each time, so what only some need is in `register.lua`.
-- KEYS[1] is the prefix of all keys, with one hash tag; ARGV[1] the incarnation of the engine that
-- the caller knows, ARGV[2] the caller's life.
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
