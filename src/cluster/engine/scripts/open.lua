-- The end of the time in which former lives may enter: each hears what the others have of its lines,
-- and then who has entered. Before that nobody sends, claims or acknowledges.
allow_when_full()
local meta = redis.call('HMGET', META, 'inc', 'phase')
if meta[1] ~= INC then return 'UNKNOWN' end
if meta[2] == 'open' then return 'DONE' end
redis.call('HSET', META, 'phase', 'open')
local lives = redis.call('HKEYS', LIVES)
local all = table.concat(lives, ' ')
for _, life in ipairs(lives) do
    for _, told in ipairs(redis.call('LRANGE', P .. 'told:' .. life, 0, -1)) do
        local from, what = string.match(told, '^(%S+) (.*)$')
        append(life, 'a', from, 'w', what)
    end
    append(life, 'o', all)
end
for _, room in ipairs(redis.call('SMEMBERS', ROOMS)) do tell_room(room, '') end
for _, life in ipairs(redis.call('SMEMBERS', P .. 'entered')) do
    redis.call('DEL', P .. 'told:' .. life)
end
redis.call('DEL', P .. 'entered')
give_back_holds()
return 'OK'
