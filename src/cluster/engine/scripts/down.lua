-- The caller ends. Its names stay held; if nobody is left, what is held is told to the caller, which
-- names it: origin, numbers, name and pieces of each bundle. Said twice it tells the same, until
-- `forget`.
allow_when_full()
local refused = refusal(tonumber(ARGV[3]))
if refused and refused ~= 'DONE' then return refused end
if not refused then
    clear_rooms(LIFE)
    set_state(LIFE, 'down')
    redis.call('DEL', P .. 'in:' .. LIFE)
    tell_all_but(LIFE, 'e', LIFE, 's', 'down')
    give_back_holds()
    if redis.call('SCARD', P .. 'of:' .. LIFE) == 0 then redis.call('HDEL', P .. 'counters', LIFE) end
end
for _, value in ipairs(redis.call('HVALS', LIVES)) do
    if READS[value] then return { 'OK' } end
end
local left = { 'LAST' }
for _, name in ipairs(redis.call('SMEMBERS', HOLDS)) do
    for _, held in ipairs(redis.call('LRANGE', P .. 'hold:' .. name, 0, -1)) do
        local from, numbers, _, body = held_pieces(held)
        left[#left + 1] = from
        left[#left + 1] = numbers
        left[#left + 1] = name
        left[#left + 1] = body
    end
end
return left
