-- The caller's drain begins: lines of running nodes to its names are held from here on; those of
-- nodes that leave too still come.
allow_when_full()
local refused = refusal(tonumber(ARGV[3]))
if refused then return refused end
if state(LIFE) == 'here' then
    set_state(LIFE, 'leaving')
    tell_all_but(LIFE, 'e', LIFE, 's', 'leaving')
    give_back_holds()
end
return 'OK'
