-- Sends pieces of lines. ARGV[3] is the command's number, [4] how many names follow; then, for each
-- piece, the names it is for (their indices, with commas), the number of the first of these
-- deliveries, and the piece. The origin hears where each name was.
local refused = refusal(tonumber(ARGV[3]))
if refused then return refused end
local count = tonumber(ARGV[4])
local places, sessions, told = {}, {}, {}
local origin_leaves = is_leaving(state(LIFE))
local values = redis.call('HMGET', NAMES, unpack(ARGV, 5, 4 + count))
for i = 1, count do
    local name, place = ARGV[4 + i], '-'
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
local parts, first, last = {}, nil, nil
local function put(life, head, body)
    local list = parts[life]
    if not list then
        list = {}
        parts[life] = list
    end
    local at = #list
    list[at + 1], list[at + 2], list[at + 3] = head, ';', body
end
local function hold(name, number, body)
    redis.call('RPUSH', P .. 'hold:' .. name, LIFE .. ' ' .. number .. ';' .. body)
    redis.call('SADD', HOLDS, name)
end
for at = 5 + count, #ARGV, 3 do
    local base, body = ARGV[at + 1], ARGV[at + 2]
    first = first or base
    local only = tonumber(ARGV[at])
    if only then
        local place = places[only]
        if place == '+' then
            hold(ARGV[4 + only], base, body)
        elseif place ~= '-' then
            put(place, base .. ':' .. sessions[only], body)
        end
        last = base
    else
        local heads, number = {}, tonumber(base)
        for index in string.gmatch(ARGV[at], '%d+') do
            local i = tonumber(index)
            local place = places[i]
            last = whole(number)
            if place == '+' then
                hold(ARGV[4 + i], last, body)
            elseif place ~= '-' then
                local head = last .. ':' .. sessions[i]
                heads[place] = heads[place] and (heads[place] .. ',' .. head) or head
            end
            number = number + 1
        end
        for place, head in pairs(heads) do put(place, head, body) end
    end
end
for life, list in pairs(parts) do append(life, 'm', LIFE, 'b', table.concat(list)) end
append(LIFE, 'p', first .. ' ' .. last, 'r', table.concat(told, '\n'))
return 'OK'
