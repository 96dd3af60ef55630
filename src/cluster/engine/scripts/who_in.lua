-- Who is in a room? ARGV[3] is the command's number, [4] the room, [5] the caller's number for the
-- question, [6] how many names to list.
local refused = refusal(tonumber(ARGV[3]))
if refused then return refused end
local room, limit = ARGV[4], tonumber(ARGV[6])
local found = {}
for _, life in ipairs(redis.call('SMEMBERS', P .. 'room:' .. room)) do
    local seats = redis.call('ZRANGE', P .. 'seats:' .. life .. ':' .. room, 0, limit - 1, 'WITHSCORES')
    for at = 1, #seats, 2 do found[#found + 1] = { seats[at], tonumber(seats[at + 1]) } end
end
table.sort(found, function(a, b) return a[2] < b[2] end)
local names = {}
for at = 1, math.min(limit, #found) do names[at] = found[at][1] end
append(LIFE, 'q', ARGV[5], 'c', members(room), 'n', table.concat(names, ' '))
return 'OK'
