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
for i = 1, count do
    local name, place = ARGV[6 + i], '-'
    if string.byte(name) == 35 then
        -- The members of a room at one node. A node that leaves has none any more, but for others
        -- that leave too: what is held for a client must not be overtaken by a line to its room.
        local room, life = string.match(name, '^(#[^@]+)@(.+)$')
        local now = state(life)
        if (now == 'here' or (origin_leaves and is_leaving(now) and redis.call('EXISTS', HOLDS) == 0))
            and redis.call('SISMEMBER', P .. 'room:' .. room, life) == 1 then
            place = life
            sessions[i] = '0'
        end
    elseif values[i] then
        local life, session = string.match(values[i], '^(%S+) (%d+) ')
        local now = state(life)
        sessions[i] = session
        -- While something is held for a name, everything for it goes behind that, whoever sends.
        if now == 'here' or (origin_leaves and is_leaving(now)
            and redis.call('EXISTS', P .. 'hold:' .. name) == 0) then
            place = life
        else
            place = '+'
        end
    end
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
    redis.call('RPUSH', P .. 'hold:' .. name, LIFE .. ' ' .. numbers .. ';' .. pieces)
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
