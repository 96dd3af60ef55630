-- The caller ends. Its names stay held; if nobody is left, what is held is taken out and told to the
-- caller, which names it: origin, numbers, name and pieces of each bundle. Said twice it tells the
-- same, until `forget`; and a life that enters meanwhile can neither deliver it nor name it again.
allow_when_full()
local LEFT = P .. 'left:' .. LIFE
local function somebody_reads()
    for _, value in ipairs(redis.call('HVALS', LIVES)) do
        if READS[value] then return true end
    end
end
local refused = refusal(tonumber(ARGV[3]))
if refused and refused ~= 'DONE' then return refused end
if not refused then
    clear_rooms(LIFE)
    set_state(LIFE, 'down')
    redis.call('DEL', P .. 'in:' .. LIFE)
    tell_all_but(LIFE, 'e', LIFE, 's', 'down')
    give_back_holds()
    if not somebody_reads() then
        for _, name in ipairs(redis.call('SMEMBERS', HOLDS)) do
            for _, held in ipairs(redis.call('LRANGE', P .. 'hold:' .. name, 0, -1)) do
                redis.call('RPUSH', LEFT, name, held)
            end
            redis.call('DEL', P .. 'hold:' .. name)
        end
        redis.call('DEL', HOLDS)
    end
    -- Whoever ends holds looks after those that have a counter.
    if redis.call('EXISTS', LEFT, P .. 'of:' .. LIFE) == 0 then
        redis.call('HDEL', P .. 'counters', LIFE)
    end
end
local taken = redis.call('LRANGE', LEFT, 0, -1)
if #taken == 0 and somebody_reads() then return { 'OK' } end
local left = { 'LAST' }
for at = 1, #taken, 2 do
    local from, numbers, _, body = held_pieces(taken[at + 1])
    left[#left + 1] = from
    left[#left + 1] = numbers
    left[#left + 1] = taken[at]
    left[#left + 1] = body
end
return left
