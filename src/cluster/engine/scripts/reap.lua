-- The lease of a life, ARGV[3], is over, if its counter is still ARGV[4]. Names of one that was here
-- are free; of one that was leaving they stay held, as after `down`.
allow_when_full()
local refused = refusal_of_any()
if refused then return refused end
local gone = ARGV[3]
local was = state(gone)
if not READS[was] or redis.call('HGET', P .. 'counters', gone) ~= ARGV[4] then return 'DONE' end
redis.call('DEL', P .. 'in:' .. gone)
clear_rooms(gone)
if was == 'here' then
    for _, name in ipairs(redis.call('SMEMBERS', P .. 'of:' .. gone)) do
        redis.call('HDEL', NAMES, name)
        redis.call('ZREM', ORDER, name)
    end
    redis.call('DEL', P .. 'of:' .. gone)
    redis.call('HDEL', LIVES, gone)
    redis.call('HDEL', LAST, gone)
    redis.call('HDEL', P .. 'counters', gone)
    known_states[gone] = nil
else
    set_state(gone, 'down')
end
give_back_holds()
tell_all_but(gone, 'e', gone, 's', 'reaped')
return 'OK'
