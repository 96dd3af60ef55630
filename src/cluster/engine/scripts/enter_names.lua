-- Names that the caller had in the former incarnation: triples of name, session and claim number.
-- Of two claims the larger number stays, as with any fencing token; the other session has lost its
-- name.
allow_when_full()
local meta = redis.call('HMGET', META, 'inc', 'phase', 'claims')
if meta[1] ~= INC or not READS[state(LIFE)] then return 'UNKNOWN' end
if meta[2] == 'open' then return 'DONE' end
local claims = tonumber(meta[3])
for at = 3, #ARGV, 3 do
    local name, session, claim = ARGV[at], ARGV[at + 1], tonumber(ARGV[at + 2])
    local life, other, number = owner(name)
    if not life or tonumber(number) < claim then
        if life then
            take(name, life)
            append(life, 't', other, 'n', name)
        end
        give(name, LIFE, session, whole(claim))
    elseif life ~= LIFE or other ~= session then
        append(LIFE, 't', session, 'n', name)
    end
    claims = math.max(claims, claim)
end
redis.call('HSET', META, 'claims', whole(claims))
return 'OK'
