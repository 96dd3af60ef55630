-- The hold of a life that has ended is over: up to ARGV[5] of its names are free, and what was held
-- for them comes to the caller's inbox, which names it; so does what the last life had taken out to
-- name it, and was killed before it could. ARGV[3] is the command's number, [4] the life.
allow_when_full()
local refused = refusal(tonumber(ARGV[3]))
if refused then return refused end
local over, limit = ARGV[4], tonumber(ARGV[5])
if state(over) ~= 'down' or state(LIFE) ~= 'here' then return 'OK' end
local function tell_over(name, held)
    local from, numbers, _, body = held_pieces(held)
    append(LIFE, 'x', name, 'f', from, 'b', numbers .. ':1;' .. body)
    append(from, 'h', LIFE, 'n', listed(numbers))
end
for _, name in ipairs(redis.call('SRANDMEMBER', P .. 'of:' .. over, limit)) do
    local key = P .. 'hold:' .. name
    for _, held in ipairs(redis.call('LRANGE', key, 0, -1)) do tell_over(name, held) end
    redis.call('DEL', key)
    redis.call('SREM', HOLDS, name)
    take(name, over)
end
local left = redis.call('LPOP', P .. 'left:' .. over, 2 * limit) or {}
for at = 1, #left, 2 do tell_over(left[at], left[at + 1]) end
if redis.call('EXISTS', P .. 'of:' .. over, P .. 'left:' .. over) == 0 then
    redis.call('HDEL', LIVES, over)
    redis.call('HDEL', LAST, over)
    redis.call('HDEL', P .. 'counters', over)
    known_states[over] = nil
end
return 'OK'
