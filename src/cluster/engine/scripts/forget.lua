-- The last life has named what was left to it. If nobody has come meanwhile, and nobody else has
-- something to name, nothing is left to keep but the incarnation.
allow_when_full()
if redis.call('HGET', META, 'inc') ~= INC then return 'UNKNOWN' end
redis.call('DEL', P .. 'left:' .. LIFE)
local lives = redis.call('HGETALL', LIVES)
for at = 1, #lives, 2 do
    local life, value = lives[at], lives[at + 1]
    if READS[value] or redis.call('EXISTS', P .. 'left:' .. life) == 1 then return 'DONE' end
end
for _, name in ipairs(redis.call('SMEMBERS', HOLDS)) do redis.call('DEL', P .. 'hold:' .. name) end
for _, room in ipairs(redis.call('SMEMBERS', ROOMS)) do redis.call('DEL', P .. 'room:' .. room) end
for at = 1, #lives, 2 do
    redis.call('DEL', P .. 'of:' .. lives[at], P .. 'in:' .. lives[at])
end
redis.call('DEL', LIVES, NAMES, LAST, ORDER, HOLDS, ROOMS, P .. 'counters')
return 'OK'
