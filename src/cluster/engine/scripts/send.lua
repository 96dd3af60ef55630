-- Sends pieces of lines. ARGV[3] is the command's number, [4] and [5] the first and the last of its
-- deliveries, [6] how many names follow; then, for each bundle of pieces, whom it is for (the indices of
-- names, with commas), the numbers of its deliveries, and the pieces. A bundle for one name has a
-- number for each of its pieces, with `+` between them; one for several names has one piece, and the
-- number of the first of its deliveries. The origin hears where each name was.
local refused = refusal(tonumber(ARGV[3]))
if refused then return refused end
local count = tonumber(ARGV[6])
local places, sessions, told = {}, {}, {}
local origin_leaves = is_leaving(state(LIFE))
local values = redis.call('HMGET', NAMES, unpack(ARGV, 7, 6 + count))
-- For which lives something is held, and for their rooms' members. All holds are looked at only when it
-- matters: there may be thousands.
local held, rooms_held = {}, nil
local function look_for_holds()
    if rooms_held then return end
    rooms_held = {}
    for _, name in ipairs(redis.call('SMEMBERS', HOLDS)) do
        local life = string.match(name, '^#[^@]+@(.+)$')
        if life then
            rooms_held[life] = true
        else
            life = string.match(redis.call('HGET', NAMES, name) or '', '^(%S+) ')
        end
        if life then held[life] = true end
    end
end
for i = 1, count do
    if values[i] then
        local life, session = string.match(values[i], '^(%S+) (%d+) ')
        local now = state(life)
        local place = life
        if now ~= 'here' then
            local waits = not origin_leaves or not is_leaving(now)
            if not waits then
                -- While something is held for a name, everything for it goes behind that.
                look_for_holds()
                waits = rooms_held[life] or redis.call('EXISTS', P .. 'hold:' .. ARGV[6 + i]) == 1
            end
            if waits then place, held[life] = '+', true end
        end
        places[i], sessions[i] = place, session
    end
end
for i = 1, count do
    local name = ARGV[6 + i]
    if string.byte(name) == 35 then
        -- The members of a room at one node. While that leaves, what is held for a client must not be
        -- overtaken by a line to its room: so that is held, too, until all leave or there are no
        -- members any more.
        local room, life = string.match(name, '^(#[^@]+)@(.+)$')
        local now = state(life)
        if (now == 'here' or is_leaving(now))
            and redis.call('SISMEMBER', P .. 'room:' .. room, life) == 1 then
            if now ~= 'here' then look_for_holds() end
            places[i], sessions[i] = life, '0'
            if now ~= 'here' and held[life] then places[i], rooms_held[life] = '+', true end
        end
    end
end
-- Lines by name in the same command do not overtake those to a room, either.
for i = 1, count do
    local name, place = ARGV[6 + i], places[i] or '-'
    if values[i] and rooms_held and rooms_held[place] then place = '+' end
    places[i] = place
    told[i] = name .. ' ' .. place
end
local parts = {}
local function put(life, head, pieces)
    local list = parts[life]
    if not list then
        list = {}
        parts[life] = list
    end
    local at = #list
    list[at + 1], list[at + 2], list[at + 3] = head, ';', pieces
end
local function hold(name, numbers, pieces)
    local serial = whole(redis.call('HINCRBY', META, 'held', 1))
    redis.call('RPUSH', P .. 'hold:' .. name, LIFE .. ' ' .. numbers .. ' ' .. serial .. ';' .. pieces)
    redis.call('SADD', HOLDS, name)
end
for at = 7 + count, #ARGV, 3 do
    local numbers, pieces = ARGV[at + 1], ARGV[at + 2]
    local only = tonumber(ARGV[at])
    if only then
        local place = places[only]
        if place == '+' then
            hold(ARGV[6 + only], numbers, pieces)
        elseif place ~= '-' then
            put(place, numbers .. ':' .. sessions[only], pieces)
        end
    else
        local heads, number = {}, tonumber(numbers)
        for index in string.gmatch(ARGV[at], '%d+') do
            local i = tonumber(index)
            local place, this = places[i], whole(number)
            if place == '+' then
                hold(ARGV[6 + i], this, pieces)
            elseif place ~= '-' then
                local head = this .. ':' .. sessions[i]
                heads[place] = heads[place] and (heads[place] .. ',' .. head) or head
            end
            number = number + 1
        end
        for place, head in pairs(heads) do put(place, head, pieces) end
    end
end
for life, list in pairs(parts) do append(life, 'm', LIFE, 'b', table.concat(list)) end
append(LIFE, 'p', ARGV[4] .. ' ' .. ARGV[5], 'r', table.concat(told, '\n'))
return 'OK'
