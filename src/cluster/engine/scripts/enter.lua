-- A life begins in this incarnation, with all that it brings along: nobody may find it half there.
-- ARGV[3] is its state, [4] the number of its last command, [5] 'fresh' for a life that no incarnation
-- has seen; [6], [7] and [8] say how many of these follow: origins, each with what this life has
-- handled, settled and finished of it; names that it had in the former incarnation, with session and
-- claim number; rooms, each with the name of a member.
allow_when_full()
local meta = redis.call('HMGET', META, 'inc', 'phase', 'claims')
if meta[1] ~= INC then return 'UNKNOWN' end
if state(LIFE) then return 'DONE' end
-- Once the engine is open, others have gone on without those who had not entered.
if meta[2] == 'open' and ARGV[5] ~= 'fresh' then return 'FENCED' end
set_state(LIFE, ARGV[3])
redis.call('HSET', LAST, LIFE, ARGV[4])
redis.call('HSET', P .. 'counters', LIFE, 0)
if meta[2] ~= 'open' then redis.call('SADD', P .. 'entered', LIFE) end
local at = 9
for _ = 1, tonumber(ARGV[6]) do
    -- The origin may never come, and `open` has to know of the key all the same.
    redis.call('SADD', P .. 'entered', ARGV[at])
    redis.call('RPUSH', P .. 'told:' .. ARGV[at], LIFE .. ' ' .. ARGV[at + 1])
    at = at + 2
end
-- Of two claims the larger number stays, as with any fencing token; the other session has lost its
-- name.
local claims = tonumber(meta[3])
for _ = 1, tonumber(ARGV[7]) do
    local name, session, claim = ARGV[at], ARGV[at + 1], tonumber(ARGV[at + 2])
    local life, other, number = owner(name)
    if not life or tonumber(number) < claim then
        if life then
            take(name, life)
            append(life, 't', other, 'n', name)
        end
        give(name, LIFE, session, whole(claim))
    else
        append(LIFE, 't', session, 'n', name)
    end
    claims = math.max(claims, claim)
    at = at + 3
end
redis.call('HSET', META, 'claims', whole(claims))
for _ = 1, tonumber(ARGV[8]) do
    seat(ARGV[at], LIFE, ARGV[at + 1])
    at = at + 2
end
if meta[2] == 'open' then
    tell_all_but(LIFE, 'e', LIFE, 's', 'here')
    append(LIFE, 'o', table.concat(redis.call('HKEYS', LIVES), ' '))
end
return 'OK'
