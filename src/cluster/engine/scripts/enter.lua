-- A life begins in this incarnation. ARGV[3] is its state, [4] the number of its last command,
-- [5] 'fresh' for a life that no incarnation has seen, [6] how many origins follow: for each its
-- life, and what this one has handled, settled and finished of it.
allow_when_full()
local meta = redis.call('HMGET', META, 'inc', 'phase')
if meta[1] ~= INC then return 'UNKNOWN' end
if state(LIFE) then return 'DONE' end
-- Once the engine is open, others have gone on without those who had not entered.
if meta[2] == 'open' and ARGV[5] ~= 'fresh' then return 'FENCED' end
set_state(LIFE, ARGV[3])
redis.call('HSET', LAST, LIFE, ARGV[4])
redis.call('HSET', P .. 'counters', LIFE, 0)
redis.call('SADD', P .. 'entered', LIFE)
local at = 7
for _ = 1, tonumber(ARGV[6]) do
    -- The origin may never come, and `open` has to know of the key all the same.
    redis.call('SADD', P .. 'entered', ARGV[at])
    redis.call('RPUSH', P .. 'told:' .. ARGV[at], LIFE .. ' ' .. ARGV[at + 1])
    at = at + 2
end
if meta[2] == 'open' then
    tell_all_but(LIFE, 'e', LIFE, 's', 'here')
    append(LIFE, 'o', table.concat(redis.call('HKEYS', LIVES), ' '))
end
return 'OK'
