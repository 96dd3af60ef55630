-- The last life has named what was held: nothing is left to keep but the incarnation.
allow_when_full()
if redis.call('HGET', META, 'inc') ~= INC then return 'UNKNOWN' end
for _, value in ipairs(redis.call('HVALS', LIVES)) do
    if READS[value] then return 'DONE' end
end
for _, name in ipairs(redis.call('SMEMBERS', HOLDS)) do redis.call('DEL', P .. 'hold:' .. name) end
for _, room in ipairs(redis.call('SMEMBERS', ROOMS)) do redis.call('DEL', P .. 'room:' .. room) end
for _, life in ipairs(redis.call('HKEYS', LIVES)) do
    redis.call('DEL', P .. 'of:' .. life, P .. 'in:' .. life)
end
redis.call('DEL', LIVES, NAMES, LAST, ORDER, HOLDS, ROOMS, P .. 'counters')
return 'OK'
