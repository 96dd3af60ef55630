-- The caller's clients may go elsewhere: what comes for them from here on is held. Not while another
-- life is leaving and still has lines to send, unless ARGV[4] says 'regardless'.
allow_when_full()
local refused = refusal(tonumber(ARGV[3]))
if refused then return refused end
if ARGV[4] ~= 'regardless' then
    for _, other in ipairs(redis.call('HKEYS', LIVES)) do
        if other ~= LIFE and state(other) == 'leaving' then
            append(LIFE, 'r', 'later')
            return 'OK'
        end
    end
end
-- Whoever is in a room has left it by then.
clear_rooms(LIFE)
append(LIFE, 'r', 'released')
set_state(LIFE, 'released')
return 'OK'
